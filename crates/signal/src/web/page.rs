//! The page and its assets, embedded in the binary; while developing they are read from `web/dist`.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;
use tertulia_conference::room_name;

use super::{Origin, Web};

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Assets;

/// Any path that is nothing else: an asset, or a room of one segment, or of two with a tenant.
pub(crate) async fn handle(State(web): State<Web>, headers: HeaderMap, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if let Some(asset) = Assets::get(path).filter(|_| path != "index.html") {
        return file(path, asset.data.into_owned());
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if segments.len() > 2 || path.starts_with("assets/") {
        return plain(StatusCode::NOT_FOUND, "There is nothing under this address.");
    }
    if let Some(Err(error)) = segments.last().map(|room| room_name::canonical(room)) {
        return plain(StatusCode::BAD_REQUEST, &error.to_string());
    }
    let Some(page) = Assets::get("index.html") else {
        return plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "The meeting page is not built yet: run `npm run build` in `web/`.",
        );
    };
    let mut response = page.data.into_owned().into_response();
    let policy = policy(&Origin::of(&web, &headers, &uri));
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        out.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    out.insert("permissions-policy", HeaderValue::from_static(PERMISSIONS));
    secure(response)
}

const PERMISSIONS: &str =
    "camera=(self), microphone=(self), display-capture=(self), fullscreen=(self), geolocation=(), payment=(), usb=()";

/// Nothing from elsewhere and nothing inline; sockets to this server only.
fn policy(origin: &Origin) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self'; \
         connect-src 'self' {}; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
        origin.websocket()
    )
}

fn file(path: &str, data: Vec<u8>) -> Response {
    let mut response = data.into_response();
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(kind.as_ref()) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    // Names under assets/ have a hash of their content.
    let cache =
        if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "public, max-age=3600" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    secure(response)
}

fn plain(status: StatusCode, text: &str) -> Response {
    secure((status, text.to_owned()).into_response())
}

fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}
