//! Which worker holds whom: decides where conferences and their endpoints go, and remembers it.
//!
//! A conference begins on one worker, its home, and fills it up to a limit; then it fills one further worker after the
//! other, so that as few as possible have to copy packets to each other. Nobody is ever moved.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tertulia_model::{ConferenceId, EndpointId, EventSink};
use tertulia_sfu::Shard;

/// An endpoint that ended is remembered for so long: what the room asked before it heard of it goes where it was, and
/// so does whoever is invited again under the same name, lest one worker make room for them before the other has
/// forgotten them.
const REMEMBERED: Duration = Duration::from_secs(10);

/// All conferences of a bridge.
pub(crate) struct Placement {
    /// Endpoints of a conference on one worker before it goes to another; 0 is never.
    spread_at: usize,
    /// Endpoints of each worker.
    load: Vec<usize>,
    rooms: HashMap<ConferenceId, Room>,
}

struct Room {
    /// Workers that hold a shard; the first is the home.
    shards: Vec<usize>,
    seats: HashMap<EndpointId, Seat>,
    events: Arc<dyn EventSink>,
}

#[derive(Clone, Copy)]
struct Seat {
    worker: usize,
    /// When it ended.
    ended: Option<Instant>,
}

/// Where an endpoint goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) worker: usize,
    /// The shards that there were before this one, the home first, when it is a new one; otherwise nothing.
    pub(crate) joins: Vec<usize>,
}

impl Placement {
    pub(crate) fn new(workers: usize, spread_at: usize) -> Self {
        Self { spread_at, load: vec![0; workers], rooms: HashMap::new() }
    }

    /// Opens a conference on the worker with the fewest. Returns its home, and where an earlier one of this id was.
    pub(crate) fn open(&mut self, conference: ConferenceId, events: Arc<dyn EventSink>) -> (usize, Vec<usize>) {
        let replaced = self.close(conference);
        let mut rooms = vec![0usize; self.load.len()];
        self.rooms.values().for_each(|room| rooms[room.shards[0]] += 1);
        let home = rooms.iter().enumerate().min_by_key(|(_, rooms)| **rooms).map_or(0, |(worker, _)| worker);
        self.rooms.insert(conference, Room { shards: vec![home], seats: HashMap::new(), events });
        (home, replaced)
    }

    /// Forgets a conference; where it was.
    pub(crate) fn close(&mut self, conference: ConferenceId) -> Vec<usize> {
        let Some(room) = self.rooms.remove(&conference) else { return Vec::new() };
        for seat in room.seats.values().filter(|seat| seat.ended.is_none()) {
            self.load[seat.worker] -= 1;
        }
        room.shards
    }

    /// Finds a place for an endpoint, or the one that it has.
    pub(crate) fn seat(&mut self, now: Instant, conference: ConferenceId, endpoint: &EndpointId) -> Option<Place> {
        let room = self.rooms.get_mut(&conference)?;
        let is_over = |seat: &Seat| seat.ended.is_some_and(|at| now.saturating_duration_since(at) >= REMEMBERED);
        room.seats.retain(|id, seat| id == endpoint || !is_over(seat));
        let known = room.seats.get(endpoint).copied();
        let worker = known.map_or_else(|| room.choose(self.spread_at, &self.load), |seat| seat.worker);
        if known.is_none_or(|seat| seat.ended.is_some()) {
            self.load[worker] += 1;
        }
        room.seats.insert(endpoint.clone(), Seat { worker, ended: None });
        let mut joins = Vec::new();
        if !room.shards.contains(&worker) {
            joins.clone_from(&room.shards);
            room.shards.push(worker);
        }
        Some(Place { worker, joins })
    }

    /// Where an endpoint is.
    pub(crate) fn worker_of(&self, conference: ConferenceId, endpoint: &EndpointId) -> Option<usize> {
        self.rooms.get(&conference)?.seats.get(endpoint).map(|seat| seat.worker)
    }

    /// An endpoint gave up by itself, or was sent away.
    pub(crate) fn ended(&mut self, now: Instant, conference: ConferenceId, endpoint: &EndpointId) {
        let seat = self.rooms.get_mut(&conference).and_then(|room| room.seats.get_mut(endpoint));
        if let Some(seat) = seat.filter(|seat| seat.ended.is_none()) {
            seat.ended = Some(now);
            self.load[seat.worker] -= 1;
        }
    }

    /// Who hears of a conference.
    pub(crate) fn events(&self, conference: ConferenceId) -> Option<Arc<dyn EventSink>> {
        self.rooms.get(&conference).map(|room| Arc::clone(&room.events))
    }

    /// Open conferences.
    pub(crate) fn len(&self) -> usize {
        self.rooms.len()
    }
}

impl Room {
    /// The first of its workers with room for one more of it, then the least loaded of the others, then the one with
    /// the fewest of it.
    fn choose(&self, spread_at: usize, load: &[usize]) -> usize {
        let home = self.shards[0];
        if spread_at == 0 {
            return home;
        }
        let mut here = vec![0usize; load.len()];
        self.seats.values().filter(|seat| seat.ended.is_none()).for_each(|seat| here[seat.worker] += 1);
        let with_room = self.shards.iter().copied().find(|worker| here[*worker] < spread_at);
        let others = (0..load.len().min(Shard::MAX)).filter(|worker| !self.shards.contains(worker));
        let can_share = home < Shard::MAX;
        let new = others.filter(|_| can_share).min_by_key(|worker| load[*worker]);
        let fewest = self.shards.iter().copied().min_by_key(|worker| here[*worker]);
        with_room.or(new).or(fewest).unwrap_or(home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tertulia_model::BridgeEvent;

    struct Nobody;

    impl EventSink for Nobody {
        fn event(&self, _: BridgeEvent) {}
    }

    const ROOM: ConferenceId = ConferenceId(1);

    fn id(n: usize) -> EndpointId {
        EndpointId::parse(&format!("p{n}")).unwrap()
    }

    fn seat(placement: &mut Placement, n: usize) -> usize {
        placement.seat(Instant::now(), ROOM, &id(n)).unwrap().worker
    }

    #[test]
    fn a_conference_fills_one_worker_after_the_other_and_then_all_evenly() {
        let mut placement = Placement::new(3, 2);
        assert_eq!(placement.open(ROOM, Arc::new(Nobody)), (0, vec![]));
        placement.load[1] = 1; // somebody else's
        let workers: Vec<usize> = (0..9).map(|n| seat(&mut placement, n)).collect();
        assert_eq!(workers, [0, 0, 2, 2, 1, 1, 0, 2, 1]);
        placement.ended(Instant::now(), ROOM, &id(0));
        placement.ended(Instant::now(), ROOM, &id(1));
        assert_eq!(seat(&mut placement, 10), 0, "there is room again");
        assert_eq!(placement.close(ROOM), [0, 2, 1]);
        assert_eq!((placement.load, placement.rooms.len()), (vec![0, 1, 0], 0));
    }

    #[test]
    fn a_new_shard_joins_those_that_are_there_once() {
        let mut placement = Placement::new(2, 1);
        placement.open(ROOM, Arc::new(Nobody));
        let now = Instant::now();
        assert_eq!(placement.seat(now, ROOM, &id(0)), Some(Place { worker: 0, joins: vec![] }));
        assert_eq!(placement.seat(now, ROOM, &id(1)), Some(Place { worker: 1, joins: vec![0] }));
        assert_eq!(placement.seat(now, ROOM, &id(1)), Some(Place { worker: 1, joins: vec![] }), "it stays");
        assert_eq!(placement.seat(now, ConferenceId(9), &id(1)), None);
    }

    #[test]
    fn a_limit_of_nothing_keeps_everybody_at_home() {
        let mut placement = Placement::new(2, 0);
        placement.open(ROOM, Arc::new(Nobody));
        assert!((0..300).all(|n| seat(&mut placement, n) == 0));
    }

    #[test]
    fn whoever_gave_up_takes_no_place_and_is_forgotten_after_a_while() {
        let mut placement = Placement::new(2, 1);
        placement.open(ROOM, Arc::new(Nobody));
        let now = Instant::now();
        placement.seat(now, ROOM, &id(0));
        placement.ended(now, ROOM, &id(0));
        assert_eq!(placement.worker_of(ROOM, &id(0)), Some(0));
        assert_eq!(placement.seat(now, ROOM, &id(1)).unwrap().worker, 0);
        placement.seat(now + REMEMBERED, ROOM, &id(1));
        assert_eq!(placement.worker_of(ROOM, &id(0)), None);
        assert_eq!(placement.load, [1, 0]);
        placement.seat(now, ROOM, &id(2));
        placement.ended(now, ROOM, &id(2));
        placement.ended(now, ROOM, &id(1));
        assert_eq!(placement.seat(now, ROOM, &id(2)).unwrap().worker, 1, "back to where they were");
        assert_eq!(placement.load, [0, 1]);
    }
}
