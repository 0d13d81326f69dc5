//! One person in the room.

use std::collections::VecDeque;
use std::sync::Arc;

use tertulia_model::EndpointId;
use tertulia_xmpp::{Broadcast, Element, FullJid};

use crate::features::Features;
use crate::rate::{ChangeBudget, RestartBudget};
use crate::session::Session;

/// Session ids that are remembered, to answer those who come late.
const PAST_SIDS_MAX: usize = 4;

/// Lasting rank in the room (XEP-0045 §5.2), as far as we have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affiliation {
    Owner,
    None,
}

impl Affiliation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::None => "none",
        }
    }

    /// The role that goes with it.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Self::Owner => "moderator",
            Self::None => "participant",
        }
    }
}

/// An occupant.
#[derive(Debug)]
pub(crate) struct Occupant {
    pub(crate) jid: FullJid,
    pub(crate) nick: EndpointId,
    /// Its last presence, cleaned of everything that only the server may say.
    pub(crate) presence: Element,
    /// What others get of it, written; `None` after a change. A newcomer gets everybody's, so that is not done anew for each.
    pub(crate) seen: Option<Arc<Broadcast>>,
    pub(crate) affiliation: Affiliation,
    /// The front of its bridge channel's URL.
    pub(crate) channel_origin: Arc<str>,
    /// Order of joining: the next owner is the one who has been here longest.
    pub(crate) order: u64,
    /// `None` until its client has told.
    pub(crate) features: Option<Features>,
    pub(crate) session: Session,
    pub(crate) past_sids: VecDeque<String>,
    pub(crate) restarts: RestartBudget,
    pub(crate) ice_restarts: RestartBudget,
    pub(crate) changes: ChangeBudget,
}

impl Occupant {
    pub(crate) fn is_moderator(&self) -> bool {
        self.affiliation == Affiliation::Owner
    }

    /// Ends the current session id, remembering it.
    pub(crate) fn retire_session(&mut self, next: Session) {
        if let Some(sid) = self.session.sid() {
            if self.past_sids.len() >= PAST_SIDS_MAX {
                self.past_sids.pop_front();
            }
            self.past_sids.push_back(sid.to_owned());
        }
        self.session = next;
    }
}
