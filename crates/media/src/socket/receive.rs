//! Receiving: many messages a call, each of one datagram or of several that the kernel put together.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use super::{Classes, Control, class_of, read_name, socklen};

/// Messages taken in one call.
pub(crate) const RECEIVE_MAX: usize = 32;
/// Bytes of one message: whatever UDP can carry.
const MESSAGE_MAX: usize = 65_536;
/// Bytes of one datagram. Nobody sends longer ones for a good reason, and what is kept of packets is counted in packets.
const DATAGRAM_MAX: usize = 2048;
/// From one buffer to the next: not a multiple of a page, so that the first lines of all do not meet in the same sets of the caches.
const STRIDE: usize = MESSAGE_MAX + 17 * 64;

/// Buffers of one `recvmmsg`. The system gives memory only to what is used of them: two or three megabytes at most, usually a page for each
/// message.
pub(crate) struct Receiver {
    buffers: Box<[u8]>,
    headers: Box<Headers>,
    /// Calls that brought something, by how many datagrams.
    pub(crate) calls: Classes,
}

struct Headers {
    messages: [libc::mmsghdr; RECEIVE_MAX],
    vectors: [libc::iovec; RECEIVE_MAX],
    names: [libc::sockaddr_storage; RECEIVE_MAX],
    controls: [Control; RECEIVE_MAX],
}

impl Receiver {
    pub(crate) fn new() -> Self {
        // SAFETY: all of it are numbers, null pointers and unspecified addresses when zero.
        let mut headers = unsafe { Box::<Headers>::new_zeroed().assume_init() };
        let mut buffers = vec![0u8; STRIDE * RECEIVE_MAX].into_boxed_slice();
        for (index, buffer) in buffers.chunks_exact_mut(STRIDE).enumerate() {
            headers.vectors[index] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: MESSAGE_MAX };
        }
        Self { buffers, headers, calls: Classes::default() }
    }

    /// Takes what waits and hands each datagram to `each`, but for empty and for overlong ones. Returns how many messages there were; 0 when nothing waits.
    pub(crate) fn receive(
        &mut self,
        socket: &UdpSocket,
        mut each: impl FnMut(SocketAddr, &mut [u8]),
    ) -> io::Result<usize> {
        let Headers { messages, vectors, names, controls } = &mut *self.headers;
        for (index, message) in messages.iter_mut().enumerate() {
            let header = &mut message.msg_hdr;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = socklen::<libc::sockaddr_storage>();
            header.msg_control = (&raw mut controls[index]).cast();
            header.msg_controllen = size_of::<Control>();
        }
        let count = u32::try_from(RECEIVE_MAX).unwrap_or(0);
        // SAFETY: every message points to a vector, a buffer, a name and a control block that live until after the call, with their true
        // lengths.
        let received =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0, std::ptr::null_mut()) };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return if is_momentary(&error) { Ok(0) } else { Err(error) };
        };
        let mut datagrams = 0;
        let buffers = self.buffers.chunks_exact_mut(STRIDE);
        for ((message, name), buffer) in messages.iter().zip(names).zip(buffers).take(received) {
            let Some(from) = read_name(name) else { continue };
            let bytes = &mut buffer[..usize::try_from(message.msg_len).unwrap_or(0).min(MESSAGE_MAX)];
            let len = segment_len(&message.msg_hdr).unwrap_or(bytes.len()).max(1);
            if len <= DATAGRAM_MAX {
                datagrams += bytes.len().div_ceil(len);
                bytes.chunks_mut(len).for_each(|bytes| each(from, bytes));
            }
        }
        if datagrams > 0 {
            self.calls[class_of(datagrams)] += 1;
        }
        Ok(received)
    }
}

/// Length of the datagrams in a message of several.
fn segment_len(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled the header; its control block is still there.
    let first = unsafe { libc::CMSG_FIRSTHDR(header).as_ref()? };
    if (first.cmsg_level, first.cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: this message's data is an int.
    let len = unsafe { libc::CMSG_DATA(first).cast::<libc::c_int>().read_unaligned() };
    usize::try_from(len).ok().filter(|len| *len > 0)
}

fn is_momentary(error: &io::Error) -> bool {
    // ECONNREFUSED: an earlier datagram met a closed port; nothing is wrong with the socket.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused)
}
