//! The packets of one encoding, kept for retransmission: one cache per encoding, shared by all its receivers.

use std::time::{Duration, Instant};

use tertulia_rtp::codec::FrameInfo;
use tertulia_rtp::sequence::SeqNo;

/// How long a packet is worth keeping: several round trips of a bad network.
const WORTH_KEEPING: Duration = Duration::from_millis(1_000);
/// Slots of a new cache; enough for a second of a thumbnail.
const SLOTS_MIN: usize = 32;
/// Slots of a full cache: about a second of 5 Mbit/s.
const SLOTS_MAX: usize = 512;
/// Bytes by which buffers grow: those of payloads, and shorter ones.
const STEP: usize = 128;
const SHORT_STEP: usize = 16;

/// One packet as it is sent, for the first time or again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cached {
    /// Normalised sequence number, which names the slot.
    pub(crate) number: SeqNo,
    pub(crate) marker: bool,
    pub(crate) payload_type: u8,
    pub(crate) timestamp: u32,
    pub(crate) info: FrameInfo,
    pub(crate) payload: Vec<u8>,
    /// Dependency descriptor; empty when there is none.
    pub(crate) descriptor: Vec<u8>,
    at: Option<Instant>,
}

/// A ring by sequence number that grows to what a second needs and then never allocates again.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    slots: Vec<Cached>,
}

impl Cache {
    /// Keeps a copy. Slots keep their buffers, so a full ring costs a copy and no allocation.
    pub(crate) fn insert(&mut self, now: Instant, packet: Packet<'_>) {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS_MIN, Cached::default);
        }
        let young = |slot: &Cached| slot.at.is_some_and(|at| now.saturating_duration_since(at) < WORTH_KEEPING);
        if self.slots.len() < SLOTS_MAX && young(&self.slots[self.index(packet.number)]) {
            self.grow();
        }
        let index = self.index(packet.number);
        let slot = &mut self.slots[index];
        slot.number = packet.number;
        slot.marker = packet.marker;
        slot.payload_type = packet.payload_type;
        slot.timestamp = packet.timestamp;
        slot.info = packet.info;
        slot.at = Some(now);
        refill(&mut slot.payload, packet.payload);
        refill(&mut slot.descriptor, packet.descriptor);
    }

    /// The packet of this number, if it is still there.
    pub(crate) fn get(&self, number: SeqNo) -> Option<&Cached> {
        if self.slots.is_empty() {
            return None;
        }
        Some(&self.slots[self.index(number)]).filter(|slot| slot.number == number && slot.at.is_some())
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, number: SeqNo) -> Option<&mut Cached> {
        self.get(number)?;
        let index = self.index(number);
        self.slots.get_mut(index)
    }

    fn index(&self, number: SeqNo) -> usize {
        // The length is a power of two that fits any integer.
        usize::try_from(number % self.slots.len() as u64).unwrap_or(0)
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots.resize_with(old.len() * 2, Cached::default);
        for packet in old.into_iter().filter(|packet| packet.at.is_some()) {
            let index = self.index(packet.number);
            self.slots[index] = packet;
        }
    }
}

/// Replaces the content. A buffer that is too small grows to little more than it needs, in steps of which there are few, and not to twice of
/// what it was: there are hundreds.
fn refill(buffer: &mut Vec<u8>, content: &[u8]) {
    buffer.clear();
    let step = if content.len() < STEP { SHORT_STEP } else { STEP };
    buffer.reserve_exact(content.len().next_multiple_of(step));
    buffer.extend_from_slice(content);
}

/// What is put in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) number: SeqNo,
    pub(crate) marker: bool,
    pub(crate) payload_type: u8,
    pub(crate) timestamp: u32,
    pub(crate) info: FrameInfo,
    pub(crate) payload: &'a [u8],
    pub(crate) descriptor: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: SeqNo) -> Packet<'static> {
        Packet {
            number,
            marker: false,
            payload_type: 100,
            timestamp: 0,
            info: FrameInfo::default(),
            payload: b"x",
            descriptor: b"",
        }
    }

    #[test]
    fn a_buffer_grows_in_few_steps_and_not_far() {
        let (mut buffer, mut capacities) = (Vec::new(), std::collections::BTreeSet::new());
        for len in 0..1_300 {
            refill(&mut buffer, &vec![7; len]);
            assert!(buffer.len() == len && buffer.capacity() < len + STEP);
            capacities.insert(buffer.capacity());
        }
        assert!(capacities.len() <= 20, "{capacities:?}");
        refill(&mut buffer, b"short");
        assert!(buffer == b"short" && capacities.contains(&buffer.capacity()));
    }

    #[test]
    fn a_second_of_packets_is_kept_and_not_much_more() {
        let start = Instant::now();
        let mut cache = Cache::default();
        for n in 1..=2_000u64 {
            cache.insert(start + Duration::from_millis(n * 5), packet(n));
        }
        assert!(cache.get(2_000).is_some() && cache.get(1_820).is_some());
        assert!(cache.get(1_000).is_none());
        assert!(cache.slots.len() <= 256, "{}", cache.slots.len());
    }
}
