//! A synthetic microphone: Opus packets of 20 ms with a counter and an audio level (RFC 7587, RFC 6464).

use std::time::{Duration, Instant};

use tertulia_model::{SourceName, Ssrc};

use crate::clock::Clock;
use crate::stamp::{Stamp, source_hash};

/// Packets while somebody speaks.
const SPEAKING: Duration = Duration::from_millis(20);
/// Packets while nobody does: comfort noise, as with DTX.
const SILENT: Duration = Duration::from_millis(400);
/// In Hz.
const CLOCK_RATE: u128 = 48_000;
/// In −dBov.
const SPEECH_LEVEL: i8 = -25;
const SILENCE_LEVEL: i8 = -127;
/// CELT, 20 ms, mono, one frame (RFC 6716 §3.1).
const TABLE_OF_CONTENTS: u8 = 0xf8;

/// One microphone.
#[derive(Debug)]
pub(crate) struct Voice {
    pub(crate) name: SourceName,
    pub(crate) ssrc: Ssrc,
    pub(crate) speaking: bool,
    started: Option<Instant>,
    next: Option<Instant>,
    last: Option<Instant>,
    source: u32,
    /// Packets so far.
    pub(crate) count: u32,
    sequence: u64,
}

/// A packet to be sent.
pub(crate) struct AudioPacket {
    pub(crate) ssrc: Ssrc,
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    /// The first of a talk spurt (RFC 3551 §4.1).
    pub(crate) marker: bool,
    pub(crate) level: i8,
    pub(crate) payload: Vec<u8>,
}

impl Voice {
    /// A microphone that starts with the next tick, silent.
    pub(crate) fn new(name: SourceName, ssrc: Ssrc, seed: u32) -> Self {
        let source = source_hash(&name);
        let sequence = u64::from(seed & 0xffff);
        Self { name, ssrc, speaking: false, started: None, next: None, last: None, source, count: 0, sequence }
    }

    /// Starts or ends a talk spurt.
    pub(crate) fn speak(&mut self, now: Instant, speaking: bool) {
        if speaking && !self.speaking {
            // Behind what was said already: no two packets are of one time.
            self.next = Some(self.last.map_or(now, |last| now.max(last + SPEAKING)));
        }
        self.speaking = speaking;
    }

    /// When the next packet is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Says what is due.
    pub(crate) fn on_timeout(&mut self, now: Instant, clock: Clock, mut packet: impl FnMut(AudioPacket)) {
        let due = *self.next.get_or_insert(now);
        if now < due {
            return;
        }
        let started = *self.started.get_or_insert(now);
        self.last = Some(now);
        let interval = if self.speaking { SPEAKING } else { SILENT };
        // Whoever was held up goes on from here: no two packets are of one time.
        let next = due + interval;
        self.next = Some(if next > now { next } else { now + interval });
        let ticks = now.duration_since(started).as_micros() * CLOCK_RATE / 1_000_000;
        let mut payload = vec![TABLE_OF_CONTENTS];
        Stamp::of_sound(self.source, self.count, clock.micros(now)).write(&mut payload);
        if self.speaking {
            payload.resize(80, 0x33);
        }
        packet(AudioPacket {
            ssrc: self.ssrc,
            sequence: self.sequence,
            timestamp: u32::try_from(ticks & 0xffff_ffff).unwrap_or(0),
            marker: self.count == 0,
            level: if self.speaking { SPEECH_LEVEL } else { SILENCE_LEVEL },
            payload,
        });
        self.count = self.count.wrapping_add(1);
        self.sequence += 1;
    }
}

/// The counter of a received payload of ours.
pub(crate) fn read(payload: &[u8]) -> Option<Stamp> {
    Stamp::parse(payload.get(1..)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_comes_every_20_ms_and_silence_seldom() {
        let start = Instant::now();
        let mut voice = Voice::new(SourceName::parse("a-a0").unwrap(), Ssrc(1), 65_535);
        let count = |voice: &mut Voice, from: u64, to: u64| {
            let mut packets = Vec::new();
            for ms in from..to {
                voice.on_timeout(start + Duration::from_millis(ms), Clock::starting(start), |packet| {
                    packets.push(packet);
                });
            }
            packets
        };
        assert_eq!(count(&mut voice, 0, 1_000).len(), 3);
        voice.speak(start + Duration::from_secs(1), true);
        let said = count(&mut voice, 1_000, 2_000);
        assert_eq!(said.len(), 50);
        assert!(said.iter().all(|packet| packet.level == SPEECH_LEVEL && read(&packet.payload).is_some()));
        assert_eq!(said[1].timestamp - said[0].timestamp, 960);
    }
}
