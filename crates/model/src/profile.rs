//! The default RTP profile: payload types and header extensions that every offer carries.
//!
//! One table for the focus that writes offers and for the bridge that reads packets, so that they cannot disagree.

use crate::MediaKind;

/// A codec by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// RFC 7587.
    Opus,
    /// RFC 2198, around Opus.
    Red,
    /// RFC 4733.
    TelephoneEvent,
    /// AV1 RTP payload specification.
    Av1,
    /// RFC 7741.
    Vp8,
    /// RFC 6184.
    H264,
    /// RFC 9628.
    Vp9,
}

/// A feedback message a codec takes (RFC 4585 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feedback {
    /// `nack`, `ccm`, `transport-cc`.
    pub kind: &'static str,
    /// `pli`, `fir`; empty when there is none.
    pub subtype: &'static str,
}

/// One row of the profile.
#[derive(Debug, Clone, Copy)]
pub struct PayloadType {
    /// Which codec.
    pub codec: Codec,
    /// Audio or video.
    pub kind: MediaKind,
    /// Its name in SDP; clients compare case-sensitively.
    pub name: &'static str,
    /// The number on the wire, 0…127.
    pub number: u8,
    /// The number of its retransmissions (RFC 4588).
    pub rtx: Option<u8>,
    /// Whether the retransmission row repeats the feedback list: Jicofo leaves it out for H264.
    pub rtx_feedback: bool,
    /// In Hz.
    pub clock_rate: u32,
    /// 1 where SDP says nothing.
    pub channels: u8,
    /// `fmtp` parameters; one without a name is a value alone.
    pub parameters: &'static [(&'static str, &'static str)],
}

/// Payload types in the order of the offer. Not everybody is offered all of them.
pub const PAYLOAD_TYPES: &[PayloadType] = &[
    PayloadType {
        codec: Codec::Red,
        kind: MediaKind::Audio,
        name: "red",
        number: 112,
        rtx: None,
        rtx_feedback: false,
        clock_rate: 48_000,
        channels: 2,
        parameters: &[("", "111/111")],
    },
    PayloadType {
        codec: Codec::Opus,
        kind: MediaKind::Audio,
        name: "opus",
        number: 111,
        rtx: None,
        rtx_feedback: false,
        clock_rate: 48_000,
        channels: 2,
        parameters: &[("minptime", "10"), ("useinbandfec", "1")],
    },
    PayloadType {
        codec: Codec::TelephoneEvent,
        kind: MediaKind::Audio,
        name: "telephone-event",
        number: 126,
        rtx: None,
        rtx_feedback: false,
        clock_rate: 8_000,
        channels: 1,
        parameters: &[],
    },
    video(Codec::Av1, "AV1", 41, 42, true, &[]),
    video(Codec::Vp8, "VP8", 100, 96, true, &[]),
    video(
        Codec::H264,
        "H264",
        107,
        99,
        false,
        &[("profile-level-id", "42e01f"), ("level-asymmetry-allowed", "1"), ("packetization-mode", "1")],
    ),
    video(Codec::Vp9, "VP9", 101, 97, true, &[]),
];

/// Feedback for video, in wire order. A client gets one of the last two, or neither: `goog-remb` is for those that do without `transport-cc`.
pub const VIDEO_FEEDBACK: &[Feedback] = &[
    Feedback { kind: "ccm", subtype: "fir" },
    Feedback { kind: "nack", subtype: "" },
    Feedback { kind: "nack", subtype: "pli" },
    REMB,
    TRANSPORT_CC,
];

/// draft-alvestrand-rmcat-remb-03.
pub const REMB: Feedback = Feedback { kind: "goog-remb", subtype: "" };

/// Feedback for Opus too.
pub const TRANSPORT_CC: Feedback = Feedback { kind: "transport-cc", subtype: "" };

/// What a header extension carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// RFC 6464.
    AudioLevel,
    /// RFC 8843 §15.2.
    Mid,
    /// draft-holmer-rmcat-transport-wide-cc-extensions-01.
    TransportCc,
    /// AV1 RTP payload specification, appendix A.
    DependencyDescriptor,
    /// 24 bits of 6.18 seconds.
    AbsSendTime,
}

/// One row of the extension table (RFC 8285).
#[derive(Debug, Clone, Copy)]
pub struct HeaderExtension {
    /// What.
    pub extension: Extension,
    /// Audio or video.
    pub kind: MediaKind,
    /// The local id, 1…14.
    pub id: u8,
    /// The name.
    pub uri: &'static str,
}

/// Header extensions in the order of the offer.
pub const HEADER_EXTENSIONS: &[HeaderExtension] = &[
    extension(Extension::AudioLevel, MediaKind::Audio, 1, "urn:ietf:params:rtp-hdrext:ssrc-audio-level"),
    extension(Extension::Mid, MediaKind::Audio, 10, MID_URI),
    extension(Extension::TransportCc, MediaKind::Audio, 5, TRANSPORT_CC_URI),
    extension(
        Extension::DependencyDescriptor,
        MediaKind::Video,
        11,
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension",
    ),
    extension(Extension::Mid, MediaKind::Video, 10, MID_URI),
    extension(
        Extension::AbsSendTime,
        MediaKind::Video,
        3,
        "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    ),
    extension(Extension::TransportCc, MediaKind::Video, 5, TRANSPORT_CC_URI),
];

const MID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const TRANSPORT_CC_URI: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// The row of a payload type on the wire; retransmissions are looked up by [`original_of_rtx`].
pub fn payload_type(number: u8) -> Option<&'static PayloadType> {
    PAYLOAD_TYPES.iter().find(|row| row.number == number)
}

/// The row whose retransmissions have this number.
pub fn original_of_rtx(number: u8) -> Option<&'static PayloadType> {
    PAYLOAD_TYPES.iter().find(|row| row.rtx == Some(number))
}

const fn video(
    codec: Codec,
    name: &'static str,
    number: u8,
    rtx: u8,
    rtx_feedback: bool,
    parameters: &'static [(&'static str, &'static str)],
) -> PayloadType {
    PayloadType {
        codec,
        kind: MediaKind::Video,
        name,
        number,
        rtx: Some(rtx),
        rtx_feedback,
        clock_rate: 90_000,
        channels: 1,
        parameters,
    }
}

const fn extension(extension: Extension, kind: MediaKind, id: u8, uri: &'static str) -> HeaderExtension {
    HeaderExtension { extension, kind, id, uri }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_payload_number_means_two_things() {
        let mut numbers: Vec<u8> =
            PAYLOAD_TYPES.iter().flat_map(|row| std::iter::once(row.number).chain(row.rtx)).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
    }

    #[test]
    fn one_extension_has_one_id_over_both_kinds() {
        for a in HEADER_EXTENSIONS {
            for b in HEADER_EXTENSIONS {
                assert_eq!(a.id == b.id, a.uri == b.uri, "{} {}", a.uri, b.uri);
            }
        }
    }
}
