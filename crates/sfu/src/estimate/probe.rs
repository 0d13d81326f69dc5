//! Probes: short runs of packets, faster than the estimate, that show whether a path is wider than what is known of it.

/// A probe lasts so long: a few feedback ticks of 250 µs at each of its packets, and too short to fill a queue.
const LENGTH_US: u64 = 20_000;
/// Least bytes and packets: fewer measure the clock and not the path.
const BYTES_MIN: f64 = 2_000.0;
const PACKETS_MIN: usize = 5;
/// Largest packet of padding.
const PACKET_BYTES_MAX: f64 = 1_200.0;
/// How much faster than the estimate: the first probe of a path, and later ones.
const FIRST_STEP: f64 = 3.0;
const STEP: f64 = 2.0;
/// Probes go beyond what is wanted by this, so that the result leaves headroom …
const BEYOND: f64 = 1.5;
/// … and are not needed where the estimate is this far above what is wanted.
const ENOUGH: f64 = 1.15;
/// A probe that shows less than this multiple of the estimate shows nothing new.
const PROGRESS: f64 = 1.1;
/// Time between probes that showed nothing new: doubled each time, between these.
const INTERVAL_MIN_US: u64 = 1_000_000;
const INTERVAL_MAX_US: u64 = 5_000_000;
/// Time without a probe after loss lowered the estimate.
const LOSS_PAUSE_US: u64 = 2_000_000;
/// What was not told of this long after the round trip is lost.
const TOLD_WITHIN_US: u64 = 500_000;
/// A sender that has nothing to pad with: given up after this many lengths.
const PATIENCE: u64 = 4;
/// Share of a probe's packets that have to arrive.
const ARRIVED_MIN: f64 = 0.7;
/// A probe that arrives at this share of its speed met no limit.
const UNLIMITED: f64 = 0.9;
/// Of a measured limit, what may be used.
const LIMIT_SHARE: f64 = 0.95;

/// Names a probe of one receiver; reused after 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeId(u8);

/// A run of packets to send, as padding where media does not suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) id: ProbeId,
    /// Pace in bits per second.
    pub(crate) bps: u64,
    /// Bytes in all; media that leaves meanwhile counts.
    pub(crate) bytes: usize,
    /// Packets in all, at least.
    pub(crate) packets: usize,
}

/// What a sender would like to know more about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) estimate_bps: f64,
    pub(super) ideal_bps: f64,
    pub(super) cap_bps: f64,
    /// No queue grows or drains, and packets arrive.
    pub(super) is_calm: bool,
}

/// What a probe showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Finding {
    pub(super) bps: f64,
    /// The path is not wider than this.
    pub(super) is_limit: bool,
}

/// Decides when to probe and measures one probe at a time.
#[derive(Debug, Default)]
pub(super) struct Prober {
    last_id: u8,
    running: Option<Run>,
    next_us: u64,
    interval_us: u64,
    has_probed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    id: u8,
    bps: f64,
    bytes: f64,
    packets: usize,
    started_us: u64,
    is_sent: bool,
    sent: Span,
    arrived: Span,
    lost: usize,
}

/// Bytes between a first and a last moment.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    packets: usize,
    bytes: u64,
    first_us: i64,
    last_us: i64,
    first_bytes: u16,
    last_bytes: u16,
}

impl Prober {
    /// Starts a probe when one is worth it.
    pub(super) fn consider(&mut self, now_us: u64, wish: Wish) -> Option<Probe> {
        let enough = wish.ideal_bps * ENOUGH;
        if self.running.is_some() || now_us < self.next_us || !wish.is_calm || wish.estimate_bps >= enough {
            return None;
        }
        let step = if self.has_probed { STEP } else { FIRST_STEP };
        let bps = (wish.estimate_bps * step).min(wish.ideal_bps * BEYOND).min(wish.cap_bps);
        if bps <= wish.estimate_bps {
            return None;
        }
        let bytes = (bps / 8e6 * LENGTH_US as f64).max(BYTES_MIN);
        let packets = ((bytes / PACKET_BYTES_MAX).ceil() as usize).max(PACKETS_MIN);
        self.has_probed = true;
        self.last_id = self.last_id.wrapping_add(1).max(1);
        self.running = Some(Run {
            id: self.last_id,
            bps,
            bytes,
            packets,
            started_us: now_us,
            is_sent: false,
            sent: Span::default(),
            arrived: Span::default(),
            lost: 0,
        });
        Some(Probe { id: ProbeId(self.last_id), bps: bps as u64, bytes: bytes as usize, packets })
    }

    /// Whether a probe has packets that are still to leave.
    pub(super) fn is_sending(&self) -> bool {
        self.running.as_ref().is_some_and(|run| !run.is_sent)
    }

    /// The probe that a packet has to leave for now, and the bytes that packet should have; any size will do.
    pub(super) fn due(&self, now_us: u64) -> Option<(ProbeId, usize)> {
        let run = self.running.as_ref().filter(|run| !run.is_sent)?;
        let by_now = run.bps / 8e6 * now_us.saturating_sub(run.started_us) as f64;
        let is_due = run.sent.packets == 0 || run.sent.bytes as f64 <= by_now;
        is_due.then(|| (ProbeId(run.id), (run.bytes / run.packets as f64).ceil() as usize))
    }

    /// Counts a packet of any kind; returns the probe it belongs to, 0 for none.
    pub(super) fn sent(&mut self, now_us: u64, bytes: u16) -> u8 {
        let Some(run) = self.running.as_mut().filter(|run| !run.is_sent) else { return 0 };
        run.sent.add(now_us.cast_signed(), bytes);
        run.is_sent = run.sent.bytes as f64 >= run.bytes && run.sent.packets >= run.packets;
        run.id
    }

    /// A packet of a probe arrived.
    pub(super) fn arrived(&mut self, id: u8, arrival_us: i64, bytes: u16) {
        if let Some(run) = self.running.as_mut().filter(|run| run.id == id) {
            run.arrived.add(arrival_us, bytes);
        }
    }

    /// A packet of a probe was lost.
    pub(super) fn lost(&mut self, id: u8) {
        if let Some(run) = self.running.as_mut().filter(|run| run.id == id) {
            run.lost += 1;
        }
    }

    /// Ends the probe once everything is told of, or will not be any more.
    pub(super) fn conclude(&mut self, now_us: u64, rtt_us: u64, estimate_bps: f64) -> Option<Finding> {
        let run = self.running?;
        if !run.is_sent {
            if now_us > run.started_us + PATIENCE * run.length_us() {
                self.end(now_us, false);
            }
            return None;
        }
        let is_told = run.arrived.packets + run.lost >= run.sent.packets;
        if !is_told && now_us.cast_signed() < run.sent.last_us + (rtt_us + TOLD_WITHIN_US).cast_signed() {
            return None;
        }
        let finding = run.finding();
        // A probe that did not get to leave as fast as it should is no reason for the next one either.
        let is_progress = finding.is_some_and(|found| !found.is_limit && found.bps > PROGRESS * estimate_bps);
        self.end(now_us, is_progress);
        finding
    }

    /// The estimate fell a lot: what made it fall may pass soon.
    pub(super) fn dropped(&mut self, now_us: u64) {
        self.interval_us = INTERVAL_MIN_US;
        self.next_us = now_us + INTERVAL_MIN_US;
    }

    /// Loss lowered the estimate: in bursts of it, a probe that slips between two of them shows nothing.
    pub(super) fn wait_for_loss(&mut self, now_us: u64) {
        self.next_us = self.next_us.max(now_us + LOSS_PAUSE_US);
    }

    fn end(&mut self, now_us: u64, is_progress: bool) {
        self.running = None;
        if is_progress {
            self.interval_us = 0;
        } else {
            self.interval_us = (self.interval_us * 2).clamp(INTERVAL_MIN_US, INTERVAL_MAX_US);
            self.next_us = now_us + self.interval_us;
        }
    }
}

impl Run {
    fn length_us(&self) -> u64 {
        (self.bytes * 8e6 / self.bps) as u64
    }

    fn finding(&self) -> Option<Finding> {
        let needed = (self.sent.packets as f64 * ARRIVED_MIN).ceil() as usize;
        if self.arrived.packets < needed.max(2) {
            return None;
        }
        // The last packet leaves at the end of the span it is counted in, the first arrives at the start.
        let sent_bps = self.sent.bps(self.sent.last_bytes)?;
        let arrived_bps = self.arrived.bps(self.arrived.first_bytes)?;
        let is_limit = arrived_bps < UNLIMITED * sent_bps;
        let bps = if is_limit { arrived_bps * LIMIT_SHARE } else { arrived_bps.min(sent_bps) };
        Some(Finding { bps, is_limit })
    }
}

impl Span {
    fn add(&mut self, at_us: i64, bytes: u16) {
        if self.packets == 0 || at_us < self.first_us {
            (self.first_us, self.first_bytes) = (at_us, bytes);
        }
        if self.packets == 0 || at_us >= self.last_us {
            (self.last_us, self.last_bytes) = (at_us, bytes);
        }
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }

    fn bps(&self, without: u16) -> Option<f64> {
        let bytes = self.bytes.saturating_sub(u64::from(without));
        let us = self.last_us.saturating_sub(self.first_us);
        (us > 0 && bytes > 0).then(|| bytes as f64 * 8e6 / us as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish = Wish { estimate_bps: 1e6, ideal_bps: 5e6, cap_bps: 20e6, is_calm: true };

    /// Sends what is due every millisecond; the path passes `path_bps`.
    fn run(prober: &mut Prober, probe: Probe, from_us: u64, path_bps: f64) -> Option<Finding> {
        let mut free_us = 0.0f64;
        for now_us in (from_us..from_us + 200_000).step_by(1_000) {
            while let Some((_, bytes)) = prober.due(now_us) {
                let bytes = u16::try_from(bytes).unwrap();
                let id = prober.sent(now_us, bytes);
                assert_eq!(ProbeId(id), probe.id);
                free_us = free_us.max(now_us as f64) + f64::from(bytes) * 8e6 / path_bps;
                prober.arrived(id, free_us as i64 - 77_000_000, bytes);
            }
            if let Some(finding) = prober.conclude(now_us, 50_000, 1e6) {
                return Some(finding);
            }
        }
        None
    }

    #[test]
    fn a_wide_path_is_probed_on_and_a_narrow_one_is_measured() {
        let mut prober = Prober::default();
        let probe = prober.consider(0, WISH).unwrap();
        assert_eq!((probe.bps, probe.bytes), (3_000_000, 7_500));
        let finding = run(&mut prober, probe, 0, 50e6).unwrap();
        assert!(!finding.is_limit && (2.5e6..3.3e6).contains(&finding.bps), "{finding:?}");
        let wish = Wish { estimate_bps: finding.bps, ..WISH };
        let probe = prober.consider(300_000, wish).unwrap();
        let finding = run(&mut prober, probe, 300_000, 4e6).unwrap();
        assert!(finding.is_limit && (3.5e6..4e6).contains(&finding.bps), "{finding:?}");
        assert!(prober.consider(600_000, wish).is_none());
        assert!(prober.consider(2_000_000, wish).is_some());
    }

    #[test]
    fn nothing_is_probed_that_nobody_wants_and_a_probe_without_padding_ends() {
        let mut prober = Prober::default();
        assert!(prober.consider(0, Wish { ideal_bps: 0.8e6, ..WISH }).is_none());
        assert!(prober.consider(0, Wish { is_calm: false, ..WISH }).is_none());
        prober.consider(0, WISH).unwrap();
        assert!(prober.consider(10_000, WISH).is_none());
        assert!(prober.conclude(1_000_000, 50_000, 1e6).is_none());
        assert!(prober.due(1_000_000).is_none());
        assert!(prober.consider(2_500_000, WISH).is_some());
    }

    #[test]
    fn a_probe_that_is_mostly_lost_finds_nothing() {
        let mut prober = Prober::default();
        prober.consider(0, WISH).unwrap();
        for at_us in (0..).step_by(2_000).take(20) {
            let id = prober.sent(at_us, 600);
            prober.lost(id);
        }
        assert_eq!(prober.conclude(50_000, 50_000, 1e6), None);
        assert!(prober.running.is_none());
    }
}
