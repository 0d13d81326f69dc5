//! Reads bits, the highest of each byte first.

/// A place in a byte string.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl<'a> Bits<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bit.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit != 0)
    }

    /// The next bits as a number, at most 32.
    pub(crate) fn number(&mut self, bits: usize) -> Option<u32> {
        debug_assert!(bits <= 32);
        let end = self.at + bits;
        if end > 8 * self.bytes.len() {
            return None;
        }
        let last = end.div_ceil(8);
        // At most 39 bits in 5 bytes.
        let window = self.bytes[self.at / 8..last].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let value = window >> (8 * last - end) & ((1 << bits) - 1);
        self.at = end;
        u32::try_from(value).ok()
    }

    /// The next bits as a small number, at most 8 of them.
    pub(crate) fn small(&mut self, bits: usize) -> Option<u8> {
        u8::try_from(self.number(bits)?).ok()
    }

    /// A number below `limit` with as few bits as will do: `ns(n)` of the AV1 specification, §4.10.7.
    pub(crate) fn below(&mut self, limit: u32) -> Option<u32> {
        let width = usize::try_from(limit.checked_ilog2()?).ok()?;
        let short = (2 << width) - limit;
        let value = self.number(width)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) - short + u32::from(self.flag()?))
    }

    /// Passes over bits that nobody here reads.
    pub(crate) fn skip(&mut self, bits: usize) -> Option<()> {
        let end = self.at + bits;
        (end <= 8 * self.bytes.len()).then(|| self.at = end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_cross_bytes_and_end_with_them() {
        let mut bits = Bits::new(&[0b1010_0000, 0b0000_0001, 0xff, 0xff, 0xff]);
        assert_eq!((bits.flag(), bits.number(2), bits.number(13)), (Some(true), Some(1), Some(1)));
        assert_eq!((bits.number(25), bits.number(24), bits.number(1)), (None, Some(0x00ff_ffff), None));
        assert_eq!(bits.number(0), Some(0));
    }

    #[test]
    #[allow(clippy::unusual_byte_groupings)] // grouped by number
    fn small_ranges_take_few_bits() {
        // Below 5: 0, 1, 2 take two bits, 3 and 4 take three.
        let mut bits = Bits::new(&[0b00_01_10_11, 0b0_111_0000]);
        let read: Vec<_> = (0..5).filter_map(|_| bits.below(5)).collect();
        assert_eq!(read, [0, 1, 2, 3, 4]);
        assert_eq!(bits.below(1), Some(0), "no bits at all");
        assert_eq!(bits.below(0), None);
    }
}
