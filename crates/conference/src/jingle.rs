//! Jingle IQs of clients to the focus: every one is answered, each refusal with its own words.

use std::collections::BTreeSet;
use std::time::Instant;

use tertulia_model::{BridgeRequest, EndpointId, SourceSet, Ssrc};
use tertulia_xmpp::jingle::{self, Action, ActionError};
use tertulia_xmpp::sources::{self, Owner, SourceError};
use tertulia_xmpp::stanza::{Condition, StanzaError, result_for};
use tertulia_xmpp::{Element, FullJid, ns};

use crate::conference::{Conference, Output};
use crate::focus::stripped;
use crate::session::Session;
use crate::source_map::SourceRefusal;

impl From<SourceRefusal> for Refusal {
    fn from(refusal: SourceRefusal) -> Self {
        Self(StanzaError::new(Condition::BadRequest).with_text(refusal.to_string()))
    }
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Self {
        Self(StanzaError::new(Condition::BadRequest).with_text(error.to_string()))
    }
}

/// Why a Jingle IQ is refused.
pub(crate) struct Refusal(StanzaError);

impl Refusal {
    fn new(condition: Condition, text: &str) -> Self {
        Self(StanzaError::new(condition).with_text(text))
    }
}

impl Conference {
    pub(crate) fn handle_jingle(
        &mut self,
        now: Instant,
        from: &FullJid,
        sender: &EndpointId,
        iq: &Element,
        jingle: &Element,
        out: &mut Vec<Output>,
    ) {
        let mut follow_up = Vec::new();
        match self.try_jingle(now, sender, jingle, &mut follow_up) {
            // The client works off its own queue once it has the result: it comes before everything that follows.
            Ok(()) => self.answer(from, result_for(iq, None), out),
            Err(Refusal(error)) => self.refuse(from, iq, error, out),
        }
        out.append(&mut follow_up);
    }

    fn try_jingle(
        &mut self,
        now: Instant,
        sender: &EndpointId,
        jingle: &Element,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let action = Action::of(jingle).map_err(|error| match error {
            ActionError::Missing => Refusal::new(Condition::BadRequest, "Missing 'action'"),
            ActionError::Unsupported => Refusal::new(Condition::FeatureNotImplemented, "Unsupported 'action'"),
        })?;
        self.check_session(sender, action, jingle)?;
        let changes = matches!(action, Action::SourceAdd | Action::SourceRemove);
        let in_time = self.occupants.get_mut(sender).is_some_and(|occupant| !changes || occupant.changes.take(now));
        if !in_time {
            return Err(Refusal::new(Condition::ResourceConstraint, "too many changes"));
        }
        match action {
            Action::SessionAccept => self.accept(sender, jingle, out),
            Action::SourceAdd => self.add_sources(sender, jingle, out),
            Action::SourceRemove => self.remove_sources(sender, jingle, out),
            Action::TransportInfo => self.transport_info(sender, jingle, out),
            Action::SessionInfo => self.session_info(now, sender, jingle, out),
            Action::SessionTerminate => self.terminate(now, sender, jingle, out),
            Action::TransportAnswer => Ok(()),
            Action::SessionInitiate => Err(Refusal::new(Condition::FeatureNotImplemented, "Unsupported 'action'")),
        }
    }

    /// The session id must be the sender's current one.
    fn check_session(&self, sender: &EndpointId, action: Action, jingle: &Element) -> Result<(), Refusal> {
        let Some(occupant) = self.occupants.get(sender) else { return Err(unknown_session()) };
        let sid = jingle.attr("sid").unwrap_or("");
        let restart = action == Action::SessionTerminate && jingle::bridge_session(jingle).restart;
        match &occupant.session {
            Session::Offered { sid: own, .. } | Session::Active { sid: own } if own == sid => Ok(()),
            Session::Ended { sid: own } if own == sid => Err(Refusal::new(Condition::Gone, "session ended")),
            // A client that asks for a restart ignores item-not-found and waits for ever: anything else makes it reload.
            _ if restart => Err(Refusal::new(Condition::BadRequest, "unknown session")),
            _ if occupant.past_sids.iter().any(|past| past == sid) => {
                Err(Refusal::new(Condition::ItemNotFound, "jingle session no longer active"))
            }
            _ => Err(unknown_session()),
        }
    }

    fn accept(&mut self, sender: &EndpointId, jingle: &Element, out: &mut Vec<Output>) -> Result<(), Refusal> {
        let offered = match self.occupants.get(sender).map(|occupant| &occupant.session) {
            Some(Session::Offered { sid, told }) => (sid.clone(), told.clone()),
            _ => return Err(Refusal::new(Condition::BadRequest, "the session has been accepted already")),
        };
        let transport =
            jingle::transport(jingle).map_err(|error| Refusal::new(Condition::BadRequest, &error.to_string()))?;
        if transport.fingerprint.is_none() {
            return Err(Refusal::new(Condition::BadRequest, "missing fingerprint"));
        }
        let added = self.sources.try_add(sender, sources::from_client(jingle, sender)?)?;
        let (sid, told) = offered;
        if let Some(occupant) = self.occupants.get_mut(sender) {
            occupant.session = Session::Active { sid };
        }
        self.offers.retain(|_, (nick, _)| nick != sender);
        let endpoint = sender.clone();
        out.push(Output::Bridge(BridgeRequest::SetTransport { endpoint: endpoint.clone(), transport }));
        out.push(Output::Bridge(BridgeRequest::SetSources {
            endpoint: endpoint.clone(),
            sources: self.sources.of(sender),
        }));
        if let Some(last_n) = jingle::initial_last_n(jingle) {
            out.push(Output::Bridge(BridgeRequest::SetInitialLastN { endpoint, last_n }));
        }
        self.tell_sources(sender, true, &added, out);
        self.tell_what_changed(sender, &told, out);
        Ok(())
    }

    /// What happened to others' sources between the offer and its answer.
    fn tell_what_changed(&mut self, receiver: &EndpointId, told: &[(Owner, SourceSet)], out: &mut Vec<Output>) {
        let rewritten =
            self.occupants.get(receiver).and_then(|o| o.features).is_some_and(|f| f.capabilities.ssrc_rewriting);
        if rewritten {
            return; // the bridge tells
        }
        let present = stripped(self.sources.others(receiver));
        let gone = difference(told, &present);
        if !gone.is_empty() {
            self.tell_change(receiver, false, &gone, out);
        }
        let come = difference(&present, told);
        if !come.is_empty() {
            self.tell_change(receiver, true, &come, out);
        }
    }

    fn add_sources(&mut self, sender: &EndpointId, jingle: &Element, out: &mut Vec<Output>) -> Result<(), Refusal> {
        self.check_active(sender)?;
        let wanted = sources::from_client(jingle, sender)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let added = self.sources.try_add(sender, wanted)?;
        let sources = self.sources.of(sender);
        out.push(Output::Bridge(BridgeRequest::SetSources { endpoint: sender.clone(), sources }));
        self.tell_sources(sender, true, &added, out);
        Ok(())
    }

    fn remove_sources(&mut self, sender: &EndpointId, jingle: &Element, out: &mut Vec<Output>) -> Result<(), Refusal> {
        self.check_active(sender)?;
        let removed = self.sources.try_remove(sender, &sources::from_client(jingle, sender)?)?;
        let sources = self.sources.of(sender);
        out.push(Output::Bridge(BridgeRequest::SetSources { endpoint: sender.clone(), sources }));
        self.tell_sources(sender, false, &removed, out);
        Ok(())
    }

    fn check_active(&self, sender: &EndpointId) -> Result<(), Refusal> {
        match self.occupants.get(sender).map(|occupant| &occupant.session) {
            Some(Session::Active { .. }) => Ok(()),
            _ => Err(Refusal::new(Condition::BadRequest, "the session has not been accepted yet")),
        }
    }

    fn transport_info(&mut self, sender: &EndpointId, jingle: &Element, out: &mut Vec<Output>) -> Result<(), Refusal> {
        let transport =
            jingle::transport(jingle).map_err(|error| Refusal::new(Condition::BadRequest, &error.to_string()))?;
        out.push(Output::Bridge(BridgeRequest::SetTransport { endpoint: sender.clone(), transport }));
        Ok(())
    }

    fn session_info(
        &mut self,
        now: Instant,
        sender: &EndpointId,
        jingle: &Element,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let about = jingle::bridge_session(jingle);
        let current = about.id.as_deref() == Some(self.bridge_session.as_str());
        if about.ice_restart {
            if !current {
                return Err(not_current(about.id.as_deref()));
            }
            let granted = self.occupants.get_mut(sender).is_some_and(|occupant| occupant.ice_restarts.take(now));
            if !granted {
                return Err(Refusal::new(Condition::ResourceConstraint, "rate-limited"));
            }
            out.push(Output::Bridge(BridgeRequest::RestartIce { endpoint: sender.clone() }));
        } else if current && jingle::says_ice_failed(jingle) {
            self.reinvite(now, sender, out);
        }
        Ok(())
    }

    fn terminate(
        &mut self,
        now: Instant,
        sender: &EndpointId,
        jingle: &Element,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let about = jingle::bridge_session(jingle);
        let sid = jingle.attr("sid").unwrap_or("").to_owned();
        if about.id.as_deref() != Some(self.bridge_session.as_str()) {
            // Nothing else is done, but the session counts as ended. Never item-not-found to a restart, see `check_session`.
            if let Some(occupant) = self.occupants.get_mut(sender) {
                occupant.retire_session(Session::Ended { sid });
            }
            self.sources.remove_owner(sender);
            out.push(Output::Bridge(BridgeRequest::Expire { endpoint: sender.clone() }));
            return Err(if about.restart {
                Refusal::new(Condition::BadRequest, "unknown bridge session")
            } else {
                not_current(about.id.as_deref())
            });
        }
        let granted =
            about.restart && self.occupants.get_mut(sender).is_some_and(|occupant| occupant.restarts.take(now));
        let next = if granted { Session::Uninvited } else { Session::Ended { sid } };
        self.end_session(sender, None, next, out);
        if about.restart && !granted {
            return Err(Refusal::new(Condition::ResourceConstraint, "rate-limited"));
        }
        self.invite_all(now, out);
        Ok(())
    }
}

fn unknown_session() -> Refusal {
    Refusal(StanzaError::new(Condition::ItemNotFound).with_extra(Element::new("unknown-session", ns::JINGLE_ERRORS)))
}

fn not_current(id: Option<&str>) -> Refusal {
    Refusal::new(Condition::ItemNotFound, &format!("{} is not a currently active session", id.unwrap_or("null")))
}

/// Sources of `all` whose SSRCs are not in `known`, by owner.
fn difference(all: &[(Owner, SourceSet)], known: &[(Owner, SourceSet)]) -> Vec<(Owner, SourceSet)> {
    let known: BTreeSet<Ssrc> = known.iter().flat_map(|(_, set)| &set.sources).map(|source| source.ssrc).collect();
    let is_known = |ssrc: Ssrc| known.contains(&ssrc);
    let only_new = |set: &SourceSet| SourceSet {
        sources: set.sources.iter().filter(|source| !is_known(source.ssrc)).cloned().collect(),
        groups: set.groups.iter().filter(|group| !group.ssrcs.iter().any(|ssrc| is_known(*ssrc))).cloned().collect(),
    };
    all.iter().map(|(owner, set)| (owner.clone(), only_new(set))).filter(|(_, set)| !set.sources.is_empty()).collect()
}
