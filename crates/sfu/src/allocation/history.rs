//! What one receiver had before: its wishes resolved per source, and when each source went up or down, so that a
//! wobbling estimate does not make pictures change back and forth.

use std::time::{Duration, Instant};

use slab::Slab;
use tertulia_model::SourceName;

use super::Candidate;
use super::menu::{Layer, Menu};
use crate::constraints::{Constraints, Limit};

/// A source goes up no sooner after its last change: each change of size costs its sender a key frame, and shows.
const RISE_GAP: Duration = Duration::from_secs(2);
/// What a receiver asked for may come in steps for so long, each as soon as it is offered: senders switch off what nobody watches, and
/// begin it layer by layer.
const OFFER_PATIENCE: Duration = Duration::from_secs(2);
/// Bandwidth that has to be there beyond what going up costs, in percent of that.
const HEADROOM: u64 = 110;
/// The same when anything had to come down lately, because what is left over tempts the next source just as well. An
/// estimate that wobbles by a tenth either way is at most 1.22 times what it was: it cannot bring a source down and up
/// again.
const HEADROOM_AFTER_FALL: u64 = 125;
/// How long a fall counts as late; twice as long for each more that came within [`FALLS_COUNTED`], up to [`FALLS_MAX`].
const FALL_REMEMBERED: Duration = Duration::from_secs(60);
const FALLS_COUNTED: Duration = Duration::from_secs(300);
const FALLS_MAX: u8 = 3;
/// With so much beyond it, the estimate need not have stayed there for a while.
const HEADROOM_AT_ONCE: u64 = 150;
/// The lowest estimate of so many parts of [`PART`] counts for going up.
const PARTS: usize = 5;
const PART: Duration = Duration::from_millis(500);

/// What the allocation remembers of one receiver.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// By the conference's numbers.
    sources: Vec<Known>,
    /// Of the few that it gets, or got until lately.
    served: Slab<Served>,
    steady: Steady,
    /// When anything came down last.
    fell: Option<Instant>,
    /// Falls close to each other, the last included.
    falls: u8,
}

/// What a receiver wishes for one source, last-N left aside. Places count from 0, [`Wish::NOWHERE`] is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wish {
    pub(super) stage: u16,
    pub(super) selected: u16,
    pub(super) limit: Limit,
}

/// A source, as one receiver wishes for it. Each receiver keeps one for each source of the conference.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Which of all the sources that ever had this number; 0 is none.
    serial: u32,
    /// The version of the constraints that `wish` was read from.
    version: u32,
    wish: Wish,
    /// Its place among the served, or [`Self::UNSERVED`].
    served: u32,
}

/// What became of a source while it was wanted.
#[derive(Debug, Default)]
struct Served {
    /// Under which limit it was served last, and whether on stage; `None` when it was not wanted.
    terms: Option<(Limit, bool)>,
    /// Encoding and layer that it got.
    held: Option<(u8, u8)>,
    /// When it was served under new terms last.
    asked: Option<Instant>,
    rose: Option<Instant>,
    fell: Option<Instant>,
}

/// How far a source may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leeway {
    /// Up to here the whole bandwidth counts: it had this layer before.
    pub(super) held: Option<usize>,
    /// The bandwidth that counts above; `None` when it may not rise now.
    pub(super) ceiling_bps: Option<u64>,
    is_fresh: bool,
}

impl Wish {
    /// No place in a list.
    pub(super) const NOWHERE: u16 = 1_023;

    fn read(constraints: &Constraints, name: &SourceName) -> Self {
        let place = |list: &[SourceName]| {
            let place = list.iter().position(|own| own == name).and_then(|place| u16::try_from(place).ok());
            place.map_or(Self::NOWHERE, |place| place.min(Self::NOWHERE - 1))
        };
        Self {
            stage: place(&constraints.on_stage),
            selected: place(&constraints.selected),
            limit: constraints.limit(name),
        }
    }

    fn terms(&self) -> (Limit, bool) {
        (self.limit, self.stage != Self::NOWHERE)
    }
}

impl History {
    /// Notes how much may be sent. Returns what has been there for a while.
    pub(super) fn steady(&mut self, now: Instant, available_bps: u64) -> u64 {
        self.steady.note(now, available_bps)
    }

    /// The wish for a source. Its name is looked for only when the wishes changed, or the source did.
    pub(super) fn wish(&mut self, constraints: &Constraints, candidate: &Candidate<'_>) -> Wish {
        if candidate.source >= self.sources.len() {
            // Each receiver knows each source: to twice of what it was would be too much.
            let more = candidate.source + 1 - self.sources.len();
            self.sources.reserve_exact(more + self.sources.len() / 8);
            self.sources.resize(candidate.source + 1, Known::NONE);
        }
        let known = &mut self.sources[candidate.source];
        if known.serial != candidate.serial {
            self.served.try_remove(known.place());
            *known = Known { serial: candidate.serial, ..Known::NONE };
        }
        if known.version != constraints.version() {
            known.wish = Wish::read(constraints, candidate.name);
            known.version = constraints.version();
        }
        known.wish
    }

    /// How far a wanted source may go, given what there is and what has been there for a while.
    pub(super) fn leeway(
        &self,
        now: Instant,
        source: usize,
        menu: &Menu,
        layers: &[Layer],
        bandwidth: (u64, u64),
    ) -> Leeway {
        if bandwidth.0 == u64::MAX {
            return Leeway { held: None, ceiling_bps: Some(u64::MAX), is_fresh: true }; // nothing wobbles
        }
        let known = self.sources.get(source);
        let terms = known.map(|known| known.wish.terms());
        let served = known.and_then(|known| self.served.get(known.place()));
        let Some(served) = served.filter(|served| served.terms.is_some() && served.terms == terms) else {
            // The receiver asked for something else: it does not wait for what it asked.
            let held = served.and_then(|served| served.place(menu, layers));
            return Leeway { held, ceiling_bps: Some(bandwidth.0), is_fresh: true };
        };
        Leeway {
            held: served.place(menu, layers),
            ceiling_bps: if served.may_rise(now) { Some(self.ceiling(now, bandwidth)) } else { None },
            is_fresh: false,
        }
    }

    fn ceiling(&self, now: Instant, (available_bps, steady_bps): (u64, u64)) -> u64 {
        let remembered = FALL_REMEMBERED * (1 << self.falls.saturating_sub(1));
        let headroom = if is_within(self.fell, now, remembered) { HEADROOM_AFTER_FALL } else { HEADROOM };
        let part = |bps: u64, headroom: u64| bps.saturating_mul(100) / headroom;
        part(steady_bps, headroom).max(part(available_bps, HEADROOM_AT_ONCE))
    }

    /// Notes what a wanted source got.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        source: usize,
        layers: &[Layer],
        leeway: Leeway,
        target: Option<usize>,
    ) {
        let Some(known) = self.sources.get_mut(source) else { return };
        if !self.served.contains(known.place()) {
            let place = self.served.insert(Served::default());
            known.served = u32::try_from(place).unwrap_or(Known::UNSERVED);
        }
        let Some(served) = self.served.get_mut(known.place()) else { return };
        if leeway.is_fresh {
            served.asked = Some(now);
        }
        if target > leeway.held {
            served.rose = Some(now);
        } else if target < leeway.held && !leeway.is_fresh {
            served.fell = Some(now);
            if self.fell != Some(now) {
                let counted = if is_within(self.fell, now, FALLS_COUNTED) { self.falls } else { 0 };
                (self.fell, self.falls) = (Some(now), (counted + 1).min(FALLS_MAX));
            }
        }
        served.terms = Some(known.wish.terms());
        served.held = target.map(|index| (layers[index].encoding, layers[index].layer));
    }

    /// Notes that a source is not wanted now. Once nothing of the past counts any more, it is forgotten.
    pub(super) fn let_go(&mut self, now: Instant, source: usize) {
        let Some(known) = self.sources.get_mut(source) else { return };
        let Some(served) = self.served.get_mut(known.place()) else { return };
        (served.terms, served.held) = (None, None);
        if served.is_past(now) {
            self.served.remove(known.place());
            known.served = Known::UNSERVED;
        }
    }
}

impl Known {
    const UNSERVED: u32 = u32::MAX;
    /// No source; its version is that of no constraints.
    const NONE: Self = Self {
        serial: 0,
        version: 0,
        wish: Wish { stage: Wish::NOWHERE, selected: Wish::NOWHERE, limit: Limit::lines(0) },
        served: Self::UNSERVED,
    };

    fn place(&self) -> usize {
        usize::try_from(self.served).unwrap_or(usize::MAX)
    }
}

impl Served {
    /// What it had, as a layer that is offered now: the same, a better one that costs no more, or what is left below.
    fn place(&self, menu: &Menu, layers: &[Layer]) -> Option<usize> {
        let held = self.held?;
        let index = layers.iter().rposition(|layer| (layer.encoding, layer.layer) <= held)?;
        let same = menu.considered.contains(index) && (layers[index].encoding, layers[index].layer) == held;
        let below = if same { None } else { menu.offered.below(index + 1) };
        // Nothing below is worth it when something above costs no more: somebody who had a picture keeps one.
        below.or_else(|| menu.offered.at_least(index))
    }

    /// Whether it was served for the last time so long ago that it could never have been.
    fn is_past(&self, now: Instant) -> bool {
        let has_rested = !is_within(self.rose, now, RISE_GAP) && !is_within(self.fell, now, RISE_GAP);
        has_rested && !is_within(self.asked, now, OFFER_PATIENCE)
    }

    fn may_rise(&self, now: Instant) -> bool {
        let rested = !is_within(self.rose, now, RISE_GAP) && !is_within(self.fell, now, RISE_GAP);
        // Whoever fell since then was given it, and waits.
        let is_due = is_within(self.asked, now, OFFER_PATIENCE) && self.fell.is_none_or(|fell| self.asked > Some(fell));
        rested || is_due
    }
}

/// The lowest estimate of the last two seconds and a bit.
#[derive(Debug, Default)]
struct Steady {
    /// The lowest of each part, newest first.
    lowest: [u64; PARTS],
    part_began: Option<Instant>,
}

impl Steady {
    fn note(&mut self, now: Instant, bps: u64) -> u64 {
        let began = *self.part_began.get_or_insert_with(|| {
            self.lowest = [bps; PARTS];
            now
        });
        let passed = now.saturating_duration_since(began).as_millis() / PART.as_millis();
        if passed > 0 {
            let parts = usize::try_from(passed).unwrap_or(PARTS).min(PARTS);
            self.lowest.copy_within(..PARTS - parts, parts);
            self.lowest[..parts].fill(bps);
            let parts = u32::try_from(passed).unwrap_or(u32::MAX);
            self.part_began = Some(began + PART * parts);
        }
        self.lowest[0] = self.lowest[0].min(bps);
        self.lowest.iter().copied().min().unwrap_or(bps)
    }
}

fn is_within(last: Option<Instant>, now: Instant, interval: Duration) -> bool {
    last.is_some_and(|at| now.saturating_duration_since(at) < interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_wanted_any_more_is_forgotten_once_it_has_rested() {
        let (start, constraints, mut history) = (Instant::now(), Constraints::default(), History::default());
        let name = SourceName::parse("a-v0").unwrap();
        let layers = [Layer { encoding: 0, layer: 0, height: 180, fps: 30.0, bps: 100_000 }];
        let candidate = |source: usize, serial: u32| Candidate {
            source,
            serial,
            name: &name,
            speech_rank: 0,
            enabled: true,
            video_type: tertulia_model::VideoType::Camera,
            layers: &layers,
        };
        for (source, serial) in (0..100).zip(1..) {
            let now = start + Duration::from_secs(u64::from(serial));
            history.wish(&constraints, &candidate(source, serial));
            let leeway = Leeway { held: None, ceiling_bps: Some(1_000_000), is_fresh: true };
            history.settle(now, source, &layers, leeway, Some(0));
            (0..source).for_each(|passed| history.let_go(now, passed));
            assert!(history.served.len() <= 3, "{}", history.served.len());
            assert!(history.served.contains(history.sources[source].place()));
        }
        history.wish(&constraints, &candidate(99, 101));
        assert_eq!(history.sources[99].served, Known::UNSERVED, "another source has no past");
        assert!(size_of::<Known>() <= 24);
    }

    #[test]
    fn what_has_been_there_for_a_while_is_the_lowest_of_it() {
        let start = Instant::now();
        let mut steady = Steady::default();
        let mut note = |ms, bps| steady.note(start + Duration::from_millis(ms), bps);
        assert_eq!(note(0, 1_000), 1_000);
        assert_eq!(note(100, 2_000), 1_000);
        assert_eq!(note(1_900, 2_000), 1_000);
        assert_eq!(note(2_600, 3_000), 2_000);
        assert_eq!(note(2_700, 500), 500);
        assert_eq!(note(60_000, 3_000), 3_000);
    }
}
