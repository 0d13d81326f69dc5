//! Whose packets may come under one SSRC: always one source's, or those of one source after the other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// By how much packets may overtake the announcement of their source, which takes another way.
const OVERTAKING: Duration = Duration::from_secs(1);

/// The sources of one SSRC, by the hashes of their names.
#[derive(Debug)]
pub(super) struct Carried {
    present: u32,
    changes: bool,
    /// Those before: late packets of theirs may come.
    past: BTreeSet<u32>,
    /// One whose announcement is overtaken, and when that was noticed.
    early: Option<(u32, Instant)>,
}

impl Carried {
    /// One source for ever.
    pub(super) fn always(source: u32) -> Self {
        Self { present: source, changes: false, past: BTreeSet::new(), early: None }
    }

    /// One source after the other, beginning with this one.
    pub(super) fn changing(source: u32) -> Self {
        Self { changes: true, ..Self::always(source) }
    }

    /// The source that was announced last.
    pub(super) fn present(&self) -> u32 {
        self.present
    }

    /// Another one is announced; returns the one before.
    pub(super) fn change(&mut self, source: u32) -> u32 {
        let before = std::mem::replace(&mut self.present, source);
        self.past.insert(before);
        self.early = None;
        before
    }

    /// Whether a packet of this source may come now.
    pub(super) fn allows(&mut self, now: Instant, source: u32) -> bool {
        if source == self.present || !self.changes {
            return source == self.present;
        }
        if self.past.contains(&source) {
            return true;
        }
        let (early, since) = *self.early.get_or_insert((source, now));
        early == source && now <= since + OVERTAKING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_may_be_a_little_before_its_announcement_and_any_time_behind_it() {
        let (start, mut carried) = (Instant::now(), Carried::changing(1));
        assert!(carried.allows(start, 1) && carried.allows(start, 2), "two is early");
        assert!(!carried.allows(start, 3), "one at a time");
        assert!(!carried.allows(start + Duration::from_secs(2), 2), "it was never announced");
        assert_eq!(carried.change(2), 1);
        assert!(carried.allows(start, 1) && carried.allows(start, 2));
        let mut always = Carried::always(1);
        assert!(always.allows(start, 1) && !always.allows(start, 2));
    }
}
