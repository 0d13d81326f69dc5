//! Two transports on a virtual network.

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

    fn with(now: Instant, bridge_identity: &Identity, client_identity: &Identity, told: Fingerprint) -> Self {
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
            random: 7,
            in_flight: Vec::new(),
        };
        let mut net = Net::default();
        let print = bridge_identity.fingerprint(DtlsSetup::Passive);
        pair.client.set_remote(now, &bridge_ice, Some(print), None, &mut net, &mut pair.client_events);
        pair.client.add_remote_address(now, bridge_at, &mut net, &mut pair.client_events);
        pair.bridge.set_remote(now, &client_ice, Some(told), None, &mut net, &mut pair.bridge_events);
        pair.launch(net);
        pair
    }

    fn launch(&mut self, net: Net) {
        for (from, to, bytes) in net.flying {
            // Numerical Recipes' generator: the seed is in `new`, so a failure repeats.
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (self.random >> 33) % 10 < self.lost_of_ten {
                continue;
            }
            let from = if from == CLIENT.parse().unwrap() { self.client_address } else { from };
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
fn three_of_ten_datagrams_lost_delay_the_connection_and_do_not_prevent_it() {
    for seed in 1..6 {
        let mut pair = Pair::new();
        (pair.lost_of_ten, pair.random) = (3, seed);
        let took = pair.connected_after(Duration::from_secs(30));
        assert!(took.is_some_and(|took| took <= Duration::from_secs(25)), "seed {seed}: {took:?}");
    }
}

#[test]
fn another_certificate_than_the_signalled_one_ends_it() {
    let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut pair = Pair::with(Instant::now(), &a, &b, a.fingerprint(DtlsSetup::Active));
    assert_eq!(pair.connected_after(Duration::from_secs(2)), None);
    assert!(pair.bridge_events.contains(&Event::Ended(End::WrongCertificate)));
}

#[test]
fn other_hash_functions_are_verified_too() {
    for (hash, algorithm) in
        [(HashFunction::Sha1, &digest::SHA1_FOR_LEGACY_USE_ONLY), (HashFunction::Sha512, &digest::SHA512)]
    {
        let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let digest = digest::digest(algorithm, &b.certificate.certificate).as_ref().to_vec();
        let mut pair = Pair::with(Instant::now(), &a, &b, Fingerprint { hash, digest, setup: DtlsSetup::Active });
        assert!(pair.connected_after(Duration::from_secs(2)).is_some(), "{hash:?}");
    }
}

#[test]
fn media_follows_the_client_to_a_new_address_within_four_seconds() {
    let mut pair = Pair::new();
    pair.connected_after(Duration::from_secs(2)).expect("connected");
    pair.run(Duration::from_secs(3));
    pair.client_address = "10.0.0.9:6000".parse().unwrap();
    let moved = pair.now;
    while pair.bridge.ice.route().map(|(_, remote)| remote) != Some(pair.client_address) {
        pair.run(Duration::from_millis(50));
        assert!(pair.now - moved < Duration::from_secs(4), "still {:?}", pair.bridge.ice.route());
    }
    assert!(pair.media_reaches_the_bridge(2));
}

#[test]
fn a_restart_changes_credentials_without_a_gap() {
    let mut pair = Pair::new();
    pair.connected_after(Duration::from_secs(2)).expect("connected");
    let (bridge_ice, client_ice) = (ice_credentials(), ice_credentials());
    let generation = pair.bridge.restart_ice(pair.now, bridge_ice.clone());
    let mut net = Net::default();
    let now = pair.now;
    assert_eq!(pair.client.restart_ice(now, client_ice.clone()), generation);
    pair.client.set_remote(now, &bridge_ice, None, Some(generation), &mut net, &mut pair.client_events);
    // The restarted client agent needs the bridge's address, as signalling repeats it.
    if let Some((second, _)) = &mut pair.client.ice.second {
        second.add_remote_candidate(is::Candidate::host(BRIDGE.parse().unwrap(), is::Protocol::Udp).unwrap());
    }
    pair.bridge.set_remote(now, &client_ice, None, Some(generation + 7), &mut net, &mut pair.bridge_events);
    assert!(pair.bridge.ice.restarting, "a stale generation is ignored");
    pair.bridge.set_remote(now, &client_ice, None, Some(generation), &mut net, &mut pair.bridge_events);
    pair.launch(net);
    for n in 0..40 {
        pair.run(Duration::from_millis(100));
        assert!(pair.bridge.is_connected() && pair.media_reaches_the_bridge(10 + n));
    }
    assert!(!pair.bridge.ice.restarting && pair.bridge.ice.second.is_none());
}

#[test]
fn the_seventeenth_address_of_a_peer_is_not_let_in() {
    let mut pair = Pair::new();
    pair.connected_after(Duration::from_secs(2)).expect("connected");
    for n in 0..30u16 {
        pair.client_address = SocketAddr::new("10.0.1.1".parse().unwrap(), 7_000 + n);
        pair.run(Duration::from_secs(4));
    }
    assert!(pair.bridge.ice.addresses.len() <= ADDRESSES_SEEN_MAX);
}

const ADDRESSES_SEEN_MAX: usize = 16;

impl Pair {
    fn with_channel() -> Self {
        let mut pair = Self::new();
        pair.connected_after(Duration::from_secs(2)).expect("connected");
        pair.act(|pair, net| pair.client.open_channel(pair.now, net, &mut pair.client_events));
        pair.run(Duration::from_millis(500));
        pair
    }

    fn act(&mut self, act: impl FnOnce(&mut Self, &mut Net)) {
        let mut net = Net::default();
        act(self, &mut net);
        self.launch(net);
    }

    /// Texts that came since the last call: at the bridge, at the client.
    fn texts(&mut self) -> (Vec<String>, Vec<String>) {
        let text = |event: Event| if let Event::ChannelText(text) = event { Some(text) } else { None };
        (
            self.bridge_events.drain(..).filter_map(text).collect(),
            self.client_events.drain(..).filter_map(text).collect(),
        )
    }
}

#[test]
fn a_data_channel_opens_and_carries_texts_of_every_length_both_ways() {
    let mut pair = Pair::with_channel();
    assert!(pair.bridge_events.contains(&Event::ChannelOpen) && pair.client_events.contains(&Event::ChannelOpen));
    let texts = ["hello".to_owned(), String::new(), "x".repeat(64 * 1024 + 1), "y".repeat(256 * 1024)];
    for text in &texts {
        assert!(pair.client.send_text(pair.now, text) && pair.bridge.send_text(pair.now, text), "{}", text.len());
        pair.run(Duration::from_secs(4));
    }
    let (at_bridge, at_client) = pair.texts();
    assert!(at_bridge == texts && at_client == texts, "{} and {} came", at_bridge.len(), at_client.len());
    assert!(!pair.bridge.send_text(pair.now, &"z".repeat(256 * 1024 + 1)), "longer than both sides may say");
    assert!(pair.bridge.send_text(pair.now, "still open"));
}

#[test]
fn texts_arrive_whole_and_in_order_over_a_bad_network() {
    let mut pair = Pair::with_channel();
    pair.lost_of_ten = 2;
    let texts: Vec<String> = (0..30).map(|n| format!("{n} {}", "x".repeat(2_000))).collect();
    for text in &texts {
        assert!(pair.client.send_text(pair.now, text));
        pair.run(Duration::from_millis(50));
    }
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.texts().0, texts);
}

#[test]
fn an_idle_endpoint_has_no_sctp_and_an_idle_channel_asks_for_no_timer() {
    let mut pair = Pair::new();
    pair.connected_after(Duration::from_secs(2)).expect("connected");
    pair.run(Duration::from_secs(5));
    assert!(pair.bridge.channel.is_none() && !pair.bridge.send_text(pair.now, "nobody listens"));
    let mut pair = Pair::with_channel();
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.bridge.channel.as_ref().map(|channel| channel.next_timeout()), Some(None));
}

#[test]
fn a_second_channel_is_refused_and_the_first_goes_on() {
    let mut pair = Pair::with_channel();
    pair.client.channel.as_mut().unwrap().open_another(pair.now, 2);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.bridge_events.iter().filter(|event| **event == Event::ChannelRefused).count(), 1);
    assert!(pair.client.send_text(pair.now, "first") && pair.bridge.send_text(pair.now, "first"));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.texts(), (vec!["first".to_owned()], vec!["first".to_owned()]));
}

#[test]
fn a_channel_opened_twice_on_its_stream_stays_open() {
    let mut pair = Pair::with_channel();
    pair.client.channel.as_mut().unwrap().open_another(pair.now, 0);
    assert!(pair.client.send_text(pair.now, "after"));
    pair.run(Duration::from_secs(2));
    assert!(pair.bridge_events.contains(&Event::ChannelRefused));
    assert_eq!(pair.texts().0, ["after"]);
}

#[test]
fn a_second_association_is_ignored_while_the_first_lives() {
    let mut pair = Pair::with_channel();
    let first = pair.client.channel.take();
    pair.act(|pair, net| pair.client.open_channel(pair.now, net, &mut pair.client_events));
    pair.run(Duration::from_secs(4));
    pair.client.channel = first;
    pair.texts();
    assert!(pair.client.send_text(pair.now, "as before") && pair.bridge.send_text(pair.now, "as before"));
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.texts(), (vec!["as before".to_owned()], vec!["as before".to_owned()]));
}

#[test]
fn a_client_that_stops_reading_costs_a_bounded_queue_and_hears_of_it_when_it_is_back() {
    let mut pair = Pair::with_channel();
    pair.bridge_events.clear();
    pair.lost_of_ten = 10;
    let text = "x".repeat(1_000);
    let taken = (0..5_000).filter(|_| pair.bridge.send_text(pair.now, &text)).count();
    assert!((900..=1_100).contains(&taken), "{taken} texts of 1000 bytes were queued");
    pair.run(Duration::from_secs(2));
    pair.lost_of_ten = 0;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.bridge_events, [Event::ChannelOpen], "once, for what was dropped");
    assert_eq!(pair.texts().1.len(), taken);
    assert!(pair.bridge.send_text(pair.now, "room again"));
}

#[test]
fn garbage_in_place_of_sctp_makes_no_state_and_ends_nothing() {
    let mut pair = Pair::new();
    pair.connected_after(Duration::from_secs(2)).expect("connected");
    for packet in [&b""[..], b"hello", &[0; 40], &[0x13, 0x88, 0x13, 0x88, 0, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 20]] {
        pair.act(|pair, net| {
            pair.client.dtls.handle_timeout(pair.now).unwrap();
            pair.client.dtls.send_application_data(packet).unwrap();
            pair.client.drain_dtls(pair.now, false, net, &mut pair.client_events);
        });
    }
    pair.run(Duration::from_secs(1));
    assert!(pair.media_reaches_the_bridge(3) && !pair.bridge.has_channel());
}
