//! H.264 payloads (RFC 6184 §5): key frames, and frames that nothing refers to, which are the second temporal layer of
//! a stream that says nothing else of layers.
//!
//! Unit headers are read and nothing behind them, which may be encrypted end to end. Where a picture begins is RTP's to
//! say.

use super::FrameInfo;
use super::inspector::Seen;
use super::layer::{self, Layer, LayerMask};
use crate::sequence::SeqNo;

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// What is remembered of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Units {
    /// The highest number that came, and whether its packet was the last of a picture.
    newest: Option<(SeqNo, bool)>,
}

/// What one packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Content {
    /// A parameter set of a sequence begins: it stands before the slices of a key frame.
    parameters: bool,
    idr: bool,
    /// Any slice.
    slice: bool,
    /// The packet begins with the first bytes of a unit.
    begins_unit: bool,
    /// Something refers to one of the slices, or the packet has none.
    reference: bool,
}

impl Content {
    fn of(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut own = Self { begins_unit: true, ..Self::default() };
        match first & 0x1f {
            STAP_A => aggregated(&payload[1..]).for_each(|unit| own.add(unit[0])),
            FU_A => {
                let header = *payload.get(1)?;
                own.begins_unit = header & 0x80 != 0;
                own.add((first & 0xe0) | (header & 0x1f));
            }
            _ => own.add(first),
        }
        own.reference |= !own.slice;
        Some(own)
    }

    fn add(&mut self, header: u8) {
        let kind = header & 0x1f;
        match kind {
            SLICE..=IDR => {
                self.slice = true;
                self.idr |= kind == IDR;
                self.reference |= header & 0x60 != 0;
            }
            SPS => self.parameters |= self.begins_unit,
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
    pub(crate) fn inspect(&mut self, number: SeqNo, payload: &[u8], marker: bool, seen: &mut Seen) -> FrameInfo {
        let follows_picture = self.follows_picture(number, marker);
        let Some(content) = Content::of(payload) else { return FrameInfo::unknown(marker) };
        let begins = content.begins_unit && follows_picture;
        // A key frame without its usual parameter sets is one whose sender repeats them no more: none is missing before it.
        let starts_keyframe = content.parameters || begins && content.idr;
        let starts_frame = begins || starts_keyframe;
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

    /// Whether the packet before this one is the last of a picture. When it is missing or late, nobody can tell.
    fn follows_picture(&mut self, number: SeqNo, marker: bool) -> bool {
        let Some((newest, ended)) = self.newest else {
            self.newest = Some((number, marker));
            return true;
        };
        if number > newest {
            self.newest = Some((number, marker));
        }
        ended && number == newest + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(payload: &[u8]) -> FrameInfo {
        Units::default().inspect(1, payload, false, &mut Seen::default())
    }

    /// Packets one after the other, each with its number and its marker: which start a frame, and which a key frame.
    fn starts(packets: &[(SeqNo, &[u8], bool)]) -> (Vec<SeqNo>, Vec<SeqNo>) {
        let (mut units, mut seen) = (Units::default(), Seen::default());
        let (mut frames, mut keys) = (Vec::new(), Vec::new());
        for (number, payload, marker) in packets {
            let info = units.inspect(*number, payload, *marker, &mut seen);
            frames.extend(info.starts_frame.then_some(*number));
            keys.extend(info.starts_keyframe.then_some(*number));
        }
        (frames, keys)
    }

    #[test]
    fn parameter_sets_and_idr_slices_start_key_frames() {
        assert!(inspect(&[0x67]).starts_keyframe);
        assert!(inspect(&[0x78, 0, 1, 0x67, 0, 1, 0x68]).starts_keyframe, "STAP-A of SPS, PPS");
        assert!(inspect(&[0x65]).starts_keyframe);
        assert!(inspect(&[0x7c, 0x85]).starts_keyframe, "FU-A, start of an IDR slice");
        assert!(!inspect(&[0x7c, 0x05]).starts_keyframe, "FU-A, inside of it");
        assert!(
            inspect(&[0x7c, 0x87]).starts_keyframe,
            "FU-A, start of what seems to be an SPS: a whole frame, encrypted"
        );
        assert!(!inspect(&[0x7c, 0x47]).starts_keyframe, "and its end");
        assert!(!inspect(&[0x41]).starts_keyframe);
        assert!(!inspect(&[0x78, 9, 9]).starts_keyframe);
    }

    #[test]
    fn a_picture_in_several_packets_starts_once_whatever_stands_behind_the_headers() {
        for noise in [0x00, 0x48, 0x88, 0xff] {
            let packets: [(SeqNo, &[u8], bool); 8] = [
                (1, &[0x78, 0, 1, 0x67, 0, 1, 0x68], false),
                (2, &[0x7c, 0x85, noise], false),
                (3, &[0x7c, 0x45, noise], false),
                (4, &[0x65, noise], true),
                (5, &[0x41, noise], false),
                (6, &[0x41, noise], true),
                (7, &[0x65, noise], false),
                (8, &[0x65, noise], true),
            ];
            assert_eq!(starts(&packets), (vec![1, 5, 7], vec![1, 7]), "{noise:x}");
        }
    }

    #[test]
    fn where_a_picture_begins_is_not_guessed_when_the_packet_before_is_missing_or_late() {
        let slice: &[u8] = &[0x65, 0x88];
        let packets = [(1, slice, true), (3, slice, false), (4, slice, true), (2, slice, true), (5, slice, true)];
        assert_eq!(starts(&packets), (vec![1, 5], vec![1, 5]));
        assert_eq!(
            starts(&[(1, slice, true), (3, &[0x67], false)]).1,
            [1, 3],
            "parameter sets are a beginning all the same"
        );
    }

    #[test]
    fn frames_that_nothing_refers_to_are_the_second_temporal_layer() {
        let (mut units, mut seen) = (Units::default(), Seen::default());
        let mut number = 0;
        let mut at = |payload: &[u8]| {
            number += 1;
            units.inspect(number, payload, true, &mut seen)
        };
        let only = at(&[0x41, 0]);
        assert_eq!((only.present, only.switchable), (LayerMask::ALL, LayerMask::ALL), "no layers so far");
        let (low, high) = (Layer::new(0, 0), Layer::new(0, 1));
        for packet in [&[0x01, 0][..], &[0x1c, 0x81, 0], &[0x18, 0, 1, 0x09, 0, 2, 0x01, 0]] {
            let info = at(packet);
            assert!(info.discardable && info.layer == high, "{packet:x?}");
            assert!(!info.present.contains(low) && info.present.contains(high));
            assert!(info.allows(Some(low), Layer::new(0, 7)));
        }
        assert!(at(&[0x61, 0]).present.contains(low));
        assert!(at(&[0x06, 1]).present.contains(low), "supplemental information goes to everybody");
    }

    #[test]
    fn nothing_is_read_beyond_a_short_payload() {
        let stap = [0x78, 0, 2, 0x65, 0, 0, 1, 0x67];
        for len in 0..stap.len() {
            let _ = inspect(&stap[..len]);
        }
        assert_eq!(inspect(&[]), FrameInfo::default());
        assert_eq!(inspect(&[0x7c]), FrameInfo::default());
    }
}
