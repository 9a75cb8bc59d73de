//! A feed that lets everybody in: each client gets one event that it missed and, once it hears what comes, one more.
//!
//! Whoever asks is checked here: a grant names nobody but the user that the proxy named, whatever the request said.

use std::sync::Arc;
use std::time::Instant;

use sidestream::config::Config;
use sidestream::cursor::{Cursor, Epoch, Position};
use sidestream::event::{Event, Frames};
use sidestream::feed::Feeds;
use sidestream::frame::notice::Resume;
use sidestream::frame::{Frame, Message};
use sidestream::link::{FeedHandle, FeedStatus, LiveRequest, Opening, Piece, ShardQueue, StreamRequest, ToShard};
use sidestream::route::Grant;
use tokio::sync::mpsc;

use crate::oracle::subjects;

/// The subject that everything here is about.
const SUBJECT: &str = "events.broadcast.news";

/// Answers on the current runtime.
pub fn spawn(config: &Arc<Config>, queue: ShardQueue) -> Feeds {
    let streams = (0..config.routes.streams.len())
        .map(|index| {
            let (handle, requests) = channel();
            let index = u8::try_from(index).expect("few");
            tokio::task::spawn_local(stream(index, config.clone(), queue.clone(), requests));
            handle
        })
        .collect();
    let (live, requests) = channel();
    tokio::task::spawn_local(core(queue, requests));
    Feeds { streams, live }
}

fn channel<R>() -> (FeedHandle<R>, mpsc::UnboundedReceiver<R>) {
    let (requests, end) = mpsc::unbounded_channel();
    let status = Arc::new(FeedStatus::default());
    status.set_serving(true);
    status.set_up(true);
    (FeedHandle { requests, status }, end)
}

fn event(config: &Config, seq: u64) -> Arc<Event> {
    let at = cursor(seq).at;
    let id = cursor(seq).to_string();
    let message = Message { subject: SUBJECT, name: None, payload: b"news", time: at.time };
    let formats: Vec<u8> = (0..config.routes.formats.len()).map(|index| u8::try_from(index).expect("few")).collect();
    let frames = Frames::build(&formats, |format| {
        Frame::encode(&config.routes.formats[usize::from(format)], message, Some(&id)).map(|encoded| encoded.frame)
    });
    Arc::new(Event { at, subject: SUBJECT.into(), frames: frames.expect("text") })
}

fn cursor(seq: u64) -> Cursor {
    Cursor { epoch: Epoch::of("EVENTS", "2026"), at: Position { seq, time: 1000 * seq } }
}

async fn stream(
    index: u8,
    config: Arc<Config>,
    queue: ShardQueue,
    mut requests: mpsc::UnboundedReceiver<StreamRequest>,
) {
    let mut head = 1;
    queue.send(ToShard::Begin { stream: index, log: 0, head: cursor(head), gap: None }).await;
    while let Some(request) = requests.recv().await {
        let StreamRequest::Attach { ticket, grant, .. } = request else { continue };
        is_within(&grant);
        head += 1;
        queue.send(ToShard::Head { stream: index, head: cursor(head) }).await;
        let hears = grant.stream().iter().any(|pattern| pattern.matches(SUBJECT));
        let piece = Piece {
            stream: index,
            log: 0,
            degraded: false,
            opening: Some(Opening { resume: Resume::New, id: cursor(head - 1).to_string(), gap: None }),
            events: if hears { vec![event(&config, head)] } else { Vec::new() },
            upto: head,
            synced: None,
            joined: true,
        };
        queue.send(ToShard::Attached { ticket, grant, piece }).await;
        head += 1;
        let next = event(&config, head);
        let room = queue.room(1, next.frames.bytes()).await;
        queue.send(ToShard::Events { stream: index, events: vec![next], read: Instant::now(), room }).await;
    }
}

async fn core(queue: ShardQueue, mut requests: mpsc::UnboundedReceiver<LiveRequest>) {
    while let Some(request) = requests.recv().await {
        let LiveRequest::Listen { ticket, grant, .. } = request else { continue };
        is_within(&grant);
        queue.send(ToShard::Listening { ticket, degraded: false }).await;
    }
}

/// A grant names one user, or everybody, or one room; nobody's wildcard reaches further.
fn is_within(grant: &Grant) {
    for pattern in grant.stream().iter().chain(grant.live()) {
        assert!(subjects::is_pattern(pattern.as_str()), "{pattern}");
        let tokens: Vec<&str> = pattern.tokens().collect();
        let fits = match tokens[..] {
            ["events", "user", user, _, ..] => subjects::is_plain_token(user),
            ["events", "broadcast", _, ..] => true,
            ["rooms", room] => subjects::is_plain_token(room),
            _ => false,
        };
        assert!(fits, "{pattern}");
    }
}
