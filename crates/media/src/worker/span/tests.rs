//! Two workers that share a conference, and their clients, in virtual time: real keys, real rings, no threads.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tertulia_model::{
    BridgeEvent, BridgeRequest, Capabilities, DtlsSetup, EndpointId, EventSink, GroupSemantics, MediaKind,
    RemoteTransport, Source, SourceGroup, SourceName, SourceSet, Ssrc, VideoType,
};
use tertulia_rtp::Packet;
use tertulia_rtp::packet::{Header, write_header};
use tertulia_rtp::rtcp::{Compound, Rtcp, Writer};

use super::*;
use crate::identity::{Identity, ice_credentials};
use crate::registry::Registry;
use crate::ring::ring_of;
use crate::transport::{Event, Role, Transport};
use crate::worker::tests::{Log, Sent};
use crate::worker::{Held, Peer, Settings};

const ROOM: ConferenceId = ConferenceId(7);
/// Words of the rings: 32 kilobytes.
const RING: usize = 4 * 1024;

/// A worker's inbox, and whether it was woken.
#[derive(Default)]
struct Inbox {
    commands: VecDeque<Command>,
    woken: bool,
    is_full: bool,
}

struct ToInbox(Arc<Mutex<Inbox>>);

impl Peer for ToInbox {
    fn tell(&self, command: Command) -> bool {
        let mut inbox = self.0.lock().unwrap();
        if !inbox.is_full {
            inbox.commands.push_back(command);
        }
        !inbox.is_full
    }

    fn wake(&self) {
        self.0.lock().unwrap().woken = true;
    }
}

struct Client {
    id: EndpointId,
    worker: usize,
    address: SocketAddr,
    transport: Transport,
    received: Vec<Vec<u8>>,
    /// SSRCs of which it was asked for key frames.
    asked: BTreeSet<u32>,
}

struct World {
    now: Instant,
    workers: Vec<Worker>,
    inboxes: Vec<Arc<Mutex<Inbox>>>,
    /// Takes nothing from the ring at the moment.
    stuck: Option<usize>,
    clients: Vec<Client>,
    log: Arc<Log>,
    identity: Identity,
    sequence: u16,
}

fn local(worker: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 10_000 + u16::try_from(worker).unwrap()))
}

impl World {
    /// Two workers with a shard each; client n goes to worker n % 2.
    fn of(people: usize) -> Self {
        let identity = Identity::generate().unwrap();
        let registry = Arc::new(Registry::default());
        let worker = |index| {
            let settings = Settings {
                index,
                locals: vec![local(index)],
                bridge: "b".into(),
                endpoints_max: 100,
                ..Settings::default()
            };
            Worker::new(settings, identity.clone(), Arc::clone(&registry))
        };
        let mut workers: Vec<Worker> = (0..2).map(worker).collect();
        let inboxes: Vec<Arc<Mutex<Inbox>>> = (0..2).map(|_| Arc::default()).collect();
        let ((there, arriving), (back, returning)) = (ring_of(RING), ring_of(RING));
        workers[0].link(1, Link::new(there, Box::new(ToInbox(Arc::clone(&inboxes[1])))), returning);
        workers[1].link(0, Link::new(back, Box::new(ToInbox(Arc::clone(&inboxes[0])))), arriving);
        let (now, log) = (Instant::now(), Arc::new(Log::default()));
        let mut world = Self { now, workers, inboxes, stuck: None, clients: vec![], log, identity, sequence: 1 };
        for worker in 0..2 {
            let events: Arc<dyn EventSink> = Arc::clone(&world.log) as Arc<dyn EventSink>;
            world.command(worker, Command::Open { conference: ROOM, events });
        }
        for (worker, peer) in [(1, 0), (0, 1)] {
            let [home, peer] = [0, peer].map(|n| Shard::new(n).unwrap());
            world.command(worker, Command::Span { conference: ROOM, home, peer });
        }
        (0..people).for_each(|n| world.join(n));
        world.run(700);
        world
    }

    fn command(&mut self, worker: usize, command: Command) {
        let mut sent = Sent::default();
        self.workers[worker].handle_command(self.now, command, &mut sent);
        self.pass(sent);
    }

    fn request(&mut self, worker: usize, request: BridgeRequest) {
        self.command(worker, Command::Request { conference: ROOM, request });
    }

    fn join(&mut self, n: usize) {
        let (id, worker) = (EndpointId::parse(&format!("p{n}")).unwrap(), n % 2);
        self.request(worker, BridgeRequest::Allocate { endpoint: id.clone(), capabilities: Capabilities::USUAL });
        let offer = self.log.0.lock().unwrap().iter().rev().find_map(|event| match event {
            BridgeEvent::Allocated { endpoint, transport, .. } if *endpoint == id => Some(transport.clone()),
            _ => None,
        });
        let offer = offer.expect("allocated");
        let address = SocketAddr::from(([10, 0, 0, 2], 5_000 + u16::try_from(n).unwrap()));
        let (ice, identity) = (ice_credentials(), Identity::generate().unwrap());
        let mut transport = Transport::new(self.now, Role::Client, &identity, ice.clone(), &[address]);
        let (mut sent, mut events) = (Sent::default(), Vec::new());
        let print = self.identity.fingerprint(DtlsSetup::Passive);
        transport.set_remote(self.now, &offer.ice, Some(print), None, &mut sent, &mut events);
        transport.add_remote_address(self.now, local(worker), &mut sent, &mut events);
        let (received, asked) = (Vec::new(), BTreeSet::new());
        self.clients.push(Client { id: id.clone(), worker, address, transport, received, asked });
        let fingerprint = Some(identity.fingerprint(DtlsSetup::Active));
        let transport = RemoteTransport { ice, fingerprint, ice_generation: None };
        self.request(worker, BridgeRequest::SetTransport { endpoint: id.clone(), transport });
        let sources = sources(&id, n);
        self.request(worker, BridgeRequest::SetSources { endpoint: id, sources });
        self.pass(sent);
    }

    /// Delivers until nothing is under way: datagrams, commands and copies.
    fn pass(&mut self, sent: Sent) {
        let mut flying = VecDeque::from(sent.0);
        loop {
            while let Some((from, to, bytes)) = flying.pop_front() {
                flying.extend(self.deliver(from, to, bytes).0);
            }
            for (index, worker) in self.workers.iter_mut().enumerate() {
                let mut next = Sent::default();
                let commands = std::mem::take(&mut self.inboxes[index].lock().unwrap().commands);
                commands.into_iter().for_each(|command| worker.handle_command(self.now, command, &mut next));
                let woken = self.stuck != Some(index) && std::mem::take(&mut self.inboxes[index].lock().unwrap().woken);
                if woken {
                    while worker.handle_copies(self.now, &mut next) {}
                    worker.finish_turn(self.now, &mut next);
                }
                flying.extend(next.0);
            }
            let is_quiet = |(index, inbox): (usize, &Arc<Mutex<Inbox>>)| {
                let inbox = inbox.lock().unwrap();
                inbox.commands.is_empty() && (!inbox.woken || self.stuck == Some(index))
            };
            if flying.is_empty() && self.inboxes.iter().enumerate().all(is_quiet) {
                return;
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>) -> Sent {
        let mut next = Sent::default();
        if let Some(worker) = (0..2).find(|worker| local(*worker) == to) {
            self.workers[worker].handle_datagram(self.now, to, from, &mut bytes, &mut next);
            self.workers[worker].finish_turn(self.now, &mut next);
        } else if let Some(client) = self.clients.iter_mut().find(|client| client.address == to) {
            let mut events: Vec<Event> = Vec::new();
            match bytes[0] {
                0..=3 => client.transport.handle_stun(self.now, to, from, &bytes, &mut next, &mut events),
                20..=63 => client.transport.handle_dtls(self.now, &bytes, &mut next, &mut events),
                _ if tertulia_rtp::is_rtcp(&bytes) => {
                    let len = client.transport.open_rtcp(self.now, from, &mut bytes).expect("opens");
                    client.asked.extend(Compound::new(&bytes[..len]).filter_map(|part| match part {
                        Rtcp::PictureLossIndication { media_ssrc } => Some(media_ssrc),
                        _ => None,
                    }));
                }
                _ => {
                    let len = client.transport.open_rtp(self.now, from, &mut bytes).expect("opens");
                    client.received.push(bytes[..len].to_vec());
                }
            }
        }
        next
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now += Duration::from_millis(10);
            let mut sent = Sent::default();
            self.workers.iter_mut().for_each(|worker| worker.on_timeout(self.now, &mut sent));
            for client in &mut self.clients {
                client.transport.on_timeout(self.now, &mut sent, &mut Vec::new());
            }
            self.pass(sent);
        }
    }

    fn send(&mut self, client: usize, payload_type: u8, ssrc: u32, payload: &[u8]) {
        let sequence = self.sequence;
        let it = &mut self.clients[client];
        let timestamp = u32::from(sequence) * 3_000;
        let header = Header { marker: true, payload_type, sequence, timestamp, ssrc };
        let mut packet = vec![0; 1_400];
        let start = write_header(&mut packet, header, &[(1, &[30])]);
        packet[start..start + payload.len()].copy_from_slice(payload);
        let (len, ..) = it.transport.seal_rtp(&mut packet, start + payload.len()).expect("connected");
        packet.truncate(len);
        let (from, to) = (it.address, local(it.worker));
        self.pass(Sent(vec![(from, to, packet)]));
    }

    /// Pictures in three encodings and sound of the first two clients, with key frames when asked; 30 a second.
    fn film(&mut self, frames: usize) {
        for _ in 0..frames {
            for publisher in 0..2 {
                let asked = std::mem::take(&mut self.clients[publisher].asked);
                let base = base(publisher);
                for layer in 1..=3 {
                    let is_key = self.sequence == 1 || asked.contains(&(base + layer));
                    let payload = picture(self.sequence, is_key.then_some(90 << layer));
                    self.send(publisher, 100, base + layer, &payload);
                }
                self.send(publisher, 111, base + 50, &[3; 80]);
            }
            self.sequence += 1;
            self.run(30);
        }
    }

    fn got(&self, client: usize, ssrc: u32) -> usize {
        let headers = self.clients[client].received.iter().filter_map(|bytes| Packet::parse(bytes));
        headers.filter(|packet| packet.header.ssrc == ssrc).count()
    }

    /// Lines of the last key frame that somebody got.
    fn lines(&self, client: usize, ssrc: u32) -> Option<u16> {
        let own = self.clients[client].received.iter().rev().filter_map(|bytes| Packet::parse(bytes));
        let mut keys = own.filter(|packet| packet.header.ssrc == ssrc).filter_map(|packet| {
            let payload = packet.payload();
            (payload[6] & 1 == 0).then(|| u16::from_le_bytes([payload[14], payload[15]]))
        });
        keys.next()
    }

    fn say(&mut self, client: usize, text: &str) {
        let (worker, endpoint) = (self.clients[client].worker, self.clients[client].id.clone());
        self.command(worker, Command::Message { conference: ROOM, endpoint, text: text.into() });
    }

    fn counters(&self, worker: usize) -> crate::worker::Counters {
        *self.workers[worker].counters()
    }
}

fn base(n: usize) -> u32 {
    100 * (u32::try_from(n).unwrap() + 1)
}

/// A camera of three encodings and a microphone.
fn sources(id: &EndpointId, n: usize) -> SourceSet {
    let source = |ssrc, kind| Source {
        ssrc: Ssrc(base(n) + ssrc),
        kind,
        name: SourceName::of(id, kind, 0),
        msid: None,
        video_type: VideoType::Camera,
    };
    let mut all: Vec<Source> = [1, 2, 3, 11, 12, 13].map(|ssrc| source(ssrc, MediaKind::Video)).to_vec();
    all.push(source(50, MediaKind::Audio));
    let group = |semantics, ssrcs: &[u32]| SourceGroup {
        semantics,
        kind: MediaKind::Video,
        ssrcs: ssrcs.iter().map(|ssrc| Ssrc(base(n) + ssrc)).collect(),
    };
    let fid = (1..=3).map(|ssrc| group(GroupSemantics::Fid, &[ssrc, ssrc + 10]));
    let groups = std::iter::once(group(GroupSemantics::Sim, &[1, 2, 3])).chain(fid).collect();
    SourceSet { sources: all, groups }
}

/// VP8: a whole frame in one packet of 900 bytes.
fn picture(sequence: u16, key: Option<u16>) -> Vec<u8> {
    let id = (sequence & 0x7fff) | 0x8000;
    let mut payload = vec![0x90, 0xe0, (id >> 8) as u8, id as u8, sequence as u8, 0x20];
    match key {
        Some(height) => {
            payload.extend([0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 7, height as u8, (height >> 8) as u8]);
        }
        None => payload.extend([0x11, 0, 0, 1, 2, 3]),
    }
    payload.resize(900, 0x55);
    payload
}

const LARGE: &str = r#"{"colibriClass":"ReceiverVideoConstraints","defaultConstraints":{"maxHeight":720}}"#;

#[test]
fn two_publishers_and_four_receivers_over_two_workers_all_get_each_other() {
    let mut world = World::of(6);
    world.film(40);
    for client in 0..6 {
        for publisher in (0..2).filter(|publisher| *publisher != client) {
            let (pictures, sounds) = (world.got(client, base(publisher) + 1), world.got(client, base(publisher) + 50));
            assert!(pictures >= 35 && sounds == 40, "{client} of {publisher}: {pictures}, {sounds}");
        }
        assert_eq!(world.got(client, base(client) + 1), 0, "nobody gets what is their own");
    }
    let copied = world.counters(0).copied;
    assert!((75..=100).contains(&copied), "sound and one encoding of three: {copied}");
    assert_eq!(world.counters(0).uncopied + world.counters(1).uncopied, 0);
    let feedbacks: Vec<_> = world
        .log
        .0
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            BridgeEvent::Allocated { feedback, .. } => Some(*feedback),
            _ => None,
        })
        .collect();
    assert!(feedbacks.windows(2).all(|pair| pair[0] == pair[1]), "one pair for the whole conference");
}

#[test]
fn a_wish_for_larger_pictures_is_granted_across_workers() {
    let mut world = World::of(4);
    world.film(30);
    assert_eq!(world.lines(3, 101), Some(180));
    world.say(3, LARGE);
    world.film(30);
    assert_eq!(world.lines(3, 101), Some(720));
    assert_eq!(world.lines(2, 101), Some(180), "others keep theirs");
}

#[test]
fn a_request_for_a_key_frame_crosses() {
    let mut world = World::of(4);
    world.film(80); // the last one is more than a second ago
    let mut complaint = Writer::default();
    complaint.picture_loss(1, 101);
    let mut packet = complaint.bytes().to_vec();
    let len = packet.len();
    packet.resize(len + 64, 0);
    let client = &mut world.clients[3];
    let (len, ..) = client.transport.seal_rtcp(&mut packet, len).unwrap();
    packet.truncate(len);
    let flying = (client.address, local(client.worker), packet);
    world.pass(Sent(vec![flying]));
    assert_eq!(world.clients[0].asked, BTreeSet::from([101]));
}

#[test]
fn a_worker_that_is_stuck_loses_packets_and_a_key_frame_makes_up_for_them() {
    let mut world = World::of(4);
    world.film(40);
    world.stuck = Some(1);
    world.film(60);
    assert!(world.counters(0).uncopied > 0);
    assert_eq!(world.counters(1).uncopied, 0);
    assert!(world.got(2, 101) >= 90, "those of the other worker notice nothing");
    world.stuck = None;
    world.film(10);
    let before = (world.got(3, 101), world.got(3, 150));
    world.film(30);
    assert_eq!((world.got(3, 101), world.got(3, 150)), (before.0 + 30, before.1 + 30));
    assert_eq!(world.lines(3, 101), Some(180));
}

#[test]
fn a_worker_whose_inbox_was_full_is_told_everything_anew() {
    let mut world = World::of(4);
    world.inboxes[1].lock().unwrap().is_full = true;
    let gone = world.clients.remove(2).id;
    world.request(0, BridgeRequest::Expire { endpoint: gone });
    world.run(3_000);
    world.inboxes[1].lock().unwrap().is_full = false;
    world.run(2_000);
    world.film(40);
    // Client 3 is the third now.
    assert!(world.got(2, 101) >= 30 && world.got(0, 201) >= 30);
    let shard = &world.workers[1].rooms[&ROOM];
    assert!(shard.span.behind.is_empty());
    assert_eq!(shard.sfu.endpoint_count(), 3);
}

#[test]
fn whoever_leaves_leaves_nothing_on_any_worker() {
    let mut world = World::of(4);
    world.film(20);
    for (n, client) in std::mem::take(&mut world.clients).into_iter().enumerate() {
        world.request(client.worker, BridgeRequest::Expire { endpoint: client.id });
        for worker in &world.workers {
            assert_eq!(worker.rooms[&ROOM].sfu.endpoint_count(), 3 - n);
        }
    }
    assert!(world.workers.iter().all(|worker| worker.rooms[&ROOM].sfu.is_empty()));
    for worker in 0..2 {
        world.request(worker, BridgeRequest::ExpireConference);
    }
    world.run(1_000);
    for worker in &world.workers {
        assert_eq!(worker.held(), Held::default());
    }
}
