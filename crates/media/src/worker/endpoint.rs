//! One endpoint on a worker: its transport, its addresses, its channel, and how long it is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_model::{ChannelAddress, ChannelSink, ConferenceId, EndpointId, ExpireReason};

use super::timers::TimerId;
use crate::transport::{ADDRESSES_MAX, Transport};

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
    /// Its WebSocket, if one is open; the transport knows of the data channel.
    pub(super) socket: Option<Arc<dyn ChannelSink>>,
    /// Which of the two opened last.
    prefers_data: bool,
    pub(super) channel_address: Option<ChannelAddress>,
    /// Remote addresses from which its datagrams come, and those of its connections, at most [`ADDRESSES_MAX`] of each. Nearly everybody has one.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) streams: Vec<SocketAddr>,
    /// Of the current agent, the one before a restart, and the newest restart.
    pub(super) ufrags: ArrayVec<String, 3>,
    pub(super) created: Instant,
    pub(super) answered: Option<Instant>,
    pub(super) connected: bool,
    pub(super) last_heard: Instant,
    pub(super) timer: TimerId,
    told_sfu: Instant,
    /// Whether the sfu was told last that it is watched over.
    watched: bool,
}

/// What the sfu has not been told of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Something authentic last came at this time, and nobody watches.
    Heard(Instant),
    /// Its silence will be noticed and told.
    Watched,
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
            socket: None,
            prefers_data: false,
            channel_address: None,
            addresses: Vec::new(),
            streams: Vec::new(),
            ufrags: ArrayVec::new(),
            created: now,
            answered: None,
            connected: false,
            last_heard: now,
            timer,
            told_sfu: now,
            watched: false,
        }
    }

    /// Its datagrams come from this address, too.
    pub(super) fn learn_address(&mut self, address: SocketAddr) {
        if self.addresses.len() < ADDRESSES_MAX && !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }

    /// It has this connection, too; `false` when it has too many.
    pub(super) fn learn_stream(&mut self, remote: SocketAddr) -> bool {
        let has_room = self.streams.len() < ADDRESSES_MAX;
        if has_room {
            self.streams.push(remote);
        }
        has_room
    }

    /// Whether it has been kept for too long, and why.
    pub(super) fn overdue(&self, now: Instant) -> Option<ExpireReason> {
        let (deadline, reason) = self.deadline();
        (now >= deadline).then_some(reason)
    }

    /// When something is to be done for it. Whoever is watched over is not silent for long without being noticed; whoever never connects is.
    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        let deadline = (!self.watched || !self.connected).then(|| self.deadline().0);
        deadline.into_iter().chain(self.transport.next_timeout()).min()
    }

    /// A WebSocket opened; returns the one that it replaces.
    pub(super) fn attach(&mut self, socket: Arc<dyn ChannelSink>) -> Option<Arc<dyn ChannelSink>> {
        self.prefers_data = false;
        self.socket.replace(socket)
    }

    /// The data channel opened: what there is to say is said there from now on.
    pub(super) fn use_data_channel(&mut self) {
        self.prefers_data = true;
    }

    /// Sends a text on the channel that opened last, or the one that is left. Whether the transport has work now. A WebSocket that is full
    /// or gone is given up, because its client opens another; a full data channel loses the text, because its client never does.
    pub(super) fn tell(&mut self, now: Instant, text: &Arc<str>) -> bool {
        if self.transport.has_channel() && (self.prefers_data || self.socket.is_none()) {
            return self.transport.send_text(now, text);
        }
        if self.socket.as_ref().is_some_and(|socket| !socket.send(Arc::clone(text)))
            && let Some(socket) = self.socket.take()
        {
            socket.close(1013, "too slow");
        }
        false
    }

    /// The sfu hears of media by itself.
    pub(super) fn heard_by_sfu(&mut self, now: Instant) {
        self.told_sfu = now;
    }

    /// What the sfu does not know yet, given whether the endpoint is watched over from now on.
    pub(super) fn take_news(&mut self, watched: bool) -> Option<News> {
        self.last_heard = self.transport.last_heard().map_or(self.last_heard, |at| at.max(self.last_heard));
        let was_watched = std::mem::replace(&mut self.watched, watched);
        if watched {
            return (!was_watched).then_some(News::Watched);
        }
        let is_news = was_watched || self.last_heard > self.told_sfu;
        self.told_sfu = self.last_heard;
        is_news.then_some(News::Heard(self.last_heard))
    }

    fn deadline(&self) -> (Instant, ExpireReason) {
        match self.answered {
            _ if self.connected => (self.last_heard + SILENCE_TIMEOUT, ExpireReason::Silent),
            Some(answered) => (answered + CONNECT_TIMEOUT, ExpireReason::NeverConnected),
            None => (self.created + ANSWER_TIMEOUT, ExpireReason::NeverConnected),
        }
    }
}
