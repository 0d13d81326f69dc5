//! One worker, without its thread and sockets: datagrams, commands and time in, batches and events out.
//!
//! It owns every transport and conference that was placed on it. Nobody else touches them.

mod addresses;
pub mod batch;
mod command;
mod counters;
mod egress;
mod endpoint;
mod links;
mod span;
mod timers;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use slab::Slab;
use tertulia_model::{
    BridgeEvent, Candidate, ChannelKinds, ConferenceId, EndpointId, EventSink, ExpireReason, FeedbackSsrcs,
};
use tertulia_sfu::{Conference, EndpointKey, Output, Policy};
use tracing::{debug, error, info, warn};

use crate::identity::Identity;
use crate::load::Reducer;
use crate::registry::Registry;
use crate::srtp::{OpenError, Profile};
use crate::transport::{End, Event};
use batch::{Batch, Flush};
pub use command::Command;
pub use counters::{Counters, Held};
use egress::{BatchEgress, BatchWire};
use endpoint::Endpoint;
use links::{Incoming, Links};
pub use links::{Link, Peer};
pub use tertulia_sfu::Shard;
use timers::{Timer, TimerId, Timers};
use watch::Watch;

/// A worker that nothing but checks of connections came to for so long has time.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// What a worker is told at its start.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which of the bridge's workers it is.
    pub index: usize,
    /// Addresses of its sockets, those for connections included.
    pub locals: Vec<SocketAddr>,
    /// What clients are told, best first.
    pub candidates: Vec<Candidate>,
    /// Names the bridge in channel URLs.
    pub bridge: String,
    /// Which bridge channels are offered; all are taken.
    pub channels: ChannelKinds,
    /// How conferences forward.
    pub policy: Policy,
    /// Busy share of the thread, 0 to 1, above which receivers get fewer pictures; `None` is never.
    pub overload: Option<f32>,
    /// Most endpoints at once.
    pub endpoints_max: usize,
}

/// A conference and its people.
struct Room {
    sfu: Conference,
    feedback: FeedbackSsrcs,
    endpoints: BTreeMap<EndpointId, usize>,
    events: Arc<dyn EventSink>,
    timer: TimerId,
    /// Whether it is in the worker's list of conferences that this turn touched.
    touched: bool,
    span: span::Span,
}

impl Room {
    fn touch(&mut self, conference: ConferenceId, touched: &mut Vec<ConferenceId>) {
        if !std::mem::replace(&mut self.touched, true) {
            touched.push(conference);
        }
    }
}

/// A worker's state.
pub struct Worker {
    settings: Settings,
    identity: Identity,
    registry: Arc<Registry>,
    slots: Slab<Endpoint>,
    rooms: FxHashMap<ConferenceId, Room>,
    by_address: FxHashMap<SocketAddr, usize>,
    /// Connections (RFC 6544) by remote address; a port of TCP is not the same port of UDP.
    by_stream: FxHashMap<SocketAddr, usize>,
    by_ufrag: FxHashMap<String, usize>,
    timers: Timers,
    watch: Watch,
    links: Links,
    incoming: Incoming,
    batch: Batch,
    /// Conferences that something happened to since the last turn ended.
    touched: Vec<ConferenceId>,
    counters: Counters,
    /// How many endpoints have been connected.
    connected: usize,
    reducer: Reducer,
    /// When something came last that should not wait.
    busy_at: Option<Instant>,
    events: Vec<Event>,
    outputs: Vec<Output>,
    silent: Vec<usize>,
}

impl Worker {
    /// An empty worker.
    pub fn new(settings: Settings, identity: Identity, registry: Arc<Registry>) -> Self {
        Self {
            reducer: Reducer::new(settings.overload),
            settings,
            identity,
            registry,
            slots: Slab::new(),
            rooms: FxHashMap::default(),
            by_address: FxHashMap::default(),
            by_stream: FxHashMap::default(),
            by_ufrag: FxHashMap::default(),
            timers: Timers::default(),
            watch: Watch::default(),
            links: Links::default(),
            incoming: Incoming::default(),
            batch: Batch::default(),
            touched: Vec::new(),
            counters: Counters::default(),
            connected: 0,
            busy_at: None,
            events: Vec::new(),
            outputs: Vec::new(),
            silent: Vec::new(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How much state is held.
    pub fn held(&self) -> Held {
        Held {
            conferences: self.rooms.len(),
            endpoints: self.slots.len(),
            addresses: self.by_address.len() + self.by_stream.len(),
            user_fragments: self.by_ufrag.len(),
            timers: self.timers.len(),
        }
    }

    /// Whether for a while there was nothing but checks of connections, which may wait some milliseconds for each other. Whoever joins is
    /// asked for by a command first.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.busy_at.is_none_or(|at| now.saturating_duration_since(at) >= IDLE_AFTER)
    }

    /// Whether nobody's connection is being set up, of which a check would be a part, and there are at most so many.
    pub fn is_settled(&self, most: usize) -> bool {
        self.slots.len() == self.connected && self.connected <= most
    }

    /// When [`Worker::on_timeout`] next has work to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.watch.next_timeout()).min()
    }

    /// Takes one datagram, which it may change in place. What follows from it leaves at the end of the turn at the latest: see
    /// [`Worker::finish_turn`].
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &mut [u8],
        flush: &mut dyn Flush,
    ) {
        self.counters.datagrams += 1;
        let known = self.by_address.get(&remote).copied();
        let slot = match bytes.first() {
            Some(0..=3) if self.answer_check(now, known, local, remote, bytes, flush) => None,
            Some(0..=3) => self.slot_of_check(bytes, known),
            Some(20..=63 | 128..=191) => {
                self.counters.dropped_unknown_address += u64::from(known.is_none());
                known
            }
            _ => {
                self.counters.dropped_unknown_protocol += 1;
                None
            }
        };
        if let Some(slot) = slot {
            self.handle_known(now, slot, local, remote, bytes, flush);
        }
    }

    /// Takes one frame of a connection (RFC 4571), which it may change in place. `local` is the connection's, as
    /// [`crate::transport::stream_local`] makes it.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &mut [u8],
        flush: &mut dyn Flush,
    ) {
        self.counters.datagrams += 1;
        let known = self.by_stream.get(&remote).copied();
        let slot = match bytes.first() {
            Some(0..=3) if self.answer_check(now, known, local, remote, bytes, flush) => None,
            Some(0..=3) => self.slot_of_check(bytes, known),
            Some(20..=63 | 128..=191) => known,
            _ => None,
        };
        if let Some(slot) = slot {
            self.handle_known(now, slot, local, remote, bytes, flush);
        }
    }

    /// A connection is over.
    pub fn handle_stream_end(&mut self, now: Instant, remote: SocketAddr, flush: &mut dyn Flush) {
        let Some(slot) = self.by_stream.remove(&remote) else { return };
        let Some(conference) = self.slots.get(slot).map(|endpoint| endpoint.conference) else { return };
        self.guarded(conference, |worker| {
            worker.handle_transport(now, slot, flush, |endpoint, wire, events| {
                endpoint.streams.retain(|known| *known != remote);
                endpoint.transport.forget_stream(now, remote, wire, events);
            });
        });
    }

    fn handle_known(
        &mut self,
        now: Instant,
        slot: usize,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &mut [u8],
        flush: &mut dyn Flush,
    ) {
        let Some(conference) = self.slots.get(slot).map(|endpoint| endpoint.conference) else { return };
        if bytes[0] > 3 {
            self.busy_at = Some(now);
        }
        self.guarded(conference, |worker| match bytes[0] {
            128..=191 => worker.handle_media(now, slot, remote, bytes, flush),
            first => worker.handle_transport(now, slot, flush, |endpoint, wire, events| {
                if first <= 3 {
                    endpoint.transport.handle_stun(now, local, remote, bytes, wire, events);
                } else {
                    endpoint.transport.handle_dtls(now, bytes, wire, events);
                }
            }),
        });
    }

    /// Ends a turn: what its datagrams gave rise to is sent, many at a time. [`Worker::handle_command`] and [`Worker::on_timeout`] end one
    /// by themselves.
    pub fn finish_turn(&mut self, now: Instant, flush: &mut dyn Flush) {
        let mut touched = std::mem::take(&mut self.touched);
        for conference in touched.drain(..) {
            self.guarded(conference, |worker| worker.finish_room(now, conference, flush));
        }
        self.touched = touched;
        self.batch.flush(flush);
        self.links.wake();
    }

    /// Runs everything that is due.
    pub fn on_timeout(&mut self, now: Instant, flush: &mut dyn Flush) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Endpoint(slot) => self.endpoint_timeout(now, slot, flush),
                Timer::Conference(id) => self.guarded(id, |worker| {
                    worker.with_conference(now, id, flush, |sfu, egress, out| sfu.on_timeout(now, egress, out));
                }),
            }
        }
        self.look_for_silence(now, flush);
        self.finish_turn(now, flush);
    }

    /// The thread worked for this share of the last second, 0 to 1.
    pub(crate) fn handle_load(&mut self, now: Instant, share: f32, flush: &mut dyn Flush) {
        let rooms = &self.rooms;
        let most = || rooms.values().map(|room| room.sfu.most_forwarded()).max().unwrap_or(0);
        if !self.reducer.measured(now, share, || u32::try_from(most()).unwrap_or(u32::MAX)) {
            return;
        }
        let last_n = self.reducer.last_n();
        match last_n {
            Some(last_n) => warn!(share, last_n, "a media worker is or was overloaded: pictures are limited"),
            None => info!(share, "a media worker has recovered: pictures are not limited any more"),
        }
        let all: Vec<ConferenceId> = self.rooms.keys().copied().collect();
        for id in all {
            self.guarded(id, |worker| {
                worker.with_conference(now, id, flush, |sfu, _, _| sfu.limit_last_n(now, last_n));
            });
        }
    }

    /// The end of a turn for a conference that it touched. Its deadline is looked up here, once, and not for each packet.
    fn finish_room(&mut self, now: Instant, conference: ConferenceId, flush: &mut dyn Flush) {
        self.with_conference(now, conference, flush, |sfu, egress, out| {
            sfu.finish_turn(now, egress);
            if sfu.next_timeout().is_some_and(|at| at <= now) {
                sfu.on_timeout(now, egress, out); // Became due within the turn: this saves another one.
            }
        });
        self.catch_up(now, conference, flush);
        let Some(room) = self.rooms.get_mut(&conference) else { return };
        room.touched = false;
        self.timers.schedule(room.timer, room.sfu.next_timeout());
    }

    fn slot_of(&self, conference: ConferenceId, endpoint: &EndpointId) -> Option<usize> {
        self.rooms.get(&conference)?.endpoints.get(endpoint).copied()
    }

    fn handle_media(&mut self, now: Instant, slot: usize, remote: SocketAddr, bytes: &mut [u8], flush: &mut dyn Flush) {
        let Some(endpoint) = self.slots.get_mut(slot) else { return };
        let is_rtcp = tertulia_rtp::is_rtcp(bytes);
        let opened = if is_rtcp {
            endpoint.transport.open_rtcp(now, remote, bytes)
        } else {
            endpoint.transport.open_rtp(now, remote, bytes)
        };
        let len = match opened {
            Ok(len) => len,
            Err(refused) => {
                let counter = match refused {
                    OpenError::Replayed => &mut self.counters.dropped_replayed,
                    OpenError::Forged => &mut self.counters.dropped_forged,
                    OpenError::Malformed => &mut self.counters.dropped_malformed,
                };
                *counter += 1;
                return;
            }
        };
        endpoint.last_heard = now;
        endpoint.heard_by_sfu(now);
        self.with_room(now, slot, flush, |sfu, egress, out| {
            if is_rtcp {
                sfu.handle_rtcp(now, key_of(slot), &bytes[..len], egress);
            } else {
                sfu.handle_rtp(now, key_of(slot), &bytes[..len], egress, out);
            }
        });
    }

    /// Runs something on a transport and then everything that follows from it.
    fn handle_transport(
        &mut self,
        now: Instant,
        slot: usize,
        flush: &mut dyn Flush,
        run: impl FnOnce(&mut Endpoint, &mut BatchWire<'_>, &mut Vec<Event>),
    ) {
        self.call_back(slot);
        let Some(endpoint) = self.slots.get_mut(slot) else { return };
        let mut events = std::mem::take(&mut self.events);
        run(endpoint, &mut BatchWire { slot, batch: &mut self.batch, flush }, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Address(address) => self.learn_address(now, slot, address),
                Event::AddressLeft(address) => self.unlearn_address(slot, address),
                Event::Stream(remote) => self.learn_stream(now, slot, remote),
                Event::Connected(profile) => self.connected(now, slot, profile, flush),
                Event::ChannelOpen => {
                    if let Some(endpoint) = self.slots.get_mut(slot) {
                        endpoint.use_data_channel();
                    }
                    self.with_room(now, slot, flush, |sfu, _, out| sfu.handle_channel_open(now, key_of(slot), out));
                }
                Event::ChannelText(text) => self.with_room(now, slot, flush, |sfu, _, out| {
                    sfu.handle_channel_message(now, key_of(slot), &text, out);
                }),
                Event::ChannelRefused => self.counters.channels_refused += 1,
                Event::ChannelClosed => debug!(slot, "data channel closed"),
                Event::Ended(end) => self.ended(now, slot, end, flush),
            }
        }
        self.events = events;
        self.reschedule(now, slot);
    }

    fn connected(&mut self, now: Instant, slot: usize, profile: Profile, flush: &mut dyn Flush) {
        let counter = match profile {
            Profile::AeadAes256Gcm => &mut self.counters.connected_aead_256,
            Profile::AeadAes128Gcm => &mut self.counters.connected_aead_128,
            Profile::AesCm128HmacSha1 => &mut self.counters.connected_sha1,
        };
        *counter += 1;
        let Some(endpoint) = self.slots.get_mut(slot) else { return };
        self.connected += usize::from(!std::mem::replace(&mut endpoint.connected, true));
        endpoint.last_heard = now;
        let (conference, id) = (endpoint.conference, endpoint.id.clone());
        let took_ms = now.saturating_duration_since(endpoint.created).as_millis();
        info!(%conference, endpoint = %id, ?profile, took_ms, "endpoint connected");
        self.with_room(now, slot, flush, |sfu, _, out| sfu.handle_connected(now, key_of(slot), out));
        if let Some(room) = self.rooms.get(&conference) {
            room.events.event(BridgeEvent::Connected { endpoint: id });
        }
    }

    fn ended(&mut self, now: Instant, slot: usize, end: End, flush: &mut dyn Flush) {
        let reason = match end {
            End::WrongCertificate => {
                self.counters.failed_certificate += 1;
                ExpireReason::Insecure
            }
            End::NoProfile => {
                self.counters.failed_profile += 1;
                ExpireReason::Insecure
            }
            End::Handshake => {
                self.counters.failed_handshake += 1;
                ExpireReason::NeverConnected
            }
            End::Closed => ExpireReason::Silent,
        };
        self.expire(now, slot, reason, flush);
    }

    fn endpoint_timeout(&mut self, now: Instant, slot: usize, flush: &mut dyn Flush) {
        self.call_back(slot);
        let Some(endpoint) = self.slots.get(slot) else { return };
        let conference = endpoint.conference;
        let overdue = endpoint.overdue(now);
        self.guarded(conference, |worker| {
            if let Some(reason) = overdue {
                worker.expire(now, slot, reason, flush);
                return;
            }
            worker.handle_transport(now, slot, flush, |endpoint, wire, events| {
                endpoint.transport.on_timeout(now, wire, events);
            });
        });
    }

    fn expire(&mut self, now: Instant, slot: usize, reason: ExpireReason, flush: &mut dyn Flush) {
        let Some(endpoint) = self.slots.get(slot) else { return };
        let (conference, id) = (endpoint.conference, endpoint.id.clone());
        info!(%conference, endpoint = %id, ?reason, "endpoint expired");
        self.remove(now, slot, flush);
        if let Some(room) = self.rooms.get(&conference) {
            room.events.event(BridgeEvent::Expired { endpoint: id, reason });
        }
    }

    /// Forgets an endpoint; its conference stays until the room expires it.
    fn remove(&mut self, now: Instant, slot: usize, flush: &mut dyn Flush) {
        self.with_room(now, slot, flush, |sfu, _, _| sfu.remove_endpoint(now, key_of(slot)));
        let Some(endpoint) = self.slots.try_remove(slot) else { return };
        if let Some(room) = self.rooms.get_mut(&endpoint.conference) {
            room.endpoints.remove(&endpoint.id);
        }
        self.forget(slot, &endpoint);
    }

    fn expire_conference(&mut self, conference: ConferenceId) {
        let Some(room) = self.rooms.remove(&conference) else { return };
        self.timers.remove(room.timer);
        for slot in room.endpoints.into_values() {
            if let Some(endpoint) = self.slots.try_remove(slot) {
                self.forget(slot, &endpoint);
            }
        }
    }

    fn forget(&mut self, slot: usize, endpoint: &Endpoint) {
        self.timers.remove(endpoint.timer);
        self.watch.take(slot);
        self.connected -= usize::from(endpoint.connected);
        for ufrag in &endpoint.ufrags {
            self.by_ufrag.remove(ufrag);
        }
        for address in &endpoint.addresses {
            if self.by_address.get(address) == Some(&slot) {
                self.by_address.remove(address);
            }
        }
        for remote in &endpoint.streams {
            self.by_stream.remove(remote);
        }
        self.registry.remove(endpoint.conference, &endpoint.id);
        if let Some(socket) = &endpoint.socket {
            socket.close(1001, "endpoint closed");
        }
    }

    /// Runs something on the conference of an endpoint and then everything that follows from it.
    fn with_room(
        &mut self,
        now: Instant,
        slot: usize,
        flush: &mut dyn Flush,
        run: impl FnOnce(&mut Conference, &mut BatchEgress<'_>, &mut Vec<Output>),
    ) {
        if let Some(conference) = self.slots.get(slot).map(|endpoint| endpoint.conference) {
            self.with_conference(now, conference, flush, run);
        }
    }

    fn with_conference(
        &mut self,
        now: Instant,
        conference: ConferenceId,
        flush: &mut dyn Flush,
        run: impl FnOnce(&mut Conference, &mut BatchEgress<'_>, &mut Vec<Output>),
    ) {
        let Some(room) = self.rooms.get_mut(&conference) else { return };
        room.touch(conference, &mut self.touched);
        let mut out = std::mem::take(&mut self.outputs);
        let Self { slots, batch, links, counters, .. } = self;
        let mut egress = BatchEgress { slots, batch, links, counters, flush };
        run(&mut room.sfu, &mut egress, &mut out);
        room.span.carry(conference, self.settings.index, &mut room.sfu, &self.links);
        for output in out.drain(..) {
            match output {
                Output::Channel { to, text } => {
                    let slot = slot_of_key(to);
                    if let Some(endpoint) = self.slots.get_mut(slot)
                        && endpoint.tell(now, &text)
                    {
                        self.timers.schedule(endpoint.timer, Some(now));
                    }
                }
                Output::Event(event) => room.events.event(event),
            }
        }
        self.outputs = out;
    }

    /// A defect of ours may cost the conference that met it, never the worker.
    fn guarded(&mut self, conference: ConferenceId, run: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| run(self))).is_err() {
            self.lose(conference);
        }
    }

    fn lose(&mut self, conference: ConferenceId) {
        self.counters.panics += 1;
        error!(%conference, "a defect ended a conference");
        let events = self.rooms.get(&conference).map(|room| Arc::clone(&room.events));
        self.expire_conference(conference);
        if let Some(events) = events {
            events.event(BridgeEvent::Lost);
        }
    }
}

fn key_of(slot: usize) -> EndpointKey {
    EndpointKey(u32::try_from(slot).unwrap_or(u32::MAX))
}

fn slot_of_key(key: EndpointKey) -> usize {
    usize::try_from(key.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
