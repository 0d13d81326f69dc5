//! Limits on what one occupant may ask of the focus.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// At least 5 s between two restarts, at most 5 a minute.
const RESTART_GAP: Duration = Duration::from_secs(5);
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// Restarts of one kind.
#[derive(Debug, Default)]
pub(crate) struct RestartBudget {
    granted: VecDeque<Instant>,
}

impl RestartBudget {
    /// Grants one, or not.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        while self.granted.front().is_some_and(|at| now.saturating_duration_since(*at) >= RESTART_WINDOW) {
            self.granted.pop_front();
        }
        let too_soon = self.granted.back().is_some_and(|at| now.saturating_duration_since(*at) < RESTART_GAP);
        if too_soon || self.granted.len() >= RESTARTS_MAX {
            return false;
        }
        self.granted.push_back(now);
        true
    }
}

/// A burst of 20 changes, then 5 a second.
const BURST: f64 = 20.0;
const PER_SECOND: f64 = 5.0;

/// Jingle changes of one occupant.
#[derive(Debug, Default)]
pub(crate) struct ChangeBudget {
    used: f64,
    last: Option<Instant>,
}

impl ChangeBudget {
    /// Grants one, or not.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = Some(now);
        self.used = (self.used - elapsed.as_secs_f64() * PER_SECOND).max(0.0) + 1.0;
        if self.used > BURST {
            self.used -= 1.0;
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_spaced_and_counted() {
        let start = Instant::now();
        let mut budget = RestartBudget::default();
        assert!(budget.take(start));
        assert!(!budget.take(start + Duration::from_secs(4)));
        let granted = (1..12).filter(|n| budget.take(start + Duration::from_secs(5 * n))).count();
        assert_eq!(granted, 4);
        assert!(budget.take(start + Duration::from_secs(61)));
    }

    #[test]
    fn a_burst_of_changes_passes_and_a_flood_does_not() {
        let start = Instant::now();
        let mut budget = ChangeBudget::default();
        assert_eq!((0..50).filter(|_| budget.take(start)).count(), 20);
        assert_eq!((0..50).filter(|_| budget.take(start + Duration::from_secs(1))).count(), 5);
    }
}
