//! Who speaks: dominant speaker identification after Volfin and Cohen, with the constants of Jitsi's bridge, whose feel
//! clients expect.
//!
//! Each speaker has a score on three time scales. A score compares how many levels were loud with what chance would
//! give; a challenger takes over when it beats the current speaker on all three.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_model::EndpointId;

use crate::egress::EndpointKey;

/// Time between decisions.
const DECISION_INTERVAL: Duration = Duration::from_millis(300);
/// A speaker without levels gets one of silence each time this has passed.
const LEVEL_IDLE: Duration = Duration::from_millis(40);
/// Decisions rest when nobody was heard for so long.
const REST_AFTER: Duration = Duration::from_secs(15);
/// Somebody silent for so long is forgotten until the next sound.
const FORGET_AFTER: Duration = Duration::from_secs(3_600);
/// The list of speakers that clients get: the dominant one and ten before.
const RECENT_MAX: usize = 11;

/// Sub-bands of the level range in an immediate unit, and how wide one is: 139 levels in 13 bands, rounded down.
const SUBBANDS: u32 = 13;
const SUBBAND: u8 = 10;
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
/// Samples after which the noise floor may rise: 15 s at 20 ms.
const FLOOR_SAMPLES: u32 = 750;
/// No room is as loud as a voice: a steady sound above this counts as one. Jitsi's bridge has no such limit and never
/// hears who is on a steady level, which people never are, but tones and machines.
const FLOOR_MAX: u8 = 85;
const LEVEL_MAX: u8 = 127;

/// Levels of everybody and the decision.
#[derive(Debug, Default)]
pub(crate) struct Speakers {
    by_key: BTreeMap<EndpointKey, Speaker>,
    dominant: Option<EndpointKey>,
    /// Most recent first, the dominant one included.
    recent: ArrayVec<EndpointId, RECENT_MAX>,
    /// How often somebody became dominant.
    turns: u32,
    next_decision: Option<Instant>,
}

impl Speakers {
    /// Takes one level, 0 (silence) to 127 (loudest). Returns it, or 0 when it is only the noise of the speaker's room.
    pub(crate) fn level(&mut self, now: Instant, key: EndpointKey, id: &EndpointId, level: u8) -> u8 {
        self.next_decision.get_or_insert(now + DECISION_INTERVAL);
        self.by_key.entry(key).or_insert_with(|| Speaker::new(id.clone(), now)).level(now, level)
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
        let Self { by_key, dominant, .. } = self;
        by_key.retain(|key, speaker| Some(*key) == *dominant || speaker.silent_for(now) < FORGET_AFTER);
        let heard = by_key.values().any(|speaker| speaker.silent_for(now) < REST_AFTER);
        self.next_decision = heard.then(|| now + DECISION_INTERVAL);
        for speaker in self.by_key.values_mut() {
            speaker.evaluate(now);
        }
        let challenger = self.challenger()?;
        self.dominant = Some(challenger);
        self.turns = self.turns.saturating_add(1);
        let speaker = self.by_key.get_mut(&challenger)?;
        speaker.turn = self.turns;
        let id = speaker.id.clone();
        self.recent.retain(|known| *known != id);
        if self.recent.is_full() {
            self.recent.pop();
        }
        self.recent.insert(0, id.clone());
        Some(id)
    }

    /// Takes over what another decided: most recent first, the dominant speaker at the head. Whether that is somebody
    /// else than before.
    pub(crate) fn follow(&mut self, now: Instant, recent: &[(EndpointKey, EndpointId)]) -> bool {
        let before = self.dominant;
        for (key, id) in recent.iter().rev() {
            self.turns = self.turns.saturating_add(1);
            self.by_key.entry(*key).or_insert_with(|| Speaker::new(id.clone(), now)).turn = self.turns;
        }
        self.recent = recent.iter().take(RECENT_MAX).map(|(_, id)| id.clone()).collect();
        self.dominant = recent.first().map(|(key, _)| *key);
        self.dominant != before
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

    /// How long ago somebody became dominant, counted in changes of the dominant speaker since: 0 is the latest,
    /// `u32::MAX` never. Unlike [`Speakers::recent`] it goes back to the beginning.
    pub(crate) fn rank(&self, key: EndpointKey) -> u32 {
        let turn = self.by_key.get(&key).map_or(0, |speaker| speaker.turn);
        if turn == 0 { u32::MAX } else { self.turns - turn }
    }

    /// Who beats the current speaker; with none, who beats silence.
    fn challenger(&self) -> Option<EndpointKey> {
        let dominant = self.dominant.and_then(|key| self.by_key.get(&key));
        let scores = dominant.map_or([SCORE_MIN; 3], |speaker| speaker.scores);
        let mut best: Option<(EndpointKey, f64)> = None;
        for (key, speaker) in self.by_key.iter().filter(|(key, _)| Some(**key) != self.dominant) {
            let advantage = |scale: usize| (speaker.scores[scale] / scores[scale]).ln();
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
    /// When it was last heard.
    last: Instant,
    /// Until when `levels` are filled.
    filled: Instant,
    floor: Floor,
    /// Immediate, medium, long.
    scores: [f64; 3],
    /// The number of its last turn as dominant speaker; 0 before the first.
    turn: u32,
}

impl Speaker {
    fn new(id: EndpointId, now: Instant) -> Self {
        let (levels, scores) = ([0; IMMEDIATES], [SCORE_MIN; 3]);
        Self { id, levels, last: now, filled: now, floor: Floor::default(), scores, turn: 0 }
    }

    fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    fn level(&mut self, now: Instant, level: u8) -> u8 {
        let level = level.min(LEVEL_MAX);
        (self.last, self.filled) = (now, now);
        self.levels.copy_within(..IMMEDIATES - 1, 1);
        self.levels[0] = level;
        self.floor.sample(level);
        self.floor.above(level)
    }

    fn evaluate(&mut self, now: Instant) {
        self.fill_silence(now);
        if self.levels.iter().all(|level| *level == 0) {
            self.scores = [SCORE_MIN; 3]; // most of a large conference
            return;
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

    /// Clients that are silent may stop sending: silence goes on in their place.
    fn fill_silence(&mut self, now: Instant) {
        let missed = now.saturating_duration_since(self.filled).as_millis() / LEVEL_IDLE.as_millis();
        let missed = usize::try_from(missed).unwrap_or(IMMEDIATES).min(IMMEDIATES);
        if missed > 0 {
            self.levels.copy_within(..IMMEDIATES - missed, missed);
            self.levels[..missed].fill(0);
            self.filled = now;
        }
    }

    /// Each level as a number of sub-bands, 0 for the noise of the room.
    fn immediates(&self) -> ArrayVec<u32, IMMEDIATES> {
        self.levels.iter().map(|level| u32::from(self.floor.above(*level) / SUBBAND)).collect()
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

/// The noise of a room: the lowest level heard, which rises slowly when nothing so low comes any more.
///
/// Levels of 0 do not count: they are silence that the client inserted.
#[derive(Debug, Default)]
struct Floor {
    /// 0 before the first level.
    lowest: u8,
    /// The lowest since `lowest` was set, and how many levels that was.
    since: u8,
    samples: u32,
}

impl Floor {
    fn sample(&mut self, level: u8) {
        if level == 0 {
            return;
        }
        if self.lowest == 0 || level < self.lowest {
            *self = Self { lowest: level, since: 0, samples: 0 };
            return;
        }
        self.since = if self.since == 0 { level } else { self.since.min(level) };
        self.samples += 1;
        if self.samples >= FLOOR_SAMPLES {
            // The geometric mean rises more slowly than the arithmetic one.
            let mean = (u32::from(self.lowest) * u32::from(self.since)).isqrt();
            *self = Self { lowest: u8::try_from(mean).unwrap_or(LEVEL_MAX), since: 0, samples: 0 };
        }
    }

    /// The level, or 0 when it is less than a sub-band above the floor.
    fn above(&self, level: u8) -> u8 {
        if level < self.lowest.min(FLOOR_MAX) + SUBBAND { 0 } else { level }
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
    fn a_constant_hum_is_the_noise_of_a_room_and_not_a_speaker() {
        let mut room = Room::new();
        assert_eq!(room.run(5_000, &[("a", 84), ("b", 10)]), [""; 0]);
        assert_eq!(room.run(2_000, &[("a", 84), ("b", 82)]), ["b"]);
        let id = EndpointId::parse("a").unwrap();
        assert_eq!(room.speakers.level(room.now, EndpointKey(0), &id, 93), 0);
        assert_eq!(room.speakers.level(room.now, EndpointKey(0), &id, 94), 94);
        assert_eq!(room.run(2_000, &[("a", 100), ("b", 10)]), ["a"]);
    }

    #[test]
    fn the_floor_rises_slowly_when_the_room_gets_louder() {
        let mut floor = Floor::default();
        (0..800).for_each(|_| floor.sample(20));
        (0..100).for_each(|_| floor.sample(0));
        assert_eq!(floor.lowest, 20);
        (0..700).for_each(|_| floor.sample(80));
        assert_eq!((floor.lowest, floor.above(29), floor.above(30)), (20, 0, 30));
        (0..1_500).for_each(|_| floor.sample(80));
        assert!((40..=60).contains(&floor.lowest), "{}", floor.lowest);
        floor.sample(5);
        assert_eq!(floor.lowest, 5);
    }

    #[test]
    fn one_loud_packet_does_not_make_a_first_speaker() {
        let mut room = Room::new();
        room.run(280, &[("a", 10), ("b", 10)]);
        assert_eq!(room.run(20, &[("a", 120), ("b", 10)]), [""; 0]);
        assert_eq!(room.run(600, &[("a", 120), ("b", 10)]), ["a"]);
    }

    #[test]
    fn decisions_come_every_300_ms_and_the_loudest_of_several_challengers_wins() {
        let mut room = Room::new();
        room.run(3_000, &[("a", 10), ("b", 10), ("c", 10)]);
        assert_eq!(room.run(900, &[("a", 100), ("b", 10), ("c", 10)]), ["a"]);
        let before = room.speakers.next_decision().unwrap();
        while room.speakers.next_decision() == Some(before) {
            room.run(20, &[("a", 100), ("b", 10), ("c", 10)]);
        }
        assert_eq!(room.speakers.next_decision(), Some(before + DECISION_INTERVAL));
        // `b` is loud for part of each 100 ms only: fewer active blocks on the medium scale.
        let mut changes = Vec::new();
        for _ in 0..30 {
            changes.extend(room.run(40, &[("a", 10), ("b", 10), ("c", 110)]));
            changes.extend(room.run(60, &[("a", 10), ("b", 110), ("c", 110)]));
        }
        assert_eq!(changes, ["c"]);
    }

    #[test]
    fn ranks_go_back_further_than_the_list_of_recent_speakers() {
        let mut room = Room::new();
        let ids: Vec<String> = (0..14).map(|n| format!("p{n:02}")).collect();
        let levels = |loud: usize| -> Vec<(&str, u8)> {
            ids.iter().enumerate().map(|(n, id)| (id.as_str(), if n == loud { 110 } else { 10 })).collect()
        };
        room.run(1_000, &levels(99));
        for (speaker, id) in ids.iter().enumerate().take(13) {
            assert_eq!(room.run(2_000, &levels(speaker)), [id.as_str()]);
        }
        assert_eq!(room.speakers.recent().len(), RECENT_MAX);
        assert_eq!(room.speakers.recent()[0].as_str(), "p12");
        let ranks: Vec<u32> = (0..14).map(|n| room.speakers.rank(EndpointKey(n))).collect();
        assert_eq!((ranks[12], ranks[0], ranks[13]), (0, 12, u32::MAX));
    }

    #[test]
    fn somebody_who_stops_sending_loses_to_the_next() {
        let mut room = Room::new();
        room.run(1_000, &[("a", 10), ("b", 10)]);
        assert_eq!(room.run(2_000, &[("a", 110), ("b", 10)]), ["a"]);
        // `a` sends nothing at all from here on: 0 and 1 are the keys of the two.
        let b = EndpointId::parse("b").unwrap();
        let mut changes = Vec::new();
        for _ in 0..100 {
            room.now += Duration::from_millis(20);
            room.speakers.level(room.now, EndpointKey(1), &b, 100);
            changes.extend(room.speakers.decide(room.now));
        }
        assert_eq!(changes, [b]);
    }

    #[test]
    fn the_room_rests_when_nobody_sends() {
        let mut room = Room::new();
        room.run(1_000, &[("a", 100)]);
        let mut decisions = 0;
        while let Some(at) = room.speakers.next_decision() {
            room.now = at;
            room.speakers.decide(at);
            decisions += 1;
            assert!(decisions < 60, "it must come to rest");
        }
        assert!(decisions >= 49, "not before 15 s: {decisions}");
        room.speakers.remove(EndpointKey(0));
        assert_eq!(room.speakers.dominant(), None);
    }
}
