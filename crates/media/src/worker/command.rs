//! What rooms and other workers ask of a worker: conferences and endpoints come, change and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tertulia_model::{
    BridgeEvent, BridgeRequest, Capabilities, ChannelAddress, ChannelSink, ConferenceId, EndpointId, EventSink,
    FeedbackSsrcs, IceCredentials, LocalTransport, Refusal, RemoteTransport, Ssrc,
};
use tertulia_sfu::{Conference, Message, Shard};
use tracing::debug;

use super::batch::Flush;
use super::endpoint::Endpoint;
use super::timers::Timer;
use super::{Room, Settings, Worker, key_of, span};
use crate::identity::{Identity, ice_credentials_of, random_u64, secret};
use crate::transport::{OFFERED_SETUP, Role, Transport};

/// What a worker is asked to do.
pub enum Command {
    /// Opens a conference.
    Open {
        /// Its id.
        conference: ConferenceId,
        /// Who hears of it.
        events: Arc<dyn EventSink>,
    },
    /// A request of the room.
    Request {
        /// Which conference.
        conference: ConferenceId,
        /// What.
        request: BridgeRequest,
    },
    /// A bridge channel opened.
    Channel {
        /// Which conference.
        conference: ConferenceId,
        /// Whose channel.
        endpoint: EndpointId,
        /// The way to the client.
        sink: Arc<dyn ChannelSink>,
    },
    /// A text came on a bridge channel.
    Message {
        /// Which conference.
        conference: ConferenceId,
        /// Who says it.
        endpoint: EndpointId,
        /// JSON.
        text: String,
    },
    /// An open conference has another shard from now on.
    Span {
        /// Which conference.
        conference: ConferenceId,
        /// The shard that decides for all.
        home: Shard,
        /// The other one.
        peer: Shard,
    },
    /// Another worker tells its shard of the conference something.
    Told {
        /// Which conference.
        conference: ConferenceId,
        /// Who tells it.
        from: Shard,
        /// What.
        message: Message,
    },
}

impl Worker {
    /// Does what it is asked.
    pub fn handle_command(&mut self, now: Instant, command: Command, flush: &mut dyn Flush) {
        self.busy_at = Some(now);
        let (Command::Open { conference, .. }
        | Command::Request { conference, .. }
        | Command::Channel { conference, .. }
        | Command::Message { conference, .. }
        | Command::Span { conference, .. }
        | Command::Told { conference, .. }) = &command;
        self.guarded(*conference, |worker| match command {
            Command::Open { conference, events } => worker.open(now, conference, events),
            Command::Request { conference, request } => worker.handle_request(now, conference, request, flush),
            Command::Channel { conference, endpoint, sink } => worker.attach(now, conference, &endpoint, sink, flush),
            Command::Message { conference, endpoint, text } => {
                if let Some(slot) = worker.slot_of(conference, &endpoint) {
                    worker.with_room(now, slot, flush, |sfu, _, out| {
                        sfu.handle_channel_message(now, key_of(slot), &text, out);
                    });
                }
            }
            Command::Span { conference, home, peer } => worker.span(now, conference, home, peer, flush),
            Command::Told { conference, from, message } => {
                worker.with_conference(now, conference, flush, |sfu, egress, out| {
                    sfu.handle_message(now, from, message, egress, out);
                });
            }
        });
        self.finish_turn(now, flush);
    }

    fn open(&mut self, now: Instant, conference: ConferenceId, events: Arc<dyn EventSink>) {
        self.expire_conference(conference); // nobody opens one twice; if they did, its people would be nobody's
        let feedback = feedback_of(&self.settings.bridge, conference);
        let mut sfu = Conference::new(conference, feedback, self.settings.policy.clone(), random_u64());
        sfu.limit_last_n(now, self.reducer.last_n());
        let timer = self.timers.add(Timer::Conference(conference));
        let (endpoints, span) = (BTreeMap::new(), span::Span::default());
        let room = Room { sfu, feedback, endpoints, events, timer, touched: false, span };
        self.rooms.insert(conference, room);
    }

    fn handle_request(
        &mut self,
        now: Instant,
        conference: ConferenceId,
        request: BridgeRequest,
        flush: &mut dyn Flush,
    ) {
        match request {
            BridgeRequest::Allocate { endpoint, capabilities } => {
                self.allocate(now, conference, endpoint, capabilities, flush);
            }
            BridgeRequest::SetTransport { endpoint, transport } => {
                self.set_transport(now, conference, &endpoint, transport, flush);
            }
            BridgeRequest::SetSources { endpoint, sources } => {
                if let Some(slot) = self.slot_of(conference, &endpoint) {
                    self.with_room(now, slot, flush, |sfu, _, _| sfu.set_sources(now, key_of(slot), &sources));
                }
            }
            BridgeRequest::SetInitialLastN { endpoint, last_n } => {
                if let Some(slot) = self.slot_of(conference, &endpoint) {
                    self.with_room(now, slot, flush, |sfu, _, out| {
                        sfu.set_initial_last_n(now, key_of(slot), last_n, out);
                    });
                }
            }
            BridgeRequest::ForceMute { endpoint, audio, video } => {
                if let Some(slot) = self.slot_of(conference, &endpoint) {
                    self.with_room(now, slot, flush, |sfu, _, _| sfu.set_force_mute(key_of(slot), audio, video));
                }
            }
            BridgeRequest::RestartIce { endpoint } => self.restart_ice(now, conference, &endpoint),
            BridgeRequest::Expire { endpoint } => {
                if let Some(slot) = self.slot_of(conference, &endpoint) {
                    self.remove(now, slot, flush);
                }
            }
            BridgeRequest::ExpireConference => self.expire_conference(conference),
        }
    }

    fn allocate(
        &mut self,
        now: Instant,
        conference: ConferenceId,
        id: EndpointId,
        capabilities: Capabilities,
        flush: &mut dyn Flush,
    ) {
        if let Some(slot) = self.slot_of(conference, &id) {
            self.remove(now, slot, flush);
        }
        let Some(room) = self.rooms.get_mut(&conference) else { return };
        if self.slots.len() >= self.settings.endpoints_max {
            room.events.event(BridgeEvent::Refused { endpoint: id, refusal: Refusal::Full });
            return;
        }
        let ice = ice_credentials_of(self.settings.index);
        let password = secret(24);
        let transport = Transport::new(now, Role::Bridge, &self.identity, ice.clone(), &self.settings.locals);
        let timer = self.timers.add(Timer::Endpoint(self.slots.vacant_key()));
        let slot = self.slots.insert(Endpoint::new(now, transport, conference, id.clone(), timer));
        self.by_ufrag.insert(ice.ufrag.clone(), slot);
        self.registry.insert(conference, id.clone(), password.clone());
        let channel =
            ChannelAddress { bridge: self.settings.bridge.clone(), conference, endpoint: id.clone(), password };
        self.slots[slot].ufrags.push(ice.ufrag.clone());
        self.slots[slot].channel_address = Some(channel.clone());
        let transport = local_transport(&self.settings, &self.identity, ice, channel);
        room.endpoints.insert(id.clone(), slot);
        room.sfu.add_endpoint(now, key_of(slot), id.clone(), capabilities);
        room.events.event(BridgeEvent::Allocated { endpoint: id.clone(), transport, feedback: room.feedback });
        debug!(%conference, endpoint = %id, "endpoint allocated");
        self.reschedule(now, slot);
    }

    fn set_transport(
        &mut self,
        now: Instant,
        conference: ConferenceId,
        endpoint: &EndpointId,
        remote: RemoteTransport,
        flush: &mut dyn Flush,
    ) {
        let Some(slot) = self.slot_of(conference, endpoint) else { return };
        self.slots[slot].answered.get_or_insert(now);
        self.handle_transport(now, slot, flush, |endpoint, wire, events| {
            endpoint.transport.set_remote(now, &remote.ice, remote.fingerprint, remote.ice_generation, wire, events);
        });
    }

    fn restart_ice(&mut self, now: Instant, conference: ConferenceId, id: &EndpointId) {
        let Some(slot) = self.slot_of(conference, id) else { return };
        self.call_back(slot);
        let ice = ice_credentials_of(self.settings.index);
        let endpoint = &mut self.slots[slot];
        let Some(channel) = endpoint.channel_address.clone() else { return };
        let generation = endpoint.transport.restart_ice(now, ice.clone());
        // The current agent and the newest restart: earlier restarts are forgotten.
        if endpoint.ufrags.is_full() {
            self.by_ufrag.remove(&endpoint.ufrags.remove(1));
        }
        endpoint.ufrags.push(ice.ufrag.clone());
        self.by_ufrag.insert(ice.ufrag.clone(), slot);
        let transport = local_transport(&self.settings, &self.identity, ice, channel);
        if let Some(room) = self.rooms.get(&conference) {
            room.events.event(BridgeEvent::Restarted { endpoint: id.clone(), transport, generation });
        }
        self.reschedule(now, slot);
    }

    fn attach(
        &mut self,
        now: Instant,
        conference: ConferenceId,
        endpoint: &EndpointId,
        sink: Arc<dyn ChannelSink>,
        flush: &mut dyn Flush,
    ) {
        let Some(slot) = self.slot_of(conference, endpoint) else {
            sink.close(1001, "endpoint closed");
            return;
        };
        if let Some(replaced) = self.slots[slot].attach(sink) {
            replaced.close(1000, "replaced");
        }
        self.with_room(now, slot, flush, |sfu, _, out| sfu.handle_channel_open(now, key_of(slot), out));
    }
}

/// The bridge's side, for an offer.
fn local_transport(
    settings: &Settings,
    identity: &Identity,
    ice: IceCredentials,
    channel: ChannelAddress,
) -> LocalTransport {
    LocalTransport {
        ice,
        fingerprint: identity.fingerprint(OFFERED_SETUP),
        candidates: settings.candidates.clone(),
        channel,
        channels: settings.channels,
    }
}

/// The bridge's own SSRCs in a conference: the same on each of its workers, without asking. Nobody need be kept from
/// guessing them.
fn feedback_of(bridge: &str, conference: ConferenceId) -> FeedbackSsrcs {
    use std::hash::{Hash, Hasher};
    // Nine or ten digits: clients look for SSRCs by containment of text.
    let ssrc = |number: u8| {
        let mut hasher = rustc_hash::FxHasher::default();
        (bridge, conference, number).hash(&mut hasher);
        Ssrc(1_000_000_000 + u32::try_from(hasher.finish() % 1_000_000_000).unwrap_or(0))
    };
    FeedbackSsrcs { audio: ssrc(0), video: ssrc(1) }
}
