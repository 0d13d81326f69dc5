//! One stream of a source as it comes in: numbering, losses, reception statistics, the cache.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_model::profile::Codec;
use tertulia_rtp::codec::Inspector;
use tertulia_rtp::rtcp::{ReportBlock, SenderInfo};
use tertulia_rtp::sequence::{SeqNo, SequenceExtender};

use crate::cache::{Cache, Cached};
use crate::conference::OVERHEAD;
use crate::nack::Missing;
use crate::rates::Rates;

/// A stream that has been silent for longer is switched off at its sender.
const ACTIVE_FOR: Duration = Duration::from_millis(1_500);
/// A stream that has been silent for longer has nothing to repeat, not even one of a screen on which nothing moves.
const REST_AFTER: Duration = Duration::from_secs(10);
/// What nobody was sent for so long is not asked for again by anybody.
const UNWATCHED_AFTER: Duration = Duration::from_secs(2);
/// A longer round trip is a mistake of somebody's clock.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(7);
/// Sender reports of which a receiver's report may speak: where both keep in step, the next one has always come before the answer to the last.
const SENDER_REPORTS_MAX: usize = 4;
/// Numbers before the highest for which repeats are noticed.
const WINDOW: u64 = 512;
/// How far apart packets may be that wait for one structure: more than a cache holds would be in vain.
const HELD_MAX: u64 = 512;
/// Remembered places where packets were left out on purpose.
const OMISSIONS_MAX: usize = 16;

/// What a packet is, after numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A packet to forward, with its number among those that are forwarded.
    New { number: SeqNo },
    /// Seen before, or too old.
    Repeated,
    /// A gap too large to fill lies before it; it is to be forwarded all the same.
    AfterGap { number: SeqNo },
}

/// One incoming stream.
#[derive(Debug)]
pub(crate) struct Encoding {
    pub(crate) ssrc: u32,
    pub(crate) rtx_ssrc: Option<u32>,
    /// Lines, as read from key frames.
    pub(crate) height: Option<u16>,
    pub(crate) cache: Cache,
    pub(crate) missing: Missing,
    pub(crate) inspector: Inspector,
    pub(crate) rates: Rates,
    /// First and last of the packets that wait for a dependency structure, and perhaps others between them.
    held: Option<(SeqNo, SeqNo)>,
    extender: SequenceExtender,
    /// One bit for each of the last [`WINDOW`] numbers.
    seen: [u64; (WINDOW / 64) as usize],
    /// (first number after an omission, omitted so far), oldest first, at most [`OMISSIONS_MAX`]. Most streams have none.
    omissions: Vec<(SeqNo, u64)>,
    /// Omitted before the oldest that is remembered.
    forgotten: u64,
    last_packet: Option<Instant>,
    /// Whether somebody is sent it, or may be, as far as was looked; and when somebody was last.
    is_watched: bool,
    watched_at: Option<Instant>,
    reception: Reception,
}

impl Encoding {
    pub(crate) fn new(ssrc: u32, rtx_ssrc: Option<u32>) -> Self {
        Self {
            ssrc,
            rtx_ssrc,
            height: None,
            cache: Cache::default(),
            missing: Missing::default(),
            inspector: Inspector::default(),
            rates: Rates::default(),
            held: None,
            extender: SequenceExtender::default(),
            seen: [0; (WINDOW / 64) as usize],
            omissions: Vec::new(),
            forgotten: 0,
            last_packet: None,
            is_watched: false,
            watched_at: None,
            reception: Reception::default(),
        }
    }

    /// Whether its sender sends it at the moment.
    pub(crate) fn is_active(&self, now: Instant) -> bool {
        self.last_packet.is_some_and(|at| now.saturating_duration_since(at) < ACTIVE_FOR)
    }

    /// Whether somebody is sent it, or may be from its next key frame on.
    pub(crate) fn watched(&mut self, now: Instant, is_watched: bool) {
        self.is_watched = is_watched;
        if is_watched {
            self.watched_at = Some(now);
        }
    }

    /// Whether its packets may be asked for again. Where nobody watches they are not: who joins sends all sizes until the bridge says which
    /// are watched, and of two hundred that is much.
    pub(crate) fn is_worth_keeping(&self, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < UNWATCHED_AFTER;
        self.is_watched || self.watched_at.is_some_and(lately)
    }

    /// Gives up the memory for packets when none has come for long, or nobody has watched: whoever had a camera on or was on stage once may
    /// stay for hours. And what bursts took, beyond what it takes to keep packets for `keep`.
    pub(crate) fn rest(&mut self, now: Instant, keep: Duration) {
        let is_over = self.last_packet.is_some_and(|at| now.saturating_duration_since(at) >= REST_AFTER);
        if is_over || (self.cache.has_grown() && !self.is_worth_keeping(now)) {
            self.cache = Cache::default();
        } else {
            self.cache.shrink(now, keep);
        }
    }

    /// A packet came that another shard has numbered.
    pub(crate) fn crossed(&mut self, now: Instant) {
        self.last_packet = Some(now);
    }

    /// Numbers one packet. `repair` says that it came as a retransmission: such do not count as received in time.
    pub(crate) fn arrive(
        &mut self,
        now: Instant,
        sequence: u16,
        timestamp: u32,
        clock_rate: u32,
        repair: bool,
    ) -> Arrival {
        self.last_packet = Some(now);
        let highest = self.extender.highest();
        let number = self.extender.extend(sequence);
        let mut lost_too_much = false;
        match highest {
            Some(highest) if number > highest => {
                self.forget_seen(highest, number);
                lost_too_much = self.missing.gap(highest, number).is_err();
            }
            Some(highest) if highest - number >= WINDOW || self.was_seen(number) => return Arrival::Repeated,
            Some(_) => self.missing.arrived(number),
            None => {}
        }
        self.mark_seen(number);
        if !repair {
            self.reception.packet(now, number, timestamp, clock_rate);
        }
        let number = self.normalised(number);
        if lost_too_much { Arrival::AfterGap { number } } else { Arrival::New { number } }
    }

    /// The packet just numbered is not forwarded: later ones close up, so that receivers see no loss.
    /// Only the newest packet can be omitted; an older one leaves its gap.
    pub(crate) fn omit(&mut self, number: SeqNo) {
        let Some(highest) = self.extender.highest() else { return };
        if self.normalised(highest) != number {
            return;
        }
        let omitted = self.omissions.last().map_or(0, |(_, omitted)| *omitted) + 1;
        match self.omissions.last_mut() {
            Some(last) if last.0 == highest => *last = (highest + 1, omitted),
            _ => {
                if self.omissions.len() >= OMISSIONS_MAX {
                    self.forgotten = self.omissions.remove(0).1;
                }
                self.omissions.push((highest + 1, omitted));
            }
        }
    }

    /// A packet is of no use before a dependency structure comes that is late or lost.
    pub(crate) fn hold(&mut self, number: SeqNo) {
        let (first, last) = self.held.unwrap_or((number, number));
        let last = last.max(number);
        self.held = Some((first.min(number).max(last.saturating_sub(HELD_MAX)), last));
    }

    /// A packet that came, unless nobody knows yet which layer it is of.
    pub(crate) fn readable(&self, number: SeqNo) -> Option<Cached<'_>> {
        self.cache.get(number).filter(|packet| !packet.info.needs_structure)
    }

    /// A dependency structure has come: looks again at the packets that waited, and tells those that can be forwarded now, in order.
    pub(crate) fn release(&mut self, now: Instant, codec: Codec, mut forward: impl FnMut(SeqNo)) {
        let Some((first, last)) = self.held.take() else { return };
        for number in first..=last {
            let Some(packet) = self.cache.get(number).filter(|packet| packet.info.needs_structure) else {
                continue;
            };
            let bytes = packet.payload.len() + OVERHEAD;
            let info = self.inspector.inspect(codec, number, packet.payload, packet.marker, Some(packet.descriptor));
            self.cache.set_info(number, info);
            if info.needs_structure {
                self.hold(number);
                continue;
            }
            self.rates.count(now, &info, bytes);
            forward(number);
        }
    }

    /// The number among forwarded packets.
    fn normalised(&self, number: SeqNo) -> SeqNo {
        let before = self.omissions.iter().rev().find(|(from, _)| *from <= number);
        number - before.map_or(self.forgotten, |(_, omitted)| *omitted)
    }

    /// Notes a sender report, for the next report block and for what receivers say of it.
    pub(crate) fn sender_report(&mut self, now: Instant, info: SenderInfo) {
        let reports = &mut self.reception.sender_reports;
        if reports.is_full() {
            reports.remove(0);
        }
        reports.push((u32::try_from((info.ntp >> 16) & 0xffff_ffff).unwrap_or(0), now));
    }

    /// The round trip to a receiver that reports on this stream, from a sender report that was passed on to it (RFC 3550 §6.4.1).
    pub(crate) fn round_trip(&self, now: Instant, block: &ReportBlock) -> Option<Duration> {
        let mut newest_first = self.reception.sender_reports.iter().rev();
        let (_, at) = newest_first.find(|(middle, _)| *middle == block.last_sr && *middle != 0)?;
        let held = Duration::from_micros(u64::from(block.delay_since_last_sr) * 1_000_000 / 65_536);
        now.saturating_duration_since(*at).checked_sub(held).filter(|rtt| *rtt < ROUND_TRIP_MAX)
    }

    /// What to report to the sender; `None` when nothing came since the last report (RFC 3550 §6.4).
    pub(crate) fn report(&mut self, now: Instant) -> Option<ReportBlock> {
        let highest = self.extender.highest().filter(|_| self.reception.received > self.reception.received_before)?;
        Some(self.reception.report(now, self.ssrc, highest))
    }

    fn was_seen(&self, number: SeqNo) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }

    fn mark_seen(&mut self, number: SeqNo) {
        let (word, bit) = Self::place(number);
        self.seen[word] |= bit;
    }

    fn forget_seen(&mut self, highest: SeqNo, new: SeqNo) {
        if new - highest >= WINDOW {
            self.seen.fill(0);
            return;
        }
        for number in highest + 1..=new {
            let (word, bit) = Self::place(number);
            self.seen[word] &= !bit;
        }
    }

    fn place(number: SeqNo) -> (usize, u64) {
        let at = number % WINDOW;
        (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
    }
}

/// Reception statistics (RFC 3550 §6.4.1, appendix A.3, A.8).
#[derive(Debug, Default)]
struct Reception {
    first: Option<SeqNo>,
    received: u64,
    expected_before: u64,
    received_before: u64,
    /// In clock units, times 16.
    jitter_q4: u64,
    last_transit: Option<i64>,
    start: Option<Instant>,
    /// The middle of the time that each of the last sender reports tells, and when it came; oldest first.
    sender_reports: ArrayVec<(u32, Instant), SENDER_REPORTS_MAX>,
}

impl Reception {
    fn packet(&mut self, now: Instant, number: SeqNo, timestamp: u32, clock_rate: u32) {
        self.first.get_or_insert(number);
        self.received += 1;
        let start = *self.start.get_or_insert(now);
        let micros = u64::try_from(now.saturating_duration_since(start).as_micros()).unwrap_or(0);
        let arrival = (micros * u64::from(clock_rate) / 1_000_000).cast_signed();
        // The timestamp wraps; so does the difference, which is all that counts.
        let transit = arrival - i64::from(timestamp);
        if let Some(last) = self.last_transit {
            let difference = (transit - last).unsigned_abs();
            // A wrapped timestamp shows as a jump of 2³² units: not jitter.
            if difference < u64::from(clock_rate) {
                self.jitter_q4 = self.jitter_q4 + difference - (self.jitter_q4 + 8) / 16;
            }
        }
        self.last_transit = Some(transit);
    }

    fn report(&mut self, now: Instant, ssrc: u32, highest: SeqNo) -> ReportBlock {
        let expected = highest + 1 - self.first.unwrap_or(highest).min(highest);
        let lost = expected.cast_signed() - self.received.cast_signed();
        let expected_now = expected.saturating_sub(self.expected_before);
        let received_now = self.received - self.received_before;
        let lost_now = expected_now.saturating_sub(received_now);
        self.expected_before = expected;
        self.received_before = self.received;
        let fraction = (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255);
        let (last_sr, delay) = self.sender_reports.last().map_or((0, 0), |(middle, at)| {
            let delay = now.saturating_duration_since(*at).as_micros() * 65_536 / 1_000_000;
            (*middle, u32::try_from(delay).unwrap_or(u32::MAX))
        });
        ReportBlock {
            ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(255),
            lost: i32::try_from(lost).unwrap_or(i32::MAX),
            // The extender starts one cycle up.
            highest_sequence: u32::try_from((highest - (1 << 16).min(highest)) & 0xffff_ffff).unwrap_or(0),
            jitter: u32::try_from(self.jitter_q4 / 16).unwrap_or(u32::MAX),
            last_sr,
            delay_since_last_sr: delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Packet;
    use tertulia_rtp::codec::FrameInfo;

    const KEEP: Duration = Duration::from_secs(1);

    fn packet(number: SeqNo, payload: &[u8]) -> Packet<'_> {
        let (info, timestamp) = (FrameInfo::default(), 0);
        Packet { number, marker: true, payload_type: 100, timestamp, info, payload, descriptor: b"" }
    }

    fn arrive(encoding: &mut Encoding, now: Instant, sequence: u16) -> Arrival {
        encoding.arrive(now, sequence, 0, 90_000, false)
    }

    #[test]
    fn repeats_are_noticed_and_losses_asked_for() {
        let now = Instant::now();
        let mut encoding = Encoding::new(1, None);
        let Arrival::New { number: first } = arrive(&mut encoding, now, 10) else { panic!() };
        assert_eq!(arrive(&mut encoding, now, 13), Arrival::New { number: first + 3 });
        assert_eq!(arrive(&mut encoding, now, 13), Arrival::Repeated);
        assert_eq!(encoding.missing.due(now).as_slice(), [11, 12]);
        assert_eq!(arrive(&mut encoding, now, 12), Arrival::New { number: first + 2 });
        assert!(matches!(arrive(&mut encoding, now, 5_000), Arrival::AfterGap { .. }));
    }

    #[test]
    fn omitted_packets_leave_no_gap() {
        let now = Instant::now();
        let mut encoding = Encoding::new(1, None);
        let Arrival::New { number: first } = arrive(&mut encoding, now, 10) else { panic!() };
        for sequence in [11, 12] {
            let Arrival::New { number } = arrive(&mut encoding, now, sequence) else { panic!() };
            encoding.omit(number);
        }
        assert_eq!(arrive(&mut encoding, now, 14), Arrival::New { number: first + 2 });
        assert_eq!(arrive(&mut encoding, now, 13), Arrival::New { number: first + 1 });
        assert_eq!(arrive(&mut encoding, now, 9), Arrival::New { number: first - 1 });
    }

    /// Keeps a packet of AV1 with this descriptor as a conference does; whether it waits.
    fn keep(encoding: &mut Encoding, now: Instant, number: SeqNo, descriptor: &[u8]) -> bool {
        let info = encoding.inspector.inspect(Codec::Av1, number, &[0x10], true, Some(descriptor));
        let (payload, marker, payload_type, timestamp) = (&[0x10][..], true, 41, 0);
        let packet = Packet { number, marker, payload_type, timestamp, info, payload, descriptor };
        encoding.cache.insert(now, Some(KEEP), packet);
        if info.needs_structure {
            encoding.hold(number);
        }
        info.needs_structure
    }

    #[test]
    fn packets_wait_for_the_structure_that_tells_for_whom_they_are() {
        let now = Instant::now();
        let mut encoding = Encoding::new(1, None);
        // Frame 7, template 0; then frame 6 with a structure of one template, whose id is 0.
        assert!(keep(&mut encoding, now, 101, &[0xc0, 0, 7]) && keep(&mut encoding, now, 103, &[0xc0, 0, 9]));
        assert!(!keep(&mut encoding, now, 100, &[0xc0, 0, 6, 0x80, 0, 0b1110_0000]));
        let readable = |encoding: &Encoding| [100, 101, 103].map(|number| encoding.readable(number).is_some());
        assert_eq!(readable(&encoding), [true, false, false], "what waits is nothing yet, though it is there");
        let mut released = Vec::new();
        encoding.release(now, Codec::Av1, |number| released.push(number));
        assert_eq!((released, readable(&encoding)), (vec![101, 103], [true; 3]));
        assert_eq!(encoding.cache.get(103).and_then(|packet| packet.info.frame_number), Some(9));
        encoding.release(now, Codec::Av1, |number| panic!("{number} again"));
    }

    #[test]
    fn packets_are_kept_while_somebody_watches_and_a_little_longer() {
        let start = Instant::now();
        let mut encoding = Encoding::new(1, None);
        assert!(!encoding.is_worth_keeping(start), "nobody ever watched");
        encoding.watched(start, true);
        assert!(encoding.is_worth_keeping(start + 5 * UNWATCHED_AFTER), "after a pause too");
        encoding.watched(start, false);
        for n in 1..=200u64 {
            let now = start + Duration::from_millis(n * 5);
            encoding.cache.insert(now, encoding.is_worth_keeping(now).then_some(KEEP), packet(n, &[7; 1_000]));
        }
        encoding.crossed(start + Duration::from_secs(1));
        encoding.rest(start + UNWATCHED_AFTER / 2, Duration::ZERO);
        assert!(encoding.cache.get(100).is_some() && encoding.cache.has_grown());
        encoding.rest(start + UNWATCHED_AFTER, Duration::ZERO);
        assert!(encoding.cache.get(200).is_none() && !encoding.cache.has_grown());
    }

    #[test]
    fn a_stream_that_rests_keeps_no_packets_and_is_not_reported_on() {
        let (start, later) = (Instant::now(), Instant::now() + REST_AFTER);
        let mut encoding = Encoding::new(1, None);
        let Arrival::New { number } = arrive(&mut encoding, start, 10) else { panic!() };
        encoding.cache.insert(start, Some(KEEP), packet(number, b"x"));
        encoding.rest(start + REST_AFTER / 2, Duration::ZERO);
        assert!(encoding.cache.get(number).is_some() && encoding.report(start).is_some());
        encoding.rest(later, Duration::ZERO);
        assert!(encoding.cache.get(number).is_none() && encoding.report(later).is_none());
        arrive(&mut encoding, later, 11);
        assert!(encoding.report(later).is_some());
    }

    #[test]
    fn a_report_on_an_earlier_sender_report_tells_the_round_trip_and_one_on_an_unknown_one_nothing() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut encoding = Encoding::new(7, None);
        for second in 1..=6u64 {
            let info = SenderInfo { ssrc: 7, ntp: second << 32, rtp_timestamp: 0, packets: 0, octets: 0 };
            encoding.sender_report(at(second * 1_000), info);
        }
        arrive(&mut encoding, start, 10);
        let newest = encoding.report(at(6_000)).unwrap();
        assert_eq!((newest.last_sr, newest.delay_since_last_sr), (6 << 16, 0));
        // The receiver held each for a quarter of a second, and its answer comes 300 ms after the newest one.
        let round_trip = |second: u32, ms| {
            let block = ReportBlock { last_sr: second << 16, delay_since_last_sr: 1 << 14, ..newest };
            encoding.round_trip(at(ms), &block)
        };
        assert_eq!(round_trip(6, 6_300), Some(Duration::from_millis(50)));
        assert_eq!(round_trip(5, 6_300), Some(Duration::from_millis(1_050)));
        assert_eq!(round_trip(3, 6_300), Some(Duration::from_millis(3_050)));
        assert_eq!([0, 2, 7].map(|second| round_trip(second, 6_300)), [None; 3], "none, forgotten, never sent");
        assert_eq!(round_trip(6, 6_200), None, "held for longer than it was there");
    }

    #[test]
    fn a_quarter_lost_is_reported_as_a_quarter() {
        let now = Instant::now();
        let mut encoding = Encoding::new(7, None);
        for sequence in (0..100u16).filter(|n| n % 4 != 1) {
            arrive(&mut encoding, now, sequence);
        }
        let block = encoding.report(now).unwrap();
        assert_eq!((block.lost, block.fraction_lost, block.highest_sequence), (25, 64, 99));
    }
}
