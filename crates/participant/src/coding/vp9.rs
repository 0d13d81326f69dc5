//! VP9 payload descriptors with spatial and temporal layers (RFC 9628 §4.2).

use super::{HEIGHTS, Ids, LayerFrame, Meta, Part, Received, WIDTHS, stamp_at};

/// How pictures before are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TemporalReferences {
    /// None is needed.
    Nothing,
    /// The structure of the last key frame says; TL0PICIDX comes with it.
    Pattern { tl0: u8 },
    /// So many pictures ago.
    Explicit(Vec<u8>),
}

/// The scalability structure, as far as references go: temporal layer and P_DIFFs of each picture of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Structure {
    pub(crate) group: Vec<(u8, Vec<u8>)>,
    /// TL0PICIDX of the picture that carries it, if there is one.
    pub(crate) tl0: Option<u8>,
}

/// With the structure: index of the lowest height, and how many layers are sent.
pub(super) fn write(
    frame: &LayerFrame,
    ids: &Ids,
    part: Part,
    flexible: bool,
    (lowest, layers): (usize, u8),
    out: &mut Vec<u8>,
) {
    let has_structure = part.is_first() && declares(frame, ids, layers);
    let flags = [
        true,                   // I
        frame.is_predicted(),   // P
        true,                   // L
        flexible,               // F
        part.is_first(),        // B
        part.is_last(),         // E
        has_structure,          // V
        !frame.is_needed_above, // Z
    ];
    out.push(flags.iter().fold(0, |byte, flag| byte << 1 | u8::from(*flag)));
    out.extend((ids.picture_id | 0x8000).to_be_bytes());
    // U: nothing after it needs pictures of this layer or above from before it.
    let switch_up = u8::from(frame.temporal > 0);
    out.push(frame.temporal << 5 | switch_up << 4 | frame.spatial << 1 | u8::from(frame.needs_below()));
    if !flexible {
        out.push(ids.tl0);
    } else if frame.is_predicted() {
        let mut earlier = frame.references.iter().flatten().filter(|reference| reference.back > 0).peekable();
        while let Some(reference) = earlier.next() {
            out.push(reference.back << 1 | u8::from(earlier.peek().is_some()));
        }
    }
    if has_structure {
        write_structure(flexible, (lowest, layers), out);
    }
}

/// Whether a frame brings the structure: that of a key picture, or as with libwebrtc the first one of temporal layer 0 since other
/// layers are sent.
pub(crate) fn declares(frame: &LayerFrame, ids: &Ids, layers: u8) -> bool {
    frame.spatial == 0 && (frame.key || frame.temporal == 0 && ids.declared != layers)
}

/// The layers that are sent, with their sizes; without explicit references, the pattern 0 2 1 2 too.
fn write_structure(flexible: bool, (lowest, layers): (usize, u8), out: &mut Vec<u8>) {
    out.push((layers - 1) << 5 | 0x10 | u8::from(!flexible) << 3);
    for (width, height) in WIDTHS.iter().zip(HEIGHTS).skip(lowest).take(layers.into()) {
        out.extend(width.to_be_bytes());
        out.extend(height.to_be_bytes());
    }
    if !flexible {
        out.push(4);
        for (temporal, switch_up, back) in [(0u8, 0u8, 4), (2, 1, 1), (1, 1, 2), (2, 1, 1)] {
            out.extend([temporal << 5 | switch_up << 4 | 1 << 2, back]);
        }
    }
}

pub(super) fn read(payload: &[u8]) -> Option<Received> {
    let mut rest = payload.iter().copied();
    let mut next = || rest.next();
    let first = next()?;
    let [id, predicted, layers, flexible, starts, ends, has_structure] =
        [7, 6, 5, 4, 3, 2, 1].map(|n| first >> n & 1 != 0);
    if !id || !layers {
        return None;
    }
    let (high, low) = (next()?, next()?);
    if high & 0x80 == 0 {
        return None; // ours have 15 bits, and nobody may shorten them
    }
    let picture_id = u16::from_be_bytes([high & 0x7f, low]);
    let layer = next()?;
    let (temporal, spatial, below) = (layer >> 5, layer >> 1 & 7, layer & 1 != 0);
    let tl0 = if flexible { None } else { Some(next()?) };
    let mut explicit = Vec::new();
    while flexible && predicted && explicit.len() < 3 {
        let byte = next()?;
        explicit.push(byte >> 1);
        if byte & 1 == 0 {
            break;
        }
    }
    let references = match (predicted, tl0) {
        (false, _) => TemporalReferences::Nothing,
        (true, Some(tl0)) => TemporalReferences::Pattern { tl0 },
        (true, None) => TemporalReferences::Explicit(explicit),
    };
    let structure = if has_structure { Some(Structure { tl0, group: read_group(&mut next)? }) } else { None };
    let stamp = stamp_at(payload, payload.len() - rest.len())?;
    let key = starts && !predicted && spatial == 0;
    let meta = Meta::Vp9 { picture_id, spatial, temporal, below, references, structure };
    Some(Received { stamp, starts, ends: Some(ends), key, meta, described: None })
}

fn read_group(next: &mut impl FnMut() -> Option<u8>) -> Option<Vec<(u8, Vec<u8>)>> {
    let head = next()?;
    let (layers, sizes, group) = ((head >> 5) + 1, head & 0x10 != 0, head & 0x08 != 0);
    for _ in 0..if sizes { 4 * layers } else { 0 } {
        next()?;
    }
    let mut pictures = Vec::new();
    for _ in 0..if group { next()? } else { 0 } {
        let byte = next()?;
        let backs = (0..byte >> 2 & 3).map(|_| next()).collect::<Option<Vec<u8>>>()?;
        pictures.push((byte >> 5, backs));
    }
    Some(pictures)
}
