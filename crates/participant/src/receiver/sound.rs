//! Received sound: packets of one source, in an order that fits their counters.

use std::collections::BTreeMap;
use std::time::Instant;

use tertulia_model::{EndpointId, SourceName};

use super::carried::Carried;
use super::newer;
use super::report::AudioReport;
use crate::stamp::source_hash;
use crate::voice;

/// Packets remembered.
const REMEMBERED: usize = 512;

/// One received audio source.
#[derive(Debug)]
pub(crate) struct AudioReceiver {
    pub(crate) report: AudioReport,
    carried: Carried,
    /// By sequence number: counters of one source and timestamps of all grow with it, what is left out is left out for good.
    heard: BTreeMap<u64, Heard>,
    first: Option<u32>,
    newest: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    source: u32,
    count: u32,
    timestamp: u64,
}

impl Heard {
    fn follows(self, before: Self) -> bool {
        self.timestamp > before.timestamp && (self.source != before.source || newer(self.count, before.count))
    }
}

impl AudioReceiver {
    /// Of a stream that is one source's for ever.
    pub(crate) fn new(source: SourceName, owner: EndpointId) -> Self {
        let carried = Carried::always(source_hash(&source));
        Self { carried, ..Self::changing(source, owner) }
    }

    /// Of a stream that carries one source after the other.
    pub(crate) fn changing(source: SourceName, owner: EndpointId) -> Self {
        let carried = Carried::changing(source_hash(&source));
        let report = AudioReport::new(source, owner);
        Self { report, carried, heard: BTreeMap::new(), first: None, newest: 0 }
    }

    /// Another source comes under this SSRC from now on; it has to go on where the one before stops. Returns how that one fared.
    pub(crate) fn change_source(&mut self, source: SourceName, owner: EndpointId) -> AudioReport {
        self.carried.change(source_hash(&source));
        (self.first, self.newest) = (None, 0);
        std::mem::replace(&mut self.report, AudioReport::new(source, owner))
    }

    /// Takes a packet; sequence number and timestamp are free of roll-over.
    pub(crate) fn handle(&mut self, now: Instant, sequence: u64, timestamp: u64, payload: &[u8]) {
        let Some(stamp) = voice::read(payload) else {
            return self.report.violation(format!("packet {sequence} is damaged"));
        };
        if !self.carried.allows(now, stamp.source) {
            return self.report.violation(format!("packet {sequence} is of another source"));
        }
        let heard = Heard { source: stamp.source, count: stamp.frame, timestamp };
        let before = self.heard.range(..sequence).next_back().map(|(_, before)| *before);
        let after = self.heard.range(sequence + 1..).next().map(|(_, after)| *after);
        let same = self.heard.insert(sequence, heard);
        let fits = before.is_none_or(|before| heard.follows(before))
            && after.is_none_or(|after| after.follows(heard))
            && same.is_none_or(|same| same == heard);
        if !fits {
            self.report.violation(format!("packet {sequence} is out of order"));
        }
        if stamp.source == self.carried.present() {
            self.report.packets += 1;
            self.report.last_heard = Some(now);
            if same.is_none() {
                self.count(stamp.frame);
            }
        }
        while self.heard.len() > REMEMBERED {
            self.heard.pop_first();
        }
    }

    fn count(&mut self, number: u32) {
        self.report.distinct += 1;
        let first = *self.first.get_or_insert(number);
        if self.report.distinct == 1 {
            self.newest = number;
        } else if newer(number, self.newest) {
            let gap = number.wrapping_sub(self.newest) - 1;
            self.report.longest_gap = self.report.longest_gap.max(gap.into());
            self.newest = number;
        }
        self.report.span = u64::from(self.newest.wrapping_sub(first)) + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;

    #[test]
    fn gaps_are_counted_and_disorder_is_written_down() {
        let name = SourceName::parse("a-a0").unwrap();
        let mut receiver = AudioReceiver::new(name.clone(), EndpointId::parse("a").unwrap());
        let mut hear = |sequence, count| {
            let mut payload = vec![0xf8];
            Stamp::of_sound(source_hash(&name), count, 0).write(&mut payload);
            receiver.handle(Instant::now(), sequence, 960 * u64::from(count), &payload);
            receiver.report.clone()
        };
        for (sequence, count) in [(10, 5), (11, 6), (14, 9), (13, 8), (14, 9)] {
            hear(sequence, count);
        }
        let report = hear(15, 10);
        assert_eq!((report.packets, report.distinct, report.span, report.longest_gap), (6, 5, 6, 2));
        assert_eq!(report.violations, [""; 0]);
        assert_eq!(hear(16, 7).violations.len(), 1);
        assert_eq!(hear(15, 11).violations.len(), 2, "one number for two");
    }
}
