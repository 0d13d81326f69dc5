//! When to tell a sender how large anybody wants its picture: more of it soon, less of it once that lasts.

use std::time::{Duration, Instant};

/// Less than before is told once it was so for this long. A sender that switches a layer off and on again costs everybody a key frame,
/// and who watches whom changes for moments only: when people join, and when the speaker changes.
const LESS_AFTER: Duration = Duration::from_secs(1);
/// Shortest gap between two words to a sender. Clients change their encodings in steps that take tens of milliseconds and do not wait for
/// each other; of two at once the former may win, and a camera stays switched off that everybody waits for (lib-jitsi-meet as of 2022).
const GAP: Duration = Duration::from_millis(250);

/// What a sender was told last of one of its sources: lines, −1 for no limit, 0 for off.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SenderLimit {
    told: Option<(i32, Instant)>,
    /// Since when less is wanted.
    less_since: Option<Instant>,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It knows.
    None,
    /// It is to be told now.
    Now,
    /// Not yet; to be asked again then.
    At(Instant),
}

impl SenderLimit {
    /// Whether it is to be told that this much is wanted. After [`Change::Now`] it counts as told.
    pub(crate) fn change(&mut self, now: Instant, wanted: i32) -> Change {
        // Before it is told anything it sends all it has.
        let told = self.told.map(|(told, _)| told);
        if told == Some(wanted) {
            self.less_since = None;
            return Change::None;
        }
        let is_less = wanted == 0 || told.is_some_and(|told| larger(told, wanted) == told);
        self.less_since = if is_less { self.less_since.or(Some(now)) } else { None };
        let lasts = self.less_since.map(|since| since + LESS_AFTER);
        let gap = self.told.map(|(_, at)| at + GAP);
        match lasts.max(gap).filter(|at| now < *at) {
            Some(at) => Change::At(at),
            None => {
                *self = Self { told: Some((wanted, now)), less_since: None };
                Change::Now
            }
        }
    }
}

/// The larger of two limits, of which −1 is none at all.
pub(crate) fn larger(one: i32, other: i32) -> i32 {
    if one < 0 || other < 0 { -1 } else { one.max(other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_told_at_once_and_less_when_it_lasts() {
        let (mut limit, start) = (SenderLimit::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(limit.change(at(0), 0), Change::At(at(1_000)), "whoever comes is about to be watched");
        assert_eq!(limit.change(at(100), 180), Change::Now);
        assert_eq!(limit.change(at(400), 720), Change::Now);
        assert_eq!(limit.change(at(2_000), 180), Change::At(at(3_000)));
        assert_eq!(limit.change(at(2_900), 720), Change::None, "it was for a moment");
        assert_eq!(limit.change(at(3_000), 360), Change::At(at(4_000)));
        assert_eq!(limit.change(at(3_999), 180), Change::At(at(4_000)), "still less");
        assert_eq!(limit.change(at(4_000), 180), Change::Now);
        assert_eq!(limit.change(at(5_000), 0), Change::At(at(6_000)));
        assert_eq!(limit.change(at(6_000), 0), Change::Now);
        assert_eq!(limit.change(at(7_000), 0), Change::None);
    }

    #[test]
    fn nobody_is_told_two_things_at_once() {
        let (mut limit, start) = (SenderLimit::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(limit.change(at(0), 180), Change::Now);
        assert_eq!(limit.change(at(10), 360), Change::At(at(250)));
        assert_eq!(limit.change(at(20), -1), Change::At(at(250)));
        assert_eq!(limit.change(at(250), -1), Change::Now, "no limit is more than any");
        assert_eq!(limit.change(at(260), 0), Change::At(at(1_260)));
        assert_eq!(limit.change(at(1_260), 0), Change::Now);
        assert_eq!(limit.change(at(1_270), 180), Change::At(at(1_510)), "also when it was switched off just now");
    }
}
