//! How deep the queues on the way are: the delay above the least one seen lately.

/// The least delay is that of the current and the last period of this length: long enough to see an empty queue,
/// short enough to forget a way that is not taken any more and the drift of the clocks.
const PERIOD_US: u64 = 10_000_000;
/// What stands for this long although next to nothing is sent is no queue of ours: the way became longer.
const STRANGE_US: u64 = 500_000;
const STRANGE_MS: f64 = 50.0;
/// A change that no queue explains: one of the clocks jumped.
const JUMP_US: i64 = 3_000_000;

/// Delays are arrival (the receiver's clock) minus sending (ours), in microseconds: only their differences mean
/// something.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Least delays of the last and the current period.
    least_us: [Option<i64>; 2],
    period_end_us: u64,
    /// Least delay in the feedback being read, and in the last one.
    reading_us: Option<i64>,
    standing_us: Option<i64>,
    /// Since when there is more than [`STRANGE_MS`] although little is sent.
    strange_since_us: Option<u64>,
}

impl Queue {
    /// Adds a packet of the feedback being read.
    pub(super) fn add(&mut self, sent_us: u64, arrival_us: i64) {
        let delay = arrival_us.saturating_sub(sent_us.cast_signed());
        self.reading_us = Some(self.reading_us.map_or(delay, |least| least.min(delay)));
    }

    /// Ends a feedback.
    pub(super) fn settle(&mut self, now_us: u64) {
        let Some(delay) = self.reading_us.take() else { return };
        if self.standing_us.is_some_and(|last| delay.saturating_sub(last).unsigned_abs() > JUMP_US.unsigned_abs()) {
            self.least_us = [None; 2];
        }
        if now_us >= self.period_end_us {
            self.least_us = [self.least_us[1], None];
            self.period_end_us = now_us + PERIOD_US;
        }
        self.standing_us = Some(delay);
        self.least_us[1] = Some(self.least_us[1].map_or(delay, |least| least.min(delay)));
    }

    /// Forgets the shorter way when what stands cannot be a queue.
    pub(super) fn doubt(&mut self, now_us: u64, is_idle: bool) {
        if !is_idle || self.standing_ms() < STRANGE_MS {
            self.strange_since_us = None;
            return;
        }
        let since_us = *self.strange_since_us.get_or_insert(now_us);
        if now_us >= since_us + STRANGE_US {
            self.least_us = [None, self.standing_us];
            self.strange_since_us = None;
        }
    }

    /// What every packet of the last feedback waited at least, in milliseconds. The least and not the mean: the
    /// packets of a frame wait for each other on an empty path too.
    pub(super) fn standing_ms(&self) -> f64 {
        let least = self.least_us.iter().flatten().min();
        match (self.standing_us, least) {
            (Some(standing), Some(least)) => standing.saturating_sub(*least) as f64 / 1e3,
            (None, _) | (_, None) => 0.0,
        }
    }

    /// When a packet arrives that is sent then, at the delay of the last feedback.
    pub(super) fn arrival_of(&self, sent_us: u64) -> Option<i64> {
        self.standing_us.map(|delay| delay.saturating_add(sent_us.cast_signed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_what_is_above_the_shortest_way() {
        let mut queue = Queue::default();
        queue.add(1_000_000, -5_000_000);
        queue.settle(1_100_000);
        assert_eq!(queue.standing_ms(), 0.0);
        queue.add(1_100_000, -4_820_000);
        queue.add(1_110_000, -4_800_000);
        queue.settle(1_200_000);
        assert_eq!(queue.standing_ms(), 80.0);
        // A longer way is a queue until the shorter one is forgotten.
        for second in 2..30 {
            queue.add(second * 1_000_000, second.cast_signed() * 1_000_000 - 5_900_000);
            queue.settle(second * 1_000_000);
        }
        assert_eq!(queue.standing_ms(), 0.0);
    }

    #[test]
    fn a_clock_that_jumps_makes_no_queue() {
        let mut queue = Queue::default();
        queue.add(0, 0);
        queue.settle(0);
        queue.add(100_000, 90_000_000);
        queue.settle(100_000);
        assert_eq!(queue.standing_ms(), 0.0);
    }
}
