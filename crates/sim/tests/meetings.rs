//! Meetings that must go well whatever the network does.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::time::Duration;

use tertulia_model::VideoType;
use tertulia_participant::{Event, VideoReport, VideoWishes};
use tertulia_sim::{PersonId, Sim};

const NONE: [&str; 0] = [];

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// How a source fares at somebody.
fn video<'a>(sim: &'a Sim, person: PersonId, source: &str) -> &'a VideoReport {
    sim.participant(person).video().find(|video| video.source.as_str() == source).unwrap()
}

#[test]
fn two_people_see_and_hear_each_other() {
    let mut sim = Sim::seeded(1);
    let [alice, bob] = sim.join(["alice", "bob"]);
    sim.speak(alice, true);
    sim.run_for(secs(5));
    assert_eq!((sim.seen_by(alice), sim.seen_by(bob)), (vec!["bob-v0".to_owned()], vec!["alice-v0".to_owned()]));
    assert_eq!(sim.heard_by(bob), ["alice-a0"]);
    assert_eq!(sim.heard_by(alice), NONE, "digital silence is not forwarded");
    // Ten frames a second for nearly eight seconds, 50 packets a second for five.
    assert!((65..=80).contains(&video(&sim, bob, "alice-v0").decoded));
    let spoken = sim.participant(bob).audio().next().unwrap().packets;
    assert!((245..=265).contains(&spoken), "{spoken} packets of speech");
    assert_eq!(video(&sim, bob, "alice-v0").freezes, 0);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_second_camera_reaches_everyone_over_a_bad_link() {
    let mut sim = Sim::seeded(7);
    let [alice, bob] = sim.join(["alice", "bob"]);
    sim.downlink(bob).loss(0.2).delay(millis(80));
    sim.add_video(alice, VideoType::Camera);
    sim.run_for(secs(5));
    assert_eq!(sim.seen_by(bob), ["alice-v0", "alice-v1"]);
    assert_eq!(sim.seen_by(alice), ["bob-v0"]);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_screen_comes_and_goes() {
    let mut sim = Sim::seeded(2);
    let [alice, bob] = sim.join(["alice", "bob"]);
    let screen = sim.add_video(bob, VideoType::Desktop);
    sim.run_for(secs(3));
    assert_eq!(sim.seen_by(alice), ["bob-v0", "bob-v1"]);
    sim.remove_video(bob, &screen);
    sim.run_for(secs(3));
    assert_eq!(sim.seen_by(alice), ["bob-v0"]);
    assert_eq!(sim.participant(alice).video().count(), 1, "it is not even signalled any more");
}

#[test]
fn everybody_gets_the_height_they_wish_for_within_five_seconds() {
    let mut sim = Sim::seeded(3);
    let [alice, bob] = sim.join(["alice", "bob"]);
    for height in [180, 720, 360, 180] {
        sim.wish(bob, VideoWishes::all_at(height));
        let arrived = |sim: &Sim| i32::from(video(sim, bob, "alice-v0").height) == height;
        let took = sim.run_until(secs(5), arrived);
        assert!(took.is_some(), "{height} lines did not come");
    }
    assert_eq!(video(&sim, bob, "alice-v0").freezes, 0, "a switch is no reason to stand still");
    assert!(sim.participant(alice).is_connected());
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn one_source_is_enough_for_somebody_who_wants_one() {
    let mut sim = Sim::seeded(4);
    let [alice, _, _, dora] = sim.join(["alice", "bob", "carol", "dora"]);
    sim.speak(alice, true);
    sim.wish(dora, VideoWishes { last_n: 1, ..VideoWishes::all_at(180) });
    sim.run_for(secs(6));
    assert_eq!(sim.seen_by(dora), ["alice-v0"], "who speaks is seen first");
    assert_eq!(sim.participant(dora).forwarded_sources(), ["alice-v0"]);
    sim.wish(dora, VideoWishes { last_n: 0, ..VideoWishes::all_at(180) });
    sim.run_for(secs(2));
    assert_eq!(sim.seen_by(dora), NONE);
}

#[test]
fn whoever_speaks_is_told_to_all() {
    let mut sim = Sim::seeded(5);
    let people = sim.join(["alice", "bob", "carol"]);
    for speaker in people {
        sim.speak(speaker, true);
        sim.run_for(secs(4));
        let nick = sim.participant(speaker).nick().clone();
        for listener in people {
            assert_eq!(sim.participant(listener).dominant_speaker(), Some(&nick));
        }
        sim.speak(speaker, false);
    }
}

#[test]
fn a_network_that_loses_repeats_and_reorders_costs_pictures_but_breaks_no_promise() {
    for seed in 10..14 {
        let mut sim = Sim::seeded(seed);
        let [alice, bob, carol] = sim.join(["alice", "bob", "carol"]);
        for person in [alice, bob, carol] {
            sim.uplink(person).loss(0.05).repetition(0.2).delay(millis(30)).jitter(millis(40));
            sim.downlink(person).loss(0.05).repetition(0.2).delay(millis(30)).jitter(millis(40));
        }
        sim.speak(alice, true);
        for height in [720, 180, 360, 720] {
            sim.wish(bob, VideoWishes::all_at(height));
            sim.run_for(secs(5));
        }
        assert_eq!(sim.violations(), NONE);
        for (person, source) in [(alice, "bob-v0"), (bob, "alice-v0"), (bob, "carol-v0"), (carol, "alice-v0")] {
            let seen = video(&sim, person, source);
            // 23 seconds of ten frames each. Somebody whose three requests for a key frame in ten seconds are used up stands still.
            assert!(seen.decoded > 150, "{source}: {} frames, {} freezes", seen.decoded, seen.freezes);
        }
    }
}

#[test]
fn a_new_address_keeps_the_meeting() {
    let mut sim = Sim::seeded(20);
    let [alice, bob] = sim.join(["alice", "bob"]);
    sim.move_address(bob, 40_000);
    sim.run_for(millis(1_100)); // what was seen before is no longer "lately"
    let back = |sim: &Sim| sim.seen_by(bob) == ["alice-v0"] && sim.seen_by(alice) == ["bob-v0"];
    let took = sim.run_until(secs(4), back);
    assert!(took.is_some(), "sound and picture did not come back within five seconds");
    sim.run_for(secs(30));
    assert!(back(&sim), "and they stay");
    assert!(!sim.events(bob).contains(&Event::Disconnected));
}

#[test]
fn somebody_who_vanishes_is_gone_after_a_minute_and_nobody_else_feels_it() {
    let mut sim = Sim::seeded(21);
    let [alice, bob, carol] = sim.join(["alice", "bob", "carol"]);
    sim.vanish(carol);
    sim.run_for(secs(30));
    assert_eq!(sim.participant(alice).occupants().count(), 2, "carol may come back");
    sim.run_for(secs(35));
    assert_eq!(sim.participant(alice).occupants().count(), 1);
    assert_eq!(sim.seen_by(alice), ["bob-v0"]);
    assert_eq!(sim.seen_by(bob), ["alice-v0"]);
    assert_eq!(sim.left().worker.endpoints, 2);
}

#[test]
fn a_line_that_was_dead_for_20_seconds_gets_a_new_session() {
    let mut sim = Sim::seeded(22);
    let [alice, bob] = sim.join(["alice", "bob"]);
    sim.downlink(bob).loss(1.0);
    sim.uplink(bob).loss(1.0);
    sim.run_for(secs(20));
    assert_eq!(sim.seen_by(bob), NONE);
    sim.downlink(bob).loss(0.0);
    sim.uplink(bob).loss(0.0);
    let back = |sim: &Sim| sim.seen_by(bob) == ["alice-v0"] && sim.seen_by(alice) == ["bob-v0"];
    assert!(sim.run_until(secs(20), back).is_some(), "{:?}", sim.events(bob));
    assert_eq!(sim.violations(), NONE);
}
