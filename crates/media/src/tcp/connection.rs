//! One connection: frames in, frames out, never waiting.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::framing::{FRAME_MAX, Unframer};
use super::gate::Seat;

/// Bytes that may wait for the kernel. More would be late when it arrives: media is dropped instead, as on a full UDP socket.
const QUEUE_MAX: usize = 32 * 1024;
/// A connection without a valid check is closed after this.
pub(super) const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that takes nothing, or says nothing, is closed after this. Consent checks come every few seconds.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) stream: TcpStream,
    pub(crate) remote: SocketAddr,
    /// The address it came to, with port 0.
    pub(super) local: SocketAddr,
    pub(super) unframer: Unframer,
    pub(super) opened: Instant,
    heard: Instant,
    queue: Vec<u8>,
    /// Bytes of the queue that the kernel has.
    sent: usize,
    /// When a full kernel last took something, or became full.
    stalled: Option<Instant>,
    /// Whether it waits in the set of those that were written to.
    pub(super) touched: bool,
    pub(super) watches_writable: bool,
    _seat: Seat,
}

/// What reading a connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Bytes came; there may be more.
    Some,
    /// Nothing waits.
    None,
    /// The peer closed it, or it broke.
    Over,
}

impl Connection {
    pub(super) fn new(now: Instant, stream: TcpStream, remote: SocketAddr, local: SocketAddr, seat: Seat) -> Self {
        Self {
            stream,
            remote,
            local,
            unframer: Unframer::default(),
            opened: now,
            heard: now,
            queue: Vec::new(),
            sent: 0,
            stalled: None,
            touched: false,
            watches_writable: false,
            _seat: seat,
        }
    }

    /// Reads once.
    pub(super) fn read(&mut self, now: Instant) -> Reading {
        match self.stream.read(self.unframer.room()) {
            Ok(0) => Reading::Over,
            Ok(len) => {
                self.unframer.advance(len);
                self.heard = now;
                Reading::Some
            }
            Err(error) if is_momentary(&error) => Reading::None,
            Err(_) => Reading::Over,
        }
    }

    /// Queues a datagram as a frame; `false` when it is dropped because the peer does not keep up.
    pub(super) fn push(&mut self, datagram: &[u8]) -> bool {
        let Ok(len) = u16::try_from(datagram.len()) else { return false };
        if datagram.len() > FRAME_MAX || self.queue.len() - self.sent + 2 + datagram.len() > QUEUE_MAX {
            return false;
        }
        self.queue.extend(len.to_be_bytes());
        self.queue.extend(datagram);
        true
    }

    /// Gives the kernel what it takes. `false` when the connection broke.
    pub(super) fn flush(&mut self) -> bool {
        while self.sent < self.queue.len() {
            match self.stream.write(&self.queue[self.sent..]) {
                Ok(0) => return false,
                Ok(len) => {
                    self.sent += len;
                    self.stalled = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_momentary(&error) => break,
                Err(_) => return false,
            }
        }
        self.queue.drain(..self.sent);
        self.sent = 0;
        true
    }

    /// Whether frames wait for the kernel.
    pub(super) fn is_backed_up(&self) -> bool {
        self.sent < self.queue.len()
    }

    /// Whether it is to be closed: nothing authentic came, it takes nothing any more, or it is silent.
    pub(super) fn is_overdue(&mut self, now: Instant, is_proven: bool) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        if !self.is_backed_up() {
            self.stalled = None;
        } else if self.stalled.is_none() {
            self.stalled = Some(now);
        }
        !is_proven && since(self.opened) >= PROOF_TIMEOUT
            || self.stalled.is_some_and(|at| since(at) >= STALL_TIMEOUT)
            || since(self.heard) >= SILENCE_TIMEOUT
    }
}

fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::super::gate::Gate;
    use super::*;
    use crate::transport::stream_local;
    use std::net::TcpListener;
    use std::sync::Arc;

    fn pair(now: Instant) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, remote) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let seat = Arc::new(Gate::default()).enter(remote.ip()).unwrap();
        (Connection::new(now, stream, remote, stream_local(remote.ip()), seat), client)
    }

    #[test]
    fn one_that_proves_nothing_or_says_nothing_or_takes_nothing_is_closed_in_time() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let (mut connection, client) = pair(now);
        assert!(!connection.is_overdue(after(9), false) && connection.is_overdue(after(10), false));
        assert!(!connection.is_overdue(after(59), true) && connection.is_overdue(after(60), true));
        // Nobody reads: the kernel fills up, then the queue.
        let mut taken = 0;
        while connection.push(&[1; 1_000]) {
            assert!(connection.flush());
            taken += 1;
            assert!(taken < 100_000, "a kernel without a limit");
        }
        assert!(connection.is_backed_up() && connection.queue.capacity() <= 4 * QUEUE_MAX);
        assert!(!connection.is_overdue(after(1), true) && !connection.is_overdue(after(10), true));
        assert!(connection.is_overdue(after(11), true));
        drop(client);
    }
}
