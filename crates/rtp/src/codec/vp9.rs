//! VP9 (RFC 9628): simulcast, and spatial layers inside one stream in both its modes.

mod descriptor;

use super::FrameInfo;
use super::history::History;
use super::inspector::Seen;
use super::layer::{self, Layer, LayerMask};
pub use descriptor::{Descriptor, LayerIndices, Structure};

/// What is remembered of a stream.
#[derive(Debug, Default)]
pub(crate) struct Scalability {
    structure: Option<Structure>,
    key: KeyPicture,
    /// The id of the newest picture.
    newest: Option<u16>,
    /// Who got which layer frame; needed with spatial layers or flexible mode, made at a key frame.
    history: Option<Box<History>>,
}

/// What the last key picture says of the pictures around it.
#[derive(Debug, Clone, Copy, Default)]
struct KeyPicture {
    id: Option<u16>,
    /// The highest spatial layer from it on: receivers tuned to a higher one have got what those of this one got.
    highest: u8,
    /// The highest before it, for what comes late.
    before: u8,
}

impl KeyPicture {
    /// The next one. Pictures that follow one that is late were handed out without it: whoever did not get them cannot go on with their layer.
    fn next(self, id: Option<u16>, highest: u8, is_late: bool) -> Self {
        if is_late {
            Self { highest: highest.max(self.highest), ..self }
        } else {
            Self { id, highest, before: self.highest }
        }
    }
}

impl Scalability {
    /// Looks at one payload.
    pub(crate) fn inspect(&mut self, payload: &[u8], marker: bool, seen: &mut Seen) -> FrameInfo {
        let Some(descriptor) = Descriptor::parse(payload) else { return FrameInfo::unknown(marker) };
        let indices = descriptor.layer;
        let inter_layer = indices.is_some_and(|indices| indices.inter_layer);
        if descriptor.structure.is_some() {
            self.structure = descriptor.structure;
        }
        let (picture, is_late) = (descriptor.picture_id.map(|(id, ..)| id), is_behind(&descriptor, self.newest));
        if !is_late {
            self.newest = picture;
        }
        let is_lowest = indices.is_none_or(|indices| indices.spatial == self.lowest());
        let starts_keyframe = descriptor.begins && !descriptor.predicted && !inter_layer && is_lowest;
        let numbers = FrameInfo {
            starts_frame: descriptor.begins,
            ends_frame: descriptor.ends || marker,
            starts_keyframe,
            height: descriptor.structure.and_then(|structure| structure.height()),
            picture,
            tl0: descriptor.tl0_pic_idx.map(|(value, _)| value),
            places: descriptor.places(),
            ..FrameInfo::unknown(marker)
        };
        if starts_keyframe {
            seen.begin();
            self.key = self.key.next(picture, self.highest(seen), is_late);
            if indices.is_some() && self.history.is_none() {
                self.history = Some(Box::default());
            }
        }
        let all = LayerMask::ALL;
        let Some(indices) = indices else {
            seen.note(Layer::LOWEST);
            return FrameInfo { decodable: all, switchable: all, crossing: all, ..numbers };
        };
        seen.note(Layer::new(indices.spatial, indices.temporal));
        let frame = self.layered(&descriptor, indices, seen, numbers);
        if starts_keyframe { FrameInfo { switchable: all, crossing: all, ..frame } } else { frame }
    }

    /// Masks of a frame in a stream with layers.
    fn layered(
        &mut self,
        descriptor: &Descriptor,
        indices: LayerIndices,
        seen: &Seen,
        numbers: FrameInfo,
    ) -> FrameInfo {
        let own = Layer::new(indices.spatial, indices.temporal);
        let is_top = own.spatial() >= self.highest(seen);
        let (alone, upwards) = (1 << own.spatial(), layer::from(own.spatial()));
        // The frames of a picture that refers to no other are there for all the layers above. When the layers above end without a key
        // picture, their receivers can go on only with frames that are made for upper layers: they got no others.
        let key_highest = if is_behind(descriptor, self.key.id) { self.key.before } else { self.key.highest };
        let stands_for_upper = is_top && own.spatial() >= key_highest;
        let is_for_upper = stands_for_upper || !descriptor.not_for_upper || !descriptor.predicted;
        let reaches = if is_for_upper { upwards } else { alone };
        let present = LayerMask::product(reaches, layer::from(own.temporal()));
        let decodable = self.holders(descriptor, indices, reaches, present);
        if let (Some(history), Some(key)) = (&mut self.history, frame_key(descriptor, own, 0)) {
            history.note(key, present);
        }
        let rates = if !descriptor.predicted || indices.switching_up && own.temporal() == 0 {
            layer::from(own.temporal())
        } else {
            seen.rates_begun_by(own.temporal())
        };
        FrameInfo {
            layer: own,
            highest_spatial: self.highest(seen).max(key_highest),
            present,
            decodable,
            switchable: LayerMask::product(reaches, rates),
            crossing: LayerMask::product(if is_top { reaches } else { alone }, layer::from(own.temporal())),
            ..numbers
        }
    }

    /// Receivers tuned to these layers have what a frame refers to. Without references that are told, U says that it
    /// needs lower temporal layers only; else whoever gets the frame is taken to have them.
    fn holders(&self, descriptor: &Descriptor, indices: LayerIndices, reaches: u8, present: LayerMask) -> LayerMask {
        let own = Layer::new(indices.spatial, indices.temporal);
        let known = |layer: Layer, back: u8| {
            let key = frame_key(descriptor, layer, back);
            self.history.as_ref().zip(key).map_or(LayerMask::EMPTY, |(history, key)| history.holders(key))
        };
        let mut holders = LayerMask::ALL;
        if descriptor.predicted && descriptor.flexible {
            for back in descriptor.references.into_iter().filter(|back| *back > 0) {
                holders &= known(own, back);
            }
        } else if descriptor.predicted && indices.switching_up {
            holders = LayerMask::product(reaches, layer::from(own.temporal().saturating_sub(1)));
        } else if descriptor.predicted {
            holders = present;
        }
        if indices.inter_layer && indices.spatial > 0 {
            holders &= known(Layer::new(indices.spatial - 1, indices.temporal), 0);
        }
        holders
    }

    /// The lowest spatial layer that is sent.
    fn lowest(&self) -> u8 {
        let sizes = self.structure.and_then(|structure| structure.sizes);
        let first = sizes.and_then(|sizes| sizes.iter().position(|size| *size != (0, 0)));
        first.and_then(|first| u8::try_from(first).ok()).unwrap_or(0)
    }

    /// The highest spatial layer, as declared, or as seen.
    fn highest(&self, seen: &Seen) -> u8 {
        match self.structure {
            Some(structure) => structure.spatial_count - 1,
            None => seen.layers().highest().map_or(0, Layer::spatial),
        }
    }

    /// The layers that there are.
    pub(crate) fn layers(&self, seen: &Seen) -> LayerMask {
        let Some(structure) = self.structure else { return seen.layers() };
        let sent = (0..structure.spatial_count).filter(|spatial| structure.size(*spatial) != Some((0, 0)));
        let spatial = sent.fold(0, |bits, spatial| bits | 1 << Layer::new(spatial, 0).spatial());
        let temporal = structure.highest_temporal.unwrap_or(0).max(seen.layers().highest_temporal());
        LayerMask::product(spatial, !layer::from(temporal + 1))
    }

    /// The smaller dimension of a spatial layer.
    pub(crate) fn height(&self, spatial: u8) -> Option<u16> {
        self.structure?.height_of(spatial)
    }
}

/// A name for a layer frame that is unique for at least 64 pictures; of the picture that is `back` pictures earlier.
fn frame_key(descriptor: &Descriptor, layer: Layer, back: u8) -> Option<u32> {
    let (value, _, long) = descriptor.picture_id?;
    let picture = value.wrapping_sub(u16::from(back)) & id_mask(long);
    Some(u32::from(picture) * u32::from(Layer::SPATIAL) + u32::from(layer.spatial()))
}

/// Whether a frame is of an earlier picture than another that came. With an id that is further behind, its sender has begun anew.
fn is_behind(descriptor: &Descriptor, other: Option<u16>) -> bool {
    let Some(((own, _, long), other)) = descriptor.picture_id.zip(other) else { return false };
    (1..BEHIND_MAX).contains(&(other.wrapping_sub(own) & id_mask(long)))
}

/// The bits of a picture id.
fn id_mask(long: bool) -> u16 {
    if long { 0x7fff } else { 0x7f }
}

/// Half of the short picture ids; a repair that took so many pictures is not waited for.
const BEHIND_MAX: u16 = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A layer frame in one packet, non-flexible mode: I, P, L, B, E, Z; picture id; layer indices; TL0PICIDX.
    #[derive(Clone, Copy)]
    struct Packet {
        picture: u8,
        temporal: u8,
        spatial: u8,
        predicted: bool,
        switching_up: bool,
        inter_layer: bool,
        not_for_upper: bool,
    }

    const PACKET: Packet = Packet {
        picture: 0,
        temporal: 0,
        spatial: 0,
        predicted: true,
        switching_up: false,
        inter_layer: false,
        not_for_upper: false,
    };

    impl Packet {
        fn bytes(self, structure: &[u8]) -> Vec<u8> {
            let bit = |flag: bool, at: u8| u8::from(flag) << at;
            let first = 0xac | bit(self.predicted, 6) | bit(!structure.is_empty(), 1) | bit(self.not_for_upper, 0);
            let indices = self.temporal << 5 | bit(self.switching_up, 4) | self.spatial << 1 | bit(self.inter_layer, 0);
            [&[first, self.picture, indices, 7], structure].concat()
        }
    }

    /// N_S = 2, Y: three layers of 320×180, 640×360 and 1280×720; G: four pictures of temporal layers 0, 2, 1, 2 with
    /// one reference each.
    const STRUCTURE: [u8; 22] =
        [0x58, 1, 64, 0, 180, 2, 128, 1, 104, 5, 0, 2, 208, 4, 0x04, 4, 0x54, 1, 0x34, 2, 0x54, 1];

    struct Stream {
        scalability: Scalability,
        seen: Seen,
    }

    impl Stream {
        /// A stream after its key picture, whose upper layers refer to the lower ones.
        fn started() -> Self {
            let mut stream = Self { scalability: Scalability::default(), seen: Seen::default() };
            for spatial in 0..3 {
                let key = Packet { predicted: false, spatial, inter_layer: spatial > 0, ..PACKET };
                let info = stream.at(&key.bytes(if spatial == 0 { &STRUCTURE } else { &[] }));
                assert_eq!(info.starts_keyframe, spatial == 0);
                assert_eq!(info.present, LayerMask::product(layer::from(spatial), 0xff));
            }
            stream
        }

        fn at(&mut self, payload: &[u8]) -> FrameInfo {
            self.scalability.inspect(payload, false, &mut self.seen)
        }

        /// A picture in which every layer refers to its own past, and with `full` to the lower layer too.
        fn picture(&mut self, picture: u8, temporal: u8, switching_up: bool, full: bool) -> [FrameInfo; 3] {
            [0, 1, 2].map(|spatial| {
                let inter_layer = full && spatial > 0;
                let packet =
                    Packet { picture, temporal, spatial, switching_up, inter_layer, not_for_upper: !full, ..PACKET };
                self.at(&packet.bytes(&[]))
            })
        }
    }

    #[test]
    fn a_key_frame_with_a_structure_tells_all_heights() {
        let mut stream = Stream { scalability: Scalability::default(), seen: Seen::default() };
        let info = stream.at(&Packet { predicted: false, ..PACKET }.bytes(&STRUCTURE));
        assert!(info.starts_keyframe && info.starts_frame && info.ends_frame);
        assert_eq!((info.height, info.picture, info.tl0), (Some(720), Some(0), Some(7)));
        assert_eq!([0, 1, 2, 3].map(|s| stream.scalability.height(s)), [Some(180), Some(360), Some(720), None]);
        let layers: Vec<_> = stream.scalability.layers(&stream.seen).iter().map(Layer::index).collect();
        assert_eq!(layers, [0, 1, 2, 8, 9, 10, 16, 17, 18]);
    }

    #[test]
    fn layers_of_no_size_are_not_sent_and_the_next_starts_the_picture() {
        let mut stream = Stream { scalability: Scalability::default(), seen: Seen::default() };
        // N_S = 1, Y: nothing, then 640×360.
        let structure = [0x30, 0, 0, 0, 0, 2, 128, 1, 104];
        let info = stream.at(&Packet { predicted: false, spatial: 1, ..PACKET }.bytes(&structure));
        assert_eq!((info.starts_keyframe, info.height), (true, Some(360)));
        let layers: Vec<_> = stream.scalability.layers(&stream.seen).iter().collect();
        assert_eq!(layers, [Layer::new(1, 0)]);
    }

    #[test]
    fn in_full_svc_lower_layers_are_for_everybody_above() {
        let mut stream = Stream::started();
        let frames = stream.picture(1, 1, false, true);
        let needs = |layer: Layer| frames.map(|frame| frame.present.contains(layer));
        assert_eq!(needs(Layer::new(0, 0)), [false, false, false]);
        assert_eq!(needs(Layer::new(0, 1)), [true, false, false]);
        assert_eq!(needs(Layer::new(1, 2)), [true, true, false]);
        assert_eq!(needs(Layer::new(2, 1)), [true, true, true]);
        assert_eq!(needs(Layer::HIGHEST), [true, true, true], "more than there is");
    }

    #[test]
    fn in_full_svc_a_receiver_may_take_smaller_pictures_at_once() {
        let mut stream = Stream::started();
        let frames = stream.picture(1, 0, false, true);
        let (large, small) = (Layer::new(2, 2), Layer::new(1, 2));
        assert_eq!(frames.map(|frame| frame.allows(Some(large), small)), [false, true, false]);
        assert_eq!(frames.map(|frame| frame.allows(Some(small), large)), [false; 3]);
    }

    #[test]
    fn in_k_svc_each_layer_stands_alone_after_the_key_picture() {
        let mut stream = Stream::started();
        let frames = stream.picture(1, 0, false, false);
        for spatial in 0..3u8 {
            let tuned = Layer::new(spatial, 2);
            let needed = [0, 1, 2].map(|own| own == spatial);
            assert_eq!(frames.map(|frame| frame.present.contains(tuned)), needed);
            let others = (0..3).filter(|other| *other != spatial).map(|other| Layer::new(other, 2));
            for other in others {
                assert!(frames.iter().all(|frame| !frame.allows(Some(tuned), other)), "{tuned:?} {other:?}");
            }
        }
        assert!(frames[2].present.contains(Layer::HIGHEST));
    }

    #[test]
    fn in_k_svc_receivers_of_a_layer_that_ends_cannot_go_on_with_a_lower_one() {
        let mut stream = Stream::started();
        // N_S = 1, Y: two layers from here on, told with a predicted picture.
        let fewer = [0x30, 1, 64, 0, 180, 2, 128, 1, 104];
        let lowest = Packet { picture: 1, not_for_upper: true, ..PACKET };
        stream.at(&lowest.bytes(&fewer));
        let top = stream.at(&Packet { spatial: 1, ..lowest }.bytes(&[]));
        assert!(top.present.contains(Layer::new(1, 2)) && !top.present.contains(Layer::new(2, 2)));
        assert!(!top.allows(Some(Layer::new(2, 2)), Layer::new(1, 2)));
        assert!(!top.allows(Some(Layer::new(1, 2)), Layer::new(2, 2)), "nothing comes there");
        let key = Packet { picture: 2, predicted: false, ..PACKET };
        stream.at(&key.bytes(&fewer));
        stream.at(&Packet { spatial: 1, inter_layer: true, ..key }.bytes(&[]));
        let top = stream.at(&Packet { picture: 3, spatial: 1, not_for_upper: true, ..PACKET }.bytes(&[]));
        assert!(top.present.contains(Layer::HIGHEST), "now it is the highest that they know");
    }

    #[test]
    fn in_k_svc_a_late_key_picture_does_not_lead_receivers_on_who_did_not_get_what_follows_it() {
        let mut stream = Stream::started();
        // N_S = 1: two layers.
        let key = |stream: &mut Stream, picture| {
            let lowest = Packet { picture, predicted: false, ..PACKET };
            stream.at(&lowest.bytes(&[0x20]));
            stream.at(&Packet { spatial: 1, inter_layer: true, ..lowest }.bytes(&[]))
        };
        let top = |stream: &mut Stream, picture| {
            stream.at(&Packet { picture, spatial: 1, not_for_upper: true, ..PACKET }.bytes(&[]))
        };
        let (before, with) = (Layer::new(2, 2), Layer::new(1, 2));
        assert!(!top(&mut stream, 2).present.contains(before));
        assert!(key(&mut stream, 1).present.contains(before), "it can be decoded");
        let behind = top(&mut stream, 3);
        assert!(behind.present.contains(with) && !behind.present.contains(before), "it needs picture 2");
        assert_eq!(behind.highest_spatial, 2);
        key(&mut stream, 5);
        assert!(top(&mut stream, 6).present.contains(before));
        assert!(!top(&mut stream, 4).present.contains(before), "from before the key picture");
        assert!(top(&mut stream, 7).present.contains(before));
    }

    #[test]
    fn ids_that_begin_anew_are_not_late_for_long() {
        let mut stream = Stream::started();
        for picture in [100, 30, 31] {
            let key = Packet { picture, predicted: false, ..PACKET };
            stream.at(&key.bytes(&[0x20]));
        }
        let top = stream.at(&Packet { picture: 32, spatial: 1, not_for_upper: true, ..PACKET }.bytes(&[]));
        assert!(top.present.contains(Layer::HIGHEST));
    }

    #[test]
    fn in_k_svc_the_rate_rises_at_the_receivers_own_layer() {
        let mut stream = Stream::started();
        stream.picture(1, 2, false, false);
        let frames = stream.picture(2, 1, true, false);
        let (slow, faster) = (Layer::new(2, 0), Layer::new(2, 1));
        assert_eq!(frames.map(|frame| frame.allows(Some(slow), faster)), [false, false, true]);
        assert_eq!(frames[2].towards(Some(slow), Layer::new(2, 2)), Some(faster), "one after the other");
        let frames = stream.picture(3, 2, true, false);
        assert_eq!(frames[2].towards(Some(faster), Layer::new(2, 2)), Some(Layer::new(2, 2)));
        assert_eq!(frames[2].towards(Some(slow), Layer::new(2, 2)), Some(slow));
    }

    #[test]
    fn in_full_svc_the_rate_rises_at_the_start_of_a_picture_only() {
        let mut stream = Stream::started();
        stream.picture(1, 2, false, true);
        let frames = stream.picture(2, 1, true, true);
        let (slow, faster) = (Layer::new(2, 0), Layer::new(2, 1));
        assert_eq!(frames.map(|frame| frame.allows(Some(slow), faster)), [true, false, false]);
    }

    #[test]
    fn a_layer_that_is_predicted_from_below_only_may_be_entered() {
        let mut stream = Stream::started();
        stream.at(&Packet { picture: 1, ..PACKET }.bytes(&[]));
        let entry = Packet { picture: 1, spatial: 1, predicted: false, inter_layer: true, ..PACKET };
        let info = stream.at(&entry.bytes(&[]));
        assert!(!info.starts_keyframe);
        assert!(info.allows(Some(Layer::new(0, 2)), Layer::new(1, 2)));
        assert_eq!(info.towards(Some(Layer::new(0, 2)), Layer::new(2, 2)), Some(Layer::new(1, 2)));
    }

    #[test]
    fn in_flexible_mode_references_say_who_can_decode() {
        let mut stream = Stream { scalability: Scalability::default(), seen: Seen::default() };
        // I, L, F, B, E: key picture 0; then P: 1 refers to 0 in temporal layer 1; 2 to 0; 3 to 0, in layer 1; 4 to 3,
        // in layer 1.
        stream.at(&[0xbc, 0, 0]);
        stream.at(&[0xfc, 1, 0x20, 1 << 1]);
        stream.at(&[0xfc, 2, 0, 2 << 1]);
        let (slow, fast) = (Layer::new(0, 0), Layer::new(0, 1));
        let from_base = stream.at(&[0xfc, 3, 0x20, 3 << 1]);
        assert!(from_base.allows(Some(slow), fast));
        let from_above = stream.at(&[0xfc, 4, 0x20, 1 << 1]);
        assert!(!from_above.allows(Some(slow), fast));
        let of_both = stream.at(&[0xfc, 5, 0x20, 3 << 1 | 1, 2 << 1]);
        assert!(!of_both.allows(Some(slow), fast));
        let of_unknown = stream.at(&[0xfc, 9, 0x20, 2 << 1]);
        assert_eq!(of_unknown.decodable, LayerMask::EMPTY);
    }

    #[test]
    fn without_layers_everything_is_for_everybody() {
        let mut stream = Stream { scalability: Scalability::default(), seen: Seen::default() };
        // I, B; 15-bit picture id.
        let info = stream.at(&[0x88, 0x81, 2]);
        assert!(info.starts_keyframe);
        let info = stream.at(&[0xc8, 0x81, 3]);
        assert_eq!((info.picture, info.present, info.switchable), (Some(0x103), LayerMask::ALL, LayerMask::ALL));
    }

    #[test]
    fn ids_are_moved_in_place() {
        // I, P, L; 15 bits; layer; TL0PICIDX.
        let mut copy = [0xe0, 0xff, 0xfe, 0x20, 255, 1];
        Descriptor::parse(&copy).unwrap().places().shift(&mut copy, 3, 2);
        let moved = Descriptor::parse(&copy).unwrap();
        assert_eq!((moved.picture_id, moved.tl0_pic_idx), (Some((1, 1, true)), Some((1, 4))));
    }

    #[test]
    fn truncation_is_refused_at_every_length() {
        let whole = Packet { predicted: false, ..PACKET }.bytes(&STRUCTURE);
        assert_eq!(Descriptor::parse(&whole).unwrap().len, whole.len());
        for len in 0..whole.len() {
            assert!(Descriptor::parse(&whole[..len]).is_none(), "{len}");
        }
    }

    /// Forwards a stream of temporal layers 0, 2, 1, 2 to a receiver with changing wishes: everything that a frame
    /// refers to went out before.
    fn audit(full: bool, wishes: &[(u8, u8, u8)], keys: &[u8]) -> usize {
        let mut stream = Stream { scalability: Scalability::default(), seen: Seen::default() };
        let (mut tuned, mut target, mut change_in) = (None, Layer::HIGHEST, 0);
        let (mut sent, mut switches, mut since_key) = (BTreeSet::new(), 0, 0u8);
        let mut wishes = wishes.iter().cycle();
        for picture in 0..127u8 {
            since_key = if picture == 0 || keys.contains(&picture) { 0 } else { since_key + 1 };
            let is_key = since_key == 0;
            let (temporal, back) = [(0, 4), (2, 1), (1, 2), (2, 1)][usize::from(since_key % 4)];
            for spatial in 0..3u8 {
                if change_in == 0 {
                    let wish = wishes.next().unwrap();
                    (target, change_in) = (Layer::new(wish.0, wish.1), wish.2);
                }
                change_in -= 1;
                let inter_layer = spatial > 0 && (full || is_key);
                let packet = Packet {
                    picture,
                    temporal,
                    spatial,
                    predicted: !is_key,
                    switching_up: !is_key && temporal > 0,
                    inter_layer,
                    not_for_upper: !full && !is_key,
                };
                let structure: &[u8] = if is_key && spatial == 0 { &STRUCTURE } else { &[] };
                let info = stream.at(&packet.bytes(structure));
                let next = info.towards(tuned, target);
                switches += usize::from(next != tuned);
                tuned = next;
                if tuned.is_some_and(|layer| info.present.contains(layer)) {
                    let below = inter_layer.then(|| (picture, spatial - 1));
                    for reference in below.into_iter().chain((!is_key).then(|| (picture - back, spatial))) {
                        assert!(
                            sent.contains(&reference),
                            "{picture}.{spatial} needs {reference:?}, tuned to {tuned:?}"
                        );
                    }
                    sent.insert((picture, spatial));
                }
            }
        }
        switches
    }

    #[test]
    fn steps_between_layers_reach_their_target() {
        let wishes = [(2, 2, 40), (0, 2, 40), (0, 0, 40), (2, 2, 40), (1, 1, 40)];
        assert!(audit(true, &wishes, &[30, 60, 90]) >= 7);
        assert!(audit(false, &wishes, &[30, 60, 90]) >= 5);
    }

    proptest! {
        #[test]
        fn no_receiver_gets_a_frame_whose_references_it_did_not_get(
            wishes in prop::collection::vec((0u8..3, 0u8..3, 1u8..30), 1..20),
            keys in prop::collection::vec(1u8..127, 0..6),
        ) {
            audit(true, &wishes, &keys);
            audit(false, &wishes, &keys);
        }
    }
}
