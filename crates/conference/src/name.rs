//! The names under which clients know one room: a client that asked for `x@conference.…` hears from `x@conference.…`.
//!
//! Inside the room there is one address. What leaves it for a client that used another one is told under that one: as sender, and where
//! a payload of ours names the room.

use std::collections::BTreeMap;

use tertulia_xmpp::{BareJid, Element, FullJid, Jid};

/// Attributes of payloads that hold the address of the room or of an occupant.
const ADDRESSES: [&str; 2] = ["actor", "room"];

/// Sessions that use another name than the room's own.
#[derive(Debug, Default)]
pub(crate) struct OtherNames {
    names: BTreeMap<FullJid, String>,
}

impl OtherNames {
    /// Learns from a join under which name a session knows the room.
    pub(crate) fn learn(&mut self, session: &FullJid, join: &Element, own: &BareJid) {
        let used = join.attr("to").and_then(|to| Jid::new(to).ok()).map(|to| to.to_bare());
        match used.filter(|used| used != own) {
            Some(used) => self.names.insert(session.clone(), used.to_string()),
            None => self.names.remove(session),
        };
    }

    /// A session is out of the room.
    pub(crate) fn forget(&mut self, session: &FullJid) {
        self.names.remove(session);
    }

    /// The name that a session uses, if it is not the room's own.
    pub(crate) fn of(&self, session: &FullJid) -> Option<&str> {
        self.names.get(session).map(String::as_str)
    }

    /// Sessions of a list by the name that they use, those with the room's own first.
    pub(crate) fn grouped(&self, sessions: Vec<FullJid>) -> BTreeMap<Option<&str>, Vec<FullJid>> {
        let mut groups: BTreeMap<Option<&str>, Vec<FullJid>> = BTreeMap::new();
        if self.names.is_empty() {
            groups.insert(None, sessions);
            return groups;
        }
        for session in sessions {
            groups.entry(self.of(&session)).or_default().push(session);
        }
        groups
    }
}

/// Says everything about `own` under another name.
pub(crate) fn rename(stanza: &mut Element, own: &str, name: &str) {
    replace(stanza, "from", own, name);
    for child in stanza.children_mut() {
        for attribute in ADDRESSES {
            replace(child, attribute, own, name);
        }
    }
}

fn replace(element: &mut Element, attribute: &str, own: &str, name: &str) {
    let rest = element.attr(attribute).and_then(|value| value.strip_prefix(own));
    if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        let renamed = format!("{name}{rest}");
        element.set_attr(attribute, renamed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_room_are_renamed() {
        let text = "<iq from='r@m/focus' id='r@m'><mute xmlns='urn:x' actor='r@m/a' jid='r@m/a'>r@m</mute><mute \
                    xmlns='urn:x' actor='r@music/a'/></iq>";
        let mut stanza = tertulia_xmpp::parse(text).unwrap();
        rename(&mut stanza, "r@m", "r@other");
        assert_eq!(
            stanza.to_string(),
            "<iq xmlns='jabber:client' from='r@other/focus' id='r@m'><mute xmlns='urn:x' actor='r@other/a' \
             jid='r@m/a'>r@m</mute><mute xmlns='urn:x' actor='r@music/a'/></iq>"
        );
    }
}
