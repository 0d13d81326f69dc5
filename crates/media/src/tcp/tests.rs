//! A running bridge and clients that have nothing but a TCP connection, on loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tertulia_model::{
    Bridge, BridgeEvent, BridgeRequest, Capabilities, ChannelKinds, ConferenceId, DtlsSetup, EndpointId, EventSink,
    LocalTransport, MediaKind, RemoteTransport, Source, SourceName, SourceSet, Ssrc, TransportProtocol, VideoType,
};

use super::Unframer;
use crate::identity::{Identity, ice_credentials};
use crate::transport::{Event, Role, Transport, Wire, stream_local};
use crate::{BridgeHandle, MediaBridge, Settings};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ROOM: ConferenceId = ConferenceId(7);

#[derive(Default)]
struct Log(Mutex<Vec<BridgeEvent>>);

impl EventSink for Log {
    fn event(&self, event: BridgeEvent) {
        self.0.lock().unwrap().push(event);
    }
}

struct World {
    media: MediaBridge,
    bridge: BridgeHandle,
    log: Arc<Log>,
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            bind: vec![LOCALHOST],
            port: 0,
            workers: 2,
            advertised: Vec::new(),
            endpoints_per_worker: 10,
            policy: tertulia_sfu::Policy::default(),
            overload: None,
            channels: ChannelKinds::WebSocket,
            tcp_port: Some(0),
            spread_at: 0,
        };
        let media = MediaBridge::start(&settings).unwrap();
        let (bridge, log) = (media.handle(), Arc::new(Log::default()));
        // The second conference is on the second worker: the routing has something to decide.
        bridge.open(ConferenceId(1), Arc::new(Log::default()));
        bridge.open(ROOM, Arc::clone(&log) as Arc<dyn EventSink>);
        Self { media, bridge, log }
    }

    fn port(&self) -> SocketAddr {
        SocketAddr::new(LOCALHOST, self.media.tcp_port().unwrap())
    }

    fn allocate(&self, name: &str) -> LocalTransport {
        let id = EndpointId::parse(name).unwrap();
        let request = BridgeRequest::Allocate { endpoint: id.clone(), capabilities: Capabilities::USUAL };
        self.bridge.request(ROOM, request);
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            let found = self.log.0.lock().unwrap().iter().find_map(|event| match event {
                BridgeEvent::Allocated { endpoint, transport, .. } if *endpoint == id => Some(transport.clone()),
                _ => None,
            });
            if let Some(transport) = found {
                return transport;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{name} was not allocated");
    }

    fn join(&self, name: &str, ssrc: u32) -> Client {
        let offer = self.allocate(name);
        let candidate = offer.candidates.last().unwrap();
        assert_eq!((candidate.protocol, candidate.port), (TransportProtocol::TcpPassive, self.port().port()));
        let (identity, ice, now) = (Identity::generate().unwrap(), ice_credentials(), Instant::now());
        let mut client = Client {
            transport: Transport::new(now, Role::Client, &identity, ice.clone(), &[stream_local(LOCALHOST)]),
            events: Vec::new(),
            unframer: Unframer::default(),
            socket: Socket(TcpStream::connect(self.port()).unwrap()),
            received: Vec::new(),
            ssrc,
            sequence: 0,
        };
        client.socket.0.set_nonblocking(true).unwrap();
        client.socket.0.set_nodelay(true).unwrap();
        let mut print = offer.fingerprint.clone();
        print.setup = DtlsSetup::Passive;
        let Client { transport, events, socket, .. } = &mut client;
        transport.set_remote(now, &offer.ice, Some(print), None, socket, events);
        transport.add_remote_address(now, self.port(), socket, events);
        let endpoint = EndpointId::parse(name).unwrap();
        let fingerprint = Some(identity.fingerprint(DtlsSetup::Active));
        let transport = RemoteTransport { ice, fingerprint, ice_generation: None };
        self.bridge.request(ROOM, BridgeRequest::SetTransport { endpoint: endpoint.clone(), transport });
        let name = SourceName::of(&endpoint, MediaKind::Audio, 0);
        let kind = MediaKind::Audio;
        let source = Source { ssrc: Ssrc(ssrc), kind, name, msid: None, video_type: VideoType::Camera };
        let sources = SourceSet { sources: vec![source], groups: Vec::new() };
        self.bridge.request(ROOM, BridgeRequest::SetSources { endpoint, sources });
        client
    }

    fn is_lost(&self, socket: &mut TcpStream, within: Duration) -> bool {
        socket.set_read_timeout(Some(within)).unwrap();
        loop {
            match socket.read(&mut [0; 4_096]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }
}

struct Socket(TcpStream);

impl Wire for Socket {
    fn datagram(&mut self, _: SocketAddr, _: SocketAddr, bytes: &[u8]) {
        let mut frame = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        frame.extend(bytes);
        // Two kilobytes always fit a test's socket.
        let _ = self.0.write_all(&frame);
    }
}

struct Client {
    transport: Transport,
    events: Vec<Event>,
    unframer: Unframer,
    socket: Socket,
    received: Vec<Vec<u8>>,
    ssrc: u32,
    sequence: u16,
}

impl Client {
    fn turn(&mut self) {
        let now = Instant::now();
        let Self { transport, events, unframer, socket, received, .. } = self;
        if let Ok(len) = socket.0.read(unframer.room()) {
            unframer.advance(len);
        }
        let (local, remote) = (stream_local(LOCALHOST), socket.0.peer_addr().unwrap());
        while let Ok(Some(frame)) = unframer.next_frame() {
            match frame[0] {
                0..=3 => transport.handle_stun(now, local, remote, frame, socket, events),
                20..=63 => transport.handle_dtls(now, frame, socket, events),
                _ if tertulia_rtp::is_rtcp(frame) => {}
                _ => {
                    let len = transport.open_rtp(now, remote, frame).expect("what the bridge sealed opens");
                    received.push(frame[..len].to_vec());
                }
            }
        }
        transport.on_timeout(now, socket, events);
    }

    fn connect(&mut self) {
        run(&mut [self], |clients| clients[0].transport.is_connected());
    }

    fn say(&mut self, payload_len: usize) {
        self.sequence += 1;
        let mut packet = vec![0x80, 111];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(self.ssrc.to_be_bytes());
        packet.resize(12 + payload_len, 9);
        let len = packet.len();
        packet.resize(len + 40, 0);
        let (len, local, remote) = self.transport.seal_rtp(&mut packet, len).expect("connected");
        self.socket.datagram(local, remote, &packet[..len]);
    }
}

/// Lets clients take part until something is so; at most five seconds.
fn run(clients: &mut [&mut Client], done: impl Fn(&[&mut Client]) -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        clients.iter_mut().for_each(|client| client.turn());
        if done(clients) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("not within five seconds: {:?}", clients.iter().map(|client| &client.events).collect::<Vec<_>>());
}

#[test]
fn two_clients_behind_firewalls_hear_each_other_over_tcp() {
    let world = World::new();
    let (mut ana, mut bo) = (world.join("ana", 100), world.join("bo", 200));
    ana.connect();
    bo.connect();
    for _ in 0..10 {
        ana.say(100);
        bo.say(1_100);
    }
    run(&mut [&mut ana, &mut bo], |both| both.iter().all(|client| client.received.len() == 10));
    // The bridge adds header extensions, so lengths are about those that were sent.
    assert!(
        ana.received.iter().all(|packet| packet.len() > 1_100) && bo.received.iter().all(|packet| packet.len() < 200)
    );
    let counters = world.bridge.counters().tcp;
    assert_eq!((counters.accepted, counters.refused, counters.unproven, counters.dropped_full), (2, 0, 0, 0));
    world.media.shutdown();
}

#[test]
fn one_who_does_not_read_loses_packets_and_keeps_nobody_waiting() {
    let world = World::new();
    let mut clients = [world.join("ana", 100), world.join("bo", 200), world.join("slow", 300)];
    clients.iter_mut().for_each(Client::connect);
    let [ana, bo, slow] = &mut clients;
    slow.turn();
    for sent in 1..=4_000 {
        ana.say(1_000);
        if sent % 20 == 0 {
            run(&mut [ana, bo], |both| both[1].received.len() == sent);
        }
    }
    let counters = world.bridge.counters().tcp;
    assert!(counters.dropped_full > 100, "the kernel's buffers hold less than four megabytes: {counters:?}");
    world.media.shutdown();
}

#[test]
fn strangers_are_closed_and_a_lost_connection_is_replaced_by_another() {
    let world = World::new();
    let mut rude = TcpStream::connect(world.port()).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(world.is_lost(&mut rude, Duration::from_secs(5)), "47 45: a frame of 18 245 bytes");
    let mut unknown = TcpStream::connect(world.port()).unwrap();
    let mut request = vec![0, 32, 0, 1, 0, 12];
    request.extend([0; 16]);
    request.extend([0, 6, 0, 8]);
    request.extend(b"AAno:one");
    unknown.write_all(&request).unwrap();
    assert!(world.is_lost(&mut unknown, Duration::from_secs(5)), "nobody has this name");
    let (mut ana, mut bo) = (world.join("ana", 100), world.join("bo", 200));
    ana.connect();
    bo.connect();
    bo.socket = Socket(TcpStream::connect(world.port()).unwrap());
    bo.socket.0.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(8);
    while bo.received.is_empty() && Instant::now() < end {
        ana.say(100);
        run(&mut [&mut ana, &mut bo], |_| true);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!bo.received.is_empty(), "media came on the new connection");
    assert_eq!(world.bridge.counters().tcp.unproven, 2);
    world.media.shutdown();
}
