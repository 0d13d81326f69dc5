//! One endpoint's transport: ICE, DTLS, SRTP and the data channel. Sans-IO; only this module and its children name `is`, `dimpl`
//! and `sctp-proto`.
//!
//! Every entry point takes the time and a `wire` that sends a datagram, and leaves [`Transport::next_timeout`] up to date.

mod channel;
mod dcep;
mod ice;
mod responder;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use dimpl::{Dtls, Output, SrtpProfile};
use is::Protocol;
use tertulia_model::{DtlsSetup, Fingerprint, HashFunction, IceCredentials};

use crate::identity::Identity;
pub use crate::srtp::Profile;
use crate::srtp::{Inbound, OpenError, Outbound, STREAMS_OF_ONE, STREAMS_OF_ROOM};
use ice::Ice;

pub use channel::{DataChannel, Heard};
pub use dcep::Dcep;
pub use ice::{ADDRESSES_MAX, QUIET, is_stream, stream_local, username_of};
pub use responder::Responder;

/// Handshake datagrams that wait for a nominated address; a flight has at most four.
const HELD_MAX: usize = 8;

/// Which side this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Controlling ICE agent, DTLS server: the bridge.
    Bridge,
    /// Controlled ICE agent, DTLS client: a participant.
    Client,
}

/// What a transport tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An authenticated check came from this address: packets from it are this transport's.
    Address(SocketAddr),
    /// Packets from this address are not this transport's any more: the peer has left it.
    AddressLeft(SocketAddr),
    /// An authenticated check came on the connection from this address.
    Stream(SocketAddr),
    /// Keys are up.
    Connected(Profile),
    /// The data channel opened, or lost texts while it was full and has room again: the peer is to be told the state of things.
    ChannelOpen,
    /// A text came on the data channel.
    ChannelText(String),
    /// The peer wanted a second data channel and did not get it.
    ChannelRefused,
    /// The data channel closed; media goes on.
    ChannelClosed,
    /// It will never work, or is over.
    Ended(End),
}

/// Why a transport ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer's certificate is not the signalled one.
    WrongCertificate,
    /// No common SRTP profile.
    NoProfile,
    /// The handshake failed or took too long.
    Handshake,
    /// The peer closed.
    Closed,
}

/// Where datagrams go: from a local address, to a remote one.
pub trait Wire {
    /// Sends one datagram.
    fn datagram(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]);
}

/// One side of a connection.
pub struct Transport {
    role: Role,
    ice: Ice,
    /// Half of what a transport takes, and hardly used once there are keys.
    dtls: Box<Dtls>,
    dtls_at: Option<Instant>,
    started: bool,
    expected: Option<Fingerprint>,
    /// Digest input that came before the expectation: the peer's certificate.
    presented: Option<Vec<u8>>,
    verified: bool,
    keys: Option<(Vec<u8>, SrtpProfile)>,
    /// DTLS is up, whatever came of it.
    is_shaken: bool,
    srtp: Option<(Inbound, Outbound)>,
    held: Vec<Vec<u8>>,
    /// Made when the peer asks for it: most have their channel elsewhere.
    channel: Option<Box<DataChannel>>,
    wants_channel: bool,
    ended: bool,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("role", &self.role)
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// A transport on these local addresses; [`stream_local`] makes one for connections.
    pub fn new(
        now: Instant,
        role: Role,
        identity: &Identity,
        credentials: IceCredentials,
        locals: &[SocketAddr],
    ) -> Self {
        let mut dtls = Box::new(Dtls::new_12(identity.config.clone(), identity.certificate.clone(), now));
        if role == Role::Client {
            dtls.set_active(true);
        }
        Self {
            role,
            ice: Ice::new(now, role == Role::Bridge, credentials, locals),
            dtls,
            dtls_at: None,
            started: false,
            expected: None,
            presented: None,
            verified: false,
            keys: None,
            is_shaken: false,
            srtp: None,
            held: Vec::new(),
            channel: None,
            wants_channel: false,
            ended: false,
        }
    }

    /// Whether media can flow.
    pub fn is_connected(&self) -> bool {
        self.srtp.is_some() && self.ice.route().is_some() && !self.ended
    }

    #[cfg(test)]
    pub(crate) fn check_every(&mut self, interval: Duration) {
        self.ice.check_every(interval);
    }

    /// When something authentic last came, on any address, a responder's that is out aside.
    pub fn last_heard(&self) -> Option<Instant> {
        self.ice.last_heard()
    }

    /// The peer's side, from signalling. `generation` says that these credentials answer an ICE restart.
    pub fn set_remote(
        &mut self,
        now: Instant,
        credentials: &IceCredentials,
        fingerprint: Option<Fingerprint>,
        generation: Option<u32>,
        wire: &mut impl Wire,
        events: &mut Vec<Event>,
    ) {
        if let Some(fingerprint) = fingerprint {
            self.expected.get_or_insert(fingerprint);
        }
        self.ice.set_remote(now, credentials, generation, wire);
        self.settle(now, wire, events);
        self.check_certificate(events);
    }

    /// An address of the peer, from signalling. Only clients are told any.
    pub fn add_remote_address(
        &mut self,
        now: Instant,
        address: SocketAddr,
        wire: &mut impl Wire,
        events: &mut Vec<Event>,
    ) {
        self.ice.add_remote_address(now, address, wire);
        self.settle(now, wire, events);
    }

    /// Starts an ICE restart beside the running connection; returns its generation.
    pub fn restart_ice(&mut self, now: Instant, credentials: IceCredentials) -> u32 {
        self.ice.restart(now, credentials)
    }

    /// A STUN datagram.
    pub fn handle_stun(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
        wire: &mut impl Wire,
        events: &mut Vec<Event>,
    ) {
        self.ice.handle(now, local, remote, bytes, wire);
        self.settle(now, wire, events);
    }

    /// What answers checks that change nothing from now on, if there may be such. Its holder tries it first, and gives it back before it asks
    /// the transport for anything but packets to be opened and sealed: at the latest when it has heard nothing for [`QUIET`].
    pub fn lend(&mut self) -> Option<Responder> {
        self.ice.lend()
    }

    /// Takes back what [`Transport::lend`] gave out.
    pub fn take_back(&mut self, responder: &Responder) {
        self.ice.take_back(responder);
    }

    /// A connection of this transport is over.
    pub fn forget_stream(&mut self, now: Instant, remote: SocketAddr, wire: &mut impl Wire, events: &mut Vec<Event>) {
        self.ice.forget_stream(now, remote, wire);
        self.settle(now, wire, events);
    }

    /// A DTLS datagram from an address of this transport.
    pub fn handle_dtls(&mut self, now: Instant, bytes: &[u8], wire: &mut impl Wire, events: &mut Vec<Event>) {
        if self.ended {
            return;
        }
        // The first call sets the clock.
        let failed = self.dtls.handle_timeout(now).is_err() || self.dtls.handle_packet(bytes).is_err();
        self.drain_dtls(now, failed, wire, events);
    }

    /// Opens a data channel as soon as there are keys, as clients do.
    pub fn open_channel(&mut self, now: Instant, wire: &mut impl Wire, events: &mut Vec<Event>) {
        self.wants_channel = true;
        let failed = self.dtls.handle_timeout(now).is_err();
        self.drain_dtls(now, failed, wire, events);
    }

    /// Whether texts can be sent on a data channel.
    pub fn has_channel(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.is_open())
    }

    /// Queues a text for the data channel; it leaves with [`Transport::on_timeout`], which is due at once. `false` when it is dropped:
    /// no channel is open, it is full ([`Event::ChannelOpen`] says when it no longer is), or the text is longer than 256 KiB.
    pub fn send_text(&mut self, now: Instant, text: &str) -> bool {
        self.channel.as_mut().is_some_and(|channel| channel.send(now, text))
    }

    /// Opens an SRTP packet in place.
    ///
    /// # Errors
    /// When it is not to be used; before keys are up everything is forged.
    pub fn open_rtp(&mut self, now: Instant, remote: SocketAddr, bytes: &mut [u8]) -> Result<usize, OpenError> {
        let (inbound, _) = self.srtp.as_mut().ok_or(OpenError::Forged)?;
        let len = inbound.open_rtp(bytes)?;
        self.ice.heard(now, remote);
        Ok(len)
    }

    /// Opens an SRTCP packet in place.
    ///
    /// # Errors
    /// As [`Transport::open_rtp`].
    pub fn open_rtcp(&mut self, now: Instant, remote: SocketAddr, bytes: &mut [u8]) -> Result<usize, OpenError> {
        let (inbound, _) = self.srtp.as_mut().ok_or(OpenError::Forged)?;
        let len = inbound.open_rtcp(bytes)?;
        self.ice.heard(now, remote);
        Ok(len)
    }

    /// Seals an RTP packet in place; returns its length and where it goes. `None` while not connected, or when it cannot be sealed.
    pub fn seal_rtp(&mut self, buffer: &mut [u8], len: usize) -> Option<(usize, SocketAddr, SocketAddr)> {
        let (local, remote) = self.ice.route()?;
        let (_, outbound) = self.srtp.as_mut()?;
        Some((outbound.seal_rtp(buffer, len)?, local, remote))
    }

    /// Seals an RTCP compound in place; as [`Transport::seal_rtp`].
    pub fn seal_rtcp(&mut self, buffer: &mut [u8], len: usize) -> Option<(usize, SocketAddr, SocketAddr)> {
        let (local, remote) = self.ice.route()?;
        let (_, outbound) = self.srtp.as_mut()?;
        Some((outbound.seal_rtcp(buffer, len)?, local, remote))
    }

    /// Runs what is due.
    pub fn on_timeout(&mut self, now: Instant, wire: &mut impl Wire, events: &mut Vec<Event>) {
        self.ice.on_timeout(now, wire);
        self.settle(now, wire, events);
        if self.dtls_at.is_some_and(|at| now >= at) && !self.ended {
            let failed = self.dtls.handle_timeout(now).is_err();
            self.drain_dtls(now, failed, wire, events);
        }
        self.on_channel_timeout(now, wire, events);
    }

    /// When [`Transport::on_timeout`] next has work to do, while a responder is out beside what its holder knows.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        let channel_at = self.channel.as_ref().and_then(|channel| channel.next_timeout());
        let secure = self.dtls_at.into_iter().chain(channel_at).min().filter(|_| !self.ended);
        self.ice.next_timeout().into_iter().chain(secure).min()
    }

    fn on_channel_timeout(&mut self, now: Instant, wire: &mut impl Wire, events: &mut Vec<Event>) {
        let Some(channel) = self.channel.as_mut().filter(|_| !self.ended) else { return };
        if channel.next_timeout().is_none_or(|at| now < at) {
            return;
        }
        let mut heard = Vec::new();
        channel.on_timeout(now, &mut heard);
        events.extend(heard.into_iter().map(event_of));
        let failed = self.dtls.handle_timeout(now).is_err();
        self.drain_dtls(now, failed, wire, events);
    }

    /// ICE's events: addresses, and the first route, on which the handshake goes on or starts.
    fn settle(&mut self, now: Instant, wire: &mut impl Wire, events: &mut Vec<Event>) {
        let left = self.ice.take_left().filter(|known| known.protocol == Protocol::Udp);
        events.extend(left.map(|known| Event::AddressLeft(known.remote)));
        events.extend(self.ice.take_addresses().map(|known| match known.protocol {
            Protocol::Udp => Event::Address(known.remote),
            _ => Event::Stream(known.remote),
        }));
        let Some((local, remote)) = self.ice.route() else { return };
        for datagram in self.held.drain(..) {
            wire.datagram(local, remote, &datagram);
        }
        if self.role == Role::Client && !self.started {
            self.started = true;
            let failed = self.dtls.handle_timeout(now).is_err();
            self.drain_dtls(now, failed, wire, events);
        }
    }

    /// Sends what DTLS and SCTP have to send, and takes what they received.
    fn drain_dtls(&mut self, now: Instant, mut failed: bool, wire: &mut impl Wire, events: &mut Vec<Event>) {
        let mut closed = false;
        loop {
            self.poll_dtls(now, &mut failed, &mut closed, wire, events);
            if self.wants_channel && self.channel.is_none() && self.srtp.is_some() {
                self.wants_channel = false;
                self.channel = DataChannel::connect().map(Box::new);
            }
            // One record at a time: the queue of `dimpl` is short.
            let packet = self.channel.as_mut().and_then(|channel| channel.next_packet(now));
            let Some(packet) = packet.filter(|_| !failed && !closed) else { break };
            failed = self.dtls.send_application_data(&packet).is_err();
        }
        self.channel.take_if(|channel| channel.is_over());
        self.check_certificate(events);
        if closed {
            self.end(End::Closed, events);
        } else if failed {
            self.end(End::Handshake, events);
        } else if self.is_shaken && self.keys.is_none() && self.srtp.is_none() {
            // Keys come with the end of the handshake, or not at all.
            self.end(End::NoProfile, events);
        }
    }

    fn poll_dtls(
        &mut self,
        now: Instant,
        failed: &mut bool,
        closed: &mut bool,
        wire: &mut impl Wire,
        events: &mut Vec<Event>,
    ) {
        let mut buffer = [0u8; 2048];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(bytes) => match self.ice.route() {
                    Some((local, remote)) => wire.datagram(local, remote, bytes),
                    None if self.held.len() < HELD_MAX => self.held.push(bytes.to_vec()),
                    None => {}
                },
                // Far away once the handshake is over: not worth a timer.
                Output::Timeout(at) => {
                    self.dtls_at = Some(at).filter(|at| at.saturating_duration_since(now) < Duration::from_secs(3_600));
                    break;
                }
                Output::PeerCert(der) => self.presented = Some(der.to_vec()),
                Output::KeyingMaterial(material, profile) => {
                    self.keys = Some((material.to_vec(), profile));
                    self.check_certificate(events);
                }
                Output::Connected if self.keys.is_none() && self.presented.is_none() => *failed = true,
                Output::Connected => self.is_shaken = true,
                Output::ApplicationData(packet) => self.handle_channel(now, packet, events),
                Output::CloseNotify => *closed = true,
                Output::BufferTooSmall { .. } => {
                    *failed = true;
                    break;
                }
                _ => {}
            }
        }
    }

    /// SCTP comes in DTLS records. Until the certificate is verified they are a stranger's; SCTP repeats what it needs.
    fn handle_channel(&mut self, now: Instant, packet: &[u8], events: &mut Vec<Event>) {
        if self.srtp.is_none() || self.ended {
            return;
        }
        if self.channel.is_none() && DataChannel::is_asked_for(packet) {
            self.channel = Some(Box::new(DataChannel::accept()));
        }
        let Some(channel) = &mut self.channel else { return };
        let mut heard = Vec::new();
        channel.handle(now, packet, &mut heard);
        events.extend(heard.into_iter().map(event_of));
    }

    /// Installs keys once the certificate is known to be the signalled one, whichever comes last.
    fn check_certificate(&mut self, events: &mut Vec<Event>) {
        if self.ended || self.srtp.is_some() {
            return;
        }
        if let (Some(der), Some(expected)) = (&self.presented, &self.expected)
            && !self.verified
        {
            if !is_digest_of(expected, der) {
                self.end(End::WrongCertificate, events);
                return;
            }
            self.verified = true;
        }
        if !self.verified {
            return;
        }
        let Some((material, profile)) = self.keys.take() else { return };
        match contexts(self.role, &material, profile) {
            Some((profile, inbound, outbound)) => {
                self.srtp = Some((inbound, outbound));
                events.push(Event::Connected(profile));
            }
            None => self.end(End::NoProfile, events),
        }
    }

    fn end(&mut self, end: End, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.ended, true) {
            events.push(Event::Ended(end));
        }
    }
}

fn event_of(heard: Heard) -> Event {
    match heard {
        Heard::Open => Event::ChannelOpen,
        Heard::Text(text) => Event::ChannelText(text),
        Heard::Refused => Event::ChannelRefused,
        Heard::Closed => Event::ChannelClosed,
    }
}

/// Layout of the keying material: client key, server key, client salt, server salt (RFC 5764 §4.2).
fn contexts(role: Role, material: &[u8], profile: SrtpProfile) -> Option<(Profile, Inbound, Outbound)> {
    let profile = match profile {
        SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
        SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
        SrtpProfile::AES128_CM_SHA1_80 => Profile::AesCm128HmacSha1,
        _ => return None,
    };
    let (key, salt) = (profile.key_len(), profile.salt_len());
    let part = |at: usize, len: usize| material.get(at..at + len);
    let client = (part(0, key)?, part(2 * key, salt)?);
    let server = (part(key, key)?, part(2 * key + salt, salt)?);
    let (theirs, ours, streams_max) = match role {
        Role::Bridge => (client, server, STREAMS_OF_ONE),
        Role::Client => (server, client, STREAMS_OF_ROOM),
    };
    Some((profile, Inbound::new(profile, theirs.0, theirs.1, streams_max)?, Outbound::new(profile, ours.0, ours.1)?))
}

fn is_digest_of(expected: &Fingerprint, der: &[u8]) -> bool {
    let algorithm = match expected.hash {
        HashFunction::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        HashFunction::Sha256 => &digest::SHA256,
        HashFunction::Sha384 => &digest::SHA384,
        HashFunction::Sha512 => &digest::SHA512,
    };
    digest::digest(algorithm, der).as_ref() == expected.digest
}

/// The role a bridge offers: the client chooses, and browsers choose to open the handshake.
pub const OFFERED_SETUP: DtlsSetup = DtlsSetup::ActPass;

#[cfg(test)]
mod tests;
