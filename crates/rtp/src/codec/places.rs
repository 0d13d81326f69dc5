//! Where the numbers stand in a payload that a forwarder moves on, and by how much it moves them.

/// By how much a receiver's stream differs from the incoming one since its last switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shifts {
    /// Added to the picture id, modulo its size.
    pub picture_id_by: u16,
    /// Added to TL0PICIDX, modulo 2⁸.
    pub tl0_by: u8,
    /// Added to the dependency descriptor's frame number, modulo 2¹⁶.
    pub frame_number_by: u16,
    /// Added to the dependency descriptor's template ids, modulo 2⁶.
    pub template_id_by: u8,
}

/// Where picture id and TL0PICIDX stand in a payload of VP8 or VP9. Found once on arrival, used for every receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Places {
    /// Offset of the picture id; 0 for none, because a payload never begins with one.
    picture_id: u8,
    /// 15 bits instead of 7.
    long: bool,
    /// Offset of TL0PICIDX; 0 for none.
    tl0: u8,
}

impl Places {
    pub(crate) fn new(picture_id: Option<(usize, bool)>, tl0: Option<usize>) -> Self {
        let small = |offset: usize| u8::try_from(offset).unwrap_or(0);
        let (offset, long) = picture_id.unwrap_or_default();
        Self { picture_id: small(offset), long, tl0: tl0.map_or(0, small) }
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.picture_id == 0 && self.tl0 == 0
    }

    /// Bits of the picture id: 7 or 15, or 0 without one.
    pub fn picture_id_bits(&self) -> u32 {
        match (self.picture_id, self.long) {
            (0, _) => 0,
            (_, false) => 7,
            (_, true) => 15,
        }
    }

    /// Moves picture id and TL0PICIDX of a copy of the payload in place, modulo their sizes. Touches nothing outside of
    /// it.
    pub fn shift(&self, payload_copy: &mut [u8], picture_id_by: u16, tl0_by: u8) {
        let at = usize::from(self.picture_id);
        if at > 0 && self.long {
            if let Some(id) = payload_copy.get_mut(at..at + 2) {
                let value = u16::from_be_bytes([id[0], id[1]]).wrapping_add(picture_id_by);
                id.copy_from_slice(&(value | 0x8000).to_be_bytes());
            }
        } else if at > 0
            && let Some(id) = payload_copy.get_mut(at)
        {
            *id = id.wrapping_add(picture_id_by.to_be_bytes()[1]) & 0x7f;
        }
        if self.tl0 > 0
            && let Some(tl0) = payload_copy.get_mut(usize::from(self.tl0))
        {
            *tl0 = tl0.wrapping_add(tl0_by);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{vp8, vp9};
    use super::*;

    #[test]
    fn numbers_move_modulo_their_sizes_and_their_flags_stay() {
        let mut long = [0x90, 0xc0, 0xff, 0xff, 255];
        Places::new(Some((2, true)), Some(4)).shift(&mut long, 2, 3);
        assert_eq!(long, [0x90, 0xc0, 0x80, 0x01, 2]);
        let mut short = [0x90, 0x80, 0x7f];
        Places::new(Some((2, false)), None).shift(&mut short, 0x7f02, 9);
        assert_eq!(short, [0x90, 0x80, 0x01]);
    }

    #[test]
    fn a_copy_that_is_too_short_is_left_alone() {
        let mut short = [1, 2, 3];
        Places::new(Some((2, true)), Some(4)).shift(&mut short, 2, 3);
        assert_eq!(short, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn moved_numbers_are_read_back(bytes in prop::collection::vec(any::<u8>(), 1..40), id_by: u16, tl0_by: u8) {
            let mut copy = bytes.clone();
            if let Some(found) = vp8::Descriptor::parse(&bytes) {
                found.places().shift(&mut copy, id_by, tl0_by);
                let moved = vp8::Descriptor::parse(&copy).unwrap();
                let size = 1u32 << found.places().picture_id_bits();
                let expected = found.picture_id.map(|id| (u32::from(id.value) + u32::from(id_by)) % size);
                prop_assert_eq!(moved.picture_id.map(|id| u32::from(id.value)), expected);
                let expected = found.tl0_pic_idx.map(|(value, at)| (value.wrapping_add(tl0_by), at));
                prop_assert_eq!(moved.tl0_pic_idx, expected);
                let rest = (moved.len, moved.temporal_id, moved.layer_sync, moved.places());
                prop_assert_eq!(rest, (found.len, found.temporal_id, found.layer_sync, found.places()));
                prop_assert_eq!(&copy[found.len..], &bytes[found.len..]);
            }
            let mut copy = bytes.clone();
            if let Some(found) = vp9::Descriptor::parse(&bytes) {
                found.places().shift(&mut copy, id_by, tl0_by);
                let moved = vp9::Descriptor::parse(&copy).unwrap();
                let size = 1u32 << found.places().picture_id_bits();
                let picture_id = found.picture_id.map(|(value, at, long)| {
                    (((u32::from(value) + u32::from(id_by)) % size).try_into().unwrap(), at, long)
                });
                let tl0_pic_idx = found.tl0_pic_idx.map(|(value, at)| (value.wrapping_add(tl0_by), at));
                prop_assert_eq!(moved, vp9::Descriptor { picture_id, tl0_pic_idx, ..found });
                prop_assert_eq!(&copy[found.len..], &bytes[found.len..]);
            }
        }
    }
}
