//! Who is in which room and wants what: the scenarios as lists of people. Pure.

use std::net::SocketAddr;

use serde_json::json;

use crate::link::Badness;
use crate::protocol::Route;
use crate::sources::{Slot, camera_name};

/// Lines of the large picture and of the small ones.
const STAGE_HEIGHT: i32 = 720;
const THUMBNAIL_HEIGHT: i32 = 180;
const TILE_HEIGHT: i32 = 360;

/// One person.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Person {
    pub(crate) room: u32,
    pub(crate) camera: bool,
    /// Whether there is a microphone, and whether it is spoken into.
    pub(crate) voice: Option<bool>,
    /// Most pictures wanted; negative is all.
    pub(crate) last_n: i32,
    /// Whose picture is wanted large.
    pub(crate) stage: Option<u32>,
    /// Lines of all others; 0 for none.
    pub(crate) others: i32,
    pub(crate) badness: Option<Badness>,
    /// A client of other hands, which sends nothing.
    pub(crate) cross: bool,
}

/// Everybody, in the order in which they join.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Plan {
    pub(crate) people: Vec<Person>,
}

impl Plan {
    /// Rooms with one speaker each, whom everybody else sees large.
    pub(crate) fn stage(rooms: u32, subscribers: u32) -> Self {
        Self::each_room(rooms, |plan, room| {
            let speaker = plan.add(Person { camera: true, voice: Some(true), ..listener(room) });
            for _ in 0..subscribers {
                plan.add(Person { stage: Some(speaker), ..listener(room) });
            }
        })
    }

    /// One room in which one sends and everybody sees him small: joining is to be measured, not what the clients can take.
    pub(crate) fn storm(people: u32) -> Self {
        Self::each_room(1, |plan, room| {
            plan.add(Person { camera: true, voice: Some(true), ..listener(room) });
            for _ in 0..people {
                plan.add(Person { others: THUMBNAIL_HEIGHT, ..listener(room) });
            }
        })
    }

    /// Rooms in which everybody has a camera and sees one person large and others small.
    pub(crate) fn gallery(rooms: u32, people: u32, last_n: i32) -> Self {
        Self::each_room(rooms, |plan, room| {
            let first = plan.count();
            for place in 0..people {
                // The first three speak; nobody sees himself large.
                let stage = Some(if place == 0 { first + 1 } else { first });
                let voice = Some(place < 3);
                let others = THUMBNAIL_HEIGHT;
                plan.add(Person { camera: true, voice, stage, others, last_n, ..listener(room) });
            }
        })
    }

    /// Rooms with sound only.
    pub(crate) fn audio(rooms: u32, speakers: u32, listeners: u32) -> Self {
        Self::each_room(rooms, |plan, room| {
            for place in 0..speakers + listeners {
                plan.add(Person { voice: (place < speakers).then_some(true), ..listener(room) });
            }
        })
    }

    /// Small rooms: everybody sees everybody, one speaks.
    pub(crate) fn rooms(rooms: u32, people: u32) -> Self {
        Self::each_room(rooms, |plan, room| {
            for place in 0..people {
                plan.add(Person { camera: true, voice: Some(place == 0), others: TILE_HEIGHT, ..listener(room) });
            }
        })
    }

    /// One room with two speakers; everybody else sees the first one large and then the other.
    pub(crate) fn switch(subscribers: u32) -> Self {
        let mut plan = Self::default();
        for speaks in [true, false] {
            plan.add(Person { camera: true, voice: Some(speaks), ..listener(0) });
        }
        for _ in 0..subscribers {
            plan.add(Person { stage: Some(0), others: THUMBNAIL_HEIGHT, ..listener(0) });
        }
        plan
    }

    /// Gives everybody but those who send a bad network.
    pub(crate) fn spoil_downlinks(&mut self, badness: Badness) {
        self.people.iter_mut().filter(|person| !person.camera).for_each(|person| person.badness = Some(badness));
    }

    /// Makes the last so many people clients of other hands.
    pub(crate) fn cross_check(&mut self, count: usize) {
        for person in self.people.iter_mut().rev().take(count) {
            *person = Person { cross: true, camera: false, voice: None, badness: None, ..person.clone() };
        }
    }

    /// How many people there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.people.len()).unwrap_or(u32::MAX)
    }

    /// How many rooms there are.
    pub(crate) fn room_count(&self) -> u32 {
        self.people.iter().map(|person| person.room + 1).max().unwrap_or(0)
    }

    /// What a person says on its channel about what it wants.
    pub(crate) fn wishes(&self, person: u32) -> String {
        let Person { last_n, stage, others, .. } = &self.people[person as usize];
        let on_stage: Vec<String> = stage.iter().map(|stage| camera_name(*stage).to_string()).collect();
        let constraints: serde_json::Map<String, serde_json::Value> =
            on_stage.iter().map(|name| (name.clone(), json!({ "maxHeight": STAGE_HEIGHT }))).collect();
        let wishes = json!({
            "colibriClass": "ReceiverVideoConstraints",
            "lastN": last_n,
            "onStageSources": on_stage,
            "defaultConstraints": { "maxHeight": others },
            "constraints": constraints,
        });
        wishes.to_string()
    }

    /// What a fan-out has to do to bring everybody the same packets as the bridge.
    pub(crate) fn routes(&self, address_of: impl Fn(u32) -> SocketAddr) -> Vec<Route> {
        let mut routes: Vec<Route> =
            (0..self.count()).map(|person| Route { person, subscribers: Vec::new() }).collect();
        let mut room_start = 0;
        while room_start < self.people.len() {
            let room = self.people[room_start].room;
            let len = self.people[room_start..].iter().take_while(|person| person.room == room).count();
            for receiver in room_start..room_start + len {
                let address = address_of(receiver as u32);
                for (sender, slots) in self.wanted(receiver, room_start..room_start + len) {
                    routes[sender].subscribers.push((address, slots));
                }
            }
            room_start += len;
        }
        routes.retain(|route| !route.subscribers.is_empty());
        routes
    }

    /// Which slots of whom a person gets.
    fn wanted(&self, receiver: usize, room: std::ops::Range<usize>) -> Vec<(usize, u16)> {
        let Person { last_n, stage, others, .. } = &self.people[receiver];
        let mut places = usize::try_from(*last_n).unwrap_or(usize::MAX);
        let stage = stage.map(|stage| stage as usize).filter(|stage| *stage != receiver);
        places -= stage.map_or(0, |_| 1.min(places));
        let mut wanted = Vec::new();
        for sender in room.filter(|sender| *sender != receiver) {
            let person = &self.people[sender];
            let mut slots = if person.voice == Some(true) { Slot::Audio.bit() } else { 0 };
            if person.camera && stage == Some(sender) {
                slots |= Slot::Video(2).bit();
            } else if person.camera && *others > 0 && places > 0 {
                places -= 1;
                slots |= Slot::Video(u8::from(*others >= TILE_HEIGHT)).bit();
            }
            if slots != 0 {
                wanted.push((sender, slots));
            }
        }
        wanted
    }

    fn each_room(rooms: u32, mut fill: impl FnMut(&mut Self, u32)) -> Self {
        let mut plan = Self::default();
        (0..rooms).for_each(|room| fill(&mut plan, room));
        plan
    }

    fn add(&mut self, person: Person) -> u32 {
        self.people.push(person);
        self.count() - 1
    }
}

fn listener(room: u32) -> Person {
    Person { room, camera: false, voice: None, last_n: -1, stage: None, others: 0, badness: None, cross: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(plan: &Plan) -> Vec<(u32, usize)> {
        let routes = plan.routes(|person| SocketAddr::from(([127, 0, 0, 1], person as u16 + 1)));
        routes.iter().map(|route| (route.person, route.subscribers.len())).collect()
    }

    #[test]
    fn a_stage_reaches_everybody_of_its_room() {
        let plan = Plan::stage(2, 3);
        assert_eq!((plan.count(), plan.room_count()), (8, 2));
        assert_eq!(packets(&plan), [(0, 3), (4, 3)]);
        assert!(plan.wishes(5).contains(r#""p000004-v0":{"maxHeight":720}"#), "{}", plan.wishes(5));
    }

    #[test]
    fn a_gallery_keeps_to_its_last_n() {
        let plan = Plan::gallery(1, 6, 2);
        let of_last = plan.wanted(5, 0..6);
        let pictures = of_last.iter().filter(|(_, slots)| slots & 7 != 0).count();
        assert_eq!((pictures, of_last.len()), (2, 3), "two pictures, three voices: {of_last:?}");
    }
}
