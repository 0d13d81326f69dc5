//! Moderation of people: kicking, and making somebody a moderator (XEP-0045 §8.2, §9.6).

use std::time::Instant;

use tertulia_model::EndpointId;
use tertulia_xmpp::stanza::{Condition, StanzaError, result_for};
use tertulia_xmpp::{Element, FullJid, Jid, ns};

use crate::conference::{Conference, Output};
use crate::occupant::{Affiliation, Occupant};
use crate::presence::Removal;

/// One thing that a moderator asks.
enum Deed {
    Kick(EndpointId, Option<String>),
    Grant(EndpointId),
}

impl Conference {
    pub(crate) fn handle_admin(
        &mut self,
        now: Instant,
        from: &FullJid,
        sender: &EndpointId,
        iq: &Element,
        query: &Element,
        out: &mut Vec<Output>,
    ) {
        if !self.occupants.get(sender).is_some_and(Occupant::is_moderator) {
            return self.refuse(from, iq, Condition::Forbidden.into(), out);
        }
        let items = query.children().filter(|child| child.is("item", ns::MUC_ADMIN));
        // All or nothing: every item is understood before the first is done.
        let deeds: Result<Vec<Deed>, StanzaError> = items.map(|item| self.read_item(item)).collect();
        let deeds = match deeds {
            Ok(deeds) if !deeds.is_empty() => deeds,
            Ok(_) => return self.refuse(from, iq, Condition::BadRequest.into(), out),
            Err(error) => return self.refuse(from, iq, error, out),
        };
        self.answer(from, result_for(iq, None), out);
        for deed in deeds {
            match deed {
                Deed::Grant(nick) => {
                    if let Some(occupant) = self.occupants.get_mut(&nick) {
                        occupant.affiliation = Affiliation::Owner;
                        self.announce(&nick, out);
                    }
                }
                Deed::Kick(nick, reason) => {
                    let removal = Removal { actor: sender.clone(), reason };
                    self.leave(now, &nick, Some(&removal), out);
                }
            }
        }
    }

    fn read_item(&self, item: &Element) -> Result<Deed, StanzaError> {
        let by_nick = item.attr("nick").map(|nick| EndpointId::parse(nick).ok());
        let by_jid = item.attr("jid").and_then(|jid| Jid::new(jid).ok()).map(|jid| {
            let bare = jid.to_bare();
            self.occupants
                .values()
                .find(|occupant| occupant.jid.to_bare() == bare)
                .map(|occupant| occupant.nick.clone())
        });
        if item.attr("nick") == Some("focus")
            || item.attr("jid").is_some_and(|jid| jid.starts_with(&self.settings.domains.focus_user()))
        {
            return Err(Condition::NotAllowed.into());
        }
        let nick = by_nick.or(by_jid).flatten().filter(|nick| self.occupants.contains_key(nick));
        let nick = nick.ok_or_else(|| StanzaError::new(Condition::ItemNotFound))?;
        match (item.attr("role"), item.attr("affiliation")) {
            (Some("none"), _) => Ok(Deed::Kick(nick, item.child("reason", ns::MUC_ADMIN).map(Element::text))),
            (_, Some("owner" | "admin")) => Ok(Deed::Grant(nick)),
            _ => Err(Condition::NotAllowed.into()),
        }
    }
}
