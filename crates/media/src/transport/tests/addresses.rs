//! Addresses of a peer: new ones, too many, forged ones, none any more.

use super::*;

impl Pair {
    fn connected() -> Self {
        let mut pair = Self::new();
        pair.connected_after(Duration::from_secs(2)).expect("connected");
        pair
    }

    fn remote(&self) -> Option<SocketAddr> {
        self.bridge.ice.route().map(|(_, remote)| remote)
    }

    /// A check of the client, caught on its way.
    fn catch_check(&mut self) -> Vec<u8> {
        loop {
            self.run(Duration::from_millis(10));
            let is_check = |bytes: &[u8]| bytes.starts_with(&[0, 1]);
            let found = self.in_flight.iter().find(|(_, _, to, bytes)| to.to_string() == BRIDGE && is_check(bytes));
            if let Some((.., bytes)) = found {
                return bytes.clone();
            }
        }
    }

    /// Gives the bridge a datagram; how many it sent in return.
    fn answers(&mut self, from: SocketAddr, bytes: &[u8]) -> usize {
        let mut net = Net::default();
        self.bridge.handle_stun(self.now, BRIDGE.parse().unwrap(), from, bytes, &mut net, &mut self.bridge_events);
        net.flying.iter().filter(|(_, to, _)| *to == from).count()
    }
}

fn elsewhere(n: u32) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::from(0x0a01_0000 + n).into(), 7_000)
}

/// Both start their ICE anew, and know of each other.
fn restart(pair: &mut Pair) {
    let (bridge_ice, client_ice) = (ice_credentials(), ice_credentials());
    let (now, generation) = (pair.now, pair.bridge.restart_ice(pair.now, bridge_ice.clone()));
    pair.act(|pair, net| {
        pair.client.restart_ice(now, client_ice.clone());
        pair.client.set_remote(now, &bridge_ice, None, Some(generation), net, &mut pair.client_events);
        if let Some((second, _)) = &mut pair.client.ice.second {
            second.add_remote_candidate(is::Candidate::host(BRIDGE.parse().unwrap(), is::Protocol::Udp).unwrap());
        }
        pair.bridge.set_remote(now, &client_ice, None, Some(generation), net, &mut pair.bridge_events);
    });
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
fn whoever_comes_back_to_an_old_address_is_followed_and_told_so_at_once() {
    let mut pair = Pair::connected();
    let (first, other) = (pair.client_address, elsewhere(1));
    for address in [other, first] {
        pair.client_address = address;
        pair.run(Duration::from_secs(60));
        assert_eq!(pair.remote(), Some(address));
    }
    pair.client_address = other;
    let moved = pair.now;
    while pair.remote() != Some(other) {
        pair.run(Duration::from_millis(10));
        assert!(pair.now - moved < Duration::from_secs(6), "still {:?}", pair.remote());
    }
    let use_candidate = [0, 0x25, 0, 0];
    let tells = |(_, _, to, bytes): &(Instant, SocketAddr, SocketAddr, Vec<u8>)| {
        *to == other && bytes.starts_with(&[0, 1]) && bytes.windows(4).any(|attribute| attribute == use_candidate)
    };
    assert!(pair.in_flight.iter().any(tells), "it must not wait for the next check");
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
fn the_user_fragment_before_a_restart_is_refused_after_the_transition() {
    let mut pair = Pair::connected();
    let old = pair.catch_check();
    assert!(pair.answers(CLIENT.parse().unwrap(), &old) > 0);
    restart(&mut pair);
    pair.run(Duration::from_millis(500));
    assert!(!pair.bridge.ice.restarting && pair.answers(CLIENT.parse().unwrap(), &old) > 0, "within the transition");
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.answers(CLIENT.parse().unwrap(), &old), 0);
    assert!(pair.bridge.is_connected());
}

#[test]
fn checks_that_came_before_the_answer_cost_no_time_after_it() {
    for queued in [0, 1, 50, 200] {
        let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mut pair = Pair::with(Instant::now(), &a, &b, b.fingerprint(DtlsSetup::Active));
        // The answer is still on its way: start the bridge anew.
        let (bridge_ice, client_ice) = (ice_credentials(), ice_credentials());
        let at = [BRIDGE.parse().unwrap()];
        pair.bridge = Transport::new(pair.now, Role::Bridge, &a, bridge_ice.clone(), &at);
        pair.client = Transport::new(pair.now, Role::Client, &b, client_ice.clone(), &[CLIENT.parse().unwrap()]);
        pair.in_flight.clear();
        pair.act(|pair, net| {
            let print = Some(a.fingerprint(DtlsSetup::Passive));
            pair.client.set_remote(pair.now, &bridge_ice, print, None, net, &mut pair.client_events);
            pair.client.add_remote_address(pair.now, at[0], net, &mut pair.client_events);
        });
        if queued > 0 {
            let check = pair.catch_check();
            pair.in_flight.clear();
            (0..queued).for_each(|_| assert_eq!(pair.answers(CLIENT.parse().unwrap(), &check), 0));
        }
        pair.act(|pair, net| {
            let print = Some(b.fingerprint(DtlsSetup::Active));
            pair.bridge.set_remote(pair.now, &client_ice, print, None, net, &mut pair.bridge_events);
        });
        let answered = pair.now;
        while pair.remote().is_none() {
            pair.run(Duration::from_millis(1));
            let took = pair.now - answered;
            // A round trip, 5 ms, and the step of this loop. Without a queued check the client's next one must come first.
            let limit = if queued == 0 { 600 } else { 56 };
            assert!(took <= Duration::from_millis(limit), "{queued} queued: {took:?} at 50 ms round trip");
        }
    }
}

#[test]
fn a_new_address_is_used_as_soon_as_it_is_proven() {
    let mut pair = Pair::connected();
    pair.run(Duration::from_secs(3));
    let new = elsewhere(1);
    pair.client_address = new;
    pair.bridge_events.clear();
    let mut proven = None;
    while pair.remote() != Some(new) {
        pair.run(Duration::from_millis(5));
        if proven.is_none() && pair.bridge_events.contains(&Event::Address(new)) {
            proven = Some(pair.now);
        }
        assert!(proven.is_none_or(|at| pair.now - at <= Duration::from_millis(100)), "50 ms and a round trip of 50 ms");
    }
    assert!(proven.is_some());
}

#[test]
fn forged_checks_and_replayed_media_from_elsewhere_change_nothing() {
    let mut pair = Pair::connected();
    let mut check = pair.catch_check();
    let at = check.len() - 12; // within the integrity: the fingerprint behind it has eight bytes
    check[at] ^= 1;
    let before = pair.remote();
    for n in 0..20 {
        pair.run(Duration::from_millis(300));
        assert_eq!(pair.answers(elsewhere(n), &check), 0);
        let mut media = vec![0x80, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3];
        media.resize(60, 0);
        assert!(pair.bridge.open_rtp(pair.now, elsewhere(n), &mut media).is_err());
    }
    assert_eq!((pair.remote(), pair.bridge.ice.addresses.len()), (before, 1));
}

#[test]
fn a_silent_peer_is_sent_nothing_after_thirty_seconds_and_media_again_when_it_is_back() {
    let mut pair = Pair::connected();
    pair.run(Duration::from_secs(5));
    let mut sequence = 0;
    let mut seal = |pair: &mut Pair| {
        sequence += 1; // one number is not sealed twice
        let mut packet = [0x80; 100];
        packet[3] = sequence;
        pair.bridge.seal_rtp(&mut packet, 40).is_some()
    };
    pair.lost_of_ten = 10;
    pair.run(Duration::from_secs(26));
    assert!(seal(&mut pair), "consent lasts");
    pair.run(Duration::from_secs(8));
    assert!(!seal(&mut pair) && !pair.bridge.is_connected());
    let sent = pair.sent_by_bridge;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.sent_by_bridge, sent, "nothing at all");
    // Whoever comes back is known by the next thing that is authentic.
    let mut buffer = vec![0x80, 111, 0, 77, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3];
    buffer.resize(60, 0);
    pair.client.ice.heard(pair.now, BRIDGE.parse().unwrap());
    let (len, ..) = pair.client.seal_rtp(&mut buffer, 15).expect("the client may send");
    pair.bridge.open_rtp(pair.now, CLIENT.parse().unwrap(), &mut buffer[..len]).expect("opens");
    assert!(seal(&mut pair));
}

#[test]
fn the_seventeenth_address_gets_no_answer_and_a_hundred_thousand_cost_nothing() {
    let mut pair = Pair::connected();
    let check = pair.catch_check();
    let answered: Vec<u32> = (0..100_000).filter(|n| pair.answers(elsewhere(*n), &check) > 0).collect();
    assert_eq!(answered, (0..15).collect::<Vec<_>>(), "the first address is the client's own");
    assert_eq!(pair.bridge.ice.addresses.len(), 16);
    assert!(pair.bridge.ice.agent.remote_candidates().count() <= 17);
    assert!(pair.answers(CLIENT.parse().unwrap(), &check) > 0, "those it has go on");
}

#[test]
fn two_controlling_sides_connect_and_the_bridge_stays_in_control() {
    let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut pair = Pair::with(Instant::now(), &a, &b, b.fingerprint(DtlsSetup::Active));
    pair.client.ice.agent.set_controlling(true);
    pair.client.ice.agent.set_control_tie_breaker(u64::MAX - 1);
    pair.connected_after(Duration::from_secs(3)).expect("connected");
    assert!(pair.bridge.ice.agent.controlling() && !pair.client.ice.agent.controlling());
}

#[test]
fn whoever_travels_is_followed_and_the_addresses_left_behind_are_given_up() {
    let mut pair = Pair::connected();
    for n in 0..40 {
        pair.client_address = elsewhere(n);
        pair.run(Duration::from_secs(30));
        assert_eq!(pair.remote(), Some(elsewhere(n)), "the {n}th move");
    }
    assert!(pair.bridge_events.contains(&Event::AddressLeft(elsewhere(3))));
    assert!(pair.bridge.ice.addresses.len() <= 16 && pair.media_reaches_the_bridge(1));
}

#[test]
fn a_restart_lets_in_whoever_has_shown_too_many_addresses() {
    let mut pair = Pair::connected();
    pair.bridge.ice.shown = 1_000;
    pair.client_address = elsewhere(1);
    pair.run(Duration::from_secs(10));
    assert_ne!(pair.remote(), Some(elsewhere(1)));
    restart(&mut pair);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.remote(), Some(elsewhere(1)));
}

#[test]
fn who_checks_us_is_seldom_checked_and_who_does_not_is_asked_before_it_seems_silent() {
    let checks = |pair: &mut Pair, duration: Duration| {
        let (end, mut found) = (pair.now + duration, 0);
        while pair.now < end {
            pair.run(Duration::from_millis(10)); // less than the way takes: each is seen at least once
            let is_new = |at: &Instant| *at > pair.now + pair.delay - Duration::from_millis(10);
            let is_check = |to: &SocketAddr, bytes: &[u8]| to.to_string() == CLIENT && bytes.starts_with(&[0, 1]);
            found += pair.in_flight.iter().filter(|(at, _, to, bytes)| is_new(at) && is_check(to, bytes)).count();
        }
        found
    };
    let mut pair = Pair::connected();
    pair.run(Duration::from_secs(300));
    let seldom = checks(&mut pair, Duration::from_secs(600));
    assert!((9..=10).contains(&seldom), "{seldom} in ten minutes, of a client that checks every three seconds");
    // A client that only answers, as some do: its own checks are far apart.
    pair.client.ice.agent.set_max_stun_rto(Duration::from_secs(60));
    pair.run(Duration::from_secs(20));
    for _ in 0..30 {
        checks(&mut pair, Duration::from_secs(1));
        let silent = pair.now.saturating_duration_since(pair.bridge.last_heard().unwrap());
        assert!(silent < Duration::from_secs(5), "{silent:?}");
    }
}

#[test]
fn who_checks_us_and_does_not_answer_keeps_the_pair() {
    let mut pair = Pair::connected();
    pair.run(Duration::from_secs(60));
    assert!(pair.bridge.lend().is_some_and(|responder| {
        pair.bridge.take_back(&responder);
        true
    }));
    pair.ignores_checks = true;
    let client = CLIENT.parse().unwrap();
    for minute in 0..120 {
        pair.run(Duration::from_secs(60));
        assert!(pair.bridge.ice.agent.has_viable_remote_candidate(client), "after {minute} minutes");
    }
    assert!(pair.bridge.lend().is_none(), "the agent has to see the peer's checks");
    pair.ignores_checks = false;
    pair.run(Duration::from_secs(60));
    assert!(pair.bridge.lend().is_some());
}

#[test]
fn a_check_that_changes_nothing_is_answered_as_the_agent_would_and_any_other_is_left_to_it() {
    let mut pair = Pair::connected();
    pair.run(Duration::from_secs(10));
    let (bridge, client): (SocketAddr, SocketAddr) = (BRIDGE.parse().unwrap(), CLIENT.parse().unwrap());
    let check = pair.catch_check();
    let alone = |pair: &mut Pair, from: SocketAddr, bytes: &[u8]| {
        let mut net = Net::default();
        let is_answered = pair.answers_alone(from, bytes, &mut net);
        assert_eq!(net.flying.len(), usize::from(is_answered));
        net.flying.pop_front()
    };
    let mut net = Net::default();
    pair.bridge.handle_stun(pair.now, bridge, client, &check, &mut net, &mut pair.bridge_events);
    assert_eq!(alone(&mut pair, client, &check), net.flying.pop_front(), "to the byte");
    assert_eq!(alone(&mut pair, elsewhere(1), &check), None, "a new address is for the agent");
    for at in 0..check.len() - 8 {
        let mut forged = check.clone();
        forged[at] ^= 1;
        assert_eq!(alone(&mut pair, client, &forged), None, "byte {at}");
    }
    let before = (pair.answered_alone, pair.now);
    pair.run(Duration::from_secs(60));
    assert!((18..=22).contains(&(pair.answered_alone - before.0)), "{} of twenty", pair.answered_alone - before.0);
    assert!(pair.client.is_connected() && pair.client.last_heard() > Some(before.1 + Duration::from_secs(55)));
    restart(&mut pair);
    assert_eq!(alone(&mut pair, client, &check), None, "during a restart both agents look");
}

#[test]
fn an_address_that_never_answered_one_of_our_checks_is_sent_nothing_but_checks_and_answers() {
    let mut pair = Pair::connected();
    pair.run(Duration::from_secs(20));
    let before = pair.remote();
    pair.ignores_checks = true;
    pair.client_address = elsewhere(1);
    for _ in 0..20 {
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.remote(), before, "its own checks prove nothing of where it is");
    }
    assert!(pair.bridge_events.contains(&Event::Address(elsewhere(1))), "they came");
}
