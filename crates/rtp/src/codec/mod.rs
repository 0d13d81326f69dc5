//! Codec headers, as far as a forwarder looks into payloads. With end-to-end encryption only VP8's is used, and stays in the clear.

pub mod av1;
pub mod h264;
pub mod vp8;
pub mod vp9;

use tertulia_model::profile::Codec;

/// What a forwarder needs to know of one video packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameInfo {
    /// First packet of a frame, as far as it can be told.
    pub starts_frame: bool,
    /// Part of a frame from which decoding can start, and its first packet.
    pub starts_keyframe: bool,
    /// The smaller dimension in pixels, if the packet says so: a portrait picture is as tall as its width here.
    pub height: Option<u16>,
}

/// Looks into the payload of a video packet. `descriptor` is the dependency descriptor extension, which wins where it is sent.
pub fn inspect(codec: Codec, payload: &[u8], descriptor: Option<&[u8]>) -> FrameInfo {
    let descriptor = descriptor.and_then(crate::extension::DependencyDescriptor::parse);
    match codec {
        Codec::Vp8 => vp8::Descriptor::parse(payload).map(|vp8| vp8.frame_info(payload)).unwrap_or_default(),
        Codec::Vp9 => vp9::inspect(payload),
        Codec::Av1 => av1::inspect(payload, descriptor),
        Codec::H264 => h264::inspect(payload),
        Codec::Opus | Codec::TelephoneEvent => FrameInfo::default(),
    }
}
