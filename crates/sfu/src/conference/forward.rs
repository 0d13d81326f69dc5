//! The packet path: one packet in, parsed once, and a decision per receiver. Nothing here allocates in the steady state.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_model::MediaKind;
use tertulia_model::profile::{self, Codec, Extension, PayloadType};
use tertulia_rtp::codec::{FrameInfo, Places, vp8};
use tertulia_rtp::extension::{AudioLevel, abs_send_time, parse_transport_cc};
use tertulia_rtp::packet::{Header, write_header};
use tertulia_rtp::rtcp::{Compound, ReportBlock, Rtcp, SenderInfo};
use tertulia_rtp::{Packet, rtx};

use super::{Conference, Route};
use crate::cache;
use crate::egress::{Egress, EndpointKey, Output};
use crate::encoding::Arrival;
use crate::endpoint::Endpoint;
use crate::source::Source;
use crate::subscription::{Incoming, Numbers, Segment};

/// Canonical name of the bridge's own RTCP.
const CNAME: &str = "tertulia";
/// Report blocks in one compound; a sender has at most 20 streams.
const BLOCKS_MAX: usize = 24;

/// A media packet after unwrapping, ready to be numbered and sent on.
#[derive(Clone, Copy)]
struct Media<'a> {
    row: &'static PayloadType,
    /// Among the packets of its encoding that are forwarded.
    number: u64,
    marker: bool,
    timestamp: u32,
    payload: &'a [u8],
    level: Option<AudioLevel>,
    descriptor: &'a [u8],
}

impl Conference {
    /// One decrypted, authenticated RTP packet of an endpoint.
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        key: EndpointKey,
        bytes: &[u8],
        egress: &mut impl Egress,
        out: &mut Vec<Output>,
    ) {
        let Some((packet, endpoint)) = Packet::parse(bytes).zip(self.endpoints.get_mut(&key)) else {
            self.counters.dropped += 1;
            return;
        };
        self.counters.received += 1;
        endpoint.heard(now);
        if self.last_packet.is_none_or(|at| now.saturating_duration_since(at) > Duration::from_millis(400)) {
            // Media starts flowing: the slow tick is over.
            self.next_tick = self.next_tick.map(|at| at.min(now + super::TICK));
        }
        self.last_packet = Some(now);
        let since_start = self.start.map_or(Duration::ZERO, |start| now.saturating_duration_since(start));
        if let Some(number) = packet.extension(id_of(Extension::TransportCc)).and_then(parse_transport_cc) {
            endpoint.recorder.record(number, since_start);
            endpoint.last_ssrc = packet.header.ssrc;
        }
        let muted = (endpoint.muted_audio, endpoint.muted_video);
        let route = self.routes.get(&packet.header.ssrc).copied();
        let source = route.and_then(|route| Some((route, self.sources[route.source].as_mut()?)));
        let Some((route, source)) = source.filter(|(_, source)| source.owner == key) else {
            self.counters.dropped += 1;
            return;
        };
        let is_muted = match source.kind {
            MediaKind::Audio => muted.0,
            MediaKind::Video => muted.1,
        };
        if is_muted || !self.take_in(now, route, &packet, since_start, egress) {
            self.counters.dropped += 1;
        }
        if packet.header.marker {
            self.flush_feedback(now, key, egress);
        }
        if let Some(speaker) = self.speakers.decide(now) {
            self.announce_speaker(now, speaker, out);
        }
    }

    /// One decrypted, authenticated RTCP compound of an endpoint.
    pub fn handle_rtcp(&mut self, now: Instant, key: EndpointKey, bytes: &[u8], egress: &mut impl Egress) {
        let Some(endpoint) = self.endpoints.get_mut(&key) else { return };
        endpoint.heard(now);
        for part in Compound::new(bytes) {
            match part {
                Rtcp::SenderReport { info, .. } => self.pass_sender_report(now, key, info, egress),
                Rtcp::Nack { media_ssrc, losses } => {
                    for sequence in losses.sequences() {
                        self.resend(now, key, media_ssrc, sequence, egress);
                    }
                }
                Rtcp::PictureLossIndication { media_ssrc } => self.ask_keyframe(now, key, media_ssrc),
                Rtcp::FullIntraRequest { entries } => {
                    for entry in entries.chunks_exact(8) {
                        let ssrc = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
                        self.ask_keyframe(now, key, ssrc);
                    }
                }
                // Reports and transport-wide feedback of receivers are the estimator's, which is not there yet.
                Rtcp::ReceiverReport { .. }
                | Rtcp::TransportCc { .. }
                | Rtcp::ReceiverEstimate { .. }
                | Rtcp::Other { .. } => {}
            }
        }
        self.ask_senders(now, egress);
    }

    /// Numbers, inspects, keeps and forwards one packet. `false` when it is dropped.
    fn take_in(
        &mut self,
        now: Instant,
        route: Route,
        packet: &Packet<'_>,
        since_start: Duration,
        egress: &mut impl Egress,
    ) -> bool {
        let Some(source) = &mut self.sources[route.source] else { return false };
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
                stream.keyframe.want();
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
            stream.omit(number); // padding: nothing to forward, and nobody shall miss it
            return true;
        }
        if row.kind == MediaKind::Audio {
            self.hear(now, route, media, since_start, egress);
        } else {
            self.show(now, route, media, since_start, egress);
        }
        true
    }

    /// Audio: level, lasting silence, everybody.
    fn hear(&mut self, now: Instant, route: Route, media: Media<'_>, since: Duration, egress: &mut impl Egress) {
        let Some(source) = &mut self.sources[route.source] else { return };
        if let Some((level, endpoint)) = media.level.zip(self.endpoints.get(&source.owner)) {
            self.speakers.level(now, source.owner, &endpoint.id, AudioLevel::SILENCE - level.level);
            if source.is_lasting_silence(level.level == AudioLevel::SILENCE) {
                source.encodings[route.encoding].omit(media.number);
                return;
            }
        }
        self.fan_out(now, route, media, FrameInfo::default(), since, egress);
    }

    /// Video: key frames, the cache, those who get this encoding.
    fn show(&mut self, now: Instant, route: Route, media: Media<'_>, since: Duration, egress: &mut impl Egress) {
        let Some(source) = &mut self.sources[route.source] else { return };
        let descriptor = Some(media.descriptor).filter(|descriptor| !descriptor.is_empty());
        let stream = &mut source.encodings[route.encoding];
        let info = stream.inspector.inspect(media.row.codec, media.payload, media.marker, descriptor);
        if info.starts_keyframe {
            stream.keyframe.satisfied();
            stream.height = info.height.filter(|height| *height > 0).or(stream.height);
        }
        let kept = cache::Packet {
            number: media.number,
            marker: media.marker,
            payload_type: media.row.number,
            timestamp: media.timestamp,
            payload: media.payload,
            descriptor: media.descriptor,
        };
        stream.cache.insert(now, kept);
        self.fan_out(now, route, media, info, since, egress);
    }

    fn fan_out(
        &mut self,
        now: Instant,
        route: Route,
        media: Media<'_>,
        info: FrameInfo,
        since: Duration,
        egress: &mut impl Egress,
    ) {
        let Some(source) = &mut self.sources[route.source] else { return };
        let ssrc = source.primary_ssrc();
        let places = places_of(media.row, media.payload);
        let is_vp8 = media.row.codec == Codec::Vp8;
        let numbers = Numbers {
            timestamp: media.timestamp,
            picture_id: info.picture.filter(|_| is_vp8),
            tl0: info.tl0.filter(|_| is_vp8),
        };
        let incoming = Incoming {
            encoding: route.encoding,
            number: media.number,
            numbers,
            may_start: source.kind == MediaKind::Audio || info.starts_keyframe,
            clock_rate: media.row.clock_rate,
        };
        for subscription in &mut source.subscriptions {
            let projected = subscription.project(now, incoming);
            let Some((projected, endpoint)) = projected.zip(self.endpoints.get_mut(&subscription.receiver)) else {
                continue;
            };
            subscription.packets = subscription.packets.wrapping_add(1);
            subscription.octets = subscription.octets.wrapping_add(u32::try_from(media.payload.len()).unwrap_or(0));
            self.counters.forwarded += 1;
            let header = Header {
                marker: media.marker,
                payload_type: media.row.number,
                sequence: projected.sequence,
                timestamp: media.timestamp.wrapping_add(projected.segment.timestamp_by),
                ssrc,
            };
            let stamps = Stamps::of(endpoint, media.row.kind, media.level, media.descriptor, since);
            egress.rtp(subscription.receiver, |buffer| {
                let start = write_header(buffer, header, &stamps.list());
                write_payload(buffer, start, &[], media.payload, places, &projected.segment)
            });
        }
    }

    /// Answers one lost packet by a retransmission, where the receiver knows them.
    fn resend(&mut self, now: Instant, key: EndpointKey, ssrc: u32, sequence: u16, egress: &mut impl Egress) {
        let Some(route) = self.routes.get(&ssrc).copied().filter(|route| !route.rtx && route.encoding == 0) else {
            return;
        };
        let Some(source) = &mut self.sources[route.source] else { return };
        let rtx_ssrc = source.primary_rtx();
        let Source { encodings, subscriptions, .. } = source;
        let Some(subscription) = subscriptions.iter_mut().find(|s| s.receiver == key) else { return };
        let Some((segment, number)) = subscription.lookup(now, sequence) else { return };
        let Some(packet) = encodings[segment.encoding].cache.get(number) else { return };
        let Some((row, endpoint)) = profile::payload_type(packet.payload_type).zip(self.endpoints.get_mut(&key)) else {
            return;
        };
        // Without RTX there is no repair: the same number again with other stamps would use up one nonce of SRTP twice.
        let repair = row.rtx.zip(rtx_ssrc).filter(|_| endpoint.capabilities.rtx);
        let Some((payload_type, ssrc)) = repair else { return };
        let original = sequence.to_be_bytes();
        let sequence = subscription.next_rtx_sequence();
        let timestamp = packet.timestamp.wrapping_add(segment.timestamp_by);
        let header = Header { marker: packet.marker, payload_type, sequence, timestamp, ssrc };
        let since = self.start.map_or(Duration::ZERO, |start| now.saturating_duration_since(start));
        let stamps = Stamps::of(endpoint, row.kind, None, &packet.descriptor, since);
        let places = places_of(row, &packet.payload);
        self.counters.retransmitted += 1;
        egress.rtp(key, |buffer| {
            let start = write_header(buffer, header, &stamps.list());
            write_payload(buffer, start, &original, &packet.payload, places, &segment)
        });
    }

    /// A receiver lost the picture.
    fn ask_keyframe(&mut self, now: Instant, key: EndpointKey, ssrc: u32) {
        let Some(route) = self.routes.get(&ssrc).copied() else { return };
        let Some(source) = &mut self.sources[route.source] else { return };
        let Source { encodings, subscriptions, .. } = source;
        let Some(subscription) = subscriptions.iter_mut().find(|s| s.receiver == key) else { return };
        let wanted = subscription.current().or(subscription.target);
        if let Some(encoding) = wanted.filter(|_| subscription.may_ask_keyframe(now)) {
            encodings[encoding].keyframe.want();
        }
    }

    /// Sender reports go on to those who get the stream, in their time.
    fn pass_sender_report(&mut self, now: Instant, key: EndpointKey, info: SenderInfo, egress: &mut impl Egress) {
        let Some(route) = self.routes.get(&info.ssrc).copied().filter(|route| !route.rtx) else { return };
        let Some(source) = self.sources[route.source].as_mut().filter(|source| source.owner == key) else { return };
        source.encodings[route.encoding].sender_report(now, info);
        let ssrc = source.primary_ssrc();
        for subscription in &source.subscriptions {
            let Some(segment) = subscription.segment().filter(|segment| segment.encoding == route.encoding) else {
                continue;
            };
            self.compound.clear();
            self.compound.sender_report(SenderInfo {
                ssrc,
                ntp: info.ntp,
                rtp_timestamp: info.rtp_timestamp.wrapping_add(segment.timestamp_by),
                packets: subscription.packets,
                octets: subscription.octets,
            });
            self.compound.cname(ssrc, CNAME);
            egress.rtcp(subscription.receiver, self.compound.bytes());
        }
    }

    /// Asks senders for what is missing: lost packets and key frames.
    pub(super) fn ask_senders(&mut self, now: Instant, egress: &mut impl Egress) {
        let own = self.feedback.video.0;
        for source in self.sources.iter_mut().flatten().filter(|source| source.kind == MediaKind::Video) {
            let Source { encodings, subscriptions, owner, .. } = source;
            for encoding in subscriptions.iter().filter_map(super::super::subscription::Subscription::awaits_keyframe) {
                encodings[encoding].keyframe.want();
            }
            for stream in encodings {
                self.compound.clear();
                if !stream.missing.is_empty() {
                    let due = stream.missing.due(now);
                    self.counters.nacks += due.len() as u64;
                    self.compound.nack(own, stream.ssrc, due.into_iter());
                }
                // A sender that sends nothing starts with a key frame by itself.
                if stream.is_active(now) && stream.keyframe.is_due(now) {
                    self.counters.keyframe_requests += 1;
                    self.compound.picture_loss(own, stream.ssrc);
                }
                if !self.compound.is_empty() {
                    egress.rtcp(*owner, self.compound.bytes());
                }
            }
        }
    }

    /// Reception reports and transport-wide feedback.
    pub(super) fn report_to_senders(&mut self, now: Instant, egress: &mut impl Egress) {
        for (key, endpoint) in &mut self.endpoints {
            if endpoint.report_due(now) {
                let mut blocks: ArrayVec<ReportBlock, BLOCKS_MAX> = ArrayVec::new();
                let own = self.sources.iter_mut().flatten().filter(|source| source.owner == *key);
                for block in own.flat_map(|source| &mut source.encodings).filter_map(|stream| stream.report(now)) {
                    if blocks.try_push(block).is_err() {
                        break;
                    }
                }
                self.compound.clear();
                self.compound.receiver_report(self.feedback.audio.0, &blocks);
                self.compound.cname(self.feedback.audio.0, CNAME);
                egress.rtcp(*key, self.compound.bytes());
            }
            if endpoint.feedback_due(now) {
                send_feedback(endpoint, *key, self.feedback.video.0, &mut self.compound, egress);
            }
        }
    }

    /// A frame is complete: its feedback need not wait for the tick.
    fn flush_feedback(&mut self, now: Instant, key: EndpointKey, egress: &mut impl Egress) {
        let Some(endpoint) = self.endpoints.get_mut(&key) else { return };
        if endpoint.feedback_due(now) {
            send_feedback(endpoint, key, self.feedback.video.0, &mut self.compound, egress);
        }
    }
}

fn send_feedback(
    endpoint: &mut Endpoint,
    key: EndpointKey,
    own: u32,
    compound: &mut tertulia_rtp::rtcp::Writer,
    egress: &mut impl Egress,
) {
    let mut feedback = [0u8; 1024];
    let len = endpoint.recorder.write(&mut feedback);
    if len > 0 {
        compound.clear();
        // libwebrtc takes feedback only for a stream that it sends, although the feedback is about all of them.
        compound.transport_cc(own, endpoint.last_ssrc, &feedback[..len]);
        egress.rtcp(key, compound.bytes());
    }
}

/// The header extensions of one outgoing packet. The rest of what came in stays behind.
struct Stamps<'a> {
    level: Option<[u8; 1]>,
    send_time: Option<[u8; 3]>,
    transport_cc: Option<[u8; 2]>,
    descriptor: &'a [u8],
}

impl<'a> Stamps<'a> {
    fn of(
        endpoint: &mut Endpoint,
        kind: MediaKind,
        level: Option<AudioLevel>,
        descriptor: &'a [u8],
        since: Duration,
    ) -> Self {
        let transport_cc = endpoint.capabilities.transport_cc.then(|| endpoint.next_transport_cc().to_be_bytes());
        Self {
            level: level.map(|level| [level.to_byte()]),
            send_time: (kind == MediaKind::Video).then(|| abs_send_time(since)),
            transport_cc,
            descriptor,
        }
    }

    fn list(&self) -> ArrayVec<(u8, &[u8]), 4> {
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
}

/// Writes prefix and payload behind the header, VP8's ids moved. Returns the packet's length, 0 when it does not fit.
fn write_payload(
    buffer: &mut [u8],
    start: usize,
    prefix: &[u8],
    payload: &[u8],
    places: Places,
    segment: &Segment,
) -> usize {
    let body = start + prefix.len();
    let end = body + payload.len();
    if start == 0 || end > buffer.len() {
        return 0;
    }
    buffer[start..body].copy_from_slice(prefix);
    buffer[body..end].copy_from_slice(payload);
    places.shift(&mut buffer[body..end], segment.picture_id_by, segment.tl0_by);
    end
}

fn places_of(row: &PayloadType, payload: &[u8]) -> Places {
    let vp8 = if row.codec == Codec::Vp8 { vp8::Descriptor::parse(payload) } else { None };
    vp8.map(|vp8| vp8.places()).unwrap_or_default()
}

/// The id of an extension in every offer.
const fn id_of(extension: Extension) -> u8 {
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
