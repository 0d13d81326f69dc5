//! The streams that go out to one receiver: their SSRCs, where their numbers stand, and which source each carries.
//!
//! SRTP refuses a number that was used before, so a stream that pauses must go on where it stopped. Most receivers know every source by
//! its own SSRC. Those that asked for SSRC rewriting know a fixed set of SSRCs, each of which carries one source after the other.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Instant;

use rustc_hash::FxHashMap;
use tertulia_model::MediaKind;
use tertulia_rtp::sequence::{SeqNo, low16, low32};

/// Streams of removed sources that are remembered.
const ENDED_MAX: usize = 256;
/// Most SSRCs of a kind that a receiver with rewriting gets (`bridge-media` limit of Jitsi's bridge).
pub(crate) const SLOTS_MAX: usize = 50;

/// One outgoing stream: what goes on over pauses and switches. There is one for everybody whom everybody hears.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) ssrc: u32,
    rtx_ssrc: Option<NonZeroU32>,
    pub(crate) highest_out: SeqNo,
    pub(crate) last: Option<Last>,
    /// First id of the next dependency structure.
    pub(crate) next_template: u8,
    /// Low half of the number under which the newest structure went out.
    pub(crate) structure_out: u32,
    rtx_sequence: u16,
    pub(crate) packets: u32,
    pub(crate) octets: u32,
}

/// The newest that went out; codec fields are 0 where the codec has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Last {
    pub(crate) at: Instant,
    /// What came in under it.
    pub(crate) number: SeqNo,
    pub(crate) encoding: u8,
    pub(crate) tl0: u8,
    pub(crate) picture_id: u16,
    pub(crate) frame_number: u16,
    pub(crate) timestamp: u32,
    /// Low half of the number under which it went out.
    pub(crate) out: u32,
}

impl Last {
    /// The newest went out under `out`.
    pub(crate) fn new(at: Instant, out: SeqNo, number: SeqNo, timestamp: u32) -> Self {
        let (encoding, tl0, picture_id, frame_number, out) = (0, 0, 0, 0, low32(out));
        Self { at, number, encoding, tl0, picture_id, frame_number, timestamp, out }
    }

    /// Whether it went out under a lower number than this, which is close to it.
    pub(crate) fn is_before(&self, out: SeqNo) -> bool {
        (1..1 << 31).contains(&low32(out).wrapping_sub(self.out))
    }
}

impl Stream {
    /// A stream whose numbers start after `first`.
    pub(crate) fn new(ssrc: u32, rtx_ssrc: Option<u32>, first: u16) -> Self {
        Self {
            ssrc,
            rtx_ssrc: rtx_ssrc.and_then(NonZeroU32::new),
            highest_out: SeqNo::from(first) + (1 << 16),
            last: None,
            next_template: 0,
            structure_out: 0,
            rtx_sequence: first,
            packets: 0,
            octets: 0,
        }
    }

    /// The SSRC of its retransmissions.
    pub(crate) fn rtx_ssrc(&self) -> Option<u32> {
        self.rtx_ssrc.map(NonZeroU32::get)
    }

    /// The next number of the retransmissions.
    pub(crate) fn next_rtx_sequence(&mut self) -> u16 {
        self.rtx_sequence = self.rtx_sequence.wrapping_add(1);
        self.rtx_sequence
    }

    /// Counts one packet for sender reports.
    pub(crate) fn count(&mut self, payload_len: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(u32::try_from(payload_len).unwrap_or(0));
    }

    /// Where a stream of the same SSRC may begin when its source comes back: behind everything that was used, retransmissions included,
    /// because both start at one number.
    fn end(&self) -> u16 {
        let main = low16(self.highest_out);
        if self.rtx_sequence.wrapping_sub(main) < 0x8000 { self.rtx_sequence } else { main }
    }
}

/// The streams of one receiver that carry nothing at the moment; those that do are held by the sources' subscriptions.
#[derive(Debug)]
pub(crate) enum Streams {
    /// Every source under its own SSRC.
    Own(Own),
    /// A fixed set of SSRCs.
    Slots { audio: Slots, video: Slots },
}

/// Paused streams by SSRC, and where those of removed sources ended.
#[derive(Debug, Default)]
pub(crate) struct Own {
    paused: FxHashMap<u32, Stream>,
    ended: VecDeque<(u32, u16)>,
}

/// The SSRCs of a kind.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<Slot>);

/// One SSRC and what it carries.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) ssrc: u32,
    pub(crate) rtx_ssrc: Option<u32>,
    /// The source announced last, by the conference's number.
    pub(crate) source: Option<usize>,
    /// Present while it carries nothing.
    stream: Option<Stream>,
    since: Instant,
}

/// A stream to carry a source, and whether the receiver must be told.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) stream: Stream,
    pub(crate) announce: bool,
}

impl Streams {
    /// For a receiver with or without rewriting.
    pub(crate) fn new(rewriting: bool) -> Self {
        if rewriting {
            Self::Slots { audio: Slots::default(), video: Slots::default() }
        } else {
            Self::Own(Own::default())
        }
    }

    /// Whether SSRCs are rewritten.
    pub(crate) fn is_rewriting(&self) -> bool {
        matches!(self, Self::Slots { .. })
    }

    /// The stream for a source. `own` are its SSRCs as signalled, `random` makes new SSRCs and first numbers.
    /// `None` when every slot carries something.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        kind: MediaKind,
        source: usize,
        own: (u32, Option<u32>),
        mut random: impl FnMut() -> u64,
    ) -> Option<Taken> {
        match self {
            Self::Own(streams) => {
                let stream = streams.paused.remove(&own.0).unwrap_or_else(|| {
                    let ended = streams.ended.iter().find(|(ssrc, _)| *ssrc == own.0).map(|(_, end)| *end);
                    Stream::new(own.0, own.1, ended.unwrap_or_else(|| first_number(random())))
                });
                Some(Taken { stream, announce: false })
            }
            Self::Slots { audio, video } => match kind {
                MediaKind::Audio => audio.take(now, source, false, random),
                MediaKind::Video => video.take(now, source, true, random),
            },
        }
    }

    /// A stream carries nothing any more.
    pub(crate) fn park(&mut self, now: Instant, stream: Stream) {
        match self {
            Self::Own(streams) => {
                streams.paused.insert(stream.ssrc, stream);
            }
            Self::Slots { audio, video } => {
                let slot = audio.0.iter_mut().chain(&mut video.0).find(|slot| slot.ssrc == stream.ssrc);
                if let Some(slot) = slot {
                    slot.since = now;
                    slot.stream = Some(stream);
                }
            }
        }
    }

    /// A paused stream that has retransmissions, to pad with; to be parked again.
    pub(crate) fn take_paused_repairable(&mut self) -> Option<Stream> {
        let is_usable = |stream: &Stream| stream.rtx_ssrc().is_some() && stream.last.is_some();
        match self {
            Self::Own(streams) => {
                let ssrc = *streams.paused.iter().find(|(_, stream)| is_usable(stream))?.0;
                streams.paused.remove(&ssrc)
            }
            Self::Slots { video, .. } => {
                video.0.iter_mut().find(|slot| slot.stream.as_ref().is_some_and(is_usable))?.stream.take()
            }
        }
    }

    /// A source is gone; its subscription's stream was parked before.
    pub(crate) fn source_ended(&mut self, source: usize, own_ssrc: u32) {
        match self {
            Self::Own(streams) => {
                let Some(stream) = streams.paused.remove(&own_ssrc) else { return };
                streams.ended.retain(|(known, _)| *known != own_ssrc);
                if streams.ended.len() >= ENDED_MAX {
                    streams.ended.pop_front();
                }
                streams.ended.push_back((own_ssrc, stream.end()));
            }
            Self::Slots { audio, video } => {
                for slot in audio.0.iter_mut().chain(&mut video.0).filter(|slot| slot.source == Some(source)) {
                    slot.source = None;
                }
            }
        }
    }

    /// Whether a source of this kind finds a stream.
    pub(crate) fn has_free(&self, kind: MediaKind) -> bool {
        let slots = self.slots(kind);
        !self.is_rewriting() || slots.len() < SLOTS_MAX || slots.iter().any(|slot| slot.stream.is_some())
    }

    /// What the SSRCs of a kind carry; empty without rewriting.
    pub(crate) fn slots(&self, kind: MediaKind) -> &[Slot] {
        match (self, kind) {
            (Self::Own(_), _) => &[],
            (Self::Slots { audio, .. }, MediaKind::Audio) => &audio.0,
            (Self::Slots { video, .. }, MediaKind::Video) => &video.0,
        }
    }

    /// The source that a slot's SSRC carries.
    pub(crate) fn source_of(&self, ssrc: u32) -> Option<usize> {
        let Self::Slots { audio, video } = self else { return None };
        let slot = video.0.iter().chain(&audio.0).find(|slot| slot.ssrc == ssrc)?;
        slot.source.filter(|_| slot.stream.is_none())
    }
}

impl Slots {
    /// The slot that carried the source before, else a new one, else the one that has carried nothing for longest.
    fn take(&mut self, now: Instant, source: usize, rtx: bool, mut random: impl FnMut() -> u64) -> Option<Taken> {
        let before = self.0.iter().position(|slot| slot.source == Some(source) && slot.stream.is_some());
        let index = match before {
            Some(index) => index,
            None if self.0.len() < SLOTS_MAX => {
                let (ssrc, rtx_ssrc) = (new_ssrc(random()), rtx.then(|| new_ssrc(random())));
                let stream = Some(Stream::new(ssrc, rtx_ssrc, first_number(random())));
                self.0.push(Slot { ssrc, rtx_ssrc, source: None, stream, since: now });
                self.0.len() - 1
            }
            None => {
                let free = self.0.iter().enumerate().filter(|(_, slot)| slot.stream.is_some());
                // Of those that carry nothing at all, any will do: they are the first.
                free.min_by_key(|(_, slot)| (slot.source.is_some(), slot.since)).map(|(index, _)| index)?
            }
        };
        let slot = &mut self.0[index];
        let announce = slot.source.replace(source) != Some(source);
        Some(Taken { stream: slot.stream.take()?, announce })
    }
}

/// In the lower half: a receiver that misses the first packets would take a roll-over among them for none (RFC 3711 §3.3.1).
fn first_number(random: u64) -> u16 {
    u16::try_from(random >> 49).unwrap_or(0)
}

/// Nine or ten digits: clients look for SSRCs by containment of text.
pub(crate) fn new_ssrc(random: u64) -> u32 {
    1_000_000_000 + u32::try_from((random >> 16) % 3_000_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn counter() -> impl FnMut() -> u64 {
        let mut n = 0u64;
        move || {
            n += 1;
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }
    }

    #[test]
    fn a_paused_stream_goes_on_and_a_removed_one_begins_behind_its_end() {
        let (mut streams, mut random, now) = (Streams::new(false), counter(), Instant::now());
        let mut stream = streams.take(now, MediaKind::Video, 0, (7, Some(8)), &mut random).unwrap().stream;
        stream.highest_out += 10;
        let highest = stream.highest_out;
        streams.park(now, stream);
        let mut again = streams.take(now, MediaKind::Video, 0, (7, Some(8)), &mut random).unwrap().stream;
        assert_eq!(again.highest_out, highest);
        for _ in 0..20 {
            again.next_rtx_sequence();
        }
        let used = again.rtx_sequence;
        streams.park(now, again);
        streams.source_ended(0, 7);
        let new = streams.take(now, MediaKind::Video, 3, (7, Some(8)), &mut random).unwrap().stream;
        assert_eq!(low16(new.highest_out), used);
    }

    #[test]
    fn fifty_ssrcs_carry_any_number_of_sources_one_after_the_other() {
        let (mut streams, mut random, start) = (Streams::new(true), counter(), Instant::now());
        let mut held = VecDeque::new();
        for source in 0..200 {
            let now = start + Duration::from_secs(source as u64);
            if held.len() == SLOTS_MAX {
                streams.park(now, held.pop_front().unwrap());
            }
            let taken = streams.take(now, MediaKind::Video, source, (1, None), &mut random).unwrap();
            assert!(taken.announce);
            assert_eq!(streams.source_of(taken.stream.ssrc), Some(source));
            held.push_back(taken.stream);
        }
        assert_eq!(streams.slots(MediaKind::Video).len(), SLOTS_MAX);
        assert!(streams.take(start, MediaKind::Video, 900, (1, None), &mut random).is_none(), "all carry something");
        let mut ssrcs: Vec<u32> = streams.slots(MediaKind::Video).iter().map(|slot| slot.ssrc).collect();
        ssrcs.sort_unstable();
        ssrcs.dedup();
        assert_eq!(ssrcs.len(), SLOTS_MAX);
    }

    #[test]
    fn a_source_that_comes_back_finds_its_slot_and_nobody_is_told() {
        let (mut streams, mut random, now) = (Streams::new(true), counter(), Instant::now());
        let first = streams.take(now, MediaKind::Video, 1, (1, None), &mut random).unwrap().stream;
        let ssrc = first.ssrc;
        streams.park(now, first);
        let again = streams.take(now, MediaKind::Video, 1, (1, None), &mut random).unwrap();
        assert_eq!((again.stream.ssrc, again.announce), (ssrc, false));
    }
}
