//! One direction of somebody's network: a bottleneck with a queue, loss, delay, reordering, repetition; and what became of everything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// What IPv4 and UDP add to a datagram on the line.
const OVERHEAD: usize = 28;
/// How much later a datagram comes that was picked to come late: behind some of those after it.
const DETOUR: Duration = Duration::from_millis(30);

/// What happens to datagrams on the way. Set it up in one line: `sim.downlink(bo).rate(1_000_000).delay(millis(20))`.
#[derive(Debug, Clone)]
pub struct Link {
    loss: f64,
    bursts: Option<Bursts>,
    repetition: f64,
    reordering: f64,
    delay: Duration,
    jitter: Duration,
    in_order: bool,
    bottleneck: Option<Bottleneck>,
    last_arrival: Option<Instant>,
    stats: LinkStats,
}

/// A line that is good or bad (Gilbert's model): while it is bad, everything is lost.
#[derive(Debug, Clone, Copy)]
struct Bursts {
    /// That a bad datagram is the last of its burst.
    end: f64,
    /// That a burst begins with the next datagram.
    begin: f64,
    bad: bool,
}

/// A line of limited rate with a queue in front that drops what does not fit (drop-tail).
#[derive(Debug, Clone, Copy)]
struct Bottleneck {
    /// Bits a second.
    rate: u64,
    /// How long the queue may make a datagram wait.
    queue: Duration,
    free_at: Option<Instant>,
}

/// What became of datagrams since the statistics were last taken.
#[derive(Debug, Clone, Default)]
pub struct LinkStats {
    /// Datagrams that went in.
    pub sent: u64,
    /// Lost on the line, by chance or in a burst.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
    /// Bytes that arrive, with what IP and UDP add.
    pub bytes: u64,
    /// Microseconds that those which arrive waited in the queue, their own time on the line included.
    waits: Vec<u32>,
    /// Sent and not arrived, by RTP payload type: a header stands in the clear.
    by_payload_type: BTreeMap<u8, (u64, u64)>,
}

impl Default for Link {
    /// A good line: 10 ms, nothing lost, any rate.
    fn default() -> Self {
        Self {
            loss: 0.0,
            bursts: None,
            repetition: 0.0,
            reordering: 0.0,
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            in_order: false,
            bottleneck: None,
            last_arrival: None,
            stats: LinkStats::default(),
        }
    }
}

impl Link {
    /// The share of datagrams that is lost, each by itself.
    pub fn loss(&mut self, share: f64) -> &mut Self {
        self.loss = share;
        self
    }

    /// The share of datagrams that is lost in bursts, and how many such a burst takes on average. A share of 0 ends them.
    pub fn bursts(&mut self, share: f64, mean_len: f64) -> &mut Self {
        let share = share.clamp(0.0, 0.99);
        let end = 1.0 / mean_len.max(1.0);
        // In the long run bursts begin as often as they end: (1 − share) · begin = share · end.
        let begin = end * share / (1.0 - share);
        self.bursts = (share > 0.0).then_some(Bursts { end, begin, bad: false });
        self
    }

    /// The share of datagrams that come twice.
    pub fn repetition(&mut self, share: f64) -> &mut Self {
        self.repetition = share;
        self
    }

    /// The share of datagrams that take 30 ms longer, so that others overtake them.
    pub fn reordering(&mut self, share: f64) -> &mut Self {
        self.reordering = share;
        self
    }

    /// How long a datagram takes at least.
    pub fn delay(&mut self, delay: Duration) -> &mut Self {
        self.delay = delay;
        self
    }

    /// How much longer it may take, evenly spread: datagrams overtake each other, unless the link keeps their order.
    pub fn jitter(&mut self, jitter: Duration) -> &mut Self {
        self.jitter = jitter;
        self
    }

    /// Whether datagrams stay in order whatever the jitter: whoever is late holds up the others.
    pub fn in_order(&mut self, in_order: bool) -> &mut Self {
        self.in_order = in_order;
        self
    }

    /// Bits a second that pass, headers of IP and UDP included. A queue of 200 ms stands before it unless [`Link::queue`] says
    /// otherwise. What waits already keeps the time that it was given.
    pub fn rate(&mut self, bits_per_second: u64) -> &mut Self {
        let rate = bits_per_second.max(1);
        let before = self.bottleneck;
        let queue = before.map_or(Duration::from_millis(200), |before| before.queue);
        self.bottleneck = Some(Bottleneck { rate, queue, free_at: before.and_then(|before| before.free_at) });
        self
    }

    /// How long the queue before the bottleneck may make a datagram wait; what would wait longer is dropped.
    pub fn queue(&mut self, most: Duration) -> &mut Self {
        if let Some(bottleneck) = &mut self.bottleneck {
            bottleneck.queue = most;
        }
        self
    }

    /// What happened since the beginning, or since [`Link::take_stats`].
    pub fn stats(&self) -> &LinkStats {
        &self.stats
    }

    /// What happened since the last time; counting starts anew.
    pub fn take_stats(&mut self) -> LinkStats {
        std::mem::take(&mut self.stats)
    }

    /// When a datagram sent now arrives: never, once or twice.
    pub(crate) fn pass(
        &mut self,
        now: Instant,
        bytes: &[u8],
        random: &mut ChaCha8Rng,
    ) -> impl Iterator<Item = Duration> + use<> {
        let copies: usize = match (chance(random, self.loss), chance(random, self.repetition)) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        let jitter = [share(random), share(random)].map(|share| self.jitter.mul_f64(share));
        let detour = self.reordering > 0.0 && chance(random, self.reordering);
        let burst = self.bursts.as_mut().is_some_and(|bursts| bursts.takes(random));
        let len = bytes.len() + OVERHEAD;
        self.stats.sent += 1;
        let waited = match &mut self.bottleneck {
            Some(bottleneck) => bottleneck.pass(now, len),
            None => Some(Duration::ZERO),
        };
        let arrives = match (waited, copies > 0 && !burst) {
            (None, _) => {
                self.stats.dropped += 1;
                None
            }
            (Some(_), false) => {
                self.stats.lost += 1;
                None
            }
            (Some(waited), true) => Some(waited),
        };
        self.stats.note_payload_type(bytes, arrives.is_some());
        let mut arrivals = [None, None];
        if let Some(waited) = arrives {
            self.stats.bytes += len as u64;
            if self.bottleneck.is_some() {
                self.stats.waits.push(u32::try_from(waited.as_micros()).unwrap_or(u32::MAX));
            }
            let whole = waited + self.delay + if detour { DETOUR } else { Duration::ZERO };
            for (arrival, jitter) in arrivals.iter_mut().zip(jitter).take(copies) {
                *arrival = Some(self.ordered(now, whole + jitter));
            }
        }
        arrivals.into_iter().flatten()
    }

    fn ordered(&mut self, now: Instant, delay: Duration) -> Duration {
        if !self.in_order {
            return delay;
        }
        let at = self.last_arrival.map_or(now + delay, |last| last.max(now + delay));
        self.last_arrival = Some(at);
        at - now
    }
}

impl Bursts {
    fn takes(&mut self, random: &mut ChaCha8Rng) -> bool {
        let turns = chance(random, if self.bad { self.end } else { self.begin });
        self.bad ^= turns;
        self.bad
    }
}

impl Bottleneck {
    /// How long a datagram takes until it is through; `None` when the queue is full.
    fn pass(&mut self, now: Instant, len: usize) -> Option<Duration> {
        let starts = self.free_at.map_or(now, |free| free.max(now));
        if starts - now > self.queue {
            return None;
        }
        let through = starts + Duration::from_nanos(len as u64 * 8 * 1_000_000_000 / self.rate);
        self.free_at = Some(through);
        Some(through - now)
    }
}

impl LinkStats {
    /// How long those that arrived waited at the bottleneck, at this share of them: 0.5 is the median.
    pub fn queue_delay(&self, share: f64) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((waits.len() as f64 * share) as usize).min(waits.len().saturating_sub(1));
        Duration::from_micros(waits.get(index).copied().unwrap_or(0).into())
    }

    /// RTP packets of this payload type that went in, and those of them that never arrive.
    pub fn of_payload_type(&self, payload_type: u8) -> (u64, u64) {
        self.by_payload_type.get(&payload_type).copied().unwrap_or_default()
    }

    /// The share that does not arrive, for whatever reason.
    pub fn loss_share(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let share = (self.lost + self.dropped) as f64 / (self.sent.max(1)) as f64;
        share
    }

    fn note_payload_type(&mut self, bytes: &[u8], arrives: bool) {
        // RFC 7983 §7: RTP and RTCP start with 128…191; RFC 5761 §4: payload types 64…95 would be RTCP.
        let Some((first, second)) = bytes.first().zip(bytes.get(1)) else { return };
        let payload_type = second & 0x7f;
        if (128..192).contains(first) && !(64..96).contains(&payload_type) {
            let (sent, missing) = self.by_payload_type.entry(payload_type).or_default();
            *sent += 1;
            *missing += u64::from(!arrives);
        }
    }
}

/// From 0 to 1.
pub(crate) fn share(random: &mut ChaCha8Rng) -> f64 {
    f64::from(random.next_u32()) / f64::from(u32::MAX)
}

pub(crate) fn chance(random: &mut ChaCha8Rng, probability: f64) -> bool {
    share(random) < probability
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    /// Sends datagrams of this length in even intervals; their times of arrival from the first departure on.
    fn send(link: &mut Link, count: u32, interval: Duration, len: usize) -> Vec<Option<Duration>> {
        let (start, mut random) = (Instant::now(), ChaCha8Rng::seed_from_u64(9));
        let datagram = vec![0x80; len];
        let each = (0..count).map(|n| {
            let sent = interval * n;
            link.pass(start + sent, &datagram, &mut random).next().map(|delay| sent + delay)
        });
        each.collect()
    }

    #[test]
    fn a_bottleneck_passes_its_rate_and_drops_what_its_queue_does_not_hold() {
        let mut link = Link::default();
        link.rate(1_000_000).queue(Duration::from_millis(100));
        // 1 000 bytes on the line each millisecond are eight times the rate.
        let arrivals = send(&mut link, 1_000, Duration::from_millis(1), 972);
        let arrived = arrivals.iter().flatten().count();
        assert!((130..=142).contains(&arrived), "{arrived} in a second and a queue");
        let stats = link.take_stats();
        assert_eq!(stats.dropped + u64::try_from(arrived).unwrap(), 1_000);
        assert!((100..=109).contains(&stats.queue_delay(0.95).as_millis()), "{:?}", stats.queue_delay(0.95));
        assert_eq!(link.stats().sent, 0, "taken");
    }

    #[test]
    fn an_idle_bottleneck_costs_only_the_time_on_the_line() {
        let mut link = Link::default();
        link.rate(8_000_000);
        let arrivals = send(&mut link, 10, Duration::from_millis(2), 972);
        assert_eq!(arrivals[3], Some(Duration::from_millis(3 * 2 + 10 + 1)));
        assert_eq!(link.stats().queue_delay(0.5), Duration::from_millis(1));
    }

    #[test]
    fn bursts_lose_their_share_in_runs_of_their_length() {
        let mut link = Link::default();
        link.bursts(0.2, 8.0);
        let arrivals = send(&mut link, 100_000, Duration::from_millis(1), 100);
        let lost = arrivals.iter().filter(|arrival| arrival.is_none()).count();
        let runs = arrivals.windows(2).filter(|pair| pair[0].is_some() && pair[1].is_none()).count();
        assert!((18_500..21_500).contains(&lost), "{lost}");
        assert!((7 * runs..9 * runs).contains(&lost), "{lost} in {runs} bursts");
    }

    #[test]
    fn jitter_reorders_unless_the_link_keeps_the_order() {
        let late = |in_order: bool| {
            let mut link = Link::default();
            link.jitter(Duration::from_millis(40)).in_order(in_order);
            let arrivals = send(&mut link, 1_000, Duration::from_millis(5), 100);
            arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count()
        };
        assert!(late(false) > 100);
        assert_eq!(late(true), 0);
    }

    #[test]
    fn one_in_ten_takes_a_detour() {
        let mut link = Link::default();
        link.reordering(0.1);
        let arrivals = send(&mut link, 1_000, Duration::from_millis(5), 100);
        let late = arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((70..130).contains(&late), "{late}");
    }

    #[test]
    fn payload_types_are_told_apart_in_the_clear() {
        let (mut link, mut random) = (Link::default(), ChaCha8Rng::seed_from_u64(1));
        for (datagram, loss) in [([0x90, 0xef], 0.0), ([0x80, 111], 1.0), ([0x80, 200], 0.0), ([22, 111], 0.0)] {
            link.loss(loss);
            let _ = link.pass(Instant::now(), &datagram, &mut random).count();
        }
        assert_eq!(link.stats().of_payload_type(111), (2, 1));
        assert_eq!(link.stats().of_payload_type(72), (0, 0), "a report");
    }
}
