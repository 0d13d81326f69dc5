//! Names of things: parsed once at the edge, trusted afterwards.

use std::fmt;
use std::sync::Arc;

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidId;

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a valid identifier")
    }
}

impl std::error::Error for InvalidId {}

/// One person on the bridge; also the resource of the occupant's JID in the room.
///
/// `[a-zA-Z0-9][a-zA-Z0-9_]*`, at most [`EndpointId::MAX_LEN`] bytes. It never contains `-`: clients split source
/// names at the first or the last one. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// Longest id in bytes. Jitsi's clients use 8 hexadecimal digits; the rest is room for bots with names.
    pub const MAX_LEN: usize = 32;

    /// Parses an id.
    ///
    /// # Errors
    /// When the text is empty, too long or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if first && rest && text.len() <= Self::MAX_LEN { Ok(Self(text.into())) } else { Err(InvalidId) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The bridge's own number of a conference: random, never the room's name, so that a bridge's log or a channel URL
/// does not give the room away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConferenceId(pub u64);

impl ConferenceId {
    /// Parses the 16 hexadecimal digits that `Display` writes.
    ///
    /// # Errors
    /// For anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !digits {
            return Err(InvalidId);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| InvalidId)
    }
}

impl fmt::Display for ConferenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The name of a source: `<endpoint>-a<n>` or `<endpoint>-v<n>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(Arc<str>);

impl SourceName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 48;

    /// Accepts any name of printable ASCII without quotes, backslash or white space, up to [`SourceName::MAX_LEN`].
    ///
    /// # Errors
    /// For anything else: names are written into JSON, SDP and presence of other people.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let clean =
            text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'<' | b'>' | b'&'));
        if clean && !text.is_empty() && text.len() <= Self::MAX_LEN { Ok(Self(text.into())) } else { Err(InvalidId) }
    }

    /// The conventional name of an endpoint's `index`-th source of a kind.
    pub fn of(endpoint: &EndpointId, kind: crate::MediaKind, index: u8) -> Self {
        Self(format!("{endpoint}-{}{index}", kind.letter()).into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `<endpoint>-<letter of kind><one digit>`: the only form in which an endpoint may name its own.
    pub fn belongs_to(&self, endpoint: &EndpointId, kind: crate::MediaKind) -> bool {
        let rest = self.0.strip_prefix(endpoint.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let index = rest.and_then(|rest| rest.strip_prefix(kind.letter()));
        index.is_some_and(|index| index.len() == 1 && index.as_bytes()[0].is_ascii_digit())
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A synchronisation source (RFC 3550 §3). Zero is valid on the wire but never signalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ssrc(pub u32);

impl fmt::Display for Ssrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MediaKind;

    #[test]
    fn endpoint_ids_are_what_a_room_allows_as_a_nick() {
        for good in ["3c1f07aa", "focus", "a_1", "0"] {
            assert!(EndpointId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "_a", "a-b", "a b", "é", &"a".repeat(33)] {
            assert!(EndpointId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_source_name_belongs_to_one_endpoint_and_kind() {
        let ana = EndpointId::parse("3c1f07aa").unwrap();
        let name = SourceName::of(&ana, MediaKind::Video, 1);
        assert_eq!(name.as_str(), "3c1f07aa-v1");
        assert!(name.belongs_to(&ana, MediaKind::Video));
        assert!(!name.belongs_to(&ana, MediaKind::Audio));
        for other in ["3c1f07a-v1", "3c1f07aa-v12", "3c1f07aa-v", "3c1f07aav1"] {
            assert!(!SourceName::parse(other).unwrap().belongs_to(&ana, MediaKind::Video), "{other}");
        }
    }

    #[test]
    fn conference_ids_survive_their_text() {
        let id = ConferenceId(0x0123_4567_89ab_cdef);
        assert_eq!(ConferenceId::parse(&id.to_string()), Ok(id));
        assert!(ConferenceId::parse("+123456789abcdef").is_err());
    }
}
