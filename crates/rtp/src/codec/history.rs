//! Who has got the latest frames: what decides whether a frame's references are there.

use super::layer::LayerMask;

/// Frames remembered. References reach further back only in streams with long-term references, at which nobody
/// switches.
const LEN: usize = 256;

/// For the latest frames, the layers whose receivers got them.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// (frame, layers); the frame is `u32::MAX` where nothing is known.
    frames: [(u32, LayerMask); LEN],
}

impl Default for History {
    fn default() -> Self {
        Self { frames: [(u32::MAX, LayerMask::EMPTY); LEN] }
    }
}

impl History {
    /// Notes who gets a frame.
    pub(crate) fn note(&mut self, frame: u32, present: LayerMask) {
        self.frames[Self::slot(frame)] = (frame, present);
    }

    /// Who got a frame; nobody when it was never seen or is forgotten.
    pub(crate) fn holders(&self, frame: u32) -> LayerMask {
        match self.frames[Self::slot(frame)] {
            (known, present) if known == frame => present,
            _ => LayerMask::EMPTY,
        }
    }

    fn slot(frame: u32) -> usize {
        usize::from(frame.to_be_bytes()[3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_known_until_its_place_is_needed() {
        let mut history = History::default();
        assert_eq!(history.holders(3), LayerMask::EMPTY);
        history.note(3, LayerMask::ALL);
        assert_eq!(history.holders(3), LayerMask::ALL);
        history.note(259, LayerMask::ALL);
        assert_eq!(history.holders(3), LayerMask::EMPTY);
    }
}
