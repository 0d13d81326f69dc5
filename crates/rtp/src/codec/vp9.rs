//! The VP9 payload descriptor (RFC 9628 §4.2): enough to find key frames.

use super::FrameInfo;

/// Looks at one payload: a key frame starts where nothing is predicted (P = 0), a frame begins (B) and the spatial layer is the lowest.
pub fn inspect(payload: &[u8]) -> FrameInfo {
    read(payload).unwrap_or_default()
}

fn read(payload: &[u8]) -> Option<FrameInfo> {
    let first = *payload.first()?;
    let (has_id, predicted, has_layers) = (first & 0x80 != 0, first & 0x40 != 0, first & 0x20 != 0);
    let (flexible, begins, has_structure) = (first & 0x10 != 0, first & 0x08 != 0, first & 0x02 != 0);
    let mut at = 1;
    if has_id {
        at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
    }
    let mut spatial = 0;
    if has_layers {
        spatial = (payload.get(at)? >> 1) & 7;
        at += if flexible { 1 } else { 2 };
    }
    if flexible && predicted {
        // At most three reference indices, each saying whether another follows.
        for _ in 0..3 {
            at += 1;
            if payload.get(at - 1)? & 1 == 0 {
                break;
            }
        }
    }
    let starts_keyframe = begins && !predicted && spatial == 0;
    let height = if has_structure && starts_keyframe { highest_layer(payload.get(at..)?) } else { None };
    Some(FrameInfo { starts_frame: begins && spatial == 0, starts_keyframe, height })
}

/// The smaller dimension of the highest spatial layer in a scalability structure that tells resolutions.
fn highest_layer(structure: &[u8]) -> Option<u16> {
    let first = *structure.first()?;
    let layers = usize::from(first >> 5) + 1;
    let last = 1 + 4 * (layers - 1);
    let size = structure.get(last..last + 4).filter(|_| first & 0x10 != 0)?;
    Some(u16::from_be_bytes([size[0], size[1]]).min(u16::from_be_bytes([size[2], size[3]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_frame_with_a_structure_tells_its_height() {
        // I, L, B, V; picture id 5; layer byte, TL0; two layers 320×180, 640×360.
        let packet = [0xaa, 5, 0, 0, 0x30, 1, 64, 0, 180, 2, 128, 1, 104, 0];
        assert_eq!(inspect(&packet), FrameInfo { starts_frame: true, starts_keyframe: true, height: Some(360) });
    }

    #[test]
    fn predicted_frames_and_upper_layers_start_nothing() {
        assert!(!inspect(&[0xe8, 5, 0, 0]).starts_keyframe);
        assert!(!inspect(&[0xa8, 5, 2, 0]).starts_keyframe);
        assert_eq!(inspect(&[]), FrameInfo::default());
    }
}
