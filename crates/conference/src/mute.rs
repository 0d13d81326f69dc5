//! Muting others: a moderator asks the focus, the focus asks the other.

use tertulia_model::EndpointId;
use tertulia_xmpp::stanza::{Condition, StanzaError, result_for};
use tertulia_xmpp::{Element, FullJid, Jid, ns};

use crate::conference::{Conference, Output};
use crate::occupant::Occupant;

/// The namespaces of mute requests, one per kind of source.
pub(crate) const KINDS: [&str; 3] = [ns::JITMEET_AUDIO, ns::JITMEET_VIDEO, ns::JITMEET_DESKTOP];

impl Conference {
    pub(crate) fn handle_mute(
        &mut self,
        from: &FullJid,
        sender: &EndpointId,
        iq: &Element,
        mute: &Element,
        out: &mut Vec<Output>,
    ) {
        let wanted = mute.text();
        let target = mute.attr("jid").and_then(|jid| Jid::new(jid).ok());
        let target = target.and_then(|jid| EndpointId::parse(jid.resource()?.as_str()).ok());
        let (Some(target), "true" | "false") = (target, wanted.as_str()) else {
            let error = StanzaError::new(Condition::BadRequest).with_text("`jid` and `true` or `false` are needed");
            return self.refuse(from, iq, error, out);
        };
        let moderator = self.occupants.get(sender).is_some_and(Occupant::is_moderator);
        let own = target == *sender;
        if !own && (!moderator || wanted == "false") {
            return self.refuse(from, iq, Condition::NotAllowed.into(), out);
        }
        let Some(occupant) = self.occupants.get(&target) else {
            return self.refuse(from, iq, Condition::InternalServerError.into(), out);
        };
        if !own {
            let jid = occupant.jid.clone();
            let request =
                Element::new("mute", mute.ns()).with_attr("actor", self.occupant_jid(sender)).with_text("true");
            let id = self.fresh_id();
            // Clients obey and send no result.
            let forwarded = Element::new("iq", ns::CLIENT)
                .with_attr("type", "set")
                .with_attr("id", id)
                .with_attr("from", self.focus_nick())
                .with_child(request);
            self.send(&jid, forwarded, out);
        }
        self.answer(from, result_for(iq, None), out);
    }
}
