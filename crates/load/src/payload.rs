//! What stands in a synthetic packet: whose and which it is, when it was sent, and a sum over all of it.
//!
//! A payload can be made again from its [`Stamp`] and time, so a sender keeps no packets for retransmission.

use tertulia_rtp::codec::vp8;

/// Heights of the encodings, lowest first, as Jitsi's clients send them for 720p.
pub(crate) const HEIGHTS: [u16; 3] = [180, 360, 720];
/// 16:9.
const WIDTHS: [u16; 3] = [320, 640, 1280];
/// VP8's payload descriptor with 15-bit picture id, TL0PICIDX and TID/KEYIDX (RFC 7741 §4.2).
const DESCRIPTOR_LEN: usize = 6;
/// The frame tag, and what follows it in a key frame (RFC 6386 §9.1).
const DELTA_HEADER_LEN: usize = 3;
const KEY_HEADER_LEN: usize = 10;
/// CELT, 20 ms, mono, one frame (RFC 6716 §3.1).
const OPUS_HEADER: u8 = 0xf8;
const STAMP_LEN: usize = 20;
/// The sum, then the time.
pub(crate) const TRAILER_LEN: usize = 16;
/// Smallest payload in which everything has room.
pub(crate) const PAYLOAD_MIN: usize = DESCRIPTOR_LEN + KEY_HEADER_LEN + STAMP_LEN + TRAILER_LEN;
const MAGIC: u32 = 0x7e27_011a;

/// Which packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    /// Number of the person who sends it.
    pub(crate) source: u32,
    /// Which simulcast encoding; [`Stamp::AUDIO`] for sound.
    pub(crate) encoding: u8,
    /// Place in the frame.
    pub(crate) index: u8,
    /// Packets of the frame.
    pub(crate) count: u8,
    /// Part of a key frame.
    pub(crate) key: bool,
    /// Counts frames, the same for all encodings of a moment.
    pub(crate) frame: u32,
    /// Counts packets of the encoding.
    pub(crate) number: u32,
}

impl Stamp {
    /// Stands for the encoding of sound.
    pub(crate) const AUDIO: u8 = 0xff;
}

/// Numbers of VP8's descriptor.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PictureNumbers {
    pub(crate) picture_id: u16,
    pub(crate) tl0: u8,
}

/// Fills `out` with a packet of a picture; it has at least [`PAYLOAD_MIN`] bytes.
pub(crate) fn write_video(out: &mut [u8], stamp: &Stamp, numbers: PictureNumbers, sent_ns: u64) {
    let starts = stamp.index == 0;
    out[0] = if starts { 0x90 } else { 0x80 }; // X, and S for the first of a frame
    out[1] = 0xf0; // I, L, T, K
    out[2..4].copy_from_slice(&(numbers.picture_id | 0x8000).to_be_bytes());
    out[4] = numbers.tl0;
    out[5] = 0; // layer 0, key index 0
    let mut at = DESCRIPTOR_LEN;
    if starts {
        out[at..at + DELTA_HEADER_LEN].copy_from_slice(&[u8::from(!stamp.key) | 0x10, 0, 0]);
        if stamp.key {
            let size = usize::from(stamp.encoding.min(2));
            out[at + 3..at + 6].copy_from_slice(&[0x9d, 0x01, 0x2a]);
            out[at + 6..at + 8].copy_from_slice(&WIDTHS[size].to_le_bytes());
            out[at + 8..at + 10].copy_from_slice(&HEIGHTS[size].to_le_bytes());
        }
        at += header_len(starts, stamp.key);
    }
    write_body(&mut out[at..], stamp, sent_ns);
}

/// Fills `out` with a packet of sound.
pub(crate) fn write_audio(out: &mut [u8], stamp: &Stamp, sent_ns: u64) {
    out[0] = OPUS_HEADER;
    write_body(&mut out[1..], stamp, sent_ns);
}

/// Reads a packet of a picture; `None` when it is none of ours, or damaged.
pub(crate) fn read_video(payload: &[u8]) -> Option<(Stamp, u64)> {
    let descriptor = vp8::Descriptor::parse(payload)?;
    let body = payload.get(descriptor.len..)?;
    let key = descriptor.starts_frame && body.first().is_some_and(|tag| tag & 1 == 0);
    read_body(body.get(header_len(descriptor.starts_frame, key)..)?)
}

/// Reads a packet of sound; as [`read_video`].
pub(crate) fn read_audio(payload: &[u8]) -> Option<(Stamp, u64)> {
    read_body(payload.get(1..)?)
}

/// When a packet was sent: its last bytes, whatever stands before them.
pub(crate) fn sent_ns(payload: &[u8]) -> Option<u64> {
    payload.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

fn header_len(starts_frame: bool, key: bool) -> usize {
    match (starts_frame, key) {
        (false, _) => 0,
        (true, false) => DELTA_HEADER_LEN,
        (true, true) => KEY_HEADER_LEN,
    }
}

fn write_body(out: &mut [u8], stamp: &Stamp, sent_ns: u64) {
    out[..4].copy_from_slice(&MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&stamp.source.to_be_bytes());
    out[8..12].copy_from_slice(&[stamp.encoding, stamp.index, stamp.count, u8::from(stamp.key)]);
    out[12..16].copy_from_slice(&stamp.frame.to_be_bytes());
    out[16..20].copy_from_slice(&stamp.number.to_be_bytes());
    let end = out.len() - TRAILER_LEN;
    // Other bytes in each packet, so that a mix-up shows in the sum.
    let from = stamp.number as usize * 61 % (PATTERN.len() / 2);
    out[STAMP_LEN..end].copy_from_slice(&PATTERN[from..from + end - STAMP_LEN]);
    let sum = sum(&out[..end]);
    out[end..end + 8].copy_from_slice(&sum.to_be_bytes());
    out[end + 8..].copy_from_slice(&sent_ns.to_be_bytes());
}

fn read_body(body: &[u8]) -> Option<(Stamp, u64)> {
    let (whole, trailer) = body.split_last_chunk::<TRAILER_LEN>()?;
    let head = whole.first_chunk::<STAMP_LEN>()?;
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let long = |at: usize| trailer[at..at + 8].iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
    if word(0) != MAGIC || long(0) != sum(whole) {
        return None;
    }
    let [encoding, index, count, key] = [head[8], head[9], head[10], head[11]];
    let stamp = Stamp { source: word(4), encoding, index, count, key: key != 0, frame: word(12), number: word(16) };
    Some((stamp, long(8)))
}

/// A sum over bytes in four lanes: every packet is authenticated already, this finds mix-ups and costs a tenth of the
/// decryption.
fn sum(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [1u64, 2, 3, 4];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER).rotate_left(29);
        }
    }
    let rest = chunks
        .remainder()
        .iter()
        .fold(bytes.len() as u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(MULTIPLIER));
    lanes.iter().fold(rest, |sum, lane| (sum ^ lane).wrapping_mul(MULTIPLIER).rotate_left(31))
}

const PATTERN: [u8; 4096] = pattern();

const fn pattern() -> [u8; 4096] {
    let (mut bytes, mut state, mut at) = ([0; 4096], 1u64, 0);
    while at < bytes.len() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes[at] = (state >> 56) as u8;
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(index: u8, key: bool) -> Stamp {
        Stamp { source: 7, encoding: 2, index, count: 3, key, frame: 9, number: 1_000_000 }
    }

    #[test]
    fn a_packet_says_what_it_is_and_when_it_was_sent() {
        for (index, key) in [(0, true), (0, false), (1, true), (1, false)] {
            let mut payload = vec![0; 1_100];
            write_video(&mut payload, &stamp(index, key), PictureNumbers { picture_id: 5, tl0: 6 }, 77);
            assert_eq!(read_video(&payload), Some((stamp(index, key), 77)));
        }
        let mut payload = vec![0; 80];
        write_audio(&mut payload, &stamp(0, false), 78);
        assert_eq!((read_audio(&payload), sent_ns(&payload)), (Some((stamp(0, false), 78)), Some(78)));
    }

    #[test]
    fn damage_anywhere_is_noticed_and_a_moved_picture_id_is_none() {
        let mut payload = vec![0; 200];
        write_video(&mut payload, &stamp(1, false), PictureNumbers { picture_id: 5, tl0: 6 }, 77);
        for at in DESCRIPTOR_LEN..payload.len() - 8 {
            let mut damaged = payload.clone();
            damaged[at] ^= 4;
            assert_eq!(read_video(&damaged), None, "byte {at}");
        }
        payload[3] ^= 1;
        assert!(read_video(&payload).is_some());
    }
}
