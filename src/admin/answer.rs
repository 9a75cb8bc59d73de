//! What an answer of the admin listener looks like, and a refusal.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::json;
use uuid::Uuid;

/// An answer; most are known whole when they are made.
pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Why a request is not answered: as on the public listener, and with words for people:
/// `{"error":{"code","status","message","request_id"}}`.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Methods that the path has.
    allow: Option<&'static str>,
    /// Seconds after which it may be asked again.
    retry_after: Option<u64>,
}

impl Refusal {
    /// With a code for programs and a message for people, which says what to do instead.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), allow: None, retry_after: None }
    }

    /// No such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// NATS is away, or does not answer.
    pub fn nats_unavailable() -> Self {
        let message =
            "NATS is away or did not acknowledge in time: ask again, with the same Idempotency-Key where there is one";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "nats_unavailable", message).retried_after(1)
    }

    /// The same for a question, which changes nothing.
    pub fn nats_away() -> Self {
        let message = "NATS is away, so the other sidecars cannot be asked: ask again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "nats_unavailable", message).retried_after(1)
    }

    /// Says when it may be asked again.
    pub fn retried_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// A method that the path does not have.
    pub fn method(allow: &'static str) -> Self {
        let message = format!("only {allow} here");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }

    /// As a response.
    pub fn into_answer(self) -> Answer {
        let Self { status, code, message, allow, retry_after } = self;
        let body = json!({"error": {
            "code": code,
            "status": status.as_u16(),
            "message": message,
            "request_id": Uuid::now_v7().to_string(),
        }});
        let mut response = json_body(status, &body);
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// JSON, on a line.
pub fn json_body(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut response = text(status, &format!("{value}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Plain text.
pub fn text(status: StatusCode, body: &str) -> Answer {
    let mut response = Response::new(Full::from(body.to_owned()).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
