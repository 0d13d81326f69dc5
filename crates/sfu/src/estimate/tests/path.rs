//! A path in virtual time: a sender that follows its estimate, a link with a bottleneck, a receiver that writes
//! feedback.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use tertulia_rtp::transport_cc::Recorder;

use crate::estimate::{Estimator, Pacer, Turn};

/// Splitmix64: chance from a seed.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0–1.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How packets get lost beside a full queue.
#[derive(Clone, Copy)]
pub(super) enum Loss {
    /// Each by itself.
    Random(f64),
    /// Gilbert–Elliott: the chance per packet to fall into the bad state, to leave it, and to be lost in it.
    Bursts { fall: f64, leave: f64, lost: f64 },
}

/// The way to the receiver: loss, then a bottleneck with a drop-tail queue, then delay and jitter.
pub(super) struct Link {
    pub(super) bps: f64,
    pub(super) queue_max: Duration,
    pub(super) delay: Duration,
    /// Uniform on top of the delay.
    pub(super) jitter: Duration,
    /// Whether jitter may reorder packets.
    pub(super) reorders: bool,
    pub(super) loss: Loss,
    is_bad: bool,
    free_us: f64,
    last_arrival_us: u64,
}

impl Link {
    pub(super) fn new(bps: f64, delay_ms: u64) -> Self {
        Self {
            bps,
            queue_max: Duration::from_millis(250),
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::ZERO,
            reorders: false,
            loss: Loss::Random(0.0),
            is_bad: false,
            free_us: 0.0,
            last_arrival_us: 0,
        }
    }

    /// Arrival and time in the queue, in microseconds; `None` when lost.
    fn pass(&mut self, now_us: u64, bytes: usize, chance: &mut Chance) -> Option<(u64, f64)> {
        let lost = match self.loss {
            Loss::Random(share) => share,
            Loss::Bursts { fall, leave, lost } => {
                let flip = if self.is_bad { leave } else { fall };
                self.is_bad ^= chance.fraction() < flip;
                if self.is_bad { lost } else { 0.0 }
            }
        };
        if chance.fraction() < lost {
            return None;
        }
        let queue_us = (self.free_us - now_us as f64).max(0.0);
        if queue_us > self.queue_max.as_micros() as f64 {
            return None;
        }
        self.free_us = now_us as f64 + queue_us + bytes as f64 * 8e6 / self.bps;
        let jitter_us = (chance.fraction() * self.jitter.as_micros() as f64) as u64;
        let mut arrival_us = self.free_us as u64 + self.delay.as_micros() as u64 + jitter_us;
        if !self.reorders {
            arrival_us = arrival_us.max(self.last_arrival_us);
            self.last_arrival_us = arrival_us;
        }
        Some((arrival_us, queue_us))
    }
}

/// What the sender has.
pub(super) enum Source {
    /// As much as the estimate allows, up to this many bits per second.
    Smooth(u64),
    /// The highest of these layers that fits, or nothing.
    Layers(&'static [u64]),
}

/// Everything together.
pub(super) struct Path {
    start: Instant,
    pub(super) now_us: u64,
    pub(super) estimator: Estimator,
    pacer: Pacer,
    pub(super) link: Link,
    pub(super) source: Source,
    pub(super) feedback_every_us: u64,
    pub(super) feedback_lost: f64,
    /// The share of feedback that is overtaken by the next one.
    pub(super) feedback_late: f64,
    /// Whether the receiver tells anything, and whether the sender can pad.
    pub(super) has_feedback: bool,
    pub(super) has_padding: bool,
    pub(super) has_audio: bool,
    /// What the receiver's clock shows at the beginning.
    pub(super) clock_us: u64,
    chance: Chance,
    next_frame_us: u64,
    frames: VecDeque<(u64, usize)>,
    arrivals: BinaryHeap<Reverse<(u64, u16)>>,
    feedbacks: BinaryHeap<Reverse<(u64, Vec<u8>)>>,
    recorder: Recorder,
    /// (time in ms, estimate in bit/s), every 10 ms.
    pub(super) estimates: Vec<(u64, u64)>,
    /// (time in ms, time in the queue in ms), per packet.
    pub(super) queues: Vec<(u64, f64)>,
    /// Longest wait in the pacer so far.
    pub(super) paced_max: Duration,
    pub(super) sent_bytes: u64,
}

const AUDIO_BPS: u64 = 40_000;
const FPS: u64 = 30;

impl Path {
    pub(super) fn new(start: Instant, seed: u64, link: Link, source: Source) -> Self {
        Self {
            start,
            now_us: 0,
            estimator: Estimator::new(start),
            pacer: Pacer::new(start),
            link,
            source,
            feedback_every_us: 100_000,
            feedback_lost: 0.0,
            feedback_late: 0.0,
            has_feedback: true,
            has_padding: true,
            has_audio: true,
            clock_us: 123_456_789,
            chance: Chance(seed),
            next_frame_us: 0,
            frames: VecDeque::new(),
            arrivals: BinaryHeap::new(),
            feedbacks: BinaryHeap::new(),
            recorder: Recorder::default(),
            estimates: Vec::new(),
            queues: Vec::new(),
            paced_max: Duration::ZERO,
            sent_bytes: 0,
        }
    }

    pub(super) fn run(&mut self, seconds: f64) {
        let end_us = self.now_us + (seconds * 1e6) as u64;
        while self.now_us < end_us {
            self.step();
            self.now_us += 1_000;
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.now_us)
    }

    /// What the source would send: at best, and as estimated.
    pub(super) fn rates(&self) -> (u64, u64) {
        let estimate = self.estimator.estimate_bps().unwrap_or(u64::MAX);
        match self.source {
            Source::Smooth(ideal) => (ideal, ideal.min(estimate)),
            Source::Layers(layers) => {
                let fits = layers.iter().filter(|layer| **layer + AUDIO_BPS <= estimate).max();
                (layers.iter().max().unwrap() + AUDIO_BPS, fits.map_or(0, |layer| *layer) + AUDIO_BPS)
            }
        }
    }

    fn step(&mut self) {
        let now = self.now();
        self.receive();
        if self.now_us.is_multiple_of(10_000) {
            let (ideal, allocated) = self.rates();
            self.estimator.on_tick(now, ideal, allocated);
            self.estimates.push((self.now_us / 1000, self.estimator.estimate_bps().unwrap_or(u64::MAX)));
        }
        if self.has_audio && self.now_us.is_multiple_of(20_000) {
            self.send(AUDIO_BPS as usize / 8 / 50, false);
        }
        if self.now_us >= self.next_frame_us {
            self.next_frame_us += 1_000_000 / FPS;
            let (_, allocated) = self.rates();
            // Frames differ by up to a third; the mean is kept.
            let even = allocated.saturating_sub(AUDIO_BPS) as f64 / 8.0 / FPS as f64;
            let frame = (even * (0.67 + 0.66 * self.chance.fraction())) as usize;
            let packets = frame.div_ceil(1_200);
            self.frames.extend((0..packets).map(|_| (self.now_us, frame / packets)));
        }
        self.pace();
    }

    fn pace(&mut self) {
        let now = self.now();
        let waited = |queue: &VecDeque<(u64, usize)>| {
            Duration::from_micros(queue.front().map_or(0, |(since, _)| self.now_us - since))
        };
        let oldest = waited(&self.frames);
        self.paced_max = self.paced_max.max(oldest);
        let (_, allocated) = self.rates();
        self.pacer.update(now, self.estimator.estimate_bps(), allocated, oldest);
        while let Some((_, bytes)) = self.frames.front().copied() {
            if !self.pacer.may_send(now, Turn::Video, bytes) {
                break;
            }
            self.frames.pop_front();
            self.send(bytes, false);
        }
        while self.has_padding && self.estimator.padding_due(now).is_some() {
            let bytes = self.estimator.padding_due(now).map_or(0, |(_, bytes)| bytes);
            self.send(bytes, true);
        }
    }

    fn send(&mut self, bytes: usize, is_padding: bool) {
        let now = self.now();
        let probe = is_padding.then(|| self.estimator.padding_due(now).map(|(id, _)| id)).flatten();
        let sequence = self.estimator.sent(now, bytes, probe);
        self.pacer.spent(now, bytes);
        self.sent_bytes += bytes as u64;
        if let Some((arrival_us, queue_us)) = self.link.pass(self.now_us, bytes, &mut self.chance) {
            self.arrivals.push(Reverse((arrival_us, sequence)));
            self.queues.push((self.now_us / 1000, queue_us / 1e3));
        }
    }

    fn receive(&mut self) {
        while let Some(Reverse((arrival_us, sequence))) = self.arrivals.peek().copied() {
            if arrival_us > self.now_us {
                break;
            }
            self.arrivals.pop();
            self.recorder.record(sequence, Duration::from_micros(arrival_us + self.clock_us));
        }
        if self.has_feedback && self.now_us.is_multiple_of(self.feedback_every_us) {
            let mut buffer = [0; 1024];
            while let len @ 1.. = self.recorder.write(&mut buffer) {
                if self.chance.fraction() >= self.feedback_lost {
                    let is_late = self.chance.fraction() < self.feedback_late;
                    let late_us = if is_late { self.feedback_every_us * 3 / 2 } else { 0 };
                    let back_us = self.now_us + self.link.delay.as_micros() as u64 + late_us;
                    self.feedbacks.push(Reverse((back_us, buffer[..len].to_vec())));
                }
            }
        }
        while self.feedbacks.peek().is_some_and(|Reverse((at_us, _))| *at_us <= self.now_us) {
            let Reverse((_, feedback)) = self.feedbacks.pop().unwrap();
            self.estimator.handle_feedback(self.now(), &feedback, |_| {});
        }
    }

    /// Estimates between two times in seconds, sorted.
    pub(super) fn estimates_in(&self, from: f64, to: f64) -> Vec<u64> {
        let ms = (from * 1e3) as u64..(to * 1e3) as u64;
        let mut all: Vec<u64> = self.estimates.iter().filter(|(at, _)| ms.contains(at)).map(|(_, bps)| *bps).collect();
        all.sort_unstable();
        all
    }

    /// The time in the queue that 95 % of the packets between two times stayed below, in milliseconds.
    pub(super) fn queue_p95_ms(&self, from: f64, to: f64) -> f64 {
        let ms = (from * 1e3) as u64..(to * 1e3) as u64;
        let mut all: Vec<f64> = self.queues.iter().filter(|(at, _)| ms.contains(at)).map(|(_, ms)| *ms).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() * 95 / 100]
    }

    /// The first time at or after `from`, in seconds, at which the estimate satisfies something.
    pub(super) fn first(&self, from: f64, is: impl Fn(u64) -> bool) -> Option<f64> {
        let from_ms = (from * 1e3) as u64;
        let found = self.estimates.iter().find(|(at, bps)| *at >= from_ms && is(*bps));
        found.map(|(at, _)| *at as f64 / 1e3)
    }
}
