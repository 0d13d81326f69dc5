//! The room: its state, what wakes it, and where each stanza goes. Features are in files of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value};
use tertulia_model::{BridgeEvent, BridgeRequest, ConferenceId, EndpointId};
use tertulia_xmpp::stanza::{Condition, StanzaError, error_for, result_for, wants_answer};
use tertulia_xmpp::{BareJid, Broadcast, Element, FullJid, Jid, ns};

use crate::features::Features;
use crate::name::{OtherNames, rename};
use crate::occupant::{Affiliation, Occupant};
use crate::rate::RestartBudget;
use crate::route::Component;
use crate::route::{Route, route};
use crate::settings::Settings;
use crate::source_map::SourceMap;

/// How long a room waits for somebody after a request for it.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(15);

/// What can wake a room.
#[derive(Debug)]
pub enum Input {
    /// A conference request named this room.
    Requested,
    /// A stanza of a session whose `to` is this room, an occupant of it, or a component that serves its room.
    Stanza {
        /// Who sent it: its true address.
        from: FullJid,
        /// As it came.
        stanza: Element,
        /// How the sender reached this server, `ws://host:port` or `wss://host`: its bridge channel goes the same way.
        origin: Arc<str>,
    },
    /// That session is over.
    Gone {
        /// Whose.
        from: FullJid,
    },
    /// Something happened on the bridge.
    Bridge(BridgeEvent),
}

/// What has to happen next.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A stanza for one session.
    Send {
        /// Whose.
        to: FullJid,
        /// With `to`.
        stanza: Element,
    },
    /// A stanza for many sessions, or one that many get.
    Broadcast {
        /// Whose.
        to: Vec<FullJid>,
        /// Written once, without `to`.
        stanza: Arc<Broadcast>,
    },
    /// Open a conference of this id on the bridge; requests go to it from now on.
    OpenBridge(ConferenceId),
    /// A request to the bridge.
    Bridge(BridgeRequest),
    /// The room is over: nothing of it is left.
    Closed,
}

/// Every deadline of a room.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Nobody came after a request.
    Empty,
    /// Somebody's client did not say what it can do.
    Features(EndpointId),
    /// Somebody is alone with their media session.
    Alone,
    /// The bridge lost the conference too often to be trusted with it again at once.
    Mend,
}

/// A room with its focus.
#[derive(Debug)]
pub struct Conference {
    pub(crate) settings: Arc<Settings>,
    pub(crate) room: BareJid,
    pub(crate) random: ChaCha20Rng,
    pub(crate) meeting_id: String,
    pub(crate) created_ms: u128,
    pub(crate) occupants: BTreeMap<EndpointId, Occupant>,
    /// Who each session is in this room.
    pub(crate) nicks: BTreeMap<FullJid, EndpointId>,
    pub(crate) other_names: OtherNames,
    pub(crate) next_order: u64,
    pub(crate) password: Option<String>,
    pub(crate) subject: String,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) known_features: BTreeMap<String, Features>,
    /// Discovery queries of the focus under way: IQ id → whose.
    pub(crate) queries: BTreeMap<String, EndpointId>,
    /// Allocations that the bridge has not answered, of people who may have left and come back since: only the last answer counts.
    pub(crate) allocating: BTreeMap<EndpointId, u32>,
    /// Offers under way: IQ id → whose, which session.
    pub(crate) offers: BTreeMap<String, (EndpointId, String)>,
    pub(crate) sources: SourceMap,
    /// Id of the focus's session with the bridge; a new one after the bridge was lost.
    pub(crate) bridge_session: String,
    pub(crate) bridge_lost: bool,
    /// New conferences on the bridge after lost ones.
    pub(crate) mendings: RestartBudget,
    pub(crate) timers: BTreeMap<Timer, Instant>,
    closed: bool,
}

impl Conference {
    /// An empty room that waits for its first occupant. `seed` must be unpredictable: session ids come from it. Pushes the request to open
    /// a conference on the bridge.
    pub fn new(
        now: Instant,
        created: SystemTime,
        room: BareJid,
        settings: Arc<Settings>,
        seed: [u8; 32],
        out: &mut Vec<Output>,
    ) -> Self {
        let mut conference = Self {
            settings,
            room,
            random: ChaCha20Rng::from_seed(seed),
            meeting_id: String::new(),
            created_ms: created.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis()),
            occupants: BTreeMap::new(),
            nicks: BTreeMap::new(),
            other_names: OtherNames::default(),
            next_order: 0,
            password: None,
            subject: String::new(),
            metadata: Map::new(),
            known_features: BTreeMap::new(),
            queries: BTreeMap::new(),
            offers: BTreeMap::new(),
            allocating: BTreeMap::new(),
            sources: SourceMap::default(),
            bridge_session: String::new(),
            bridge_lost: false,
            mendings: RestartBudget::default(),
            timers: BTreeMap::new(),
            closed: false,
        };
        conference.meeting_id = conference.uuid();
        conference.bridge_session = conference.uuid();
        conference.timers.insert(Timer::Empty, now + EMPTY_TIMEOUT);
        let id = ConferenceId(conference.random.next_u64());
        out.push(Output::OpenBridge(id));
        conference
    }

    /// The room's address.
    pub fn room(&self) -> &BareJid {
        &self.room
    }

    /// How many people are in it.
    pub fn occupant_count(&self) -> usize {
        self.occupants.len()
    }

    /// Applies one input; pushes what has to happen next, in order.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        if self.closed {
            return;
        }
        match input {
            Input::Requested => {
                if self.occupants.is_empty() {
                    self.timers.insert(Timer::Empty, now + EMPTY_TIMEOUT);
                }
            }
            Input::Stanza { from, stanza, origin } => self.handle_stanza(now, &from, stanza, &origin, out),
            Input::Gone { from } => {
                if let Some(nick) = self.nick_of(&from) {
                    self.leave(now, &nick, None, out);
                }
            }
            Input::Bridge(event) => self.handle_bridge(now, event, out),
        }
    }

    /// Runs every deadline that has passed.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some(timer) = self.timers.iter().find(|(_, at)| **at <= now).map(|(timer, _)| timer.clone()) {
            self.timers.remove(&timer);
            match timer {
                Timer::Empty if self.occupants.is_empty() => self.close(out),
                Timer::Empty => {}
                Timer::Features(nick) => self.learn_features(now, &nick, Features::DEFAULT, out),
                Timer::Alone => self.end_lonely_session(out),
                Timer::Mend => self.invite_all(now, out),
            }
        }
    }

    /// When [`Conference::on_timeout`] next has work to do; `None` means never.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.values().min().copied()
    }

    fn handle_stanza(
        &mut self,
        now: Instant,
        from: &FullJid,
        mut stanza: Element,
        origin: &Arc<str>,
        out: &mut Vec<Output>,
    ) {
        stanza.set_attr("from", from.to_string());
        match route(&self.settings.domains, &stanza) {
            Route::Component(_) if stanza.name() == "iq" => {
                self.refuse(from, &stanza, Condition::ServiceUnavailable.into(), out);
            }
            Route::Component(Component::Metadata) => self.handle_metadata(from, &stanza, out),
            Route::Room(_) => {
                let nick = stanza
                    .attr("to")
                    .and_then(|to| Jid::new(to).ok())
                    .and_then(|to| to.resource().map(ToString::to_string));
                match stanza.name() {
                    "presence" => {
                        self.handle_presence(now, from, nick.as_deref(), stanza, out);
                        if let Some(occupant) = self.nicks.get(from).and_then(|nick| self.occupants.get_mut(nick)) {
                            occupant.channel_origin = Arc::clone(origin);
                        }
                    }
                    "message" => self.handle_message(from, nick.as_deref(), stanza, out),
                    "iq" => self.handle_iq(now, from, nick.as_deref(), &stanza, out),
                    _ => {}
                }
            }
            Route::Domain | Route::Focus | Route::Nowhere => {}
        }
    }

    fn handle_iq(&mut self, now: Instant, from: &FullJid, nick: Option<&str>, iq: &Element, out: &mut Vec<Output>) {
        let Some(sender) = self.nick_of(from) else {
            if wants_answer(iq) && nick.is_none() && iq.has_child("query", ns::DISCO_INFO) {
                self.answer(from, result_for(iq, Some(self.room_info())), out);
            } else {
                self.refuse(from, iq, StanzaError::new(Condition::NotAcceptable).with_text(NOT_CONNECTED), out);
            }
            return;
        };
        match nick {
            None => self.handle_room_iq(now, from, &sender, iq, out),
            Some("focus") => self.handle_focus_iq(now, from, &sender, iq, out),
            Some(nick) => self.relay_iq(from, &sender, nick, iq, out),
        }
    }

    fn handle_room_iq(
        &mut self,
        now: Instant,
        from: &FullJid,
        sender: &EndpointId,
        iq: &Element,
        out: &mut Vec<Output>,
    ) {
        if !wants_answer(iq) {
            return;
        }
        let set = iq.attr("type") == Some("set");
        let Some(payload) = iq.children().next() else {
            return self.refuse(from, iq, Condition::BadRequest.into(), out);
        };
        if payload.is("query", ns::DISCO_INFO) && !set {
            self.answer(from, result_for(iq, Some(self.room_info())), out);
        } else if payload.is("query", ns::MUC_OWNER) {
            self.handle_owner_form(from, sender, iq, payload, set, out);
        } else if payload.is("query", ns::MUC_ADMIN) && set {
            self.handle_admin(now, from, sender, iq, payload, out);
        } else if payload.is("ping", ns::PING) {
            self.answer(from, result_for(iq, None), out);
        } else {
            self.refuse(from, iq, Condition::ServiceUnavailable.into(), out);
        }
    }

    /// IQs between occupants go through untouched but for their addresses; the id stays, so an answer finds its way by itself.
    fn relay_iq(&mut self, from: &FullJid, sender: &EndpointId, nick: &str, iq: &Element, out: &mut Vec<Output>) {
        let target = EndpointId::parse(nick)
            .ok()
            .and_then(|nick| self.occupants.get(&nick))
            .map(|occupant| occupant.jid.clone());
        match target {
            Some(target) => {
                let mut relayed = iq.clone();
                relayed.set_attr("from", self.occupant_jid(sender));
                self.send(&target, relayed, out);
            }
            None => self.refuse(from, iq, Condition::ItemNotFound.into(), out),
        }
    }

    /// Sends a stanza to a session, addressed, under the name by which it knows the room.
    pub(crate) fn send(&self, to: &FullJid, mut stanza: Element, out: &mut Vec<Output>) {
        if let Some(name) = self.other_names.of(to) {
            rename(&mut stanza, &self.room.to_string(), name);
        }
        self.answer(to, stanza, out);
    }

    /// Sends an answer: it comes from where its request went, under whichever name.
    pub(crate) fn answer(&self, to: &FullJid, stanza: Element, out: &mut Vec<Output>) {
        out.push(Output::Send { to: to.clone(), stanza: stanza.with_attr("to", to.to_string()) });
    }

    /// Sends a stanza to everybody.
    pub(crate) fn broadcast(&self, stanza: &Element, out: &mut Vec<Output>) {
        let everybody = self.occupants.values().map(|occupant| occupant.jid.clone()).collect();
        self.broadcast_to(everybody, &Arc::new(stanza.write_broadcast()), || stanza.clone(), out);
    }

    /// Sends a stanza that is written already to some; `again` makes it anew for those who know the room under another name.
    pub(crate) fn broadcast_to(
        &self,
        sessions: Vec<FullJid>,
        written: &Arc<Broadcast>,
        again: impl Fn() -> Element,
        out: &mut Vec<Output>,
    ) {
        for (name, to) in self.other_names.grouped(sessions).into_iter().filter(|(_, to)| !to.is_empty()) {
            let stanza = name.map_or_else(
                || Arc::clone(written),
                |name| {
                    let mut renamed = again();
                    rename(&mut renamed, &self.room.to_string(), name);
                    Arc::new(renamed.write_broadcast())
                },
            );
            out.push(Output::Broadcast { to, stanza });
        }
    }

    /// Answers with an error, if the stanza wants an answer at all.
    pub(crate) fn refuse(&self, to: &FullJid, stanza: &Element, error: StanzaError, out: &mut Vec<Output>) {
        let wanted = match stanza.name() {
            "iq" => wants_answer(stanza),
            _ => stanza.attr("type") != Some("error"),
        };
        if wanted {
            self.answer(to, error_for(stanza, &error), out);
        }
    }

    /// Who a session is in this room.
    pub(crate) fn nick_of(&self, jid: &FullJid) -> Option<EndpointId> {
        self.nicks.get(jid).cloned()
    }

    /// `room/nick`.
    pub(crate) fn occupant_jid(&self, nick: &EndpointId) -> String {
        format!("{}/{nick}", self.room)
    }

    /// `room/focus`.
    pub(crate) fn focus_nick(&self) -> String {
        format!("{}/focus", self.room)
    }

    /// A random version 4 UUID.
    pub(crate) fn uuid(&mut self) -> String {
        let (a, b) = (self.random.next_u64(), self.random.next_u64());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            0x8000 | (b >> 48) & 0x3fff,
            b & 0xffff_ffff_ffff
        )
    }

    /// A random id of 16 hexadecimal digits.
    pub(crate) fn fresh_id(&mut self) -> String {
        format!("{:016x}", self.random.next_u64())
    }

    /// The new owner when there is none: the one who has been here longest.
    pub(crate) fn elect_owner(&mut self, out: &mut Vec<Output>) {
        if self.occupants.values().any(Occupant::is_moderator) {
            return;
        }
        let Some(next) = self.occupants.values_mut().min_by_key(|occupant| occupant.order) else { return };
        next.affiliation = Affiliation::Owner;
        let nick = next.nick.clone();
        self.announce(&nick, out);
    }

    /// Ends the room.
    pub(crate) fn close(&mut self, out: &mut Vec<Output>) {
        self.closed = true;
        self.timers.clear();
        self.queries.clear();
        self.offers.clear();
        out.push(Output::Bridge(BridgeRequest::ExpireConference));
        out.push(Output::Closed);
    }

    fn room_info(&self) -> Element {
        let feature = |var: &str| Element::new("feature", ns::DISCO_INFO).with_attr("var", var);
        let field = |var: &str, value: &str| {
            Element::new("field", ns::DATA_FORMS)
                .with_attr("var", var)
                .with_child(Element::new("value", ns::DATA_FORMS).with_text(value))
        };
        let locked = if self.password.is_some() { "muc_passwordprotected" } else { "muc_unsecured" };
        let features = [
            ns::MUC,
            ns::DISCO_INFO,
            "muc_nonanonymous",
            "muc_hidden",
            "muc_temporary",
            "muc_open",
            locked,
            "muc_unmoderated",
        ];
        let form = Element::new("x", ns::DATA_FORMS)
            .with_attr("type", "result")
            .with_child(field("FORM_TYPE", ns::MUC_ROOM_INFO).with_attr("type", "hidden"))
            .with_child(field("muc#roominfo_meetingId", &self.meeting_id))
            .with_child(field("muc#roominfo_created_timestamp", &self.created_ms.to_string()))
            .with_child(field("muc#roominfo_occupants", &self.occupants.len().to_string()));
        Element::new("query", ns::DISCO_INFO)
            .with_child(
                Element::new("identity", ns::DISCO_INFO).with_attr("category", "conference").with_attr("type", "text"),
            )
            .with_children(features.into_iter().map(feature))
            .with_child(form)
    }
}

/// What Prosody says to those who are not in the room; clients look for it.
pub(crate) const NOT_CONNECTED: &str = "You are not currently connected to this chat";
