//! The AV1 aggregation header (AV1 RTP payload specification, 4.4): enough to find key frames.

use super::FrameInfo;
use crate::extension::DependencyDescriptor;

/// Looks at one payload. The N bit says that a coded video sequence starts here; a descriptor with templates says the same.
pub fn inspect(payload: &[u8], descriptor: Option<DependencyDescriptor>) -> FrameInfo {
    let Some(first) = payload.first() else { return FrameInfo::default() };
    let continues = first & 0x80 != 0;
    let starts_sequence = first & 0x08 != 0;
    match descriptor {
        Some(descriptor) => FrameInfo {
            starts_frame: descriptor.start_of_frame,
            starts_keyframe: descriptor.start_of_frame && (descriptor.has_structure || starts_sequence),
            height: None,
        },
        None => FrameInfo { starts_frame: !continues, starts_keyframe: !continues && starts_sequence, height: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_sequence_is_a_key_frame() {
        assert!(inspect(&[0x18], None).starts_keyframe);
        assert!(!inspect(&[0x98], None).starts_keyframe);
        let descriptor = DependencyDescriptor::parse(&[0x80, 0, 1, 0x80]);
        assert!(inspect(&[0x10], descriptor).starts_keyframe);
    }
}
