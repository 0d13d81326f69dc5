//! One endpoint of a conference: what it can do, what it wants, what is told to it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tertulia_model::{Capabilities, EndpointId, SourceName};
use tertulia_rtp::transport_cc::Recorder;

use crate::constraints::Constraints;

/// Silence after which others are told that somebody is gone.
const SILENT_AFTER: Duration = Duration::from_secs(8);
/// Feedback interval towards senders: often enough for their estimators, seldom enough for their uplinks.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(50);
/// Reception reports to senders.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Channel messages a second that are read; an honest client sends a few.
const MESSAGES_PER_SECOND: u32 = 50;

/// Removed streams whose numbers are remembered.
const ENDED_STREAMS_MAX: usize = 64;

/// State of one endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    pub(crate) capabilities: Capabilities,
    pub(crate) connected: bool,
    pub(crate) channel_open: bool,
    pub(crate) constraints: Constraints,
    pub(crate) muted_audio: bool,
    pub(crate) muted_video: bool,
    /// Its wishes or what it could have has changed.
    pub(crate) needs_allocation: bool,
    /// The last list it was told.
    pub(crate) forwarded: Option<Vec<SourceName>>,
    pub(crate) recorder: Recorder,
    /// The stream of the last packet that was recorded.
    pub(crate) last_ssrc: u32,
    pub(crate) active: bool,
    /// Where the numbers of removed streams ended, by SSRC: a stream that comes back goes on there, because SRTP refuses old numbers.
    ended_streams: VecDeque<(u32, u16)>,
    transport_cc_sequence: u16,
    last_heard: Instant,
    last_feedback: Option<Instant>,
    last_report: Option<Instant>,
    message_window: (Instant, u32),
}

impl Endpoint {
    pub(crate) fn new(now: Instant, id: EndpointId, capabilities: Capabilities) -> Self {
        Self {
            id,
            capabilities,
            connected: false,
            channel_open: false,
            constraints: Constraints::default(),
            muted_audio: false,
            muted_video: false,
            needs_allocation: true,
            forwarded: None,
            recorder: Recorder::default(),
            last_ssrc: 0,
            active: true,
            ended_streams: VecDeque::new(),
            transport_cc_sequence: 0,
            last_heard: now,
            last_feedback: None,
            last_report: None,
            message_window: (now, 0),
        }
    }

    /// A stream towards it ended at this number.
    pub(crate) fn stream_ended(&mut self, ssrc: u32, sequence: u16) {
        self.ended_streams.retain(|(known, _)| *known != ssrc);
        if self.ended_streams.len() >= ENDED_STREAMS_MAX {
            self.ended_streams.pop_front();
        }
        self.ended_streams.push_back((ssrc, sequence));
    }

    /// Where a stream towards it ended.
    pub(crate) fn end_of_stream(&self, ssrc: u32) -> Option<u16> {
        self.ended_streams.iter().find(|(known, _)| *known == ssrc).map(|(_, sequence)| *sequence)
    }

    /// Something authentic came from it.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// Whether it became silent or was heard again; counts only once it was connected.
    pub(crate) fn activity_change(&mut self, now: Instant) -> Option<bool> {
        let active = now.saturating_duration_since(self.last_heard) < SILENT_AFTER;
        if !self.connected || active == self.active {
            return None;
        }
        self.active = active;
        Some(active)
    }

    /// Whether transport-wide feedback is due.
    pub(crate) fn feedback_due(&mut self, now: Instant) -> bool {
        let due = self.recorder.is_pending() && is_past(self.last_feedback, now, FEEDBACK_INTERVAL);
        if due {
            self.last_feedback = Some(now);
        }
        due
    }

    /// Whether a reception report is due.
    pub(crate) fn report_due(&mut self, now: Instant) -> bool {
        let due = self.connected && is_past(self.last_report, now, REPORT_INTERVAL);
        if due {
            self.last_report = Some(now);
        }
        due
    }

    /// The transport-wide number of the next packet to it.
    pub(crate) fn next_transport_cc(&mut self) -> u16 {
        self.transport_cc_sequence = self.transport_cc_sequence.wrapping_add(1);
        self.transport_cc_sequence
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

fn is_past(last: Option<Instant>, now: Instant, interval: Duration) -> bool {
    last.is_none_or(|at| now.saturating_duration_since(at) >= interval)
}
