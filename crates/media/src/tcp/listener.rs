//! The thread that accepts: it keeps a connection until its first frame says whose it is.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::connection::{Connection, PROOF_TIMEOUT, Reading};
use super::gate::Gate;
use super::{Counters, count};
use crate::epoll::{Epoll, Ready};
use crate::identity::worker_of;
use crate::thread::{Handle, Order};
use crate::transport::{stream_local, username_of};

/// Connections that have not said whose they are.
const STRANGERS_MAX: usize = 1_024;
/// Kernel's queue of one connection: half a second of video. A longer one would only make it later.
const SEND_BUFFER: usize = 128 * 1024;
/// Connections that the kernel keeps while we are busy.
const BACKLOG: i32 = 256;
/// Rest after the system refused a connection, for want of descriptors mostly: trying at once would spin.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// Tokens of listeners count from here, those of connections from 0.
const LISTENERS: u64 = 1 << 32;
const BELL: u64 = u64::MAX;

/// Listens on these addresses and one port; 0 lets the system choose it. Addresses that this machine lists and does not have are left out.
pub(crate) fn bind(addresses: &[IpAddr], mut port: u16) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for ip in addresses {
        let address = SocketAddr::new(*ip, port);
        match listen(address) {
            Ok(listener) => {
                port = listener.local_addr().map_or(port, |local| local.port());
                listeners.push(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err((address, error)),
        }
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A running thread; it ends when this is dropped.
pub(crate) struct Listener {
    bell: UnixStream,
    thread: std::thread::JoinHandle<()>,
}

impl Listener {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no descriptor or no thread.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        workers: Vec<Handle>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let (bell, rung) = UnixStream::pair()?;
        let epoll = Epoll::new()?;
        epoll.add(&rung, BELL)?;
        for (token, listener) in (LISTENERS..).zip(&listeners) {
            epoll.add(listener, token)?;
        }
        let strangers = Slab::new();
        let mut state = State { epoll, listeners, workers, counters, gate: Arc::default(), strangers };
        let thread = std::thread::Builder::new().name("media-tcp".into()).spawn(move || {
            let _rung = rung;
            state.run();
        })?;
        Ok(Self { bell, thread })
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(self) {
        drop(self.bell);
        // A thread that panicked has ended too.
        let _ = self.thread.join();
    }
}

struct State {
    epoll: Epoll,
    listeners: Vec<TcpListener>,
    workers: Vec<Handle>,
    counters: Arc<Counters>,
    gate: Arc<Gate>,
    strangers: Slab<Connection>,
}

impl State {
    fn run(&mut self) {
        let mut ready = Vec::new();
        loop {
            // Strangers are few and short-lived: the oldest is looked for anew each time.
            let first = self.strangers.iter().map(|(_, stranger)| stranger.opened + PROOF_TIMEOUT).min();
            let left = first.map(|at| at.saturating_duration_since(Instant::now()));
            ready.clear();
            if let Err(error) = self.epoll.wait(left, &mut ready) {
                warn!(%error, "media over TCP is not accepted any more");
                return;
            }
            let now = Instant::now();
            for Ready { token, .. } in ready.drain(..) {
                match usize::try_from(token) {
                    _ if token == BELL => return,
                    Ok(key) if token < LISTENERS => self.hear(now, key),
                    _ => self.accept(now, token - LISTENERS),
                }
            }
            let before = self.strangers.len();
            self.strangers.retain(|_, stranger| now.saturating_duration_since(stranger.opened) < PROOF_TIMEOUT);
            (self.strangers.len()..before).for_each(|_| count(&self.counters.unproven));
        }
    }

    /// One connection a turn: others are served in between.
    fn accept(&mut self, now: Instant, listener: u64) {
        let Some(listener) = usize::try_from(listener).ok().and_then(|index| self.listeners.get(index)) else { return };
        let (stream, remote) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
                return;
            }
            Err(error) => {
                warn!(%error, "a connection for media cannot be accepted");
                std::thread::sleep(REFUSED_PAUSE);
                return;
            }
        };
        let seat = self.gate.enter(remote.ip()).filter(|_| self.strangers.len() < STRANGERS_MAX);
        let (Some(seat), Ok(local)) = (seat, prepare(&stream)) else {
            count(&self.counters.refused);
            return;
        };
        count(&self.counters.accepted);
        let entry = self.strangers.vacant_entry();
        let token = u64::try_from(entry.key()).unwrap_or(u64::MAX);
        if self.epoll.add(&stream, token).is_ok() {
            entry.insert(Connection::new(now, stream, remote, local, seat));
        }
    }

    /// A stranger spoke: a binding request for one of our users, or it is closed.
    fn hear(&mut self, now: Instant, key: usize) {
        let Some(stranger) = self.strangers.get_mut(key) else { return };
        let reading = stranger.read(now);
        let first = match stranger.unframer.next_frame() {
            Ok(None) if reading != Reading::Over => return,
            Ok(frame) => frame,
            Err(_) => None,
        };
        let worker = first.as_ref().and_then(|frame| username_of(frame)).and_then(worker_of);
        let len = first.map_or(0, |frame| frame.len());
        let mut stranger = self.strangers.remove(key);
        let Some(worker) = worker.and_then(|index| self.workers.get(index)) else {
            count(&self.counters.unproven);
            return;
        };
        stranger.unframer.give_back(len);
        // A worker that does not keep up loses it: the client connects again.
        worker.send(Order::Adopt(Box::new(stranger)));
    }
}

/// Makes a connection fit for media; its local address, as a stream's.
fn prepare(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_send_buffer_size(SEND_BUFFER)?;
    Ok(stream_local(stream.local_addr()?.ip()))
}
