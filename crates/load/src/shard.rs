//! A thread of the generator: some of the clients, their socket, their timers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::CStr;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tertulia_media::identity::Identity;

use crate::client::{Around, Client, Mode, Spec};
use crate::cross::Cross;
use crate::process::{pin_to_core, thread_cpu};
use crate::socket::Net;
use crate::tally::Tally;

/// Longest sleep: orders are looked for in between.
const NAP_MAX: Duration = Duration::from_millis(2);
/// Bytes of a client's check: header, USERNAME, PRIORITY, ICE-CONTROLLED, MESSAGE-INTEGRITY, FINGERPRINT.
const CHECK_LEN: usize = 96;
/// Readings of the socket before timers are looked at.
const READS_PER_TURN: usize = 4;

/// Where a shard's clients are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network {
    /// First half of their addresses; the other half numbers them.
    pub(crate) prefix: [u8; 2],
    pub(crate) interface: &'static CStr,
}

impl Network {
    /// The n-th shard's, on loopback.
    pub(crate) fn loopback(shard: u8) -> Self {
        Self { prefix: [127, 64 + shard], interface: c"lo" }
    }
}

/// What a shard is told.
pub(crate) enum Order {
    /// Makes a client; they are numbered as they come, from 0.
    Add(Box<Spec>),
    /// Lets publishers of the first so many rooms send; the others pause.
    Send(u32),
    /// Which way they send.
    Mode(Mode),
    /// What the bridge wants of a client's camera.
    MaxHeight { client: usize, max_height: i32 },
    /// A talk spurt begins or ends.
    Speak { client: usize, speaking: bool },
    /// Looks for the first frame of a person's encoding at every client.
    Watch { person: u32, encoding: u8 },
    /// Has every client send as much as a check to an echo, at this interval, and do nothing else any more.
    Knock { to: SocketAddr, interval: Duration },
    /// Begins a window.
    Clear,
    /// Asks for what was seen.
    Read(Sender<Reading>),
    /// Ends the thread.
    End,
}

/// What a shard has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) tally: Tally,
    /// Of the clients of other hands.
    pub(crate) cross: Tally,
    /// Packets that should have come, and that did, since the beginning.
    pub(crate) expected: u64,
    pub(crate) received: u64,
    pub(crate) connected: usize,
    /// When the last one of those did.
    pub(crate) connected_at: Option<Instant>,
    /// CPU time of the thread since its beginning.
    pub(crate) cpu: Duration,
    /// Pieces as they arrived, by datagrams in them, since the window began.
    pub(crate) runs: Vec<u64>,
    pub(crate) refused: u64,
    pub(crate) queued_max: Duration,
}

impl Reading {
    /// Adds another shard's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tally.add(&other.tally);
        self.cross.add(&other.cross);
        self.expected += other.expected;
        self.received += other.received;
        self.connected += other.connected;
        self.connected_at = self.connected_at.max(other.connected_at);
        self.cpu += other.cpu;
        self.refused += other.refused;
        self.queued_max = self.queued_max.max(other.queued_max);
        self.runs.resize(self.runs.len().max(other.runs.len()), 0);
        for (own, more) in self.runs.iter_mut().zip(&other.runs) {
            *own += more;
        }
    }
}

/// The way to a shard.
pub(crate) struct Shard {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
    network: Network,
    port: u16,
}

impl Shard {
    /// Starts a thread on a core; `None` leaves it to the system.
    ///
    /// # Errors
    /// When the system gives no socket or no thread.
    pub(crate) fn start(network: Network, core: Option<usize>, epoch: Instant, identity: Identity) -> io::Result<Self> {
        let net = Net::bind(network.interface)?;
        let port = net.port();
        let (orders, inbox) = crossbeam_channel::unbounded();
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || {
            core.into_iter().for_each(pin_to_core);
            Turning::new(net, network, epoch, identity).run(&inbox);
        })?;
        Ok(Self { orders, thread, network, port })
    }

    /// Gives an order.
    pub(crate) fn send(&self, order: Order) {
        // A shard that panicked shows when it is read.
        let _ = self.orders.send(order);
    }

    /// Where its n-th client is.
    pub(crate) fn address_of(&self, client: usize) -> SocketAddr {
        SocketAddr::from((ip_of(self.network, client), self.port))
    }

    /// What it has seen.
    ///
    /// # Errors
    /// When the thread is gone.
    pub(crate) fn read(&self) -> io::Result<Reading> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.send(Order::Read(reply));
        answer.recv_timeout(Duration::from_secs(30)).map_err(|_| io::Error::other("a thread of the generator is gone"))
    }

    /// Ends the thread and waits for it.
    pub(crate) fn end(self) {
        self.send(Order::End);
        // A thread that panicked has ended too.
        let _ = self.thread.join();
    }
}

fn ip_of(network: Network, client: usize) -> Ipv4Addr {
    // Never the network's own first address.
    let [high, low] = u16::try_from(client + 1).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(network.prefix[0], network.prefix[1], high, low)
}

fn client_of(ip: Ipv4Addr) -> Option<usize> {
    let [_, _, high, low] = ip.octets();
    usize::from(u16::from_be_bytes([high, low])).checked_sub(1)
}

/// The thread's state.
struct Turning {
    net: Net,
    network: Network,
    epoch: Instant,
    identity: Identity,
    clients: Vec<Member>,
    scheduled: Vec<Option<Instant>>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    tally: Tally,
    /// Of the clients of other hands.
    cross_tally: Tally,
    mode: Mode,
    watched: Option<(u32, u8, Instant)>,
    knocking: Option<Knocking>,
}

/// Clients who take turns at sending to an echo.
struct Knocking {
    to: SocketAddr,
    interval: Duration,
    next: Instant,
    client: usize,
}

/// A client of ours, or of other hands.
enum Member {
    Own(Box<Client>),
    Cross(Box<Cross>),
}

impl Member {
    fn own(&mut self) -> Option<&mut Client> {
        match self {
            Self::Own(client) => Some(client),
            Self::Cross(_) => None,
        }
    }

    fn connected_at(&self) -> Option<Instant> {
        match self {
            Self::Own(client) => client.connected_at(),
            Self::Cross(cross) => cross.connected_at(),
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        match self {
            Self::Own(client) => client.next_timeout(),
            Self::Cross(cross) => cross.next_timeout(),
        }
    }
}

impl Turning {
    fn new(net: Net, network: Network, epoch: Instant, identity: Identity) -> Self {
        Self {
            net,
            network,
            epoch,
            identity,
            clients: Vec::new(),
            scheduled: Vec::new(),
            timers: BinaryHeap::new(),
            tally: Tally::default(),
            cross_tally: Tally::default(),
            mode: Mode::Bridge,
            watched: None,
            knocking: None,
        }
    }

    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            for order in inbox.try_iter().take(64) {
                if matches!(order, Order::End) {
                    return;
                }
                self.perform(order);
            }
            let busy = self.receive();
            let next = if self.knocking.is_some() { self.knock() } else { self.run_timers() };
            self.net.flush();
            if !busy {
                let next = next.map(|at| at.saturating_duration_since(Instant::now()));
                self.net.wait(next.unwrap_or(NAP_MAX).min(NAP_MAX));
            }
        }
    }

    fn perform(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Add(spec) => self.add(now, *spec),
            Order::Send(rooms) => self.each(|member| match member {
                Member::Own(client) => client.start(now, rooms),
                Member::Cross(cross) => cross.forget_time(),
            }),
            Order::Mode(mode) => {
                if (mode == Mode::Bridge) != (self.mode == Mode::Bridge) {
                    self.each(|member| member.own().into_iter().for_each(Client::change_way));
                }
                self.mode = mode;
            }
            Order::MaxHeight { client, max_height } => {
                let client = self.clients.get_mut(client).and_then(Member::own);
                client.into_iter().for_each(|client| client.set_max_height(max_height));
            }
            Order::Speak { client, speaking } => {
                let own = self.clients.get_mut(client).and_then(Member::own);
                own.into_iter().for_each(|client| client.speak(now, speaking));
                self.schedule(client);
            }
            Order::Watch { person, encoding } => self.watched = Some((person, encoding, now)),
            Order::Knock { to, interval } => {
                self.knocking = Some(Knocking { to, interval, next: now, client: 0 });
            }
            Order::Clear => {
                self.tally.clear();
                self.cross_tally.clear();
                self.net.runs = [0; 65];
            }
            Order::Read(reply) => {
                let _ = reply.try_send(self.reading()); // the asker may have given up
            }
            Order::End => {}
        }
    }

    fn reading(&self) -> Reading {
        let own = || {
            self.clients.iter().filter_map(|member| match member {
                Member::Own(client) => Some(client),
                Member::Cross(_) => None,
            })
        };
        let counts = own().map(|client| client.counts());
        let (expected, received) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Reading {
            tally: self.tally.clone(),
            cross: self.cross_tally.clone(),
            expected,
            received,
            connected: self.clients.iter().filter_map(Member::connected_at).count(),
            connected_at: self.clients.iter().filter_map(Member::connected_at).max(),
            cpu: thread_cpu(),
            runs: self.net.runs.to_vec(),
            refused: self.net.refused,
            queued_max: own().map(|client| client.queued_max()).max().unwrap_or_default(),
        }
    }

    fn add(&mut self, now: Instant, mut spec: Spec) {
        let address = SocketAddr::from((ip_of(self.network, self.clients.len()), self.net.port()));
        let cross = spec.cross.take();
        let tally = if cross.is_some() { &mut self.cross_tally } else { &mut self.tally };
        let (net, epoch, mode, watched) = (&mut self.net, self.epoch, self.mode, self.watched);
        let mut around = Around { now, epoch, net, tally, mode, watched };
        self.clients.push(match cross {
            None => Member::Own(Box::new(Client::new(&mut around, &spec, &self.identity, address))),
            Some(ready) => Member::Cross(Box::new(Cross::new(&mut around, &spec, ready, address))),
        });
        self.scheduled.push(None);
        self.schedule(self.clients.len() - 1);
    }

    fn each(&mut self, mut run: impl FnMut(&mut Member)) {
        for index in 0..self.clients.len() {
            run(&mut self.clients[index]);
            self.schedule(index);
        }
    }

    /// Runs something on a client and what surrounds it.
    fn run_on(&mut self, now: Instant, index: usize, run: impl FnOnce(&mut Member, &mut Around<'_>)) {
        let Some(member) = self.clients.get_mut(index) else { return };
        let tally = match member {
            Member::Own(_) => &mut self.tally,
            Member::Cross(_) => &mut self.cross_tally,
        };
        let (net, epoch, mode, watched) = (&mut self.net, self.epoch, self.mode, self.watched);
        run(member, &mut Around { now, epoch, net, tally, mode, watched });
    }

    /// Takes what waits; `true` when more may.
    fn receive(&mut self) -> bool {
        for _ in 0..READS_PER_TURN {
            let mut woken: Vec<usize> = Vec::new();
            // Clients send through the socket that is being read: what comes is taken out of its buffers first.
            let mut pieces = std::mem::take(&mut self.net.inbox);
            let taken = self.net.receive(&mut pieces);
            let now = Instant::now();
            for (to, bytes) in pieces.datagrams() {
                if self.knocking.is_some() {
                    self.tally.others += 1;
                    continue;
                }
                let Some(index) = client_of(to) else { continue };
                self.run_on(now, index, |member, around| match member {
                    Member::Own(client) => client.handle(around, bytes),
                    Member::Cross(cross) => cross.handle(around, bytes),
                });
                if woken.last() != Some(&index) {
                    woken.push(index);
                }
            }
            self.net.inbox = pieces;
            woken.into_iter().for_each(|index| self.schedule(index));
            if taken < Net::FULL {
                return false;
            }
        }
        true
    }

    /// Lets all knock whose turn it is, evenly spread over the interval; when the next one does.
    fn knock(&mut self) -> Option<Instant> {
        let (now, count) = (Instant::now(), u32::try_from(self.clients.len()).ok().filter(|count| *count > 0)?);
        let Knocking { to, interval, next, client } = self.knocking.as_mut()?;
        while *next <= now {
            self.net.push(ip_of(self.network, *client), |slot| {
                slot[..CHECK_LEN].fill(0);
                Some((CHECK_LEN, *to))
            });
            *client = (*client + 1) % self.clients.len();
            *next += *interval / count;
        }
        Some(*next)
    }

    /// Runs what is due; when the next is.
    fn run_timers(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some(Reverse((at, index))) = self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.timers.pop();
            if self.scheduled[index] != Some(at) {
                continue; // it was moved
            }
            self.scheduled[index] = None;
            self.run_on(now, index, |member, around| match member {
                Member::Own(client) => client.on_timeout(around),
                Member::Cross(cross) => cross.on_timeout(around),
            });
            self.schedule(index);
        }
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Sees to it that a client is woken in time.
    fn schedule(&mut self, index: usize) {
        let Some((client, scheduled)) = self.clients.get(index).zip(self.scheduled.get_mut(index)) else { return };
        if let Some(at) = client.next_timeout()
            && scheduled.is_none_or(|known| at < known)
        {
            *scheduled = Some(at);
            self.timers.push(Reverse((at, index)));
        }
    }
}
