//! Publishing: to a subject, to one user, to everybody, through the routes' own templates.
//!
//! Used by the commands and by the `dev` page. Acknowledged by JetStream where the subject belongs to a stream.

use async_nats::{Client, HeaderMap};
use bytes::Bytes;

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
    let mut headers = HeaderMap::new();
    if let Some(event) = &message.event {
        checked_name(event).ok_or_else(|| PublishError::EventName(event.clone()))?;
        headers.insert("Sse-Event", event.as_str());
    }
    let captured = match api::stream_of(client, subject).await {
        Ok(stream) => stream.is_some(),
        Err(ApiError::NoJetStream) => false,
        // An account that may publish but not list streams: the acknowledgement will tell.
        Err(ApiError::Unanswered(_)) => true,
        Err(error) => return Err(error.into()),
    };
    if captured {
        return Ok(Some(api::publish(client, subject.to_owned(), headers, message.data.clone()).await?));
    }
    let failed = |e: &dyn std::fmt::Display| PublishError::Nats(e.to_string());
    client.publish_with_headers(subject.to_owned(), headers, message.data.clone()).await.map_err(|e| failed(&e))?;
    client.flush().await.map_err(|e| failed(&e))?;
    Ok(None)
}

/// Publishes to one user: the first template of a route that names `{user}` and nothing else.
pub async fn notify(client: &Client, config: &Config, user: &str, message: &Outgoing) -> Result<Reach, PublishError> {
    let subject = user_subject(config, user, message.event.as_deref())?;
    publish(client, &subject, message).await?;
    Ok(reach(client, Some(user), subject).await)
}

/// Publishes to everybody: the first template of a route without variables.
pub async fn broadcast(client: &Client, config: &Config, message: &Outgoing) -> Result<Reach, PublishError> {
    let subject = broadcast_subject(config, message.event.as_deref())?;
    publish(client, &subject, message).await?;
    Ok(reach(client, None, subject).await)
}

async fn reach(client: &Client, user: Option<&str>, subject: String) -> Reach {
    let question = Question { user: user.map(str::to_owned), subject };
    audience::count(client, &question).await
}

/// The subject by which one user is reached.
pub fn user_subject(config: &Config, user: &str, event: Option<&str>) -> Result<String, PublishError> {
    let token = match config.identity.user_encoding {
        UserEncoding::Refuse => Token::parse(user),
        UserEncoding::Base64Url => encode_user(user),
    };
    let token = token.ok_or_else(|| PublishError::User(user.to_owned()))?;
    let only_user = |t: &&Template| t.variables().eq(["user"]);
    let template = templates(config).find(only_user).ok_or(PublishError::NoTemplate("with only `{user}` in it"))?;
    concrete(template, Some(&token), event)
}

/// The subject by which everybody is reached.
pub fn broadcast_subject(config: &Config, event: Option<&str>) -> Result<String, PublishError> {
    let fixed = |t: &&Template| t.variables().next().is_none();
    let template = templates(config).find(fixed).ok_or(PublishError::NoTemplate("without variables"))?;
    concrete(template, None, event)
}

fn templates(config: &Config) -> impl Iterator<Item = &Template> {
    config.routes.routes.iter().flat_map(|route| route.subjects.iter().chain(&route.live_subjects))
}

/// Fills a template; a wildcard becomes the event's name where that is a token, else `message`.
fn concrete(template: &Template, user: Option<&Token>, event: Option<&str>) -> Result<String, PublishError> {
    let filled = template.fill(|_| user).map_err(|e| PublishError::Subject(template.as_str().into(), e.to_string()))?;
    let leaf = event.and_then(Token::parse);
    let leaf = leaf.as_ref().map_or("message", Token::as_str);
    let tokens: Vec<&str> = filled.tokens().map(|t| if matches!(t, "*" | ">") { leaf } else { t }).collect();
    Ok(tokens.join("."))
}
