//! Addresses, credentials and fingerprints, as signalling carries them to and from a bridge.

use std::fmt;
use std::net::IpAddr;

use crate::{ConferenceId, EndpointId};

/// ICE user fragment and password of one side (RFC 8445 §5.3). `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// 4 to 256 characters of `[A-Za-z0-9+/]`.
    pub ufrag: String,
    /// 22 to 256 characters of the same.
    pub pwd: String,
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// Hash function of a certificate fingerprint (RFC 8122 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    /// Still sent by some peers.
    Sha1,
    /// Everybody's default.
    Sha256,
    /// Allowed.
    Sha384,
    /// Allowed.
    Sha512,
}

impl HashFunction {
    /// The name in SDP and Jingle.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha-1",
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    /// Length of the digest in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Parses the name, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|h| h.as_str().eq_ignore_ascii_case(text))
    }
}

/// Who opens the DTLS handshake (RFC 5763 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsSetup {
    /// Either; only in offers.
    ActPass,
    /// The client.
    Active,
    /// The server.
    Passive,
}

impl DtlsSetup {
    /// The name in SDP and Jingle.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ActPass => "actpass",
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }

    /// Parses the name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::ActPass, Self::Active, Self::Passive].into_iter().find(|setup| setup.as_str() == text)
    }
}

/// The digest of a certificate (RFC 8122).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// How it was made.
    pub hash: HashFunction,
    /// `hash.digest_len()` bytes.
    pub digest: Vec<u8>,
    /// Who opens the handshake.
    pub setup: DtlsSetup,
}

impl Fingerprint {
    /// Parses `AB:CD:…` (either case).
    ///
    /// Returns `None` when the text is not exactly as long as the hash demands.
    pub fn parse(hash: HashFunction, setup: DtlsSetup, text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() != hash.digest_len() * 3 - 1 {
            return None;
        }
        let hex = |pair: &str| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
        let byte = |pair: &str| hex(pair).then(|| u8::from_str_radix(pair, 16).ok()).flatten();
        let digest = text.split(':').map(byte).collect::<Option<Vec<u8>>>()?;
        (digest.len() == hash.digest_len()).then_some(Self { hash, digest, setup })
    }

    /// Upper-case hexadecimal pairs, joined by colons.
    pub fn to_hex(&self) -> String {
        let pairs: Vec<String> = self.digest.iter().map(|byte| format!("{byte:02X}")).collect();
        pairs.join(":")
    }
}

/// Where a candidate comes from (RFC 8445 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateKind {
    /// An address of an interface.
    Host,
    /// The public side of a NAT, with the private address behind it.
    ServerReflexive {
        /// The private address.
        related: IpAddr,
        /// The private port.
        related_port: u16,
    },
}

/// UDP, or TCP on which the bridge listens (RFC 6544).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportProtocol {
    /// Datagrams.
    Udp,
    /// `tcptype='passive'`.
    TcpPassive,
}

/// One address at which a bridge can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Groups candidates of one base (RFC 8445 §5.1.1.3).
    pub foundation: String,
    /// RFC 8445 §5.1.2.
    pub priority: u32,
    /// UDP or TCP.
    pub protocol: TransportProtocol,
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// Host or reflexive.
    pub kind: CandidateKind,
}

/// Where and with which secret an endpoint opens its bridge channel. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ChannelAddress {
    /// Names the bridge in the URL; letters, digits, `_`, `-`.
    pub bridge: String,
    /// The conference.
    pub conference: ConferenceId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// At least 128 bits, URL-safe.
    pub password: String,
}

impl ChannelAddress {
    /// Path and query below the server's origin: `/colibri-ws/<bridge>/<conference>/<endpoint>?pwd=<password>`.
    pub fn path_and_query(&self) -> String {
        format!("/colibri-ws/{}/{}/{}?pwd={}", self.bridge, self.conference, self.endpoint, self.password)
    }
}

impl fmt::Debug for ChannelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelAddress(/colibri-ws/{}/{}/{})", self.bridge, self.conference, self.endpoint)
    }
}

/// Which ways to a bridge channel an offer names. A bridge takes whatever is opened; the last one opened is the one it answers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelKinds {
    /// A WebSocket: opens at once and comes back by itself after a bad moment.
    #[default]
    WebSocket,
    /// A data channel inside the media transport; clients that cannot do that are offered a WebSocket.
    DataChannel,
    /// Both; Jitsi's clients then go by their own configuration (`bridgeChannel.preferSctp`).
    Both,
}

/// The bridge's side of one endpoint's transport, for the offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTransport {
    /// The bridge's ICE credentials for this endpoint.
    pub ice: IceCredentials,
    /// The bridge's certificate.
    pub fingerprint: Fingerprint,
    /// Best first; TCP last, because some clients stop at the first they cannot use.
    pub candidates: Vec<Candidate>,
    /// Where the bridge channel is, if it is a WebSocket.
    pub channel: ChannelAddress,
    /// What the offer says of channels.
    pub channels: ChannelKinds,
}

/// The client's side, from its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteTransport {
    /// The client's ICE credentials.
    pub ice: IceCredentials,
    /// The client's certificate; missing in some later `transport-info`.
    pub fingerprint: Option<Fingerprint>,
    /// Echo of the restart this answers; `None` in a first answer.
    pub ice_generation: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_strictly_and_written_in_upper_case() {
        let text = vec!["ab"; 32].join(":");
        let print = Fingerprint::parse(HashFunction::Sha256, DtlsSetup::Active, &text).unwrap();
        assert_eq!(print.to_hex(), text.to_uppercase());
        let (short, signed) = (vec!["ab"; 31].join(":"), vec!["+b"; 32].join(":"));
        assert!(Fingerprint::parse(HashFunction::Sha256, DtlsSetup::Active, &short).is_none());
        assert!(Fingerprint::parse(HashFunction::Sha1, DtlsSetup::Active, &text).is_none());
        assert!(Fingerprint::parse(HashFunction::Sha256, DtlsSetup::Active, &signed).is_none());
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let ice = IceCredentials { ufrag: "abcd".into(), pwd: "verysecretverysecret22".into() };
        assert!(!format!("{ice:?}").contains("verysecret"));
    }
}
