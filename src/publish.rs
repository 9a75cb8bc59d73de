//! Publishing: to a subject, to one user, to everybody, through the routes' own templates.
//!
//! Used by the commands, the admin listener and the `dev` page. Acknowledged by JetStream where the subject belongs to a stream.

use async_nats::client::PublishErrorKind;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use serde_json::json;

use crate::cluster::audience::{self, Question, Reach};
use crate::config::{Config, UserEncoding};
use crate::feed::api::{self, ApiError, Stored};
use crate::frame::checked_name;
use crate::subject::{Pattern, Template, Token, encode_user};

/// What is published.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Event name, sent as `Sse-Event`.
    pub event: Option<String>,
    /// The payload.
    pub data: Bytes,
    /// What makes a repetition known to JetStream as one, sent as `Nats-Msg-Id`: checked by [`is_key`]. It counts in the whole
    /// stream, whatever the subject.
    pub key: Option<String>,
}

/// Longest key of a message, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// The request header with the key of a message, which makes a repetition known as one (draft-ietf-httpapi-idempotency-key-header).
pub const KEY_HEADER: &str = "idempotency-key";

/// Whether a text may be the key of a message: 1 to 255 bytes of visible ASCII.
pub fn is_key(text: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What became of a message to a user or to everybody.
#[derive(Debug, Clone)]
pub struct Published {
    /// Where it is stored; `None` on subjects of a route that no stream backs.
    pub stored: Option<Stored>,
    /// Whom it is for.
    pub reach: Reach,
}

impl Published {
    /// As it is answered and printed: `stream` and `seq` where it is stored, `duplicate` where it was so before:
    /// `sent` and `total` say who hears the subject now all the same.
    pub fn to_json(&self) -> serde_json::Value {
        let Reach { sent, total, complete } = self.reach;
        let mut json = json!({"sent": sent, "total": total, "complete": complete});
        if let Some(Stored { stream, seq, duplicate }) = &self.stored {
            (json["stream"], json["seq"]) = (stream.as_str().into(), (*seq).into());
            if *duplicate {
                json["duplicate"] = true.into();
            }
        }
        json
    }
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A subject with wildcards, or malformed.
    #[error("`{0}` is not a subject that can be published to: {1}")]
    Subject(String, String),
    /// The event name would be replaced on arrival.
    #[error("`{0}` is not an event name: 1 to 256 bytes, no control characters, not starting with `sidestream.`")]
    EventName(String),
    /// The user id cannot be a subject token.
    #[error("`{0}` is not a user id that identity.user_encoding takes")]
    User(String),
    /// No template fits.
    #[error("no route has a subject {0}")]
    NoTemplate(&'static str),
    /// NATS refused or did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Said by the client, which knows the server's bound.
    #[error("the message is larger than the {0} bytes of the server's max_payload")]
    TooLarge(usize),
    /// The message could not be sent.
    #[error("NATS: {0}")]
    Nats(String),
}

/// Publishes to one subject. `None` where no stream captures it: then nothing acknowledges it.
pub async fn publish(client: &Client, subject: &str, message: &Outgoing) -> Result<Option<Stored>, PublishError> {
    let pattern = Pattern::parse(subject).map_err(|e| PublishError::Subject(subject.to_owned(), e.to_string()))?;
    if pattern.is_wild() {
        return Err(PublishError::Subject(subject.to_owned(), "it has a wildcard".to_owned()));
    }
    let captured = match api::stream_of(client, subject).await {
        Ok(stream) => stream.is_some(),
        Err(ApiError::NoJetStream) => false,
        // An account that may publish but not list streams: the acknowledgement will tell.
        Err(ApiError::Unanswered(_)) => true,
        Err(error) => return Err(error.into()),
    };
    send(client, subject.to_owned(), captured, message).await
}

/// Publishes, and waits for the acknowledgement where a stream is to give one.
async fn send(
    client: &Client,
    subject: String,
    captured: bool,
    message: &Outgoing,
) -> Result<Option<Stored>, PublishError> {
    let mut headers = HeaderMap::new();
    if let Some(event) = &message.event {
        checked_name(event).ok_or_else(|| PublishError::EventName(event.clone()))?;
        headers.insert("Sse-Event", event.as_str());
    }
    if let Some(key) = &message.key {
        headers.insert("Nats-Msg-Id", key.as_str());
    }
    if captured {
        return Ok(Some(api::publish(client, subject, headers, message.data.clone()).await?));
    }
    let failed = |e: &dyn std::fmt::Display| PublishError::Nats(e.to_string());
    let sent = client.publish_with_headers(subject, headers, message.data.clone()).await;
    sent.map_err(|error| match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge(client.max_payload()),
        _ => failed(&error),
    })?;
    client.flush().await.map_err(|e| failed(&e))?;
    Ok(None)
}

/// Publishes to one user: the first template of a route that names `{user}` and nothing else.
pub async fn notify(
    client: &Client,
    config: &Config,
    user: &str,
    message: &Outgoing,
) -> Result<Published, PublishError> {
    let target = user_target(config, user, message.event.as_deref())?;
    to_all(client, Some(user), target, message).await
}

/// Publishes to everybody: the first template of a route without variables.
pub async fn broadcast(client: &Client, config: &Config, message: &Outgoing) -> Result<Published, PublishError> {
    let target = broadcast_target(config, message.event.as_deref())?;
    to_all(client, None, target, message).await
}

async fn to_all(
    client: &Client,
    user: Option<&str>,
    target: Target,
    message: &Outgoing,
) -> Result<Published, PublishError> {
    let Target { subject, captured } = target;
    let stored = send(client, subject.clone(), captured, message).await?;
    let question = Question { user: user.map(str::to_owned), subject };
    Ok(Published { stored, reach: audience::count(client, &question).await })
}

/// Where a message goes by a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The subject.
    pub subject: String,
    /// Whether the route reads it from its stream, which then acknowledges it.
    pub captured: bool,
}

/// Where one user is reached.
pub fn user_target(config: &Config, user: &str, event: Option<&str>) -> Result<Target, PublishError> {
    let token = match config.identity.user_encoding {
        UserEncoding::Refuse => Token::parse(user),
        UserEncoding::Base64Url => encode_user(user),
    };
    let token = token.ok_or_else(|| PublishError::User(user.to_owned()))?;
    let only_user = |(template, _): &(&Template, bool)| template.variables().eq(["user"]);
    let (template, captured) =
        templates(config).find(only_user).ok_or(PublishError::NoTemplate("with only `{user}` in it"))?;
    Ok(Target { subject: concrete(template, Some(&token), event)?, captured })
}

/// Where everybody is reached.
pub fn broadcast_target(config: &Config, event: Option<&str>) -> Result<Target, PublishError> {
    let fixed = |(template, _): &(&Template, bool)| template.variables().next().is_none();
    let (template, captured) = templates(config).find(fixed).ok_or(PublishError::NoTemplate("without variables"))?;
    Ok(Target { subject: concrete(template, None, event)?, captured })
}

/// All templates, and whether each is read from a stream.
fn templates(config: &Config) -> impl Iterator<Item = (&Template, bool)> {
    config.routes.routes.iter().flat_map(|route| {
        let captured = route.stream.is_some();
        let stored = route.subjects.iter().map(move |template| (template, captured));
        stored.chain(route.live_subjects.iter().map(|template| (template, false)))
    })
}

/// Fills a template; a wildcard becomes the event's name where that is a token, else `message`.
fn concrete(template: &Template, user: Option<&Token>, event: Option<&str>) -> Result<String, PublishError> {
    let filled = template.fill(|_| user).map_err(|e| PublishError::Subject(template.as_str().into(), e.to_string()))?;
    let leaf = event.and_then(Token::parse);
    let leaf = leaf.as_ref().map_or("message", Token::as_str);
    let tokens: Vec<&str> = filled.tokens().map(|t| if matches!(t, "*" | ">") { leaf } else { t }).collect();
    Ok(tokens.join("."))
}
