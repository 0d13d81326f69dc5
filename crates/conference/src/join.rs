//! Entering the room: the checks, and what the newcomer is told in which order.

use std::collections::VecDeque;
use std::time::Instant;

use tertulia_model::EndpointId;
use tertulia_xmpp::stanza::{Condition, StanzaError};
use tertulia_xmpp::{Element, FullJid, ns};

use crate::conference::{Conference, Output, Timer};
use crate::occupant::{Affiliation, Occupant};
use crate::presence::clean;
use crate::rate::{ChangeBudget, RestartBudget};
use crate::session::Session;

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JoinRefusal {
    BadNick,
    NickTaken,
    BadPassword,
    Full,
}

impl JoinRefusal {
    /// The error on the wire. Clients tell them apart by type and condition, so these are not free to choose.
    fn error(self) -> StanzaError {
        match self {
            Self::BadNick => StanzaError::new(Condition::NotAllowed).with_text("Invalid resource"),
            Self::NickTaken => Condition::Conflict.into(),
            Self::BadPassword => Condition::NotAuthorized.into(),
            Self::Full => {
                StanzaError::new(Condition::ServiceUnavailable).with_text("The maximum number of occupants is reached")
            }
        }
    }
}

impl Conference {
    pub(crate) fn handle_join(
        &mut self,
        now: Instant,
        from: &FullJid,
        nick: Option<&str>,
        stanza: &Element,
        out: &mut Vec<Output>,
    ) {
        let nick = match self.admit(from, nick, stanza) {
            Ok(nick) => nick,
            Err(refusal) => return self.refuse(from, stanza, refusal.error(), out),
        };
        if self.occupants.contains_key(&nick) {
            // The same person again: the older session gives way.
            self.leave_for_replacement(now, &nick, out);
        }
        self.timers.remove(&Timer::Empty);
        let first = self.occupants.is_empty();
        self.next_order += 1;
        let occupant = Occupant {
            jid: from.clone(),
            nick: nick.clone(),
            presence: clean(stanza),
            seen: None,
            affiliation: if first { Affiliation::Owner } else { Affiliation::None },
            channel_origin: "".into(), // set with each presence, and nobody is invited before one
            order: self.next_order,
            features: None,
            session: Session::Uninvited,
            past_sids: VecDeque::new(),
            restarts: RestartBudget::default(),
            ice_restarts: RestartBudget::default(),
            changes: ChangeBudget::default(),
        };
        self.other_names.learn(from, stanza, &self.room);
        self.send_metadata_to(from, out);
        self.nicks.insert(from.clone(), nick.clone());
        self.occupants.insert(nick.clone(), occupant);
        self.send_roster(&nick, out);
        self.tell_others_of(&nick, out);
        let Some(occupant) = self.occupants.get(&nick) else { return };
        self.send(from, self.presence_of(occupant, &["100", "110"]), out);
        self.send_subject(&nick, out);
        self.ask_features(now, &nick, out);
    }

    /// The focus first, then everybody else in order of joining.
    pub(crate) fn send_roster(&mut self, nick: &EndpointId, out: &mut Vec<Output>) {
        let Some(newcomer) = self.occupants.get(nick) else { return };
        let jid = newcomer.jid.clone();
        self.send(&jid, self.focus_presence(), out);
        let others = self.occupants.values().filter(|occupant| occupant.nick != *nick);
        let mut others: Vec<(u64, EndpointId)> = others.map(|other| (other.order, other.nick.clone())).collect();
        others.sort();
        for (_, other) in others {
            self.tell_of(&other, vec![jid.clone()], out);
        }
    }

    pub(crate) fn send_subject(&self, nick: &EndpointId, out: &mut Vec<Output>) {
        let Some(occupant) = self.occupants.get(nick) else { return };
        let subject = Element::new("message", ns::CLIENT)
            .with_attr("type", "groupchat")
            .with_attr("from", self.room.to_string())
            .with_child(Element::new("subject", ns::CLIENT).with_text(&self.subject));
        self.send(&occupant.jid, subject, out);
    }

    fn admit(&self, from: &FullJid, nick: Option<&str>, stanza: &Element) -> Result<EndpointId, JoinRefusal> {
        // `focus` invites, `jvb` owns the bridge's sources: nobody else may look like them.
        let nick = nick
            .and_then(|nick| EndpointId::parse(nick).ok())
            .filter(|nick| !["focus", "jvb"].contains(&nick.as_str()));
        let nick = nick.ok_or(JoinRefusal::BadNick)?;
        let holder = self.occupants.get(&nick);
        if holder.is_some_and(|holder| holder.jid.to_bare() != from.to_bare()) {
            return Err(JoinRefusal::NickTaken);
        }
        let given = stanza.child("x", ns::MUC).and_then(|x| x.child("password", ns::MUC)).map(Element::text);
        if self.password.is_some() && self.password != given {
            return Err(JoinRefusal::BadPassword);
        }
        if holder.is_none() && self.occupants.len() >= self.settings.occupants_max {
            return Err(JoinRefusal::Full);
        }
        Ok(nick)
    }

    /// Takes the old session of a nick out without ending the room.
    fn leave_for_replacement(&mut self, now: Instant, nick: &EndpointId, out: &mut Vec<Output>) {
        if self.occupants.len() > 1 {
            return self.leave(now, nick, None, out);
        }
        // Alone: leaving would close the room under the newcomer.
        if let Some(occupant) = self.occupants.remove(nick) {
            self.nicks.remove(&occupant.jid);
            self.other_names.forget(&occupant.jid);
            self.forget_session(nick);
            if occupant.session.is_on_bridge() {
                out.push(Output::Bridge(tertulia_model::BridgeRequest::Expire { endpoint: nick.clone() }));
            }
        }
    }
}
