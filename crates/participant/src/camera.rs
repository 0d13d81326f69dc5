//! A synthetic camera: VP8 in up to three encodings whose frames say who and which they are (RFC 7741 §4.2 for the descriptor).

use std::time::{Duration, Instant};

use tertulia_model::{SourceName, Ssrc};

use crate::stamp::{STAMP_LEN, Stamp, source_hash};

/// Heights of the encodings, lowest first, as Jitsi's clients send them for 720p.
pub(crate) const HEIGHTS: [u16; 3] = [180, 360, 720];
/// 16:9.
const WIDTHS: [u16; 3] = [320, 640, 1280];
/// In Hz (RFC 7741 §4.1).
const CLOCK_RATE: u32 = 90_000;
/// A payload that fits into every path, descriptor included.
const PAYLOAD_MAX: usize = 1_100;
/// Descriptor with 15-bit picture id, TL0PICIDX and TID/KEYIDX.
const DESCRIPTOR_LEN: usize = 6;

/// One camera or shared screen.
#[derive(Debug)]
pub(crate) struct Camera {
    pub(crate) name: SourceName,
    pub(crate) encodings: Vec<Encoding>,
    interval: Duration,
    next: Option<Instant>,
    frame: u32,
    source: u32,
    /// Bytes of a frame of the lowest encoding; each further one has four times as many.
    frame_len: usize,
    /// Highest encoding that the bridge wants; negative means all, 0 none.
    max_height: i32,
}

/// One simulcast stream.
#[derive(Debug)]
pub(crate) struct Encoding {
    pub(crate) ssrc: Ssrc,
    pub(crate) rtx: Ssrc,
    picture_id: u16,
    tl0: u8,
    sequence: u64,
    needs_key: bool,
    active: bool,
}

/// A packet to be sent.
pub(crate) struct VideoPacket {
    pub(crate) ssrc: Ssrc,
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) payload: Vec<u8>,
}

impl Camera {
    /// A camera that starts with the next tick. `ssrcs`: a stream and its retransmissions for each encoding, lowest first.
    pub(crate) fn new(
        name: SourceName,
        ssrcs: &[(Ssrc, Ssrc)],
        frames_per_second: u32,
        frame_len: usize,
        seed: u32,
    ) -> Self {
        let encoding = |(index, (ssrc, rtx)): (usize, &(Ssrc, Ssrc))| Encoding {
            ssrc: *ssrc,
            rtx: *rtx,
            // Anywhere, also shortly before the numbers wrap around. Below 2¹⁶, because the roll-over counter starts at 0.
            picture_id: (seed.rotate_left(u32::try_from(index).unwrap_or(0) * 5) & 0x7fff) as u16,
            tl0: (seed >> 8) as u8,
            sequence: u64::from(seed.wrapping_mul(0x9e37_79b9) >> 16),
            needs_key: true,
            active: true,
        };
        Self {
            source: source_hash(&name),
            name,
            encodings: ssrcs.iter().enumerate().map(encoding).collect(),
            interval: Duration::from_secs(1) / frames_per_second.max(1),
            next: None,
            frame: 0,
            frame_len,
            max_height: -1,
        }
    }

    /// What the bridge wants of this source, as in `SenderSourceConstraints`.
    pub(crate) fn set_max_height(&mut self, max_height: i32) {
        self.max_height = max_height;
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            let wanted = match max_height {
                ..0 => true,
                0 => false,
                height => index == 0 || i32::from(HEIGHTS[index]) <= height,
            };
            encoding.needs_key |= wanted && !encoding.active;
            encoding.active = wanted;
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

    /// Takes the frames that are due.
    pub(crate) fn on_timeout(&mut self, now: Instant, mut packet: impl FnMut(VideoPacket)) {
        let due = *self.next.get_or_insert(now);
        if now < due {
            return;
        }
        // A shell that was held up does not send a burst of old frames.
        self.next = Some((due + self.interval).max(now));
        self.frame = self.frame.wrapping_add(1);
        let ticks = u32::try_from(self.interval.as_micros() * u128::from(CLOCK_RATE) / 1_000_000).unwrap_or(CLOCK_RATE);
        let timestamp = self.frame.wrapping_mul(ticks).wrapping_add(self.source);
        for index in 0..self.encodings.len() {
            if self.encodings[index].active {
                self.take(index, timestamp, &mut packet);
            }
        }
    }

    fn take(&mut self, index: usize, timestamp: u32, packet: &mut impl FnMut(VideoPacket)) {
        let encoding = &mut self.encodings[index];
        let key = std::mem::take(&mut encoding.needs_key);
        encoding.picture_id = (encoding.picture_id + 1) & 0x7fff;
        encoding.tl0 = encoding.tl0.wrapping_add(1);
        let scale = 1 << (2 * index);
        let len = self.frame_len * scale * if key { 3 } else { 1 };
        let count = len.div_ceil(PAYLOAD_MAX).clamp(1, 200);
        for part in 0..count {
            let mut payload = Vec::with_capacity(PAYLOAD_MAX);
            payload.push(if part == 0 { 0x90 } else { 0x80 }); // X, and S for the first of a frame
            payload.push(0xf0); // I, L, T, K
            payload.extend((encoding.picture_id | 0x8000).to_be_bytes());
            payload.push(encoding.tl0);
            payload.push(0); // layer 0, key index 0
            debug_assert_eq!(payload.len(), DESCRIPTOR_LEN);
            if part == 0 {
                frame_header(key, index, &mut payload);
            }
            let stamp = Stamp {
                source: self.source,
                encoding: u8::try_from(index).unwrap_or(0),
                index: u8::try_from(part).unwrap_or(0),
                count: u8::try_from(count).unwrap_or(1),
                frame: self.frame,
            };
            stamp.write(&mut payload);
            let whole = (len / count).clamp(payload.len(), PAYLOAD_MAX);
            payload.resize(whole, 0x55);
            packet(VideoPacket {
                ssrc: encoding.ssrc,
                sequence: encoding.sequence,
                timestamp,
                marker: part + 1 == count,
                payload,
            });
            encoding.sequence += 1;
        }
    }
}

/// The frame tag and, for key frames, start code and size (RFC 6386 §9.1).
fn frame_header(key: bool, encoding: usize, out: &mut Vec<u8>) {
    out.extend([u8::from(!key) | 0x10, 0, 0]);
    if key {
        out.extend([0x9d, 0x01, 0x2a]);
        out.extend(WIDTHS[encoding.min(2)].to_le_bytes());
        out.extend(HEIGHTS[encoding.min(2)].to_le_bytes());
    }
}

/// What a received payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) stamp: Stamp,
    pub(crate) key: bool,
    pub(crate) picture_id: Option<u16>,
}

/// Reads a payload of ours; `None` when it is none or is damaged.
pub(crate) fn read(payload: &[u8]) -> Option<Picture> {
    let descriptor = tertulia_rtp::codec::vp8::Descriptor::parse(payload)?;
    let body = payload.get(descriptor.len..)?;
    let tag = if descriptor.starts_frame { body.first().copied() } else { None };
    let key = tag.is_some_and(|tag| tag & 1 == 0);
    let header = match (descriptor.starts_frame, key) {
        (true, true) => 10,
        (true, false) => 3,
        (false, _) => 0,
    };
    let stamp = Stamp::parse(body.get(header..header + STAMP_LEN)?)?;
    Some(Picture { stamp, key, picture_id: descriptor.picture_id.map(|id| id.value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn camera() -> Camera {
        let name = SourceName::parse("a-v0").unwrap();
        let ssrcs: Vec<(Ssrc, Ssrc)> = (1..4).map(|n| (Ssrc(n), Ssrc(10 + n))).collect();
        Camera::new(name, &ssrcs, 10, 400, 0xffff_ffff)
    }

    fn shoot(camera: &mut Camera, now: Instant) -> Vec<VideoPacket> {
        let mut packets = Vec::new();
        camera.on_timeout(now, |packet| packets.push(packet));
        packets
    }

    #[test]
    fn frames_say_what_they_are_and_start_with_a_key() {
        let (mut camera, start) = (camera(), Instant::now());
        let first = shoot(&mut camera, start);
        let pictures: Vec<Picture> = first.iter().map(|packet| read(&packet.payload).unwrap()).collect();
        assert_eq!(pictures.iter().filter(|picture| picture.key).count(), 3);
        assert!(first.iter().all(|packet| packet.timestamp == first[0].timestamp));
        assert_eq!(first.iter().filter(|packet| packet.marker).count(), 3);
        let second = shoot(&mut camera, start + Duration::from_millis(100));
        assert!(second.iter().all(|packet| !read(&packet.payload).unwrap().key));
        assert!(shoot(&mut camera, start + Duration::from_millis(150)).is_empty());
    }

    #[test]
    fn encodings_that_nobody_wants_rest_and_come_back_with_a_key() {
        let (mut camera, start) = (camera(), Instant::now());
        shoot(&mut camera, start);
        let heights = |camera: &mut Camera, at: u64| {
            let packets = shoot(camera, start + Duration::from_millis(at));
            let mut all: Vec<(u32, bool)> = packets.iter().map(|p| (p.ssrc.0, read(&p.payload).unwrap().key)).collect();
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
}
