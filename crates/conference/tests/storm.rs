//! Many people at once: what everybody hears of somebody is written once, not once for each of them.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tertulia_conference::{Conference, Domains, Input, Output, Settings};
use tertulia_model::{
    BridgeEvent, BridgeRequest, ChannelAddress, ConferenceId, DtlsSetup, EndpointId, FeedbackSsrcs, Fingerprint,
    HashFunction, IceCredentials, LocalTransport, Ssrc,
};
use tertulia_xmpp::{BareJid, Broadcast, Element, FullJid};

const PEOPLE: usize = 200;

#[test]
fn two_hundred_joins_write_each_presence_once() {
    let mut crowd = Crowd::new();
    let out = crowd.all_join();
    let mut written: BTreeMap<*const Broadcast, usize> = BTreeMap::new();
    for output in &out {
        if let Output::Broadcast { to, stanza } = output {
            *written.entry(Arc::as_ptr(stanza)).or_default() += to.len();
        }
    }
    assert_eq!(written.len(), PEOPLE, "one text for each person");
    assert_eq!(written.values().sum::<usize>(), PEOPLE * (PEOPLE - 1), "everybody heard of everybody else");
}

#[test]
fn two_hundred_cameras_come_on_in_seconds() {
    let mut crowd = Crowd::new();
    let mut out = crowd.all_join();
    let mut told = 0;
    while !out.is_empty() {
        for output in std::mem::take(&mut out) {
            match output {
                Output::Bridge(BridgeRequest::Allocate { endpoint, .. }) => crowd.allocated(endpoint, &mut out),
                Output::Send { to, stanza } => told += crowd.hears(&to, &stanza, &mut out),
                Output::Broadcast { .. } | Output::Bridge(_) | Output::OpenBridge(_) | Output::Closed => {}
            }
        }
    }
    println!("{PEOPLE} people with cameras took the room {:?}", crowd.spent);
    assert_eq!(told, PEOPLE * (PEOPLE - 1), "everybody was told of everybody else's sources");
    // Generous, for busy machines; less than a second is usual.
    assert!(crowd.spent < Duration::from_secs(60), "{:?}", crowd.spent);
}

struct Crowd {
    now: Instant,
    conference: Conference,
    /// How long the room itself worked.
    spent: Duration,
}

impl Crowd {
    fn new() -> Self {
        let settings = Settings {
            domains: Domains::of("meet.example"),
            occupants_max: PEOPLE,
            opus_red: false,
            version: "test".into(),
        };
        let (now, mut out) = (Instant::now(), Vec::new());
        let room = BareJid::new("standup@muc.meet.example").unwrap();
        let conference = Conference::new(now, SystemTime::UNIX_EPOCH, room, Arc::new(settings), [7; 32], &mut out);
        Self { now, conference, spent: Duration::ZERO }
    }

    fn handle(&mut self, input: Input, out: &mut Vec<Output>) {
        let start = Instant::now();
        self.conference.handle(self.now, input, out);
        self.spent += start.elapsed();
    }

    fn says(&mut self, from: &FullJid, text: &str, out: &mut Vec<Output>) {
        let stanza = tertulia_xmpp::parse(text).unwrap();
        self.handle(Input::Stanza { from: from.clone(), stanza, origin: "wss://meet.example".into() }, out);
    }

    fn all_join(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        for number in 0..PEOPLE {
            let join = format!(
                "<presence to='standup@muc.meet.example/{number:08x}'><x xmlns='http://jabber.org/protocol/muc'/><c \
                 xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n' ver='v'/>\
                 <nick xmlns='http://jabber.org/protocol/nick'>Person {number}</nick></presence>"
            );
            let from = FullJid::new(&format!("{number:08x}-0000-4000-8000-000000000000@meet.example/r")).unwrap();
            self.says(&from, &join, &mut out);
        }
        out
    }

    fn allocated(&mut self, endpoint: EndpointId, out: &mut Vec<Output>) {
        let transport = LocalTransport {
            channels: tertulia_model::ChannelKinds::default(),
            ice: IceCredentials { ufrag: "frag".into(), pwd: "x".repeat(24) },
            fingerprint: Fingerprint { hash: HashFunction::Sha1, digest: vec![7; 20], setup: DtlsSetup::ActPass },
            candidates: Vec::new(),
            channel: ChannelAddress {
                bridge: "b".into(),
                conference: ConferenceId(1),
                endpoint: endpoint.clone(),
                password: "p".into(),
            },
        };
        let feedback = FeedbackSsrcs { audio: Ssrc(1_000_000_001), video: Ssrc(1_000_000_002) };
        self.handle(Input::Bridge(BridgeEvent::Allocated { endpoint, transport, feedback }), out);
    }

    /// Answers as a client does: to the query for features, and to an offer, with a camera of two encodings. How many people's sources it
    /// was told of.
    fn hears(&mut self, who: &FullJid, stanza: &Element, out: &mut Vec<Output>) -> usize {
        let id = stanza.attr("id").unwrap_or("");
        if stanza.attr("type") == Some("get") {
            let features = ["json-encoded-sources", "source-name", "tcc"].map(|f| format!("http://jitsi.org/{f}"));
            let media = ["audio", "video"].map(|f| format!("urn:xmpp:jingle:apps:rtp:{f}"));
            let list: String = features.iter().chain(&media).map(|var| format!("<feature var='{var}'/>")).collect();
            let answer = format!(
                "<iq type='result' id='{id}' to='standup@muc.meet.example/focus'>\
                 <query xmlns='http://jabber.org/protocol/disco#info'>{list}</query></iq>"
            );
            self.says(who, &answer, out);
            return 0;
        }
        let Some(jingle) = stanza.child("jingle", "urn:xmpp:jingle:1") else { return 0 };
        if jingle.attr("action") == Some("session-initiate") {
            self.says(who, &accept(&who.to_string()[..8], jingle.attr("sid").unwrap()), out);
        }
        let all = tertulia_xmpp::sources::from_focus(jingle).unwrap();
        all.iter().filter(|(owner, _)| matches!(owner, tertulia_xmpp::sources::Owner::Endpoint(_))).count()
    }
}

fn accept(nick: &str, sid: &str) -> String {
    let number = 100_000_000 + 100 * u32::from_str_radix(nick, 16).unwrap();
    let source = |ssrc: u32, name: &str| {
        format!(
            "<source xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' ssrc='{ssrc}' name='{nick}-{name}'>\
             <parameter name='msid' value='{nick}-{name} t'/></source>"
        )
    };
    let group = |semantics: &str, first: u32, second: u32| {
        format!(
            "<ssrc-group xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' semantics='{semantics}'><source ssrc='{first}'/>\
             <source ssrc='{second}'/></ssrc-group>"
        )
    };
    let video: String = (1..5).map(|n| source(number + n, "v0")).collect();
    let groups = [("SIM", 1, 2), ("FID", 1, 3), ("FID", 2, 4)].map(|(s, a, b)| group(s, number + a, number + b));
    let content = |media: &str, inner: &str| {
        format!(
            "<content name='{media}'><description xmlns='urn:xmpp:jingle:apps:rtp:1' media='{media}'>{inner}\
             </description><transport xmlns='urn:xmpp:jingle:transports:ice-udp:1' ufrag='frag' pwd='{}'>\
             <fingerprint xmlns='urn:xmpp:jingle:apps:dtls:0' hash='sha-1' setup='active'>{}</fingerprint>\
             </transport></content>",
            "x".repeat(24),
            vec!["CD"; 20].join(":")
        )
    };
    format!(
        "<iq type='set' id='a' to='standup@muc.meet.example/focus'><jingle xmlns='urn:xmpp:jingle:1' \
         action='session-accept' sid='{sid}'>{}{}</jingle></iq>",
        content("audio", &source(number, "a0")),
        content("video", &format!("{video}{}", groups.concat()))
    )
}
