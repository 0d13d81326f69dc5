//! The clock, the wires and the people of one simulated meeting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tertulia_conference::{Conference, Domains, Input as RoomInput, Output as RoomOutput, Settings, request};
use tertulia_media::identity::Identity;
use tertulia_media::registry::Registry;
use tertulia_media::worker::{self, Command, Held, Worker};
use tertulia_model::{
    Candidate, CandidateKind, ConferenceId, EndpointId, EventSink, SourceName, TransportProtocol, VideoType,
};
use tertulia_participant::{Addresses, Clock, Coding, Equipment, Event, Input, Output, Participant, VideoWishes};
use tertulia_xmpp::{BareJid, FullJid};

use crate::link::{Link, chance, share};
use crate::outlet::{Channel, Heard, Sent};

const DOMAIN: &str = "meet.example";
const ROOM: &str = "standup";
/// One way of every WebSocket; they lose nothing and keep their order.
const SOCKET_DELAY: Duration = Duration::from_millis(15);
/// How long a session without a socket is kept (`signal`'s hibernation).
const HIBERNATION: Duration = Duration::from_secs(60);
/// A picture or a word within this counts as seen or heard.
const LATELY: Duration = Duration::from_secs(1);
const ORIGIN: &str = "ws://meet.example";

/// Somebody in the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PersonId(usize);

/// What is left of a meeting; all zero when nothing leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Rooms.
    pub rooms: usize,
    /// What the worker holds.
    pub worker: Held,
    /// Passwords of bridge channels.
    pub channel_passwords: usize,
    /// Bridge channels that somebody still holds.
    pub channels: usize,
}

/// A meeting in virtual time.
pub struct Sim {
    now: Instant,
    start: Instant,
    random: ChaCha8Rng,
    settings: Arc<Settings>,
    room: Option<Conference>,
    conference: Option<ConferenceId>,
    worker: Worker,
    registry: Arc<Registry>,
    heard: Arc<Heard>,
    people: Vec<Person>,
    /// What flies, by time of arrival and order of departure.
    flights: BTreeMap<(Instant, u64), Flight>,
    departures: u64,
}

struct Person {
    participant: Participant,
    jid: FullJid,
    address: SocketAddr,
    up: Link,
    down: Link,
    channel: Option<Arc<Channel>>,
    /// Where it was opened.
    channel_url: Option<String>,
    /// Their own next deadline, so that it is asked for only when it may have moved.
    due: Option<Instant>,
    /// Still there: has neither left nor vanished.
    present: bool,
    events: Vec<Event>,
}

enum Flight {
    ToWorker { from: SocketAddr, bytes: Vec<u8> },
    ToPerson { to: usize, bytes: Vec<u8> },
    StanzaToServer { from: usize, text: String },
    StanzaToPerson { to: usize, text: String },
    ChannelOpens { of: usize, url: String },
    ChannelToWorker { from: usize, text: String },
    ChannelToPerson { to: usize, text: String },
    SessionLost { of: usize },
}

impl Sim {
    /// An empty server. The same seed gives the same people, links and losses.
    ///
    /// # Panics
    /// When the system has no random numbers for a certificate.
    pub fn seeded(seed: u64) -> Self {
        println!("seed {seed}"); // shown when a test fails
        let local: SocketAddr = SocketAddr::from(([10, 0, 0, 1], 10_000));
        let candidate = Candidate {
            foundation: "1".into(),
            priority: 2_130_706_431,
            protocol: TransportProtocol::Udp,
            ip: local.ip(),
            port: local.port(),
            kind: CandidateKind::Host,
        };
        let worker_settings = worker::Settings {
            locals: vec![local],
            candidates: vec![candidate],
            bridge: "sim".into(),
            endpoints_max: 1_000,
            ..worker::Settings::default()
        };
        let identity = Identity::generate().expect("the system has random numbers");
        let registry = Arc::new(Registry::default());
        let settings = Settings {
            domains: Domains::of(DOMAIN),
            occupants_max: 500,
            opus_red: false,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let now = Instant::now();
        Self {
            now,
            start: now,
            random: ChaCha8Rng::seed_from_u64(seed),
            settings: Arc::new(settings),
            room: None,
            conference: None,
            worker: Worker::new(worker_settings, identity, Arc::clone(&registry)),
            registry,
            heard: Arc::default(),
            people: Vec::new(),
            flights: BTreeMap::new(),
            departures: 0,
        }
    }

    /// People with a microphone and a camera of three encodings come in, on good lines, and everything between them settles.
    pub fn join<const N: usize>(&mut self, names: [&str; N]) -> [PersonId; N] {
        let all = names.map(|name| self.arrive(name, SMALL));
        self.run_for(Duration::from_secs(3));
        all
    }

    /// Somebody comes in; nobody waits for them.
    ///
    /// # Panics
    /// When the name is no endpoint's id.
    pub fn arrive(&mut self, name: &str, equipment: Equipment) -> PersonId {
        let id = PersonId(self.people.len());
        let [high, low] = u16::try_from(id.0).expect("few people").to_be_bytes();
        let address = SocketAddr::from(([10, 1, high, low], 20_000));
        let jid = format!("{name}-{}@{DOMAIN}/r", id.0);
        let settings = tertulia_participant::Settings {
            addresses: Addresses::of(DOMAIN, ROOM),
            nick: EndpointId::parse(name).expect("an endpoint's id"),
            display_name: name.to_owned(),
            local: address,
            equipment,
            clock: Clock::starting(self.start),
            seed: self.random.next_u64(),
        };
        let mut out = Vec::new();
        let participant = Participant::new(settings, &mut out);
        self.people.push(Person {
            participant,
            jid: FullJid::new(&jid).expect("a name makes an address"),
            address,
            up: Link::default(),
            down: Link::default(),
            channel: None,
            channel_url: None,
            due: None,
            present: true,
            events: Vec::new(),
        });
        self.perform(id.0, out);
        id
    }

    /// From a person to the server.
    pub fn uplink(&mut self, person: PersonId) -> &mut Link {
        &mut self.people[person.0].up
    }

    /// From the server to a person.
    pub fn downlink(&mut self, person: PersonId) -> &mut Link {
        &mut self.people[person.0].down
    }

    /// Starts or stops speaking.
    pub fn speak(&mut self, person: PersonId, speaking: bool) {
        let now = self.now;
        self.command(person, |participant, _| participant.speak(now, speaking));
    }

    /// Says to the bridge what to send.
    pub fn wish(&mut self, person: PersonId, wishes: VideoWishes) {
        self.command(person, |participant, out| participant.wish(wishes, out));
    }

    /// Another camera or a screen.
    pub fn add_video(&mut self, person: PersonId, video_type: VideoType) -> SourceName {
        self.command(person, |participant, out| participant.add_video(video_type, out))
    }

    /// One camera or screen less.
    pub fn remove_video(&mut self, person: PersonId, name: &SourceName) {
        self.command(person, |participant, out| participant.remove_video(name, out));
    }

    /// Leaves with a word.
    pub fn leave(&mut self, person: PersonId) {
        self.command(person, Participant::leave);
        self.people[person.0].present = false;
    }

    /// Is gone without a word: nothing goes out or comes in any more, and the server finds out.
    pub fn vanish(&mut self, person: PersonId) {
        self.people[person.0].present = false;
        self.people[person.0].due = None;
        self.depart(HIBERNATION, Flight::SessionLost { of: person.0 });
    }

    /// The address of somebody changes, as behind a router that was switched off.
    pub fn move_address(&mut self, person: PersonId, port: u16) {
        self.people[person.0].address.set_port(port);
    }

    /// The bridge channel of somebody breaks, and they open another one in its place.
    pub fn reopen_channel(&mut self, person: PersonId) {
        if let Some(url) = self.people[person.0].channel_url.clone() {
            self.depart(SOCKET_DELAY, Flight::ChannelOpens { of: person.0, url });
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.turn();
        }
        self.now = end;
    }

    /// Lets time pass until something is true; how long it took, or `None` when it did not come true within `most`.
    pub fn run_until(&mut self, most: Duration, mut done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        while !done(self) {
            if self.now.duration_since(start) >= most {
                return None;
            }
            self.run_for(Duration::from_millis(20));
        }
        Some(self.now.duration_since(start))
    }

    /// Names of the video sources whose pictures somebody saw lately, in order.
    pub fn seen_by(&self, person: PersonId) -> Vec<String> {
        let lately = |at: Option<Instant>| at.is_some_and(|at| at + LATELY >= self.now);
        let videos = self.people[person.0].participant.video().filter(|video| lately(video.last_decoded));
        let mut names: Vec<String> = videos.map(|video| video.source.to_string()).collect();
        names.sort();
        names
    }

    /// Names of the audio sources that somebody heard lately, in order.
    pub fn heard_by(&self, person: PersonId) -> Vec<String> {
        let lately = |at: Option<Instant>| at.is_some_and(|at| at + LATELY >= self.now);
        let audios = self.people[person.0].participant.audio().filter(|audio| lately(audio.last_heard));
        let mut names: Vec<String> = audios.map(|audio| audio.source.to_string()).collect();
        names.sort();
        names
    }

    /// A person, for all the rest that they know.
    pub fn participant(&self, person: PersonId) -> &Participant {
        &self.people[person.0].participant
    }

    /// What happened to a person.
    pub fn events(&self, person: PersonId) -> &[Event] {
        &self.people[person.0].events
    }

    /// What happened to datagrams and handshakes at the worker.
    pub fn counters(&self) -> &worker::Counters {
        self.worker.counters()
    }

    /// Everything that anybody received and no loss excuses.
    pub fn violations(&self) -> Vec<String> {
        let named = |person: &Person| {
            let nick = person.participant.nick().clone();
            person.participant.violations().into_iter().map(move |text| format!("{nick} saw {text}"))
        };
        self.people.iter().flat_map(named).collect()
    }

    /// What the server still holds.
    pub fn left(&self) -> Left {
        Left {
            rooms: usize::from(self.room.is_some()),
            worker: self.worker.held(),
            channel_passwords: self.registry.endpoint_count(),
            channels: self
                .people
                .iter()
                .filter(|person| person.channel.as_ref().is_some_and(|channel| Arc::strong_count(channel) > 1))
                .count(),
        }
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    /// Something by chance, from the seed: whether an event of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        chance(&mut self.random, probability)
    }

    /// Something by chance, from the seed: 0 to 1.
    pub fn share(&mut self) -> f64 {
        share(&mut self.random)
    }

    /// Something by chance, from the seed: below `n`.
    pub fn pick(&mut self, n: usize) -> usize {
        usize::try_from(self.random.next_u32()).unwrap_or(0) % n.max(1)
    }

    fn command<T>(&mut self, person: PersonId, run: impl FnOnce(&mut Participant, &mut Vec<Output>) -> T) -> T {
        let mut out = Vec::new();
        let result = run(&mut self.people[person.0].participant, &mut out);
        self.perform(person.0, out);
        result
    }

    fn next(&self) -> Option<Instant> {
        let flight = self.flights.first_key_value().map(|((at, _), _)| *at);
        let room = self.room.as_ref().and_then(Conference::next_timeout);
        let people = self.people.iter().filter_map(|person| person.due).min();
        flight.into_iter().chain(room).chain(self.worker.next_timeout()).chain(people).min()
    }

    /// Everything that is due now.
    fn turn(&mut self) {
        while let Some(entry) = self.flights.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let flight = entry.remove();
            self.land(flight);
        }
        if self.worker.next_timeout().is_some_and(|at| at <= self.now) {
            self.at_worker(|worker, now, sent| worker.on_timeout(now, sent));
        }
        if self.room.as_ref().and_then(Conference::next_timeout).is_some_and(|at| at <= self.now) {
            self.at_room(Conference::on_timeout);
        }
        for index in 0..self.people.len() {
            let now = self.now;
            if self.people[index].due.is_some_and(|at| at <= now) {
                let mut out = Vec::new();
                self.people[index].participant.on_timeout(now, &mut out);
                self.perform(index, out);
            }
        }
    }

    fn land(&mut self, flight: Flight) {
        match flight {
            Flight::ToWorker { from, mut bytes } => {
                let local = SocketAddr::from(([10, 0, 0, 1], 10_000));
                self.at_worker(|worker, now, sent| {
                    worker.handle_datagram(now, local, from, &mut bytes, sent);
                    worker.finish_turn(now, sent);
                });
            }
            Flight::ToPerson { to, bytes } => {
                let from = SocketAddr::from(([10, 0, 0, 1], 10_000));
                self.at_person(to, Input::Datagram { from, bytes });
            }
            Flight::StanzaToServer { from, text } => self.serve(from, &text),
            Flight::StanzaToPerson { to, text } => {
                let stanza = tertulia_xmpp::parse(&text).expect("the room writes XML");
                self.at_person(to, Input::Stanza(stanza));
            }
            Flight::ChannelOpens { of, url } => self.open_channel(of, &url),
            Flight::ChannelToWorker { from, text } => {
                let Some(conference) = self.conference else { return };
                let endpoint = self.people[from].participant.nick().clone();
                self.at_worker(|worker, now, sent| {
                    worker.handle_command(now, Command::Message { conference, endpoint, text }, sent);
                });
            }
            Flight::ChannelToPerson { to, text } => self.at_person(to, Input::Channel(text)),
            Flight::SessionLost { of } => {
                let from = self.people[of].jid.clone();
                self.at_room(|room, now, out| room.handle(now, RoomInput::Gone { from }, out));
            }
        }
    }

    /// What `signal` does with a stanza.
    fn serve(&mut self, from: usize, text: &str) {
        let stanza = tertulia_xmpp::parse(text).expect("participants write XML");
        let domains = self.settings.domains.clone();
        if stanza.attr("to") == Some(domains.focus.as_str()) {
            let answer = match request::parse_iq(&domains, &stanza) {
                Ok(Some(request)) => {
                    self.open_room(&request.room);
                    request.ready_iq(&domains, &stanza)
                }
                Ok(None) => return,
                Err(answer) => *answer,
            };
            self.depart(SOCKET_DELAY, Flight::StanzaToPerson { to: from, text: answer.to_string() });
            return;
        }
        let from = self.people[from].jid.clone();
        let input = RoomInput::Stanza { from, stanza, origin: ORIGIN.into() };
        self.at_room(|room, now, out| room.handle(now, input, out));
    }

    fn open_room(&mut self, room: &BareJid) {
        if self.room.is_some() {
            self.at_room(|room, now, out| room.handle(now, RoomInput::Requested, out));
            return;
        }
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        let mut out = Vec::new();
        let settings = Arc::clone(&self.settings);
        self.room = Some(Conference::new(self.now, SystemTime::UNIX_EPOCH, room.clone(), settings, seed, &mut out));
        self.perform_room(out);
    }

    /// What `signal` does with a bridge channel: its password is checked first.
    fn open_channel(&mut self, of: usize, url: &str) {
        let Some(conference) = self.conference else { return };
        let endpoint = self.people[of].participant.nick().clone();
        let password = url.split("pwd=").nth(1).unwrap_or("");
        if !url.starts_with(ORIGIN) || !self.registry.allows(conference, &endpoint, password) {
            return; // replaced by a newer session meanwhile
        }
        let channel = Arc::new(Channel::default());
        self.people[of].channel = Some(Arc::clone(&channel));
        self.at_worker(|worker, now, sent| {
            worker.handle_command(now, Command::Channel { conference, endpoint, sink: channel }, sent);
        });
        self.at_person(of, Input::ChannelOpen);
    }

    fn at_person(&mut self, index: usize, input: Input) {
        if !self.people[index].present {
            return;
        }
        let mut out = Vec::new();
        self.people[index].participant.handle(self.now, input, &mut out);
        self.perform(index, out);
    }

    fn at_room(&mut self, run: impl FnOnce(&mut Conference, Instant, &mut Vec<RoomOutput>)) {
        let Some(room) = &mut self.room else { return };
        let mut out = Vec::new();
        run(room, self.now, &mut out);
        self.perform_room(out);
    }

    fn at_worker(&mut self, run: impl FnOnce(&mut Worker, Instant, &mut Sent)) {
        let mut sent = Sent::default();
        run(&mut self.worker, self.now, &mut sent);
        for (to, bytes) in sent.0 {
            let Some(to) = self.people.iter().position(|person| person.address == to && person.present) else {
                continue;
            };
            for delay in self.people[to].down.pass(self.now, &bytes, &mut self.random) {
                self.depart(delay, Flight::ToPerson { to, bytes: bytes.clone() });
            }
        }
        for to in 0..self.people.len() {
            let Some(channel) = &self.people[to].channel else { continue };
            for text in channel.take() {
                self.depart(SOCKET_DELAY, Flight::ChannelToPerson { to, text });
            }
        }
        for event in self.heard.take() {
            self.at_room(|room, now, out| room.handle(now, RoomInput::Bridge(event), out));
        }
    }

    fn perform(&mut self, index: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Stanza(stanza) => {
                    self.depart(SOCKET_DELAY, Flight::StanzaToServer { from: index, text: stanza.to_string() });
                }
                Output::Datagram { bytes, .. } => {
                    let person = &mut self.people[index];
                    let from = person.address;
                    for delay in person.up.pass(self.now, &bytes, &mut self.random) {
                        self.depart(delay, Flight::ToWorker { from, bytes: bytes.clone() });
                    }
                }
                Output::OpenChannel(url) => {
                    self.people[index].channel_url = Some(url.clone());
                    self.depart(SOCKET_DELAY, Flight::ChannelOpens { of: index, url });
                }
                Output::Channel(text) => self.depart(SOCKET_DELAY, Flight::ChannelToWorker { from: index, text }),
                Output::Event(event) => self.people[index].events.push(event),
            }
        }
        let person = &mut self.people[index];
        person.due = person.participant.next_timeout();
    }

    fn perform_room(&mut self, out: Vec<RoomOutput>) {
        for output in out {
            match output {
                RoomOutput::Send { to, stanza } => self.deliver(&to, &stanza.to_string()),
                RoomOutput::Broadcast { to, stanza } => {
                    for to in to {
                        let mut text = String::new();
                        stanza.for_recipient(&to.to_string(), &mut text);
                        self.deliver(&to, &text);
                    }
                }
                RoomOutput::OpenBridge(conference) => {
                    self.conference = Some(conference);
                    let events: Arc<dyn EventSink> = Arc::clone(&self.heard) as Arc<dyn EventSink>;
                    self.at_worker(|worker, now, sent| {
                        worker.handle_command(now, Command::Open { conference, events }, sent);
                    });
                }
                RoomOutput::Bridge(request) => {
                    let Some(conference) = self.conference else { continue };
                    self.at_worker(|worker, now, sent| {
                        worker.handle_command(now, Command::Request { conference, request }, sent);
                    });
                }
                RoomOutput::Closed => {
                    self.room = None;
                    self.conference = None;
                }
            }
        }
    }

    fn deliver(&mut self, to: &FullJid, text: &str) {
        if let Some(to) = self.people.iter().position(|person| person.jid == *to) {
            self.depart(SOCKET_DELAY, Flight::StanzaToPerson { to, text: text.to_owned() });
        }
    }

    fn depart(&mut self, delay: Duration, flight: Flight) {
        self.departures += 1;
        self.flights.insert((self.now + delay, self.departures), flight);
    }
}

/// Few and small pictures: what is decided does not depend on their number.
const SMALL: Equipment = Equipment {
    microphone: true,
    cameras: 1,
    coding: Coding::Vp8,
    encodings: 3,
    frames_per_second: 10,
    frame_lens: [150, 600, 2_400],
    ssrc_rewriting: false,
};
