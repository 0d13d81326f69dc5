//! Packet indices of one stream: estimating the roll-over counter, and which were used (RFC 3711 §3.3.1, §3.3.2).

/// Indices behind the highest that can still be told apart.
const SIZE: u64 = 512;
const WORDS: usize = (SIZE / 64) as usize;

/// The highest index and a bit for each of the last [`SIZE`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    highest: Option<u64>,
    used: [u64; WORDS],
}

impl Window {
    /// The 48-bit index that a sequence number most likely means. The first of a stream has roll-over counter 0.
    pub(super) fn estimate(&self, sequence: u16) -> u64 {
        let Some(highest) = self.highest else { return u64::from(sequence) };
        let low = u16::try_from(highest & 0xffff).unwrap_or(0);
        let forward = sequence.wrapping_sub(low);
        if forward < 0x8000 {
            highest + u64::from(forward)
        } else {
            // Before the first packet of the stream there is nothing: then it is a jump forward after all.
            highest.checked_sub(u64::from(forward.wrapping_neg())).unwrap_or(highest + u64::from(forward))
        }
    }

    /// Whether an index has not been used and is not too old to tell.
    pub(super) fn is_new(&self, index: u64) -> bool {
        match self.highest {
            Some(highest) if index <= highest => highest - index < SIZE && !self.is_used(index),
            _ => true,
        }
    }

    /// Marks an index as used.
    pub(super) fn accept(&mut self, index: u64) {
        match self.highest {
            Some(highest) if index <= highest => {}
            Some(highest) if index - highest < SIZE => {
                for passed in highest + 1..index {
                    let (word, bit) = place(passed);
                    self.used[word] &= !bit;
                }
                self.highest = Some(index);
            }
            _ => {
                self.used = [0; WORDS];
                self.highest = Some(index);
            }
        }
        let (word, bit) = place(index);
        self.used[word] |= bit;
    }

    fn is_used(&self, index: u64) -> bool {
        let (word, bit) = place(index);
        self.used[word] & bit != 0
    }
}

fn place(index: u64) -> (usize, u64) {
    let at = index % SIZE;
    (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_roll_over_and_are_used_once() {
        let mut window = Window::default();
        for sequence in [65_534u16, 65_535, 0, 1] {
            let index = window.estimate(sequence);
            assert!(window.is_new(index));
            window.accept(index);
            assert!(!window.is_new(index));
        }
        assert_eq!(window.estimate(2), 65_536 + 2);
        assert_eq!(window.estimate(65_533), 65_533);
        assert!(window.is_new(65_533));
    }

    #[test]
    fn what_is_too_old_is_not_new() {
        let mut window = Window::default();
        window.accept(10_000);
        assert!(!window.is_new(10_000 - SIZE));
        assert!(window.is_new(10_001 - SIZE));
        window.accept(10_000 + 2 * SIZE);
        assert!(!window.is_new(10_000));
    }
}
