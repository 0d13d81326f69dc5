//! H.264 payloads (RFC 6184): parameter sets in a STAP-A, slices whole or in FU-A.

use super::{HEIGHTS, LayerFrame, Meta, Part, Received, WIDTHS, stamp_at};
use crate::bits::BitWriter;
use crate::stamp::STAMP_LEN;

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// `nal_ref_idc` of everything that others need.
const NEEDED: u8 = 3 << 5;

pub(super) fn write(frame: &LayerFrame, part: Part, size: usize, out: &mut Vec<u8>) {
    // The slice starts behind the packet of parameter sets.
    let before = usize::from(frame.key);
    if part.index < before {
        return write_parameter_sets(size, out);
    }
    let (index, count) = (part.index - before, part.count - before);
    let kind = if frame.key { IDR } else { SLICE };
    let needed = if frame.temporal == 2 { 0 } else { NEEDED };
    if count == 1 {
        return out.push(needed | kind);
    }
    let (start, end) = (u8::from(index == 0) << 7, u8::from(index + 1 == count) << 6);
    out.extend([needed | FU_A, start | end | kind]);
}

/// SPS, PPS and an SEI whose body is the stamp that follows.
fn write_parameter_sets(size: usize, out: &mut Vec<u8>) {
    let sps = sequence_parameters(WIDTHS[size.min(2)], HEIGHTS[size.min(2)]);
    out.push(NEEDED | STAP_A);
    for unit in [&sps[..], &[NEEDED | PPS, 0xce, 0x3c, 0x80]] {
        out.extend(u16::try_from(unit.len()).unwrap_or(0).to_be_bytes());
        out.extend(unit);
    }
    out.extend(u16::try_from(1 + STAMP_LEN).unwrap_or(0).to_be_bytes());
    out.push(SEI);
}

/// Constrained baseline, level 3.1, of this size (H.264 §7.3.2.1.1).
fn sequence_parameters(width: u16, height: u16) -> Vec<u8> {
    let mut bits = BitWriter::default();
    [NEEDED | SPS, 0x42, 0xe0, 0x1f].into_iter().for_each(|byte| bits.put(byte.into(), 8));
    let blocks = (u32::from(width).div_ceil(16), u32::from(height).div_ceil(16));
    let cropped = (16 * blocks.1 - u32::from(height)) / 2; // in units of two lines
    // id, log2_max_frame_num − 4, order count type, reference frames
    [0, 0, 2, 1].into_iter().for_each(|value| bits.put_exp_golomb(value));
    bits.put(0, 1); // no gaps in frame numbers
    bits.put_exp_golomb(blocks.0 - 1);
    bits.put_exp_golomb(blocks.1 - 1);
    bits.put(0b11, 2); // whole frames, 8×8 inference
    bits.put(u32::from(cropped > 0), 1);
    if cropped > 0 {
        [0, 0, 0, cropped].into_iter().for_each(|value| bits.put_exp_golomb(value));
    }
    bits.put(0b01, 2); // no VUI; stop bit
    bits.into_bytes()
}

pub(super) fn read(payload: &[u8]) -> Option<Received> {
    let kind = payload.first()? & 0x1f;
    let (at, starts, key) = match kind {
        STAP_A => (payload.len().checked_sub(STAMP_LEN)?, true, true),
        FU_A => {
            let header = *payload.get(1)?;
            // The slice of a key frame comes behind its parameter sets.
            (2, header & 0x80 != 0 && header & 0x1f != IDR, false)
        }
        _ => (1, kind != IDR, false),
    };
    let stamp = stamp_at(payload, at)?;
    Some(Received { stamp, starts, ends: None, key, meta: Meta::Sequence, described: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_set_is_one_that_decoders_know() {
        // 1280×720 needs no cropping: 80×45 macroblocks.
        let sps = sequence_parameters(1280, 720);
        assert_eq!(sps[..4], [0x67, 0x42, 0xe0, 0x1f]);
        // 1 1 011 010 0 | ue(79) 0000001010000 | ue(44) 00000101101 | 11 0 0 1
        let bits: String = sps[4..].iter().map(|byte| format!("{byte:08b}")).collect();
        assert!(bits.starts_with("11011010000000010100000000010110111001"), "{bits}");
    }
}
