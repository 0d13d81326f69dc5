//! Two transports on a virtual network.

mod addresses;
mod channel;
mod handshake;

use super::*;
use crate::identity::ice_credentials;
use std::collections::VecDeque;

/// Datagrams on their way: due, from, to, bytes.
#[derive(Default)]
struct Net {
    flying: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl Wire for Net {
    fn datagram(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.flying.push_back((local, remote, bytes.to_vec()));
    }
}

struct Pair {
    now: Instant,
    bridge: Transport,
    client: Transport,
    bridge_events: Vec<Event>,
    client_events: Vec<Event>,
    /// Where the client's packets seem to come from.
    client_address: SocketAddr,
    delay: Duration,
    /// Of ten datagrams.
    lost_of_ten: u64,
    /// Whether the bridge's checks are ignored.
    ignores_checks: bool,
    /// Of ten datagrams.
    doubled_of_ten: u64,
    /// Datagrams that the bridge sent, lost ones included.
    sent_by_bridge: usize,
    /// Checks that the bridge answered without a turn of its agent.
    answered_alone: usize,
    random: u64,
    in_flight: Vec<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
}

const BRIDGE: &str = "10.0.0.1:10000";
const CLIENT: &str = "10.0.0.2:5000";

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let (bridge_identity, client_identity) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        Self::with(now, &bridge_identity, &client_identity, client_identity.fingerprint(DtlsSetup::Active))
    }

    fn with(
        now: Instant,
        bridge_identity: &Identity,
        client_identity: &Identity,
        told: impl Into<Option<Fingerprint>>,
    ) -> Self {
        let (bridge_ice, client_ice) = (ice_credentials(), ice_credentials());
        let (bridge_at, client_at): (SocketAddr, SocketAddr) = (BRIDGE.parse().unwrap(), CLIENT.parse().unwrap());
        let mut pair = Self {
            now,
            bridge: Transport::new(now, Role::Bridge, bridge_identity, bridge_ice.clone(), &[bridge_at]),
            client: Transport::new(now, Role::Client, client_identity, client_ice.clone(), &[client_at]),
            bridge_events: Vec::new(),
            client_events: Vec::new(),
            client_address: client_at,
            delay: Duration::from_millis(25),
            lost_of_ten: 0,
            ignores_checks: false,
            doubled_of_ten: 0,
            sent_by_bridge: 0,
            answered_alone: 0,
            random: 7,
            in_flight: Vec::new(),
        };
        let mut net = Net::default();
        let print = bridge_identity.fingerprint(DtlsSetup::Passive);
        pair.client.set_remote(now, &bridge_ice, Some(print), None, &mut net, &mut pair.client_events);
        pair.client.add_remote_address(now, bridge_at, &mut net, &mut pair.client_events);
        pair.bridge.set_remote(now, &client_ice, told.into(), None, &mut net, &mut pair.bridge_events);
        pair.launch(net);
        pair
    }

    fn launch(&mut self, net: Net) {
        for (from, to, bytes) in net.flying {
            // Numerical Recipes' generator: the seed is in `new`, so a failure repeats.
            self.sent_by_bridge += usize::from(from == BRIDGE.parse().unwrap());
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (self.random >> 33) % 10 < self.lost_of_ten {
                continue;
            }
            if self.ignores_checks && from == BRIDGE.parse().unwrap() && bytes.starts_with(&[0, 1]) {
                continue;
            }
            let from = if from == CLIENT.parse().unwrap() { self.client_address } else { from };
            if (self.random >> 43) % 10 < self.doubled_of_ten {
                self.in_flight.push((self.now + self.delay * 2, from, to, bytes.clone()));
            }
            self.in_flight.push((self.now + self.delay, from, to, bytes));
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let timers = self.bridge.next_timeout().into_iter().chain(self.client.next_timeout());
            let next = timers.chain(self.in_flight.iter().map(|(due, ..)| *due)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            let mut net = Net::default();
            let (due, rest) = std::mem::take(&mut self.in_flight).into_iter().partition(|(at, ..)| *at <= now);
            self.in_flight = rest;
            for (_, from, to, bytes) in due {
                self.deliver(from, to, &bytes, &mut net);
            }
            self.bridge.on_timeout(now, &mut net, &mut self.bridge_events);
            self.client.on_timeout(now, &mut net, &mut self.client_events);
            self.launch(net);
        }
        self.now = end;
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], net: &mut Net) {
        let now = self.now;
        let bridge_at: SocketAddr = BRIDGE.parse().unwrap();
        if to == bridge_at {
            match bytes[0] {
                0..=3 if self.answers_alone(from, bytes, net) => self.answered_alone += 1,
                0..=3 => self.bridge.handle_stun(now, to, from, bytes, net, &mut self.bridge_events),
                _ => self.bridge.handle_dtls(now, bytes, net, &mut self.bridge_events),
            }
        } else if to == self.client_address {
            match bytes[0] {
                0..=3 => {
                    self.client.handle_stun(now, CLIENT.parse().unwrap(), from, bytes, net, &mut self.client_events);
                }
                _ => self.client.handle_dtls(now, bytes, net, &mut self.client_events),
            }
        }
    }

    /// Whether the bridge's responder, if it lends one now, answers a datagram.
    fn answers_alone(&mut self, from: SocketAddr, bytes: &[u8], net: &mut Net) -> bool {
        let Some(mut responder) = self.bridge.lend() else { return false };
        let is_answered = responder.answer(self.now, BRIDGE.parse().unwrap(), from, bytes, net);
        self.bridge.take_back(&responder);
        is_answered
    }

    fn act(&mut self, act: impl FnOnce(&mut Self, &mut Net)) {
        let mut net = Net::default();
        act(self, &mut net);
        self.launch(net);
    }

    fn connected_after(&mut self, limit: Duration) -> Option<Duration> {
        let start = self.now;
        while self.now - start < limit {
            self.run(Duration::from_millis(5));
            if self.bridge.is_connected() && self.client.is_connected() {
                return Some(self.now - start);
            }
        }
        None
    }

    fn media_reaches_the_bridge(&mut self, sequence: u8) -> bool {
        let mut buffer = vec![0x80, 111, 0, sequence, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3];
        let len = buffer.len();
        buffer.resize(len + 32, 0);
        let Some((len, ..)) = self.client.seal_rtp(&mut buffer, len) else { return false };
        buffer.truncate(len);
        self.bridge.open_rtp(self.now, self.client_address, &mut buffer).is_ok()
    }
}

#[test]
fn a_client_without_candidates_connects_within_a_few_round_trips_under_an_aead() {
    let mut pair = Pair::new();
    let took = pair.connected_after(Duration::from_secs(2)).expect("connected");
    assert!(took <= Duration::from_millis(350), "{took:?} at 50 ms round trip");
    assert!(pair.bridge_events.contains(&Event::Connected(Profile::AeadAes256Gcm)), "{:?}", pair.bridge_events);
    assert!(pair.media_reaches_the_bridge(1));
}

#[test]
fn a_client_follows_the_roll_overs_of_everybody_in_a_large_room() {
    let mut pair = Pair::new();
    pair.connected_after(Duration::from_secs(2)).expect("connected");
    for sequence in [0xffff_u16, 0, 1] {
        for ssrc in 1..=1000_u32 {
            let mut buffer = vec![0x80, 111, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3];
            buffer[2..4].copy_from_slice(&sequence.to_be_bytes());
            buffer[8..12].copy_from_slice(&ssrc.to_be_bytes());
            let len = buffer.len();
            buffer.resize(len + 32, 0);
            let (len, ..) = pair.bridge.seal_rtp(&mut buffer, len).unwrap();
            buffer.truncate(len);
            let opened = pair.client.open_rtp(pair.now, BRIDGE.parse().unwrap(), &mut buffer);
            assert_eq!(opened.ok(), Some(15), "{ssrc} {sequence}");
        }
    }
}

#[test]
fn every_second_datagram_doubled_changes_nothing() {
    let mut pair = Pair::new();
    pair.doubled_of_ten = 5;
    let took = pair.connected_after(Duration::from_secs(2)).expect("connected");
    assert!(took <= Duration::from_millis(350), "{took:?} at 50 ms round trip");
}

#[test]
fn three_of_ten_datagrams_lost_delay_the_connection_and_do_not_prevent_it() {
    for seed in 1..6 {
        let mut pair = Pair::new();
        (pair.lost_of_ten, pair.random) = (3, seed);
        let took = pair.connected_after(Duration::from_secs(30));
        assert!(took.is_some_and(|took| took <= Duration::from_secs(25)), "seed {seed}: {took:?}");
    }
}
