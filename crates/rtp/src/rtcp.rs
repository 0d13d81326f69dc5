//! RTCP (RFC 3550 §6, RFC 4585 §6): a view of compound packets, and writers of what a bridge sends.

/// One packet of a compound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rtcp<'a> {
    /// RFC 3550 §6.4.1.
    SenderReport {
        /// The report of the sender itself.
        info: SenderInfo,
        /// What it receives.
        blocks: ReportBlocks<'a>,
    },
    /// RFC 3550 §6.4.2.
    ReceiverReport {
        /// Who reports.
        ssrc: u32,
        /// What it receives.
        blocks: ReportBlocks<'a>,
    },
    /// RFC 4585 §6.2.1.
    Nack {
        /// The stream with losses.
        media_ssrc: u32,
        /// Which packets.
        losses: NackPairs<'a>,
    },
    /// draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1; read by `transport_cc`.
    TransportCc {
        /// Everything after the two SSRCs.
        feedback: &'a [u8],
    },
    /// RFC 4585 §6.3.1.
    PictureLossIndication {
        /// The stream that needs a key frame.
        media_ssrc: u32,
    },
    /// RFC 5104 §4.3.1.
    FullIntraRequest {
        /// Entries of 8 bytes: SSRC, sequence, reserved.
        entries: &'a [u8],
    },
    /// REMB (draft-alvestrand-rmcat-remb-03 §2.2): what the receiver thinks that its downlink can carry.
    ReceiverEstimate {
        /// Of all its streams together.
        bits_per_second: u64,
        /// The streams: 4 bytes each.
        ssrcs: &'a [u8],
    },
    /// Anything else well-formed: SDES, BYE, APP, XR, other feedback.
    Other {
        /// The packet type.
        packet_type: u8,
    },
}

/// The sender's part of a sender report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// The stream.
    pub ssrc: u32,
    /// Wall clock, NTP format.
    pub ntp: u64,
    /// The same instant in the stream's clock.
    pub rtp_timestamp: u32,
    /// Packets sent so far.
    pub packets: u32,
    /// Payload bytes sent so far.
    pub octets: u32,
}

/// One report block (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportBlock {
    /// The stream reported on.
    pub ssrc: u32,
    /// Fraction lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Lost in all; 24 bits, signed.
    pub lost: i32,
    /// Highest sequence number received, with cycles.
    pub highest_sequence: u32,
    /// In units of the stream's clock.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time; 0 for none.
    pub last_sr: u32,
    /// Time since it came, in 1/65536 s.
    pub delay_since_last_sr: u32,
}

/// Iterates over report blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlocks<'a>(&'a [u8]);

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let (block, rest) = self.0.split_first_chunk::<24>()?;
        self.0 = rest;
        let word = |at: usize| u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        // 24 bits with sign: shift up, then down arithmetically.
        let lost = (word(4) << 8).cast_signed() >> 8;
        Some(ReportBlock {
            ssrc: word(0),
            fraction_lost: block[4],
            lost,
            highest_sequence: word(8),
            jitter: word(12),
            last_sr: word(16),
            delay_since_last_sr: word(20),
        })
    }
}

/// Iterates over the sequence numbers of a NACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NackPairs<'a>(&'a [u8]);

impl<'a> NackPairs<'a> {
    /// Every lost sequence number, in wire order.
    pub fn sequences(self) -> impl Iterator<Item = u16> + 'a {
        self.0.chunks_exact(4).flat_map(|pair| {
            let first = u16::from_be_bytes([pair[0], pair[1]]);
            let mask = u16::from_be_bytes([pair[2], pair[3]]);
            let following =
                (0..16).filter(move |bit| mask & (1 << bit) != 0).map(move |bit| first.wrapping_add(bit + 1));
            std::iter::once(first).chain(following)
        })
    }
}

/// Iterates over the packets of a compound; ends at the first that is malformed.
#[derive(Debug, Clone, Copy)]
pub struct Compound<'a>(&'a [u8]);

impl<'a> Compound<'a> {
    /// A view of a decrypted RTCP datagram.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Compound<'a> {
    type Item = Rtcp<'a>;

    fn next(&mut self) -> Option<Rtcp<'a>> {
        let header = self.0.get(..4)?;
        let len = 4 + 4 * usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 6 != 2 {
            return None;
        }
        let packet = self.0.get(..len)?;
        self.0 = &self.0[len..];
        let padding = if header[0] & 0x20 == 0 { 0 } else { usize::from(*packet.last()?) };
        let body = packet.get(4..len.checked_sub(padding)?)?;
        parse_one(header[0] & 0x1f, header[1], body)
    }
}

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const REMB: &[u8] = b"REMB";

/// REMB's number: up to 18 bits, shifted by up to 63.
fn saturating_shift(mantissa: u64, exponent: u8) -> u64 {
    if mantissa.leading_zeros() >= u32::from(exponent) { mantissa << exponent } else { u64::MAX }
}

fn parse_one(count: u8, packet_type: u8, body: &[u8]) -> Option<Rtcp<'_>> {
    let word = |at: usize| body.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let blocks = |at: usize| body.get(at..at + 24 * usize::from(count)).map(ReportBlocks);
    Some(match (packet_type, count) {
        (SENDER_REPORT, _) => Rtcp::SenderReport {
            info: SenderInfo {
                ssrc: word(0)?,
                ntp: (u64::from(word(4)?) << 32) | u64::from(word(8)?),
                rtp_timestamp: word(12)?,
                packets: word(16)?,
                octets: word(20)?,
            },
            blocks: blocks(24)?,
        },
        (RECEIVER_REPORT, _) => Rtcp::ReceiverReport { ssrc: word(0)?, blocks: blocks(4)? },
        (TRANSPORT_FEEDBACK, 1) => Rtcp::Nack { media_ssrc: word(4)?, losses: NackPairs(body.get(8..)?) },
        (TRANSPORT_FEEDBACK, 15) => Rtcp::TransportCc { feedback: body.get(8..)? },
        (PAYLOAD_FEEDBACK, 1) => Rtcp::PictureLossIndication { media_ssrc: word(4)? },
        (PAYLOAD_FEEDBACK, 4) => Rtcp::FullIntraRequest { entries: body.get(8..)? },
        (PAYLOAD_FEEDBACK, 15) if body.get(8..12) == Some(REMB) => {
            let [ssrc_count, high, middle, low] = *body.get(12..16)?.first_chunk()?;
            let mantissa = u64::from(u32::from_be_bytes([0, high & 0x03, middle, low]));
            let ssrcs = body.get(16..16 + 4 * usize::from(ssrc_count))?;
            Rtcp::ReceiverEstimate { bits_per_second: saturating_shift(mantissa, high >> 2), ssrcs }
        }
        _ => Rtcp::Other { packet_type },
    })
}

/// Builds a compound in a fixed buffer. What does not fit is left out; [`Writer::bytes`] is always well-formed.
#[derive(Debug)]
pub struct Writer {
    buffer: [u8; Self::CAPACITY],
    len: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { buffer: [0; Self::CAPACITY], len: 0 }
    }
}

impl Writer {
    /// Largest compound in bytes: below any path's MTU with SRTCP's trailer.
    pub const CAPACITY: usize = 1200;

    /// What has been written.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets what has been written.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// A sender report without blocks.
    pub fn sender_report(&mut self, info: SenderInfo) {
        let mut body = [0u8; 24];
        body[..4].copy_from_slice(&info.ssrc.to_be_bytes());
        body[4..12].copy_from_slice(&info.ntp.to_be_bytes());
        body[12..16].copy_from_slice(&info.rtp_timestamp.to_be_bytes());
        body[16..20].copy_from_slice(&info.packets.to_be_bytes());
        body[20..24].copy_from_slice(&info.octets.to_be_bytes());
        self.packet(0, SENDER_REPORT, &[&body]);
    }

    /// A receiver report with at most 31 blocks.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[ReportBlock]) {
        let blocks = &blocks[..blocks.len().min(31)];
        let mut body = [0u8; 31 * 24];
        for (block, out) in blocks.iter().zip(body.chunks_exact_mut(24)) {
            out[..4].copy_from_slice(&block.ssrc.to_be_bytes());
            let lost = block.lost.clamp(-0x80_0000, 0x7f_ffff).cast_unsigned() & 0x00ff_ffff;
            out[4..8].copy_from_slice(&((u32::from(block.fraction_lost) << 24) | lost).to_be_bytes());
            out[8..12].copy_from_slice(&block.highest_sequence.to_be_bytes());
            out[12..16].copy_from_slice(&block.jitter.to_be_bytes());
            out[16..20].copy_from_slice(&block.last_sr.to_be_bytes());
            out[20..24].copy_from_slice(&block.delay_since_last_sr.to_be_bytes());
        }
        let count = u8::try_from(blocks.len()).unwrap_or(31);
        self.packet(count, RECEIVER_REPORT, &[&ssrc.to_be_bytes(), &body[..24 * blocks.len()]]);
    }

    /// A source description with a canonical name of at most 32 bytes (RFC 3550 §6.5.1).
    pub fn cname(&mut self, ssrc: u32, name: &str) {
        let name = &name.as_bytes()[..name.len().min(32)];
        let mut body = [0u8; 40];
        body[..4].copy_from_slice(&ssrc.to_be_bytes());
        body[4] = 1;
        body[5] = u8::try_from(name.len()).unwrap_or(0);
        body[6..6 + name.len()].copy_from_slice(name);
        // At least one zero byte ends the list, then up to the next word.
        let len = (6 + name.len() + 1).next_multiple_of(4);
        self.packet(1, SOURCE_DESCRIPTION, &[&body[..len]]);
    }

    /// A NACK for sequence numbers in rising order, at most 64 pairs.
    pub fn nack(&mut self, sender_ssrc: u32, media_ssrc: u32, lost: impl Iterator<Item = u16>) {
        let mut pairs = [0u8; 64 * 4];
        let mut count = 0;
        let mut open: Option<(u16, u16)> = None;
        let mut close = |(first, mask): (u16, u16), count: &mut usize| {
            if let Some(out) = pairs.get_mut(*count * 4..*count * 4 + 4) {
                out[..2].copy_from_slice(&first.to_be_bytes());
                out[2..].copy_from_slice(&mask.to_be_bytes());
                *count += 1;
            }
        };
        for sequence in lost {
            open = match open {
                Some((first, mask)) if (1..=16).contains(&sequence.wrapping_sub(first)) => {
                    Some((first, mask | (1 << (sequence.wrapping_sub(first) - 1))))
                }
                Some(full) => {
                    close(full, &mut count);
                    Some((sequence, 0))
                }
                None => Some((sequence, 0)),
            };
        }
        if let Some(last) = open {
            close(last, &mut count);
            self.packet(
                1,
                TRANSPORT_FEEDBACK,
                &[&sender_ssrc.to_be_bytes(), &media_ssrc.to_be_bytes(), &pairs[..4 * count]],
            );
        }
    }

    /// A request for a key frame.
    pub fn picture_loss(&mut self, sender_ssrc: u32, media_ssrc: u32) {
        self.packet(1, PAYLOAD_FEEDBACK, &[&sender_ssrc.to_be_bytes(), &media_ssrc.to_be_bytes()]);
    }

    /// REMB for at most 50 streams. The number is rounded down to 18 significant bits.
    pub fn receiver_estimate(&mut self, sender_ssrc: u32, bits_per_second: u64, ssrcs: &[u32]) {
        let ssrcs = &ssrcs[..ssrcs.len().min(50)];
        let exponent = (64 - bits_per_second.leading_zeros()).saturating_sub(18);
        let [.., high, middle, low] = (bits_per_second >> exponent).to_be_bytes();
        let mut body = [0u8; 16 + 4 * 50];
        body[..4].copy_from_slice(&sender_ssrc.to_be_bytes());
        body[8..12].copy_from_slice(REMB);
        body[12] = u8::try_from(ssrcs.len()).unwrap_or(50);
        body[13] = u8::try_from(exponent << 2).unwrap_or(0) | high;
        (body[14], body[15]) = (middle, low);
        for (ssrc, out) in ssrcs.iter().zip(body[16..].chunks_exact_mut(4)) {
            out.copy_from_slice(&ssrc.to_be_bytes());
        }
        self.packet(15, PAYLOAD_FEEDBACK, &[&body[..16 + 4 * ssrcs.len()]]);
    }

    /// Transport-wide feedback; `feedback` comes from `transport_cc` and is padded to whole words there.
    pub fn transport_cc(&mut self, sender_ssrc: u32, media_ssrc: u32, feedback: &[u8]) {
        self.packet(15, TRANSPORT_FEEDBACK, &[&sender_ssrc.to_be_bytes(), &media_ssrc.to_be_bytes(), feedback]);
    }

    fn packet(&mut self, count: u8, packet_type: u8, parts: &[&[u8]]) {
        let body: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert_eq!(body % 4, 0);
        let Some(out) = self.buffer.get_mut(self.len..self.len + 4 + body) else { return };
        out[0] = 0x80 | count;
        out[1] = packet_type;
        out[2..4].copy_from_slice(&u16::try_from(body / 4).unwrap_or(0).to_be_bytes());
        let mut at = 4;
        for part in parts {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.len += at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compound_is_read_back_as_written() {
        let info = SenderInfo { ssrc: 1, ntp: 0x0102_0304_0506_0708, rtp_timestamp: 9, packets: 10, octets: 11 };
        let block = ReportBlock {
            ssrc: 7,
            fraction_lost: 64,
            lost: -3,
            highest_sequence: 70_000,
            jitter: 5,
            last_sr: 6,
            delay_since_last_sr: 8,
        };
        let mut writer = Writer::default();
        writer.sender_report(info);
        writer.cname(1, "tertulia");
        writer.receiver_report(2, &[block]);
        writer.nack(2, 7, [65_534, 65_535, 3, 40].into_iter());
        writer.picture_loss(2, 7);
        let read: Vec<Rtcp<'_>> = Compound::new(writer.bytes()).collect();
        assert!(matches!(read[0], Rtcp::SenderReport { info: own, .. } if own == info));
        assert_eq!(read[1], Rtcp::Other { packet_type: SOURCE_DESCRIPTION });
        let Rtcp::ReceiverReport { mut blocks, .. } = read[2] else { panic!("{:?}", read[2]) };
        assert_eq!(blocks.next(), Some(block));
        let Rtcp::Nack { media_ssrc: 7, losses } = read[3] else { panic!("{:?}", read[3]) };
        assert_eq!(losses.sequences().collect::<Vec<_>>(), [65_534, 65_535, 3, 40]);
        assert_eq!(read[4], Rtcp::PictureLossIndication { media_ssrc: 7 });
    }

    #[test]
    fn a_receivers_estimate_keeps_18_bits() {
        for (bits_per_second, read) in [
            (0, 0),
            (300_000, 300_000 & !1),
            (262_143, 262_143),
            (2_500_000_001, 2_500_000_001 >> 14 << 14),
            (u64::MAX, 0x3_ffff << 46),
        ] {
            let mut writer = Writer::default();
            writer.receiver_estimate(9, bits_per_second, &[1, 2]);
            let expected = Rtcp::ReceiverEstimate { bits_per_second: read, ssrcs: &[0, 0, 0, 1, 0, 0, 0, 2] };
            assert_eq!(Compound::new(writer.bytes()).next(), Some(expected), "{bits_per_second}");
        }
        // The largest that can be written is more than 64 bits hold.
        assert_eq!(saturating_shift(0x3_ffff, 63), u64::MAX);
        assert_eq!(saturating_shift(0, 63), 0);
    }

    #[test]
    fn a_receivers_estimate_in_the_drafts_own_layout() {
        let bytes = [
            0x8f, 206, 0, 5, // two SSRCs, "REMB", numbers, one SSRC
            0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', //
            1, 0x0b, 0x0d, 0x40, // one stream; exponent 2, mantissa 0x30d40 = 200 000
            0, 0, 0, 7,
        ];
        let expected = Rtcp::ReceiverEstimate { bits_per_second: 800_000, ssrcs: &[0, 0, 0, 7] };
        assert_eq!(Compound::new(&bytes).next(), Some(expected));
        let mut more = bytes;
        more[16] = 2;
        assert_eq!(Compound::new(&more).next(), None, "more streams than there are");
        let mut other = bytes;
        other[12] = b'X';
        assert_eq!(Compound::new(&other).next(), Some(Rtcp::Other { packet_type: 206 }));
    }

    #[test]
    fn what_a_bridge_does_not_use_is_stepped_over() {
        let compound = [
            &[0x81, 203, 0, 1, 0, 0, 0, 1][..],                     // BYE
            &[0x80, 204, 0, 2, 0, 0, 0, 1, b'n', b'a', b'm', b'e'], // APP
            &[0x80, 207, 0, 1, 0, 0, 0, 1],                         // XR without blocks
            &[0x82, 205, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2],             // unassigned transport feedback
            &[0x83, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2],             // RPSI
            &[0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7],             // PLI
        ]
        .concat();
        let read: Vec<_> = Compound::new(&compound).collect();
        let other = |packet_type| Rtcp::Other { packet_type };
        let expected =
            [203, 204, 207, 205, 206].map(other).into_iter().chain([Rtcp::PictureLossIndication { media_ssrc: 7 }]);
        assert_eq!(read, expected.collect::<Vec<_>>());
    }

    #[test]
    fn lies_about_lengths_end_the_walk() {
        let mut writer = Writer::default();
        writer.picture_loss(1, 2);
        let mut bytes = writer.bytes().to_vec();
        bytes[3] = 200;
        assert_eq!(Compound::new(&bytes).count(), 0);
        bytes[3] = 1;
        assert_eq!(Compound::new(&bytes).next(), None, "a PLI without a media SSRC");
    }
}
