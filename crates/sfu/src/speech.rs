//! Who speaks: dominant speaker identification after Volfin and Cohen, with the constants of Jitsi's bridge, whose feel clients expect.
//!
//! Each speaker has a score on three time scales. A score compares how many levels were loud with what chance would give; a challenger
//! takes over when it beats the current speaker on all three.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_model::EndpointId;

use crate::egress::EndpointKey;

/// Time between decisions.
const DECISION_INTERVAL: Duration = Duration::from_millis(300);
/// A speaker without levels for longer counts as silent from then on.
const LEVEL_IDLE: Duration = Duration::from_millis(40);
/// The list of recent speakers that clients get.
const RECENT_MAX: usize = 10;

/// Sub-bands of the level range in an immediate unit.
const SUBBANDS: u32 = 13;
/// Immediates per medium block, mediums per long block.
const MEDIUM_LEN: usize = 5;
const LONG_LEN: usize = 10;
const IMMEDIATES: usize = MEDIUM_LEN * LONG_LEN;
/// What counts as active within a medium, a long block.
const MEDIUM_THRESHOLD: u32 = 7;
const LONG_THRESHOLD: u32 = 4;
/// λ of the exponential prior of noise, per scale.
const LAMBDA: [f64; 3] = [0.78, 24.0, 47.0];
/// What a challenger's logarithmic advantage must exceed, per scale.
const ADVANTAGE: [f64; 3] = [3.0, 2.0, 0.0];
/// Smallest score: scores are divided.
const SCORE_MIN: f64 = 1e-10;
/// Samples over which the lowest level, the noise floor, is taken: 15 s at 20 ms.
const FLOOR_SAMPLES: u32 = 750;
const LEVEL_MAX: u32 = 127;

/// Levels of everybody and the decision.
#[derive(Debug, Default)]
pub(crate) struct Speakers {
    by_key: BTreeMap<EndpointKey, Speaker>,
    dominant: Option<EndpointKey>,
    /// Most recent first, the dominant one included.
    recent: Vec<EndpointId>,
    next_decision: Option<Instant>,
}

impl Speakers {
    /// Takes one level, 0 (silence) to 127 (loudest).
    pub(crate) fn level(&mut self, now: Instant, key: EndpointKey, id: &EndpointId, level: u8) {
        self.by_key.entry(key).or_insert_with(|| Speaker::new(id.clone(), now)).level(now, level);
        self.next_decision.get_or_insert(now + DECISION_INTERVAL);
    }

    /// Forgets somebody.
    pub(crate) fn remove(&mut self, key: EndpointKey) {
        if let Some(speaker) = self.by_key.remove(&key) {
            self.recent.retain(|id| *id != speaker.id);
        }
        if self.dominant == Some(key) {
            self.dominant = None;
        }
    }

    /// Decides when it is time; the new speaker if it changed.
    pub(crate) fn decide(&mut self, now: Instant) -> Option<EndpointId> {
        if self.next_decision.is_none_or(|at| now < at) {
            return None;
        }
        let heard =
            self.by_key.values().any(|speaker| now.saturating_duration_since(speaker.last) < Duration::from_secs(5));
        self.next_decision = heard.then(|| now + DECISION_INTERVAL);
        for speaker in self.by_key.values_mut() {
            speaker.evaluate(now);
        }
        let challenger = self.challenger()?;
        self.dominant = Some(challenger);
        let id = self.by_key.get(&challenger)?.id.clone();
        self.recent.retain(|known| *known != id);
        self.recent.insert(0, id.clone());
        self.recent.truncate(RECENT_MAX + 1);
        Some(id)
    }

    /// When `decide` next has work to do.
    pub(crate) fn next_decision(&self) -> Option<Instant> {
        self.next_decision
    }

    /// The dominant speaker and those before, most recent first.
    pub(crate) fn recent(&self) -> &[EndpointId] {
        &self.recent
    }

    /// The dominant speaker.
    pub(crate) fn dominant(&self) -> Option<&EndpointId> {
        self.dominant.and_then(|key| self.by_key.get(&key)).map(|speaker| &speaker.id)
    }

    /// Who beats the current speaker; with none, the one who is active longest.
    fn challenger(&self) -> Option<EndpointKey> {
        let Some(dominant) = self.dominant.and_then(|key| self.by_key.get(&key)) else {
            let active = self.by_key.iter().filter(|(_, speaker)| speaker.scores[1] > SCORE_MIN);
            return active.max_by(|a, b| a.1.scores[1].total_cmp(&b.1.scores[1])).map(|(key, _)| *key);
        };
        let mut best: Option<(EndpointKey, f64)> = None;
        for (key, speaker) in self.by_key.iter().filter(|(key, _)| Some(**key) != self.dominant) {
            let advantage = |scale: usize| (speaker.scores[scale] / dominant.scores[scale]).ln();
            let beats = (0..3).all(|scale| advantage(scale) > ADVANTAGE[scale]);
            if beats && best.is_none_or(|(_, medium)| advantage(1) > medium) {
                best = Some((*key, advantage(1)));
            }
        }
        best.map(|(key, _)| key)
    }
}

#[derive(Debug)]
struct Speaker {
    id: EndpointId,
    /// Newest first.
    levels: [u8; IMMEDIATES],
    last: Instant,
    floor: Floor,
    /// Immediate, medium, long.
    scores: [f64; 3],
}

impl Speaker {
    fn new(id: EndpointId, now: Instant) -> Self {
        Self { id, levels: [0; IMMEDIATES], last: now, floor: Floor::default(), scores: [SCORE_MIN; 3] }
    }

    fn level(&mut self, now: Instant, level: u8) {
        self.last = now;
        let level = u32::from(level).min(LEVEL_MAX);
        self.floor.sample(level);
        self.levels.rotate_right(1);
        self.levels[0] = u8::try_from(level).unwrap_or(0);
    }

    fn evaluate(&mut self, now: Instant) {
        let idle = now.saturating_duration_since(self.last);
        if idle > LEVEL_IDLE {
            // Clients that are silent may stop sending: silence goes on in their place, one level per 20 ms.
            let missed = usize::try_from(idle.as_millis() / 20).unwrap_or(IMMEDIATES).min(IMMEDIATES);
            self.levels.rotate_right(missed % IMMEDIATES);
            self.levels[..missed].fill(0);
            self.last = now;
        }
        let immediates = self.immediates();
        let mediums = blocks(&immediates, MEDIUM_LEN, MEDIUM_THRESHOLD);
        let longs = blocks(&mediums, LONG_LEN, LONG_THRESHOLD);
        let first = |list: &[u32]| list.first().copied().unwrap_or(0);
        self.scores = [
            score(first(&immediates), SUBBANDS, LAMBDA[0]),
            score(first(&mediums), u32::try_from(MEDIUM_LEN).unwrap_or(1), LAMBDA[1]),
            score(first(&longs), u32::try_from(LONG_LEN).unwrap_or(1), LAMBDA[2]),
        ];
    }

    /// Each level as a number of sub-bands above the noise floor.
    fn immediates(&self) -> ArrayVec<u32, IMMEDIATES> {
        let unit = (LEVEL_MAX + SUBBANDS - 1).div_ceil(SUBBANDS);
        let floor = self.floor.level() + unit;
        let bands = |level: &u8| if u32::from(*level) < floor { 0 } else { u32::from(*level) / unit };
        self.levels.iter().map(bands).collect()
    }
}

/// How many entries of each block exceed the threshold. There are at most [`LONG_LEN`] blocks.
fn blocks(entries: &[u32], len: usize, threshold: u32) -> ArrayVec<u32, LONG_LEN> {
    let active = |block: &[u32]| u32::try_from(block.iter().filter(|n| **n > threshold).count()).unwrap_or(0);
    entries.chunks_exact(len).map(active).collect()
}

/// ln C(n,k) + k·ln p + (n−k)·ln(1−p) − ln λ + λ·k with p = ½, at least [`SCORE_MIN`].
fn score(k: u32, n: u32, lambda: f64) -> f64 {
    let ways: f64 = (0..k).map(|i| f64::from(n - i).ln() - f64::from(i + 1).ln()).sum();
    let score = ways + f64::from(n) * 0.5f64.ln() - lambda.ln() + lambda * f64::from(k);
    score.max(SCORE_MIN)
}

/// The lowest level of the last two windows: the noise of a room.
#[derive(Debug)]
struct Floor {
    current: u32,
    previous: u32,
    samples: u32,
}

impl Default for Floor {
    fn default() -> Self {
        Self { current: LEVEL_MAX, previous: 0, samples: 0 }
    }
}

impl Floor {
    fn sample(&mut self, level: u32) {
        // A level of 0 is silence inserted by the client, not the room's noise.
        if level > 0 {
            self.current = self.current.min(level);
        }
        self.samples += 1;
        if self.samples >= FLOOR_SAMPLES {
            *self = Self { current: LEVEL_MAX, previous: self.current, samples: 0 };
        }
    }

    fn level(&self) -> u32 {
        self.previous.min(self.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Room {
        speakers: Speakers,
        now: Instant,
    }

    impl Room {
        fn new() -> Self {
            Self { speakers: Speakers::default(), now: Instant::now() }
        }

        /// Everybody at these levels for a while; who took over.
        fn run(&mut self, ms: u64, levels: &[(&str, u8)]) -> Vec<String> {
            let mut changes = Vec::new();
            for _ in 0..ms / 20 {
                self.now += Duration::from_millis(20);
                for (n, (id, level)) in levels.iter().enumerate() {
                    let id = EndpointId::parse(id).unwrap();
                    self.speakers.level(self.now, EndpointKey(u32::try_from(n).unwrap()), &id, *level);
                }
                changes.extend(self.speakers.decide(self.now).map(|id| id.to_string()));
            }
            changes
        }
    }

    #[test]
    fn the_one_who_speaks_becomes_dominant_and_a_cough_does_not() {
        let mut room = Room::new();
        assert_eq!(room.run(3_000, &[("a", 10), ("b", 10)]), [""; 0]);
        assert_eq!(room.run(2_000, &[("a", 100), ("b", 10)]), ["a"]);
        assert_eq!(room.run(60, &[("a", 100), ("b", 110)]), [""; 0]);
        assert_eq!(room.run(1_000, &[("a", 100), ("b", 10)]), [""; 0]);
        assert_eq!(room.run(3_000, &[("a", 10), ("b", 100)]), ["b"]);
        assert_eq!(room.speakers.recent().iter().map(EndpointId::as_str).collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn the_room_rests_when_nobody_sends() {
        let mut room = Room::new();
        room.run(1_000, &[("a", 100)]);
        room.now += Duration::from_secs(6);
        room.speakers.decide(room.now);
        assert_eq!(room.speakers.next_decision(), None);
        room.speakers.remove(EndpointKey(0));
        assert_eq!(room.speakers.dominant(), None);
    }
}
