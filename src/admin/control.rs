//! What may be done: publish, send to and end connections, drain, read the configuration again, set the level of the
//! log.

use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, json_body};
use super::{Admin, publish, send};
use crate::app::State;
use crate::reload::{Applied, ReloadError};

/// Longest level or filter, in bytes.
const LEVEL_BYTES_MAX: usize = 1024;

/// Something that a request may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `POST /notify/{user}`
    Notify(String),
    /// `POST /broadcast`
    Broadcast,
    /// `POST /send/{connection}`
    Send(String),
    /// `POST /kick/{connection}`, or `POST /kick?user=` without one.
    Kick(Option<String>),
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
            "/broadcast" => Some(Self::Broadcast),
            "/kick" => Some(Self::Kick(None)),
            "/drain" => Some(Self::Drain),
            "/reload" => Some(Self::Reload),
            "/log-level" => Some(Self::LogLevel),
            _ => Self::of_one(path),
        }
    }

    fn of_one(path: &str) -> Option<Self> {
        let (what, whom) = path.strip_prefix('/')?.split_once('/')?;
        match what {
            "notify" => Some(Self::Notify(whom.to_owned())),
            "send" => Some(Self::Send(whom.to_owned())),
            "kick" => Some(Self::Kick(Some(whom.to_owned()))),
            _ => None,
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
            Self::Notify(_) | Self::Broadcast | Self::Send(_) | Self::Kick(_) | Self::Reload => "POST",
        }
    }

    /// Does it.
    pub async fn make(self, admin: &Admin, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let state = &admin.state;
        match self {
            Self::Notify(user) => publish::publish(state, Some(&user), request).await,
            Self::Broadcast => publish::publish(state, None, request).await,
            Self::Send(connection) => send::send(state, &connection, request).await,
            Self::Kick(connection) => {
                send::kick(state, connection.as_deref(), request.uri().query().unwrap_or_default()).await
            }
            Self::Drain => Ok(drain(state).await),
            Self::Reload => reload(admin),
            Self::LogLevel => log_level(admin, request.into_body()).await,
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
