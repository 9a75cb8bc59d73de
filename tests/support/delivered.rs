//! What a NATS server has delivered from a stream, read from the bytes it sent: the witness to ask when it is in doubt
//! whether the server or its client is wrong.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The messages of a stream among the bytes that a server sent on one connection, delivered by a consumer or asked for one by
/// one: (sequence, payload), as it sent them.
pub fn delivered(mut bytes: &[u8], stream: &str) -> Vec<(u64, String)> {
    let mut messages = Vec::new();
    while let Some(end) = memchr::memmem::find(bytes, b"\r\n") {
        let line = std::str::from_utf8(&bytes[..end]).expect("the protocol's lines are text");
        bytes = &bytes[end + 2..];
        let Some((reply, headers, size)) = parts(line) else { continue };
        let Some(body) = bytes.get(..size) else { break };
        bytes = bytes.get(size + 2..).unwrap_or_default();
        let payload = &body[headers..];
        match reply.and_then(|reply| sequence(reply, stream)) {
            Some(seq) => messages.push((seq, String::from_utf8_lossy(payload).into_owned())),
            None => messages.extend(asked_for(payload)),
        }
    }
    messages
}

/// Of a line that announces a message: where its reply would go, the bytes of its headers, those of the whole. The NATS
/// client protocol, `MSG` and `HMSG`.
fn parts(line: &str) -> Option<(Option<&str>, usize, usize)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |word: &str| word.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
    match words.as_slice() {
        ["MSG", _, _, size] => Some((None, 0, number(size))),
        ["MSG", _, _, reply, size] => Some((Some(reply), 0, number(size))),
        ["HMSG", _, _, headers, size] => Some((None, number(headers), number(size))),
        ["HMSG", _, _, reply, headers, size] => Some((Some(reply), number(headers), number(size))),
        _ => None,
    }
}

/// What an answer of `STREAM.MSG.GET` holds.
fn asked_for(answer: &[u8]) -> Option<(u64, String)> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let message = answer.get("message")?;
    let data = message["data"].as_str().map(|data| STANDARD.decode(data).expect("base64")).unwrap_or_default();
    Some((message["seq"].as_u64()?, String::from_utf8_lossy(&data).into_owned()))
}

/// The sequence in `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<of the consumer>.<time>.<pending>`, or in the newer
/// form with `<domain>.<account hash>` before the stream (NATS ADR-15).
fn sequence(reply: &str, stream: &str) -> Option<u64> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let tokens = if tokens.len() >= 9 { &tokens[2..] } else { &tokens[..] };
    (tokens.first() == Some(&stream)).then(|| tokens[3].parse().expect("a sequence"))
}
