//! Sealed datagrams on their way out: one arena, filled and flushed over and over.

use std::net::SocketAddr;

/// Room for one datagram: a full packet, SRTP's trailer, and some.
const SLOT_LEN: usize = 1600;
/// Datagrams of one flush; the kernel takes at most 1024 in one call.
const SLOTS: usize = 128;

/// Takes full batches.
pub trait Flush {
    /// Sends everything in the batch. What cannot be sent is lost, as datagrams are.
    fn flush(&mut self, batch: &Batch);
}

/// One datagram of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Send from here.
    pub local: SocketAddr,
    /// Send to here.
    pub remote: SocketAddr,
    len: usize,
}

/// An arena of datagrams. Its memory is allocated once.
#[derive(Debug)]
pub struct Batch {
    arena: Box<[u8]>,
    entries: Vec<Entry>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { arena: vec![0; SLOT_LEN * SLOTS].into_boxed_slice(), entries: Vec::with_capacity(SLOTS) }
    }
}

impl Batch {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Datagrams in the order they were put in.
    pub fn iter(&self) -> impl Iterator<Item = (Entry, &[u8])> {
        self.entries.iter().zip(self.arena.chunks_exact(SLOT_LEN)).map(|(entry, slot)| (*entry, &slot[..entry.len]))
    }

    /// Offers a slot to `fill`, which returns length and addresses, or nothing. A full batch is flushed first.
    pub(super) fn push(
        &mut self,
        flush: &mut dyn Flush,
        fill: impl FnOnce(&mut [u8]) -> Option<(usize, SocketAddr, SocketAddr)>,
    ) {
        if self.entries.len() == SLOTS {
            self.flush(flush);
        }
        let at = self.entries.len() * SLOT_LEN;
        if let Some((len, local, remote)) = fill(&mut self.arena[at..at + SLOT_LEN]) {
            self.entries.push(Entry { local, remote, len });
        }
    }

    /// Hands everything over.
    pub(super) fn flush(&mut self, flush: &mut dyn Flush) {
        if !self.entries.is_empty() {
            flush.flush(self);
            self.entries.clear();
        }
    }
}
