//! When packets of one receiver may leave: budget arithmetic, no packets.

use std::time::{Duration, Instant};

/// The pace, as a multiple of the estimate: a frame leaves in less than half of its time, and a queue at the
/// bottleneck stays small.
const PACE: f64 = 2.5;
/// A pacer is asked this often; whatever one turn may send leaves together, and so in one system call.
const TICK: Duration = Duration::from_millis(2);
/// One packet may always be begun.
const PACKET_BYTES: f64 = 1_500.0;
/// A whole P-frame at once, 8 packets, where the path has room beside what is sent: at least `WIDE` times as much …
const FRAME_BYTES: f64 = 10_000.0;
const WIDE: f64 = 1.25;
/// … and as far as it passes the path in a frame's time.
const FRAME: Duration = Duration::from_millis(33);
/// What waits longer than this is sent faster: late video is no video, and the encoder will not wait.
const QUEUE_MAX: Duration = Duration::from_millis(250);
/// Fastest, as a multiple of the pace.
const HURRY_MAX: f64 = 4.0;
/// Debt is forgotten beyond this, so that a burst of packets that do not wait cannot stop video for long.
const DEBT_MAX: Duration = Duration::from_millis(100);

/// What a packet is, in the order in which packets leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// Never waits, and counts.
    Audio,
    /// Before new video: somebody waits for it.
    Retransmission,
    /// Media of this moment.
    Video,
    /// Padding that measures the path. It has a pace of its own ([`super::Estimator::padding_due`]), and counts here.
    Probe,
}

/// A leaky bucket: what was sent fills it, time empties it at the pace.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Bytes per second; `None` is unlimited.
    pace: Option<f64>,
    /// How full the bucket may be for one more packet, in bytes.
    allowance: f64,
    level: f64,
    level_at: Instant,
}

impl Pacer {
    /// Unlimited until the first [`Self::update`].
    pub(crate) fn new(now: Instant) -> Self {
        Self { pace: None, allowance: 0.0, level: 0.0, level_at: now }
    }

    /// Sets the pace; on every tick. `allocated_bps` is what is being sent on average, `oldest` how long the first
    /// packet of the queue has waited.
    pub(crate) fn update(&mut self, now: Instant, estimate_bps: Option<u64>, allocated_bps: u64, oldest: Duration) {
        self.drain(now);
        let Some(estimate_bps) = estimate_bps else {
            self.pace = None;
            return;
        };
        let hurry = (oldest.as_secs_f64() / QUEUE_MAX.as_secs_f64()).clamp(1.0, HURRY_MAX);
        let pace = estimate_bps as f64 / 8.0 * PACE * hurry;
        let is_wide = estimate_bps as f64 >= allocated_bps as f64 * WIDE;
        let frame = (estimate_bps as f64 / 8.0 * FRAME.as_secs_f64()).min(FRAME_BYTES);
        let burst = if is_wide { frame.max(PACKET_BYTES) } else { PACKET_BYTES };
        self.allowance = burst.max(pace * TICK.as_secs_f64());
        self.pace = Some(pace);
    }

    /// Whether such a packet may leave now.
    pub(crate) fn may_send(&mut self, now: Instant, turn: Turn, bytes: usize) -> bool {
        match turn {
            Turn::Audio | Turn::Probe => true,
            Turn::Retransmission | Turn::Video => {
                self.drain(now);
                self.pace.is_none() || self.level == 0.0 || self.level + bytes as f64 <= self.allowance
            }
        }
    }

    /// Counts a packet that left.
    pub(crate) fn spent(&mut self, now: Instant, bytes: usize) {
        self.drain(now);
        let Some(pace) = self.pace else { return };
        let most = self.allowance + pace * DEBT_MAX.as_secs_f64();
        self.level = (self.level + bytes as f64).min(most.max(self.level));
    }

    /// When a packet of this size may leave that may not now.
    #[cfg(test)]
    pub(crate) fn next_time(&mut self, now: Instant, bytes: usize) -> Instant {
        self.drain(now);
        let Some(pace) = self.pace else { return now };
        // A packet that never fits goes when the bucket is empty.
        let room = (self.allowance - bytes as f64).max(0.0);
        let excess = (self.level - room).max(0.0);
        // An estimate of zero would never let anything go: look again in a while.
        now + Duration::try_from_secs_f64(excess / pace).unwrap_or(DEBT_MAX).min(DEBT_MAX)
    }

    fn drain(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.level_at).as_secs_f64();
        self.level_at = self.level_at.max(now);
        self.level = match self.pace {
            // Below a bit there is nothing left but rounding.
            Some(pace) => Some(self.level - pace * passed).filter(|level| *level > 0.125).unwrap_or(0.0),
            None => 0.0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends packets of 1200 bytes as allowed, asked every millisecond; returns how many left.
    fn run(pacer: &mut Pacer, start: Instant, from_ms: u64, to_ms: u64) -> usize {
        let mut left = 0;
        for ms in from_ms..to_ms {
            let now = start + Duration::from_millis(ms);
            while left < 10_000 && pacer.may_send(now, Turn::Video, 1200) {
                pacer.spent(now, 1200);
                left += 1;
            }
        }
        left
    }

    #[test]
    fn video_leaves_at_two_and_a_half_times_the_estimate_and_audio_at_once() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        pacer.update(start, Some(960_000), 900_000, Duration::ZERO);
        let sent = run(&mut pacer, start, 0, 1000);
        assert!((249..=253).contains(&sent), "{sent}");
        let end = start + Duration::from_secs(1);
        pacer.spent(end, 1200);
        assert!(!pacer.may_send(end, Turn::Video, 1200) && pacer.may_send(end, Turn::Audio, 100));
        let next = pacer.next_time(end, 1200);
        assert!(!pacer.may_send(next - Duration::from_micros(500), Turn::Video, 1200));
        assert!(pacer.may_send(next + Duration::from_micros(1), Turn::Retransmission, 1200));
    }

    #[test]
    fn a_frame_leaves_at_once_on_a_wide_path() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        pacer.update(start, Some(2_900_000), 2_300_000, Duration::ZERO);
        assert_eq!(run(&mut pacer, start, 0, 1), 8);
        let mut full = Pacer::new(start);
        full.update(start, Some(2_900_000), 2_400_000, Duration::ZERO);
        assert_eq!(run(&mut full, start, 0, 1), 1);
        let mut narrow = Pacer::new(start);
        narrow.update(start, Some(1_000_000), 300_000, Duration::ZERO);
        assert_eq!(run(&mut narrow, start, 0, 1), 3, "what takes a frame's time on the way, and no more");
    }

    #[test]
    fn a_queue_that_is_late_hurries_and_nothing_known_is_no_limit() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        assert_eq!(run(&mut pacer, start, 0, 1), 10_000);
        pacer.update(start, Some(960_000), 900_000, Duration::from_millis(500));
        let sent = run(&mut pacer, start, 0, 1000);
        assert!((499..=503).contains(&sent), "{sent}");
    }

    #[test]
    fn what_does_not_wait_cannot_stop_video_for_long() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        pacer.update(start, Some(960_000), 900_000, Duration::ZERO);
        for _ in 0..10_000 {
            pacer.spent(start, 200);
        }
        assert!(pacer.next_time(start, 1200) <= start + DEBT_MAX);
        assert!(run(&mut pacer, start, 101, 120) > 0);
    }
}
