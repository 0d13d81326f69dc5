//! The clock by which pictures and sounds are stamped.

use std::time::{Duration, Instant};

/// Makes times of a running program comparable with those of others: delays are only as true as the clocks agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// A moment…
    pub at: Instant,
    /// …and what the clock showed then.
    pub shows: Duration,
}

impl Clock {
    /// A clock that shows zero at this moment.
    pub fn starting(at: Instant) -> Self {
        Self { at, shows: Duration::ZERO }
    }

    /// What the clock shows.
    pub fn time(&self, now: Instant) -> Duration {
        self.shows + now.saturating_duration_since(self.at)
    }

    pub(crate) fn micros(&self, now: Instant) -> u64 {
        u64::try_from(self.time(now).as_micros()).unwrap_or(u64::MAX)
    }
}
