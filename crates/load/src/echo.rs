//! An echo that knows nobody: what comes goes back to where it came from, after a nap as long as the bridge's. The limit of what an idle
//! bridge could do.

use std::io;
use std::mem::zeroed;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use tertulia_media::NAP;

use crate::fanout::Running;
use crate::socket::SLOT_LEN;

/// Name of its thread, by which its CPU time is found.
pub(crate) const THREAD: &str = "echo";
/// Datagrams of one call, as many as the bridge takes.
const MESSAGES_MAX: usize = 32;

/// Starts it.
///
/// # Errors
/// When the system gives no socket or no thread.
pub(crate) fn start() -> io::Result<Running> {
    Running::start(THREAD, |socket, stop| run(&socket, stop))
}

fn run(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffers = vec![0; SLOT_LEN * MESSAGES_MAX];
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(NAP);
        while turn(socket, &mut buffers) == MESSAGES_MAX {}
    }
}

/// Sends back what waits; how many datagrams that were. The first one is waited for.
fn turn(socket: &UdpSocket, buffers: &mut [u8]) -> usize {
    // SAFETY: all-zero bytes are valid for all of them: null pointers, zero lengths and unspecified addresses.
    let (mut messages, mut vectors, mut names): (
        [libc::mmsghdr; MESSAGES_MAX],
        [libc::iovec; MESSAGES_MAX],
        [libc::sockaddr_in; MESSAGES_MAX],
    ) = unsafe { (zeroed(), zeroed(), zeroed()) };
    for (index, buffer) in buffers.chunks_exact_mut(SLOT_LEN).enumerate().take(MESSAGES_MAX) {
        vectors[index] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: SLOT_LEN };
        let header = &mut messages[index].msg_hdr;
        header.msg_name = (&raw mut names[index]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_iov = &raw mut vectors[index];
        header.msg_iovlen = 1;
    }
    // SAFETY: every message points to a name, a vector and a buffer that live until after the call. It waits for the first one, as long as
    // the socket's timeout says.
    let received = unsafe {
        let (count, wait) = (MESSAGES_MAX as libc::c_uint, libc::MSG_WAITFORONE);
        libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, wait, std::ptr::null_mut())
    };
    let received = usize::try_from(received).unwrap_or(0);
    for (message, vector) in messages.iter().zip(&mut vectors).take(received) {
        vector.iov_len = message.msg_len as usize;
    }
    let mut done = 0;
    while done < received {
        let count = (received - done) as libc::c_uint;
        // SAFETY: as above; the kernel has filled in names, and lengths are those of what came.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages[done..].as_mut_ptr(), count, 0) };
        done += usize::try_from(sent).unwrap_or(0).max(1); // one that is refused is lost
    }
    received
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_comes_goes_back_to_each_who_sent_it() {
        let echo = start().unwrap();
        let peers = [1, 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (peer, text) in peers.iter().zip([&b"one"[..], b"another"]) {
            peer.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            peer.send_to(text, echo.address).unwrap();
        }
        for (peer, text) in peers.iter().zip([&b"one"[..], b"another"]) {
            let mut buffer = [0; 16];
            let (len, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (text, echo.address));
        }
        echo.end();
    }
}
