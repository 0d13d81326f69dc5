//! Answers to stanzas: results and errors (RFC 6120 §8).

use crate::element::Element;
use crate::ns;

/// A defined condition (RFC 6120 §8.3.3), as far as a server of ours says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Malformed request.
    BadRequest,
    /// Somebody has it already.
    Conflict,
    /// Nobody implements that here.
    FeatureNotImplemented,
    /// Not for you.
    Forbidden,
    /// It was here.
    Gone,
    /// Our fault.
    InternalServerError,
    /// Nothing of that name.
    ItemNotFound,
    /// Not an address.
    JidMalformed,
    /// Does not meet the rules.
    NotAcceptable,
    /// Nobody may.
    NotAllowed,
    /// A password or login is missing.
    NotAuthorized,
    /// Against a local policy.
    PolicyViolation,
    /// Members only.
    RegistrationRequired,
    /// Too much at once.
    ResourceConstraint,
    /// Not offered here, or full.
    ServiceUnavailable,
}

impl Condition {
    /// The element's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Conflict => "conflict",
            Self::FeatureNotImplemented => "feature-not-implemented",
            Self::Forbidden => "forbidden",
            Self::Gone => "gone",
            Self::InternalServerError => "internal-server-error",
            Self::ItemNotFound => "item-not-found",
            Self::JidMalformed => "jid-malformed",
            Self::NotAcceptable => "not-acceptable",
            Self::NotAllowed => "not-allowed",
            Self::NotAuthorized => "not-authorized",
            Self::PolicyViolation => "policy-violation",
            Self::RegistrationRequired => "registration-required",
            Self::ResourceConstraint => "resource-constraint",
            Self::ServiceUnavailable => "service-unavailable",
        }
    }

    /// The type that RFC 6120 recommends; clients of Jitsi match on it.
    pub fn error_type(self) -> &'static str {
        match self {
            Self::BadRequest | Self::JidMalformed | Self::NotAcceptable | Self::PolicyViolation => "modify",
            Self::Forbidden | Self::NotAuthorized | Self::RegistrationRequired => "auth",
            Self::ResourceConstraint => "wait",
            Self::Conflict
            | Self::FeatureNotImplemented
            | Self::Gone
            | Self::InternalServerError
            | Self::ItemNotFound
            | Self::NotAllowed
            | Self::ServiceUnavailable => "cancel",
        }
    }
}

/// What goes into `<error>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaError {
    /// What went wrong.
    pub condition: Condition,
    /// For a person who can act on it.
    pub text: Option<String>,
    /// Application-specific conditions (RFC 6120 §8.3.4).
    pub extra: Vec<Element>,
}

impl StanzaError {
    /// An error without words.
    pub fn new(condition: Condition) -> Self {
        Self { condition, text: None, extra: Vec::new() }
    }

    /// The same with words.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The same with an application-specific condition.
    #[must_use]
    pub fn with_extra(mut self, extra: Element) -> Self {
        self.extra.push(extra);
        self
    }

    /// `<error>`: the condition first, because clients read the name of the first child.
    pub fn to_element(&self) -> Element {
        let mut error = Element::new("error", ns::CLIENT)
            .with_attr("type", self.condition.error_type())
            .with_child(Element::new(self.condition.as_str(), ns::STANZAS));
        if let Some(text) = &self.text {
            error.push(Element::new("text", ns::STANZAS).with_text(text));
        }
        error.with_children(self.extra.iter().cloned())
    }
}

impl From<Condition> for StanzaError {
    fn from(condition: Condition) -> Self {
        Self::new(condition)
    }
}

/// The empty or filled result of an IQ: `from` and `to` swapped, `id` kept byte for byte.
pub fn result_for(iq: &Element, payload: Option<Element>) -> Element {
    let mut result = reply(iq, "result");
    if let Some(payload) = payload {
        result.push(payload);
    }
    result
}

/// The error answer to an IQ, message or presence.
pub fn error_for(stanza: &Element, error: &StanzaError) -> Element {
    reply(stanza, "error").with_child(error.to_element())
}

/// Whether an IQ wants an answer: `get` and `set` do, `result` and `error` never (RFC 6120 §8.2.3).
pub fn wants_answer(stanza: &Element) -> bool {
    stanza.name() == "iq" && !matches!(stanza.attr("type"), Some("result" | "error"))
}

fn reply(stanza: &Element, kind: &str) -> Element {
    Element::new(stanza.name(), ns::CLIENT)
        .with_attr("type", kind)
        .with_attr_opt("id", stanza.attr("id"))
        .with_attr_opt("from", stanza.attr("to"))
        .with_attr_opt("to", stanza.attr("from"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_swap_addresses_and_keep_the_id() {
        let iq = crate::parse("<iq type='get' id='a&lt;b' from='me' to='you'/>").unwrap();
        let error = error_for(&iq, &StanzaError::from(Condition::ServiceUnavailable).with_text("no"));
        assert_eq!(
            error.to_string(),
            "<iq xmlns='jabber:client' type='error' id='a&lt;b' from='you' to='me'><error type='cancel'>\
             <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>no</text></error></iq>"
        );
        assert!(!wants_answer(&error));
    }
}
