//! A running measurement: the bridge's process, the shards with their clients, and everybody's way in.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use tertulia_media::identity::{Identity, ice_credentials};
use tertulia_model::{DtlsSetup, Fingerprint, HashFunction, IceCredentials};

use crate::child::How;
use crate::client::{Mode, Spec};
use crate::cross::Ready;
use crate::histogram::Histogram;
use crate::plan::Plan;
use crate::process::{Process, cores};
use crate::protocol::{Counters, FanOut, Order, Report};
use crate::shard::{self, Reading, Shard};
use crate::sources::endpoint;

/// Joins under way at once; more only fill queues.
const JOINING_MAX: usize = 64;
/// The last one may take so long after the last order.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// What joining took.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    /// Handshakes that both sides completed.
    pub(crate) completed: u32,
    /// From the first request until the last of them.
    pub(crate) took: Duration,
    /// People a second who would have come, had nobody had to wait for others to get in.
    pub(crate) offered_per_s: u32,
    /// From the request to keys on the bridge. Milliseconds.
    pub(crate) connected_ms: Histogram,
}

/// Everything that runs.
pub(crate) struct Meeting {
    pub(crate) plan: Plan,
    pub(crate) process: Process,
    pub(crate) workers: usize,
    shards: Vec<Shard>,
    identity: Identity,
    /// Shard and place of each person who joined.
    places: Vec<Option<(usize, usize)>>,
    members: Vec<usize>,
    numbers: HashMap<String, u32>,
    seed: u64,
    /// Resident memory of the bridge before anybody joined.
    pub(crate) resident_empty: u64,
    /// The same after its first window and before the fan-outs, which live in its process.
    resident_full: Option<u64>,
    asked: Vec<Option<Instant>>,
    connected: usize,
    /// When the bridge last said so of somebody.
    connected_at: Option<Instant>,
    connected_ms: Histogram,
    ended: Vec<String>,
    /// What the bridge last told people behind a bottleneck that the path to them takes, in bits a second.
    pub(crate) estimates: BTreeMap<u32, u64>,
    answer: Option<Counters>,
    fan_out: Option<SocketAddr>,
    fan_out_ended: bool,
}

impl Meeting {
    /// Starts the bridge, and a shard on every core that its workers leave.
    ///
    /// # Errors
    /// When a process, a socket or a thread cannot be had.
    pub(crate) fn start(program: &Path, plan: Plan, how: How, seed: u64) -> io::Result<Self> {
        let process = Process::start(program, how)?;
        match process.next(ANSWER_PATIENCE)? {
            Report::Started { .. } => {}
            other => return Err(io::Error::other(format!("the bridge did not start: {other:?}"))),
        }
        let identity = Identity::generate().map_err(|_| io::Error::other("no certificate can be made"))?;
        let epoch = Instant::now();
        let free: Vec<Option<usize>> = (how.workers..cores()).map(Some).collect();
        let free = if free.is_empty() { vec![None] } else { free };
        let shards: io::Result<Vec<Shard>> = free
            .into_iter()
            .zip(0..)
            .map(|(core, number)| Shard::start(shard::Network::loopback(number), core, epoch, identity.clone()))
            .collect();
        let shards = shards?;
        let count = plan.people.len();
        Ok(Self {
            resident_empty: process.resident()?,
            resident_full: None,
            process,
            workers: how.workers,
            members: vec![0; shards.len()],
            shards,
            identity,
            places: vec![None; count],
            numbers: (0..plan.count()).map(|person| (endpoint(person).to_string(), person)).collect(),
            plan,
            seed,
            asked: vec![None; count],
            connected: 0,
            connected_at: None,
            connected_ms: Histogram::default(),
            ended: Vec::new(),
            estimates: BTreeMap::new(),
            answer: None,
            fan_out: None,
            fan_out_ended: false,
        })
    }

    /// Lets people join at a rate, and waits until media can flow to all of them.
    ///
    /// # Errors
    /// When somebody does not get in.
    pub(crate) fn join(&mut self, people: Range<u32>, per_second: u32) -> io::Result<Joined> {
        let start = Instant::now();
        let mut last_order = start;
        let before = self.connected;
        let (mut next, wanted) = (people.start, before + people.len());
        while self.connected < wanted {
            let now = Instant::now();
            let due = people.start + (now - start).as_secs_f64().mul_add(f64::from(per_second), 1.0) as u32;
            let under_way = |next: u32, connected: usize| before + ((next - people.start) as usize) - connected;
            while next < people.end.min(due) && under_way(next, self.connected) < JOINING_MAX {
                self.ask(next)?;
                next += 1;
                last_order = now;
            }
            self.pump(Duration::from_millis(1))?;
            if !self.ended.is_empty() || now - last_order > JOIN_PATIENCE {
                let (connected, ended) = (self.connected, &self.ended);
                return Err(io::Error::other(format!("{connected} of {wanted} got in; lost: {ended:?}")));
            }
        }
        let end = self.wait_for_clients(wanted)?.max(self.connected_at);
        Ok(Joined {
            completed: u32::try_from(self.connected - before).unwrap_or(u32::MAX),
            took: end.map_or(Duration::ZERO, |end| end.saturating_duration_since(start)),
            offered_per_s: per_second,
            connected_ms: std::mem::take(&mut self.connected_ms),
        })
    }

    /// Gives every shard an order.
    pub(crate) fn tell(&self, order: impl Fn() -> shard::Order) {
        self.shards.iter().for_each(|shard| shard.send(order()));
    }

    /// Begins or ends a talk spurt.
    pub(crate) fn speak(&self, person: u32, speaking: bool) {
        if let Some((shard, client)) = self.places[person as usize] {
            self.shards[shard].send(shard::Order::Speak { client, speaking });
        }
    }

    /// Lets a person say what it wants.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn wish(&mut self, person: u32) -> io::Result<()> {
        let room = u64::from(self.plan.people[person as usize].room);
        self.process.send(&Order::Message { room, person, text: self.plan.wishes(person) })
    }

    /// Waits, and does meanwhile what the bridge says.
    ///
    /// # Errors
    /// When the bridge's process is gone.
    pub(crate) fn pump(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.process.reports.recv_timeout(left) {
                Ok(report) => self.handle(report)?,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => return Ok(()),
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the bridge process ended"));
                }
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    /// What all shards have seen.
    ///
    /// # Errors
    /// When one of them is gone.
    pub(crate) fn read(&self) -> io::Result<Reading> {
        let mut sum = Reading::default();
        for shard in &self.shards {
            sum.add(&shard.read()?);
        }
        Ok(sum)
    }

    /// How many threads generate.
    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// What the bridge has counted.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn counters(&mut self) -> io::Result<Counters> {
        self.process.send(&Order::Counters)?;
        self.until("counters", |meeting| meeting.answer.take())
    }

    /// Media flowed: what the bridge has now is what it needs.
    ///
    /// # Errors
    /// When the bridge is gone.
    pub(crate) fn weigh(&mut self) -> io::Result<()> {
        self.resident_full.get_or_insert(self.process.resident()?);
        Ok(())
    }

    /// By how many bytes the people and their media made the bridge grow.
    ///
    /// # Errors
    /// When the bridge is gone.
    pub(crate) fn grown(&self) -> io::Result<u64> {
        let full = self.resident_full.map_or_else(|| self.process.resident(), Ok)?;
        Ok(full.saturating_sub(self.resident_empty))
    }

    /// Puts a fan-out into the bridge's place.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start_fan_out(&mut self, sealed: bool, run: usize) -> io::Result<()> {
        let routes = self.plan.routes(|person| {
            let (shard, client) = self.places[person as usize].unwrap_or((0, 0));
            self.shards[shard].address_of(client)
        });
        self.process.send(&Order::FanOut(FanOut { sealed, run, routes }))?;
        let to = self.until("a fan-out", |meeting| meeting.fan_out.take())?;
        self.tell(|| shard::Order::Mode(Mode::FanOut { to }));
        Ok(())
    }

    /// Ends all conferences and puts an echo into the bridge's place. Every client sends it a datagram at this interval, and no check any
    /// more: there is no way back to the bridge.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start_echo(&mut self, interval: Duration) -> io::Result<()> {
        for room in 0..self.plan.room_count() {
            self.process.send(&Order::Close { room: u64::from(room) })?;
        }
        self.process.send(&Order::Echo)?;
        let to = self.until("an echo", |meeting| meeting.fan_out.take())?;
        self.tell(|| shard::Order::Knock { to, interval });
        Ok(())
    }

    /// Gives the bridge its place back.
    ///
    /// # Errors
    /// When the fan-out does not end.
    pub(crate) fn end_fan_out(&mut self) -> io::Result<()> {
        self.process.send(&Order::EndFanOut)?;
        self.until("the end of a fan-out", |meeting| std::mem::take(&mut meeting.fan_out_ended).then_some(()))?;
        self.tell(|| shard::Order::Mode(Mode::Bridge));
        Ok(())
    }

    /// Ends everything.
    pub(crate) fn end(self) {
        self.shards.into_iter().for_each(Shard::end);
    }

    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> io::Result<T> {
        let start = Instant::now();
        while start.elapsed() < ANSWER_PATIENCE {
            self.pump(Duration::from_micros(200))?;
            if let Some(answer) = done(self) {
                return Ok(answer);
            }
        }
        Err(io::Error::other(format!("the bridge process does not answer with {what}")))
    }

    fn ask(&mut self, person: u32) -> io::Result<()> {
        let room = self.plan.people[person as usize].room;
        let is_first = self.plan.people[..person as usize].last().is_none_or(|before| before.room != room);
        if is_first {
            self.process.send(&Order::Open { room: u64::from(room) })?;
        }
        self.asked[person as usize] = Some(Instant::now());
        self.process.send(&Order::Allocate { room: u64::from(room), person })
    }

    fn handle(&mut self, report: Report) -> io::Result<()> {
        match report {
            Report::Allocated { person, ufrag, pwd, fingerprint, port, .. } => {
                let remote = IceCredentials { ufrag, pwd };
                let fingerprint = Fingerprint::parse(HashFunction::Sha256, DtlsSetup::Passive, &fingerprint);
                if let Some((person, fingerprint)) = self.numbers.get(&person).copied().zip(fingerprint) {
                    self.answer(person, remote, fingerprint, port)?;
                }
            }
            Report::Connected { person, .. } => {
                self.connected += 1;
                self.connected_at = Some(Instant::now());
                let asked = self.numbers.get(&person).and_then(|person| self.asked[*person as usize]);
                if let Some(asked) = asked {
                    self.connected_ms.record(asked.elapsed().as_millis() as u64);
                }
            }
            Report::MaxHeight { person, max_height } => {
                let place = self.numbers.get(&person).and_then(|person| self.places[*person as usize]);
                if let Some((shard, client)) = place {
                    self.shards[shard].send(shard::Order::MaxHeight { client, max_height });
                }
            }
            Report::Ended { person, why, .. } => self.ended.push(format!("{person}: {why}")),
            Report::Estimate { person, bps } => {
                self.estimates.insert(person, bps);
            }
            Report::Counters(counters) => self.answer = Some(counters),
            Report::FanOut { address } => self.fan_out = Some(address),
            Report::FanOutEnded => self.fan_out_ended = true,
            Report::Started { .. } | Report::Failed { .. } => {}
        }
        Ok(())
    }

    fn answer(&mut self, person: u32, remote: IceCredentials, print: Fingerprint, port: u16) -> io::Result<()> {
        let who = &self.plan.people[person as usize];
        let room = u64::from(who.room);
        let (camera, voice) = (who.camera, who.voice);
        let estimates = who.badness.is_some_and(|badness| badness.rate_bps > 0);
        let mut cross = who.cross.then(|| Ready::new(Instant::now(), self.neighbours(person)));
        let (credentials, own_print) = match &mut cross {
            None => (ice_credentials(), self.identity.fingerprint(DtlsSetup::Active)),
            Some(ready) => ready.transport().ok_or_else(|| io::Error::other("str0m has no SHA-256 fingerprint"))?,
        };
        let shard = person as usize % self.shards.len();
        self.places[person as usize] = Some((shard, self.members[shard]));
        self.members[shard] += 1;
        let spec = Spec {
            person,
            room: who.room,
            bridge: SocketAddr::from(([127, 0, 0, 1], port)),
            remote: (remote, print),
            credentials: credentials.clone(),
            camera,
            voice,
            badness: who.badness,
            seed: self.seed.wrapping_add(u64::from(person) << 8),
            created: self.asked[person as usize].unwrap_or_else(Instant::now),
            cross,
            offers: false,
            foreign: None,
        };
        self.shards[shard].send(shard::Order::Add(Box::new(spec)));
        let IceCredentials { ufrag, pwd } = credentials;
        let fingerprint = own_print.to_hex();
        self.process.send(&Order::Transport { room, person, ufrag, pwd, fingerprint })?;
        if camera || voice.is_some() {
            self.process.send(&Order::Sources { room, person, camera, voice: voice.is_some() })?;
        }
        self.process.send(&Order::Channel { room, person, estimates })?;
        self.wish(person)
    }

    /// Everybody else of a person's room who sends anything.
    fn neighbours(&self, person: u32) -> Vec<(u32, bool, bool)> {
        let room = self.plan.people[person as usize].room;
        let people = self.plan.people.iter().zip(0..).filter(|(other, number)| other.room == room && *number != person);
        let sending = people.filter(|(other, _)| other.camera || other.voice.is_some());
        sending.map(|(other, number)| (number, other.camera, other.voice.is_some())).collect()
    }

    /// The bridge's keys are up a moment before the clients'. Returns when the last client had its own.
    fn wait_for_clients(&mut self, wanted: usize) -> io::Result<Option<Instant>> {
        let start = Instant::now();
        loop {
            let reading = self.read()?;
            if reading.connected >= wanted {
                return Ok(reading.connected_at);
            }
            if start.elapsed() > ANSWER_PATIENCE {
                return Err(io::Error::other("some clients did not connect"));
            }
            self.pump(Duration::from_millis(5))?;
        }
    }
}
