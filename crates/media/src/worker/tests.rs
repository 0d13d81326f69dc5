//! A worker and clients in virtual time, all datagrams passed by hand.

use super::*;
use crate::identity::ice_credentials;
use crate::transport::{Profile, Role, Transport, Wire};
use std::sync::Mutex;
use tertulia_model::{
    BridgeRequest, Capabilities, ChannelSink, DtlsSetup, MediaKind, Refusal, RemoteTransport, Source, SourceName,
    SourceSet, Ssrc, VideoType,
};

#[derive(Default)]
pub(super) struct Log(pub(super) Mutex<Vec<BridgeEvent>>);

impl EventSink for Log {
    fn event(&self, event: BridgeEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// Keeps what would be sent.
#[derive(Default)]
pub(super) struct Sent(pub(super) Vec<(SocketAddr, SocketAddr, Vec<u8>)>);

impl Flush for Sent {
    fn flush(&mut self, batch: &Batch) {
        self.0.extend(batch.iter().map(|(entry, bytes)| (entry.local, entry.remote, bytes.to_vec())));
    }
}

impl Wire for Sent {
    fn datagram(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.0.push((local, remote, bytes.to_vec()));
    }
}

pub(super) struct Client {
    id: EndpointId,
    /// Where it seems to be, and where it thinks it is.
    pub(super) address: SocketAddr,
    home: SocketAddr,
    pub(super) transport: Transport,
    events: Vec<Event>,
    received: Vec<Vec<u8>>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) worker: Worker,
    pub(super) clients: Vec<Client>,
    log: Arc<Log>,
    identity: Identity,
    /// Checks that the worker sent.
    pub(super) asked: usize,
    /// Whether the network lets nothing of DTLS through.
    pub(super) blocks_dtls: bool,
}

const LOCAL: &str = "10.0.0.1:10000";
pub(super) const ROOM: ConferenceId = ConferenceId(7);
const FULL: Capabilities = Capabilities::USUAL;

impl World {
    pub(super) fn new() -> Self {
        let identity = Identity::generate().unwrap();
        let settings = Settings {
            locals: vec![LOCAL.parse().unwrap()],
            candidates: Vec::new(),
            bridge: "b".into(),
            endpoints_max: 100,
            ..Settings::default()
        };
        let mut worker = Worker::new(settings, identity.clone(), Arc::new(Registry::default()));
        let log = Arc::new(Log::default());
        let now = Instant::now();
        let events: Arc<dyn EventSink> = Arc::clone(&log) as Arc<dyn EventSink>;
        worker.handle_command(now, Command::Open { conference: ROOM, events }, &mut Sent::default());
        Self { now, worker, clients: Vec::new(), log, identity, asked: 0, blocks_dtls: false }
    }

    pub(super) fn request(&mut self, request: BridgeRequest) -> Sent {
        let mut sent = Sent::default();
        self.worker.handle_command(self.now, Command::Request { conference: ROOM, request }, &mut sent);
        sent
    }

    pub(super) fn join(&mut self, name: &str) {
        let id = EndpointId::parse(name).unwrap();
        self.request(BridgeRequest::Allocate { endpoint: id.clone(), capabilities: FULL });
        let allocated = self.log.0.lock().unwrap().iter().rev().find_map(|event| match event {
            BridgeEvent::Allocated { endpoint, transport, .. } if *endpoint == id => Some(transport.clone()),
            _ => None,
        });
        let offer = allocated.expect("allocated");
        let number = u16::try_from(self.clients.len()).unwrap();
        let address = SocketAddr::new("10.0.0.2".parse().unwrap(), 5_000 + number);
        let ice = ice_credentials();
        let identity = Identity::generate().unwrap();
        let mut client = Client {
            id: id.clone(),
            address,
            home: address,
            transport: Transport::new(self.now, Role::Client, &identity, ice.clone(), &[address]),
            events: Vec::new(),
            received: Vec::new(),
        };
        let mut sent = Sent::default();
        let print = self.identity.fingerprint(DtlsSetup::Passive);
        client.transport.set_remote(self.now, &offer.ice, Some(print), None, &mut sent, &mut client.events);
        client.transport.add_remote_address(self.now, LOCAL.parse().unwrap(), &mut sent, &mut client.events);
        self.clients.push(client);
        let fingerprint = Some(identity.fingerprint(DtlsSetup::Active));
        let transport = RemoteTransport { ice, fingerprint, ice_generation: None };
        let more = self.request(BridgeRequest::SetTransport { endpoint: id.clone(), transport });
        let name = SourceName::of(&id, MediaKind::Audio, 0);
        let ssrc = Ssrc(100 + u32::from(number));
        let source = Source { ssrc, kind: MediaKind::Audio, name, msid: None, video_type: VideoType::Camera };
        self.request(BridgeRequest::SetSources {
            endpoint: id,
            sources: SourceSet { sources: vec![source], groups: vec![] },
        });
        self.pass(sent);
        self.pass(more);
    }

    /// Delivers until nothing flies.
    fn pass(&mut self, sent: Sent) {
        let mut flying = sent.0;
        while let Some((from, to, mut bytes)) = flying.pop() {
            let mut next = Sent::default();
            if self.blocks_dtls && matches!(bytes[0], 20..=63) {
                continue;
            }
            if to == LOCAL.parse().unwrap() {
                let client = self.clients.iter().find(|client| client.home == from);
                let from = client.map_or(from, |client| client.address);
                self.worker.handle_datagram(self.now, to, from, &mut bytes, &mut next);
                self.worker.finish_turn(self.now, &mut next);
            } else if let Some(client) = self.clients.iter_mut().find(|client| client.address == to) {
                self.asked += usize::from(bytes.starts_with(&[0, 1]));
                match bytes[0] {
                    0..=3 => {
                        let (transport, events) = (&mut client.transport, &mut client.events);
                        transport.handle_stun(self.now, client.home, from, &bytes, &mut next, events);
                    }
                    20..=63 => client.transport.handle_dtls(self.now, &bytes, &mut next, &mut client.events),
                    _ if tertulia_rtp::is_rtcp(&bytes) => {}
                    _ => {
                        let len = client.transport.open_rtp(self.now, from, &mut bytes).expect("opens");
                        client.received.push(bytes[..len].to_vec());
                    }
                }
            }
            flying.splice(0..0, next.0);
        }
    }

    pub(super) fn run(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now += Duration::from_millis(10);
            let mut sent = Sent::default();
            self.worker.on_timeout(self.now, &mut sent);
            for client in &mut self.clients {
                client.transport.on_timeout(self.now, &mut sent, &mut client.events);
            }
            self.pass(sent);
        }
    }

    /// Whether what the second client says comes to the first one where it is now.
    pub(super) fn first_hears_second(&mut self, sequence: u16) -> bool {
        let before = self.clients[0].received.len();
        let packet = self.seal(1, sequence);
        self.send(1, packet);
        self.clients[0].received.len() > before
    }

    pub(super) fn has_expired(&self) -> Option<ExpireReason> {
        self.log.0.lock().unwrap().iter().find_map(|event| match event {
            BridgeEvent::Expired { reason, .. } => Some(*reason),
            _ => None,
        })
    }

    fn seal(&mut self, client: usize, sequence: u16) -> Vec<u8> {
        let ssrc = 100 + u8::try_from(client).unwrap();
        let mut packet = vec![0x80, 111, (sequence >> 8) as u8, sequence as u8, 0, 0, 0, 0, 0, 0, 0, ssrc, 9, 9, 9];
        let len = packet.len();
        packet.resize(len + 40, 0);
        let (len, ..) = self.clients[client].transport.seal_rtp(&mut packet, len).expect("connected");
        packet.truncate(len);
        packet
    }

    fn send(&mut self, client: usize, bytes: Vec<u8>) {
        let from = self.clients[client].home;
        self.pass(Sent(vec![(from, LOCAL.parse().unwrap(), bytes)]));
    }
}

#[test]
fn two_clients_hear_each_other_and_nothing_is_left_when_they_are_gone() {
    let mut world = World::new();
    world.join("ana");
    world.join("bo");
    world.run(500);
    let profiles = |client: &Client| client.events.contains(&Event::Connected(Profile::AeadAes256Gcm));
    assert!(world.clients.iter().all(profiles));
    let packet = world.seal(0, 1);
    world.send(0, packet);
    assert_eq!(world.clients[1].received.len(), 1);
    assert!(world.clients[0].received.is_empty());
    for id in ["ana", "bo"] {
        world.request(BridgeRequest::Expire { endpoint: EndpointId::parse(id).unwrap() });
    }
    let held = world.worker.held();
    assert_eq!((held.conferences, held.endpoints, held.addresses, held.user_fragments), (1, 0, 0, 0));
    world.request(BridgeRequest::ExpireConference);
    world.run(125_000);
    assert_eq!(world.worker.held(), Held::default());
    assert_eq!(world.worker.registry.endpoint_count(), 0);
}

#[test]
fn garbage_replays_and_strangers_are_dropped_and_counted() {
    let mut world = World::new();
    world.join("ana");
    world.join("bo");
    world.run(500);
    let packet = world.seal(0, 1);
    world.send(0, packet.clone());
    world.send(0, packet.clone());
    let mut forged = world.seal(0, 2);
    forged[14] ^= 1;
    world.send(0, forged);
    let stranger: SocketAddr = "10.9.9.9:9".parse().unwrap();
    for mut bytes in [packet, vec![], vec![5; 40], vec![0; 20], vec![22; 60], vec![0x80; 12]] {
        world.worker.handle_datagram(world.now, LOCAL.parse().unwrap(), stranger, &mut bytes, &mut Sent::default());
    }
    let counters = *world.worker.counters();
    assert_eq!((counters.dropped_replayed, counters.dropped_forged), (1, 1));
    assert_eq!(
        (counters.dropped_unknown_address, counters.dropped_unknown_protocol, counters.dropped_unknown_user),
        (3, 2, 1)
    );
    assert_eq!(world.clients[1].received.len(), 1);
}

#[test]
fn one_who_never_connects_and_one_who_falls_silent_are_given_up() {
    let mut world = World::new();
    world.join("ana");
    world.join("bo");
    world.run(500);
    let late = EndpointId::parse("late").unwrap();
    world.request(BridgeRequest::Allocate { endpoint: late.clone(), capabilities: FULL });
    world.clients.pop();
    world.run(125_000);
    let log = world.log.0.lock().unwrap().clone();
    let bo = EndpointId::parse("bo").unwrap();
    assert!(log.contains(&BridgeEvent::Activity { endpoint: bo.clone(), active: false }));
    assert!(log.contains(&BridgeEvent::Expired { endpoint: bo, reason: ExpireReason::Silent }));
    assert!(log.contains(&BridgeEvent::Expired { endpoint: late, reason: ExpireReason::NeverConnected }));
    assert_eq!(world.worker.held().endpoints, 1, "ana's consent checks keep her");
    assert_eq!(world.clients[0].id.as_str(), "ana");
}

#[test]
fn silence_is_told_after_eight_seconds_and_ends_with_the_first_word() {
    let mut world = World::new();
    world.join("ana");
    world.join("bo");
    world.run(20_000);
    let bo = EndpointId::parse("bo").unwrap();
    let told = |world: &World, active| {
        world.log.0.lock().unwrap().contains(&BridgeEvent::Activity { endpoint: bo.clone(), active })
    };
    let silent = world.clients.pop().unwrap();
    // Checks come every three seconds at most, so the last word may be that old.
    world.run(4_900);
    assert!(!told(&world, false));
    world.run(4_600);
    assert!(told(&world, false) && !told(&world, true));
    world.clients.push(silent);
    let packet = world.seal(1, 9);
    world.send(1, packet);
    world.run(1_500);
    assert!(told(&world, true));
}

#[test]
fn a_worker_with_nothing_but_checks_has_time_and_with_anything_else_it_has_not() {
    let mut world = World::new();
    assert!(!world.worker.is_idle(world.now), "a command came");
    world.join("ana");
    world.run(10_000);
    assert!(world.worker.is_idle(world.now) && world.worker.is_settled(2));
    let late = EndpointId::parse("late").unwrap();
    world.request(BridgeRequest::Allocate { endpoint: late.clone(), capabilities: FULL });
    world.run(10_000);
    assert!(!world.worker.is_settled(2), "somebody's checks may come any time");
    world.request(BridgeRequest::Expire { endpoint: late });
    world.run(10_000);
    assert!(world.worker.is_settled(2));
    let checked = world.worker.counters().datagrams;
    world.run(10_000);
    assert!(world.worker.is_idle(world.now) && world.worker.counters().datagrams > checked);
    let packet = world.seal(0, 1);
    world.send(0, packet);
    assert!(!world.worker.is_idle(world.now + Duration::from_millis(900)));
    assert!(world.worker.is_idle(world.now + Duration::from_secs(1)));
}

#[test]
fn a_full_worker_refuses_and_says_so() {
    let mut world = World::new();
    for n in 0..101 {
        let endpoint = EndpointId::parse(&format!("p{n}")).unwrap();
        world.request(BridgeRequest::Allocate { endpoint, capabilities: FULL });
    }
    let refused = BridgeEvent::Refused { endpoint: EndpointId::parse("p100").unwrap(), refusal: Refusal::Full };
    assert_eq!(world.log.0.lock().unwrap().last(), Some(&refused));
}

/// A WebSocket that remembers.
#[derive(Default)]
struct Socket(Mutex<Vec<String>>);

impl ChannelSink for Socket {
    fn send(&self, text: Arc<str>) -> bool {
        self.0.lock().unwrap().push(text.to_string());
        true
    }

    fn close(&self, code: u16, _: &'static str) {
        self.0.lock().unwrap().push(code.to_string());
    }
}

impl World {
    fn open_data_channel(&mut self, client: usize) {
        let mut sent = Sent::default();
        let it = &mut self.clients[client];
        it.transport.open_channel(self.now, &mut sent, &mut it.events);
        self.pass(sent);
        self.run(200);
    }

    fn say(&mut self, client: usize, text: &str) {
        assert!(self.clients[client].transport.send_text(self.now, text));
        self.run(200);
    }

    /// Texts that came on a data channel since the last call.
    fn heard(&mut self, client: usize) -> Vec<String> {
        let text = |event: Event| if let Event::ChannelText(text) = event { Some(text) } else { None };
        self.clients[client].events.drain(..).filter_map(text).collect()
    }
}

const HELLO: &str = r#"{"colibriClass":"EndpointMessage","to":"","msgPayload":{"type":"hello"}}"#;

#[test]
fn a_data_channel_is_a_bridge_channel_like_a_websocket_and_the_last_opened_is_answered_on() {
    let mut world = World::new();
    world.join("ana");
    world.join("bo");
    world.run(500);
    for client in 0..2 {
        world.open_data_channel(client);
        assert!(world.heard(client).iter().any(|text| text.contains("ServerHello")), "told the state of things");
    }
    world.say(0, HELLO);
    let heard = world.heard(1);
    assert!(heard.iter().any(|text| text.contains(r#""from":"ana""#) && text.contains("hello")), "{heard:?}");
    // The same client opens a WebSocket: from now on it is told there, and heard on both.
    let socket = Arc::new(Socket::default());
    let sink: Arc<dyn ChannelSink> = Arc::clone(&socket) as Arc<dyn ChannelSink>;
    let endpoint = EndpointId::parse("bo").unwrap();
    let attach = Command::Channel { conference: ROOM, endpoint, sink };
    world.worker.handle_command(world.now, attach, &mut Sent::default());
    world.say(0, HELLO);
    assert!(world.heard(1).is_empty());
    assert!(socket.0.lock().unwrap().iter().any(|text| text.contains("hello")));
    world.say(1, HELLO);
    assert!(world.heard(0).iter().any(|text| text.contains(r#""from":"bo""#)));
    world.request(BridgeRequest::Expire { endpoint: EndpointId::parse("bo").unwrap() });
    assert_eq!(socket.0.lock().unwrap().last().map(String::as_str), Some("1001"));
}

#[test]
fn an_offer_names_the_channels_that_are_configured() {
    let mut world = World::new();
    world.worker.settings.channels = ChannelKinds::Both;
    world.request(BridgeRequest::Allocate { endpoint: EndpointId::parse("ana").unwrap(), capabilities: FULL });
    let log = world.log.0.lock().unwrap();
    let Some(BridgeEvent::Allocated { transport, .. }) = log.last() else { panic!("{log:?}") };
    assert_eq!(transport.channels, ChannelKinds::Both);
}

/// A room that cannot bear to be told of an endpoint: a defect that a command meets.
struct Broken(Mutex<Vec<BridgeEvent>>);

impl EventSink for Broken {
    fn event(&self, event: BridgeEvent) {
        assert!(!matches!(event, BridgeEvent::Allocated { .. }), "a defect, on purpose");
        self.0.lock().unwrap().push(event);
    }
}

#[test]
fn a_defect_that_a_command_meets_ends_its_conference_and_no_other() {
    let mut world = World::new();
    world.join("ana");
    let broken = Arc::new(Broken(Mutex::default()));
    let (conference, events) = (ConferenceId(8), Arc::clone(&broken) as Arc<dyn EventSink>);
    let request = BridgeRequest::Allocate { endpoint: EndpointId::parse("bo").unwrap(), capabilities: FULL };
    for command in [Command::Open { conference, events }, Command::Request { conference, request }] {
        world.worker.handle_command(world.now, command, &mut Sent::default());
    }
    assert_eq!(*broken.0.lock().unwrap(), [BridgeEvent::Lost]);
    let held = world.worker.held();
    assert_eq!((held.conferences, held.endpoints, world.worker.counters().panics), (1, 1, 1));
    world.run(500);
    assert!(world.log.0.lock().unwrap().iter().any(|event| matches!(event, BridgeEvent::Connected { .. })));
}

#[test]
fn an_overloaded_worker_forwards_fewer_pictures_until_it_has_recovered() {
    let mut world = World::new();
    world.worker.reducer = Reducer::new(Some(0.9));
    for (name, ssrc) in ["ana", "bo", "cy"].into_iter().zip(200..) {
        world.join(name);
        let endpoint = EndpointId::parse(name).unwrap();
        let (kind, name) = (MediaKind::Video, SourceName::of(&endpoint, MediaKind::Video, 0));
        let source = Source { ssrc: Ssrc(ssrc), kind, name, msid: None, video_type: VideoType::Camera };
        let sources = SourceSet { sources: vec![source], groups: vec![] };
        world.request(BridgeRequest::SetSources { endpoint, sources });
    }
    world.run(500);
    world.open_data_channel(0);
    let told = |world: &mut World, share| {
        world.worker.handle_load(world.now, share, &mut Sent::default());
        world.run(1_000);
        let heard = world.heard(0).into_iter().filter(|text| text.contains("ForwardedSources"));
        heard.map(|text| text.matches("-v0").count()).next_back()
    };
    assert_eq!(told(&mut world, 0.99), Some(2));
    world.run(9_000);
    assert_eq!(told(&mut world, 0.99), Some(1), "overloaded for ten seconds");
    world.run(60_000);
    assert_eq!(told(&mut world, 0.1), Some(2));
}
