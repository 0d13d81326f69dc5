//! The VP9 payload descriptor as bytes say it (RFC 9628 §4.2), and its scalability structure.

use crate::codec::Places;

/// Spatial layers of a structure (N_S has three bits).
const SPATIAL_MAX: usize = 8;
/// References of one frame in flexible mode.
const REFERENCES_MAX: usize = 3;

/// What a payload descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Length of the descriptor in bytes.
    pub len: usize,
    /// P: the frame refers to earlier pictures.
    pub predicted: bool,
    /// B: first packet of a layer's frame.
    pub begins: bool,
    /// E: last packet of a layer's frame.
    pub ends: bool,
    /// Z: frames of higher spatial layers of the same picture do not refer to this one.
    pub not_for_upper: bool,
    /// The picture id with its offset, and whether it has 15 bits.
    pub picture_id: Option<(u16, usize, bool)>,
    /// TL0PICIDX and its offset; non-flexible mode only.
    pub tl0_pic_idx: Option<(u8, usize)>,
    /// The layer, if there are layers.
    pub layer: Option<LayerIndices>,
    /// How many pictures back the frame refers to, in flexible mode; 0 for none.
    pub references: [u8; REFERENCES_MAX],
    /// F: references are told.
    pub flexible: bool,
    /// The scalability structure.
    pub structure: Option<Structure>,
}

/// The layer indices of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerIndices {
    /// TID.
    pub temporal: u8,
    /// SID.
    pub spatial: u8,
    /// U: a receiver of lower temporal layers may go up here.
    pub switching_up: bool,
    /// D: the frame refers to the lower spatial layer of its picture.
    pub inter_layer: bool,
}

/// A scalability structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Structure {
    /// Spatial layers, 1…8.
    pub spatial_count: u8,
    /// Width and height of each, if told; a layer of no size is not sent.
    pub sizes: Option<[(u16, u16); SPATIAL_MAX]>,
    /// The highest temporal layer of the picture group, if there is one.
    pub highest_temporal: Option<u8>,
}

impl Descriptor {
    /// Reads a descriptor; `None` when the payload is too short for what it says.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let flag = |bit: u8| first & bit != 0;
        let mut own = Self {
            len: 1,
            predicted: flag(0x40),
            begins: flag(0x08),
            ends: flag(0x04),
            not_for_upper: flag(0x01),
            picture_id: None,
            tl0_pic_idx: None,
            layer: None,
            references: [0; REFERENCES_MAX],
            flexible: flag(0x10),
            structure: None,
        };
        if flag(0x80) {
            let byte = *payload.get(1)?;
            let long = byte & 0x80 != 0;
            let value = if long { u16::from_be_bytes([byte & 0x7f, *payload.get(2)?]) } else { u16::from(byte) };
            own.picture_id = Some((value, 1, long));
            own.len += if long { 2 } else { 1 };
        }
        if flag(0x20) {
            own.read_layer(payload)?;
        }
        if own.flexible && own.predicted {
            for reference in &mut own.references {
                let byte = *payload.get(own.len)?;
                own.len += 1;
                *reference = byte >> 1;
                if byte & 1 == 0 {
                    break;
                }
            }
        }
        if flag(0x02) {
            let (structure, len) = Structure::parse(payload.get(own.len..)?)?;
            own.structure = Some(structure);
            own.len += len;
        }
        Some(own)
    }

    fn read_layer(&mut self, payload: &[u8]) -> Option<()> {
        let byte = *payload.get(self.len)?;
        self.layer = Some(LayerIndices {
            temporal: byte >> 5,
            switching_up: byte & 0x10 != 0,
            spatial: byte >> 1 & 7,
            inter_layer: byte & 1 != 0,
        });
        self.len += 1;
        if !self.flexible {
            self.tl0_pic_idx = Some((*payload.get(self.len)?, self.len));
            self.len += 1;
        }
        Some(())
    }

    /// Where the numbers stand that a forwarder moves.
    pub fn places(&self) -> Places {
        let picture_id = self.picture_id.map(|(_, offset, long)| (offset, long));
        Places::new(picture_id, self.tl0_pic_idx.map(|(_, offset)| offset))
    }
}

impl Structure {
    /// Reads a structure; returns its length too.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let first = *bytes.first()?;
        let spatial_count = (first >> 5) + 1;
        let mut own = Self { spatial_count, sizes: None, highest_temporal: None };
        let mut at = 1;
        if first & 0x10 != 0 {
            let mut sizes = [(0, 0); SPATIAL_MAX];
            for size in &mut sizes[..usize::from(spatial_count)] {
                let bytes = bytes.get(at..at + 4)?;
                *size = (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]));
                at += 4;
            }
            own.sizes = Some(sizes);
        }
        if first & 0x08 != 0 {
            let pictures = *bytes.get(at)?;
            at += 1;
            for _ in 0..pictures {
                let picture = *bytes.get(at)?;
                own.highest_temporal = own.highest_temporal.max(Some(picture >> 5));
                at += 1 + usize::from(picture >> 2 & 3);
            }
        }
        (at <= bytes.len()).then_some((own, at))
    }

    /// Width and height of a spatial layer, if told.
    pub(super) fn size(&self, spatial: u8) -> Option<(u16, u16)> {
        self.sizes.and_then(|sizes| sizes.get(usize::from(spatial)).copied())
    }

    /// The smaller dimension of a spatial layer.
    pub(super) fn height_of(&self, spatial: u8) -> Option<u16> {
        self.size(spatial).map(|(width, height)| width.min(height)).filter(|height| *height > 0)
    }

    /// The smaller dimension of the highest layer that has one.
    pub(super) fn height(&self) -> Option<u16> {
        (0..self.spatial_count).rev().find_map(|spatial| self.height_of(spatial))
    }
}
