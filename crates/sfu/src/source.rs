//! One source: its encodings as they come in, and its subscriptions as they go out.

use std::time::{Duration, Instant};

use tertulia_model::{GroupSemantics, MediaKind, SourceName, SourceSet, VideoType};
use tertulia_rtp::codec;
use tertulia_rtp::sequence::SeqNo;

use crate::allocation::Layer;
use crate::egress::EndpointKey;
use crate::encoding::Encoding;
use crate::keyframe::KeyframeRequests;
use crate::limit::{SenderLimit, larger};
use crate::shard::Crossing;
use crate::subscription::{Course, ENCODINGS_MAX, Subscription};

/// Lines of the lowest encoding until key frames tell: Jitsi's clients scale 720 lines by 4, 2, 1.
const LOWEST_HEIGHT: u16 = 180;
/// Silent packets in a row that are still forwarded after sound: enough for a receiver's decoder to settle. Of a source that was never
/// heard none are: in a large conference most microphones are on and silent.
const SILENCE_FORWARDED: u32 = 3;

/// Time between two looks at what layers cost.
const LAYERS_EVERY: Duration = Duration::from_millis(200);
/// Time between two looks at who watches which encoding.
const REST_EVERY: Duration = Duration::from_millis(500);

/// A named source.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its owner's place in the conference.
    pub(crate) owner: u32,
    pub(crate) owner_key: EndpointKey,
    /// Counts the sources of the conference, from 1; 0 until it is in one.
    pub(crate) serial: u32,
    pub(crate) name: SourceName,
    pub(crate) kind: MediaKind,
    pub(crate) video_type: VideoType,
    /// Lowest first.
    pub(crate) encodings: Vec<Encoding>,
    /// Who gets it at the moment, by receiver.
    pub(crate) subscriptions: Vec<Subscription>,
    /// What receivers may get, lowest first; pictures only.
    pub(crate) layers: Vec<Layer>,
    pub(crate) keyframes: KeyframeRequests,
    /// Packets of this turn that are still to be sent on: (encoding, number).
    pub(crate) pending: Vec<(u8, SeqNo)>,
    /// The limits of all receivers, by place: lines, −1 none, 0 off. Missing is 0.
    wishes: Vec<i32>,
    /// The largest of them; `None` when it has to be looked for again.
    wanted: Option<i32>,
    /// What its owner was told of them.
    pub(crate) limit: SenderLimit,
    /// Whether a subscription may be waiting for a key frame.
    pub(crate) is_awaited: bool,
    /// Whether somebody who wants this sound may not be subscribed yet: the next packet brings it.
    pub(crate) has_new_listener: bool,
    /// Whether somebody with few SSRCs lost it to another sound: it comes back after a pause, not with the next packet, or more of them than
    /// there are SSRCs would take them from each other all the time.
    pub(crate) gave_way: bool,
    /// Whether its last packet of sound was among the loudest.
    pub(crate) is_loud: bool,
    pub(crate) last_packet: Option<Instant>,
    /// Whether nobody is sent its sound, because it is not among the loudest. A subscription that begins or changes ends that.
    pub(crate) is_unheard: bool,
    pub(crate) crossing: Crossing,
    layers_at: Option<Instant>,
    rested_at: Option<Instant>,
    silent: u32,
}

impl Source {
    /// The sources of a set, one per name. RTX streams belong to the encodings they repair.
    pub(crate) fn all_of(owner: u32, owner_key: EndpointKey, set: &SourceSet) -> Vec<Self> {
        let is_rtx = |ssrc| {
            set.groups.iter().any(|group| group.semantics == GroupSemantics::Fid && group.ssrcs.get(1) == Some(&ssrc))
        };
        let mut all: Vec<Self> = Vec::new();
        for source in set.sources.iter().filter(|source| !is_rtx(source.ssrc)) {
            let encoding = Encoding::new(source.ssrc.0, set.rtx_of(source.ssrc).map(|rtx| rtx.0));
            match all.iter_mut().find(|known| known.name == source.name && known.kind == source.kind) {
                Some(known) => known.encodings.push(encoding),
                None => all.push(Self {
                    owner,
                    owner_key,
                    serial: 0,
                    name: source.name.clone(),
                    kind: source.kind,
                    video_type: source.video_type,
                    encodings: vec![encoding],
                    subscriptions: Vec::new(),
                    layers: Vec::new(),
                    keyframes: KeyframeRequests::default(),
                    pending: Vec::new(),
                    wishes: Vec::new(),
                    wanted: Some(0),
                    limit: SenderLimit::default(),
                    is_awaited: false,
                    has_new_listener: false,
                    gave_way: false,
                    is_loud: false,
                    last_packet: None,
                    is_unheard: false,
                    crossing: Crossing::default(),
                    layers_at: None,
                    rested_at: None,
                    silent: SILENCE_FORWARDED,
                }),
            }
        }
        for source in &mut all {
            source.order_by(set);
        }
        all
    }

    /// What receivers know it by.
    pub(crate) fn primary_ssrc(&self) -> u32 {
        self.encodings[0].ssrc
    }

    /// What receivers know its retransmissions by.
    pub(crate) fn primary_rtx(&self) -> Option<u32> {
        self.encodings[0].rtx_ssrc
    }

    /// Whether the streams are the same, so that they go on through a change of the set.
    pub(crate) fn has_streams_of(&self, other: &Self) -> bool {
        let streams = |source: &Self| source.encodings.iter().map(|e| (e.ssrc, e.rtx_ssrc)).collect::<Vec<_>>();
        self.name == other.name && self.kind == other.kind && streams(self) == streams(other)
    }

    /// Whether its sender sends pictures or sound, as far as it said.
    pub(crate) fn is_enabled(&self) -> bool {
        self.kind == MediaKind::Audio || self.video_type != VideoType::None
    }

    /// The subscription of a receiver.
    pub(crate) fn subscription(&mut self, receiver: u32) -> Option<&mut Subscription> {
        let at = subscription_at(&self.subscriptions, receiver)?;
        self.subscriptions.get_mut(at)
    }

    /// Whether a receiver gets it at the moment.
    pub(crate) fn is_subscribed(&self, receiver: u32) -> bool {
        subscription_at(&self.subscriptions, receiver).is_some()
    }

    /// Adds one; there must be none of this receiver.
    pub(crate) fn subscribe(&mut self, subscription: Subscription) {
        self.is_unheard = false;
        let place = self.subscriptions.partition_point(|s| s.receiver < subscription.receiver);
        if self.subscriptions.len() == self.subscriptions.capacity() {
            // Everybody hears everybody: to twice of what it was would be too much.
            self.subscriptions.reserve_exact(2 + self.subscriptions.len() / 8);
        }
        self.subscriptions.insert(place, subscription);
    }

    /// Removes one.
    pub(crate) fn unsubscribe(&mut self, receiver: u32) -> Option<Subscription> {
        let at = subscription_at(&self.subscriptions, receiver)?;
        Some(self.subscriptions.remove(at))
    }

    /// Notes a receiver's limit.
    pub(crate) fn wish(&mut self, receiver: u32, max_height: i32) {
        let before = self.wish_of(receiver);
        if before == max_height {
            return;
        }
        let place = usize::try_from(receiver).unwrap_or(usize::MAX);
        if place >= self.wishes.len() {
            self.wishes.resize(place + 1, 0);
        }
        self.wishes[place] = max_height;
        self.wanted = match self.wanted {
            Some(wanted) if larger(wanted, max_height) == max_height => Some(max_height),
            // Whoever wanted most wants less: somebody else may want as much.
            Some(wanted) if wanted == before => None,
            wanted => wanted,
        };
    }

    /// A receiver's limit.
    pub(crate) fn wish_of(&self, receiver: u32) -> i32 {
        usize::try_from(receiver).ok().and_then(|place| self.wishes.get(place)).copied().unwrap_or(0)
    }

    /// The largest limit of all receivers, those of other shards included.
    pub(crate) fn wanted_height(&mut self) -> i32 {
        let wishes = &self.wishes;
        let here = *self.wanted.get_or_insert_with(|| wishes.iter().copied().fold(0, larger));
        self.crossing.heights.iter().map(|(_, height)| *height).fold(here, larger)
    }

    /// Looks again at what layers there are and what they cost; `true` when there are others than before.
    pub(crate) fn refresh_layers(&mut self, now: Instant) -> bool {
        if self.layers_at.is_some_and(|at| now.saturating_duration_since(at) < LAYERS_EVERY) {
            return false;
        }
        self.layers_at = Some(now);
        let before = shape(&self.layers);
        let is_measured = self.encodings.iter_mut().any(|stream| stream.rates.costs(now).next().is_some());
        if !is_measured && !self.layers.is_empty() && self.encodings.iter().any(|stream| stream.is_active(now)) {
            return false; // The next frame is late: what is known of the last ones says more than a guess.
        }
        self.layers.clear();
        for (index, stream) in self.encodings.iter_mut().enumerate() {
            let whole = stream.height.unwrap_or(LOWEST_HEIGHT << index.min(6));
            let Encoding { inspector, rates, .. } = stream;
            let top = rates.costs(now).map(|cost| cost.layer.spatial()).max().unwrap_or(0);
            for cost in rates.costs(now) {
                let declared = inspector.layers().find(|declared| declared.layer == cost.layer);
                let guessed = whole >> (top - cost.layer.spatial()).min(6);
                self.layers.push(Layer {
                    encoding: u8::try_from(index).unwrap_or(u8::MAX),
                    layer: cost.layer.index(),
                    height: declared.and_then(|declared| declared.height).unwrap_or(guessed),
                    fps: f32::from(cost.frames_per_second),
                    bps: cost.bps,
                });
            }
        }
        if self.layers.is_empty() {
            self.layers.extend(self.encodings.iter().enumerate().map(|(index, stream)| Layer {
                encoding: u8::try_from(index).unwrap_or(u8::MAX),
                layer: codec::Layer::HIGHEST.index(),
                height: stream.height.unwrap_or(LOWEST_HEIGHT << index.min(6)),
                fps: 30.0,
                bps: 0,
            }));
        }
        shape(&self.layers) != before
    }

    /// Gives up, from time to time, the memory of encodings that nobody watches, and what others do not need. Packets are worth keeping for
    /// `keep`.
    pub(crate) fn rest(&mut self, now: Instant, keep: Duration) {
        if self.rested_at.is_some_and(|at| now.saturating_duration_since(at) < REST_EVERY) {
            return;
        }
        self.rested_at = Some(now);
        for (encoding, stream) in (0..).zip(&mut self.encodings) {
            let watches = |s: &Subscription| matches!(&s.course, Course::Video(course) if course.watches(encoding));
            stream.watched(now, self.subscriptions.iter().any(watches));
            stream.rest(now, keep);
        }
    }

    /// Tells sets of layers apart, whatever they cost.
    pub(crate) fn shape(&self) -> u64 {
        shape(&self.layers)
    }

    /// Counts silent packets in a row; `true` when this one is not worth forwarding.
    pub(crate) fn is_lasting_silence(&mut self, silent: bool) -> bool {
        self.silent = if silent { self.silent.saturating_add(1) } else { 0 };
        self.silent > SILENCE_FORWARDED
    }

    /// SIM groups list encodings lowest first, whatever the order of sources. Nobody sends more than [`ENCODINGS_MAX`].
    fn order_by(&mut self, set: &SourceSet) {
        let sims = set.groups.iter().filter(|group| group.semantics == GroupSemantics::Sim);
        let mut place = sims.flat_map(|group| &group.ssrcs).map(|ssrc| ssrc.0);
        if let Some(order) = Some(place.by_ref().collect::<Vec<u32>>()).filter(|order| !order.is_empty()) {
            self.encodings.sort_by_key(|e| order.iter().position(|ssrc| *ssrc == e.ssrc).unwrap_or(usize::MAX));
        }
        self.encodings.truncate(ENCODINGS_MAX);
        self.encodings.shrink_to_fit();
    }
}

/// Where a receiver's subscription is among a source's.
pub(crate) fn subscription_at(subscriptions: &[Subscription], receiver: u32) -> Option<usize> {
    subscriptions.binary_search_by_key(&receiver, |s| s.receiver).ok()
}

/// Which layers there are, whatever they cost.
fn shape(layers: &[Layer]) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = rustc_hash::FxHasher::default();
    layers.iter().for_each(|layer| (layer.encoding, layer.layer, layer.height).hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tertulia_model::{Source as Signalled, SourceGroup, Ssrc};

    pub(crate) fn camera() -> Source {
        let signalled = |ssrc| Signalled {
            ssrc: Ssrc(ssrc),
            kind: MediaKind::Video,
            name: SourceName::parse("a-v0").unwrap(),
            msid: None,
            video_type: VideoType::Camera,
        };
        let group = |semantics, ssrcs: &[u32]| SourceGroup {
            semantics,
            kind: MediaKind::Video,
            ssrcs: ssrcs.iter().map(|s| Ssrc(*s)).collect(),
        };
        let set = SourceSet {
            sources: [3, 13, 1, 11, 2, 12].into_iter().map(signalled).collect(),
            groups: vec![
                group(GroupSemantics::Sim, &[1, 2, 3]),
                group(GroupSemantics::Fid, &[1, 11]),
                group(GroupSemantics::Fid, &[2, 12]),
                group(GroupSemantics::Fid, &[3, 13]),
            ],
        };
        Source::all_of(0, EndpointKey(0), &set).pop().unwrap()
    }

    #[test]
    fn encodings_are_ordered_by_the_group_and_know_their_retransmissions() {
        let camera = camera();
        let streams: Vec<_> = camera.encodings.iter().map(|e| (e.ssrc, e.rtx_ssrc)).collect();
        assert_eq!(streams, [(1, Some(11)), (2, Some(12)), (3, Some(13))]);
        assert_eq!((camera.primary_ssrc(), camera.primary_rtx()), (1, Some(11)));
    }

    #[test]
    fn layers_are_what_comes_and_guesses_before_anything_does() {
        let now = Instant::now();
        let mut camera = camera();
        assert!(camera.refresh_layers(now));
        assert_eq!(camera.layers.iter().map(|layer| layer.height).collect::<Vec<_>>(), [180, 360, 720]);
        let later = now + LAYERS_EVERY;
        camera.encodings[1].height = Some(240);
        camera.encodings[1].rates.count(later, &codec::FrameInfo::default(), 1_000);
        assert!(camera.refresh_layers(later));
        assert_eq!(camera.layers.iter().map(|layer| (layer.encoding, layer.height)).collect::<Vec<_>>(), [(1, 240)]);
        assert!(!camera.refresh_layers(later + LAYERS_EVERY), "they cost less, but they are the same");
    }

    #[test]
    fn a_sender_is_asked_for_what_the_most_demanding_receiver_wants() {
        let mut camera = camera();
        assert_eq!(camera.wanted_height(), 0);
        camera.wish(4, 180);
        camera.wish(1, 360);
        assert_eq!(camera.wanted_height(), 360);
        camera.wish(9, -1);
        assert_eq!(camera.wanted_height(), -1);
        camera.wish(9, 0);
        assert_eq!(camera.wanted_height(), 360);
        camera.wish(2, 360);
        camera.wish(1, 0);
        assert_eq!(camera.wanted_height(), 360, "somebody else wants as much");
        camera.wish(2, 90);
        camera.wish(3, 200);
        assert_eq!((camera.wanted_height(), camera.wish_of(3), camera.wish_of(70)), (200, 200, 0));
    }

    #[test]
    fn a_screen_that_comes_to_rest_keeps_its_layers_until_its_first_late_frame() {
        let (mut source, start) = (camera(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let frame = codec::FrameInfo { starts_frame: true, ends_frame: true, ..codec::FrameInfo::default() };
        for ms in (0..=2_000).step_by(40) {
            source.encodings[0].crossed(at(ms));
            source.encodings[0].rates.count(at(ms), &frame, 1_000);
        }
        assert!(source.refresh_layers(at(2_000)));
        let shape = source.shape();
        assert!(!source.refresh_layers(at(3_200)) && source.shape() == shape, "1.2 s without a frame");
        assert!(source.refresh_layers(at(3_600)), "it has stopped");
    }
}
