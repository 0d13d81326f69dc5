//! The focus: who is invited when, what the bridge is asked, and what becomes of sessions.

use std::time::{Duration, Instant};

use rand_core::Rng;
use tertulia_model::{
    BridgeEvent, BridgeRequest, ConferenceId, EndpointId, ExpireReason, FeedbackSsrcs, LocalTransport, SourceSet,
};
use tertulia_xmpp::jingle::{self, offer};
use tertulia_xmpp::sources::{Owner, strip_simulcast};
use tertulia_xmpp::stanza::{Condition, wants_answer};
use tertulia_xmpp::{Element, FullJid, ns};

use crate::conference::{Conference, Output, Timer};
use crate::features::{Features, caps_node};
use crate::mute;
use crate::session::Session;

/// How long a client may take to say what it can do.
const FEATURES_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause before everybody is invited again after the bridge lost the conference more than once.
const MEND_PAUSE: Duration = Duration::from_secs(5);
/// People needed before anybody is invited.
const PARTICIPANTS_MIN: usize = 2;

impl Conference {
    /// The focus's own presence.
    pub(crate) fn focus_presence(&self) -> Element {
        let property = |key: &str, value: &str| {
            Element::new("property", ns::FOCUS).with_attr("key", key).with_attr("value", value)
        };
        let item = Element::new("item", ns::MUC_USER)
            .with_attr("affiliation", "owner")
            .with_attr("role", "moderator")
            .with_attr("jid", self.settings.domains.focus_jid());
        let component =
            Element::new("component", ns::JITMEET).with_attr("name", "focus").with_text(&self.settings.version);
        let mut presence = Element::new("presence", ns::CLIENT)
            .with_attr("from", self.focus_nick())
            .with_child(Element::new("versions", ns::JITMEET).with_child(component))
            // Clients of 2022 give up on ICE failures without this one.
            .with_child(
                Element::new("conference-properties", ns::FOCUS)
                    .with_child(property("support-terminate-restart", "true")),
            );
        if self.bridge_lost {
            presence.push(Element::new("bridgeNotAvailable", ns::FOCUS));
        }
        presence.with_child(Element::new("x", ns::MUC_USER).with_child(item))
    }

    /// An IQ to `room/focus`.
    pub(crate) fn handle_focus_iq(
        &mut self,
        now: Instant,
        from: &FullJid,
        sender: &EndpointId,
        iq: &Element,
        out: &mut Vec<Output>,
    ) {
        if !wants_answer(iq) {
            return self.handle_answer(now, sender, iq, out);
        }
        match iq.children().next() {
            Some(payload) if payload.is("jingle", ns::JINGLE) && iq.attr("type") == Some("set") => {
                self.handle_jingle(now, from, sender, iq, payload, out);
            }
            Some(payload) if payload.name() == "mute" && mute::KINDS.contains(&payload.ns()) => {
                self.handle_mute(from, sender, iq, payload, out);
            }
            Some(payload) if payload.is("query", ns::DISCO_INFO) => {
                let identity = Element::new("identity", ns::DISCO_INFO)
                    .with_attr("category", "component")
                    .with_attr("type", "generic");
                let info = Element::new("query", ns::DISCO_INFO).with_child(identity);
                self.answer(from, tertulia_xmpp::stanza::result_for(iq, Some(info)), out);
            }
            _ => self.refuse(from, iq, Condition::FeatureNotImplemented.into(), out),
        }
    }

    /// Asks a newcomer's client what it can do, unless another one with the same software has told.
    pub(crate) fn ask_features(&mut self, now: Instant, nick: &EndpointId, out: &mut Vec<Output>) {
        let Some(occupant) = self.occupants.get(nick) else { return };
        let (jid, node) = (occupant.jid.clone(), caps_node(&occupant.presence));
        if let Some(known) = node.as_ref().and_then(|node| self.known_features.get(node)).copied() {
            return self.learn_features(now, nick, known, out);
        }
        let id = self.fresh_id();
        let query = Element::new("query", ns::DISCO_INFO).with_attr_opt("node", node);
        let iq = Element::new("iq", ns::CLIENT)
            .with_attr("type", "get")
            .with_attr("id", &id)
            .with_attr("from", self.focus_nick())
            .with_child(query);
        self.queries.insert(id, nick.clone());
        self.timers.insert(Timer::Features(nick.clone()), now + FEATURES_TIMEOUT);
        self.send(&jid, iq, out);
    }

    /// What a client can do is known: it may be invited.
    pub(crate) fn learn_features(
        &mut self,
        now: Instant,
        nick: &EndpointId,
        features: Features,
        out: &mut Vec<Output>,
    ) {
        self.timers.remove(&Timer::Features(nick.clone()));
        self.queries.retain(|_, asked| asked != nick);
        if let Some(occupant) = self.occupants.get_mut(nick) {
            occupant.features.get_or_insert(features);
        }
        self.invite_all(now, out);
    }

    /// Invites everybody who is ready and not invited, when there are enough people.
    pub(crate) fn invite_all(&mut self, _now: Instant, out: &mut Vec<Output>) {
        if self.occupants.len() < PARTICIPANTS_MIN {
            return;
        }
        self.timers.remove(&Timer::Alone);
        for (nick, occupant) in &mut self.occupants {
            if let (Some(features), Session::Uninvited) = (occupant.features, &occupant.session) {
                occupant.session = Session::Allocating;
                *self.allocating.entry(nick.clone()).or_default() += 1;
                let capabilities = features.capabilities;
                out.push(Output::Bridge(BridgeRequest::Allocate { endpoint: nick.clone(), capabilities }));
            }
        }
    }

    pub(crate) fn handle_bridge(&mut self, now: Instant, event: BridgeEvent, out: &mut Vec<Output>) {
        match event {
            BridgeEvent::Allocated { endpoint, transport, feedback } => {
                if self.is_last_allocation(&endpoint) {
                    self.offer(&endpoint, &transport, feedback, out);
                }
            }
            BridgeEvent::Refused { endpoint, .. } => {
                if !self.is_last_allocation(&endpoint) {
                    return;
                }
                if let Some(occupant) = self.occupants.get_mut(&endpoint) {
                    occupant.retire_session(Session::Uninvited);
                }
                self.bridge_unavailable(out);
            }
            BridgeEvent::Restarted { endpoint, transport, generation } => {
                self.send_ice_restart(&endpoint, &transport, generation, out);
            }
            // An expiry that crossed a new allocation is of the endpoint before it.
            BridgeEvent::Expired { endpoint, .. } if self.allocating.contains_key(&endpoint) => {}
            BridgeEvent::Expired { endpoint, reason } => self.bridge_expired(now, &endpoint, reason, out),
            BridgeEvent::Lost => self.bridge_lost(now, out),
            // Told by the bridge's own channel.
            BridgeEvent::Connected { .. } | BridgeEvent::Activity { .. } | BridgeEvent::DominantSpeaker { .. } => {}
        }
    }

    /// Counts one answer to an allocation; `true` when none is under way any more.
    fn is_last_allocation(&mut self, endpoint: &EndpointId) -> bool {
        let Some(count) = self.allocating.get_mut(endpoint) else { return true };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.allocating.remove(endpoint);
        }
        last
    }

    /// Sends the offer for an allocated endpoint.
    fn offer(&mut self, nick: &EndpointId, transport: &LocalTransport, feedback: FeedbackSsrcs, out: &mut Vec<Output>) {
        let told = self.told_in_offer(nick);
        let (sid, id) = (self.fresh_id(), self.fresh_id());
        let start_muted = self.start_muted();
        let Some(occupant) = self.occupants.get_mut(nick).filter(|o| matches!(o.session, Session::Allocating)) else {
            return;
        };
        let Some(features) = occupant.features else { return };
        let mut sources = vec![offer::bridge_sources(feedback)];
        sources.extend(told.iter().cloned());
        let jingle = offer::Offer {
            sid: &sid,
            initiator: &self.settings.domains.focus_jid(),
            bridge_session: &self.bridge_session,
            transport,
            channel_url: &format!("{}{}", occupant.channel_origin, transport.channel.path_and_query()),
            capabilities: features.capabilities,
            json_sources: features.json_sources,
            opus_red: self.settings.opus_red,
            sources: &sources,
            start_muted,
        }
        .to_element();
        let jid = occupant.jid.clone();
        occupant.session = Session::Offered { sid: sid.clone(), told };
        self.offers.insert(id.clone(), (nick.clone(), sid));
        self.bridge_lost = false;
        let iq = self.focus_iq(&id, jingle);
        self.send(&jid, iq, out);
    }

    /// What an offer says of others: all that they send. A client that wants rewritten SSRCs learns of them on its channel instead, from
    /// the bridge, and by Jingle never.
    fn told_in_offer(&self, nick: &EndpointId) -> Vec<(Owner, SourceSet)> {
        let features = self.occupants.get(nick).and_then(|occupant| occupant.features);
        if features.is_some_and(|features| features.capabilities.ssrc_rewriting) {
            return Vec::new();
        }
        stripped(self.sources.others(nick))
    }

    fn send_ice_restart(
        &mut self,
        nick: &EndpointId,
        transport: &LocalTransport,
        generation: u32,
        out: &mut Vec<Output>,
    ) {
        let id = self.fresh_id();
        let Some(occupant) = self.occupants.get(nick) else { return };
        let Session::Active { sid } = &occupant.session else { return };
        let iq = self.focus_iq(&id, offer::ice_restart(sid, transport, generation));
        self.send(&occupant.jid, iq, out);
    }

    /// Answers of clients: to discovery queries and to offers. All others need no reaction.
    fn handle_answer(&mut self, now: Instant, sender: &EndpointId, iq: &Element, out: &mut Vec<Output>) {
        let id = iq.attr("id").unwrap_or("");
        let result = iq.attr("type") == Some("result");
        if self.queries.get(id) == Some(sender) {
            self.queries.remove(id);
            let features = iq
                .child("query", ns::DISCO_INFO)
                .filter(|_| result)
                .map_or(Features::DEFAULT, |query| Features::read(query, self.settings.opus_red));
            if let Some(node) =
                self.occupants.get(sender).and_then(|occupant| caps_node(&occupant.presence)).filter(|_| result)
            {
                self.known_features.insert(node, features);
            }
            self.learn_features(now, sender, features, out);
        } else if self.offers.get(id).is_some_and(|(nick, _)| nick == sender)
            && let Some((_, sid)) = self.offers.remove(id)
            && !result
        {
            self.offer_failed(sender, &sid, out);
        }
    }

    /// A client refused the offer: no retry, or it would go on for ever.
    fn offer_failed(&mut self, nick: &EndpointId, sid: &str, out: &mut Vec<Output>) {
        let current = self.occupants.get(nick).is_some_and(|occupant| occupant.session.sid() == Some(sid));
        if current {
            self.end_session(
                nick,
                Some(("general-error", "jingle session failed")),
                Session::Ended { sid: sid.to_owned() },
                out,
            );
        }
    }

    /// Ends a session on both sides: sources are taken from the others, the bridge forgets the endpoint, and the client is told why.
    pub(crate) fn end_session(
        &mut self,
        nick: &EndpointId,
        told: Option<(&str, &str)>,
        next: Session,
        out: &mut Vec<Output>,
    ) {
        let removed = self.sources.remove_owner(nick);
        self.offers.retain(|_, (whose, _)| whose != nick);
        let id = self.fresh_id();
        let Some(occupant) = self.occupants.get_mut(nick) else { return };
        let jid = occupant.jid.clone();
        let sid = occupant.session.sid().map(str::to_owned);
        let on_bridge = occupant.session.is_on_bridge();
        occupant.retire_session(next);
        if let Some(((reason, text), sid)) = told.zip(sid) {
            let iq = self.focus_iq(&id, jingle::terminate(&sid, reason, text));
            self.send(&jid, iq, out);
        }
        if on_bridge {
            out.push(Output::Bridge(BridgeRequest::Expire { endpoint: nick.clone() }));
        }
        self.tell_sources(nick, false, &removed, out);
    }

    /// Forgets what belongs to the session of somebody who has left. Others drop the sources by themselves.
    pub(crate) fn forget_session(&mut self, nick: &EndpointId) {
        self.sources.remove_owner(nick);
        self.timers.remove(&Timer::Features(nick.clone()));
        self.queries.retain(|_, asked| asked != nick);
        self.offers.retain(|_, (whose, _)| whose != nick);
    }

    /// Ends a session and invites again, if that has not happened too often.
    pub(crate) fn reinvite(&mut self, now: Instant, nick: &EndpointId, out: &mut Vec<Output>) {
        let Some(occupant) = self.occupants.get_mut(nick) else { return };
        let sid = occupant.session.sid().unwrap_or_default().to_owned();
        let next = if occupant.restarts.take(now) { Session::Uninvited } else { Session::Ended { sid } };
        self.end_session(nick, Some(("success", "moving")), next, out);
        self.invite_all(now, out);
    }

    /// Tells everybody with an active session of sources that came or went.
    pub(crate) fn tell_sources(&mut self, owner: &EndpointId, add: bool, sources: &SourceSet, out: &mut Vec<Output>) {
        let set = strip_simulcast(sources);
        if set.sources.is_empty() {
            return;
        }
        let change = vec![(Owner::Endpoint(owner.clone()), set)];
        let receivers: Vec<EndpointId> = self.occupants.keys().filter(|nick| *nick != owner).cloned().collect();
        // Clients that can do the same are told the same: it is worded once for each kind of client.
        let mut worded: Vec<(Features, Option<Element>)> = Vec::new();
        for receiver in receivers {
            let Some(features) = self.tellable(&receiver) else { continue };
            let known = worded.iter().position(|(kind, _)| *kind == features).unwrap_or_else(|| {
                worded.push((features, source_change(features, add, &change)));
                worded.len() - 1
            });
            if let Some(jingle) = worded[known].1.clone() {
                self.send_change(&receiver, jingle, out);
            }
        }
    }

    /// Tells one client, if its session is active.
    pub(crate) fn tell_change(
        &mut self,
        receiver: &EndpointId,
        add: bool,
        change: &[(Owner, SourceSet)],
        out: &mut Vec<Output>,
    ) {
        let jingle = self.tellable(receiver).and_then(|features| source_change(features, add, change));
        if let Some(jingle) = jingle {
            self.send_change(receiver, jingle, out);
        }
    }

    /// What a client can do, if it is to be told of sources now: its session is active, and the bridge does not tell it instead.
    fn tellable(&self, receiver: &EndpointId) -> Option<Features> {
        let occupant = self.occupants.get(receiver)?;
        let active = matches!(occupant.session, Session::Active { .. });
        occupant.features.filter(|features| active && !features.capabilities.ssrc_rewriting)
    }

    fn send_change(&mut self, receiver: &EndpointId, mut jingle: Element, out: &mut Vec<Output>) {
        let id = self.fresh_id();
        let Some(occupant) = self.occupants.get(receiver) else { return };
        jingle.set_attr("sid", occupant.session.sid().unwrap_or_default());
        self.send(&occupant.jid, self.focus_iq(&id, jingle), out);
    }

    /// Nobody else is there: the media session ends, the person stays.
    pub(crate) fn end_lonely_session(&mut self, out: &mut Vec<Output>) {
        if self.occupants.len() != 1 {
            return;
        }
        let Some(nick) = self.occupants.keys().next().cloned() else { return };
        self.end_session(&nick, Some(("expired", "Idle session timeout")), Session::Uninvited, out);
    }

    fn bridge_expired(&mut self, now: Instant, nick: &EndpointId, reason: ExpireReason, out: &mut Vec<Output>) {
        let Some(occupant) = self.occupants.get_mut(nick).filter(|occupant| occupant.session.is_on_bridge()) else {
            return;
        };
        let sid = occupant.session.sid().unwrap_or_default().to_owned();
        match reason {
            ExpireReason::Insecure => {
                self.end_session(
                    nick,
                    Some(("security-error", "the certificate is not the signalled one")),
                    Session::Ended { sid },
                    out,
                );
            }
            ExpireReason::NeverConnected | ExpireReason::Silent => self.reinvite(now, nick, out),
        }
    }

    /// The bridge lost the conference: a new one, and everybody is invited into it. At once when that is rare; a defect that something in
    /// this meeting brings about would otherwise be met again and again without a pause.
    fn bridge_lost(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.bridge_session = self.uuid();
        self.allocating.clear();
        let id = ConferenceId(self.random.next_u64());
        out.push(Output::Bridge(BridgeRequest::ExpireConference));
        out.push(Output::OpenBridge(id));
        let nicks: Vec<EndpointId> = self.occupants.keys().cloned().collect();
        for nick in nicks {
            if self.occupants.get(&nick).is_some_and(|occupant| occupant.session.is_on_bridge()) {
                self.end_session(&nick, Some(("success", "moving")), Session::Uninvited, out);
            }
        }
        if self.mendings.take(now) {
            self.invite_all(now, out);
        } else {
            self.timers.insert(Timer::Mend, now + MEND_PAUSE);
        }
    }

    fn bridge_unavailable(&mut self, out: &mut Vec<Output>) {
        let anybody = self.occupants.values().any(|occupant| occupant.session.is_on_bridge());
        // While somebody has a session the bridge is there: a full one is not worth a reload of everybody.
        if !anybody && !self.bridge_lost {
            self.bridge_lost = true;
            self.broadcast(&self.focus_presence(), out);
        }
    }

    fn focus_iq(&self, id: &str, payload: Element) -> Element {
        Element::new("iq", ns::CLIENT)
            .with_attr("type", "set")
            .with_attr("id", id)
            .with_attr("from", self.focus_nick())
            .with_child(payload)
    }
}

/// What others are told of sources.
pub(crate) fn stripped(all: Vec<(Owner, SourceSet)>) -> Vec<(Owner, SourceSet)> {
    all.into_iter().map(|(owner, set)| (owner, strip_simulcast(&set))).collect()
}

/// `source-add` or `source-remove` for a client that can do this, without a session id; `None` when nothing of it concerns the client.
fn source_change(features: Features, add: bool, change: &[(Owner, SourceSet)]) -> Option<Element> {
    let wanted = wanted_by(features, change);
    (!wanted.is_empty()).then(|| jingle::source_change(add, "", &wanted, features.json_sources))
}

/// Only the kinds that a client takes at all.
fn wanted_by(features: Features, change: &[(Owner, SourceSet)]) -> Vec<(Owner, SourceSet)> {
    use tertulia_model::MediaKind;
    let wanted = |kind: MediaKind| match kind {
        MediaKind::Audio => features.capabilities.audio,
        MediaKind::Video => features.capabilities.video,
    };
    let filter = |set: &SourceSet| SourceSet {
        sources: set.sources.iter().filter(|source| wanted(source.kind)).cloned().collect(),
        groups: set.groups.iter().filter(|group| wanted(group.kind)).cloned().collect(),
    };
    change.iter().map(|(owner, set)| (owner.clone(), filter(set))).filter(|(_, set)| !set.sources.is_empty()).collect()
}
