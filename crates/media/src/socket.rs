//! Datagrams in and out of the kernel, many a call and many a message: `recvmmsg`, `sendmmsg`, segmentation offload both ways.

mod checks;
mod receive;
mod send;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tracing::{info, warn};

pub(crate) use checks::for_checks;
pub(crate) use receive::{RECEIVE_MAX, Receiver};
pub(crate) use send::{SendCounters, Sender};

/// Wanted kernel buffer; the kernel gives what `net.core.rmem_max` allows.
const KERNEL_BUFFER: usize = 8 * 1024 * 1024;
/// Messages refused in a row, each for its own path perhaps, before segmentation is taken to be impossible.
const REFUSALS_MAX: u32 = 16;

/// Binds one non-blocking socket.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(address)?;
    socket.bind(&address.into())?;
    // Best effort: a small buffer loses packets under load, and is no reason not to start.
    let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
    let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
    let socket = UdpSocket::from(socket);
    coalesce(&socket);
    Ok(socket)
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Asks the kernel to hand over neighbouring datagrams of one sender in one message. Before Linux 5.0 it does not, and nothing changes.
fn coalesce(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option is an int that lives until after the call, of the length given.
    unsafe {
        let option = (&raw const on).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, option, socklen::<libc::c_int>());
    }
}

/// Whether the kernel cuts long messages into datagrams. One for the process.
#[derive(Debug, Default)]
pub(crate) struct Segmentation {
    works: AtomicBool,
    refusals: AtomicU32,
}

impl Segmentation {
    /// Tries it between two sockets of this machine: a kernel before 4.18 takes the wish and sends one long datagram.
    pub(crate) fn probe() -> Self {
        let works = probe().unwrap_or(false);
        info!(segmentation = works, "datagrams of one receiver are sent together");
        Self { works: AtomicBool::new(works), refusals: AtomicU32::new(0) }
    }

    fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    fn accepted(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
        }
    }

    /// The kernel refused a long message. EIO says that the device cannot do it. Everything else may be one narrow path, which whoever is
    /// behind it can make up, and must not slow everybody down: only many in a row switch it off.
    fn refused(&self, error: i32) {
        let in_a_row = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if (error == libc::EIO || in_a_row >= REFUSALS_MAX) && self.works.swap(false, Ordering::Relaxed) {
            warn!(error, "the system does not segment datagrams: sending costs more from now on");
        }
    }
}

fn probe() -> io::Result<bool> {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    send::send_segmented(&sender, receiver.local_addr()?, &[7; 150], 100)?;
    let mut buffer = [0; 200];
    Ok(receiver.recv(&mut buffer)? == 100 && receiver.recv(&mut buffer)? == 50)
}

/// Room for one control message with an int, aligned as a header must be.
type Control = [u64; 4];

/// Counts of something by how many there were at once: 1, 2, 3–4, 5–8, 9–16, 17–32, 33 and more.
pub(crate) type Classes<T = u64> = [T; CLASSES];
const CLASSES: usize = 7;

/// Where so many belong in [`Classes`].
fn class_of(count: usize) -> usize {
    let class = usize::BITS - count.saturating_sub(1).leading_zeros();
    usize::try_from(class).unwrap_or(0).min(CLASSES - 1)
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
            out.sin6_flowinfo = 0;
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

#[cfg(test)]
mod tests;
