//! What is received, judged: frames put together and "decoded", and every broken promise of a bridge written down.
//!
//! A frame decodes as soon as all its packets and all that it needs are there: [`references`] concludes from the headers what that is, as a
//! browser does, and the stamps say whether that is true. What can never be right whatever the network loses is a violation, and so is a
//! frame that does not decode although no sequence number is missing since the last key frame.

mod carried;
mod references;
mod report;
mod sound;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tertulia_model::profile::Codec;
use tertulia_model::{EndpointId, SourceName};

use crate::clock::Clock;
use crate::coding::{self, HEIGHTS, Meta, Received};
use crate::stamp::{Stamp, source_hash};
use carried::Carried;
use references::{FrameId, Headers, Needs, References};

pub use report::{AudioReport, Shown, VideoReport};
pub(crate) use sound::AudioReceiver;

/// How long a hole is waited for before a key frame is asked for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Shortest gap between two requests for a key frame.
const REQUEST_GAP: Duration = Duration::from_millis(500);
/// How long a frame is kept that newer ones have overtaken.
const KEPT: Duration = Duration::from_secs(1);
/// Frames that are put together at once.
const FRAMES_MAX: usize = 256;
/// Sequence numbers remembered to find repetitions and holes.
const REMEMBERED: u64 = 2_048;

/// One received video source.
#[derive(Debug)]
pub(crate) struct VideoReceiver {
    pub(crate) report: VideoReport,
    carried: Carried,
    codec: Option<Codec>,
    packets: BTreeMap<u64, Seen>,
    highest: Option<u64>,
    holes: BTreeSet<u64>,
    /// Numbers of packets of nothing but padding.
    padding: BTreeSet<u64>,
    /// Frames that are not whole, or wait for others; by first sequence number.
    pending: BTreeMap<u64, Assembly>,
    /// Whole frames, decoded or not, to be held against their neighbours.
    whole: BTreeMap<u64, Whole>,
    references: References,
    decoded: BTreeSet<FrameId>,
    /// The same by descriptors, where they come beside what payloads tell: a frame has to be right for browsers of both kinds.
    described: (References, BTreeSet<FrameId>),
    /// What was decoded by the word of the stamps: source, encoding, picture, spatial layer.
    truly_decoded: BTreeSet<(u32, u8, u32, u8)>,
    /// First sequence number of the newest key frame that was decoded.
    start: Option<u64>,
    /// Last sequence number of the newest picture that was decoded to the top.
    newest: Option<u64>,
    waiting_since: Option<Instant>,
    requested: Option<Instant>,
}

/// A received packet of video; sequence number and timestamp are free of roll-over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VideoArrival<'a> {
    pub(crate) codec: Codec,
    pub(crate) sequence: u64,
    pub(crate) timestamp: u64,
    pub(crate) marker: bool,
    pub(crate) payload: &'a [u8],
    pub(crate) descriptor: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Source, encoding, picture, spatial layer, place.
    identity: (u32, u8, u32, u8, u8),
    timestamp: u64,
    marker: bool,
    key: bool,
}

#[derive(Debug)]
struct Assembly {
    stamp: Stamp,
    have: Vec<bool>,
    timestamp: u64,
    /// Of the last packet.
    marker: bool,
    key: bool,
    /// Of the first packet.
    meta: Option<Meta>,
    id: Option<FrameId>,
    needs: Option<Vec<FrameId>>,
    /// Of the first packet, and what it says.
    described: Option<Meta>,
    described_needs: Option<(FrameId, Vec<FrameId>)>,
    arrived: Instant,
    /// Written down already.
    stalled: bool,
}

#[derive(Debug, Clone)]
struct Whole {
    last: u64,
    stamp: Stamp,
    timestamp: u64,
    key: bool,
    meta: Meta,
    id: FrameId,
}

impl VideoReceiver {
    /// Of a stream that is one source's for ever.
    pub(crate) fn new(source: SourceName, owner: EndpointId) -> Self {
        let mut receiver = Self::changing(VideoReport::new(source, owner));
        receiver.carried = Carried::always(receiver.carried.present());
        receiver
    }

    /// Of a stream that carries one source after the other: how the first fared so far.
    pub(crate) fn changing(report: VideoReport) -> Self {
        Self {
            carried: Carried::changing(source_hash(&report.source)),
            codec: None,
            report,
            packets: BTreeMap::new(),
            highest: None,
            holes: BTreeSet::new(),
            padding: BTreeSet::new(),
            pending: BTreeMap::new(),
            whole: BTreeMap::new(),
            references: References::default(),
            decoded: BTreeSet::new(),
            described: Default::default(),
            truly_decoded: BTreeSet::new(),
            start: None,
            newest: None,
            waiting_since: None,
            requested: None,
        }
    }

    /// Another source comes under this SSRC from now on. It has to go on where the one before stops, with a key frame. Returns how that
    /// one fared.
    pub(crate) fn change_source(&mut self, now: Instant, report: VideoReport) -> VideoReport {
        let next = source_hash(&report.source);
        let before = self.carried.change(next);
        self.truly_decoded.retain(|(source, ..)| [before, next].contains(source));
        // The picture is a new one: whatever was waited for does not matter.
        (self.waiting_since, self.requested) = (None, Some(now));
        std::mem::replace(&mut self.report, report)
    }

    /// Takes a packet.
    pub(crate) fn handle(&mut self, now: Instant, clock: Clock, packet: VideoArrival<'_>) {
        self.report.packets += 1;
        let sequence = packet.sequence;
        self.note_sequence(sequence);
        if packet.payload.is_empty() {
            // Only its number counts, and that to those alone who know frames by the numbers of their packets.
            if packet.codec == Codec::H264 {
                self.padding.insert(sequence);
                self.padding = self.padding.split_off(&sequence.saturating_sub(REMEMBERED));
                self.pass_padding(sequence - 1);
                self.decode(now, clock);
            }
            return;
        }
        let Some(received) = coding::read(packet.codec, packet.payload, packet.descriptor) else {
            return self.report.violation(format!("packet {sequence} is damaged"));
        };
        let stamp = received.stamp;
        if !self.carried.allows(now, stamp.source) {
            return self.report.violation(format!("packet {sequence} is of another source"));
        }
        if self.codec != Some(packet.codec) && self.highest == Some(sequence) {
            // Another decoder: what this one knew does not help it.
            self.codec = Some(packet.codec);
            self.references = References::default();
            self.decoded.clear();
            self.described = Default::default();
        }
        if self.is_new(packet, &received) {
            self.assemble(now, packet, received);
            self.decode(now, clock);
        }
    }

    /// Whether a key frame has to be asked for now.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> bool {
        let overdue = self.waiting_since.is_some_and(|since| now >= since + PATIENCE);
        if !overdue || self.requested.is_some_and(|at| now < at + REQUEST_GAP) {
            return false;
        }
        self.requested = Some(now);
        self.report.key_requests += 1;
        true
    }

    /// When [`VideoReceiver::on_timeout`] next has work to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let due = self.waiting_since? + PATIENCE;
        Some(self.requested.map_or(due, |at| due.max(at + REQUEST_GAP)))
    }

    fn note_sequence(&mut self, sequence: u64) {
        match self.highest {
            Some(highest) if sequence > highest => {
                let first = (highest + 1).max(sequence.saturating_sub(REMEMBERED));
                self.holes.extend(first..sequence);
                self.report.missing += sequence - first;
                self.highest = Some(sequence);
                self.holes = self.holes.split_off(&sequence.saturating_sub(REMEMBERED));
            }
            // What fills a hole may belong to a source that the report is not of any more.
            Some(_) => {
                let filled = u64::from(self.holes.remove(&sequence));
                self.report.missing = self.report.missing.saturating_sub(filled);
            }
            None => self.highest = Some(sequence),
        }
    }

    /// Holds a packet against its neighbours; `false` for one that was there before.
    fn is_new(&mut self, packet: VideoArrival<'_>, received: &Received) -> bool {
        let VideoArrival { sequence, timestamp, marker, .. } = packet;
        let stamp = received.stamp;
        let identity = (stamp.source, stamp.encoding, stamp.frame, stamp.spatial, stamp.index);
        let seen = Seen { identity, timestamp, marker, key: received.key };
        if let Some(before) = self.packets.insert(sequence, seen) {
            if before.identity != identity {
                self.report.violation(format!("two packets have the number {sequence}"));
            }
            return false;
        }
        let before = self.packets.range(..sequence).next_back().map(|(number, seen)| (*number, *seen));
        let after = self.packets.range(sequence + 1..).next().map(|(number, seen)| (*number, *seen));
        for (earlier, later) in [(before, Some((sequence, seen))), (Some((sequence, seen)), after)] {
            let Some(((number, earlier), (next, later))) = earlier.zip(later) else { continue };
            if earlier.timestamp > later.timestamp {
                self.report.violation(format!("the timestamp of packet {next} runs backwards"));
            }
            let same = earlier.timestamp == later.timestamp;
            // What was cut off by a switch needs no end: the key frame behind it is a beginning whatever was before.
            let is_cut_off = later.key && !earlier.marker;
            if number + 1 == next && earlier.identity.0 != later.identity.0 && !later.key {
                self.report.violation(format!("packet {next} changes the source without a key frame"));
            }
            if number + 1 == next && same == earlier.marker && !is_cut_off {
                let what = if same { "comes too early" } else { "is missing" };
                self.report.violation(format!("the marker {what} at packet {number}"));
            }
        }
        while self.packets.first_key_value().is_some_and(|(first, _)| first + REMEMBERED < sequence) {
            self.packets.pop_first();
        }
        let (starts, ends) = (stamp.index == 0, stamp.index + 1 == stamp.count);
        if received.starts != starts || received.ends.is_some_and(|said| said != ends) {
            self.report.violation(format!("packet {sequence} does not say where its frame starts and ends"));
        }
        true
    }

    fn assemble(&mut self, now: Instant, packet: VideoArrival<'_>, received: Received) {
        let stamp = received.stamp;
        let Some(first) = packet.sequence.checked_sub(u64::from(stamp.index)) else { return };
        if self.whole.contains_key(&first) {
            return;
        }
        let frame = self.pending.entry(first).or_insert_with(|| Assembly {
            stamp,
            have: vec![false; usize::from(stamp.count)],
            timestamp: packet.timestamp,
            marker: false,
            key: false,
            meta: None,
            id: None,
            needs: None,
            described: None,
            described_needs: None,
            arrived: now,
            stalled: false,
        });
        let same = Stamp { index: frame.stamp.index, ..stamp } == frame.stamp && packet.timestamp == frame.timestamp;
        if let Some(have) = frame.have.get_mut(usize::from(stamp.index)) {
            *have = true;
        }
        frame.key |= received.key;
        frame.marker |= packet.marker;
        let fits = match (&frame.meta, &received.meta) {
            (Some(Meta::Vp8 { picture_id, tl0, .. }), Meta::Vp8 { picture_id: own, tl0: own_tl0, .. }) => {
                (picture_id, tl0) == (own, own_tl0)
            }
            (Some(Meta::Vp9 { picture_id, spatial, .. }), Meta::Vp9 { picture_id: own, spatial: own_spatial, .. }) => {
                (picture_id, spatial) == (own, own_spatial)
            }
            (Some(Meta::Described(bytes)), Meta::Described(own)) => bytes.get(1..3) == own.get(1..3),
            _ => true,
        };
        if stamp.index == 0 || frame.meta.is_none() {
            frame.meta = Some(received.meta);
            frame.described = received.described;
        }
        if !same || !fits {
            self.report.violation(format!("packet {} does not fit the others of its frame", packet.sequence));
        }
        if self.pending.get(&first).is_some_and(Assembly::is_whole) {
            self.complete(first);
        }
        while self.pending.len() > FRAMES_MAX {
            self.pending.pop_first();
        }
    }

    /// A frame is whole: holds it against those directly before and after it.
    fn complete(&mut self, first: u64) {
        let Some(frame) = self.pending.get_mut(&first) else { return };
        let last = first + frame.have.len() as u64 - 1;
        let Some(meta) = frame.meta.clone() else { return };
        let headers = Headers { meta: &meta, key: frame.key, first_sequence: first, last_sequence: last };
        let Some(id) = self.references.id(&headers) else { return };
        frame.id = Some(id);
        let whole = Whole { last, stamp: frame.stamp, timestamp: frame.timestamp, key: frame.key, meta, id };
        let before = self.whole.range(..first).next_back().filter(|(_, before)| before.last + 1 == first);
        let after = self.whole.get(&(last + 1));
        let faults = [before.map(|(_, before)| fault(before, &whole)), after.map(|after| fault(&whole, after))];
        for text in faults.into_iter().flatten().flatten() {
            self.report.violation(text);
        }
        self.whole.insert(first, whole);
        while self.whole.first_key_value().is_some_and(|(oldest, _)| oldest + REMEMBERED < first) {
            self.whole.pop_first();
        }
    }

    fn decode(&mut self, now: Instant, clock: Clock) {
        let waiting = |frames: &BTreeMap<u64, Assembly>| -> Vec<u64> {
            frames.iter().filter(|(_, frame)| frame.is_whole()).map(|(first, _)| *first).collect()
        };
        loop {
            let before = self.pending.len();
            for first in waiting(&self.pending) {
                self.try_decode(now, clock, first);
            }
            if self.pending.len() == before {
                break;
            }
        }
        for first in waiting(&self.pending) {
            self.excuse(first);
        }
        let newest = self.newest;
        let is_behind = |first: &u64| newest.is_none_or(|newest| *first > newest);
        self.pending.retain(|first, frame| is_behind(first) || now.duration_since(frame.arrived) < KEPT);
        if self.pending.keys().any(is_behind) {
            self.waiting_since.get_or_insert(now);
        } else {
            self.waiting_since = None;
        }
    }

    fn try_decode(&mut self, now: Instant, clock: Clock, first: u64) {
        let Some(frame) = self.pending.get_mut(&first) else { return };
        let Some((id, meta)) = frame.id.zip(frame.meta.as_ref()) else { return };
        let last = first + frame.have.len() as u64 - 1;
        if frame.needs.is_none() {
            let headers = Headers { meta, key: frame.key, first_sequence: first, last_sequence: last };
            match self.references.needs(id, &headers) {
                Needs::Frames(needs) => frame.needs = Some(needs),
                Needs::Unknown => return,
                Needs::Never => {
                    self.excuse(first);
                    self.pending.remove(&first);
                    return;
                }
            }
        }
        let mut ready = frame.needs.iter().flatten().all(|needed| self.decoded.contains(needed));
        if let Some(meta) = &frame.described {
            let (references, decoded) = &mut self.described;
            if frame.described_needs.is_none() {
                let headers = Headers { meta, key: frame.key, first_sequence: first, last_sequence: last };
                let found = references.id(&headers).map(|id| (id, references.needs(id, &headers)));
                let Some((id, Needs::Frames(needs))) = found else { return };
                frame.described_needs = Some((id, needs));
            }
            ready &= frame.described_needs.iter().flat_map(|(_, needs)| needs).all(|needed| decoded.contains(needed));
        }
        if ready && let Some(frame) = self.pending.remove(&first) {
            self.show(now, clock, (first, last), id, &frame);
        }
    }

    fn show(&mut self, now: Instant, clock: Clock, (first, last): (u64, u64), id: FrameId, frame: &Assembly) {
        let stamp = frame.stamp;
        for reference in stamp.references.iter().flatten() {
            let picture = stamp.frame.wrapping_sub(reference.back.into());
            let needed = (stamp.source, stamp.encoding, picture, reference.spatial);
            if !self.truly_decoded.contains(&needed) {
                let name = name_of(&stamp);
                self.report.violation(format!("{name} seems decodable, but {needed:?} that it needs was not decoded"));
            }
        }
        self.truly_decoded.insert((stamp.source, stamp.encoding, stamp.frame, stamp.spatial));
        self.decoded.insert(id);
        self.pass_padding(last);
        self.described.1.extend(frame.described_needs.as_ref().map(|(id, _)| *id));
        // More pictures than any reference reaches back, in the order of the sets.
        while self.truly_decoded.len() > 6_144 {
            self.truly_decoded.pop_first();
        }
        for decoded in [&mut self.decoded, &mut self.described.1] {
            while decoded.len() > 6_144 {
                decoded.pop_first();
            }
        }
        if frame.key && self.start.is_none_or(|start| start < first) {
            self.start = Some(first);
            self.holes = self.holes.split_off(&first);
        }
        if !frame.marker {
            return; // a picture is shown when all of it is there
        }
        let size = usize::from(stamp.encoding.max(stamp.spatial));
        let captured = Duration::from_micros(stamp.captured_us);
        let delay = clock.time(now).saturating_sub(captured);
        let height = HEIGHTS.get(size).copied().unwrap_or(0);
        if stamp.source == self.carried.present() {
            self.report.show(stamp.frame, Shown { captured, delay, height, temporal: stamp.temporal });
            self.report.last_decoded = Some(now);
        }
        if self.newest.is_none_or(|newest| newest < last) {
            let stood = self.waiting_since.is_some_and(|since| now >= since + PATIENCE);
            self.report.freezes += u64::from(frame.key && stood && self.newest.is_some());
            self.report.height = height;
            self.newest = Some(last);
            self.waiting_since = None;
            self.requested = None;
        }
    }

    /// What stands behind a decoded frame of H.264 and is padding keeps nobody from what follows it.
    fn pass_padding(&mut self, mut last: u64) {
        let id = |sequence: u64| (sequence.cast_signed(), 0);
        while self.padding.contains(&(last + 1)) && self.decoded.contains(&id(last)) {
            last += 1;
            self.decoded.insert(id(last));
        }
    }

    /// A whole frame was not decoded: that is excused only by a hole since the last key frame.
    fn excuse(&mut self, first: u64) {
        let Some((frame, start)) = self.pending.get_mut(&first).zip(self.start) else { return };
        let last = first + frame.have.len() as u64 - 1;
        let in_order = first >= start && self.newest.is_none_or(|newest| first > newest);
        if in_order && !frame.stalled && self.holes.range(start..=last).next().is_none() {
            frame.stalled = true;
            let text = format!("{} is not decodable although nothing is missing", name_of(&frame.stamp));
            self.report.violation(text);
        }
    }
}

impl Assembly {
    fn is_whole(&self) -> bool {
        self.have.iter().all(|have| *have)
    }
}

/// What is wrong between two whole frames without a hole between them.
fn fault(before: &Whole, after: &Whole) -> Option<String> {
    let name = name_of(&after.stamp);
    let encoding = |whole: &Whole| (whole.stamp.source, whole.stamp.encoding);
    let picture = |whole: &Whole| (encoding(whole), whole.stamp.frame);
    if picture(before) == picture(after) {
        let up = before.stamp.spatial < after.stamp.spatial && before.timestamp == after.timestamp;
        return (!up).then(|| format!("{name} does not follow the layer below it"));
    }
    if before.timestamp >= after.timestamp {
        return Some(format!("the timestamp of {name} does not advance"));
    }
    if encoding(before) != encoding(after) && !after.key {
        return Some(format!("{name} changes the source or the encoding without a key frame"));
    }
    if encoding(before) == encoding(after) && !newer(after.stamp.frame, before.stamp.frame) {
        return Some(format!("{name} comes after picture {}", before.stamp.frame));
    }
    let continuous = match (&before.meta, &after.meta) {
        // Picture ids have no gap, or receivers wait for what fills it; TL0PICIDX counts the base layer.
        (Meta::Vp8 { tl0: old, .. }, Meta::Vp8 { tl0: new, temporal, .. }) => {
            after.id.0 == before.id.0 + 1 && new.wrapping_sub(*old) == u8::from(*temporal == 0)
        }
        (Meta::Vp9 { .. }, Meta::Vp9 { .. }) | (Meta::Described(_), Meta::Described(_)) => after.id.0 > before.id.0,
        _ => true,
    };
    (!continuous).then(|| format!("the numbers of {name} do not follow: {:?} after {:?}", after.meta, before.meta))
}

fn name_of(stamp: &Stamp) -> String {
    format!("picture {} of encoding {}, layer S{}T{}", stamp.frame, stamp.encoding, stamp.spatial, stamp.temporal)
}

/// Serial number arithmetic (RFC 1982).
fn newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
mod tests;
