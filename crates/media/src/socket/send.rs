//! Sending: a call for many messages, a message for each run of datagrams to one receiver.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Classes, Control, Segmentation, class_of, socklen, write_name};
use crate::worker::batch::{Batch, Flush, Run, SEGMENTS_MAX};

/// Messages of one call.
const MESSAGES_MAX: usize = 64;
/// Pieces of one call; a run has at most [`SEGMENTS_MAX`].
const PIECES_MAX: usize = 1024;
/// A datagram shorter than this is sound or feedback, more or less: the last to be given up.
const SMALL: usize = 400;

/// What became of datagrams. Written by one thread, once a flush; apart from what others write.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct SendCounters {
    /// Taken by the kernel.
    pub(crate) sent: AtomicU64,
    /// Refused for their destination.
    pub(crate) refused: AtomicU64,
    /// Dropped because the socket's or the device's queue was full.
    pub(crate) dropped_full: AtomicU64,
    /// Messages by how many datagrams each carried.
    pub(crate) runs: Classes<AtomicU64>,
    /// Calls by how many messages the kernel took of each.
    pub(crate) calls: Classes<AtomicU64>,
}

/// The same numbers of one flush.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    sent: u64,
    refused: u64,
    dropped_full: u64,
    runs: Classes,
    calls: Classes,
}

impl Tally {
    fn count_run(&mut self, segments: usize) {
        self.runs[class_of(segments)] += 1;
    }

    fn count_call(&mut self, messages: usize) {
        self.calls[class_of(messages)] += 1;
    }

    fn add_to(self, counters: &SendCounters) {
        let all = [
            (self.sent, &counters.sent),
            (self.refused, &counters.refused),
            (self.dropped_full, &counters.dropped_full),
        ];
        let runs = self.runs.into_iter().zip(&counters.runs);
        let calls = self.calls.into_iter().zip(&counters.calls);
        for (count, total) in all.into_iter().chain(runs).chain(calls) {
            if count != 0 {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

/// Sends batches through the sockets of one worker.
pub(crate) struct Sender<'a> {
    sockets: &'a [(SocketAddr, UdpSocket)],
    counters: &'a SendCounters,
    segmentation: &'a Segmentation,
    chunk: Box<Chunk>,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(
        sockets: &'a [(SocketAddr, UdpSocket)],
        counters: &'a SendCounters,
        segmentation: &'a Segmentation,
    ) -> Self {
        // SAFETY: all of it are numbers, null pointers and unspecified addresses when zero.
        let chunk = unsafe { Box::<Chunk>::new_zeroed().assume_init() };
        Self { sockets, counters, segmentation, chunk }
    }
}

impl Flush for Sender<'_> {
    fn flush(&mut self, batch: &Batch) {
        let mut tally = Tally::default();
        let together = self.segmentation.works();
        for (local, socket) in self.sockets {
            for run in batch.runs().filter(|run| run.local() == *local) {
                if together || run.segments() == 1 {
                    self.chunk.push(&run);
                    self.chunk.send_full(socket, self.segmentation, &mut tally);
                    continue;
                }
                for bytes in run.pieces().flat_map(|piece| piece.chunks(run.segment_len())) {
                    self.chunk.push_one(run.remote(), bytes);
                    self.chunk.send_full(socket, self.segmentation, &mut tally);
                }
            }
            self.chunk.send(socket, self.segmentation, &mut tally);
        }
        tally.add_to(self.counters);
    }
}

/// Messages of one call. Its pointers lead into itself and into the batch that is being flushed; they are set by `push`, and nothing follows
/// them after `send`, which ends before the flush does.
struct Chunk {
    len: usize,
    pieces: usize,
    messages: [libc::mmsghdr; MESSAGES_MAX],
    shapes: [Shape; MESSAGES_MAX],
    names: [libc::sockaddr_storage; MESSAGES_MAX],
    controls: [Control; MESSAGES_MAX],
    vectors: [libc::iovec; PIECES_MAX],
}

/// Of one message.
#[derive(Clone, Copy)]
struct Shape {
    segments: usize,
    segment_len: usize,
}

impl Shape {
    fn count(self) -> u64 {
        self.segments as u64
    }
}

impl Chunk {
    fn push(&mut self, run: &Run<'_>) {
        let first = self.pieces;
        for piece in run.pieces() {
            self.vectors[self.pieces] = vector(piece);
            self.pieces += 1;
        }
        self.push_message(run.remote(), first, Shape { segments: run.segments(), segment_len: run.segment_len() });
    }

    fn push_one(&mut self, remote: SocketAddr, bytes: &[u8]) {
        let first = self.pieces;
        self.vectors[first] = vector(bytes);
        self.pieces += 1;
        self.push_message(remote, first, Shape { segments: 1, segment_len: bytes.len() });
    }

    /// A message of the pieces from `first` on.
    fn push_message(&mut self, remote: SocketAddr, first: usize, shape: Shape) {
        let at = self.len;
        self.len += 1;
        self.shapes[at] = shape;
        let header = &mut self.messages[at].msg_hdr;
        header.msg_namelen = write_name(&mut self.names[at], remote);
        header.msg_name = (&raw mut self.names[at]).cast();
        header.msg_iov = &raw mut self.vectors[first];
        header.msg_iovlen = self.pieces - first;
        if shape.segments > 1 {
            ask_segments(header, &mut self.controls[at], shape.segment_len);
        } else {
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
        }
    }

    /// Sends when another run might not fit.
    fn send_full(&mut self, socket: &UdpSocket, segmentation: &Segmentation, tally: &mut Tally) {
        if self.len == MESSAGES_MAX || self.pieces + SEGMENTS_MAX > PIECES_MAX {
            self.send(socket, segmentation, tally);
        }
    }

    /// Sends everything. It waits for nothing: what the kernel does not take now is lost.
    fn send(&mut self, socket: &UdpSocket, segmentation: &Segmentation, tally: &mut Tally) {
        let (mut done, mut is_full) = (0, false);
        while done < self.len {
            match self.send_from(socket.as_raw_fd(), done) {
                Ok(sent) => {
                    tally.count_call(sent);
                    for shape in &self.shapes[done..done + sent] {
                        tally.sent += shape.count();
                        tally.count_run(shape.segments);
                        if shape.segments > 1 {
                            segmentation.accepted();
                        }
                    }
                    done += sent;
                }
                Err(libc::EAGAIN | libc::ENOBUFS) if !is_full => {
                    // Once the small ones are tried: a picture can be sent again or skipped, a syllable cannot.
                    is_full = true;
                    self.keep_small(done, tally);
                }
                Err(libc::EAGAIN | libc::ENOBUFS) => {
                    tally.dropped_full += self.shapes[done..self.len].iter().map(|shape| shape.count()).sum::<u64>();
                    done = self.len;
                }
                Err(error @ (libc::EIO | libc::EINVAL | libc::EMSGSIZE)) if self.shapes[done].segments > 1 => {
                    segmentation.refused(error);
                    self.send_singly(socket.as_raw_fd(), done, tally);
                    done += 1;
                }
                // This receiver cannot be reached; the others are tried.
                Err(_) => {
                    tally.refused += self.shapes[done].count();
                    done += 1;
                }
            }
        }
        (self.len, self.pieces) = (0, 0);
    }

    /// How many messages the kernel took, at least one, or why it did not take the first.
    fn send_from(&mut self, socket: RawFd, from: usize) -> Result<usize, i32> {
        let messages = &mut self.messages[from..self.len];
        let count = u32::try_from(messages.len()).unwrap_or(0);
        // SAFETY: each message points to a name, to pieces and perhaps to a control block, with their true lengths; the first and the last
        // are in this chunk, the pieces' bytes in the batch that is being flushed.
        let sent = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), count, 0) };
        match usize::try_from(sent) {
            Ok(sent) if sent > 0 => Ok(sent),
            _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        }
    }

    /// Drops the large messages from `from` on.
    fn keep_small(&mut self, from: usize, tally: &mut Tally) {
        let mut kept = from;
        for at in from..self.len {
            let shape = self.shapes[at];
            if shape.segment_len < SMALL {
                // A header's pointers stay right wherever it is.
                self.messages[kept] = self.messages[at];
                self.shapes[kept] = shape;
                kept += 1;
            } else {
                tally.dropped_full += shape.count();
            }
        }
        self.len = kept;
    }

    /// Sends the datagrams of one message one by one, until the kernel's queue is full.
    fn send_singly(&mut self, socket: RawFd, at: usize, tally: &mut Tally) {
        let Shape { mut segments, segment_len } = self.shapes[at];
        let mut header = self.messages[at].msg_hdr;
        header.msg_control = std::ptr::null_mut();
        header.msg_controllen = 0;
        // SAFETY: the message's pieces, set by `push`, are vectors of this chunk.
        let pieces = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
        for piece in pieces {
            let mut start = 0;
            while start < piece.iov_len {
                let iov_len = segment_len.min(piece.iov_len - start);
                let mut vector = libc::iovec { iov_base: piece.iov_base.wrapping_byte_add(start), iov_len };
                header.msg_iov = &raw mut vector;
                header.msg_iovlen = 1;
                // SAFETY: the name is in this chunk, the vector on the stack, its bytes within the piece.
                let sent = unsafe { libc::sendmsg(socket, &raw const header, 0) };
                if sent < 0 {
                    let error = io::Error::last_os_error().raw_os_error();
                    if matches!(error, Some(libc::EAGAIN | libc::ENOBUFS)) {
                        tally.dropped_full += segments as u64;
                        return;
                    }
                    tally.refused += 1;
                } else {
                    tally.sent += 1;
                    tally.count_run(1);
                    tally.count_call(1);
                }
                segments = segments.saturating_sub(1);
                start += iov_len;
            }
        }
    }
}

/// The kernel only reads from it, whatever the pointer's type.
fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// Asks for datagrams of `len` bytes each.
fn ask_segments(header: &mut libc::msghdr, control: &mut Control, len: usize) {
    let len = u16::try_from(len).unwrap_or(u16::MAX);
    header.msg_control = (&raw mut *control).cast();
    // SAFETY: these only compute lengths; the control block has room for a message with an int, so it has for one with half of it.
    unsafe {
        let data = u16::BITS / 8;
        header.msg_controllen = usize::try_from(libc::CMSG_SPACE(data)).unwrap_or(0);
        let message = (&raw mut *control).cast::<libc::cmsghdr>();
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = usize::try_from(libc::CMSG_LEN(data)).unwrap_or(0);
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(len);
    }
}

/// Sends bytes as datagrams of `len` bytes each.
pub(super) fn send_segmented(socket: &UdpSocket, to: SocketAddr, bytes: &[u8], len: usize) -> io::Result<()> {
    // SAFETY: all-zero bytes are valid for both: null pointers, zero lengths, an unspecified address.
    let (mut header, mut name): (libc::msghdr, libc::sockaddr_storage) = unsafe { std::mem::zeroed() };
    let (mut vector, mut control): (libc::iovec, Control) = (vector(bytes), Control::default());
    header.msg_namelen = write_name(&mut name, to);
    header.msg_name = (&raw mut name).cast();
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    ask_segments(&mut header, &mut control, len);
    debug_assert!(header.msg_namelen <= socklen::<libc::sockaddr_storage>());
    // SAFETY: name, vector, bytes and control block live until after the call, with their true lengths.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What is left of a call with one message of each length when the queue is full, and how many are dropped.
#[cfg(test)]
pub(super) fn kept_when_full(lens: &[usize]) -> (Vec<usize>, u64) {
    // SAFETY: as in `Sender::new`.
    let mut chunk = unsafe { Box::<Chunk>::new_zeroed().assume_init() };
    let bytes = [0; 2_000];
    lens.iter().for_each(|len| chunk.push_one(SocketAddr::from(([127, 0, 0, 1], 9)), &bytes[..*len]));
    let mut tally = Tally::default();
    chunk.keep_small(0, &mut tally);
    // SAFETY: each message has one piece, a vector of the chunk.
    let len = |message: &libc::mmsghdr| unsafe { (*message.msg_hdr.msg_iov).iov_len };
    (chunk.messages[..chunk.len].iter().map(len).collect(), tally.dropped_full)
}
