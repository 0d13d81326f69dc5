//! What a sender's stream is missing, and when to ask for it (RFC 4585 §6.2.1).

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_rtp::sequence::SeqNo;

/// Time between two requests for the same packet. The round trip to a sender is not measured, so this is a usual one.
const REPEAT: Duration = Duration::from_millis(80);
/// Requests for one packet before it is given up.
const TRIES_MAX: u8 = 10;
/// A larger gap is not worth filling: a key frame costs less.
const GAP_MAX: usize = 100;

/// The missing packets of one stream, at most [`GAP_MAX`]. A stream that never lost anything costs no memory for it.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    packets: Vec<Packet>,
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    number: SeqNo,
    asked: Option<Instant>,
    tries: u8,
}

/// The gap is too large to ask for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Missing {
    /// Notes everything between the highest number so far and a new highest one.
    pub(crate) fn gap(&mut self, highest: SeqNo, new: SeqNo) -> Result<(), TooMany> {
        for number in highest + 1..new {
            if self.packets.len() >= GAP_MAX {
                self.packets.clear();
                return Err(TooMany);
            }
            self.packets.push(Packet { number, asked: None, tries: 0 });
        }
        Ok(())
    }

    /// A missing packet came.
    pub(crate) fn arrived(&mut self, number: SeqNo) {
        self.packets.retain(|packet| packet.number != number);
    }

    /// Whether something is missing.
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The numbers to ask for now, in rising order; counts them as asked.
    pub(crate) fn due(&mut self, now: Instant) -> ArrayVec<u16, GAP_MAX> {
        self.packets.retain(|packet| packet.tries < TRIES_MAX);
        let is_due = |packet: &Packet| packet.asked.is_none_or(|at| now.saturating_duration_since(at) >= REPEAT);
        let mut due = ArrayVec::new();
        for packet in self.packets.iter_mut().filter(|packet| is_due(packet)) {
            packet.asked = Some(now);
            packet.tries += 1;
            due.push(tertulia_rtp::sequence::low16(packet.number));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_asked_for_at_once_then_in_intervals_then_given_up() {
        let start = Instant::now();
        let mut missing = Missing::default();
        missing.gap(10, 13).unwrap();
        assert_eq!(missing.due(start).as_slice(), [11, 12]);
        assert!(missing.due(start + Duration::from_millis(10)).is_empty());
        missing.arrived(11);
        for n in 1..u32::from(TRIES_MAX) {
            assert_eq!(missing.due(start + REPEAT * n).as_slice(), [12]);
        }
        assert!(missing.due(start + REPEAT * 99).is_empty() && missing.is_empty());
    }

    #[test]
    fn a_huge_gap_is_not_asked_for() {
        let mut missing = Missing::default();
        assert_eq!(missing.gap(1, 200), Err(TooMany));
        assert!(missing.is_empty());
    }
}
