//! Sequence numbers and timestamps, widened at the edge so that nobody meets roll-over again.

/// A 16-bit sequence number, widened. The first one of a stream has the value it had on the wire plus 2¹⁶, so that packets from
/// before it have a number too.
pub type SeqNo = u64;

/// Widens 16-bit sequence numbers of one stream (RFC 3550 appendix A.1, RFC 3711 §3.3.1).
#[derive(Debug, Clone, Copy, Default)]
pub struct SequenceExtender {
    highest: Option<SeqNo>,
}

impl SequenceExtender {
    /// The number nearest to the highest so far; moves the highest when it is passed.
    pub fn extend(&mut self, sequence: u16) -> SeqNo {
        let wide = self.peek(sequence);
        self.highest = Some(self.highest.map_or(wide, |highest| highest.max(wide)));
        wide
    }

    /// The same without moving.
    pub fn peek(&self, sequence: u16) -> SeqNo {
        let Some(highest) = self.highest else { return SeqNo::from(sequence) + (1 << 16) };
        let forward = sequence.wrapping_sub(low16(highest));
        if forward < 0x8000 {
            highest + SeqNo::from(forward)
        } else {
            highest.saturating_sub(SeqNo::from(forward.wrapping_neg()))
        }
    }

    /// The highest so far.
    pub fn highest(&self) -> Option<SeqNo> {
        self.highest
    }
}

/// The number on the wire.
pub fn low16(wide: SeqNo) -> u16 {
    u16::try_from(wide & 0xffff).unwrap_or(0)
}

/// The low half of a wide number, by which those that are close to each other can be told apart.
pub fn low32(wide: SeqNo) -> u32 {
    u32::try_from(wide & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_over_the_wrap_and_back() {
        let mut extender = SequenceExtender::default();
        let start = extender.extend(65_534);
        assert_eq!(extender.extend(1), start + 3);
        assert_eq!(extender.extend(65_535), start + 1);
        assert_eq!(extender.highest(), Some(start + 3));
        assert_eq!(low16(start + 3), 1);
    }

    #[test]
    fn a_packet_from_before_the_first_has_a_number() {
        let mut extender = SequenceExtender::default();
        let first = extender.extend(0);
        assert_eq!(extender.extend(65_535), first - 1);
    }
}
