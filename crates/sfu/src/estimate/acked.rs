//! How fast a receiver takes what it is sent: the rate of what arrived.

/// Width of a bucket. A frame every 33 ms must not make the rate flicker, see `WINDOW`.
const BUCKET_US: i64 = 20_000;
/// Buckets kept, a power of two.
const BUCKETS: usize = 32;
/// Buckets that the usual rate covers: 15 frames at 30 a second.
const WINDOW: i64 = 25;
/// Buckets that the quick rate covers. Good where a queue is never empty: there the arrivals show the path and not
/// the frames.
const QUICK_WINDOW: i64 = 10;
/// Buckets without anything, one minute, after which nothing of before matters; or the clock jumped.
const RESTART_AFTER: i64 = 3_000;
/// The same backwards, three seconds: nothing is on its way for so long.
const RESTART_BEFORE: i64 = -150;

/// Bytes by time of arrival, on the receiver's clock.
#[derive(Debug, Default)]
pub(super) struct AckedRate {
    bytes: [u32; BUCKETS],
    /// Number of the newest bucket, and of the first one ever.
    newest: Option<i64>,
    first: i64,
}

impl AckedRate {
    /// Adds a packet that arrived.
    pub(super) fn add(&mut self, arrival_us: i64, bytes: u16) {
        let bucket = arrival_us.div_euclid(BUCKET_US);
        let Some(newest) = self.newest else {
            (self.newest, self.first) = (Some(bucket), bucket);
            self.bytes[slot(bucket)] = u32::from(bytes);
            return;
        };
        let ahead = bucket.saturating_sub(newest);
        if !(RESTART_BEFORE..=RESTART_AFTER).contains(&ahead) {
            // Start again.
            *self = Self::default();
            return self.add(arrival_us, bytes);
        }
        for between in 1..=ahead.min(BUCKETS as i64) {
            self.bytes[slot(newest + between)] = 0;
        }
        if ahead > -(BUCKETS as i64) {
            let slot = &mut self.bytes[slot(bucket)];
            *slot = slot.saturating_add(u32::from(bytes));
        }
        self.newest = Some(newest.max(bucket));
    }

    /// Arrival of the newest packet, to a bucket.
    pub(super) fn newest_us(&self) -> Option<i64> {
        self.newest.map(|bucket| bucket * BUCKET_US)
    }

    /// Bits per second over half a second; `None` before that is known.
    pub(super) fn bps(&self) -> Option<f64> {
        self.over(WINDOW)
    }

    /// Bits per second over the last 200 ms.
    pub(super) fn quick_bps(&self) -> Option<f64> {
        self.over(QUICK_WINDOW)
    }

    /// The newest bucket is still filling and does not count.
    fn over(&self, window: i64) -> Option<f64> {
        let newest = self.newest?;
        if newest - self.first < window {
            return None;
        }
        let bytes: u64 = (1..=window).map(|back| u64::from(self.bytes[slot(newest - back)])).sum();
        Some(bytes as f64 * 8e6 / (window * BUCKET_US) as f64)
    }
}

fn slot(bucket: i64) -> usize {
    usize::try_from(bucket.rem_euclid(BUCKETS as i64)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_make_a_steady_rate_and_silence_lowers_it() {
        let mut acked = AckedRate::default();
        for frame in 0..60 {
            acked.add(-1_000_000 + frame * 33_333, 4166);
        }
        let rate = acked.bps().unwrap();
        assert!((900_000.0..1_100_000.0).contains(&rate), "{rate}");
        acked.add(-1_000_000 + 60 * 33_333 + 300_000, 100);
        assert!(acked.bps().unwrap() < 600_000.0);
        assert_eq!(acked.quick_bps(), Some(0.0));
    }

    #[test]
    fn a_clock_that_steps_back_is_counted_from_there() {
        for step_us in [5_000_000, 50_000_000] {
            let mut rate = AckedRate::default();
            (0..200).for_each(|n| rate.add(100_000_000 + n * 10_000, 1_250));
            (0..200).for_each(|n| rate.add(102_000_000 - step_us + n * 10_000, 1_250));
            assert_eq!(rate.bps().map(|bps| bps as u64), Some(1_000_000), "{step_us} us");
        }
    }
}
