//! Redundant audio (RFC 2198): the primary block behind the headers of the redundant ones.

/// Finds the primary block: its payload type, and the offset at which its data starts and goes on to the end of the
/// payload.
///
/// Who wants the payload without redundancy takes the bytes from the offset on. `None` when the redundant blocks do not
/// fit.
pub fn primary(payload: &[u8]) -> Option<(u8, usize)> {
    let (mut at, mut redundant) = (0, 0);
    loop {
        let first = *payload.get(at)?;
        if first & 0x80 == 0 {
            let start = at + 1 + redundant;
            return (start <= payload.len()).then_some((first & 0x7f, start));
        }
        // Payload type, 14 bits of timestamp offset, 10 bits of length.
        let header = payload.get(at..at + 4)?;
        redundant += usize::from(u16::from_be_bytes([header[2] & 0x03, header[3]]));
        at += 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two redundant blocks of 3 and 2 bytes of payload type 111, then the primary one.
    const PAYLOAD: [u8; 16] = [0xef, 0x0f, 0x00, 3, 0xef, 0x07, 0x80, 2, 111, b'o', b'l', b'd', b'e', b'r', b'n', b'w'];

    #[test]
    fn the_primary_block_is_behind_the_redundant_ones() {
        let (payload_type, start) = primary(&PAYLOAD).unwrap();
        assert_eq!((payload_type, &PAYLOAD[start..]), (111, &b"nw"[..]));
        assert_eq!(primary(&[111, 1, 2]), Some((111, 1)), "no redundancy");
        assert_eq!(primary(&PAYLOAD[..14]), Some((111, 14)), "an empty primary block");
    }

    #[test]
    fn lengths_of_ten_bits_count() {
        let mut long = vec![0xef, 0, 0x02, 1, 111];
        assert_eq!(primary(&long), None);
        long.extend([0; 513]);
        assert_eq!(primary(&long), Some((111, 518)));
    }

    #[test]
    fn truncation_is_refused() {
        for len in 0..14 {
            assert_eq!(primary(&PAYLOAD[..len]), None, "{len}");
        }
    }
}
