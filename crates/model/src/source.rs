//! Sources: what an endpoint sends, as signalling and bridge both see it.

use crate::{SourceName, Ssrc};

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

impl MediaKind {
    /// `a` or `v`, as in source names.
    pub fn letter(self) -> char {
        match self {
            Self::Audio => 'a',
            Self::Video => 'v',
        }
    }

    /// `audio` or `video`, as in SDP and Jingle.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

/// What a video source shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VideoType {
    /// A camera.
    #[default]
    Camera,
    /// A shared screen or window at a few frames a second.
    Desktop,
    /// A shared screen at full frame rate.
    DesktopHighFps,
    /// Muted: the source exists and sends nothing.
    None,
}

impl VideoType {
    /// Whether this is a shared screen.
    pub fn is_desktop(self) -> bool {
        matches!(self, Self::Desktop | Self::DesktopHighFps)
    }
}

/// One signalled SSRC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The SSRC, never zero.
    pub ssrc: Ssrc,
    /// Audio or video.
    pub kind: MediaKind,
    /// The source it is part of: a camera with three layers and their RTX has six SSRCs of one name.
    pub name: SourceName,
    /// SDP's `msid`, one per name (RFC 8830). Missing for some simple clients.
    pub msid: Option<String>,
    /// What it shows; meaningless for audio.
    pub video_type: VideoType,
}

/// How the SSRCs of a group belong together (RFC 5576 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupSemantics {
    /// Simulcast encodings, lowest first.
    Sim,
    /// A stream and its retransmissions (RFC 4588): exactly two members.
    Fid,
}

impl GroupSemantics {
    /// `SIM` or `FID`, as in SDP and Jingle.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sim => "SIM",
            Self::Fid => "FID",
        }
    }
}

/// SSRCs that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceGroup {
    /// How.
    pub semantics: GroupSemantics,
    /// Audio or video.
    pub kind: MediaKind,
    /// In the order that matters to `semantics`.
    pub ssrcs: Vec<Ssrc>,
}

/// Everything one endpoint sends, or a change of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceSet {
    /// Every SSRC, in signalled order.
    pub sources: Vec<Source>,
    /// Every group, in signalled order.
    pub groups: Vec<SourceGroup>,
}

impl SourceSet {
    /// Whether nothing is sent.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.groups.is_empty()
    }

    /// The RTX partner of `ssrc`, if it has one.
    pub fn rtx_of(&self, ssrc: Ssrc) -> Option<Ssrc> {
        let pair = |group: &&SourceGroup| group.semantics == GroupSemantics::Fid && group.ssrcs.first() == Some(&ssrc);
        self.groups.iter().find(pair).and_then(|group| group.ssrcs.get(1).copied())
    }
}
