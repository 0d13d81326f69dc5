//! Handling a datagram allocates nothing: a counting allocator around a worker whose caches and buffers are warm.
//!
//! Timers are not counted: the agent of `is` allocates for each of its checks, one in some seconds for each endpoint.

#![allow(clippy::unwrap_used)] // a test may end where it is surprised

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tertulia_media::identity::{Identity, ice_credentials};
use tertulia_media::registry::Registry;
use tertulia_media::transport::{Event, Role, Transport, Wire};
use tertulia_media::worker::batch::{Batch, Flush};
use tertulia_media::worker::{Command, Settings, Worker};
use tertulia_model::{
    BridgeEvent, BridgeRequest, Capabilities, ConferenceId, DtlsSetup, EndpointId, EventSink, GroupSemantics,
    MediaKind, RemoteTransport, Source, SourceGroup, SourceName, SourceSet, Ssrc, VideoType,
};
use tertulia_rtp::rtcp::Writer;

/// Counts what the current thread allocates while it says so.
struct Counting;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    if ARMED.get() {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches only cells of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `run` allocates.
fn allocations(run: impl FnOnce()) -> usize {
    COUNT.set(0);
    ARMED.set(true);
    run();
    ARMED.set(false);
    COUNT.get()
}

const ROOM: ConferenceId = ConferenceId(7);
const RECEIVERS: usize = 4;
const FULL: Capabilities = Capabilities::USUAL;

fn bridge() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 10_000))
}

#[derive(Default)]
struct Events(Mutex<Vec<BridgeEvent>>);

impl EventSink for Events {
    fn event(&self, event: BridgeEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// Passes datagrams while people connect.
#[derive(Default)]
struct Flying(Vec<(SocketAddr, SocketAddr, Vec<u8>)>);

impl Flush for Flying {
    fn flush(&mut self, batch: &Batch) {
        self.0.extend(batch.iter().map(|(entry, bytes)| (entry.local, entry.remote, bytes.to_vec())));
    }
}

impl Wire for Flying {
    fn datagram(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.0.push((local, remote, bytes.to_vec()));
    }
}

/// Counts datagrams, and does nothing else.
#[derive(Default)]
struct Gone(usize);

impl Flush for Gone {
    fn flush(&mut self, batch: &Batch) {
        self.0 += batch.iter().count();
    }
}

struct Client {
    id: EndpointId,
    address: SocketAddr,
    transport: Transport,
}

struct World {
    now: Instant,
    worker: Worker,
    identity: Identity,
    events: Arc<Events>,
    clients: Vec<Client>,
}

impl World {
    fn new() -> Self {
        let identity = Identity::generate().unwrap();
        let settings =
            Settings { locals: vec![bridge()], bridge: "b".into(), endpoints_max: 10, ..Settings::default() };
        let mut worker = Worker::new(settings, identity.clone(), Arc::new(Registry::default()));
        let events = Arc::new(Events::default());
        let sink: Arc<dyn EventSink> = Arc::clone(&events) as Arc<dyn EventSink>;
        let now = Instant::now();
        worker.handle_command(now, Command::Open { conference: ROOM, events: sink }, &mut Flying::default());
        Self { now, worker, identity, events, clients: Vec::new() }
    }

    fn request(&mut self, request: BridgeRequest) -> Flying {
        let mut flying = Flying::default();
        self.worker.handle_command(self.now, Command::Request { conference: ROOM, request }, &mut flying);
        flying
    }

    fn join(&mut self, name: &str) {
        let id = EndpointId::parse(name).unwrap();
        self.request(BridgeRequest::Allocate { endpoint: id.clone(), capabilities: FULL });
        let offer = self.events.0.lock().unwrap().iter().rev().find_map(|event| match event {
            BridgeEvent::Allocated { endpoint, transport, .. } if *endpoint == id => Some(transport.clone()),
            _ => None,
        });
        let offer = offer.unwrap();
        let address = SocketAddr::from(([10, 0, 0, 2], 5_000 + u16::try_from(self.clients.len()).unwrap()));
        let (ice, identity) = (ice_credentials(), Identity::generate().unwrap());
        let mut transport = Transport::new(self.now, Role::Client, &identity, ice.clone(), &[address]);
        let (mut flying, mut events) = (Flying::default(), Vec::new());
        let print = self.identity.fingerprint(DtlsSetup::Passive);
        transport.set_remote(self.now, &offer.ice, Some(print), None, &mut flying, &mut events);
        transport.add_remote_address(self.now, bridge(), &mut flying, &mut events);
        self.clients.push(Client { id: id.clone(), address, transport });
        let fingerprint = Some(identity.fingerprint(DtlsSetup::Active));
        let remote = RemoteTransport { ice, fingerprint, ice_generation: None };
        let more = self.request(BridgeRequest::SetTransport { endpoint: id, transport: remote });
        self.pass(flying);
        self.pass(more);
    }

    fn pass(&mut self, flying: Flying) {
        let mut flying = flying.0;
        while let Some((from, to, mut bytes)) = flying.pop() {
            let mut next = Flying::default();
            if to == bridge() {
                self.worker.handle_datagram(self.now, to, from, &mut bytes, &mut next);
            } else if let Some(client) = self.clients.iter_mut().find(|client| client.address == to) {
                let mut events: Vec<Event> = Vec::new();
                match bytes[0] {
                    0..=3 => client.transport.handle_stun(self.now, to, from, &bytes, &mut next, &mut events),
                    20..=63 => client.transport.handle_dtls(self.now, &bytes, &mut next, &mut events),
                    _ => {}
                }
            }
            flying.splice(0..0, next.0);
        }
    }

    fn connect(&mut self) {
        while !self.clients.iter().all(|client| client.transport.is_connected()) {
            self.now += Duration::from_millis(10);
            let mut flying = Flying::default();
            self.worker.on_timeout(self.now, &mut flying);
            for client in &mut self.clients {
                client.transport.on_timeout(self.now, &mut flying, &mut Vec::new());
            }
            self.pass(flying);
        }
    }

    /// A packet of the publisher: sealed, as it comes from the wire.
    fn sealed(&mut self, ssrc: u32, payload_type: u8, sequence: u16, timestamp: u32, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x90, payload_type];
        packet.extend(sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        // One-byte extensions: audio level 40, transport-wide number.
        let [high, low] = sequence.to_be_bytes();
        packet.extend([0xbe, 0xde, 0, 2, 0x10, 40, 0x51, high, low, 0, 0, 0]);
        packet.extend(payload);
        let len = packet.len();
        packet.resize(len + 64, 0);
        let (len, ..) = self.clients[0].transport.seal_rtp(&mut packet, len).unwrap();
        packet.truncate(len);
        packet
    }

    /// What a receiver says about losses.
    fn sealed_nack(&mut self, client: usize, media_ssrc: u32, lost: u16) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.nack(1, media_ssrc, [lost, lost.wrapping_add(3)].into_iter());
        let mut packet = writer.bytes().to_vec();
        let len = packet.len();
        packet.resize(len + 64, 0);
        let (len, ..) = self.clients[client].transport.seal_rtcp(&mut packet, len).unwrap();
        packet.truncate(len);
        packet
    }
}

/// A camera of three encodings, with retransmissions, and a microphone.
fn sources(id: &EndpointId) -> SourceSet {
    let source = |ssrc, kind, index| Source {
        ssrc: Ssrc(ssrc),
        kind,
        name: SourceName::of(id, kind, index),
        msid: Some("m".into()),
        video_type: VideoType::Camera,
    };
    let group = |semantics, ssrcs: &[u32]| SourceGroup {
        semantics,
        kind: MediaKind::Video,
        ssrcs: ssrcs.iter().map(|ssrc| Ssrc(*ssrc)).collect(),
    };
    let mut all: Vec<Source> = [1, 11, 2, 12, 3, 13].iter().map(|ssrc| source(*ssrc, MediaKind::Video, 0)).collect();
    all.push(source(50, MediaKind::Audio, 0));
    let groups = vec![
        group(GroupSemantics::Sim, &[1, 2, 3]),
        group(GroupSemantics::Fid, &[1, 11]),
        group(GroupSemantics::Fid, &[2, 12]),
        group(GroupSemantics::Fid, &[3, 13]),
    ];
    SourceSet { sources: all, groups }
}

/// VP8 with a picture id; one packet a frame, every hundredth a key frame.
fn picture(number: u16) -> Vec<u8> {
    let delta = u8::from(number % 100 != 1);
    let mut payload = vec![0x90, 0xf0, 0x80 | (number >> 8) as u8 & 0x7f, number as u8, number as u8, 0, delta, 0, 0];
    payload.extend([0x9d, 0x01, 0x2a, 64, 1, 180, 0]);
    payload.resize(900, 0x55);
    payload
}

#[test]
fn a_packet_is_forwarded_without_an_allocation() {
    let mut world = World::new();
    for name in ["pub", "r1", "r2", "r3", "r4"] {
        world.join(name);
    }
    world.connect();
    let publisher = world.clients[0].id.clone();
    world.request(BridgeRequest::SetSources { endpoint: publisher.clone(), sources: sources(&publisher) });
    // Five seconds of pictures in three encodings and of sound, and some complaints, made before anything is counted.
    let (from, mut script) = (world.clients[0].address, Vec::new());
    for frame in 1..=150u16 {
        let at = Duration::from_millis(u64::from(frame) * 33);
        for ssrc in 1..=3 {
            let bytes = world.sealed(ssrc, 100, frame, u32::from(frame) * 3_000, &picture(frame));
            script.push((at, from, bytes));
        }
        let bytes = world.sealed(50, 111, frame, u32::from(frame) * 960, &[0x33; 80]);
        script.push((at, from, bytes));
        if frame % 10 == 0 {
            for receiver in 1..=RECEIVERS {
                let bytes = world.sealed_nack(receiver, 1, frame);
                script.push((at, world.clients[receiver].address, bytes));
            }
        }
    }
    let start = world.now;
    let half = script.len() / 2;
    let mut sent = Gone::default();
    let (mut count, mut counted_from) = (0, 0);
    for (index, (at, from, bytes)) in script.iter_mut().enumerate() {
        let (now, worker) = (start + *at, &mut world.worker);
        worker.on_timeout(now, &mut sent);
        let here = allocations(|| worker.handle_datagram(now, bridge(), *from, bytes, &mut sent));
        match index.cmp(&half) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => counted_from = sent.0,
            std::cmp::Ordering::Greater => count += here,
        }
    }
    let forwarded = sent.0 - counted_from;
    assert!(forwarded > 70 * 2 * RECEIVERS, "{forwarded} datagrams");
    assert_eq!(count, 0, "allocations for {forwarded} datagrams");
}
