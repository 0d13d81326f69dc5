//! What went out under which number of one stream: so that a retransmission finds its packet and a late packet its place.

use std::time::{Duration, Instant};

use tertulia_rtp::sequence::{SeqNo, low32};

use crate::lately::Lately;

/// Entries of a new history: what is kept of a thumbnail.
const LEN_MIN: usize = 16;
/// Entries of a full one: a second of 10 Mbit/s.
const LEN_MAX: usize = 1024;

/// What became of an outgoing number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fate {
    /// Nothing is known: before the beginning, or forgotten.
    #[default]
    Unknown,
    /// It went out, or waits in the pacer.
    Sent {
        /// As the last packet of its picture for this receiver.
        marker: bool,
    },
    /// Its packet has not come in yet; it may still be wanted.
    Reserved,
    /// Its packet came in late and was not wanted: padding went out in its place.
    Filled,
}

/// One outgoing number, eight bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entry {
    /// Low 32 bits of the incoming number.
    pub(crate) number: u32,
    /// Pictures left out before it, since the segment began.
    pub(crate) left_out: u16,
    /// Its fate in the lowest bits, and above when it was repeated: milliseconds modulo 2¹³, 0 for never.
    state: u16,
}

const FATE_BITS: u32 = 3;
/// Four times the longest gap between repetitions: nobody who was answered that long ago still asks.
const REPEATED_MASK: u16 = u16::MAX >> FATE_BITS;

impl Fate {
    fn code(self) -> u16 {
        match self {
            Self::Unknown => 0,
            Self::Sent { marker: false } => 1,
            Self::Sent { marker: true } => 2,
            Self::Reserved => 3,
            Self::Filled => 4,
        }
    }

    fn of(code: u16) -> Self {
        match code {
            1 | 2 => Self::Sent { marker: code == 2 },
            3 => Self::Reserved,
            4 => Self::Filled,
            _ => Self::Unknown,
        }
    }
}

/// A ring by outgoing number. It grows to what has to be kept and then never allocates again.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: Vec<Entry>,
    highest: SeqNo,
    /// How many numbers there were in the time for which they are remembered.
    lately: Lately<u32, 3>,
}

impl History {
    /// Notes the next number, for this long at least. Numbers come without gaps, except that the first may be any.
    pub(crate) fn push(&mut self, now: Instant, keep: Duration, out: SeqNo, entry: Entry) {
        self.make_room(now, keep);
        self.highest = out;
        let index = self.index(out);
        self.entries[index] = entry;
    }

    /// What is known of a number.
    pub(crate) fn get(&self, out: SeqNo) -> Option<&Entry> {
        let behind = usize::try_from(self.highest.checked_sub(out)?).ok()?;
        let entry = self.entries.get(self.index(out)).filter(|_| behind < self.entries.len())?;
        Some(entry).filter(|entry| entry.fate() != Fate::Unknown)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, out: SeqNo) -> Option<&mut Entry> {
        self.get(out)?;
        let index = self.index(out);
        self.entries.get_mut(index)
    }

    /// The place that was kept for an incoming number at or after `from`, if it is still empty.
    pub(crate) fn reserved(&self, from: SeqNo, number: SeqNo) -> Option<SeqNo> {
        let oldest = (self.highest + 1).saturating_sub(self.entries.len() as u64);
        let (mut low, mut high) = (from.max(oldest), self.highest + 1);
        let wanted = low32(number);
        while low < high {
            let middle = low + (high - low) / 2;
            let here = self.entries[self.index(middle)].number;
            // Half of the number space is far more than a history spans.
            match here.wrapping_sub(wanted) {
                0 => return Some(middle).filter(|out| self.entries[self.index(*out)].fate() == Fate::Reserved),
                1..0x8000_0000 => high = middle,
                _ => low = middle + 1,
            }
        }
        None
    }

    fn make_room(&mut self, now: Instant, keep: Duration) {
        let lately = self.lately.add(now, keep, 1);
        if self.entries.is_empty() {
            self.entries.resize(LEN_MIN, Entry::default());
        } else if lately > self.entries.len() && self.entries.len() < LEN_MAX {
            let old = std::mem::take(&mut self.entries);
            let len = 2 * old.len();
            self.entries.resize(len, Entry::default());
            let oldest = (self.highest + 1).saturating_sub(old.len() as u64);
            for out in oldest..=self.highest {
                let (from, to) = (place(out, old.len()), place(out, len));
                self.entries[to] = old[from];
            }
        }
    }

    fn index(&self, out: SeqNo) -> usize {
        place(out, self.entries.len().max(1))
    }
}

impl Entry {
    /// A number with what it stands for.
    pub(crate) fn new(number: SeqNo, left_out: u16, fate: Fate) -> Self {
        Self { number: low32(number), left_out, state: fate.code() }
    }

    /// What became of it.
    pub(crate) fn fate(&self) -> Fate {
        Fate::of(self.state & !(u16::MAX << FATE_BITS))
    }

    /// Something else became of it.
    pub(crate) fn set_fate(&mut self, fate: Fate) {
        self.state = self.state & u16::MAX << FATE_BITS | fate.code();
    }

    /// The incoming number in full, near `newest` of the same encoding.
    pub(crate) fn wide(&self, newest: SeqNo) -> SeqNo {
        newest.wrapping_sub(u64::from(low32(newest).wrapping_sub(self.number)))
    }

    /// Counts a repetition; `false` when the last one was less than `gap_ms` ago.
    pub(crate) fn may_repeat(&mut self, since_start_ms: u64, gap_ms: u16) -> bool {
        let now = u16::try_from(since_start_ms & u64::from(REPEATED_MASK)).unwrap_or(0).max(1);
        let last = self.state >> FATE_BITS;
        if last != 0 && now.wrapping_sub(last) & REPEATED_MASK < gap_ms {
            return false;
        }
        self.state = now << FATE_BITS | self.fate().code();
        true
    }
}

/// Lengths are powers of two that fit any integer.
fn place(out: SeqNo, len: usize) -> usize {
    usize::try_from(out % len as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Fate = Fate::Sent { marker: false };

    #[test]
    fn a_second_is_remembered_at_any_rate_and_an_idle_stream_costs_little() {
        for per_second in [10u64, 100, 900] {
            let (mut history, start) = (History::default(), Instant::now());
            for n in 0..per_second * 5 {
                let now = start + Duration::from_micros(1_000_000 * n / per_second);
                history.push(now, Duration::from_secs(1), 70_000 + n, Entry::new(n * 2, 0, SENT));
            }
            let last = 70_000 + per_second * 5 - 1;
            let oldest = history.get(last - per_second * 9 / 10).unwrap();
            assert_eq!(u64::from(oldest.number), (per_second * 5 - 1 - per_second * 9 / 10) * 2);
            assert!(history.get(last + 1).is_none());
            assert!(history.entries.len() as u64 <= (per_second * 4).max(32), "{}", history.entries.len());
        }
    }

    #[test]
    fn a_late_packet_finds_the_place_that_was_kept_for_it() {
        let (mut history, now) = (History::default(), Instant::now());
        for (out, number, fate) in
            [(10, 100, SENT), (11, 101, Fate::Reserved), (12, 102, Fate::Reserved), (13, 107, SENT)]
        {
            history.push(now, Duration::from_secs(1), out, Entry::new(number, 0, fate));
        }
        assert_eq!((history.reserved(10, 101), history.reserved(10, 102)), (Some(11), Some(12)));
        assert_eq!((history.reserved(10, 100), history.reserved(10, 105)), (None, None));
        assert_eq!(history.reserved(12, 101), None, "from before a switch");
    }

    #[test]
    fn numbers_are_widened_over_the_wrap_of_their_low_half() {
        let entry = Entry::new(0xffff_fffe, 0, SENT);
        assert_eq!(entry.wide(0x1_0000_0005), 0xffff_fffe);
        assert_eq!(size_of::<Entry>(), 8);
    }

    #[test]
    fn a_repetition_is_refused_within_its_gap_and_not_after() {
        for (start_ms, gap_ms) in [(0, 100), (9, 20), (1_000, 100), (8_190, 100), (70_000, 2_000)] {
            let again = |after_ms: u16| {
                let mut entry = Entry::new(1, 0, Fate::Sent { marker: true });
                assert!(entry.may_repeat(start_ms, gap_ms));
                let may = entry.may_repeat(start_ms + u64::from(after_ms), gap_ms);
                assert_eq!(entry.fate(), Fate::Sent { marker: true });
                may
            };
            assert!((2..gap_ms).all(|after| !again(after)) && (gap_ms + 1..6_000).all(again), "{start_ms} {gap_ms}");
        }
    }
}
