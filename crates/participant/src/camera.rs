//! A synthetic camera: pictures of any [`Coding`] in up to three sizes, whose frames say who and which they are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tertulia_model::{SourceName, Ssrc};

use crate::clock::Clock;
use crate::coding::{self, Coding, HEIGHTS, Ids, LayerFrame, Part};
use crate::stamp::{Stamp, source_hash};

/// In Hz, for every video codec.
const CLOCK_RATE: u32 = 90_000;
/// A payload that fits into every path, descriptor included.
const PAYLOAD_MAX: usize = 1_100;
/// A key frame is so many times as long as another.
const KEY_FACTOR: usize = 3;
/// Key frames remembered for the report.
const KEYS_KEPT: usize = 4_096;

/// One camera or shared screen.
#[derive(Debug)]
pub(crate) struct Camera {
    pub(crate) name: SourceName,
    pub(crate) encodings: Vec<Encoding>,
    pub(crate) coding: Coding,
    pub(crate) report: SentReport,
    interval: Duration,
    next: Option<Instant>,
    frame: u32,
    source: u32,
    /// Bytes of a frame of each size.
    frame_lens: [usize; 3],
}

/// What a camera sent.
#[derive(Debug, Clone)]
pub struct SentReport {
    /// Name of its source.
    pub source: SourceName,
    /// Pictures taken, whatever encodings of them were sent.
    pub pictures: u64,
    /// When key frames were sent, of whichever encoding; one entry a picture.
    pub key_frames: VecDeque<Duration>,
}

impl SentReport {
    /// Key frames from one time on, before another.
    pub fn key_frames_between(&self, from: Duration, to: Duration) -> usize {
        self.key_frames.iter().filter(|at| (from..to).contains(*at)).count()
    }
}

/// One simulcast stream, or one with all layers.
#[derive(Debug)]
pub(crate) struct Encoding {
    pub(crate) ssrc: Ssrc,
    pub(crate) rtx: Ssrc,
    ids: Ids,
    /// Pictures since the last key frame.
    position: u32,
    sequence: u64,
    needs_key: bool,
    active: bool,
    spatial_layers: u8,
}

/// A packet to be sent.
pub(crate) struct VideoPacket {
    pub(crate) ssrc: Ssrc,
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    /// Dependency descriptor.
    pub(crate) descriptor: Option<Vec<u8>>,
    pub(crate) payload: Vec<u8>,
}

impl Camera {
    /// A camera that starts with the next tick. `ssrcs`: a stream and its retransmissions for each encoding, lowest first.
    pub(crate) fn new(
        name: SourceName,
        coding: Coding,
        ssrcs: &[(Ssrc, Ssrc)],
        frames_per_second: u32,
        frame_lens: [usize; 3],
        seed: u32,
    ) -> Self {
        let encoding = |(index, (ssrc, rtx)): (u32, &(Ssrc, Ssrc))| Encoding {
            ssrc: *ssrc,
            rtx: *rtx,
            ids: Ids::starting_at(seed.rotate_left(index * 5)),
            position: 0,
            // Below 2¹⁶, because the roll-over counter starts at 0.
            sequence: u64::from(seed.wrapping_mul(0x9e37_79b9) >> 16),
            needs_key: true,
            active: true,
            spatial_layers: coding.spatial_layers(),
        };
        Self {
            source: source_hash(&name),
            report: SentReport { source: name.clone(), pictures: 0, key_frames: VecDeque::new() },
            name,
            encodings: (0..).zip(ssrcs).map(encoding).collect(),
            coding,
            interval: Duration::from_secs(1) / frames_per_second.max(1),
            next: None,
            frame: 0,
            frame_lens,
        }
    }

    /// The highest that the bridge wants of this source, as in `SenderSourceConstraints`: negative is all, 0 none.
    pub(crate) fn set_max_height(&mut self, max_height: i32) {
        let fits = |index: usize| max_height < 0 || index == 0 || i32::from(HEIGHTS[index]) <= max_height;
        let layers = (0..HEIGHTS.len()).filter(|index| fits(*index)).count();
        let layers = u8::try_from(layers).unwrap_or(1).min(self.coding.spatial_layers());
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            let wanted = max_height != 0 && fits(index);
            encoding.needs_key |= wanted && (!encoding.active || layers > encoding.spatial_layers);
            encoding.active = wanted;
            encoding.spatial_layers = layers;
        }
    }

    /// Somebody needs a key frame of this encoding.
    pub(crate) fn request_key(&mut self, encoding: usize) {
        if let Some(encoding) = self.encodings.get_mut(encoding) {
            encoding.needs_key = true;
        }
    }

    /// When the next frame is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Takes the picture that is due.
    pub(crate) fn on_timeout(&mut self, now: Instant, clock: Clock, mut packet: impl FnMut(VideoPacket)) {
        let due = *self.next.get_or_insert(now);
        if now < due {
            return;
        }
        // A shell that was held up does not send a burst of old frames.
        self.next = Some((due + self.interval).max(now));
        self.frame = self.frame.wrapping_add(1);
        self.report.pictures += 1;
        let ticks = u32::try_from(self.interval.as_micros() * u128::from(CLOCK_RATE) / 1_000_000).unwrap_or(CLOCK_RATE);
        let timestamp = self.frame.wrapping_mul(ticks).wrapping_add(self.source);
        if self.encodings.iter().any(|encoding| encoding.active && encoding.needs_key) {
            if self.report.key_frames.len() == KEYS_KEPT {
                self.report.key_frames.pop_front();
            }
            self.report.key_frames.push_back(clock.time(now));
        }
        for index in 0..self.encodings.len() {
            if self.encodings[index].active {
                self.take(index, timestamp, clock.micros(now), &mut packet);
            }
        }
    }

    fn take(&mut self, index: usize, timestamp: u32, captured_us: u64, packet: &mut impl FnMut(VideoPacket)) {
        let encoding = &mut self.encodings[index];
        if std::mem::take(&mut encoding.needs_key) {
            encoding.position = 0;
        }
        let layers = coding::layers(self.coding, encoding.position, encoding.spatial_layers);
        encoding.position = encoding.position.saturating_add(1);
        for (first, frame) in layers.enumerate().map(|(layer, frame)| (layer == 0, frame)) {
            if first {
                encoding.ids.advance(frame.temporal);
            }
            encoding.ids.frames.advance(&frame);
            let stamp = Stamp {
                source: self.source,
                encoding: u8::try_from(index).unwrap_or(0),
                index: 0,
                count: 0,
                spatial: frame.spatial,
                temporal: frame.temporal,
                frame: self.frame,
                references: frame.references,
                captured_us,
            };
            let size = index + usize::from(frame.spatial);
            let len = self.frame_lens[size.min(2)] * if frame.key { KEY_FACTOR } else { 1 };
            encoding.write(self.coding, &frame, stamp, size, len, timestamp, packet);
            if coding::declares(&frame, &encoding.ids, encoding.spatial_layers) {
                encoding.ids.declared = encoding.spatial_layers;
            }
        }
    }
}

impl Encoding {
    #[allow(clippy::too_many_arguments)] // one frame in all its respects
    fn write(
        &mut self,
        coding: Coding,
        frame: &LayerFrame,
        stamp: Stamp,
        size: usize,
        len: usize,
        timestamp: u32,
        packet: &mut impl FnMut(VideoPacket),
    ) {
        let count = coding::parts(coding, frame, len, PAYLOAD_MAX);
        for index in 0..count {
            let part = Part { index, count };
            let mut payload = Vec::with_capacity(PAYLOAD_MAX);
            coding::write_head(coding, frame, &self.ids, part, size, self.spatial_layers, &mut payload);
            let count = u8::try_from(count).unwrap_or(u8::MAX);
            Stamp { index: u8::try_from(index).unwrap_or(0), count, ..stamp }.write(&mut payload);
            if !coding::ends_with_stamp(coding, frame, part) {
                let whole = (len / usize::from(count)).clamp(payload.len(), PAYLOAD_MAX.max(payload.len()));
                payload.resize(whole, 0x55);
            }
            packet(VideoPacket {
                ssrc: self.ssrc,
                sequence: self.sequence,
                timestamp,
                marker: frame.is_top && index + 1 == usize::from(count),
                descriptor: coding::descriptor(coding, frame, &self.ids, part, size, self.spatial_layers),
                payload,
            });
            self.sequence += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::{Received, read};

    fn camera(coding: Coding) -> Camera {
        let name = SourceName::parse("a-v0").unwrap();
        let ssrcs: Vec<(Ssrc, Ssrc)> = (1..4).map(|n| (Ssrc(n), Ssrc(10 + n))).collect();
        let ssrcs = if coding.is_simulcast() { &ssrcs[..] } else { &ssrcs[..1] };
        Camera::new(name, coding, ssrcs, 10, [400, 1_600, 6_400], 0xffff_ffff)
    }

    fn shoot(camera: &mut Camera, start: Instant, at_ms: u64) -> Vec<VideoPacket> {
        let mut packets = Vec::new();
        let now = start + Duration::from_millis(at_ms);
        camera.on_timeout(now, Clock::starting(start), |packet| packets.push(packet));
        packets
    }

    fn parsed(coding: Coding, packet: &VideoPacket) -> Received {
        read(coding.codec(), &packet.payload, packet.descriptor.as_deref()).unwrap()
    }

    #[test]
    fn frames_of_every_codec_say_what_they_are_and_start_with_a_key() {
        for coding in Coding::ALL {
            let (mut camera, start) = (camera(coding), Instant::now());
            let streams = camera.encodings.len();
            let first = shoot(&mut camera, start, 0);
            let keys = first.iter().filter(|packet| parsed(coding, packet).key).count();
            assert_eq!(keys, streams, "{coding:?}");
            assert!(first.iter().all(|packet| packet.timestamp == first[0].timestamp));
            assert_eq!(first.iter().filter(|packet| packet.marker).count(), streams);
            assert!(first.iter().all(|packet| packet.payload.len() <= PAYLOAD_MAX));
            for packet in &first {
                let received = parsed(coding, packet);
                assert_eq!(received.starts, received.stamp.index == 0, "{coding:?} {received:?}");
                let ends = received.stamp.index + 1 == received.stamp.count;
                assert!(received.ends.is_none_or(|said| said == ends), "{coding:?} {received:?}");
                assert_eq!(received.stamp.captured_us, 0);
            }
            let second = shoot(&mut camera, start, 100);
            assert!(second.iter().all(|packet| !parsed(coding, packet).key));
            assert_eq!(parsed(coding, &second[0]).stamp.captured_us, 100_000);
            assert!(shoot(&mut camera, start, 150).is_empty());
            assert_eq!((camera.report.pictures, camera.report.key_frames.len()), (2, 1));
        }
    }

    #[test]
    fn encodings_that_nobody_wants_rest_and_come_back_with_a_key() {
        let (mut camera, start) = (camera(Coding::Vp8), Instant::now());
        shoot(&mut camera, start, 0);
        let heights = |camera: &mut Camera, at: u64| {
            let packets = shoot(camera, start, at);
            let key = |packet: &VideoPacket| parsed(Coding::Vp8, packet).key;
            let mut all: Vec<(u32, bool)> = packets.iter().map(|packet| (packet.ssrc.0, key(packet))).collect();
            all.dedup_by_key(|(ssrc, _)| *ssrc);
            all
        };
        camera.set_max_height(360);
        assert_eq!(heights(&mut camera, 100), [(1, false), (2, false)]);
        camera.set_max_height(0);
        assert_eq!(heights(&mut camera, 200), []);
        camera.set_max_height(100);
        assert_eq!(heights(&mut camera, 300), [(1, true)]);
        camera.set_max_height(-1);
        assert_eq!(heights(&mut camera, 400), [(1, false), (2, true), (3, true)]);
    }

    #[test]
    fn layers_that_nobody_wants_end_at_once_and_come_back_with_a_key() {
        for coding in [Coding::Vp9L3T3Key, Coding::Vp9L3T3, Coding::Av1L3T3Key, Coding::Av1L3T3] {
            let (mut camera, start) = (camera(coding), Instant::now());
            shoot(&mut camera, start, 0);
            let mut at = 0;
            let mut highest = |camera: &mut Camera| {
                at += 100;
                let packets = shoot(camera, start, at);
                let key = packets.iter().any(|packet| parsed(coding, packet).key);
                let last = packets.last().unwrap();
                assert!(last.marker);
                (parsed(coding, last).stamp.spatial, key)
            };
            assert_eq!(highest(&mut camera), (2, false));
            camera.set_max_height(360);
            assert_eq!(highest(&mut camera), (1, false));
            camera.set_max_height(180);
            assert_eq!(highest(&mut camera), (0, false));
            camera.set_max_height(720);
            assert_eq!(highest(&mut camera), (2, true));
        }
    }

    #[test]
    fn temporal_layers_follow_each_other_as_0_2_1_2() {
        for coding in [Coding::Vp8L1T3, Coding::Vp9L1T3, Coding::Vp9L3T3, Coding::Av1L1T3, Coding::H264L1T3] {
            let (mut camera, start) = (camera(coding), Instant::now());
            let mut pattern = Vec::new();
            for picture in 0..9 {
                let packets = shoot(&mut camera, start, picture * 100);
                let stamp = parsed(coding, &packets[0]).stamp;
                pattern.push((stamp.temporal, stamp.references[0].map_or(0, |reference| reference.back)));
            }
            assert_eq!(pattern, [(0, 0), (2, 1), (1, 2), (2, 1), (0, 4), (2, 1), (1, 2), (2, 1), (0, 4)], "{coding:?}");
        }
    }
}
