//! A thread with real sockets, and one client of it.

use super::*;
use std::sync::Mutex;

use is::stun::{StunMessage, TransId};
use is::{DefaultSha1HmacProvider, Sha1HmacProvider};
use tertulia_model::{
    BridgeEvent, BridgeRequest, Capabilities, ConferenceId, DtlsSetup, EndpointId, EventSink, IceCredentials,
    RemoteTransport,
};

use crate::identity::{Identity, ice_credentials};
use crate::registry::Registry;
use crate::socket::bind;
use crate::transport::{Event, Role, Transport, Wire};
use crate::worker::Settings;

const ROOM: ConferenceId = ConferenceId(7);
/// Longer than anything here takes on the slowest machine.
const LONG: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Log(Mutex<Vec<BridgeEvent>>);

impl EventSink for Log {
    fn event(&self, event: BridgeEvent) {
        self.0.lock().unwrap().push(event);
    }
}

struct Network<'a>(&'a UdpSocket);

impl Wire for Network<'_> {
    fn datagram(&mut self, _: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.0.send_to(bytes, remote).unwrap();
    }
}

struct Client {
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
    socket: UdpSocket,
    /// Of the thread.
    remote: SocketAddr,
    transport: Transport,
    events: Vec<Event>,
    /// The user fragments of both and the thread's password.
    names: String,
    password: String,
    /// How many checks were answered.
    answers: usize,
}

impl Client {
    /// Starts a thread whose checks come to a socket of their own, or not, and connects to it.
    fn of(apart: bool) -> Self {
        let (identity, log, id) =
            (Identity::generate().unwrap(), Arc::new(Log::default()), EndpointId::parse("ana").unwrap());
        let sockets = vec![bind("127.0.0.1:0".parse().unwrap()).map(|s| (s.local_addr().unwrap(), s)).unwrap()];
        let remote = sockets[0].0;
        let settings = Settings { locals: vec![remote], bridge: "b".into(), endpoints_max: 9, ..Settings::default() };
        let worker = Worker::new(settings, identity.clone(), Arc::new(Registry::default()));
        let (handle, post) = post().unwrap();
        let thread = std::thread::spawn(move || {
            let checks: Vec<_> =
                sockets.iter().filter(|_| apart).map(|(at, s)| (*at, for_checks(s).unwrap())).collect();
            let (counters, segmentation) = (SendCounters::default(), Segmentation::probe());
            let udp = Sender::new(&sockets, &counters, &segmentation);
            let streams = Streams::new(Arc::default()).unwrap();
            run(worker, &sockets, &checks, Wires { udp, streams }, &post.inbox, &post.bell);
        });
        let request = |request| assert!(handle.send(Order::Do(Command::Request { conference: ROOM, request })));
        let events: Arc<dyn EventSink> = Arc::clone(&log) as Arc<dyn EventSink>;
        assert!(handle.send(Order::Do(Command::Open { conference: ROOM, events })));
        request(BridgeRequest::Allocate { endpoint: id.clone(), capabilities: Capabilities::USUAL });
        let allocated = |event: &BridgeEvent| match event {
            BridgeEvent::Allocated { transport, .. } => Some(transport.ice.clone()),
            _ => None,
        };
        let offered = within(LONG, || log.0.lock().unwrap().iter().find_map(allocated));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (now, local, own, ice) =
            (Instant::now(), socket.local_addr().unwrap(), Identity::generate().unwrap(), ice_credentials());
        let mut transport = Transport::new(now, Role::Client, &own, ice.clone(), &[local]);
        let (print, mut events) = (identity.fingerprint(DtlsSetup::Passive), Vec::new());
        transport.set_remote(now, &offered, Some(print), None, &mut Network(&socket), &mut events);
        transport.add_remote_address(now, remote, &mut Network(&socket), &mut events);
        let names = format!("{}:{}", offered.ufrag, ice.ufrag);
        let fingerprint = Some(own.fingerprint(DtlsSetup::Active));
        request(BridgeRequest::SetTransport {
            endpoint: id,
            transport: RemoteTransport { ice, fingerprint, ice_generation: None },
        });
        let IceCredentials { pwd: password, .. } = offered;
        let mut client = Self { handle, thread, socket, remote, transport, events, names, password, answers: 0 };
        client.drive(LONG, |client| client.transport.is_connected());
        client
    }

    /// Does what a client does until something is so.
    fn drive(&mut self, most: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let (end, mut bytes) = (Instant::now() + most, [0; 2_000]);
        while !is_so(self) && Instant::now() < end {
            let (now, mut wire) = (Instant::now(), Network(&self.socket));
            self.transport.on_timeout(now, &mut wire, &mut self.events);
            let Ok((len, from)) = self.socket.recv_from(&mut bytes) else { continue };
            let (local, bytes) = (self.socket.local_addr().unwrap(), &bytes[..len]);
            match bytes[0] {
                0..=3 => {
                    self.answers += usize::from(bytes.starts_with(&[1, 1]));
                    self.transport.handle_stun(now, local, from, bytes, &mut wire, &mut self.events);
                }
                20..=63 => self.transport.handle_dtls(now, bytes, &mut wire, &mut self.events),
                _ => {}
            }
        }
        is_so(self)
    }

    fn check(&self) {
        let mut bytes = [0; 300];
        let hmac = |key: &[u8], parts: &[&[u8]]| DefaultSha1HmacProvider.sha1_hmac(key, parts);
        let check = StunMessage::binding_request(&self.names, TransId::new(), false, 7, 1_234, false);
        let len = check.to_bytes(Some(self.password.as_bytes()), &mut bytes, hmac).unwrap();
        self.socket.send_to(&bytes[..len], self.remote).unwrap();
    }

    /// Something that is not a check.
    fn speak(&mut self) {
        let mut packet = [0x80, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3].to_vec();
        packet.resize(60, 0);
        let (len, ..) = self.transport.seal_rtp(&mut packet, 15).unwrap();
        self.socket.send_to(&packet[..len], self.remote).unwrap();
    }

    fn report(&self) -> Counters {
        let (to, report) = crossbeam_channel::bounded(1);
        assert!(self.handle.send(Order::Report(to)));
        report.recv_timeout(LONG).unwrap().worker
    }
}

fn within<T>(most: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + most;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_idle_thread_answers_checks_and_wakes_for_media_whether_the_system_tells_them_apart_or_not() {
    for apart in [true, false] {
        let mut client = Client::of(apart);
        assert!(client.transport.is_connected(), "apart: {apart}");
        client.drive(Duration::from_millis(1_300), |_| false); // longer than a worker that has nothing to do stays awake
        for _ in 0..3 {
            let before = client.answers;
            client.check();
            assert!(client.drive(LONG, |client| client.answers > before), "apart: {apart}: a check is answered");
        }
        let before = client.report();
        client.speak();
        let heard = |client: &Client| client.report().datagrams > before.datagrams;
        within(LONG, || heard(&client).then_some(()));
        let after = client.report();
        assert_eq!((after.dropped_forged, after.dropped_unknown_address), (0, 0), "apart: {apart}");
        assert!(client.handle.send(Order::Stop));
        client.thread.join().unwrap();
    }
}
