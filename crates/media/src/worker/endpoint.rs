//! One endpoint on a worker: its transport, its addresses, its channel, and how long it is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_model::{ChannelAddress, ChannelSink, ConferenceId, EndpointId, ExpireReason};

use super::timers::TimerId;
use crate::transport::Transport;

/// From the client's answer to media.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// From the offer to the client's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Silence after which an endpoint is gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// A slot of the worker.
pub(super) struct Endpoint {
    pub(super) transport: Transport,
    pub(super) conference: ConferenceId,
    pub(super) id: EndpointId,
    pub(super) channel: Option<Arc<dyn ChannelSink>>,
    pub(super) channel_address: Option<ChannelAddress>,
    pub(super) addresses: ArrayVec<SocketAddr, 16>,
    /// Of the current agent, the one before a restart, and the newest restart.
    pub(super) ufrags: ArrayVec<String, 3>,
    pub(super) created: Instant,
    pub(super) answered: Option<Instant>,
    pub(super) connected: bool,
    pub(super) last_heard: Instant,
    pub(super) timer: TimerId,
    told_sfu: Instant,
}

impl Endpoint {
    pub(super) fn new(
        now: Instant,
        transport: Transport,
        conference: ConferenceId,
        id: EndpointId,
        timer: TimerId,
    ) -> Self {
        Self {
            transport,
            conference,
            id,
            channel: None,
            channel_address: None,
            addresses: ArrayVec::new(),
            ufrags: ArrayVec::new(),
            created: now,
            answered: None,
            connected: false,
            last_heard: now,
            timer,
            told_sfu: now,
        }
    }

    /// Whether it has been kept for too long, and why.
    pub(super) fn overdue(&self, now: Instant) -> Option<ExpireReason> {
        let (deadline, reason) = self.deadline();
        (now >= deadline).then_some(reason)
    }

    /// When something is to be done for it.
    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        let (deadline, _) = self.deadline();
        Some(self.transport.next_timeout().map_or(deadline, |at| at.min(deadline)))
    }

    /// Sends a text on its channel; a channel that is full or gone is given up.
    pub(super) fn tell(&mut self, text: &Arc<str>) {
        if self.channel.as_ref().is_some_and(|channel| !channel.send(Arc::clone(text)))
            && let Some(channel) = self.channel.take()
        {
            channel.close(1013, "too slow");
        }
    }

    /// The sfu hears of media by itself.
    pub(super) fn heard_by_sfu(&mut self, now: Instant) {
        self.told_sfu = now;
    }

    /// Whether something authentic came that the sfu does not know of.
    pub(super) fn take_activity(&mut self) -> bool {
        let heard = self.transport.last_heard().filter(|at| *at > self.told_sfu);
        if let Some(at) = heard {
            self.told_sfu = at;
            self.last_heard = self.last_heard.max(at);
        }
        heard.is_some()
    }

    fn deadline(&self) -> (Instant, ExpireReason) {
        match self.answered {
            _ if self.connected => (self.last_heard + SILENCE_TIMEOUT, ExpireReason::Silent),
            Some(answered) => (answered + CONNECT_TIMEOUT, ExpireReason::NeverConnected),
            None => (self.created + ANSWER_TIMEOUT, ExpireReason::NeverConnected),
        }
    }
}
