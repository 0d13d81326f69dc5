//! How much the path to one receiver can take, and when packets may leave to it. It owns no packet and no clock.
//!
//! Send-side estimation from transport-wide feedback, after draft-ietf-rmcat-gcc-02, for a sender that is an SFU: it
//! sends whole layers and so mostly less than it might. Parts: [`send_log`] what was sent; [`arrival`] and
//! [`trendline`] whether queues grow; [`queue`] how deep they are and what passes them; [`acked`] what arrives; [`rate`]
//! and [`loss`] what delay and loss allow; [`probe`] whether there is more; [`pacer`] when packets leave.
//!
//! Deviations from the draft: the depth of a decrease follows the depth of the queue, and the rate comes back once
//! that is gone; overuse seen by a sender that did not fill the path is given time to pass, and then costs a little
//! and not all; without a queue that stands it takes nothing of what arrives; a path that became much narrower is
//! believed by what passes the queue that grows there, before the trend shows it; loss is answered by a bound of its own
//! with a floor.

mod acked;
mod arrival;
mod loss;
mod pacer;
mod probe;
mod queue;
mod rate;
mod send_log;
mod trendline;

use std::time::{Duration, Instant};

use tertulia_rtp::transport_cc;

use self::acked::AckedRate;
use self::arrival::Groups;
use self::loss::{Circumstances, LossRate};
pub(crate) use self::pacer::{Pacer, Turn};
use self::probe::{Finding, Prober, Wish};
pub(crate) use self::probe::{Probe, ProbeId};
use self::queue::Queue;
use self::rate::{DelayRate, Observation};
use self::send_log::{Fate, SendLog};
use self::trendline::Trendline;
pub(crate) use self::trendline::Usage;

/// Where every estimate starts, in bits per second: most paths are wider, and two layers fit.
const START_BPS: f64 = 2_500_000.0;
/// No estimate is lower: audio has to pass.
const FLOOR_BPS: f64 = 30_000.0;
/// No estimate is higher unless told, in bits per second.
const CAP_BPS: u64 = 20_000_000;
/// A receiver that has not answered any packet within this sends no feedback.
const MUTE_AFTER_US: u64 = 2_000_000;
/// Round trip while none is known.
const RTT_US: u64 = 100_000;
/// Feedback that is overdue by so much halves the estimate, again and again.
const OVERDUE_US: u64 = 1_000_000;
/// Packets between two feedbacks that are worth a thought: as many as the log holds.
const GAP_MAX: u16 = 2048;
/// A sender below this share of the estimate makes no queue.
const IDLE: f64 = 0.25;
/// Delay above the least one that is a queue, in milliseconds.
const QUEUE_MS: f64 = 50.0;
/// Nothing that was sent so long ago stands in a queue.
const RESTED_US: u64 = 1_000_000;
/// Packets without an answer before a receiver is taken to send no feedback: of one the only feedback may be lost.
const UNANSWERED_MIN: u32 = 10;
/// Loss above which probing only adds to it.
const PROBE_LOSS_MAX: f64 = 0.08;
/// An estimate below this share of what loss allows is not held down by loss.
const PROBE_BELOW_BOUND: f64 = 0.8;
/// An estimate below this share of its height has dropped.
const DROP: f64 = 0.66;

/// Estimates one receiver's path. Needs [`Self::sent`] for every packet, [`Self::on_tick`] every 10–50 ms, and
/// whatever the receiver tells.
#[derive(Debug)]
pub(crate) struct Estimator {
    epoch: Instant,
    cap_bps: f64,
    log: SendLog,
    groups: Groups,
    trendline: Trendline,
    queue: Queue,
    acked: AckedRate,
    delay: DelayRate,
    loss: LossRate,
    prober: Prober,
    answers: Answers,
    remb_bps: Option<f64>,
    /// Smoothed, from feedback; and as computed from reports, which is better.
    feedback_rtt_us: Option<u64>,
    report_rtt_us: Option<u64>,
    /// Highest estimate since the last drop.
    height_bps: f64,
    counters: Counters,
}

/// What feedback there is, and what is still to come.
#[derive(Debug, Default)]
struct Answers {
    /// Any came at all.
    any: bool,
    /// None ever came, and it is too late to wait.
    is_mute: bool,
    first_sent_us: Option<u64>,
    sent: u32,
    /// Since when packets wait, and when the last one was sent.
    waiting_since_us: Option<u64>,
    last_sent_us: u64,
    /// The number behind the last packet that was told of.
    next_sequence: Option<u16>,
    /// The number of the last feedback.
    last_number: Option<u8>,
}

/// Counts since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Feedback packets that were read, and that were malformed.
    pub(crate) feedbacks: u64,
    pub(crate) malformed: u64,
    /// Probes begun, and those that met no limit.
    pub(crate) probes: u64,
    pub(crate) probes_passed: u64,
    /// Bytes sent as padding of probes.
    pub(crate) padding_bytes: u64,
    /// How often overdue feedback halved the estimate.
    pub(crate) overdue: u64,
}

/// The parts of the estimate, for statistics and tests.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Diagnostics {
    pub(crate) usage: Usage,
    /// What the packets of the last feedback waited at least, above the shortest way known.
    pub(crate) queue: Duration,
    /// Bits per second that arrive, that delay allows, that loss allows (`None`: any).
    pub(crate) acked_bps: Option<u64>,
    pub(crate) delay_bps: u64,
    pub(crate) loss_bps: Option<u64>,
    pub(crate) counters: Counters,
}

impl Estimator {
    /// An estimator of a path that nothing is known of.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            cap_bps: CAP_BPS as f64,
            log: SendLog::default(),
            groups: Groups::default(),
            trendline: Trendline::new(),
            queue: Queue::default(),
            acked: AckedRate::default(),
            delay: DelayRate::new(START_BPS),
            loss: LossRate::default(),
            prober: Prober::default(),
            answers: Answers::default(),
            remb_bps: None,
            feedback_rtt_us: None,
            report_rtt_us: None,
            height_bps: START_BPS,
            counters: Counters::default(),
        }
    }

    /// The highest estimate there may be, in bits per second.
    #[cfg(test)]
    pub(crate) fn set_cap(&mut self, bps: u64) {
        self.cap_bps = (bps as f64).max(FLOOR_BPS);
    }

    /// Numbers and logs one packet that leaves now, with all its bytes; returns its transport-wide sequence number.
    /// `probe` tells that it is padding of that probe; media that leaves during a probe counts to it by itself.
    pub(crate) fn sent(&mut self, now: Instant, bytes: usize, probe: Option<ProbeId>) -> u16 {
        let now_us = self.us(now);
        if probe.is_some() {
            self.counters.padding_bytes += bytes as u64;
        }
        self.answers.first_sent_us.get_or_insert(now_us);
        self.answers.waiting_since_us.get_or_insert(now_us);
        self.answers.last_sent_us = now_us;
        self.answers.sent = self.answers.sent.saturating_add(1);
        let id = self.prober.sent(now_us, u16::try_from(bytes).unwrap_or(u16::MAX));
        self.log.push(now_us, bytes, id)
    }

    /// Takes the body of a transport-wide feedback. What it says of packets that are not in the log is ignored, and
    /// so is the rest of a malformed one.
    /// `lost` hears of every packet that did not arrive.
    pub(crate) fn handle_feedback(&mut self, now: Instant, feedback: &[u8], mut lost: impl FnMut(u16)) {
        let now_us = self.us(now);
        let Some(&[first, second, .., number]) = feedback.first_chunk::<8>() else {
            self.counters.malformed += 1;
            return;
        };
        let mut told = Told::default();
        self.fill_gap(u16::from_be_bytes([first, second]), number, &mut told, &mut lost);
        let read = transport_cc::read(feedback, |sequence, arrival| match arrival {
            Some(arrival_us) => self.handle_arrival(sequence, arrival_us, &mut told),
            None => {
                if self.handle_loss(sequence, &mut told) {
                    lost(sequence);
                }
            }
        });
        if read.is_none() {
            self.counters.malformed += 1;
        }
        if told.packets == 0 {
            return;
        }
        self.counters.feedbacks += 1;
        self.answers.any = true;
        self.answers.waiting_since_us = None;
        if let Some(sent_us) = told.newest_sent_us {
            let rtt_us = now_us.saturating_sub(sent_us);
            self.feedback_rtt_us = Some(self.feedback_rtt_us.map_or(rtt_us, |old| (old * 7 + rtt_us) / 8));
        }
        self.queue.settle(now_us);
        self.loss.count(now_us, told.lost, told.packets);
        self.decide(now_us);
    }

    /// Takes a REMB (draft-alvestrand-rmcat-remb-03), which counts only where there is no transport-wide feedback.
    pub(crate) fn handle_remb(&mut self, bps: u64) {
        self.remb_bps = Some(bps as f64);
    }

    /// Takes the loss of a reception report (RFC 3550 §6.4.1), in 1/256, which counts only where there is no
    /// transport-wide feedback.
    pub(crate) fn handle_report(&mut self, now: Instant, fraction_lost: u8) {
        if self.answers.any {
            return;
        }
        let now_us = self.us(now);
        // A report stands for about a second of packets; their number is not told.
        self.loss.count(now_us, u32::from(fraction_lost) * 100 / 256, 100);
        let others_bps = self.remb_bps.unwrap_or(self.cap_bps);
        let rtt_us = self.rtt_us();
        self.loss.update(Circumstances { now_us, others_bps, acked_bps: None, queue_ms: 0.0, rtt_us });
    }

    /// Takes a round trip as computed from a reception report (RFC 3550 §6.4.1).
    pub(crate) fn handle_rtt(&mut self, rtt: Duration) {
        self.report_rtt_us = Some(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).min(10_000_000));
    }

    /// Bits per second that may be sent, padding and headers included; `None` means no limit is known: the receiver
    /// sends neither transport-wide feedback nor REMB.
    pub(crate) fn estimate_bps(&self) -> Option<u64> {
        let bps = match self.remb_bps {
            Some(remb) if !self.answers.any => remb.min(self.loss.bound_bps().unwrap_or(remb)),
            None if self.answers.is_mute && !self.answers.any => return None,
            Some(_) | None => self.allowed_bps(),
        };
        Some(bps.clamp(FLOOR_BPS, self.cap_bps) as u64)
    }

    /// The round trip, when known.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.report_rtt_us.or(self.feedback_rtt_us).map(Duration::from_micros)
    }

    /// Whether a queue stands or grows on the way: then what is lost is lost for being too much.
    pub(crate) fn is_queueing(&self) -> bool {
        self.trendline.usage() == Usage::Over || self.delay.is_draining() || self.has_queue()
    }

    /// Whether a queue stands on the way.
    pub(crate) fn has_queue(&self) -> bool {
        self.queue.standing_ms() > QUEUE_MS
    }

    /// The share of packets lost in the last second, 0–1.
    pub(crate) fn loss(&self) -> f32 {
        self.loss.fraction() as f32
    }

    /// Runs what has become due; every 10–50 ms. `ideal_bps` is what would be sent if the path were wide enough,
    /// `allocated_bps` what is. Returns a probe that begins now: the caller sends padding for it whenever
    /// [`Self::padding_due`] says so.
    pub(crate) fn on_tick(&mut self, now: Instant, ideal_bps: u64, allocated_bps: u64) -> Option<Probe> {
        let now_us = self.us(now);
        self.on_silence(now_us);
        self.conclude_probe(now_us);
        if !self.answers.any || allocated_bps >= ideal_bps {
            return None;
        }
        let estimate_bps = self.estimate_bps()? as f64;
        // Where loss allows more than the estimate, it is not what limits: then a path that always loses may be measured too.
        let loss_allows = self.loss.fraction() < PROBE_LOSS_MAX
            || self.loss.bound_bps().is_none_or(|bound| estimate_bps < PROBE_BELOW_BOUND * bound);
        // What feedback tells does not change while there is none.
        let is_rested = now_us >= self.answers.last_sent_us + RESTED_US;
        let is_clear = self.trendline.usage() != Usage::Over && !self.delay.is_draining() && loss_allows;
        let wish =
            Wish { estimate_bps, ideal_bps: ideal_bps as f64, cap_bps: self.cap_bps, is_calm: is_rested || is_clear };
        let probe = self.prober.consider(now_us, wish);
        self.counters.probes += u64::from(probe.is_some());
        probe
    }

    /// Whether a probe has padding that is still to leave.
    pub(crate) fn is_probing(&self) -> bool {
        self.prober.is_sending()
    }

    /// The probe that a packet of padding should leave for now, and how many bytes that should have; a packet of
    /// another size will do. To be asked again after each packet, on every tick of the pacer, until it answers
    /// `None`.
    pub(crate) fn padding_due(&self, now: Instant) -> Option<(ProbeId, usize)> {
        self.prober.due(self.us(now))
    }

    /// The parts of the estimate.
    #[cfg(test)]
    pub(crate) fn diagnostics(&self) -> Diagnostics {
        Diagnostics {
            usage: self.trendline.usage(),
            queue: Duration::from_secs_f64(self.queue.standing_ms() / 1e3),
            acked_bps: self.acked.bps().map(|bps| bps as u64),
            delay_bps: self.delay.bps() as u64,
            loss_bps: self.loss.bound_bps().map(|bps| bps as u64),
            counters: self.counters,
        }
    }

    /// Settles the packets between the last feedback and this one. Where no feedback is missing, they are lost: some
    /// receivers begin with the first packet that arrived. Where one is, they count as arrived, as many as usual and
    /// just before this one: otherwise lost feedback would look like a slow path.
    fn fill_gap(&mut self, base: u16, number: u8, told: &mut Told, lost: &mut impl FnMut(u16)) {
        let is_missing = self.answers.last_number.replace(number).is_some_and(|last| number != last.wrapping_add(1));
        if is_missing {
            self.queue.interrupt();
        }
        let Some(next) = self.answers.next_sequence else { return };
        let gap = base.wrapping_sub(next);
        // More than the log holds, or behind.
        if gap > GAP_MAX {
            return;
        }
        let Some(newest_us) = self.acked.newest_us() else { return };
        let delivered = 1.0 - self.loss.fraction();
        for sequence in (0..gap).map(|offset| next.wrapping_add(offset)) {
            if !is_missing {
                if self.handle_loss(sequence, told) {
                    lost(sequence);
                }
            } else if let Some(sent) = self.log.settle(sequence, Fate::Presumed) {
                let arrival_us = self.queue.arrival_of(sent.at_us).unwrap_or(newest_us).max(newest_us);
                self.acked.add(arrival_us, (f64::from(sent.bytes) * delivered) as u16);
            }
        }
    }

    fn handle_arrival(&mut self, sequence: u16, arrival_us: i64, told: &mut Told) {
        self.answers.told_of(sequence);
        let Some(sent) = self.log.settle(sequence, Fate::Received) else { return };
        told.packets += 1;
        told.newest_sent_us = Some(told.newest_sent_us.unwrap_or(0).max(sent.at_us));
        match sent.fate {
            Fate::Presumed => {}
            Fate::Lost => {
                self.loss.recant();
                self.acked.add(arrival_us, sent.bytes);
            }
            Fate::Pending | Fate::Empty | Fate::Received => self.acked.add(arrival_us, sent.bytes),
        }
        self.queue.add(sent.at_us, arrival_us, sent.bytes);
        if sent.probe != 0 {
            self.prober.arrived(sent.probe, arrival_us, sent.bytes);
        }
        if let Some(step) = self.groups.add(sent.at_us, arrival_us) {
            self.trendline.add(step);
        }
    }

    /// Whether this is new.
    fn handle_loss(&mut self, sequence: u16, told: &mut Told) -> bool {
        self.answers.told_of(sequence);
        let Some(sent) = self.log.settle(sequence, Fate::Lost) else { return false };
        told.packets += 1;
        told.lost += 1;
        self.queue.lose(sent.bytes);
        if sent.probe != 0 {
            self.prober.lost(sent.probe);
        }
        sent.fate == Fate::Pending
    }

    fn decide(&mut self, now_us: u64) {
        let rtt_us = self.rtt_us();
        let acked_bps = self.acked.bps();
        let is_idle = acked_bps.is_some_and(|acked| acked < IDLE * self.delay.bps());
        self.queue.doubt(now_us, is_idle);
        let queue_ms = self.queue.standing_ms();
        self.delay.update(Observation {
            now_us,
            usage: self.trendline.usage(),
            acked_bps,
            quick_bps: self.acked.quick_bps(),
            passage: self.queue.passage(),
            queue_ms,
            rtt_us,
        });
        let fell =
            self.loss.update(Circumstances { now_us, others_bps: self.delay.bps(), acked_bps, queue_ms, rtt_us });
        self.conclude_probe(now_us);
        self.note_drop(now_us);
        if fell {
            self.prober.wait_for_loss(now_us);
        }
    }

    fn conclude_probe(&mut self, now_us: u64) {
        let Some(Finding { bps, is_limit }) = self.prober.conclude(now_us, self.rtt_us(), self.allowed_bps()) else {
            return;
        };
        self.counters.probes_passed += u64::from(!is_limit);
        if bps > self.delay.bps() {
            self.delay.set(bps.min(self.cap_bps));
        }
        self.loss.raise(bps, self.delay.bps());
    }

    /// What delay and loss allow, in bits per second.
    fn allowed_bps(&self) -> f64 {
        self.delay.bps().min(self.loss.bound_bps().unwrap_or(f64::INFINITY))
    }

    fn note_drop(&mut self, now_us: u64) {
        let bps = self.allowed_bps();
        if bps < self.height_bps * DROP {
            self.prober.dropped(now_us);
            self.height_bps = bps;
        }
        self.height_bps = self.height_bps.max(bps);
    }

    /// Nothing comes back: either never, or not any more.
    fn on_silence(&mut self, now_us: u64) {
        if !self.answers.any {
            let is_late = self.answers.first_sent_us.is_some_and(|at| now_us >= at + MUTE_AFTER_US);
            self.answers.is_mute = is_late && self.answers.sent >= UNANSWERED_MIN;
            return;
        }
        let Some(since_us) = self.answers.waiting_since_us else { return };
        if now_us >= since_us + OVERDUE_US + 2 * self.rtt_us() {
            // Of a few packets before a pause the only feedback may be lost; the next packet asks anew.
            if self.answers.last_sent_us < since_us + OVERDUE_US / 2 {
                self.answers.waiting_since_us = None;
                return;
            }
            self.answers.waiting_since_us = Some(now_us);
            self.counters.overdue += 1;
            self.delay.set((self.delay.bps() / 2.0).max(FLOOR_BPS));
            self.note_drop(now_us);
        }
    }

    fn rtt_us(&self) -> u64 {
        self.report_rtt_us.or(self.feedback_rtt_us).unwrap_or(RTT_US)
    }

    fn us(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }
}

/// What one feedback says in sum.
#[derive(Debug, Default)]
struct Told {
    packets: u32,
    lost: u32,
    newest_sent_us: Option<u64>,
}

impl Answers {
    fn told_of(&mut self, sequence: u16) {
        let next = sequence.wrapping_add(1);
        if self.next_sequence.is_none_or(|old| next.wrapping_sub(old) < 0x8000) {
            self.next_sequence = Some(next);
        }
    }
}

#[cfg(test)]
mod tests;
