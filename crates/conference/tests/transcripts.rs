//! Runs the transcripts beside this file: who says what, and what everybody must hear, in order.
//!
//! A transcript is a script and its result in one. Its lines:
//!
//! - `# …` a remark;
//! - `ana > <stanza…>` ana's client says this; `ana gone` her session is over; `request` a conference request names the room;
//! - `bridge > allocated ana` and `restarted ana 1`, `expired ana silent`, `lost`: the bridge says this;
//! - `wait 20s` time passes; `in <address>`, as the first line, names another room than the usual one, and `offering red` a server that
//!   offers redundant sound;
//! - `ana < <stanza…>`, `ana,bo < <stanza…>` what they hear; `bridge < …` what the bridge is asked; `room closed`.
//!
//! Random ids appear as `$id1`, `$uuid1` in the order in which they come up, and may be used in what clients say. `UPDATE_TRANSCRIPTS=1
//! cargo test -p tertulia-conference --test transcripts` writes all results anew: read the difference before you keep it.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tertulia_conference::{Conference, Domains, Input, Output, Settings};
use tertulia_model::{
    BridgeEvent, BridgeRequest, Candidate, CandidateKind, ChannelAddress, ChannelKinds, ConferenceId, DtlsSetup,
    EndpointId, ExpireReason, FeedbackSsrcs, Fingerprint, HashFunction, IceCredentials, LocalTransport, Ssrc,
    TransportProtocol,
};
use tertulia_xmpp::{BareJid, FullJid};

#[test]
fn every_transcript_plays_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let played = Stage::new().play(&written);
        if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
            std::fs::write(&file, &played).unwrap();
            continue;
        }
        for (number, (left, right)) in written.lines().zip(played.lines()).enumerate() {
            assert_eq!(left, right, "{}:{} (written, played)", file.display(), number + 1);
        }
        assert_eq!(written.lines().count(), played.lines().count(), "{}", file.display());
    }
}

struct Stage {
    now: Instant,
    conference: Conference,
    out: Vec<Output>,
    /// Random ids in order of appearance, with their names.
    ids: Vec<(String, String)>,
}

impl Stage {
    fn new() -> Self {
        Self::of("standup@muc.meet.example")
    }

    fn of(room: &str) -> Self {
        Self::with(room, false)
    }

    fn with(room: &str, opus_red: bool) -> Self {
        let settings =
            Settings { domains: Domains::of("meet.example"), occupants_max: 3, opus_red, version: "test".into() };
        let (now, mut out) = (Instant::now(), Vec::new());
        let room = BareJid::new(room).unwrap();
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let conference = Conference::new(now, created, room, Arc::new(settings), [7; 32], &mut out);
        out.clear();
        Self { now, conference, out, ids: Vec::new() }
    }

    fn play(&mut self, script: &str) -> String {
        let mut result = String::new();
        for line in script.lines().filter(|line| !is_result(line)) {
            result.push_str(line);
            result.push('\n');
            if !line.is_empty() && !line.starts_with('#') {
                self.act(line);
            }
            for output in std::mem::take(&mut self.out) {
                let shown = self.show(&output);
                writeln!(result, "{shown}").unwrap();
            }
        }
        result
    }

    fn act(&mut self, line: &str) {
        let (who, what) = line.split_once(' ').unwrap_or((line, ""));
        match (who, what) {
            ("in", room) => *self = Self::of(room),
            ("offering", "red") => *self = Self::with("standup@muc.meet.example", true),
            ("request", "") => self.handle(Input::Requested),
            ("wait", seconds) => self.wait(seconds.trim_end_matches('s').parse().unwrap()),
            ("bridge", event) => self.handle(Input::Bridge(bridge_event(event.trim_start_matches("> ")))),
            (who, "gone") => self.handle(Input::Gone { from: jid(who) }),
            (who, said) => {
                let mut text = said.strip_prefix("> ").unwrap_or_else(|| panic!("{line}")).to_owned();
                // Longer names first: $id1 is a part of $id12.
                for (id, name) in self.ids.iter().rev() {
                    text = text.replace(name, id);
                }
                let stanza = tertulia_xmpp::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                self.handle(Input::Stanza { from: jid(who), stanza, origin: "wss://meet.example".into() });
            }
        }
    }

    fn handle(&mut self, input: Input) {
        self.conference.handle(self.now, input, &mut self.out);
        self.conference.on_timeout(self.now, &mut self.out);
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.conference.on_timeout(self.now, &mut self.out);
    }

    fn show(&mut self, output: &Output) -> String {
        let text = match output {
            Output::Send { to, stanza } => {
                let mut stanza = stanza.clone();
                stanza.remove_attr("to");
                format!("{} < {stanza}", name(to))
            }
            Output::Broadcast { to, stanza } => {
                let names: Vec<&str> = to.iter().map(name).collect();
                format!("{} < {stanza}", names.join(","))
            }
            Output::OpenBridge(_) => "bridge < open".into(),
            Output::Bridge(request) => format!("bridge < {}", shown_request(request)),
            Output::Closed => "room closed".into(),
        };
        self.with_names(&text)
    }

    /// Gives names to random ids: 16 hexadecimal digits, or a UUID.
    fn with_names(&mut self, text: &str) -> String {
        let is_id = |word: &str| {
            let hex = word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
            hex && ((word.len() == 16 && !word.contains('-')) || (word.len() == 36 && word.matches('-').count() == 4))
        };
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(|word| is_id(word)) {
            let ours = word.starts_with("aaaa0001-")
                || word.starts_with("bbbb0002-")
                || word.starts_with("cccc0003-")
                || word.starts_with("dddd0004-");
            if !ours && !self.ids.iter().any(|(id, _)| id == word) {
                let kind = if word.len() == 16 { "id" } else { "uuid" };
                let number = self.ids.iter().filter(|(_, name)| name.starts_with(&format!("${kind}"))).count() + 1;
                self.ids.push((word.to_owned(), format!("${kind}{number}")));
            }
        }
        self.ids.iter().fold(text.to_owned(), |text, (id, name)| text.replace(id, name))
    }
}

fn is_result(line: &str) -> bool {
    line == "room closed" || line.split(' ').nth(1) == Some("<")
}

const PEOPLE: [(&str, &str); 4] = [("ana", "aaaa0001"), ("bo", "bbbb0002"), ("cy", "cccc0003"), ("di", "dddd0004")];

fn id_of(who: &str) -> &'static str {
    PEOPLE.iter().find(|(name, _)| *name == who).unwrap_or_else(|| panic!("nobody is called {who}")).1
}

fn jid(who: &str) -> FullJid {
    FullJid::new(&format!("{}-0000-4000-8000-000000000000@meet.example/r", id_of(who))).unwrap()
}

fn name(jid: &FullJid) -> &'static str {
    let node = jid.node().unwrap().to_string();
    PEOPLE.iter().find(|(_, id)| node.starts_with(id)).unwrap().0
}

fn endpoint(who: &str) -> EndpointId {
    EndpointId::parse(id_of(who)).unwrap()
}

fn bridge_event(text: &str) -> BridgeEvent {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["allocated", who] => BridgeEvent::Allocated {
            endpoint: endpoint(who),
            transport: transport(who),
            feedback: FeedbackSsrcs { audio: Ssrc(1_000_000_001), video: Ssrc(1_000_000_002) },
        },
        ["restarted", who, generation] => BridgeEvent::Restarted {
            endpoint: endpoint(who),
            transport: transport(who),
            generation: generation.parse().unwrap(),
        },
        ["expired", who, "silent"] => BridgeEvent::Expired { endpoint: endpoint(who), reason: ExpireReason::Silent },
        ["expired", who, "insecure"] => {
            BridgeEvent::Expired { endpoint: endpoint(who), reason: ExpireReason::Insecure }
        }
        ["lost"] => BridgeEvent::Lost,
        _ => panic!("the bridge does not say: {text}"),
    }
}

fn transport(who: &str) -> LocalTransport {
    LocalTransport {
        ice: IceCredentials { ufrag: format!("{who}frag"), pwd: "password22characters...".replace('.', "x") },
        fingerprint: Fingerprint { hash: HashFunction::Sha1, digest: vec![0xab; 20], setup: DtlsSetup::ActPass },
        candidates: vec![Candidate {
            foundation: "1".into(),
            priority: 2_130_706_431,
            protocol: TransportProtocol::Udp,
            ip: "203.0.113.7".parse().unwrap(),
            port: 10_000,
            kind: CandidateKind::Host,
        }],
        channel: ChannelAddress {
            bridge: "b".into(),
            conference: ConferenceId(1),
            endpoint: endpoint(who),
            password: "pwd".into(),
        },
        channels: ChannelKinds::WebSocket,
    }
}

fn shown_request(request: &BridgeRequest) -> String {
    let who = |id: &EndpointId| PEOPLE.iter().find(|(_, known)| *known == id.as_str()).map_or("?", |(name, _)| name);
    match request {
        BridgeRequest::Allocate { endpoint, capabilities } => {
            let flags = [
                ("rtx", capabilities.rtx),
                ("tcc", capabilities.transport_cc),
                ("names", capabilities.source_names),
                ("rewriting", capabilities.ssrc_rewriting),
                ("red", capabilities.opus_red),
            ];
            let flags: Vec<&str> = flags.into_iter().filter_map(|(name, on)| on.then_some(name)).collect();
            format!("allocate {} [{}]", who(endpoint), flags.join(" "))
        }
        BridgeRequest::SetTransport { endpoint, transport } => {
            format!("transport {} {} generation {:?}", who(endpoint), transport.ice.ufrag, transport.ice_generation)
        }
        BridgeRequest::SetSources { endpoint, sources } => {
            let ssrcs: Vec<String> = sources.sources.iter().map(|source| source.ssrc.to_string()).collect();
            format!("sources {} [{}]", who(endpoint), ssrcs.join(" "))
        }
        BridgeRequest::SetInitialLastN { endpoint, last_n } => format!("last-n {} {last_n}", who(endpoint)),
        BridgeRequest::RestartIce { endpoint } => format!("restart-ice {}", who(endpoint)),
        BridgeRequest::ForceMute { endpoint, audio, video } => format!("force-mute {} {audio} {video}", who(endpoint)),
        BridgeRequest::Expire { endpoint } => format!("expire {}", who(endpoint)),
        BridgeRequest::ExpireConference => "expire everything".into(),
    }
}
