//! Conferences that other workers share: carries what their shards tell each other, and takes what comes.

use std::time::{Duration, Instant};

use tertulia_model::ConferenceId;
use tertulia_sfu::{Conference, Shard, Shards, conference_of};

use super::links::{Link, Links};
use super::{Command, Worker};
use crate::ring::Consumer;
use crate::worker::batch::Flush;

/// Time between two attempts to tell everything anew to a worker that had no room.
const GREET_EVERY: Duration = Duration::from_secs(1);

/// How far the other shards of a conference know what they should.
#[derive(Default)]
pub(super) struct Span {
    /// Those who missed something.
    behind: Shards,
    greeted: Option<Instant>,
}

impl Span {
    /// Carries what a shard has to tell.
    pub(super) fn carry(&mut self, conference: ConferenceId, worker: usize, sfu: &mut Conference, links: &Links) {
        let Some(from) = Shard::new(worker) else { return };
        for (to, message) in sfu.messages() {
            for shard in to.without(self.behind).iter() {
                if !links.tell(shard, Command::Told { conference, from, message: message.clone() }) {
                    self.behind = self.behind.with(Shards::only(shard));
                }
            }
        }
    }
}

impl Worker {
    /// Adds the ways to and from another worker of the bridge.
    pub fn link(&mut self, worker: usize, link: Link, incoming: Consumer) {
        if let Some(shard) = Shard::new(worker) {
            self.links.add(shard, link);
            self.incoming.add(shard, incoming);
        }
    }

    /// Takes the packets that other workers copied; whether there are more. They leave at the end of the turn.
    pub fn handle_copies(&mut self, now: Instant, flush: &mut dyn Flush) -> bool {
        let mut incoming = std::mem::take(&mut self.incoming);
        let more = incoming.receive(|from, frame| {
            let Some(conference) = conference_of(frame) else { return };
            self.busy_at = Some(now);
            self.guarded(conference, |worker| {
                worker.with_conference(now, conference, flush, |sfu, egress, out| {
                    sfu.handle_frame(now, from, frame, egress, out);
                });
            });
        });
        self.incoming = incoming;
        more
    }

    /// A conference has another shard.
    pub(super) fn span(
        &mut self,
        now: Instant,
        conference: ConferenceId,
        home: Shard,
        peer: Shard,
        flush: &mut dyn Flush,
    ) {
        let Some(own) = Shard::new(self.settings.index) else { return };
        self.with_conference(now, conference, flush, |sfu, _, _| {
            sfu.set_shard(own, home);
            sfu.greet(now, peer);
        });
    }

    /// Tells everything anew to workers that had no room, when it is time.
    pub(super) fn catch_up(&mut self, now: Instant, conference: ConferenceId, flush: &mut dyn Flush) {
        let Some(span) = self.rooms.get_mut(&conference).map(|room| &mut room.span) else { return };
        let waited = span.greeted.is_none_or(|at| now.saturating_duration_since(at) >= GREET_EVERY);
        if span.behind.is_empty() || !waited {
            return;
        }
        span.greeted = Some(now);
        let behind = std::mem::take(&mut span.behind);
        self.with_conference(now, conference, flush, |sfu, _, _| behind.iter().for_each(|peer| sfu.greet(now, peer)));
    }
}

#[cfg(test)]
mod tests;
