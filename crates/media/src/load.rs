//! How busy a worker's thread is, and how many pictures its receivers get at most while it is too busy. Pure: the thread brings the times.

use std::time::{Duration, Instant};

/// Work is measured over so long.
const WINDOW: Duration = Duration::from_secs(1);
/// Too much for so long is overload; a burst of people who come in is not.
const PATIENCE: Duration = Duration::from_secs(10);
/// A change shows its effect within this time; nothing is changed before.
const EFFECT: Duration = Duration::from_secs(60);
/// Below this part of the limit there is room for more.
const RECOVERED: f32 = 0.8;
/// From here on more pictures are more than anybody's page has: there is no limit then.
const UNLIMITED: u32 = 40;

/// Adds up the work of a thread.
#[derive(Debug)]
pub(crate) struct Meter {
    since: Instant,
    busy: Duration,
}

impl Meter {
    /// A thread that begins now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, busy: Duration::ZERO }
    }

    /// The thread worked from one time to another and slept before that. Once a second: the share of the time since the last answer that
    /// it worked, 0 to 1.
    pub(crate) fn worked(&mut self, from: Instant, to: Instant) -> Option<f32> {
        self.busy += to.saturating_duration_since(from);
        let passed = to.saturating_duration_since(self.since);
        if passed < WINDOW {
            return None;
        }
        let share = self.busy.div_duration_f32(passed);
        *self = Self::new(to);
        Some(share)
    }
}

/// Limits last-N while a thread is overloaded, as Jitsi's bridge does (its `LastNReducer`).
#[derive(Debug)]
pub(crate) struct Reducer {
    /// The busy share that is too much; `None` is never.
    overload: Option<f32>,
    overloaded_since: Option<Instant>,
    changed: Option<Instant>,
    last_n: Option<u32>,
}

impl Reducer {
    /// No limit yet. Above `overload`, a busy share, there will be one.
    pub(crate) fn new(overload: Option<f32>) -> Self {
        Self { overload, overloaded_since: None, changed: None, last_n: None }
    }

    /// Most pictures that anybody gets; `None` is any number.
    pub(crate) fn last_n(&self) -> Option<u32> {
        self.last_n
    }

    /// Takes a measurement; `true` when the limit changed. `forwarded` is the largest number of pictures that anybody gets; it is asked for
    /// only when it counts.
    pub(crate) fn measured(&mut self, now: Instant, share: f32, forwarded: impl FnOnce() -> u32) -> bool {
        let Some(overload) = self.overload else { return false };
        let since = *self.overloaded_since.get_or_insert(now);
        if share <= overload {
            self.overloaded_since = None;
        }
        if self.changed.is_some_and(|at| now.saturating_duration_since(at) < EFFECT) {
            return false;
        }
        let next = if share > overload {
            let is_lasting = now.saturating_duration_since(since) >= PATIENCE;
            // Who gets nothing has nothing to be taken away.
            let most = if is_lasting { forwarded() } else { 0 };
            if most == 0 { self.last_n } else { Some((most * 3 / 4).max(1)) }
        } else if share < overload * RECOVERED {
            self.last_n.map(|n| (n * 5 / 4).max(n + 1)).filter(|n| *n < UNLIMITED)
        } else {
            self.last_n
        };
        let is_change = next != self.last_n;
        if is_change {
            (self.last_n, self.changed) = (next, Some(now));
        }
        is_change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_work_is_told_once_a_second() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut meter = Meter::new(start);
        assert_eq!(meter.worked(at(100), at(300)), None);
        assert_eq!(meter.worked(at(700), at(1_000)), Some(0.5));
        assert_eq!(meter.worked(at(1_000), at(1_900)), None);
        assert_eq!(meter.worked(at(2_000), at(2_000)), Some(0.9));
        assert_eq!(meter.worked(at(12_000), at(12_000)), Some(0.0), "a long sleep");
    }

    /// (seconds, busy share, pictures of whoever gets most): the limit after each second.
    fn play(script: &[(u64, f32, u32)]) -> Vec<(u64, Option<u32>)> {
        let (start, mut reducer) = (Instant::now(), Reducer::new(Some(0.95)));
        let (mut second, mut changes) = (0, Vec::new());
        for (seconds, share, forwarded) in script {
            for _ in 0..*seconds {
                second += 1;
                let limited = reducer.last_n().map_or(*forwarded, |n| n.min(*forwarded));
                if reducer.measured(start + Duration::from_secs(second), *share, || limited) {
                    changes.push((second, reducer.last_n()));
                }
            }
        }
        changes
    }

    #[test]
    fn overload_takes_a_quarter_of_the_pictures_once_a_minute() {
        assert_eq!(play(&[(10, 0.99, 50)]), [], "not for ten seconds yet");
        assert_eq!(play(&[(9, 0.99, 50), (1, 0.5, 50), (9, 0.99, 50)]), [], "a pause begins it anew");
        let limits = play(&[(200, 0.99, 50)]);
        assert_eq!(limits, [(11, Some(37)), (71, Some(27)), (131, Some(20)), (191, Some(15))]);
        assert_eq!(play(&[(300, 0.99, 1)]), [(11, Some(1))], "one is left");
        assert_eq!(play(&[(300, 0.99, 0)]), [], "pictures are not what it costs");
        assert_eq!(play(&[(300, 0.95, 50)]), [], "the limit itself is not too much");
    }

    #[test]
    fn what_was_taken_comes_back_when_there_is_room() {
        let script = [(11, 0.99, 40), (100, 0.8, 40), (400, 0.5, 40)];
        let back = [(11, Some(30)), (112, Some(37)), (172, None)];
        assert_eq!(play(&script), back, "not while it is only just enough");
        let little = play(&[(11, 0.99, 2), (400, 0.1, 40)]);
        assert_eq!(little[..4], [(11, Some(1)), (71, Some(2)), (131, Some(3)), (191, Some(4))]);
    }

    #[test]
    fn without_a_limit_nothing_is_ever_taken() {
        let (now, mut reducer) = (Instant::now(), Reducer::new(None));
        for second in 0..100 {
            assert!(!reducer.measured(now + Duration::from_secs(second), 1.0, || 50));
        }
    }
}
