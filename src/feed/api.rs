//! The JetStream requests we make, typed. Only this file spells `$JS.API`.
//!
//! Names that reach a subject are checked when the configuration is read; everything else goes into JSON by serde.
//! Requests are raw on purpose: async-nats' own consumers were seen to lose and to replay (`docs/nats.md`), and raw JSON
//! answers (headers in base64) are immune to messages that its parser refuses.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Client;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use crate::config;
use crate::cursor::Position;

/// How often a consumer's deletion is asked for, and the first wait between, doubled each time: half a minute in all.
const FORGET_ATTEMPTS: u32 = 5;
const FORGET_RETRY: Duration = Duration::from_secs(1);

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer in time, or no connection.
    #[error("no answer from JetStream ({0})")]
    Unanswered(String),
    /// JetStream is off for this account.
    #[error("JetStream is not enabled for this account")]
    NoJetStream,
    /// No stream captures the subject that was published to.
    #[error("no stream captures the subject")]
    NotCaptured,
    /// JetStream said no.
    #[error("JetStream refused: {description} (code {code}, {err_code})")]
    Refused {
        /// HTTP-like code.
        code: u16,
        /// JetStream's own code.
        err_code: u32,
        /// In words.
        description: String,
    },
    /// Something else than promised.
    #[error("an answer from JetStream could not be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl ApiError {
    /// The stream, message or consumer does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}

/// `STREAM.INFO`.
#[derive(Debug, Clone, Deserialize)]
pub struct StreamInfo {
    /// As configured.
    pub config: StreamConfig,
    /// Creation time as the server writes it; part of the epoch.
    pub created: String,
    /// What it holds.
    pub state: StreamState,
    /// The server's time, nanoseconds since 1970; 0 from an old one, which does not tell it.
    #[serde(default, deserialize_with = "time")]
    pub ts: u64,
}

impl StreamInfo {
    /// When it was created, nanoseconds since 1970; 0 where that cannot be read.
    pub fn created_at(&self) -> u64 {
        nanoseconds(&self.created).unwrap_or(0)
    }
}

/// The part of a stream's configuration that matters here.
#[derive(Debug, Clone, Deserialize)]
pub struct StreamConfig {
    /// `limits`, `interest` or `workqueue`.
    pub retention: String,
    /// Servers that keep it.
    #[serde(default)]
    pub num_replicas: u32,
    /// Its subjects.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// Nanoseconds; 0 is for ever.
    #[serde(default)]
    pub max_age: u64,
    /// -1 is unlimited.
    #[serde(default)]
    pub max_bytes: i64,
    /// -1 is unlimited.
    #[serde(default)]
    pub max_msgs: i64,
    /// -1 is unlimited.
    #[serde(default)]
    pub max_msgs_per_subject: i64,
    /// Of one message; -1 is unlimited.
    #[serde(default)]
    pub max_msg_size: i64,
    /// `new` refuses messages at a limit instead of dropping the oldest.
    #[serde(default)]
    pub discard: String,
    /// The same for the limit per subject, which otherwise always drops the oldest.
    #[serde(default)]
    pub discard_new_per_subject: bool,
    /// Messages may say how long they are kept.
    #[serde(default)]
    pub allow_msg_ttl: bool,
    /// It is a copy of another stream.
    #[serde(default)]
    pub mirror: Option<IgnoredAny>,
}

/// What a stream holds.
#[derive(Debug, Clone, Deserialize)]
pub struct StreamState {
    /// Number of messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// First sequence, or last + 1 when empty.
    pub first_seq: u64,
    /// Last sequence ever given.
    pub last_seq: u64,
    /// When that message was stored, be it still there or not, nanoseconds since 1970; 0 where there was none.
    #[serde(default, deserialize_with = "time")]
    pub last_ts: u64,
    /// Subjects of its messages, where they were asked for, with the number of messages.
    #[serde(default)]
    pub subjects: HashMap<String, IgnoredAny>,
}

/// `CONSUMER.CREATE`.
#[derive(Debug, Clone, Deserialize)]
pub struct ConsumerInfo {
    /// Its name, given by the server.
    pub name: String,
    /// Where it starts: the stream sequence is one below the first it will deliver, after clamping.
    pub delivered: Delivered,
    /// Messages that wait.
    pub num_pending: u64,
}

/// Sequences of the last delivery.
#[derive(Debug, Clone, Deserialize)]
pub struct Delivered {
    /// In the consumer.
    pub consumer_seq: u64,
    /// In the stream.
    pub stream_seq: u64,
}

/// A message read by `STREAM.MSG.GET`, decoded as far as it can be.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// As JSON could carry it: bytes that are not UTF-8 stand as U+FFFD.
    pub subject: String,
    /// Whether that is how it was sent.
    pub subject_is_utf8: bool,
    /// Its sequence.
    pub seq: u64,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its header block as it was sent.
    pub headers: Vec<u8>,
    /// Nanoseconds since 1970; 0 where the server's text could not be read.
    pub time: u64,
}

impl StoredMessage {
    /// Where it stands.
    pub fn at(&self) -> Position {
        Position { seq: self.seq, time: self.time }
    }
}

#[derive(Deserialize)]
struct Failure {
    code: u16,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Failed {
    error: Option<Failure>,
}

/// The stream's configuration and state, from its leader.
pub async fn stream_info(client: &Client, stream: &str) -> Result<StreamInfo, ApiError> {
    request(client, format!("$JS.API.STREAM.INFO.{stream}"), Bytes::new()).await
}

/// The same with the subjects under a pattern of which it has messages, at most 100 000. An old server looks at every subject
/// of the stream for it.
pub async fn stream_subjects(client: &Client, stream: &str, pattern: &str) -> Result<StreamInfo, ApiError> {
    let body = json!({ "subjects_filter": pattern }).to_string();
    request(client, format!("$JS.API.STREAM.INFO.{stream}"), body.into()).await
}

/// The name of the stream that captures a subject, if any.
pub async fn stream_of(client: &Client, subject: &str) -> Result<Option<String>, ApiError> {
    #[derive(Deserialize)]
    struct Names {
        #[serde(default)]
        streams: Option<Vec<String>>,
    }
    let body = json!({ "subject": subject }).to_string();
    let names: Names = request(client, "$JS.API.STREAM.NAMES".to_owned(), body.into()).await?;
    Ok(names.streams.unwrap_or_default().into_iter().next())
}

/// Where JetStream stored a message.
#[derive(Debug, Clone, Deserialize)]
pub struct Stored {
    /// The stream.
    pub stream: String,
    /// The sequence.
    pub seq: u64,
    /// It was there already, under the same `Nats-Msg-Id`: this is where.
    #[serde(default)]
    pub duplicate: bool,
}

/// Publishes to a subject that a stream captures, and waits for the acknowledgement.
pub async fn publish(
    client: &Client,
    subject: String,
    headers: async_nats::HeaderMap,
    payload: Bytes,
) -> Result<Stored, ApiError> {
    let sent = client.request_with_headers(subject, headers, payload).await;
    let answer = sent.map_err(|error| match error.kind() {
        // Said by the client, which knows the server's bound.
        async_nats::RequestErrorKind::MaxPayloadExceeded => ApiError::Refused {
            code: 413,
            err_code: 0,
            description: "the message is larger than the server's max_payload".to_owned(),
        },
        async_nats::RequestErrorKind::NoResponders => ApiError::NotCaptured,
        _ => unanswered(error),
    })?;
    read(&answer)
}

/// Creates a stream as `[[stream]]` describes it.
pub async fn stream_create(client: &Client, stream: &config::Stream) -> Result<StreamInfo, ApiError> {
    let nanos = u64::try_from(stream.max_age.as_nanos()).unwrap_or(u64::MAX);
    let max_bytes = if stream.max_bytes == 0 { -1 } else { i64::try_from(stream.max_bytes).unwrap_or(i64::MAX) };
    let body = json!({
        "name": stream.name, "subjects": stream.subjects, "retention": "limits", "storage": "file", "discard": "old",
        "max_age": nanos, "max_bytes": max_bytes, "max_msgs": -1, "max_msgs_per_subject": -1, "max_msg_size": -1,
        "max_consumers": -1, "num_replicas": 1, "allow_direct": true,
    });
    request(client, format!("$JS.API.STREAM.CREATE.{}", stream.name), body.to_string().into()).await
}

/// Creates the feed's push consumer: unfiltered, no acknowledgement, memory, flow control, heartbeat of one second.
/// Must go out on the connection that has just subscribed to `deliver_subject`.
pub async fn consumer_create(
    client: &Client,
    stream: &str,
    deliver_subject: &str,
    start_seq: u64,
) -> Result<ConsumerInfo, ApiError> {
    const SECOND: u64 = 1_000_000_000;
    let body = json!({"stream_name": stream, "config": {
        "deliver_subject": deliver_subject, "deliver_policy": "by_start_sequence", "opt_start_seq": start_seq,
        "ack_policy": "none", "replay_policy": "instant", "mem_storage": true, "num_replicas": 1,
        "flow_control": true, "idle_heartbeat": SECOND, "inactive_threshold": 10 * SECOND,
    }});
    request(client, format!("$JS.API.CONSUMER.CREATE.{stream}"), body.to_string().into()).await
}

/// A subject under which nobody waits for a sign of flow control, to see whether one may be given.
pub fn flow_control_probe(stream: &str) -> String {
    format!("$JS.FC.{stream}.sidestream.check")
}

/// A request on a stream that does not exist, to see whether such requests are allowed.
pub fn of_no_stream(request: &str) -> String {
    format!("$JS.API.STREAM.{request}.sidestream-check-{:016x}", fastrand::u64(..))
}

/// Creates a pull consumer for one pass over the past: no acknowledgement, memory, gone by itself when not used.
pub async fn pull_consumer_create(client: &Client, stream: &str, start_seq: u64) -> Result<ConsumerInfo, ApiError> {
    let body = json!({"stream_name": stream, "config": {
        "deliver_policy": "by_start_sequence", "opt_start_seq": start_seq, "ack_policy": "none",
        "replay_policy": "instant", "mem_storage": true, "num_replicas": 1, "inactive_threshold": 30_000_000_000u64,
    }});
    request(client, format!("$JS.API.CONSUMER.CREATE.{stream}"), body.to_string().into()).await
}

/// Asks a pull consumer for what is there, to an inbox; ends with a status when there is less. `bytes` of 0 is no bound.
pub async fn pull(
    client: &Client,
    stream: &str,
    consumer: &str,
    inbox: &str,
    batch: usize,
    bytes: usize,
) -> Result<(), ApiError> {
    let mut body = json!({"batch": batch, "no_wait": true});
    if bytes > 0 {
        body["max_bytes"] = bytes.into();
    }
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    let sent = client.publish_with_reply(subject, inbox.to_owned(), body.to_string().into()).await;
    sent.map_err(|error| ApiError::Unanswered(error.to_string()))
}

/// Asks for a consumer's deletion without waiting; the server also does it by itself when nobody listens.
pub async fn consumer_delete(client: &Client, stream: &str, consumer: &str) {
    let _ = client.publish(format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"), Bytes::new()).await;
}

/// The same in the background, some times over if need be: whoever has lost a consumer does not wait for its end, and a cluster that
/// has lost servers may keep one for longer than it says. Runs on the current local runtime.
pub fn consumer_forget(client: Client, stream: String, consumer: String) {
    tokio::task::spawn_local(async move {
        for attempt in 0..FORGET_ATTEMPTS {
            let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
            let answer: Result<IgnoredAny, ApiError> = request(&client, subject, Bytes::new()).await;
            // Any other refusal says that there is none.
            let away = matches!(
                answer,
                Err(ApiError::Unanswered(_) | ApiError::NoJetStream | ApiError::Refused { code: 503, .. })
            );
            if !away {
                return;
            }
            tokio::time::sleep(FORGET_RETRY * 2u32.pow(attempt)).await;
        }
    });
}

/// The message at exactly `seq`; `None` if there is none.
pub async fn message_at(client: &Client, stream: &str, seq: u64) -> Result<Option<StoredMessage>, ApiError> {
    message(client, stream, json!({ "seq": seq })).await
}

/// The first message at or after `seq`; `None` if there is none.
pub async fn message_from(client: &Client, stream: &str, seq: u64) -> Result<Option<StoredMessage>, ApiError> {
    message(client, stream, json!({"seq": seq, "next_by_subj": ">"})).await
}

/// The last message on a subject; `None` if there is none.
pub async fn last_message(client: &Client, stream: &str, subject: &str) -> Result<Option<StoredMessage>, ApiError> {
    message(client, stream, json!({ "last_by_subj": subject })).await
}

async fn message(client: &Client, stream: &str, body: serde_json::Value) -> Result<Option<StoredMessage>, ApiError> {
    let Some(mut message) = raw_message(client, stream, body).await? else { return Ok(None) };
    // In place of bytes that are not UTF-8, or sent like that. A subject that is asked for is compared byte by byte.
    if message.subject.contains(char::REPLACEMENT_CHARACTER) {
        let body = json!({"seq": message.seq, "next_by_subj": message.subject});
        let found = raw_message(client, stream, body).await?;
        message.subject_is_utf8 = found.is_some_and(|found| found.seq == message.seq);
    }
    Ok(Some(message))
}

async fn raw_message(
    client: &Client,
    stream: &str,
    body: serde_json::Value,
) -> Result<Option<StoredMessage>, ApiError> {
    #[derive(Deserialize)]
    struct Answer {
        message: Raw,
    }
    #[derive(Deserialize)]
    struct Raw {
        subject: String,
        seq: u64,
        #[serde(default)]
        data: String,
        #[serde(default)]
        hdrs: String,
        time: String,
    }
    let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
    match request::<Answer>(client, subject, body.to_string().into()).await {
        Ok(Answer { message }) => Ok(Some(StoredMessage {
            subject: message.subject,
            subject_is_utf8: true,
            seq: message.seq,
            payload: STANDARD.decode(message.data).unwrap_or_default(),
            headers: STANDARD.decode(message.hdrs).unwrap_or_default(),
            time: nanoseconds(&message.time).unwrap_or(0),
        })),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn request<T: for<'a> Deserialize<'a>>(client: &Client, subject: String, body: Bytes) -> Result<T, ApiError> {
    read(&client.request(subject, body).await.map_err(unanswered)?)
}

#[allow(clippy::needless_pass_by_value)] // the shape of `map_err`
fn unanswered(error: async_nats::RequestError) -> ApiError {
    match error.kind() {
        async_nats::RequestErrorKind::NoResponders => ApiError::NoJetStream,
        _ => ApiError::Unanswered(error.to_string()),
    }
}

fn read<T: for<'a> Deserialize<'a>>(answer: &async_nats::Message) -> Result<T, ApiError> {
    // JSON with a subject that is not UTF-8 would not be read at all; the server's encoder has replaced such bytes.
    let text = String::from_utf8_lossy(&answer.payload);
    if let Some(failure) = serde_json::from_str::<Failed>(&text)?.error {
        return Err(ApiError::Refused {
            code: failure.code,
            err_code: failure.err_code,
            description: failure.description,
        });
    }
    Ok(serde_json::from_str(&text)?)
}

/// Nanoseconds since 1970 of an RFC 3339 time.
fn nanoseconds(text: &str) -> Option<u64> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos()).ok()
}

fn time<'de, D: Deserializer<'de>>(text: D) -> Result<u64, D::Error> {
    Ok(nanoseconds(&String::deserialize(text)?).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_server_are_read_to_the_nanosecond() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2023-11-14T22:13:20.000000001Z", Some(1_700_000_000_000_000_001)),
            ("2023-11-14T22:13:20.12Z", Some(1_700_000_000_120_000_000)),
            ("2024-02-29T12:00:00Z", Some(1_709_208_000_000_000_000)),
            ("0001-01-01T00:00:00Z", None),
            ("yesterday", None),
        ];
        for (text, expected) in cases {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
