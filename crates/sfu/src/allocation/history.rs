//! What one receiver had before: its wishes resolved per source, and when each source went up or down, so that a
//! wobbling estimate does not make pictures change back and forth.

use std::time::{Duration, Instant};

use tertulia_model::SourceName;

use super::Candidate;
use super::menu::{Layer, Menu};
use crate::constraints::{Constraints, Limit};
use crate::lately::Lately;

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
    /// The few sources that it speaks of, gets, or got until lately, by serial. Each receiver could have all of them: what is as usual is
    /// not written down.
    known: Vec<Known>,
    /// The version of the constraints that wishes were read from, and the newest source for which they were; 0 is none.
    version: u32,
    read_to: u32,
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

/// Under which limit a source is served, and whether on stage.
pub(super) type Terms = (Limit, bool);

/// A source with a wish of its own, or with a past.
#[derive(Debug)]
struct Known {
    serial: u32,
    /// `None` is what is usual for this receiver.
    wish: Option<Wish>,
    served: Option<Served>,
}

/// What became of a source while it was wanted.
#[derive(Debug, Default)]
struct Served {
    /// Under which it was served last; `None` when it was not wanted.
    terms: Option<Terms>,
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

    /// For everything that the receiver does not speak of.
    fn usual(constraints: &Constraints) -> Self {
        Self { stage: Self::NOWHERE, selected: Self::NOWHERE, limit: constraints.default_limit }
    }

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

    pub(super) fn terms(&self) -> Terms {
        (self.limit, self.stage != Self::NOWHERE)
    }
}

impl History {
    /// Notes how much may be sent. Returns what has been there for a while.
    pub(super) fn steady(&mut self, now: Instant, available_bps: u64) -> u64 {
        self.steady.note(now, available_bps)
    }

    /// Looks for the names of sources that are new in what the receiver wishes, or of all of them when it wishes something else.
    pub(super) fn read(&mut self, constraints: &Constraints, candidates: &[Candidate<'_>]) {
        if self.version != constraints.version() {
            (self.version, self.read_to) = (constraints.version(), 0);
            self.known.iter_mut().for_each(|known| known.wish = None);
        }
        let newest = candidates.iter().map(|candidate| candidate.serial).max().unwrap_or(0);
        if newest <= self.read_to {
            return;
        }
        let is_there = |known: &Known| candidates.iter().any(|candidate| candidate.serial == known.serial);
        self.known.retain(|known| (known.wish.is_some() || known.served.is_some()) && is_there(known));
        let (usual, before) = (Wish::usual(constraints), self.read_to);
        for candidate in candidates.iter().filter(|candidate| candidate.serial > before) {
            let wish = Wish::read(constraints, candidate.name);
            if wish != usual {
                self.note(candidate.serial).wish = Some(wish);
            }
        }
        self.read_to = newest;
    }

    /// The wish for a source, after [`History::read`].
    pub(super) fn wish(&self, constraints: &Constraints, serial: u32) -> Wish {
        self.find(serial).and_then(|known| known.wish).unwrap_or_else(|| Wish::usual(constraints))
    }

    fn find(&self, serial: u32) -> Option<&Known> {
        self.known.get(self.place(serial).ok()?)
    }

    /// Where a source is among the known, or would be.
    fn place(&self, serial: u32) -> Result<usize, usize> {
        self.known.binary_search_by_key(&serial, |known| known.serial)
    }

    /// What is known of a source, from now on at the latest.
    fn note(&mut self, serial: u32) -> &mut Known {
        let place = self.place(serial).unwrap_or_else(|place| {
            self.known.insert(place, Known { serial, wish: None, served: None });
            place
        });
        &mut self.known[place]
    }

    /// How far a wanted source may go, given what there is and what has been there for a while.
    pub(super) fn leeway(
        &self,
        now: Instant,
        serial: u32,
        terms: Terms,
        menu: &Menu,
        layers: &[Layer],
        bandwidth: (u64, u64),
    ) -> Leeway {
        if bandwidth.0 == u64::MAX {
            return Leeway { held: None, ceiling_bps: Some(u64::MAX), is_fresh: true }; // nothing wobbles
        }
        let served = self.find(serial).and_then(|known| known.served.as_ref());
        let Some(served) = served.filter(|served| served.terms == Some(terms)) else {
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
        serial: u32,
        terms: Terms,
        layers: &[Layer],
        leeway: Leeway,
        target: Option<usize>,
    ) {
        let served = self.note(serial).served.get_or_insert_default();
        if leeway.is_fresh {
            served.asked = Some(now);
        }
        let has_fallen = target < leeway.held && !leeway.is_fresh;
        if target > leeway.held {
            served.rose = Some(now);
        } else if has_fallen {
            served.fell = Some(now);
        }
        served.terms = Some(terms);
        served.held = target.map(|index| (layers[index].encoding, layers[index].layer));
        // What does not fit from the beginning does not wobble: most often the path turned out not to be as wide as any is taken for at first.
        let wobbles = has_fallen && !is_within(served.asked, now, OFFER_PATIENCE);
        if wobbles && self.fell != Some(now) {
            let counted = if is_within(self.fell, now, FALLS_COUNTED) { self.falls } else { 0 };
            (self.fell, self.falls) = (Some(now), (counted + 1).min(FALLS_MAX));
        }
    }

    /// Notes that a source is not wanted now. Once nothing of the past counts any more, it is forgotten.
    pub(super) fn let_go(&mut self, now: Instant, serial: u32) {
        let Ok(place) = self.place(serial) else { return };
        let known = &mut self.known[place];
        if let Some(served) = &mut known.served {
            (served.terms, served.held) = (None, None);
        }
        known.served.take_if(|served| served.is_past(now));
        if known.served.is_none() && known.wish.is_none() {
            self.known.remove(place);
        }
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

/// The lowest estimate of each part of the last two seconds and a bit.
#[derive(Debug, Default)]
struct Steady(Lately<u64, PARTS>);

impl Steady {
    fn note(&mut self, now: Instant, bps: u64) -> u64 {
        let lowest = self.0.at(now, PART, bps);
        lowest[0] = lowest[0].min(bps);
        lowest.iter().copied().min().unwrap_or(bps)
    }
}

fn is_within(last: Option<Instant>, now: Instant, interval: Duration) -> bool {
    last.is_some_and(|at| now.saturating_duration_since(at) < interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraints::Change;

    #[test]
    fn what_is_not_wanted_any_more_is_forgotten_once_it_has_rested() {
        let (start, constraints, mut history) = (Instant::now(), Constraints::default(), History::default());
        let layers = [Layer { encoding: 0, layer: 0, height: 180, fps: 30.0, bps: 100_000 }];
        let wish = history.wish(&constraints, 1);
        for serial in 1..100 {
            let now = start + Duration::from_secs(u64::from(serial));
            let leeway = Leeway { held: None, ceiling_bps: Some(1_000_000), is_fresh: true };
            history.settle(now, serial, wish.terms(), &layers, leeway, Some(0));
            (1..serial).for_each(|passed| history.let_go(now, passed));
            assert!(history.known.len() <= 3, "{}", history.known.len());
            assert!(history.find(serial).is_some());
        }
    }

    #[test]
    fn only_what_a_receiver_speaks_of_is_written_down_whenever_it_comes() {
        let names = ["a-v0", "b-v0", "c-v0", "d-v0"].map(|name| SourceName::parse(name).unwrap());
        let candidate = |source: usize, serial: u32| Candidate {
            source,
            serial,
            name: &names[source],
            speech_rank: 0,
            enabled: true,
            video_type: tertulia_model::VideoType::Camera,
            layers: &[],
        };
        let mut constraints = Constraints::default();
        let on_stage = |name: &SourceName| Change { on_stage: Some(vec![name.clone()]), ..Change::default() };
        constraints.apply(on_stage(&names[1]));
        let mut history = History::default();
        history.read(&constraints, &[candidate(0, 7), candidate(2, 3)]);
        assert!(history.known.is_empty());
        history.read(&constraints, &[candidate(0, 7), candidate(1, 8), candidate(2, 3)]);
        let staged = |history: &History, constraints: &Constraints| -> Vec<u32> {
            (1..20).filter(|serial| history.wish(constraints, *serial).stage != Wish::NOWHERE).collect()
        };
        assert_eq!((staged(&history, &constraints), history.known.len()), (vec![8], 1));
        constraints.apply(on_stage(&names[2]));
        history.read(&constraints, &[candidate(0, 7), candidate(1, 8), candidate(2, 3)]);
        assert_eq!((staged(&history, &constraints), history.known.len()), (vec![3], 1));
        history.read(&constraints, &[candidate(0, 7), candidate(3, 9)]);
        assert_eq!((staged(&history, &constraints), history.known.len()), (vec![], 0), "who left is forgotten");
        history.read(&constraints, &[candidate(0, 7), candidate(2, 10)]);
        assert_eq!(staged(&history, &constraints), [10], "and known again on coming back");
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
