//! How much came lately, of whatever has to be kept for a while.

use std::time::{Duration, Instant};

/// Counts in parts of the while. It covers the while at least, whenever what comes comes, and one `PARTS`-th more at most.
#[derive(Debug, Clone)]
pub(crate) struct Lately<const PARTS: usize> {
    /// When the part that goes on began.
    began: Option<Instant>,
    going_on: u32,
    /// Those that are over, newest first.
    over: [u32; PARTS],
}

impl<const PARTS: usize> Default for Lately<PARTS> {
    fn default() -> Self {
        Self { began: None, going_on: 0, over: [0; PARTS] }
    }
}

impl<const PARTS: usize> Lately<PARTS> {
    /// Counts what comes now; how much there was within the last `whole`, this included.
    pub(crate) fn add(&mut self, now: Instant, whole: Duration, amount: usize) -> usize {
        let part = whole / u32::try_from(PARTS).unwrap_or(u32::MAX);
        let began = self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(*began);
        if passed >= part {
            let parts = usize::try_from(passed.as_nanos() / part.as_nanos().max(1)).unwrap_or(usize::MAX);
            if parts > PARTS {
                (*began, self.over) = (now, [0; PARTS]);
            } else {
                *began += part * u32::try_from(parts).unwrap_or(0);
                self.over.copy_within(..PARTS - parts, parts);
                self.over[..parts].fill(0);
                self.over[parts - 1] = self.going_on;
            }
            self.going_on = 0;
        }
        self.going_on = self.going_on.saturating_add(u32::try_from(amount).unwrap_or(u32::MAX));
        let all = self.over.iter().fold(self.going_on, |sum, part| sum.saturating_add(*part));
        usize::try_from(all).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// All that came within the while is counted, and little of what came before.
        #[test]
        fn the_while_is_covered_and_not_much_more(came in proptest::collection::vec((0..400u64, 1..50usize), 1..200)) {
            let (start, whole, mut lately) = (Instant::now(), Duration::from_millis(600), Lately::<4>::default());
            let (mut at, mut all): (u64, Vec<(u64, usize)>) = (0, Vec::new());
            for (wait, amount) in came {
                at += wait;
                all.push((at, amount));
                let counted = lately.add(start + Duration::from_millis(at), whole, amount);
                let within = |ms| all.iter().filter(|(then, _)| at - then <= ms).map(|(_, amount)| amount).sum::<usize>();
                prop_assert!(counted >= within(599), "{counted} of {} at {at}", within(599));
                prop_assert!(counted <= within(750), "{counted} of {} at {at}", within(750));
            }
        }
    }
}
