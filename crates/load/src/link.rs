//! A bad network between one client and the bridge: loss, delay, jitter, reordering, a bottleneck with a queue. Pure
//! and seeded.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::random::Random;

/// A pause of this length is to a burst what a datagram is: radios fail for a time. Otherwise all the tries of a handshake would fall into
/// one burst.
const BURST_STEP: Duration = Duration::from_millis(5);
/// Enough of them to forget what was before.
const BURST_STEPS_MAX: u128 = 100;

/// How bad. Everything is per direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub(crate) struct Badness {
    /// Share of datagrams lost at random, 0…1.
    pub(crate) loss: f64,
    /// Gilbert–Elliott: share of datagrams after which a burst begins; all of a burst is lost.
    pub(crate) burst_begins: f64,
    /// Share of datagrams of a burst after which it ends.
    pub(crate) burst_ends: f64,
    /// Half a round trip.
    pub(crate) delay_ms: u32,
    /// Added to the delay, evenly spread.
    pub(crate) jitter_ms: u32,
    /// Share of datagrams that may be overtaken within the jitter; the others keep their order.
    pub(crate) reordered: f64,
    /// Bits per second of the bottleneck; 0 is none.
    pub(crate) rate_bps: u64,
    /// What the bottleneck's queue holds.
    pub(crate) queue_ms: u32,
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Link {
    badness: Badness,
    random: Random,
    in_burst: bool,
    last_push: Option<Instant>,
    /// When the bottleneck has sent everything it holds.
    busy_until: Option<Instant>,
    last_due: Option<Instant>,
    flying: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
    /// Datagrams it lost.
    pub(crate) lost: u64,
    /// Longest time in the bottleneck's queue.
    pub(crate) queued_max: Duration,
}

impl Link {
    /// A link that does the same for the same seed and datagrams.
    pub(crate) fn new(badness: Badness, seed: u64) -> Self {
        Self {
            badness,
            random: Random::new(seed),
            in_burst: false,
            last_push: None,
            busy_until: None,
            last_due: None,
            flying: BinaryHeap::new(),
            count: 0,
            lost: 0,
            queued_max: Duration::ZERO,
        }
    }

    /// Takes a datagram.
    pub(crate) fn push(&mut self, now: Instant, bytes: &[u8]) {
        let loss = self.badness.loss;
        self.step_burst(now);
        let out = self.through_bottleneck(now, bytes.len()).filter(|_| !self.in_burst);
        let Some(out) = out.filter(|_| self.random.fraction() >= loss) else {
            self.lost += 1;
            return;
        };
        let jitter = self.random.fraction() * f64::from(self.badness.jitter_ms);
        let mut due = out + Duration::from_secs_f64((f64::from(self.badness.delay_ms) + jitter) / 1_000.0);
        if self.random.fraction() >= self.badness.reordered {
            due = due.max(self.last_due.unwrap_or(due));
            self.last_due = Some(due);
        }
        self.count += 1;
        self.flying.push(Reverse((due, self.count, bytes.to_vec())));
    }

    fn step_burst(&mut self, now: Instant) {
        let Badness { burst_begins, burst_ends, .. } = self.badness;
        let pause = self.last_push.replace(now).map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        for _ in 0..=(pause.as_micros() / BURST_STEP.as_micros()).min(BURST_STEPS_MAX) {
            let dice = self.random.fraction();
            self.in_burst = if self.in_burst { dice >= burst_ends } else { dice < burst_begins };
        }
    }

    /// When something arrives.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.flying.peek().map(|Reverse((due, ..))| *due)
    }

    /// What has arrived, one at a time.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.next_timeout().filter(|due| *due <= now)?;
        self.flying.pop().map(|Reverse((.., bytes))| bytes)
    }

    /// When the datagram leaves the bottleneck; `None` when its queue is full.
    fn through_bottleneck(&mut self, now: Instant, len: usize) -> Option<Instant> {
        if self.badness.rate_bps == 0 {
            return Some(now);
        }
        let free = self.busy_until.unwrap_or(now).max(now);
        let queued = free - now;
        if queued > Duration::from_millis(u64::from(self.badness.queue_ms)) {
            return None;
        }
        self.queued_max = self.queued_max.max(queued);
        let out = free + Duration::from_nanos(len as u64 * 8 * 1_000_000_000 / self.badness.rate_bps);
        self.busy_until = Some(out);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(badness: Badness, count: u32, gap: Duration) -> (Vec<u32>, Duration) {
        let (mut link, start) = (Link::new(badness, 7), Instant::now());
        (0..count).for_each(|n| link.push(start + gap * n, &[n.to_be_bytes(), [0; 4]].concat()));
        let (mut all, mut last) = (Vec::new(), start);
        while let Some(at) = link.next_timeout() {
            last = at;
            let bytes = link.pop(at).unwrap();
            all.push(u32::from_be_bytes(bytes[..4].try_into().unwrap()));
        }
        (all, last - start)
    }

    #[test]
    fn a_tenth_is_lost_and_the_rest_keeps_its_order() {
        let badness = Badness { loss: 0.1, delay_ms: 25, jitter_ms: 10, ..Badness::default() };
        let (all, last) = arrivals(badness, 10_000, Duration::from_micros(10));
        assert!((8_800..9_200).contains(&all.len()), "{}", all.len());
        assert!(all.is_sorted() && last >= Duration::from_millis(25));
    }

    #[test]
    fn bursts_lose_runs() {
        let badness = Badness { burst_begins: 0.05, burst_ends: 0.2, ..Badness::default() };
        let (all, _) = arrivals(badness, 10_000, Duration::from_micros(10));
        assert!((7_500..8_500).contains(&all.len()), "a fifth is lost: {}", all.len());
        let gaps = all.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
        assert!((10_000 - all.len()) / gaps >= 3, "in runs of five: {gaps} gaps");
    }

    #[test]
    fn a_burst_does_not_wait_for_those_who_wait() {
        let badness = Badness { burst_begins: 0.05, burst_ends: 0.2, ..Badness::default() };
        let (all, _) = arrivals(badness, 10_000, Duration::from_millis(120));
        assert!((7_500..8_500).contains(&all.len()), "a fifth is lost: {}", all.len());
        let gaps = all.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
        assert!((10_000 - all.len()) * 10 / gaps <= 14, "hardly ever two in a row: {gaps} gaps");
    }

    #[test]
    fn a_bottleneck_delays_and_then_drops() {
        let badness = Badness { rate_bps: 64_000, queue_ms: 50, ..Badness::default() };
        let (all, last) = arrivals(badness, 200, Duration::ZERO);
        assert!((50..=53).contains(&all.len()), "a datagram takes a millisecond: {}", all.len());
        assert!(last >= Duration::from_millis(50) && last < Duration::from_millis(60));
    }
}
