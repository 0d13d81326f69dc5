//! Retransmissions (RFC 4588 §4): the original sequence number in front of the original payload.

/// Splits the payload of a retransmission into the original sequence number and payload.
pub fn unwrap(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (number, original) = payload.split_at_checked(2)?;
    Some((u16::from_be_bytes([number[0], number[1]]), original))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_number_comes_first() {
        assert_eq!(super::unwrap(&[1, 2, 3]), Some((0x0102, &[3u8][..])));
        assert_eq!(super::unwrap(&[1]), None);
    }
}
