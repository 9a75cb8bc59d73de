//! Events for one user or for everybody. Progress has a file of its own.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use serde::Serialize;

use crate::Error;
use crate::progress::{Progress, Wire};
use crate::subject::{UserEncoding, is_event_name, is_header_value, is_prefix, is_token, leaf, user_token};

/// Publishes on the application's JetStream context. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    jetstream: Context,
    prefix: String,
    user_encoding: UserEncoding,
    progress_interval: Duration,
    progress_patience: Duration,
}

impl Publisher {
    /// With subjects below `events`, user ids that must be plain tokens, and at most one progress message per 100 ms.
    pub fn new(jetstream: Context) -> Self {
        Self {
            jetstream,
            prefix: "events".to_owned(),
            user_encoding: UserEncoding::default(),
            progress_interval: Duration::from_millis(100),
            progress_patience: Duration::from_secs(60),
        }
    }

    /// Another prefix, such as `app.events`: the sidecar's routes must begin with it.
    pub fn prefix(self, prefix: &str) -> Result<Self, Error> {
        if !is_prefix(prefix) {
            return Err(Error::Prefix(prefix.to_owned()));
        }
        Ok(Self { prefix: prefix.to_owned(), ..self })
    }

    /// What the sidecar's `identity.user_encoding` says.
    pub fn user_encoding(self, user_encoding: UserEncoding) -> Self {
        Self { user_encoding, ..self }
    }

    /// The least time between two messages of a progress that runs.
    pub fn progress_interval(self, progress_interval: Duration) -> Self {
        Self { progress_interval, ..self }
    }

    /// How long the end of a progress is tried again until NATS acknowledges it. Must be less than the stream's
    /// duplicate window (two minutes unless it says otherwise), or the end may be stored twice.
    pub fn progress_patience(self, progress_patience: Duration) -> Self {
        Self { progress_patience, ..self }
    }

    /// Publishes to one user, as JSON, and waits for the stream's acknowledgement. A second message with the same `id`
    /// within the stream's duplicate window is not stored, whoever it is for.
    pub async fn notify<T: Serialize + ?Sized>(
        &self,
        user: &str,
        event: &str,
        data: &T,
        id: Option<&str>,
    ) -> Result<PublishAck, Error> {
        self.publish(self.user_subject(user, event)?, event, data, id).await
    }

    /// The same to everybody.
    pub async fn broadcast<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
        id: Option<&str>,
    ) -> Result<PublishAck, Error> {
        self.publish(self.broadcast_subject(event)?, event, data, id).await
    }

    /// Begins a run of a task that the user watches. Must be called within a tokio runtime.
    pub fn progress(&self, user: &str, task: &str) -> Result<Progress, Error> {
        let user = self.user(user)?;
        if !is_token(task) {
            return Err(Error::Task(task.to_owned()));
        }
        Ok(Progress::start(Wire {
            jetstream: self.jetstream.clone(),
            subject: format!("{}.user.{user}.progress.{task}", self.prefix),
            task: task.to_owned(),
            run: uuid::Uuid::new_v4().to_string(),
            interval: self.progress_interval,
            patience: self.progress_patience,
        }))
    }

    /// The subject of an event for one user.
    pub fn user_subject(&self, user: &str, event: &str) -> Result<String, Error> {
        Ok(format!("{}.user.{}.{}", self.prefix, self.user(user)?, checked_leaf(event)?))
    }

    /// The subject of an event for everybody.
    pub fn broadcast_subject(&self, event: &str) -> Result<String, Error> {
        Ok(format!("{}.broadcast.{}", self.prefix, checked_leaf(event)?))
    }

    fn user(&self, user: &str) -> Result<String, Error> {
        user_token(self.user_encoding, user).ok_or_else(|| Error::User(user.to_owned()))
    }

    async fn publish<T: Serialize + ?Sized>(
        &self,
        subject: String,
        event: &str,
        data: &T,
        id: Option<&str>,
    ) -> Result<PublishAck, Error> {
        let payload = serde_json::to_vec(data).map_err(|e| Error::Data(e.to_string()))?;
        let mut message = PublishMessage::build().header("Sse-Event", event).payload(payload.into());
        if let Some(id) = id {
            if !is_header_value(id) {
                return Err(Error::Id(id.to_owned()));
            }
            message = message.message_id(id);
        }
        Ok(publish(&self.jetstream, &subject, message).await?)
    }
}

/// Publishes and waits for the acknowledgement.
pub async fn publish(jetstream: &Context, subject: &str, message: PublishMessage) -> Result<PublishAck, PublishError> {
    jetstream.send_publish(subject.to_owned(), message).await?.await
}

fn checked_leaf(event: &str) -> Result<&str, Error> {
    if is_event_name(event) { Ok(leaf(event)) } else { Err(Error::Event(event.to_owned())) }
}
