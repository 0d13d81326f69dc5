//! What a received frame waits for, as a browser concludes it from what the codec's headers say, each codec by its own rule.
//!
//! Nothing here looks at stamps: those are the truth against which the conclusions are held.

use std::collections::{BTreeMap, BTreeSet};

use crate::coding::{Meta, TemporalReferences, Vp9Structure};
use crate::descriptor::{Descriptor, Structure};

/// A frame by the numbers of its codec: picture or frame number without roll-over, and spatial layer where pictures have several.
pub(crate) type FrameId = (i64, u8);

/// Numbers kept of the past.
const REMEMBERED: i64 = 1_024;

/// The answer for one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Needs {
    /// All of these first.
    Frames(Vec<FrameId>),
    /// More has to be known first.
    Unknown,
    /// Headers contradict each other, or a newer frame took its place: it will never be decoded.
    Never,
}

/// A whole frame as far as its headers go.
#[derive(Debug)]
pub(crate) struct Headers<'a> {
    pub(crate) meta: &'a Meta,
    pub(crate) key: bool,
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
}

/// The rules of one stream, with what they remember.
#[derive(Debug, Default)]
pub(crate) struct References {
    numbers: Unwrapper,
    tl0: Unwrapper,
    vp8: Vp8Layers,
    vp9: Vp9Groups,
    /// By first sequence number of the key frame that brought it.
    structures: BTreeMap<u64, Structure>,
}

impl References {
    /// The identity of a frame; `None` as long as it cannot be read.
    pub(crate) fn id(&mut self, headers: &Headers<'_>) -> Option<FrameId> {
        Some(match headers.meta {
            Meta::Vp8 { picture_id, .. } => (self.numbers.unwrap((*picture_id).into(), 15), 0),
            Meta::Vp9 { picture_id, spatial, .. } => (self.numbers.unwrap((*picture_id).into(), 15), *spatial),
            Meta::Described(bytes) => {
                let number = u16::from_be_bytes([*bytes.get(1)?, *bytes.get(2)?]);
                (self.numbers.unwrap(number.into(), 16), 0)
            }
            Meta::Sequence => (headers.last_sequence.cast_signed(), 0),
        })
    }

    /// What a frame has to wait for.
    pub(crate) fn needs(&mut self, id: FrameId, headers: &Headers<'_>) -> Needs {
        match headers.meta {
            Meta::Vp8 { tl0, temporal, sync, .. } => {
                let tl0 = self.tl0.unwrap((*tl0).into(), 8);
                self.vp8.needs(id.0, tl0, *temporal, *sync, headers.key)
            }
            Meta::Vp9 { temporal, below, references, structure, .. } => {
                if let Some(structure) = structure {
                    let tl0 = structure.tl0.map(|tl0| self.tl0.unwrap(tl0.into(), 8));
                    self.vp9.start(id.0, tl0, structure);
                }
                let earlier = match references {
                    TemporalReferences::Nothing => Needs::Frames(Vec::new()),
                    TemporalReferences::Explicit(backs) => {
                        Needs::Frames(backs.iter().map(|back| (id.0 - i64::from(*back), id.1)).collect())
                    }
                    TemporalReferences::Pattern { tl0 } => {
                        let tl0 = self.tl0.unwrap((*tl0).into(), 8);
                        self.vp9.needs(id, tl0, *temporal)
                    }
                };
                match (earlier, *below) {
                    (Needs::Frames(_), true) if id.1 == 0 => Needs::Never,
                    (Needs::Frames(mut frames), true) => {
                        frames.push((id.0, id.1 - 1));
                        Needs::Frames(frames)
                    }
                    (earlier, _) => earlier,
                }
            }
            Meta::Described(bytes) => self.described(id, bytes, headers.first_sequence),
            Meta::Sequence if headers.key => Needs::Frames(Vec::new()),
            Meta::Sequence => Needs::Frames(vec![(headers.first_sequence.cast_signed() - 1, 0)]),
        }
    }

    fn described(&mut self, id: FrameId, bytes: &[u8], first_sequence: u64) -> Needs {
        let known = self.structures.range(..=first_sequence).next_back().map(|(_, structure)| structure);
        let Some(descriptor) = Descriptor::parse(bytes, known) else {
            return if known.is_none() { Needs::Unknown } else { Needs::Never };
        };
        let Some(structure) = descriptor.structure.as_ref().or(known) else { return Needs::Unknown };
        let needs = match descriptor.resolve(structure) {
            Some(resolved) => {
                Needs::Frames(resolved.fdiffs.iter().map(|fdiff| (id.0 - i64::from(*fdiff), 0)).collect())
            }
            // Perhaps the structure that names this template is still to come.
            None => Needs::Unknown,
        };
        if let Some(structure) = descriptor.structure {
            self.structures.insert(first_sequence, structure);
            if self.structures.len() > 16 {
                self.structures.pop_first();
            }
        }
        needs
    }
}

/// Widens numbers that wrap: each is taken to be the nearest to the last.
#[derive(Debug, Default)]
struct Unwrapper {
    last: Option<i64>,
}

impl Unwrapper {
    fn unwrap(&mut self, value: i64, bits: u32) -> i64 {
        let span = 1i64 << bits;
        let wide = match self.last {
            None => value + span,
            Some(last) => {
                let ahead = (value - last).rem_euclid(span);
                last + if ahead < span / 2 { ahead } else { ahead - span }
            }
        };
        // Old frames that are looked at again do not pull the reference point back.
        self.last = Some(self.last.map_or(wide, |last| last.max(wide)));
        wide
    }
}

/// VP8: frames name a base frame by TL0PICIDX, and need the newest frame of each lower layer since; a hole in the picture ids between
/// such a frame and this one may be one of those, so it has to be filled first.
#[derive(Debug, Default)]
struct Vp8Layers {
    /// By TL0PICIDX: the newest picture of each layer that a frame of this base may need.
    newest: BTreeMap<i64, [Option<i64>; 4]>,
    missing: BTreeSet<i64>,
    highest: Option<i64>,
}

impl Vp8Layers {
    fn needs(&mut self, id: i64, tl0: i64, temporal: u8, sync: bool, key: bool) -> Needs {
        let highest = *self.highest.get_or_insert(id - 1);
        self.missing.extend(highest + 1..=id);
        self.highest = Some(highest.max(id));
        self.missing = self.missing.split_off(&(id - REMEMBERED));
        self.newest = self.newest.split_off(&(tl0 - REMEMBERED));
        let layer = usize::from(temporal.min(3));
        if key {
            if temporal != 0 {
                return Needs::Never;
            }
            self.newest.insert(tl0, [None; 4]);
            return self.found(id, tl0, layer, Vec::new());
        }
        let base = if temporal == 0 { tl0 - 1 } else { tl0 };
        let Some(newest) = self.newest.get(&base).copied() else { return Needs::Unknown };
        if temporal == 0 {
            let Some(before) = newest[0] else { return Needs::Unknown };
            if before >= id {
                return Needs::Never;
            }
            self.newest.insert(tl0, newest);
            return self.found(id, tl0, layer, vec![before]);
        }
        if sync {
            let Some(base) = newest[0].filter(|_| newest[layer].is_none_or(|newest| newest < id)) else {
                return Needs::Never;
            };
            return self.found(id, tl0, layer, vec![base]);
        }
        let mut needed = Vec::new();
        for before in newest.into_iter().take(layer + 1) {
            let Some(before) = before else { return Needs::Unknown };
            if before >= id {
                return Needs::Never;
            }
            if self.missing.range(before + 1..id).next().is_some() {
                return Needs::Unknown;
            }
            needed.push(before);
        }
        self.found(id, tl0, layer, needed)
    }

    /// Notes the frame for those that come after it, of this base and, as far as it is newer than what they have, of later ones.
    fn found(&mut self, id: i64, tl0: i64, layer: usize, needed: Vec<i64>) -> Needs {
        let mut base = tl0;
        while let Some(newest) = self.newest.get_mut(&base).filter(|newest| newest[layer].is_none_or(|own| own < id)) {
            newest[layer] = Some(id);
            base += 1;
        }
        self.missing.remove(&id);
        Needs::Frames(needed.into_iter().map(|id| (id, 0)).collect())
    }
}

/// VP9 without explicit references: places in the pattern are counted in picture ids from the key frame on.
#[derive(Debug, Default)]
struct Vp9Groups {
    /// By the picture that brought each.
    groups: BTreeMap<i64, Vec<(u8, Vec<u8>)>>,
    /// TL0PICIDX of the base pictures that came.
    bases: BTreeSet<i64>,
}

impl Vp9Groups {
    fn start(&mut self, id: i64, tl0: Option<i64>, structure: &Vp9Structure) {
        self.groups.insert(id, structure.group.clone());
        self.groups = self.groups.split_off(&(id - REMEMBERED));
        self.bases.extend(tl0);
    }

    fn needs(&mut self, (id, spatial): FrameId, tl0: i64, temporal: u8) -> Needs {
        let base = if temporal == 0 { tl0 - 1 } else { tl0 };
        let Some((start, group)) = self.groups.range(..=id).next_back().filter(|(_, group)| !group.is_empty()) else {
            return Needs::Unknown;
        };
        if !self.bases.contains(&base) {
            return Needs::Unknown;
        }
        let place = (id - start).rem_euclid(i64::try_from(group.len()).unwrap_or(1));
        let Some((expected, backs)) = group.get(usize::try_from(place).unwrap_or(0)) else { return Needs::Never };
        if *expected != temporal {
            return Needs::Never;
        }
        if temporal == 0 {
            self.bases.insert(tl0);
            self.bases = self.bases.split_off(&(tl0 - REMEMBERED));
        }
        Needs::Frames(backs.iter().map(|back| (id - i64::from(*back), spatial)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What frames of VP8 wait for: (picture id, TL0PICIDX, temporal layer, sync), the first a key frame.
    fn vp8(frames: &[(i64, i64, u8, bool)]) -> Vec<Option<Vec<i64>>> {
        let mut layers = Vp8Layers::default();
        let one = |(index, (id, tl0, temporal, sync)): (usize, &(i64, i64, u8, bool))| match layers.needs(
            *id,
            *tl0,
            *temporal,
            *sync,
            index == 0,
        ) {
            Needs::Frames(frames) => Some(frames.into_iter().map(|(id, _)| id).collect()),
            Needs::Unknown | Needs::Never => None,
        };
        frames.iter().enumerate().map(one).collect()
    }

    #[test]
    fn vp8_layers_need_the_newest_of_each_layer_below() {
        let all = vp8(&[(10, 5, 0, false), (11, 5, 2, true), (12, 5, 1, true), (13, 5, 2, false), (14, 6, 0, false)]);
        assert_eq!(all, [Some(vec![]), Some(vec![10]), Some(vec![10]), Some(vec![10, 12, 11]), Some(vec![10])]);
    }

    #[test]
    fn a_gap_in_picture_ids_stalls_upper_layers_of_vp8_and_a_gap_in_tl0_stalls_all() {
        let all = vp8(&[(10, 5, 0, false), (12, 5, 1, true), (13, 5, 2, false), (14, 6, 0, false), (18, 8, 0, false)]);
        assert_eq!(all[1..], [Some(vec![10]), None, Some(vec![10]), None]);
    }

    #[test]
    fn numbers_wrap_in_both_directions() {
        let mut numbers = Unwrapper::default();
        let wide = [0x7ffe, 1, 0x7fff, 2].map(|number| numbers.unwrap(number, 15));
        assert_eq!(wide, [0xfffe, 0x1_0001, 0xffff, 0x1_0002]);
    }

    #[test]
    fn vp9_pictures_count_their_place_from_the_key_frame() {
        let mut groups = Vp9Groups::default();
        let group = vec![(0, vec![4]), (2, vec![1]), (1, vec![2]), (2, vec![1])];
        groups.start(100, Some(7), &Vp9Structure { group, tl0: Some(7) });
        assert_eq!(groups.needs((101, 2), 7, 2), Needs::Frames(vec![(100, 2)]));
        assert_eq!(groups.needs((104, 1), 8, 0), Needs::Frames(vec![(100, 1)]));
        assert_eq!(groups.needs((103, 0), 8, 1), Needs::Never, "not its place");
        assert_eq!(groups.needs((112, 0), 10, 0), Needs::Unknown, "a base is missing");
    }
}
