//! Whose a datagram is: by the user that a check names, and by addresses that passed one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Worker;
use crate::transport::username_of;

impl Worker {
    /// Whether a user fragment is somebody's here.
    pub fn has_user(&self, ufrag: &str) -> bool {
        self.by_ufrag.contains_key(ufrag)
    }

    /// Whether the connection from this address is somebody's here: a check on it was valid, and they are not gone.
    pub fn has_stream(&self, remote: SocketAddr) -> bool {
        self.by_stream.contains_key(&remote)
    }

    /// A check names its user; an answer to one of ours comes from where we know them.
    pub(super) fn slot_of_check(&mut self, bytes: &[u8], known: Option<usize>) -> Option<usize> {
        let slot = match username_of(bytes) {
            Some(ufrag) => self.by_ufrag.get(ufrag).copied(),
            None => known,
        };
        self.counters.dropped_unknown_user += u64::from(slot.is_none());
        slot
    }

    /// An address belongs to the first who proved it, until they are silent.
    pub(super) fn learn_address(&mut self, now: Instant, slot: usize, address: SocketAddr) {
        let heard = self.by_address.get(&address).and_then(|owner| self.last_heard(*owner));
        if heard.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_secs(8)) {
            return;
        }
        if !self.slots.contains(slot) {
            return; // ended by an event before this one
        }
        if let Some(previous) = self.by_address.insert(address, slot).filter(|previous| *previous != slot)
            && let Some(previous) = self.slots.get_mut(previous)
        {
            previous.addresses.retain(|known| *known != address);
        }
        let endpoint = &mut self.slots[slot];
        endpoint.last_heard = now;
        endpoint.learn_address(address);
    }

    pub(super) fn unlearn_address(&mut self, slot: usize, address: SocketAddr) {
        if let Some(endpoint) = self.slots.get_mut(slot) {
            endpoint.addresses.retain(|known| *known != address);
        }
        if self.by_address.get(&address) == Some(&slot) {
            self.by_address.remove(&address);
        }
    }

    /// A connection is its user's from the first valid check on; a connection cannot change hands.
    pub(super) fn learn_stream(&mut self, now: Instant, slot: usize, remote: SocketAddr) {
        let Some(endpoint) = self.slots.get_mut(slot) else { return };
        endpoint.last_heard = now;
        if !self.by_stream.contains_key(&remote) && endpoint.learn_stream(remote) {
            self.by_stream.insert(remote, slot);
        }
    }
}
