//! All deadlines of a worker in one heap, at most one entry for each owner.

use std::time::Instant;

use slab::Slab;
use tertulia_model::ConferenceId;

/// Whose deadline it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    Endpoint(usize),
    Conference(ConferenceId),
}

/// An owner, from [`Timers::add`] to [`Timers::remove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimerId(usize);

/// A binary heap whose owners know their places. It allocates only when there are more owners than ever.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: Vec<(Instant, TimerId)>,
    owners: Slab<Owner>,
}

#[derive(Debug)]
struct Owner {
    timer: Timer,
    /// Where its entry is in the heap.
    place: Option<usize>,
}

impl Timers {
    /// A new owner, without a deadline.
    pub(super) fn add(&mut self, timer: Timer) -> TimerId {
        TimerId(self.owners.insert(Owner { timer, place: None }))
    }

    /// Forgets an owner and its deadline.
    pub(super) fn remove(&mut self, id: TimerId) {
        if let Some(place) = self.owners.try_remove(id.0).and_then(|owner| owner.place) {
            self.take(place);
        }
    }

    /// Makes sure that the owner's timer fires by `at`. It may fire before: the heap moves an entry only to an earlier time, so that
    /// deadlines that a packet puts off cost one comparison.
    pub(super) fn schedule(&mut self, id: TimerId, at: Option<Instant>) {
        let (Some(at), Some(owner)) = (at, self.owners.get_mut(id.0)) else { return };
        match owner.place {
            Some(place) if self.heap[place].0 <= at => {}
            Some(place) => {
                self.heap[place].0 = at;
                self.rise(place);
            }
            None => {
                self.heap.push((at, id));
                self.rise(self.heap.len() - 1);
            }
        }
    }

    /// The next that is due. It has no deadline any more.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, id) = *self.heap.first()?;
        if at > now {
            return None;
        }
        self.take(0);
        let owner = self.owners.get_mut(id.0)?;
        owner.place = None;
        Some(owner.timer)
    }

    /// How many deadlines there are.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Takes an entry out of the heap, and puts the last one where it was.
    fn take(&mut self, place: usize) {
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            let place = self.sink(place);
            self.rise(place);
        }
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
        self.settle(place);
    }

    fn sink(&mut self, mut place: usize) -> usize {
        loop {
            let left = 2 * place + 1;
            let children = [left, left + 1].into_iter().filter(|child| *child < self.heap.len());
            let Some(least) = children.min_by_key(|child| self.heap[*child].0) else { break };
            if self.heap[place].0 <= self.heap[least].0 {
                break;
            }
            self.swap(place, least);
            place = least;
        }
        self.settle(place);
        place
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.settle(one);
        self.settle(other);
    }

    fn settle(&mut self, place: usize) {
        let (_, id) = self.heap[place];
        if let Some(owner) = self.owners.get_mut(id.0) {
            owner.place = Some(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_fire_in_their_order_and_each_owner_has_one() {
        let (start, mut timers) = (Instant::now(), Timers::default());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ids: Vec<TimerId> = (0..100).map(|n| timers.add(Timer::Endpoint(n))).collect();
        for round in (0..10u64).rev() {
            for (n, id) in (0u64..).zip(&ids) {
                timers.schedule(*id, Some(at(n * 37 % 101 + 1_000 * round)));
            }
            assert_eq!(timers.len(), 100);
        }
        timers.schedule(ids[0], Some(at(500))); // later than before: it fires when it would have
        timers.schedule(ids[0], None);
        ids.iter().skip(1).step_by(3).for_each(|id| timers.remove(*id));
        assert_eq!(timers.next(), Some(at(0)));
        assert_eq!(timers.pop_due(start.checked_sub(Duration::from_millis(1)).unwrap()), None);
        let fired: Vec<Timer> = std::iter::from_fn(|| timers.pop_due(at(200))).collect();
        let mut left: Vec<u64> = (0..100).filter(|n| n % 3 != 1).collect();
        left.sort_by_key(|n| n * 37 % 101);
        let expected: Vec<Timer> = left.into_iter().map(|n| Timer::Endpoint(usize::try_from(n).unwrap())).collect();
        assert_eq!(fired, expected);
        assert_eq!((timers.len(), timers.next()), (0, None));
        timers.schedule(ids[3], Some(at(9)));
        assert_eq!(timers.next(), Some(at(9)), "an owner whose timer fired can be scheduled again");
    }
}
