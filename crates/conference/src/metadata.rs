//! Room metadata: a table of JSON values that moderators write and everybody reads.

use serde_json::{Map, Value, json};
use tertulia_model::EndpointId;
use tertulia_xmpp::{Element, FullJid, ns};

use crate::conference::{Conference, Output};
use crate::occupant::Occupant;

/// Limits of the table.
const KEYS_MAX: usize = 32;
const VALUE_MAX: usize = 4 * 1024;

/// Keys that only the server writes.
const OWN: &[&str] = &[
    "allownersEnabled",
    "asyncTranscription",
    "audioTranslationAvailable",
    "audioTranslationRequests",
    "conferencePresetsServiceEnabled",
    "dialinEnabled",
    "lobbyEnabled",
    "agents",
    "moderators",
    "participants",
    "participantsSoftLimit",
    "services",
    "transcriberType",
    "transcription",
    "visitorsEnabled",
];

impl Conference {
    /// A moderator writes one key. What is not allowed is ignored: clients expect no answer to a message.
    pub(crate) fn handle_metadata(&mut self, from: &FullJid, stanza: &Element, out: &mut Vec<Output>) {
        let moderator =
            self.nick_of(from).and_then(|nick| self.occupants.get(&nick)).is_some_and(Occupant::is_moderator);
        let text = stanza.child("room_metadata", ns::JITMEET).map(Element::text);
        let Some(text) = text.filter(|text| moderator && text.len() <= VALUE_MAX) else { return };
        let Ok(Value::Object(mut change)) = serde_json::from_str::<Value>(&text) else { return };
        let (Some(Value::String(key)), Some(data)) = (change.remove("key"), change.remove("data")) else { return };
        if !OWN.contains(&key.as_str()) {
            self.set_metadata(&key, data, out);
        }
    }

    /// Moderators of old clients say in their presence how newcomers start.
    pub(crate) fn take_start_muted(&mut self, nick: &EndpointId, presence: &Element, out: &mut Vec<Output>) {
        let moderator = self.occupants.get(nick).is_some_and(Occupant::is_moderator);
        let Some(policy) = presence.child("startmuted", ns::START_MUTED).filter(|_| moderator) else { return };
        let flag = |name| policy.attr(name) == Some("true");
        self.set_metadata("startMuted", json!({ "audio": flag("audio"), "video": flag("video") }), out);
    }

    /// How newcomers start: audio, video.
    pub(crate) fn start_muted(&self) -> (bool, bool) {
        let flag = |name: &str| {
            self.metadata.get("startMuted").and_then(|policy| policy.get(name)) == Some(&Value::Bool(true))
        };
        (flag("audio"), flag("video"))
    }

    /// The table, for somebody who enters.
    pub(crate) fn send_metadata_to(&self, to: &FullJid, out: &mut Vec<Output>) {
        self.send(to, self.metadata_message(), out);
    }

    fn set_metadata(&mut self, key: &str, data: Value, out: &mut Vec<Output>) {
        let known = self.metadata.contains_key(key);
        if self.metadata.get(key) == Some(&data) || (!known && self.metadata.len() >= KEYS_MAX) {
            return;
        }
        self.metadata.insert(key.to_owned(), data);
        self.broadcast(&self.metadata_message(), out);
    }

    fn metadata_message(&self) -> Element {
        let mut table = Map::new();
        table.insert("type".into(), Value::String("room_metadata".into()));
        table.insert("metadata".into(), Value::Object(self.metadata.clone()));
        let json = Element::new("json-message", ns::JITMEET)
            .with_attr("room", self.room.to_string())
            .with_text(&Value::Object(table).to_string());
        Element::new("message", ns::CLIENT).with_attr("from", &self.settings.domains.metadata).with_child(json)
    }
}
