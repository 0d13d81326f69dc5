//! Bit by bit, most significant first: dependency descriptors and H.264 parameter sets are not made of bytes.

/// Writes bits.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    /// The lowest `count` bits of `value`, 0…32.
    pub(crate) fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let set = u8::from(value >> bit & 1 != 0) << (7 - self.used % 8);
            if let Some(last) = self.bytes.last_mut() {
                *last |= set;
            }
            self.used += 1;
        }
    }

    /// `ns(n)` of the AV1 specification: a value below `n`.
    pub(crate) fn put_non_symmetric(&mut self, value: u32, n: u32) {
        let width = u32::BITS - n.leading_zeros();
        let short = (1 << width) - n;
        if value < short {
            self.put(value, width - 1);
        } else {
            self.put(value + short, width);
        }
    }

    /// `ue(v)` of H.264 (§9.1).
    pub(crate) fn put_exp_golomb(&mut self, value: u32) {
        let width = u32::BITS - (value + 1).leading_zeros();
        self.put(0, width - 1);
        self.put(value + 1, width);
    }

    /// The bytes, filled up with zeros.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads bits.
#[derive(Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, used: 0 }
    }

    /// The next `count` bits, 0…32; `None` at the end.
    pub(crate) fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.used / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.used % 8) & 1);
            self.used += 1;
        }
        Some(value)
    }

    /// One bit.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        self.take(1).map(|bit| bit != 0)
    }

    /// `ns(n)` of the AV1 specification.
    pub(crate) fn take_non_symmetric(&mut self, n: u32) -> Option<u32> {
        let width = u32::BITS - n.leading_zeros();
        let short = (1 << width) - n;
        let value = self.take(width - 1)?;
        if value < short { Some(value) } else { Some((value << 1 | self.take(1)?) - short) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back_as_they_were_put() {
        for n in 1..20u32 {
            let mut writer = BitWriter::default();
            (0..n).for_each(|value| writer.put_non_symmetric(value, n));
            writer.put(0x5_a5a5, 19);
            let bytes = writer.into_bytes();
            let mut reader = BitReader::new(&bytes);
            for value in 0..n {
                assert_eq!(reader.take_non_symmetric(n), Some(value), "below {n}");
            }
            assert_eq!(reader.take(19), Some(0x5_a5a5));
            assert_eq!(reader.take(8), None);
        }
    }

    #[test]
    fn exp_golomb_is_that_of_the_standard() {
        let mut writer = BitWriter::default();
        [0, 1, 2, 3].into_iter().for_each(|value| writer.put_exp_golomb(value));
        // 1, 010, 011, 00100
        assert_eq!(writer.into_bytes(), [0b1010_0110, 0b0100_0000]);
    }
}
