//! Namespace names.

macro_rules! names {
    ($($name:ident = $value:literal;)*) => {$(
        #[doc = concat!("`", $value, "`")]
        pub const $name: &str = $value;
    )*};
}

names! {
    CLIENT = "jabber:client";
    STREAM = "http://etherx.jabber.org/streams";
    STREAMS = "urn:ietf:params:xml:ns:xmpp-streams";
    STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas";
    FRAMING = "urn:ietf:params:xml:ns:xmpp-framing";
    SASL = "urn:ietf:params:xml:ns:xmpp-sasl";
    BIND = "urn:ietf:params:xml:ns:xmpp-bind";
    SESSION = "urn:ietf:params:xml:ns:xmpp-session";
    SM = "urn:xmpp:sm:3";
    PING = "urn:xmpp:ping";
    VERSION = "jabber:iq:version";
    DISCO_INFO = "http://jabber.org/protocol/disco#info";
    DISCO_ITEMS = "http://jabber.org/protocol/disco#items";
    CAPS = "http://jabber.org/protocol/caps";
    EXTDISCO = "urn:xmpp:extdisco:2";
    EXTDISCO1 = "urn:xmpp:extdisco:1";
    DATA_FORMS = "jabber:x:data";
    DELAY = "urn:xmpp:delay";
    NICK = "http://jabber.org/protocol/nick";
    REPLY = "urn:xmpp:reply:0";
    MUC = "http://jabber.org/protocol/muc";
    MUC_USER = "http://jabber.org/protocol/muc#user";
    MUC_ADMIN = "http://jabber.org/protocol/muc#admin";
    MUC_OWNER = "http://jabber.org/protocol/muc#owner";
    MUC_ROOM_INFO = "http://jabber.org/protocol/muc#roominfo";
    MUC_ROOM_CONFIG = "http://jabber.org/protocol/muc#roomconfig";
    HTTPBIND = "http://jabber.org/protocol/httpbind";
    XBOSH = "urn:xmpp:xbosh";
    JINGLE = "urn:xmpp:jingle:1";
    JINGLE_ERRORS = "urn:xmpp:jingle:errors:1";
    JINGLE_RTP = "urn:xmpp:jingle:apps:rtp:1";
    RTCP_FB = "urn:xmpp:jingle:apps:rtp:rtcp-fb:0";
    HDREXT = "urn:xmpp:jingle:apps:rtp:rtp-hdrext:0";
    SSMA = "urn:xmpp:jingle:apps:rtp:ssma:0";
    GROUPING = "urn:xmpp:jingle:apps:grouping:0";
    ICE_UDP = "urn:xmpp:jingle:transports:ice-udp:1";
    DTLS = "urn:xmpp:jingle:apps:dtls:0";
    JITMEET = "http://jitsi.org/jitmeet";
    JITMEET_AUDIO = "http://jitsi.org/jitmeet/audio";
    JITMEET_VIDEO = "http://jitsi.org/jitmeet/video";
    JITMEET_DESKTOP = "http://jitsi.org/jitmeet/desktop";
    START_MUTED = "http://jitsi.org/jitmeet/start-muted";
    ETHERPAD = "http://jitsi.org/jitmeet/etherpad";
    FOCUS = "http://jitsi.org/protocol/focus";
    SCTP = "urn:xmpp:jingle:transports:dtls-sctp:1";
    COLIBRI = "http://jitsi.org/protocol/colibri";
    COLIBRI2 = "jitsi:colibri2";
    JIBRI = "http://jitsi.org/protocol/jibri";
    RAYO = "urn:xmpp:rayo:1";
}
