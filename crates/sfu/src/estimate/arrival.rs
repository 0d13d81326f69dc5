//! Packet groups: how much later than they were sent apart did bursts arrive (draft-ietf-rmcat-gcc-02 §5.2, §5.3).

/// Packets sent within this are one group: a pacer's tick writes them together.
const GROUP_US: u64 = 5_000;
/// Packets that arrive within this of each other were held up together on the way and are one group too …
const BURST_GAP_US: i64 = 5_000;
/// … up to this length.
const BURST_MAX_US: i64 = 100_000;
/// A difference between the clocks' steps that no queue explains: one of the clocks jumped.
const JUMP_US: i64 = 3_000_000;

/// Cuts what arrives into groups. Send times are microseconds of our clock, arrivals of the receiver's.
#[derive(Debug, Default)]
pub(super) struct Groups {
    previous: Option<Group>,
    current: Option<Group>,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    first_sent_us: u64,
    last_sent_us: u64,
    first_arrival_us: i64,
    last_arrival_us: i64,
}

/// From one group to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    /// Time between their last packets as sent, in milliseconds.
    pub(super) sent_ms: f64,
    /// How much that grew on the way, in milliseconds.
    pub(super) delay_ms: f64,
    /// Arrival of the later one, in milliseconds of the receiver's clock.
    pub(super) arrival_ms: f64,
}

impl Groups {
    /// Adds a packet; tells the step between the two groups before it when it starts a new one. A packet that
    /// overtook or was overtaken by a whole group says nothing about queues and is left out.
    pub(super) fn add(&mut self, sent_us: u64, arrival_us: i64) -> Option<Step> {
        let Some(current) = &mut self.current else {
            self.current = Some(Group::new(sent_us, arrival_us));
            return None;
        };
        if sent_us < current.first_sent_us {
            return None;
        }
        if arrival_us.saturating_sub(current.last_arrival_us) < -JUMP_US {
            // The open group would take in everything until the clock is where it was.
            *self = Self { previous: None, current: Some(Group::new(sent_us, arrival_us)) };
            return None;
        }
        if current.takes(sent_us, arrival_us) {
            current.last_sent_us = current.last_sent_us.max(sent_us);
            current.last_arrival_us = current.last_arrival_us.max(arrival_us);
            return None;
        }
        if sent_us < current.last_sent_us {
            return None;
        }
        let finished = *current;
        *current = Group::new(sent_us, arrival_us);
        let previous = self.previous.replace(finished)?;
        let sent = (finished.last_sent_us - previous.last_sent_us).cast_signed();
        let arrived = finished.last_arrival_us.checked_sub(previous.last_arrival_us)?;
        let delay = arrived.checked_sub(sent)?;
        (arrived >= 0 && delay.abs() < JUMP_US).then(|| Step {
            sent_ms: sent as f64 / 1e3,
            delay_ms: delay as f64 / 1e3,
            arrival_ms: finished.last_arrival_us as f64 / 1e3,
        })
    }
}

impl Group {
    fn new(sent_us: u64, arrival_us: i64) -> Self {
        Self {
            first_sent_us: sent_us,
            last_sent_us: sent_us,
            first_arrival_us: arrival_us,
            last_arrival_us: arrival_us,
        }
    }

    fn takes(&self, sent_us: u64, arrival_us: i64) -> bool {
        if sent_us - self.first_sent_us <= GROUP_US {
            return true;
        }
        let gap = arrival_us.saturating_sub(self.last_arrival_us);
        let caught_up = gap < sent_us.saturating_sub(self.last_sent_us).cast_signed();
        caught_up && gap <= BURST_GAP_US && arrival_us.saturating_sub(self.first_arrival_us) < BURST_MAX_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_compared_by_their_last_packets() {
        let mut groups = Groups::default();
        let packets = [(0, 50_000), (2_000, 52_000), (33_000, 83_000), (35_000, 86_000)];
        for (sent, arrival) in packets {
            assert_eq!(groups.add(sent, arrival), None);
        }
        let step = groups.add(66_000, 120_000).unwrap();
        assert_eq!(step, Step { sent_ms: 33.0, delay_ms: 1.0, arrival_ms: 86.0 });
    }

    #[test]
    fn a_packet_from_inside_a_finished_burst_is_left_out() {
        let mut groups = Groups::default();
        // The second was sent much later and arrived in the same burst; the third was sent between them and came late.
        for (sent, arrival) in [(0, 50_000), (20_000, 51_000), (10_000, 90_000)] {
            assert_eq!(groups.add(sent, arrival), None);
        }
        assert_eq!(groups.add(40_000, 100_000), None);
        assert_eq!(groups.add(60_000, 120_000), Some(Step { sent_ms: 20.0, delay_ms: 29.0, arrival_ms: 100.0 }));
    }

    #[test]
    fn a_clock_that_jumps_and_a_packet_that_was_overtaken_say_nothing() {
        let mut groups = Groups::default();
        for (sent, arrival) in [(0, 0), (20_000, 20_000), (1_000, 90_000), (40_000, 9_000_000_000), (60_000, i64::MIN)]
        {
            let step = groups.add(sent, arrival);
            assert!(step.is_none_or(|step| step.delay_ms == 0.0), "{step:?}");
        }
        // And afterwards there are steps again.
        let steps = (4..9).filter_map(|n| groups.add(n * 20_000, i64::try_from(n).unwrap() * 20_000 - 5_000_000_000));
        assert!(steps.count() >= 3);
    }
}
