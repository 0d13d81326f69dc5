//! One conference: who is in it, what each sends and gets. What happens to packets and decisions is in the modules below:
//! `forward` takes packets in and sends them on, `feedback` speaks RTCP, `pace` lets waiting packets go, `steer` decides who gets what,
//! `relay` is for conferences that span workers.

mod feedback;
mod forward;
mod pace;
mod relay;
mod steer;

pub(crate) use forward::OVERHEAD;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use slab::Slab;
use tertulia_model::{
    BridgeEvent, Capabilities, ConferenceId, EndpointId, FeedbackSsrcs, MediaKind, SourceName, SourceSet, VideoType,
};
use tertulia_rtp::rtcp::Writer;

use crate::allocation::Allocation;
use crate::cache::worth_keeping;
use crate::channel::{self, Message};
use crate::egress::{Egress, EndpointKey, Output};
use crate::endpoint::Endpoint;
use crate::limit::SenderLimit;
use crate::loudest::Loudest;
use crate::shard::Told;
use crate::source::Source;
use crate::speech::Speakers;

/// Time between two looks at losses, feedback and key frames while media flows.
const TICK: Duration = Duration::from_millis(20);
/// The same while nothing flows: only silence has to be noticed.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Media is flowing when a packet came within this time.
const FLOWING_FOR: Duration = Duration::from_secs(2);
/// So long after the last packet everything that it gave rise to is over: feedback has come or will not, probes have ended.
const RESTS_AFTER: Duration = Duration::from_secs(10);

/// How a conference forwards, beside what its endpoints ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Only so many of the loudest are heard; `None` is everybody.
    pub loudest: Option<usize>,
    /// No receiver gets more video sources than this; `None` is no limit.
    pub last_n: Option<u32>,
    /// The same by size: (endpoints, limit), of which the one for the largest number that is reached counts.
    pub last_n_by_size: Arc<[(usize, u32)]>,
}

impl Policy {
    fn last_n_of(&self, endpoints: usize) -> Option<u32> {
        let reached = self.last_n_by_size.iter().filter(|(size, _)| endpoints >= *size);
        reached.max_by_key(|(size, _)| *size).map(|(_, last_n)| *last_n)
    }
}

/// What happened to packets, since the conference began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// RTP packets taken in.
    pub received: u64,
    /// RTP packets sent, each receiver counted.
    pub forwarded: u64,
    /// Sent again on request.
    pub retransmitted: u64,
    /// Sent to measure a path.
    pub probes: u64,
    /// Sent in the place of packets that came late and were not wanted.
    pub filled: u64,
    /// Waited for the pacer.
    pub paced: u64,
    /// Did not fit into the pacer's queue.
    pub overflowed: u64,
    /// Not RTP, not signalled, of somebody else, or repeated.
    pub dropped: u64,
    /// Key frames asked for.
    pub keyframe_requests: u64,
    /// Losses asked for.
    pub nacks: u64,
    /// Channel messages that could not be read or came too fast.
    pub bad_messages: u64,
    /// Packets copied to other shards, each counted.
    pub copied: u64,
    /// Packets for which there was no room on the way to another shard.
    pub uncopied: u64,
    /// Packets that came as copies.
    pub crossed: u64,
}

/// Where the packets of an SSRC belong.
#[derive(Debug, Clone, Copy)]
struct Route {
    source: usize,
    encoding: usize,
    rtx: bool,
}

/// A conference on one worker, or the shard of one that spans several.
#[derive(Debug)]
pub struct Conference {
    id: ConferenceId,
    feedback: FeedbackSsrcs,
    policy: Policy,
    /// No receiver gets more video sources than this for the moment.
    last_n_under_load: Option<u32>,
    random: SplitMix,
    start: Option<Instant>,
    endpoints: Slab<Endpoint>,
    places: FxHashMap<EndpointKey, u32>,
    sources: Slab<Source>,
    routes: FxHashMap<u32, Route>,
    speakers: Speakers,
    loudest: Loudest,
    counters: Counters,
    compound: Writer,
    /// Used for receiver after receiver.
    allocation: Allocation,
    /// Whether anybody may need an allocation: nobody is looked at otherwise.
    allocation_due: bool,
    /// When a sender is to be told what could not be told at once.
    limits_due: Option<Instant>,
    /// Where deciding goes on that was too much for one tick.
    unallocated: Option<usize>,
    /// Sources with packets of this turn.
    pending: Vec<usize>,
    /// Places of endpoints whose packets wait, or whose path is being measured.
    waiting: Vec<u32>,
    /// A key frame of somebody who began to speak, before anybody asks for it.
    preemptive: Option<(Instant, EndpointKey)>,
    last_packet: Option<Instant>,
    /// How long packets of pictures are kept, given the longest way to anybody.
    keep: Duration,
    /// Of the newest source.
    last_serial: u32,
    next_tick: Option<Instant>,
    /// When somebody may next have fallen silent or returned: nobody is looked at before.
    silence_at: Option<Instant>,
    next_pace: Option<Instant>,
    relay: relay::Relay,
}

impl Conference {
    /// An empty conference. `seed` decides where outgoing sequence numbers start; it need not be secret.
    pub fn new(id: ConferenceId, feedback: FeedbackSsrcs, policy: Policy, seed: u64) -> Self {
        let mut loudest = Loudest::default();
        loudest.set_places(policy.loudest);
        Self {
            id,
            feedback,
            policy,
            last_n_under_load: None,
            random: SplitMix(seed),
            start: None,
            endpoints: Slab::new(),
            places: FxHashMap::default(),
            sources: Slab::new(),
            routes: FxHashMap::default(),
            speakers: Speakers::default(),
            loudest,
            counters: Counters::default(),
            compound: Writer::default(),
            allocation: Allocation::default(),
            allocation_due: false,
            limits_due: None,
            unallocated: None,
            pending: Vec::new(),
            waiting: Vec::new(),
            preemptive: None,
            last_packet: None,
            keep: worth_keeping(Duration::ZERO),
            last_serial: 0,
            next_tick: None,
            silence_at: None,
            next_pace: None,
            relay: relay::Relay::default(),
        }
    }

    /// Its id.
    pub fn id(&self) -> ConferenceId {
        self.id
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.sources.is_empty() && self.routes.is_empty()
    }

    /// How many are in it, those of other shards included.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// What happened to packets so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Adds an endpoint. It gets nothing before [`Conference::handle_connected`].
    pub fn add_endpoint(&mut self, now: Instant, key: EndpointKey, id: EndpointId, capabilities: Capabilities) {
        self.start.get_or_insert(now);
        self.next_tick.get_or_insert(now + IDLE_TICK);
        self.tell_all(Told::Joined { id: id.clone() });
        let place = self.endpoints.insert(Endpoint::new(now, key, id, capabilities));
        self.places.insert(key, u32::try_from(place).unwrap_or(u32::MAX));
    }

    /// Removes an endpoint and everything of it.
    pub fn remove_endpoint(&mut self, now: Instant, key: EndpointKey) {
        let Some(place) = self.places.remove(&key) else { return };
        self.tell_left(place);
        self.speakers.remove(key);
        for index in self.indices(|source| source.owner == place) {
            self.remove_source(now, index);
        }
        for (_, source) in &mut self.sources {
            source.unsubscribe(place);
            source.wish(place, 0);
        }
        self.waiting.retain(|waiting| *waiting != place);
        self.endpoints.remove(index_of(place));
        self.needs_allocation(now);
        if self.endpoints.is_empty() {
            (self.next_tick, self.next_pace) = (None, None);
        }
    }

    /// Replaces everything an endpoint sends. Streams that stay the same go on.
    pub fn set_sources(&mut self, now: Instant, key: EndpointKey, set: &SourceSet) {
        let Some(place) = self.places.get(&key).copied() else { return };
        self.tell_sources(place, set);
        let mut wanted = Source::all_of(place, key, set);
        for index in self.indices(|source| source.owner == place) {
            let known = &mut self.sources[index];
            match wanted.iter().position(|source| source.has_streams_of(known)) {
                Some(same) => known.video_type = wanted.swap_remove(same).video_type,
                None => self.remove_source(now, index),
            }
        }
        for source in wanted {
            self.add_source(now, source);
        }
        self.needs_allocation(now);
    }

    /// The last-N that came with the client's answer.
    pub fn set_initial_last_n(&mut self, now: Instant, key: EndpointKey, last_n: u32, out: &mut Vec<Output>) {
        if let Some(place) = self.places.get(&key).copied() {
            self.endpoints[index_of(place)].constraints.set_initial_last_n(last_n);
            self.allocate_for(now, place, out);
        }
    }

    /// Limits the number of video sources of every receiver, beside its wishes and the policy; `None` ends that.
    pub fn limit_last_n(&mut self, now: Instant, last_n: Option<u32>) {
        if self.last_n_under_load != last_n {
            self.last_n_under_load = last_n;
            self.needs_allocation(now);
        }
    }

    /// How many video sources the receiver gets that gets the most, as it was told.
    pub fn most_forwarded(&self) -> usize {
        let forwarded = self.endpoints.iter().filter_map(|(_, endpoint)| endpoint.forwarded.as_ref());
        forwarded.map(Vec::len).max().unwrap_or(0)
    }

    /// Drops the endpoint's media, by kind.
    pub fn set_force_mute(&mut self, key: EndpointKey, audio: bool, video: bool) {
        if let Some(endpoint) = self.endpoint_mut(key) {
            (endpoint.muted_audio, endpoint.muted_video) = (audio, video);
        }
    }

    /// The endpoint's keys are up: it may get packets now.
    pub fn handle_connected(&mut self, now: Instant, key: EndpointKey, out: &mut Vec<Output>) {
        let Some(place) = self.places.get(&key).copied() else { return };
        let endpoint = &mut self.endpoints[index_of(place)];
        endpoint.connected = true;
        endpoint.heard(now);
        self.silence_at = Some(now);
        for index in self.indices(|source| source.kind == MediaKind::Audio) {
            self.subscribe_audio(now, index, place);
        }
        self.allocate_for(now, place, out);
        self.next_tick = Some(now);
    }

    /// Any authenticated datagram came from the endpoint at this time, consent checks included. Nobody watches over it any more.
    pub fn handle_activity(&mut self, at: Instant, key: EndpointKey) {
        if let Some(endpoint) = self.endpoint_mut(key) {
            endpoint.watched = false;
            endpoint.heard(at);
            self.silence_at = Some(at);
        }
    }

    /// Somebody watches over the endpoint: it is active until [`Conference::handle_activity`] tells when it was last heard.
    pub fn handle_watched(&mut self, now: Instant, key: EndpointKey) {
        if let Some(endpoint) = self.endpoint_mut(key) {
            endpoint.watched = true;
            if !endpoint.active {
                self.silence_at = Some(now);
            }
        }
    }

    /// The endpoint's bridge channel opened: it is told the state of things.
    pub fn handle_channel_open(&mut self, now: Instant, key: EndpointKey, out: &mut Vec<Output>) {
        let Some(place) = self.places.get(&key).copied() else { return };
        let endpoint = &mut self.endpoints[index_of(place)];
        endpoint.channel_open = true;
        endpoint.forwarded = None;
        out.push(Output::Channel { to: key, text: channel::server_hello() });
        for (_, source) in self.sources.iter_mut().filter(|(_, source)| source.owner == place) {
            source.limit = SenderLimit::default();
        }
        self.announce_slots(place, out);
        self.allocate_for(now, place, out);
        if let Some(speaker) = self.speakers.dominant() {
            let text = channel::dominant_speaker(speaker, self.speakers.recent().get(1..).unwrap_or(&[]));
            out.push(Output::Channel { to: key, text });
        }
        self.limit_senders(now, out);
    }

    /// A text came on the endpoint's bridge channel.
    pub fn handle_channel_message(&mut self, now: Instant, key: EndpointKey, text: &str, out: &mut Vec<Output>) {
        let Some(place) = self.places.get(&key).copied() else { return };
        let endpoint = &mut self.endpoints[index_of(place)];
        let message = if endpoint.may_speak(now) { channel::parse(text) } else { Err(channel::Malformed) };
        let Ok(message) = message else {
            self.counters.bad_messages += 1;
            return;
        };
        match message {
            Message::Hello => out.push(Output::Channel { to: key, text: channel::server_hello() }),
            Message::Constraints(change) => {
                endpoint.constraints.apply(change);
                self.allocate_for(now, place, out);
                self.limit_senders(now, out);
            }
            Message::AudioSubscription(subscription) => {
                endpoint.audio = subscription;
                for index in self.indices(|source| source.kind == MediaKind::Audio) {
                    self.subscribe_audio(now, index, place);
                }
                self.tell_wanted(MediaKind::Audio);
            }
            Message::VideoType { source, video_type } => {
                let id = endpoint.id.clone();
                self.tell_all(Told::VideoType { id, source: source.clone(), video_type });
                self.set_video_type(now, place, source.as_ref(), video_type);
            }
            Message::Endpoint { to, body } => {
                let text = channel::from_endpoint(body, &endpoint.id);
                self.tell_text(to.as_deref(), &text);
                self.pass_on(Some(key), to.as_deref(), &text, out);
            }
            Message::Stats { body } => {
                let text = channel::from_endpoint(body, &endpoint.id);
                let from = endpoint.id.clone();
                self.tell_all(Told::Stats { from, text: Arc::clone(&text) });
                self.pass_stats_on(place, &text, out);
            }
            Message::Unknown => {}
        }
    }

    /// Runs everything that is due.
    pub fn on_timeout(&mut self, now: Instant, egress: &mut impl Egress, out: &mut Vec<Output>) {
        if let Some(at) = self.next_tick.filter(|at| now >= *at) {
            self.tick(now, egress, out);
            let is_busy = self.is_flowing(now) || self.unallocated.is_some();
            let next = if is_busy { next_beat(at, now) } else { now + IDLE_TICK };
            self.next_tick = (!self.endpoints.is_empty()).then_some(next);
        }
        if self.next_pace.is_some_and(|at| now >= at) {
            self.let_go(now, egress);
        }
        if self.limits_due.is_some_and(|at| now >= at) {
            self.limit_senders(now, out);
        }
        if self.is_home()
            && let Some(speaker) = self.speakers.decide(now)
        {
            self.tell_speakers(self.relay.peers);
            out.push(Output::Event(BridgeEvent::DominantSpeaker { endpoint: speaker.clone() }));
            self.announce_speaker(now, &speaker, out);
        }
    }

    /// When [`Conference::on_timeout`] next has work to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let speech = self.speakers.next_decision().filter(|_| self.is_home() && !self.endpoints.is_empty());
        self.next_tick.into_iter().chain(self.next_pace).chain(self.limits_due).chain(speech).min()
    }

    fn tick(&mut self, now: Instant, egress: &mut impl Egress, out: &mut Vec<Output>) {
        let mut changed = false;
        for (_, source) in self.sources.iter_mut().filter(|(_, source)| source.kind == MediaKind::Video) {
            source.rest(now, self.keep);
            changed |= source.crossing.from.is_none() && source.refresh_layers(now);
        }
        self.ask_ahead(now);
        self.ask_senders(now, egress);
        if !self.rests(now) {
            self.report_to_senders(now, egress);
            self.measure_paths(now, out);
        }
        self.notice_silence(now, out);
        if changed {
            self.needs_allocation(now);
        }
        self.allocate_due(now, out);
        self.keep_shards_informed(now, changed);
    }

    /// Something authentic came from an endpoint.
    fn heard(&mut self, now: Instant, place: u32) {
        let endpoint = &mut self.endpoints[index_of(place)];
        endpoint.heard(now);
        if !endpoint.active {
            self.silence_at = Some(now);
        }
    }

    fn notice_silence(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.silence_at.is_none_or(|at| now < at) {
            return;
        }
        let changes = self.endpoints.iter_mut().filter_map(|(_, endpoint)| {
            endpoint.activity_change(now).map(|active| (endpoint.key, endpoint.id.clone(), active))
        });
        let changes: Vec<(EndpointKey, EndpointId, bool)> = changes.collect(); // allocates only when there is one
        self.silence_at = self.endpoints.iter().filter_map(|(_, endpoint)| endpoint.silent_at()).min();
        for (key, id, active) in changes {
            let text = channel::connectivity(&id, active);
            self.tell_text(None, &text);
            self.pass_on(Some(key), None, &text, out);
            out.push(Output::Event(BridgeEvent::Activity { endpoint: id, active }));
        }
    }

    fn announce_speaker(&mut self, now: Instant, speaker: &EndpointId, out: &mut Vec<Output>) {
        let text = channel::dominant_speaker(speaker, self.speakers.recent().get(1..).unwrap_or(&[]));
        for (_, endpoint) in self.endpoints.iter().filter(|(_, endpoint)| endpoint.channel_open) {
            out.push(Output::Channel { to: endpoint.key, text: Arc::clone(&text) });
        }
        self.plan_keyframe(now, speaker);
        self.needs_allocation(now);
    }

    fn set_video_type(&mut self, now: Instant, place: u32, name: Option<&SourceName>, video_type: VideoType) {
        let own =
            self.sources.iter_mut().filter(|(_, source)| source.owner == place && source.kind == MediaKind::Video);
        for (_, source) in own.filter(|(_, source)| name.is_none_or(|name| source.name == *name)) {
            source.video_type = video_type;
        }
        self.needs_allocation(now);
    }

    fn pass_on(&self, from: Option<EndpointKey>, to: Option<&str>, text: &Arc<str>, out: &mut Vec<Output>) {
        let others = self.endpoints.iter().filter(|(_, endpoint)| Some(endpoint.key) != from && endpoint.channel_open);
        let meant = others.filter(|(_, endpoint)| to.is_none_or(|to| endpoint.id.as_str() == to));
        out.extend(meant.map(|(_, other)| Output::Channel { to: other.key, text: Arc::clone(text) }));
    }

    /// Above some size they go only to those who look at their sender: they grow with the square.
    fn pass_stats_on(&self, from: u32, text: &Arc<str>, out: &mut Vec<Output>) {
        let Some(sender) = self.endpoints.get(index_of(from)) else { return };
        let spoke_lately = self.speakers.recent().contains(&sender.id) || self.loudest_of(from);
        let own = self.sources.iter().map(|(_, source)| source).filter(|source| source.owner == from);
        let own: Vec<&Source> = own.filter(|source| source.kind == MediaKind::Video).collect();
        for (place, other) in self.endpoints.iter().filter(|(_, other)| other.channel_open) {
            if place == index_of(from) {
                continue;
            }
            let is_seen = own.iter().any(|source| source.wish_of(place_of(place)) != 0);
            if channel::wants_stats(self.endpoints.len(), spoke_lately, is_seen) {
                out.push(Output::Channel { to: other.key, text: Arc::clone(text) });
            }
        }
    }

    fn loudest_of(&self, place: u32) -> bool {
        let own = self.sources.iter().filter(|(_, source)| source.owner == place && source.kind == MediaKind::Audio);
        self.policy.loudest.is_some() && own.map(|(index, _)| index).any(|index| self.loudest.is_ranked(index))
    }

    fn add_source(&mut self, now: Instant, source: Source) {
        if source.encodings.iter().any(|e| e.rtx_ssrc.into_iter().chain([e.ssrc]).any(|s| self.routes.contains_key(&s)))
        {
            return; // The focus refuses SSRCs that are taken; a bridge under another focus must not be confused by one.
        }
        let kind = source.kind;
        let from = self.endpoints.get(index_of(source.owner)).and_then(|owner| owner.shard);
        let index = self.sources.insert(source);
        self.last_serial = self.last_serial.wrapping_add(1).max(1);
        self.sources[index].serial = self.last_serial;
        self.sources[index].crossing.from = from;
        for (encoding, stream) in self.sources[index].encodings.iter().enumerate() {
            self.routes.insert(stream.ssrc, Route { source: index, encoding, rtx: false });
            if let Some(rtx) = stream.rtx_ssrc {
                self.routes.insert(rtx, Route { source: index, encoding, rtx: true });
            }
        }
        if kind == MediaKind::Audio {
            let places: Vec<u32> = self.endpoints.iter().map(|(place, _)| place_of(place)).collect();
            places.into_iter().for_each(|place| self.subscribe_audio(now, index, place));
        }
        self.sources[index].refresh_layers(now);
    }

    fn remove_source(&mut self, now: Instant, index: usize) {
        let Some(source) = self.sources.try_remove(index) else { return };
        self.loudest.remove(index);
        self.pending.retain(|pending| *pending != index);
        self.routes.retain(|_, route| route.source != index);
        let ssrc = source.primary_ssrc();
        for subscription in source.subscriptions {
            if let Some(endpoint) = self.endpoints.get_mut(index_of(subscription.receiver)) {
                endpoint.streams.park(now, subscription.stream);
            }
        }
        for (_, endpoint) in &mut self.endpoints {
            endpoint.streams.source_ended(index, ssrc);
        }
    }

    fn endpoint_mut(&mut self, key: EndpointKey) -> Option<&mut Endpoint> {
        let place = *self.places.get(&key)?;
        self.endpoints.get_mut(index_of(place))
    }

    fn indices(&self, which: impl Fn(&Source) -> bool) -> Vec<usize> {
        self.sources.iter().filter(|(_, source)| which(source)).map(|(index, _)| index).collect()
    }

    /// Whether anybody sends at the moment.
    fn is_flowing(&self, now: Instant) -> bool {
        self.last_packet.is_some_and(|at| now.saturating_duration_since(at) < FLOWING_FOR)
    }

    /// Whether nothing can be found about anybody's path that was not found the last time, and no probe waits for its end.
    fn rests(&self, now: Instant) -> bool {
        self.waiting.is_empty() && self.last_packet.is_none_or(|at| now.saturating_duration_since(at) >= RESTS_AFTER)
    }

    fn since_start(&self, now: Instant) -> Duration {
        self.start.map_or(Duration::ZERO, |start| now.saturating_duration_since(start))
    }
}

/// The next tick after one that was due. It keeps to the beat of its conference: counted from when it came to run, the ticks of all
/// conferences that one long turn made late would fall together ever after, and each time keep packets of all of them.
fn next_beat(due: Instant, now: Instant) -> Instant {
    let late = now.saturating_duration_since(due).as_nanos() % TICK.as_nanos();
    now + TICK - Duration::from_nanos(u64::try_from(late).unwrap_or(0))
}

/// Places are indices of a slab and far below 2³².
fn index_of(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn place_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// A small generator for numbers that need not be secret (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;
