//! `sidestream tail URL`: a well-behaved reader of event streams on the command line.
//!
//! It does what a browser's `EventSource` does (reconnects after the stream's `retry:`, resumes with the last event ID,
//! stops on 204) and what a browser cannot: it backs off with jitter, notices a connection that died without a word, and
//! says why it stops. Tests and canaries use it too (`--json`, `--exit-after`, `--timeout`). Parsing is left to
//! [`crate::sse`], one connection to [`connect`], what a line looks like to [`print`], choosing the exit code to the caller.

mod backoff;
pub(crate) mod connect;
mod print;
pub(crate) mod target;

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use crate::frame::RESERVED_PREFIX;
use crate::sse::{Event, Parser};
use backoff::Backoff;
use connect::{Body, ConnectError, Connector};
use print::Printer;
use target::Target;

/// How long a refusal's body may take and how large it may be; it only serves the message.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
const REFUSAL_BYTES_MAX: usize = 4096;
/// Silence of this many heartbeats means that the connection is dead, though nobody said so.
const SILENT_HEARTBEATS: f64 = 2.5;

/// What to read and when to stop.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `http://` or `https://`. For https the platform's certificates count, or those of `SSL_CERT_FILE`.
    pub url: String,
    /// Extra request headers, each `Name: value`; they replace ours of the same name.
    pub headers: Vec<String>,
    /// Resume after this ID, as if we had been here before.
    pub last_event_id: Option<String>,
    /// One JSON object per event instead of a readable line.
    pub json: bool,
    /// Stop after this many events; those of `sidestream.*` do not count.
    pub exit_after: Option<u64>,
    /// Stop after this long.
    pub timeout: Option<Duration>,
}

/// Why the reader stopped, when nothing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `exit_after` events were printed.
    Counted,
    /// `timeout` passed first.
    TimedOut,
    /// The server answered 204: there is nothing to come back for.
    NoContent,
    /// Whoever read our output has gone (`tail … | head`).
    OutputClosed,
}

/// Why the reader stopped, when trying again is pointless.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The URL is not one we can read.
    #[error("`{url}`: {why}")]
    Url {
        /// As given, or hidden.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An extra header that is none.
    #[error("`{0}` is not a header; write `Name: value`")]
    Header(String),
    /// The last event ID cannot be sent.
    #[error("this last event ID cannot stand in a header")]
    LastEventId,
    /// The server refused for good.
    #[error("the server answered {status}{}", detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
    Refused {
        /// The status.
        status: u16,
        /// The error code of the answer's body, or where a redirect points.
        detail: Option<String>,
    },
    /// 200, but not an event stream.
    #[error("the answer is not an event stream but `{0}`")]
    NotAnEventStream(String),
    /// The server's certificate was not accepted, or TLS could not be set up here.
    #[error("TLS: {0}")]
    Tls(String),
    /// Printing failed.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
}

impl TailError {
    /// A URL is told as it was given, but for one that may hold a password.
    pub(crate) fn url(url: String, why: &'static str) -> Self {
        let url = if url.contains('@') { "[redacted]".to_owned() } else { url };
        Self::Url { url, why }
    }
}

/// Reads until something in [`Options`] says stop, the server does, or trying again is pointless.
pub async fn run(options: Options, out: &mut impl Write) -> Result<Outcome, TailError> {
    let timeout = options.timeout;
    let mut reader = Reader::new(options, out)?;
    let read = reader.read();
    match timeout {
        Some(limit) => tokio::time::timeout(limit, read).await.unwrap_or(Ok(Stop::TimedOut)),
        None => read.await,
    }
    .map(Into::into)
    .or_else(closed_output_is_no_error)
}

/// `tail … | head` ends with a broken pipe, which is how a reader says that it has enough.
fn closed_output_is_no_error(error: TailError) -> Result<Outcome, TailError> {
    match error {
        TailError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::OutputClosed),
        error => Err(error),
    }
}

enum Stop {
    Counted,
    TimedOut,
    NoContent,
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Counted => Self::Counted,
            Stop::TimedOut => Self::TimedOut,
            Stop::NoContent => Self::NoContent,
        }
    }
}

/// How one connection ended.
enum Ended {
    /// For good.
    Stop(Stop),
    /// The server ended it or refused softly; it may have said when to come back.
    Clean,
    /// It broke, or never came up; the text says how.
    Broken(String),
}

struct Reader<'o, W> {
    connector: Connector,
    printer: Printer<'o, W>,
    backoff: Backoff,
    parser: Parser,
    /// The ID of the last event that was *printed*. The parser's own already counts an ID whose event was cut in half;
    /// resuming from that one would skip the event.
    last_event_id: Option<String>,
    /// Silence after which a connection counts as dead; known once the server has said how often it sends heartbeats.
    silence: Option<Duration>,
    remaining: Option<u64>,
}

impl<'o, W: Write> Reader<'o, W> {
    fn new(options: Options, out: &'o mut W) -> Result<Self, TailError> {
        let headers = options.headers.iter().map(|header| parse_header(header)).collect::<Result<_, _>>()?;
        let target = Target::parse(&options.url).map_err(|why| TailError::url(options.url, why))?;
        Ok(Self {
            connector: Connector::new(target, headers)?,
            printer: Printer::new(out, options.json),
            backoff: Backoff::default(),
            parser: Parser::default(),
            last_event_id: options.last_event_id.filter(|id| !id.is_empty()),
            silence: None,
            remaining: options.exit_after,
        })
    }

    async fn read(&mut self) -> Result<Stop, TailError> {
        if self.remaining == Some(0) {
            return Ok(Stop::Counted);
        }
        loop {
            match self.read_one_connection().await? {
                Ended::Stop(stop) => return Ok(stop),
                Ended::Clean => {}
                Ended::Broken(why) => {
                    self.backoff.failed();
                    self.printer.note(&why).map_err(TailError::Output)?;
                }
            }
            self.parser.end_of_stream();
            let retry = self.parser.retry().map(Duration::from_millis);
            let delay = self.backoff.delay(retry, fastrand::f64());
            self.printer.reconnecting(delay).map_err(TailError::Output)?;
            tokio::time::sleep(delay).await;
        }
    }

    async fn read_one_connection(&mut self) -> Result<Ended, TailError> {
        self.silence = None;
        let last_event_id = match &self.last_event_id {
            Some(id) => Some(HeaderValue::from_bytes(id.as_bytes()).map_err(|_| TailError::LastEventId)?),
            None => None,
        };
        let response = match self.connector.open(last_event_id).await {
            Ok(response) => response,
            Err(ConnectError::Tls(why)) => return Err(TailError::Tls(why)),
            Err(ConnectError::Network(why)) => return Ok(Ended::Broken(why)),
        };
        match verdict(&response) {
            Verdict::Stream => self.read_stream(response.into_body()).await,
            Verdict::RefusedSoftly(reason) => {
                self.backoff.failed();
                self.printer.note(&format!("refused for now ({reason})")).map_err(TailError::Output)?;
                self.read_stream(response.into_body()).await
            }
            Verdict::Later(after) => {
                self.backoff.at_least(after);
                Ok(Ended::Broken(format!("the server answered {}", response.status().as_u16())))
            }
            Verdict::NoContent => Ok(Ended::Stop(Stop::NoContent)),
            Verdict::NotAnEventStream(kind) => Err(TailError::NotAnEventStream(kind)),
            Verdict::Never => Err(refusal(response).await),
        }
    }

    async fn read_stream(&mut self, mut body: Body) -> Result<Ended, TailError> {
        loop {
            let piece = match self.next_piece(&mut body).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(Ended::Clean),
                Err(why) => return Ok(Ended::Broken(why)),
            };
            let mut events = Vec::new();
            self.parser.feed(&piece, |event| events.push(event));
            for event in events {
                if self.take(event)? {
                    return Ok(Ended::Stop(Stop::Counted));
                }
            }
        }
    }

    async fn next_piece(&self, body: &mut Body) -> Result<Option<Bytes>, String> {
        loop {
            let frame = match self.silence {
                Some(limit) => tokio::time::timeout(limit, body.frame())
                    .await
                    .map_err(|_| format!("silent for {:.1} s, though heartbeats were promised", limit.as_secs_f64()))?,
                None => body.frame().await,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(format!("the connection broke: {}", connect::root_cause(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Prints an event and accounts for it; true when it was the last one wanted.
    fn take(&mut self, event: Event) -> Result<bool, TailError> {
        self.backoff.succeeded();
        if event.name == "sidestream.connected" {
            self.silence = heartbeat_interval(&event.data).map(|interval| interval.mul_f64(SILENT_HEARTBEATS));
        }
        self.printer.event(&event).map_err(TailError::Output)?;
        if let Some(id) = event.id {
            self.last_event_id = Some(id).filter(|id| !id.is_empty());
        }
        if event.name.starts_with(RESERVED_PREFIX) {
            return Ok(false);
        }
        self.remaining = self.remaining.map(|left| left - 1);
        Ok(self.remaining == Some(0))
    }
}

/// What an answer's head asks of us.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stream,
    /// 200 and `Sidestream-Refused`: a limit, a drain, NATS away. The body only says when to come back.
    RefusedSoftly(String),
    NoContent,
    /// Overload or a proxy without its upstream.
    Later(Option<Duration>),
    NotAnEventStream(String),
    Never,
}

fn verdict<B>(response: &Response<B>) -> Verdict {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let status = response.status();
    match status {
        StatusCode::NO_CONTENT => Verdict::NoContent,
        StatusCode::OK => {
            let kind = header(CONTENT_TYPE.as_str()).unwrap_or("nothing named");
            if let Some(reason) = header("sidestream-refused") {
                Verdict::RefusedSoftly(reason.to_owned())
            } else if is_event_stream(kind) {
                Verdict::Stream
            } else {
                Verdict::NotAnEventStream(kind.to_owned())
            }
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Later(header(RETRY_AFTER.as_str()).and_then(retry_after))
        }
        _ if status.is_server_error() => Verdict::Later(header(RETRY_AFTER.as_str()).and_then(retry_after)),
        _ => Verdict::Never,
    }
}

pub(crate) fn is_event_stream(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/event-stream")
}

/// Only the form in seconds: the date form says nothing that a backoff would not do as well.
fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Turns a final answer into an error that names the cause, as far as the answer tells it.
async fn refusal(response: Response<Body>) -> TailError {
    let status = response.status().as_u16();
    let location = response.headers().get("location").and_then(|value| value.to_str().ok());
    let redirect = location.map(|place| format!("it points to {place}, and redirects are not followed"));
    let read = http_body_util::Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect();
    let body = match tokio::time::timeout(REFUSAL_TIMEOUT, read).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    TailError::Refused { status, detail: redirect.or_else(|| error_code(&body)) }
}

/// `code` of a refusal of ours: `{"error":{"code":…}}`.
pub(crate) fn error_code(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body.pointer("/error/code")?.as_str().map(crate::text::printable)
}

pub(crate) fn heartbeat_interval(connected: &str) -> Option<Duration> {
    let data: serde_json::Value = serde_json::from_str(connected).ok()?;
    data.get("heartbeat")?.as_u64().filter(|seconds| (1..=86_400).contains(seconds)).map(Duration::from_secs)
}

fn parse_header(header: &str) -> Result<(HeaderName, HeaderValue), TailError> {
    let parsed = header.split_once(':').and_then(|(name, value)| {
        Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, HeaderValue::from_str(value.trim()).ok()?))
    });
    parsed.ok_or_else(|| TailError::Header(header.to_owned()))
}

#[cfg(test)]
mod tests;
