//! The two lines of an event stream in the log: one when it opens, one when it ends.
//!
//! They are the only ones that are written for each client at `info`, and have a target of their own, so that a filter can leave
//! them out: `info,sidestream::access=off`. Who a user is, what was asked and what is sent stand in neither: a user is a hash.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use uuid::Uuid;

use super::metrics::{CloseReason, Phase, Proof, Protocol};
use super::otel::Admission;
use crate::frame::notice::Resume;

/// The target of both lines.
pub const TARGET: &str = "sidestream::access";
/// Bytes of the hash of a user that are shown: enough to tell users apart.
const HASH_BYTES: usize = 8;

/// What is known of a request for a stream, until its line is written.
#[derive(Debug)]
pub struct Arrival {
    /// When its head had been read.
    pub at: Instant,
    /// What kind of peer sent it.
    pub peer: &'static str,
    /// The client's address, where it is known.
    pub address: Option<IpAddr>,
    /// Why the proxy was believed, where it spoke for somebody.
    pub proof: Option<Proof>,
    /// Whether it told of a last event.
    pub resumes: bool,
    /// How old that event was, where the cursor tells it.
    pub age: Option<Duration>,
    /// The trace it belongs to.
    pub trace: Option<Box<str>>,
    /// Its span, which ends when the line is written.
    pub admission: Admission,
}

/// A stream, as both lines name it.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'s> {
    /// Its public id.
    pub connection: Uuid,
    /// Path of its route, as configured.
    pub route: &'s str,
    /// Whose it is.
    pub user: Option<&'s str>,
    /// How it is connected.
    pub protocol: Protocol,
}

/// How a stream was, when it ended.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// Why.
    pub reason: CloseReason,
    /// How far it was.
    pub phase: Phase,
    /// Since its request.
    pub lasted: Duration,
    /// Events and notices written or queued.
    pub events: u64,
    /// Bytes handed to its socket or connection.
    pub bytes: u64,
}

/// A stream has opened.
pub fn opened(stream: Stream<'_>, arrival: &Arrival, resume: Resume) {
    tracing::info!(
        target: TARGET,
        connection = %stream.connection,
        route = stream.route,
        user_hash = stream.user.map(hash),
        proof = arrival.proof.map(Proof::label),
        protocol = stream.protocol.label(),
        peer = arrival.peer,
        client = arrival.address.map(tracing::field::display),
        last_event_id = arrival.resumes,
        resume = resume.label(),
        trace_id = arrival.trace.as_deref(),
        "Stream opened"
    );
}

/// A stream has ended.
pub fn closed(stream: Stream<'_>, ending: Ending) {
    tracing::info!(
        target: TARGET,
        connection = %stream.connection,
        route = stream.route,
        user_hash = stream.user.map(hash),
        protocol = stream.protocol.label(),
        duration_ms = u64::try_from(ending.lasted.as_millis()).unwrap_or(u64::MAX),
        events = ending.events,
        bytes = ending.bytes,
        reason = ending.reason.label(),
        phase = ending.phase.label(),
        "Stream closed"
    );
}

/// The first 16 hexadecimal digits of the SHA-256 of a user's id: the same user is the same everywhere and always.
pub fn hash(user: &str) -> String {
    digest(&SHA256, user.as_bytes()).as_ref().iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// The trace id of a `traceparent` header (W3C Trace Context): the second field, 32 lower-case hexadecimal digits of which not
/// all are zero. `None` for anything else: others wrote it.
pub fn trace_id(traceparent: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut fields = text.split('-');
    let (version, trace) = (fields.next()?, fields.next()?);
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    (is_hex(version, 2) && is_hex(trace, 32) && trace.bytes().any(|b| b != b'0')).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_short_hash() {
        // printf alice | sha256sum
        assert_eq!(hash("alice"), "2bd806c97f0e00af");
        assert_ne!(hash("alice"), hash("alicE"));
    }

    #[test]
    fn only_a_trace_id_is_taken_for_one() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(format!("00-{id}-00f067aa0ba902b7-01").as_bytes()), Some(id));
        assert_eq!(trace_id(format!("cc-{id}-00f067aa0ba902b7-01-what-follows").as_bytes()), Some(id));
        let upper = format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase());
        let zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for bad in [upper.as_str(), &zero, "", "00", "00-", "00-1234-5-01", "zz-4bf92f3577b34da6a3ce929d0e0e4736-0-1"] {
            assert_eq!(trace_id(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(trace_id(b"00-\xff"), None);
    }
}
