//! The packet path: one packet in, parsed once, and a decision per receiver. Nothing here allocates in the steady state.
//!
//! Sound goes on at once. Pictures of one turn are kept until [`Conference::finish_turn`], which sends them receiver by receiver: what goes to
//! one receiver then stands together in the batch, and its state is touched once.

use std::ops::Range;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_model::MediaKind;
use tertulia_model::profile::{self, Codec, Extension, PayloadType};
use tertulia_rtp::codec::{Shifts, dependency};
use tertulia_rtp::extension::{AudioLevel, abs_send_time, parse_transport_cc};
use tertulia_rtp::packet::{FIXED_HEADER_LEN, Header, write_header};
use tertulia_rtp::sequence::SeqNo;
use tertulia_rtp::{Packet, red, rtx};

use super::{Conference, Route, index_of};
use crate::cache::{self, Cached};
use crate::egress::{Egress, EndpointKey, Output};
use crate::encoding::{Arrival, Encoding};
use crate::endpoint::{Endpoint, Queued};
use crate::estimate::{ProbeId, Turn};
use crate::source::Source;
use crate::subscription::{Course, Incoming, Step, Subscription, VideoCourse};

/// Bytes of a packet beside its payload: RTP header and extensions, SRTP tag, UDP and IPv4 headers.
pub(crate) const OVERHEAD: usize = 12 + 20 + 16 + 28;
/// A source that was not heard for so long starts anew, for receivers with few SSRCs.
const AUDIO_IDLE: Duration = Duration::from_millis(500);
/// Bytes of padding that fills a place.
const FILLER_LEN: u8 = 4;

/// A media packet after unwrapping, ready to be numbered and sent on.
#[derive(Clone, Copy)]
pub(super) struct Media<'a> {
    pub(super) row: &'static PayloadType,
    /// Among the packets of its encoding that are forwarded.
    pub(super) number: SeqNo,
    pub(super) marker: bool,
    pub(super) timestamp: u32,
    pub(super) payload: &'a [u8],
    pub(super) level: Option<AudioLevel>,
    pub(super) descriptor: &'a [u8],
}

impl Conference {
    /// One decrypted, authenticated RTP packet of an endpoint. Pictures wait for [`Conference::finish_turn`].
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        key: EndpointKey,
        bytes: &[u8],
        egress: &mut impl Egress,
        out: &mut Vec<Output>,
    ) {
        let place = self.places.get(&key).copied();
        let Some((packet, place)) = Packet::parse(bytes).zip(place) else {
            self.counters.dropped += 1;
            return;
        };
        let since_start = self.since_start(now);
        self.counters.received += 1;
        self.heard(now, place);
        self.flows(now);
        let endpoint = &mut self.endpoints[index_of(place)];
        endpoint.has_sent = true;
        if let Some(number) = packet.extension(id_of(Extension::TransportCc)).and_then(parse_transport_cc) {
            endpoint.recorder.record(number, since_start);
            endpoint.last_ssrc = packet.header.ssrc;
        }
        let muted = (endpoint.muted_audio, endpoint.muted_video);
        let route = self.routes.get(&packet.header.ssrc).copied();
        let source = route.and_then(|route| Some((route, self.sources.get(route.source)?)));
        let Some((route, source)) = source.filter(|(_, source)| source.owner == place) else {
            self.counters.dropped += 1;
            return;
        };
        let is_muted = match source.kind {
            MediaKind::Audio => muted.0,
            MediaKind::Video => muted.1,
        };
        if is_muted || !self.take_in(now, route, &packet, egress, out) {
            self.counters.dropped += 1;
        }
        if packet.header.marker {
            self.flush_feedback(now, place, egress);
        }
    }

    /// A packet came.
    pub(super) fn flows(&mut self, now: Instant) {
        if self.last_packet.is_none_or(|at| now.saturating_duration_since(at) > Duration::from_millis(400)) {
            // Media starts flowing: the slow tick is over, and what beat it had together with other conferences.
            self.next_tick = self.next_tick.map(|_| now + super::TICK);
        }
        self.last_packet = Some(now);
    }

    /// Sends on the pictures that came since the last call, receiver by receiver.
    pub fn finish_turn(&mut self, now: Instant, egress: &mut impl Egress) {
        if self.pending.is_empty() {
            return;
        }
        let since = self.since_start(now);
        let Self { sources, endpoints, pending, counters, waiting, next_pace, keep, .. } = self;
        for index in pending.drain(..) {
            let Some(source) = sources.get_mut(index) else { continue };
            let Source { encodings, subscriptions, pending, .. } = source;
            for subscription in subscriptions.iter_mut() {
                let Some(endpoint) = endpoints.get_mut(index_of(subscription.receiver)) else { continue };
                let Subscription { receiver, stream, course: Course::Video(course) } = subscription else { continue };
                let mut fresh = pending.iter();
                let mut next = (0, 0..0);
                while let Some((encoding, number)) = next_number(&mut next, course, &mut fresh) {
                    let Some(packet) = encodings.get(usize::from(encoding)).and_then(|e| e.readable(number)) else {
                        continue;
                    };
                    match course.project(now, *keep, stream, &incoming(encoding, &packet)) {
                        Step::Skip => {}
                        Step::Fill(at) => {
                            counters.filled += 1;
                            fill(course, stream.ssrc, &packet, at, endpoint, since, now, egress);
                        }
                        Step::Send(at) => {
                            stream.count(packet.payload.len());
                            let bytes = packet.payload.len() + OVERHEAD;
                            let path = &mut endpoint.path;
                            if path.queue.is_empty() && path.pacer.may_send(now, Turn::Video, bytes) {
                                counters.forwarded += 1;
                                let source = super::place_of(index);
                                let sent = Sent { source, stream_ssrc: stream.ssrc, at, repeat: None };
                                send_video(now, since, course, encodings, endpoint, sent, egress);
                                continue;
                            }
                            let since = now;
                            let source = super::place_of(index);
                            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                            if !path.wait(Queued { source, ssrc: stream.ssrc, out: at, bytes, since }) {
                                counters.overflowed += 1;
                            } else if !std::mem::replace(&mut path.is_waiting, true) {
                                waiting.push(*receiver);
                                next_pace.get_or_insert(now + super::pace::INTERVAL);
                            }
                        }
                    }
                }
            }
            pending.clear();
        }
    }

    /// Numbers, inspects, keeps and forwards one packet. `false` when it is dropped.
    fn take_in(
        &mut self,
        now: Instant,
        route: Route,
        packet: &Packet<'_>,
        egress: &mut impl Egress,
        out: &mut Vec<Output>,
    ) -> bool {
        let source = &mut self.sources[route.source];
        let number = packet.header.payload_type;
        let (sequence, row, payload) = if route.rtx {
            let original = profile::original_of_rtx(number).zip(rtx::unwrap(packet.payload()));
            let Some((row, (sequence, payload))) = original else { return false };
            (sequence, row, payload)
        } else {
            let Some(row) = profile::payload_type(number) else { return false };
            (packet.header.sequence, row, packet.payload())
        };
        if row.kind != source.kind || (route.rtx && payload.is_empty()) {
            return false; // an empty retransmission is a probe
        }
        let stream = &mut source.encodings[route.encoding];
        let arrival = stream.arrive(now, sequence, packet.header.timestamp, row.clock_rate, route.rtx);
        let number = match arrival {
            Arrival::New { number } => number,
            Arrival::AfterGap { number } => {
                source.keyframes.want_after_loss(now, route.encoding, Duration::ZERO);
                number
            }
            Arrival::Repeated => return false,
        };
        let media = Media {
            row,
            number,
            marker: packet.header.marker,
            timestamp: packet.header.timestamp,
            payload,
            level: packet.extension(id_of(Extension::AudioLevel)).and_then(AudioLevel::parse),
            descriptor: packet.extension(id_of(Extension::DependencyDescriptor)).unwrap_or(&[]),
        };
        if payload.is_empty() {
            source.encodings[route.encoding].omit(number); // padding: nothing to forward, and nobody shall miss it
            return true;
        }
        if row.kind == MediaKind::Audio {
            self.hear(now, route, media, egress, out);
        } else {
            self.copy_picture(now, route, &media, egress);
            self.show(now, route, media);
        }
        true
    }

    /// Audio: level, lasting silence, the loudest, everybody.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        route: Route,
        media: Media<'_>,
        egress: &mut impl Egress,
        out: &mut Vec<Output>,
    ) {
        let source = &mut self.sources[route.source];
        let redundant = (media.row.number, media.payload);
        // A copy of which only the level is of interest has nothing to unwrap.
        let level_only = media.payload.is_empty().then_some(redundant);
        let plain = level_only.or_else(|| without_redundancy(&media));
        let mut is_loud = true;
        if let Some((level, endpoint)) = media.level.zip(self.endpoints.get(index_of(source.owner))) {
            let above = self.speakers.level(now, endpoint.key, &endpoint.id, AudioLevel::SILENCE - level.level);
            let dominant = self.speakers.rank(endpoint.key) == 0;
            if source.is_lasting_silence(level.level == AudioLevel::SILENCE) {
                source.encodings[route.encoding].omit(media.number);
                return;
            }
            is_loud = self.loudest.hear(now, route.source, above, dominant);
        }
        self.copy_sound(route, &media, is_loud, egress);
        if media.payload.is_empty() {
            return self.pause_sound(route);
        }
        let source = &mut self.sources[route.source];
        let idle = source.last_packet.is_none_or(|at| now.saturating_duration_since(at) >= AUDIO_IDLE);
        source.last_packet = Some(now);
        let grew_loud = is_loud && !std::mem::replace(&mut source.is_loud, is_loud);
        let comes_back = idle && std::mem::take(&mut source.gave_way);
        if std::mem::take(&mut source.has_new_listener) || comes_back || grew_loud {
            self.wake_audio(now, route.source, out);
        }
        let since = self.since_start(now);
        let Self { sources, endpoints, counters, .. } = self;
        let Some(source) = sources.get_mut(route.source) else { return };
        if !is_loud && source.is_unheard {
            return; // most packets of a large conference in which everybody's microphone is on
        }
        source.is_unheard = !is_loud;
        for Subscription { receiver, stream, course } in &mut source.subscriptions {
            let Course::Audio(course) = course else { continue };
            if !is_loud && !course.always {
                course.pause();
                continue;
            }
            source.is_unheard = false;
            let Some(endpoint) = endpoints.get_mut(index_of(*receiver)) else { continue };
            let taken = if endpoint.capabilities.opus_red { Some(redundant) } else { plain };
            let Some((payload_type, payload)) = taken else {
                course.pause(); // malformed, or encrypted end to end: nobody shall miss it
                continue;
            };
            let clock_rate = media.row.clock_rate;
            let Some((sequence, timestamp_by)) = course.follow(now, stream, media.number, media.timestamp, clock_rate)
            else {
                continue;
            };
            stream.count(payload.len());
            counters.forwarded += 1;
            let header = Header {
                marker: media.marker,
                payload_type,
                sequence,
                timestamp: media.timestamp.wrapping_add(timestamp_by),
                ssrc: stream.ssrc,
            };
            let bytes = payload.len() + OVERHEAD;
            let stamps = Stamps::of(now, endpoint, MediaKind::Audio, media.level, &[], since, bytes, None);
            debug_assert!(endpoint.path.pacer.may_send(now, Turn::Audio, bytes), "sound never waits");
            endpoint.path.spend_aside(bytes);
            endpoint.path.pacer.spent(now, bytes);
            egress.rtp(endpoint.key, |buffer| {
                let start = write_header(buffer, header, &stamps.list());
                write_payload(buffer, start, &[], payload)
            });
        }
    }

    /// Video: key frames, what layers cost, the cache. It goes on at the end of the turn.
    pub(super) fn show(&mut self, now: Instant, route: Route, media: Media<'_>) {
        let source = &mut self.sources[route.source];
        let descriptor = Some(media.descriptor).filter(|descriptor| !descriptor.is_empty());
        let stream = &mut source.encodings[route.encoding];
        let info = stream.inspector.inspect(media.row.codec, media.number, media.payload, media.marker, descriptor);
        if info.starts_keyframe {
            source.keyframes.keyframe_arrived(now, route.encoding);
            stream.height = info.height.filter(|height| *height > 0).or(stream.height);
        }
        let kept = cache::Packet {
            number: media.number,
            marker: media.marker,
            payload_type: media.row.number,
            timestamp: media.timestamp,
            info,
            payload: media.payload,
            descriptor: media.descriptor,
        };
        stream.cache.insert(now, stream.is_worth_keeping(now).then_some(self.keep), kept);
        source.last_packet = Some(now);
        if info.needs_structure {
            stream.hold(media.number);
            return;
        }
        stream.rates.count(now, &info, media.payload.len() + OVERHEAD);
        let was_idle = source.pending.is_empty();
        let encoding = u8::try_from(route.encoding).unwrap_or(u8::MAX);
        source.pending.push((encoding, media.number));
        if info.templates.is_some() {
            stream.release(now, media.row.codec, |number| source.pending.push((encoding, number)));
        }
        if source.subscriptions.is_empty() {
            source.pending.clear();
        } else if was_idle {
            self.pending.push(route.source);
        }
    }
}

/// Payload type and bytes for those who take no redundancy: the same, unless it is RED. `None` when that is malformed or empty.
fn without_redundancy<'a>(media: &Media<'a>) -> Option<(u8, &'a [u8])> {
    if media.row.codec != Codec::Red {
        return Some((media.row.number, media.payload));
    }
    let (number, start) = red::primary(media.payload)?;
    let row = profile::payload_type(number).filter(|row| row.kind == MediaKind::Audio && row.codec != Codec::Red)?;
    let payload = media.payload.get(start..).filter(|payload| !payload.is_empty())?;
    Some((row.number, payload))
}

/// The next packet for a subscription: what it passed over when it began, then what came in this turn.
fn next_number(
    behind: &mut (u8, Range<SeqNo>),
    course: &mut VideoCourse,
    fresh: &mut std::slice::Iter<'_, (u8, SeqNo)>,
) -> Option<(u8, SeqNo)> {
    let passed_over = course.take_passed_over();
    if !passed_over.is_empty() {
        behind.1 = passed_over;
    }
    if let Some(number) = behind.1.next() {
        return Some((behind.0, number));
    }
    let (encoding, number) = *fresh.next()?;
    behind.0 = encoding;
    Some((encoding, number))
}

/// A cached packet as a subscription sees it.
pub(super) fn incoming(encoding: u8, packet: &Cached<'_>) -> Incoming {
    Incoming {
        encoding,
        number: packet.number,
        timestamp: packet.timestamp,
        marker: packet.marker,
        counts_pictures: profile::payload_type(packet.payload_type).is_some_and(|row| row.codec == Codec::Vp8),
        info: packet.info,
    }
}

/// One sending of a packet.
pub(super) struct Sent {
    pub(super) source: u32,
    pub(super) stream_ssrc: u32,
    pub(super) at: SeqNo,
    /// SSRC and number of a retransmission, and the probe it is part of.
    pub(super) repeat: Option<(u32, u16, Option<ProbeId>)>,
}

/// Sends what stands under an outgoing number, for the first time or again; returns its bytes on the wire. `None` when the cache has
/// forgotten it.
pub(super) fn send_video(
    now: Instant,
    since: Duration,
    course: &VideoCourse,
    encodings: &[Encoding],
    endpoint: &mut Endpoint,
    sent: Sent,
    egress: &mut impl Egress,
) -> Option<usize> {
    let (shape, encoding, number) = course.shape(sent.at)?;
    let packet = encodings.get(usize::from(encoding))?.cache.get(number)?;
    let original = shape.sequence.to_be_bytes();
    let (ssrc, sequence, payload_type, prefix, probe) = match sent.repeat {
        None => (sent.stream_ssrc, shape.sequence, packet.payload_type, &[][..], None),
        Some((ssrc, sequence, probe)) => {
            let rtx = profile::payload_type(packet.payload_type)?.rtx?;
            (ssrc, sequence, rtx, &original[..], probe)
        }
    };
    let timestamp = packet.timestamp.wrapping_add(shape.timestamp_by);
    let header = Header { marker: shape.marker, payload_type, sequence, timestamp, ssrc };
    let bytes = packet.payload.len() + prefix.len() + OVERHEAD;
    endpoint.path.pacer.spent(now, bytes);
    let stamps = Stamps::of(now, endpoint, MediaKind::Video, None, packet.descriptor, since, bytes, probe);
    // What a probe repeats may be lost: nobody waits for it.
    if let Some(number) = stamps.transport_cc.filter(|_| probe.is_none()) {
        endpoint.path.log_picture(u16::from_be_bytes(number), sent.source, sent.at);
    }
    egress.rtp(endpoint.key, |buffer| {
        let start = write_header(buffer, header, &stamps.list());
        stamps.shift_descriptor(&mut buffer[..start], &shape.shifts);
        let end = write_payload(buffer, start, prefix, packet.payload);
        if end > 0 && !packet.info.places.is_empty() {
            let Shifts { picture_id_by, tl0_by, .. } = shape.shifts;
            packet.info.places.shift(&mut buffer[start + prefix.len()..end], picture_id_by, tl0_by);
        }
        end
    });
    Some(bytes)
}

/// Padding in the place of a packet that is not wanted, so that its number is not missed.
#[expect(clippy::too_many_arguments, reason = "the parts of a conference that the borrow checker wants apart")]
fn fill(
    course: &VideoCourse,
    ssrc: u32,
    packet: &Cached<'_>,
    at: SeqNo,
    endpoint: &mut Endpoint,
    since: Duration,
    now: Instant,
    egress: &mut impl Egress,
) {
    let Some((sequence, timestamp_by)) = course.filler(at) else { return };
    let timestamp = packet.timestamp.wrapping_add(timestamp_by);
    let header = Header { marker: false, payload_type: packet.payload_type, sequence, timestamp, ssrc };
    let bytes = usize::from(FILLER_LEN) + OVERHEAD;
    endpoint.path.pacer.spent(now, bytes);
    let stamps = Stamps::of(now, endpoint, MediaKind::Video, None, &[], since, bytes, None);
    egress.rtp(endpoint.key, |buffer| write_padding(buffer, header, &stamps, FILLER_LEN));
}

/// A packet of nothing but padding (RFC 3550 §5.1).
pub(super) fn write_padding(buffer: &mut [u8], header: Header, stamps: &Stamps<'_>, len: u8) -> usize {
    let start = write_header(buffer, header, &stamps.list());
    let end = start + usize::from(len);
    if start == 0 || len == 0 || end > buffer.len() {
        return 0;
    }
    buffer[0] |= 0x20;
    buffer[start..end].fill(0);
    buffer[end - 1] = len;
    end
}

/// The header extensions of one outgoing packet. The rest of what came in stays behind.
pub(super) struct Stamps<'a> {
    level: Option<[u8; 1]>,
    send_time: Option<[u8; 3]>,
    transport_cc: Option<[u8; 2]>,
    descriptor: &'a [u8],
}

impl<'a> Stamps<'a> {
    /// Stamps for a packet of `bytes` on the wire that leaves now: it is numbered and logged.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "one call for each kind of packet, and no state between them")]
    pub(super) fn of(
        now: Instant,
        endpoint: &mut Endpoint,
        kind: MediaKind,
        level: Option<AudioLevel>,
        descriptor: &'a [u8],
        since: Duration,
        bytes: usize,
        probe: Option<ProbeId>,
    ) -> Self {
        let numbered = endpoint.capabilities.transport_cc;
        let transport_cc = numbered.then(|| endpoint.path.estimator.sent(now, bytes, probe).to_be_bytes());
        Self {
            level: level.map(|level| [level.to_byte()]),
            send_time: (kind == MediaKind::Video).then(|| abs_send_time(since)),
            transport_cc,
            descriptor,
        }
    }

    /// In the order in which they are written; the dependency descriptor, which may be long, is last.
    pub(super) fn list(&self) -> ArrayVec<(u8, &[u8]), 4> {
        let mut list = ArrayVec::new();
        if let Some(level) = &self.level {
            list.push((id_of(Extension::AudioLevel), &level[..]));
        }
        if let Some(send_time) = &self.send_time {
            list.push((id_of(Extension::AbsSendTime), &send_time[..]));
        }
        if let Some(transport_cc) = &self.transport_cc {
            list.push((id_of(Extension::TransportCc), &transport_cc[..]));
        }
        if !self.descriptor.is_empty() {
            list.push((id_of(Extension::DependencyDescriptor), self.descriptor));
        }
        list
    }

    /// Moves the numbers of the descriptor in a written header.
    fn shift_descriptor(&self, header: &mut [u8], shifts: &Shifts) {
        if self.descriptor.is_empty() || (shifts.frame_number_by == 0 && shifts.template_id_by == 0) {
            return;
        }
        let list = self.list();
        // As `write_header` lays them out: the descriptor is last, and the form depends on the longest.
        let overhead = if list.iter().any(|(_, data)| data.len() > 16) { 2 } else { 1 };
        let before: usize = list.iter().map(|(_, data)| overhead + data.len()).sum();
        let end = FIXED_HEADER_LEN + 4 + before;
        if let Some(written) = header.get_mut(end - self.descriptor.len()..end) {
            dependency::shift(written, shifts.frame_number_by, shifts.template_id_by);
        }
    }
}

/// Writes prefix and payload behind the header. Returns the packet's length, 0 when it does not fit.
fn write_payload(buffer: &mut [u8], start: usize, prefix: &[u8], payload: &[u8]) -> usize {
    let body = start + prefix.len();
    let end = body + payload.len();
    if start == 0 || end > buffer.len() {
        return 0;
    }
    buffer[start..body].copy_from_slice(prefix);
    buffer[body..end].copy_from_slice(payload);
    end
}

/// The id of an extension in every offer.
pub(super) const fn id_of(extension: Extension) -> u8 {
    match extension {
        Extension::AudioLevel => 1,
        Extension::Mid => 10,
        Extension::TransportCc => 5,
        Extension::DependencyDescriptor => 11,
        Extension::AbsSendTime => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_ids_are_those_of_the_offer() {
        for row in profile::HEADER_EXTENSIONS {
            assert_eq!(id_of(row.extension), row.id);
        }
    }
}
