//! The conference request: asking the focus for a room before joining it, by IQ or as JSON over HTTP.

use serde_json::{Map, Value, json};
use tertulia_xmpp::stanza::{Condition, StanzaError, error_for, result_for, wants_answer};
use tertulia_xmpp::{BareJid, Element, Jid, ns};

use crate::room_name;
use crate::route::canonical_room;
use crate::settings::Domains;

/// A request that can be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConferenceRequest {
    /// Which room, canonically.
    pub room: BareJid,
    /// As the client wrote it; the answer repeats it.
    asked: String,
}

/// Reads an IQ to the focus. `Err` is the answer; `Ok(None)` wants none.
///
/// # Errors
/// The error stanza to send back.
pub fn parse_iq(domains: &Domains, iq: &Element) -> Result<Option<ConferenceRequest>, Box<Element>> {
    if !wants_answer(iq) {
        return Ok(None);
    }
    let refuse = |error: StanzaError| Err(Box::new(error_for(iq, &error)));
    let Some(conference) = iq.child("conference", ns::FOCUS) else {
        let ping = iq.has_child("ping", ns::PING) || iq.has_child("query", ns::DISCO_INFO);
        return Err(Box::new(if ping {
            result_for(iq, iq.children().next().filter(|q| q.name() == "query").map(|_| info()))
        } else {
            error_for(iq, &Condition::FeatureNotImplemented.into())
        }));
    };
    let Some(asked) = conference.attr("room") else {
        return refuse(StanzaError::new(Condition::BadRequest).with_text("the attribute `room` is missing"));
    };
    match find(domains, asked) {
        Ok(room) => Ok(Some(ConferenceRequest { room, asked: asked.to_owned() })),
        Err(text) => refuse(StanzaError::new(Condition::BadRequest).with_text(text)),
    }
}

/// Reads the JSON form.
///
/// # Errors
/// A sentence for the client's developer.
pub fn parse_json(domains: &Domains, body: &str) -> Result<ConferenceRequest, String> {
    let value: Value = serde_json::from_str(body).map_err(|_| "the body is not JSON".to_owned())?;
    let asked = value["room"].as_str().ok_or_else(|| "the member `room` is missing".to_owned())?;
    Ok(ConferenceRequest { room: find(domains, asked)?, asked: asked.to_owned() })
}

impl ConferenceRequest {
    /// The answer to the IQ: the room is there, join now.
    pub fn ready_iq(&self, domains: &Domains, iq: &Element) -> Element {
        let property = |name: &str, value: &str| {
            Element::new("property", ns::FOCUS).with_attr("name", name).with_attr("value", value)
        };
        let conference = Element::new("conference", ns::FOCUS)
            .with_attr("room", &self.asked)
            .with_attr("ready", "true")
            .with_attr("focusjid", domains.focus_user())
            .with_child(property("authentication", "false"));
        result_for(iq, Some(conference))
    }

    /// The JSON answer.
    pub fn ready_json(&self, domains: &Domains) -> String {
        let mut properties = Map::new();
        properties.insert("authentication".into(), Value::String("false".into()));
        json!({ "ready": true, "focusJid": domains.focus_user(), "room": self.asked, "properties": properties })
            .to_string()
    }

    /// The answer when no further room can be held: "not yet", so that the client asks again instead of giving up.
    pub fn not_ready_iq(&self, domains: &Domains, iq: &Element) -> Element {
        let conference = Element::new("conference", ns::FOCUS)
            .with_attr("room", &self.asked)
            .with_attr("ready", "false")
            .with_attr("focusjid", domains.focus_user());
        result_for(iq, Some(conference))
    }

    /// The same as JSON.
    pub fn not_ready_json(&self, domains: &Domains) -> String {
        json!({ "ready": false, "focusJid": domains.focus_user(), "room": self.asked, "properties": {} }).to_string()
    }
}

/// What somebody is told who wants a new room while the server is about to stop.
pub const CLOSING: &str = "This server is about to stop and opens no new meetings: try again in a minute.";

/// The answer in that case. Clients of some years know the condition; all others show the text.
pub fn closing_iq(iq: &Element) -> Element {
    let error = StanzaError::new(Condition::ServiceUnavailable)
        .with_text(CLOSING)
        .with_extra(Element::new("graceful-shutdown", ns::FOCUS));
    error_for(iq, &error)
}

fn info() -> Element {
    Element::new("query", ns::DISCO_INFO)
        .with_child(
            Element::new("identity", ns::DISCO_INFO).with_attr("category", "component").with_attr("type", "generic"),
        )
        .with_child(Element::new("feature", ns::DISCO_INFO).with_attr("var", ns::FOCUS))
}

fn find(domains: &Domains, asked: &str) -> Result<BareJid, String> {
    let address = Jid::new(asked).map_err(|_| "`room` is not the address of a room".to_owned())?;
    let room = canonical_room(domains, &address).ok_or_else(|| format!("`room` must be name@{}", domains.muc))?;
    room_name::check(&room).map_err(|error| error.to_string())?;
    Ok(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_in_the_words_of_the_client() {
        let domains = Domains::of("meet.example");
        let iq = "<iq type='set' id='q1' to='focus.meet.example'><conference xmlns='http://jitsi.org/protocol/focus' \
                  room='Standup@conference.meet.example' machine-uid='0b'/></iq>";
        let iq = tertulia_xmpp::parse(iq).unwrap();
        let request = parse_iq(&domains, &iq).unwrap().unwrap();
        assert_eq!(request.room.to_string(), "standup@muc.meet.example");
        let answer = request.ready_iq(&domains, &iq).to_string();
        assert!(
            answer.contains("ready='true'") && answer.contains("room='Standup@conference.meet.example'"),
            "{answer}"
        );
        assert!(answer.contains("focusjid='focus@auth.meet.example'"));
    }

    #[test]
    fn what_cannot_be_granted_says_why() {
        let domains = Domains::of("meet.example");
        for conference in [
            "<conference xmlns='http://jitsi.org/protocol/focus'/>",
            "<conference xmlns='http://jitsi.org/protocol/focus' room='x@elsewhere'/>",
        ] {
            let iq = tertulia_xmpp::parse(&format!("<iq type='set' id='1'>{conference}</iq>")).unwrap();
            assert!(parse_iq(&domains, &iq).unwrap_err().to_string().contains("bad-request"));
        }
        assert!(parse_json(&domains, "{}").is_err());
        assert!(parse_json(&domains, r#"{"room":"a@muc.meet.example"}"#).is_ok());
    }
}
