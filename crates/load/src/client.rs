//! One client: the bridge's own transport from the other side, and what it checks of what comes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rustc_hash::FxHashMap;
use tertulia_media::identity::Identity;
use tertulia_media::srtp::OpenError;
use tertulia_media::transport::{Event, Role, Transport};
use tertulia_model::{Fingerprint, IceCredentials};
use tertulia_rtp::extension::parse_transport_cc;
use tertulia_rtp::rtcp::{Compound, ReportBlock, Writer};
use tertulia_rtp::transport_cc::Recorder;
use tertulia_rtp::{Packet, rtx};

use crate::cross::Ready;
use crate::link::{Badness, Link};
use crate::payload;
use crate::publisher::{Publisher, TRANSPORT_CC_ID, WayOut};
use crate::socket::Net;
use crate::sources::{Slot, owner, ssrc};
use crate::stream::{Arrived, Stream};
use crate::tally::Tally;
use crate::way::Way;

/// Transport-wide feedback, as Chromium sends it.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(100);
/// While something is missing.
const REPAIR_INTERVAL: Duration = Duration::from_millis(20);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Reports of one compound.
const BLOCKS_MAX: usize = 24;
/// Our own RTCP needs a sender; this one is nobody's stream.
const FEEDBACK_SSRC: u32 = 0x0fff_ffff;

/// Who a client is.
pub(crate) struct Spec {
    pub(crate) person: u32,
    pub(crate) room: u32,
    /// Where the bridge is.
    pub(crate) bridge: SocketAddr,
    /// The bridge's side.
    pub(crate) remote: (IceCredentials, Fingerprint),
    /// Ours.
    pub(crate) credentials: IceCredentials,
    pub(crate) camera: bool,
    /// Whether it has a microphone, and whether it speaks.
    pub(crate) voice: Option<bool>,
    pub(crate) badness: Option<Badness>,
    pub(crate) seed: u64,
    /// When it asked to join.
    pub(crate) created: Instant,
    /// Set for a client of other hands.
    pub(crate) cross: Option<Ready>,
    /// Whether it offers the connection: then it has a bridge's part in ICE and DTLS.
    pub(crate) offers: bool,
    /// Set for a client of another server, which has SSRCs of its own.
    pub(crate) foreign: Option<Foreign>,
}

/// How what comes from another server is told apart: one person sends, and payload types say what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foreign {
    pub(crate) person: u32,
    pub(crate) opus: u8,
    pub(crate) vp8: u8,
}

/// Which way publishers' packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Sealed, to the bridge.
    Bridge,
    /// In the clear, to a fan-out that does nothing else. What comes back is only counted, and its time of sending read.
    FanOut { to: SocketAddr },
}

impl Foreign {
    fn slot(self, payload_type: u8) -> Slot {
        match payload_type {
            own if own == self.opus => Slot::Audio,
            own if own == self.vp8 => Slot::Video(2),
            _ => Slot::Rtx(2),
        }
    }
}

/// What a client needs of its shard.
pub(crate) struct Around<'a> {
    pub(crate) now: Instant,
    /// Zero of the stamps.
    pub(crate) epoch: Instant,
    pub(crate) net: &'a mut Net,
    pub(crate) tally: &'a mut Tally,
    pub(crate) mode: Mode,
    /// Whose frame of which encoding ends a change of the stage, and when that began.
    pub(crate) watched: Option<(u32, u8, Instant)>,
}

impl Around<'_> {
    /// Now, as stamps tell it.
    pub(crate) fn ns(&self) -> u64 {
        // A run of 584 years would be needed.
        self.now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

/// One client.
pub(crate) struct Client {
    room: u32,
    address: SocketAddr,
    bridge: SocketAddr,
    transport: Transport,
    transport_at: Option<Instant>,
    publisher: Publisher,
    streams: FxHashMap<u32, Stream>,
    recorder: Recorder,
    last_media_ssrc: u32,
    feedback_at: Option<Instant>,
    last_feedback: Instant,
    last_report: Instant,
    retry: Duration,
    up: Option<Link>,
    down: Option<Link>,
    foreign: Option<Foreign>,
    created: Instant,
    connected_at: Option<Instant>,
    seen_first: bool,
    seen_watched: Option<Instant>,
    ended: bool,
}

/// Splits a client into its way out and the rest, of which the borrow checker cannot know that they are apart.
macro_rules! way {
    ($client:ident, $around:ident) => {
        Way { now: $around.now, ip: ip_of($client.address), net: &mut *$around.net, up: &mut $client.up }
    };
}

impl Client {
    /// A client that starts to connect.
    pub(crate) fn new(around: &mut Around<'_>, spec: &Spec, identity: &Identity, address: SocketAddr) -> Self {
        let now = around.now;
        let link = |salt| spec.badness.map(|badness| Link::new(badness, spec.seed ^ salt));
        let round_trip = spec.badness.map_or(0, |badness| 2 * badness.delay_ms + badness.jitter_ms);
        let role = if spec.offers { Role::Bridge } else { Role::Client };
        let mut client = Self {
            room: spec.room,
            address,
            bridge: spec.bridge,
            transport: Transport::new(now, role, identity, spec.credentials.clone(), &[address]),
            transport_at: None,
            publisher: Publisher::new(spec.person, spec.camera, spec.voice, spec.seed),
            streams: FxHashMap::default(),
            recorder: Recorder::default(),
            last_media_ssrc: 0,
            feedback_at: None,
            last_feedback: now,
            last_report: now,
            retry: Duration::from_millis(u64::from(round_trip + 30)),
            up: link(1),
            down: link(2),
            foreign: spec.foreign,
            created: spec.created,
            connected_at: None,
            seen_first: false,
            seen_watched: None,
            ended: false,
        };
        if spec.foreign.is_some() {
            client.publisher.send_only(2); // there is no common form of simulcast
        }
        let (credentials, fingerprint) = spec.remote.clone();
        let mut events = Vec::new();
        let mut way = way!(client, around);
        client.transport.set_remote(now, &credentials, Some(fingerprint), None, &mut way, &mut events);
        client.transport.add_remote_address(now, spec.bridge, &mut way, &mut events);
        client.settle(&events, around);
        client
    }

    /// When media could flow for the first time.
    pub(crate) fn connected_at(&self) -> Option<Instant> {
        self.connected_at
    }

    /// Packets that should have come, and that did, over all streams.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.streams.values().map(Stream::counts).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Longest time in the queues of its bad network.
    pub(crate) fn queued_max(&self) -> Duration {
        self.down.iter().map(|link| link.queued_max).max().unwrap_or_default()
    }

    /// When [`Client::on_timeout`] next has work to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let links = self.up.iter().chain(&self.down).filter_map(Link::next_timeout);
        links.chain(self.publisher.next_timeout()).chain(self.transport_at).chain(self.feedback_at).min()
    }

    /// Starts camera and microphone, at a moment of its own within the first frame; those of later rooms stop.
    pub(crate) fn start(&mut self, now: Instant, rooms: u32) {
        if self.room >= rooms {
            self.publisher.stop();
            self.streams.values_mut().for_each(Stream::forget_time);
            return;
        }
        self.publisher.start(now);
    }

    /// Starts or ends a talk spurt.
    pub(crate) fn speak(&mut self, now: Instant, speaking: bool) {
        self.publisher.speak(now, speaking);
    }

    /// What the bridge wants of its camera.
    pub(crate) fn set_max_height(&mut self, max_height: i32) {
        self.publisher.set_max_height(max_height);
    }

    /// Changes between the bridge and a fan-out. Nobody sends meanwhile.
    pub(crate) fn change_way(&mut self) {
        self.publisher.change_way();
    }

    /// Takes a datagram that came to its address.
    pub(crate) fn handle(&mut self, around: &mut Around<'_>, bytes: &mut [u8]) {
        match &mut self.down {
            Some(link) => link.push(around.now, bytes),
            None => self.take(around, bytes),
        }
    }

    /// Runs what is due.
    pub(crate) fn on_timeout(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        while let Some(bytes) = self.up.as_mut().and_then(|link| link.pop(now)) {
            let bridge = self.bridge;
            around.net.push(ip_of(self.address), |slot| {
                slot.get_mut(..bytes.len())?.copy_from_slice(&bytes);
                Some((bytes.len(), bridge))
            });
        }
        while let Some(mut bytes) = self.down.as_mut().and_then(|link| link.pop(now)) {
            self.take(around, &mut bytes);
        }
        if self.transport_at.is_some_and(|at| now >= at) {
            let mut events = Vec::new();
            self.transport.on_timeout(now, &mut way!(self, around), &mut events);
            self.settle(&events, around);
        }
        let (publisher, mut out) = self.publishing(around);
        publisher.on_timeout(&mut out);
        if self.feedback_at.is_some_and(|at| now >= at) {
            self.give_feedback(around);
        }
    }

    fn settle(&mut self, events: &[Event], around: &mut Around<'_>) {
        self.transport_at = self.transport.next_timeout();
        if self.connected_at.is_none() && self.transport.is_connected() {
            self.connected_at = Some(around.now);
        }
        if events.iter().any(|event| matches!(event, Event::Ended(_))) && !std::mem::replace(&mut self.ended, true) {
            around.tally.violation("a transport ended");
        }
    }

    fn take(&mut self, around: &mut Around<'_>, bytes: &mut [u8]) {
        if matches!(around.mode, Mode::FanOut { .. })
            && matches!(bytes.first(), Some(128..=191))
            && !tertulia_rtp::is_rtcp(bytes)
        {
            around.tally.verified += 1;
            around.tally.bytes += bytes.len() as u64;
            if let Some(sent) = payload::sent_ns(bytes) {
                around.tally.latency.record(around.ns().saturating_sub(sent) / 1_000);
            }
            return;
        }
        match bytes.first() {
            Some(128..=191) if tertulia_rtp::is_rtcp(bytes) => self.take_rtcp(around, bytes),
            Some(128..=191) => self.take_rtp(around, bytes),
            Some(0..=3 | 20..=63) => {
                around.tally.others += 1;
                let (now, bridge, mut events) = (around.now, self.bridge, Vec::new());
                let mut way = way!(self, around);
                if bytes[0] <= 3 {
                    self.transport.handle_stun(now, self.address, bridge, bytes, &mut way, &mut events);
                } else {
                    self.transport.handle_dtls(now, bytes, &mut way, &mut events);
                }
                self.settle(&events, around);
            }
            _ => around.tally.violation("a datagram of no protocol"),
        }
    }

    fn take_rtp(&mut self, around: &mut Around<'_>, bytes: &mut [u8]) {
        let wire_len = bytes.len();
        let len = match self.transport.open_rtp(around.now, self.bridge, bytes) {
            Ok(len) => len,
            Err(OpenError::Replayed) => {
                around.tally.replayed += 1;
                return;
            }
            // Before our side of the handshake is done there are no keys to open with.
            Err(_) if !self.transport.is_connected() => return,
            Err(_) => return around.tally.violation("a packet does not authenticate"),
        };
        let Some(packet) = Packet::parse(&bytes[..len]) else {
            return around.tally.violation("a packet is no RTP");
        };
        let number = packet.extension(TRANSPORT_CC_ID).and_then(parse_transport_cc);
        if let Some(number) = number.filter(|_| self.foreign.is_none()) {
            self.recorder.record(number, around.now.saturating_duration_since(around.epoch));
        }
        self.feedback_at.get_or_insert(around.now + FEEDBACK_INTERVAL);
        let known = match self.foreign {
            None => owner(packet.header.ssrc),
            Some(foreign) => Some((foreign.person, foreign.slot(packet.header.payload_type))),
        };
        let Some((person, slot)) = known else {
            return around.tally.violation("a packet under an SSRC that nobody has");
        };
        let (again, sequence, payload) = match slot {
            Slot::Rtx(_) => match rtx::unwrap(packet.payload()).filter(|(_, original)| !original.is_empty()) {
                Some((sequence, original)) => (true, sequence, original),
                None => {
                    around.tally.probes += 1;
                    return;
                }
            },
            _ if packet.payload().is_empty() => {
                around.tally.probes += 1;
                return;
            }
            _ => (false, packet.header.sequence, packet.payload()),
        };
        let read = if slot == Slot::Audio { payload::read_audio(payload) } else { payload::read_video(payload) };
        let Some((stamp, sent_ns)) = read else {
            return around.tally.violation("a payload is damaged");
        };
        around.tally.verified += 1;
        around.tally.bytes += wire_len as u64;
        let now_ns = around.ns();
        if !again {
            around.tally.latency.record(now_ns.saturating_sub(sent_ns) / 1_000);
        }
        let own = ssrc(person, if slot == Slot::Audio { Slot::Audio } else { Slot::Video(0) });
        let arrived = Arrived { now: around.now, now_ns, sent_ns, sequence, stamp, again };
        self.judge(around, own, person, arrived);
    }

    fn judge(&mut self, around: &mut Around<'_>, own: u32, person: u32, arrived: Arrived) {
        self.last_media_ssrc = own;
        let strict = self.down.is_none() && self.foreign.is_none();
        let stream = self.streams.entry(own).or_insert_with(|| Stream::new(person, strict));
        let complete = stream.handle(arrived, around.tally);
        if stream.is_incomplete() {
            let soon = around.now + REPAIR_INTERVAL;
            self.feedback_at = Some(self.feedback_at.map_or(soon, |at| at.min(soon)));
        }
        if complete && !std::mem::replace(&mut self.seen_first, true) {
            around.tally.first_frame.record(ms_since(around.now, self.created));
        }
        if let Some((watched, encoding, since)) = around.watched
            && complete
            && (watched, encoding) == (person, arrived.stamp.encoding)
            && self.seen_watched != Some(since)
        {
            self.seen_watched = Some(since);
            around.tally.switched.record(ms_since(around.now, since));
        }
    }

    fn take_rtcp(&mut self, around: &mut Around<'_>, bytes: &mut [u8]) {
        around.tally.others += 1;
        let Ok(len) = self.transport.open_rtcp(around.now, self.bridge, bytes) else {
            if self.transport.is_connected() {
                around.tally.violation("a control packet does not authenticate");
            }
            return;
        };
        for part in Compound::new(&bytes[..len]) {
            let (publisher, mut out) = self.publishing(around);
            publisher.handle(part, &mut out);
        }
    }

    /// What sends, and what it sends through.
    fn publishing<'a>(&'a mut self, around: &'a mut Around<'_>) -> (&'a mut Publisher, WayOut<'a>) {
        let Around { now, mode, .. } = *around;
        let ns = around.ns();
        let way = Way { now, ip: ip_of(self.address), net: &mut *around.net, up: &mut self.up };
        (&mut self.publisher, WayOut { now, ns, mode, tally: &mut *around.tally, transport: &mut self.transport, way })
    }

    /// Transport-wide feedback, what is missing, and once a second what came.
    fn give_feedback(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        let mut compound = Writer::default();
        if now.saturating_duration_since(self.last_report) >= REPORT_INTERVAL {
            self.last_report = now;
            let reports = self.streams.iter_mut().map(|(ssrc, stream)| stream.report(*ssrc));
            let blocks: ArrayVec<ReportBlock, BLOCKS_MAX> = reports.take(BLOCKS_MAX).collect();
            compound.receiver_report(FEEDBACK_SSRC, &blocks);
            self.send_rtcp(around, &compound);
        }
        let mut incomplete = false;
        for (ssrc, stream) in &mut self.streams {
            if !stream.is_incomplete() {
                continue;
            }
            incomplete = true;
            let losses = stream.losses(now, self.retry);
            compound.clear();
            if !losses.is_empty() {
                around.tally.nacked += losses.len() as u64;
                compound.nack(FEEDBACK_SSRC, *ssrc, losses.into_iter());
            }
            if stream.wants_key(now) {
                around.tally.plis += 1;
                compound.picture_loss(FEEDBACK_SSRC, *ssrc);
            }
            if !compound.is_empty() {
                send_compound(&mut self.transport, &mut way!(self, around), &compound);
            }
        }
        let mut feedback = [0; 1024];
        if now.saturating_duration_since(self.last_feedback) >= FEEDBACK_INTERVAL / 2 {
            self.last_feedback = now;
            let len = self.recorder.write(&mut feedback);
            if len > 0 {
                compound.clear();
                compound.transport_cc(FEEDBACK_SSRC, self.last_media_ssrc, &feedback[..len]);
                self.send_rtcp(around, &compound);
            }
        }
        let pending = self.recorder.is_pending().then_some(FEEDBACK_INTERVAL);
        self.feedback_at = if incomplete { Some(now + REPAIR_INTERVAL) } else { pending.map(|wait| now + wait) };
    }

    fn send_rtcp(&mut self, around: &mut Around<'_>, compound: &Writer) {
        send_compound(&mut self.transport, &mut way!(self, around), compound);
    }
}

fn send_compound(transport: &mut Transport, way: &mut Way<'_>, compound: &Writer) {
    let bytes = compound.bytes();
    way.send(|slot| {
        slot.get_mut(..bytes.len())?.copy_from_slice(bytes);
        transport.seal_rtcp(slot, bytes.len()).map(|(len, _, remote)| (len, remote))
    });
}

fn ip_of(address: SocketAddr) -> Ipv4Addr {
    match address {
        SocketAddr::V4(v4) => *v4.ip(),
        SocketAddr::V6(_) => Ipv4Addr::LOCALHOST, // there are none: the shard gives the addresses
    }
}

fn ms_since(now: Instant, since: Instant) -> u64 {
    now.saturating_duration_since(since).as_millis() as u64
}
