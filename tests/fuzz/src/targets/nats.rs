//! What NATS says in words of its own: the subject of an acknowledgement, the answers of the API, a version.
//!
//! The protocol itself is read by the client library. A second reading of the acknowledgement, by splitting, must agree.

use sidestream::feed::api::{ConsumerInfo, Stored, StreamInfo};
use sidestream::feed::reply::Delivery;
use sidestream::feed::version;

use crate::input::Input;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        0 => acknowledgement(input.text_line()),
        1 => acknowledgement(&format!("$JS.ACK.{}", input.text_line())),
        2 => drop(version::is_outdated(input.text_line())),
        _ => answers(input.rest()),
    }
}

fn acknowledgement(subject: &str) {
    let tokens: Vec<&str> = subject.split('.').collect();
    let numbers = match tokens.as_slice() {
        ["$JS", "ACK", _, _, _, numbers @ ..] if tokens.len() == 9 => numbers,
        ["$JS", "ACK", _, _, _, _, _, numbers @ ..] if tokens.len() >= 11 => numbers,
        _ => return assert_eq!(Delivery::parse(subject), None, "{subject}"),
    };
    let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let numbers: Option<Vec<u64>> = numbers.iter().take(4).map(digits).collect();
    let expected = numbers.map(|n| Delivery { stream_seq: n[0], consumer_seq: n[1], time: n[2], pending: n[3] });
    assert_eq!(Delivery::parse(subject), expected, "{subject}");
}

/// Whatever is in them, reading ends, and what was read can be asked.
fn answers(bytes: &[u8]) {
    if let Ok(info) = serde_json::from_slice::<StreamInfo>(bytes) {
        let _ = info.created_at();
    }
    let _ = serde_json::from_slice::<ConsumerInfo>(bytes);
    let _ = serde_json::from_slice::<Stored>(bytes);
}
