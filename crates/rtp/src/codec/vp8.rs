//! The VP8 payload descriptor (RFC 7741 §4.2) and the first bytes of a frame (RFC 6386 §9.1).

use super::inspector::Seen;
use super::layer::{self, Layer, LayerMask};
use super::{FrameInfo, Places};

/// What a payload descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Length of the descriptor in bytes.
    pub len: usize,
    /// First packet of the frame's first partition.
    pub starts_frame: bool,
    /// N: nothing refers to the frame.
    pub non_reference: bool,
    /// The picture id, 7 or 15 bits.
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX and its offset.
    pub tl0_pic_idx: Option<(u8, usize)>,
    /// Temporal layer.
    pub temporal_id: Option<u8>,
    /// Y: the frame refers to the base layer only.
    pub layer_sync: bool,
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
        let mut own = Self {
            len: 1,
            starts_frame: first & 0x17 == 0x10,
            non_reference: first & 0x20 != 0,
            picture_id: None,
            tl0_pic_idx: None,
            temporal_id: None,
            layer_sync: false,
        };
        if first & 0x80 == 0 {
            return Some(own);
        }
        let flags = *payload.get(1)?;
        own.len = 2;
        if flags & 0x80 != 0 {
            let byte = *payload.get(own.len)?;
            let long = byte & 0x80 != 0;
            let value =
                if long { u16::from_be_bytes([byte & 0x7f, *payload.get(own.len + 1)?]) } else { u16::from(byte) };
            own.picture_id = Some(PictureId { value, long, offset: own.len });
            own.len += if long { 2 } else { 1 };
        }
        if flags & 0x40 != 0 {
            own.tl0_pic_idx = Some((*payload.get(own.len)?, own.len));
            own.len += 1;
        }
        if flags & 0x30 != 0 {
            let byte = *payload.get(own.len)?;
            own.temporal_id = (flags & 0x20 != 0).then_some(byte >> 6);
            own.layer_sync = flags & 0x20 != 0 && byte & 0x20 != 0;
            own.len += 1;
        }
        Some(own)
    }

    /// Where the numbers stand that a forwarder moves.
    pub fn places(&self) -> Places {
        Places::new(self.picture_id.map(|id| (id.offset, id.long)), self.tl0_pic_idx.map(|(_, offset)| offset))
    }

    /// Whether a key frame starts here, and its smaller dimension. The frame tag's lowest bit is 0, then come the start
    /// code, width and height; clients that encrypt leave these ten bytes in the clear.
    pub fn keyframe(&self, payload: &[u8]) -> (bool, Option<u16>) {
        let frame = payload.get(self.len..).unwrap_or(&[]);
        let is_key = self.starts_frame && frame.first().is_some_and(|tag| tag & 1 == 0);
        match frame.get(..10) {
            Some(head) if is_key && head[3..6] == [0x9d, 0x01, 0x2a] => {
                let size = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]) & 0x3fff;
                (true, Some(size(6).min(size(8))))
            }
            Some(_) => (false, None),
            None => (is_key, None),
        }
    }
}

/// Looks at one payload.
pub(crate) fn inspect(payload: &[u8], marker: bool, seen: &mut Seen) -> FrameInfo {
    let Some(descriptor) = Descriptor::parse(payload) else { return FrameInfo::unknown(marker) };
    let (starts_keyframe, height) = descriptor.keyframe(payload);
    if starts_keyframe {
        seen.begin();
    }
    let numbers = FrameInfo {
        starts_frame: descriptor.starts_frame,
        starts_keyframe,
        height,
        discardable: descriptor.non_reference,
        picture: descriptor.picture_id.map(|id| id.value),
        tl0: descriptor.tl0_pic_idx.map(|(value, _)| value),
        places: descriptor.places(),
        crossing: LayerMask::ALL, // all pictures are of one size
        ..FrameInfo::unknown(marker)
    };
    let temporal = descriptor.temporal_id.unwrap_or(0);
    seen.note(Layer::new(0, temporal));
    let rates = |bits: u8| LayerMask::product(0xff, bits);
    if descriptor.temporal_id.is_none() || starts_keyframe {
        let layer = Layer::new(0, temporal);
        return FrameInfo { layer, switchable: LayerMask::ALL, decodable: LayerMask::ALL, ..numbers };
    }
    // With Y the frame needs the base layer only. Coming from further below than one layer, the frames between would be
    // missing.
    let is_base = temporal == 0 || descriptor.layer_sync;
    FrameInfo {
        layer: Layer::new(0, temporal),
        present: rates(layer::from(temporal)),
        decodable: rates(layer::from(if is_base { temporal.saturating_sub(1) } else { temporal })),
        switchable: rates(seen.rates_begun_by(temporal)),
        ..numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X, S; I, L, T; 15-bit picture id 0x1234; TL0PICIDX 9; temporal layer 1; key frame 640×360.
    const PACKET: [u8; 16] = [0x90, 0xe0, 0x92, 0x34, 9, 0x40, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01];

    /// X, S, perhaps N; L, T; TL0PICIDX 0; temporal layer, perhaps Y; a frame tag that is no key frame's.
    fn delta(temporal: u8, sync: bool, non_reference: bool) -> [u8; 5] {
        let (sync, non_reference) = (u8::from(sync) << 5, u8::from(non_reference) << 5);
        [0x90 | non_reference, 0x60, 0, temporal << 6 | sync, 1]
    }

    #[test]
    fn a_key_frame_tells_its_height_and_is_for_everybody() {
        let info = inspect(&PACKET, false, &mut Seen::default());
        assert!(info.starts_frame && info.starts_keyframe && !info.ends_frame && !info.discardable);
        assert_eq!((info.height, info.picture, info.tl0), (Some(360), Some(0x1234), Some(9)));
        assert_eq!((info.present, info.switchable), (LayerMask::ALL, LayerMask::ALL));
    }

    #[test]
    fn a_portrait_picture_is_as_tall_as_its_width() {
        let mut portrait = PACKET;
        portrait[12..].copy_from_slice(&[0x68, 0x01, 0x80, 0x02]);
        assert_eq!(inspect(&portrait, false, &mut Seen::default()).height, Some(360));
    }

    #[test]
    fn encrypted_bytes_that_look_like_a_key_frame_are_none() {
        let mut encrypted = PACKET;
        encrypted[9] ^= 1;
        assert!(!inspect(&encrypted, false, &mut Seen::default()).starts_keyframe);
    }

    #[test]
    fn each_receiver_needs_its_own_temporal_layer_and_those_below() {
        let mut seen = Seen::default();
        for (temporal, needed) in [(0, [true, true, true]), (1, [false, true, true]), (2, [false, false, true])] {
            let info = inspect(&delta(temporal, false, temporal == 2), true, &mut seen);
            assert_eq!([0, 1, 2].map(|t| info.present.contains(Layer::new(0, t))), needed, "{temporal}");
            assert_eq!(info.discardable, temporal == 2);
            assert!(info.ends_frame && !info.starts_keyframe);
        }
    }

    #[test]
    fn a_receiver_goes_up_by_one_at_a_frame_that_needs_the_base_layer_only() {
        let mut seen = Seen::default();
        let layers = [0, 1, 2].map(|t| Layer::new(0, t));
        let mut at = |temporal, sync| inspect(&delta(temporal, sync, false), true, &mut seen);
        at(2, false);
        assert!(!at(1, false).allows(Some(layers[0]), layers[1]));
        assert!(at(1, true).allows(Some(layers[0]), layers[1]));
        assert!(!at(2, true).allows(Some(layers[0]), layers[2]));
        assert!(at(2, true).allows(Some(layers[1]), layers[2]));
        assert!(at(2, false).allows(Some(layers[2]), layers[1]), "down at any frame");
        assert_eq!(at(1, true).towards(Some(layers[0]), layers[2]), Some(layers[1]));
        let above = Layer::new(0, 7);
        assert_eq!(at(2, true).towards(Some(layers[1]), above), Some(above), "there is no more");
    }

    #[test]
    fn without_layers_everything_is_for_everybody() {
        let info = inspect(&[0x10, 1], false, &mut Seen::default());
        assert_eq!((info.present, info.switchable, info.layer), (LayerMask::ALL, LayerMask::ALL, Layer::LOWEST));
        assert!(info.places.is_empty());
    }

    #[test]
    fn ids_are_moved_in_place() {
        let mut copy = PACKET;
        Descriptor::parse(&PACKET).unwrap().places().shift(&mut copy, 0x7fff, 250);
        let moved = Descriptor::parse(&copy).unwrap();
        assert_eq!(moved.picture_id.unwrap().value, 0x1233);
        assert_eq!(moved.tl0_pic_idx.unwrap().0, 3);
    }

    #[test]
    fn truncation_is_refused() {
        for len in 0..6 {
            assert!(Descriptor::parse(&PACKET[..len]).is_none(), "{len}");
            assert_eq!(inspect(&PACKET[..len], true, &mut Seen::default()), FrameInfo::unknown(true));
        }
    }
}
