//! Receivers that ask for a fixed set of SSRCs: everything comes to them under few, one source after the other.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::time::Duration;

use tertulia_model::{MediaKind, VideoType};
use tertulia_participant::{Coding, Equipment, VideoWishes};
use tertulia_sim::{Left, PersonId, Sim};

const NONE: [&str; 0] = [];
/// The limit of Jitsi's bridge for each kind.
const SSRCS_MAX: usize = 50;
/// Few and small pictures: what is decided does not depend on their number.
const PLAIN: Equipment = Equipment { frames_per_second: 10, frame_lens: [150, 600, 2_400], ..Equipment::USUAL };
const REWRITING: Equipment = Equipment { ssrc_rewriting: true, ..PLAIN };
/// Somebody who only watches.
const WATCHER: Equipment = Equipment { microphone: false, cameras: 0, ..REWRITING };

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Waits until somebody sees all of these at once; how long it took.
fn sees(sim: &mut Sim, person: PersonId, sources: &[String], most: Duration) -> Option<Duration> {
    sim.run_until(most, |sim| {
        let seen = sim.seen_by(person);
        sources.iter().all(|source| seen.contains(source))
    })
}

#[test]
fn with_and_without_rewriting_all_see_and_hear_each_other() {
    let mut sim = Sim::seeded(40);
    let equipment = [PLAIN, REWRITING, PLAIN, REWRITING];
    let names = ["alice", "bob", "carol", "dora"];
    let mut people: Vec<PersonId> = names.iter().zip(equipment).map(|(name, what)| sim.arrive(name, what)).collect();
    sim.run_for(secs(3));
    people.iter().for_each(|person| sim.speak(*person, true));
    let late = sim.arrive("erin", REWRITING);
    people.push(late);
    sim.run_for(secs(4));
    let names = ["alice", "bob", "carol", "dora", "erin"];
    for (person, own) in people.iter().zip(names) {
        let others = |suffix: &str| -> Vec<String> {
            names.iter().filter(|name| **name != own).map(|name| format!("{name}{suffix}")).collect()
        };
        assert_eq!(sim.seen_by(*person), others("-v0"), "{own}");
        let speaking: Vec<String> = others("-a0").into_iter().filter(|name| name != "erin-a0").collect();
        assert_eq!(sim.heard_by(*person), speaking, "{own}, who may have come in the middle of a sentence");
    }
    let few = sim.participant(late).carried();
    assert_eq!(few.len(), 8, "four pictures and four voices: {few:?}");
    assert_eq!(sim.participant(people[0]).carried().len(), 0, "whoever did not ask is told nothing");
    assert_eq!(sim.violations(), NONE);
}

/// A page of tiles: these at 180 lines, nothing else.
fn page(sources: &[String]) -> VideoWishes {
    let heights = sources.iter().map(|source| (source.clone(), 180)).collect();
    VideoWishes { last_n: 25, heights, ..VideoWishes::all_at(0) }
}

#[test]
fn sixty_sources_are_leafed_through_under_fifty_ssrcs() {
    let mut sim = Sim::seeded(41);
    let frugal = Equipment { frames_per_second: 5, frame_lens: [60, 240, 960], ..PLAIN };
    let codings = [
        Coding::Vp8,
        Coding::Vp8L1T3,
        Coding::Vp8L1T3Described,
        Coding::Vp9L1T3,
        Coding::Vp9L3T3Key,
        Coding::Av1L1T3,
        Coding::Av1L3T3,
        Coding::H264,
        Coding::H264L1T3,
    ];
    let people: Vec<PersonId> = (0..30)
        .map(|number| {
            let coding = codings[number % codings.len()];
            let name = format!("p{number:02}");
            sim.arrive(&name, Equipment { coding, cameras: 2, ..frugal })
        })
        .collect();
    let watcher = sim.arrive("watcher", WATCHER);
    sim.run_for(secs(6));
    // Nobody else looks at anything: the cameras have nobody to send to but the watcher.
    people.iter().for_each(|person| sim.wish(*person, VideoWishes::all_at(0)));
    let mut all: Vec<String> = (0..30).flat_map(|n| [format!("p{n:02}-v0"), format!("p{n:02}-v1")]).collect();
    // A page a second, in any order: whoever leafs that fast may see little, but nothing breaks.
    for turn in 0..30 {
        for place in 0..all.len() {
            let other = sim.pick(all.len());
            all.swap(place, other);
        }
        sim.wish(watcher, page(&all[..25]));
        let (speaker, quiet) = (people[turn % people.len()], people[(turn + people.len() - 2) % people.len()]);
        sim.speak(speaker, true);
        sim.speak(quiet, false);
        sim.run_for(secs(1));
    }
    assert_eq!(sim.violations(), NONE);
    // Every page comes within three seconds of being wished for.
    all.sort();
    for tiles in all.chunks(20).chain(all.chunks(15)) {
        sim.wish(watcher, page(tiles));
        let took = sees(&mut sim, watcher, tiles, secs(3));
        assert!(took.is_some(), "of {tiles:?} came {:?}", sim.seen_by(watcher));
    }
    let participant = sim.participant(watcher);
    assert_eq!(participant.ssrc_count(MediaKind::Video), SSRCS_MAX, "all were needed");
    assert!(participant.ssrc_count(MediaKind::Audio) <= people.len());
    let missing: u64 = participant.video().map(|video| video.missing).sum();
    assert_eq!(missing, 0, "numbers go on without a hole over all changes");
    assert_eq!(sim.violations(), NONE);
    people.into_iter().chain([watcher]).for_each(|person| sim.leave(person));
    sim.run_for(secs(200));
    assert_eq!(sim.left(), Left::default());
}

#[test]
fn sixty_voices_are_heard_under_fifty_ssrcs() {
    let mut sim = Sim::seeded(42);
    let mute = Equipment { cameras: 0, ..PLAIN };
    let people: Vec<PersonId> = (0..60).map(|number| sim.arrive(&format!("p{number:02}"), mute)).collect();
    let listener = sim.arrive("listener", WATCHER);
    sim.run_for(secs(4));
    // The first come back when their SSRCs have been given to others.
    for (number, person) in people.iter().enumerate().chain(people.iter().enumerate().take(20)) {
        sim.speak(*person, true);
        sim.run_for(millis(300));
        let name = format!("p{number:02}-a0");
        assert!(sim.heard_by(listener).contains(&name), "{name} is not heard");
        sim.speak(*person, false);
    }
    assert_eq!(sim.participant(listener).ssrc_count(MediaKind::Audio), SSRCS_MAX);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn changes_over_a_bad_line_cost_pictures_but_break_no_promise() {
    for seed in 43..46 {
        let mut sim = Sim::seeded(seed);
        let people: Vec<PersonId> =
            (0..20).map(|number| sim.arrive(&format!("p{number:02}"), Equipment { cameras: 3, ..PLAIN })).collect();
        let watcher = sim.arrive("watcher", WATCHER);
        sim.downlink(watcher).loss(0.05).delay(millis(40)).jitter(millis(20)).repetition(0.05);
        sim.run_for(secs(4));
        people.iter().for_each(|person| sim.wish(*person, VideoWishes::all_at(0)));
        let mut all: Vec<String> =
            (0..20).flat_map(|n| (0..3).map(move |camera| format!("p{n:02}-v{camera}"))).collect();
        for _ in 0..20 {
            for place in 0..all.len() {
                let other = sim.pick(all.len());
                all.swap(place, other);
            }
            sim.wish(watcher, page(&all[..25]));
            sim.run_for(secs(1));
        }
        sim.wish(watcher, page(&all[..25]));
        let took = sees(&mut sim, watcher, &all[..25], secs(8));
        assert!(took.is_some(), "{:?}", sim.seen_by(watcher));
        assert!(sim.participant(watcher).ssrc_count(MediaKind::Video) <= SSRCS_MAX);
        assert_eq!(sim.violations(), NONE);
    }
}

#[test]
fn a_channel_in_place_of_a_broken_one_is_told_everything_again() {
    let mut sim = Sim::seeded(47);
    let people = ["alice", "bob", "carol"].map(|name| sim.arrive(name, REWRITING));
    people.iter().for_each(|person| sim.speak(*person, true));
    sim.run_for(secs(4));
    sim.add_video(people[0], VideoType::Desktop);
    sim.run_for(secs(2));
    let before = sim.participant(people[1]).carried().clone();
    assert_eq!(before.len(), 5, "{before:?}");
    sim.reopen_channel(people[1]);
    sim.run_for(millis(100));
    assert_eq!(*sim.participant(people[1]).carried(), before);
    sim.run_for(secs(2));
    assert_eq!(sim.seen_by(people[1]), ["alice-v0", "alice-v1", "carol-v0"]);
    assert_eq!(sim.violations(), NONE);
}
