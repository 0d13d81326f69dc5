//! Codecs and layers of synthetic pictures: which layers a picture has, what each needs, and how payloads say so.

mod av1;
mod h264;
mod vp8;
mod vp9;

use tertulia_model::profile::Codec;

use crate::stamp::{REFERENCES_MAX, Reference, STAMP_LEN, Stamp};

pub(crate) use av1::FrameNumbers;
pub(crate) use vp9::{Structure as Vp9Structure, TemporalReferences, declares};

/// Heights of encodings or spatial layers, lowest first, as Jitsi's clients send them for 720p.
pub(crate) const HEIGHTS: [u16; 3] = [180, 360, 720];
/// 16:9.
const WIDTHS: [u16; 3] = [320, 640, 1280];
/// Layers of one picture, of all encodings or of all spatial layers.
const SPATIAL_MAX: u8 = 3;

/// Codec and layers of a camera, named as in the W3C's list of scalability modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    /// VP8 simulcast without temporal layers.
    #[default]
    Vp8,
    /// VP8 simulcast, three temporal layers each: Jitsi's clients.
    Vp8L1T3,
    /// The same, with dependency descriptors beside: Chromium, where they are negotiated.
    Vp8L1T3Described,
    /// VP9 simulcast, three temporal layers each; no explicit references.
    Vp9L1T3,
    /// VP9, one stream, spatial layers that depend on each other in key frames only; no explicit references (RFC 9628, F = 0).
    Vp9L3T3Key,
    /// VP9, one stream, full spatial dependency, explicit references (F = 1).
    Vp9L3T3,
    /// AV1 simulcast, three temporal layers each.
    Av1L1T3,
    /// AV1, one stream, spatial layers that depend on each other in key frames only.
    Av1L3T3Key,
    /// AV1, one stream, full spatial dependency.
    Av1L3T3,
    /// H.264 simulcast without layers.
    H264,
    /// H.264 simulcast, three temporal layers each, of which dependency descriptors tell.
    H264L1T3,
}

impl Coding {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Vp8,
        Self::Vp8L1T3,
        Self::Vp8L1T3Described,
        Self::Vp9L1T3,
        Self::Vp9L3T3Key,
        Self::Vp9L3T3,
        Self::Av1L1T3,
        Self::Av1L3T3Key,
        Self::Av1L3T3,
        Self::H264,
        Self::H264L1T3,
    ];

    pub(crate) fn codec(self) -> Codec {
        match self {
            Self::Vp8 | Self::Vp8L1T3 | Self::Vp8L1T3Described => Codec::Vp8,
            Self::Vp9L1T3 | Self::Vp9L3T3Key | Self::Vp9L3T3 => Codec::Vp9,
            Self::Av1L1T3 | Self::Av1L3T3Key | Self::Av1L3T3 => Codec::Av1,
            Self::H264 | Self::H264L1T3 => Codec::H264,
        }
    }

    /// Whether spatial layers are streams of their own.
    pub(crate) fn is_simulcast(self) -> bool {
        match self {
            Self::Vp8 | Self::Vp8L1T3 | Self::Vp8L1T3Described => true,
            Self::Vp9L1T3 | Self::Av1L1T3 | Self::H264 | Self::H264L1T3 => true,
            Self::Vp9L3T3Key | Self::Vp9L3T3 | Self::Av1L3T3Key | Self::Av1L3T3 => false,
        }
    }

    /// Whether every frame needs the layer below it.
    fn is_full(self) -> bool {
        matches!(self, Self::Vp9L3T3 | Self::Av1L3T3)
    }

    fn is_described(self) -> bool {
        self.codec() == Codec::Av1 || matches!(self, Self::Vp8L1T3Described | Self::H264L1T3)
    }

    fn has_temporal_layers(self) -> bool {
        !matches!(self, Self::Vp8 | Self::H264)
    }

    /// Spatial layers in one stream.
    pub(crate) fn spatial_layers(self) -> u8 {
        if self.is_simulcast() { 1 } else { SPATIAL_MAX }
    }
}

/// One layer of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerFrame {
    /// Of a picture that needs none before it.
    pub(crate) key: bool,
    pub(crate) spatial: u8,
    pub(crate) temporal: u8,
    /// 0…3: place in the pattern of temporal layers 0 2 1 2.
    pub(crate) position: u8,
    pub(crate) references: [Option<Reference>; REFERENCES_MAX],
    /// No layer of this picture comes after it.
    pub(crate) is_top: bool,
    /// The next layer of this picture, if it is sent, needs it.
    pub(crate) is_needed_above: bool,
}

impl LayerFrame {
    /// Whether it needs a picture before.
    pub(crate) fn is_predicted(&self) -> bool {
        self.references.iter().flatten().any(|reference| reference.back > 0)
    }

    /// Whether it needs a lower layer of its own picture.
    pub(crate) fn needs_below(&self) -> bool {
        self.references.iter().flatten().any(|reference| reference.back == 0)
    }

    /// Whether it needs nothing but the base temporal layer, so that a receiver of less can start to take this layer with it.
    pub(crate) fn is_sync(&self) -> bool {
        self.temporal > 0 && self.position != 3
    }
}

/// The layers of a picture, lowest first. `position`: pictures since the last key frame, 0 for one itself.
pub(crate) fn layers(coding: Coding, position: u32, spatial_layers: u8) -> impl Iterator<Item = LayerFrame> {
    let key = position == 0;
    let position = u8::try_from(position % 4).unwrap_or(0);
    // (temporal layer, what it needs: so many pictures ago). libvpx lets the last of the pattern use both layers below it.
    let (temporal, needs): (u8, &[u8]) = match (coding.has_temporal_layers(), position) {
        (false, _) => (0, &[1]),
        (true, 0) => (0, &[4]),
        (true, 1) => (2, &[1]),
        (true, 2) => (1, &[2]),
        (true, _) if coding.codec() == Codec::Vp8 => (2, &[1, 3]),
        (true, _) => (2, &[1]),
    };
    let full = coding.is_full();
    (0..spatial_layers).map(move |spatial| {
        let earlier = needs.iter().filter(|_| !key).map(|back| Reference { back: *back, spatial });
        let below = (spatial > 0 && (key || full)).then(|| Reference { back: 0, spatial: spatial - 1 });
        let mut references = [None; REFERENCES_MAX];
        references.iter_mut().zip(earlier.chain(below)).for_each(|(slot, reference)| *slot = Some(reference));
        let is_top = spatial + 1 == spatial_layers;
        // Said of the layers that the encoder was set up with: libwebrtc does not take it back from those below one that rests.
        let is_needed_above = spatial + 1 < coding.spatial_layers() && (key || full);
        LayerFrame { key, spatial, temporal, position, references, is_top, is_needed_above }
    })
}

/// The running numbers of one stream.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) picture_id: u16,
    pub(crate) tl0: u8,
    pub(crate) frames: FrameNumbers,
    /// Spatial layers of the last scalability structure.
    pub(crate) declared: u8,
}

impl Ids {
    /// Anywhere, also shortly before the numbers wrap around.
    pub(crate) fn starting_at(seed: u32) -> Self {
        let frames = FrameNumbers::starting_at((seed >> 4) as u16, (seed >> 20) as u8 & 0x3f);
        Self { picture_id: (seed & 0x7fff) as u16, tl0: (seed >> 8) as u8, frames, declared: 0 }
    }

    /// The next picture begins.
    pub(crate) fn advance(&mut self, temporal: u8) {
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        self.tl0 = self.tl0.wrapping_add(u8::from(temporal == 0));
    }
}

/// Where a packet is in its frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) index: usize,
    pub(crate) count: usize,
}

impl Part {
    fn is_first(self) -> bool {
        self.index == 0
    }

    fn is_last(self) -> bool {
        self.index + 1 == self.count
    }
}

/// How many packets a frame of this length takes.
pub(crate) fn parts(coding: Coding, frame: &LayerFrame, len: usize, payload_max: usize) -> usize {
    let count = len.div_ceil(payload_max).clamp(1, 200);
    // The parameter sets come in a packet of their own.
    count + usize::from(coding.codec() == Codec::H264 && frame.key)
}

/// Writes what stands before the stamp. `size`: index into the heights; `layers`: spatial layers that are sent.
pub(crate) fn write_head(
    coding: Coding,
    frame: &LayerFrame,
    ids: &Ids,
    part: Part,
    size: usize,
    layers: u8,
    out: &mut Vec<u8>,
) {
    match coding.codec() {
        Codec::Vp8 => vp8::write(frame, ids, part, size, out),
        Codec::Vp9 => vp9::write(frame, ids, part, coding == Coding::Vp9L3T3, (size, layers), out),
        Codec::Av1 => av1::write_payload(frame, part, out),
        Codec::H264 => h264::write(frame, part, size, out),
        Codec::Opus | Codec::Red | Codec::TelephoneEvent => {}
    }
}

/// Whether nothing may follow the stamp: the units of a STAP-A end with it.
pub(crate) fn ends_with_stamp(coding: Coding, frame: &LayerFrame, part: Part) -> bool {
    coding.codec() == Codec::H264 && frame.key && part.is_first()
}

/// What a payload says of its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) stamp: Stamp,
    pub(crate) starts: bool,
    /// What the payload or the descriptor says; VP8 and H.264 say nothing.
    pub(crate) ends: Option<bool>,
    /// First packet of a picture that needs none before it.
    pub(crate) key: bool,
    pub(crate) meta: Meta,
    /// The descriptor that came beside what the payload itself tells.
    pub(crate) described: Option<Meta>,
}

/// What a codec says of layers and references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meta {
    Vp8 {
        picture_id: u16,
        tl0: u8,
        temporal: u8,
        sync: bool,
    },
    Vp9 {
        picture_id: u16,
        spatial: u8,
        temporal: u8,
        below: bool,
        references: TemporalReferences,
        structure: Option<Vp9Structure>,
    },
    /// AV1: the descriptor as it came; it can be read when the structure in force is known.
    Described(Vec<u8>),
    /// H.264: the frame before, whichever it is.
    Sequence,
}

/// Reads a payload of ours; `None` when it is none, is damaged, or lacks what its codec needs.
pub(crate) fn read(codec: Codec, payload: &[u8], descriptor: Option<&[u8]>) -> Option<Received> {
    let received = match codec {
        Codec::Vp8 => vp8::read(payload),
        Codec::Vp9 => vp9::read(payload),
        Codec::Av1 => return av1::read(payload, descriptor?),
        Codec::H264 => h264::read(payload),
        Codec::Opus | Codec::Red | Codec::TelephoneEvent => None,
    }?;
    let Some(descriptor) = descriptor else { return Some(received) };
    let flags = descriptor.first()?;
    let ends = Some(flags & 0x40 != 0);
    if (flags & 0x80 != 0) != received.starts || received.ends.is_some_and(|_| received.ends != ends) {
        return None;
    }
    Some(Received { ends, described: Some(Meta::Described(descriptor.to_vec())), ..received })
}

fn stamp_at(payload: &[u8], at: usize) -> Option<Stamp> {
    Stamp::parse(payload.get(at..at + STAMP_LEN)?)
}

/// The descriptor of a packet, for codecs that have one. `size`: index of the frame's own height.
pub(crate) fn descriptor(
    coding: Coding,
    frame: &LayerFrame,
    ids: &Ids,
    part: Part,
    size: usize,
    max_spatial: u8,
) -> Option<Vec<u8>> {
    coding.is_described().then(|| {
        let (described, targets) = ids.frames.describe(coding, frame, part, size, max_spatial);
        described.write(targets)
    })
}
