//! Which video sources one receiver gets, and in which layer: its wishes, last-N and the bandwidth of its link turned
//! into one target per source.
//!
//! Sources are served in an order that the receiver and the speakers make: on stage, selected, then by who spoke last;
//! shared screens before cameras within each. What is on stage is raised to its preferred layer, then everything gets
//! its lowest layer, then everything is raised in turn, a layer at a time, while the bandwidth lasts; what is not on
//! stage gets larger only when nothing smaller can.

mod history;
mod menu;

use std::time::Instant;

use tertulia_model::{SourceName, VideoType};

use crate::constraints::{Constraints, Limit};
pub(crate) use history::History;
use history::{Leeway, Wish};
pub(crate) use menu::Layer;
use menu::Menu;

/// How far the bandwidth may be exceeded for a shared screen on stage: one that comes late is better than one that
/// cannot be read.
const OVERSEND_MAX_BPS: u64 = 500_000;
/// The same for the first picture in its lowest layer, once it is there: losses in bursts bring an estimate down to nothing for a moment, and
/// a picture that ends for it waits for a key frame when it may come back.
const KEEP_MAX_BPS: u64 = 100_000;

/// A source as a receiver could have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    /// The caller's number for it.
    pub(crate) source: usize,
    /// Counts all the sources that there ever were, from 1: one that comes has a larger one than any that came before.
    pub(crate) serial: u32,
    pub(crate) name: &'a SourceName,
    /// How long ago its owner was dominant speaker, 0 the latest.
    pub(crate) speech_rank: u32,
    /// Whether its sender sends pictures at all.
    pub(crate) enabled: bool,
    pub(crate) video_type: VideoType,
    /// Lowest first.
    pub(crate) layers: &'a [Layer],
}

/// What there is to decide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) constraints: &'a Constraints,
    /// Bits per second for video, what sound and retransmissions need taken off; `None` is unlimited.
    pub(crate) available_bps: Option<u64>,
    /// What the bridge limits last-N to, for its load or the number of its slots.
    pub(crate) last_n_max: Option<u32>,
    /// Video sources of all others.
    pub(crate) candidates: &'a [Candidate<'a>],
}

/// What was decided on one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) source: usize,
    /// Lines its sender should send for this receiver, last-N taken into account: −1 unlimited, 0 none.
    pub(crate) max_height: i32,
    /// The layer to forward, as an index into the candidate's.
    pub(crate) target: Option<usize>,
}

/// The outcome. One may be used for receiver after receiver, so that nothing is allocated anew.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    /// In the order of the candidates.
    pub(crate) decisions: Vec<Decision>,
    /// What everything wanted would cost: the rate worth probing for.
    pub(crate) ideal_bps: u64,
    pub(crate) allocated_bps: u64,
    /// How many wanted sources got nothing, although they are being sent.
    pub(crate) suspended: usize,
    /// Whether more is allocated than there is.
    pub(crate) oversending: bool,
    /// (place in the order, index of the candidate)
    order: Vec<(u64, u32)>,
    items: Vec<Item>,
}

/// A source that is wanted.
#[derive(Debug, Clone, Copy)]
struct Item {
    /// Place in the order in which bandwidth is given.
    place: u64,
    candidate: usize,
    limit: Limit,
    on_stage: bool,
    menu: Menu,
    leeway: Leeway,
    target: Option<usize>,
    cost_bps: u64,
}

impl Item {
    /// The next better layer.
    fn next(&self) -> Option<usize> {
        self.menu.offered.at_least(self.target.map_or(0, |target| target + 1))
    }
}

/// Decides on all candidates. Repeated with the same input it decides the same. To be called when anything of the
/// request changed, and at least every second or two while less is allocated than would be ideal: sources that may not
/// rise yet rise then.
pub(crate) fn allocate(now: Instant, request: &Request<'_>, history: &mut History, out: &mut Allocation) {
    let available_bps = request.constraints.assumed_bandwidth_bps.or(request.available_bps).unwrap_or(u64::MAX);
    let steady_bps = history.steady(now, available_bps);
    history.read(request.constraints, request.candidates);
    out.clear(request.candidates);
    out.rank(request, history);
    out.admit(now, request, history, (available_bps, steady_bps));
    let mut walk = Walk { candidates: request.candidates, available_bps, spent_bps: 0 };
    walk.serve(&mut out.items);
    out.conclude(now, request.candidates, history);
    out.allocated_bps = walk.spent_bps;
    out.oversending = walk.spent_bps > available_bps;
}

impl Allocation {
    /// The decisions by which something is sent, in the order of the candidates.
    pub(crate) fn granted(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| decision.target.is_some())
    }

    fn clear(&mut self, candidates: &[Candidate<'_>]) {
        let Self { decisions, order, items, .. } = self;
        decisions.clear();
        order.clear();
        items.clear();
        let nothing = |candidate: &Candidate<'_>| Decision { source: candidate.source, max_height: 0, target: None };
        decisions.extend(candidates.iter().map(nothing));
    }

    /// Orders what is sent and wanted at all.
    fn rank(&mut self, request: &Request<'_>, history: &History) {
        for (index, candidate) in (0..).zip(request.candidates) {
            let wish = history.wish(request.constraints, candidate.serial);
            if candidate.enabled && candidate.video_type != VideoType::None && !wish.limit.is_off() {
                let lists = u64::from(wish.stage) << 43 | u64::from(wish.selected) << 33;
                let is_camera = u64::from(!candidate.video_type.is_desktop());
                self.order.push((lists | u64::from(candidate.speech_rank) << 1 | is_camera, index));
            }
        }
        self.order.sort_unstable();
    }

    /// Gives out the last-N places, and orders who got one by who is first to get bandwidth.
    fn admit(&mut self, now: Instant, request: &Request<'_>, history: &History, bandwidth: (u64, u64)) {
        let last_n = request.constraints.last_n.into_iter().chain(request.last_n_max).min();
        let places = last_n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        for (place, (_, index)) in (0..).zip(&self.order).take(places) {
            let index = usize::try_from(*index).unwrap_or(usize::MAX);
            let candidate = &request.candidates[index];
            let wish = history.wish(request.constraints, candidate.serial);
            let (limit, on_stage) = wish.terms();
            let group = if on_stage { 0 } else { 1 + u64::from(wish.selected == Wish::NOWHERE) };
            let is_camera = u64::from(!candidate.video_type.is_desktop());
            let menu = Menu::of(candidate.layers, limit, candidate.video_type, on_stage);
            self.decisions[index].max_height = limit.max_height;
            self.items.push(Item {
                place: group << 40 | is_camera << 39 | place,
                candidate: index,
                limit,
                on_stage,
                leeway: history.leeway(now, candidate.serial, wish.terms(), &menu, candidate.layers, bandwidth),
                menu,
                target: None,
                cost_bps: 0,
            });
        }
        self.items.sort_unstable_by_key(|item| item.place);
    }

    /// Writes down what the walk found.
    fn conclude(&mut self, now: Instant, candidates: &[Candidate<'_>], history: &mut History) {
        (self.ideal_bps, self.suspended) = (0, 0);
        for item in &self.items {
            let Candidate { serial, layers, .. } = candidates[item.candidate];
            history.settle(now, serial, (item.limit, item.on_stage), layers, item.leeway, item.target);
            self.decisions[item.candidate].target = item.target;
            if let Some(best) = item.menu.offered.highest() {
                self.ideal_bps += item.menu.cost(&layers[best]);
                self.suspended += usize::from(item.target.is_none());
            }
        }
        for (decision, candidate) in self.decisions.iter().zip(candidates) {
            if decision.max_height == 0 {
                history.let_go(now, candidate.serial);
            }
        }
    }
}

/// Giving out the bandwidth.
struct Walk<'a> {
    candidates: &'a [Candidate<'a>],
    available_bps: u64,
    spent_bps: u64,
}

impl Walk<'_> {
    fn serve(&mut self, items: &mut [Item]) {
        for (place, item) in items.iter_mut().enumerate().take_while(|(_, item)| item.on_stage) {
            while item.menu.preferred.is_some_and(|preferred| item.target.is_none_or(|target| target < preferred)) {
                if !self.try_step(item) {
                    break;
                }
            }
            if place == 0 {
                self.oversend(item);
            }
        }
        for item in items.iter_mut().filter(|item| item.target.is_none()) {
            self.try_step(item);
        }
        if let Some(first) = items.first_mut().filter(|first| first.target.is_none() && first.leeway.held.is_some())
            && let Some(lowest) = first.next()
        {
            self.try_raise(first, lowest, KEEP_MAX_BPS);
        }
        let mut height = 0;
        while let Some(next) = self.next_height(items, height) {
            height = next;
            while self.raise_in_turn(items, height) {}
        }
    }

    /// The smallest picture larger than `height` that anything not on stage could get, or whatever is left for the
    /// stage.
    fn next_height(&self, items: &[Item], height: u16) -> Option<u16> {
        let heights = items.iter().filter_map(|item| {
            let next = item.next()?;
            Some(self.candidates[item.candidate].layers[next].height)
        });
        heights.filter(|next| *next > height).min()
    }

    /// Raises what has a picture by one layer each, the stage to any height. Whether anything rose.
    fn raise_in_turn(&mut self, items: &mut [Item], height: u16) -> bool {
        let mut rose = false;
        for item in items.iter_mut().filter(|item| item.target.is_some()) {
            let layers = self.candidates[item.candidate].layers;
            let is_due = item.next().is_some_and(|next| item.on_stage || layers[next].height <= height);
            rose |= is_due && self.try_step(item);
        }
        rose
    }

    /// Raises a source by one layer, if the bandwidth allows.
    fn try_step(&mut self, item: &mut Item) -> bool {
        item.next().is_some_and(|next| self.try_raise(item, next, 0))
    }

    /// Shows a screen on stage in full size even if that is a little too much.
    fn oversend(&mut self, item: &mut Item) {
        let Some(full) = item.menu.oversend.and_then(|full| item.menu.offered.at_least(full)) else { return };
        let mut layer = Some(full);
        while let Some(candidate) = layer.filter(|layer| item.target.is_none_or(|target| target < *layer)) {
            if self.try_raise(item, candidate, OVERSEND_MAX_BPS) {
                return;
            }
            layer = item.menu.offered.below(candidate);
        }
    }

    fn try_raise(&mut self, item: &mut Item, to: usize, excess_bps: u64) -> bool {
        let keeps = item.leeway.held.is_some_and(|held| to <= held);
        let limit = if keeps { Some(self.available_bps) } else { item.leeway.ceiling_bps };
        let cost = item.menu.cost(&self.candidates[item.candidate].layers[to]);
        let total = self.spent_bps.saturating_sub(item.cost_bps).saturating_add(cost);
        let fits = limit.is_some_and(|limit| total <= limit.saturating_add(excess_bps));
        if fits {
            (item.target, item.cost_bps, self.spent_bps) = (Some(to), cost, total);
        }
        fits
    }
}

#[cfg(test)]
mod tests;
