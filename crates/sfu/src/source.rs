//! One source: its encodings as they come in, and its subscriptions as they go out.

use std::time::Instant;

use tertulia_model::{GroupSemantics, MediaKind, SourceName, SourceSet, VideoType};

use crate::egress::EndpointKey;
use crate::encoding::Encoding;
use crate::subscription::Subscription;

/// Lines of the lowest encoding until key frames tell: Jitsi's clients scale 720 lines by 4, 2, 1.
const LOWEST_HEIGHT: u16 = 180;
/// Silent packets in a row that are still forwarded: enough for a receiver's decoder to settle.
const SILENCE_FORWARDED: u32 = 3;

/// A named source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) owner: EndpointKey,
    pub(crate) name: SourceName,
    pub(crate) kind: MediaKind,
    pub(crate) video_type: VideoType,
    /// Lowest first.
    pub(crate) encodings: Vec<Encoding>,
    pub(crate) subscriptions: Vec<Subscription>,
    /// The limit its owner was told last.
    pub(crate) told_max_height: Option<i32>,
    active: u8,
    silent: u32,
}

impl Source {
    /// The sources of a set, one per name. RTX streams belong to the encodings they repair.
    pub(crate) fn all_of(owner: EndpointKey, set: &SourceSet) -> Vec<Self> {
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
                    name: source.name.clone(),
                    kind: source.kind,
                    video_type: source.video_type,
                    encodings: vec![encoding],
                    subscriptions: Vec::new(),
                    told_max_height: None,
                    active: 0,
                    silent: 0,
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

    /// Refreshes which encodings are being sent; `true` when that changed.
    pub(crate) fn refresh_active(&mut self, now: Instant) -> bool {
        let bits = self.encodings.iter().enumerate().filter(|(_, encoding)| encoding.is_active(now));
        let active = bits.fold(0, |bits, (index, _)| bits | (1 << index));
        std::mem::replace(&mut self.active, active) != active
    }

    /// The highest encoding that fits the limit, of those being sent; the lowest of them when none fits.
    pub(crate) fn select(&self, max_height: i32) -> Option<usize> {
        if max_height == 0 {
            return None;
        }
        let sent = |index: &usize| self.active == 0 || self.active & (1 << index) != 0;
        let fits = |index: &usize| max_height < 0 || i32::from(self.height(*index)) <= max_height;
        let all = 0..self.encodings.len();
        all.clone().rev().find(|index| sent(index) && fits(index)).or_else(|| all.clone().find(sent))
    }

    /// Counts silent packets in a row; `true` when this one is not worth forwarding.
    pub(crate) fn is_lasting_silence(&mut self, silent: bool) -> bool {
        self.silent = if silent { self.silent.saturating_add(1) } else { 0 };
        self.silent > SILENCE_FORWARDED
    }

    fn height(&self, index: usize) -> u16 {
        self.encodings[index].height.unwrap_or(LOWEST_HEIGHT << index.min(6))
    }

    /// SIM groups list encodings lowest first, whatever the order of sources. At most 8 count: nobody sends more.
    fn order_by(&mut self, set: &SourceSet) {
        let sims = set.groups.iter().filter(|group| group.semantics == GroupSemantics::Sim);
        let mut place = sims.flat_map(|group| &group.ssrcs).map(|ssrc| ssrc.0);
        if let Some(order) = Some(place.by_ref().collect::<Vec<u32>>()).filter(|order| !order.is_empty()) {
            self.encodings.sort_by_key(|e| order.iter().position(|ssrc| *ssrc == e.ssrc).unwrap_or(usize::MAX));
        }
        self.encodings.truncate(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
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
        Source::all_of(EndpointKey(0), &set).pop().unwrap()
    }

    #[test]
    fn encodings_are_ordered_by_the_group_and_know_their_retransmissions() {
        let camera = camera();
        let streams: Vec<_> = camera.encodings.iter().map(|e| (e.ssrc, e.rtx_ssrc)).collect();
        assert_eq!(streams, [(1, Some(11)), (2, Some(12)), (3, Some(13))]);
        assert_eq!((camera.primary_ssrc(), camera.primary_rtx()), (1, Some(11)));
    }

    #[test]
    fn the_highest_encoding_that_fits_is_chosen_among_those_being_sent() {
        let now = Instant::now();
        let mut camera = camera();
        for (limit, choice) in
            [(0, None), (100, Some(0)), (180, Some(0)), (360, Some(1)), (719, Some(1)), (-1, Some(2))]
        {
            assert_eq!(camera.select(limit), choice, "{limit}");
        }
        camera.encodings[1].arrive(now, 1, 0, 90_000, false);
        assert!(camera.refresh_active(now));
        assert_eq!((camera.select(-1), camera.select(180)), (Some(1), Some(1)));
        camera.encodings[1].height = Some(240);
        assert_eq!(camera.select(240), Some(1));
        assert!(camera.refresh_active(now + Duration::from_secs(2)));
        assert_eq!(camera.select(-1), Some(2), "nothing is sent: what would be best");
    }
}
