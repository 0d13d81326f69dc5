//! Transports whose peers keep checking: their responders, one behind the other, and a look now and then at who has stopped.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::batch::Flush;
use super::egress::BatchWire;
use super::endpoint::News;
use super::{Worker, key_of};
use crate::transport::{QUIET, Responder};

/// Between two looks. One looks at everybody: that is cheaper than a deadline for each, which every check would put off.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Responders by slot.
#[derive(Debug, Default)]
pub(super) struct Watch {
    responders: Vec<Option<Responder>>,
    count: usize,
    look_at: Option<Instant>,
}

impl Watch {
    pub(super) fn get(&self, slot: usize) -> Option<&Responder> {
        self.responders.get(slot)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Responder> {
        self.responders.get_mut(slot)?.as_mut()
    }

    pub(super) fn put(&mut self, now: Instant, slot: usize, responder: Responder) {
        if self.responders.len() <= slot {
            self.responders.resize_with(slot + 1, || None);
        }
        self.count += usize::from(self.responders[slot].replace(responder).is_none());
        self.look_at.get_or_insert(now + LOOK_INTERVAL);
    }

    pub(super) fn take(&mut self, slot: usize) -> Option<Responder> {
        let responder = self.responders.get_mut(slot)?.take()?;
        self.count -= 1;
        Some(responder)
    }

    /// When [`Watch::look`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.look_at.filter(|_| self.count > 0)
    }

    /// Puts the slots of those from whom nothing has come for [`QUIET`] into `silent`, once a second.
    pub(super) fn look(&mut self, now: Instant, silent: &mut Vec<usize>) {
        if self.look_at.is_none_or(|at| now < at) {
            return;
        }
        self.look_at = (self.count > 0).then(|| now + LOOK_INTERVAL);
        let is_silent = |responder: &Responder| now.saturating_duration_since(responder.heard()) >= QUIET;
        let found =
            self.responders.iter().enumerate().filter(|(_, responder)| responder.as_ref().is_some_and(is_silent));
        silent.extend(found.map(|(slot, _)| slot));
    }
}

impl Worker {
    /// Most of what an idle worker does: answers a check that changes nothing. Of whoever asks it touches the responder alone: neither the
    /// endpoint nor its timer nor the conference, because nothing there would change. `false` when the check is not of that kind.
    pub(super) fn answer_check(
        &mut self,
        now: Instant,
        slot: Option<usize>,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
        flush: &mut dyn Flush,
    ) -> bool {
        let Self { watch, batch, .. } = self;
        let Some((slot, responder)) = slot.and_then(|slot| Some((slot, watch.get_mut(slot)?))) else { return false };
        let mut wire = BatchWire { slot, batch, flush };
        let answered = catch_unwind(AssertUnwindSafe(|| responder.answer(now, local, remote, bytes, &mut wire)));
        answered.unwrap_or_else(|_| {
            if let Some(conference) = self.slots.get(slot).map(|endpoint| endpoint.conference) {
                self.lose(conference);
            }
            true
        })
    }

    /// Whoever is asked, changed or given time is not answered for meanwhile: its transport learns what its responder heard.
    /// [`Worker::reschedule`] lends another one.
    pub(super) fn call_back(&mut self, slot: usize) {
        let Some(responder) = self.watch.take(slot) else { return };
        let Some(endpoint) = self.slots.get_mut(slot) else { return };
        endpoint.last_heard = endpoint.last_heard.max(responder.heard());
        endpoint.transport.take_back(&responder);
    }

    /// When something authentic last came from an endpoint.
    pub(super) fn last_heard(&self, slot: usize) -> Option<Instant> {
        let aside = self.watch.get(slot).map(Responder::heard);
        self.slots.get(slot).map(|endpoint| aside.map_or(endpoint.last_heard, |at| at.max(endpoint.last_heard)))
    }

    /// Gives time to those whose checks have stopped.
    pub(super) fn look_for_silence(&mut self, now: Instant, flush: &mut dyn Flush) {
        let mut silent = std::mem::take(&mut self.silent);
        self.watch.look(now, &mut silent);
        silent.drain(..).for_each(|slot| self.endpoint_timeout(now, slot, flush));
        self.silent = silent;
    }

    /// After anything that may have changed what a transport waits for.
    pub(super) fn reschedule(&mut self, now: Instant, slot: usize) {
        let Some(endpoint) = self.slots.get_mut(slot) else { return };
        let responder = endpoint.transport.lend();
        let news = endpoint.take_news(responder.is_some());
        self.timers.schedule(endpoint.timer, endpoint.next_timeout());
        if let Some(responder) = responder {
            self.watch.put(now, slot, responder);
        }
        if let Some(room) = self.rooms.get_mut(&endpoint.conference) {
            match news {
                Some(News::Heard(at)) => room.sfu.handle_activity(at, key_of(slot)),
                Some(News::Watched) => room.sfu.handle_watched(now, key_of(slot)),
                None => {}
            }
            room.touch(endpoint.conference, &mut self.touched);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::World;
    use super::Duration;
    use tertulia_model::{BridgeRequest, EndpointId, ExpireReason};

    impl World {
        fn slot(&self, name: &str) -> usize {
            self.worker.slot_of(super::super::tests::ROOM, &EndpointId::parse(name).unwrap()).unwrap()
        }

        fn answers_for(&self, name: &str) -> bool {
            self.worker.watch.get(self.slot(name)).is_some()
        }
    }

    #[test]
    fn whoever_checks_is_answered_for_until_they_fall_silent_restart_or_go() {
        let mut world = World::new();
        world.join("ana");
        world.join("bo");
        assert!(!world.answers_for("ana"), "the route is new");
        world.run(20_000);
        assert!(world.answers_for("ana") && world.answers_for("bo"));
        world.request(BridgeRequest::RestartIce { endpoint: EndpointId::parse("ana").unwrap() });
        assert!(!world.answers_for("ana") && world.answers_for("bo"));
        let silent = world.clients.pop().unwrap();
        world.run(5_100);
        assert!(!world.answers_for("bo"));
        world.clients.push(silent);
        world.run(10_000);
        assert!(world.answers_for("bo"));
        let slot = world.slot("bo");
        world.request(BridgeRequest::Expire { endpoint: EndpointId::parse("bo").unwrap() });
        assert!(world.worker.watch.get(slot).is_none());
    }

    #[test]
    fn whoever_is_answered_for_is_seldom_asked() {
        let mut world = World::new();
        world.join("ana");
        world.run(20_000);
        let before = world.asked;
        world.run(600_000);
        assert!((1..=3).contains(&(world.asked - before)), "{} in ten minutes", world.asked - before);
    }

    #[test]
    fn an_address_stays_with_whoever_is_answered_for() {
        let mut world = World::new();
        world.join("ana");
        world.join("bo");
        world.run(20_000);
        let (ana, bo, address) = (world.slot("ana"), world.slot("bo"), world.clients[0].address);
        let known = world.worker.slots[ana].last_heard;
        world.run(9_000);
        assert_eq!(world.worker.slots[ana].last_heard, known, "else this test proves nothing");
        world.worker.learn_address(world.now, bo, address);
        assert_eq!(world.worker.by_address.get(&address), Some(&ana));
    }

    #[test]
    fn whoever_moves_is_followed_although_the_old_address_was_answered_for() {
        for interval_ms in [250, 480, 900, 1_500, 2_500] {
            let mut world = World::new();
            world.join("ana");
            world.join("bo");
            world.clients[0].transport.check_every(Duration::from_millis(interval_ms));
            world.run(20_000);
            assert!(world.answers_for("ana"));
            let moved = world.now;
            world.clients[0].address = "10.7.7.7:7777".parse().unwrap();
            while !world.first_hears_second(u16::try_from((world.now - moved).as_millis() / 10).unwrap()) {
                world.run(10);
                let took = world.now - moved;
                assert!(took < Duration::from_millis(interval_ms + 1_100), "checks every {interval_ms} ms");
            }
        }
    }

    #[test]
    fn whoever_checks_and_never_connects_is_given_up_in_time() {
        let mut world = World::new();
        world.blocks_dtls = true;
        world.join("ana");
        world.run(25_000);
        assert_eq!((world.answers_for("ana"), world.has_expired()), (true, None));
        world.run(10_000);
        assert_eq!(world.has_expired(), Some(ExpireReason::NeverConnected));
    }
}
