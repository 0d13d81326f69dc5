//! The page and its assets, embedded in the binary; while developing they are read from `web/dist`.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use rust_embed::{EmbeddedFile, RustEmbed};
use tertulia_conference::room_name;
use tertulia_conference::tenant::Tenant;

use super::{Origin, Web};

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Assets;

/// Any path that is nothing else: an asset, or a room of one segment, or of two with a tenant.
pub(crate) async fn handle(State(web): State<Web>, headers: HeaderMap, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path != "index.html"
        && let Some(asset) = Encoded::find(path, &headers)
    {
        return file(path, asset, &headers);
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if segments.len() > 2 || path.starts_with("assets/") {
        return plain(StatusCode::NOT_FOUND, "There is nothing under this address.");
    }
    if let Some(Err(error)) = segments.last().map(|room| room_name::canonical(room)) {
        return plain(StatusCode::BAD_REQUEST, &error.to_string());
    }
    // What ends with a slash is the start page of a tenant.
    let tenant = segments.first().filter(|_| segments.len() == 2 || path.ends_with('/'));
    if tenant.is_some_and(|tenant| Tenant::parse(tenant).is_none()) {
        let text = "The part before the meeting's name can have letters, digits, hyphens and underscores only.";
        return plain(StatusCode::BAD_REQUEST, text);
    }
    if segments.len() == 2 && path.ends_with('/') {
        // The page loads what stands beside it, and behind this slash there is no configuration.
        let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
        return secure(Redirect::permanent(&format!("/{}{query}", segments.join("/"))).into_response());
    }
    let Some(page) = Encoded::find("index.html", &headers) else {
        return plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "The meeting page is not built yet: run `npm run build` in `web/`.",
        );
    };
    let mut response = page.respond(&headers, "text/html; charset=utf-8", "no-cache");
    let policy = policy(&Origin::of(&web, &headers, &uri));
    let out = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        out.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    out.insert("permissions-policy", HeaderValue::from_static(PERMISSIONS));
    secure(response)
}

/// An asset in the form that a browser takes: the build writes a compressed one beside each that gets smaller by it.
struct Encoded {
    asset: EmbeddedFile,
    encoding: Option<&'static str>,
}

impl Encoded {
    fn find(path: &str, headers: &HeaderMap) -> Option<Self> {
        let plain = Assets::get(path)?;
        let compressed = ENCODINGS.iter().filter(|(encoding, _)| accepts(headers, encoding));
        let found = compressed.map(|(encoding, ending)| (encoding, Assets::get(&format!("{path}.{ending}"))));
        let found = found.into_iter().find_map(|(encoding, asset)| Some((*encoding, asset?)));
        Some(match found {
            Some((encoding, asset)) => Self { asset, encoding: Some(encoding) },
            None => Self { asset: plain, encoding: None },
        })
    }

    /// The whole, or word that the browser has it already (RFC 9110 §13.1.2).
    fn respond(self, headers: &HeaderMap, kind: &str, cache: &'static str) -> Response {
        let hash: String = self.asset.metadata.sha256_hash()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        let tag = format!("\"{hash}\"");
        let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).is_some_and(|tags| {
            tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
        });
        let mut response = match known {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => self.asset.data.into_owned().into_response(),
        };
        let out = response.headers_mut();
        out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            out.insert(header::ETAG, tag);
        }
        if !known {
            if let Ok(kind) = HeaderValue::from_str(kind) {
                out.insert(header::CONTENT_TYPE, kind);
            }
            if let Some(encoding) = self.encoding {
                out.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
        }
        response
    }
}

/// Best first, with the ending of the file that the build writes.
const ENCODINGS: [(&str, &str); 2] = [("br", "br"), ("gzip", "gz")];

/// Whether a browser takes an encoding (RFC 9110 §12.5.3).
fn accepts(headers: &HeaderMap, encoding: &str) -> bool {
    let listed = headers.get(header::ACCEPT_ENCODING).and_then(|list| list.to_str().ok()).unwrap_or("");
    listed.split(',').any(|item| {
        let (name, weight) = item.split_once(';').unwrap_or((item, "q=1"));
        let refused = weight.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q == 0.0);
        name.trim().eq_ignore_ascii_case(encoding) && !refused
    })
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

fn file(path: &str, asset: Encoded, headers: &HeaderMap) -> Response {
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    // Names under assets/ have a hash of their content.
    let cache =
        if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "public, max-age=3600" };
    secure(asset.respond(headers, kind.as_ref(), cache))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_taken_from_the_list_and_not_against_it() {
        let with =
            |list: &'static str| HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(list))]);
        assert!(accepts(&with("gzip, deflate, br"), "br") && accepts(&with("GZIP;q=0.5"), "gzip"));
        assert!(!accepts(&with("gzip, br;q=0"), "br") && !accepts(&HeaderMap::new(), "gzip"));
    }

    #[test]
    fn what_the_browser_has_is_not_sent_again() {
        let Some(page) = Encoded::find("index.html", &HeaderMap::new()) else { return }; // not built
        let whole = page.respond(&HeaderMap::new(), "text/html", "no-cache");
        let tag = whole.headers()[header::ETAG].clone();
        let asks = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]);
        let again = Encoded::find("index.html", &asks).unwrap().respond(&asks, "text/html", "no-cache");
        assert_eq!((whole.status(), again.status()), (StatusCode::OK, StatusCode::NOT_MODIFIED));
        assert_eq!(again.headers()[header::VARY], "accept-encoding");
    }
}
