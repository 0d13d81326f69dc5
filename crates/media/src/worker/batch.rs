//! Sealed datagrams on their way out: one arena, filled and flushed over and over, each time put in order by receiver.

use std::net::SocketAddr;
use std::ops::Range;

/// Room that a datagram is offered: a full packet, SRTP's trailer, and some. It keeps what it fills.
const SLOT_LEN: usize = 1600;
/// Bytes of datagrams in one flush: two hundred full packets, about as many as one call takes in runs of four. It shares a core's
/// second-level cache with the keys and numbers of all receivers: with a thousand of them 1.5 MB cost 15 % more for each packet.
const ARENA_LEN: usize = 256 * 1024;
/// Datagrams of one flush: the arena full of packets of sound, about.
pub(crate) const ENTRIES_MAX: usize = 2048;
/// Segments that the kernel takes in one message (`UDP_MAX_SEGMENTS` before Linux 6.9).
pub(crate) const SEGMENTS_MAX: usize = 64;
/// Bytes of one message: what the length field of UDP can say, less the headers.
const RUN_LEN_MAX: usize = 65_000;
/// Longest segment: longer ones might not fit the next link and want to be fragmented, which segmentation does not do.
const SEGMENT_LEN_MAX: usize = 1_440;

/// Takes full batches.
pub trait Flush {
    /// Sends everything in the batch. What cannot be sent is lost, as datagrams are.
    fn flush(&mut self, batch: &Batch);
}

/// One datagram of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Send from here.
    pub local: SocketAddr,
    /// Send to here.
    pub remote: SocketAddr,
    at: u32,
    len: u32,
    owner: u32,
}

impl Entry {
    fn range(&self) -> Range<usize> {
        let at = index(self.at);
        at..at + index(self.len)
    }

    fn goes_where(&self, other: &Self) -> bool {
        self.remote == other.remote && self.local == other.local
    }
}

/// An arena of datagrams. Its memory is allocated once, but for eight bytes an owner.
#[derive(Debug)]
pub struct Batch {
    arena: Box<[u8]>,
    used: usize,
    entries: Vec<Entry>,
    order: Vec<u16>,
    groups: Groups,
}

impl Default for Batch {
    fn default() -> Self {
        Self::with_len(ARENA_LEN)
    }
}

impl Batch {
    fn with_len(len: usize) -> Self {
        Self {
            arena: vec![0; len].into_boxed_slice(),
            used: 0,
            entries: Vec::with_capacity(ENTRIES_MAX),
            order: Vec::with_capacity(ENTRIES_MAX),
            groups: Groups::default(),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Datagrams as they are to be sent: those of one owner behind each other, each owner's in the order they were put in.
    pub fn iter(&self) -> impl Iterator<Item = (Entry, &[u8])> {
        self.order.iter().map(|place| {
            let entry = self.entries[usize::from(*place)];
            (entry, &self.arena[entry.range()])
        })
    }

    /// The same datagrams, neighbours that one message can carry put together.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        let mut rest = &self.order[..];
        std::iter::from_fn(move || {
            let (run, behind) = rest.split_at(self.run_len(rest));
            rest = behind;
            let first = self.entries.get(usize::from(*run.first()?))?;
            Some(Run { batch: self, places: run, first })
        })
    }

    /// Offers room to `fill`, which returns length and addresses, or nothing. A full batch is flushed first. `owner` is a small number:
    /// datagrams of one owner are sent together.
    pub(crate) fn push(
        &mut self,
        flush: &mut dyn Flush,
        owner: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<(usize, SocketAddr, SocketAddr)>,
    ) {
        if self.entries.len() == ENTRIES_MAX || self.used + SLOT_LEN > self.arena.len() {
            self.flush(flush);
        }
        let at = self.used;
        if let Some((len, local, remote)) = fill(&mut self.arena[at..at + SLOT_LEN]) {
            self.used += len;
            self.entries.push(Entry { local, remote, at: narrow(at), len: narrow(len), owner: narrow(owner) });
        }
    }

    /// Hands everything over.
    pub(crate) fn flush(&mut self, flush: &mut dyn Flush) {
        if !self.entries.is_empty() {
            self.groups.sort(&self.entries, &mut self.order);
            flush.flush(self);
            self.entries.clear();
            self.order.clear();
            self.used = 0;
        }
    }

    /// How many of the first of `places` one message can carry: equally long, but for the last, which may be shorter.
    fn run_len(&self, places: &[u16]) -> usize {
        let Some(first) = places.first().and_then(|place| self.entries.get(usize::from(*place))) else { return 0 };
        let segment = index(first.len);
        if segment > SEGMENT_LEN_MAX || segment == 0 {
            return 1;
        }
        let max = SEGMENTS_MAX.min(RUN_LEN_MAX / segment);
        let mut len = 1;
        for place in places[1..].iter().take(max - 1) {
            let next = &self.entries[usize::from(*place)];
            if next.len > first.len || next.len == 0 || !next.goes_where(first) {
                break;
            }
            len += 1;
            if next.len < first.len {
                break;
            }
        }
        len
    }
}

/// Datagrams that one message can carry.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    batch: &'a Batch,
    places: &'a [u16],
    first: &'a Entry,
}

impl<'a> Run<'a> {
    /// Send from here.
    pub fn local(&self) -> SocketAddr {
        self.first.local
    }

    /// Send to here.
    pub fn remote(&self) -> SocketAddr {
        self.first.remote
    }

    /// How many datagrams.
    pub fn segments(&self) -> usize {
        self.places.len()
    }

    /// Length of each datagram, but for the last, which may be shorter.
    pub fn segment_len(&self) -> usize {
        index(self.first.len)
    }

    /// Their bytes, in as few pieces as they lie in. A piece holds whole datagrams.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        let (batch, mut places) = (self.batch, self.places.iter().peekable());
        std::iter::from_fn(move || {
            let mut range = batch.entries[usize::from(*places.next()?)].range();
            while let Some(next) =
                places.next_if(|place| batch.entries[usize::from(**place)].range().start == range.end)
            {
                range.end = batch.entries[usize::from(*next)].range().end;
            }
            Some(&batch.arena[range])
        })
    }
}

/// A counting sort of entries by owner: stable, owners in the order of their first entries.
#[derive(Debug, Default)]
struct Groups {
    /// For each owner: the sort it last took part in, and its group in it.
    seen: Vec<(u32, u16)>,
    sort: u32,
    /// For each group: first its size, then the next place in the order.
    next: Vec<u16>,
}

impl Groups {
    fn sort(&mut self, entries: &[Entry], order: &mut Vec<u16>) {
        self.sort = self.sort.wrapping_add(1);
        if self.sort == 0 {
            self.seen.fill((0, 0)); // four thousand million sorts ago nobody was seen
            self.sort = 1;
        }
        self.next.clear();
        for entry in entries {
            let group = self.group(index(entry.owner));
            self.next[group] += 1;
        }
        let mut start = 0;
        for next in &mut self.next {
            start += std::mem::replace(next, start);
        }
        order.clear();
        order.resize(entries.len(), 0);
        for (place, entry) in (0u16..).zip(entries) {
            let (_, group) = self.seen[index(entry.owner)];
            let next = &mut self.next[usize::from(group)];
            order[usize::from(*next)] = place;
            *next += 1;
        }
    }

    fn group(&mut self, owner: usize) -> usize {
        if owner >= self.seen.len() {
            self.seen.resize(owner + 1, (0, 0));
        }
        let (sort, group) = &mut self.seen[owner];
        if *sort != self.sort {
            *sort = self.sort;
            *group = u16::try_from(self.next.len()).unwrap_or(u16::MAX);
            self.next.push(0);
        }
        usize::from(*group)
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Places in the arena, lengths and owners are far below the limit.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Flushed = Vec<(u16, usize, Vec<u8>, usize)>;

    /// Of each run: port, segments, bytes, pieces.
    #[derive(Default)]
    struct Runs(Flushed);

    impl Flush for Runs {
        fn flush(&mut self, batch: &Batch) {
            let sent: Vec<u8> = batch.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
            let mut again = Vec::new();
            for run in batch.runs() {
                let bytes = run.pieces().collect::<Vec<_>>().concat();
                again.extend_from_slice(&bytes);
                let len = run.segment_len();
                assert!(bytes.len() <= run.segments() * len && bytes.len() > (run.segments() - 1) * len);
                self.0.push((run.remote().port(), run.segments(), bytes, run.pieces().count()));
            }
            assert_eq!(sent, again);
        }
    }

    fn push(batch: &mut Batch, flush: &mut Runs, owner: usize, len: usize, byte: u8) {
        let local = SocketAddr::from(([127, 0, 0, 1], 1));
        let remote = SocketAddr::from(([127, 0, 0, 1], u16::try_from(owner).unwrap()));
        batch.push(flush, owner, |slot| {
            slot[..len].fill(byte);
            Some((len, local, remote))
        });
    }

    fn shape(runs: &Runs) -> Vec<(u16, usize, usize)> {
        runs.0.iter().map(|(port, segments, _, pieces)| (*port, *segments, *pieces)).collect()
    }

    #[test]
    fn datagrams_of_one_receiver_go_together_in_their_order() {
        let (mut batch, mut runs) = (Batch::default(), Runs::default());
        for byte in 0..3 {
            for owner in [5, 9, 2] {
                push(&mut batch, &mut runs, owner, 100, byte);
            }
        }
        batch.flush(&mut runs);
        assert_eq!(shape(&runs), [(5, 3, 3), (9, 3, 3), (2, 3, 3)]);
        let bytes: Vec<u8> = [0, 1, 2].into_iter().flat_map(|byte| [byte; 100]).collect();
        assert!(runs.0.iter().all(|(_, _, sent, _)| *sent == bytes));
        assert!(batch.is_empty());
    }

    #[test]
    fn any_mixture_is_sorted_like_by_a_stable_sort() {
        let (mut batch, mut runs, mut state) = (Batch::default(), Runs::default(), 7u32);
        for _ in 0..50 {
            let mut owners = Vec::new();
            for byte in 0..100 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let owner = index(state >> 16) % 40;
                owners.push((owner, byte));
                push(&mut batch, &mut runs, owner, 10, byte);
            }
            batch.flush(&mut runs);
            let first = |owner: usize| owners.iter().position(|(other, _)| *other == owner);
            let mut expected = owners.clone();
            expected.sort_by_key(|(owner, _)| first(*owner));
            let sent = runs.0.drain(..).flat_map(|(port, _, bytes, _)| {
                bytes.chunks(10).map(|bytes| (usize::from(port), bytes[0])).collect::<Vec<_>>()
            });
            assert_eq!(sent.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn neighbours_are_one_piece_and_a_shorter_one_ends_a_run() {
        let (mut batch, mut runs) = (Batch::default(), Runs::default());
        for len in [1200, 1200, 1100, 1100, 1200, 130] {
            push(&mut batch, &mut runs, 7, len, 1);
        }
        batch.flush(&mut runs);
        assert_eq!(shape(&runs), [(7, 3, 1), (7, 1, 1), (7, 2, 1)]);
    }

    #[test]
    fn a_run_is_never_longer_than_the_kernel_takes() {
        let (mut batch, mut runs) = (Batch::default(), Runs::default());
        (0..130).for_each(|_| push(&mut batch, &mut runs, 1, 200, 1));
        (0..60).for_each(|_| push(&mut batch, &mut runs, 2, 1_400, 1));
        (0..2).for_each(|_| push(&mut batch, &mut runs, 3, 1_500, 1));
        batch.flush(&mut runs);
        let segments: Vec<usize> = runs.0.iter().map(|(_, segments, ..)| *segments).collect();
        assert_eq!(segments, [64, 64, 2, 46, 14, 1, 1]);
    }

    #[test]
    fn a_full_batch_is_flushed_and_nothing_is_lost() {
        let (mut batch, mut runs) = (Batch::with_len(20 * SLOT_LEN), Runs::default());
        for n in 0..1_000 {
            push(&mut batch, &mut runs, n % 7, 60 + n % 1_000, 1);
        }
        batch.flush(&mut runs);
        assert_eq!(runs.0.iter().map(|(_, segments, ..)| segments).sum::<usize>(), 1_000);
        let (mut batch, mut runs) = (Batch::default(), Runs::default());
        (0..=ENTRIES_MAX).for_each(|_| push(&mut batch, &mut runs, 1, 1, 1));
        assert_eq!(runs.0.iter().map(|(_, segments, ..)| segments).sum::<usize>(), ENTRIES_MAX);
    }

    #[test]
    fn another_address_of_the_same_receiver_is_another_run() {
        let (mut batch, mut runs) = (Batch::default(), Runs::default());
        for port in [1u16, 1, 2] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            batch.push(&mut runs, 4, |_| Some((50, address, address)));
        }
        batch.push(&mut runs, 4, |_| None);
        batch.flush(&mut runs);
        assert_eq!(shape(&runs), [(1, 2, 1), (2, 1, 1)]);
    }
}
