//! `config.js`: what Jitsi's clients and our page must know. Values are written as JSON, so nothing in them can become code.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

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
    // Tenants share rooms for now; their clients connect under their path and find the same names.
    let prefix =
        tenant.map(|Path(tenant)| tenant).filter(|tenant| is_tenant(tenant)).map_or(String::new(), |t| format!("/{t}"));
    let config = json!({
        "hosts": { "domain": domains.main, "muc": domains.muc },
        "websocket": format!("{}{prefix}/xmpp-websocket", origin.websocket()),
        "bosh": format!("{}{prefix}/http-bind", origin.http()),
        "focusUserJid": domains.focus_user(),
        "bridgeChannel": { "preferSctp": false },
        "openBridgeChannel": "websocket",
        "p2p": { "enabled": false, "stunServers": [] },
        "flags": {
            "sourceNameSignaling": true,
            "sendMultipleVideoStreams": true,
            "receiveMultipleVideoStreams": true,
        },
        "enableNoisyMicDetection": true,
        "disableThirdPartyRequests": true,
        "analytics": {},
        "prejoinConfig": { "enabled": true },
    });
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

fn is_tenant(text: &str) -> bool {
    text.len() <= 63
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
