//! What there was lately, in parts of time.

use std::time::{Duration, Instant};

/// Something about each of the last `N` parts of time, newest first: the first one goes on.
#[derive(Debug, Clone)]
pub(crate) struct Lately<T, const N: usize> {
    /// When the part that goes on began.
    began: Option<Instant>,
    parts: [T; N],
}

impl<T: Copy + Default, const N: usize> Default for Lately<T, N> {
    fn default() -> Self {
        Self { began: None, parts: [T::default(); N] }
    }
}

impl<T: Copy, const N: usize> Lately<T, N> {
    /// The parts as of now, each so long. Those that began since the last time are `fresh`; the first time that is all of them.
    #[inline]
    pub(crate) fn at(&mut self, now: Instant, part: Duration, fresh: T) -> &mut [T; N] {
        let began = *self.began.get_or_insert_with(|| {
            self.parts = [fresh; N];
            now
        });
        let passed = now.saturating_duration_since(began);
        if passed >= part {
            let passed = u32::try_from(passed.as_nanos() / part.as_nanos().max(1)).unwrap_or(u32::MAX);
            self.began = Some(began + part * passed);
            self.turn(usize::try_from(passed).unwrap_or(N).min(N), fresh);
        }
        &mut self.parts
    }

    #[cold] // seldom as packets go
    fn turn(&mut self, new: usize, fresh: T) {
        self.parts.copy_within(..N - new, new);
        self.parts[..new].fill(fresh);
    }
}

impl<const N: usize> Lately<u32, N> {
    /// Counts what comes now; how much there was within the last `whole`, this included: all of it, whenever it came, and of what was before
    /// that one part at most, of which there are `N` − 1 in it.
    #[inline] // for each forwarded packet
    pub(crate) fn add(&mut self, now: Instant, whole: Duration, amount: usize) -> usize {
        let parts = self.at(now, whole / u32::try_from(N - 1).unwrap_or(u32::MAX), 0);
        parts[0] = parts[0].saturating_add(u32::try_from(amount).unwrap_or(u32::MAX));
        let all = parts.iter().fold(0u32, |sum, part| sum.saturating_add(*part));
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
            let (start, whole, mut lately) = (Instant::now(), Duration::from_millis(600), Lately::<u32, 5>::default());
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
