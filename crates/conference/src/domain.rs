//! The main domain: what it answers without any room, and what it says to everybody who logs in.

use tertulia_xmpp::stanza::{Condition, StanzaError, error_for, result_for, wants_answer};
use tertulia_xmpp::{Element, ns};

use crate::settings::Settings;

/// Answers an IQ to the domain or to the sender's own account. `None` for stanzas that want no answer.
pub fn answer(settings: &Settings, stanza: &Element) -> Option<Element> {
    if !wants_answer(stanza) {
        return None;
    }
    let payload = stanza.children().next();
    let is = |name, ns| payload.is_some_and(|payload| payload.is(name, ns));
    let get = stanza.attr("type") == Some("get");
    Some(if is("ping", ns::PING) || is("session", ns::SESSION) {
        result_for(stanza, None)
    } else if is("query", ns::DISCO_INFO) && get {
        result_for(stanza, Some(info(settings)))
    } else if is("query", ns::DISCO_ITEMS) && get {
        result_for(stanza, Some(Element::new("query", ns::DISCO_ITEMS)))
    } else if is("services", ns::EXTDISCO) && get {
        result_for(stanza, Some(Element::new("services", ns::EXTDISCO)))
    } else if is("services", ns::EXTDISCO1) && get {
        result_for(stanza, Some(Element::new("services", ns::EXTDISCO1)))
    } else if is("query", ns::VERSION) && get {
        let name = Element::new("name", ns::VERSION).with_text("Tertulia");
        let version = Element::new("version", ns::VERSION).with_text(&settings.version);
        result_for(stanza, Some(Element::new("query", ns::VERSION).with_child(name).with_child(version)))
    } else {
        error_for(stanza, &Condition::ServiceUnavailable.into())
    })
}

/// The message that a client gets before the result of its bind: what it would otherwise ask for. Its presence saves two round trips.
///
/// `<services>` stands there for clients older than April 2026, which look for TURN nowhere else.
pub fn pushed_at_bind(settings: &Settings, to: &str) -> Element {
    Element::new("message", ns::CLIENT)
        .with_attr("from", &settings.domains.main)
        .with_attr("to", to)
        .with_child(info(settings))
        .with_child(Element::new("services", ns::EXTDISCO))
}

/// The answer to a stanza for an address that nobody has.
pub fn nowhere(stanza: &Element) -> Option<Element> {
    match stanza.name() {
        "iq" if wants_answer(stanza) => Some(error_for(stanza, &Condition::ServiceUnavailable.into())),
        // Errors to presence throw people out of rooms, and messages to services that are not there are harmless.
        _ => None,
    }
}

/// The answer to a stanza for a room that does not exist. A join is told so in the way that makes clients ask for the room and try again.
pub fn no_such_room(stanza: &Element) -> Option<Element> {
    match stanza.name() {
        "presence" if stanza.attr("type").is_none() && stanza.has_child("x", ns::MUC) => {
            let error = StanzaError::new(Condition::NotAllowed)
                .with_text("Room creation is restricted")
                .with_extra(Element::new("room-does-not-exist", ns::JITMEET));
            Some(error_for(stanza, &error))
        }
        "presence" => None,
        "message" if stanza.attr("type") == Some("error") => None,
        _ if stanza.name() == "message" || wants_answer(stanza) => {
            Some(error_for(stanza, &Condition::ItemNotFound.into()))
        }
        _ => None,
    }
}

fn info(settings: &Settings) -> Element {
    let identity = |category: &str, kind: &str, name: &str| {
        Element::new("identity", ns::DISCO_INFO)
            .with_attr("category", category)
            .with_attr("type", kind)
            .with_attr("name", name)
    };
    let feature = |var: &&str| Element::new("feature", ns::DISCO_INFO).with_attr("var", *var);
    let features = [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PING, ns::VERSION, ns::EXTDISCO, ns::EXTDISCO1];
    Element::new("query", ns::DISCO_INFO)
        .with_child(identity("server", "im", "Tertulia"))
        .with_child(identity("component", "room_metadata", &settings.domains.metadata))
        .with_children(features.iter().map(feature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Domains;

    fn settings() -> Settings {
        Settings { domains: Domains::of("meet.example"), occupants_max: 10, opus_red: false, version: "0".into() }
    }

    #[test]
    fn every_question_gets_an_answer_and_no_answer_gets_one() {
        let ask = |payload: &str| {
            let iq = format!("<iq type='get' id='1' to='meet.example'>{payload}</iq>");
            answer(&settings(), &tertulia_xmpp::parse(&iq).unwrap()).unwrap()
        };
        assert_eq!(ask("<ping xmlns='urn:xmpp:ping'/>").attr("type"), Some("result"));
        assert!(ask("<query xmlns='http://jabber.org/protocol/disco#info'/>").to_string().contains("room_metadata"));
        assert_eq!(ask("<what xmlns='urn:x'/>").attr("type"), Some("error"));
        assert_eq!(ask("").attr("type"), Some("error"));
        let result = tertulia_xmpp::parse("<iq type='result' id='1'/>").unwrap();
        assert_eq!(answer(&settings(), &result), None);
    }

    #[test]
    fn a_join_of_a_room_that_is_not_there_makes_the_client_ask_for_it() {
        let join = "<presence to='r@muc.meet.example/a'><x xmlns='http://jabber.org/protocol/muc'/></presence>";
        let error = no_such_room(&tertulia_xmpp::parse(join).unwrap()).unwrap().to_string();
        assert!(error.contains("not-allowed") && error.contains("room-does-not-exist"));
        let leave = tertulia_xmpp::parse("<presence type='unavailable' to='r@muc.meet.example/a'/>").unwrap();
        assert_eq!(no_such_room(&leave), None);
    }
}
