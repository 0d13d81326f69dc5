//! The rate that loss allows: none of its business below a few percent, a bound above.
//!
//! Loss alone cannot tell a full queue from a bad radio. So the bound falls only on significant loss, never far below
//! what arrives, and never below a floor that shrinks with the loss: a bad radio keeps a low layer. Loss beside a
//! standing queue is no radio, and the floor does not hold there.

/// Time of one bucket, and how many are looked at: long enough to mean something, short enough to answer within two
/// seconds.
const BUCKET_US: u64 = 100_000;
const BUCKETS: usize = 12;
/// Packets that have to be told of before a decrease.
const PACKETS_MIN: f64 = 30.0;
/// Loss above which the bound falls.
const LOSS_MAX: f64 = 0.10;
/// Deviations of chance that have to lie between the loss and `LOSS_MAX`.
const CERTAINTY: f64 = 1.0;
/// Time between two decreases beside the round trip.
const DECREASE_GAP_US: u64 = 200_000;
/// A decrease ends at this share of what arrives; or of this, to drain a queue that stands, which is one of so many
/// milliseconds.
const DELIVERED: f64 = 0.85;
const DRAINING: f64 = 0.7;
const STANDING_MS: f64 = 50.0;
/// Below this share of the bound a sender did not fill the path: its own rate says nothing about the bound.
const LIMITED: f64 = 0.5;
/// The floor is this rate over the loss beyond `FLOOR_OFFSET`: 333 kbit/s at 20 %, 111 kbit/s at 50 %.
const FLOOR_BPS: f64 = 50_000.0;
const FLOOR_OFFSET: f64 = 0.05;
/// The floor follows the loss over so many seconds: bursts make a short window jump.
const SLOW_S: f64 = 3.0;
/// Growth of the bound per second without loss; less with some, none at `LOSS_MAX`.
const GROWTH: f64 = 0.25;

/// What the bound is decided on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    pub(super) now_us: u64,
    /// What everything but loss allows, in bits per second.
    pub(super) others_bps: f64,
    /// Bits per second that arrive, when known.
    pub(super) acked_bps: Option<f64>,
    /// Delay above the least one, in milliseconds.
    pub(super) queue_ms: f64,
    pub(super) rtt_us: u64,
}

/// Counts what was lost and keeps the bound.
#[derive(Debug, Default)]
pub(super) struct LossRate {
    /// (lost, told) per time.
    buckets: [(u32, u32); BUCKETS],
    newest: u64,
    /// Bits per second; `None` while loss is no reason to send less.
    bound_bps: Option<f64>,
    fraction: f64,
    /// The same over `SLOW_S`.
    slow: f64,
    last_update_us: u64,
    last_decrease_us: Option<u64>,
}

impl LossRate {
    /// Counts packets that were told of at `now_us`.
    pub(super) fn count(&mut self, now_us: u64, lost: u32, told: u32) {
        let bucket = now_us / BUCKET_US;
        for passed in self.newest + 1..=bucket.min(self.newest + BUCKETS as u64) {
            self.buckets[slot(passed)] = (0, 0);
        }
        self.newest = self.newest.max(bucket);
        let (all_lost, all_told) = &mut self.buckets[slot(self.newest)];
        *all_lost = all_lost.saturating_add(lost);
        *all_told = all_told.saturating_add(told);
    }

    /// A packet that was told as lost came after all.
    pub(super) fn recant(&mut self) {
        if let Some((lost, _)) = self.buckets.iter_mut().find(|(lost, _)| *lost > 0) {
            *lost -= 1;
        }
    }

    /// The share of packets lost lately, 0–1.
    pub(super) fn fraction(&self) -> f64 {
        self.fraction
    }

    pub(super) fn bound_bps(&self) -> Option<f64> {
        self.bound_bps
    }

    /// Decides after a feedback; tells whether the bound fell.
    pub(super) fn update(&mut self, seen: Circumstances) -> bool {
        let Circumstances { now_us, others_bps, rtt_us, .. } = seen;
        let since_us = now_us.saturating_sub(self.last_update_us).min(1_000_000);
        self.last_update_us = now_us;
        let (lost, told) = self
            .buckets
            .iter()
            .fold((0.0, 0.0), |(lost, told), bucket| (lost + f64::from(bucket.0), told + f64::from(bucket.1)));
        // A trickle proves no loss, and the end of it all the less: otherwise a bound that lets little through would never rise again.
        let loss = lost / told.max(PACKETS_MIN);
        self.fraction = loss;
        self.slow += (loss - self.slow) * (since_us as f64 / 1e6 / SLOW_S).min(1.0);
        let is_much = told >= PACKETS_MIN && loss - CERTAINTY * (loss * (1.0 - loss) / told).sqrt() > LOSS_MAX;
        if is_much && self.bound_bps.is_none() {
            // The beginning of it: the past says nothing about this.
            self.slow = self.slow.max(loss);
        }
        let floor = self.floor(seen.queue_ms);
        if is_much {
            let gap_us = DECREASE_GAP_US + rtt_us;
            let is_due = self.last_decrease_us.is_none_or(|at| now_us >= at + gap_us);
            if is_due {
                self.decrease(loss, floor, seen);
            }
            self.raise(floor, others_bps);
            return is_due;
        }
        if let Some(bound) = self.bound_bps {
            let grown = 1.0 + GROWTH * (1.0 - loss / LOSS_MAX).max(0.0) * since_us as f64 / 1e6;
            self.raise((bound * grown).max(floor), others_bps);
        }
        false
    }

    /// A rate that is known to come through.
    pub(super) fn raise(&mut self, bps: f64, others_bps: f64) {
        if let Some(bound) = self.bound_bps {
            let raised = bound.max(bps);
            self.bound_bps = (raised < others_bps).then_some(raised);
        }
    }

    fn floor(&self, queue_ms: f64) -> f64 {
        let beyond = self.slow - FLOOR_OFFSET;
        if queue_ms > STANDING_MS || beyond <= 0.0 { 0.0 } else { FLOOR_BPS / beyond }
    }

    /// Forgets the loss that it answers: the next decrease needs evidence of its own.
    fn decrease(&mut self, loss: f64, floor: f64, seen: Circumstances) {
        let bound = self.bound_bps.unwrap_or(seen.others_bps).min(seen.others_bps);
        let delivered = seen.acked_bps.unwrap_or(0.0);
        let share = if seen.queue_ms > STANDING_MS { DRAINING } else { DELIVERED };
        let sent = delivered / (1.0 - loss).max(0.05);
        let from = if sent > LIMITED * bound { bound.min(sent) } else { bound };
        let lower = (from * (1.0 - loss)).max(delivered * share).max(floor);
        self.bound_bps = Some(bound.min(lower));
        self.last_decrease_us = Some(seen.now_us);
        self.buckets = [(0, 0); BUCKETS];
    }
}

fn slot(bucket: u64) -> usize {
    (bucket % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells of 25 packets every 100 ms, some of them lost; what arrives follows the bound.
    fn run(loss: &mut LossRate, from_us: u64, seconds: u64, lost_of_25: u32) -> f64 {
        for tenth in 1..=seconds * 10 {
            let now_us = from_us + tenth * 100_000;
            loss.count(now_us, lost_of_25, 25);
            let sent = loss.bound_bps().unwrap_or(2e6);
            let acked_bps = Some(sent * (1.0 - f64::from(lost_of_25) / 25.0));
            loss.update(Circumstances { now_us, others_bps: 2e6, acked_bps, queue_ms: 0.0, rtt_us: 80_000 });
        }
        loss.bound_bps().unwrap_or(f64::INFINITY)
    }

    #[test]
    fn a_bound_that_lets_only_a_trickle_through_rises_again() {
        let mut loss = LossRate::default();
        run(&mut loss, 0, 20, 20);
        let bound = loss.bound_bps().unwrap();
        for second in 1..=10 {
            let now_us = 20_000_000 + second * 1_000_000;
            loss.count(now_us, 0, 8);
            let seen = Circumstances { now_us, others_bps: 2e6, acked_bps: Some(3e4), queue_ms: 0.0, rtt_us: 80_000 };
            assert!(!loss.update(seen));
        }
        assert!(loss.bound_bps().is_none_or(|raised| raised > 3.0 * bound) && loss.fraction() < 0.01);
    }

    #[test]
    fn little_loss_bounds_nothing_and_much_loss_leaves_a_low_layer() {
        let mut loss = LossRate::default();
        assert_eq!(run(&mut loss, 0, 30, 1), f64::INFINITY);
        let bound = run(&mut loss, 30_000_000, 2, 5);
        assert!(bound < 1_100_000.0, "{bound}");
        let bound = run(&mut loss, 32_000_000, 30, 5);
        assert!((300_000.0..400_000.0).contains(&bound), "{bound}");
        assert_eq!(run(&mut loss, 62_000_000, 15, 0), f64::INFINITY);
    }
}
