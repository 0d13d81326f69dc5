//! The ways from a worker to the others of its bridge: packets by a ring, everything else by the other's inbox. Nothing
//! here waits: a worker that does not keep up loses packets, and is told everything anew when it has room again.

use tertulia_sfu::{FRAME_MAX, Shard, Shards};

use super::Command;
use crate::ring::{Consumer, Producer};

/// Packets taken from one worker in a turn, before sockets are looked at again.
const FRAMES_PER_TURN: usize = 512;

/// Another worker.
pub trait Peer: Send {
    /// Gives it a command and wakes it; `false` when it has no room.
    fn tell(&self, command: Command) -> bool;

    /// Wakes it: packets are waiting.
    fn wake(&self);
}

/// The way to another worker.
pub struct Link {
    packets: Producer,
    peer: Box<dyn Peer>,
    /// Whether packets were put in since it was woken.
    is_waiting: bool,
}

impl Link {
    /// The way to a worker that holds the other end of the ring.
    pub fn new(packets: Producer, peer: Box<dyn Peer>) -> Self {
        Self { packets, peer, is_waiting: false }
    }
}

/// All ways from one worker, by the others' numbers; nothing for itself.
#[derive(Default)]
pub(super) struct Links(Vec<Option<Link>>);

/// All ways to one worker.
#[derive(Default)]
pub(super) struct Incoming {
    rings: Vec<(Shard, Consumer)>,
    buffer: Vec<u8>,
}

impl Links {
    pub(super) fn add(&mut self, to: Shard, link: Link) {
        if to.worker() >= self.0.len() {
            self.0.resize_with(to.worker() + 1, || None);
        }
        self.0[to.worker()] = Some(link);
    }

    /// Gives another worker a command; `false` when it has no room, or is none.
    pub(super) fn tell(&self, shard: Shard, command: Command) -> bool {
        self.0.get(shard.worker()).and_then(Option::as_ref).is_some_and(|link| link.peer.tell(command))
    }

    /// Copies a packet; returns those who have no room.
    pub(super) fn copy(&mut self, to: Shards, frame: &[u8]) -> Shards {
        let mut lost = Shards::default();
        for shard in to.iter() {
            let link = self.0.get_mut(shard.worker()).and_then(Option::as_mut);
            let copied = link.is_some_and(|link| {
                let fits = link.packets.push(frame);
                link.is_waiting |= fits;
                fits
            });
            if !copied {
                lost = lost.with(Shards::only(shard));
            }
        }
        lost
    }

    /// Wakes everybody for whom there is something: once a turn.
    pub(super) fn wake(&mut self) {
        for link in self.0.iter_mut().flatten().filter(|link| link.is_waiting) {
            link.is_waiting = false;
            link.peer.wake();
        }
    }
}

impl Incoming {
    pub(super) fn add(&mut self, from: Shard, packets: Consumer) {
        self.buffer.resize(FRAME_MAX, 0);
        self.rings.push((from, packets));
    }

    /// Calls `take` with what came, up to the turn's limit. Whether more is waiting.
    pub(super) fn receive(&mut self, mut take: impl FnMut(Shard, &[u8])) -> bool {
        let Self { rings, buffer } = self;
        let mut more = false;
        for (shard, packets) in rings {
            for _ in 0..FRAMES_PER_TURN {
                let Some(len) = packets.pop(&mut buffer[..]) else { break };
                take(*shard, &buffer[..len]);
            }
            more |= !packets.is_empty();
        }
        more
    }
}
