//! H.264 payloads (RFC 6184 §5): key frames, and frames that nothing refers to, which are the second temporal layer of
//! a stream that says nothing else of layers. With end-to-end encryption the unit headers are all that may be relied
//! on.

use super::FrameInfo;
use super::inspector::Seen;
use super::layer::{self, Layer, LayerMask};

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// What is remembered of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Units {
    /// The latest packet held what stands before the slices of a picture, and no slice.
    before_slices: bool,
    parameters: Parameters,
}

/// How the stream sends its parameter sets, without which a key frame is of no use to who comes newly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Parameters {
    /// Never seen: they come another way.
    #[default]
    Apart,
    /// Before each key frame.
    Ahead,
    /// Usually ahead, but not before the latest key frame: they were lost, or are not repeated any more.
    Missed,
}

/// What one packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Content {
    parameters: bool,
    idr: bool,
    /// Any slice.
    slice: bool,
    /// The packet begins with the first bytes of a unit.
    begins_unit: bool,
    /// A slice begins that has the first macroblock of its picture.
    begins_picture: bool,
    /// Something refers to one of the slices, or the packet has none.
    reference: bool,
}

impl Content {
    fn of(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut own = Self { begins_unit: true, ..Self::default() };
        match first & 0x1f {
            STAP_A => aggregated(&payload[1..]).for_each(|unit| own.add(unit[0], unit.get(1))),
            FU_A => {
                let header = *payload.get(1)?;
                own.begins_unit = header & 0x80 != 0;
                own.add((first & 0xe0) | (header & 0x1f), payload.get(2).filter(|_| own.begins_unit));
            }
            _ => own.add(first, payload.get(1)),
        }
        own.reference |= !own.slice;
        Some(own)
    }

    /// `after` is the byte behind the unit's header, where the unit begins in this packet.
    fn add(&mut self, header: u8, after: Option<&u8>) {
        let kind = header & 0x1f;
        match kind {
            SLICE..=IDR => {
                self.slice = true;
                self.idr |= kind == IDR;
                self.reference |= header & 0x60 != 0;
                // first_mb_in_slice is 0: a single bit, which is set.
                self.begins_picture |= after.is_some_and(|byte| byte & 0x80 != 0);
            }
            SPS => self.parameters = true,
            _ => {}
        }
    }
}

/// Units of a STAP-A, none of them empty; ends at the first that is cut off.
fn aggregated(mut units: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_be_bytes([*units.first()?, *units.get(1)?]));
        let unit = units.get(2..2 + len).filter(|unit| !unit.is_empty())?;
        units = &units[2 + len..];
        Some(unit)
    })
}

impl Units {
    /// Looks at one payload.
    pub(crate) fn inspect(&mut self, payload: &[u8], marker: bool, seen: &mut Seen) -> FrameInfo {
        let Some(content) = Content::of(payload) else { return FrameInfo::unknown(marker) };
        let (starts_frame, starts_keyframe) = self.starts(content);
        if starts_keyframe {
            seen.begin();
        }
        let temporal = u8::from(!content.reference);
        let crossing = LayerMask::ALL; // all pictures are of one size
        let frame = FrameInfo { starts_frame, starts_keyframe, crossing, ..FrameInfo::unknown(marker) };
        let layer = Layer::new(0, temporal);
        seen.note(layer);
        let all = LayerMask::ALL;
        if starts_keyframe || seen.rates_begun_by(0) == 0xff {
            return FrameInfo { layer, switchable: all, decodable: all, ..frame };
        }
        FrameInfo {
            layer,
            present: LayerMask::product(0xff, layer::from(temporal)),
            switchable: LayerMask::product(0xff, seen.rates_begun_by(temporal)),
            decodable: all,
            discardable: !content.reference,
            ..frame
        }
    }

    /// Whether a frame starts with the packet, and whether it is a key frame: at the parameter sets, if they come in
    /// front of it.
    fn starts(&mut self, content: Content) -> (bool, bool) {
        let continues = std::mem::replace(&mut self.before_slices, !content.slice);
        let starts_frame = content.begins_unit && !continues && (content.begins_picture || !content.slice);
        if content.parameters {
            self.parameters = Parameters::Ahead;
            return (true, true);
        }
        if !content.idr || !content.begins_picture || continues {
            return (starts_frame, false);
        }
        let is_complete = self.parameters != Parameters::Ahead;
        if !is_complete {
            self.parameters = Parameters::Missed;
        }
        (starts_frame, is_complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(payload: &[u8]) -> FrameInfo {
        Units::default().inspect(payload, false, &mut Seen::default())
    }

    /// A slice's second byte when it has the first macroblock, and when it has not.
    const FIRST: u8 = 0x88;
    const LATER: u8 = 0x48;

    #[test]
    fn parameter_sets_and_idr_slices_start_key_frames() {
        assert!(inspect(&[0x67]).starts_keyframe);
        assert!(inspect(&[0x78, 0, 1, 0x67, 0, 1, 0x68]).starts_keyframe, "STAP-A of SPS, PPS");
        assert!(inspect(&[0x65, FIRST]).starts_keyframe);
        assert!(inspect(&[0x7c, 0x85, FIRST]).starts_keyframe, "FU-A, start of an IDR slice");
        assert!(!inspect(&[0x7c, 0x05, FIRST]).starts_keyframe, "FU-A, inside of it");
        assert!(!inspect(&[0x65, LATER]).starts_keyframe, "its second slice");
        assert!(!inspect(&[0x41, FIRST]).starts_keyframe);
        assert!(!inspect(&[0x78, 9, 9]).starts_keyframe);
    }

    #[test]
    fn a_picture_in_several_packets_starts_once() {
        let (mut units, mut seen) = (Units::default(), Seen::default());
        let packets: [(&[u8], bool); 6] = [
            (&[0x78, 0, 1, 0x67, 0, 1, 0x68], true),
            (&[0x7c, 0x85, FIRST], false),
            (&[0x7c, 0x45], false),
            (&[0x65, LATER], false),
            (&[0x41, FIRST], true),
            (&[0x41, LATER], false),
        ];
        for (packet, starts) in packets {
            assert_eq!(units.inspect(packet, false, &mut seen).starts_frame, starts, "{packet:x?}");
        }
    }

    #[test]
    fn a_key_frame_without_its_usual_parameter_sets_starts_nothing_once() {
        let (mut units, mut seen) = (Units::default(), Seen::default());
        let mut starts = |payload: &[u8]| units.inspect(payload, false, &mut seen).starts_keyframe;
        assert!(starts(&[0x67]));
        assert!(!starts(&[0x65, FIRST]), "goes on after the sets");
        assert!(!starts(&[0x41, FIRST]));
        assert!(!starts(&[0x65, FIRST]), "the sets were lost");
        assert!(starts(&[0x65, FIRST]), "they are not repeated any more");
    }

    #[test]
    fn frames_that_nothing_refers_to_are_the_second_temporal_layer() {
        let (mut units, mut seen) = (Units::default(), Seen::default());
        let mut at = |payload: &[u8]| units.inspect(payload, true, &mut seen);
        let only = at(&[0x41, FIRST]);
        assert_eq!((only.present, only.switchable), (LayerMask::ALL, LayerMask::ALL), "no layers so far");
        let (low, high) = (Layer::new(0, 0), Layer::new(0, 1));
        for packet in [&[0x01, FIRST][..], &[0x1c, 0x81, FIRST], &[0x18, 0, 1, 0x09, 0, 2, 0x01, FIRST]] {
            let info = at(packet);
            assert!(info.discardable && info.layer == high, "{packet:x?}");
            assert!(!info.present.contains(low) && info.present.contains(high));
            assert!(info.allows(Some(low), Layer::new(0, 7)));
        }
        assert!(at(&[0x61, FIRST]).present.contains(low));
        assert!(at(&[0x06, 1]).present.contains(low), "supplemental information goes to everybody");
    }

    #[test]
    fn nothing_is_read_beyond_a_short_payload() {
        let stap = [0x78, 0, 2, 0x65, FIRST, 0, 1, 0x67];
        for len in 0..stap.len() {
            let _ = inspect(&stap[..len]);
        }
        assert_eq!(inspect(&[]), FrameInfo::default());
        assert_eq!(inspect(&[0x7c]), FrameInfo::default());
    }
}
