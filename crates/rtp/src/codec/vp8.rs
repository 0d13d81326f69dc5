//! The VP8 payload descriptor (RFC 7741 §4.2) and the first bytes of a frame (RFC 6386 §9.1).

use super::FrameInfo;

/// Where things stand in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Length of the descriptor in bytes.
    pub len: usize,
    /// First packet of the frame's first partition.
    pub starts_frame: bool,
    /// The picture id, 7 or 15 bits.
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX and its offset.
    pub tl0_pic_idx: Option<(u8, usize)>,
    /// Temporal layer.
    pub temporal_id: Option<u8>,
}

/// A picture id in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureId {
    /// Its value.
    pub value: u16,
    /// Whether it has 15 bits.
    pub long: bool,
    offset: usize,
}

impl Descriptor {
    /// Reads a descriptor; `None` when the payload is too short for what it says.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut at = 1;
        let (mut picture_id, mut tl0_pic_idx, mut temporal_id) = (None, None, None);
        if first & 0x80 != 0 {
            let flags = *payload.get(at)?;
            at += 1;
            if flags & 0x80 != 0 {
                let byte = *payload.get(at)?;
                let long = byte & 0x80 != 0;
                let value =
                    if long { u16::from_be_bytes([byte & 0x7f, *payload.get(at + 1)?]) } else { u16::from(byte) };
                picture_id = Some(PictureId { value, long, offset: at });
                at += if long { 2 } else { 1 };
            }
            if flags & 0x40 != 0 {
                tl0_pic_idx = Some((*payload.get(at)?, at));
                at += 1;
            }
            if flags & 0x30 != 0 {
                let byte = *payload.get(at)?;
                temporal_id = (flags & 0x20 != 0).then_some(byte >> 6);
                at += 1;
            }
        }
        if at > payload.len() {
            return None;
        }
        Some(Self { len: at, starts_frame: first & 0x17 == 0x10, picture_id, tl0_pic_idx, temporal_id })
    }

    /// Key frame and its height: the frame tag's lowest bit is 0, the start code follows, then width and height.
    pub fn frame_info(&self, payload: &[u8]) -> FrameInfo {
        let frame = &payload[self.len..];
        let keyframe = self.starts_frame && frame.first().is_some_and(|tag| tag & 1 == 0);
        let height = match frame.get(..10) {
            Some(head) if keyframe && head[3..6] == [0x9d, 0x01, 0x2a] => {
                Some(u16::from_le_bytes([head[8], head[9]]) & 0x3fff)
            }
            _ => None,
        };
        FrameInfo { starts_frame: self.starts_frame, starts_keyframe: keyframe, height }
    }

    /// Moves picture id and TL0PICIDX of a copy of the payload by these amounts, modulo their sizes.
    pub fn shift(&self, payload: &mut [u8], picture_id_by: u16, tl0_by: u8) {
        if let Some(id) = self.picture_id {
            if id.long {
                let value = id.value.wrapping_add(picture_id_by) & 0x7fff;
                payload[id.offset..id.offset + 2].copy_from_slice(&(value | 0x8000).to_be_bytes());
            } else {
                payload[id.offset] = u8::try_from(id.value.wrapping_add(picture_id_by) & 0x7f).unwrap_or(0);
            }
        }
        if let Some((value, offset)) = self.tl0_pic_idx {
            payload[offset] = value.wrapping_add(tl0_by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X, S; I, L, T; 15-bit picture id 0x1234; TL0PICIDX 9; temporal layer 1; key frame 640×360.
    const PACKET: [u8; 16] = [0x90, 0xe0, 0x92, 0x34, 9, 0x40, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01];

    #[test]
    fn a_key_frame_tells_its_height() {
        let descriptor = Descriptor::parse(&PACKET).unwrap();
        assert_eq!((descriptor.len, descriptor.temporal_id), (6, Some(1)));
        assert_eq!(descriptor.picture_id.unwrap().value, 0x1234);
        let info = descriptor.frame_info(&PACKET);
        assert_eq!(info, FrameInfo { starts_frame: true, starts_keyframe: true, height: Some(360) });
    }

    #[test]
    fn ids_are_moved_in_place() {
        let mut copy = PACKET;
        Descriptor::parse(&PACKET).unwrap().shift(&mut copy, 0x7fff, 250);
        let moved = Descriptor::parse(&copy).unwrap();
        assert_eq!(moved.picture_id.unwrap().value, 0x1233);
        assert_eq!(moved.tl0_pic_idx.unwrap().0, 3);
    }

    #[test]
    fn truncation_is_refused() {
        for len in 0..6 {
            assert!(Descriptor::parse(&PACKET[..len]).is_none(), "{len}");
        }
    }
}
