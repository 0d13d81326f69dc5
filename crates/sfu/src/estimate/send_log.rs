//! What was sent to one receiver, until it is told of: the log behind transport-wide sequence numbers.

use tertulia_rtp::sequence::low32;

/// Slots of a log that has sent something: two seconds of audio.
const SLOTS_MIN: usize = 64;
/// Most slots: two seconds of 10 Mbit/s in full packets. What is older is forgotten, and feedback about it ignored.
const SLOTS_MAX: usize = 2048;
/// A packet that was not told of for this long never will be: its slot may go to another one.
const FORGOTTEN_US: u64 = 2_000_000;

/// A ring of sent packets by sequence number; it grows while packets wait in it and never shrinks. Times are
/// microseconds of the sender's clock.
#[derive(Debug, Default)]
pub(super) struct SendLog {
    /// A power of two, or nothing before the first packet.
    slots: Vec<Slot>,
    next: u16,
    /// When the last one was sent.
    last_us: u64,
}

/// One sent packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) at_us: u64,
    pub(super) bytes: u16,
    /// The probe it belongs to; 0 is none.
    pub(super) probe: u8,
    pub(super) fate: Fate,
}

/// The same as it is kept: of its time the low half, which is unambiguous for more than an hour.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    at_us: u32,
    sequence: u16,
    bytes: u16,
    probe: u8,
    fate: Fate,
}

/// What is known of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    /// The slot holds no packet.
    #[default]
    Empty,
    /// Nothing yet.
    Pending,
    /// The feedback that covered it was lost; it counts as delivered.
    Presumed,
    Lost,
    Received,
}

impl SendLog {
    /// Logs a packet; returns its sequence number.
    pub(super) fn push(&mut self, at_us: u64, bytes: usize, probe: u8) -> u16 {
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        self.last_us = at_us;
        if self.slots.is_empty() {
            self.slots.resize(SLOTS_MIN, Slot::default());
        }
        let waits = self.slots[self.index(sequence)];
        let is_young = at_us < self.at_us(waits) + FORGOTTEN_US;
        if waits.fate == Fate::Pending && self.slots.len() < SLOTS_MAX && is_young {
            self.grow();
        }
        let index = self.index(sequence);
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.slots[index] = Slot { at_us: low32(at_us), sequence, bytes, probe, fate: Fate::Pending };
        sequence
    }

    /// Notes what became of a packet; returns it as it was before, `None` when it is not in the log or this was known.
    pub(super) fn settle(&mut self, sequence: u16, fate: Fate) -> Option<Sent> {
        if self.slots.is_empty() {
            return None;
        }
        let index = self.index(sequence);
        let slot = &mut self.slots[index];
        let before = *slot;
        let is_news = match before.fate {
            Fate::Pending => true,
            Fate::Presumed => fate != Fate::Presumed,
            Fate::Lost => fate == Fate::Received,
            Fate::Empty | Fate::Received => false,
        };
        if before.sequence != sequence || !is_news {
            return None;
        }
        slot.fate = fate;
        let Slot { bytes, probe, fate, .. } = before;
        Some(Sent { at_us: self.at_us(before), bytes, probe, fate })
    }

    fn at_us(&self, slot: Slot) -> u64 {
        self.last_us.saturating_sub(u64::from(low32(self.last_us).wrapping_sub(slot.at_us)))
    }

    /// Bytes that the log takes.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots.resize(old.len() * 2, Slot::default());
        for sent in old.into_iter().filter(|sent| sent.fate != Fate::Empty) {
            let index = self.index(sent.sequence);
            self.slots[index] = sent;
        }
    }

    fn index(&self, sequence: u16) -> usize {
        usize::from(sequence) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_told_of_once_and_a_lost_one_may_still_come() {
        let mut log = SendLog::default();
        let sequence = log.push(7, 1200, 0);
        assert_eq!(log.settle(sequence, Fate::Lost).unwrap().at_us, 7);
        assert!(log.settle(sequence, Fate::Lost).is_none());
        assert_eq!(log.settle(sequence, Fate::Received).unwrap().fate, Fate::Lost);
        assert!(log.settle(sequence, Fate::Received).is_none());
        assert!(log.settle(sequence.wrapping_add(1), Fate::Received).is_none());
    }

    #[test]
    fn the_ring_grows_while_packets_wait_and_not_for_those_who_answer() {
        let (mut answered, mut waiting) = (SendLog::default(), SendLog::default());
        assert_eq!(answered.footprint(), 0);
        for number in 0..70_000u64 {
            let sequence = answered.push(number * 1000, 1200, 0);
            answered.settle(sequence, Fate::Received).unwrap();
            waiting.push(number * 1000, 1200, 0);
        }
        assert_eq!(answered.footprint(), SLOTS_MIN * 12);
        assert_eq!(waiting.footprint(), SLOTS_MAX * 12);
        let last = waiting.next.wrapping_sub(1);
        assert_eq!(waiting.settle(last.wrapping_sub(2047), Fate::Received).unwrap().at_us, 67_952_000);
        assert!(waiting.settle(last.wrapping_sub(2048), Fate::Received).is_none());
    }
}
