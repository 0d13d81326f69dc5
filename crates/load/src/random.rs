//! Chance that is the same in every run: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").

/// A row of numbers that its seed determines.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The row of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, from 0 up to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_seeds_have_nothing_in_common() {
        // As many as there are people between two who send, in the rooms of a stage.
        let mut drawn: Vec<f64> = (0..160u64).map(|n| Random::new((n * 101) << 8).fraction()).collect();
        drawn.sort_by(f64::total_cmp);
        for (n, fraction) in drawn.iter().enumerate() {
            assert!((fraction - n as f64 / 160.0).abs() < 0.13, "{n}: {fraction}");
        }
    }
}
