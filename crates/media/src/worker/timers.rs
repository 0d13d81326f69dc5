//! All deadlines of a worker in one heap; each owner remembers its earliest entry, stale ones are skipped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use tertulia_model::ConferenceId;

/// Whose deadline it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Endpoint(usize),
    Conference(ConferenceId),
}

/// The heap. It does not allocate once it has grown to the number of owners.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Makes sure that `timer` fires by `at`. `scheduled` is the owner's memory of its earliest entry.
    pub(super) fn schedule(&mut self, scheduled: &mut Option<Instant>, timer: Timer, at: Option<Instant>) {
        let Some(at) = at else { return };
        if scheduled.is_none_or(|earlier| at < earlier) {
            *scheduled = Some(at);
            self.heap.push(Reverse((at, timer)));
        }
    }

    /// The next that is due, stale or not: the owner compares with its memory.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now { None } else { self.heap.pop().map(|Reverse(entry)| entry) }
    }

    /// How many there are, stale ones included.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}
