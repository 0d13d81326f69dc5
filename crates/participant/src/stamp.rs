//! What every synthetic packet carries instead of a picture or a sound: enough to tell whose it is, and that it is whole.

use tertulia_model::SourceName;

/// Length on the wire.
pub(crate) const STAMP_LEN: usize = 20;
const MAGIC: u32 = 0x7e27_011a;

/// Which part of which frame of which source this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Of the name of the source.
    pub(crate) source: u32,
    /// Which simulcast encoding; 0 for sound.
    pub(crate) encoding: u8,
    /// Place of this packet in its frame.
    pub(crate) index: u8,
    /// Packets of the frame.
    pub(crate) count: u8,
    /// Counts up by one a frame, the same for all encodings of a moment.
    pub(crate) frame: u32,
}

impl Stamp {
    /// Writes the stamp and its checksum.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(MAGIC.to_be_bytes());
        out.extend(self.source.to_be_bytes());
        out.extend([self.encoding, self.index, self.count, 0]);
        out.extend(self.frame.to_be_bytes());
        let sum = hash(&out[start..]);
        out.extend(sum.to_be_bytes());
    }

    /// Reads a stamp; `None` when the bytes are not one or are damaged.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..STAMP_LEN)?;
        let word = |at: usize| bytes[at..at + 4].try_into().ok().map(u32::from_be_bytes);
        if word(0)? != MAGIC || word(16)? != hash(&bytes[..16]) {
            return None;
        }
        Some(Self { source: word(4)?, encoding: bytes[8], index: bytes[9], count: bytes[10], frame: word(12)? })
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
        let stamp = Stamp { source: 7, encoding: 2, index: 1, count: 3, frame: 99 };
        let mut bytes = Vec::new();
        stamp.write(&mut bytes);
        assert_eq!(bytes.len(), STAMP_LEN);
        assert_eq!(Stamp::parse(&bytes), Some(stamp));
        for at in 0..STAMP_LEN {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Stamp::parse(&damaged), None, "byte {at}");
        }
        assert_eq!(Stamp::parse(&bytes[..19]), None);
    }
}
