//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1): the recorder of a receiver.

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
        if self.arrivals.is_empty() {
            self.base = wide.max(self.base);
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

    /// Whether there is something to tell.
    pub fn is_pending(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Writes the feedback of what came since the last one; returns its length in bytes (a multiple of 4), or 0 for nothing.
    pub fn write(&mut self, out: &mut [u8; 1024]) -> usize {
        while self.arrivals.front().is_some_and(Option::is_none) {
            self.arrivals.pop_front();
            self.base += 1;
        }
        let Some(Some(first)) = self.arrivals.front().copied() else { return 0 };
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

/// Reads a feedback: calls `each` with every sequence number and, when it arrived, its arrival in microseconds since the reference
/// epoch of the receiver. Returns `None` when the feedback is malformed.
pub fn read(feedback: &[u8], mut each: impl FnMut(u16, Option<i64>)) -> Option<()> {
    let header = feedback.get(..8)?;
    let base = u16::from_be_bytes([header[0], header[1]]);
    let count = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let reference = i64::from(u32::from_be_bytes([0, header[4], header[5], header[6]]));
    // First pass: where the deltas start. Every chunk covers at least one packet, so this ends.
    let mut covered = 0;
    let mut at = 8;
    while covered < count {
        let chunk = u16::from_be_bytes([*feedback.get(at)?, *feedback.get(at + 1)?]);
        covered += chunk_len(chunk)?;
        at += 2;
    }
    let mut tick = reference * REFERENCE_TICKS.cast_signed();
    let (mut chunk_at, mut done) = (8, 0);
    while done < count {
        let chunk = u16::from_be_bytes([feedback[chunk_at], feedback[chunk_at + 1]]);
        chunk_at += 2;
        for index in 0..chunk_len(chunk)?.min(count - done) {
            let sequence = base.wrapping_add(u16::try_from(done + index).ok()?);
            let delta = match symbol(chunk, index) {
                1 => {
                    at += 1;
                    i64::from(*feedback.get(at - 1)?)
                }
                2 => {
                    at += 2;
                    i64::from(i16::from_be_bytes([*feedback.get(at - 2)?, *feedback.get(at - 1)?]))
                }
                _ => {
                    each(sequence, None);
                    continue;
                }
            };
            tick += delta;
            each(sequence, Some(tick * TICK_US.cast_signed()));
        }
        done += chunk_len(chunk)?;
    }
    Some(())
}

fn chunk_len(chunk: u16) -> Option<usize> {
    let len = match chunk >> 14 {
        0 | 1 => usize::from(chunk & 0x1fff),
        2 => 14,
        _ => 7,
    };
    (len > 0).then_some(len)
}

fn symbol(chunk: u16, index: usize) -> u16 {
    match chunk >> 14 {
        0 | 1 => (chunk >> 13) & 3,
        2 => (chunk >> (13 - index)) & 1,
        _ => (chunk >> (12 - 2 * index)) & 3,
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
}
