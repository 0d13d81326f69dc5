//! One conference: who is in it, what each sends and gets. Packets are handled in `conference::forward`.

mod forward;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tertulia_model::{
    BridgeEvent, Capabilities, ConferenceId, EndpointId, FeedbackSsrcs, MediaKind, SourceName, SourceSet, VideoType,
};
use tertulia_rtp::rtcp::Writer;

use crate::allocation::{Allocation, Candidate, History, Request, allocate};
use crate::channel::{self, Message};
use crate::egress::{Egress, EndpointKey, Output};
use crate::endpoint::Endpoint;
use crate::estimate::Estimate;
use crate::source::Source;
use crate::speech::Speakers;
use crate::subscription::Subscription;

/// Time between two looks at losses, feedback and key frames while media flows.
const TICK: Duration = Duration::from_millis(20);
/// The same while nothing flows: only silence has to be noticed.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Media is flowing when a packet came within this time.
const FLOWING_FOR: Duration = Duration::from_secs(2);
/// `EndpointStats` go to everybody in conferences up to this size, above it to nobody: they grow with the square.
const STATS_ENDPOINTS_MAX: usize = 20;

/// What happened to packets, since the conference began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// RTP packets taken in.
    pub received: u64,
    /// RTP packets sent, each receiver counted.
    pub forwarded: u64,
    /// Sent again on request.
    pub retransmitted: u64,
    /// Not RTP, not signalled, of somebody else, or repeated.
    pub dropped: u64,
    /// Key frames asked for.
    pub keyframe_requests: u64,
    /// Losses asked for.
    pub nacks: u64,
    /// Channel messages that could not be read or came too fast.
    pub bad_messages: u64,
}

/// Where the packets of an SSRC belong.
#[derive(Debug, Clone, Copy)]
struct Route {
    source: usize,
    encoding: usize,
    rtx: bool,
}

/// A conference on one worker.
#[derive(Debug)]
pub struct Conference {
    id: ConferenceId,
    feedback: FeedbackSsrcs,
    random: SplitMix,
    start: Option<Instant>,
    endpoints: BTreeMap<EndpointKey, Endpoint>,
    sources: Vec<Option<Source>>,
    routes: FxHashMap<u32, Route>,
    speakers: Speakers,
    counters: Counters,
    compound: Writer,
    last_packet: Option<Instant>,
    next_tick: Option<Instant>,
}

impl Conference {
    /// An empty conference. `seed` decides where outgoing sequence numbers start; it need not be secret.
    pub fn new(id: ConferenceId, feedback: FeedbackSsrcs, seed: u64) -> Self {
        Self {
            id,
            feedback,
            random: SplitMix(seed),
            start: None,
            endpoints: BTreeMap::new(),
            sources: Vec::new(),
            routes: FxHashMap::default(),
            speakers: Speakers::default(),
            counters: Counters::default(),
            compound: Writer::default(),
            last_packet: None,
            next_tick: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> ConferenceId {
        self.id
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.sources.iter().all(Option::is_none) && self.routes.is_empty()
    }

    /// What happened to packets so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Adds an endpoint. It gets nothing before [`Conference::handle_connected`].
    pub fn add_endpoint(&mut self, now: Instant, key: EndpointKey, id: EndpointId, capabilities: Capabilities) {
        self.start.get_or_insert(now);
        self.next_tick.get_or_insert(now + IDLE_TICK);
        self.endpoints.insert(key, Endpoint::new(now, id, capabilities));
        let random = &mut self.random;
        for source in self.sources.iter_mut().flatten() {
            source.subscriptions.push(Subscription::new(key, random.next_u16()));
        }
    }

    /// Removes an endpoint and everything of it.
    pub fn remove_endpoint(&mut self, now: Instant, key: EndpointKey, out: &mut Vec<Output>) {
        if self.endpoints.remove(&key).is_none() {
            return;
        }
        self.speakers.remove(key);
        for index in 0..self.sources.len() {
            let Some(source) = &mut self.sources[index] else { continue };
            if source.owner == key {
                self.remove_source(index);
            } else {
                source.subscriptions.retain(|subscription| subscription.receiver != key);
            }
        }
        self.reallocate_all(now, out);
        if self.endpoints.is_empty() {
            self.next_tick = None;
        }
    }

    /// Replaces everything an endpoint sends. Streams that stay the same go on.
    pub fn set_sources(&mut self, now: Instant, key: EndpointKey, set: &SourceSet, out: &mut Vec<Output>) {
        if !self.endpoints.contains_key(&key) {
            return;
        }
        let mut wanted = Source::all_of(key, set);
        for index in 0..self.sources.len() {
            let Some(known) = self.sources[index].as_mut().filter(|source| source.owner == key) else { continue };
            match wanted.iter().position(|source| source.has_streams_of(known)) {
                Some(same) => known.video_type = wanted.swap_remove(same).video_type,
                None => self.remove_source(index),
            }
        }
        for source in wanted {
            self.add_source(source);
        }
        self.reallocate_all(now, out);
    }

    /// The last-N that came with the client's answer.
    pub fn set_initial_last_n(&mut self, now: Instant, key: EndpointKey, last_n: u32, out: &mut Vec<Output>) {
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            endpoint.constraints.set_initial_last_n(last_n);
            endpoint.needs_allocation = true;
            self.reallocate(now, out);
        }
    }

    /// Drops the endpoint's media, by kind.
    pub fn set_force_mute(&mut self, key: EndpointKey, audio: bool, video: bool) {
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            (endpoint.muted_audio, endpoint.muted_video) = (audio, video);
        }
    }

    /// The endpoint's keys are up: it may get packets now.
    pub fn handle_connected(&mut self, now: Instant, key: EndpointKey, out: &mut Vec<Output>) {
        let Some(endpoint) = self.endpoints.get_mut(&key) else { return };
        endpoint.connected = true;
        endpoint.heard(now);
        endpoint.needs_allocation = true;
        for source in self.sources.iter_mut().flatten().filter(|source| source.kind == MediaKind::Audio) {
            for subscription in source.subscriptions.iter_mut().filter(|s| s.receiver == key) {
                subscription.aim(endpoint.capabilities.audio.then_some(0));
            }
        }
        self.reallocate(now, out);
        self.next_tick = Some(now);
    }

    /// Any authenticated datagram came from the endpoint, consent checks included.
    pub fn handle_activity(&mut self, now: Instant, key: EndpointKey) {
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            endpoint.heard(now);
        }
    }

    /// The endpoint's bridge channel opened: it is told the state of things.
    pub fn handle_channel_open(&mut self, now: Instant, key: EndpointKey, out: &mut Vec<Output>) {
        let Some(endpoint) = self.endpoints.get_mut(&key) else { return };
        endpoint.channel_open = true;
        endpoint.forwarded = None;
        endpoint.needs_allocation = true;
        out.push(Output::Channel { to: key, text: channel::server_hello() });
        for source in self.sources.iter_mut().flatten().filter(|source| source.owner == key) {
            source.told_max_height = None;
        }
        self.reallocate(now, out);
        if let Some(speaker) = self.speakers.dominant() {
            let text = channel::dominant_speaker(speaker, self.speakers.recent().get(1..).unwrap_or(&[]));
            out.push(Output::Channel { to: key, text });
        }
    }

    /// A text came on the endpoint's bridge channel.
    pub fn handle_channel_message(&mut self, now: Instant, key: EndpointKey, text: &str, out: &mut Vec<Output>) {
        let Some(endpoint) = self.endpoints.get_mut(&key) else { return };
        let message = if endpoint.may_speak(now) { channel::parse(text) } else { Err(channel::Malformed) };
        let Ok(message) = message else {
            self.counters.bad_messages += 1;
            return;
        };
        match message {
            Message::Hello => out.push(Output::Channel { to: key, text: channel::server_hello() }),
            Message::Constraints(change) => {
                endpoint.constraints.apply(change);
                endpoint.needs_allocation = true;
                self.reallocate(now, out);
            }
            Message::VideoType { source, video_type } => {
                self.set_video_type(now, key, source.as_ref(), video_type, out);
            }
            Message::Endpoint { to, body } => {
                let text = channel::from_endpoint(body, &endpoint.id);
                self.pass_on(key, to.as_deref(), &text, out);
            }
            Message::Stats { body } => {
                let text = channel::from_endpoint(body, &endpoint.id);
                if self.endpoints.len() <= STATS_ENDPOINTS_MAX {
                    self.pass_on(key, None, &text, out);
                }
            }
            // Everybody hears everybody until subscriptions choose.
            Message::AudioSubscription(_) | Message::Unknown => {}
        }
    }

    /// Runs everything that is due.
    pub fn on_timeout(&mut self, now: Instant, egress: &mut impl Egress, out: &mut Vec<Output>) {
        if self.next_tick.is_some_and(|at| now >= at) {
            self.tick(now, egress, out);
            let flowing = self.last_packet.is_some_and(|at| now.saturating_duration_since(at) < FLOWING_FOR);
            self.next_tick = (!self.endpoints.is_empty()).then(|| now + if flowing { TICK } else { IDLE_TICK });
        }
        if let Some(speaker) = self.speakers.decide(now) {
            self.announce_speaker(now, speaker, out);
        }
    }

    /// When [`Conference::on_timeout`] next has work to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let speech = self.speakers.next_decision();
        self.next_tick.into_iter().chain(speech.filter(|_| !self.endpoints.is_empty())).min()
    }

    fn tick(&mut self, now: Instant, egress: &mut impl Egress, out: &mut Vec<Output>) {
        let mut changed = false;
        for source in self.sources.iter_mut().flatten().filter(|source| source.kind == MediaKind::Video) {
            if source.refresh_active(now) {
                changed = true;
                reselect(source);
            }
        }
        self.ask_senders(now, egress);
        self.report_to_senders(now, egress);
        let changes: Vec<(EndpointId, bool)> = self
            .endpoints
            .values_mut()
            .filter_map(|endpoint| endpoint.activity_change(now).map(|active| (endpoint.id.clone(), active)))
            .collect();
        for (id, active) in changes {
            let text = channel::connectivity(&id, active);
            let others = self.endpoints.iter().filter(|(_, endpoint)| endpoint.id != id && endpoint.channel_open);
            out.extend(others.map(|(key, _)| Output::Channel { to: *key, text: Arc::clone(&text) }));
            out.push(Output::Event(BridgeEvent::Activity { endpoint: id, active }));
        }
        if changed {
            self.reallocate_all(now, out);
        }
    }

    fn announce_speaker(&mut self, now: Instant, speaker: EndpointId, out: &mut Vec<Output>) {
        let text = channel::dominant_speaker(&speaker, self.speakers.recent().get(1..).unwrap_or(&[]));
        for (key, _) in self.endpoints.iter().filter(|(_, endpoint)| endpoint.channel_open) {
            out.push(Output::Channel { to: *key, text: Arc::clone(&text) });
        }
        out.push(Output::Event(BridgeEvent::DominantSpeaker { endpoint: speaker }));
        self.reallocate_all(now, out);
    }

    fn set_video_type(
        &mut self,
        now: Instant,
        key: EndpointKey,
        name: Option<&SourceName>,
        video_type: VideoType,
        out: &mut Vec<Output>,
    ) {
        let own =
            self.sources.iter_mut().flatten().filter(|source| source.owner == key && source.kind == MediaKind::Video);
        for source in own.filter(|source| name.is_none_or(|name| source.name == *name)) {
            source.video_type = video_type;
        }
        self.reallocate_all(now, out);
    }

    fn pass_on(&self, from: EndpointKey, to: Option<&str>, text: &Arc<str>, out: &mut Vec<Output>) {
        let others = self.endpoints.iter().filter(|(key, endpoint)| **key != from && endpoint.channel_open);
        let meant = others.filter(|(_, endpoint)| to.is_none_or(|to| endpoint.id.as_str() == to));
        out.extend(meant.map(|(key, _)| Output::Channel { to: *key, text: Arc::clone(text) }));
    }

    fn add_source(&mut self, mut source: Source) {
        if source.encodings.iter().any(|e| e.rtx_ssrc.into_iter().chain([e.ssrc]).any(|s| self.routes.contains_key(&s)))
        {
            return; // The focus refuses SSRCs that are taken; a bridge under another focus must not be confused by one.
        }
        for (key, endpoint) in self.endpoints.iter().filter(|(key, _)| **key != source.owner) {
            let first = endpoint.end_of_stream(source.primary_ssrc()).unwrap_or_else(|| self.random.next_u16());
            let mut subscription = Subscription::new(*key, first);
            if source.kind == MediaKind::Audio && endpoint.connected && endpoint.capabilities.audio {
                subscription.aim(Some(0));
            }
            source.subscriptions.push(subscription);
        }
        let index = self.sources.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sources.push(None);
            self.sources.len() - 1
        });
        for (encoding, stream) in source.encodings.iter().enumerate() {
            self.routes.insert(stream.ssrc, Route { source: index, encoding, rtx: false });
            if let Some(rtx) = stream.rtx_ssrc {
                self.routes.insert(rtx, Route { source: index, encoding, rtx: true });
            }
        }
        self.sources[index] = Some(source);
    }

    fn remove_source(&mut self, index: usize) {
        if let Some(source) = self.sources[index].take() {
            for subscription in &source.subscriptions {
                if let Some(endpoint) = self.endpoints.get_mut(&subscription.receiver) {
                    endpoint.stream_ended(source.primary_ssrc(), subscription.last_sequence());
                }
            }
        }
        self.routes.retain(|_, route| route.source != index);
    }

    fn reallocate_all(&mut self, now: Instant, out: &mut Vec<Output>) {
        for endpoint in self.endpoints.values_mut() {
            endpoint.needs_allocation = true;
        }
        self.reallocate(now, out);
    }

    /// Decides anew for everybody whose wishes or choices changed, and tells who has to know.
    fn reallocate(&mut self, now: Instant, out: &mut Vec<Output>) {
        let due: Vec<EndpointKey> =
            self.endpoints.iter().filter(|(_, e)| e.needs_allocation && e.connected).map(|(key, _)| *key).collect();
        for key in &due {
            self.allocate_for(now, *key, out);
        }
        if !due.is_empty() {
            // New aims need key frames: the next tick asks for them.
            self.next_tick = self.next_tick.map(|at| at.min(now + TICK));
        }
        self.limit_senders(out);
    }

    fn allocate_for(&mut self, now: Instant, receiver: EndpointKey, out: &mut Vec<Output>) {
        let Some(endpoint) = self.endpoints.get(&receiver) else { return };
        let video = |source: &&Source| {
            source.kind == MediaKind::Video && source.owner != receiver && endpoint.capabilities.video
        };
        let sources = self.sources.iter().enumerate().filter_map(|(index, source)| Some((index, source.as_ref()?)));
        let candidates: Vec<Candidate<'_>> = sources
            .filter(|(_, source)| video(source))
            .map(|(index, source)| Candidate {
                source: index,
                name: &source.name,
                speech_rank: self.speakers.rank(source.owner),
                enabled: source.is_enabled(),
                video_type: source.video_type,
                layers: &[],
            })
            .collect();
        let request = Request {
            constraints: &endpoint.constraints,
            available_bps: Estimate.available_bps(),
            last_n_max: None,
            candidates: &candidates,
        };
        // Without layers to choose from there is nothing to remember: encodings are chosen by height.
        let mut allocation = Allocation::default();
        allocate(now, &request, &mut History::default(), &mut allocation);
        let heights: Vec<(usize, i32)> = allocation.decisions.iter().map(|d| (d.source, d.max_height)).collect();
        let owner_of = |index: usize| {
            let source = self.sources[index].as_ref()?;
            Some((source.name.clone(), self.endpoints.get(&source.owner)?.id.clone()))
        };
        let wanted = heights.iter().filter(|(_, height)| *height != 0);
        let forwarded: Vec<(SourceName, EndpointId)> = wanted.filter_map(|(index, _)| owner_of(*index)).collect();
        for (index, height) in heights {
            let Some(source) = &mut self.sources[index] else { continue };
            let target = source.select(height);
            if let Some(subscription) = source.subscriptions.iter_mut().find(|s| s.receiver == receiver) {
                subscription.max_height = height;
                subscription.aim(target);
            }
        }
        self.tell_forwarded(receiver, forwarded, out);
    }

    fn tell_forwarded(&mut self, receiver: EndpointKey, list: Vec<(SourceName, EndpointId)>, out: &mut Vec<Output>) {
        let Some(endpoint) = self.endpoints.get_mut(&receiver) else { return };
        endpoint.needs_allocation = false;
        let (names, mut owners): (Vec<SourceName>, Vec<EndpointId>) = list.into_iter().unzip();
        if !endpoint.channel_open || endpoint.forwarded.as_ref() == Some(&names) {
            return;
        }
        out.push(Output::Channel { to: receiver, text: channel::forwarded_sources(&names) });
        if !endpoint.capabilities.source_names {
            owners.dedup();
            out.push(Output::Channel { to: receiver, text: channel::last_n_endpoints(&owners) });
        }
        endpoint.forwarded = Some(names);
    }

    /// Tells each sender how large anybody wants its sources, so that it can switch layers off.
    fn limit_senders(&mut self, out: &mut Vec<Output>) {
        for source in self.sources.iter_mut().flatten().filter(|source| source.kind == MediaKind::Video) {
            let Some(owner) = self.endpoints.get(&source.owner).filter(|owner| owner.channel_open) else { continue };
            let heights = source.subscriptions.iter().map(|subscription| subscription.max_height);
            let wanted =
                heights.fold(0, |most: i32, height| if most < 0 || height < 0 { -1 } else { most.max(height) });
            if source.told_max_height == Some(wanted) {
                continue;
            }
            source.told_max_height = Some(wanted);
            out.push(Output::Channel {
                to: source.owner,
                text: channel::sender_source_constraints(&source.name, wanted),
            });
            if !owner.capabilities.source_names {
                out.push(Output::Channel { to: source.owner, text: channel::sender_video_constraints(wanted) });
            }
        }
    }
}

/// Points subscriptions at the best encoding that is being sent now.
fn reselect(source: &mut Source) {
    for index in 0..source.subscriptions.len() {
        let target = source.select(source.subscriptions[index].max_height);
        if source.subscriptions[index].target.is_some() {
            source.subscriptions[index].aim(target);
        }
    }
}

/// A small generator for numbers that need not be secret (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next_u16(&mut self) -> u16 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u16::try_from((z ^ (z >> 31)) >> 48).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
