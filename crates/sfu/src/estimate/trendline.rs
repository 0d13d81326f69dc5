//! Whether the queue on the way grows: the slope of the delay and the threshold that moves with it
//! (draft-ietf-rmcat-gcc-02 §5.4; Carlucci et al., "Analysis and Design of the Google Congestion Control for WebRTC",
//! 2016).

use super::arrival::Step;

/// Groups the line is laid through: 0.3–0.6 s of video.
const WINDOW: usize = 20;
/// Weight of the past in the smoothed delay.
const SMOOTHING: f64 = 0.9;
/// Brings slopes (0.01 is one percent too much) to the size of the threshold.
const GAIN: f64 = 4.0;
/// Evidence counts up to this many groups.
const EVIDENCE_MAX: u64 = 60;
/// Threshold to start with, and its bounds, in milliseconds.
const THRESHOLD_START_MS: f64 = 12.5;
const THRESHOLD_MIN_MS: f64 = 6.0;
const THRESHOLD_MAX_MS: f64 = 600.0;
/// How fast the threshold follows from below and from above, per millisecond: up slowly, or it would never be
/// crossed; down faster still, or a competing flow that filled the queue once would leave us deaf.
const FOLLOW_UP: f64 = 0.0087;
const FOLLOW_DOWN: f64 = 0.039;
/// Spikes that leave the threshold alone.
const SPIKE_MS: f64 = 15.0;
/// The slope has to stay above for so long.
const OVERUSE_MS: f64 = 10.0;

/// What the path does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Usage {
    /// Queues stay as they are.
    #[default]
    Normal,
    /// Queues grow.
    Over,
    /// Queues drain.
    Under,
}

/// The detector.
#[derive(Debug)]
pub(super) struct Trendline {
    /// (arrival, smoothed delay), both in milliseconds; a ring.
    points: [(f64, f64); WINDOW],
    groups: u64,
    delay_ms: f64,
    smoothed_ms: f64,
    threshold_ms: f64,
    last_arrival_ms: f64,
    above_ms: f64,
    above_groups: u32,
    last_trend: f64,
    usage: Usage,
}

impl Trendline {
    pub(super) fn new() -> Self {
        Self {
            points: [(0.0, 0.0); WINDOW],
            groups: 0,
            delay_ms: 0.0,
            smoothed_ms: 0.0,
            threshold_ms: THRESHOLD_START_MS,
            last_arrival_ms: 0.0,
            above_ms: 0.0,
            above_groups: 0,
            last_trend: 0.0,
            usage: Usage::Normal,
        }
    }

    /// What was last found.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Adds the step to one more group.
    pub(super) fn add(&mut self, step: Step) {
        if self.groups == 0 {
            self.last_arrival_ms = step.arrival_ms;
        }
        self.delay_ms += step.delay_ms;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.delay_ms;
        self.points[(self.groups % WINDOW as u64) as usize] = (step.arrival_ms, self.smoothed_ms);
        self.groups += 1;
        if self.groups < WINDOW as u64 {
            return;
        }
        let Some(trend) = slope(&self.points) else { return };
        self.judge(trend, step.sent_ms);
        let since_ms = (step.arrival_ms - self.last_arrival_ms).clamp(0.0, 100.0);
        self.last_arrival_ms = step.arrival_ms;
        self.follow(self.weighted(trend), since_ms);
        self.last_trend = trend;
    }

    fn weighted(&self, trend: f64) -> f64 {
        self.groups.min(EVIDENCE_MAX) as f64 * trend * GAIN
    }

    fn judge(&mut self, trend: f64, sent_ms: f64) {
        let weighted = self.weighted(trend);
        if weighted > self.threshold_ms {
            // The slope was crossed somewhere inside the first step.
            self.above_ms += if self.above_groups == 0 { sent_ms / 2.0 } else { sent_ms };
            self.above_groups += 1;
            if self.above_ms > OVERUSE_MS && self.above_groups > 1 && trend >= self.last_trend {
                (self.above_ms, self.above_groups) = (0.0, 0);
                self.usage = Usage::Over;
            }
            return;
        }
        (self.above_ms, self.above_groups) = (0.0, 0);
        self.usage = if weighted < -self.threshold_ms { Usage::Under } else { Usage::Normal };
    }

    fn follow(&mut self, weighted: f64, since_ms: f64) {
        let size = weighted.abs();
        if size > self.threshold_ms + SPIKE_MS {
            return;
        }
        let speed = if size < self.threshold_ms { FOLLOW_DOWN } else { FOLLOW_UP };
        let moved = self.threshold_ms + speed * (size - self.threshold_ms) * since_ms;
        self.threshold_ms = moved.clamp(THRESHOLD_MIN_MS, THRESHOLD_MAX_MS);
    }
}

/// Least squares; the order of the points does not matter. `None` when they share one abscissa.
fn slope(points: &[(f64, f64); WINDOW]) -> Option<f64> {
    // Relative to one of the points: arrivals are large numbers with small differences.
    let (origin, _) = points[0];
    let (mut sum_x, mut sum_y) = (0.0, 0.0);
    for (x, y) in points {
        sum_x += x - origin;
        sum_y += y;
    }
    let (mean_x, mean_y) = (sum_x / WINDOW as f64, sum_y / WINDOW as f64);
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (x, y) in points {
        let from_mean = x - origin - mean_x;
        covariance += from_mean * (y - mean_y);
        variance += from_mean * from_mean;
    }
    (variance > 0.0).then(|| covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds groups that are each `delay_ms` later than the one before; returns what was found after each.
    fn run(trendline: &mut Trendline, groups: u32, delay_ms: f64) -> Vec<Usage> {
        let mut found = Vec::new();
        for _ in 0..groups {
            let sent_ms = 33.0;
            let arrival_ms = trendline.last_arrival_ms + sent_ms + delay_ms;
            trendline.add(Step { sent_ms, delay_ms, arrival_ms });
            // Before the first line nothing moves it.
            trendline.last_arrival_ms = arrival_ms;
            found.push(trendline.usage());
        }
        found
    }

    #[test]
    fn a_growing_queue_is_seen_and_a_standing_one_is_not() {
        let mut trendline = Trendline::new();
        assert!(run(&mut trendline, 100, 0.0).iter().all(|usage| *usage == Usage::Normal));
        let seen = run(&mut trendline, 30, 3.0).iter().position(|usage| *usage == Usage::Over).unwrap();
        assert!(seen < 18, "after {seen} groups");
        assert_eq!(run(&mut trendline, 40, -2.0).last(), Some(&Usage::Under));
        assert_eq!(run(&mut trendline, 100, 0.0).last(), Some(&Usage::Normal));
    }
}
