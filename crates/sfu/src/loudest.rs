//! Whose sound is worth forwarding in a large conference: the loudest few.
//!
//! A speaker's loudness is the exponentially smoothed level of its packets. Places are limited; who loses one keeps
//! being forwarded for a while, because people pause between words and a word whose beginning is missing is hard to
//! understand.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

/// Most places there can be; nobody understands more people at once.
const PLACES_MAX: usize = 16;
/// A place is free when nothing was heard for so long.
const EXPIRY: Duration = Duration::from_millis(150);
/// How long somebody is still forwarded after losing a place.
const HOLD_OVER: Duration = Duration::from_millis(500);
/// A place is not lost to somebody louder sooner than this, so that it does not change with every packet when many talk
/// at once.
const TENURE: Duration = Duration::from_millis(100);
/// Weight of a new level in the smoothed one, in percent.
const ALPHA: u32 = 50;

/// The ranking of one conference. Sources are small dense numbers of the caller's.
#[derive(Debug, Default)]
pub(crate) struct Loudest {
    /// `None`: everybody is forwarded.
    places: Option<usize>,
    heard: Vec<Heard>,
    top: ArrayVec<usize, PLACES_MAX>,
    held: ArrayVec<(usize, Instant), PLACES_MAX>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    energy: u32,
    at: Option<Instant>,
    /// Since when it has a place.
    placed: Option<Instant>,
}

impl Loudest {
    /// Sets the number of places; `None` lets everybody through.
    pub(crate) fn set_places(&mut self, places: Option<usize>) {
        self.places = places.map(|places| places.min(PLACES_MAX));
        while self.top.len() > self.places.unwrap_or(0) {
            self.leave(self.top.len() - 1);
        }
    }

    /// Takes one packet's level, 0 (nothing but the noise of the room) to 127 (loudest). Whether to forward the packet;
    /// the dominant speaker's always is, and does not need a place for it.
    pub(crate) fn hear(&mut self, now: Instant, source: usize, level: u8, dominant: bool) -> bool {
        let Some(places) = self.places else { return true };
        if source >= self.heard.len() {
            self.heard.resize(source + 1, Heard::default());
        }
        let heard = &mut self.heard[source];
        heard.energy = (ALPHA * u32::from(level) + (100 - ALPHA) * heard.energy + 50) / 100;
        heard.at = Some(now);
        let energy = heard.energy;
        if heard.placed.is_some() {
            return true;
        }
        if energy > 0 && self.has_room(now, places, energy) {
            self.heard[source].placed = Some(now);
            self.top.push(source);
            self.held.retain(|(held, _)| *held != source);
            return true;
        }
        dominant || self.is_held(now, source)
    }

    /// Whether a source is among the loudest, for those who rank people by it.
    pub(crate) fn is_ranked(&self, source: usize) -> bool {
        self.places.is_none() || self.heard.get(source).is_some_and(|heard| heard.placed.is_some())
    }

    /// Forgets a source; its number may come back as another.
    pub(crate) fn remove(&mut self, source: usize) {
        if let Some(heard) = self.heard.get_mut(source) {
            *heard = Heard::default();
        }
        self.top.retain(|ranked| *ranked != source);
        self.held.retain(|(held, _)| *held != source);
    }

    /// Makes room for somebody of this energy, if there is none and somebody quieter has a place.
    fn has_room(&mut self, now: Instant, places: usize, energy: u32) -> bool {
        if self.top.len() >= places {
            self.expire(now);
        }
        if self.top.len() < places {
            return true;
        }
        let Some(index) = self.quieter_than(now, energy) else { return false };
        let source = self.leave(index);
        if self.held.len() >= places {
            self.held.remove(0);
        }
        self.held.push((source, now + HOLD_OVER));
        true
    }

    /// Frees the places of those who are not heard any more.
    fn expire(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.top.len() {
            let at = self.heard[self.top[index]].at;
            if at.is_none_or(|at| now.saturating_duration_since(at) > EXPIRY) {
                self.leave(index);
            } else {
                index += 1;
            }
        }
    }

    fn leave(&mut self, index: usize) -> usize {
        let source = self.top.swap_remove(index);
        self.heard[source].placed = None;
        source
    }

    /// The quietest of those who are quieter and have had their place for a while.
    fn quieter_than(&self, now: Instant, energy: u32) -> Option<usize> {
        let all = self.top.iter().enumerate().map(|(index, source)| (index, self.heard[*source]));
        let may_lose = all.filter(|(_, heard)| {
            let settled = heard.placed.is_none_or(|since| now.saturating_duration_since(since) >= TENURE);
            settled && heard.energy < energy
        });
        may_lose.min_by_key(|(_, heard)| heard.energy).map(|(index, _)| index)
    }

    fn is_held(&self, now: Instant, source: usize) -> bool {
        self.held.iter().any(|(held, until)| *held == source && now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Room {
        loudest: Loudest,
        now: Instant,
        dominant: usize,
    }

    impl Room {
        fn new(places: Option<usize>) -> Self {
            let mut loudest = Loudest::default();
            loudest.set_places(places);
            Self { loudest, now: Instant::now(), dominant: usize::MAX }
        }

        /// Everybody at these levels for a while; who is forwarded in the end.
        fn run(&mut self, ms: u64, levels: &[(usize, u8)]) -> Vec<usize> {
            let mut forwarded = Vec::new();
            for _ in 0..ms / 20 {
                self.now += Duration::from_millis(20);
                forwarded.clear();
                for (source, level) in levels {
                    if self.loudest.hear(self.now, *source, *level, *source == self.dominant) {
                        forwarded.push(*source);
                    }
                }
            }
            forwarded
        }
    }

    #[test]
    fn without_places_everybody_is_forwarded() {
        let mut room = Room::new(None);
        assert_eq!(room.run(200, &[(0, 0), (7, 90)]), [0, 7]);
        assert!(room.loudest.is_ranked(0));
    }

    #[test]
    fn the_loudest_get_the_places_and_the_dominant_speaker_needs_none() {
        let mut room = Room::new(Some(2));
        let levels = [(0, 30), (1, 60), (2, 90), (3, 0)];
        room.run(600, &levels);
        assert_eq!(room.run(1_000, &levels), [1, 2]);
        room.dominant = 3;
        assert_eq!(room.run(20, &levels), [1, 2, 3]);
        assert!(room.loudest.is_ranked(1) && !room.loudest.is_ranked(3));
    }

    #[test]
    fn who_loses_a_place_is_forwarded_for_half_a_second_more() {
        let mut room = Room::new(Some(1));
        room.run(200, &[(0, 60)]);
        assert_eq!(room.run(100, &[(0, 60), (1, 100)]), [0, 1]);
        assert_eq!(room.run(380, &[(0, 60), (1, 100)]), [0, 1]);
        assert_eq!(room.run(200, &[(0, 60), (1, 100)]), [1]);
    }

    #[test]
    fn a_pause_between_words_loses_no_beginning() {
        let mut room = Room::new(Some(2));
        room.run(400, &[(0, 80), (1, 80)]);
        room.run(100, &[(0, 0), (1, 80), (2, 90)]);
        assert_eq!(room.run(20, &[(0, 80), (1, 80), (2, 0)]), [0, 1, 2], "everybody's next word begins");
    }

    #[test]
    fn a_place_of_somebody_who_is_gone_is_free() {
        let mut room = Room::new(Some(1));
        room.run(200, &[(0, 127)]);
        assert_eq!(room.run(140, &[(1, 20)]), [0; 0]);
        assert_eq!(room.run(40, &[(1, 20)]), [1]);
        room.loudest.remove(1);
        assert_eq!(room.run(20, &[(2, 10)]), [2]);
    }

    #[test]
    fn noise_of_two_hundred_rooms_takes_no_place_and_the_number_forwarded_is_bounded() {
        let mut room = Room::new(Some(3));
        let noise: Vec<(usize, u8)> = (0..200).map(|source| (source, 0)).collect();
        assert_eq!(room.run(1_000, &noise), [0; 0]);
        let mut random = 7u32;
        for _ in 0..500 {
            let mut shout = |source| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (source, u8::try_from(random >> 25).unwrap())
            };
            let levels: Vec<(usize, u8)> = (0..200).map(&mut shout).collect();
            assert!(room.run(20, &levels).len() <= 3 * 3);
        }
    }
}
