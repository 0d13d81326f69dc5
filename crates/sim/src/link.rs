//! One direction of somebody's network: loss, delay, reordering, repetition.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// What happens to datagrams on the way. Set it up in one line: `sim.downlink(bo).loss(0.2).delay(millis)`.
#[derive(Debug, Clone)]
pub struct Link {
    loss: f64,
    repetition: f64,
    delay: Duration,
    jitter: Duration,
}

impl Default for Link {
    /// A good line: 10 ms, nothing lost.
    fn default() -> Self {
        Self { loss: 0.0, repetition: 0.0, delay: Duration::from_millis(10), jitter: Duration::ZERO }
    }
}

impl Link {
    /// The share of datagrams that is lost, each by itself.
    pub fn loss(&mut self, share: f64) -> &mut Self {
        self.loss = share;
        self
    }

    /// The share of datagrams that come twice.
    pub fn repetition(&mut self, share: f64) -> &mut Self {
        self.repetition = share;
        self
    }

    /// How long a datagram takes at least.
    pub fn delay(&mut self, delay: Duration) -> &mut Self {
        self.delay = delay;
        self
    }

    /// How much longer it may take, evenly spread: datagrams overtake each other.
    pub fn jitter(&mut self, jitter: Duration) -> &mut Self {
        self.jitter = jitter;
        self
    }

    /// When a datagram sent now arrives: never, once or twice.
    pub(crate) fn pass(&self, random: &mut ChaCha8Rng) -> impl Iterator<Item = Duration> + use<> {
        let copies = match (chance(random, self.loss), chance(random, self.repetition)) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        let mut delay = || self.delay + self.jitter.mul_f64(share(random));
        let all = [delay(), delay()];
        all.into_iter().take(copies)
    }
}

/// From 0 to 1.
pub(crate) fn share(random: &mut ChaCha8Rng) -> f64 {
    f64::from(random.next_u32()) / f64::from(u32::MAX)
}

pub(crate) fn chance(random: &mut ChaCha8Rng, probability: f64) -> bool {
    share(random) < probability
}
