//! ICE over TCP for clients whose network lets no UDP out (RFC 6544): we listen, they connect, datagrams travel in frames (RFC 4571).
//!
//! A thread of its own accepts. The first frame of a connection must be a binding request; its user fragment names the worker, which has
//! the connection from then on. Inside, a connection is told from a UDP socket by its local address: that has port 0.

mod connection;
mod framing;
mod gate;
mod listener;
mod streams;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use connection::Connection;
pub use framing::{FRAME_MAX, TooLong, Unframer};
pub(crate) use listener::{Listener, bind};
pub(crate) use streams::{Streams, Wires};

/// What happened to connections, of all threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unproven: AtomicU64,
    pub(crate) dropped_full: AtomicU64,
}

/// A reading of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpCounters {
    /// Connections taken.
    pub accepted: u64,
    /// Connections closed at once: too many, of all or of one address.
    pub refused: u64,
    /// Connections closed because no valid check came in time, or something else than a check came first.
    pub unproven: u64,
    /// Datagrams lost because their connection was full.
    pub dropped_full: u64,
}

impl Counters {
    pub(crate) fn read(&self) -> TcpCounters {
        let [accepted, refused, unproven, dropped_full] =
            [&self.accepted, &self.refused, &self.unproven, &self.dropped_full].map(|c| c.load(Ordering::Relaxed));
        TcpCounters { accepted, refused, unproven, dropped_full }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
