//! What a person sends: a camera in three encodings by a model of frames, and a microphone. Pure.

use std::time::{Duration, Instant};

use crate::payload::{HEIGHTS, PAYLOAD_MIN, PictureNumbers, Stamp};
use crate::sources::ENCODINGS;

/// Thirty frames a second.
pub(crate) const FRAME_INTERVAL: Duration = Duration::from_nanos(33_333_333);
/// Bytes of a frame per encoding: 150 kbit/s, 500 kbit/s, 1.8 Mbit/s.
const FRAME_LENS: [usize; 3] = [625, 2_083, 7_500];
/// A key frame is so many times larger: 41 packets at 720p.
const KEY_FACTOR: usize = 6;
/// A payload that fits into every path.
const PAYLOAD_MAX: usize = 1_100;
/// Packets of an encoding that can be sent again: two seconds of 720p.
const KEPT: usize = 512;
/// Between two key frames of one encoding, whoever asks.
const KEY_GAP: Duration = Duration::from_millis(300);
/// Ticks of the 90 kHz clock in a frame.
const FRAME_TICKS: u32 = 3_000;

/// A packet of a picture: enough to make its bytes, again if need be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Picture {
    pub(crate) stamp: Stamp,
    pub(crate) numbers: PictureNumbers,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) len: usize,
    pub(crate) sent_ns: u64,
}

/// One camera.
#[derive(Debug)]
pub(crate) struct Camera {
    source: u32,
    frame: u32,
    next: Option<Instant>,
    encodings: Vec<Encoding>,
}

#[derive(Debug)]
struct Encoding {
    first_sequence: u16,
    number: u32,
    rtx_sequence: u16,
    numbers: PictureNumbers,
    needs_key: bool,
    last_key: Option<Instant>,
    active: bool,
    kept: Vec<Picture>,
}

impl Camera {
    /// A camera that rests until [`Camera::start`].
    pub(crate) fn new(source: u32) -> Self {
        let encoding = |index: u8| Encoding {
            // Anywhere, but not the same for everybody.
            first_sequence: (source.wrapping_mul(0x9e37_79b9) >> (16 + index)) as u16,
            number: 0,
            rtx_sequence: 0,
            numbers: PictureNumbers { picture_id: (source & 0x7fff) as u16, tl0: 0 },
            needs_key: true,
            last_key: None,
            active: true,
            kept: vec![Picture::default(); KEPT],
        };
        Self { source, frame: 0, next: None, encodings: (0..ENCODINGS).map(encoding).collect() }
    }

    /// Lets all encodings but one rest.
    pub(crate) fn send_only(&mut self, encoding: u8) {
        for (index, own) in (0..).zip(&mut self.encodings) {
            own.active = index == encoding;
        }
    }

    /// Takes the first frame at this time.
    pub(crate) fn start(&mut self, at: Instant) {
        self.next = Some(at);
    }

    /// Takes no frames any more.
    pub(crate) fn stop(&mut self) {
        self.next = None;
    }

    /// When the next frame is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// What the bridge wants of this camera, as in `SenderSourceConstraints`: lines, negative for all, 0 for none.
    pub(crate) fn set_max_height(&mut self, max_height: i32) {
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

    /// Somebody needs a key frame.
    pub(crate) fn request_key(&mut self, encoding: u8) {
        if let Some(encoding) = self.encodings.get_mut(usize::from(encoding)) {
            encoding.needs_key = true;
        }
    }

    /// A packet that was sent and is still known, with its number among retransmissions.
    pub(crate) fn again(&mut self, encoding: u8, sequence: u16) -> Option<(Picture, u16)> {
        let encoding = self.encodings.get_mut(usize::from(encoding))?;
        let number = encoding.number.checked_sub(1)?;
        let back = encoding.sequence_of(number).wrapping_sub(sequence);
        let number = number.checked_sub(u32::from(back))?;
        let found = encoding.kept[number as usize % KEPT];
        if usize::from(back) >= KEPT || found.sequence != sequence || found.len == 0 {
            return None;
        }
        encoding.rtx_sequence = encoding.rtx_sequence.wrapping_add(1);
        Some((found, encoding.rtx_sequence))
    }

    /// Takes the frame that is due; returns how late it is.
    pub(crate) fn on_timeout(
        &mut self,
        now: Instant,
        sent_ns: u64,
        mut packet: impl FnMut(u8, &Picture),
    ) -> Option<Duration> {
        let due = self.next.filter(|due| now >= *due)?;
        // A generator that was held up does not send a burst of old frames.
        self.next = Some((due + FRAME_INTERVAL).max(now));
        self.frame = self.frame.wrapping_add(1);
        let base = Picture {
            stamp: Stamp { source: self.source, frame: self.frame, ..Stamp::default() },
            timestamp: self.frame.wrapping_mul(FRAME_TICKS),
            sent_ns,
            ..Picture::default()
        };
        for (index, encoding) in (0..ENCODINGS).zip(&mut self.encodings) {
            if encoding.active {
                encoding.shoot(now, index, base, &mut packet);
            }
        }
        Some(now.saturating_duration_since(due))
    }
}

impl Encoding {
    fn sequence_of(&self, number: u32) -> u16 {
        self.first_sequence.wrapping_add((number & 0xffff) as u16)
    }

    fn shoot(&mut self, now: Instant, index: u8, mut picture: Picture, packet: &mut impl FnMut(u8, &Picture)) {
        let may = self.last_key.is_none_or(|at| now.saturating_duration_since(at) >= KEY_GAP);
        let key = self.needs_key && may;
        if key {
            self.needs_key = false;
            self.last_key = Some(now);
        }
        self.numbers.picture_id = (self.numbers.picture_id + 1) & 0x7fff;
        self.numbers.tl0 = self.numbers.tl0.wrapping_add(1);
        let len = FRAME_LENS[usize::from(index)] * if key { KEY_FACTOR } else { 1 };
        let count = len.div_ceil(PAYLOAD_MAX).clamp(1, 200);
        for part in 0..count {
            picture.numbers = self.numbers;
            picture.stamp.encoding = index;
            picture.stamp.key = key;
            picture.stamp.index = part as u8;
            picture.stamp.count = count as u8;
            picture.stamp.number = self.number;
            picture.sequence = self.sequence_of(self.number);
            picture.len = (len / count).clamp(PAYLOAD_MIN, PAYLOAD_MAX);
            self.kept[self.number as usize % KEPT] = picture;
            packet(index, &picture);
            self.number = self.number.wrapping_add(1);
        }
    }
}

/// Packets of somebody who speaks.
const SPEECH_INTERVAL: Duration = Duration::from_millis(20);
/// Packets of somebody who does not: comfort noise, as with DTX.
const SILENCE_INTERVAL: Duration = Duration::from_millis(400);

/// One microphone.
#[derive(Debug)]
pub(crate) struct Voice {
    pub(crate) speaking: bool,
    next: Option<Instant>,
    count: u32,
}

impl Voice {
    /// A microphone that rests until [`Voice::start`].
    pub(crate) fn new(speaking: bool) -> Self {
        Self { speaking, next: None, count: 0 }
    }

    /// Says the first packet at this time.
    pub(crate) fn start(&mut self, at: Instant) {
        self.next = Some(at);
    }

    /// Says nothing any more.
    pub(crate) fn stop(&mut self) {
        self.next = None;
    }

    /// When the next packet is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The number of the packet that is due, if one is.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Option<u32> {
        let due = self.next.filter(|due| now >= *due)?;
        self.next = Some((due + if self.speaking { SPEECH_INTERVAL } else { SILENCE_INTERVAL }).max(now));
        let number = self.count;
        self.count = self.count.wrapping_add(1);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_each_encoding_starts_with_a_key_and_can_be_sent_again() {
        let (mut camera, start) = (Camera::new(5), Instant::now());
        camera.start(start);
        let mut sent = Vec::new();
        for frame in 0..3 {
            camera.on_timeout(start + FRAME_INTERVAL * frame, 9, |encoding, picture| sent.push((encoding, *picture)));
        }
        let of = |key| sent.iter().filter(|(n, p)| *n == 2 && p.stamp.key == key).count();
        assert_eq!((of(true), of(false)), (41, 14));
        let (_, wanted) = sent.iter().find(|(n, p)| *n == 1 && p.stamp.number == 3).unwrap();
        let (found, rtx) = camera.again(1, wanted.sequence).unwrap();
        assert_eq!((found.stamp, rtx), (wanted.stamp, 1));
        assert!(camera.again(1, wanted.sequence.wrapping_sub(100)).is_none());
        assert!(camera.again(1, wanted.sequence.wrapping_add(100)).is_none());
    }

    #[test]
    fn encodings_that_nobody_wants_rest() {
        let (mut camera, start) = (Camera::new(5), Instant::now());
        camera.start(start);
        camera.set_max_height(360);
        let mut seen = [0; 3];
        camera.on_timeout(start, 0, |encoding, _| seen[usize::from(encoding)] += 1);
        assert!(seen[0] > 0 && seen[1] > 0 && seen[2] == 0, "{seen:?}");
    }
}
