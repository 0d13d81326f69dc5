//! What one receiver asks for, pictures and sound, kept between its messages.

use std::collections::{BTreeMap, BTreeSet};

use tertulia_model::SourceName;

/// Lines for sources without a constraint of their own, until the receiver says otherwise: pictures small enough for
/// anybody.
const DEFAULT_MAX_HEIGHT: i32 = 180;
/// Most sources named in one message; more than a page can show.
pub(crate) const NAMED_MAX: usize = 500;
/// Most that a receiver may make us assume about its link: no more than an estimate could find.
const ASSUMED_BANDWIDTH_MAX_BPS: u64 = 20_000_000;

/// How large and how fast a picture may be: −1 unlimited, 0 off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limit {
    /// Lines of the smaller dimension.
    pub(crate) max_height: i32,
    /// Frames per second.
    pub(crate) max_frame_rate: f32,
}

impl Limit {
    /// A height alone.
    pub(crate) const fn lines(max_height: i32) -> Self {
        Self { max_height, max_frame_rate: -1.0 }
    }

    /// Whether no picture is wanted.
    pub(crate) fn is_off(self) -> bool {
        self.max_height == 0 || self.max_frame_rate == 0.0
    }

    /// Whether a picture of `height` lines is small enough.
    pub(crate) fn allows_height(self, height: u16) -> bool {
        self.max_height < 0 || i32::from(height) <= self.max_height
    }

    /// Whether `fps` frames per second are few enough. They are measured: a tenth too many is not more.
    pub(crate) fn allows_frame_rate(self, fps: f32) -> bool {
        self.max_frame_rate < 0.0 || fps <= self.max_frame_rate * 1.1
    }
}

/// A receiver's wishes for pictures.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Constraints {
    /// Most video sources; `None` is unlimited.
    pub(crate) last_n: Option<u32>,
    pub(crate) on_stage: Vec<SourceName>,
    pub(crate) selected: Vec<SourceName>,
    pub(crate) default_limit: Limit,
    pub(crate) limits: BTreeMap<SourceName, Limit>,
    /// Bits per second that the receiver knows it can take, whatever we find.
    pub(crate) assumed_bandwidth_bps: Option<u64>,
    /// Whether the receiver has spoken: only then its initial last-N is over.
    spoken: bool,
    /// Grows with each change.
    version: u32,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            last_n: None,
            on_stage: Vec::new(),
            selected: Vec::new(),
            default_limit: Limit::lines(DEFAULT_MAX_HEIGHT),
            limits: BTreeMap::new(),
            assumed_bandwidth_bps: None,
            spoken: false,
            version: 1,
        }
    }
}

/// One message; members that are missing keep their value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Change {
    /// Negative means unlimited.
    pub(crate) last_n: Option<i32>,
    pub(crate) on_stage: Option<Vec<SourceName>>,
    pub(crate) selected: Option<Vec<SourceName>>,
    pub(crate) default_limit: Option<Limit>,
    pub(crate) limits: Option<BTreeMap<SourceName, Limit>>,
    /// Negative means that there is none.
    pub(crate) assumed_bandwidth_bps: Option<i64>,
}

impl Constraints {
    /// The limit that came with the answer; over as soon as the receiver says something itself.
    pub(crate) fn set_initial_last_n(&mut self, last_n: u32) {
        if !self.spoken {
            self.last_n = Some(last_n);
            self.renew();
        }
    }

    /// Takes a message.
    pub(crate) fn apply(&mut self, change: Change) {
        self.spoken = true;
        self.renew();
        if let Some(last_n) = change.last_n {
            self.last_n = u32::try_from(last_n).ok();
        }
        if let Some(on_stage) = change.on_stage {
            self.on_stage = on_stage;
        }
        if let Some(selected) = change.selected {
            self.selected = selected;
        }
        if let Some(limit) = change.default_limit {
            self.default_limit = limit;
        }
        if let Some(limits) = change.limits {
            self.limits = limits;
        }
        if let Some(bps) = change.assumed_bandwidth_bps {
            self.assumed_bandwidth_bps = u64::try_from(bps).ok().map(|bps| bps.min(ASSUMED_BANDWIDTH_MAX_BPS));
        }
    }

    /// The limit for one source, last-N left aside.
    pub(crate) fn limit(&self, name: &SourceName) -> Limit {
        self.limits.get(name).copied().unwrap_or(self.default_limit)
    }

    /// To a version that is not 0, which stands for none.
    fn renew(&mut self) {
        self.version = self.version.wrapping_add(1).max(1);
    }

    /// Grows with each change: what was worked out from an older version has to be worked out again.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }
}

/// What somebody wants of one audio source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// Nothing.
    Never,
    /// Like everybody else's: where only the loudest are forwarded, when it is one of them.
    Ranked,
    /// Whatever its loudness. The only way to get a source that no person sends.
    Always,
}

/// A receiver's wishes for sound. It stays as it is until the next message, which replaces all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AudioSubscription {
    /// Whether sources that are not named are wanted.
    pub(crate) all: bool,
    pub(crate) include: BTreeSet<SourceName>,
    /// Wins over the others.
    pub(crate) exclude: BTreeSet<SourceName>,
}

impl Default for AudioSubscription {
    fn default() -> Self {
        Self { all: true, include: BTreeSet::new(), exclude: BTreeSet::new() }
    }
}

impl AudioSubscription {
    /// What is wanted of one source. To be asked when wishes or sources change, not per packet.
    pub(crate) fn hearing(&self, name: &SourceName) -> Hearing {
        if self.exclude.contains(name) {
            Hearing::Never
        } else if self.include.contains(name) {
            Hearing::Always
        } else if self.all {
            Hearing::Ranked
        } else {
            Hearing::Never
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SourceName {
        SourceName::parse(text).unwrap()
    }

    #[test]
    fn missing_members_keep_their_value() {
        let mut constraints = Constraints::default();
        constraints.set_initial_last_n(5);
        constraints.apply(Change { default_limit: Some(Limit::lines(360)), ..Change::default() });
        assert_eq!((constraints.last_n, constraints.default_limit), (Some(5), Limit::lines(360)));
        let version = constraints.version();
        constraints.apply(Change { last_n: Some(-1), ..Change::default() });
        assert_eq!((constraints.last_n, constraints.default_limit), (None, Limit::lines(360)));
        assert!(constraints.version() > version);
        constraints.set_initial_last_n(5);
        assert_eq!(constraints.last_n, None, "the receiver has spoken");
    }

    #[test]
    fn a_bandwidth_is_assumed_up_to_a_limit_and_taken_back() {
        let mut constraints = Constraints::default();
        let mut assume = |bps| {
            constraints.apply(Change { assumed_bandwidth_bps: Some(bps), ..Change::default() });
            constraints.assumed_bandwidth_bps
        };
        assert_eq!(assume(4_000_000), Some(4_000_000));
        assert_eq!(assume(i64::MAX), Some(ASSUMED_BANDWIDTH_MAX_BPS));
        assert_eq!(assume(0), Some(0));
        assert_eq!(assume(-1), None);
    }

    #[test]
    fn no_lines_or_no_frames_are_no_picture() {
        assert!(Limit::lines(0).is_off());
        assert!(Limit { max_height: 720, max_frame_rate: 0.0 }.is_off());
        let limit = Limit { max_height: -1, max_frame_rate: 15.0 };
        assert!(!limit.is_off() && limit.allows_height(2160) && limit.allows_frame_rate(15.4));
        assert!(!limit.allows_frame_rate(17.0) && !Limit::lines(360).allows_height(361));
    }

    #[test]
    fn sound_that_is_named_wins_over_all_and_excluded_over_both() {
        let set = |names: &[&str]| names.iter().map(|text| name(text)).collect::<BTreeSet<_>>();
        let mut wishes = AudioSubscription::default();
        assert_eq!(wishes.hearing(&name("a-a0")), Hearing::Ranked);
        wishes = AudioSubscription { all: true, include: set(&["a-a0", "b-a0"]), exclude: set(&["b-a0"]) };
        let heard = ["a-a0", "b-a0", "c-a0"].map(|text| wishes.hearing(&name(text)));
        assert_eq!(heard, [Hearing::Always, Hearing::Never, Hearing::Ranked]);
        wishes.all = false;
        assert_eq!(wishes.hearing(&name("c-a0")), Hearing::Never);
    }
}
