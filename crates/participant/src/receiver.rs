//! What is received, judged: frames put together and "decoded" in order, and every broken promise of a bridge written down.
//!
//! A frame decodes when all its packets are there, it follows the one before without a hole in the sequence numbers, and every change
//! of encoding starts with a key frame. What can never be right whatever the network loses is a violation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tertulia_model::{EndpointId, SourceName};

use crate::camera;
use crate::stamp::source_hash;
use crate::voice;

/// How long a hole is waited for before a key frame is asked for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Shortest gap between two requests for a key frame.
const REQUEST_GAP: Duration = Duration::from_millis(500);
/// Frames that are put together at once.
const FRAMES_MAX: usize = 256;
/// Violations kept for the report; the rest is only counted.
const VIOLATIONS_KEPT: usize = 8;
/// Sequence numbers remembered to find repetitions.
const REMEMBERED: u64 = 2_048;

/// One received video source.
#[derive(Debug)]
pub(crate) struct VideoReceiver {
    pub(crate) report: VideoReport,
    expected: u32,
    frames: BTreeMap<u64, Assembly>,
    /// First sequence number of the next frame in order; `None` until a key frame came.
    next: Option<u64>,
    last: Option<Decoded>,
    waiting_since: Option<Instant>,
    requested: Option<Instant>,
    seen: BTreeMap<u64, (u8, u32, u8)>,
}

/// How a video source fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoReport {
    /// Its name.
    pub source: SourceName,
    /// Who sends it.
    pub owner: EndpointId,
    /// Packets received, retransmitted ones included.
    pub packets: u64,
    /// Frames that could be decoded.
    pub decoded: u64,
    /// When the last one was.
    pub last_decoded: Option<Instant>,
    /// Height of the last one.
    pub height: u16,
    /// Times that a hole could not be closed and the picture stood still until a key frame.
    pub freezes: u64,
    /// Things that no loss excuses; empty when all is well.
    pub violations: Vec<String>,
}

#[derive(Debug)]
struct Assembly {
    count: u8,
    have: Vec<bool>,
    timestamp: u64,
    frame: u32,
    encoding: u8,
    key: bool,
    picture_id: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Decoded {
    timestamp: u64,
    frame: u32,
    encoding: u8,
    picture_id: Option<u16>,
}

impl VideoReceiver {
    pub(crate) fn new(source: SourceName, owner: EndpointId) -> Self {
        let expected = source_hash(&source);
        let report = VideoReport {
            source,
            owner,
            packets: 0,
            decoded: 0,
            last_decoded: None,
            height: 0,
            freezes: 0,
            violations: Vec::new(),
        };
        let (frames, seen) = (BTreeMap::new(), BTreeMap::new());
        Self { report, expected, frames, next: None, last: None, waiting_since: None, requested: None, seen }
    }

    /// Takes a packet; numbers are already free of roll-over.
    pub(crate) fn handle(&mut self, now: Instant, sequence: u64, timestamp: u64, payload: &[u8]) {
        self.report.packets += 1;
        let Some(picture) = camera::read(payload) else {
            return self.violation(format!("packet {sequence} is damaged"));
        };
        let stamp = picture.stamp;
        if stamp.source != self.expected {
            return self.violation(format!("packet {sequence} is of another source"));
        }
        let identity = (stamp.encoding, stamp.frame, stamp.index);
        if let Some(before) = self.seen.insert(sequence, identity) {
            if before != identity {
                self.violation(format!("two packets have the number {sequence}"));
            }
            return;
        }
        while self.seen.first_key_value().is_some_and(|(first, _)| first + REMEMBERED < sequence) {
            self.seen.pop_first();
        }
        let Some(first) = sequence.checked_sub(u64::from(stamp.index)) else { return };
        if self.next.is_some_and(|next| first < next) {
            return; // too late
        }
        let frame = self.frames.entry(first).or_insert_with(|| Assembly {
            count: stamp.count,
            have: vec![false; usize::from(stamp.count)],
            timestamp,
            frame: stamp.frame,
            encoding: stamp.encoding,
            key: false,
            picture_id: picture.picture_id,
        });
        let same = (frame.frame, frame.encoding, frame.timestamp, frame.picture_id)
            == (stamp.frame, stamp.encoding, timestamp, picture.picture_id);
        if let Some(have) = frame.have.get_mut(usize::from(stamp.index)) {
            *have = true;
        }
        frame.key |= picture.key;
        if !same {
            self.violation(format!("packet {sequence} does not fit the others of its frame"));
        }
        while self.frames.len() > FRAMES_MAX {
            self.frames.pop_first();
        }
        self.decode(now);
    }

    /// Whether a key frame has to be asked for now.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> bool {
        let overdue = self.waiting_since.is_some_and(|since| now >= since + PATIENCE);
        if !overdue || self.requested.is_some_and(|at| now < at + REQUEST_GAP) {
            return false;
        }
        self.requested = Some(now);
        true
    }

    /// When [`VideoReceiver::on_timeout`] next has work to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let due = self.waiting_since? + PATIENCE;
        Some(self.requested.map_or(due, |at| due.max(at + REQUEST_GAP)))
    }

    fn decode(&mut self, now: Instant) {
        loop {
            let next = self.next.filter(|next| self.frames.get(next).is_some_and(Assembly::is_whole));
            // A whole key frame starts anew, whatever is missing before it.
            let key = || self.frames.iter().find(|(_, frame)| frame.key && frame.is_whole()).map(|(first, _)| *first);
            let waited = self.next.is_none() || self.waiting_since.is_some_and(|since| now >= since + PATIENCE);
            let Some(first) = next.or_else(|| key().filter(|_| waited)) else { break };
            if self.next.is_some_and(|expected| expected != first) {
                self.report.freezes += 1;
            }
            let follows = self.next == Some(first);
            let Some(frame) = self.frames.remove(&first) else { break };
            self.frames = self.frames.split_off(&first);
            self.next = Some(first + u64::from(frame.count));
            self.waiting_since = None;
            self.requested = None;
            self.show(now, &frame, follows);
        }
        let behind = !self.frames.is_empty();
        if behind {
            self.waiting_since.get_or_insert(now);
        } else {
            self.waiting_since = None;
        }
    }

    fn show(&mut self, now: Instant, frame: &Assembly, follows: bool) {
        if let Some(last) = self.last {
            if follows && frame.encoding != last.encoding && !frame.key {
                self.violation(format!("frame {} changes the encoding without a key frame", frame.frame));
            }
            if frame.timestamp <= last.timestamp {
                self.violation(format!("the timestamp of frame {} runs backwards", frame.frame));
            }
            if frame.encoding == last.encoding && !newer(frame.frame, last.frame) {
                self.violation(format!("frame {} comes after {}", frame.frame, last.frame));
            }
            let continuous = |(id, before): (u16, u16)| id == (before + 1) & 0x7fff;
            if follows && !frame.picture_id.zip(last.picture_id).is_none_or(continuous) {
                let ids = (last.picture_id, frame.picture_id);
                self.violation(format!("the picture id of frame {} jumps: {ids:?}", frame.frame));
            }
        }
        self.last = Some(Decoded {
            timestamp: frame.timestamp,
            frame: frame.frame,
            encoding: frame.encoding,
            picture_id: frame.picture_id,
        });
        self.report.decoded += 1;
        self.report.last_decoded = Some(now);
        self.report.height = camera::HEIGHTS.get(usize::from(frame.encoding)).copied().unwrap_or(0);
    }

    fn violation(&mut self, text: String) {
        if self.report.violations.len() < VIOLATIONS_KEPT {
            self.report.violations.push(text);
        }
    }
}

impl Assembly {
    fn is_whole(&self) -> bool {
        self.have.iter().all(|have| *have)
    }
}

/// Serial number arithmetic (RFC 1982).
fn newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

/// One received audio source.
#[derive(Debug)]
pub(crate) struct AudioReceiver {
    pub(crate) report: AudioReport,
    expected: u32,
    /// Counter minus sequence number never shrinks: what is left out is left out for good.
    heard: BTreeMap<u64, u32>,
}

/// How an audio source fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioReport {
    /// Its name.
    pub source: SourceName,
    /// Who sends it.
    pub owner: EndpointId,
    /// Packets received.
    pub packets: u64,
    /// When the last one came.
    pub last_heard: Option<Instant>,
    /// Things that no loss excuses; empty when all is well.
    pub violations: Vec<String>,
}

impl AudioReceiver {
    pub(crate) fn new(source: SourceName, owner: EndpointId) -> Self {
        let expected = source_hash(&source);
        let report = AudioReport { source, owner, packets: 0, last_heard: None, violations: Vec::new() };
        Self { report, expected, heard: BTreeMap::new() }
    }

    pub(crate) fn handle(&mut self, now: Instant, sequence: u64, payload: &[u8]) {
        self.report.packets += 1;
        self.report.last_heard = Some(now);
        let violation = match voice::read(payload) {
            None => Some(format!("packet {sequence} is damaged")),
            Some(stamp) if stamp.source != self.expected => Some(format!("packet {sequence} is of another source")),
            Some(stamp) => {
                let before = self.heard.range(..sequence).next_back().map(|(_, count)| *count);
                let after = self.heard.range(sequence + 1..).next().map(|(_, count)| *count);
                let same = self.heard.insert(sequence, stamp.frame).filter(|count| *count != stamp.frame);
                let fits = before.is_none_or(|count| newer(stamp.frame, count))
                    && after.is_none_or(|count| newer(count, stamp.frame))
                    && same.is_none();
                (!fits).then(|| format!("packet {sequence} is out of order"))
            }
        };
        while self.heard.len() > 512 {
            self.heard.pop_first();
        }
        if let Some(text) = violation
            && self.report.violations.len() < VIOLATIONS_KEPT
        {
            self.report.violations.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::{Camera, VideoPacket};
    use tertulia_model::Ssrc;

    /// Ten frames of one encoding, of several packets each, as they are sent.
    fn ten_frames() -> (VideoReceiver, Vec<VideoPacket>) {
        let name = SourceName::parse("a-v0").unwrap();
        let mut camera = Camera::new(name.clone(), &[(Ssrc(1), Ssrc(2))], 10, 2_000, 3);
        let (start, mut packets) = (Instant::now(), Vec::new());
        for frame in 0..10 {
            camera.on_timeout(start + Duration::from_millis(frame * 100), |packet| packets.push(packet));
        }
        (VideoReceiver::new(name, EndpointId::parse("a").unwrap()), packets)
    }

    fn feed(receiver: &mut VideoReceiver, now: Instant, packet: &VideoPacket) {
        receiver.handle(now, packet.sequence, u64::from(packet.timestamp), &packet.payload);
    }

    #[test]
    fn all_frames_decode_in_any_order_of_packets() {
        let (mut receiver, mut packets) = ten_frames();
        packets[4..].reverse();
        let now = Instant::now();
        packets.iter().for_each(|packet| feed(&mut receiver, now, packet));
        assert_eq!((receiver.report.decoded, receiver.report.freezes), (10, 0));
        assert_eq!(receiver.report.violations, [""; 0]);
        assert_eq!(receiver.next_timeout(), None);
    }

    #[test]
    fn a_hole_stops_the_picture_until_it_is_closed_and_a_key_frame_is_asked_for() {
        let (mut receiver, mut packets) = ten_frames();
        let hole = packets.remove(8);
        let now = Instant::now();
        packets.iter().for_each(|packet| feed(&mut receiver, now, packet));
        assert!(receiver.report.decoded < 10);
        assert!(!receiver.on_timeout(now + Duration::from_millis(499)));
        assert!(receiver.on_timeout(now + Duration::from_millis(500)));
        assert!(!receiver.on_timeout(now + Duration::from_millis(900)));
        feed(&mut receiver, now, &hole);
        assert_eq!((receiver.report.decoded, receiver.report.freezes), (10, 0));
    }

    #[test]
    fn what_no_loss_excuses_is_written_down() {
        let now = Instant::now();
        let broken: [fn(&mut Vec<VideoPacket>); 5] = [
            |packets| packets[3].payload[20] ^= 1,
            |packets| packets[5].sequence = packets[4].sequence,
            |packets| packets.iter_mut().skip(12).for_each(|packet| packet.timestamp -= 900_000),
            |packets| packets.iter_mut().skip(12).for_each(|packet| packet.payload[3] ^= 0x40),
            |packets| packets.iter_mut().for_each(|packet| packet.payload[13] ^= 1),
        ];
        for (index, damage) in broken.into_iter().enumerate() {
            let (mut receiver, mut packets) = ten_frames();
            packets.iter_mut().for_each(|packet| packet.timestamp = (packet.timestamp % 1_000) + 1_000_000);
            let mut tick = 0;
            for packet in &mut packets {
                packet.timestamp += tick;
                tick += if packet.marker { 9_000 } else { 0 };
            }
            damage(&mut packets);
            packets.iter().for_each(|packet| feed(&mut receiver, now, packet));
            assert!(!receiver.report.violations.is_empty(), "damage {index}");
        }
    }
}
