//! What every synthetic packet carries instead of a picture or a sound: enough to tell whose it is, that it is whole, what it needs, and when
//! it was taken.

use tertulia_model::SourceName;

/// Length on the wire.
pub(crate) const STAMP_LEN: usize = 32;
const MAGIC: u32 = 0x7e27_011b;
/// Frames that one frame can need directly.
pub(crate) const REFERENCES_MAX: usize = 3;
/// No reference.
const NONE: u8 = 0xff;

/// Which part of which frame of which source this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Of the name of the source.
    pub(crate) source: u32,
    /// Which simulcast encoding; 0 for sound.
    pub(crate) encoding: u8,
    /// Place of this packet in its frame.
    pub(crate) index: u8,
    /// Packets of the frame, which is one layer of one picture.
    pub(crate) count: u8,
    /// Spatial layer inside the encoding.
    pub(crate) spatial: u8,
    /// Temporal layer.
    pub(crate) temporal: u8,
    /// Counts up by one a picture, the same for all encodings and layers of a moment.
    pub(crate) frame: u32,
    /// What has to be decoded before.
    pub(crate) references: [Option<Reference>; REFERENCES_MAX],
    /// When it was taken, in microseconds of a clock that sender and receiver share.
    pub(crate) captured_us: u64,
}

/// A frame of the same encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference {
    /// How many pictures ago; 0 is a lower layer of the same picture. Below 63.
    pub(crate) back: u8,
    /// Its spatial layer, below 4.
    pub(crate) spatial: u8,
}

impl Stamp {
    /// The stamp of a packet of sound.
    pub(crate) fn of_sound(source: u32, count: u32, captured_us: u64) -> Self {
        let references = [None; REFERENCES_MAX];
        let (encoding, index, spatial, temporal) = (0, 0, 0, 0);
        Self { source, encoding, index, count: 1, spatial, temporal, frame: count, references, captured_us }
    }

    /// Writes the stamp and its checksum.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(MAGIC.to_be_bytes());
        out.extend(self.source.to_be_bytes());
        out.extend([self.encoding, self.index, self.count, self.spatial << 4 | self.temporal]);
        out.extend(self.frame.to_be_bytes());
        out.extend(self.references.map(|reference| reference.map_or(NONE, |to| to.back << 2 | to.spatial)));
        out.push(0);
        out.extend(self.captured_us.to_be_bytes());
        let sum = hash(&out[start..]);
        out.extend(sum.to_be_bytes());
    }

    /// Reads a stamp; `None` when the bytes are not one or are damaged.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..STAMP_LEN)?;
        let word = |at: usize| bytes[at..at + 4].try_into().ok().map(u32::from_be_bytes);
        if word(0)? != MAGIC || word(28)? != hash(&bytes[..28]) {
            return None;
        }
        let reference = |byte: u8| (byte != NONE).then_some(Reference { back: byte >> 2, spatial: byte & 3 });
        Some(Self {
            source: word(4)?,
            encoding: bytes[8],
            index: bytes[9],
            count: bytes[10],
            spatial: bytes[11] >> 4,
            temporal: bytes[11] & 0x0f,
            frame: word(12)?,
            references: [bytes[16], bytes[17], bytes[18]].map(reference),
            captured_us: u64::from_be_bytes(bytes[20..28].try_into().ok()?),
        })
    }
}

/// The number by which packets name their source.
pub(crate) fn source_hash(name: &SourceName) -> u32 {
    hash(name.as_str().as_bytes())
}

/// FNV-1a: packets are authenticated already, this finds mistakes, not forgeries.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_wire_and_damage_is_noticed() {
        let references = [Some(Reference { back: 4, spatial: 2 }), Some(Reference { back: 0, spatial: 1 }), None];
        let (encoding, spatial, temporal) = (2, 2, 1);
        let stamp =
            Stamp { source: 7, encoding, index: 1, count: 3, spatial, temporal, frame: 99, references, captured_us: 5 };
        let mut bytes = Vec::new();
        stamp.write(&mut bytes);
        assert_eq!(bytes.len(), STAMP_LEN);
        assert_eq!(Stamp::parse(&bytes), Some(stamp));
        for at in 0..STAMP_LEN {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Stamp::parse(&damaged), None, "byte {at}");
        }
        assert_eq!(Stamp::parse(&bytes[..STAMP_LEN - 1]), None);
    }
}
