//! Room names: one canonical form for URLs, JIDs and requests, so that two spellings meet in one room.

use std::fmt;

use tertulia_xmpp::BareJid;

use crate::tenant::Tenant;

/// Longest canonical name in bytes.
const MAX_LEN: usize = 200;

/// Why a name cannot be a room's. `Display` says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomNameError {
    /// Nothing left after cleaning.
    Empty,
    /// Longer than allowed.
    TooLong,
    /// Characters that would let a name look like another one, or that no address may have.
    Forbidden,
}

impl fmt::Display for RoomNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("A meeting needs a name: put one behind the last slash of the address."),
            Self::TooLong => f.write_str("This meeting name is too long: use a shorter one."),
            Self::Forbidden => f.write_str(
                "This meeting name has characters that cannot be used: take letters, digits, hyphens and dots.",
            ),
        }
    }
}

impl std::error::Error for RoomNameError {}

/// The canonical name of a path segment or query value, percent-encoded or not, once or twice: what stands in the JID.
///
/// Decoded, lower case, without the characters that clients strip, then percent-encoded in lower case as `encodeURIComponent` does. Compatibility
/// normalisation (NFKC) is the client's; addresses are prepared by `jid` on top of this.
///
/// # Errors
/// When nothing usable is left.
pub fn canonical(text: &str) -> Result<String, RoomNameError> {
    let once = decode(text);
    let decoded = decode(&once);
    let lower = decoded.to_lowercase();
    let kept: String = lower.chars().filter(|c| !STRIPPED.contains(*c)).collect();
    if kept.trim().is_empty() {
        return Err(RoomNameError::Empty);
    }
    if kept.chars().any(is_forbidden) {
        return Err(RoomNameError::Forbidden);
    }
    let encoded = encode(&kept);
    if encoded.len() > MAX_LEN { Err(RoomNameError::TooLong) } else { Ok(encoded) }
}

/// Whether a room's address has a canonical name: what a conference request must ask for. A tenant's name may stand before it in
/// brackets, and nowhere else.
///
/// # Errors
/// When it has not.
pub fn check(room: &BareJid) -> Result<(), RoomNameError> {
    let node = room.node().ok_or(RoomNameError::Empty)?;
    let name = match node.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((tenant, name))) if Tenant::parse(tenant).is_some_and(|own| own.as_str() == tenant) => name,
        Some(_) => return Err(RoomNameError::Forbidden),
        None => node.as_str(),
    };
    if name.is_empty() {
        return Err(RoomNameError::Empty);
    }
    if name.len() > MAX_LEN {
        return Err(RoomNameError::TooLong);
    }
    let forbidden = name.contains(['[', ']']) || decode(name).chars().any(is_forbidden);
    if forbidden { Err(RoomNameError::Forbidden) } else { Ok(()) }
}

const STRIPPED: &str = ":?#[]@!$&'()*+,;=></\"";

/// Controls, and characters that reorder or hide text.
fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|hex| bytes[at] == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    // Bytes that are no text stay as they were written.
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_meet() {
        for spelling in ["Été", "été", "%C3%89t%C3%A9", "%c3%a9T%c3%89", "%25c3%25a9t%25c3%25a9"] {
            assert_eq!(canonical(spelling).as_deref(), Ok("%c3%a9t%c3%a9"), "{spelling}");
        }
        assert_eq!(canonical("My Room?").as_deref(), Ok("my%20room"));
    }

    #[test]
    fn names_that_cannot_be_used_say_why() {
        assert_eq!(canonical(""), Err(RoomNameError::Empty));
        assert_eq!(canonical("///"), Err(RoomNameError::Empty));
        assert_eq!(canonical("a\u{202e}b"), Err(RoomNameError::Forbidden));
        assert_eq!(canonical("%00"), Err(RoomNameError::Forbidden));
        assert_eq!(canonical(&"x".repeat(201)), Err(RoomNameError::TooLong));
    }

    #[test]
    fn brackets_stand_around_a_tenant_and_nowhere_else() {
        let of = |node: &str| check(&BareJid::new(&format!("{node}@muc.d")).unwrap());
        assert_eq!((of("x"), of("[blue]x"), of("[blue_team]%c3%a9")), (Ok(()), Ok(()), Ok(())));
        assert_eq!(of("[blue]"), Err(RoomNameError::Empty));
        for node in ["[]x", "[blue", "[-b]x", "[a][b]x", "x[a]", "[blue.team]x"] {
            assert_eq!(of(node), Err(RoomNameError::Forbidden), "{node}");
        }
    }
}
