//! AV1 payloads (aggregation header, AV1 RTP payload specification §4.4) and the dependency descriptors of a stream.

use std::collections::VecDeque;

use super::{Coding, HEIGHTS, LayerFrame, Meta, Part, Received, WIDTHS, stamp_at};
use crate::descriptor::{Descriptor, Structure, Template};

/// Temporal layers of every AV1 stream of ours.
const TEMPORAL: u8 = 3;
/// Templates of one spatial layer: key frame, then the pattern's four.
const TEMPLATES: u8 = 5;
/// Frames remembered: those of twice as many pictures as a reference may be old.
const REMEMBERED: usize = 32;
/// A frame OBU without extension and without size (AV1 §5.3.2).
const OBU_FRAME: u8 = 6 << 3;

pub(super) fn write_payload(frame: &LayerFrame, part: Part, out: &mut Vec<u8>) {
    let (continues, goes_on) = (u8::from(!part.is_first()) << 7, u8::from(!part.is_last()) << 6);
    let starts_sequence = u8::from(frame.key && frame.spatial == 0 && part.is_first()) << 3;
    out.push(continues | goes_on | 1 << 4 | starts_sequence);
    if part.is_first() {
        out.push(OBU_FRAME);
    }
}

pub(super) fn read(payload: &[u8], descriptor: &[u8]) -> Option<Received> {
    let head = payload.first()?;
    let starts = head & 0x80 == 0;
    let stamp = stamp_at(payload, if starts { 2 } else { 1 })?;
    let flags = descriptor.first()?;
    // The two ways to say where a frame starts and ends have to agree.
    if (flags & 0x80 != 0) != starts || (flags & 0x40 != 0) != (head & 0x40 == 0) {
        return None;
    }
    let key = starts && head & 0x08 != 0 && Descriptor::has_structure(descriptor);
    let meta = Meta::Described(descriptor.to_vec());
    Some(Received { stamp, starts, ends: Some(flags & 0x40 != 0), key, meta, described: None })
}

/// Frame numbers of one stream and what chains need of them.
#[derive(Debug, Clone)]
pub(crate) struct FrameNumbers {
    number: u16,
    /// Id of the first template; another one with each structure.
    offset: u8,
    /// (pictures, spatial layer, number), newest last.
    sent: VecDeque<(u32, u8, u16)>,
    picture: u32,
    /// Number of the last frame of each chain before the frame at hand.
    chains: [Option<u16>; 3],
    next_chains: [Option<u16>; 3],
}

impl FrameNumbers {
    pub(crate) fn starting_at(number: u16, offset: u8) -> Self {
        let sent = VecDeque::with_capacity(REMEMBERED);
        Self { number, offset, sent, picture: 0, chains: [None; 3], next_chains: [None; 3] }
    }

    /// The next frame begins.
    pub(crate) fn advance(&mut self, frame: &LayerFrame) {
        if frame.spatial == 0 {
            self.picture = self.picture.wrapping_add(1);
        }
        if frame.key && frame.spatial == 0 {
            self.offset = (self.offset + TEMPLATES * 3) & 0x3f;
            self.next_chains = [None; 3];
        }
        self.chains = self.next_chains;
        self.number = self.number.wrapping_add(1);
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.picture, frame.spatial, self.number));
        for (chain, last) in (0u8..).zip(&mut self.next_chains) {
            if is_in_chain(frame, chain) {
                *last = Some(self.number);
            }
        }
    }

    /// The descriptor of a packet of the frame at hand, and how many decode targets there are. `size`: index of the frame's height;
    /// `max_spatial`: layers that are sent.
    pub(crate) fn describe(
        &self,
        coding: Coding,
        frame: &LayerFrame,
        part: Part,
        size: usize,
        max_spatial: u8,
    ) -> (Descriptor, usize) {
        let layers = coding.spatial_layers();
        let index = frame.spatial * TEMPLATES + if frame.key { 0 } else { 1 + place(frame.position) };
        let template = template(coding, frame.spatial, index % TEMPLATES);
        let back = |back: u8, spatial: u8| {
            let wanted = (self.picture.wrapping_sub(back.into()), spatial);
            let found = self.sent.iter().rev().find(|(picture, spatial, _)| (*picture, *spatial) == wanted);
            found.map_or(1, |(_, _, number)| u32::from(self.number.wrapping_sub(*number)))
        };
        let fdiffs: Vec<u32> = frame.references.iter().flatten().map(|to| back(to.back, to.spatial)).collect();
        let since = |last: &Option<u16>| last.map_or(0, |last| u32::from(self.number.wrapping_sub(last)));
        let chains: Vec<u32> = self.chains.iter().take(usize::from(layers)).map(since).collect();
        let targets = usize::from(layers * TEMPORAL);
        let starts_key = frame.key && frame.spatial == 0 && part.is_first();
        let descriptor = Descriptor {
            start: part.is_first(),
            end: part.is_last(),
            template: (self.offset + index) & 0x3f,
            number: self.number,
            structure: starts_key.then(|| structure(self.offset, coding, size)),
            active: (max_spatial < layers).then(|| (1 << (max_spatial * TEMPORAL)) - 1),
            custom_dtis: None,
            custom_fdiffs: (fdiffs != template.fdiffs).then_some(fdiffs),
            custom_chains: (chains != template.chains).then_some(chains),
        };
        (descriptor, targets)
    }
}

/// Which of the four templates of predicted frames a place in the pattern has: they are ordered by temporal layer.
fn place(position: u8) -> u8 {
    match position {
        0 => 0, // T0
        2 => 1, // T1
        1 => 2, // T2 after T0
        _ => 3, // T2 after T1
    }
}

/// A chain is what must not be lost of the lowest temporal layer of one spatial layer.
fn is_in_chain(frame: &LayerFrame, chain: u8) -> bool {
    frame.temporal == 0 && (frame.spatial == chain || frame.spatial < chain && frame.is_needed_above)
}

/// `size`: index of the height of the lowest layer.
fn structure(offset: u8, coding: Coding, size: usize) -> Structure {
    let layers = coding.spatial_layers();
    let all = (0..layers).flat_map(|spatial| (0..TEMPLATES).map(move |kind| (spatial, kind)));
    Structure {
        offset,
        targets: usize::from(layers * TEMPORAL),
        protected_by: (0..layers).flat_map(|spatial| [spatial; TEMPORAL as usize]).collect(),
        chains: usize::from(layers),
        templates: all.map(|(spatial, kind)| template(coding, spatial, kind)).collect(),
        resolutions: WIDTHS.into_iter().zip(HEIGHTS).skip(size).take(usize::from(layers)).collect(),
    }
}

/// Kind 0 is a key frame, 1…4 are T0, T1, T2 after T0, T2 after T1.
fn template(coding: Coding, spatial: u8, kind: u8) -> Template {
    let (layers, full) = (coding.spatial_layers(), coding.is_full());
    let (key, temporal) = (kind == 0, [0, 0, 1, 2, 2][usize::from(kind)]);
    // Pictures since the last of temporal layer 0, and pictures to what it needs.
    let (since_base, back) = [(0, 0), (4, 4), (2, 2), (1, 1), (3, 1)][usize::from(kind)];
    let fdiffs = match (key, spatial) {
        (true, 0) => vec![],
        (true, _) => vec![1],
        (false, _) if full && spatial > 0 => vec![u32::from(back * layers), 1],
        (false, _) => vec![u32::from(back * layers)],
    };
    let chain = |chain: u8| match (key, kind) {
        (true, _) if spatial == 0 => 0,
        (true, _) => spatial - chain.min(spatial - 1),
        (false, 1) if full && spatial > 0 => spatial - chain.min(spatial - 1),
        (false, 1) if chain < spatial => spatial - chain,
        (false, _) => since_base * layers + spatial - chain,
    };
    let dti = |target: u8| {
        let (to_spatial, to_temporal) = (target / TEMPORAL, target % TEMPORAL);
        match key {
            true if to_spatial < spatial => 0,
            true => 2,
            false if to_spatial < spatial || to_temporal < temporal => 0,
            false if to_spatial > spatial => {
                if full {
                    3
                } else {
                    0
                }
            }
            false if to_temporal == temporal && temporal > 0 => 1,
            false => 2,
        }
    };
    Template {
        spatial,
        temporal,
        dtis: (0..layers * TEMPORAL).map(dti).collect(),
        fdiffs,
        chains: (0..layers).map(|number| chain(number).into()).collect(),
    }
}
