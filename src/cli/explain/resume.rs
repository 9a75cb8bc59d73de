//! What becomes of a last event ID: its form alone, or with what NATS holds. The decision is `crate::resume`'s.

use std::sync::Arc;

use async_nats::Client;

use crate::cursor::{Cursor, Epoch, LastEventId, Position};
use crate::event::{Event, Frames};
use crate::feed::api::{self, ApiError};
use crate::frame::Frame;
use crate::log::Log;
use crate::resume::{self, Verdict};

/// A decision, or what is known of it.
pub(super) struct Resume {
    /// `new`, `exact`, `gap`, or `unknown` without NATS.
    pub(super) outcome: &'static str,
    /// In words.
    pub(super) why: String,
}

impl Resume {
    fn of(outcome: &'static str, why: impl Into<String>) -> Self {
        Self { outcome, why: why.into() }
    }

    /// The same on a route whose streams begin with last values, unless they go on exactly.
    pub(super) fn with_last_values(mut self) -> Self {
        if matches!(self.outcome, "new" | "gap") {
            self.why.push_str("; the last message of each subject comes first, then `sidestream.synced`");
        }
        self
    }

    /// As far as the ID itself tells.
    pub(super) fn without_nats(has_stream: bool, last: LastEventId) -> Self {
        match last {
            _ if !has_stream => Self::of("new", "the route has no stream: nothing is replayed"),
            LastEventId::Absent => Self::of("new", "no last event ID: events follow from the stream's head"),
            LastEventId::Unknown => Self::of(
                "gap",
                "the last event ID is no cursor of ours: gap `cursor_unknown`, then from the stream's head",
            ),
            LastEventId::Cursor(Cursor { at: Position { seq, .. }, .. }) => Self::of(
                "unknown",
                format!("a cursor at sequence {seq}; whether the stream still has it NATS tells (--connect)"),
            ),
        }
    }
}

/// What NATS's answers make of it, as of now. Events between that were removed since are found only by reading them.
pub(super) async fn of_nats(client: &Client, stream: &str, last: LastEventId) -> Result<Resume, ApiError> {
    let info = api::stream_info(client, stream).await?;
    let epoch = Epoch::of(stream, &info.created);
    let (first, head) = (info.state.first_seq, Position { seq: info.state.last_seq, time: info.state.last_ts });
    let base = match last {
        LastEventId::Cursor(cursor) if cursor.epoch == epoch && (first..=head.seq).contains(&cursor.at.seq) => {
            let there = api::message_at(client, stream, cursor.at.seq).await?;
            // Nobody can say what stood where there is nothing now.
            there.map_or(Position { seq: cursor.at.seq, time: 0 }, |message| message.at())
        }
        _ => Position { seq: first.saturating_sub(1), time: 0 },
    };
    let mut log = Log::new(epoch, base, usize::MAX);
    if head.seq > base.seq {
        log.append(Arc::new(Event { at: head, subject: "".into(), frames: Frames::Shared(Frame::comment()) }));
    }
    Ok(told(resume::decide(last, &log), last, &log, first))
}

fn told(verdict: Verdict, last: LastEventId, log: &Log, first: u64) -> Resume {
    let head = log.head().seq;
    match (verdict, last) {
        (Verdict::Ahead, LastEventId::Cursor(cursor)) => told(resume::rolled_back(log, cursor), last, log, first),
        (Verdict::New | Verdict::Ahead, _) => Resume::of("new", format!("events follow from the head, {head}")),
        (Verdict::Exact(at), _) => Resume::of("exact", exactly(at.seq, head)),
        (Verdict::Behind(cursor), _) => Resume::of(
            "gap",
            format!(
                "{} to {} are no longer in the stream: gap `retention` or `purged`, then from {first}",
                cursor.at.seq.saturating_add(1),
                first.saturating_sub(1)
            ),
        ),
        (Verdict::Gap { gap, from }, _) => {
            Resume::of("gap", format!("gap `{}`; events follow after {}", gap.reason.label(), from.seq))
        }
    }
}

fn exactly(seq: u64, head: u64) -> String {
    let there = match seq {
        0 => "the beginning of the stream is where it was".to_owned(),
        seq => format!("the stream has the message at {seq}"),
    };
    match seq {
        seq if seq >= head => format!("{there}; nothing has come since"),
        seq => format!("{there}; what matches of {} to {head} is replayed", seq.saturating_add(1)),
    }
}
