//! What senders are told of what anybody wants of them: nothing is sent that nobody looks at.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::time::Duration;

use tertulia_participant::{Coding, Equipment, VideoWishes};
use tertulia_sim::{PersonId, Sim};

const NONE: [&str; 0] = [];

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Small pictures in so many layers.
fn camera(coding: Coding) -> Equipment {
    Equipment { coding, frames_per_second: 10, frame_lens: [150, 600, 2_400], ..Equipment::USUAL }
}

/// The height that alice was told last, and what somebody sees of her when five seconds have passed.
fn after(sim: &mut Sim, alice: PersonId, viewer: PersonId) -> (Option<i32>, Option<u16>) {
    sim.run_for(secs(5));
    let told = sim.participant(alice).wanted_heights().get("alice-v0").copied();
    let is_seen = sim.seen_by(viewer).contains(&"alice-v0".to_owned());
    let report = sim.participant(viewer).video().find(|video| video.source.as_str() == "alice-v0");
    (told, report.filter(|_| is_seen).map(|video| video.height))
}

#[test]
fn layers_that_nobody_watches_are_switched_off_and_come_back() {
    for ssrc_rewriting in [false, true] {
        for coding in Coding::ALL {
            let mut sim = Sim::seeded(60);
            let alice = sim.arrive("alice", camera(coding));
            let viewer = Equipment { cameras: 0, ssrc_rewriting, ..camera(coding) };
            let [thumb, stage] = ["bob", "carol"].map(|name| sim.arrive(name, viewer));
            sim.run_for(secs(3));
            let name = format!("{coding:?}, rewriting: {ssrc_rewriting}");
            for viewer in [thumb, stage] {
                sim.wish(viewer, VideoWishes::all_at(0));
            }
            assert_eq!(after(&mut sim, alice, thumb), (Some(0), None), "{name}: nobody watches");
            sim.wish(thumb, VideoWishes::all_at(180));
            assert_eq!(after(&mut sim, alice, thumb), (Some(180), Some(180)), "{name}: one thumbnail");
            sim.wish(stage, VideoWishes::all_at(720));
            assert_eq!(after(&mut sim, alice, stage), (Some(720), Some(720)), "{name}: on stage");
            assert_eq!(after(&mut sim, alice, thumb), (Some(720), Some(180)), "{name}: and the thumbnail");
            sim.wish(stage, VideoWishes::all_at(360));
            assert_eq!(after(&mut sim, alice, stage), (Some(360), Some(360)), "{name}: smaller");
            sim.leave(stage);
            assert_eq!(after(&mut sim, alice, thumb), (Some(180), Some(180)), "{name}: the stage leaves");
            sim.wish(thumb, VideoWishes { last_n: 0, ..VideoWishes::all_at(180) });
            assert_eq!(after(&mut sim, alice, thumb), (Some(0), None), "{name}: beyond last-N");
            assert_eq!(sim.violations(), NONE, "{name}");
        }
    }
}

#[test]
fn a_receiver_is_told_at_once_what_is_forwarded_and_every_ten_seconds_what_its_line_takes() {
    let mut sim = Sim::seeded(61);
    let [alice, bob] = sim.join(["alice", "bob"]);
    assert_eq!(sim.participant(bob).forwarded_sources(), ["alice-v0"]);
    sim.wish(bob, VideoWishes { last_n: 0, ..VideoWishes::all_at(180) });
    sim.run_for(Duration::from_millis(50));
    assert_eq!(sim.participant(bob).forwarded_sources(), NONE, "one way there and one back");
    sim.wish(bob, VideoWishes::all_at(180));
    sim.run_for(Duration::from_millis(50));
    assert_eq!(sim.participant(bob).forwarded_sources(), ["alice-v0"]);
    let before = sim.participant(bob).estimates_told();
    sim.run_for(secs(40));
    let told = sim.participant(bob).estimates_told() - before;
    assert!((3..=5).contains(&told), "{told} in 40 s");
    assert!(sim.participant(alice).estimate_bps().is_some());
}
