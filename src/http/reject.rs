//! Every refusal: its status, its public code, and how it is said.
//!
//! The body is JSON of at most 512 bytes and never echoes input. A refusal that may pass (a limit, overload, shutdown) is
//! said softly to event-stream clients: a native EventSource ends for good on any answer other than 200, so it gets a 200
//! with a reconnection time and the end.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use uuid::Uuid;

use crate::shard::course::jittered_retry;
use crate::telemetry::metrics::Refused;

/// Methods of the public listener.
pub const ALLOWED_METHODS: &str = "GET, HEAD, OPTIONS";
/// Header that names the reason of a soft refusal.
pub const REFUSED_HEADER: &str = "sidestream-refused";

/// A final refusal: asking again in the same way is pointless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such route.
    NotFound,
    /// Not GET, HEAD or OPTIONS.
    Method,
    /// `Accept` excludes event streams.
    NotAcceptable,
    /// A host that is not ours.
    Misdirected,
    /// Not HTTP/1.1 or HTTP/2.
    Version,
    /// No `Host`, several, or one that differs from the authority.
    BadHost,
    /// A path that cannot be decoded.
    BadPath,
    /// A query that cannot be decoded, or a parameter twice.
    BadQuery,
    /// The request line is over 8 KiB.
    TargetTooLong,
    /// The header block is over 16 KiB.
    HeadersTooLarge,
    /// A body.
    BodyNotAllowed,
    /// The last event ID is not visible ASCII, or too long.
    BadCursor,
    /// A foreign page.
    OriginDenied,
    /// An identity or trust header without proof.
    UntrustedPeer,
    /// No identity where one is needed.
    IdentityMissing,
    /// Several values.
    IdentityAmbiguous,
    /// A header that some servers take for one of ours.
    HeaderAlias,
    /// `Connection` names one of ours.
    HopByHopIdentity,
    /// A value we do not take.
    IdentityInvalid,
    /// The identity has expired.
    IdentityExpired,
    /// A subject outside the grant.
    SubjectDenied,
    /// A bug of ours.
    Internal,
}

impl Refusal {
    /// Status and public code.
    pub fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not_acceptable"),
            Self::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "unknown_host"),
            Self::Version => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "http_version"),
            Self::BadHost => (StatusCode::BAD_REQUEST, "bad_host"),
            Self::BadPath => (StatusCode::BAD_REQUEST, "bad_path"),
            Self::BadQuery => (StatusCode::BAD_REQUEST, "bad_query"),
            Self::TargetTooLong => (StatusCode::URI_TOO_LONG, "target_too_long"),
            Self::HeadersTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large"),
            Self::BodyNotAllowed => (StatusCode::BAD_REQUEST, "body_not_allowed"),
            Self::BadCursor => (StatusCode::BAD_REQUEST, "bad_cursor"),
            Self::OriginDenied => (StatusCode::FORBIDDEN, "origin_denied"),
            Self::UntrustedPeer => (StatusCode::FORBIDDEN, "untrusted_peer"),
            Self::IdentityMissing => (StatusCode::UNAUTHORIZED, "identity_missing"),
            Self::IdentityAmbiguous => (StatusCode::BAD_REQUEST, "identity_ambiguous"),
            Self::HeaderAlias => (StatusCode::BAD_REQUEST, "header_alias"),
            Self::HopByHopIdentity => (StatusCode::BAD_REQUEST, "hop_by_hop_identity"),
            Self::IdentityInvalid => (StatusCode::BAD_REQUEST, "identity_invalid"),
            Self::IdentityExpired => (StatusCode::UNAUTHORIZED, "identity_expired"),
            Self::SubjectDenied => (StatusCode::FORBIDDEN, "subject_denied"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// Whether the connection is closed after it: the rest of what was sent cannot be trusted to be a request.
    fn closes(self) -> bool {
        matches!(self, Self::Method | Self::BodyNotAllowed | Self::BadHost | Self::Version)
    }

    /// The answer.
    pub fn response(self) -> Response<Full<Bytes>> {
        let (status, code) = self.parts();
        let mut response = error(status, code);
        if self == Self::Method {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
        }
        if self.closes() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The answer to a refusal that may pass. `event_stream`: the client asked for `text/event-stream`.
pub fn soft(reason: Refused, event_stream: bool) -> Response<Full<Bytes>> {
    let retry = match reason {
        // There is nothing to hurry for while limits or a shutdown last.
        Refused::Connections | Refused::User | Refused::Address | Refused::Rate | Refused::Memory => {
            2 * jittered_retry()
        }
        Refused::Drain | Refused::Nats => jittered_retry(),
    };
    let mut response = if event_stream {
        // No blank line: no client shows a phantom event.
        let mut response = Response::new(Full::from(format!("retry: {retry}\n")));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        common_headers(&mut response);
        response
    } else {
        let (status, code) = match reason {
            Refused::User | Refused::Address | Refused::Rate => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Refused::Connections | Refused::Drain | Refused::Nats | Refused::Memory => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
        };
        let mut response = error(status, code);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry.div_ceil(1000)));
        response
    };
    response.headers_mut().insert(REFUSED_HEADER, HeaderValue::from_static(reason.label()));
    // Most often we are short of something: idle connections too.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn error(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let id = Uuid::now_v7();
    let body = format!(r#"{{"error":{{"code":"{code}","status":{},"request_id":"{id}"}}}}"#, status.as_u16());
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    common_headers(&mut response);
    response
}

/// What every answer without a stream carries.
pub fn common_headers<B>(response: &mut Response<B>) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::telemetry::metrics::REFUSAL_CODES;

    #[test]
    fn bodies_are_small_json() {
        let response = Refusal::HopByHopIdentity.response();
        assert_eq!(response.status(), 400);
        let body = futures_util::FutureExt::now_or_never(response.into_body().collect());
        let body = body.expect("ready").expect("infallible").to_bytes();
        assert!(body.len() <= 512);
        let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(json["error"]["code"], "hop_by_hop_identity");
        assert_eq!(json["error"]["status"], 400);
    }

    #[test]
    fn every_code_is_counted() {
        let refusals = [
            Refusal::NotFound,
            Refusal::Method,
            Refusal::NotAcceptable,
            Refusal::Misdirected,
            Refusal::Version,
            Refusal::BadHost,
            Refusal::BadPath,
            Refusal::BadQuery,
            Refusal::TargetTooLong,
            Refusal::HeadersTooLarge,
            Refusal::BodyNotAllowed,
            Refusal::BadCursor,
            Refusal::OriginDenied,
            Refusal::UntrustedPeer,
            Refusal::IdentityMissing,
            Refusal::IdentityAmbiguous,
            Refusal::HeaderAlias,
            Refusal::HopByHopIdentity,
            Refusal::IdentityInvalid,
            Refusal::IdentityExpired,
            Refusal::SubjectDenied,
            Refusal::Internal,
        ];
        assert_eq!(refusals.map(|refusal| refusal.parts().1), REFUSAL_CODES);
    }

    #[test]
    fn a_browser_is_never_told_no() {
        let response = soft(Refused::Drain, true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[REFUSED_HEADER], "drain");
        assert_eq!(soft(Refused::Drain, false).status(), 503);
        assert_eq!(soft(Refused::Rate, false).status(), 429);
        assert!(soft(Refused::Rate, false).headers().contains_key(RETRY_AFTER));
    }
}
