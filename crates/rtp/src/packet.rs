//! RTP packets (RFC 3550 §5.1) and their header extensions (RFC 8285).

/// Length of a header without contributing sources and extensions.
pub const FIXED_HEADER_LEN: usize = 12;

const ONE_BYTE_PROFILE: u16 = 0xbede;
const TWO_BYTE_PROFILE: u16 = 0x1000;

/// The fields of a header that a forwarder writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Last packet of a frame for video; start of a talk spurt for audio.
    pub marker: bool,
    /// 0…127.
    pub payload_type: u8,
    /// Modulo 2¹⁶.
    pub sequence: u16,
    /// In units of the codec's clock.
    pub timestamp: u32,
    /// Who sends.
    pub ssrc: u32,
}

/// A view of one RTP packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The fixed fields.
    pub header: Header,
    extensions: Extensions<'a>,
    payload: &'a [u8],
    header_len: usize,
    padding_len: usize,
}

impl<'a> Packet<'a> {
    /// Reads a packet; `None` when it is not one.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header_len = header_len(bytes)?;
        let extensions = if bytes[0] & 0x10 == 0 {
            Extensions { rest: &[], two_byte: false }
        } else {
            let start = FIXED_HEADER_LEN + 4 * usize::from(bytes[0] & 0x0f);
            let profile = u16::from_be_bytes([bytes[start], bytes[start + 1]]);
            let rest = &bytes[start + 4..header_len];
            match profile {
                ONE_BYTE_PROFILE => Extensions { rest, two_byte: false },
                _ if profile & 0xfff0 == TWO_BYTE_PROFILE => Extensions { rest, two_byte: true },
                _ => Extensions { rest: &[], two_byte: false },
            }
        };
        let padding_len = if bytes[0] & 0x20 == 0 { 0 } else { usize::from(*bytes.last()?) };
        let padded = bytes[0] & 0x20 != 0;
        if padded && (padding_len == 0 || padding_len > bytes.len() - header_len) {
            return None;
        }
        Some(Self {
            header: Header {
                marker: bytes[1] & 0x80 != 0,
                payload_type: bytes[1] & 0x7f,
                sequence: u16::from_be_bytes([bytes[2], bytes[3]]),
                timestamp: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
                ssrc: u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            },
            extensions,
            payload: &bytes[header_len..bytes.len() - padding_len],
            header_len,
            padding_len,
        })
    }

    /// The payload without padding. Empty in padding-only packets.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Bytes before the payload.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Bytes after the payload.
    pub fn padding_len(&self) -> usize {
        self.padding_len
    }

    /// Header extensions as (id, data), in wire order.
    pub fn extensions(&self) -> Extensions<'a> {
        self.extensions
    }

    /// The data of one header extension.
    pub fn extension(&self, id: u8) -> Option<&'a [u8]> {
        self.extensions.into_iter().find(|(own, _)| *own == id).map(|(_, data)| data)
    }
}

/// Length of the header with contributing sources and extensions, which is what SRTP leaves in the clear.
pub fn header_len(bytes: &[u8]) -> Option<usize> {
    let first = *bytes.first()?;
    if first >> 6 != 2 || bytes.len() < FIXED_HEADER_LEN {
        return None;
    }
    let mut len = FIXED_HEADER_LEN + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let words = bytes.get(len + 2..len + 4)?;
        len += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    (len <= bytes.len()).then_some(len)
}

/// Iterates over header extensions of both forms (RFC 8285 §4.2, §4.3).
#[derive(Debug, Clone, Copy)]
pub struct Extensions<'a> {
    rest: &'a [u8],
    two_byte: bool,
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&first, after) = self.rest.split_first()?;
            if first == 0 {
                self.rest = after; // padding
                continue;
            }
            let (id, len, after) = if self.two_byte {
                let (&len, after) = after.split_first()?;
                (first, usize::from(len), after)
            } else if first >> 4 == 15 || first >> 4 == 0 {
                return None; // reserved, or padding that has a length: RFC 8285 §4.2 ends the list here
            } else {
                (first >> 4, usize::from(first & 0x0f) + 1, after)
            };
            let data = after.get(..len)?;
            self.rest = &after[len..];
            return Some((id, data));
        }
    }
}

/// Writes a header and extensions; returns their length, or 0 when the buffer is too small.
///
/// The one-byte form is used unless an extension needs the other (more than 16 bytes, or none). Ids are 1…14.
pub fn write_header(buffer: &mut [u8], header: Header, extensions: &[(u8, &[u8])]) -> usize {
    let two_byte = extensions.iter().any(|(_, data)| data.is_empty() || data.len() > 16);
    let overhead = if two_byte { 2 } else { 1 };
    let data_len: usize = extensions.iter().map(|(_, data)| overhead + data.len()).sum();
    let words = data_len.div_ceil(4);
    let len = FIXED_HEADER_LEN + if extensions.is_empty() { 0 } else { 4 + 4 * words };
    let Some(out) = buffer.get_mut(..len) else { return 0 };
    out[0] = 0x80 | if extensions.is_empty() { 0 } else { 0x10 };
    out[1] = (u8::from(header.marker) << 7) | (header.payload_type & 0x7f);
    out[2..4].copy_from_slice(&header.sequence.to_be_bytes());
    out[4..8].copy_from_slice(&header.timestamp.to_be_bytes());
    out[8..12].copy_from_slice(&header.ssrc.to_be_bytes());
    if extensions.is_empty() {
        return len;
    }
    let profile = if two_byte { TWO_BYTE_PROFILE } else { ONE_BYTE_PROFILE };
    out[12..14].copy_from_slice(&profile.to_be_bytes());
    out[14..16].copy_from_slice(&u16::try_from(words).unwrap_or(u16::MAX).to_be_bytes());
    let mut at = 16;
    for (id, data) in extensions {
        let data_len = u8::try_from(data.len()).unwrap_or(u8::MAX);
        if two_byte {
            out[at] = *id;
            out[at + 1] = data_len;
        } else {
            out[at] = (id << 4) | (data_len - 1);
        }
        at += overhead;
        out[at..at + data.len()].copy_from_slice(data);
        at += data.len();
    }
    out[at..].fill(0);
    len
}

/// Writes a packet of padding alone, as probes are; returns its length, or 0 when the buffer is too small.
///
/// `padding_len` is 1…255 (0 counts as 1): the last byte has to hold it.
pub fn write_padding(buffer: &mut [u8], header: Header, extensions: &[(u8, &[u8])], padding_len: u8) -> usize {
    let padding_len = padding_len.max(1);
    let start = write_header(buffer, header, extensions);
    let Some(padding) = buffer.get_mut(start..start + usize::from(padding_len)).filter(|_| start > 0) else {
        return 0;
    };
    padding.fill(0);
    padding[usize::from(padding_len) - 1] = padding_len;
    buffer[0] |= 0x20;
    start + usize::from(padding_len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header =
        Header { marker: true, payload_type: 100, sequence: 65_535, timestamp: 7, ssrc: 0x0102_0304 };

    #[test]
    fn what_is_written_is_read_back_in_both_forms() {
        let long = [9u8; 40];
        for extensions in [vec![], vec![(1u8, &[5u8][..]), (5, &[1, 2])], vec![(11, &long[..]), (3, &[1, 2, 3])]] {
            let mut buffer = [0xaau8; 200];
            let len = write_header(&mut buffer, HEADER, &extensions);
            buffer[len..len + 4].copy_from_slice(b"body");
            let packet = Packet::parse(&buffer[..len + 4]).unwrap();
            assert_eq!((packet.header, packet.payload(), packet.header_len()), (HEADER, &b"body"[..], len));
            assert_eq!(packet.extensions().collect::<Vec<_>>(), extensions);
        }
    }

    #[test]
    fn padding_is_not_payload_and_a_lie_about_it_is_refused() {
        let mut bytes = vec![0u8; 20];
        write_header(&mut bytes, HEADER, &[]);
        bytes[0] |= 0x20;
        bytes[19] = 8;
        assert_eq!(Packet::parse(&bytes).unwrap().payload(), b"");
        for lie in [0, 9] {
            bytes[19] = lie;
            assert!(Packet::parse(&bytes).is_none());
        }
    }

    #[test]
    fn a_packet_of_padding_alone_has_no_payload() {
        for (asked, padding_len) in [(0, 1), (1, 1), (224, 224), (255, 255)] {
            let mut buffer = [0xaa; 300];
            let len = write_padding(&mut buffer, HEADER, &[(5, &[1, 2])], asked);
            let packet = Packet::parse(&buffer[..len]).unwrap();
            assert_eq!((packet.header, packet.payload()), (HEADER, &b""[..]));
            assert_eq!((packet.padding_len(), packet.extension(5)), (padding_len, Some(&[1u8, 2][..])));
        }
        assert_eq!(write_padding(&mut [0; 40], HEADER, &[], 29), 0, "it does not fit");
        assert_eq!(write_padding(&mut [0; 4], HEADER, &[], 1), 0);
    }

    #[test]
    fn truncation_is_refused_at_every_length() {
        let mut buffer = [0u8; 64];
        let len = write_header(&mut buffer, HEADER, &[(1, &[5]), (5, &[1, 2])]);
        for short in 0..len {
            assert!(Packet::parse(&buffer[..short]).is_none(), "{short}");
        }
    }

    proptest! {
        #[test]
        fn any_packet_that_is_written_is_read_back(
            (marker, sequence, timestamp, ssrc) in any::<(bool, u16, u32, u32)>(),
            payload_type in 0u8..128,
            extensions in prop::collection::vec((1u8..15, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            payload in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let header = Header { marker, payload_type, sequence, timestamp, ssrc };
            let extensions: Vec<_> = extensions.iter().map(|(id, data)| (*id, &data[..])).collect();
            let mut buffer = [0xaa; 600];
            let len = write_header(&mut buffer, header, &extensions);
            let end = len + payload.len();
            buffer[len..end].copy_from_slice(&payload);
            let packet = Packet::parse(&buffer[..end]).unwrap();
            prop_assert_eq!((packet.header, packet.payload(), packet.padding_len()), (header, &payload[..], 0));
            prop_assert_eq!(packet.extensions().collect::<Vec<_>>(), extensions);
            for short in 0..len {
                prop_assert!(Packet::parse(&buffer[..short]).is_none());
            }
        }
    }
}
