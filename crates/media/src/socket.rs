//! Datagrams in and out of the kernel, many a call: `recvmmsg`, `sendmmsg`.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use crate::worker::batch::{Batch, Flush};

/// Datagrams taken in one call.
pub(crate) const RECEIVE_MAX: usize = 64;
/// Bytes of one received datagram; longer ones are cut and then fail to authenticate.
const DATAGRAM_MAX: usize = 2048;
/// Wanted kernel buffer; the kernel gives what `net.core.rmem_max` allows.
const KERNEL_BUFFER: usize = 8 * 1024 * 1024;
/// Datagrams sent in one call.
const SEND_MAX: usize = 64;

/// Binds one non-blocking socket.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Best effort: a small buffer loses packets under load, and is no reason not to start.
    let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
    let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
    Ok(socket.into())
}

/// Buffers of one `recvmmsg`, allocated once.
pub(crate) struct Receiver {
    buffers: Box<[[u8; DATAGRAM_MAX]; RECEIVE_MAX]>,
    names: Box<[libc::sockaddr_storage; RECEIVE_MAX]>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        // SAFETY: all-zero bytes are a valid sockaddr_storage.
        let names = Box::new(unsafe { zeroed() });
        let buffers = vec![[0u8; DATAGRAM_MAX]; RECEIVE_MAX].into_boxed_slice();
        Self { buffers: buffers.try_into().expect("the length is the array's"), names }
    }

    /// Takes what waits and hands each datagram to `each`. Returns how many there were; 0 when nothing waits.
    pub(crate) fn receive(
        &mut self,
        socket: &UdpSocket,
        mut each: impl FnMut(SocketAddr, &mut [u8]),
    ) -> io::Result<usize> {
        let mut vectors: [MaybeUninit<libc::iovec>; RECEIVE_MAX] = [const { MaybeUninit::uninit() }; RECEIVE_MAX];
        // SAFETY: all-zero bytes are a valid mmsghdr: null pointers and zero lengths.
        let mut messages: [libc::mmsghdr; RECEIVE_MAX] = unsafe { zeroed() };
        for index in 0..RECEIVE_MAX {
            let vector = vectors[index]
                .write(libc::iovec { iov_base: self.buffers[index].as_mut_ptr().cast(), iov_len: DATAGRAM_MAX });
            let header = &mut messages[index].msg_hdr;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = socklen::<libc::sockaddr_storage>();
        }
        let count = u32::try_from(RECEIVE_MAX).unwrap_or(0);
        // SAFETY: every message points to a vector, a buffer and a name that live until after the call, with their true lengths.
        let received =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0, std::ptr::null_mut()) };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return if is_momentary(&error) { Ok(0) } else { Err(error) };
        };
        for ((message, name), buffer) in
            messages.iter().zip(self.names.iter()).zip(self.buffers.iter_mut()).take(received)
        {
            let len = usize::try_from(message.msg_len).unwrap_or(0).min(DATAGRAM_MAX);
            if let Some(from) = read_name(name) {
                each(from, &mut buffer[..len]);
            }
        }
        Ok(received)
    }
}

/// What the kernel did not take.
#[derive(Debug, Default)]
pub(crate) struct SendCounters {
    pub(crate) sent: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// Sends batches: one call for up to [`SEND_MAX`] datagrams of one socket.
pub(crate) struct Sender<'a> {
    pub(crate) sockets: &'a [(SocketAddr, UdpSocket)],
    pub(crate) counters: &'a SendCounters,
}

impl Flush for Sender<'_> {
    fn flush(&mut self, batch: &Batch) {
        for (local, socket) in self.sockets {
            let mut chunk = Chunk::new();
            for (entry, bytes) in batch.iter().filter(|(entry, _)| entry.local == *local) {
                if chunk.len == SEND_MAX {
                    chunk.send(socket, self.counters);
                }
                chunk.push(entry.remote, bytes);
            }
            chunk.send(socket, self.counters);
        }
    }
}

/// Datagrams of one call, on the stack.
struct Chunk<'a> {
    datagrams: [(SocketAddr, &'a [u8]); SEND_MAX],
    len: usize,
}

impl<'a> Chunk<'a> {
    fn new() -> Self {
        let nothing: (SocketAddr, &[u8]) = (SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), &[]);
        Self { datagrams: [nothing; SEND_MAX], len: 0 }
    }

    fn push(&mut self, to: SocketAddr, bytes: &'a [u8]) {
        self.datagrams[self.len] = (to, bytes);
        self.len += 1;
    }

    fn send(&mut self, socket: &UdpSocket, counters: &SendCounters) {
        // SAFETY: all-zero bytes are valid for both: null pointers, zero lengths, unspecified addresses.
        let (mut messages, mut names): ([libc::mmsghdr; SEND_MAX], [libc::sockaddr_storage; SEND_MAX]) =
            unsafe { (zeroed(), zeroed()) };
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_MAX];
        for (index, (to, bytes)) in self.datagrams[..self.len].iter().enumerate() {
            // The kernel only reads from it, whatever the pointer's type.
            vectors[index] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let header = &mut messages[index].msg_hdr;
            header.msg_namelen = write_name(&mut names[index], *to);
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
        }
        let mut done = 0;
        while done < self.len {
            let count = u32::try_from(self.len - done).unwrap_or(0);
            // SAFETY: the messages from `done` on point to vectors, names and bytes that live until after the call.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages[done..].as_mut_ptr(), count, 0) };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => {
                    done += sent;
                    counters.sent.fetch_add(sent as u64, Ordering::Relaxed);
                }
                // One datagram was refused (unreachable, buffer full): it is lost, the others are tried.
                _ => {
                    done += 1;
                    counters.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.len = 0;
    }
}

fn is_momentary(error: &io::Error) -> bool {
    // ECONNREFUSED: an earlier datagram met a closed port; nothing is wrong with the socket.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused)
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn write_name(name: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: a sockaddr_storage is large and aligned enough for every socket address.
            let out = unsafe { &mut *(&raw mut *name).cast::<libc::sockaddr_in>() };
            out.sin_family = u16::try_from(libc::AF_INET).unwrap_or(0);
            out.sin_port = v4.port().to_be();
            out.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            socklen::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let out = unsafe { &mut *(&raw mut *name).cast::<libc::sockaddr_in6>() };
            out.sin6_family = u16::try_from(libc::AF_INET6).unwrap_or(0);
            out.sin6_port = v6.port().to_be();
            out.sin6_addr.s6_addr = v6.ip().octets();
            out.sin6_scope_id = v6.scope_id();
            socklen::<libc::sockaddr_in6>()
        }
    }
}

fn read_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in.
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            Some(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))),
                u16::from_be(v4.sin_port),
            ))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a sockaddr_in6.
            let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            // Flow information and scope play no part in comparing addresses.
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, 0)))
        }
        _ => None,
    }
}
