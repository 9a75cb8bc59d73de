//! What `sidestream dev` puts in front of the routes: the page, publishing from it, cutting its connection, and the user
//! from `?user=`. Exists in this command only, which listens on loopback only.

use std::sync::{Arc, OnceLock};

use async_nats::Client;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::PAGE;
use crate::app::State;
use crate::feed::connection::Kept;
use crate::http::body::Request;
use crate::http::identity::User;
use crate::http::reject::Refusal;
use crate::http::target::Query;
use crate::http::{Front, FrontAnswer};
use crate::link::{self, Whom};
use crate::publish::{self, Outgoing, PublishError};
use crate::subject::encode_user;

/// What the page may load and do: only itself.
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; \
                      script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Largest message from the page, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The demonstration's front. Knows the rest of the process once it has started.
#[derive(Debug, Default)]
pub struct Demo {
    process: OnceLock<(Kept, Arc<State>)>,
}

/// A message from the page.
#[derive(Debug, Deserialize)]
struct FromPage {
    /// A user, or everybody.
    to: Option<String>,
    #[serde(default)]
    event: Option<String>,
    data: String,
}

impl Demo {
    /// The process has started.
    pub fn started(&self, control: Kept, state: Arc<State>) {
        // Called once; a second process would need a second front.
        let _ = self.process.set((control, state));
    }

    async fn publish(&self, request: &mut Request) -> Response<Full<Bytes>> {
        let Ok(body) = Limited::new(request.body_mut(), BODY_BYTES_MAX).collect().await else {
            return error(StatusCode::PAYLOAD_TOO_LARGE, "a message has at most 1 MiB");
        };
        let message: FromPage = match serde_json::from_slice(&body.to_bytes()) {
            Ok(message) => message,
            Err(e) => return error(StatusCode::BAD_REQUEST, &format!("{e}; send {{\"to\",\"event\",\"data\"}}")),
        };
        let Some((control, state)) = self.process.get() else {
            return error(StatusCode::SERVICE_UNAVAILABLE, "starting");
        };
        match publish_from_page(&control.current().client, state, message).await {
            Ok(stored) => json_response(StatusCode::OK, &stored),
            Err(e @ (PublishError::Api(_) | PublishError::Nats(_))) => error(StatusCode::BAD_GATEWAY, &e.to_string()),
            Err(e) => error(StatusCode::BAD_REQUEST, &e.to_string()),
        }
    }

    async fn cut(&self, query: &str) -> Response<Full<Bytes>> {
        let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "connection");
        let Some(Ok(connection)) = named.map(|(_, id)| Uuid::parse_str(&id)) else {
            return error(StatusCode::BAD_REQUEST, "?connection= is the id from sidestream.connected");
        };
        let Some((_, state)) = self.process.get() else {
            return error(StatusCode::SERVICE_UNAVAILABLE, "starting");
        };
        link::kick(&state.shards, &Whom::Connection(connection), true).await;
        json_response(StatusCode::OK, &json!({}))
    }
}

async fn publish_from_page(
    control: &Client,
    state: &State,
    message: FromPage,
) -> Result<serde_json::Value, PublishError> {
    let event = message.event.filter(|event| !event.is_empty());
    let target = match &message.to {
        Some(user) => publish::user_target(&state.config.get(), user, event.as_deref())?,
        None => publish::broadcast_target(&state.config.get(), event.as_deref())?,
    };
    let stored =
        publish::publish(control, &target.subject, &Outgoing { event, data: message.data.into(), key: None }).await?;
    Ok(json!({"stream": stored.as_ref().map(|s| &s.stream), "seq": stored.as_ref().map(|s| s.seq)}))
}

impl Front for Demo {
    fn answer<'a>(&'a self, request: &'a mut Request) -> FrontAnswer<'a> {
        Box::pin(async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            match (method, path.as_str()) {
                (Method::GET, "/") => Some(page()),
                (Method::POST, "/publish") => Some(self.publish(request).await),
                (Method::POST, "/cut") => {
                    let query = request.uri().query().unwrap_or_default().to_owned();
                    Some(self.cut(&query).await)
                }
                _ => None,
            }
        })
    }

    fn user(&self, query: &Query) -> Option<Result<User, Refusal>> {
        let id = query.user.clone()?;
        Some(encode_user(&id).map(|token| User { id, token }).ok_or(Refusal::IdentityInvalid))
    }
}

fn page() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(PAGE));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    json_response(status, &json!({"error": {"message": message, "status": status.as_u16()}}))
}

fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
