//! What is remembered of one incoming stream, so that each of its packets can be understood.

use tertulia_model::profile::Codec;

use super::dependency::{Dependencies, Head};
use super::layer::{self, Layer, LayerMask};
use super::vp9::Scalability;
use super::{FrameInfo, av1, h264, vp8};
use crate::sequence::SeqNo;

/// After so many packets a key frame may forget which layers there were: fewer could be one slow layer's turn.
const FORGET_AFTER: u16 = 128;

/// A layer that a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeclaredLayer {
    /// Which.
    pub layer: Layer,
    /// The smaller dimension of its pictures in pixels, where the stream says so.
    pub height: Option<u16>,
}

/// Looks into the packets of one incoming stream (one simulcast encoding). Allocates at the first key frames of streams
/// with layers only.
#[derive(Debug, Default)]
pub struct Inspector {
    dependencies: Dependencies,
    scalability: Scalability,
    units: h264::Units,
    seen: Seen,
    /// Of the pictures without spatial layers.
    height: Option<u16>,
}

impl Inspector {
    /// Looks at one packet, in order of arrival. `number` counts the packets of the stream as they were sent. `descriptor`
    /// is the data of the dependency descriptor extension, which wins where it is sent and its structure is known.
    pub fn inspect(
        &mut self,
        codec: Codec,
        number: SeqNo,
        payload: &[u8],
        marker: bool,
        descriptor: Option<&[u8]>,
    ) -> FrameInfo {
        let info = match codec {
            Codec::Vp8 => vp8::inspect(payload, marker, &mut self.seen),
            Codec::Vp9 => self.scalability.inspect(payload, marker, &mut self.seen),
            Codec::Av1 => av1::inspect(payload, marker),
            Codec::H264 => self.units.inspect(number, payload, marker, &mut self.seen),
            Codec::Opus | Codec::Red | Codec::TelephoneEvent => FrameInfo::unknown(marker),
        };
        if info.starts_keyframe && info.height.is_some() {
            self.height = info.height;
        }
        let Some(descriptor) = descriptor else { return info };
        self.described(codec, descriptor, info).unwrap_or_else(|| {
            // VP8 and VP9 tell their layers themselves. H264 does not: packets of one picture would belong to different ones, given which of
            // them came before the structure.
            let tells_nothing = matches!(codec, Codec::Av1 | Codec::H264);
            let needs_structure = tells_nothing && self.dependencies.lacks_structure_of(descriptor);
            let frame_number = Head::parse(descriptor).map(|head| head.frame_number);
            FrameInfo { needs_structure, frame_number, ..info }
        })
    }

    /// What a dependency descriptor adds.
    fn described(&mut self, codec: Codec, descriptor: &[u8], info: FrameInfo) -> Option<FrameInfo> {
        let frame = self.dependencies.read(descriptor)?;
        let own = frame.descriptor;
        // Receivers of VP8 that read no descriptors conclude references from its own numbers, and wait for more than a frame
        // refers to: they are tuned where those numbers allow it.
        let (mut decodable, mut switchable) = (frame.decodable, own.switchable);
        if codec == Codec::Vp8 && info.switchable != LayerMask::ALL {
            (decodable, switchable) = (decodable & info.decodable, info.switchable);
        }
        let everything = if frame.starts_keyframe { LayerMask::ALL } else { LayerMask::EMPTY };
        Some(FrameInfo {
            starts_frame: own.head.start_of_frame,
            ends_frame: own.head.end_of_frame,
            starts_keyframe: frame.starts_keyframe,
            height: info.height.or_else(|| self.described_height(LayerMask::ALL).filter(|_| frame.templates.is_some())),
            layer: own.layer,
            highest_spatial: frame.highest_spatial,
            present: own.present,
            decodable,
            switchable: switchable | everything,
            crossing: own.switchable | everything,
            discardable: frame.discardable,
            frame_number: Some(own.head.frame_number),
            templates: frame.templates,
            ..info
        })
    }

    /// The smaller dimension of the highest spatial layer of these that a structure tells.
    fn described_height(&self, among: LayerMask) -> Option<u16> {
        let structure = self.dependencies.structure()?;
        let spatial = structure.targets().iter().filter(|layer| among.contains(**layer)).max()?.spatial();
        structure.resolution(spatial).map(|(width, height)| width.min(height))
    }

    /// The layers that the stream has been seen or said to have, ascending. Layers that their sender has switched off
    /// are left out where it says so. Frame rates are not declared by any of the formats read here.
    pub fn layers(&self) -> impl Iterator<Item = DeclaredLayer> {
        let described = self.dependencies.structure();
        let mask = if described.is_some() { self.dependencies.active() } else { self.scalability.layers(&self.seen) };
        mask.iter().map(move |layer| DeclaredLayer { layer, height: self.height_of(layer) })
    }

    fn height_of(&self, layer: Layer) -> Option<u16> {
        let described = self.dependencies.structure().and_then(|structure| structure.resolution(layer.spatial()));
        let described = described.map(|(width, height)| width.min(height));
        let of_lowest = self.height.filter(|_| layer.spatial() == 0);
        described.or_else(|| self.scalability.height(layer.spatial())).or(of_lowest)
    }
}

/// Layers that frames have been seen of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    lately: LayerMask,
    before: LayerMask,
    packets: u16,
}

impl Seen {
    /// A key frame: the stream may have other layers from here on.
    pub(crate) fn begin(&mut self) {
        if self.packets >= FORGET_AFTER {
            *self = Self { lately: LayerMask::EMPTY, before: self.lately, packets: 0 };
        }
    }

    pub(crate) fn note(&mut self, layer: Layer) {
        self.lately.insert(layer);
        self.packets = self.packets.saturating_add(1);
    }

    pub(crate) fn layers(&self) -> LayerMask {
        self.lately | self.before
    }

    /// Temporal layers, as bits, that may be begun with a frame of this one: itself, and if there is none above all
    /// that would be above.
    pub(crate) fn rates_begun_by(&self, temporal: u8) -> u8 {
        if temporal >= self.layers().highest_temporal() { layer::from(temporal) } else { 1 << temporal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_come_no_more_are_forgotten_at_the_second_key_frame() {
        let mut seen = Seen::default();
        seen.note(Layer::new(0, 2));
        for _ in 0..2 {
            assert!(seen.layers().contains(Layer::new(0, 2)));
            seen.begin();
            (0..FORGET_AFTER).for_each(|_| seen.note(Layer::new(0, 0)));
            seen.begin();
        }
        assert_eq!(seen.layers().highest_temporal(), 0);
    }

    #[test]
    fn key_frames_in_quick_succession_forget_nothing() {
        let mut seen = Seen::default();
        seen.note(Layer::new(0, 2));
        (0..5).for_each(|_| seen.begin());
        assert_eq!(seen.layers().highest_temporal(), 2);
    }
}
