//! A subscriber of other hands: str0m's ICE, DTLS, SRTP, NACK and feedback, so that generator and bridge are never
//! wrong in the same way.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use rustc_hash::FxHashMap;
use str0m::config::Fingerprint as StrFingerprint;
use str0m::format::{Codec, FormatParams};
use str0m::media::{Frequency, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, ExtensionMap, RtpPacket};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc};
use tertulia_model::{DtlsSetup, Fingerprint, HashFunction, IceCredentials};

use crate::client::{Around, Spec};
use crate::payload;
use crate::publisher::{OPUS, TRANSPORT_CC_ID, VP8, VP8_RTX};
use crate::sources::{Slot, owner, ssrc};
use crate::stream::{Arrived, Stream};

/// Ids of every offer (`tertulia_model::profile`).
const AUDIO_LEVEL_ID: u8 = 1;
const ABS_SEND_TIME_ID: u8 = 3;

/// What the shard needs to make one.
pub(crate) struct Ready {
    rtc: Rtc,
    /// Everybody it may hear of: number, camera, microphone.
    expected: Vec<(u32, bool, bool)>,
}

impl Ready {
    /// A client that is not told yet where anything is.
    pub(crate) fn new(now: Instant, expected: Vec<(u32, bool, bool)>) -> Self {
        let mut config = Rtc::builder().set_rtp_mode(true).clear_codecs();
        let (audio, video) = (Frequency::FORTY_EIGHT_KHZ, Frequency::NINETY_KHZ);
        let codecs = config.codec_config();
        let pt = Pt::new_with_value;
        codecs.add_config(pt(OPUS), None, Codec::Opus, audio, Some(2), FormatParams::default());
        codecs.add_config(pt(VP8), Some(pt(VP8_RTX)), Codec::Vp8, video, None, FormatParams::default());
        let mut extensions = ExtensionMap::empty();
        extensions.set(AUDIO_LEVEL_ID, Extension::AudioLevel);
        extensions.set(TRANSPORT_CC_ID, Extension::TransportSequenceNumber);
        extensions.set(ABS_SEND_TIME_ID, Extension::AbsoluteSendTime);
        Self { rtc: config.set_extension_map(extensions).build(now), expected }
    }

    /// Its side of the transport; `None` when its certificate has another digest than SHA-256.
    pub(crate) fn transport(&mut self) -> Option<(IceCredentials, Fingerprint)> {
        let direct = self.rtc.direct_api();
        let credentials = direct.local_ice_credentials();
        let print = direct.local_dtls_fingerprint();
        let hash = HashFunction::parse(&print.hash_func).filter(|hash| *hash == HashFunction::Sha256)?;
        let fingerprint = Fingerprint { hash, digest: print.bytes.clone(), setup: DtlsSetup::Active };
        Some((IceCredentials { ufrag: credentials.ufrag, pwd: credentials.pass }, fingerprint))
    }
}

/// One such client.
pub(crate) struct Cross {
    rtc: Rtc,
    address: SocketAddr,
    bridge: SocketAddr,
    next: Option<Instant>,
    connected_at: Option<Instant>,
    streams: FxHashMap<u32, Stream>,
}

impl Cross {
    /// A client that starts to connect.
    pub(crate) fn new(around: &mut Around<'_>, spec: &Spec, ready: Ready, address: SocketAddr) -> Self {
        let Ready { rtc, expected } = ready;
        let bridge = spec.bridge;
        let mut cross = Self { rtc, address, bridge, next: None, connected_at: None, streams: FxHashMap::default() };
        if cross.prepare(spec, &expected).is_none() {
            around.tally.violation("str0m refuses the transport");
        }
        cross.next = Some(around.now);
        cross
    }

    fn prepare(&mut self, spec: &Spec, expected: &[(u32, bool, bool)]) -> Option<()> {
        self.rtc.add_local_candidate(Candidate::host(self.address, "udp").ok()?)?;
        self.rtc.add_remote_candidate(Candidate::host(self.bridge, "udp").ok()?);
        let (credentials, print) = spec.remote.clone();
        let mut direct = self.rtc.direct_api();
        direct.set_ice_controlling(false);
        direct.set_remote_ice_credentials(IceCreds { ufrag: credentials.ufrag, pass: credentials.pwd });
        let hash_func = print.hash.as_str().to_owned();
        direct.set_remote_fingerprint(StrFingerprint { hash_func, bytes: print.digest });
        for (place, (person, camera, voice)) in expected.iter().enumerate() {
            if *camera {
                let mid = Mid::from(format!("v{place}").as_str());
                direct.declare_media(mid, MediaKind::Video);
                // Whatever encoding it forwards, the bridge sends it under the SSRC of the lowest.
                let (own, rtx) = (ssrc(*person, Slot::Video(0)), ssrc(*person, Slot::Rtx(0)));
                direct.expect_stream_rx(own.into(), Some(rtx.into()), mid, None);
            }
            if *voice {
                let mid = Mid::from(format!("a{place}").as_str());
                direct.declare_media(mid, MediaKind::Audio);
                direct.expect_stream_rx(ssrc(*person, Slot::Audio).into(), None, mid, None);
            }
        }
        direct.start_dtls(true).ok()
    }

    /// When media could flow for the first time.
    pub(crate) fn connected_at(&self) -> Option<Instant> {
        self.connected_at
    }

    /// When [`Cross::on_timeout`] next has work to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The publishers paused.
    pub(crate) fn forget_time(&mut self) {
        self.streams.values_mut().for_each(Stream::forget_time);
    }

    /// Takes a datagram.
    pub(crate) fn handle(&mut self, around: &mut Around<'_>, bytes: &[u8]) {
        if let Ok(receive) = Receive::new(Protocol::Udp, self.bridge, self.address, bytes)
            && self.rtc.handle_input(Input::Receive(around.now, receive)).is_err()
        {
            around.tally.violation("str0m refuses a datagram");
        }
        self.drain(around);
    }

    /// Runs what is due.
    pub(crate) fn on_timeout(&mut self, around: &mut Around<'_>) {
        if self.rtc.handle_input(Input::Timeout(around.now)).is_err() {
            around.tally.violation("str0m gives up");
        }
        self.drain(around);
    }

    /// Polls until only a deadline is left.
    fn drain(&mut self, around: &mut Around<'_>) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.next = Some(at.max(around.now + std::time::Duration::from_micros(100)));
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    let SocketAddr::V4(own) = self.address else { return };
                    send(around, *own.ip(), transmit.destination, &transmit.contents);
                }
                Ok(Output::Event(Event::Connected)) => self.connected_at = Some(around.now),
                Ok(Output::Event(Event::RtpPacket(packet))) => self.check(around, &packet),
                Ok(Output::Event(_)) => {}
                Err(_) => {
                    around.tally.violation("str0m fails");
                    self.next = None;
                    return;
                }
            }
        }
    }

    fn check(&mut self, around: &mut Around<'_>, packet: &RtpPacket) {
        let Some((person, slot)) = owner(*packet.header.ssrc) else {
            return around.tally.violation("str0m got a packet under an SSRC that nobody has");
        };
        if packet.payload.is_empty() {
            around.tally.probes += 1;
            return;
        }
        let read = if slot == Slot::Audio { payload::read_audio } else { payload::read_video };
        let Some((stamp, sent_ns)) = read(&packet.payload) else {
            return around.tally.violation("str0m got a damaged payload");
        };
        around.tally.verified += 1;
        let sequence = (*packet.seq_no & 0xffff) as u16;
        let now_ns = around.ns();
        let arrived = Arrived { now: around.now, now_ns, sent_ns, sequence, stamp, again: false };
        self.streams
            .entry(*packet.header.ssrc)
            .or_insert_with(|| Stream::new(person, true))
            .handle(arrived, around.tally);
    }
}

fn send(around: &mut Around<'_>, from: Ipv4Addr, to: SocketAddr, bytes: &[u8]) {
    around.net.push(from, |slot| {
        slot.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some((bytes.len(), to))
    });
}
