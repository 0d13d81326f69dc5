//! Received sound: packets of one source, in an order that fits their counters.

use std::collections::BTreeMap;
use std::time::Instant;

use tertulia_model::{EndpointId, SourceName};

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
    expected: u32,
    /// Counter by sequence number: both grow together, what is left out is left out for good.
    heard: BTreeMap<u64, u32>,
    first: Option<u32>,
    newest: u32,
}

impl AudioReceiver {
    pub(crate) fn new(source: SourceName, owner: EndpointId) -> Self {
        let expected = source_hash(&source);
        let report = AudioReport::new(source, owner);
        Self { report, expected, heard: BTreeMap::new(), first: None, newest: 0 }
    }

    pub(crate) fn handle(&mut self, now: Instant, sequence: u64, payload: &[u8]) {
        self.report.packets += 1;
        self.report.last_heard = Some(now);
        let Some(stamp) = voice::read(payload) else {
            return self.report.violation(format!("packet {sequence} is damaged"));
        };
        if stamp.source != self.expected {
            return self.report.violation(format!("packet {sequence} is of another source"));
        }
        let before = self.heard.range(..sequence).next_back().map(|(_, count)| *count);
        let after = self.heard.range(sequence + 1..).next().map(|(_, count)| *count);
        let same = self.heard.insert(sequence, stamp.frame);
        let fits = before.is_none_or(|count| newer(stamp.frame, count))
            && after.is_none_or(|count| newer(count, stamp.frame))
            && same.is_none_or(|count| count == stamp.frame);
        if !fits {
            self.report.violation(format!("packet {sequence} is out of order"));
        }
        if same.is_none() {
            self.count(stamp.frame);
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
            receiver.handle(Instant::now(), sequence, &payload);
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
