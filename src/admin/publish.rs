//! `POST /notify/{user}`, `POST /broadcast`: publishing for those who speak HTTP, as the commands of the same names do.

use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;

use super::answer::{Answer, Refusal, json_body};
use super::body::Message;
use crate::app::State;
use crate::feed::api::ApiError;
use crate::publish::{self, KEY_HEADER, Outgoing, PublishError};

/// JetStream's own code for a message larger than its stream takes.
const MESSAGE_TOO_LARGE: u32 = 10054;

/// To one user, as the path names them, or to everybody.
pub async fn publish(state: &State, user: Option<&str>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let user = user.map(decoded).transpose()?;
    let key = key(request.headers())?;
    let config = state.config.get();
    // What can be refused is refused before anything is read.
    let target = match &user {
        Some(user) => publish::user_target(&config, user, None),
        None => publish::broadcast_target(&config, None),
    };
    target.map_err(|error| refused(&error))?;
    let client = state.cluster.client().ok_or_else(Refusal::nats_unavailable)?;
    let Message { event, data } = Message::read(request.into_body(), config.limits.event_bytes).await?;
    let message = Outgoing { event, data: data.into(), key };
    let denials = state.cluster.denials();
    let published = match &user {
        Some(user) => publish::notify(&client, &config, user, &message).await,
        None => publish::broadcast(&client, &config, &message).await,
    };
    match published {
        Ok(published) => Ok(json_body(StatusCode::OK, &published.to_json())),
        Err(_) if state.cluster.denials() > denials => {
            let message = "the NATS account of this sidecar may not publish there; docs/nats.md has the permissions";
            Err(Refusal::new(StatusCode::BAD_GATEWAY, "nats_denied", message))
        }
        Err(error) => Err(refused(&error)),
    }
}

fn decoded(segment: &str) -> Result<String, Refusal> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    let is_sound = !segment.contains('/') && segment.split('%').skip(1).all(is_escape);
    let user = percent_decode_str(segment).decode_utf8().ok().filter(|_| is_sound);
    user.map(std::borrow::Cow::into_owned).ok_or_else(bad_user)
}

fn bad_user() -> Refusal {
    let message = "the path ends with a user id, percent-encoded where need be: at most 128 bytes of visible ASCII, \
                   and one token of a subject unless identity.user_encoding is base64url";
    Refusal::new(StatusCode::BAD_REQUEST, "bad_user", message)
}

/// Exactly one, or none.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(KEY_HEADER).iter();
    let key = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok().filter(|key| publish::is_key(key)),
        (Some(_), Some(_)) => None,
    };
    let message = "Idempotency-Key is one value of 1 to 255 bytes of visible ASCII";
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, "bad_idempotency_key", message);
    key.map(|key| Some(key.to_owned())).ok_or_else(bad)
}

/// Why nothing was published. What NATS says is passed on in its own words; a user or a subject is not repeated.
fn refused(error: &PublishError) -> Refusal {
    let words = error.to_string();
    match error {
        PublishError::User(_) => bad_user(),
        PublishError::EventName(_) | PublishError::Subject(..) => {
            Refusal::new(StatusCode::BAD_REQUEST, "bad_event", "the event's name makes no subject")
        }
        PublishError::NoTemplate(_) => Refusal::new(StatusCode::CONFLICT, "no_subject", words),
        PublishError::Api(
            ApiError::Refused { err_code: MESSAGE_TOO_LARGE, .. } | ApiError::Refused { code: 413, .. },
        ) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "jetstream_refused", words),
        PublishError::Api(ApiError::Refused { .. }) => {
            Refusal::new(StatusCode::BAD_GATEWAY, "jetstream_refused", words)
        }
        PublishError::Api(ApiError::NotCaptured) => Refusal::new(StatusCode::BAD_GATEWAY, "no_stream", words),
        PublishError::TooLarge(_) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", words),
        PublishError::Api(_) | PublishError::Nats(_) => Refusal::nats_unavailable(),
    }
}
