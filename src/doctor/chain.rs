//! One request through the chain, and what came back, with times.

use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use super::DoctorError;
use crate::sse::{Event, Parser};
use crate::tail::connect::{Body, ConnectError, Connector};
use crate::tail::target::Target;
use crate::tail::{TailError, error_code, is_event_stream};

/// How long a first frame is waited for; it is promised within 100 ms.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a head is waited for: longer than any proxy takes to find out that its upstream is away.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Between streams, which could otherwise meet the limit of one user's rate, 5 a second unless configured otherwise.
const PACE: Duration = Duration::from_millis(250);
/// Times that a soft refusal is asked again.
const AGAIN: u32 = 4;
/// Of an answer that is no stream.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The way to the stream, and an honest client's headers.
pub(super) struct Chain {
    connector: Connector,
    pub(super) headers: Vec<Header>,
}

/// A request header.
pub(super) type Header = (HeaderName, HeaderValue);

/// Nobody answered.
pub(super) struct Unreachable(pub(super) String);

/// What came back first.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// From the request, with its connection, to the head.
    pub(super) head_after: Duration,
    /// The first event, and when it came.
    pub(super) first: Option<(Event, Duration)>,
    /// What came before the first event, or all of an answer that has none.
    pub(super) body: Vec<u8>,
    /// Whether the answer ended.
    pub(super) ended: bool,
    pub(super) rest: Reading,
}

/// A stream that is being read.
pub(super) struct Reading {
    body: Body,
    parser: Parser,
    waiting: std::collections::VecDeque<Event>,
}

/// What comes next on a stream.
pub(super) enum Next {
    Event(Event),
    End(String),
    Nothing,
}

impl Chain {
    pub(super) fn new(url: &str, headers: Vec<Header>) -> Result<Self, TailError> {
        let target = Target::parse(url).map_err(|why| TailError::url(url.to_owned(), why))?;
        Ok(Self { connector: Connector::new(target, Vec::new())?, headers })
    }

    /// Whether HTTP/2 is offered to browsers.
    pub(super) async fn offers_http2(&self) -> Result<Option<bool>, Unreachable> {
        self.connector.offers_http2().await.map_err(unreachable)
    }

    /// As an honest client asks, with more headers.
    pub(super) async fn honest(&self, method: Method, more: &[Header]) -> Result<Reply, DoctorError> {
        self.ask(method, self.headers.iter().chain(more).cloned().collect()).await
    }

    /// Without anything that says who asks.
    pub(super) async fn nobody(&self, more: &[Header]) -> Result<Reply, DoctorError> {
        let routed = self.headers.iter().filter(|(name, _)| super::is_route(name));
        self.ask(Method::GET, routed.chain(more).cloned().collect()).await
    }

    /// Asks; again where the answer is only that it is too much at the moment.
    async fn ask(&self, method: Method, headers: Vec<Header>) -> Result<Reply, DoctorError> {
        let connector = self.connector.asking(method, headers)?;
        let mut attempt = 0;
        loop {
            let reply = Reply::of(&connector).await?;
            let soft = reply.headers.contains_key("sidestream-refused") && attempt < AGAIN;
            if !soft {
                if reply.is_stream() {
                    tokio::time::sleep(PACE).await;
                }
                return Ok(reply);
            }
            attempt += 1;
            tokio::time::sleep(reply.retry()).await;
        }
    }
}

impl Reply {
    async fn of(connector: &Connector) -> Result<Self, DoctorError> {
        let started = Instant::now();
        let opened = tokio::time::timeout(HEAD_PATIENCE, connector.open(None)).await;
        let response = opened.map_err(|_| DoctorError::NoHead(HEAD_PATIENCE))?.map_err(unreachable)?;
        let head_after = started.elapsed();
        let (head, body) = response.into_parts();
        let rest = Reading { body, parser: Parser::default(), waiting: std::collections::VecDeque::new() };
        let mut reply = Self {
            status: head.status,
            headers: head.headers,
            head_after,
            first: None,
            body: Vec::new(),
            ended: false,
            rest,
        };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while reply.body.len() < BODY_BYTES_MAX {
            let Ok(frame) = tokio::time::timeout_at(deadline, reply.rest.body.frame()).await else { break };
            let Some(Ok(frame)) = frame else {
                reply.ended = true;
                break;
            };
            let Ok(data) = frame.into_data() else { continue };
            reply.body.extend_from_slice(&data);
            let Reading { parser, waiting, .. } = &mut reply.rest;
            parser.feed(&data, |event| waiting.push_back(event));
            if let Some(event) = waiting.pop_front() {
                reply.first = Some((event, started.elapsed()));
                break;
            }
        }
        Ok(reply)
    }

    /// A stream that sidestream opened.
    pub(super) fn is_stream(&self) -> bool {
        self.status == StatusCode::OK
            && self.first.as_ref().is_some_and(|(event, _)| event.name == "sidestream.connected")
    }

    /// `code` of a refusal of sidestream's.
    pub(super) fn code(&self) -> Option<String> {
        error_code(&self.body)
    }

    /// Status and code, in words.
    pub(super) fn said(&self) -> String {
        let code = self.code().map(|code| format!(" {code}")).unwrap_or_default();
        let stream = if self.is_stream() { ", a stream" } else { "" };
        format!("{}{code}{stream}", self.status.as_u16())
    }

    /// A header, where it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether it calls itself an event stream.
    pub(super) fn is_event_stream(&self) -> bool {
        self.header("content-type").is_some_and(is_event_stream)
    }

    /// Whether it keeps an `EventSource` alive and says nothing else: what a proxy answers while the sidecar is away.
    pub(super) fn is_retry_page(&self) -> bool {
        let says_retry = String::from_utf8_lossy(&self.body).lines().any(|line| line.starts_with("retry:"));
        self.status == StatusCode::OK && self.is_event_stream() && self.first.is_none() && self.ended && says_retry
    }

    fn retry(&self) -> Duration {
        let retry = String::from_utf8_lossy(&self.body)
            .lines()
            .find_map(|line| line.strip_prefix("retry:")?.trim().parse().ok());
        Duration::from_millis(retry.unwrap_or(1000)).min(PATIENCE)
    }
}

impl Reading {
    /// The next event, before a moment.
    pub(super) async fn next(&mut self, until: Instant) -> Next {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Next::Event(event);
            }
            match tokio::time::timeout_at(until.into(), self.body.frame()).await {
                Err(_) => return Next::Nothing,
                Ok(None) => return Next::End("it ended".to_owned()),
                Ok(Some(Err(error))) => {
                    return Next::End(format!("it broke: {}", crate::tail::connect::root_cause(&error)));
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        let Self { parser, waiting, .. } = self;
                        parser.feed(&data, |event| waiting.push_back(event));
                    }
                }
            }
        }
    }
}

fn unreachable(error: ConnectError) -> Unreachable {
    match error {
        ConnectError::Tls(why) => Unreachable(format!("TLS: {why}")),
        ConnectError::Network(why) => Unreachable(why),
    }
}
