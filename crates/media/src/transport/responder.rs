//! Answers checks that change nothing in a transport's stead: all that this takes lies together, apart from the transport. An idle bridge
//! does little else, and with thousands of transports nothing that it touches is in a cache.

use std::net::SocketAddr;
use std::time::Instant;

use arrayvec::ArrayVec;
use hmac::block_api::HmacCore;
use hmac::digest::FixedOutput;
use hmac::digest::block_api::{Buffer, CoreProxy};
use hmac::{Hmac, KeyInit, Mac};
use is::IceCreds;
use is::stun::StunMessage;
use sha1::Sha1;

use super::Wire;

/// Bytes of the user fragments that are known so: ours has ten, a browser's four or eight, and RFC 8839 §5.4 allows 256 of each. With longer
/// ones the agent answers.
const NAMES_MAX: usize = 32;
/// Bytes of an answer at most: header, XOR-MAPPED-ADDRESS of IPv6, MESSAGE-INTEGRITY, FINGERPRINT (RFC 8489 §14).
const ANSWER_MAX: usize = 20 + 24 + 24 + 8;

/// Three cache lines about the selected pair of a transport; what lends it out and takes it back is [`super::Transport::lend`].
#[derive(Clone)]
#[repr(align(64))]
pub struct Responder {
    /// HMAC-SHA1 with our password already taken in: a message costs its own blocks only.
    keyed: HmacCore<Sha1>,
    local: SocketAddr,
    remote: SocketAddr,
    /// The USERNAME of the peer's checks: our user fragment, a colon, the peer's (RFC 8445 §7.2.2).
    names: ArrayVec<u8, NAMES_MAX>,
    heard: Instant,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl Responder {
    /// For the pair of these addresses, on which something authentic last came at `heard`. `None` when the names are too long.
    pub(super) fn new(
        heard: Instant,
        route: (SocketAddr, SocketAddr),
        ours: &IceCreds,
        theirs: &IceCreds,
    ) -> Option<Self> {
        let mut names = ArrayVec::new();
        for part in [&ours.ufrag, ":", &theirs.ufrag] {
            names.try_extend_from_slice(part.as_bytes()).ok()?;
        }
        let keyed = HmacCore::new_from_slice(ours.pass.as_bytes()).ok()?;
        Some(Self { keyed, local: route.0, remote: route.1, names, heard })
    }

    /// When something authentic last came, as far as is known here.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Answers a check of the selected pair that changes nothing, as browsers send them every 2.5 s; everything else is for
    /// [`super::Transport::handle_stun`]. The agent is not told: a turn of it looks at all pairs, and costs ten times what the answer does.
    pub fn answer(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
        wire: &mut impl Wire,
    ) -> bool {
        if (local, remote) != (self.local, self.remote) {
            return false;
        }
        let Ok(message) = StunMessage::parse(bytes) else { return false };
        let hmac = |_: &[u8], parts: &[&[u8]]| self.hmac(parts);
        let changes_nothing = message.is_binding_request()
            && !message.use_candidate() // in a check of the controlled side it is an error
            && message.ice_controlling().is_none()
            && message.username().is_some_and(|names| names.as_bytes() == self.names.as_slice())
            && message.verify(&[], hmac);
        if !changes_nothing {
            return false;
        }
        let mut answer = [0; ANSWER_MAX];
        let reply = StunMessage::binding_reply(message.trans_id(), remote);
        let Ok(len) = reply.to_bytes(Some(&[]), &mut answer, hmac) else { return false };
        wire.datagram(local, remote, &answer[..len]);
        self.heard = now;
        true
    }

    /// Of our password and these bytes.
    fn hmac(&self, parts: &[&[u8]]) -> [u8; 20] {
        let mut hmac = Hmac::<Sha1>::compose(self.keyed.clone(), Buffer::<HmacCore<Sha1>>::default());
        parts.iter().for_each(|part| hmac.update(part));
        hmac.finalize_fixed().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use is::stun::TransId;
    use is::{DefaultSha1HmacProvider, Sha1HmacProvider};

    const LOCAL: &str = "10.0.0.1:10000";
    const REMOTE: &str = "10.0.0.2:5000";
    const PASSWORD: &str = "a password of 24 letters";

    #[derive(Default)]
    struct Sent(Vec<(SocketAddr, SocketAddr, Vec<u8>)>);

    impl Wire for Sent {
        fn datagram(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
            self.0.push((local, remote, bytes.to_vec()));
        }
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn responder(theirs: &str) -> Option<Responder> {
        let ours = IceCreds { ufrag: "AAbcdefghi".into(), pass: PASSWORD.into() };
        let theirs = IceCreds { ufrag: theirs.into(), pass: "unused".into() };
        Responder::new(Instant::now(), (at(LOCAL), at(REMOTE)), &ours, &theirs)
    }

    fn signed(message: StunMessage<'_>, password: &str) -> Vec<u8> {
        let mut bytes = vec![0; 300];
        let hmac = |key: &[u8], parts: &[&[u8]]| DefaultSha1HmacProvider.sha1_hmac(key, parts);
        let len = message.to_bytes(Some(password.as_bytes()), &mut bytes, hmac).unwrap();
        bytes.truncate(len);
        bytes
    }

    fn check(names: &str) -> StunMessage<'_> {
        StunMessage::binding_request(names, TransId::new(), false, 7, 1_234, false)
    }

    #[test]
    fn it_takes_three_cache_lines() {
        assert_eq!((size_of::<Responder>(), size_of::<Option<Responder>>()), (192, 192));
    }

    #[test]
    fn a_check_of_its_pair_and_names_is_answered_and_heard() {
        let mut responder = responder("efgh").unwrap();
        let (mut sent, later, request) =
            (Sent::default(), responder.heard() + std::time::Duration::from_secs(1), check("AAbcdefghi:efgh"));
        assert!(responder.answer(later, at(LOCAL), at(REMOTE), &signed(request, PASSWORD), &mut sent));
        let expected = signed(StunMessage::binding_reply(request.trans_id(), at(REMOTE)), PASSWORD);
        assert_eq!(sent.0, [(at(LOCAL), at(REMOTE), expected)]);
        assert_eq!(responder.heard(), later);
    }

    #[test]
    fn anything_else_is_not_touched() {
        let good = signed(check("AAbcdefghi:efgh"), PASSWORD);
        let nominates = StunMessage::binding_request("AAbcdefghi:efgh", TransId::new(), false, 7, 1_234, true);
        let conflicts = StunMessage::binding_request("AAbcdefghi:efgh", TransId::new(), true, 7, 1_234, false);
        let reply = StunMessage::binding_reply(TransId::new(), at(REMOTE));
        for (what, local, remote, bytes) in [
            ("another name of ours", LOCAL, REMOTE, signed(check("AAbcdefghX:efgh"), PASSWORD)),
            ("another name of theirs", LOCAL, REMOTE, signed(check("AAbcdefghi:efgX"), PASSWORD)),
            ("a shorter name", LOCAL, REMOTE, signed(check("AAbcdefghi:efg"), PASSWORD)),
            ("another key", LOCAL, REMOTE, signed(check("AAbcdefghi:efgh"), "a password of 24 letterX")),
            ("from elsewhere", LOCAL, "10.0.0.2:5001", good.clone()),
            ("to elsewhere", "10.0.0.1:10001", REMOTE, good.clone()),
            ("USE-CANDIDATE", LOCAL, REMOTE, signed(nominates, PASSWORD)),
            ("ICE-CONTROLLING", LOCAL, REMOTE, signed(conflicts, PASSWORD)),
            ("an answer", LOCAL, REMOTE, signed(reply, PASSWORD)),
            ("half a check", LOCAL, REMOTE, good[..good.len() / 2].to_vec()),
        ] {
            let mut responder = responder("efgh").unwrap();
            let (mut sent, heard) = (Sent::default(), responder.heard());
            let later = heard + std::time::Duration::from_secs(1);
            assert!(!responder.answer(later, at(local), at(remote), &bytes, &mut sent), "{what}");
            assert!(sent.0.is_empty() && responder.heard() == heard, "{what}");
        }
    }

    #[test]
    fn names_that_do_not_fit_are_for_the_agent() {
        assert!(responder(&"x".repeat(21)).is_some());
        assert!(responder(&"x".repeat(22)).is_none());
    }
}
