//! Every configuration key, declared once: field, path, type, default and documentation.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::key::Key;
use super::value::{AddressMapping, FromToml, LogFormat, OfferedChannel, SizeLimit};
use super::{ConfigError, Layers};

/// Declares the keys: makes the checked `Config` and the table `KEYS` out of one list.
macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $field:ident = $path:literal: $type:ty = $default:literal;)*) => {
        /// The checked configuration, one field a key.
        #[derive(Debug, Clone)]
        pub(crate) struct Config {
            $($(#[doc = $doc])+ pub(crate) $field: $type,)*
        }

        /// What is known of each key, in the order of the reference file.
        pub(crate) static KEYS: &[Key] = &[
            $(Key {
                path: $path,
                doc: concat!($($doc, "\n"),+),
                default: $default,
                read_text: <$type as FromToml>::read_text,
            },)*
        ];

        impl Config {
            pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
                let mut keys = KEYS.iter();
                // The table and the fields come from one list, so they run in step.
                $(let $field: $type = layers.resolve(keys.next().expect("one key per field"))?;)*
                Ok(Self { $($field),* })
            }

            /// Paths and values.
            pub(crate) fn entries(&self) -> Vec<(&'static str, toml::Value)> {
                vec![$(($path, self.$field.to_toml())),*]
            }
        }
    };
}

keys! {
    /// The name of the XMPP domain. Rooms, focus and components are `muc.`, `focus.` and so on of it.
    /// Clients learn it from config.js; it need not exist in DNS.
    server_domain = "server.domain": String = "meet.jitsi";
    /// How people reach the server, such as `https://meet.example.org`. Empty: whatever each browser used.
    server_public_url = "server.public_url": String = "";
    /// Directory for what is kept between starts (the self-signed certificate).
    server_data = "server.data": PathBuf = "data";

    /// Seconds for which meetings may go on after SIGTERM; new ones are refused. It ends at once when none is left, or at a second signal.
    server_grace = "server.grace": u16 = "5";

    /// Where the page and the signalling are served. Empty: port 443 of every address with TLS, and
    /// port 8000 of this machine only without it, because browsers allow cameras on http://localhost alone.
    http_listen = "http.listen": Vec<SocketAddr> = "";

    /// Tells Jitsi's clients to ask for rewritten SSRCs: large meetings then cost them less.
    web_ssrc_rewriting = "web.ssrc_rewriting": bool = "false";

    /// Certificate chain in PEM. Together with `tls.key` it switches HTTPS on.
    tls_certificate = "tls.certificate": PathBuf = "";
    /// Private key of the certificate in PEM.
    tls_key = "tls.key": PathBuf = "";
    /// HTTPS with a certificate made here, for a local network. Browsers warn once.
    tls_self_signed = "tls.self_signed": bool = "false";

    /// Where health and statistics are served. Keep it away from the public.
    private_listen = "private.listen": SocketAddr = "127.0.0.1:8080";

    /// First UDP port for media; worker n uses port + n.
    media_port = "media.port": u16 = "10000";
    /// Worker threads, each with a core and a port of its own. 0: one per core.
    media_workers = "media.workers": u16 = "0";
    /// Addresses to send and receive media on. Empty: every address of this machine.
    media_bind = "media.bind": Vec<IpAddr> = "";
    /// Public addresses in front of this machine (1:1 NAT): "203.0.113.7", or "203.0.113.7=10.0.0.5" when there are several.
    media_advertise = "media.advertise": Vec<AddressMapping> = "";

    /// TCP port for media of people whose network lets no UDP out; 0: none. Such networks mostly let nothing but port 443 out, so it
    /// helps most as 443 of an address that HTTPS does not use.
    media_tcp_port = "media.tcp_port": u16 = "0";
    /// How clients talk with the bridge: "websocket" works through every proxy and comes back by itself, "datachannel" needs no
    /// connection of its own, "both" lets the client choose.
    media_channel = "media.channel": OfferedChannel = "websocket";

    /// Only so many people are heard at once, the loudest; 0: everybody. In rooms of a hundred, 5 saves everybody's bandwidth.
    media_loudest = "media.loudest": u16 = "0";
    /// Offers redundant sound (RED, RFC 2198) to clients that take it: losses are heard less, at twice the bandwidth of sound.
    media_red = "media.red": bool = "false";
    /// Nobody gets more pictures at once than this; 0: as many as they ask for.
    media_last_n = "media.last_n": u32 = "0";
    /// The same for meetings of some size: "30=15" means that with 30 people or more nobody gets more than 15 pictures.
    media_last_n_by_size = "media.last_n_by_size": Vec<SizeLimit> = "";
    /// Percent of a worker's time. Above it for ten seconds everybody on that worker gets fewer pictures, a quarter less each minute,
    /// and more again when there is room. 0: never.
    media_overload = "media.overload": u16 = "95";

    /// People of one room on one worker before its next ones go to another; 0: a room never has more than one. Going
    /// over costs a copy of each packet for each worker, so rooms that one core can carry should stay there.
    media_spread_at = "media.spread_at": u16 = "100";

    /// Most rooms at once.
    limits_rooms = "limits.rooms": u32 = "5000";
    /// Most people in one room.
    limits_occupants = "limits.occupants": u32 = "500";
    /// Most connected people.
    limits_sessions = "limits.sessions": u32 = "20000";

    /// "text" for people, "json" for machines: one object a line.
    log_format = "log.format": LogFormat = "text";
    /// What is logged: a level, or `target=level` rules separated by commas.
    log_filter = "log.filter": String = "info";
}
