//! Many people at once: what everybody hears of somebody is written once, not once for each of them.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tertulia_conference::{Conference, Domains, Input, Output, Settings};
use tertulia_xmpp::{BareJid, FullJid};

const PEOPLE: usize = 200;

#[test]
fn two_hundred_joins_write_each_presence_once() {
    let settings = Settings { domains: Domains::of("meet.example"), occupants_max: PEOPLE, version: "test".into() };
    let (now, mut out) = (Instant::now(), Vec::new());
    let room = BareJid::new("standup@muc.meet.example").unwrap();
    let mut conference = Conference::new(now, SystemTime::UNIX_EPOCH, room, Arc::new(settings), [7; 32], &mut out);
    let origin: Arc<str> = "wss://meet.example".into();
    let start = Instant::now();
    for number in 0..PEOPLE {
        let join = format!(
            "<presence to='standup@muc.meet.example/{number:08x}'><x xmlns='http://jabber.org/protocol/muc'/>\
             <nick xmlns='http://jabber.org/protocol/nick'>Person {number}</nick></presence>"
        );
        let from = FullJid::new(&format!("{number:08x}-0000-4000-8000-000000000000@meet.example/r")).unwrap();
        let stanza = tertulia_xmpp::parse(&join).unwrap();
        conference.handle(now, Input::Stanza { from, stanza, origin: Arc::clone(&origin) }, &mut out);
    }
    println!("{PEOPLE} joins took {:?}", start.elapsed());
    let mut written: BTreeMap<*const tertulia_xmpp::Broadcast, usize> = BTreeMap::new();
    for output in &out {
        if let Output::Broadcast { to, stanza } = output {
            *written.entry(Arc::as_ptr(stanza)).or_default() += to.len();
        }
    }
    assert_eq!(written.len(), PEOPLE, "one text for each person");
    assert_eq!(written.values().sum::<usize>(), PEOPLE * (PEOPLE - 1), "everybody heard of everybody else");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
