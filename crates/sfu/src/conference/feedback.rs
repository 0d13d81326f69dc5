//! RTCP, both ways: what receivers complain of is answered here or asked of senders; a bridge never passes complaints on.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_model::{EndpointId, MediaKind};
use tertulia_rtp::rtcp::{Compound, ReportBlock, ReportBlocks, Rtcp, SenderInfo, Writer};

use super::forward::{Sent, incoming, send_video};
use super::{Conference, Counters, index_of};
use crate::egress::{Egress, EndpointKey};
use crate::endpoint::Endpoint;
use crate::estimate::Turn;
use crate::keyframe::preemptive_delay;
use crate::source::{Source, subscription_at};
use crate::subscription::Course;

/// Canonical name of the bridge's own RTCP.
const CNAME: &str = "tertulia";
/// Report blocks in one compound; a sender has at most 20 streams.
const BLOCKS_MAX: usize = 24;
/// Shortest time between two repetitions of one packet, whatever the round trip.
const REPEAT_GAP_MIN_MS: u16 = 20;
/// Share of lost packets from which a repetition is sent twice.
const LOSS_OF_TWICE: f32 = 0.02;
/// Bytes of a usual repetition.
const REPAIR_LEN: usize = 1_000;
/// Lost packets in the complaints of one compound: as many as browsers complain of at all.
const NACKS_MAX: usize = 1_024;
/// Losses of one transport-wide feedback that are answered at once.
const LOST_MAX: usize = 64;
/// A source of which nothing was forwarded for so long is not reported on: its receivers have nothing to set in time, and in a large
/// conference, most of which is silent, those reports would be most of what is sent. A sender reports on sound every five seconds or so.
const QUIET_AFTER: Duration = Duration::from_secs(10);
/// A picture of which nothing went out for so long stands still: its sender may have ended the layers that it is made of.
const STANDS: Duration = Duration::from_millis(300);
/// One frame of a usual camera.
const FRAME: Duration = Duration::from_millis(33);

impl Conference {
    /// One decrypted, authenticated RTCP compound of an endpoint.
    pub fn handle_rtcp(&mut self, now: Instant, key: EndpointKey, bytes: &[u8], egress: &mut impl Egress) {
        let Some(place) = self.places.get(&key).copied() else { return };
        self.heard(now, place);
        let mut nacks_left = NACKS_MAX;
        for part in Compound::new(bytes) {
            match part {
                Rtcp::SenderReport { info, blocks } => {
                    self.pass_sender_report(now, place, info, egress);
                    self.read_reports(now, place, blocks);
                }
                Rtcp::ReceiverReport { blocks, .. } => self.read_reports(now, place, blocks),
                Rtcp::Nack { media_ssrc, losses } => {
                    for sequence in losses.sequences().take(nacks_left) {
                        nacks_left -= 1;
                        if let Some(index) = self.source_towards(place, media_ssrc) {
                            self.resend(now, place, index, sequence, egress);
                        }
                    }
                }
                Rtcp::PictureLossIndication { media_ssrc } => self.ask_keyframe(now, place, media_ssrc, egress),
                Rtcp::FullIntraRequest { entries } => {
                    for entry in entries.chunks_exact(8) {
                        let ssrc = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
                        self.ask_keyframe(now, place, ssrc, egress);
                    }
                }
                Rtcp::TransportCc { feedback } => {
                    self.read_transport_feedback(now, place, feedback, egress);
                }
                Rtcp::ReceiverEstimate { bits_per_second, .. } => {
                    self.endpoints[index_of(place)].path.handle_remb(bits_per_second);
                }
                Rtcp::Other { .. } => {}
            }
        }
    }

    /// The source whose stream to this receiver has this SSRC.
    fn source_towards(&self, place: u32, ssrc: u32) -> Option<usize> {
        let streams = &self.endpoints.get(index_of(place))?.streams;
        if streams.is_rewriting() {
            return streams.source_of(ssrc);
        }
        self.routes.get(&ssrc).filter(|route| !route.rtx && route.encoding == 0).map(|route| route.source)
    }

    /// Losses and round trips that a receiver tells of.
    fn read_reports(&mut self, now: Instant, place: u32, blocks: ReportBlocks<'_>) {
        for block in blocks {
            let Some(source) = self.source_towards(place, block.ssrc).and_then(|index| self.sources.get(index)) else {
                continue;
            };
            let round_trip = source.encodings.iter().find_map(|encoding| encoding.round_trip(now, &block));
            let estimator = &mut self.endpoints[index_of(place)].path.estimator;
            if source.kind == MediaKind::Video {
                estimator.handle_report(now, block.fraction_lost);
            }
            if let Some(round_trip) = round_trip {
                estimator.handle_rtt(round_trip);
            }
        }
    }

    /// What arrived and what did not. Pictures that did not are repeated at once: the complaint about them may be lost as well, and what
    /// repeated them may be.
    fn read_transport_feedback(&mut self, now: Instant, place: u32, feedback: &[u8], egress: &mut impl Egress) {
        let mut lost: ArrayVec<u16, LOST_MAX> = ArrayVec::new();
        let path = &mut self.endpoints[index_of(place)].path;
        path.estimator.handle_feedback(now, feedback, |number| {
            let _ = lost.try_push(number); // What does not fit will be complained about.
        });
        for number in lost {
            if let Some((source, sequence)) = self.endpoints[index_of(place)].path.logged_picture(number) {
                self.resend(now, place, index_of(source), sequence, egress);
            }
        }
    }

    /// Answers one lost packet by a retransmission, where the receiver knows them.
    fn resend(&mut self, now: Instant, place: u32, index: usize, sequence: u16, egress: &mut impl Egress) {
        let since = self.since_start(now);
        let Self { sources, endpoints, counters, .. } = self;
        let Some((source, endpoint)) = sources.get_mut(index).zip(endpoints.get_mut(index_of(place))) else { return };
        let Source { encodings, subscriptions, .. } = source;
        let Some(at) = subscription_at(subscriptions, place) else { return };
        let Some((course, stream)) = subscriptions[at].video() else { return };
        // Without RTX there is no repair: the same number again with other stamps would use up one nonce of SRTP twice.
        let Some(rtx) = stream.rtx_ssrc().filter(|_| endpoint.capabilities.rtx) else { return };
        // Once a round trip: what was repeated sooner is still on its way.
        let round_trip_ms = endpoint.path.round_trip().as_millis() * 9 / 10;
        let gap_ms = u16::try_from(round_trip_ms).unwrap_or(u16::MAX).clamp(REPEAT_GAP_MIN_MS, 2_000);
        let at_ms = u64::try_from(since.as_millis()).unwrap_or(0);
        let came = |encoding: u8, number| {
            let packet = encodings.get(usize::from(encoding))?.readable(number)?;
            Some(incoming(encoding, &packet))
        };
        if !endpoint.path.pacer.may_send(now, Turn::Retransmission, REPAIR_LEN) {
            return; // It will be asked for again, and answered then.
        }
        let Some(out) = course.lookup(stream, sequence, (at_ms, gap_ms), came) else { return };
        // On a path that loses much the repetition may be lost too, and the next complaint comes too late.
        let estimator = &endpoint.path.estimator;
        let copies = if estimator.loss() >= LOSS_OF_TWICE && !estimator.is_queueing() { 2 } else { 1 };
        for _ in 0..copies {
            if !endpoint.path.may_repair(now, REPAIR_LEN) {
                return;
            }
            let sequence = stream.next_rtx_sequence();
            let (source, repeat) = (super::place_of(index), Some((rtx, sequence, None)));
            let sent = Sent { source, stream_ssrc: stream.ssrc, at: out, repeat };
            if let Some(bytes) = send_video(now, since, course, encodings, endpoint, sent, egress) {
                counters.retransmitted += 1;
                endpoint.path.spend_aside(bytes);
            }
        }
    }

    /// A receiver lost the picture. Its sender is asked without waiting for the tick, and nobody else is looked at: complaints and
    /// feedback come by the thousand a second in a large conference.
    fn ask_keyframe(&mut self, now: Instant, place: u32, ssrc: u32, egress: &mut impl Egress) {
        let Some(index) = self.source_towards(place, ssrc) else { return };
        let own = self.feedback.video.0;
        let Self { sources, endpoints, compound, counters, relay, .. } = self;
        let Some((source, endpoint)) = sources.get_mut(index).zip(endpoints.get(index_of(place))) else { return };
        let Some(at) = subscription_at(&source.subscriptions, place) else { return };
        let Some((course, _)) = source.subscriptions[at].video() else { return };
        let Some(aim) = course.current().or(course.aimed()) else { return };
        if course.may_ask_keyframe(now) {
            source.keyframes.want_after_loss(now, usize::from(aim.encoding), endpoint.path.round_trip());
            if let Some(shard) = source.crossing.from {
                relay.ask(now, shard, source);
            } else if let Some(owner) = endpoints.get(index_of(source.owner)) {
                compound.clear();
                ask_keyframes(now, own, source, owner, compound, counters);
                send_unless_empty(owner, compound, egress);
            }
        }
    }

    /// Sender reports go on to those who get the stream, in their time.
    pub(super) fn pass_sender_report(&mut self, now: Instant, place: u32, info: SenderInfo, egress: &mut impl Egress) {
        let Some(route) = self.routes.get(&info.ssrc).copied().filter(|route| !route.rtx) else { return };
        self.copy_report(place, route, info, egress);
        let Self { sources, endpoints, compound, .. } = self;
        let Some(source) = sources.get_mut(route.source).filter(|source| source.owner == place) else { return };
        source.encodings[route.encoding].sender_report(now, info);
        let quiet = source.last_packet.is_none_or(|at| now.saturating_duration_since(at) >= QUIET_AFTER);
        if quiet {
            return;
        }
        for subscription in &source.subscriptions {
            let timestamp_by = match &subscription.course {
                Course::Audio(course) => course.timestamp_by(),
                Course::Video(course) => course.timestamp_by(u8::try_from(route.encoding).unwrap_or(u8::MAX)),
            };
            let Some((timestamp_by, endpoint)) = timestamp_by.zip(endpoints.get(index_of(subscription.receiver)))
            else {
                continue;
            };
            let stream = &subscription.stream;
            compound.clear();
            compound.sender_report(SenderInfo {
                ssrc: stream.ssrc,
                ntp: info.ntp,
                rtp_timestamp: info.rtp_timestamp.wrapping_add(timestamp_by),
                packets: stream.packets,
                octets: stream.octets,
            });
            compound.cname(stream.ssrc, CNAME);
            egress.rtcp(endpoint.key, compound.bytes());
        }
    }

    /// Asks senders for what is missing: lost packets and key frames.
    pub(super) fn ask_senders(&mut self, now: Instant, egress: &mut impl Egress) {
        let own = self.feedback.video.0;
        let Self { sources, endpoints, compound, counters, relay, .. } = self;
        for (_, source) in sources.iter_mut().filter(|(_, source)| source.kind == MediaKind::Video) {
            let Some(owner) = endpoints.get(index_of(source.owner)) else { continue };
            let Source { subscriptions, keyframes, is_awaited, .. } = source;
            if *is_awaited {
                *is_awaited = false;
                for subscription in subscriptions {
                    let Some((course, stream)) = subscription.video() else { continue };
                    *is_awaited |= course.is_on_the_way();
                    let moves = stream.last.is_some_and(|last| now.saturating_duration_since(last.at) < STANDS);
                    match course.awaits_keyframe(now).map(usize::from) {
                        Some(encoding) if moves && course.current().is_some() => keyframes.want_switch(encoding),
                        Some(encoding) => keyframes.want_start(encoding),
                        None => {}
                    }
                }
            }
            if let Some(shard) = source.crossing.from {
                relay.ask(now, shard, source); // its owner asks, for everybody at once
                continue;
            }
            let encodings = &mut source.encodings;
            compound.clear();
            for stream in encodings.iter_mut().filter(|stream| !stream.missing.is_empty()) {
                let due = stream.missing.due(now);
                counters.nacks += due.len() as u64;
                compound.nack(own, stream.ssrc, due.into_iter());
            }
            ask_keyframes(now, own, source, owner, compound, counters);
            send_unless_empty(owner, compound, egress);
        }
    }

    /// Plans to ask somebody who began to speak for a key frame, for those who will put them on their stages.
    pub(super) fn plan_keyframe(&mut self, now: Instant, speaker: &EndpointId) {
        let Some((place, endpoint)) = self.endpoints.iter().find(|(_, endpoint)| endpoint.id == *speaker) else {
            return;
        };
        let is_other_camera = |name| {
            let owner = self.sources.iter().find(|(_, source)| source.name == name).map(|(_, source)| source);
            owner.is_some_and(|source| index_of(source.owner) != place && !source.video_type.is_desktop())
        };
        let mut others = self.endpoints.iter().filter(|(other, _)| *other != place).map(|(_, other)| other);
        let on_stage =
            others.any(|other| other.constraints.on_stage.first().is_some_and(|n| is_other_camera(n.clone())));
        let longest = self.endpoints.iter().map(|(_, other)| other.path.round_trip()).max().unwrap_or_default();
        let delay = preemptive_delay(self.endpoints.len(), on_stage, longest, endpoint.path.round_trip());
        self.preemptive = delay.map(|delay| (now + delay, endpoint.key));
    }

    /// Asks for the planned key frame when it is time.
    pub(super) fn ask_ahead(&mut self, now: Instant) {
        let Some((_, key)) = self.preemptive.take_if(|(at, _)| now >= *at) else { return };
        let Some(place) = self.places.get(&key).copied() else { return };
        let cameras = self.sources.iter_mut().filter(|(_, source)| source.owner == place);
        for (_, source) in cameras.filter(|(_, source)| source.kind == MediaKind::Video && source.is_enabled()) {
            let top = source.encodings.iter().rposition(|encoding| encoding.is_active(now));
            if let Some(encoding) = top.filter(|_| !source.video_type.is_desktop()) {
                source.keyframes.want_start(encoding);
            }
        }
    }

    /// Reception reports and transport-wide feedback.
    pub(super) fn report_to_senders(&mut self, now: Instant, egress: &mut impl Egress) {
        let Self { sources, endpoints, compound, feedback, .. } = self;
        for (place, endpoint) in endpoints.iter_mut() {
            if endpoint.report_due(now) {
                endpoint.has_sent = false;
                let mut blocks: ArrayVec<ReportBlock, BLOCKS_MAX> = ArrayVec::new();
                let own = sources.iter_mut().filter(|(_, source)| index_of(source.owner) == place);
                for block in own.flat_map(|(_, source)| &mut source.encodings).filter_map(|stream| stream.report(now)) {
                    if blocks.try_push(block).is_err() {
                        break;
                    }
                }
                if !blocks.is_empty() {
                    compound.clear();
                    compound.receiver_report(feedback.audio.0, &blocks);
                    compound.cname(feedback.audio.0, CNAME);
                    egress.rtcp(endpoint.key, compound.bytes());
                }
            }
            if endpoint.feedback_due(now) {
                send_feedback(endpoint, feedback.video.0, compound, egress);
            }
        }
    }

    /// A frame is complete: its feedback need not wait for the tick.
    pub(super) fn flush_feedback(&mut self, now: Instant, place: u32, egress: &mut impl Egress) {
        let Some(endpoint) = self.endpoints.get_mut(index_of(place)) else { return };
        if endpoint.feedback_due(now) {
            send_feedback(endpoint, self.feedback.video.0, &mut self.compound, egress);
        }
    }
}

/// Adds requests for the key frames of a source that are due.
fn ask_keyframes(
    now: Instant,
    own: u32,
    source: &mut Source,
    owner: &Endpoint,
    compound: &mut Writer,
    counters: &mut Counters,
) {
    for encoding in source.keyframes.take_due(now, owner.path.round_trip() + FRAME).iter() {
        // A sender that sends nothing starts with a key frame by itself.
        let Some(stream) = source.encodings.get(encoding).filter(|stream| stream.is_active(now)) else { continue };
        counters.keyframe_requests += 1;
        compound.picture_loss(own, stream.ssrc);
    }
}

fn send_unless_empty(to: &Endpoint, compound: &Writer, egress: &mut impl Egress) {
    if !compound.is_empty() {
        egress.rtcp(to.key, compound.bytes());
    }
}

fn send_feedback(endpoint: &mut Endpoint, own: u32, compound: &mut Writer, egress: &mut impl Egress) {
    let mut feedback = [0u8; 1024];
    let len = endpoint.recorder.write(&mut feedback);
    if len > 0 {
        compound.clear();
        // libwebrtc takes feedback only for a stream that it sends, although the feedback is about all of them.
        compound.transport_cc(own, endpoint.last_ssrc, &feedback[..len]);
        egress.rtcp(endpoint.key, compound.bytes());
    }
}
