//! The bridge of this process: places conferences on workers and carries requests to them.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tertulia_model::{
    Bridge, BridgeEvent, BridgeRequest, Candidate, CandidateKind, ChannelKinds, ChannelSink, ConferenceId, EndpointId,
    EventSink, Load, Refusal, TransportProtocol,
};
use tertulia_sfu::{Policy, Shard};
use tracing::info;

use crate::identity::{Identity, secret};
use crate::interfaces;
use crate::placement::Placement;
use crate::registry::Registry;
use crate::ring;
use crate::socket::{self, Classes, Segmentation, SendCounters};
use crate::tcp::{self, Listener, Streams, TcpCounters};
use crate::thread::{self, Handle, Order, Post, Report};
use crate::transport::stream_local;
use crate::worker::{self, Command, Counters, Link, Worker};

/// How a bridge is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses to use; empty means every address of this machine.
    pub bind: Vec<IpAddr>,
    /// First UDP port; worker n uses `port + n`. 0 lets the system choose.
    pub port: u16,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// Public addresses in front of this machine, each with the local one behind it when there are several.
    pub advertised: Vec<(IpAddr, Option<IpAddr>)>,
    /// How conferences forward.
    pub policy: Policy,
    /// Busy share of a worker's thread, 0 to 1, above which its receivers get fewer pictures; `None` is never.
    pub overload: Option<f32>,
    /// Most endpoints on one worker.
    pub endpoints_per_worker: usize,
    /// Endpoints of a conference on one worker before it goes to another; 0 is never.
    pub spread_at: usize,
    /// Which bridge channels are offered.
    pub channels: ChannelKinds,
    /// Port for clients whose network lets no UDP out (ICE over TCP); 0 lets the system choose. One for all workers.
    pub tcp_port: Option<u16>,
}

/// Why a bridge cannot start: one sentence for whoever started it.
#[derive(Debug)]
pub enum StartError {
    /// No address to use.
    NoAddress,
    /// The port for TCP cannot be had.
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// A socket cannot be had.
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The system refuses something else.
    System(std::io::Error),
    /// No certificate can be made.
    NoCertificate,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("this machine has no address for media: set `media.bind`"),
            Self::Bind { address, error } if error.kind() == std::io::ErrorKind::AddrInUse => write!(
                f,
                "UDP port {} of {} is in use: stop the other program, or set `media.port` to a free one",
                address.port(),
                address.ip()
            ),
            Self::Bind { address, error } => {
                write!(f, "cannot receive media on {address}: {error}; check `media.bind`")
            }
            Self::Listen { address, error } => write!(
                f,
                "cannot take connections for media on {address}: {error}; set `media.tcp_port` to a free port, or to 0"
            ),
            Self::System(error) => write!(f, "cannot start the media workers: {error}"),
            Self::NoCertificate => f.write_str("cannot make a certificate: the system has no random numbers"),
        }
    }
}

impl std::error::Error for StartError {}

/// A running bridge. Dropping it does not stop its threads; [`MediaBridge::shutdown`] does.
pub struct MediaBridge {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
    listener: Option<Listener>,
}

/// The way to a running bridge. Cheap to clone.
#[derive(Clone)]
pub struct BridgeHandle(Arc<Inner>);

struct Inner {
    name: String,
    workers: Vec<Handle>,
    registry: Arc<Registry>,
    /// Of each worker.
    send_counters: Vec<Arc<SendCounters>>,
    /// Which worker holds whom. Held for the length of a decision and of putting orders into inboxes: that never
    /// waits.
    placement: Mutex<Placement>,
    ports: Vec<u16>,
    tcp_port: Option<u16>,
    tcp_counters: Arc<tcp::Counters>,
}

/// Listens to the events of a conference on their way to the room.
struct Watch {
    bridge: Weak<Inner>,
    conference: ConferenceId,
    events: Arc<dyn EventSink>,
}

impl EventSink for Watch {
    fn event(&self, event: BridgeEvent) {
        if let BridgeEvent::Expired { endpoint, .. } | BridgeEvent::Refused { endpoint, .. } = &event
            && let Some(bridge) = self.bridge.upgrade()
        {
            bridge.placement().ended(Instant::now(), self.conference, endpoint);
        }
        self.events.event(event);
    }
}

/// Sums over all workers.
#[derive(Debug, Clone, Copy, Default)]
pub struct BridgeCounters {
    /// Datagrams and handshakes.
    pub workers: Counters,
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that the kernel refused, for their destination.
    pub refused: u64,
    /// Datagrams dropped because a queue of the kernel was full.
    pub dropped_full: u64,
    /// Messages to the kernel by how many datagrams to one receiver each carried: 1, 2, 3–4, 5–8, 9–16, 17–32, 33–64.
    pub runs: Classes,
    /// Sending calls by how many of these messages each took, in the same classes.
    pub sending_calls: Classes,
    /// Receiving calls by how many datagrams each brought, in the same classes; the last is 33 and more.
    pub receiving_calls: Classes,
    /// Connections.
    pub tcp: TcpCounters,
}

impl MediaBridge {
    /// Binds the sockets and starts the threads.
    ///
    /// # Errors
    /// When a socket, a thread or a certificate cannot be had.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let identity = Identity::generate().map_err(|_| StartError::NoCertificate)?;
        let addresses = if settings.bind.is_empty() {
            interfaces::addresses().map_err(StartError::System)?
        } else {
            settings.bind.clone()
        };
        if addresses.is_empty() {
            return Err(StartError::NoAddress);
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = if settings.workers == 0 { cores } else { settings.workers };
        let name = secret(8);
        let registry = Arc::new(Registry::default());
        crate::srtp::provider::chosen(); // now, and not while the first person waits
        let segmentation = Arc::new(Segmentation::probe());
        let mut send_counters = Vec::new();
        let listeners = listeners(&addresses, settings.tcp_port)?;
        let tcp_counters = Arc::new(tcp::Counters::default());
        let streams: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let posts = (0..count).map(|_| thread::post()).collect::<Result<Vec<_>, _>>().map_err(StartError::System)?;
        let (workers, posts): (Vec<Handle>, Vec<Post>) = posts.into_iter().unzip();
        let mut ways = if settings.spread_at > 0 { ways(&workers) } else { Vec::new() };
        let (mut threads, mut ports) = (Vec::new(), Vec::new());
        for (index, post) in posts.into_iter().enumerate() {
            let sockets = bind_worker(&addresses, settings, index)?;
            ports.extend(sockets.first().map(|(local, _)| local.port()));
            let locals: Vec<SocketAddr> = sockets.iter().map(|(local, _)| *local).collect();
            let candidates = candidates(&locals, &streams, &settings.advertised);
            let stream_locals = streams.iter().map(|address| stream_local(address.ip()));
            let mut worker = Worker::new(
                worker::Settings {
                    index,
                    candidates,
                    locals: locals.iter().copied().chain(stream_locals).collect(),
                    bridge: name.clone(),
                    endpoints_max: settings.endpoints_per_worker,
                    channels: settings.channels,
                    policy: settings.policy.clone(),
                    overload: settings.overload,
                },
                identity.clone(),
                Arc::clone(&registry),
            );
            for Way { to, link, packets, .. } in ways.extract_if(.., |way| way.of == index) {
                worker.link(to, link, packets);
            }
            let counters = Arc::new(SendCounters::default());
            send_counters.push(Arc::clone(&counters));
            let streams = Streams::new(Arc::clone(&tcp_counters)).map_err(StartError::System)?;
            let started = thread::start(index, worker, post, sockets, counters, Arc::clone(&segmentation), streams);
            threads.push(started.map_err(StartError::System)?);
        }
        let tcp_port = streams.first().map(SocketAddr::port);
        let listener = (!listeners.is_empty())
            .then(|| Listener::start(listeners, workers.clone(), Arc::clone(&tcp_counters)))
            .transpose()
            .map_err(StartError::System)?;
        info!(workers = count, ?ports, ?tcp_port, "media bridge started");
        let placement = Mutex::new(Placement::new(count, settings.spread_at));
        let inner = Inner { name, workers, registry, send_counters, placement, ports, tcp_port, tcp_counters };
        Ok(Self { inner: Arc::new(inner), threads, listener })
    }

    /// The way to it.
    pub fn handle(&self) -> BridgeHandle {
        BridgeHandle(Arc::clone(&self.inner))
    }

    /// The workers' UDP ports.
    pub fn ports(&self) -> &[u16] {
        &self.inner.ports
    }

    /// The port for media over TCP, if there is one.
    pub fn tcp_port(&self) -> Option<u16> {
        self.inner.tcp_port
    }

    /// Stops the threads and waits for them. What is connected hears nothing more.
    pub fn shutdown(self) {
        if let Some(listener) = self.listener {
            listener.stop();
        }
        for worker in &self.inner.workers {
            worker.send(Order::Stop);
        }
        for thread in self.threads {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

/// One socket per address: the agent of `is` must know at which address a datagram arrived. IPv6 addresses that cannot be bound (a machine
/// may list one and have IPv6 switched off) are left out when they were not asked for.
fn bind_worker(
    addresses: &[IpAddr],
    settings: &Settings,
    index: usize,
) -> Result<Vec<(SocketAddr, UdpSocket)>, StartError> {
    let offset = u16::try_from(index).unwrap_or(u16::MAX);
    let mut port = if settings.port == 0 { 0 } else { settings.port.saturating_add(offset) };
    let mut sockets = Vec::new();
    for ip in addresses {
        let address = SocketAddr::new(*ip, port);
        match socket::bind(address).and_then(|socket| Ok((socket.local_addr()?, socket))) {
            Ok((local, socket)) => {
                port = local.port(); // a worker has one port on all its addresses
                sockets.push((local, socket));
            }
            Err(error) if settings.bind.is_empty() && error.kind() == std::io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(StartError::Bind { address, error }),
        }
    }
    if sockets.is_empty() { Err(StartError::NoAddress) } else { Ok(sockets) }
}

fn listeners(addresses: &[IpAddr], port: Option<u16>) -> Result<Vec<TcpListener>, StartError> {
    let bound = port.map_or(Ok(Vec::new()), |port| tcp::bind(addresses, port));
    bound.map_err(|(address, error)| StartError::Listen { address, error })
}

/// RFC 8445 §5.1.2.1 with type preferences 126 and 100, earlier addresses preferred; behind them connections, with 90 and 80.
fn candidates(
    locals: &[SocketAddr],
    streams: &[SocketAddr],
    advertised: &[(IpAddr, Option<IpAddr>)],
) -> Vec<Candidate> {
    let mut all = Vec::new();
    add_candidates(&mut all, TransportProtocol::Udp, locals, advertised);
    add_candidates(&mut all, TransportProtocol::TcpPassive, streams, advertised);
    all
}

fn add_candidates(
    all: &mut Vec<Candidate>,
    protocol: TransportProtocol,
    locals: &[SocketAddr],
    advertised: &[(IpAddr, Option<IpAddr>)],
) {
    let mut add = |kind: CandidateKind, ip: IpAddr, port: u16| {
        let (host, reflexive, best) = match protocol {
            TransportProtocol::Udp => (126, 100, 65_535),
            // RFC 6544 §4.2: the direction is in the upper bits of the local preference, 4 for passive.
            TransportProtocol::TcpPassive => (90, 80, (4 << 13) | 0x1fff),
        };
        let kind_preference = if kind == CandidateKind::Host { host } else { reflexive };
        let place = u32::try_from(all.len()).unwrap_or(0).min(8_191);
        let priority = (kind_preference << 24) | ((best - place) << 8) | 255;
        all.push(Candidate { foundation: (all.len() + 1).to_string(), priority, protocol, ip, port, kind });
    };
    for local in locals {
        add(CandidateKind::Host, local.ip(), local.port());
    }
    for (public, behind) in advertised {
        let base = locals.iter().find(|local| match behind {
            Some(behind) => local.ip() == *behind,
            None => local.is_ipv4() == public.is_ipv4() && !local.ip().is_loopback(),
        });
        if let Some(base) = base {
            let kind = CandidateKind::ServerReflexive { related: base.ip(), related_port: base.port() };
            add(kind, *public, base.port());
        }
    }
}

impl BridgeHandle {
    /// What happened so far. Asks every worker and waits a moment for each.
    pub fn counters(&self) -> BridgeCounters {
        use std::sync::atomic::Ordering;
        let mut all = BridgeCounters { tcp: self.0.tcp_counters.read(), ..BridgeCounters::default() };
        for worker in &self.0.workers {
            let (reply, answer) = crossbeam_channel::bounded(1);
            if worker.send(Order::Report(reply)) {
                // A worker answers within a turn; one that does not is left out.
                let Report { worker, received } = answer.recv_timeout(Duration::from_millis(500)).unwrap_or_default();
                all.workers += worker;
                all.receiving_calls.iter_mut().zip(received).for_each(|(sum, class)| *sum += class);
            }
        }
        for counters in &self.0.send_counters {
            all.sent += counters.sent.load(Ordering::Relaxed);
            all.refused += counters.refused.load(Ordering::Relaxed);
            all.dropped_full += counters.dropped_full.load(Ordering::Relaxed);
            let runs = all.runs.iter_mut().zip(&counters.runs);
            let calls = all.sending_calls.iter_mut().zip(&counters.calls);
            runs.chain(calls).for_each(|(sum, class)| *sum += class.load(Ordering::Relaxed));
        }
        all
    }

    /// Tells the worker of an endpoint something.
    fn tell(&self, conference: ConferenceId, endpoint: &EndpointId, command: Command) -> bool {
        let worker = self.0.placement().worker_of(conference, endpoint);
        worker.is_some_and(|worker| self.0.send(worker, command))
    }

    fn allocate(&self, conference: ConferenceId, endpoint: EndpointId, request: BridgeRequest) {
        let (told, events) = {
            let mut placement = self.0.placement();
            let events = placement.events(conference);
            let place = placement.seat(Instant::now(), conference, &endpoint);
            let command = Command::Request { conference, request };
            let told = place.is_some_and(|place| {
                if let Some(events) = events.as_ref().filter(|_| !place.joins.is_empty()) {
                    self.0.span(conference, place.worker, &place.joins, events);
                }
                self.0.send(place.worker, command)
            });
            (told, events)
        };
        if let Some(events) = events.filter(|_| !told) {
            self.0.placement().ended(Instant::now(), conference, &endpoint);
            events.event(BridgeEvent::Refused { endpoint, refusal: Refusal::Full });
        }
    }
}

impl Inner {
    fn placement(&self) -> MutexGuard<'_, Placement> {
        // The maps are whole after any panic between their operations.
        self.placement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, worker: usize, command: Command) -> bool {
        self.workers[worker].send(Order::Do(command))
    }

    /// Opens a shard of a conference on a worker, and makes it and the others known to each other.
    fn span(&self, conference: ConferenceId, worker: usize, others: &[usize], events: &Arc<dyn EventSink>) {
        self.send(worker, Command::Open { conference, events: Arc::clone(events) });
        let shards = others.iter().filter_map(|other| Shard::new(*other));
        let (shards, new): (Vec<Shard>, _) = (shards.collect(), Shard::new(worker));
        let (Some(home), Some(new)) = (shards.first().copied(), new) else { return };
        info!(%conference, worker, "conference goes to another worker");
        // First the new one: what the others then tell it comes behind this.
        for peer in &shards {
            self.send(worker, Command::Span { conference, home, peer: *peer });
        }
        for peer in &shards {
            self.send(peer.worker(), Command::Span { conference, home, peer: new });
        }
    }

    fn expire(&self, conference: ConferenceId, workers: &[usize]) {
        for worker in workers {
            self.send(*worker, Command::Request { conference, request: BridgeRequest::ExpireConference });
        }
    }
}

/// The way from one worker to another, and back for packets.
struct Way {
    of: usize,
    to: usize,
    link: Link,
    packets: ring::Consumer,
}

/// All ways between workers that can share conferences.
fn ways(workers: &[Handle]) -> Vec<Way> {
    let count = workers.len().min(Shard::MAX);
    let mut ways = Vec::new();
    for of in 0..count {
        for to in of + 1..count {
            let ((there, arriving), (back, returning)) = (ring::ring(), ring::ring());
            let link = Link::new(there, Box::new(workers[to].clone()));
            ways.push(Way { of, to, link, packets: returning });
            let link = Link::new(back, Box::new(workers[of].clone()));
            ways.push(Way { of: to, to: of, link, packets: arriving });
        }
    }
    ways
}

impl Bridge for BridgeHandle {
    fn open(&self, conference: ConferenceId, events: Arc<dyn EventSink>) {
        let events: Arc<dyn EventSink> = Arc::new(Watch { bridge: Arc::downgrade(&self.0), conference, events });
        let mut placement = self.0.placement();
        let (home, replaced) = placement.open(conference, Arc::clone(&events));
        self.0.expire(conference, &replaced);
        self.0.send(home, Command::Open { conference, events });
    }

    fn request(&self, conference: ConferenceId, request: BridgeRequest) {
        match &request {
            BridgeRequest::Allocate { endpoint, .. } => self.allocate(conference, endpoint.clone(), request),
            BridgeRequest::Expire { endpoint } => {
                let endpoint = endpoint.clone();
                self.0.placement().ended(Instant::now(), conference, &endpoint);
                self.tell(conference, &endpoint, Command::Request { conference, request });
            }
            BridgeRequest::ExpireConference => {
                let mut placement = self.0.placement();
                let workers = placement.close(conference);
                self.0.expire(conference, &workers);
            }
            BridgeRequest::SetTransport { endpoint, .. }
            | BridgeRequest::SetSources { endpoint, .. }
            | BridgeRequest::SetInitialLastN { endpoint, .. }
            | BridgeRequest::RestartIce { endpoint }
            | BridgeRequest::ForceMute { endpoint, .. } => {
                let endpoint = endpoint.clone();
                self.tell(conference, &endpoint, Command::Request { conference, request });
            }
        }
    }

    fn may_open_channel(&self, bridge: &str, conference: ConferenceId, endpoint: &EndpointId, password: &str) -> bool {
        bridge == self.0.name && self.0.registry.allows(conference, endpoint, password)
    }

    fn attach_channel(&self, conference: ConferenceId, endpoint: EndpointId, sink: Arc<dyn ChannelSink>) {
        let closing = Arc::clone(&sink);
        let id = endpoint.clone();
        if !self.tell(conference, &id, Command::Channel { conference, endpoint, sink }) {
            closing.close(1001, "endpoint closed");
        }
    }

    fn channel_message(&self, conference: ConferenceId, endpoint: EndpointId, text: String) {
        let id = endpoint.clone();
        self.tell(conference, &id, Command::Message { conference, endpoint, text });
    }

    fn load(&self) -> Load {
        Load { conferences: self.0.placement().len(), endpoints: self.0.registry.endpoint_count() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_name_the_local_one_behind_them() {
        let locals = ["10.0.0.5:10000".parse().unwrap(), "127.0.0.1:10000".parse().unwrap()];
        let streams = ["10.0.0.5:4443".parse().unwrap()];
        let all = candidates(&locals, &streams, &[("203.0.113.7".parse().unwrap(), None)]);
        assert_eq!(all.len(), 5);
        let tcp = |candidate: &Candidate| candidate.protocol == TransportProtocol::TcpPassive;
        assert!(all.iter().rev().take(2).all(tcp) && all[4].ip.to_string() == "203.0.113.7" && all[4].port == 4443);
        assert!(all.windows(2).all(|pair| pair[0].priority > pair[1].priority));
        let related = CandidateKind::ServerReflexive { related: "10.0.0.5".parse().unwrap(), related_port: 10_000 };
        assert_eq!((all[2].ip.to_string(), all[2].kind), ("203.0.113.7".to_owned(), related));
    }

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let settings = Settings {
            bind: vec!["127.0.0.1".parse().unwrap()],
            port,
            workers: 1,
            advertised: Vec::new(),
            policy: Policy::default(),
            overload: None,
            endpoints_per_worker: 10,
            channels: ChannelKinds::WebSocket,
            tcp_port: None,
            spread_at: 0,
        };
        let error = MediaBridge::start(&settings).err().unwrap().to_string();
        assert!(
            error.contains(&format!("UDP port {port} of 127.0.0.1 is in use")) && error.contains("media.port"),
            "{error}"
        );
    }
}
