//! One stream as a subscriber sees it: numbers without gaps, frames whole and in time, what to ask for again. Pure.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_rtp::rtcp::ReportBlock;
use tertulia_rtp::sequence::{SeqNo, SequenceExtender, low16};

use crate::payload::Stamp;
use crate::tally::Tally;

/// A frame that is complete later is of no use.
const FRAME_DEADLINE_NS: u64 = 300_000_000;
/// Gaps between frames from which a person notices.
const FREEZE_NS: u64 = 150_000_000;
/// Frames that may be incomplete at once.
const FRAMES: usize = 16;
/// Losses that are asked for; more is a case for a key frame.
const MISSING_MAX: usize = 256;
/// A packet may be late for so long before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(10);
const TRIES: u8 = 10;
/// Between two requests for a key frame.
const KEY_GAP: Duration = Duration::from_millis(500);

/// One packet as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) now: Instant,
    pub(crate) now_ns: u64,
    pub(crate) sent_ns: u64,
    pub(crate) sequence: u16,
    pub(crate) stamp: Stamp,
    /// It came as a retransmission.
    pub(crate) again: bool,
}

/// A run of packets of one encoding: the number on the wire and the sender's differ by a constant.
#[derive(Debug, Clone, Copy)]
struct Segment {
    from: SeqNo,
    encoding: u8,
    shift: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    frame: u32,
    encoding: u8,
    got: u8,
    count: u8,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    number: SeqNo,
    due: Instant,
    tries: u8,
}

/// One subscribed stream.
#[derive(Debug)]
pub(crate) struct Stream {
    owner: u32,
    /// Nothing may get lost, not even the first packets.
    strict: bool,
    extender: SequenceExtender,
    first: SeqNo,
    received: u64,
    reported: (u64, u64),
    segments: ArrayVec<Segment, 4>,
    missing: Vec<Missing>,
    frames: [Frame; FRAMES],
    newest_frame: Option<u32>,
    last_complete_ns: u64,
    last_number: Option<u32>,
    wants_key: bool,
    asked_key: Option<Instant>,
}

impl Stream {
    /// A stream of this person from which nothing has come; `strict` on a network that loses nothing.
    pub(crate) fn new(owner: u32, strict: bool) -> Self {
        Self {
            owner,
            strict,
            extender: SequenceExtender::default(),
            first: SeqNo::MAX,
            received: 0,
            reported: (0, 0),
            segments: ArrayVec::new(),
            missing: Vec::new(),
            frames: [Frame::default(); FRAMES],
            newest_frame: None,
            last_complete_ns: 0,
            last_number: None,
            wants_key: false,
            asked_key: None,
        }
    }

    /// Packets that should have come, and that did.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.extender.highest().map_or(0, |highest| highest + 1 - self.first), self.received)
    }

    /// Whether something is to be asked for.
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.missing.is_empty() || self.wants_key
    }

    /// Takes a packet; returns whether it completes a frame (sound is always complete).
    pub(crate) fn handle(&mut self, packet: Arrived, tally: &mut Tally) -> bool {
        let Arrived { now, stamp, .. } = packet;
        if stamp.source != self.owner {
            tally.violation("a packet under somebody else's SSRC");
            return false;
        }
        let before = self.extender.highest();
        let number = self.extender.extend(packet.sequence);
        self.first = self.first.min(number);
        match before {
            Some(highest) if number > highest => self.note_gap(now, highest, number),
            Some(_) if packet.again => {
                let known = self.missing.len();
                self.missing.retain(|missing| missing.number != number);
                if self.missing.len() == known {
                    tally.probes += 1;
                    return false; // it had come, or was given up
                }
                tally.recovered += 1;
            }
            Some(_) => {
                self.missing.retain(|missing| missing.number != number);
                tally.reordered += 1;
            }
            None => {}
        }
        self.received += 1;
        if stamp.encoding == Stamp::AUDIO {
            self.check_sound(before, number, stamp, tally);
            return true;
        }
        let starts = self.check_place(before, number, stamp, tally);
        self.check_frame(packet, starts, tally)
    }

    /// What to ask for again, in rising order.
    pub(crate) fn losses(&mut self, now: Instant, retry: Duration) -> ArrayVec<u16, 64> {
        let mut due = ArrayVec::new();
        for missing in &mut self.missing {
            if missing.due <= now && !due.is_full() {
                missing.due = now + retry;
                missing.tries += 1;
                if missing.tries <= TRIES {
                    due.push(low16(missing.number));
                }
            }
        }
        let known = self.missing.len();
        self.missing.retain(|missing| missing.tries <= TRIES);
        self.wants_key |= self.missing.len() < known;
        due
    }

    /// Whether to ask for a key frame now.
    pub(crate) fn wants_key(&mut self, now: Instant) -> bool {
        let due = self.wants_key && self.asked_key.is_none_or(|at| now.saturating_duration_since(at) >= KEY_GAP);
        if due {
            self.asked_key = Some(now);
        }
        due
    }

    /// A reception report (RFC 3550 §6.4.1), without jitter.
    pub(crate) fn report(&mut self, ssrc: u32) -> ReportBlock {
        let (expected, received) = self.counts();
        let (expected_now, received_now) = (expected - self.reported.0.min(expected), received - self.reported.1);
        self.reported = (expected, received);
        let fraction = (expected_now.saturating_sub(received_now) * 256).checked_div(expected_now).unwrap_or(0);
        ReportBlock {
            ssrc,
            fraction_lost: fraction.min(255) as u8,
            lost: i32::try_from(expected.cast_signed() - received.cast_signed()).unwrap_or(i32::MAX),
            highest_sequence: (self.extender.highest().unwrap_or(0) & 0xffff_ffff) as u32,
            ..ReportBlock::default()
        }
    }

    fn note_gap(&mut self, now: Instant, highest: SeqNo, number: SeqNo) {
        if number - highest > MISSING_MAX as u64 {
            self.missing.clear();
            self.wants_key = true;
            return;
        }
        for number in highest + 1..number {
            if self.missing.len() < MISSING_MAX {
                self.missing.push(Missing { number, due: now + PATIENCE, tries: 0 });
            }
        }
    }

    /// Sound: the bridge leaves lasting silence out, so numbers close up; they never go back.
    fn check_sound(&mut self, before: Option<SeqNo>, number: SeqNo, stamp: Stamp, tally: &mut Tally) {
        if before.is_none_or(|before| number > before) {
            if self.last_number.is_some_and(|last| stamp.number <= last) {
                tally.violation("sound goes back in time");
            }
            self.last_number = Some(stamp.number);
        }
        self.missing.clear(); // is not asked for
    }

    /// Pictures: within a segment both numbers rise together; a new one starts with a key frame. Returns whether one
    /// starts here.
    fn check_place(&mut self, before: Option<SeqNo>, number: SeqNo, stamp: Stamp, tally: &mut Tally) -> bool {
        let shift = number.wrapping_sub(u64::from(stamp.number));
        let place = self.segments.iter().rev().find(|segment| segment.from <= number);
        if place.is_some_and(|segment| segment.encoding == stamp.encoding && segment.shift == shift) {
            self.wants_key &= !stamp.key;
            return false;
        }
        let next = before.map_or(self.strict, |before| number == before + 1);
        if next && !(stamp.key && stamp.index == 0) {
            tally.violation("an encoding starts without a key frame, or out of place");
        }
        if before.is_none_or(|before| number > before) {
            if self.segments.is_full() {
                self.segments.remove(0);
            }
            let from = number - u64::from(if stamp.key { stamp.index } else { 0 });
            self.segments.push(Segment { from, encoding: stamp.encoding, shift });
        }
        self.wants_key = !stamp.key;
        true
    }

    fn check_frame(&mut self, packet: Arrived, starts: bool, tally: &mut Tally) -> bool {
        let stamp = packet.stamp;
        match self.newest_frame {
            Some(newest) if stamp.frame <= newest => {}
            Some(newest) if !starts => tally.frames += u64::from(stamp.frame - newest),
            _ => tally.frames += 1,
        }
        self.newest_frame = Some(self.newest_frame.map_or(stamp.frame, |newest| newest.max(stamp.frame)));
        let slot = &mut self.frames[stamp.frame as usize % FRAMES];
        if (slot.frame, slot.encoding) != (stamp.frame, stamp.encoding) || slot.count == 0 {
            if slot.frame > stamp.frame {
                return false;
            }
            *slot = Frame { frame: stamp.frame, encoding: stamp.encoding, got: 0, count: stamp.count };
        }
        slot.got += 1;
        if slot.got != slot.count {
            return false;
        }
        let took = packet.now_ns.saturating_sub(packet.sent_ns);
        tally.frames_complete += 1;
        tally.frames_on_time += u64::from(took <= FRAME_DEADLINE_NS);
        let gap = packet.now_ns.saturating_sub(self.last_complete_ns);
        if self.last_complete_ns > 0 && gap > FREEZE_NS {
            tally.freezes.record(gap / 1_000_000);
        }
        self.last_complete_ns = packet.now_ns;
        true
    }

    /// The publishers paused: the time until the next frame is nobody's fault.
    pub(crate) fn forget_time(&mut self) {
        self.last_complete_ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        stream: Stream,
        tally: Tally,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { stream: Stream::new(7, true), tally: Tally::default(), now: Instant::now() }
        }

        fn arrive(&mut self, sequence: u16, encoding: u8, number: u32, key: bool, again: bool) -> bool {
            let stamp = Stamp { source: 7, encoding, index: 0, count: 1, key, frame: number, number };
            let packet = Arrived { now: self.now, now_ns: 5, sent_ns: 1, sequence, stamp, again };
            self.stream.handle(packet, &mut self.tally)
        }
    }

    #[test]
    fn a_switch_with_a_key_frame_is_in_order_and_one_without_is_not() {
        let mut world = World::new();
        assert!(world.arrive(65_535, 0, 1, true, false));
        world.arrive(0, 0, 2, false, false);
        world.arrive(1, 2, 90, true, false);
        world.arrive(2, 2, 91, false, false);
        assert!(world.tally.violations.is_empty(), "{:?}", world.tally.violations);
        assert_eq!((world.stream.counts(), world.tally.frames_on_time), ((4, 4), 4));
        world.arrive(3, 1, 50, false, false);
        assert_eq!(world.tally.violations.len(), 1);
    }

    #[test]
    fn a_packet_in_anothers_place_is_a_violation() {
        let mut world = World::new();
        world.arrive(10, 0, 1, true, false);
        world.arrive(11, 0, 5, false, false);
        assert_eq!(world.tally.violations.len(), 1);
    }

    #[test]
    fn losses_are_asked_for_until_they_come() {
        let mut world = World::new();
        world.arrive(10, 0, 1, true, false);
        world.arrive(13, 0, 4, false, false);
        let retry = Duration::from_millis(50);
        assert!(world.stream.losses(world.now, retry).is_empty(), "they may only be late");
        world.now += PATIENCE;
        assert_eq!(world.stream.losses(world.now, retry).as_slice(), [11, 12]);
        world.arrive(11, 0, 2, false, true);
        world.arrive(11, 0, 2, false, true);
        world.now += retry;
        assert_eq!(world.stream.losses(world.now, retry).as_slice(), [12]);
        assert_eq!((world.tally.recovered, world.tally.probes, world.stream.counts()), (1, 1, (4, 3)));
        assert!(world.tally.violations.is_empty());
    }

    #[test]
    fn what_never_comes_needs_a_key_frame() {
        let mut world = World::new();
        world.arrive(10, 0, 1, true, false);
        world.arrive(12, 0, 3, false, false);
        for _ in 0..=TRIES {
            world.now += Duration::from_secs(1);
            world.stream.losses(world.now, Duration::from_millis(50));
        }
        assert!(world.stream.wants_key(world.now) && !world.stream.wants_key(world.now));
        world.arrive(13, 0, 4, true, false);
        assert!(!world.stream.is_incomplete());
    }
}
