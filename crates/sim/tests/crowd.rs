//! Fifty people come, speak, share, lose packets, vanish and leave in any order; afterwards nothing of it is left.

use std::time::Duration;

use tertulia_model::{SourceName, VideoType};
use tertulia_participant::{Equipment, VideoWishes};
use tertulia_sim::{Left, PersonId, Sim};

const PEOPLE: usize = 50;
/// Longer than any deadline of the server: what is still there afterwards leaks.
const FOR_GOOD: Duration = Duration::from_secs(200);
/// One packet a frame and few frames: what is decided does not depend on their number.
const FRUGAL: Equipment = Equipment { frames_per_second: 3, frame_lens: [60, 240, 960], ..Equipment::USUAL };

#[test]
fn fifty_people_come_and_go_over_lossy_lines_and_leave_nothing_behind() {
    // The seed of the day, or one that failed: `SIM_SEED=7 cargo test -p tertulia-sim --test crowd`.
    let seed = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(50);
    let mut crowd = Crowd { sim: Sim::seeded(seed), inside: Vec::new(), screens: Vec::new() };
    for number in 0..PEOPLE {
        crowd.arrive(number);
        crowd.something_happens();
    }
    crowd.settles();
    while !crowd.inside.is_empty() {
        crowd.something_happens();
        crowd.goes();
    }
    let violations = crowd.sim.violations();
    assert!(violations.is_empty(), "{violations:#?}");
    crowd.sim.run_for(FOR_GOOD);
    assert_eq!(crowd.sim.left(), Left::default());
    let counters = crowd.sim.counters();
    assert_eq!((counters.panics, counters.failed_handshake, counters.failed_certificate), (0, 0, 0));
    assert!(counters.connected_aead_256 >= u64::try_from(PEOPLE).unwrap_or(u64::MAX), "{counters:?}");
}

struct Crowd {
    sim: Sim,
    inside: Vec<PersonId>,
    screens: Vec<(PersonId, SourceName)>,
}

impl Crowd {
    /// Somebody comes, on a line that loses up to a tenth and takes up to 100 ms.
    fn arrive(&mut self, number: usize) {
        let person = self.sim.arrive(&format!("p{number}"), FRUGAL);
        for up in [true, false] {
            let (loss, delay) = (self.sim.share() * 0.1, Duration::from_millis(100).mul_f64(self.sim.share()));
            let link = if up { self.sim.uplink(person) } else { self.sim.downlink(person) };
            link.loss(loss).delay(delay).jitter(Duration::from_millis(10)).repetition(0.02);
        }
        self.inside.push(person);
    }

    /// Time passes, and one of those inside does something.
    fn something_happens(&mut self) {
        let pause = Duration::from_millis(400).mul_f64(self.sim.share());
        self.sim.run_for(pause);
        let person = self.inside[self.sim.pick(self.inside.len())];
        match self.sim.pick(5) {
            0 => {
                for other in self.inside.clone() {
                    self.sim.speak(other, other == person);
                }
            }
            1 => {
                let height = [180, 360, 720][self.sim.pick(3)];
                let last_n = [-1, 0, 1, 5][self.sim.pick(4)];
                self.sim.wish(person, VideoWishes { last_n, ..VideoWishes::all_at(height) });
            }
            2 => {
                let name = self.sim.add_video(person, VideoType::Desktop);
                self.screens.push((person, name));
            }
            3 => {
                if let Some((person, name)) = self.screens.pop() {
                    self.sim.remove_video(person, &name);
                }
            }
            _ => {
                let port = 30_000 + u16::try_from(self.sim.pick(10_000)).unwrap_or(0);
                self.sim.move_address(person, port);
            }
        }
    }

    /// With everybody inside and wishing for everything, everybody sees everybody.
    fn settles(&mut self) {
        for person in self.inside.clone() {
            self.sim.wish(person, VideoWishes::all_at(180));
        }
        // Whoever moved in the middle of a handshake, or lost much of it, needs some of the 30 seconds that a handshake may take.
        let inside = self.inside.clone();
        let connected = |sim: &Sim| inside.iter().all(|person| sim.participant(*person).is_connected());
        assert!(self.sim.run_until(Duration::from_secs(40), connected).is_some(), "somebody never connects");
        for person in &self.inside {
            let participant = self.sim.participant(*person);
            assert_eq!(participant.occupants().count(), PEOPLE - 1, "{} does not know everybody", participant.nick());
        }
        // Three frames a second on a bad line: a few people may just be standing still. Whose path seemed narrow needs time to find it wide.
        let seen = |sim: &Sim, person: PersonId| {
            sim.seen_by(person).iter().filter(|name| name.ends_with("-v0")).count() >= PEOPLE - 5
        };
        for person in inside {
            let sees = self.sim.run_until(Duration::from_secs(40), |sim| seen(sim, person));
            assert!(sees.is_some(), "{} sees {:?}", self.sim.participant(person).nick(), self.sim.seen_by(person));
        }
    }

    /// One of those inside leaves, with or without a word.
    fn goes(&mut self) {
        let person = self.inside.swap_remove(self.sim.pick(self.inside.len()));
        self.screens.retain(|(owner, _)| *owner != person);
        if self.sim.chance(0.3) {
            self.sim.vanish(person);
        } else {
            self.sim.leave(person);
        }
    }
}
