//! Tenants: groups of rooms under a path of their own, so that `/a/x` and `/b/x` are different meetings.

use std::fmt;

/// Longest name: a label of a domain (RFC 1035 §2.3.4), because that is what it becomes in an address.
const MAX_LEN: usize = 63;

/// A tenant's name: lower-case letters, digits, `_` and `-`, not at the ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenant(String);

impl Tenant {
    /// Reads a path segment or the label of a domain. Case does not count, and a dot means the same as `_`: a dot would end the label.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.to_ascii_lowercase().replace('.', "_");
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let shaped = !name.is_empty() && name.len() <= MAX_LEN && !name.starts_with('-') && !name.ends_with('-');
        (shaped && name.bytes().all(allowed)).then_some(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_a_label_of_a_domain() {
        assert_eq!(Tenant::parse("Blue.Team").as_ref().map(Tenant::as_str), Some("blue_team"));
        for wrong in ["", "-a", "a-", "é", "a/b", "[a]", &"x".repeat(64)] {
            assert_eq!(Tenant::parse(wrong), None, "{wrong}");
        }
    }
}
