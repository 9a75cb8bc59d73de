//! `POST /send/{connection}`, `POST /kick/{connection}`, `POST /kick?user=`: what concerns single connections, wherever
//! they are.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::json;
use uuid::Uuid;

use super::answer::{Answer, Refusal, json_body};
use super::body::Message;
use crate::app::State;
use crate::cluster::kick::{self, Kicked};
use crate::cluster::send::{self, Outcome, Question};

/// One event, which is not stored. `sent` is 0 for a connection that opens or ends just now.
pub async fn send(state: &State, connection: &str, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let connection = id(connection)?;
    let bytes_max = state.config.get().limits.event_bytes;
    let Message { event, data } = Message::read(request.into_body(), bytes_max).await?;
    let question = Question { connection, event, data };
    match send::one(&state.cluster, question).await {
        Ok(Outcome::Known { sent }) => Ok(json_body(StatusCode::OK, &json!({"sent": u8::from(sent)}))),
        Ok(Outcome::Unknown) => Err(unknown()),
        Ok(Outcome::Incomplete) => Err(incomplete()),
        Err(_) => Err(Refusal::nats_unavailable()),
    }
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
        Ok(Kicked { complete: false, .. }) => Err(incomplete()),
        Err(_) => Err(Refusal::nats_unavailable()),
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

fn incomplete() -> Refusal {
    let message = "not every sidecar has answered, and no other has this connection; ask again";
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "incomplete", message).retried_after(1)
}
