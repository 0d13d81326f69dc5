//! Plain values that every room is given.

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

    /// Whether rooms live there.
    pub fn is_muc(&self, domain: &str) -> bool {
        domain == self.muc || domain == self.muc_alias
    }
}

/// What a room needs to know of its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names.
    pub domains: Domains,
    /// Most people in a room.
    pub occupants_max: usize,
    /// Tells which software this is.
    pub version: String,
}
