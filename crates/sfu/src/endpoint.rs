//! One endpoint of a conference: what it can do, what it wants, what is told to it, and its path.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tertulia_model::{Capabilities, EndpointId, SourceName, SourceSet};
use tertulia_rtp::sequence::{SeqNo, low16};
use tertulia_rtp::transport_cc::Recorder;

use crate::allocation::History;
use crate::constraints::{AudioSubscription, Constraints, Hearing};
use crate::egress::EndpointKey;
use crate::estimate::{Estimator, Pacer};
use crate::shard::Shard;
use crate::stream::Streams;

/// Silence after which others are told that somebody is gone.
const SILENT_AFTER: Duration = Duration::from_secs(8);
/// Feedback interval towards senders: often enough for their estimators, seldom enough for their uplinks.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(50);
/// Reception reports to senders.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// `ConnectionStats` to receivers.
const STATS_INTERVAL: Duration = Duration::from_secs(10);
/// Channel messages a second that are read; an honest client sends a few.
const MESSAGES_PER_SECOND: u32 = 50;
/// Packets that are remembered by transport-wide number: more than a second of most receivers. A power of two.
const LOGGED: usize = 512;
/// Packets that may wait for the pacer: half a second of 8 Mbit/s. What does not fit is lost, and can be asked for again.
const QUEUE_MAX: usize = 512;
/// A receiver whose path is limited is looked at again after so long, because layers change their cost.
const ALLOCATE_EVERY: Duration = Duration::from_secs(1);
/// The same for one whose path is not known to be, as often as Jitsi's bridge does.
const ALLOCATE_ANYWAY: Duration = Duration::from_secs(5);
/// Share of a path that repetitions may take, and for how long they may have saved it up: at least a few packets.
const REPAIR_SHARE: f64 = 0.2;
const REPAIR_BURST_S: f64 = 0.5;
const REPAIR_BURST_MIN: f64 = 6_000.0;
/// Round trip while none is known.
const USUAL_ROUND_TRIP: Duration = Duration::from_millis(80);

/// State of one endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) key: EndpointKey,
    pub(crate) id: EndpointId,
    /// The shard that holds its transport, when that is another.
    pub(crate) shard: Option<Shard>,
    /// Everything it sends, for shards that come later.
    pub(crate) sources: Arc<SourceSet>,
    pub(crate) capabilities: Capabilities,
    pub(crate) connected: bool,
    pub(crate) channel_open: bool,
    pub(crate) constraints: Constraints,
    pub(crate) audio: AudioSubscription,
    pub(crate) muted_audio: bool,
    pub(crate) muted_video: bool,
    /// Its wishes or what it could have has changed.
    pub(crate) needs_allocation: bool,
    /// What keeps decisions from going back and forth.
    pub(crate) history: History,
    /// What everything it wants would cost, and what was allocated, in bits per second.
    pub(crate) ideal_bps: u64,
    pub(crate) allocated_bps: u64,
    /// The last list it was told.
    pub(crate) forwarded: Option<Vec<SourceName>>,
    pub(crate) recorder: Recorder,
    /// The stream of the last packet that was recorded.
    pub(crate) last_ssrc: u32,
    /// Whether media came from it since it was last reported to.
    pub(crate) has_sent: bool,
    pub(crate) active: bool,
    pub(crate) streams: Streams,
    pub(crate) path: Path,
    last_heard: Instant,
    /// Whether somebody else would notice its silence.
    pub(crate) watched: bool,
    last_feedback: Option<Instant>,
    last_report: Option<Instant>,
    last_stats: Option<Instant>,
    message_window: (Instant, u32),
}

/// The way to a receiver.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) estimator: Box<Estimator>,
    pub(crate) pacer: Pacer,
    pub(crate) queue: VecDeque<Queued>,
    /// What went out under the last transport-wide numbers, so that what is told as lost can be repeated.
    pictures: Vec<Logged>,
    /// Whether it is in the conference's list of those who wait.
    pub(crate) is_waiting: bool,
    /// Whether anything limits it: it sends transport-wide feedback, or said so by REMB.
    measured: bool,
    /// Sound and repetitions, which are not allocated: bits per second, smoothed, and what came since.
    aside_bps: u64,
    aside_bytes: u64,
    aside_since: Instant,
    /// Bytes of repetitions that may leave, and when that was reckoned.
    repair: (f64, Instant),
    /// For which bandwidth the last allocation was made, and when.
    allocated_for: Option<(Option<u64>, Instant)>,
}

/// A packet of a picture and its transport-wide number, eight bytes.
#[derive(Debug, Clone, Copy)]
struct Logged {
    number: u16,
    /// The outgoing number, as the wire shows it.
    out: u16,
    source: u32,
}

impl Logged {
    const NOTHING: Self = Self { number: 0, out: 0, source: u32::MAX };
}

/// A packet that waits for the pacer. Its content is in the source's cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queued {
    pub(crate) source: u32,
    /// Of the stream, because a source's number may be used again.
    pub(crate) ssrc: u32,
    pub(crate) out: SeqNo,
    pub(crate) bytes: u32,
    pub(crate) since: Instant,
}

impl Endpoint {
    pub(crate) fn new(now: Instant, key: EndpointKey, id: EndpointId, capabilities: Capabilities) -> Self {
        Self {
            key,
            id,
            shard: None,
            sources: Arc::default(),
            connected: false,
            channel_open: false,
            constraints: Constraints::default(),
            audio: AudioSubscription::default(),
            muted_audio: false,
            muted_video: false,
            needs_allocation: true,
            history: History::default(),
            ideal_bps: 0,
            allocated_bps: 0,
            forwarded: None,
            recorder: Recorder::default(),
            last_ssrc: 0,
            has_sent: false,
            active: true,
            streams: Streams::new(capabilities.ssrc_rewriting),
            path: Path::new(now, capabilities.transport_cc),
            capabilities,
            last_heard: now,
            watched: false,
            last_feedback: None,
            last_report: None,
            last_stats: None,
            message_window: (now, 0),
        }
    }

    /// Something authentic came from it.
    pub(crate) fn heard(&mut self, at: Instant) {
        self.last_heard = self.last_heard.max(at);
    }

    /// Whether it wants to hear a source, and then whether also when that is not among the loudest.
    pub(crate) fn hears(&self, name: &SourceName) -> Option<bool> {
        match self.audio.hearing(name) {
            Hearing::Never => None,
            Hearing::Ranked => Some(false),
            Hearing::Always => Some(true),
        }
    }

    /// Whether it became silent or was heard again; counts only once it was connected.
    pub(crate) fn activity_change(&mut self, now: Instant) -> Option<bool> {
        let active = self.watched || now.saturating_duration_since(self.last_heard) < SILENT_AFTER;
        if !self.connected || active == self.active {
            return None;
        }
        self.active = active;
        Some(active)
    }

    /// When it will be silent unless it is heard before.
    pub(crate) fn silent_at(&self) -> Option<Instant> {
        (self.connected && self.active && !self.watched).then(|| self.last_heard + SILENT_AFTER)
    }

    /// Whether transport-wide feedback is due.
    pub(crate) fn feedback_due(&mut self, now: Instant) -> bool {
        self.recorder.is_pending() && is_due(&mut self.last_feedback, now, FEEDBACK_INTERVAL)
    }

    /// Whether a reception report is due.
    pub(crate) fn report_due(&mut self, now: Instant) -> bool {
        self.connected && self.has_sent && is_due(&mut self.last_report, now, REPORT_INTERVAL)
    }

    /// Whether it is to be told the estimate.
    pub(crate) fn stats_due(&mut self, now: Instant) -> bool {
        self.channel_open && self.connected && is_due(&mut self.last_stats, now, STATS_INTERVAL)
    }

    /// Counts a channel message; `false` when there are too many.
    pub(crate) fn may_speak(&mut self, now: Instant) -> bool {
        let (start, count) = &mut self.message_window;
        if now.saturating_duration_since(*start) >= Duration::from_secs(1) {
            (*start, *count) = (now, 0);
        }
        *count += 1;
        *count <= MESSAGES_PER_SECOND
    }
}

impl Path {
    fn new(now: Instant, measured: bool) -> Self {
        Self {
            estimator: Box::new(Estimator::new(now)),
            pacer: Pacer::new(now),
            queue: VecDeque::new(),
            pictures: Vec::new(),
            is_waiting: false,
            measured,
            aside_bps: 0,
            aside_bytes: 0,
            aside_since: now,
            repair: (0.0, now),
            allocated_for: None,
        }
    }

    /// Bits per second that may be sent in all; `None` means no limit is known.
    pub(crate) fn estimate_bps(&self) -> Option<u64> {
        self.estimator.estimate_bps().filter(|_| self.measured)
    }

    /// What is left of the estimate for pictures.
    pub(crate) fn available_bps(&self) -> Option<u64> {
        self.estimate_bps().map(|bps| bps.saturating_sub(self.aside_bps))
    }

    /// The receiver tells its limit itself.
    pub(crate) fn handle_remb(&mut self, bps: u64) {
        self.estimator.handle_remb(bps);
        self.measured = true;
    }

    /// Notes what went out under a transport-wide number.
    pub(crate) fn log_picture(&mut self, number: u16, source: u32, out: SeqNo) {
        if self.pictures.is_empty() {
            self.pictures.resize(LOGGED, Logged::NOTHING);
        }
        self.pictures[usize::from(number) % LOGGED] = Logged { number, out: low16(out), source };
    }

    /// Source and outgoing number, as far as the wire shows it, of what went out under a transport-wide number.
    pub(crate) fn logged_picture(&self, number: u16) -> Option<(u32, u16)> {
        let logged = self.pictures.get(usize::from(number) % LOGGED.max(1))?;
        (logged.number == number && logged.source != u32::MAX).then_some((logged.source, logged.out))
    }

    /// The round trip, or a usual one.
    pub(crate) fn round_trip(&self) -> Duration {
        self.estimator.rtt().unwrap_or(USUAL_ROUND_TRIP)
    }

    /// Counts sound or a repetition.
    pub(crate) fn spend_aside(&mut self, bytes: usize) {
        self.aside_bytes += bytes as u64;
    }

    /// Whether a repetition may leave: they get a share of the path and no more, or a path that loses for being full would be filled by them.
    pub(crate) fn may_repair(&mut self, now: Instant, bytes: usize) -> bool {
        let Some(estimate) = self.estimate_bps() else { return true };
        #[allow(clippy::cast_precision_loss)] // far below 2⁵³
        let (rate, bytes) = (estimate as f64 / 8.0 * REPAIR_SHARE, bytes as f64);
        let (level, at) = self.repair;
        let passed = now.saturating_duration_since(at).as_secs_f64();
        let level = (level + rate * passed).min((rate * REPAIR_BURST_S).max(REPAIR_BURST_MIN));
        let may = level >= bytes;
        self.repair = (if may { level - bytes } else { level }, now);
        may
    }

    /// Runs the estimator and the pacer; `true` when the allocation should be looked at. While nothing flows in the conference, no layer
    /// changes its cost.
    pub(crate) fn on_tick(&mut self, now: Instant, ideal_bps: u64, allocated_bps: u64, is_flowing: bool) -> bool {
        let passed = now.saturating_duration_since(self.aside_since);
        if passed >= Duration::from_millis(500) {
            let bps = self.aside_bytes * 8_000 / u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
            self.aside_bps = (self.aside_bps + bps) / 2;
            (self.aside_bytes, self.aside_since) = (0, now);
        }
        let aside = self.aside_bps;
        if self.measured {
            self.estimator.on_tick(now, ideal_bps + aside, allocated_bps + aside);
        }
        let oldest = self.queue.front().map_or(Duration::ZERO, |queued| now.saturating_duration_since(queued.since));
        let estimate = self.estimate_bps();
        self.pacer.update(now, estimate, allocated_bps + aside, oldest);
        let Some((before, at)) = self.allocated_for else { return true };
        let since = now.saturating_duration_since(at);
        let (Some(available), Some(before)) = (self.available_bps(), before) else {
            return self.available_bps() != before || since >= ALLOCATE_ANYWAY;
        };
        // Down at once, up when it is worth it.
        available * 100 < before * 95 || available * 100 > before * 115 || (is_flowing && since >= ALLOCATE_EVERY)
    }

    /// An allocation was made for what is available now.
    pub(crate) fn allocated(&mut self, now: Instant) {
        self.allocated_for = Some((self.available_bps(), now));
    }

    /// Puts a packet behind those that wait; `false` when there are too many.
    pub(crate) fn wait(&mut self, queued: Queued) -> bool {
        let fits = self.queue.len() < QUEUE_MAX;
        if fits {
            self.queue.push_back(queued);
        }
        fits
    }
}

/// Whether an interval has passed; then it begins anew.
fn is_due(last: &mut Option<Instant>, now: Instant, interval: Duration) -> bool {
    let due = last.is_none_or(|at| now.saturating_duration_since(at) >= interval);
    if due {
        *last = Some(now);
    }
    due
}
