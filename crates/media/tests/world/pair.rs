//! Two worlds whose workers share a conference: copies and commands cross when they are told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tertulia_media::ring::ring;
use tertulia_media::worker::batch::Flush;
use tertulia_media::worker::{Command, Link, Peer, Shard};

use crate::world::{Flying, ROOM, World};

/// What a worker is told by the other.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<VecDeque<Command>>>);

impl Peer for Inbox {
    fn tell(&self, command: Command) -> bool {
        self.0.lock().unwrap().push_back(command);
        true
    }

    fn wake(&self) {}
}

/// The first is the home.
pub(crate) struct Pair {
    pub(crate) worlds: [World; 2],
    inboxes: [Inbox; 2],
}

impl Pair {
    /// Both rooms become shards of one conference.
    pub(crate) fn of(mut worlds: [World; 2]) -> Self {
        let inboxes = [Inbox::default(), Inbox::default()];
        let ((there, arriving), (back, returning)) = (ring(), ring());
        worlds[0].worker.link(1, Link::new(there, Box::new(inboxes[1].clone())), returning);
        worlds[1].worker.link(0, Link::new(back, Box::new(inboxes[0].clone())), arriving);
        worlds[1].now = worlds[0].now;
        for (own, peer) in [(1, 0), (0, 1)] {
            let [home, peer] = [0, peer].map(|shard| Shard::new(shard).unwrap());
            let now = worlds[own].now;
            let span = Command::Span { conference: ROOM, home, peer };
            worlds[own].worker.handle_command(now, span, &mut Flying::default());
        }
        let mut pair = Self { worlds, inboxes };
        pair.exchange(&mut Flying::default());
        pair
    }

    /// Time passes on both, and commands cross.
    pub(crate) fn pass(&mut self, time: Duration, flush: &mut dyn Flush) {
        for world in &mut self.worlds {
            world.now += time;
            world.worker.on_timeout(world.now, flush);
        }
        self.exchange(flush);
    }

    /// Commands cross until there are none.
    pub(crate) fn exchange(&mut self, flush: &mut dyn Flush) {
        while let Some((world, command)) = (0..2).find_map(|world| Some((world, self.inboxes[world].take()?))) {
            let now = self.worlds[world].now;
            self.worlds[world].worker.handle_command(now, command, flush);
        }
    }
}

impl Inbox {
    fn take(&self) -> Option<Command> {
        self.0.lock().unwrap().pop_front()
    }
}
