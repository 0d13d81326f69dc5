//! The signalling of one participant: the conference request, the room (XEP-0045) and the session with the focus (XEP-0166).
//!
//! Everything is as Jitsi's clients write it. What a stanza means for the media is said by [`Heard`].

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tertulia_model::{DtlsSetup, EndpointId, Fingerprint, IceCredentials, MediaKind, SourceSet};
use tertulia_xmpp::jingle::Action;
use tertulia_xmpp::jingle::offer::ReceivedOffer;
use tertulia_xmpp::sources::{self, Owner, group_element, source_element};
use tertulia_xmpp::stanza::{Condition, error_for, result_for, wants_answer};
use tertulia_xmpp::{Element, Jid, ns};

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Address of the room.
    pub room: String,
    /// The component that takes conference requests.
    pub focus: String,
}

impl Addresses {
    /// The usual names below a domain, after docker-jitsi-meet.
    pub fn of(domain: &str, room: &str) -> Self {
        Self { room: format!("{room}@muc.{domain}"), focus: format!("focus.{domain}") }
    }
}

/// What somebody wishes to receive; `ReceiverVideoConstraints` on the bridge channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoWishes {
    /// Most video sources; −1 for all.
    pub last_n: i32,
    /// Height of everything that is not named in `heights`.
    pub default_height: i32,
    /// Height by source name.
    pub heights: Vec<(String, i32)>,
    /// Most frames a second of everything.
    pub max_frame_rate: Option<u32>,
}

impl VideoWishes {
    /// Everything, at this height.
    pub fn all_at(height: i32) -> Self {
        Self { last_n: -1, default_height: height, heights: Vec::new(), max_frame_rate: None }
    }

    /// The same with at most so many frames a second.
    pub fn at_most_fps(mut self, frames_per_second: u32) -> Self {
        self.max_frame_rate = Some(frames_per_second);
        self
    }

    pub(crate) fn to_json(&self) -> String {
        let constraint = |height: i32| match self.max_frame_rate {
            Some(rate) => json!({ "maxHeight": height, "maxFrameRate": rate }),
            None => json!({ "maxHeight": height }),
        };
        let constraints: Map<String, Value> =
            self.heights.iter().map(|(source, height)| (source.clone(), constraint(*height))).collect();
        json!({
            "colibriClass": "ReceiverVideoConstraints",
            "lastN": self.last_n,
            "defaultConstraints": constraint(self.default_height),
            "constraints": constraints,
        })
        .to_string()
    }
}

/// What a stanza means for the rest of a participant.
#[derive(Debug)]
pub(crate) enum Heard {
    /// We are in the room.
    Joined,
    /// The request, the join or the session was refused; the stanza error as it came.
    Refused(String),
    /// A session is offered; an earlier one is over.
    Offer(Box<ReceivedOffer>),
    /// Other people send more.
    SourcesAdded(Vec<(Owner, SourceSet)>),
    /// Other people send less.
    SourcesRemoved(Vec<(Owner, SourceSet)>),
    /// The focus ended the session.
    SessionEnded,
    /// Somebody is there or gone.
    Occupants,
    /// Somebody says something to all.
    Chat { from: EndpointId, text: String },
    /// We are out of the room: kicked, or the room is over.
    Out,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Signalling {
    addresses: Addresses,
    nick: EndpointId,
    display_name: String,
    pub(crate) occupants: BTreeSet<EndpointId>,
    /// The session with the focus; its offer is kept for what the answer repeats.
    dialog: Option<Dialog>,
    joined: bool,
    next_id: u64,
    /// Asks for a fixed set of SSRCs.
    ssrc_rewriting: bool,
}

#[derive(Debug)]
struct Dialog {
    sid: String,
    initiator: String,
    focus: String,
    bridge_session: Option<String>,
    /// `payload-type` and `rtp-hdrext` of each content: all that is offered is accepted.
    offered: Vec<(String, Vec<Element>)>,
}

impl Signalling {
    pub(crate) fn new(addresses: Addresses, nick: EndpointId, display_name: String, ssrc_rewriting: bool) -> Self {
        let (occupants, dialog, joined, next_id) = (BTreeSet::new(), None, false, 0);
        Self { addresses, nick, display_name, occupants, dialog, joined, next_id, ssrc_rewriting }
    }

    /// Asks the focus for the room.
    pub(crate) fn request(&mut self, out: &mut Vec<Element>) {
        let conference = Element::new("conference", ns::FOCUS)
            .with_attr("room", &self.addresses.room)
            .with_attr("machine-uid", format!("headless-{}", self.nick));
        out.push(self.iq(&self.addresses.focus.clone(), REQUEST_ID, conference));
    }

    /// Takes a stanza; what has to be answered is pushed.
    pub(crate) fn handle(&mut self, stanza: &Element, own: &SourceSet, out: &mut Vec<Element>) -> Option<Heard> {
        match stanza.name() {
            "iq" => self.handle_iq(stanza, own, out),
            "presence" => self.handle_presence(stanza),
            "message" => self.handle_message(stanza),
            _ => None,
        }
    }

    /// The answer to the offer.
    pub(crate) fn accept(
        &mut self,
        own: &SourceSet,
        ice: &IceCredentials,
        fingerprint: &Fingerprint,
        out: &mut Vec<Element>,
    ) {
        let Some(dialog) = &self.dialog else { return };
        let mut jingle = dialog.jingle("session-accept").with_attr("responder", self.nick.as_str());
        for (index, (media, offered)) in dialog.offered.iter().enumerate() {
            let description = Element::new("description", ns::JINGLE_RTP)
                .with_attr("media", media)
                .with_children(offered.iter().cloned())
                .with_children(sources_of(own, media));
            let transport = Element::new("transport", ns::ICE_UDP)
                .with_attr("ufrag", &ice.ufrag)
                .with_attr("pwd", &ice.pwd)
                .with_child(Element::new("rtcp-mux", ns::ICE_UDP))
                .with_child(
                    Element::new("fingerprint", ns::DTLS)
                        .with_attr("hash", fingerprint.hash.as_str())
                        .with_attr("setup", DtlsSetup::Active.as_str())
                        .with_text(&fingerprint.to_hex()),
                );
            let mut content = Element::new("content", ns::JINGLE)
                .with_attr("creator", "responder")
                .with_attr("name", media)
                .with_attr("senders", "both")
                .with_child(description)
                .with_child(transport);
            if index == 0 {
                let last_n = Element::new("initial-last-n", ns::COLIBRI2).with_attr("value", "-1");
                content.push(last_n);
            }
            jingle.push(content);
        }
        let focus = dialog.focus.clone();
        out.push(self.iq(&focus, "accept", jingle));
        // Older focuses put nothing into presence by themselves: sources are announced there too.
        out.push(self.presence(own));
    }

    /// `source-add` or `source-remove` of our own.
    pub(crate) fn change(&mut self, add: bool, changed: &SourceSet, own: &SourceSet, out: &mut Vec<Element>) {
        let Some(dialog) = &self.dialog else { return };
        let mut jingle = dialog.jingle(if add { "source-add" } else { "source-remove" });
        for media in ["audio", "video"] {
            let children = sources_of(changed, media);
            if !children.is_empty() {
                let description =
                    Element::new("description", ns::JINGLE_RTP).with_attr("media", media).with_children(children);
                jingle.push(Element::new("content", ns::JINGLE).with_attr("name", media).with_child(description));
            }
        }
        let focus = dialog.focus.clone();
        out.push(self.iq(&focus, "sources", jingle));
        out.push(self.presence(own));
    }

    /// Asks for a new session: the transport failed (`restart` of lib-jitsi-meet).
    pub(crate) fn restart(&mut self, out: &mut Vec<Element>) {
        let Some(dialog) = &self.dialog else { return };
        let session = Element::new("bridge-session", ns::FOCUS)
            .with_attr_opt("id", dialog.bridge_session.clone())
            .with_attr("restart", "true");
        let jingle = dialog
            .jingle("session-terminate")
            .with_child(Element::new("reason", ns::JINGLE).with_child(Element::new("connectivity-error", ns::JINGLE)))
            .with_child(session);
        let focus = dialog.focus.clone();
        out.push(self.iq(&focus, "restart", jingle));
    }

    /// A message to everybody.
    pub(crate) fn chat(&mut self, text: &str, out: &mut Vec<Element>) {
        let id = self.id("chat");
        let message = Element::new("message", ns::CLIENT)
            .with_attr("type", "groupchat")
            .with_attr("to", &self.addresses.room)
            .with_attr("id", id)
            .with_child(Element::new("body", ns::CLIENT).with_text(text));
        out.push(message);
    }

    /// Goodbye.
    pub(crate) fn leave(&mut self, out: &mut Vec<Element>) {
        if let Some(dialog) = self.dialog.take() {
            let reason = Element::new("reason", ns::JINGLE).with_child(Element::new("success", ns::JINGLE));
            let jingle = dialog.jingle("session-terminate").with_child(reason);
            out.push(self.iq(&dialog.focus, "leave", jingle));
        }
        let presence =
            Element::new("presence", ns::CLIENT).with_attr("type", "unavailable").with_attr("to", self.own_address());
        out.push(presence);
        self.joined = false;
        self.occupants.clear();
    }

    fn handle_iq(&mut self, iq: &Element, own: &SourceSet, out: &mut Vec<Element>) -> Option<Heard> {
        let id = iq.attr("id").unwrap_or("");
        match iq.attr("type") {
            Some("error") => return Some(Heard::Refused(iq.to_string())),
            Some("result") if id.starts_with(REQUEST_ID) => {
                let ready = iq.child("conference", ns::FOCUS).and_then(|conference| conference.attr("ready"));
                if ready != Some("true") {
                    return Some(Heard::Refused(iq.to_string()));
                }
                let presence = self.presence(own).with_child(Element::new("x", ns::MUC));
                out.push(presence);
                return None;
            }
            Some("result") => return None,
            _ => {}
        }
        if !wants_answer(iq) {
            return None;
        }
        if iq.has_child("query", ns::DISCO_INFO) {
            out.push(result_for(iq, Some(features(self.ssrc_rewriting))));
        } else if let Some(jingle) = iq.child("jingle", ns::JINGLE) {
            // Answered before it is acted on, as clients do.
            out.push(result_for(iq, None));
            return self.handle_jingle(iq.attr("from").unwrap_or(""), jingle);
        } else if iq.has_child("ping", ns::PING) {
            out.push(result_for(iq, None));
        } else {
            out.push(error_for(iq, &Condition::FeatureNotImplemented.into()));
        }
        None
    }

    fn handle_jingle(&mut self, from: &str, jingle: &Element) -> Option<Heard> {
        let all = |jingle: &Element| sources::from_focus(jingle).ok();
        match Action::of(jingle).ok()? {
            Action::SessionInitiate => {
                let offer = ReceivedOffer::parse(jingle)?;
                let contents = jingle.children().filter(|child| child.is("content", ns::JINGLE));
                let offered = contents.filter_map(offered_media).collect();
                self.dialog = Some(Dialog {
                    sid: offer.sid.clone(),
                    initiator: offer.initiator.clone(),
                    focus: from.to_owned(),
                    bridge_session: offer.bridge_session.clone(),
                    offered,
                });
                Some(Heard::Offer(Box::new(offer)))
            }
            Action::SourceAdd => all(jingle).map(Heard::SourcesAdded),
            Action::SourceRemove => all(jingle).map(Heard::SourcesRemoved),
            Action::SessionTerminate => {
                self.dialog = None;
                Some(Heard::SessionEnded)
            }
            Action::SessionAccept | Action::SessionInfo | Action::TransportInfo | Action::TransportAnswer => None,
        }
    }

    fn handle_presence(&mut self, presence: &Element) -> Option<Heard> {
        let from = Jid::new(presence.attr("from")?).ok()?;
        if from.to_bare().to_string() != self.addresses.room {
            return None;
        }
        if presence.attr("type") == Some("error") {
            return Some(Heard::Refused(presence.to_string()));
        }
        let nick = EndpointId::parse(from.resource()?.as_str()).ok()?;
        let here = presence.attr("type") != Some("unavailable");
        let ours = nick == self.nick;
        match (here, ours) {
            (true, true) if !self.joined => {
                self.joined = true;
                Some(Heard::Joined)
            }
            (true, true) => None,
            (false, true) => {
                self.joined = false;
                self.dialog = None;
                Some(Heard::Out)
            }
            (true, false) if nick.as_str() != "focus" => {
                self.occupants.insert(nick);
                Some(Heard::Occupants)
            }
            (true, false) => None,
            (false, false) => {
                self.occupants.remove(&nick);
                Some(Heard::Occupants)
            }
        }
    }

    fn handle_message(&self, message: &Element) -> Option<Heard> {
        let body = message.child("body", ns::CLIENT)?;
        if message.attr("type") != Some("groupchat") || message.has_child("delay", ns::DELAY) {
            return None;
        }
        let from = Jid::new(message.attr("from")?).ok()?;
        let from = EndpointId::parse(from.resource()?.as_str()).ok()?;
        Some(Heard::Chat { from, text: body.text() })
    }

    /// Our presence, without the `<x>` that makes it a join.
    fn presence(&self, own: &SourceSet) -> Element {
        let mut info = Map::new();
        for source in &own.sources {
            let mut state = json!({ "muted": false });
            if source.kind == MediaKind::Video {
                state["videoType"] = if source.video_type.is_desktop() { "desktop" } else { "camera" }.into();
            }
            info.insert(source.name.to_string(), state);
        }
        Element::new("presence", ns::CLIENT)
            .with_attr("to", self.own_address())
            .with_child(
                Element::new("c", ns::CAPS)
                    .with_attr("hash", "sha-1")
                    .with_attr("node", "https://tertulia.example/participant")
                    // Names what we can do: whoever can do more must not be taken for somebody who was asked before.
                    .with_attr("ver", if self.ssrc_rewriting { "1-rewriting" } else { "1" }),
            )
            .with_child(Element::new("SourceInfo", ns::CLIENT).with_text(&Value::Object(info).to_string()))
            .with_child(Element::new("nick", ns::NICK).with_text(&self.display_name))
    }

    fn own_address(&self) -> String {
        format!("{}/{}", self.addresses.room, self.nick)
    }

    fn iq(&mut self, to: &str, what: &str, payload: Element) -> Element {
        let id = self.id(what);
        Element::new("iq", ns::CLIENT)
            .with_attr("type", "set")
            .with_attr("to", to)
            .with_attr("id", id)
            .with_child(payload)
    }

    fn id(&mut self, what: &str) -> String {
        self.next_id += 1;
        format!("{what}-{}", self.next_id)
    }
}

impl Dialog {
    fn jingle(&self, action: &str) -> Element {
        Element::new("jingle", ns::JINGLE)
            .with_attr("action", action)
            .with_attr("sid", &self.sid)
            .with_attr("initiator", &self.initiator)
    }
}

/// A content's medium and what the answer repeats of it.
fn offered_media(content: &Element) -> Option<(String, Vec<Element>)> {
    let description = content.child("description", ns::JINGLE_RTP)?;
    let repeated = ["payload-type", "rtp-hdrext", "extmap-allow-mixed", "rtcp-mux"];
    let children = description.children().filter(|child| repeated.contains(&child.name())).cloned().collect();
    Some((description.attr("media")?.to_owned(), children))
}

fn sources_of(set: &SourceSet, media: &str) -> Vec<Element> {
    let sources = set.sources.iter().filter(|source| source.kind.as_str() == media).map(source_element);
    let groups = set.groups.iter().filter(|group| group.kind.as_str() == media).map(group_element);
    sources.chain(groups).collect()
}

/// What lib-jitsi-meet of today can do, without P2P.
fn features(ssrc_rewriting: bool) -> Element {
    let feature = |var: &&str| Element::new("feature", ns::DISCO_INFO).with_attr("var", *var);
    let rewriting = ssrc_rewriting.then_some("http://jitsi.org/ssrc-rewriting-1");
    Element::new("query", ns::DISCO_INFO)
        .with_child(Element::new("identity", ns::DISCO_INFO).with_attr("category", "client").with_attr("type", "bot"))
        .with_children(FEATURES.iter().chain(rewriting.iter()).map(feature))
}

const FEATURES: &[&str] = &[
    "http://jitsi.org/json-encoded-sources",
    "urn:xmpp:jingle:transports:dtls-sctp:1",
    "http://jitsi.org/source-name",
    "http://jitsi.org/receive-multiple-video-streams",
    "http://jitsi.org/tcc",
    "urn:ietf:rfc:4588",
    "urn:ietf:rfc:5761",
    "urn:ietf:rfc:5888",
    "urn:xmpp:jingle:1",
    "urn:xmpp:jingle:apps:dtls:0",
    "urn:xmpp:jingle:apps:rtp:1",
    "urn:xmpp:jingle:apps:rtp:audio",
    "urn:xmpp:jingle:apps:rtp:video",
    "urn:xmpp:jingle:transports:ice-udp:1",
];

const REQUEST_ID: &str = "request";
