//! The rate that delay allows: rises while queues stand still, falls below what arrives when they grow
//! (draft-ietf-rmcat-gcc-02 §5.5).

use super::queue::Passage;
use super::trendline::Usage;

/// Growth per second far from any known limit.
const GROWTH: f64 = 1.08;
/// Growth near a known limit: one packet of this size …
const PACKET_BITS: f64 = 1200.0 * 8.0;
/// … per round trip and this much for the feedback to be written.
const RESPONSE_US: u64 = 100_000;
/// … or this share per second, where a packet is much.
const NEAR_GROWTH: f64 = 0.04;
/// Growth ends at this multiple of what arrives and a little: a path that was not tried is not known to be wide.
const UNTRIED: f64 = 1.5;
const UNTRIED_BPS: f64 = 10_000.0;
/// How far below the measured capacity a queue drains: so that it takes about `DRAIN_MS`, within bounds.
const DRAIN_MS: f64 = 800.0;
const DRAIN_MIN: f64 = 0.08;
const DRAIN_MAX: f64 = 0.4;
/// A queue that is drained, in milliseconds: below what a frame makes by itself.
const DRAINED_MS: f64 = 30.0;
/// When draining is given up: the queue is not ours.
const DRAIN_TIMEOUT_US: u64 = 1_500_000;
/// Below this share of the estimate a sender is idle, as far as the path is concerned.
const IDLE: f64 = 0.25;
/// Where to go after draining, of the measured capacity.
const RETURN: f64 = 0.95;
/// Below this share of the estimate a sender did not fill the path. Overuse is then believed after so long, or once the queue is so deep: a
/// key frame makes one and passes, and until then what arrives says more of the time before it than of the path.
const LIMITED: f64 = 0.8;
const PATIENCE_US: u64 = 150_000;
const PATIENCE_QUEUE_MS: f64 = 80.0;
/// Without a queue that stands it is noise …
const NOISE_QUEUE_MS: f64 = 50.0;
/// … and costs this, in case it was not, once in so long: if it was not, the queue will stand before.
const NOISE_DECREASE: f64 = 0.85;
const NOISE_GAP_US: u64 = 1_000_000;

/// A path that takes less than this share of the rate, of which more was sent, has become another one: it is believed at once. The trend of the
/// delay, which is laid through twenty frames, shows it only when the queue is full and frames are lost.
const NARROWED: f64 = 0.5;
/// … where so many times as much was sent: without that it is somebody who sends little on a way that became longer.
const OVERFILLED: f64 = 1.5;

/// What the rate is decided on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observation {
    pub(super) now_us: u64,
    pub(super) usage: Usage,
    /// Bits per second that arrive, over half a second; `None` before this is known.
    pub(super) acked_bps: Option<f64>,
    /// The same over 200 ms.
    pub(super) quick_bps: Option<f64>,
    /// What passes while a queue stands; `None` where none does.
    pub(super) passage: Option<Passage>,
    /// Delay above the least one, in milliseconds.
    pub(super) queue_ms: f64,
    pub(super) rtt_us: u64,
}

/// Additive increase near the capacity, multiplicative elsewhere, decrease to what drains the queue and back.
#[derive(Debug)]
pub(super) struct DelayRate {
    bps: f64,
    capacity: Capacity,
    last_update_us: u64,
    last_decrease_us: Option<u64>,
    drain: Option<Drain>,
    overuse: Option<Overuse>,
}

/// The path is overused.
#[derive(Debug, Clone, Copy)]
struct Overuse {
    since_us: u64,
    /// Whether its sender had not filled it before.
    is_sudden: bool,
}

/// The rate is below the capacity until the queue is gone.
#[derive(Debug, Clone, Copy)]
struct Drain {
    back_to_bps: f64,
    until_us: u64,
}

impl DelayRate {
    pub(super) fn new(bps: f64) -> Self {
        Self {
            bps,
            capacity: Capacity::default(),
            last_update_us: 0,
            last_decrease_us: None,
            drain: None,
            overuse: None,
        }
    }

    pub(super) fn bps(&self) -> f64 {
        self.bps
    }

    /// Whether a queue is being drained, so that the rate says less than the path could.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Decides after a feedback.
    pub(super) fn update(&mut self, seen: Observation) {
        let limit = NARROWED * self.bps;
        let is_narrow = |passage: &Passage| {
            passage.arrived_bps < limit && passage.sent_bps >= limit.max(OVERFILLED * passage.arrived_bps)
        };
        let narrowed = seen.passage.filter(is_narrow);
        match (narrowed, seen.usage) {
            (Some(passage), _) => self.drain(passage.arrived_bps, seen),
            (None, Usage::Over) => self.on_overuse(seen),
            // The queue drains by itself: wait.
            (None, Usage::Under) => {}
            (None, Usage::Normal) => self.on_normal(seen),
        }
        self.overuse.take_if(|_| seen.usage != Usage::Over);
        self.last_update_us = seen.now_us;
    }

    /// Something else knows better: a probe came through, or no feedback comes at all.
    pub(super) fn set(&mut self, bps: f64) {
        self.bps = bps;
        self.drain = None;
        self.capacity.refuted_by(bps);
    }

    fn on_overuse(&mut self, seen: Observation) {
        let is_sudden = seen.acked_bps.is_some_and(|acked| acked < LIMITED * self.bps);
        let Overuse { since_us, is_sudden } = *self.overuse.get_or_insert(Overuse { since_us: seen.now_us, is_sudden });
        if is_sudden && seen.now_us < since_us + PATIENCE_US && seen.queue_ms < PATIENCE_QUEUE_MS {
            return;
        }
        let interval_us = seen.rtt_us.clamp(10_000, 200_000);
        let waits = self.last_decrease_us.is_some_and(|at| seen.now_us < at + interval_us);
        let measured = if seen.queue_ms > NOISE_QUEUE_MS {
            seen.quick_bps
        } else if is_sudden {
            // Half a second says too little of whoever has just begun to send more.
            seen.acked_bps.into_iter().chain(seen.quick_bps).reduce(f64::max)
        } else {
            seen.acked_bps
        };
        let Some(measured) = measured.or(seen.acked_bps) else {
            // Nothing measured yet: halve, as often as the feedback can tell.
            if !waits {
                self.decrease_to(self.bps / 2.0, seen.now_us);
            }
            return;
        };
        if waits && measured > self.bps / 2.0 {
            return;
        }
        if measured < LIMITED * self.bps && seen.queue_ms < NOISE_QUEUE_MS {
            if self.last_decrease_us.is_none_or(|at| seen.now_us >= at + NOISE_GAP_US) {
                self.decrease_to(self.bps * NOISE_DECREASE, seen.now_us);
            }
            return;
        }
        if measured < IDLE * self.bps && !waits {
            // Nothing filled the path, so what arrives says little of it: a way that became longer looks the same for a moment. A queue
            // that is ours goes on growing, and then the next round trip halves again.
            return self.decrease_to((self.bps / 2.0).max(measured), seen.now_us);
        }
        self.drain(measured, seen);
    }

    /// The path takes this much: goes below it until the queue is gone.
    fn drain(&mut self, measured: f64, seen: Observation) {
        self.capacity.observe(measured);
        // Without a queue that stands there is nothing to drain: then what arrives may go on.
        let is_noise = seen.queue_ms < NOISE_QUEUE_MS;
        let depth = if is_noise { 0.0 } else { (seen.queue_ms / DRAIN_MS).clamp(DRAIN_MIN, DRAIN_MAX) };
        let until_us = seen.now_us + DRAIN_TIMEOUT_US;
        self.drain = Some(Drain { back_to_bps: measured * RETURN, until_us });
        self.decrease_to(measured * (1.0 - depth), seen.now_us);
    }

    fn decrease_to(&mut self, bps: f64, now_us: u64) {
        self.bps = self.bps.min(bps);
        self.last_decrease_us = Some(now_us);
    }

    fn on_normal(&mut self, seen: Observation) {
        if let Some(drain) = self.drain {
            if seen.queue_ms < DRAINED_MS {
                self.bps = self.bps.max(drain.back_to_bps);
            } else if seen.now_us < drain.until_us {
                return;
            }
            self.drain = None;
        }
        self.increase(seen);
    }

    fn increase(&mut self, seen: Observation) {
        let Some(acked) = seen.acked_bps else { return };
        self.capacity.refuted_by(acked);
        let since_us = seen.now_us.saturating_sub(self.last_update_us).min(1_000_000);
        let since = since_us as f64 / 1e6;
        let grown = if self.capacity.is_near(self.bps) {
            let response = (seen.rtt_us + RESPONSE_US) as f64 / 1e6;
            self.bps + (PACKET_BITS / response).min(self.bps * NEAR_GROWTH) * since
        } else {
            self.bps * GROWTH.powf(since)
        };
        let bound = acked * UNTRIED + UNTRIED_BPS;
        self.bps = self.bps.max(grown.min(bound));
    }
}

/// What arrived at moments of overuse: the width of the narrowest link, as a mean and a deviation.
#[derive(Debug, Default)]
struct Capacity {
    mean_bps: Option<f64>,
    /// Variance over mean; so it keeps its meaning when the mean moves.
    spread: f64,
}

/// Weight of a new measurement.
const CAPACITY_WEIGHT: f64 = 0.1;
/// Bounds of the spread, in bits per second.
const SPREAD_MIN: f64 = 400.0;
const SPREAD_MAX: f64 = 2_500.0;

impl Capacity {
    fn observe(&mut self, bps: f64) {
        let mean = match self.mean_bps {
            Some(mean) if (bps - mean).abs() <= 3.0 * self.deviation(mean) => {
                let error = bps - mean;
                self.spread += CAPACITY_WEIGHT * (error * error / mean.max(1.0) - self.spread);
                mean + CAPACITY_WEIGHT * error
            }
            // The first one, or another path.
            Some(_) | None => {
                self.spread = SPREAD_MIN;
                bps
            }
        };
        self.mean_bps = Some(mean);
        self.spread = self.spread.clamp(SPREAD_MIN, SPREAD_MAX);
    }

    /// More than the capacity comes through: it is not the capacity any more.
    fn refuted_by(&mut self, bps: f64) {
        if self.mean_bps.is_some_and(|mean| bps > mean + 3.0 * self.deviation(mean)) {
            self.mean_bps = None;
        }
    }

    fn is_near(&self, bps: f64) -> bool {
        self.mean_bps.is_some_and(|mean| bps > mean - 3.0 * self.deviation(mean))
    }

    fn deviation(&self, mean_bps: f64) -> f64 {
        (self.spread * mean_bps).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(now_us: u64, usage: Usage, acked_bps: f64, queue_ms: f64) -> Observation {
        let acked_bps = Some(acked_bps);
        Observation { now_us, usage, acked_bps, quick_bps: acked_bps, passage: None, queue_ms, rtt_us: 100_000 }
    }

    #[test]
    fn a_deep_queue_is_drained_and_the_rate_comes_back_at_once() {
        let mut rate = DelayRate::new(2_500_000.0);
        rate.update(seen(1_000_000, Usage::Over, 1_000_000.0, 240.0));
        assert_eq!(rate.bps(), 700_000.0);
        rate.update(seen(1_500_000, Usage::Under, 1_000_000.0, 90.0));
        rate.update(seen(1_600_000, Usage::Normal, 1_000_000.0, 60.0));
        assert_eq!(rate.bps(), 700_000.0);
        rate.update(seen(1_700_000, Usage::Normal, 700_000.0, 10.0));
        assert!((950_000.0..970_000.0).contains(&rate.bps()), "{}", rate.bps());
    }

    #[test]
    fn a_path_that_became_much_narrower_is_believed_before_the_trend_shows_it() {
        let passes = |sent_bps, arrived_bps| Observation {
            passage: Some(Passage { sent_bps, arrived_bps }),
            ..seen(1_000_000, Usage::Normal, 1_400_000.0, 160.0)
        };
        let after = |observation| {
            let mut rate = DelayRate::new(2_500_000.0);
            rate.update(observation);
            rate.bps()
        };
        assert_eq!(after(passes(2_000_000.0, 400_000.0)), 320_000.0);
        assert!(
            after(passes(400_000.0, 380_000.0)) >= 2_500_000.0,
            "somebody who sends little on a way that became longer"
        );
        assert!(after(passes(2_400_000.0, 1_600_000.0)) >= 2_500_000.0, "the trend will tell");
    }

    #[test]
    fn overuse_without_a_queue_takes_nothing_of_what_arrives() {
        let mut rate = DelayRate::new(700_000.0);
        for second in 1..20 {
            rate.update(seen(second * 1_000_000, Usage::Over, 640_000.0, 20.0));
            rate.update(seen(second * 1_000_000 + 100_000, Usage::Normal, 640_000.0, 5.0));
        }
        assert!(rate.bps() >= 640_000.0, "{}", rate.bps());
        rate.update(seen(30_000_000, Usage::Over, 640_000.0, 60.0));
        assert!(rate.bps() < 600_000.0, "a queue that stands is drained");
    }

    #[test]
    fn who_sends_little_neither_gains_nor_loses() {
        let mut rate = DelayRate::new(2_500_000.0);
        for second in 1..100 {
            rate.update(seen(second * 1_000_000, Usage::Normal, 100_000.0, 0.0));
        }
        assert_eq!(rate.bps(), 2_500_000.0);
        // A key frame passes.
        rate.update(seen(100_000_000, Usage::Over, 100_000.0, 5.0));
        rate.update(seen(100_100_000, Usage::Over, 100_000.0, 60.0));
        rate.update(seen(100_200_000, Usage::Normal, 100_000.0, 5.0));
        assert_eq!(rate.bps(), 2_500_000.0);
        rate.update(seen(101_000_000, Usage::Over, 100_000.0, 5.0));
        rate.update(seen(101_200_000, Usage::Over, 100_000.0, 5.0));
        assert_eq!(rate.bps(), 2_125_000.0);
    }

    #[test]
    fn who_begins_to_send_more_is_judged_by_the_last_moments() {
        let mut rate = DelayRate::new(800_000.0);
        let seen = |ms: u64, usage, acked_bps: f64, quick_bps: f64, queue_ms| Observation {
            now_us: ms * 1_000,
            usage,
            acked_bps: Some(acked_bps),
            quick_bps: Some(quick_bps),
            passage: None,
            queue_ms,
            rtt_us: 50_000,
        };
        rate.update(seen(1_000, Usage::Normal, 240_000.0, 240_000.0, 5.0));
        rate.update(seen(1_050, Usage::Over, 320_000.0, 470_000.0, 58.0));
        rate.update(seen(1_200, Usage::Over, 450_000.0, 790_000.0, 20.0));
        rate.update(seen(1_250, Usage::Normal, 500_000.0, 700_000.0, 5.0));
        assert!(rate.bps() > 720_000.0, "{}", rate.bps());
        // A deep queue is not waited for.
        rate.update(seen(5_000, Usage::Over, 240_000.0, 300_000.0, 120.0));
        assert!(rate.bps() < 400_000.0, "{}", rate.bps());
    }
}
