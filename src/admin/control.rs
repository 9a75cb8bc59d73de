//! What an operator may do: end a connection, drain, read the configuration again, set the level of the log.

use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Admin;
use super::answer::{Answer, Refusal, json_body};
use super::connections::shard_is_silent;
use crate::app::State;
use crate::link;
use crate::reload::{Applied, ReloadError};

/// Longest level or filter, in bytes.
const LEVEL_BYTES_MAX: usize = 1024;

/// Something that a request may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `POST /kick/{connection}`
    Kick(String),
    /// `POST /drain`
    Drain,
    /// `POST /reload`
    Reload,
    /// `PUT /log-level`, with the level or filter as the body.
    LogLevel,
}

impl Change {
    /// What a path stands for.
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/drain" => Some(Self::Drain),
            "/reload" => Some(Self::Reload),
            "/log-level" => Some(Self::LogLevel),
            _ => path.strip_prefix("/kick/").map(|connection| Self::Kick(connection.to_owned())),
        }
    }

    /// How it is asked for.
    pub fn method(&self) -> Method {
        if *self == Self::LogLevel { Method::PUT } else { Method::POST }
    }

    /// The methods that the path has.
    pub fn allowed(&self) -> &'static str {
        match self {
            Self::Drain => "GET, HEAD, POST",
            Self::LogLevel => "PUT",
            Self::Kick(_) | Self::Reload => "POST",
        }
    }

    /// Does it.
    pub async fn make(self, admin: &Admin, body: Incoming) -> Result<Answer, Refusal> {
        match self {
            Self::Kick(connection) => kick(&admin.state, &connection).await,
            Self::Drain => Ok(drain(&admin.state).await),
            Self::Reload => reload(admin),
            Self::LogLevel => log_level(admin, body).await,
        }
    }
}

async fn log_level(admin: &Admin, body: Incoming) -> Result<Answer, Refusal> {
    let body = Limited::new(body, LEVEL_BYTES_MAX).collect().await.map(Collected::to_bytes).unwrap_or_default();
    let level = std::str::from_utf8(&body).unwrap_or_default().trim();
    if admin.reloader.set_log_level(level) {
        return Ok(json_body(StatusCode::OK, &json!({"level": level})));
    }
    let message = "the body is off, error, warn, info, debug, trace, or a filter such as info,sidestream::feed=debug";
    Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_level", message))
}

async fn kick(state: &State, connection: &str) -> Result<Answer, Refusal> {
    let Ok(id) = Uuid::parse_str(connection) else {
        let message = "a connection is named by the id in its `sidestream.connected`, which /connections lists";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_connection", message));
    };
    match link::kick(&state.shards, id, false).await {
        Some(true) => Ok(json_body(StatusCode::OK, &json!({"kicked": true}))),
        Some(false) => Err(Refusal::not_found("there is no such connection on this sidecar")),
        None => Err(shard_is_silent()),
    }
}

async fn drain(state: &State) -> Answer {
    let window = state.begin_drain().await;
    tracing::info!(connections = state.connections(), ?window, "Draining, as the admin listener was asked");
    let mut body = drain_progress(state);
    body["window_seconds"] = json!(window.as_secs_f64());
    json_body(StatusCode::ACCEPTED, &body)
}

/// How far a drain is.
pub fn drain_progress(state: &State) -> Value {
    json!({"draining": state.is_draining(), "connections": state.connections()})
}

fn reload(admin: &Admin) -> Result<Answer, Refusal> {
    match admin.reloader.reload() {
        Ok(Applied { applied, waiting, certificates_refused }) => {
            let mut body = json!({"applied": applied, "restart_needed": waiting});
            if let Some(why) = certificates_refused {
                body["certificates_refused"] = why.into();
            }
            Ok(json_body(StatusCode::OK, &body))
        }
        Err(error @ ReloadError::NotFromFiles) => {
            Err(Refusal::new(StatusCode::CONFLICT, "not_from_files", error.to_string()))
        }
        Err(ReloadError::Faulty(report)) => {
            Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "configuration_faulty", report.to_string()))
        }
    }
}
