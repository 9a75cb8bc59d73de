//! `POST /send/{connection}`, `POST /kick/{connection}`, `POST /kick?user=`: what concerns single connections, wherever
//! they are.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::json;
use uuid::Uuid;

use super::answer::{Answer, Refusal, json_body};
use super::body::Message;
use crate::app::State;
use crate::cluster::ask::AskError;
use crate::cluster::kick::{self, Kicked};
use crate::cluster::send::{self, Outcome, ToOne};
use crate::link::Sent;

/// One event, which is not stored. `sent` is 0 for a connection that opens or ends just now, or has no room, and `reason` says so.
pub async fn send(state: &State, connection: &str, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let connection = id(connection)?;
    let bytes_max = state.config.get().limits.event_bytes;
    let key = super::publish::key(request.headers())?;
    let Message { event, data } = Message::read(request.into_body(), bytes_max).await?;
    match send::one(&state.cluster, ToOne { connection, key, event, data }).await {
        Ok(Outcome::Found(sent)) => became(sent),
        Ok(Outcome::Unknown) => Err(unknown()),
        Ok(Outcome::Incomplete) => Err(incomplete("nothing has been sent")),
        Ok(Outcome::Unanswered) => Err(unanswered()),
        Err(error @ AskError::TooLarge { .. }) => {
            let message = format!("the connection is on another sidecar, and {error}");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message))
        }
        Err(AskError::NatsAway) => Err(Refusal::nats_unavailable()),
    }
}

fn became(sent: Sent) -> Result<Answer, Refusal> {
    let body = match sent {
        Sent::Put => json!({"sent": 1}),
        Sent::Before => json!({"sent": 1, "duplicate": true}),
        Sent::Full => json!({"sent": 0, "reason": "full"}),
        Sent::NotOpen => json!({"sent": 0, "reason": "not_open"}),
        Sent::Unknown => return Err(unknown()),
    };
    Ok(json_body(StatusCode::OK, &body))
}

/// One connection by the path, or all of a user by the query.
pub async fn kick(state: &State, connection: Option<&str>, query: &str) -> Result<Answer, Refusal> {
    let Some(connection) = connection else {
        let Kicked { kicked, complete } = kick::user(&state.cluster, &user(query)?).await;
        return Ok(json_body(StatusCode::OK, &json!({"kicked": kicked, "complete": complete})));
    };
    match kick::connection(&state.cluster, id(connection)?).await {
        Ok(Kicked { kicked: 1.., .. }) => Ok(json_body(StatusCode::OK, &json!({"kicked": true}))),
        Ok(Kicked { complete: true, .. }) => Err(unknown()),
        Ok(Kicked { complete: false, .. }) => Err(incomplete("one that hangs may still end it")),
        Err(_) => Err(Refusal::nats_away()),
    }
}

fn id(connection: &str) -> Result<Uuid, Refusal> {
    let message = "a connection is named by the id in its `sidestream.connected`, which /connections lists";
    Uuid::parse_str(connection).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "bad_connection", message))
}

/// Exactly one: whom to log out is nothing to guess at.
fn user(query: &str) -> Result<String, Refusal> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    match (pairs.next(), pairs.next()) {
        (Some((name, user)), None) if name == "user" && !user.is_empty() => Ok(user.into_owned()),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "bad_user",
            "name one connection in the path, or one user in the query",
        )),
    }
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "connection_unknown", "there is no such connection on any sidecar")
}

fn incomplete(so: &str) -> Refusal {
    let message = format!("not every sidecar has answered, and no other has this connection; {so}: ask again");
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "incomplete", message).retried_after(1)
}

fn unanswered() -> Refusal {
    let message =
        "the event is on its way and may still arrive: ask again, with the same Idempotency-Key to have it once";
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "unanswered", message).retried_after(1)
}
