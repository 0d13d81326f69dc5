//! Decisions: who gets which sources at which layers, under which SSRCs, and who is told of it.

use std::time::Instant;

use tertulia_model::{EndpointId, MediaKind, SourceName};
use tertulia_rtp::codec::Layer;

use super::{Conference, index_of, place_of};
use crate::allocation::{self, Allocation, Candidate, Request, allocate};
use crate::channel::{self, AudioSlot, VideoSlot};
use crate::egress::Output;
use crate::endpoint::Endpoint;
use crate::limit::Change;
use crate::source::{Source, subscription_at};
use crate::stream::SLOTS_MAX;
use crate::subscription::{Aim, AudioCourse, Course, Subscription, VideoCourse};

/// Decisions on one source for one receiver in one tick, which takes some 10 ms. Packets wait meanwhile: a thousand receivers of a
/// thousand cameras at once would keep them for a fifth of a second, at each join, leave and change of speaker.
const DECISIONS_PER_TICK: usize = 50_000;
/// What costs more than this part of what a path takes, while its queue drains, cannot go on there until its successor has come.
const OUT_OF_REACH_PERCENT: u64 = 125;

impl Conference {
    /// Something changed for everybody: the next tick, which is brought forward, decides anew.
    pub(super) fn needs_allocation(&mut self, now: Instant) {
        for (_, endpoint) in &mut self.endpoints {
            endpoint.needs_allocation = true;
        }
        self.allocation_due = true;
        self.next_tick = self.next_tick.map(|at| at.min(now + super::TICK / 2));
    }

    /// Decides anew for everybody who needs it, or for as many as one tick has time for, and tells senders what is wanted of them.
    pub(super) fn allocate_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !std::mem::take(&mut self.allocation_due) {
            return;
        }
        let from = self.unallocated.take().unwrap_or(0);
        let due = self.endpoints.iter().filter(|(_, endpoint)| endpoint.needs_allocation && endpoint.connected);
        let mut due: Vec<usize> = due.map(|(place, _)| place).collect();
        if due.is_empty() {
            return;
        }
        let next = due.partition_point(|place| *place < from);
        due.rotate_left(next);
        let places = (DECISIONS_PER_TICK / self.sources.len().max(1)).max(1);
        self.unallocated = due.get(places).copied();
        self.allocation_due = self.unallocated.is_some();
        for place in due.into_iter().take(places) {
            self.allocate_for(now, place_of(place), out);
        }
        self.limit_senders(now, out);
    }

    /// Decides anew for one receiver.
    pub(super) fn allocate_for(&mut self, now: Instant, place: u32, out: &mut Vec<Output>) {
        let limits = [self.policy.last_n, self.policy.last_n_of(self.endpoints.len()), self.last_n_under_load];
        let Self { sources, endpoints, speakers, .. } = self;
        let Some(endpoint) = endpoints.get_mut(index_of(place)).filter(|endpoint| endpoint.connected) else { return };
        let mut allocation = std::mem::take(&mut self.allocation);
        let mut history = std::mem::take(&mut endpoint.history);
        let endpoint = &*endpoint;
        let shown = |kind, owner| kind == MediaKind::Video && owner != place && endpoint.capabilities.video;
        let sources = sources.iter().filter(|(_, source)| shown(source.kind, source.owner));
        // About as many as the receiver before had.
        let mut candidates: Vec<Candidate<'_>> = Vec::with_capacity(allocation.decisions.len());
        candidates.extend(sources.map(|(index, source)| Candidate {
            source: index,
            serial: source.serial,
            name: &source.name,
            speech_rank: speakers.rank(source.owner_key),
            enabled: source.is_enabled(),
            video_type: source.video_type,
            layers: &source.layers,
        }));
        // With few SSRCs there are so many places and no more.
        let slots = endpoint.streams.is_rewriting().then(|| u32::try_from(SLOTS_MAX).unwrap_or(u32::MAX));
        let request = Request {
            constraints: &endpoint.constraints,
            available_bps: endpoint.path.available_bps(),
            last_n_max: limits.into_iter().flatten().chain(slots).min(),
            candidates: &candidates,
        };
        allocate(now, &request, &mut history, &mut allocation);
        let endpoint = &mut self.endpoints[index_of(place)];
        endpoint.history = history;
        (endpoint.ideal_bps, endpoint.allocated_bps) = (allocation.ideal_bps, allocation.allocated_bps);
        endpoint.path.allocated(now);
        endpoint.needs_allocation = false;
        self.follow(now, place, &allocation, out);
        self.allocation = allocation;
    }

    /// Makes subscriptions what was decided.
    fn follow(&mut self, now: Instant, place: u32, allocation: &Allocation, out: &mut Vec<Output>) {
        let mut announced = false;
        // Where nothing waits on the way, losses are what makes the path narrow, and a smaller layer of the same picture is worth its bits.
        let queueing = self.endpoints.get(index_of(place)).filter(|endpoint| endpoint.path.estimator.has_queue());
        let narrow_bps = queueing.and_then(|endpoint| endpoint.path.available_bps());
        // First what ends, so that its SSRCs are free for what begins.
        let ending = allocation.decisions.iter().filter(|decision| decision.target.is_none());
        for decision in ending.chain(allocation.granted()) {
            let Some(source) = self.sources.get_mut(decision.source) else { continue };
            if decision.max_height == 0 && source.wish_of(place) == 0 {
                continue; // most of a large conference: not wanted before either, so there is nothing to end
            }
            source.wish(place, decision.max_height);
            let aim = decision.target.and_then(|index| source.layers.get(index)).map(|layer| Aim {
                encoding: layer.encoding,
                layer: Layer::new(layer.layer / Layer::TEMPORAL, layer.layer % Layer::TEMPORAL),
            });
            let Some(aim) = aim else {
                if let Some(ended) = source.unsubscribe(place) {
                    self.endpoints[index_of(place)].streams.park(now, ended.stream);
                }
                continue;
            };
            if source.subscription(place).is_none() {
                announced |= self.subscribe_video(now, decision.source, place);
            }
            let Source { subscriptions, encodings, layers, is_awaited, .. } = &mut self.sources[decision.source];
            if let Some(at) = subscription_at(subscriptions, place)
                && let Some((course, stream)) = subscriptions[at].video()
            {
                course.aim(now, Some(aim));
                let watched = (0..).zip(encodings.iter_mut()).filter(|(encoding, _)| course.watches(*encoding));
                watched.for_each(|(_, stream)| stream.watched(now, true));
                let is_active = encodings.get(usize::from(aim.encoding)).is_some_and(|aimed| aimed.is_active(now));
                let is_too_much = |current| is_out_of_reach(current, aim, layers, narrow_bps);
                if is_active && course.current().is_some_and(is_too_much) {
                    course.halt();
                    self.endpoints[index_of(place)].path.queue.retain(|queued| queued.ssrc != stream.ssrc);
                }
                *is_awaited |= course.is_on_the_way();
            }
        }
        if announced {
            self.announce(place, MediaKind::Video, out);
        }
        if self.sources.iter().any(|(_, source)| source.is_awaited) {
            self.next_tick = self.next_tick.map(|at| at.min(now + super::TICK));
        }
        self.tell_forwarded(place, allocation, out);
    }

    /// A video subscription that aims at nothing yet; whether the receiver's map of SSRCs changed.
    fn subscribe_video(&mut self, now: Instant, index: usize, place: u32) -> bool {
        let Self { sources, endpoints, random, .. } = self;
        let Some((source, endpoint)) = sources.get_mut(index).zip(endpoints.get_mut(index_of(place))) else {
            return false;
        };
        let own = (source.primary_ssrc(), source.primary_rtx());
        let Some(taken) = endpoint.streams.take(now, MediaKind::Video, index, own, || random.next()) else {
            return false;
        };
        // The same source under the same SSRC as before, or one after the other.
        let course = if taken.announce { VideoCourse::default() } else { VideoCourse::resuming(&taken.stream) };
        let course = Course::Video(Box::new(course));
        source.subscribe(Subscription { receiver: place, stream: taken.stream, course });
        taken.announce
    }

    /// Whoever wants a source's sound gets it from its next packet on: see [`Conference::wake_audio`]. Most microphones of a large conference
    /// are silent, and to keep a subscription of everybody to everybody would be most of what a receiver costs.
    pub(super) fn subscribe_audio(&mut self, now: Instant, index: usize, place: u32) {
        let Self { sources, endpoints, .. } = self;
        let Some((source, endpoint)) = sources.get_mut(index).zip(endpoints.get_mut(index_of(place))) else { return };
        source.is_unheard = false;
        let Some(always) = wants_sound(source, endpoint, place) else {
            if let Some(ended) = source.unsubscribe(place) {
                endpoint.streams.park(now, ended.stream);
            }
            return;
        };
        match source.subscription(place) {
            Some(Subscription { course: Course::Audio(course), .. }) => course.always = always,
            Some(_) => {}
            None => source.has_new_listener = true,
        }
    }

    /// A source is heard for the first time or again, or by somebody else: whoever wants its sound and does not get it is subscribed.
    /// Receivers with few SSRCs take one from the source that was silent for longest if none is free.
    pub(super) fn wake_audio(&mut self, now: Instant, index: usize, out: &mut Vec<Output>) {
        let source = &self.sources[index];
        let lacks = |(place, endpoint): (usize, &Endpoint)| {
            let (place, is_loud) = (place_of(place), source.is_loud);
            let always = wants_sound(source, endpoint, place).filter(|always| *always || is_loud)?;
            (!source.is_subscribed(place)).then_some((place, always))
        };
        let lacking: Vec<(u32, bool)> = self.endpoints.iter().filter_map(lacks).collect(); // allocates only when there is one
        for (place, always) in lacking {
            if !self.endpoints[index_of(place)].streams.has_free(MediaKind::Audio) {
                self.silence_one(now, place);
            }
            let Self { sources, endpoints, random, .. } = self;
            let source = &mut sources[index];
            let own = (source.primary_ssrc(), None);
            let streams = &mut endpoints[index_of(place)].streams;
            let Some(taken) = streams.take(now, MediaKind::Audio, index, own, || random.next()) else { continue };
            let course = Course::Audio(AudioCourse::new(always));
            source.subscribe(Subscription { receiver: place, stream: taken.stream, course });
            if taken.announce {
                self.announce(place, MediaKind::Audio, out);
            }
        }
    }

    /// Ends the subscription of a receiver to the source whose sound is longest ago.
    fn silence_one(&mut self, now: Instant, place: u32) {
        let audible = self.sources.iter_mut().filter(|(_, source)| source.kind == MediaKind::Audio);
        let mut audible = audible.filter_map(|(_, source)| source.subscription(place).is_some().then_some(source));
        let first = audible.next();
        let Some(longest) = audible.fold(first, |oldest, source| match oldest {
            Some(oldest) if oldest.last_packet <= source.last_packet => Some(oldest),
            _ => Some(source),
        }) else {
            return;
        };
        longest.gave_way = true;
        if let Some(ended) = longest.unsubscribe(place) {
            self.endpoints[index_of(place)].streams.park(now, ended.stream);
        }
    }

    /// Tells a receiver what all its SSRCs carry: a new channel starts empty.
    pub(super) fn announce_slots(&self, place: u32, out: &mut Vec<Output>) {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            self.announce(place, kind, out);
        }
    }

    fn announce(&self, place: u32, kind: MediaKind, out: &mut Vec<Output>) {
        let Some(endpoint) = self.endpoints.get(index_of(place)).filter(|endpoint| endpoint.channel_open) else {
            return;
        };
        let carried = endpoint.streams.slots(kind).iter().filter_map(|slot| {
            let source = self.sources.get(slot.source?)?;
            Some((slot, source, &self.endpoints.get(index_of(source.owner))?.id))
        });
        let text = match kind {
            MediaKind::Audio => {
                let slots = carried.map(|(slot, Source { name: source, .. }, owner)| AudioSlot {
                    source,
                    owner,
                    ssrc: slot.ssrc,
                    mid: None,
                });
                channel::audio_sources_map(&slots.collect::<Vec<_>>())
            }
            MediaKind::Video => {
                let slots = carried.map(|(slot, Source { name: source, video_type, .. }, owner)| VideoSlot {
                    source,
                    owner,
                    ssrc: slot.ssrc,
                    rtx: slot.rtx_ssrc,
                    video_type: *video_type,
                    mid: None,
                });
                channel::video_sources_map(&slots.collect::<Vec<_>>())
            }
        };
        if endpoint.streams.slots(kind).iter().any(|slot| slot.source.is_some()) {
            out.push(Output::Channel { to: endpoint.key, text });
        }
    }

    /// Tells a receiver which sources it gets, in the order of the decisions, unless it knows. Of those that were granted those are left
    /// out for which it has no SSRC.
    fn tell_forwarded(&mut self, place: u32, allocation: &Allocation, out: &mut Vec<Output>) {
        let Some(endpoint) = self.endpoints.get(index_of(place)).filter(|endpoint| endpoint.channel_open) else {
            return;
        };
        let sources = || {
            let granted = allocation.granted().filter_map(|decision| self.sources.get(decision.source));
            granted.filter(|source| source.is_subscribed(place))
        };
        if endpoint.forwarded.as_ref().is_some_and(|told| told.iter().eq(sources().map(|source| &source.name))) {
            return;
        }
        let names: Vec<SourceName> = sources().map(|source| source.name.clone()).collect();
        out.push(Output::Channel { to: endpoint.key, text: channel::forwarded_sources(&names) });
        if !endpoint.capabilities.source_names {
            let owner = |source: &Source| Some(self.endpoints.get(index_of(source.owner))?.id.clone());
            let mut owners: Vec<EndpointId> = sources().filter_map(owner).collect();
            owners.dedup();
            out.push(Output::Channel { to: endpoint.key, text: channel::last_n_endpoints(&owners) });
        }
        self.endpoints[index_of(place)].forwarded = Some(names);
    }

    /// Tells each sender how large anybody wants its sources, so that it can switch layers off.
    pub(super) fn limit_senders(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.tell_wanted(MediaKind::Video);
        self.limits_due = None;
        let Self { sources, endpoints, limits_due, .. } = self;
        for (_, source) in sources.iter_mut().filter(|(_, source)| source.kind == MediaKind::Video) {
            let owner = endpoints.get(index_of(source.owner)).filter(|owner| owner.channel_open);
            let (Some(owner), wanted) = (owner, source.wanted_height()) else { continue };
            match source.limit.change(now, wanted) {
                Change::None => {}
                Change::At(at) => *limits_due = Some(limits_due.map_or(at, |due| due.min(at))),
                Change::Now => {
                    let text = channel::sender_source_constraints(&source.name, wanted);
                    out.push(Output::Channel { to: owner.key, text });
                    if !owner.capabilities.source_names {
                        out.push(Output::Channel { to: owner.key, text: channel::sender_video_constraints(wanted) });
                    }
                }
            }
        }
    }
}

/// Whether what goes out must end before what comes in its place is there: its smallest layer alone is much more than the path takes while its
/// queue drains. It would fill that queue, which the key frame has to pass, and arrive in pieces.
fn is_out_of_reach(current: Aim, aim: Aim, layers: &[allocation::Layer], narrow_bps: Option<u64>) -> bool {
    let own = layers.iter().filter(|layer| layer.encoding == current.encoding);
    let least = own.map(|layer| layer.bps).min();
    aim.encoding < current.encoding
        && least.zip(narrow_bps).is_some_and(|(least, narrow)| least > narrow / 100 * OUT_OF_REACH_PERCENT)
}

/// Whether an endpoint is to get a source's sound, and then whether also when that is not among the loudest.
pub(super) fn wants_sound(source: &Source, endpoint: &Endpoint, place: u32) -> Option<bool> {
    let may = source.owner != place && endpoint.connected && endpoint.capabilities.audio;
    endpoint.hears(&source.name).filter(|_| may)
}
