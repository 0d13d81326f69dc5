//! `config.js`: what Jitsi's clients and our page must know. Values are written as JSON, so nothing in them can become code.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tertulia_conference::tenant::Tenant;

use super::{Origin, Web, cors};

/// `config = {…};`
pub(crate) async fn config(
    State(web): State<Web>,
    tenant: Option<Path<String>>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let origin = Origin::of(&web, &headers, &uri);
    let domains = &web.hub.settings.conference.domains;
    // A tenant's clients connect under its path and find its rooms below its own domain.
    let (prefix, muc) = match tenant {
        None => (String::new(), domains.muc.clone()),
        Some(Path(name)) => match Tenant::parse(&name) {
            Some(tenant) => (format!("/{name}"), domains.muc_of(&tenant)),
            None => return (StatusCode::NOT_FOUND, "There is no such tenant.").into_response(),
        },
    };
    let mut flags = json!({
        "sourceNameSignaling": true,
        "sendMultipleVideoStreams": true,
        "receiveMultipleVideoStreams": true,
    });
    if web.hub.settings.ssrc_rewriting {
        flags["ssrcRewritingEnabled"] = true.into();
    }
    let mut config = json!({
        "hosts": { "domain": domains.main, "muc": muc },
        "websocket": format!("{}{prefix}/xmpp-websocket", origin.websocket()),
        "bosh": format!("{}{prefix}/http-bind", origin.http()),
        "focusUserJid": domains.focus_user(),
        "bridgeChannel": { "preferSctp": false },
        "openBridgeChannel": "websocket",
        "p2p": { "enabled": false, "stunServers": [] },
        "flags": flags,
        "enableNoisyMicDetection": true,
        "disableThirdPartyRequests": true,
        "analytics": {},
        "prejoinConfig": { "enabled": true },
    });
    if web.hub.settings.conference.opus_red {
        config["enableOpusRed"] = true.into();
    }
    script(&format!("var config = {config};\n"))
}

/// Older clients load this too; nothing of it is set.
pub(crate) async fn interface_config() -> Response {
    script("var interfaceConfig = {};\n")
}

fn script(text: &str) -> Response {
    let mut response = cors::allow(text.to_owned().into_response());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/javascript; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
