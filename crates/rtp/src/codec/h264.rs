//! H.264 payloads (RFC 6184 §5): enough to find key frames.

use super::FrameInfo;

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Looks at one payload: a key frame starts at a sequence parameter set, or at an IDR slice that comes without one.
pub fn inspect(payload: &[u8]) -> FrameInfo {
    let Some(first) = payload.first() else { return FrameInfo::default() };
    let (starts_frame, starts_keyframe) = match first & 0x1f {
        STAP_A => (true, aggregated(&payload[1..]).any(|kind| kind == SPS || kind == IDR)),
        FU_A => {
            let header = payload.get(1).copied().unwrap_or(0);
            let starts = header & 0x80 != 0;
            (starts, starts && header & 0x1f == IDR)
        }
        kind => (true, kind == SPS || kind == IDR),
    };
    FrameInfo { starts_frame, starts_keyframe, height: None }
}

/// Types of the units in a STAP-A; ends at the first that is cut off.
fn aggregated(mut units: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_be_bytes([*units.first()?, *units.get(1)?]));
        let unit = units.get(2..2 + len)?;
        units = &units[2 + len..];
        unit.first().map(|header| header & 0x1f)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_sets_and_idr_slices_start_key_frames() {
        assert!(inspect(&[0x67]).starts_keyframe);
        assert!(inspect(&[0x78, 0, 1, 0x67, 0, 1, 0x68]).starts_keyframe);
        assert!(inspect(&[0x7c, 0x85]).starts_keyframe);
        assert!(!inspect(&[0x7c, 0x05]).starts_keyframe);
        assert!(!inspect(&[0x41]).starts_keyframe);
        assert!(!inspect(&[0x78, 9, 9]).starts_keyframe);
    }
}
