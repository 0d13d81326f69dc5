//! The packets of one encoding, kept for retransmission: one cache per encoding, shared by all its receivers.

use std::ops::Deref;
use std::time::{Duration, Instant};

use tertulia_rtp::codec::FrameInfo;
use tertulia_rtp::sequence::SeqNo;

use crate::lately::Lately;

/// Slots of a new cache, and of a full one: about a second of 5 Mbit/s.
const SLOTS_MIN: usize = 16;
const SLOTS_MAX: usize = 512;
/// Bytes by which a cache grows at least, which is all that is kept of what nobody asks for; and of a full one: as many as its slots can hold
/// of the longest packets.
const BYTES_STEP: usize = 2 << 10;
const BYTES_MAX: usize = SLOTS_MAX * 1_280;

/// How often a cache is looked at for memory that bursts took and the stream does not need.
const SHRINK_EVERY: Duration = Duration::from_secs(2);

/// How long a packet is worth keeping for receivers who answer within this round trip: three tries, and until the loss is noticed. No shorter
/// than a pacer makes packets wait.
pub(crate) fn worth_keeping(round_trip: Duration) -> Duration {
    (3 * round_trip + Duration::from_millis(300)).clamp(Duration::from_millis(600), Duration::from_millis(1_000))
}

/// What is known of a packet beside its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kept {
    /// Normalised sequence number, which names the slot.
    pub(crate) number: SeqNo,
    pub(crate) timestamp: u32,
    pub(crate) payload_type: u8,
    pub(crate) marker: bool,
    pub(crate) info: FrameInfo,
    place: Place,
    at: Option<Instant>,
}

impl Kept {
    /// Whether it was put in less than this ago.
    fn is_young(&self, now: Instant, keep: Duration) -> bool {
        self.at.is_some_and(|at| now.saturating_duration_since(at) < keep)
    }
}

/// Where the bytes of a packet are: its payload, and behind it its descriptor.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// How often the ring had come around by then; 0 when there is no packet.
    lap: u32,
    start: u32,
    payload_len: u16,
    descriptor_len: u16,
}

/// A packet as it is sent, for the first time or again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cached<'a> {
    kept: &'a Kept,
    pub(crate) payload: &'a [u8],
    /// Dependency descriptor; empty when there is none.
    pub(crate) descriptor: &'a [u8],
}

impl Deref for Cached<'_> {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        self.kept
    }
}

/// What is known of packets, by sequence number, and their bytes, in the order in which they came: two rings that grow to what has to be
/// kept, and shrink when they are half empty for some seconds.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    slots: Vec<Kept>,
    bytes: Bytes,
    /// When it was last looked at for what is too much.
    looked_at: Option<Instant>,
}

impl Cache {
    /// Keeps a copy, for this long at least, unless the cache is full before. `None`: as long as there happens to be room.
    pub(crate) fn insert(&mut self, now: Instant, keep: Option<Duration>, packet: Packet<'_>) {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS_MIN, Kept::default);
        }
        let young = |kept: &Kept| keep.is_some_and(|keep| kept.is_young(now, keep));
        // Of packets that others are missing between, two may meet in twice as many slots again.
        while self.slots.len() < SLOTS_MAX && young(&self.slots[self.index(packet.number)]) {
            self.resize(2 * self.slots.len());
        }
        if self.bytes.is_short(now, keep, packet.payload.len() + packet.descriptor.len()) {
            self.bytes.change_len(self.bytes.longer(), self.slots.iter_mut().map(|kept| &mut kept.place));
        }
        let Some(place) = self.bytes.put(packet.payload, packet.descriptor) else { return };
        let Packet { number, timestamp, payload_type, marker, info, .. } = packet;
        let index = self.index(number);
        self.slots[index] = Kept { number, timestamp, payload_type, marker, info, place, at: Some(now) };
    }

    /// The packet of this number, if it is still there.
    pub(crate) fn get(&self, number: SeqNo) -> Option<Cached<'_>> {
        let kept = self.slots.get(self.index(number)).filter(|kept| kept.number == number)?;
        let (payload, descriptor) = self.bytes.get(kept.place)?;
        Some(Cached { kept, payload, descriptor })
    }

    /// Whether it holds more memory than the least.
    pub(crate) fn has_grown(&self) -> bool {
        self.bytes.ring.len() > BYTES_STEP || self.slots.len() > SLOTS_MIN
    }

    /// Gives back what was not needed for some seconds: the first key frames of a picture that many begin to watch come close together. What
    /// came last stays, however long ago that was: on a screen on which nothing moves a loss shows when the next picture comes.
    pub(crate) fn shrink(&mut self, now: Instant, keep: Duration) {
        let looked_at = self.looked_at.get_or_insert(now);
        if now.saturating_duration_since(*looked_at) < SHRINK_EVERY {
            return;
        }
        *looked_at = now;
        let young = || self.slots.iter().filter(|kept| kept.is_young(now, keep)).map(|kept| kept.number);
        // No two of them meet in half as many slots, nor when there are a few more.
        let spanned = young().max().zip(young().min()).map_or(0, |(newest, oldest)| newest - oldest + 1);
        if spanned > 0 && self.slots.len() > SLOTS_MIN && 5 * spanned < 2 * self.slots.len() as u64 {
            self.resize(self.slots.len() / 2);
        }
        if let Some(len) = self.bytes.shorter() {
            self.bytes.change_len(len, self.slots.iter_mut().map(|kept| &mut kept.place));
        }
    }

    /// Something else is known of a packet now.
    pub(crate) fn set_info(&mut self, number: SeqNo, info: FrameInfo) {
        let index = self.index(number);
        if let Some(kept) = self.slots.get_mut(index).filter(|kept| kept.number == number) {
            kept.info = info;
        }
    }

    fn index(&self, number: SeqNo) -> usize {
        // The length is a power of two that fits any integer.
        usize::try_from(number % self.slots.len().max(1) as u64).unwrap_or(0)
    }

    /// Changes the number of slots; of two packets that meet in one the newer stays.
    fn resize(&mut self, len: usize) {
        let old = std::mem::take(&mut self.slots);
        self.slots.resize_with(len, Kept::default);
        for kept in old.into_iter().filter(|kept| kept.place.lap != 0) {
            let index = self.index(kept.number);
            if self.slots[index].place.lap == 0 || self.slots[index].number < kept.number {
                self.slots[index] = kept;
            }
        }
    }
}

/// A ring of bytes in which every packet stands in one piece.
#[derive(Debug, Default)]
struct Bytes {
    ring: Vec<u8>,
    /// Where the next packet goes.
    head: usize,
    lap: u32,
    /// How many bytes were written in the time for which they are kept.
    lately: Lately<u32, 9>,
    /// The most that this was since it was looked at.
    most: usize,
}

impl Bytes {
    /// Counts what is to come; whether it would be written over what has not been kept for long enough.
    fn is_short(&mut self, now: Instant, keep: Option<Duration>, len: usize) -> bool {
        let Some(keep) = keep else { return self.ring.is_empty() };
        // Before it begins anew, what is left is left empty.
        let left = self.ring.len() - self.head;
        let lately = self.lately.add(now, keep, if len > left { len + left } else { len });
        self.most = self.most.max(lately);
        lately > self.ring.len() && self.ring.len() < BYTES_MAX
    }

    /// A length that is longer by a quarter.
    fn longer(&self) -> usize {
        self.ring.len() + (self.ring.len() / 4).max(BYTES_STEP).min(BYTES_MAX - self.ring.len())
    }

    /// The length that was enough since this was asked last, where it is much shorter and anything came.
    fn shorter(&mut self) -> Option<usize> {
        let most = std::mem::take(&mut self.most);
        let len = (most + most / 8).next_multiple_of(BYTES_STEP);
        (most > 0 && len + len / 4 <= self.ring.len()).then_some(len)
    }

    /// Makes the ring longer or shorter; the packets at `places` stay, or the last of them for which there is room.
    fn change_len<'a>(&mut self, len: usize, places: impl Iterator<Item = &'a mut Place>) {
        let behind = self.ring.len() - self.head;
        let by = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let cut = self.ring.len().saturating_sub(len);
        for place in places {
            // What is left of the lap before comes first.
            let at = match place.lap {
                _ if !self.is_there(*place) => None,
                lap if lap == self.lap => Some(place.start + by(behind)),
                _ => Some(place.start - by(self.head)),
            };
            *place = at.and_then(|at| at.checked_sub(by(cut))).map_or(Place::default(), |start| {
                let lap = self.lap;
                Place { lap, start, ..*place }
            });
        }
        let mut ring = Vec::with_capacity(len);
        let (newer, older) = self.ring.split_at(self.head);
        ring.extend_from_slice(&older[cut.min(older.len())..]);
        ring.extend_from_slice(&newer[cut.saturating_sub(older.len())..]);
        self.head = ring.len();
        self.lap = self.lap.max(1);
        ring.resize(len, 0);
        self.ring = ring;
    }

    /// Writes a packet. `None` when it is longer than any.
    fn put(&mut self, payload: &[u8], descriptor: &[u8]) -> Option<Place> {
        let len = payload.len() + descriptor.len();
        if self.lap == 0 || self.head + len > self.ring.len() {
            self.head = 0;
            self.lap += 1;
        }
        let room = self.ring.get_mut(self.head..self.head + len)?;
        room[..payload.len()].copy_from_slice(payload);
        room[payload.len()..].copy_from_slice(descriptor);
        let place = Place {
            lap: self.lap,
            start: u32::try_from(self.head).ok()?,
            payload_len: u16::try_from(payload.len()).ok()?,
            descriptor_len: u16::try_from(descriptor.len()).ok()?,
        };
        self.head += len;
        Some(place)
    }

    /// Payload and descriptor, unless something else was written there.
    fn get(&self, place: Place) -> Option<(&[u8], &[u8])> {
        let start = usize::try_from(place.start).ok().filter(|_| self.is_there(place))?;
        let (payload, behind) = self.ring.get(start..)?.split_at_checked(usize::from(place.payload_len))?;
        Some((payload, behind.get(..usize::from(place.descriptor_len))?))
    }

    fn is_there(&self, place: Place) -> bool {
        let is_behind = usize::try_from(place.start).is_ok_and(|start| start >= self.head);
        place.lap != 0 && (place.lap == self.lap || (place.lap + 1 == self.lap && is_behind))
    }
}

/// What is put in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) number: SeqNo,
    pub(crate) marker: bool,
    pub(crate) payload_type: u8,
    pub(crate) timestamp: u32,
    pub(crate) info: FrameInfo,
    pub(crate) payload: &'a [u8],
    pub(crate) descriptor: &'a [u8],
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: Option<Duration> = Some(Duration::from_millis(600));

    fn packet<'a>(number: SeqNo, payload: &'a [u8], descriptor: &'a [u8]) -> Packet<'a> {
        let info = FrameInfo::default();
        Packet { number, marker: false, payload_type: 100, timestamp: 0, info, payload, descriptor }
    }

    proptest! {
        /// Whatever comes in whatever order, and is looked through for what is too much: what is found is what was put in, and what is young
        /// is found.
        #[test]
        fn what_is_young_is_found_as_it_came(
            packets in proptest::collection::vec((0..1_250usize, 0..40usize, 0..30u64, 0..3u64), 1..600),
        ) {
            let (start, mut cache, mut ms, mut number) = (Instant::now(), Cache::default(), 0, 70_000);
            let mut sent: Vec<(SeqNo, u64, usize, usize)> = Vec::new();
            let content = |number: SeqNo, len: usize| vec![u8::try_from(number % 251).unwrap(); len];
            for (payload, descriptor, wait, gap) in packets {
                (ms, number) = (ms + wait, number + 1 + gap);
                let now = start + Duration::from_millis(ms);
                let (bytes, behind) = (content(number, payload), content(number + 7, descriptor));
                cache.insert(now, KEEP, packet(number, &bytes, &behind));
                cache.shrink(now, Duration::from_millis(600));
                sent.push((number, ms, payload, descriptor));
            }
            for (number, at, payload, descriptor) in sent {
                match cache.get(number) {
                    Some(found) => {
                        prop_assert_eq!(found.payload, content(number, payload));
                        prop_assert_eq!(found.descriptor, content(number + 7, descriptor));
                    }
                    None => {
                        let is_full = cache.bytes.ring.len() == BYTES_MAX || cache.slots.len() == SLOTS_MAX;
                        prop_assert!(Some(Duration::from_millis(ms - at)) >= KEEP || is_full, "{} ms old", ms - at);
                    }
                }
            }
        }
    }

    #[test]
    fn a_packet_without_a_byte_is_found_too() {
        let (now, mut cache) = (Instant::now(), Cache::default());
        cache.insert(now, KEEP, packet(7, b"", b""));
        assert!(cache.get(7).is_some_and(|found| found.payload.is_empty()));
        cache.insert(now, KEEP, packet(8, &[1; 900], b""));
        assert!(cache.get(7).is_some() && cache.get(8).is_some());
    }

    #[test]
    fn packets_that_would_share_a_slot_of_twice_as_many_are_both_kept() {
        let (now, mut cache) = (Instant::now(), Cache::default());
        [1, 1 + 2 * SLOTS_MIN as u64].into_iter().for_each(|number| cache.insert(now, KEEP, packet(number, &[7], b"")));
        assert!(cache.get(1).is_some() && cache.get(33).is_some());
    }

    #[test]
    fn a_burst_does_not_overwrite_the_one_before_it() {
        let (start, mut cache) = (Instant::now(), Cache::default());
        let bursts = std::iter::once(0).chain((0..80).map(|n| 590 + n / 12)).chain((0..80).map(|n| 600 + n / 12));
        for (number, ms) in (1..).zip(bursts) {
            cache.insert(start + Duration::from_millis(ms), KEEP, packet(number, &[7; 1_200], b""));
        }
        assert!((2..=161).all(|number| cache.get(number).is_some()));
    }

    #[test]
    fn what_has_to_be_kept_is_and_not_much_more() {
        let (start, mut cache) = (Instant::now(), Cache::default());
        for n in 1..=2_000u64 {
            cache.insert(start + Duration::from_millis(n * 5), KEEP, packet(n, &[7; 1_100], b""));
        }
        assert!(cache.get(2_000).is_some() && cache.get(1_890).is_some());
        assert!(cache.get(1_500).is_none() && cache.get(2_001).is_none());
        assert!(cache.slots.len() <= 128 && cache.bytes.ring.len() < 200_000, "{}", cache.bytes.ring.len());
    }

    #[test]
    fn what_bursts_took_is_given_back_and_what_is_young_stays() {
        let (start, mut cache) = (Instant::now(), Cache::default());
        let (mut number, mut lens) = (0, Vec::new());
        for ms in (0..9_000u64).step_by(33) {
            let now = start + Duration::from_millis(ms);
            for _ in 0..if ms < 600 { 8 } else { 1 } {
                number += 1;
                cache.insert(now, KEEP, packet(number, &[7; 1_000], b""));
            }
            cache.shrink(now, Duration::from_millis(600));
            lens.push((cache.slots.len(), cache.bytes.ring.len()));
            assert!((number.saturating_sub(18).max(1)..=number).all(|young| cache.get(young).is_some()), "{ms}");
        }
        assert_eq!(lens.iter().max(), Some(&(256, lens[18].1)), "{lens:?}");
        assert_eq!(*lens.last().unwrap(), (32, 24 << 10), "{lens:?}");
    }

    #[test]
    fn the_last_picture_of_a_still_screen_stays() {
        let (start, mut cache) = (Instant::now(), Cache::default());
        for second in 0..12u64 {
            for n in 0..10 {
                cache.insert(start + Duration::from_secs(second), KEEP, packet(10 * second + n, &[7; 1_100], b""));
            }
            for ms in (0..1_000).step_by(200) {
                cache.shrink(start + Duration::from_millis(1_000 * second + ms), Duration::from_millis(600));
            }
            assert!((10 * second..10 * second + 10).all(|number| cache.get(number).is_some()), "{second}");
        }
    }

    #[test]
    fn packets_that_would_share_a_slot_of_half_as_many_are_both_kept() {
        let (start, mut cache) = (Instant::now(), Cache::default());
        let at = |ms| start + Duration::from_millis(ms);
        (1..=128).for_each(|number| cache.insert(at(0), KEEP, packet(number, &[7], b"")));
        cache.shrink(at(0), Duration::from_millis(600));
        // Far fewer than slots, and sixty-four numbers between two of them.
        [129, 193].into_iter().for_each(|number| cache.insert(at(1_900), KEEP, packet(number, &[7], b"")));
        cache.shrink(at(2_000), Duration::from_millis(600));
        assert!(cache.get(129).is_some() && cache.get(193).is_some());
    }

    #[test]
    fn a_large_picture_of_a_still_screen_stays_while_nothing_comes() {
        let (start, mut cache) = (Instant::now(), Cache::default());
        (1..=100).for_each(|number| cache.insert(start, KEEP, packet(number, &[7; 1_000], b"")));
        (0..20).for_each(|second| cache.shrink(start + Duration::from_secs(second), Duration::from_millis(600)));
        assert!((1..=100).all(|number| cache.get(number).is_some()));
    }

    #[test]
    fn what_nobody_asks_for_takes_no_room_and_goes_on_to_be_kept_when_somebody_does() {
        let (start, mut cache) = (Instant::now(), Cache::default());
        for n in 1..=1_000u64 {
            let keep = KEEP.filter(|_| n > 900);
            cache.insert(start + Duration::from_millis(n), keep, packet(n, &[7; 1_200], b""));
            assert!(cache.get(n).is_some() && cache.has_grown() == (n > 900), "{n}");
        }
        assert!((901..=1_000).all(|n| cache.get(n).is_some()));
    }

    #[test]
    fn a_longer_way_keeps_more() {
        let kept = [0, 80, 150, 400].map(|ms| worth_keeping(Duration::from_millis(ms)).as_millis());
        assert_eq!(kept, [600, 600, 750, 1_000]);
    }
}
