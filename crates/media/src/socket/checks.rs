//! A second socket on an address, for checks of connections alone: they may wait for each other, and whatever else comes may not.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use socket2::SockRef;

use super::{KERNEL_BUFFER, coalesce, socklen, unbound};

/// Binds a socket beside one that is bound, and has the kernel (Linux 4.5 or newer) put into it what begins like STUN (RFC 7983 §7).
///
/// The first one was bound by itself, so another server at the same address is refused as ever.
///
/// # Errors
/// When the kernel does not do that. Then everything comes to the first socket.
pub(crate) fn for_checks(beside: &UdpSocket) -> io::Result<UdpSocket> {
    let address = beside.local_addr()?;
    SockRef::from(beside).set_reuse_port(true)?;
    let socket = unbound(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    // Best effort, as for the first one.
    let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
    let socket = UdpSocket::from(socket);
    // Before the kernel puts neighbours together it asks any socket of the address whether it may, not the one that they come to.
    coalesce(&socket);
    attach(&socket)?; // or it is closed, and does not get half of everything
    Ok(socket)
}

/// Which socket of the group gets a datagram, by its first byte: the second one up to 3, else the first. What is empty has no such byte, and
/// then the program ends with 0 by itself.
fn attach(socket: &UdpSocket) -> io::Result<()> {
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 1, 0, 3),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 1),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // SAFETY: the descriptor is open; the option and the instructions it points to live until after the call, with their true lengths.
    let done = unsafe {
        let (name, option) = (libc::SO_ATTACH_REUSEPORT_CBPF, (&raw const program).cast());
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, option, socklen::<libc::sock_fprog>())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::super::bind;
    use super::*;
    use std::time::Duration;

    #[test]
    fn checks_come_to_one_socket_and_everything_else_to_the_other() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(first) = bind(address.parse().unwrap()) else { continue }; // a machine without IPv6
            let second = for_checks(&first).unwrap();
            let client = UdpSocket::bind(address).unwrap();
            let sockets = [first, second];
            for socket in &sockets {
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            }
            for (bytes, at) in
                [(&[0u8, 1, 9][..], 1), (&[3], 1), (&[4], 0), (&[22, 254], 0), (&[128, 111], 0), (&[255], 0), (&[], 0)]
            {
                client.send_to(bytes, sockets[0].local_addr().unwrap()).unwrap();
                let mut buffer = [7; 9];
                let len = sockets[at].recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..len], bytes);
            }
        }
    }

    #[test]
    fn the_kernel_may_put_datagrams_together_whichever_socket_it_asks() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = for_checks(&first).unwrap();
        for socket in [first, second] {
            let (mut on, mut len) = (0 as libc::c_int, socklen::<libc::c_int>());
            // SAFETY: the descriptor is open, and an int and its length are passed that live until after the call.
            let done = unsafe {
                let (value, len) = ((&raw mut on).cast(), &raw mut len);
                libc::getsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, value, len)
            };
            assert_eq!((done, on), (0, 1));
        }
    }

    #[test]
    fn another_server_at_the_address_is_refused() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _second = for_checks(&first).unwrap();
        let refused = bind(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
