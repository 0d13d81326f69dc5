//! What one receiver asks for, kept between its messages.

use std::collections::BTreeMap;

use tertulia_model::SourceName;

/// Lines for sources without a constraint of their own, until the receiver says otherwise: pictures small enough for anybody.
const DEFAULT_MAX_HEIGHT: i32 = 180;
/// Most sources named in one message; more than a page can show.
pub(crate) const NAMED_MAX: usize = 500;

/// A receiver's wishes. Heights are lines of the smaller dimension: −1 unlimited, 0 off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Constraints {
    /// Most video sources; `None` is unlimited.
    pub(crate) last_n: Option<u32>,
    pub(crate) on_stage: Vec<SourceName>,
    pub(crate) selected: Vec<SourceName>,
    pub(crate) default_max_height: i32,
    pub(crate) max_heights: BTreeMap<SourceName, i32>,
    /// Whether the receiver has spoken: only then its initial last-N is over.
    spoken: bool,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            last_n: None,
            on_stage: Vec::new(),
            selected: Vec::new(),
            default_max_height: DEFAULT_MAX_HEIGHT,
            max_heights: BTreeMap::new(),
            spoken: false,
        }
    }
}

/// One message; members that are missing keep their value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Negative means unlimited.
    pub(crate) last_n: Option<i32>,
    pub(crate) on_stage: Option<Vec<SourceName>>,
    pub(crate) selected: Option<Vec<SourceName>>,
    pub(crate) default_max_height: Option<i32>,
    pub(crate) max_heights: Option<BTreeMap<SourceName, i32>>,
}

impl Constraints {
    /// The limit that came with the answer; over as soon as the receiver says something itself.
    pub(crate) fn set_initial_last_n(&mut self, last_n: u32) {
        if !self.spoken {
            self.last_n = Some(last_n);
        }
    }

    /// Takes a message.
    pub(crate) fn apply(&mut self, change: Change) {
        self.spoken = true;
        if let Some(last_n) = change.last_n {
            self.last_n = u32::try_from(last_n).ok();
        }
        if let Some(on_stage) = change.on_stage {
            self.on_stage = on_stage;
        }
        if let Some(selected) = change.selected {
            self.selected = selected;
        }
        if let Some(height) = change.default_max_height {
            self.default_max_height = height;
        }
        if let Some(heights) = change.max_heights {
            self.max_heights = heights;
        }
    }

    /// The limit for one source, last-N left aside.
    pub(crate) fn max_height(&self, name: &SourceName) -> i32 {
        self.max_heights.get(name).copied().unwrap_or(self.default_max_height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_members_keep_their_value() {
        let mut constraints = Constraints::default();
        constraints.set_initial_last_n(5);
        constraints.apply(Change { default_max_height: Some(360), ..Change::default() });
        assert_eq!((constraints.last_n, constraints.default_max_height), (Some(5), 360));
        constraints.apply(Change { last_n: Some(-1), ..Change::default() });
        assert_eq!((constraints.last_n, constraints.default_max_height), (None, 360));
        constraints.set_initial_last_n(5);
        assert_eq!(constraints.last_n, None, "the receiver has spoken");
    }
}
