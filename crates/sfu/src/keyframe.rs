//! When to ask a sender for a key frame: once for everybody who needs it.

use std::time::{Duration, Instant};

/// Shortest gap between two requests for the same encoding.
///
/// An encoder needs about 100–300 ms to answer; asking sooner only adds load.
const GAP: Duration = Duration::from_millis(300);

/// The wish for a key frame of one encoding.
#[derive(Debug, Default)]
pub(crate) struct KeyframeWish {
    wanted: bool,
    asked: Option<Instant>,
}

impl KeyframeWish {
    /// Somebody needs one.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// One came.
    pub(crate) fn satisfied(&mut self) {
        self.wanted = false;
    }

    /// Whether to ask now. Asks again in intervals until one comes: requests get lost too.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.wanted && self.asked.is_none_or(|at| now.saturating_duration_since(at) >= GAP);
        if due {
            self.asked = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wishes_are_one_request() {
        let start = Instant::now();
        let mut wish = KeyframeWish::default();
        let mut asked = 0;
        for ms in 0..1_000u64 {
            wish.want();
            asked += u32::from(wish.is_due(start + Duration::from_millis(ms)));
        }
        assert_eq!(asked, 4);
        wish.satisfied();
        assert!(!wish.is_due(start + Duration::from_secs(9)));
    }
}
