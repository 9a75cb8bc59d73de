//! Why something was not published.

/// Each refusal says what is allowed. Nothing was sent where a value was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The prefix of all subjects.
    #[error("{0:?} is not a subject prefix: plain tokens with dots between them, at most 128 bytes, `_` not first")]
    Prefix(String),
    /// The user id, with the encoding in use.
    #[error(
        "{0:?} is not a user id: one plain subject token, or visible ASCII where ids are encoded; 128 bytes at most"
    )]
    User(String),
    /// The event's name.
    #[error(
        "{0:?} is not an event name: 1 to 256 bytes, no control characters, no white space at its ends, not `sidestream.`"
    )]
    Event(String),
    /// What tells a repeated message from a new one.
    #[error("{0:?} is not a message id: 1 to 256 bytes, no control characters, no white space at its ends")]
    Id(String),
    /// The task's id.
    #[error("{0:?} is not a task id: one plain subject token of at most 128 bytes")]
    Task(String),
    /// The data cannot be JSON.
    #[error("the data cannot be written as JSON: {0}")]
    Data(String),
    /// NATS refused the message, or no acknowledgement came: it may or may not be stored.
    #[error("NATS: {0}")]
    Nats(String),
}

impl From<async_nats::jetstream::context::PublishError> for Error {
    fn from(error: async_nats::jetstream::context::PublishError) -> Self {
        Self::Nats(error.to_string())
    }
}
