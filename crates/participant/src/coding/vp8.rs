//! VP8 payloads (RFC 7741 §4.2) and the first bytes of a frame (RFC 6386 §9.1).

use super::{HEIGHTS, Ids, LayerFrame, Meta, Part, Received, WIDTHS, stamp_at};

pub(super) fn write(frame: &LayerFrame, ids: &Ids, part: Part, size: usize, out: &mut Vec<u8>) {
    // X; N when nothing will need it; S for the first of a frame.
    let unneeded = if frame.temporal == 2 { 0x20 } else { 0 };
    out.push(0x80 | unneeded | if part.is_first() { 0x10 } else { 0 });
    out.push(0xf0); // I, L, T, K
    out.extend((ids.picture_id | 0x8000).to_be_bytes());
    out.push(ids.tl0);
    out.push(frame.temporal << 6 | u8::from(frame.is_sync()) << 5); // TID, Y, key index 0
    if part.is_first() {
        out.extend([u8::from(!frame.key) | 0x10, 0, 0]);
        if frame.key {
            out.extend([0x9d, 0x01, 0x2a]);
            out.extend(WIDTHS[size.min(2)].to_le_bytes());
            out.extend(HEIGHTS[size.min(2)].to_le_bytes());
        }
    }
}

pub(super) fn read(payload: &[u8]) -> Option<Received> {
    // Everything ours has, always: a bridge that shortens it loses what receivers need.
    let &[first, 0xf0, high, low, tl0, layer] = payload.get(..6)? else { return None };
    if first & 0x80 == 0 || high & 0x80 == 0 {
        return None;
    }
    let starts = first & 0x17 == 0x10;
    let key = starts && payload.get(6)? & 1 == 0;
    let head = match (starts, key) {
        (true, true) => 10,
        (true, false) => 3,
        (false, _) => 0,
    };
    let stamp = stamp_at(payload, 6 + head)?;
    let picture_id = u16::from_be_bytes([high & 0x7f, low]);
    let meta = Meta::Vp8 { picture_id, tl0, temporal: layer >> 6, sync: layer & 0x20 != 0 };
    Some(Received { stamp, starts, ends: None, key, meta, described: None })
}
