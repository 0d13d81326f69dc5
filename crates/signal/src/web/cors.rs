//! Cross-origin headers: mobile apps and embedded pages load from elsewhere. No credentials are involved, so any origin may ask.

use axum::http::{HeaderValue, Response, StatusCode, header};

/// Answers a preflight.
pub(crate) fn preflight<B: Default>(methods: &'static str, headers: &'static str) -> Response<B> {
    let mut response = allow(Response::new(B::default()));
    *response.status_mut() = StatusCode::OK;
    let out = response.headers_mut();
    out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(headers));
    out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    response
}

/// Lets any origin read the answer.
pub(crate) fn allow<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}
