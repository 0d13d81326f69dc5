//! One source on its way to one receiver: which encoding, and how its numbers continue over switches.

use std::time::Instant;

use arrayvec::ArrayVec;
use tertulia_rtp::sequence::{SeqNo, low16};

use crate::egress::EndpointKey;

/// Remembered segments: retransmissions are asked for within a second or two of a switch.
const SEGMENTS_MAX: usize = 4;
/// Recently repeated packets, to answer each request once a round trip.
const RESENT_MAX: usize = 32;
/// A repeat is not repeated sooner, whatever is asked.
const RESEND_GAP_MS: u128 = 30;
/// How many key frames a receiver may ask of one source in [`PLI_WINDOW_MS`].
const PLIS_MAX: usize = 3;
const PLI_WINDOW_MS: u128 = 10_000;

/// A run of packets of one encoding under constant shifts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) encoding: usize,
    from_in: SeqNo,
    from_out: SeqNo,
    pub(crate) timestamp_by: u32,
    pub(crate) picture_id_by: u16,
    pub(crate) tl0_by: u8,
}

/// What varies per packet of the stream; VP8 fields are 0 for other codecs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Numbers {
    pub(crate) timestamp: u32,
    pub(crate) picture_id: Option<u16>,
    pub(crate) tl0: Option<u8>,
}

/// A packet as a subscription sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming {
    pub(crate) encoding: usize,
    /// Among the packets of its encoding.
    pub(crate) number: SeqNo,
    pub(crate) numbers: Numbers,
    /// Whether a receiver can start with it: any sound, and the first packet of a key frame.
    pub(crate) may_start: bool,
    pub(crate) clock_rate: u32,
}

/// A packet's place in the outgoing stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Projected {
    pub(crate) sequence: u16,
    pub(crate) segment: Segment,
}

/// The outgoing side of one (source, receiver).
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) receiver: EndpointKey,
    /// The receiver's limit in lines: −1 none, 0 off.
    pub(crate) max_height: i32,
    /// The encoding that should be forwarded.
    pub(crate) target: Option<usize>,
    segments: ArrayVec<Segment, SEGMENTS_MAX>,
    /// Whether the last segment is going on.
    flowing: bool,
    highest_out: SeqNo,
    last_out: Numbers,
    last_at: Option<Instant>,
    rtx_sequence: u16,
    pub(crate) packets: u32,
    pub(crate) octets: u32,
    resent: ArrayVec<(SeqNo, Instant), RESENT_MAX>,
    plis: ArrayVec<Instant, PLIS_MAX>,
}

impl Subscription {
    /// `first_sequence` is where the outgoing numbers start.
    pub(crate) fn new(receiver: EndpointKey, first_sequence: u16) -> Self {
        Self {
            receiver,
            max_height: 0,
            target: None,
            segments: ArrayVec::new(),
            flowing: false,
            highest_out: SeqNo::from(first_sequence) + (1 << 16),
            last_out: Numbers::default(),
            last_at: None,
            rtx_sequence: first_sequence,
            packets: 0,
            octets: 0,
            resent: ArrayVec::new(),
            plis: ArrayVec::new(),
        }
    }

    /// The encoding whose packets go out at the moment.
    pub(crate) fn current(&self) -> Option<usize> {
        self.segments.last().filter(|_| self.flowing).map(|segment| segment.encoding)
    }

    /// The segment going on.
    pub(crate) fn segment(&self) -> Option<Segment> {
        self.segments.last().copied().filter(|_| self.flowing)
    }

    /// Sets what should be forwarded. `None` stops at once; anything else goes on until a key frame allows the switch.
    pub(crate) fn aim(&mut self, target: Option<usize>) {
        self.target = target;
        if target.is_none() {
            self.flowing = false;
        }
    }

    /// Whether a key frame of the target is being waited for.
    pub(crate) fn awaits_keyframe(&self) -> Option<usize> {
        self.target.filter(|target| self.current() != Some(*target))
    }

    /// Decides on one packet.
    pub(crate) fn project(&mut self, now: Instant, packet: Incoming) -> Option<Projected> {
        let target = self.target?;
        if self.current() != Some(packet.encoding) {
            let towards = match self.current() {
                None => packet.encoding <= target,
                Some(current) => packet.encoding == target || (packet.encoding < target && packet.encoding > current),
            };
            // A key frame that was repaired late may lie before what went out already: starting there would go back in time.
            let is_old = self.newest_sent_of(packet.encoding).is_some_and(|newest| packet.number <= newest);
            if !towards || !packet.may_start || is_old {
                return None;
            }
            self.start_segment(now, packet);
        }
        let numbers = packet.numbers;
        let segment = *self.segments.last()?;
        let out = segment.from_out + packet.number.checked_sub(segment.from_in)?;
        if out > self.highest_out || self.last_at.is_none() {
            self.highest_out = out;
            self.last_out = Numbers {
                timestamp: numbers.timestamp.wrapping_add(segment.timestamp_by),
                picture_id: numbers.picture_id.map(|id| id.wrapping_add(segment.picture_id_by) & 0x7fff),
                tl0: numbers.tl0.map(|tl0| tl0.wrapping_add(segment.tl0_by)),
            };
            self.last_at = Some(now);
        }
        Some(Projected { sequence: low16(out), segment })
    }

    /// Finds what went out under a sequence number; `None` when it is unknown or was repeated a moment ago.
    pub(crate) fn lookup(&mut self, now: Instant, sequence: u16) -> Option<(Segment, SeqNo)> {
        let behind = low16(self.highest_out).wrapping_sub(sequence);
        let out = self.highest_out.checked_sub(SeqNo::from(behind)).filter(|_| behind < 0x8000)?;
        self.resent.retain(|(_, at)| now.saturating_duration_since(*at).as_millis() < RESEND_GAP_MS);
        if self.resent.iter().any(|(known, _)| *known == out) {
            return None;
        }
        let segment = *self.segments.iter().rev().find(|segment| segment.from_out <= out)?;
        if self.resent.is_full() {
            self.resent.remove(0);
        }
        self.resent.push((out, now));
        Some((segment, segment.from_in + (out - segment.from_out)))
    }

    /// The highest number so far, or of the retransmission stream if that is further on: both start at one number.
    pub(crate) fn last_sequence(&self) -> u16 {
        let main = low16(self.highest_out);
        if self.rtx_sequence.wrapping_sub(main) < 0x8000 { self.rtx_sequence } else { main }
    }

    /// The next number of the retransmission stream.
    pub(crate) fn next_rtx_sequence(&mut self) -> u16 {
        self.rtx_sequence = self.rtx_sequence.wrapping_add(1);
        self.rtx_sequence
    }

    /// Counts a receiver's request for a key frame; `false` when it asks too often.
    pub(crate) fn may_ask_keyframe(&mut self, now: Instant) -> bool {
        self.plis.retain(|at| now.saturating_duration_since(*at).as_millis() < PLI_WINDOW_MS);
        self.plis.try_push(now).is_ok()
    }

    /// The newest packet of an encoding that went out, as far as segments are remembered.
    fn newest_sent_of(&self, encoding: usize) -> Option<SeqNo> {
        let ends = self.segments.iter().skip(1).map(|next| next.from_out - 1).chain([self.highest_out]);
        let sent = self.segments.iter().zip(ends).filter(|(segment, _)| segment.encoding == encoding);
        sent.map(|(segment, end)| segment.from_in + (end - segment.from_out)).max()
    }

    /// Numbers go on by one; time by the wall clock, at least by one frame; picture ids by one.
    fn start_segment(&mut self, now: Instant, packet: Incoming) {
        let Incoming { encoding, number: from_in, numbers, clock_rate, .. } = packet;
        let (mut timestamp_by, mut picture_id_by, mut tl0_by) = (0, 0, 0);
        if let Some(last_at) = self.last_at {
            let elapsed = now.saturating_duration_since(last_at).as_micros() * u128::from(clock_rate) / 1_000_000;
            let step = u32::try_from(elapsed).unwrap_or(u32::MAX).max(clock_rate / 60);
            timestamp_by = self.last_out.timestamp.wrapping_add(step).wrapping_sub(numbers.timestamp);
            if let (Some(last), Some(own)) = (self.last_out.picture_id, numbers.picture_id) {
                picture_id_by = last.wrapping_add(1).wrapping_sub(own) & 0x7fff;
            }
            if let (Some(last), Some(own)) = (self.last_out.tl0, numbers.tl0) {
                tl0_by = last.wrapping_add(1).wrapping_sub(own);
            }
        }
        if self.segments.is_full() {
            self.segments.remove(0);
        }
        let from_out = self.highest_out + 1;
        self.segments.push(Segment { encoding, from_in, from_out, timestamp_by, picture_id_by, tl0_by });
        self.flowing = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const KEY: bool = true;
    const DELTA: bool = false;

    fn packet(encoding: usize, number: SeqNo, numbers: Numbers, may_start: bool) -> Incoming {
        Incoming { encoding, number, numbers, may_start, clock_rate: 90_000 }
    }

    fn numbers(timestamp: u32, picture_id: u16) -> Numbers {
        Numbers { timestamp, picture_id: Some(picture_id), tl0: Some(1) }
    }

    #[test]
    fn a_switch_waits_for_a_key_frame_and_continues_all_numbers() {
        let start = Instant::now();
        let mut subscription = Subscription::new(EndpointKey(1), 100);
        subscription.aim(Some(0));
        let send = |s: &mut Subscription, ms, enc, n, ts, id, info| {
            s.project(start + Duration::from_millis(ms), packet(enc, n, numbers(ts, id), info))
        };
        assert!(send(&mut subscription, 0, 0, 1_000, 5_000, 7, DELTA).is_none());
        let first = send(&mut subscription, 0, 0, 1_001, 5_000, 8, KEY).unwrap();
        assert_eq!(first.sequence, 101);
        subscription.aim(Some(2));
        assert_eq!(send(&mut subscription, 33, 0, 1_002, 8_000, 9, DELTA).unwrap().sequence, 102);
        assert!(send(&mut subscription, 40, 2, 50, 99, 500, DELTA).is_none());
        let switched = send(&mut subscription, 66, 2, 51, 100, 501, KEY).unwrap();
        assert_eq!(switched.sequence, 103);
        assert_eq!(100u32.wrapping_add(switched.segment.timestamp_by), 8_000 + 33 * 90);
        assert_eq!(501u16.wrapping_add(switched.segment.picture_id_by) & 0x7fff, 10);
        assert!(send(&mut subscription, 67, 0, 1_003, 11_000, 10, DELTA).is_none(), "the old encoding is over");
        assert!(send(&mut subscription, 67, 2, 49, 90, 499, DELTA).is_none(), "from before the switch");
        let (segment, number) = subscription.lookup(start, 102).unwrap();
        assert_eq!((segment.encoding, number), (0, 1_002));
        assert!(subscription.lookup(start, 102).is_none(), "repeated a moment ago");
        assert!(subscription.lookup(start, 500).is_none(), "never sent");
    }

    #[test]
    fn stopping_is_immediate_and_starting_again_needs_a_key_frame() {
        let now = Instant::now();
        let mut subscription = Subscription::new(EndpointKey(1), 0);
        subscription.aim(Some(0));
        subscription.project(now, packet(0, 10, numbers(0, 0), KEY)).unwrap();
        subscription.aim(None);
        assert!(subscription.project(now, packet(0, 11, numbers(0, 0), KEY)).is_none());
        subscription.aim(Some(0));
        assert_eq!(subscription.awaits_keyframe(), Some(0));
        assert!(subscription.project(now, packet(0, 12, numbers(0, 0), DELTA)).is_none());
        assert_eq!(subscription.project(now, packet(0, 13, numbers(0, 0), KEY)).unwrap().sequence, 2);
    }

    #[test]
    fn a_key_frame_from_before_the_pause_is_no_place_to_start_again() {
        let now = Instant::now();
        let mut subscription = Subscription::new(EndpointKey(1), 0);
        subscription.aim(Some(1));
        subscription.project(now, packet(0, 10, numbers(0, 0), KEY)).unwrap();
        subscription.project(now, packet(0, 15, numbers(5, 5), DELTA)).unwrap();
        subscription.project(now, packet(1, 70, numbers(6, 6), KEY)).unwrap();
        subscription.aim(None);
        subscription.aim(Some(0));
        assert!(subscription.project(now, packet(0, 14, numbers(4, 4), KEY)).is_none(), "repaired late");
        assert!(subscription.project(now, packet(0, 15, numbers(5, 5), KEY)).is_none());
        assert_eq!(subscription.project(now, packet(0, 16, numbers(7, 7), KEY)).unwrap().sequence, 8);
    }

    #[test]
    fn late_packets_fill_their_own_place() {
        let now = Instant::now();
        let mut subscription = Subscription::new(EndpointKey(1), 0);
        subscription.aim(Some(0));
        subscription.project(now, packet(0, 10, numbers(0, 0), KEY)).unwrap();
        assert_eq!(subscription.project(now, packet(0, 12, numbers(9, 1), DELTA)).unwrap().sequence, 3);
        assert_eq!(subscription.project(now, packet(0, 11, numbers(0, 0), DELTA)).unwrap().sequence, 2);
        assert_eq!(subscription.project(now, packet(0, 13, numbers(9, 1), DELTA)).unwrap().sequence, 4);
    }

    #[test]
    fn a_receiver_may_ask_three_times_in_ten_seconds() {
        let now = Instant::now();
        let mut subscription = Subscription::new(EndpointKey(1), 0);
        let asked = (0..10).filter(|n| subscription.may_ask_keyframe(now + Duration::from_secs(*n))).count();
        assert_eq!(asked, 3);
        assert!(subscription.may_ask_keyframe(now + Duration::from_secs(11)));
    }
}
