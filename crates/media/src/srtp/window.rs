//! Packet indices of one stream: estimating the roll-over counter, and which were used (RFC 3711 §3.3.1, §3.3.2).

/// Indices behind the highest that can still be told apart.
const SIZE: u64 = 512;
const WORDS: usize = (SIZE / 64) as usize;

/// The highest index, and which of the last [`SIZE`] were used. The default is for what we send: its first packet is its lowest, and
/// most streams to most receivers never leave a number out, so that the bits are made when the first one does.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The index behind the highest; 0 before the first.
    next: u64,
    /// `None`: all up to the highest.
    used: Option<Box<[u64; WORDS]>>,
}

impl Window {
    /// For what a peer sends: packets before the first one that came may come too.
    pub(super) fn of_peer() -> Self {
        Self { next: 0, used: Some(Box::new([0; WORDS])) }
    }

    fn highest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    /// The 48-bit index that a sequence number most likely means. The first of a stream has roll-over counter 0.
    pub(super) fn estimate(&self, sequence: u16) -> u64 {
        let Some(highest) = self.highest() else { return u64::from(sequence) };
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
        match self.highest() {
            Some(highest) if index <= highest => highest - index < SIZE && !self.is_used(index),
            _ => true,
        }
    }

    /// Marks an index as used.
    pub(super) fn accept(&mut self, index: u64) {
        let follows = self.next == 0 || index == self.next;
        if follows && self.used.is_none() {
            self.next = index + 1;
            return;
        }
        let used = self.used.get_or_insert_with(|| Box::new([u64::MAX; WORDS]));
        match self.next.checked_sub(1) {
            Some(highest) if index <= highest => {}
            Some(highest) if index - highest < SIZE => {
                for passed in highest + 1..index {
                    let (word, bit) = place(passed);
                    used[word] &= !bit;
                }
                self.next = index + 1;
            }
            _ => {
                used.fill(0);
                self.next = index + 1;
            }
        }
        let (word, bit) = place(index);
        used[word] |= bit;
    }

    fn is_used(&self, index: u64) -> bool {
        let (word, bit) = place(index);
        self.used.as_ref().is_none_or(|used| used[word] & bit != 0)
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
        let mut window = Window::of_peer();
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
        let mut window = Window::of_peer();
        window.accept(10_000);
        assert!(!window.is_new(10_000 - SIZE));
        assert!(window.is_new(10_001 - SIZE));
        window.accept(10_000 + 2 * SIZE);
        assert!(!window.is_new(10_000));
    }

    #[test]
    fn what_we_send_in_order_needs_no_bits_and_what_was_left_out_can_follow_once() {
        let mut window = Window::default();
        (700..2_000).for_each(|index| window.accept(index));
        assert!(window.used.is_none() && size_of::<Window>() <= 16);
        assert!((0..2_000).all(|index| !window.is_new(index)));
        window.accept(2_003);
        let new: Vec<u64> = (1_400..=2_003).filter(|index| window.is_new(*index)).collect();
        assert_eq!(new, [2_000, 2_001, 2_002]);
        window.accept(2_001);
        assert!(!window.is_new(2_001) && window.is_new(2_000) && window.is_new(2_002));
        window.accept(2_001 + SIZE);
        assert!(!window.is_new(2_001) && window.is_new(2_002), "too old, and not yet");
    }

    /// Against a set of everything that was used.
    #[test]
    fn no_index_is_new_twice_in_any_order() {
        for (mut window, mut state) in [(Window::default(), 1u64), (Window::of_peer(), 2), (Window::default(), 3)] {
            let (mut used, mut highest) = (std::collections::BTreeSet::new(), 5_000u64);
            for _ in 0..20_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let index = match (state >> 33) % 10 {
                    0..=5 => highest + 1,
                    6 => highest + (state >> 40) % 700,
                    _ => highest.saturating_sub((state >> 40) % 600),
                };
                if window.is_new(index) {
                    assert!(used.insert(index), "{index}");
                    window.accept(index);
                    highest = highest.max(index);
                }
            }
            assert!(used.len() > 10_000);
        }
    }
}
