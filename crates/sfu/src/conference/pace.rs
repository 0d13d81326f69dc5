//! Packets that wait for their receivers' pacers, and padding that measures paths.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use tertulia_model::MediaKind;
use tertulia_model::profile;
use tertulia_rtp::packet::Header;

use super::forward::{OVERHEAD, Sent, Stamps, send_video, write_padding};
use super::{Conference, index_of};
use crate::cache::worth_keeping;
use crate::channel;
use crate::egress::{Egress, Output};
use crate::endpoint::Endpoint;
use crate::estimate::{ProbeId, Turn};
use crate::source::{Source, subscription_at};
use crate::stream::Stream;
use crate::subscription::{Course, Subscription};

/// Time between two looks at who may send.
pub(super) const INTERVAL: Duration = Duration::from_millis(2);
/// Packets of the recent past of which padding is made; repeating them may repair something.
const REPEATABLE: usize = 16;
/// Longest padding (RFC 3550 §5.1: its length is one byte).
const PADDING_MAX: u8 = 255;
/// Padding packets to one receiver in one look, whatever its probe asks for.
const PADDINGS_MAX: usize = 40;

impl Conference {
    /// Lets go what may go. Those who still wait are looked at again.
    pub(super) fn let_go(&mut self, now: Instant, egress: &mut impl Egress) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|place| {
            self.send_waiting(now, *place, egress);
            let probing = self.send_padding(now, *place, egress);
            let Some(endpoint) = self.endpoints.get_mut(index_of(*place)) else { return false };
            endpoint.path.is_waiting = probing || !endpoint.path.queue.is_empty();
            endpoint.path.is_waiting
        });
        self.waiting = waiting;
        self.next_pace = (!self.waiting.is_empty()).then(|| now + INTERVAL);
    }

    /// Runs everybody's estimator and tells who needs another allocation; tells clients what was found from time to time.
    pub(super) fn measure_paths(&mut self, now: Instant, out: &mut Vec<Output>) {
        let (is_flowing, mut longest) = (self.is_flowing(now), Duration::ZERO);
        for (place, endpoint) in self.endpoints.iter_mut().filter(|(_, endpoint)| endpoint.connected) {
            let (ideal, allocated) = (endpoint.ideal_bps, endpoint.allocated_bps);
            endpoint.needs_allocation |= endpoint.path.on_tick(now, ideal, allocated, is_flowing);
            self.allocation_due |= endpoint.needs_allocation;
            longest = longest.max(endpoint.path.round_trip());
            let probing = endpoint.path.estimator.is_probing();
            if probing && !std::mem::replace(&mut endpoint.path.is_waiting, true) {
                self.waiting.push(super::place_of(place));
                self.next_pace.get_or_insert(now);
            }
            if endpoint.stats_due(now)
                && let Some(bps) = endpoint.path.estimate_bps()
            {
                let text: Arc<str> = channel::connection_stats(bps);
                out.push(Output::Channel { to: endpoint.key, text });
            }
        }
        self.keep = worth_keeping(longest);
    }

    fn send_waiting(&mut self, now: Instant, place: u32, egress: &mut impl Egress) {
        let since = self.since_start(now);
        let Self { sources, endpoints, counters, .. } = self;
        let Some(endpoint) = endpoints.get_mut(index_of(place)) else { return };
        while let Some(queued) = endpoint.path.queue.front().copied() {
            if !endpoint.path.pacer.may_send(now, Turn::Video, usize::try_from(queued.bytes).unwrap_or(0)) {
                break;
            }
            endpoint.path.queue.pop_front();
            let Some(source) = sources.get_mut(index_of(queued.source)) else { continue };
            let Source { subscriptions, encodings, .. } = source;
            let Some(at) = subscription_at(subscriptions, place) else { continue };
            let Some((course, stream)) = subscriptions[at].video() else { continue };
            if stream.ssrc != queued.ssrc {
                continue;
            }
            let sent = Sent { source: queued.source, stream_ssrc: queued.ssrc, at: queued.out, repeat: None };
            if send_video(now, since, course, encodings, endpoint, sent, egress).is_some() {
                counters.forwarded += 1;
                counters.paced += 1;
            }
        }
    }

    /// Sends what the receiver's probe is due: packets of the recent past again, or padding. `false` when there is no probe.
    fn send_padding(&mut self, now: Instant, place: u32, egress: &mut impl Egress) -> bool {
        let since = self.since_start(now);
        let Self { sources, endpoints, counters, .. } = self;
        let Some(endpoint) = endpoints.get_mut(index_of(place)) else { return false };
        let mut largest = None;
        for nth in 0..PADDINGS_MAX {
            let Some((probe, bytes)) = endpoint.path.estimator.padding_due(now) else { break };
            if bytes == 0 || !endpoint.path.pacer.may_send(now, Turn::Probe, bytes) {
                return true;
            }
            let context = Padding { now, since, probe, bytes, nth };
            largest = largest.or_else(|| largest_picture(sources, place));
            let sent = match largest.and_then(|(index, at)| Some((index, at, sources.get_mut(index)?))) {
                Some((index, at, Source { subscriptions, encodings, .. })) => {
                    let Some(subscription) = subscriptions.get_mut(at) else { return false };
                    context.repeat(super::place_of(index), subscription, encodings, endpoint, egress)
                        || context.pad(&mut subscription.stream, endpoint, egress)
                }
                // Nothing flows because the path seemed too narrow for anything: a stream that paused is as good.
                None => match endpoint.streams.take_paused_repairable() {
                    Some(mut stream) => {
                        let sent = context.pad(&mut stream, endpoint, egress);
                        endpoint.streams.park(now, stream);
                        sent
                    }
                    None => false,
                },
            };
            if !sent {
                return false;
            }
            counters.probes += 1;
        }
        endpoint.path.estimator.is_probing()
    }
}

/// The largest picture that goes to a receiver has the most to repeat: its source, and the subscription's place there.
fn largest_picture(sources: &Slab<Source>, place: u32) -> Option<(usize, usize)> {
    let pictures = sources.iter().filter(|(_, source)| source.kind == MediaKind::Video);
    let subscribed = pictures.filter_map(|(index, source)| {
        let at = subscription_at(&source.subscriptions, place)?;
        let Course::Video(course) = &source.subscriptions[at].course else { return None };
        Some((course.current()?, index, at))
    });
    let best = subscribed.max_by_key(|(current, ..)| (current.encoding, current.layer));
    best.map(|(_, index, at)| (index, at))
}

/// One packet of a probe.
struct Padding {
    now: Instant,
    since: Duration,
    probe: ProbeId,
    bytes: usize,
    nth: usize,
}

impl Padding {
    /// Sends a packet of the recent past again.
    fn repeat(
        &self,
        source: u32,
        subscription: &mut Subscription,
        encodings: &[crate::encoding::Encoding],
        endpoint: &mut Endpoint,
        egress: &mut impl Egress,
    ) -> bool {
        let Some((course, stream)) = subscription.video() else { return false };
        let Some(rtx) = stream.rtx_ssrc().filter(|_| endpoint.capabilities.rtx && self.bytes >= 300) else {
            return false;
        };
        let back = u64::try_from(self.nth % REPEATABLE).unwrap_or(0);
        let at = stream.highest_out.saturating_sub(back);
        let sequence = stream.next_rtx_sequence();
        let sent = Sent { source, stream_ssrc: stream.ssrc, at, repeat: Some((rtx, sequence, Some(self.probe))) };
        send_video(self.now, self.since, course, encodings, endpoint, sent, egress).is_some()
    }

    /// Sends padding on the stream of retransmissions.
    fn pad(&self, stream: &mut Stream, endpoint: &mut Endpoint, egress: &mut impl Egress) -> bool {
        let (Some(ssrc), Some(last)) = (stream.rtx_ssrc().filter(|_| endpoint.capabilities.rtx), stream.last) else {
            return false;
        };
        let len = u8::try_from(self.bytes.saturating_sub(OVERHEAD)).unwrap_or(PADDING_MAX).max(1);
        let payload_type = profile::PAYLOAD_TYPES.iter().find_map(|row| row.rtx).unwrap_or(0);
        let sequence = stream.next_rtx_sequence();
        let header = Header { marker: false, payload_type, sequence, timestamp: last.timestamp, ssrc };
        let bytes = usize::from(len) + OVERHEAD;
        endpoint.path.pacer.spent(self.now, bytes);
        let stamps = Stamps::of(self.now, endpoint, MediaKind::Video, None, &[], self.since, bytes, Some(self.probe));
        egress.rtp(endpoint.key, |buffer| write_padding(buffer, header, &stamps, len));
        true
    }
}
