//! A worker's thread: waits for its sockets and its inbox, and lets the worker do the rest. It decides nothing.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver as Inbox, Sender as Outbox};
use socket2::SockRef;
use tracing::{info, warn};

use crate::load::Meter;
use crate::socket::{Classes, Receiver, Segmentation, SendCounters, Sender, for_checks};
use crate::tcp::{Connection, Streams, Wires};
use crate::worker::{Command, Counters, Peer, Worker};

/// Commands that may wait. Beyond that a sender is refused: the thread is stuck or the machine is overwhelmed.
const INBOX_MAX: usize = 65_536;
/// Commands done before the sockets are looked at again.
const COMMANDS_PER_TURN: usize = 256;
/// Reads of one socket before the others are looked at.
const READS_PER_TURN: usize = 4;
/// While there are only checks of connections, they wait for each other this long: waking costs more than answering ten.
pub const NAP: Duration = Duration::from_millis(100);
/// And this long while anything else would have to wait with them, whether the kernel does not tell them apart, a deadline passes, or a check
/// is part of setting up a connection.
const SHORT_NAP: Duration = Duration::from_millis(20);
/// Browsers check their connection once in so long.
const CHECK_INTERVAL: Duration = Duration::from_millis(2_500);
/// Bytes that a check takes of a socket's buffer, with network cards that give half a page to each packet.
const CHECK_LEN: usize = 2_304;

/// What others tell a thread.
pub(crate) enum Order {
    Do(Command),
    /// Take over a connection.
    Adopt(Box<Connection>),
    Report(Outbox<Report>),
    Stop,
}

/// What a thread counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Report {
    pub(crate) worker: Counters,
    /// Receiving calls by how many datagrams each brought.
    pub(crate) received: Classes,
}

/// The way to a thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    orders: Outbox<Order>,
    bell: Arc<OwnedFd>,
}

impl Handle {
    /// Gives an order; `false` when the inbox is full or the thread gone.
    pub(crate) fn send(&self, order: Order) -> bool {
        let has_room = self.orders.len() < INBOX_MAX;
        if !has_room {
            warn!("a media worker does not keep up: an order was refused");
        }
        let sent = has_room && self.orders.send(order).is_ok();
        ring(&self.bell);
        sent
    }
}

impl Peer for Handle {
    fn tell(&self, command: Command) -> bool {
        self.send(Order::Do(command))
    }

    fn wake(&self) {
        ring(&self.bell);
    }
}

/// What a thread that is not started yet will be told.
pub(crate) struct Post {
    inbox: Inbox<Order>,
    bell: Arc<OwnedFd>,
}

/// The way to a thread, and what to start it with.
///
/// # Errors
/// When the system gives no descriptor.
pub(crate) fn post() -> io::Result<(Handle, Post)> {
    // SAFETY: no pointers are passed.
    let bell = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if bell < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    let bell = Arc::new(unsafe { OwnedFd::from_raw_fd(bell) });
    // One with a limit of its own takes the memory for all of them at once: 8 MB a worker.
    let (orders, inbox) = crossbeam_channel::unbounded();
    Ok((Handle { orders, bell: Arc::clone(&bell) }, Post { inbox, bell }))
}

/// Starts a thread for a worker on these sockets, pinned to a core.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(
    index: usize,
    worker: Worker,
    post: Post,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    counters: Arc<SendCounters>,
    segmentation: Arc<Segmentation>,
    streams: Streams,
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(format!("media-{index}")).spawn(move || {
        pin_to_core(index);
        let udp = Sender::new(&sockets, &counters, &segmentation);
        let checks: io::Result<Vec<_>> =
            sockets.iter().map(|(local, socket)| Ok((*local, for_checks(socket)?))).collect();
        let checks = checks.unwrap_or_else(|error| {
            info!(%error, "the system does not tell checks apart: idle workers wake more often");
            Vec::new()
        });
        run(worker, &sockets, &checks, Wires { udp, streams }, &post.inbox, &post.bell);
    })
}

fn run(
    mut worker: Worker,
    sockets: &[(SocketAddr, UdpSocket)],
    checks: &[(SocketAddr, UdpSocket)],
    mut wires: Wires<Sender<'_>>,
    inbox: &Inbox<Order>,
    bell: &OwnedFd,
) {
    let mut receiver = Receiver::new();
    let sources = || checks.iter().chain(sockets);
    let mut polled: Vec<libc::pollfd> = sources().map(|(_, socket)| readable(socket.as_raw_fd())).collect();
    let streams_at = polled.len();
    // What comes first may wait: checks, or else everything.
    let (patient, nap) = if checks.is_empty() { (streams_at, SHORT_NAP) } else { (checks.len(), NAP) };
    polled.push(readable(wires.streams.as_raw_fd()));
    polled.push(readable(bell.as_raw_fd()));
    let most = checks.iter().map(|(_, socket)| most_while_napping(socket)).min().unwrap_or(0);
    let mut rests = Instant::now();
    let mut meter = Meter::new(rests);
    let mut has_more = false;
    loop {
        if !has_more && worker.is_idle(rests) {
            let nap = if worker.is_settled(most) { nap } else { SHORT_NAP };
            let due = worker.next_timeout().map_or(rests + nap, |at| at.max(rests + SHORT_NAP));
            wait(&mut polled[patient..], Some(due.min(rests + nap)));
        }
        wait(&mut polled, worker.next_timeout().into_iter().chain(wires.streams.next_timeout()).min());
        let mut now = Instant::now();
        let woke = now;
        if polled.last().is_some_and(|bell| bell.revents != 0) {
            silence(bell);
        }
        for order in inbox.try_iter().take(COMMANDS_PER_TURN) {
            match order {
                Order::Do(command) => worker.handle_command(now, command, &mut wires),
                Order::Adopt(connection) => wires.adopt(now, *connection, &mut worker),
                Order::Report(to) => {
                    let report = Report { worker: *worker.counters(), received: receiver.calls };
                    let _ = to.try_send(report); // the asker may have given up
                }
                Order::Stop => return,
            }
        }
        if !inbox.is_empty() {
            ring(bell);
        }
        has_more = false;
        for ((local, socket), _) in sources().zip(&polled).filter(|(_, polled)| polled.revents != 0) {
            has_more |= read(&mut now, *local, socket, &mut worker, &mut receiver, &mut wires);
        }
        if polled[streams_at].revents != 0 || wires.streams.next_timeout().is_some_and(|at| now >= at) {
            wires.handle_streams(now, &mut worker);
        }
        if worker.handle_copies(now, &mut wires) {
            ring(bell);
        }
        worker.on_timeout(now, &mut wires); // and the end of the turn
        rests = Instant::now();
        if let Some(share) = meter.worked(woke, rests) {
            worker.handle_load(rests, share, &mut wires);
        }
    }
}

/// How many people's checks of one nap a socket's buffer holds, with as many again to spare. With more of them naps are short.
fn most_while_napping(socket: &UdpSocket) -> usize {
    let room = SockRef::from(socket).recv_buffer_size().unwrap_or(0) / CHECK_LEN / 2;
    room * usize::try_from(CHECK_INTERVAL.as_millis() / NAP.as_millis()).unwrap_or(1)
}

/// Takes what waits on one socket, up to the turn's limit. The clock is read again only under load: a long turn must not make its last
/// packets look as early as its first. Whether more may be waiting.
fn read(
    now: &mut Instant,
    local: SocketAddr,
    socket: &UdpSocket,
    worker: &mut Worker,
    receiver: &mut Receiver,
    wires: &mut Wires<Sender<'_>>,
) -> bool {
    for _ in 0..READS_PER_TURN {
        let received = receiver.receive(socket, |remote, bytes| {
            worker.handle_datagram(*now, local, remote, bytes, wires);
        });
        match received {
            Ok(received) if received == crate::socket::RECEIVE_MAX => *now = Instant::now(),
            Ok(_) => return false,
            Err(error) => {
                warn!(%error, "a media socket cannot be read");
                return false;
            }
        }
    }
    true
}

fn readable(fd: i32) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Sleeps until something is readable or a deadline passes.
fn wait(polled: &mut [libc::pollfd], deadline: Option<Instant>) {
    let until = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = until.map(|until| libc::timespec {
        tv_sec: i64::try_from(until.min(Duration::from_secs(3_600)).as_secs()).unwrap_or(0),
        tv_nsec: i64::from(until.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    for entry in polled.iter_mut() {
        entry.revents = 0;
    }
    let count = libc::nfds_t::try_from(polled.len()).unwrap_or(0);
    // SAFETY: the array and the optional timeout live until after the call, and the count is the array's.
    unsafe { libc::ppoll(polled.as_mut_ptr(), count, timeout, std::ptr::null()) };
}

fn silence(bell: &OwnedFd) {
    let mut count: u64 = 0;
    // SAFETY: the descriptor is open and 8 writable bytes are passed.
    let _ = unsafe { libc::read(bell.as_raw_fd(), (&raw mut count).cast(), 8) };
}

fn ring(bell: &OwnedFd) {
    let one: u64 = 1;
    // SAFETY: the descriptor is open and 8 readable bytes are passed.
    let _ = unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Keeps the thread on one core, so that its caches stay warm. Best effort: containers may forbid it.
fn pin_to_core(index: usize) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // SAFETY: all-zero bytes are a valid, empty set, and the core's number is below the set's size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(index % cores.min(1024), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

#[cfg(test)]
mod tests;
