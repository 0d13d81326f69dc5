//! Who sends under which SSRC: a number from which everybody can tell person, kind and encoding without a table.

use tertulia_model::{
    EndpointId, GroupSemantics, MediaKind, Source, SourceGroup, SourceName, SourceSet, Ssrc, VideoType,
};

/// Simulcast encodings of a camera.
pub(crate) const ENCODINGS: u8 = 3;
/// Nine digits and more: clients look for SSRCs by containment of text.
const BASE: u32 = 0x1000_0000;
const RTX: u8 = 8;
const AUDIO: u8 = 15;

/// What an SSRC carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// An encoding of the camera.
    Video(u8),
    /// Its retransmissions.
    Rtx(u8),
    /// The microphone.
    Audio,
}

impl Slot {
    /// One bit per slot, for tables of who gets what.
    pub(crate) fn bit(self) -> u16 {
        1 << self.number()
    }

    fn number(self) -> u8 {
        match self {
            Self::Video(encoding) => encoding,
            Self::Rtx(encoding) => RTX + encoding,
            Self::Audio => AUDIO,
        }
    }
}

/// The SSRC of a person's slot.
pub(crate) fn ssrc(person: u32, slot: Slot) -> u32 {
    BASE + (person << 4) + u32::from(slot.number())
}

/// Person and slot of an SSRC; `None` when it is nobody's.
pub(crate) fn owner(ssrc: u32) -> Option<(u32, Slot)> {
    let own = ssrc.checked_sub(BASE)?;
    let slot = match own & 15 {
        n @ 0..=2 => Slot::Video(n as u8),
        n @ 8..=10 => Slot::Rtx(n as u8 - RTX),
        15 => Slot::Audio,
        _ => return None,
    };
    Some((own >> 4, slot))
}

/// The endpoint of a person.
pub(crate) fn endpoint(person: u32) -> EndpointId {
    EndpointId::parse(&format!("p{person:06x}")).expect("letters and digits, seven of them")
}

/// The name of a person's camera.
pub(crate) fn camera_name(person: u32) -> SourceName {
    SourceName::of(&endpoint(person), MediaKind::Video, 0)
}

/// Everything a person sends, as signalling tells it.
pub(crate) fn set(person: u32, camera: bool, voice: bool) -> SourceSet {
    let id = endpoint(person);
    let source = |slot, kind| Source {
        ssrc: Ssrc(ssrc(person, slot)),
        kind,
        name: SourceName::of(&id, kind, 0),
        msid: Some("load".into()),
        video_type: VideoType::Camera,
    };
    let mut set = SourceSet::default();
    if camera {
        let group = |semantics, slots: &[Slot]| SourceGroup {
            semantics,
            kind: MediaKind::Video,
            ssrcs: slots.iter().map(|slot| Ssrc(ssrc(person, *slot))).collect(),
        };
        let encodings: Vec<Slot> = (0..ENCODINGS).map(Slot::Video).collect();
        set.groups.push(group(GroupSemantics::Sim, &encodings));
        for encoding in 0..ENCODINGS {
            set.sources.push(source(Slot::Video(encoding), MediaKind::Video));
            set.sources.push(source(Slot::Rtx(encoding), MediaKind::Video));
            set.groups.push(group(GroupSemantics::Fid, &[Slot::Video(encoding), Slot::Rtx(encoding)]));
        }
    }
    if voice {
        set.sources.push(source(Slot::Audio, MediaKind::Audio));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ssrc_names_its_owner() {
        for slot in [Slot::Video(0), Slot::Video(2), Slot::Rtx(1), Slot::Audio] {
            assert_eq!(owner(ssrc(70_000, slot)), Some((70_000, slot)));
        }
        assert_eq!((owner(5), owner(BASE + 4)), (None, None));
    }

    #[test]
    fn a_camera_has_six_streams_and_its_pairs_are_told() {
        let set = set(3, true, true);
        assert_eq!((set.sources.len(), set.groups.len()), (7, 4));
        assert_eq!(set.rtx_of(Ssrc(ssrc(3, Slot::Video(1)))), Some(Ssrc(ssrc(3, Slot::Rtx(1)))));
    }
}
