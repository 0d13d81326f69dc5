//! The public and the private web: which path leads where.

mod bosh;
mod colibri;
mod conference_request;
mod config_js;
mod cors;
mod page;
mod private;
mod xmpp_websocket;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, Uri, header};
use axum::routing::{any, get};
use tokio::sync::Semaphore;

use crate::hub::Hub;
use crate::settings::Tls;

pub(crate) use bosh::Boshes;
pub(crate) use private::private_router;

/// Signalling, the bridge channel, and one of each that is being replaced.
const SOCKETS_PER_SESSION: usize = 4;
/// How long the body of a request may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) hub: Arc<Hub>,
    pub(crate) boshes: Arc<Boshes>,
    /// Open WebSockets: after the upgrade they no longer count as connections.
    pub(crate) sockets: Arc<Semaphore>,
}

/// Everything that people and their clients reach.
pub(crate) fn public_router(hub: Arc<Hub>) -> Router {
    let sockets = hub.settings.limits.sessions.saturating_mul(SOCKETS_PER_SESSION).min(Semaphore::MAX_PERMITS);
    let web = Web { hub, boshes: Arc::new(Boshes::default()), sockets: Arc::new(Semaphore::new(sockets)) };
    Router::new()
        .route("/xmpp-websocket", any(xmpp_websocket::handle))
        .route("/{tenant}/xmpp-websocket", any(xmpp_websocket::handle))
        .route("/http-bind", any(bosh::handle))
        .route("/{tenant}/http-bind", any(bosh::handle))
        .route("/conference-request/v1", any(conference_request::handle))
        .route("/{tenant}/conference-request/v1", any(conference_request::handle))
        .route("/colibri-ws/{bridge}/{conference}/{endpoint}", any(colibri::handle))
        .route("/config.js", get(config_js::config))
        .route("/{tenant}/config.js", get(config_js::config))
        .route("/interface_config.js", get(config_js::interface_config))
        .route("/{tenant}/interface_config.js", get(config_js::interface_config))
        .route("/about/health", get(private::health))
        .fallback(get(page::handle))
        .with_state(web)
}

/// The server as this browser sees it.
pub(crate) struct Origin {
    pub(crate) secure: bool,
    pub(crate) authority: String,
}

impl Origin {
    /// From the configured name, or from the request: its Host and whether we speak TLS.
    pub(crate) fn of(web: &Web, headers: &HeaderMap, uri: &Uri) -> Self {
        let settings = &web.hub.settings;
        if let Some(url) = &settings.public_url {
            let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
            return Self { secure: scheme != "http", authority: rest.trim_end_matches('/').to_owned() };
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(uri.host()).unwrap_or("localhost");
        // Only what a host and port are made of: it goes into URLs that others read.
        let clean = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
        let authority = if clean { host.to_owned() } else { "localhost".to_owned() };
        Self { secure: settings.tls != Tls::Off, authority }
    }

    /// `ws://…` or `wss://…`.
    pub(crate) fn websocket(&self) -> String {
        format!("{}://{}", if self.secure { "wss" } else { "ws" }, self.authority)
    }

    /// `http://…` or `https://…`.
    pub(crate) fn http(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.authority)
    }
}

/// A value of the query, percent-decoding left to the reader: what we look for needs none.
pub(crate) fn query_value<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The whole body of a request, if it comes in time and fits.
pub(crate) async fn body_of(body: axum::body::Body, max: usize) -> Option<Vec<u8>> {
    let bytes = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, max)).await.ok()?.ok()?;
    Some(bytes.to_vec())
}
