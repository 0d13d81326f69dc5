//! A conference that spans workers. Each worker holds a shard: its own endpoints, and those of the others as relayed
//! ones, which have sources but no transport.
//!
//! A packet is decrypted, repaired and numbered on the shard of its sender, and copied once to each other shard where
//! somebody wants it. There it goes into that shard's cache and on to its receivers as if it had come from the network;
//! whatever was lost on the way between shards is gone, and a key frame makes up for it. What a shard wants, and the
//! key frames it needs, it tells the sender's shard, which asks the sender on behalf of all. Who is the dominant
//! speaker, one shard decides: the home.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tertulia_model::profile;
use tertulia_model::{Capabilities, EndpointId, MediaKind, SourceSet};
use tertulia_rtp::rtcp::SenderInfo;

use super::forward::Media;
use super::steer::wants_sound;
use super::{Conference, Route, index_of, place_of};
use crate::egress::{Egress, EndpointKey, Output};
use crate::endpoint::Endpoint;
use crate::shard::{self, Crossing, FRAME_MAX, Frame, Message, Shard, Shards, Told};
use crate::source::Source;
use crate::subscription::{Course, Subscription};

/// Time between two looks at what is not wanted any more. What is wanted anew is told at once.
const WANTED_EVERY: Duration = Duration::from_millis(100);
/// Time between two looks at who insists on hearing somebody; whoever says so is told of at once.
const SOUND_EVERY: Duration = Duration::from_secs(1);
/// Time between two reports of what a source's layers cost.
const LAYERS_EVERY: Duration = Duration::from_millis(500);
/// Round trip to a sender plus a frame, as far as another shard can guess: how long a request for a key frame is in
/// flight.
const ANSWER: Duration = Duration::from_millis(120);
/// Keys of relayed endpoints: no worker has so many slots.
const RELAYED_KEYS: u32 = 1 << 31;

/// What a conference knows of its other shards.
#[derive(Debug)]
pub(super) struct Relay {
    own: Shard,
    home: Shard,
    pub(super) peers: Shards,
    /// Endpoints of each shard.
    people: [u32; Shard::MAX],
    /// Shards with endpoints.
    listening: Shards,
    outbox: Vec<(Shards, Message)>,
    /// Who spoke, as the home shard said it last.
    recent: Vec<EndpointId>,
    next_key: u32,
    wanted_at: Option<Instant>,
    sound_at: Option<Instant>,
    frame: Box<[u8; FRAME_MAX]>,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            own: Shard::default(),
            home: Shard::default(),
            peers: Shards::default(),
            people: [0; Shard::MAX],
            listening: Shards::default(),
            outbox: Vec::new(),
            recent: Vec::new(),
            next_key: 0,
            wanted_at: None,
            sound_at: None,
            frame: Box::new([0; FRAME_MAX]),
        }
    }
}

impl Relay {
    /// Asks the shard of a source's owner for the key frames that are due.
    pub(super) fn ask(&mut self, now: Instant, shard: Shard, source: &mut Source) {
        let due = source.keyframes.take_due(now, ANSWER).bits();
        if due != 0 {
            let (to_start, to_switch) = source.keyframes.awaited();
            let (to_start, to_switch) = (due & to_start.bits(), due & to_switch.bits());
            let (ssrc, after_loss) = (source.primary_ssrc(), due & !to_start & !to_switch);
            let told = Told::Keyframes { ssrc, to_start, to_switch, after_loss };
            self.outbox.push((Shards::only(shard), Message(told)));
        }
    }

    fn tell(&mut self, to: Shards, told: Told) {
        if !to.is_empty() {
            self.outbox.push((to, Message(told)));
        }
    }

    /// Counts somebody of another shard who came or went.
    fn count(&mut self, shard: Shard, came: bool) {
        let people = &mut self.people[shard.worker()];
        *people = if came { *people + 1 } else { people.saturating_sub(1) };
        let only = Shards::only(shard);
        self.listening = if *people > 0 { self.listening.with(only) } else { self.listening.without(only) };
    }
}

impl Conference {
    /// Says which shard this is and which one decides. A conference that is told nothing is its own home.
    pub fn set_shard(&mut self, own: Shard, home: Shard) {
        (self.relay.own, self.relay.home) = (own, home);
    }

    /// Another shard is there, or missed what it was told: it is told everything, and what it said before holds.
    pub fn greet(&mut self, now: Instant, peer: Shard) {
        if peer == self.relay.own {
            return;
        }
        let to = Shards::only(peer);
        self.relay.peers = self.relay.peers.with(to);
        self.relay.tell(to, Told::Anew);
        for (_, endpoint) in self.endpoints.iter().filter(|(_, endpoint)| endpoint.shard.is_none()) {
            let (id, set) = (endpoint.id.clone(), Arc::clone(&endpoint.sources));
            self.relay.tell(to, Told::Joined { id: id.clone() });
            self.relay.tell(to, Told::Sources { id, set });
        }
        for (_, source) in self.sources.iter_mut().filter(|(_, source)| source.kind == MediaKind::Video) {
            if source.crossing.from == Some(peer) {
                source.crossing.told = (i32::MIN, 0); // whatever is wanted is told again
            }
            let owner = self.endpoints.get(index_of(source.owner)).filter(|owner| owner.shard.is_none());
            let Some(owner) = owner else { continue };
            source.crossing.want(peer, 0, 0);
            let (id, name, video_type) = (owner.id.clone(), Some(source.name.clone()), source.video_type);
            self.relay.tell(to, Told::VideoType { id, source: name, video_type });
            self.relay.tell(to, Told::Layers { ssrc: source.primary_ssrc(), layers: source.layers.clone() });
        }
        self.needs_allocation(now);
        if self.is_home() && self.speakers.dominant().is_some() {
            self.tell_speakers(to);
        }
    }

    /// What other shards are to be told, in order. To be carried after each call that changed something.
    pub fn messages(&mut self) -> std::vec::Drain<'_, (Shards, Message)> {
        self.relay.outbox.drain(..)
    }

    /// Takes what another shard tells.
    pub fn handle_message(
        &mut self,
        now: Instant,
        from: Shard,
        message: Message,
        egress: &mut impl Egress,
        out: &mut Vec<Output>,
    ) {
        match message.0 {
            Told::Anew => self.forget_shard(now, from),
            Told::Joined { id } => {
                let spoke = self.relay.recent.contains(&id);
                self.add_relayed(now, from, id);
                if spoke {
                    self.follow_speakers(now, out);
                }
            }
            Told::Left { id } => {
                if let Some((key, _)) = self.relayed(from, &id) {
                    self.remove_endpoint(now, key);
                }
            }
            Told::Sources { id, set } => {
                if let Some((key, _)) = self.relayed(from, &id) {
                    self.set_sources(now, key, &set);
                }
            }
            Told::VideoType { id, source, video_type } => {
                if let Some((_, place)) = self.relayed(from, &id) {
                    self.set_video_type(now, place, source.as_ref(), video_type);
                }
            }
            Told::Layers { ssrc, layers } => {
                let Some(source) = self.source_of(ssrc).filter(|source| source.crossing.from == Some(from)) else {
                    return;
                };
                let before = source.shape();
                source.layers = layers;
                if source.shape() != before {
                    self.needs_allocation(now);
                }
            }
            Told::Wanted { ssrc, max_height, encodings } => {
                if let Some(source) = self.source_of(ssrc).filter(|source| source.crossing.from.is_none()) {
                    source.crossing.want(from, max_height, encodings);
                    self.limit_senders(now, out);
                }
            }
            Told::Keyframes { ssrc, to_start, to_switch, after_loss } => {
                let Some(source) = self.source_of(ssrc).filter(|source| source.crossing.from.is_none()) else {
                    return;
                };
                for encoding in 0..source.encodings.len() {
                    if to_start & (1 << encoding) != 0 {
                        source.keyframes.want_start(encoding);
                    }
                    if to_switch & (1 << encoding) != 0 {
                        source.keyframes.want_switch(encoding);
                    }
                    if after_loss & (1 << encoding) != 0 {
                        // The other shard knows which complaints are older than the last key frame.
                        source.keyframes.want_after_loss(now, encoding, Duration::ZERO);
                    }
                }
                self.ask_senders(now, egress);
            }
            Told::Speakers { recent } => {
                self.relay.recent = recent;
                self.follow_speakers(now, out);
            }
            Told::Text { to, text } => self.pass_on(None, to.as_deref(), &text, out),
            Told::Stats { from: id, text } => {
                if let Some((_, place)) = self.relayed(from, &id) {
                    self.pass_stats_on(place, &text, out);
                }
            }
        }
    }

    /// Takes a packet that another shard copied. Pictures wait for [`Conference::finish_turn`].
    pub fn handle_frame(
        &mut self,
        now: Instant,
        from: Shard,
        frame: &[u8],
        egress: &mut impl Egress,
        out: &mut Vec<Output>,
    ) {
        let taken = match Frame::parse(frame) {
            Some(Frame::Media(media)) => self.take_copy(now, from, &media, egress, out),
            Some(Frame::Report(info)) => {
                let route = self.routes.get(&info.ssrc).copied();
                let source = route.and_then(|route| self.sources.get(route.source));
                let owner = source.filter(|source| source.crossing.from == Some(from)).map(|source| source.owner);
                owner.map(|place| self.pass_sender_report(now, place, info, egress))
            }
            None => None,
        };
        self.counters.crossed += 1;
        self.counters.dropped += u64::from(taken.is_none()); // of somebody who is gone by now
    }

    fn take_copy(
        &mut self,
        now: Instant,
        from: Shard,
        media: &shard::Media<'_>,
        egress: &mut impl Egress,
        out: &mut Vec<Output>,
    ) -> Option<()> {
        let route = self.routes.get(&media.ssrc).copied().filter(|route| !route.rtx)?;
        let source = self.sources.get_mut(route.source).filter(|source| source.crossing.from == Some(from))?;
        let row = profile::payload_type(media.payload_type).filter(|row| row.kind == source.kind)?;
        source.encodings[route.encoding].crossed(now);
        let shard::Media { number, timestamp, marker, level, descriptor, payload, .. } = *media;
        let media = Media { row, number, marker, timestamp, payload, level, descriptor };
        self.flows(now);
        if row.kind == MediaKind::Audio {
            self.hear(now, route, media, egress, out);
        } else {
            self.show(now, route, media);
        }
        Some(())
    }

    /// Copies sound to everybody else's shards; when nobody would hear it, only its level.
    pub(super) fn copy_sound(&mut self, route: Route, media: &Media<'_>, is_loud: bool, egress: &mut impl Egress) {
        if self.relay.peers.is_empty() {
            return;
        }
        let Some(source) = self.sources.get(route.source).filter(|source| source.crossing.from.is_none()) else {
            return;
        };
        let all = self.relay.listening.with(Shards::only(self.relay.home)).without(Shards::only(self.relay.own));
        let heard = if is_loud { all } else { source.crossing.copies[0] };
        self.copy(route, media, heard, egress);
        self.copy(route, &Media { payload: &[], ..*media }, all.without(heard), egress);
    }

    /// Copies a picture to the shards that want its encoding. What does not get through is not repeated: a key frame
    /// is.
    pub(super) fn copy_picture(&mut self, now: Instant, route: Route, media: &Media<'_>, egress: &mut impl Egress) {
        let Some(source) = self.sources.get(route.source) else { return };
        let to = source.crossing.copies.get(route.encoding).copied().unwrap_or_default();
        let is_complete = self.copy(route, media, to, egress);
        if let Some(source) = self.sources.get_mut(route.source).filter(|_| !is_complete) {
            source.keyframes.want_after_loss(now, route.encoding, Duration::ZERO);
        }
    }

    /// Copies one packet; whether everybody got it.
    fn copy(&mut self, route: Route, media: &Media<'_>, to: Shards, egress: &mut impl Egress) -> bool {
        let encoding = self.sources.get(route.source).and_then(|source| source.encodings.get(route.encoding));
        let Some(encoding) = encoding.filter(|_| !to.is_empty()) else { return true };
        let Media { number, marker, timestamp, payload, level, descriptor, .. } = *media;
        let (ssrc, payload_type) = (encoding.ssrc, media.row.number);
        let frame = shard::Media { ssrc, number, timestamp, payload_type, marker, level, descriptor, payload };
        self.send_frame(&Frame::Media(frame), to, egress)
    }

    /// Copies a sender report of an own endpoint on its own stream to everybody who gets that.
    pub(super) fn copy_report(&mut self, place: u32, route: Route, info: SenderInfo, egress: &mut impl Egress) {
        let own = |source: &&Source| source.owner == place && source.crossing.from.is_none();
        let Some(source) = self.sources.get(route.source).filter(own) else { return };
        let to = match source.kind {
            MediaKind::Audio => self.relay.listening.without(Shards::only(self.relay.own)),
            MediaKind::Video => source.crossing.copies.get(route.encoding).copied().unwrap_or_default(),
        };
        if !to.is_empty() {
            self.send_frame(&Frame::Report(info), to, egress);
        }
    }

    fn send_frame(&mut self, frame: &Frame<'_>, to: Shards, egress: &mut impl Egress) -> bool {
        let Some(len) = frame.write(self.id, &mut self.relay.frame[..]) else { return false };
        let lost = egress.frame(to, &self.relay.frame[..len]);
        self.counters.copied += to.without(lost).len();
        self.counters.uncopied += lost.len();
        lost.is_empty()
    }

    /// Sound of which only the level came: whoever gets the source hears a pause, and misses nothing.
    pub(super) fn pause_sound(&mut self, route: Route) {
        let Some(source) = self.sources.get_mut(route.source) else { return };
        source.is_loud = false;
        for Subscription { course, .. } in &mut source.subscriptions {
            if let Course::Audio(course) = course {
                course.pause();
            }
        }
    }

    pub(super) fn is_home(&self) -> bool {
        self.relay.own == self.relay.home
    }

    pub(super) fn tell_all(&mut self, told: Told) {
        self.relay.tell(self.relay.peers, told);
    }

    /// Somebody leaves this shard, or another one did.
    pub(super) fn tell_left(&mut self, place: u32) {
        let Some(endpoint) = self.endpoints.get(index_of(place)) else { return };
        match endpoint.shard {
            Some(shard) => self.relay.count(shard, false),
            None => self.relay.tell(self.relay.peers, Told::Left { id: endpoint.id.clone() }),
        }
    }

    /// An own endpoint sends other things.
    pub(super) fn tell_sources(&mut self, place: u32, set: &SourceSet) {
        let endpoint = self.endpoints.get_mut(index_of(place)).filter(|endpoint| endpoint.shard.is_none());
        let Some(endpoint) = endpoint else { return };
        endpoint.sources = Arc::new(set.clone());
        let (id, set) = (endpoint.id.clone(), Arc::clone(&endpoint.sources));
        self.tell_all(Told::Sources { id, set });
    }

    /// A text for somebody's channel, or everybody's: whoever is elsewhere gets it there.
    pub(super) fn tell_text(&mut self, to: Option<&str>, text: &Arc<str>) {
        let shards = match to {
            None => self.relay.peers,
            Some(to) => {
                let meant = self.endpoints.iter().find(|(_, endpoint)| endpoint.id.as_str() == to);
                meant.and_then(|(_, endpoint)| endpoint.shard).map(Shards::only).unwrap_or_default()
            }
        };
        self.relay.tell(shards, Told::Text { to: to.map(str::to_owned), text: Arc::clone(text) });
    }

    pub(super) fn tell_speakers(&mut self, to: Shards) {
        let recent = self.speakers.recent().to_vec();
        self.relay.tell(to, Told::Speakers { recent });
    }

    /// Tells the shards of others' sources of a kind what is wanted of them here, as far as it changed. Of sound that
    /// is of interest only where not everybody is heard; it costs a look at each listener of each source, so it is for
    /// changes and not for every tick.
    pub(super) fn tell_wanted(&mut self, kind: MediaKind) {
        let Self { sources, endpoints, relay, policy, .. } = self;
        if relay.peers.is_empty() || (kind == MediaKind::Audio && policy.loudest.is_none()) {
            return;
        }
        for (_, source) in sources.iter_mut().filter(|(_, source)| source.kind == kind) {
            let Some(shard) = source.crossing.from else { continue };
            let insists = |(place, endpoint)| wants_sound(source, endpoint, place_of(place)) == Some(true);
            let (max_height, encodings) = match kind {
                MediaKind::Audio => (0, u8::from(endpoints.iter().any(insists))),
                MediaKind::Video => wanted(source),
            };
            if source.crossing.told != (max_height, encodings) {
                source.crossing.told = (max_height, encodings);
                let told = Told::Wanted { ssrc: source.primary_ssrc(), max_height, encodings };
                relay.tell(Shards::only(shard), told);
            }
        }
    }

    /// Tells other shards, from time to time, what is not wanted any more and what layers cost; at once when there are
    /// others than before.
    pub(super) fn keep_shards_informed(&mut self, now: Instant, changed: bool) {
        let is_due = |at: Option<Instant>, every| at.is_none_or(|at| now.saturating_duration_since(at) >= every);
        if self.relay.peers.is_empty() || !(changed || is_due(self.relay.wanted_at, WANTED_EVERY)) {
            return;
        }
        self.relay.wanted_at = Some(now);
        self.tell_wanted(MediaKind::Video);
        if is_due(self.relay.sound_at, SOUND_EVERY) {
            self.relay.sound_at = Some(now);
            self.tell_wanted(MediaKind::Audio);
        }
        let Self { sources, relay, .. } = self;
        for (_, source) in sources.iter_mut().filter(|(_, source)| source.kind == MediaKind::Video) {
            let shape = source.shape();
            let Crossing { from: None, layers_told, .. } = &mut source.crossing else { continue };
            let (told, at) = layers_told.map_or((None, None), |(told, at)| (Some(told), Some(at)));
            let flows = source.layers.iter().any(|layer| layer.bps > 0);
            if told != Some(shape) || (flows && is_due(at, LAYERS_EVERY)) {
                *layers_told = Some((shape, now));
                let layers = source.layers.clone();
                relay.tell(relay.peers, Told::Layers { ssrc: source.primary_ssrc(), layers });
            }
        }
    }

    /// Takes over what the home shard said; when it speaks of people of whom this one will hear only later, then as
    /// soon as it does.
    fn follow_speakers(&mut self, now: Instant, out: &mut Vec<Output>) {
        let is_known = |id: &EndpointId| Some((self.find(id)?.0, id.clone()));
        let known: Vec<(EndpointKey, EndpointId)> = self.relay.recent.iter().filter_map(is_known).collect();
        if known.first().map(|(_, id)| id) != self.relay.recent.first() {
            return;
        }
        if let Some((_, speaker)) = known.first().filter(|_| self.speakers.follow(now, &known)) {
            self.announce_speaker(now, speaker, out);
        }
    }

    /// Somebody is on another shard. Nobody can be on two: the later one counts, but for those who are here.
    fn add_relayed(&mut self, now: Instant, from: Shard, id: EndpointId) {
        if let Some((key, _)) = self.find(&id) {
            if self.endpoint(key).is_some_and(|known| known.shard.is_none()) {
                return; // it is here
            }
            self.remove_endpoint(now, key);
        }
        let key = EndpointKey(RELAYED_KEYS | self.relay.next_key);
        self.relay.next_key = (self.relay.next_key + 1) % RELAYED_KEYS;
        self.start.get_or_insert(now);
        self.next_tick.get_or_insert(now + super::IDLE_TICK);
        // It gets nothing here, whatever it can do.
        let capabilities = Capabilities { audio: false, video: false, ssrc_rewriting: false, ..Capabilities::USUAL };
        let mut endpoint = Endpoint::new(now, key, id, capabilities);
        endpoint.shard = Some(from);
        let place = self.endpoints.insert(endpoint);
        self.places.insert(key, place_of(place));
        self.relay.count(from, true);
    }

    fn forget_shard(&mut self, now: Instant, shard: Shard) {
        let gone = self.endpoints.iter().filter(|(_, endpoint)| endpoint.shard == Some(shard));
        let gone: Vec<EndpointKey> = gone.map(|(_, endpoint)| endpoint.key).collect();
        gone.into_iter().for_each(|key| self.remove_endpoint(now, key));
    }

    fn find(&self, id: &EndpointId) -> Option<(EndpointKey, u32)> {
        let (place, endpoint) = self.endpoints.iter().find(|(_, endpoint)| endpoint.id == *id)?;
        Some((endpoint.key, place_of(place)))
    }

    /// An endpoint of this shard.
    fn relayed(&self, shard: Shard, id: &EndpointId) -> Option<(EndpointKey, u32)> {
        let of_shard = |key| self.endpoint(key).is_some_and(|endpoint| endpoint.shard == Some(shard));
        self.find(id).filter(|(key, _)| of_shard(*key))
    }

    fn endpoint(&self, key: EndpointKey) -> Option<&Endpoint> {
        self.endpoints.get(index_of(*self.places.get(&key)?))
    }

    fn source_of(&mut self, ssrc: u32) -> Option<&mut Source> {
        let route = *self.routes.get(&ssrc)?;
        self.sources.get_mut(route.source)
    }
}

/// What receivers here want of a camera or screen: lines, and one bit for each encoding.
fn wanted(source: &mut Source) -> (i32, u8) {
    let mut encodings = 0;
    for subscription in &source.subscriptions {
        let Course::Video(course) = &subscription.course else { continue };
        let (Some(aim), current) = (course.aimed(), course.current()) else { continue };
        // One that has nothing yet begins with whatever comes first on the way up.
        encodings |= 1 << aim.encoding;
        encodings |= current.map_or((1 << aim.encoding) - 1, |current| 1 << current.encoding);
    }
    (source.wanted_height(), encodings)
}

#[cfg(test)]
mod tests;
