//! Presence: what occupants say of themselves, relayed as a tree; and leaving.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tertulia_model::{BridgeRequest, EndpointId};
use tertulia_xmpp::stanza::{Condition, StanzaError};
use tertulia_xmpp::{Element, FullJid, ns};

use crate::conference::{Conference, NOT_CONNECTED, Output, Timer};
use crate::occupant::{Affiliation, Occupant};

/// How long somebody's media session is kept when nobody else is there.
const ALONE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why an occupant goes, when not by itself.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    pub(crate) actor: EndpointId,
    pub(crate) reason: Option<String>,
}

impl Conference {
    pub(crate) fn handle_presence(
        &mut self,
        now: Instant,
        from: &FullJid,
        nick: Option<&str>,
        stanza: Element,
        out: &mut Vec<Output>,
    ) {
        let sender = self.nick_of(from);
        match (stanza.attr("type"), sender) {
            (Some("unavailable"), Some(sender)) => {
                if let Some(occupant) = self.occupants.get_mut(&sender) {
                    // A leave may say why.
                    occupant.presence = clean(&stanza);
                }
                self.leave(now, &sender, None, out);
            }
            (None, Some(sender)) if stanza.has_child("x", ns::MUC) => self.resync(&sender, &stanza, out),
            (None, Some(sender)) => self.update(&sender, &stanza, out),
            (None, None) if stanza.has_child("x", ns::MUC) => self.handle_join(now, from, nick, &stanza, out),
            (None, None) => {
                let error = StanzaError::new(Condition::ItemNotFound).with_text(NOT_CONNECTED);
                self.refuse(from, &stanza, error, out);
            }
            // Leaves of those who have left, errors, probes, subscriptions: nothing of a room.
            (Some(_), _) => {}
        }
    }

    /// Tells everybody of an occupant, in its last words and with its present rank.
    pub(crate) fn announce(&mut self, nick: &EndpointId, out: &mut Vec<Output>) {
        if let Some(occupant) = self.occupants.get_mut(nick) {
            occupant.seen = None;
        }
        self.tell_others_of(nick, out);
        let Some(occupant) = self.occupants.get(nick) else { return };
        self.send(&occupant.jid, self.presence_of(occupant, &["110"]), out);
    }

    /// Tells everybody else of an occupant.
    pub(crate) fn tell_others_of(&mut self, nick: &EndpointId, out: &mut Vec<Output>) {
        let others = self.occupants.values().filter(|occupant| occupant.nick != *nick);
        let others = others.map(|occupant| occupant.jid.clone()).collect();
        self.tell_of(nick, others, out);
    }

    /// Tells some of an occupant. What they get is written once for as long as it stays the same.
    pub(crate) fn tell_of(&mut self, nick: &EndpointId, to: Vec<FullJid>, out: &mut Vec<Output>) {
        let Some(occupant) = self.occupants.get(nick) else { return };
        let written = occupant.seen.clone();
        let written = written.unwrap_or_else(|| Arc::new(self.presence_of(occupant, &[]).write_broadcast()));
        self.broadcast_to(to, &written, || self.presence_of(occupant, &[]), out);
        if let Some(occupant) = self.occupants.get_mut(nick) {
            occupant.seen = Some(written);
        }
    }

    /// An occupant's presence as others see it; `statuses` are added for oneself.
    pub(crate) fn presence_of(&self, occupant: &Occupant, statuses: &[&str]) -> Element {
        let item = Element::new("item", ns::MUC_USER)
            .with_attr("affiliation", occupant.affiliation.as_str())
            .with_attr("role", occupant.affiliation.role())
            .with_attr("jid", occupant.jid.to_string());
        let mut x = Element::new("x", ns::MUC_USER);
        if statuses.contains(&"100") {
            x.push(status("100"));
        }
        x.push(item);
        if statuses.contains(&"110") {
            x.push(status("110"));
        }
        let mut presence = occupant.presence.clone();
        presence.set_attr("from", self.occupant_jid(&occupant.nick));
        presence.with_child(x)
    }

    /// Somebody leaves or is removed: everybody is told, the media session ends, and perhaps the room.
    pub(crate) fn leave(&mut self, now: Instant, nick: &EndpointId, removal: Option<&Removal>, out: &mut Vec<Output>) {
        let Some(occupant) = self.occupants.remove(nick) else { return };
        self.nicks.remove(&occupant.jid);
        let gone = self.unavailable(&occupant, removal);
        self.broadcast(&gone, out);
        let mut own = gone;
        if let Some(x) = own.children_mut().find(|child| child.is("x", ns::MUC_USER)) {
            x.push(status("110"));
        }
        self.send(&occupant.jid, own, out);
        self.other_names.forget(&occupant.jid);
        self.forget_session(nick);
        if occupant.session.is_on_bridge() {
            out.push(Output::Bridge(BridgeRequest::Expire { endpoint: nick.clone() }));
        }
        if self.occupants.is_empty() {
            self.close(out);
            return;
        }
        self.elect_owner(out);
        if self.occupants.len() == 1 && self.occupants.values().any(|occupant| occupant.session.is_on_bridge()) {
            self.timers.insert(Timer::Alone, now + ALONE_TIMEOUT);
        }
    }

    fn unavailable(&self, occupant: &Occupant, removal: Option<&Removal>) -> Element {
        let mut item = Element::new("item", ns::MUC_USER)
            .with_attr("affiliation", Affiliation::None.as_str())
            .with_attr("role", "none")
            .with_attr("jid", occupant.jid.to_string());
        let mut x = Element::new("x", ns::MUC_USER);
        if let Some(removal) = removal {
            item.push(Element::new("actor", ns::MUC_USER).with_attr("nick", removal.actor.as_str()));
            if let Some(reason) = &removal.reason {
                item.push(Element::new("reason", ns::MUC_USER).with_text(reason));
            }
            x.push(item);
            x.push(status("307"));
        } else {
            x.push(item);
        }
        let mut presence = Element::new("presence", ns::CLIENT)
            .with_attr("type", "unavailable")
            .with_attr("from", self.occupant_jid(&occupant.nick));
        if let Some(reason) = occupant.presence.child("status", ns::CLIENT) {
            presence.push(reason.clone());
        }
        presence.with_child(x)
    }

    /// A whole new presence replaces the old one.
    fn update(&mut self, nick: &EndpointId, stanza: &Element, out: &mut Vec<Output>) {
        if let Some(occupant) = self.occupants.get_mut(nick) {
            occupant.presence = clean(stanza);
            self.take_start_muted(nick, stanza, out);
            self.announce(nick, out);
        }
    }

    /// A join of somebody who is here: the roster again, oneself, the subject.
    fn resync(&mut self, nick: &EndpointId, stanza: &Element, out: &mut Vec<Output>) {
        if let Some(occupant) = self.occupants.get_mut(nick) {
            occupant.presence = clean(stanza);
            let session = occupant.jid.clone();
            self.other_names.learn(&session, stanza, &self.room);
            self.send_roster(nick, out);
            self.announce(nick, out);
            self.send_subject(nick, out);
        }
    }
}

pub(crate) fn status(code: &str) -> Element {
    Element::new("status", ns::MUC_USER).with_attr("code", code)
}

/// A client's presence without what only the server may say.
pub(crate) fn clean(stanza: &Element) -> Element {
    let mut presence = stanza.clone();
    for attribute in ["from", "to", "type", "id"] {
        presence.remove_attr(attribute);
    }
    presence.retain_children(|child| {
        let server_says = child.is("x", ns::MUC)
            || child.is("x", ns::MUC_USER)
            || child.is("identity", ns::CLIENT)
            || child.is("permissions", ns::JITMEET)
            || child.is("occupant-id", "urn:xmpp:occupant-id:0");
        // Only the focus says these; clients take them from it alone, and old ones from anybody.
        let focus_says =
            matches!(child.name(), "conference-properties" | "bridgeNotAvailable" | "jibri-recording-status");
        !server_says && !focus_says
    });
    presence
}
