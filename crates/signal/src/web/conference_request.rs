//! The conference request over HTTP: for clients that ask before they connect.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tertulia_conference::request;

use super::{Web, body_of, cors};
use crate::rooms::NoRoom;

/// Longest body in bytes: a JWT and some properties.
const BODY_MAX: usize = 64 * 1024;

pub(crate) async fn handle(State(web): State<Web>, asked: Request) -> Response {
    let method = asked.method().clone();
    if method == Method::OPTIONS {
        return cors::preflight("POST, OPTIONS", "Content-Type, Authorization");
    }
    if method != Method::POST {
        return cors::allow((StatusCode::METHOD_NOT_ALLOWED, "ask with POST").into_response());
    }
    let Some(body) = body_of(asked.into_body(), BODY_MAX).await else {
        return cors::allow((StatusCode::PAYLOAD_TOO_LARGE, "the request is too long").into_response());
    };
    let domains = &web.hub.settings.conference.domains;
    let body = String::from_utf8_lossy(&body);
    let answer = match request::parse_json(domains, &body) {
        Ok(request) => match web.hub.rooms.open(&request.room).await {
            Ok(()) => request.ready_json(domains),
            Err(NoRoom::Full) => request.not_ready_json(domains),
            Err(NoRoom::Closing) => {
                return cors::allow((StatusCode::SERVICE_UNAVAILABLE, request::CLOSING).into_response());
            }
        },
        Err(why) => return cors::allow((StatusCode::BAD_REQUEST, format!("Bad request: {why}")).into_response()),
    };
    let mut response = cors::allow(answer.into_response());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
