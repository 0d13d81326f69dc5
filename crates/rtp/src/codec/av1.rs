//! The AV1 aggregation header (AV1 RTP payload specification, 4.4): what is known of a packet without a dependency
//! descriptor.

use super::FrameInfo;
use super::layer::LayerMask;

/// Looks at one payload. N says that a coded video sequence starts with the packet, Z that it begins inside of an OBU.
pub(crate) fn inspect(payload: &[u8], marker: bool) -> FrameInfo {
    let Some(first) = payload.first() else { return FrameInfo::unknown(marker) };
    let starts_frame = first & 0x80 == 0;
    FrameInfo {
        starts_frame,
        starts_keyframe: starts_frame && first & 0x08 != 0,
        switchable: LayerMask::ALL,
        decodable: LayerMask::ALL,
        crossing: LayerMask::ALL,
        ..FrameInfo::unknown(marker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_sequence_is_a_key_frame() {
        assert!(inspect(&[0x18], false).starts_keyframe);
        assert!(!inspect(&[0x98], false).starts_keyframe, "in the middle of an OBU");
        let delta = inspect(&[0x10], true);
        assert!(delta.starts_frame && !delta.starts_keyframe && delta.ends_frame);
        assert_eq!(inspect(&[], true), FrameInfo::unknown(true));
    }
}
