//! Jingle (XEP-0166) as a focus and a client of Jitsi speak it: what is read from a client's `<jingle>`.

pub mod offer;

use std::fmt;

use tertulia_model::{DtlsSetup, Fingerprint, HashFunction, IceCredentials, RemoteTransport, SourceSet};

use crate::element::Element;
use crate::ns;
use crate::sources::{self, Owner};

/// What a `<jingle>` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An offer.
    SessionInitiate,
    /// The answer to it.
    SessionAccept,
    /// The end.
    SessionTerminate,
    /// A request for a restart, among others.
    SessionInfo,
    /// New credentials or candidates.
    TransportInfo,
    /// More sources (Jitsi).
    SourceAdd,
    /// Fewer sources (Jitsi).
    SourceRemove,
    /// Answers to `transport-replace`, which we never send.
    TransportAnswer,
}

/// Why a `<jingle>` is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionError {
    /// No action at all.
    Missing,
    /// One that neither focus nor bridge takes.
    Unsupported,
}

impl Action {
    /// Reads the action of a `<jingle>`; old names are accepted.
    ///
    /// # Errors
    /// When there is none, or none that a focus takes.
    pub fn of(jingle: &Element) -> Result<Self, ActionError> {
        Ok(match jingle.attr("action").ok_or(ActionError::Missing)? {
            "session-initiate" => Self::SessionInitiate,
            "session-accept" => Self::SessionAccept,
            "session-terminate" => Self::SessionTerminate,
            "session-info" => Self::SessionInfo,
            "transport-info" => Self::TransportInfo,
            "source-add" | "addsource" => Self::SourceAdd,
            "source-remove" | "removesource" => Self::SourceRemove,
            "transport-accept" | "transport-reject" => Self::TransportAnswer,
            _ => return Err(ActionError::Unsupported),
        })
    }
}

/// Why a transport cannot be used. `Display` is the text for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportError {
    /// No `<transport>` with credentials.
    Missing,
    /// ICE credentials that RFC 8839 §5.4 forbids.
    BadCredentials,
    /// An unknown hash, or a digest of the wrong length.
    BadFingerprint,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing transport",
            Self::BadCredentials => "invalid ICE credentials",
            Self::BadFingerprint => "invalid DTLS fingerprint",
        })
    }
}

/// The client's side of the transport: BUNDLE makes all contents share the first that has credentials.
///
/// # Errors
/// When there is none or it cannot be used.
pub fn transport(jingle: &Element) -> Result<RemoteTransport, TransportError> {
    let contents = jingle.children().filter(|child| child.is("content", ns::JINGLE));
    let mut transports = contents.filter_map(|content| content.child("transport", ns::ICE_UDP));
    let transport = transports.find(|transport| transport.attr("ufrag").is_some()).ok_or(TransportError::Missing)?;
    let ice = IceCredentials {
        ufrag: transport.attr("ufrag").unwrap_or("").to_owned(),
        pwd: transport.attr("pwd").unwrap_or("").to_owned(),
    };
    if !(is_ice_text(&ice.ufrag, 4) && is_ice_text(&ice.pwd, 22)) {
        return Err(TransportError::BadCredentials);
    }
    let fingerprint = transport.child("fingerprint", ns::DTLS).map(fingerprint).transpose()?;
    let ice_generation = transport.attr("ice-generation").and_then(|text| text.parse().ok());
    Ok(RemoteTransport { ice, fingerprint, ice_generation })
}

/// RFC 8839 §5.4: at least `min`, at most 256 characters of ALPHA, DIGIT, `+`, `/`. Browsers of some years add `-` and `_`.
fn is_ice_text(text: &str, min: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b'=');
    (min..=256).contains(&text.len()) && text.bytes().all(allowed)
}

fn fingerprint(element: &Element) -> Result<Fingerprint, TransportError> {
    let hash = element.attr("hash").and_then(HashFunction::parse).ok_or(TransportError::BadFingerprint)?;
    let setup = element.attr("setup").and_then(DtlsSetup::parse).unwrap_or(DtlsSetup::Active);
    Fingerprint::parse(hash, setup, &element.text()).ok_or(TransportError::BadFingerprint)
}

/// `<bridge-session>`: which session with the bridge the client talks about, and whether it wants another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgeSession {
    /// The id it was told.
    pub id: Option<String>,
    /// Wants a new offer.
    pub restart: bool,
    /// Wants new ICE credentials in place.
    pub ice_restart: bool,
}

/// Reads `<bridge-session>`; nothing is said when it is missing.
pub fn bridge_session(jingle: &Element) -> BridgeSession {
    jingle.child("bridge-session", ns::FOCUS).map_or_else(BridgeSession::default, |element| BridgeSession {
        id: element.attr("id").map(str::to_owned),
        restart: element.attr("restart") == Some("true"),
        ice_restart: element.attr("ice-restart") == Some("true"),
    })
}

/// Whether a 2022 client says that ICE failed.
pub fn says_ice_failed(jingle: &Element) -> bool {
    jingle.child("ice-state", ns::FOCUS).is_some_and(|state| state.text() == "failed")
}

/// How many video sources the client wants until it says so on its channel. Negative means no limit and is not told.
pub fn initial_last_n(jingle: &Element) -> Option<u32> {
    let contents = jingle.children().filter(|child| child.is("content", ns::JINGLE));
    let mut found = contents.filter_map(|content| content.child("initial-last-n", ns::COLIBRI2));
    found.find_map(|element| element.attr("value")).and_then(|text| text.parse().ok())
}

/// `source-add` or `source-remove` of other people's sources, for a client with or without the JSON form.
pub fn source_change(add: bool, sid: &str, all: &[(Owner, SourceSet)], json: bool) -> Element {
    let mut jingle = Element::new("jingle", ns::JINGLE)
        .with_attr("action", if add { "source-add" } else { "source-remove" })
        .with_attr("sid", sid);
    if json {
        jingle.push(Element::new("json-message", ns::JITMEET).with_text(&sources::to_json(all)));
        return jingle;
    }
    for kind in [tertulia_model::MediaKind::Audio, tertulia_model::MediaKind::Video] {
        let children = sources::to_xml(all, kind);
        if !children.is_empty() {
            let description =
                Element::new("description", ns::JINGLE_RTP).with_attr("media", kind.as_str()).with_children(children);
            jingle.push(Element::new("content", ns::JINGLE).with_attr("name", kind.as_str()).with_child(description));
        }
    }
    jingle
}

/// `session-terminate` with a reason of XEP-0166 §7.4 and a text.
pub fn terminate(sid: &str, reason: &str, text: &str) -> Element {
    let reason = Element::new("reason", ns::JINGLE)
        .with_child(Element::new(reason, ns::JINGLE))
        .with_child(Element::new("text", ns::JINGLE).with_text(text));
    Element::new("jingle", ns::JINGLE).with_attr("action", "session-terminate").with_attr("sid", sid).with_child(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_transport(transport: &str) -> Element {
        crate::parse(&format!("<jingle xmlns='urn:xmpp:jingle:1'><content name='audio'>{transport}</content></jingle>"))
            .unwrap()
    }

    #[test]
    fn a_transport_is_read_whole_or_refused_with_a_reason() {
        let hex = vec!["AB"; 32].join(":");
        let good = format!(
            "<transport xmlns='urn:xmpp:jingle:transports:ice-udp:1' ufrag='kO2/' pwd='ySWh8FTuznJQCLAaln8tlVp+' ice-generation='2'>\
             <fingerprint xmlns='urn:xmpp:jingle:apps:dtls:0' hash='sha-256' setup='active'>{hex}</fingerprint></transport>"
        );
        let read = transport(&with_transport(&good)).unwrap();
        assert_eq!(read.ice_generation, Some(2));
        assert_eq!(read.fingerprint.unwrap().digest, vec![0xab; 32]);
        assert_eq!(transport(&with_transport("")), Err(TransportError::Missing));
        assert_eq!(transport(&with_transport(&good.replace("kO2/", "k"))), Err(TransportError::BadCredentials));
        assert_eq!(transport(&with_transport(&good.replace("AB:AB", "AB"))), Err(TransportError::BadFingerprint));
        assert_eq!(transport(&with_transport(&good.replace("sha-256", "md5"))), Err(TransportError::BadFingerprint));
    }

    #[test]
    fn old_action_names_are_understood() {
        let action = |name: &str| Action::of(&Element::new("jingle", ns::JINGLE).with_attr("action", name));
        assert_eq!(action("addsource"), Ok(Action::SourceAdd));
        assert_eq!(action("content-modify"), Err(ActionError::Unsupported));
        assert_eq!(Action::of(&Element::new("jingle", ns::JINGLE)), Err(ActionError::Missing));
    }
}
