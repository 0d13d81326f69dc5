//! One UDP socket for thousands of clients: each has an address of its own in 127.0.0.0/8, so the bridge sees as many
//! peers.
//!
//! The socket is bound to every address, but to the loopback interface only. Where a datagram came to, and where it
//! seems to come from,
//! travels as `IP_PKTINFO`. With `UDP_GRO` a run that was sent by segmentation offload arrives as one piece, as on a
//! network card that
//! segments.

use std::ffi::CStr;
use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use libc::{CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, c_void, cmsghdr, in_pktinfo, msghdr};

/// Reads of one call.
const RECEIVE_MAX: usize = 32;
/// The largest run that the kernel hands over in one piece.
const PIECE_MAX: usize = 65_535;
/// Datagrams of one sending call.
const SEND_MAX: usize = 64;
/// Room for a packet and SRTP's trailer.
pub(crate) const SLOT_LEN: usize = 1_600;
/// Wanted kernel buffer: a key frame for a thousand receivers waits in it.
const KERNEL_BUFFER: libc::c_int = 256 * 1024 * 1024;
const CONTROL_LEN: usize = 128;

/// Aligned as control messages have to be.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// What came, in pieces of one or more datagrams.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    /// Destination, length, and length of each datagram but the last.
    pieces: Vec<(Ipv4Addr, usize, usize)>,
}

impl Inbox {
    /// Each datagram with its destination.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = (Ipv4Addr, &mut [u8])> {
        let pieces = self.pieces.iter().zip(self.bytes.chunks_exact_mut(PIECE_MAX));
        pieces.flat_map(|((to, len, segment), bytes)| bytes[..*len].chunks_mut(*segment).map(|bytes| (*to, bytes)))
    }
}

/// The socket, with its buffers.
pub(crate) struct Net {
    socket: UdpSocket,
    /// For whoever reads: it is taken out while clients, who send through the same socket, handle what is in it.
    pub(crate) inbox: Inbox,
    controls: Vec<Control>,
    outbox: Vec<u8>,
    queued: Vec<(Ipv4Addr, SocketAddrV4, usize)>,
    /// Datagrams that the kernel did not take.
    pub(crate) refused: u64,
    /// Pieces by the number of datagrams in them; the last counts all longer ones.
    pub(crate) runs: [u64; 65],
}

impl Net {
    /// Binds the socket to an interface: nothing but this machine shall reach it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn bind(interface: &CStr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        // SAFETY: the descriptor is open, the name lives until after the call and has the length that is told.
        let bound = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_BINDTODEVICE,
                interface.as_ptr().cast(),
                interface.count_bytes() as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        set(&socket, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        large_buffers(&socket);
        Ok(Self {
            socket,
            inbox: Inbox { bytes: vec![0; PIECE_MAX * RECEIVE_MAX], pieces: Vec::with_capacity(RECEIVE_MAX) },
            controls: vec![Control([0; CONTROL_LEN]); RECEIVE_MAX],
            outbox: vec![0; SLOT_LEN * SEND_MAX],
            queued: Vec::with_capacity(SEND_MAX),
            refused: 0,
            runs: [0; 65],
        })
    }

    /// Its port, the same at every address.
    pub(crate) fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Waits until something is readable, at most this long.
    pub(crate) fn wait(&self, timeout: std::time::Duration) {
        let mut polled = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        // SAFETY: one entry and one timeout, both alive until after the call.
        unsafe { libc::ppoll(&raw mut polled, 1, &raw const timeout, std::ptr::null()) };
    }

    /// Takes what waits into `inbox`. Returns how many pieces there were; the most is [`Net::FULL`].
    pub(crate) fn receive(&mut self, inbox: &mut Inbox) -> usize {
        // SAFETY: all-zero bytes are valid for both: null pointers and zero lengths.
        let (mut messages, mut vectors): ([libc::mmsghdr; RECEIVE_MAX], [libc::iovec; RECEIVE_MAX]) =
            unsafe { (zeroed(), zeroed()) };
        let slots = inbox.bytes.chunks_exact_mut(PIECE_MAX).zip(&mut self.controls);
        for ((message, vector), (piece, control)) in messages.iter_mut().zip(&mut vectors).zip(slots) {
            *vector = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: PIECE_MAX };
            let header = &mut message.msg_hdr;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN;
        }
        // SAFETY: every message points to a vector, a buffer and a control buffer that live until after the call.
        let received = unsafe {
            let count = RECEIVE_MAX.min(inbox.bytes.len() / PIECE_MAX) as libc::c_uint;
            libc::recvmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count, 0, std::ptr::null_mut())
        };
        let received = usize::try_from(received).unwrap_or(0);
        inbox.pieces.clear();
        for message in &messages[..received] {
            let len = (message.msg_len as usize).min(PIECE_MAX);
            let (to, segment) = read_control(&message.msg_hdr);
            let segment = segment.unwrap_or(len).max(1);
            self.runs[len.div_ceil(segment).min(64)] += 1;
            inbox.pieces.push((to, len, segment));
        }
        received
    }

    /// What [`Net::receive`] returns when more may wait.
    pub(crate) const FULL: usize = RECEIVE_MAX;

    /// Offers a slot to `fill`, which returns the length and where it goes, or nothing.
    pub(crate) fn push(&mut self, from: Ipv4Addr, fill: impl FnOnce(&mut [u8]) -> Option<(usize, SocketAddr)>) {
        if self.queued.len() == SEND_MAX {
            self.flush();
        }
        let at = self.queued.len() * SLOT_LEN;
        if let Some((len, SocketAddr::V4(to))) = fill(&mut self.outbox[at..at + SLOT_LEN]) {
            self.queued.push((from, to, len));
        }
    }

    /// Sends what was pushed.
    pub(crate) fn flush(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        // SAFETY: all-zero bytes are valid for all of them.
        let (mut messages, mut vectors, mut names): (
            [libc::mmsghdr; SEND_MAX],
            [libc::iovec; SEND_MAX],
            [libc::sockaddr_in; SEND_MAX],
        ) = unsafe { (zeroed(), zeroed(), zeroed()) };
        let mut controls = [Control([0; CONTROL_LEN]); SEND_MAX];
        for (index, (from, to, len)) in self.queued.iter().enumerate() {
            let bytes = &mut self.outbox[index * SLOT_LEN..index * SLOT_LEN + len];
            vectors[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: *len };
            names[index] = name_of(*to);
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            write_source(header, &mut controls[index], *from);
        }
        let mut done = 0;
        while done < self.queued.len() {
            let count = (self.queued.len() - done) as libc::c_uint;
            // SAFETY: the messages from `done` on point to what lives until after the call.
            let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages[done..].as_mut_ptr(), count, 0) };
            if let Some(sent) = usize::try_from(sent).ok().filter(|sent| *sent > 0) {
                done += sent;
            } else {
                done += 1;
                self.refused += 1;
            }
        }
        self.queued.clear();
    }
}

/// Asks for as much as the kernel gives: past its limit where this process may, up to it otherwise.
pub(crate) fn large_buffers(socket: &UdpSocket) {
    for (forced, polite) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set(socket, libc::SOL_SOCKET, forced, KERNEL_BUFFER).is_err() {
            // A small buffer loses packets in bursts, which shows in the numbers.
            let _ = set(socket, libc::SOL_SOCKET, polite, KERNEL_BUFFER);
        }
    }
}

/// An IPv4 address as the kernel reads it.
pub(crate) fn name_of(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn set(socket: &UdpSocket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open; the value lives until after the call and has the length that is told.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn write_source(header: &mut msghdr, control: &mut Control, from: Ipv4Addr) {
    let info = in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(from).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    header.msg_control = control.0.as_mut_ptr().cast::<c_void>();
    // SAFETY: the buffer is aligned and large enough for one control message of this size, whose fields are all
    // written.
    unsafe {
        header.msg_controllen = CMSG_SPACE(size_of::<in_pktinfo>() as u32) as usize;
        let message: *mut cmsghdr = CMSG_FIRSTHDR(header);
        (*message).cmsg_level = libc::IPPROTO_IP;
        (*message).cmsg_type = libc::IP_PKTINFO;
        (*message).cmsg_len = CMSG_LEN(size_of::<in_pktinfo>() as u32) as usize;
        std::ptr::write_unaligned(CMSG_DATA(message).cast(), info);
    }
}

/// Destination address and, for a run, the length of its datagrams.
fn read_control(header: &msghdr) -> (Ipv4Addr, Option<usize>) {
    let (mut to, mut segment) = (Ipv4Addr::UNSPECIFIED, None);
    // SAFETY: the kernel wrote the control buffer and its length; the macros stay inside it, and each datum is as long
    // as its type.
    unsafe {
        let mut message = CMSG_FIRSTHDR(header);
        while !message.is_null() {
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: in_pktinfo = std::ptr::read_unaligned(CMSG_DATA(message).cast());
                    to = u32::from_be(info.ipi_addr.s_addr).into();
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let len: libc::c_int = std::ptr::read_unaligned(CMSG_DATA(message).cast());
                    segment = usize::try_from(len).ok();
                }
                _ => {}
            }
            message = CMSG_NXTHDR(header, message);
        }
    }
    (to, segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_one_socket_have_addresses_of_their_own() {
        let mut net = Net::bind(c"lo").unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        let mut froms = Vec::new();
        for last in 1..=2 {
            let own = Ipv4Addr::new(127, 9, 9, last);
            net.push(own, |slot| {
                slot[..2].copy_from_slice(b"hi");
                Some((2, peer.local_addr().unwrap()))
            });
            net.flush();
            let (len, from) = peer.recv_from(&mut [0; 8]).unwrap();
            peer.send_to(b"answer", from).unwrap();
            froms.push((len, from));
        }
        let expected = [1, 2].map(|last| (2, SocketAddr::from(([127, 9, 9, last], net.port()))));
        assert_eq!(froms, expected);
        let mut answers = Vec::new();
        while answers.len() < 2 {
            net.wait(std::time::Duration::from_millis(900));
            let mut inbox = std::mem::take(&mut net.inbox);
            assert!(net.receive(&mut inbox) > 0, "an answer is lost");
            answers.extend(inbox.datagrams().map(|(to, bytes)| (to, bytes.to_vec())));
            net.inbox = inbox;
        }
        assert_eq!(answers[1], (Ipv4Addr::new(127, 9, 9, 2), b"answer".to_vec()));
    }
}
