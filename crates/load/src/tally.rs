//! What a generator's clients saw, summed up.

use std::collections::BTreeMap;

use crate::histogram::Histogram;

/// Sums over clients, since they were last cleared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Packets that authenticated and whose stamp and sum are right.
    pub(crate) verified: u64,
    /// Bytes of their datagrams.
    pub(crate) bytes: u64,
    /// What no loss excuses.
    pub(crate) violations: BTreeMap<&'static str, u64>,
    /// Packets older than one that came before.
    pub(crate) reordered: u64,
    /// Packets that came a second time, or far too late to tell.
    pub(crate) replayed: u64,
    /// Retransmissions that brought something.
    pub(crate) recovered: u64,
    /// Retransmissions of what had come, padding.
    pub(crate) probes: u64,
    /// Losses asked for.
    pub(crate) nacked: u64,
    /// Key frames asked for.
    pub(crate) plis: u64,
    /// Video frames that were due, complete, and complete in time.
    pub(crate) frames: u64,
    pub(crate) frames_complete: u64,
    pub(crate) frames_on_time: u64,
    /// Feedback, keep-alives and handshakes from the bridge.
    pub(crate) others: u64,
    /// Packets that publishers sent.
    pub(crate) sent: u64,
    /// Frames that a publisher took more than 5 ms late: the generator does not keep up.
    pub(crate) late_frames: u64,
    /// From the publisher's stamp to here.
    pub(crate) latency: Histogram,
    /// From joining to the first frame, or sound where there are no pictures. Milliseconds.
    pub(crate) first_frame: Histogram,
    /// From the change of the stage to its first frame. Milliseconds.
    pub(crate) switched: Histogram,
    /// Gaps between frames of more than 150 ms. Milliseconds.
    pub(crate) freezes: Histogram,
}

impl Tally {
    /// Notes something that must not happen.
    pub(crate) fn violation(&mut self, what: &'static str) {
        *self.violations.entry(what).or_default() += 1;
    }

    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.violations {
            *self.violations.entry(what).or_default() += count;
        }
        for (own, more) in self.numbers().into_iter().zip(other.clone().numbers()) {
            *own += *more;
        }
        self.latency.add(&other.latency);
        self.first_frame.add(&other.first_frame);
        self.switched.add(&other.switched);
        self.freezes.add(&other.freezes);
    }

    /// Forgets what belongs to a window; violations and first frames stay.
    pub(crate) fn clear(&mut self) {
        self.numbers().into_iter().for_each(|number| *number = 0);
        self.latency.clear();
        self.switched.clear();
        self.freezes.clear();
    }

    fn numbers(&mut self) -> [&mut u64; 14] {
        [
            &mut self.verified,
            &mut self.bytes,
            &mut self.reordered,
            &mut self.replayed,
            &mut self.recovered,
            &mut self.probes,
            &mut self.nacked,
            &mut self.plis,
            &mut self.frames,
            &mut self.frames_complete,
            &mut self.frames_on_time,
            &mut self.others,
            &mut self.sent,
            &mut self.late_frames,
        ]
    }
}
