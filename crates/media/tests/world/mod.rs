//! A worker and people who are connected to it, in virtual time: real handshakes, real keys, no sockets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tertulia_media::identity::{Identity, ice_credentials};
use tertulia_media::registry::Registry;
use tertulia_media::transport::{Event, Role, Transport, Wire};
use tertulia_media::worker::batch::{Batch, Flush};
use tertulia_media::worker::{Command, Settings, Worker};
use tertulia_model::{
    BridgeEvent, BridgeRequest, Capabilities, ConferenceId, DtlsSetup, EndpointId, EventSink, RemoteTransport,
};

/// The conference that everybody is in.
pub(crate) const ROOM: ConferenceId = ConferenceId(7);

/// Where the worker is.
pub(crate) fn bridge() -> SocketAddr {
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
pub(crate) struct Flying(Vec<(SocketAddr, SocketAddr, Vec<u8>)>);

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

/// One of the people.
pub(crate) struct Client {
    pub(crate) id: EndpointId,
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
}

/// Everything, and the time.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) worker: Worker,
    pub(crate) clients: Vec<Client>,
    by_address: HashMap<SocketAddr, usize>,
    identity: Identity,
    own_identity: Identity,
    events: Arc<Events>,
}

impl World {
    /// An empty room.
    pub(crate) fn new(endpoints_max: usize) -> Self {
        Self::at(0, endpoints_max)
    }

    /// An empty room on the worker of this number.
    pub(crate) fn at(index: usize, endpoints_max: usize) -> Self {
        let identity = Identity::generate().unwrap();
        let locals = vec![bridge()];
        let settings = Settings { index, locals, bridge: "b".into(), endpoints_max, ..Settings::default() };
        let mut worker = Worker::new(settings, identity.clone(), Arc::new(Registry::default()));
        let events = Arc::new(Events::default());
        let sink: Arc<dyn EventSink> = Arc::clone(&events) as Arc<dyn EventSink>;
        let now = Instant::now();
        worker.handle_command(now, Command::Open { conference: ROOM, events: sink }, &mut Flying::default());
        let own_identity = Identity::generate().unwrap();
        Self { now, worker, clients: Vec::new(), by_address: HashMap::new(), identity, own_identity, events }
    }

    /// Asks for something; returns what the worker sends at once.
    pub(crate) fn request(&mut self, request: BridgeRequest) -> Flying {
        let mut flying = Flying::default();
        self.worker.handle_command(self.now, Command::Request { conference: ROOM, request }, &mut flying);
        flying
    }

    /// Lets somebody in, up to their first checks.
    pub(crate) fn join(&mut self, name: &str) {
        let id = EndpointId::parse(name).unwrap();
        self.request(BridgeRequest::Allocate { endpoint: id.clone(), capabilities: Capabilities::USUAL });
        let offer = self.events.0.lock().unwrap().iter().rev().find_map(|event| match event {
            BridgeEvent::Allocated { endpoint, transport, .. } if *endpoint == id => Some(transport.clone()),
            _ => None,
        });
        let offer = offer.unwrap();
        let address = SocketAddr::from(([10, 0, 0, 2], 5_000 + u16::try_from(self.clients.len()).unwrap()));
        let (ice, identity) = (ice_credentials(), &self.own_identity);
        let mut transport = Transport::new(self.now, Role::Client, identity, ice.clone(), &[address]);
        let (mut flying, mut events) = (Flying::default(), Vec::new());
        let print = self.identity.fingerprint(DtlsSetup::Passive);
        transport.set_remote(self.now, &offer.ice, Some(print), None, &mut flying, &mut events);
        transport.add_remote_address(self.now, bridge(), &mut flying, &mut events);
        let fingerprint = Some(identity.fingerprint(DtlsSetup::Active));
        self.by_address.insert(address, self.clients.len());
        self.clients.push(Client { id: id.clone(), address, transport });
        let remote = RemoteTransport { ice, fingerprint, ice_generation: None };
        let more = self.request(BridgeRequest::SetTransport { endpoint: id, transport: remote });
        self.pass(flying);
        self.pass(more);
    }

    /// Delivers until nothing flies.
    fn pass(&mut self, flying: Flying) {
        let mut flying = flying.0;
        while let Some((from, to, mut bytes)) = flying.pop() {
            let mut next = Flying::default();
            if to == bridge() {
                self.worker.handle_datagram(self.now, to, from, &mut bytes, &mut next);
                self.worker.finish_turn(self.now, &mut next);
            } else if let Some(client) = self.by_address.get(&to).and_then(|client| self.clients.get_mut(*client)) {
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

    /// Lets time pass until everybody has keys.
    pub(crate) fn connect(&mut self) {
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

    /// A packet of the first of the people: sealed, as it comes from the wire.
    pub(crate) fn sealed(
        &mut self,
        ssrc: u32,
        payload_type: u8,
        sequence: u16,
        timestamp: u32,
        payload: &[u8],
    ) -> Vec<u8> {
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
}
