//! Plain values that every room is given.

use crate::tenant::Tenant;

/// Names of the XMPP domain and its parts, after docker-jitsi-meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domains {
    /// Users and their streams.
    pub main: String,
    /// Rooms.
    pub muc: String,
    /// Another name for rooms, for apps without a `config.js` and for gst-meet.
    pub muc_alias: String,
    /// The focus as a component.
    pub focus: String,
    /// Accounts of services; the focus lives there.
    pub auth: String,
    /// Room metadata.
    pub metadata: String,
}

impl Domains {
    /// The usual names below a domain.
    pub fn of(main: &str) -> Self {
        let sub = |name: &str| format!("{name}.{main}");
        Self {
            main: main.to_owned(),
            muc: sub("muc"),
            muc_alias: sub("conference"),
            focus: sub("focus"),
            auth: sub("auth"),
            metadata: sub("metadata"),
        }
    }

    /// Bare JID of the focus: what clients trust.
    pub fn focus_user(&self) -> String {
        format!("focus@{}", self.auth)
    }

    /// Full JID of the focus.
    pub fn focus_jid(&self) -> String {
        format!("focus@{}/focus", self.auth)
    }

    /// Where the rooms of a tenant are for its clients: `muc.<tenant>.<domain>`.
    pub fn muc_of(&self, tenant: &Tenant) -> String {
        format!("{}.{tenant}.{}", self.label(&self.muc), self.main)
    }

    /// Whose rooms live at a domain, under whichever name; `None` when none do.
    pub(crate) fn rooms_at(&self, domain: &str) -> Option<RoomsOf> {
        for name in [&self.muc, &self.muc_alias] {
            if domain == name {
                return Some(RoomsOf::Everybody);
            }
            let below = domain.strip_suffix(self.main.as_str()).and_then(|rest| rest.strip_suffix('.'));
            let tenant = below.and_then(|rest| rest.strip_prefix(self.label(name))?.strip_prefix('.'));
            if let Some(tenant) = tenant.filter(|label| !label.contains('.')).and_then(Tenant::parse) {
                return Some(RoomsOf::Tenant(tenant));
            }
        }
        None
    }

    /// A name below the main domain without it.
    fn label<'a>(&self, name: &'a str) -> &'a str {
        name.strip_suffix(self.main.as_str()).and_then(|label| label.strip_suffix('.')).unwrap_or(name)
    }
}

/// Whose rooms a domain holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RoomsOf {
    Everybody,
    Tenant(Tenant),
}

/// What a room needs to know of its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names.
    pub domains: Domains,
    /// Most people in a room.
    pub occupants_max: usize,
    /// Whether redundant sound (RFC 2198) is offered to those who take it.
    pub opus_red: bool,
    /// Tells which software this is.
    pub version: String,
}
