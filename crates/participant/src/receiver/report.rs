//! How received sources fared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tertulia_model::{EndpointId, SourceName};

/// Pictures remembered: some ten minutes.
const SHOWN_MAX: usize = 20_000;
/// Violations kept for the report; those after them say nothing new.
const VIOLATIONS_KEPT: usize = 8;

/// How a video source fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoReport {
    /// Its name.
    pub source: SourceName,
    /// Who sends it.
    pub owner: EndpointId,
    /// Packets received, retransmitted ones included.
    pub packets: u64,
    /// Packets that never came, as far as sequence numbers tell; may still shrink.
    pub missing: u64,
    /// Pictures that could be decoded.
    pub decoded: u64,
    /// When the last one was.
    pub last_decoded: Option<Instant>,
    /// Height of the last whole one.
    pub height: u16,
    /// Times that a hole could not be closed and the picture stood still until a key frame.
    pub freezes: u64,
    /// Times that a key frame was asked for.
    pub key_requests: u64,
    /// Things that no loss excuses; empty when all is well.
    pub violations: Vec<String>,
    /// Decoded pictures by their number at the sender, which counts up by one.
    pub shown: BTreeMap<u32, Shown>,
}

/// A decoded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// When it was taken, by the clock of the settings.
    pub captured: Duration,
    /// From then until its highest layer could be decoded.
    pub delay: Duration,
    /// Lines of its highest layer.
    pub height: u16,
    /// Its temporal layer.
    pub temporal: u8,
}

impl VideoReport {
    pub(crate) fn new(source: SourceName, owner: EndpointId) -> Self {
        Self {
            source,
            owner,
            packets: 0,
            missing: 0,
            decoded: 0,
            last_decoded: None,
            height: 0,
            freezes: 0,
            key_requests: 0,
            violations: Vec::new(),
            shown: BTreeMap::new(),
        }
    }

    /// Decoded pictures that were taken in this time.
    pub fn shown_between(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Shown> {
        self.shown.values().filter(move |shown| (from..to).contains(&shown.captured))
    }

    /// Of the pictures taken in this time, how many could be decoded within `deadline`, and how many there were from the first to the last
    /// that came.
    pub fn on_time(&self, from: Duration, to: Duration, deadline: Duration) -> (u64, u64) {
        let inside = || self.shown.iter().filter(|(_, shown)| (from..to).contains(&shown.captured));
        let on_time = inside().filter(|(_, shown)| shown.delay <= deadline).count() as u64;
        let (first, last) = (inside().next(), inside().next_back());
        let all = first.zip(last).map_or(0, |((first, _), (last, _))| u64::from(last - first) + 1);
        (on_time, all)
    }

    /// The longest time without a new picture between two times, for somebody who shows each picture as soon as it is decoded.
    pub fn longest_still(&self, from: Duration, to: Duration) -> Duration {
        let (mut last, mut longest) = (from, Duration::ZERO);
        let mut moments: Vec<Duration> = self.shown.values().map(|shown| shown.captured + shown.delay).collect();
        moments.sort_unstable();
        for moment in moments.into_iter().filter(|moment| (from..to).contains(moment)).chain([to]) {
            longest = longest.max(moment.saturating_sub(last));
            last = moment;
        }
        longest
    }

    /// Lowest and highest picture in this time; `None` when there was none.
    pub fn heights(&self, from: Duration, to: Duration) -> Option<(u16, u16)> {
        let heights = || self.shown_between(from, to).map(|shown| shown.height);
        heights().min().zip(heights().max())
    }

    pub(super) fn show(&mut self, picture: u32, shown: Shown) {
        match self.shown.get_mut(&picture) {
            Some(known) if known.height < shown.height => *known = shown,
            Some(_) => {}
            None => {
                self.decoded += 1;
                self.shown.insert(picture, shown);
                if self.shown.len() > SHOWN_MAX {
                    self.shown.pop_first();
                }
            }
        }
    }

    pub(super) fn violation(&mut self, text: String) {
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(text);
        }
    }
}

/// How an audio source fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioReport {
    /// Its name.
    pub source: SourceName,
    /// Who sends it.
    pub owner: EndpointId,
    /// Packets received.
    pub packets: u64,
    /// Different packets received.
    pub distinct: u64,
    /// Packets sent from the first to the last that came, silent ones included.
    pub span: u64,
    /// Most packets missing in a row, as far as it is known when the next comes.
    pub longest_gap: u64,
    /// When the last one came.
    pub last_heard: Option<Instant>,
    /// Things that no loss excuses; empty when all is well.
    pub violations: Vec<String>,
}

impl AudioReport {
    pub(crate) fn new(source: SourceName, owner: EndpointId) -> Self {
        let violations = Vec::new();
        Self { source, owner, packets: 0, distinct: 0, span: 0, longest_gap: 0, last_heard: None, violations }
    }

    pub(super) fn violation(&mut self, text: String) {
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(text);
        }
    }
}
