//! What payloads and their descriptors say to a forwarder: frames, key frames, layers, and the numbers that it has to
//! move on.
//!
//! Layers are masks, so that whoever forwards need not know codecs. With end-to-end encryption only the descriptors in
//! front of the encrypted bytes may be relied on, and every reader stays inside the payload whatever its bytes are.

mod bits;
mod history;
mod inspector;
mod layer;
mod places;

pub mod av1;
pub mod dependency;
pub mod h264;
pub mod vp8;
pub mod vp9;

pub use inspector::{DeclaredLayer, Inspector};
pub use layer::{Layer, LayerMask};
pub use places::{Places, Shifts};

/// What a forwarder needs to know of one video packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// First packet of a layer's frame, as far as it can be told.
    pub starts_frame: bool,
    /// Last packet of a layer's frame: VP9's E, the dependency descriptor's end, else the marker.
    pub ends_frame: bool,
    /// First packet of the lowest spatial layer of a picture from which decoding can start.
    pub starts_keyframe: bool,
    /// The smaller dimension of the whole stream (its highest spatial layer) in pixels, if the packet says so: a
    /// portrait picture is as tall as its width here.
    pub height: Option<u16>,
    /// The frame's own layer.
    pub layer: Layer,
    /// The highest spatial layer that there was at the last key frame: receivers tuned to a higher one got what those of this one got.
    pub highest_spatial: u8,
    /// Receivers tuned to these layers need the packet. A layer that the stream does not have stands for the best one
    /// below it.
    pub present: LayerMask,
    /// Receivers tuned to these layers so far have all that the frame refers to, as far as is known.
    pub decodable: LayerMask,
    /// With this frame a receiver may begin to be tuned to these layers, if it was tuned to the same spatial layer and
    /// can decode the frame: see [`FrameInfo::allows`], which is the way to ask.
    pub switchable: LayerMask,
    /// The same for receivers that were tuned to another spatial layer.
    pub crossing: LayerMask,
    /// Nothing refers to the frame: it may be dropped under pressure, from its first packet on.
    pub discardable: bool,
    /// Picture id of VP8 or VP9, 7 or 15 bits.
    pub picture: Option<u16>,
    /// TL0PICIDX of VP8 or VP9.
    pub tl0: Option<u8>,
    /// Frame number of the dependency descriptor.
    pub frame_number: Option<u16>,
    /// `template_id_offset` and number of templates, where the dependency descriptor carries a structure.
    pub templates: Option<(u8, u8)>,
    /// Where picture id and TL0PICIDX stand in the payload.
    pub places: Places,
    /// For whom the packet is can be told when the structure that its dependency descriptor is written for has come: to be inspected again
    /// then.
    pub needs_structure: bool,
}

impl FrameInfo {
    /// A packet of which nothing is known: everybody needs it, and nobody switches there.
    pub fn unknown(marker: bool) -> Self {
        Self {
            starts_frame: false,
            ends_frame: marker,
            starts_keyframe: false,
            height: None,
            layer: Layer::LOWEST,
            highest_spatial: 0,
            present: LayerMask::ALL,
            decodable: LayerMask::EMPTY,
            switchable: LayerMask::EMPTY,
            crossing: LayerMask::EMPTY,
            discardable: false,
            picture: None,
            tl0: None,
            frame_number: None,
            templates: None,
            places: Places::default(),
            needs_structure: false,
        }
    }

    /// Whether a receiver may be tuned from one layer to another with this packet. `from` is `None` for a receiver that
    /// gets nothing of the stream yet.
    pub fn allows(&self, from: Option<Layer>, to: Layer) -> bool {
        let Some(from) = from else { return self.starts_keyframe };
        if !self.starts_frame {
            return false;
        }
        // Fewer pictures of the same size are always a part of what the receiver got.
        let slower = to.temporal() <= from.temporal();
        let same_size = to.spatial() == from.spatial();
        self.starts_keyframe
            || same_size && slower
            || self.decodable.contains(from)
                && if same_size { self.switchable.contains(to) } else { slower && self.crossing.contains(to) }
    }

    /// The layer nearest to `target` to which a receiver may be tuned with this packet; `from` itself where no step is
    /// allowed.
    ///
    /// Steps between two layers never leave the range between them, so that asking at every packet leads to the target.
    pub fn towards(&self, from: Option<Layer>, target: Layer) -> Option<Layer> {
        let Some(old) = from else { return self.starts_keyframe.then_some(target) };
        if old == target || !self.starts_frame {
            return from;
        }
        let between = |one: u8, other: u8, own: u8| own.clamp(one.min(other), one.max(other));
        let spatial = between(old.spatial(), target.spatial(), self.layer.spatial());
        let temporal = between(old.temporal(), target.temporal(), self.layer.temporal());
        // First the size, then the rate; whole steps before parts of one.
        let steps = [
            target,
            Layer::new(target.spatial(), temporal),
            Layer::new(target.spatial(), old.temporal()),
            Layer::new(spatial, target.temporal()),
            Layer::new(spatial, old.temporal()),
            Layer::new(old.spatial(), target.temporal()),
            Layer::new(old.spatial(), temporal),
        ];
        steps.into_iter().find(|to| *to != old && self.allows(from, *to)).or(from)
    }
}

impl Default for FrameInfo {
    fn default() -> Self {
        Self::unknown(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_starts_without_a_key_frame_and_everything_with_one() {
        let delta = FrameInfo { starts_frame: true, switchable: LayerMask::ALL, ..FrameInfo::default() };
        assert_eq!(delta.towards(None, Layer::HIGHEST), None);
        let key = FrameInfo { starts_keyframe: true, ..delta };
        assert_eq!(key.towards(None, Layer::HIGHEST), Some(Layer::HIGHEST));
        assert_eq!(key.towards(Some(Layer::new(2, 2)), Layer::LOWEST), Some(Layer::LOWEST));
    }

    #[test]
    fn a_receiver_may_always_take_fewer_pictures_of_the_same_size() {
        let frame = FrameInfo { starts_frame: true, ..FrameInfo::default() };
        assert!(frame.allows(Some(Layer::new(1, 2)), Layer::new(1, 0)));
        assert!(!frame.allows(Some(Layer::new(1, 2)), Layer::new(0, 2)), "lower sizes may not have been sent to it");
        assert!(!frame.allows(Some(Layer::new(1, 0)), Layer::new(1, 2)));
        let inside = FrameInfo { starts_frame: false, ..frame };
        assert!(!inside.allows(Some(Layer::new(1, 2)), Layer::new(1, 0)), "decided per frame");
    }
}
