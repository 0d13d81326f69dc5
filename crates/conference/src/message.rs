//! Messages: chat for all or for one, the subject, JSON of clients. Relayed as trees, within limits.

use tertulia_model::EndpointId;
use tertulia_xmpp::stanza::{Condition, StanzaError};
use tertulia_xmpp::{Element, FullJid, ns};

use crate::conference::{Conference, NOT_CONNECTED, Output};

/// Longest text in bytes.
const BODY_MAX: usize = 16 * 1024;
/// Longest JSON in bytes.
const JSON_MAX: usize = 64 * 1024;
/// Longest subject in bytes.
const SUBJECT_MAX: usize = 1024;

impl Conference {
    pub(crate) fn handle_message(
        &mut self,
        from: &FullJid,
        nick: Option<&str>,
        stanza: Element,
        out: &mut Vec<Output>,
    ) {
        let Some(sender) = self.nick_of(from) else {
            let error = StanzaError::new(Condition::NotAcceptable).with_text(NOT_CONNECTED);
            return self.refuse(from, &stanza, error, out);
        };
        if let Err(error) = check(&stanza) {
            return self.refuse(from, &stanza, error, out);
        }
        let kind = stanza.attr("type").unwrap_or("normal").to_owned();
        match (kind.as_str(), nick) {
            ("error", _) => {}
            ("groupchat", None) if is_subject(&stanza) => self.set_subject(from, &sender, &stanza, out),
            ("groupchat", None) => {
                let message = self.relayed(&sender, stanza);
                self.broadcast(&message, out);
            }
            (_, Some(nick)) => self.whisper(from, &sender, nick, stanza, out),
            // Invitations and configuration requests by message: nothing that is built.
            (_, None) => self.refuse(from, &stanza, Condition::ServiceUnavailable.into(), out),
        }
    }

    /// To one occupant; no echo.
    fn whisper(&mut self, from: &FullJid, sender: &EndpointId, nick: &str, stanza: Element, out: &mut Vec<Output>) {
        let target = EndpointId::parse(nick).ok().and_then(|nick| self.occupants.get(&nick)).map(|o| o.jid.clone());
        let Some(target) = target else {
            let error = StanzaError::new(Condition::ItemNotFound).with_text("Recipient not in room");
            return self.refuse(from, &stanza, error, out);
        };
        let message = self.relayed(sender, stanza);
        self.send(&target, message, out);
    }

    fn set_subject(&mut self, from: &FullJid, sender: &EndpointId, stanza: &Element, out: &mut Vec<Output>) {
        if !self.occupants.get(sender).is_some_and(crate::occupant::Occupant::is_moderator) {
            return self.refuse(from, stanza, Condition::Forbidden.into(), out);
        }
        let subject = stanza.child("subject", ns::CLIENT).map(Element::text).unwrap_or_default();
        if subject.len() > SUBJECT_MAX {
            return self.refuse(
                from,
                stanza,
                StanzaError::new(Condition::PolicyViolation).with_text("The subject is too long"),
                out,
            );
        }
        self.subject = subject;
        let message = self.relayed(sender, stanza.clone());
        self.broadcast(&message, out);
    }

    /// As others get it: from the nick, with an id that is the same for all, without a nick of its own, and with the namespace that
    /// clients forget to write on a reply and insist on when they read one.
    fn relayed(&mut self, sender: &EndpointId, mut stanza: Element) -> Element {
        stanza.set_attr("from", self.occupant_jid(sender));
        stanza.remove_attr("to");
        if stanza.attr("id").is_none() {
            let id = self.fresh_id();
            stanza.set_attr("id", id);
        }
        stanza.retain_children(|child| !child.is("nick", ns::NICK) && !child.is("delay", ns::DELAY));
        let reply = stanza.child("reply", ns::CLIENT).and_then(|reply| reply.attr("to")).map(str::to_owned);
        if let Some(id) = reply {
            stanza.retain_children(|child| !child.is("reply", ns::CLIENT));
            stanza.push(Element::new("reply", ns::REPLY).with_attr("to", id));
        }
        stanza
    }
}

fn is_subject(stanza: &Element) -> bool {
    stanza.has_child("subject", ns::CLIENT) && !stanza.has_child("body", ns::CLIENT)
}

fn check(stanza: &Element) -> Result<(), StanzaError> {
    let longer = |name, ns, max: usize| stanza.child(name, ns).is_some_and(|child| child.text().len() > max);
    if longer("body", ns::CLIENT, BODY_MAX) || longer("json-message", ns::JITMEET, JSON_MAX) {
        return Err(StanzaError::new(Condition::PolicyViolation).with_text("The message is too long"));
    }
    Ok(())
}
