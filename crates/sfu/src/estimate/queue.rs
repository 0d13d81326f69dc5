//! How deep the queues on the way are: the delay above the least one seen lately. And what passes them while they stand.

/// The least delay is that of the current and the last period of this length: long enough to see an empty queue,
/// short enough to forget a way that is not taken any more and the drift of the clocks.
const PERIOD_US: u64 = 10_000_000;
/// What stands for this long although next to nothing is sent is no queue of ours: the way became longer.
const STRANGE_US: u64 = 500_000;
const STRANGE_MS: f64 = 50.0;
/// A change that no queue explains: one of the clocks jumped.
const JUMP_US: i64 = 3_000_000;

/// While a queue of this depth stands, what arrives is what the path can take …
const BUSY_US: i64 = 50_000;
/// … once it was counted for so long; and so much of the past counts.
const BUSY_MIN_US: u64 = 100_000;
const BUSY_MAX_US: u64 = 200_000;

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
    /// Bytes in the feedback being read, those that were lost, and the last arrival there.
    read_bytes: u64,
    read_lost: u64,
    read_until_us: Option<i64>,
    busy: Option<Busy>,
}

/// What arrived and what did not since a queue stands, and how deep that was first.
#[derive(Debug, Clone, Copy)]
struct Busy {
    until_us: i64,
    span_us: u64,
    bytes: u64,
    lost: u64,
    depth_us: i64,
}

/// What passes a queue, in bits per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Passage {
    pub(super) sent_bps: f64,
    pub(super) arrived_bps: f64,
}

impl Queue {
    /// Adds a packet of the feedback being read.
    pub(super) fn add(&mut self, sent_us: u64, arrival_us: i64, bytes: u16) {
        self.read_bytes += u64::from(bytes);
        self.read_until_us = Some(self.read_until_us.map_or(arrival_us, |until| until.max(arrival_us)));
        let delay = arrival_us.saturating_sub(sent_us.cast_signed());
        self.reading_us = Some(self.reading_us.map_or(delay, |least| least.min(delay)));
    }

    /// Adds a packet that was lost: a short queue is full before it can grow.
    pub(super) fn lose(&mut self, bytes: u16) {
        self.read_lost += u64::from(bytes);
    }

    /// A feedback is missing, or late: what arrived meanwhile is not known.
    pub(super) fn interrupt(&mut self) {
        self.busy = None;
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
        self.count();
    }

    fn count(&mut self) {
        let (bytes, lost) = (std::mem::take(&mut self.read_bytes), std::mem::take(&mut self.read_lost));
        let Some(until_us) = self.read_until_us.take() else { return };
        let depth_us = self.depth_us();
        if depth_us < BUSY_US {
            self.busy = None;
            return;
        }
        // What arrived before the first packet that waited is not known to have waited.
        let busy = self.busy.get_or_insert(Busy { until_us, span_us: 0, bytes: 0, lost: 0, depth_us });
        let Ok(since_us) = u64::try_from(until_us.saturating_sub(busy.until_us)) else { return };
        if since_us == 0 {
            return;
        }
        if since_us > BUSY_MAX_US {
            self.busy = None; // nothing passed for so long: that was a pause and not the path's rate
            return;
        }
        let (span_us, bytes, lost) = (busy.span_us + since_us, busy.bytes + bytes, busy.lost + lost);
        *busy = Busy { until_us, span_us, bytes, lost, ..*busy };
        if busy.span_us >= BUSY_MAX_US {
            (busy.span_us, busy.bytes, busy.lost) = (span_us / 2, bytes / 2, lost / 2);
            busy.depth_us = i64::midpoint(busy.depth_us, depth_us);
        }
    }

    /// What passes while a queue stands. `None` where none does, not long enough to tell, or nothing is sent that would make it grow.
    pub(super) fn passage(&self) -> Option<Passage> {
        let busy = self.busy.filter(|busy| busy.span_us >= BUSY_MIN_US)?;
        let grown_us = u64::try_from(self.depth_us().saturating_sub(busy.depth_us)).ok()?;
        // Packets that arrive within some time, each later than the one before, were sent within less.
        let sent_us = busy.span_us.checked_sub(grown_us).filter(|sent_us| *sent_us > 0)?;
        let bps = |bytes: u64, span_us: u64| bytes as f64 * 8e6 / span_us as f64;
        Some(Passage { sent_bps: bps(busy.bytes + busy.lost, sent_us), arrived_bps: bps(busy.bytes, busy.span_us) })
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
        self.depth_us() as f64 / 1e3
    }

    fn depth_us(&self) -> i64 {
        let least = self.least_us.iter().flatten().min();
        self.standing_us.zip(least).map_or(0, |(standing, least)| standing.saturating_sub(*least))
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
        queue.add(1_000_000, -5_000_000, 1_000);
        queue.settle(1_100_000);
        assert_eq!(queue.standing_ms(), 0.0);
        queue.add(1_100_000, -4_820_000, 1_000);
        queue.add(1_110_000, -4_800_000, 1_000);
        queue.settle(1_200_000);
        assert_eq!(queue.standing_ms(), 80.0);
        // A longer way is a queue until the shorter one is forgotten.
        for second in 2..30 {
            queue.add(second * 1_000_000, second.cast_signed() * 1_000_000 - 5_900_000, 1_000);
            queue.settle(second * 1_000_000);
        }
        assert_eq!(queue.standing_ms(), 0.0);
    }

    /// Feedback every 50 ms about packets of 1000 bytes: sent every `gap_us` and arrived every `arrival_us`, after 100 ms without a queue.
    fn feed(queue: &mut Queue, gap_us: u64, arrival_us: u64, feedbacks: u64) {
        for n in 0..10 {
            queue.add(n * 10_000, n.cast_signed() * 10_000, 1_000);
        }
        queue.settle(100_000);
        let (mut sent_us, mut came_us) = (100_000, 100_000u64);
        for feedback in 1..=feedbacks {
            while came_us < 100_000 + feedback * 50_000 {
                queue.add(sent_us, came_us.cast_signed(), 1_000);
                (sent_us, came_us) = (sent_us + gap_us, came_us + arrival_us);
            }
            queue.settle(100_000 + feedback * 50_000);
        }
    }

    #[test]
    fn what_passes_a_queue_that_grows_is_what_was_sent_and_what_the_path_takes() {
        let mut queue = Queue::default();
        feed(&mut queue, 4_000, 20_000, 5);
        let Passage { sent_bps, arrived_bps } = queue.passage().unwrap();
        assert!((350_000.0..450_000.0).contains(&arrived_bps), "{arrived_bps}");
        assert!((1_600_000.0..2_600_000.0).contains(&sent_bps), "{sent_bps}");
        queue.interrupt();
        assert_eq!(queue.passage(), None, "what a missing feedback would have told is not known");
    }

    #[test]
    fn what_a_full_queue_loses_was_sent_too_and_a_pause_is_no_rate() {
        let mut queue = Queue::default();
        queue.add(0, 0, 1_000);
        queue.settle(10_000);
        for n in 1..10u64 {
            queue.add(n * 20_000, n.cast_signed() * 20_000 + 80_000, 1_000);
            (0..4).for_each(|_| queue.lose(1_000));
            queue.settle(n * 20_000 + 90_000);
        }
        let Passage { sent_bps, arrived_bps } = queue.passage().unwrap();
        assert!((390_000.0..410_000.0).contains(&arrived_bps) && sent_bps > 1_900_000.0, "{sent_bps} {arrived_bps}");
        queue.add(500_000, 580_000, 1_000);
        queue.settle(600_000);
        assert_eq!(queue.passage(), None);
    }

    #[test]
    fn a_way_that_became_longer_carries_what_is_sent() {
        let mut queue = Queue::default();
        queue.add(0, 0, 1_000);
        queue.settle(10_000);
        for n in 1..40u64 {
            queue.add(n * 20_000, n.cast_signed() * 20_000 + 80_000, 1_000);
            queue.settle(n * 20_000 + 90_000);
        }
        let Passage { sent_bps, arrived_bps } = queue.passage().unwrap();
        assert!((sent_bps - arrived_bps).abs() < 1.0 && (390_000.0..410_000.0).contains(&sent_bps), "{sent_bps}");
    }

    #[test]
    fn a_clock_that_jumps_makes_no_queue() {
        let mut queue = Queue::default();
        queue.add(0, 0, 1_000);
        queue.settle(0);
        queue.add(100_000, 90_000_000, 1_000);
        queue.settle(100_000);
        assert_eq!(queue.standing_ms(), 0.0);
    }
}
