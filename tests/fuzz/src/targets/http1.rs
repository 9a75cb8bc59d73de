//! F10: the whole server on the bytes of an HTTP/1.1 connection.
//!
//! The input is a byte for the configuration, one for the pieces it is sent in, one for how the peer ends, and the bytes. There
//! is at most one answer for a request, every answer is one that the contract knows, and nothing is left behind.

mod reading;

use std::sync::{Arc, OnceLock};

use sidestream::config::Config;

use self::reading::Answer;
use crate::harness::peer::{Peer, Received};
use crate::harness::{By, configuration, serve};
use crate::input::Input;
use crate::oracle::answer;

/// Pieces that one input is sent in at most; each lets the server work.
const PIECES_MAX: usize = 32;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let config = input.choose(configurations());
    let piece = usize::from(input.byte());
    let waits = input.below(8) == 0;
    let bytes = input.rest();
    let piece = if piece == 0 { bytes.len().max(1) } else { piece.max(bytes.len().div_ceil(PIECES_MAX)) };
    let mut answers = Vec::new();
    serve(config, &By::Unix, async |peer: Peer| {
        let mut received = Received::default();
        for piece in bytes.chunks(piece) {
            peer.send(piece, &mut received).await;
            peer.settle(&mut received).await;
        }
        let so_far = read(&received.bytes, bytes);
        if waits && !so_far.iter().any(|answer| answer.is_stream) {
            // Whoever says nothing more is ended by a time-out.
            peer.wait_for_the_end(&mut received).await;
        } else {
            peer.finish(&mut received).await;
        }
        answers = read(&received.bytes, bytes);
    });
    judge(bytes, &answers);
}

/// HTTP/2 is another target's.
fn read(received: &[u8], bytes: &[u8]) -> Vec<Answer> {
    let is_http2 = bytes.starts_with(b"PRI * HTTP/2.0");
    if is_http2 { Vec::new() } else { reading::read(received, may_ask_for_head(bytes)) }
}

/// What is common to all: user ids by a proxy on the socket, rooms for anybody, core subjects, and a page that may connect.
const COMMON: &str = r#"
    [identity]
    expires_header = "X-Expires"
    subjects_header = "X-Subjects"
    variables = { tenant = "X-Tenant" }
    [[route]]
    path = "/events"
    stream = "EVENTS"
    subjects = ["events.user.{user}.>", "events.broadcast.>"]
    allow = ["events.broadcast.>"]
    select = true
    [[route]]
    path = "/rooms/{room}"
    subjects = ["rooms.{room}"]
    audience = "anyone"
"#;

pub fn configurations() -> &'static [Arc<Config>] {
    static ALL: OnceLock<Vec<Arc<Config>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let with = |server: &str, trust: &str| Arc::new(configuration(&format!("{server}\n{trust}\n{COMMON}")));
        let proven = "[trust]\nproxies = [\"unix\", \"127.0.0.1\"]\naddress_is_proof = true";
        let origins = format!("[server]\norigins = [\"{}\"]", answer::ORIGIN);
        vec![
            with("", ""),
            with(&format!("{origins}\nh2c = true"), proven),
            with("[server]\nhosts = [\"app.example\"]", proven),
        ]
    })
}

fn may_ask_for_head(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|window| window == b"HEAD")
}

fn judge(bytes: &[u8], answers: &[Answer]) {
    // A request ends with an empty line; the last one may be refused before its end.
    let heads = bytes.split(|byte| *byte == b'\n').filter(|line| line.is_empty() || *line == b"\r").count();
    assert!(answers.len() <= heads + 1, "{} answers for {heads} requests", answers.len());
    for (place, answer) in answers.iter().enumerate() {
        let is_last = place + 1 == answers.len();
        assert!(is_last || !answer.closes, "an answer after the last one");
        for (name, value) in &answer.headers {
            assert!(answer::is_header(name, value), "{name}: {value}");
        }
        if answer.is_stream {
            answer::check_stream(&answer.body);
        } else {
            let is_soft = answer.headers.iter().any(|(name, _)| name == "sidestream-refused") && answer.status == 200;
            if !answer.is_bodiless {
                answer::check_body(answer.status, &answer.body, is_soft);
            }
        }
    }
}
