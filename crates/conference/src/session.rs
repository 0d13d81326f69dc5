//! The life of one occupant's media session, as its focus sees it.

use tertulia_model::SourceSet;
use tertulia_xmpp::sources::Owner;

/// What the session awaits.
#[derive(Debug, Default)]
pub(crate) enum Session {
    /// An invitation: there are too few people, or its features are not known yet.
    #[default]
    Uninvited,
    /// The bridge's answer.
    Allocating,
    /// The client's answer to the offer.
    Offered {
        sid: String,
        /// What the offer said of others; the difference is told after the answer.
        told: Vec<(Owner, SourceSet)>,
    },
    /// Nothing: media flows.
    Active { sid: String },
    /// Nothing: it asked for restarts too often, or its offer failed; a new join starts anew.
    Ended { sid: String },
}

impl Session {
    /// The current session id.
    pub(crate) fn sid(&self) -> Option<&str> {
        match self {
            Self::Offered { sid, .. } | Self::Active { sid } | Self::Ended { sid } => Some(sid),
            Self::Uninvited | Self::Allocating => None,
        }
    }

    /// Whether the bridge holds an endpoint for it.
    pub(crate) fn is_on_bridge(&self) -> bool {
        match self {
            Self::Allocating | Self::Offered { .. } | Self::Active { .. } => true,
            Self::Uninvited | Self::Ended { .. } => false,
        }
    }
}
