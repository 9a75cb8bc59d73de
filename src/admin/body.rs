//! The JSON that a request brings: bounded in bytes and in time, and read strictly.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::Refusal;
use crate::frame::checked_name;

/// Time for a body to arrive whole. With it, an acknowledgement and a count a request fits the time that it has in all.
const BODY_TIMEOUT: Duration = Duration::from_millis(1500);

/// What is published or sent.
#[derive(Debug)]
pub struct Message {
    /// Its name; `None` is `message`.
    pub event: Option<String>,
    /// Its data: a string as it is, any other JSON value as its JSON text.
    pub data: String,
}

impl Message {
    /// Reads one of at most so many bytes.
    pub async fn read(body: Incoming, bytes_max: usize) -> Result<Self, Refusal> {
        Self::parse(&whole(body, bytes_max).await?)
    }

    fn parse(json: &[u8]) -> Result<Self, Refusal> {
        let bad = |why: &dyn std::fmt::Display| {
            let message =
                format!("the body is {{\"event\": a name, may be left out, \"data\": any JSON value}}: {why}");
            Refusal::new(StatusCode::BAD_REQUEST, "bad_body", message)
        };
        // Two values in a list would be read as these two otherwise.
        if json.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(bad(&"not an object"));
        }
        let Written { event, data } = serde_json::from_slice(json).map_err(|error| bad(&error))?;
        // NATS would trim it.
        let is_name = |event: &String| checked_name(event).is_some() && event.trim() == event;
        if !event.as_ref().is_none_or(is_name) {
            let message = "`event` is a name of 1 to 256 bytes, without control characters and without blanks at its ends, \
                 that does not begin with `sidestream.`";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_event", message));
        }
        let data = match data.get() {
            // Half of a surrogate pair is no text: known only when it is decoded.
            string if string.starts_with('"') => serde_json::from_str(string).map_err(|error| bad(&error))?,
            other => other.to_owned(),
        };
        Ok(Self { event, data })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    event: Option<String>,
    data: Box<RawValue>,
}

/// A body of at most so many bytes. One that says itself that it is larger is not read at all.
async fn whole(body: Incoming, bytes_max: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        let message = format!("at most {bytes_max} bytes (limits.event_bytes)");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_body", "the body breaks off")),
        Err(_) => {
            let message = format!("the body was not here within {BODY_TIMEOUT:?}");
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_sent_as_it_is_and_anything_else_as_its_text() {
        for (data, sent) in [
            (r#""two\nlines""#, "two\nlines"),
            (r#""""#, ""),
            ("null", "null"),
            ("1.50", "1.50"),
            (r#"{"b": [1, "\u0041"],"a":{}}"#, r#"{"b": [1, "\u0041"],"a":{}}"#),
        ] {
            let message = Message::parse(format!("{{\"data\":{data}}}").as_bytes()).expect("a message");
            assert_eq!((message.event, message.data.as_str()), (None, sent));
        }
        assert!(Message::parse(br#"{"data":"\ud800"}"#).is_err());
    }
}
