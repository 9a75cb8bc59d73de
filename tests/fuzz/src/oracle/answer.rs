//! What the public listener may answer, by the contract: statuses, headers, bodies. Nothing in it may come from the request.

use uuid::Uuid;

use super::event_stream;

/// The page that `server.origins` lets in, in every configuration here.
pub const ORIGIN: &str = "https://app.example";

/// Codes of refusals, with their status.
const CODES: [(&str, u16); 23] = [
    ("not_found", 404),
    ("method_not_allowed", 405),
    ("not_acceptable", 406),
    ("unknown_host", 421),
    ("http_version", 505),
    ("bad_host", 400),
    ("bad_path", 400),
    ("bad_query", 400),
    ("target_too_long", 414),
    ("headers_too_large", 431),
    ("body_not_allowed", 400),
    ("bad_cursor", 400),
    ("origin_denied", 403),
    ("untrusted_peer", 403),
    ("identity_missing", 401),
    ("identity_ambiguous", 400),
    ("header_alias", 400),
    ("hop_by_hop_identity", 400),
    ("identity_invalid", 400),
    ("identity_expired", 401),
    ("subject_denied", 403),
    ("too_many_requests", 429),
    ("unavailable", 503),
];

/// Whether a header may stand in an answer with this value.
pub fn is_header(name: &str, value: &str) -> bool {
    match name {
        "date" => value.len() == 29 && value.ends_with(" GMT"),
        "content-length" | "retry-after" => value.parse::<u32>().is_ok(),
        "content-type" => ["application/json", "text/event-stream"].contains(&value),
        "cache-control" => ["no-store", "no-store, no-transform"].contains(&value),
        "x-content-type-options" => value == "nosniff",
        "x-accel-buffering" => value == "no",
        "connection" => value == "close",
        "transfer-encoding" => value == "chunked",
        "allow" | "access-control-allow-methods" => value == "GET, HEAD, OPTIONS",
        "vary" => value == "Origin",
        "access-control-allow-origin" => value == ORIGIN,
        "access-control-allow-credentials" => value == "true",
        "access-control-allow-headers" => value == "Last-Event-ID, Authorization, Cache-Control",
        "access-control-max-age" => value == "600",
        "sidestream-refused" => ["connections", "user", "address", "rate", "drain", "nats", "memory"].contains(&value),
        _ => false,
    }
}

/// A status and a whole body that belong together; `soft` where the answer says it is a refusal that may pass.
pub fn check_body(status: u16, body: &[u8], soft: bool) {
    let text = std::str::from_utf8(body).expect("text");
    match status {
        200 if soft => {
            let retry = text.strip_prefix("retry: ").and_then(|text| text.strip_suffix('\n'));
            assert!(retry.is_some_and(|retry| retry.parse::<u32>().is_ok()), "{text:?}");
        }
        // To HEAD, or to OPTIONS.
        200 | 204 => assert_eq!(text, ""),
        // hyper refuses these itself, without a body.
        400 | 414 | 431 if text.is_empty() => {}
        _ => check_error(status, text),
    }
}

fn check_error(status: u16, body: &str) {
    assert!(body.len() <= 512);
    let (code, rest) = body
        .strip_prefix(r#"{"error":{"code":""#)
        .and_then(|rest| rest.split_once('"'))
        .unwrap_or_else(|| panic!("no error: {body:?}"));
    assert!(CODES.contains(&(code, status)), "{status} {code}");
    let id = rest
        .strip_prefix(&format!(r#","status":{status},"request_id":""#))
        .and_then(|rest| rest.strip_suffix(r#""}}"#))
        .unwrap_or_else(|| panic!("no error: {body:?}"));
    assert!(id.len() == 36 && Uuid::try_parse(id).is_ok(), "{body:?}");
}

/// The body of a stream, as far as it came: it begins with `sidestream.connected`.
pub fn check_stream(body: &[u8]) {
    let reading = event_stream::read(body);
    if let Some(first) = reading.events.first() {
        assert_eq!(first.name, "sidestream.connected");
        assert!(reading.retry.is_some());
    }
    for event in reading.events.iter().skip(1) {
        let ours = event.name == "message" && event.data == "news";
        assert!(ours || event.name == "sidestream.bye", "{event:?}");
    }
    let ids = reading.events.iter().filter_map(|event| event.own_id.as_deref());
    for id in ids {
        assert!(id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'), "{id:?}");
    }
}
