//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1): the recorder
//! of a receiver.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sequence::{SeqNo, SequenceExtender, low16};

/// Most packets one feedback covers; also the memory of the recorder.
const SPAN_MAX: usize = 512;
/// Unit of deltas.
const TICK_US: u64 = 250;
/// Unit of the reference time, in ticks: 64 ms.
const REFERENCE_TICKS: u64 = 256;

/// Records when numbered packets arrive and tells it to their sender. Memory is fixed after the first packets.
#[derive(Debug, Default)]
pub struct Recorder {
    extender: SequenceExtender,
    /// Sequence number of `arrivals[0]`.
    base: SeqNo,
    /// Arrival in ticks since the start, per sequence number from `base`.
    arrivals: VecDeque<Option<u64>>,
    feedback_count: u8,
}

impl Recorder {
    /// Records one packet, `since_start` of any steady clock.
    pub fn record(&mut self, sequence: u16, since_start: Duration) {
        let tick = u64::try_from(since_start.as_micros()).unwrap_or(u64::MAX) / TICK_US;
        let wide = self.extender.extend(sequence);
        if self.base == 0 {
            self.base = wide; // The first: the extender starts far above 0.
        }
        let Some(offset) = wide.checked_sub(self.base) else { return }; // told as lost already
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if offset >= SPAN_MAX {
            // A jump: what lies before it will never be told.
            self.arrivals.clear();
            self.base = wide;
            self.arrivals.push_back(Some(tick));
            return;
        }
        while self.arrivals.len() <= offset {
            self.arrivals.push_back(None);
        }
        self.arrivals[offset] = Some(tick);
    }

    /// Whether there is something to tell: something arrived.
    pub fn is_pending(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Writes the feedback of what came since the last one; returns its length in bytes (a multiple of 4), or 0 for
    /// nothing.
    pub fn write(&mut self, out: &mut [u8; 1024]) -> usize {
        // Losses before the first arrival are told too: the sender concludes nothing from what is not mentioned.
        let Some(first) = self.arrivals.iter().flatten().next().copied() else { return 0 };
        let reference = first / REFERENCE_TICKS;
        let count = self.coverable(reference);
        let chunks = count.div_ceil(7);
        out[..2].copy_from_slice(&low16(self.base).to_be_bytes());
        out[2..4].copy_from_slice(&u16::try_from(count).unwrap_or(0).to_be_bytes());
        let reference_bytes = u32::try_from(reference & 0x00ff_ffff).unwrap_or(0).to_be_bytes();
        out[4..7].copy_from_slice(&reference_bytes[1..]);
        out[7] = self.feedback_count;
        let (mut chunk_at, mut delta_at) = (8, 8 + 2 * chunks);
        let mut last = reference * REFERENCE_TICKS;
        for chunk in 0..chunks {
            // Two-bit status vectors, 7 symbols each: 0 lost, 1 small delta, 2 large or negative delta.
            let mut word: u16 = 0b11 << 14;
            for (index, arrival) in self.arrivals.iter().take(count).skip(chunk * 7).take(7).enumerate() {
                let Some(tick) = *arrival else { continue };
                let delta = tick.cast_signed() - last.cast_signed();
                last = tick;
                let shift = 12 - 2 * index;
                if let Ok(small) = u8::try_from(delta) {
                    word |= 1 << shift;
                    out[delta_at] = small;
                    delta_at += 1;
                } else {
                    word |= 2 << shift;
                    let large = i16::try_from(delta).unwrap_or(i16::MAX);
                    out[delta_at..delta_at + 2].copy_from_slice(&large.to_be_bytes());
                    delta_at += 2;
                }
            }
            out[chunk_at..chunk_at + 2].copy_from_slice(&word.to_be_bytes());
            chunk_at += 2;
        }
        let len = delta_at.next_multiple_of(4);
        out[delta_at..len].fill(0);
        self.arrivals.drain(..count);
        self.base += count as u64;
        self.feedback_count = self.feedback_count.wrapping_add(1);
        len
    }

    /// How many packets fit: every delta in 16 bits, and the whole in the buffer.
    fn coverable(&self, reference: u64) -> usize {
        let mut last = reference * REFERENCE_TICKS;
        let mut bytes = 8;
        for (index, arrival) in self.arrivals.iter().enumerate() {
            if index % 7 == 0 {
                bytes += 2;
            }
            if let Some(tick) = *arrival {
                if i16::try_from(tick.cast_signed() - last.cast_signed()).is_err() {
                    return index.max(1);
                }
                last = tick;
                bytes += 2;
            }
            if bytes > 1000 {
                return index;
            }
        }
        self.arrivals.len()
    }
}

/// Packets of one feedback: more than two seconds of 20 Mbit/s. A datagram of feedbacks that each claim all of the numbers takes as long to
/// read as a thousand honest ones.
const COUNT_MAX: usize = 4096;

/// Reads a feedback: calls `each` with every sequence number and, when it arrived, its arrival in microseconds since
/// the reference epoch of the receiver. Returns `None` when the feedback is malformed or claims too many packets.
pub fn read(feedback: &[u8], mut each: impl FnMut(u16, Option<i64>)) -> Option<()> {
    let (header, body) = feedback.split_first_chunk::<8>()?;
    let count = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if count > COUNT_MAX {
        return None;
    }
    let (chunks, deltas) = split(body, count)?;
    let reference = u64::from(u32::from_be_bytes([0, header[4], header[5], header[6]]));
    let mut sequence = u16::from_be_bytes([header[0], header[1]]);
    let mut arrivals = Arrivals { deltas, at_us: (reference * REFERENCE_TICKS * TICK_US).cast_signed() };
    let mut left = count;
    for chunk in chunks.chunks_exact(2) {
        let chunk = u16::from_be_bytes([chunk[0], chunk[1]]);
        let len = chunk_len(chunk).min(left);
        left -= len;
        // The symbols of a vector, from the highest bit on; a run is a symbol that does not move.
        let (mut symbols, width, step) = match chunk >> 14 {
            0 | 1 => ((chunk & 0x6000) << 1, 2, 0),
            2 => (chunk << 2, 1, 1),
            _ => (chunk << 2, 2, 2),
        };
        for _ in 0..len {
            let at = arrivals.next(symbols >> (16 - width))?;
            each(sequence, at);
            symbols <<= step;
            sequence = sequence.wrapping_add(1);
        }
    }
    Some(())
}

/// Separates the chunks for so many packets from the deltas behind them.
fn split(body: &[u8], count: usize) -> Option<(&[u8], &[u8])> {
    let (mut covered, mut end) = (0, 0);
    while covered < count {
        let len = chunk_len(u16::from_be_bytes([*body.get(end)?, *body.get(end + 1)?]));
        if len == 0 {
            return None;
        }
        covered += len;
        end += 2;
    }
    Some(body.split_at(end))
}

/// The arrivals that are still to be told.
struct Arrivals<'a> {
    deltas: &'a [u8],
    at_us: i64,
}

impl Arrivals<'_> {
    /// The arrival of the next packet; the outer `None` when its delta is missing. Symbol 3 is reserved and counts as
    /// lost.
    #[inline]
    fn next(&mut self, symbol: u16) -> Option<Option<i64>> {
        let ticks = match symbol {
            1 => {
                let (delta, rest) = self.deltas.split_first()?;
                self.deltas = rest;
                i64::from(*delta)
            }
            2 => {
                let (delta, rest) = self.deltas.split_first_chunk()?;
                self.deltas = rest;
                i64::from(i16::from_be_bytes(*delta))
            }
            _ => return Some(None),
        };
        self.at_us += ticks * TICK_US.cast_signed();
        Some(Some(self.at_us))
    }
}

/// How many packets a chunk covers; 0 is malformed.
fn chunk_len(chunk: u16) -> usize {
    match chunk >> 14 {
        0 | 1 => usize::from(chunk & 0x1fff),
        2 => 14,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_told() {
        let mut recorder = Recorder::default();
        let times = [(65_534u16, 100_000u64), (65_535, 100_500), (1, 180_000), (2, 179_000)];
        for (sequence, us) in times {
            recorder.record(sequence, Duration::from_micros(us));
        }
        let mut buffer = [0u8; 1024];
        let len = recorder.write(&mut buffer);
        assert_eq!(len % 4, 0);
        let mut told = Vec::new();
        read(&buffer[..len], |sequence, at| told.push((sequence, at))).unwrap();
        assert_eq!(
            told,
            [(65_534, Some(100_000)), (65_535, Some(100_500)), (0, None), (1, Some(180_000)), (2, Some(179_000))]
        );
        assert!(!recorder.is_pending());
        assert_eq!(recorder.write(&mut buffer), 0);
    }

    #[test]
    fn a_long_burst_needs_several_feedbacks_and_loses_nothing() {
        let mut recorder = Recorder::default();
        for sequence in 0..500u16 {
            recorder.record(sequence, Duration::from_millis(u64::from(sequence) * 70));
        }
        let mut told = Vec::new();
        let mut buffer = [0u8; 1024];
        loop {
            let len = recorder.write(&mut buffer);
            if len == 0 {
                break;
            }
            read(&buffer[..len], |sequence, at| told.push((sequence, at.unwrap()))).unwrap();
        }
        assert_eq!(told.len(), 500);
        assert!(told.iter().all(|(sequence, at)| *at == i64::from(*sequence) * 70_000));
    }

    #[test]
    fn every_kind_of_chunk_is_read() {
        let feedback = [
            0xff,
            0xfe,
            0,
            27,
            0,
            0,
            1,
            9, // from 65 534 on, 27 packets, reference 64 ms
            0x20,
            3, // run of 3 small deltas
            0b1010_0000,
            0b0000_0001, // 14 symbols of one bit: small, 12 lost, small
            0b1101_1000,
            0b0100_0011, // 7 symbols of two bits: 1, 2, 0, 1, 0, 0, 3
            0,
            100, // lost; more than there are
            1,
            2,
            3,
            4,
            5,
            6,
            0xff,
            0xfe,
            8, // deltas
            0,
            0,
            0, // to the next word
        ];
        let mut told = Vec::new();
        read(&feedback, |sequence, at| told.push((sequence, at.map(|us| us / 250)))).unwrap();
        assert_eq!(told.len(), 27);
        assert!(told.iter().zip(65_534u16..=65_535).all(|(told, sequence)| told.0 == sequence));
        assert_eq!((told[2].0, told[26].0), (0, 24));
        let came: Vec<_> = told.iter().filter_map(|(sequence, at)| at.map(|tick| (*sequence, tick))).collect();
        assert_eq!(
            came,
            [(65_534, 257), (65_535, 259), (0, 262), (1, 266), (14, 271), (15, 277), (16, 275), (18, 283)]
        );
        for len in 0..feedback.len() - 3 {
            assert!(read(&feedback[..len], |_, _| {}).is_none(), "{len}");
        }
    }

    #[test]
    fn a_feedback_that_claims_more_than_anybody_sends_is_refused() {
        let claims = |count: u16| {
            let mut feedback = [&[0, 0][..], &count.to_be_bytes(), &[0, 0, 0, 0]].concat();
            feedback.extend((0..8).flat_map(|_| 0x1fff_u16.to_be_bytes())); // runs of packets that did not arrive
            read(&feedback, |_, _| {})
        };
        assert_eq!((claims(4_096), claims(4_097), claims(u16::MAX)), (Some(()), None, None));
    }

    #[test]
    fn a_chunk_that_covers_nothing_is_refused() {
        assert!(read(&[0, 0, 0, 1, 0, 0, 0, 0, 0x20, 0, 1, 1], |_, _| {}).is_none());
        assert!(read(&[0, 0, 0, 0, 0, 0, 0, 0], |_, _| {}).is_some(), "nothing to tell");
    }
}
