//! Times in microseconds, counted in buckets that are never wider than a thirty-second of their value.

/// Buckets per power of two.
const FINE: u64 = 32;
const BUCKETS: usize = 32 * FINE as usize;

/// A histogram of durations.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&mut self, us: u64) {
        self.counts[bucket(us)] += 1;
        self.total += 1;
    }

    /// How many were counted.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) {
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.total += other.total;
    }

    /// The duration that this share (0…1) does not exceed; `None` when nothing was counted.
    pub(crate) fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = (share * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.filter(|_| self.total > 0).map(upper)
    }
}

fn bucket(us: u64) -> usize {
    if us < FINE {
        return us as usize;
    }
    let power = us.ilog2() - FINE.ilog2();
    let place = u64::from(power + 1) * FINE + ((us >> power) - FINE);
    (place as usize).min(BUCKETS - 1)
}

/// The largest duration of a bucket.
fn upper(bucket: usize) -> u64 {
    let (power, place) = (bucket as u64 / FINE, bucket as u64 % FINE);
    if power == 0 { place } else { ((FINE + place + 1) << (power - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_a_bucket_that_ends_close_above_it() {
        for us in (0..5_000).chain([65_535, 1_000_000, 90_000_000]) {
            let end = upper(bucket(us));
            assert!(end >= us && end <= us + us / 32 + 1, "{us}: {end}");
        }
    }

    #[test]
    fn quantiles_are_of_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (1..=20).for_each(|us| histogram.record(us));
        assert_eq!((histogram.quantile(0.5), histogram.quantile(1.0)), (Some(10), Some(20)));
    }
}
