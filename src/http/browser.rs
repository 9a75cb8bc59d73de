//! The browser gate: `Host`, `Origin` and CORS, before any work is done for a page.
//!
//! Foreign pages are refused here because a stream opened with the user's cookies is the user's data. Allowed origins are
//! exact; nothing is reflected that is not configured.

// Reads what others send: nothing here may panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ALLOW, HOST, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Request, Response, StatusCode, Version};

use super::reject::{ALLOWED_METHODS, Refusal, common_headers};
use crate::config::Server;

/// The one host a request names, in lower case.
pub fn host<B>(request: &Request<B>) -> Result<String, Refusal> {
    // Another scheme asks for a proxy, which would take the host for something else.
    if !matches!(request.uri().scheme_str(), None | Some("http" | "https")) {
        return Err(Refusal::BadHost);
    }
    let mut values = request.headers().get_all(HOST).iter();
    let header = match (values.next(), values.next()) {
        (value, None) => value.map(|v| v.to_str().map_err(|_| Refusal::BadHost)).transpose()?,
        _ => return Err(Refusal::BadHost),
    };
    let authority = request.uri().authority().map(|a| a.as_str());
    let named = match (header, authority) {
        (Some(header), Some(authority)) if !header.eq_ignore_ascii_case(authority) => return Err(Refusal::BadHost),
        (Some(named), _) => named,
        (None, Some(named)) if request.version() == Version::HTTP_2 => named,
        _ => return Err(Refusal::BadHost),
    };
    let authority: hyper::http::uri::Authority = named.parse().map_err(|_| Refusal::BadHost)?;
    if named.contains('@') {
        return Err(Refusal::BadHost);
    }
    Ok(authority.as_str().to_ascii_lowercase())
}

/// Whether the host is one of ours and the page one that may connect.
pub fn gate<B>(server: &Server, request: &Request<B>) -> Result<(), Refusal> {
    let host = host(request)?;
    if !server.hosts.is_empty() && !server.hosts.iter().any(|ours| *ours == without_port(&host)) {
        return Err(Refusal::Misdirected);
    }
    let mut origins = request.headers().get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) if is_cross_site(request.headers()) => Err(Refusal::OriginDenied),
        (None, _) => Ok(()),
        (Some(origin), None) if is_allowed(server, origin, &host) => Ok(()),
        _ => Err(Refusal::OriginDenied),
    }
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site")
}

fn is_allowed(server: &Server, origin: &HeaderValue, host: &str) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    server.origins.iter().any(|ours| ours == origin) || is_same_host(origin, host)
}

/// A page of our own host. The scheme is not compared: whoever terminates TLS in front of us knows it, we do not.
fn is_same_host(origin: &str, host: &str) -> bool {
    let (scheme, authority) = origin.split_once("://").unwrap_or(("", ""));
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase();
    bare(authority) == bare(host)
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

/// Whether `Accept` admits an event stream: the most specific range that matches decides (RFC 9110 section 12.5.1). A request
/// without it accepts anything.
pub fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let mut ranges = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|range| !range.is_empty()).peekable();
    if ranges.peek().is_none() {
        return true;
    }
    ranges
        .filter_map(specificity_and_quality)
        .max_by_key(|(specificity, _)| *specificity)
        .is_some_and(|(_, wanted)| wanted)
}

/// How specifically a media range names event streams, and whether it wants them; `None` where it does not name them.
fn specificity_and_quality(range: &str) -> Option<(u8, bool)> {
    let mut parts = range.split(';').map(str::trim);
    let specificity = match &*parts.next()?.to_ascii_lowercase() {
        "text/event-stream" => 2,
        "text/*" => 1,
        "*/*" => 0,
        _ => return None,
    };
    let quality = parts.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")));
    let refused = quality.is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0));
    Some((specificity, !refused))
}

/// Whether the client says it is an event-stream client: then it is never told no by a status.
pub fn is_event_stream_client(headers: &HeaderMap) -> bool {
    let names = |line: &HeaderValue| line.to_str().is_ok_and(|l| l.to_ascii_lowercase().contains("text/event-stream"));
    headers.get_all(ACCEPT).iter().any(names)
}

/// CORS lines for an allowed foreign page, and `Vary` wherever the answer depends on the page.
pub fn cors_headers(server: &Server, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    if server.origins.is_empty() {
        return;
    }
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin.filter(|o| o.to_str().is_ok_and(|o| server.origins.iter().any(|ours| ours == o))) else {
        return;
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
}

/// The answer to `OPTIONS`, preflight or not.
pub fn options(server: &Server, origin: Option<&HeaderValue>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    common_headers(&mut response);
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
    cors_headers(server, origin, headers);
    if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(ALLOWED_METHODS));
        let allowed = HeaderValue::from_static("Last-Event-ID, Authorization, Cache-Control");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_the_same_host_may_connect() {
        assert!(is_same_host("https://app.example", "app.example"));
        assert!(is_same_host("https://app.example", "app.example:443"));
        assert!(is_same_host("http://app.example:8080", "APP.example:8080"));
        for foreign in ["https://evil.example", "https://app.example.evil", "null", "app.example", "file://app.example"]
        {
            assert!(!is_same_host(foreign, "app.example"), "{foreign}");
        }
    }

    #[test]
    fn a_site_that_is_told_twice_is_foreign_where_one_says_so() {
        let told = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("sec-fetch-site", HeaderValue::from_static(value));
            }
            is_cross_site(&headers)
        };
        assert!(told(&["cross-site"]) && told(&["same-origin", "cross-site"]) && told(&["cross-site", "none"]));
        assert!(!told(&[]) && !told(&["same-origin"]) && !told(&["none", "same-site"]));
    }

    #[test]
    fn the_most_specific_range_decides() {
        let accepts = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, value.parse().expect("a value"));
            accepts_event_stream(&headers)
        };
        for good in ["", "*/*", "text/*", "text/html, Text/Event-Stream;q=0.5", "*/*;q=0, text/event-stream"] {
            assert!(accepts(good), "{good}");
        }
        for bad in ["application/json", "text/event-stream;q=0", "text/event-stream; q=0.0, */*", "text/html"] {
            assert!(!accepts(bad), "{bad}");
        }
    }

    #[test]
    fn ports_are_cut_off_hosts() {
        assert_eq!(without_port("a.example:80"), "a.example");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
    }
}
