//! What a client can do, as it says in service discovery (XEP-0030, XEP-0115).

use tertulia_model::Capabilities;
use tertulia_xmpp::{Element, ns};

/// What the focus makes of a client's features. Read once, at the first invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) capabilities: Capabilities,
    pub(crate) json_sources: bool,
}

impl Features {
    /// For clients that do not answer.
    pub(crate) const DEFAULT: Self = Self {
        capabilities: Capabilities {
            rtx: false,
            transport_cc: false,
            source_names: false,
            data_channel: false,
            ..Capabilities::USUAL
        },
        json_sources: false,
    };

    /// Reads a disco#info answer. `opus_red`: whether redundant sound is offered to those who take it.
    pub(crate) fn read(query: &Element, opus_red: bool) -> Self {
        let has = |var: &str| {
            query.children().any(|child| child.is("feature", ns::DISCO_INFO) && child.attr("var") == Some(var))
        };
        Self {
            capabilities: Capabilities {
                audio: has("urn:xmpp:jingle:apps:rtp:audio"),
                video: has("urn:xmpp:jingle:apps:rtp:video"),
                rtx: has("urn:ietf:rfc:4588"),
                transport_cc: has("http://jitsi.org/tcc"),
                remb: has("http://jitsi.org/remb") && !has("http://jitsi.org/tcc"),
                source_names: has("http://jitsi.org/source-name"),
                ssrc_rewriting: has("http://jitsi.org/ssrc-rewriting-1"),
                data_channel: has("urn:xmpp:jingle:transports:dtls-sctp:1"),
                opus_red: opus_red && has("http://jitsi.org/opus-red"),
            },
            json_sources: has("http://jitsi.org/json-encoded-sources"),
        }
    }
}

/// `node#ver` of the caps in a presence: names the answer that the client would give.
pub(crate) fn caps_node(presence: &Element) -> Option<String> {
    let caps = presence.child("c", ns::CAPS)?;
    Some(format!("{}#{}", caps.attr("node")?, caps.attr("ver")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_transport_wide_feedback_needs_no_other_estimate() {
        for (vars, transport_cc, remb) in [
            (&["http://jitsi.org/tcc", "http://jitsi.org/remb"][..], true, false),
            (&["http://jitsi.org/remb"], false, true),
            (&["http://jitsi.org/tcc"], true, false),
            (&[], false, false),
        ] {
            let feature = |var: &&str| Element::new("feature", ns::DISCO_INFO).with_attr("var", *var);
            let query = Element::new("query", ns::DISCO_INFO).with_children(vars.iter().map(feature));
            let Features { capabilities, .. } = Features::read(&query, false);
            assert_eq!((capabilities.transport_cc, capabilities.remb), (transport_cc, remb), "{vars:?}");
        }
    }
}
