//! The media of one participant: str0m's transport and RTP, cameras and a voice going out, receivers judging what comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use str0m::channel::{ChannelConfig, ChannelId};
use str0m::config::Fingerprint as StrFingerprint;
use str0m::format::{Codec as StrCodec, FormatParams};
use str0m::media::{Frequency, KeyframeRequestKind, MediaKind as StrKind, Mid, Pt, Rid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension as StrExtension, ExtensionMap, ExtensionSerializer, ExtensionValues, RtpPacket, RtpWrite};
use str0m::{Candidate, Event, IceConnectionState, IceCreds, Input, Output, Rtc};
use tertulia_model::profile::{self, Codec, Extension, HEADER_EXTENSIONS, PAYLOAD_TYPES};
use tertulia_model::{
    DtlsSetup, EndpointId, Fingerprint, HashFunction, IceCredentials, MediaKind, SourceName, SourceSet, Ssrc,
};
use tertulia_xmpp::jingle::offer::ReceivedOffer;
use tertulia_xmpp::sources::Owner;

use crate::camera::Camera;
use crate::clock::Clock;
use crate::receiver::{AudioReceiver, AudioReport, VideoArrival, VideoReceiver, VideoReport};
use crate::voice::Voice;

/// What the media tells its participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MediaEvent {
    /// Media flows.
    Connected,
    /// The data channel is open.
    ChannelOpen,
    /// A text came on it.
    ChannelText(String),
    /// Nothing is heard of the bridge any more.
    Lost,
}

/// One session with a bridge.
pub(crate) struct Media {
    rtc: Rtc,
    local: SocketAddr,
    begun: Instant,
    clock: Clock,
    next: Option<Instant>,
    connected: bool,
    /// The bridge channel, if it is a data channel and open.
    channel: Option<ChannelId>,
    remotes: BTreeMap<u32, Remote>,
    next_mid: u32,
    /// Of sources that are gone.
    old_violations: Vec<String>,
    /// Sources that an SSRC carried before another one: how they fared is gone on with when they come back.
    shelved: BTreeMap<SourceName, VideoReport>,
    /// SSRCs that packets came under, retransmissions left aside.
    ssrcs: BTreeSet<(MediaKind, u32)>,
}

/// What we send, over all sessions.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) voice: Option<Voice>,
    pub(crate) cameras: Vec<Camera>,
}

enum Receiver {
    Video(Box<VideoReceiver>),
    Audio(Box<AudioReceiver>),
}

impl Receiver {
    fn violations(&self) -> Vec<String> {
        let (source, violations) = match self {
            Self::Video(video) => (&video.report.source, &video.report.violations),
            Self::Audio(audio) => (&audio.report.source, &audio.report.violations),
        };
        violations.iter().map(|text| format!("{source}: {text}")).collect()
    }
}

struct Remote {
    mid: Mid,
    receiver: Receiver,
    /// `false` for an SSRC whose source has another one meanwhile.
    is_used: bool,
}

/// A datagram to send.
pub(crate) struct Datagram {
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Media {
    /// Takes an offer, as the controlled side and as the DTLS client. `None` when str0m refuses something in it.
    pub(crate) fn new(now: Instant, local: SocketAddr, clock: Clock, offer: &ReceivedOffer) -> Option<Self> {
        let mut config = Rtc::builder().set_rtp_mode(true).clear_codecs();
        for row in PAYLOAD_TYPES {
            let Some(codec) = str0m_codec(row.codec) else { continue };
            let rate = if row.kind == MediaKind::Audio { Frequency::FORTY_EIGHT_KHZ } else { Frequency::NINETY_KHZ };
            let channels = (row.channels > 1).then_some(row.channels);
            let rtx = row.rtx.map(Pt::new_with_value);
            let format = FormatParams::default();
            config.codec_config().add_config(Pt::new_with_value(row.number), rtx, codec, rate, channels, format);
        }
        let mut extensions = ExtensionMap::empty();
        for row in HEADER_EXTENSIONS {
            // MID is left out: several sources share a number line in nobody's head here, SSRCs are signalled.
            match row.extension {
                Extension::AudioLevel => extensions.set(row.id, StrExtension::AudioLevel),
                Extension::TransportCc => extensions.set(row.id, StrExtension::TransportSequenceNumber),
                Extension::AbsSendTime => extensions.set(row.id, StrExtension::AbsoluteSendTime),
                Extension::DependencyDescriptor => {
                    extensions.set(row.id, StrExtension::with_serializer(row.uri, DescriptorBytes::default()));
                }
                Extension::Mid => {}
            }
        }
        let mut rtc = config.set_extension_map(extensions).build(now);
        rtc.add_local_candidate(Candidate::host(local, "udp").ok()?)?;
        {
            let mut direct = rtc.direct_api();
            direct.set_ice_controlling(false);
            direct.enable_twcc_feedback(); // as browsers do where it is negotiated
            let (ufrag, pass) = (offer.ice.ufrag.clone(), offer.ice.pwd.clone());
            direct.set_remote_ice_credentials(IceCreds { ufrag, pass });
            let (hash_func, bytes) = (offer.fingerprint.hash.as_str().to_owned(), offer.fingerprint.digest.clone());
            direct.set_remote_fingerprint(StrFingerprint { hash_func, bytes });
        }
        for (ip, port) in offer.candidates.iter().filter(|(ip, _)| is_reachable(local, *ip)) {
            if let Ok(candidate) = Candidate::host(SocketAddr::new(*ip, *port), "udp") {
                rtc.add_remote_candidate(candidate);
            }
        }
        rtc.direct_api().start_dtls(true).ok()?;
        if offer.data_channel {
            let (label, protocol) = ("JVB data channel".into(), "http://jitsi.org/protocols/colibri".into());
            let mut direct = rtc.direct_api();
            direct.start_sctp(true);
            direct.create_data_channel(ChannelConfig { label, protocol, ..ChannelConfig::default() });
        }
        Some(Self {
            rtc,
            local,
            begun: now,
            clock,
            next: Some(now),
            connected: false,
            channel: None,
            remotes: BTreeMap::new(),
            next_mid: 0,
            old_violations: Vec::new(),
            shelved: BTreeMap::new(),
            ssrcs: BTreeSet::new(),
        })
    }

    /// Whether media flows.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Says something on the data channel; `false` when none is open, or it does not keep up.
    pub(crate) fn say(&mut self, text: &str) -> bool {
        // Sent by the next turn, which is made due.
        self.next = Some(self.begun);
        let channel = self.channel.and_then(|id| self.rtc.channel(id));
        channel.is_some_and(|mut channel| channel.write(false, text.as_bytes()).unwrap_or(false))
    }

    /// Our side of the transport, for the answer.
    pub(crate) fn transport(&mut self) -> Option<(IceCredentials, Fingerprint)> {
        let direct = self.rtc.direct_api();
        let creds = direct.local_ice_credentials();
        let ours = direct.local_dtls_fingerprint();
        let hash = HashFunction::parse(&ours.hash_func)?;
        let fingerprint = Fingerprint { hash, digest: ours.bytes.clone(), setup: DtlsSetup::Active };
        Some((IceCredentials { ufrag: creds.ufrag, pwd: creds.pass }, fingerprint))
    }

    /// Makes streams for what we send; those that are there stay.
    pub(crate) fn declare(&mut self, devices: &Devices) {
        let mut direct = self.rtc.direct_api();
        if let Some(voice) = &devices.voice
            && direct.stream_tx(&voice.ssrc.0.into()).is_none()
        {
            let mid = own_mid(&voice.name);
            direct.declare_media(mid, StrKind::Audio);
            direct.declare_stream_tx(voice.ssrc.0.into(), None, mid, None);
        }
        for camera in &devices.cameras {
            let mid = own_mid(&camera.name);
            if direct.stream_tx_by_mid(mid, Some(encoding_rid(0))).is_some() {
                continue;
            }
            direct.declare_media(mid, StrKind::Video);
            for (index, encoding) in camera.encodings.iter().enumerate() {
                let rid = Some(encoding_rid(index));
                direct.declare_stream_tx(encoding.ssrc.0.into(), Some(encoding.rtx.0.into()), mid, rid);
            }
        }
    }

    /// Takes away the streams of a source.
    pub(crate) fn undeclare(&mut self, name: &SourceName) {
        self.rtc.direct_api().remove_media(own_mid(name));
    }

    /// Other people's sources that will come.
    pub(crate) fn expect(&mut self, all: &[(Owner, SourceSet)]) {
        for (owner, set) in all {
            let Owner::Endpoint(owner) = owner else { continue };
            let is_rtx = |ssrc: Ssrc| set.groups.iter().any(|group| group.ssrcs.get(1) == Some(&ssrc));
            for source in set.sources.iter().filter(|source| !is_rtx(source.ssrc)) {
                self.expect_one(owner, source, set.rtx_of(source.ssrc));
            }
        }
    }

    fn expect_one(&mut self, owner: &EndpointId, source: &tertulia_model::Source, rtx: Option<Ssrc>) {
        if self.remotes.contains_key(&source.ssrc.0) {
            return;
        }
        let receiver = match source.kind {
            MediaKind::Audio => Receiver::Audio(Box::new(AudioReceiver::new(source.name.clone(), owner.clone()))),
            MediaKind::Video => Receiver::Video(Box::new(VideoReceiver::new(source.name.clone(), owner.clone()))),
        };
        self.listen(source.ssrc.0, rtx.map(|rtx| rtx.0), receiver);
    }

    fn listen(&mut self, ssrc: u32, rtx: Option<u32>, receiver: Receiver) {
        self.next_mid += 1;
        let mid = Mid::from(format!("r{}", self.next_mid).as_str());
        let kind = match receiver {
            Receiver::Audio(_) => StrKind::Audio,
            Receiver::Video(_) => StrKind::Video,
        };
        let mut direct = self.rtc.direct_api();
        direct.declare_media(mid, kind);
        direct.expect_stream_rx(ssrc.into(), rtx.map(Into::into), mid, None);
        self.remotes.insert(ssrc, Remote { mid, receiver, is_used: true });
    }

    /// An SSRC carries this source from now on, with its retransmissions; one with which the bridge started may carry others before.
    pub(crate) fn carry(
        &mut self,
        now: Instant,
        kind: MediaKind,
        (ssrc, rtx): (u32, Option<u32>),
        name: &SourceName,
        owner: &EndpointId,
    ) {
        for (_, other) in self.remotes.iter_mut().filter(|(other, _)| **other != ssrc) {
            match &mut other.receiver {
                Receiver::Video(video) if other.is_used && video.report.source == *name => {
                    other.is_used = false;
                    self.shelved.insert(name.clone(), video.report.clone());
                }
                Receiver::Audio(audio) if audio.report.source == *name => other.is_used = false,
                Receiver::Video(_) | Receiver::Audio(_) => {}
            }
        }
        let report = self.shelved.remove(name).unwrap_or_else(|| VideoReport::new(name.clone(), owner.clone()));
        match (self.remotes.get_mut(&ssrc), kind) {
            (None, MediaKind::Video) => {
                self.listen(ssrc, rtx, Receiver::Video(Box::new(VideoReceiver::changing(report))));
            }
            (None, MediaKind::Audio) => {
                let receiver = AudioReceiver::changing(name.clone(), owner.clone());
                self.listen(ssrc, None, Receiver::Audio(Box::new(receiver)));
            }
            (Some(Remote { receiver: Receiver::Video(video), is_used, .. }), MediaKind::Video) => {
                if video.report.source == *name {
                    *is_used = true;
                    return;
                }
                let before = video.change_source(now, report);
                if std::mem::replace(is_used, true) {
                    self.shelved.insert(before.source.clone(), before);
                }
            }
            (Some(Remote { receiver: Receiver::Audio(audio), is_used, .. }), MediaKind::Audio) => {
                *is_used = true;
                if audio.report.source != *name {
                    let before = audio.change_source(name.clone(), owner.clone());
                    self.old_violations.extend(before.violations);
                }
            }
            (Some(_), _) => self.old_violations.push(format!("SSRC {ssrc} is for sound and for pictures")),
        }
    }

    /// Under how many different SSRCs packets of a kind came.
    pub(crate) fn ssrc_count(&self, kind: MediaKind) -> usize {
        self.ssrcs.iter().filter(|(of, _)| *of == kind).count()
    }

    /// Other people's sources that will not come any more.
    pub(crate) fn forget(&mut self, all: &[(Owner, SourceSet)]) {
        for source in all.iter().flat_map(|(_, set)| &set.sources) {
            if let Some(remote) = self.remotes.remove(&source.ssrc.0) {
                self.old_violations.extend(remote.receiver.violations());
                self.rtc.direct_api().remove_media(remote.mid);
            }
        }
    }

    /// Takes a datagram.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
        devices: &mut Devices,
        out: &mut Vec<Datagram>,
        events: &mut Vec<MediaEvent>,
    ) {
        self.ssrcs.extend(media_ssrc(bytes));
        // What is no packet of any protocol is dropped here, as a socket of a browser does.
        if let Ok(receive) = Receive::new(Protocol::Udp, from, self.local, bytes) {
            let _ = self.rtc.handle_input(Input::Receive(now, receive));
        }
        self.drain(now, devices, out, events);
    }

    /// Runs what is due: transport, cameras, voice, requests for key frames.
    pub(crate) fn on_timeout(
        &mut self,
        now: Instant,
        devices: &mut Devices,
        out: &mut Vec<Datagram>,
        events: &mut Vec<MediaEvent>,
    ) {
        if self.next.is_some_and(|at| at <= now) {
            let _ = self.rtc.handle_input(Input::Timeout(now));
        }
        if self.connected {
            self.send(now, devices, out, events);
        }
        for (ssrc, remote) in &mut self.remotes {
            if let Receiver::Video(video) = &mut remote.receiver
                && video.on_timeout(now)
                && let Some(stream) = self.rtc.direct_api().stream_rx(&(*ssrc).into())
            {
                stream.request_keyframe(KeyframeRequestKind::Pli);
            }
        }
        self.drain(now, devices, out, events);
    }

    /// When [`Media::on_timeout`] next has work to do.
    pub(crate) fn next_timeout(&self, devices: &Devices) -> Option<Instant> {
        let video = self.remotes.values().filter_map(|remote| match &remote.receiver {
            Receiver::Video(video) => video.next_timeout(),
            Receiver::Audio(_) => None,
        });
        let sending = devices.voice.iter().filter_map(Voice::next_timeout);
        let sending = sending.chain(devices.cameras.iter().filter_map(Camera::next_timeout));
        let sending = sending.filter(|_| self.connected);
        self.next.into_iter().chain(video).chain(sending).min()
    }

    pub(crate) fn video_reports(&self) -> impl Iterator<Item = &VideoReport> {
        let present = self.remotes.values().filter(|remote| remote.is_used);
        let present = present.filter_map(|remote| match &remote.receiver {
            Receiver::Video(video) => Some(&video.report),
            Receiver::Audio(_) => None,
        });
        present.chain(self.shelved.values())
    }

    pub(crate) fn audio_reports(&self) -> impl Iterator<Item = &AudioReport> {
        let present = self.remotes.values().filter(|remote| remote.is_used);
        present.filter_map(|remote| match &remote.receiver {
            Receiver::Audio(audio) => Some(&audio.report),
            Receiver::Video(_) => None,
        })
    }

    /// Everything that no loss excuses, of present and past sources.
    pub(crate) fn violations(&self) -> Vec<String> {
        let present = self.remotes.values().flat_map(|remote| remote.receiver.violations());
        let shelved = self.shelved.values();
        let shelved = shelved.flat_map(|video| video.violations.iter().map(|text| format!("{}: {text}", video.source)));
        self.old_violations.iter().cloned().chain(present).chain(shelved).collect()
    }

    fn send(&mut self, now: Instant, devices: &mut Devices, out: &mut Vec<Datagram>, events: &mut Vec<MediaEvent>) {
        let opus = Pt::new_with_value(payload_number(Codec::Opus));
        let clock = self.clock;
        let mut writes = Vec::new();
        if let Some(voice) = &mut devices.voice {
            voice.on_timeout(now, clock, |packet| {
                let values = ExtensionValues {
                    audio_level: Some(packet.level),
                    voice_activity: Some(packet.level > -100),
                    ..ExtensionValues::default()
                };
                let write = RtpWrite::new(opus, packet.sequence.into(), packet.timestamp, now, packet.payload)
                    .marker(packet.marker)
                    .ext_vals(values);
                writes.push((packet.ssrc, write));
            });
        }
        for camera in &mut devices.cameras {
            let payload_type = Pt::new_with_value(payload_number(camera.coding.codec()));
            camera.on_timeout(now, clock, |packet| {
                let mut values = ExtensionValues::default();
                if let Some(descriptor) = packet.descriptor {
                    values.user_values.set(DescriptorBytes(descriptor));
                }
                let write = RtpWrite::new(payload_type, packet.sequence.into(), packet.timestamp, now, packet.payload)
                    .marker(packet.marker)
                    .ext_vals(values)
                    .nackable(true);
                writes.push((packet.ssrc, write));
            });
        }
        for (ssrc, write) in writes {
            if let Some(stream) = self.rtc.direct_api().stream_tx(&ssrc.0.into()) {
                stream.write_rtp(write);
            }
            // One packet a turn: str0m queues per stream and wants to be polled after each.
            self.drain(now, devices, out, events);
        }
    }

    /// Polls until only a deadline is left. A transport that failed says no more.
    fn drain(&mut self, now: Instant, devices: &mut Devices, out: &mut Vec<Datagram>, events: &mut Vec<MediaEvent>) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    if at <= now {
                        let _ = self.rtc.handle_input(Input::Timeout(now));
                        continue;
                    }
                    self.next = Some(at);
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    out.push(Datagram { to: transmit.destination, bytes: transmit.contents.to_vec() });
                }
                Ok(Output::Event(event)) => self.handle_event(now, event, devices, events),
                Err(_) => {
                    self.next = None;
                    events.push(MediaEvent::Lost);
                    return;
                }
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: Event, devices: &mut Devices, events: &mut Vec<MediaEvent>) {
        match event {
            Event::Connected => {
                self.connected = true;
                events.push(MediaEvent::Connected);
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => events.push(MediaEvent::Lost),
            Event::RtpPacket(packet) => self.receive(now, &packet),
            Event::ChannelOpen(id, _) => {
                self.channel = Some(id);
                events.push(MediaEvent::ChannelOpen);
            }
            Event::ChannelData(data) => {
                events.extend(String::from_utf8(data.data).ok().map(MediaEvent::ChannelText));
            }
            Event::KeyframeRequest(request) => {
                let encoding = request.rid.and_then(|rid| rid.parse::<usize>().ok()).unwrap_or(0);
                let camera = devices.cameras.iter_mut().find(|camera| own_mid(&camera.name) == request.mid);
                if let Some(camera) = camera {
                    camera.request_key(encoding);
                }
            }
            _ => {}
        }
    }

    fn receive(&mut self, now: Instant, packet: &RtpPacket) {
        let Some(remote) = self.remotes.get_mut(&*packet.header.ssrc) else { return };
        match &mut remote.receiver {
            Receiver::Video(video) => {
                let Some(row) = profile::payload_type(*packet.header.payload_type) else { return };
                let descriptor = packet.header.ext_vals.user_values.get::<DescriptorBytes>();
                let arrival = VideoArrival {
                    codec: row.codec,
                    sequence: *packet.seq_no,
                    timestamp: packet.time.numer(),
                    marker: packet.header.marker,
                    payload: &packet.payload,
                    descriptor: descriptor.map(|descriptor| descriptor.0.as_slice()),
                };
                video.handle(now, self.clock, arrival);
            }
            Receiver::Audio(audio) => audio.handle(now, *packet.seq_no, packet.time.numer(), &packet.payload),
        }
    }
}

/// A dependency descriptor as it is on the wire: str0m carries it, [`crate::descriptor`] understands it.
#[derive(Debug, Clone, Default)]
struct DescriptorBytes(Vec<u8>);

impl ExtensionSerializer for DescriptorBytes {
    fn write_to(&self, buf: &mut [u8], values: &ExtensionValues) -> usize {
        let Some(Self(bytes)) = values.user_values.get::<Self>() else { return 0 };
        let Some(out) = buf.get_mut(..bytes.len()) else { return 0 };
        out.copy_from_slice(bytes);
        bytes.len()
    }

    fn parse_value(&self, buf: &[u8], values: &mut ExtensionValues) -> bool {
        values.user_values.set(Self(buf.to_vec()));
        true
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }

    fn requires_two_byte_form(&self, values: &ExtensionValues) -> bool {
        values.user_values.get::<Self>().is_some_and(|Self(bytes)| bytes.len() > 16)
    }
}

/// A bridge lists all addresses of its machine; checks to another family, or to loopback from elsewhere, cannot work.
fn is_reachable(local: SocketAddr, remote: IpAddr) -> bool {
    local.is_ipv4() == remote.is_ipv4() && local.ip().is_loopback() == remote.is_loopback()
}

/// Kind and SSRC of a protected packet, whose header stands in the clear; `None` for retransmissions and everything else.
fn media_ssrc(bytes: &[u8]) -> Option<(MediaKind, u32)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let is_rtp = first >> 6 == 2 && !(192..224).contains(&second);
    let row = profile::payload_type(second & 0x7f).filter(|_| is_rtp)?;
    let ssrc = bytes.get(8..12)?.try_into().ok()?;
    Some((row.kind, u32::from_be_bytes(ssrc)))
}

fn own_mid(name: &SourceName) -> Mid {
    // The part after the endpoint: `a0`, `v1`. A mid has at most 16 characters.
    Mid::from(name.as_str().rsplit('-').next().unwrap_or("x"))
}

/// Never on the wire: tells the encodings of a camera apart where str0m asks for key frames.
fn encoding_rid(index: usize) -> Rid {
    Rid::from(index.to_string().as_str())
}

fn payload_number(codec: Codec) -> u8 {
    PAYLOAD_TYPES.iter().find(|row| row.codec == codec).map_or(0, |row| row.number)
}

fn str0m_codec(codec: Codec) -> Option<StrCodec> {
    match codec {
        Codec::Opus => Some(StrCodec::Opus),
        Codec::Vp8 => Some(StrCodec::Vp8),
        Codec::Vp9 => Some(StrCodec::Vp9),
        Codec::H264 => Some(StrCodec::H264),
        Codec::Av1 => Some(StrCodec::Av1),
        Codec::Red | Codec::TelephoneEvent => None,
    }
}
