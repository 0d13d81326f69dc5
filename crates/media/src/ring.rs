//! A bounded ring of bytes from one thread to another: how packets get from a worker to the next. No lock, and no
//! allocation after the first packet; what does not fit is refused.
//!
//! Bytes are kept in atomic words, so that no `unsafe` is needed: a relaxed store of a word costs what a plain one
//! does, and a packet of 1200 bytes is 150 of them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Words of a ring: a megabyte, which is 60 ms of 125 Mbit/s; a worker that sleeps longer does not keep up anyway.
const WORDS: usize = 1 << 17;

/// The two ends share it.
struct Ring {
    /// Made by the first push, because most pairs of workers never share a conference. A power of two.
    words: OnceLock<Box<[AtomicU64]>>,
    len: usize,
    /// Words written and read since the beginning; each is written by one end only.
    written: Padded,
    read: Padded,
}

/// A line of the cache of its own: the two ends must not fight for one.
#[repr(align(128))]
struct Padded(AtomicUsize);

/// Where packets go in.
pub struct Producer {
    ring: Arc<Ring>,
    written: usize,
    /// As far as is known; looked up again only when the ring seems full.
    read: usize,
}

/// Where packets come out.
pub struct Consumer {
    ring: Arc<Ring>,
    read: usize,
}

/// A new ring of the usual size.
pub fn ring() -> (Producer, Consumer) {
    ring_of(WORDS)
}

/// A new ring of so many words, rounded up to a power of two.
pub fn ring_of(words: usize) -> (Producer, Consumer) {
    let (written, read) = (Padded(AtomicUsize::new(0)), Padded(AtomicUsize::new(0)));
    let ring = Arc::new(Ring { words: OnceLock::new(), len: words.next_power_of_two(), written, read });
    (Producer { ring: Arc::clone(&ring), written: 0, read: 0 }, Consumer { ring, read: 0 })
}

impl Producer {
    /// Puts a packet in; `false` when there is no room.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let needed = 1 + packet.len().div_ceil(8);
        if self.written + needed - self.read > self.ring.len {
            // What is read must have been read before it is overwritten.
            self.read = self.ring.read.0.load(Ordering::Acquire);
            if self.written + needed - self.read > self.ring.len {
                return false;
            }
        }
        let words = self.ring.words.get_or_init(|| (0..self.ring.len).map(|_| AtomicU64::new(0)).collect());
        let mask = self.ring.len - 1;
        words[self.written & mask].store(packet.len() as u64, Ordering::Relaxed);
        let (whole, rest) = packet.as_chunks::<8>();
        let (first, second) = places(words, self.written + 1, whole.len());
        let (one, two) = whole.split_at(first.len());
        for (place, bytes) in first.iter().zip(one).chain(second.iter().zip(two)) {
            place.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            words[(self.written + 1 + whole.len()) & mask].store(u64::from_le_bytes(last), Ordering::Relaxed);
        }
        self.written += needed;
        // Everything stored above is seen by whoever sees this.
        self.ring.written.0.store(self.written, Ordering::Release);
        true
    }
}

impl Consumer {
    /// Takes the next packet into a buffer; its length. What the buffer cannot hold is cut off.
    pub fn pop(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let words = self.ring.words.get()?;
        let mask = self.ring.len - 1;
        let len = usize::try_from(words[self.read & mask].load(Ordering::Relaxed)).unwrap_or(0);
        let taken = len.min(buffer.len());
        let (whole, rest) = buffer[..taken].as_chunks_mut::<8>();
        let (first, second) = places(words, self.read + 1, whole.len());
        let (one, two) = whole.split_at_mut(first.len());
        for (place, bytes) in first.iter().zip(one).chain(second.iter().zip(two)) {
            *bytes = place.load(Ordering::Relaxed).to_le_bytes();
        }
        let last = words[(self.read + 1 + taken / 8) & mask].load(Ordering::Relaxed).to_le_bytes();
        rest.copy_from_slice(&last[..taken % 8]);
        self.read += 1 + len.div_ceil(8);
        self.ring.read.0.store(self.read, Ordering::Release);
        Some(taken)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.ring.written.0.load(Ordering::Acquire) == self.read
    }
}

/// So many words from a place on, which may go over the end to the beginning.
fn places(words: &[AtomicU64], from: usize, count: usize) -> (&[AtomicU64], &[AtomicU64]) {
    let start = from & (words.len() - 1);
    let first = count.min(words.len() - start);
    (&words[start..start + first], &words[..count - first])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_refuses_and_goes_on_when_something_was_taken() {
        let (mut producer, mut consumer) = ring_of(16);
        let mut buffer = [0; 64];
        assert_eq!(consumer.pop(&mut buffer), None);
        for round in 0..50u8 {
            assert!(producer.push(&[round; 60]), "nine words");
            assert!(producer.push(&[round + 1; 7]), "two");
            assert!(!producer.push(&[9; 40]), "five are left, and it takes six");
            assert!(producer.push(&[]));
            assert_eq!(consumer.pop(&mut buffer).map(|len| buffer[..len].to_vec()), Some(vec![round; 60]));
            assert_eq!(consumer.pop(&mut buffer).map(|len| buffer[..len].to_vec()), Some(vec![round + 1; 7]));
            assert_eq!(consumer.pop(&mut buffer), Some(0));
            assert!(consumer.is_empty());
        }
        assert!(!producer.push(&[0; 200]), "more than it can ever hold");
    }

    #[test]
    fn two_threads_pass_a_hundred_thousand_packets_whole_and_in_order() {
        let (mut producer, mut consumer) = ring_of(256);
        let writer = std::thread::spawn(move || {
            let mut packet = [0; 300];
            for n in 0..100_000u32 {
                let len = 4 + usize::try_from(n % 290).unwrap();
                packet[..4].copy_from_slice(&n.to_be_bytes());
                packet[4..len].fill(n as u8);
                while !producer.push(&packet[..len]) {
                    std::thread::yield_now();
                }
            }
        });
        let mut buffer = [0; 300];
        for n in 0..100_000u32 {
            let len = loop {
                match consumer.pop(&mut buffer) {
                    Some(len) => break len,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!((len, &buffer[..4]), (4 + usize::try_from(n % 290).unwrap(), &n.to_be_bytes()[..]));
            assert!(buffer[4..len].iter().all(|byte| *byte == n as u8));
        }
        writer.join().unwrap();
    }
}
