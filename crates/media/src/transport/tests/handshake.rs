//! The handshake: what browsers open it with in every order it can arrive, and certificates.

use super::*;

/// What Chromium 156 sends: a ClientHello of DTLS 1.3 with a post-quantum key share, in two datagrams.
fn client_hello() -> [Vec<u8>; 2] {
    [include_str!("client-hello-1.hex"), include_str!("client-hello-2.hex")].map(|text| {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    })
}

/// What a fresh bridge wants to send after these datagrams.
fn answer_to(datagrams: &[&[u8]]) -> Vec<u8> {
    let (now, identity) = (Instant::now(), Identity::generate().unwrap());
    let mut bridge = Transport::new(now, Role::Bridge, &identity, ice_credentials(), &[BRIDGE.parse().unwrap()]);
    let (mut net, mut events) = (Net::default(), Vec::new());
    for datagram in datagrams {
        bridge.handle_dtls(now, datagram, &mut net, &mut events);
    }
    assert!(net.flying.is_empty() && events.is_empty(), "nothing is sent before there is a route: {events:?}");
    bridge.held.concat()
}

/// The body of a `use_srtp` extension (RFC 5764 §4.1.1): the profiles, two bytes each.
fn srtp_profiles(message: &[u8]) -> Option<&[u8]> {
    let is_extension = |at: &usize| {
        let Some([0, 14, 0, len, 0, list]) = message.get(*at..at + 6) else { return false };
        *len == list + 3 && *list > 0 && list % 2 == 0
    };
    let at = (0..message.len()).find(is_extension)?;
    message.get(at + 6..at + 6 + usize::from(message[at + 5]))
}

const SHA1_80: [u8; 2] = [0, 1];
const AEADS: [[u8; 2]; 2] = [[0, 7], [0, 8]];

#[test]
fn a_browser_that_lists_sha1_first_gets_an_aead() {
    let [first, second] = client_hello();
    let offered = [&first[..], &second].concat();
    let offered = srtp_profiles(&offered).expect("Chromium offers SRTP");
    assert_eq!(offered[..2], SHA1_80, "else this test proves nothing");
    let answer = answer_to(&[&first, &second]);
    let chosen = srtp_profiles(&answer).expect("a ServerHello with a profile");
    assert!(AEADS.iter().any(|aead| chosen == aead), "{chosen:?}");
}

#[test]
fn the_parts_of_a_hello_are_put_together_in_every_order() {
    let [first, second] = client_hello();
    let answers = |datagrams: &[&[u8]]| srtp_profiles(&answer_to(datagrams)).is_some();
    assert!(answers(&[&second, &first]), "reordered");
    assert!(answers(&[&first, &first, &second, &second]), "doubled");
    assert!(!answers(&[&first]) && !answers(&[&second]), "one lost");
    assert!(answers(&[&first, &first, &second]), "sent again");
    // Sent again whole while the first was on its way: the handshake's record has a higher number, which may be any.
    let again = |datagram: &[u8]| [&datagram[..10], &[datagram[10] + 2], &datagram[11..]].concat();
    assert!(answers(&[&first, &again(&first), &second, &again(&second)]), "interleaved with its repetition");
    assert!(answers(&[&[22, 254, 253, 0, 0, 0, 0, 0, 9, 9, 0, 4, 1, 2, 3, 4], &first, &second]), "behind garbage");
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
fn a_fingerprint_that_comes_late_is_waited_for() {
    let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut pair = Pair::with(Instant::now(), &a, &b, None);
    pair.run(Duration::from_secs(2));
    assert!(!pair.bridge.is_connected() && !pair.bridge_events.iter().any(|e| matches!(e, Event::Connected(_))));
    assert!(!pair.media_reaches_the_bridge(1), "what is not verified is not opened");
    pair.act(|pair, net| {
        let print = Some(b.fingerprint(DtlsSetup::Active));
        pair.bridge.set_remote(pair.now, &ice_credentials(), print, None, net, &mut pair.bridge_events);
    });
    assert!(pair.bridge.is_connected() && pair.media_reaches_the_bridge(2));
}
