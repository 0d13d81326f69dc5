//! The room's configuration form (XEP-0045 §10.2): the password, for now.

use tertulia_model::EndpointId;
use tertulia_xmpp::stanza::{Condition, StanzaError, result_for};
use tertulia_xmpp::{Element, FullJid, ns};

use crate::conference::{Conference, Output};
use crate::occupant::Occupant;
use crate::presence::status;

const SECRET: &str = "muc#roomconfig_roomsecret";
const PROTECTED: &str = "muc#roomconfig_passwordprotectedroom";
const WHOIS: &str = "muc#roomconfig_whois";
/// Longest password in bytes.
const SECRET_MAX: usize = 256;

impl Conference {
    pub(crate) fn handle_owner_form(
        &mut self,
        from: &FullJid,
        sender: &EndpointId,
        iq: &Element,
        query: &Element,
        set: bool,
        out: &mut Vec<Output>,
    ) {
        if !self.occupants.get(sender).is_some_and(Occupant::is_moderator) {
            let error = StanzaError::new(Condition::Forbidden).with_text("Only owners can configure rooms");
            return self.refuse(from, iq, error, out);
        }
        if !set {
            let form = Element::new("query", ns::MUC_OWNER).with_child(self.form());
            return self.answer(from, result_for(iq, Some(form)), out);
        }
        let Some(form) = query.child("x", ns::DATA_FORMS) else {
            return self.refuse(from, iq, Condition::FeatureNotImplemented.into(), out);
        };
        if form.attr("type") == Some("cancel") {
            return self.answer(from, result_for(iq, None), out);
        }
        let before = self.password.clone();
        if let Err(error) = self.submit(form) {
            return self.refuse(from, iq, error, out);
        }
        self.answer(from, result_for(iq, None), out);
        if self.password != before {
            let changed = Element::new("message", ns::CLIENT)
                .with_attr("type", "groupchat")
                .with_attr("from", self.room.to_string())
                .with_child(Element::new("x", ns::MUC_USER).with_child(status("104")));
            self.broadcast(&changed, out);
        }
    }

    /// Fields that are missing keep their value.
    fn submit(&mut self, form: &Element) -> Result<(), StanzaError> {
        let field = |var: &str| {
            let field =
                form.children().find(|child| child.is("field", ns::DATA_FORMS) && child.attr("var") == Some(var))?;
            Some(field.child("value", ns::DATA_FORMS).map(Element::text).unwrap_or_default())
        };
        if field("muc#roomconfig_membersonly").is_some_and(|value| is_true(&value)) {
            return Err(StanzaError::new(Condition::FeatureNotImplemented).with_text("This server has no lobby yet"));
        }
        let secret = field(SECRET);
        if secret.as_ref().is_some_and(|secret| secret.len() > SECRET_MAX) {
            return Err(StanzaError::new(Condition::NotAcceptable).with_text("The password is too long"));
        }
        match (field(PROTECTED).map(|value| is_true(&value)), secret) {
            (Some(false), _) => self.password = None,
            (_, Some(secret)) => self.password = Some(secret).filter(|secret| !secret.is_empty()),
            (_, None) => {}
        }
        Ok(())
    }

    fn form(&self) -> Element {
        let field = |var: &str, kind: &str, value: &str| {
            Element::new("field", ns::DATA_FORMS)
                .with_attr("var", var)
                .with_attr("type", kind)
                .with_child(Element::new("value", ns::DATA_FORMS).with_text(value))
        };
        let secret = self.password.as_deref().unwrap_or("");
        Element::new("x", ns::DATA_FORMS)
            .with_attr("type", "form")
            .with_child(field("FORM_TYPE", "hidden", ns::MUC_ROOM_CONFIG))
            .with_child(field(SECRET, "text-private", secret))
            .with_child(field(PROTECTED, "boolean", if self.password.is_some() { "1" } else { "0" }))
            .with_child(field(WHOIS, "list-single", "anyone"))
            .with_child(field("muc#roominfo_meetingId", "text-single", &self.meeting_id))
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "1" | "true")
}
