//! What the operator's tools ask: is it alive, is it ready, what is it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::Web;
use crate::hub::Hub;
use crate::readiness;

/// The private listener's paths.
pub(crate) fn private_router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/about/health", get(|| async { "" }))
        .route("/about/version", get(version))
        .route("/about/load", get(load))
        .with_state(hub)
}

/// Public health, as balancers of Jitsi installations ask for it.
pub(crate) async fn health(State(_web): State<Web>) -> &'static str {
    ""
}

/// For balancers and init systems. The listeners are open before this one answers.
async fn ready(State(hub): State<Arc<Hub>>) -> (StatusCode, &'static str) {
    match readiness::check(&hub).await {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why.as_str()),
    }
}

async fn version(State(hub): State<Arc<Hub>>) -> Response {
    json_response(&json!({ "name": "Tertulia", "version": hub.settings.conference.version, "os": "Linux" }))
}

/// How much is held at the moment.
async fn load(State(hub): State<Arc<Hub>>) -> Response {
    let load = hub.bridge.load();
    json_response(&json!({
        "sessions": hub.session_count(),
        "rooms": hub.rooms.count(),
        "conferences": load.conferences,
        "endpoints": load.endpoints,
    }))
}

fn json_response(value: &Value) -> Response {
    let mut response = value.to_string().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
