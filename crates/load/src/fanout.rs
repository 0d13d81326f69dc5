//! A fan-out that decides nothing: what comes from a publisher goes to its subscribers. Two limits in one: sending
//! alone, and sealing
//! plus sending, at a given run length.

use std::io;
use std::mem::zeroed;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use libc::{CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE};
use rustc_hash::FxHashMap;
use tertulia_media::srtp::{Outbound, Profile};

use crate::payload::TRAILER_LEN;
use crate::process::pin_to_core;
use crate::protocol::FanOut;
use crate::socket::{SLOT_LEN, large_buffers, name_of};
use crate::sources::{Slot, owner};

/// Name of its thread, by which its CPU time is found.
pub(crate) const THREAD: &str = "fanout";
const RECEIVE_MAX: usize = 64;
/// Messages of one sending call.
const SEND_MAX: usize = 64;
/// Longest run; the kernel takes 64 KiB.
const RUN_MAX: usize = 16;
const CONTROL_LEN: usize = 64;

/// A running fan-out, or what else stands in the bridge's place.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Runs something on a socket until it is told to stop, on the first core, where the bridge's first worker rests meanwhile.
    ///
    /// # Errors
    /// When the system gives no socket or no thread.
    pub(crate) fn start(name: &str, run: impl FnOnce(UdpSocket, &AtomicBool) + Send + 'static) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        large_buffers(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            pin_to_core(0);
            run(socket, &stopped);
        })?;
        Ok(Self { address, stop, thread })
    }

    /// Ends it.
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has ended too.
        let _ = self.thread.join();
    }
}

/// Starts it.
///
/// # Errors
/// When the system gives no socket or no thread.
pub(crate) fn start(orders: FanOut, profile: Profile) -> io::Result<Running> {
    Running::start(THREAD, move |socket, stop| Turning::new(socket, orders, profile).run(stop))
}

struct Subscriber {
    to: libc::sockaddr_in,
    slots: u16,
    /// Keys of its own, as on a bridge.
    outbound: Option<Outbound>,
}

/// A packet that came.
#[derive(Clone, Copy)]
struct Taken {
    at: usize,
    len: usize,
    person: u32,
    slot: u16,
}

struct Turning {
    socket: UdpSocket,
    run: usize,
    subscribers: FxHashMap<u32, Vec<Subscriber>>,
    buffers: Vec<u8>,
    outbox: Outbox,
}

impl Turning {
    fn new(socket: UdpSocket, orders: FanOut, profile: Profile) -> Self {
        let mut next = 0u32;
        let mut subscriber = |(to, slots): (SocketAddr, u16)| {
            next += 1;
            let mut key = [0x5a; 32];
            key[..4].copy_from_slice(&next.to_be_bytes());
            let (key, salt) = (&key[..profile.key_len()], &[7; 14][..profile.salt_len()]);
            let outbound = orders.sealed.then(|| Outbound::new(profile, key, salt)).flatten();
            let to = match to {
                SocketAddr::V4(to) => to,
                SocketAddr::V6(to) => SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, to.port()),
            };
            Subscriber { to: name_of(to), slots, outbound }
        };
        let routes = orders.routes.into_iter();
        let subscribers =
            routes.map(|route| (route.person, route.subscribers.into_iter().map(&mut subscriber).collect())).collect();
        Self {
            socket,
            run: orders.run.clamp(1, RUN_MAX),
            subscribers,
            buffers: vec![0; SLOT_LEN * RECEIVE_MAX],
            outbox: Outbox::new(),
        }
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut taken = Vec::with_capacity(RECEIVE_MAX);
        while !stop.load(Ordering::Relaxed) {
            taken.clear();
            self.receive(&mut taken);
            let mut rest = &taken[..];
            while let Some(first) = rest.first() {
                // Runs are made of what is equally long, as segmentation offload demands.
                let same = |next: &&Taken| (next.person, next.slot, next.len) == (first.person, first.slot, first.len);
                let len = rest.iter().take_while(same).count().min(self.run);
                let (run, after) = rest.split_at(len);
                fan_out(&self.socket, &mut self.subscribers, &self.buffers, run, &mut self.outbox);
                rest = after;
            }
            self.outbox.flush(&self.socket);
        }
    }

    fn receive(&mut self, taken: &mut Vec<Taken>) {
        // SAFETY: all-zero bytes are valid for both: null pointers and zero lengths.
        let (mut messages, mut vectors): ([libc::mmsghdr; RECEIVE_MAX], [libc::iovec; RECEIVE_MAX]) =
            unsafe { (zeroed(), zeroed()) };
        for ((message, vector), buffer) in
            messages.iter_mut().zip(&mut vectors).zip(self.buffers.chunks_exact_mut(SLOT_LEN))
        {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: SLOT_LEN };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every message points to a vector and a buffer that live until after the call. It waits for the first
        // one, as long as
        // the socket's timeout says.
        let received = unsafe {
            let count = RECEIVE_MAX as libc::c_uint;
            let wait = libc::MSG_WAITFORONE;
            libc::recvmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count, wait, std::ptr::null_mut())
        };
        for (index, message) in messages.iter().enumerate().take(usize::try_from(received).unwrap_or(0)) {
            let (at, len) = (index * SLOT_LEN, (message.msg_len as usize).min(SLOT_LEN));
            let ssrc = self.buffers[at..at + len].get(8..12).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
            if let Some((person, slot)) = ssrc.and_then(owner).filter(|(_, slot)| !matches!(slot, Slot::Rtx(_))) {
                taken.push(Taken { at, len, person, slot: slot.bit() });
            }
        }
    }
}

/// One run to everybody who wants it.
fn fan_out(
    socket: &UdpSocket,
    subscribers: &mut FxHashMap<u32, Vec<Subscriber>>,
    buffers: &[u8],
    run: &[Taken],
    outbox: &mut Outbox,
) {
    let Some(first) = run.first() else { return };
    let Some(subscribers) = subscribers.get_mut(&first.person) else { return };
    for Subscriber { to, outbound, .. } in subscribers.iter_mut().filter(|one| one.slots & first.slot != 0) {
        outbox.push(socket, *to, run.len(), |packet, out| {
            let Taken { at, len, .. } = run[packet];
            let bytes = &buffers[at..at + len];
            out[..len].copy_from_slice(bytes);
            let sealed_len = outbound.as_mut().and_then(|outbound| outbound.seal_rtp(out, len)).unwrap_or(len);
            // Nobody opens what was sealed: in the place of its tag stands what ends with the time of sending.
            if let Some((trailer, place)) = bytes.last_chunk::<TRAILER_LEN>().zip(out[..sealed_len].last_chunk_mut()) {
                *place = *trailer;
            }
            sealed_len
        });
    }
}

/// Messages of one sending call, each a run to one subscriber.
struct Outbox {
    arena: Vec<u8>,
    /// Destination, where in the arena, bytes in all, bytes of each packet.
    queued: Vec<(libc::sockaddr_in, usize, usize, usize)>,
}

impl Outbox {
    fn new() -> Self {
        Self { arena: vec![0; SLOT_LEN * RUN_MAX * SEND_MAX], queued: Vec::with_capacity(SEND_MAX) }
    }

    /// Adds a run; `fill` writes a packet and returns its length, the same for all.
    fn push(
        &mut self,
        socket: &UdpSocket,
        to: libc::sockaddr_in,
        packets: usize,
        mut fill: impl FnMut(usize, &mut [u8]) -> usize,
    ) {
        if self.queued.len() == SEND_MAX {
            self.flush(socket);
        }
        let start = self.queued.len() * SLOT_LEN * RUN_MAX;
        let (mut at, mut segment) = (start, 0);
        for packet in 0..packets {
            segment = fill(packet, &mut self.arena[at..at + SLOT_LEN]);
            at += segment;
        }
        self.queued.push((to, start, at - start, segment));
    }

    fn flush(&mut self, socket: &UdpSocket) {
        // SAFETY: all-zero bytes are valid for both: null pointers and zero lengths.
        let (mut messages, mut vectors): ([libc::mmsghdr; SEND_MAX], [libc::iovec; SEND_MAX]) =
            unsafe { (zeroed(), zeroed()) };
        let mut controls = [[0u64; CONTROL_LEN / 8]; SEND_MAX];
        for (index, (to, start, len, segment)) in self.queued.iter_mut().enumerate() {
            let bytes = &mut self.arena[*start..*start + *len];
            vectors[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: *len };
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut *to).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            if len > segment {
                write_segment(header, &mut controls[index], *segment);
            }
        }
        let mut done = 0;
        while done < self.queued.len() {
            let count = (self.queued.len() - done) as libc::c_uint;
            // SAFETY: the messages from `done` on point to what lives until after the call.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages[done..].as_mut_ptr(), count, 0) };
            done += usize::try_from(sent).unwrap_or(0).max(1); // one that is refused is lost
        }
        self.queued.clear();
    }
}

/// Asks the kernel to cut a run into packets of this length.
fn write_segment(header: &mut libc::msghdr, control: &mut [u64; CONTROL_LEN / 8], segment: usize) {
    let segment = u16::try_from(segment).unwrap_or(u16::MAX);
    header.msg_control = control.as_mut_ptr().cast();
    // SAFETY: the buffer is aligned and large enough for one control message of this size, whose fields are all
    // written.
    unsafe {
        header.msg_controllen = CMSG_SPACE(size_of::<u16>() as u32) as usize;
        let message = CMSG_FIRSTHDR(header);
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = CMSG_LEN(size_of::<u16>() as u32) as usize;
        std::ptr::write_unaligned(CMSG_DATA(message).cast(), segment);
    }
}
