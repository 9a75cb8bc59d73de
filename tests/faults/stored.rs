//! Reads what a stream holds, byte by byte: a plain consumer over the bare protocol, so that messages which no client
//! library survives are read as well.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::servers::Servers;
use super::truth::Nonce;

const INBOX: &str = "_INBOX.reader";
/// A consumer that is silent for so long is stuck: 2.9 does not get over a damaged record.
const STUCK: Duration = Duration::from_secs(3);

/// What a server has at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The number that the message begins with.
    pub nonce: Nonce,
    /// When it was stored, in nanoseconds since 1970.
    pub time: u64,
}

/// The messages of a stream by sequence, up to `last`; those that nobody of ours published are left out. What a consumer
/// cannot read is not there.
pub async fn read(servers: &Servers, login: &str, stream: &str, last: u64) -> BTreeMap<u64, Stored> {
    let mut found = BTreeMap::new();
    let mut from = 1;
    while !read_from(servers, login, stream, from, &mut found).await {
        // One by one, until there is one that can be read.
        from = found.last_key_value().map_or(from, |(seq, _)| seq + 1);
        println!("    a consumer does not get over {from}");
        while from <= last && !can_be_read(servers, stream, from).await {
            from += 1;
        }
        if from > last {
            break;
        }
    }
    found
}

async fn can_be_read(servers: &Servers, stream: &str, seq: u64) -> bool {
    let client = servers.jetstream().await.client();
    let body = format!("{{\"seq\":{seq}}}");
    let answer = client.request(format!("$JS.API.STREAM.MSG.GET.{stream}"), body.into()).await.expect("NATS answers");
    !String::from_utf8_lossy(&answer.payload).contains("\"error\"")
}

/// A stream has as many consumers as it may.
const CONSUMERS_MAX_REACHED: u64 = 10026;

/// Reads from here to the end; false when the consumer is stuck.
async fn read_from(servers: &Servers, login: &str, stream: &str, from: u64, found: &mut BTreeMap<u64, Stored>) -> bool {
    let mut socket = TcpStream::connect(servers.address()).await.expect("NATS accepts");
    let config = serde_json::json!({"stream_name": stream, "config": {
        "deliver_subject": format!("{INBOX}.data"), "deliver_policy": "by_start_sequence", "opt_start_seq": from,
        "ack_policy": "none", "replay_policy": "instant", "mem_storage": true, "num_replicas": 1,
        "inactive_threshold": 1_000_000_000u64,
    }})
    .to_string();
    // Two literal subjects: 2.9 does not deliver to a wildcard subscription.
    let login = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true{login}}}\r\nSUB {INBOX}.data 1\r\nSUB {INBOX}.created 2\r\n"
    );
    let create = format!("PUB $JS.API.CONSUMER.CREATE.{stream} {INBOX}.created {}\r\n{config}\r\n", config.len());
    socket.write_all((login + &create).as_bytes()).await.expect("NATS reads");
    let mut raw = BytesMut::new();
    loop {
        while let Some(message) = next(&mut raw) {
            if message.subject.ends_with(".created") {
                let answer: serde_json::Value = serde_json::from_slice(&message.payload).expect("JSON");
                if answer["error"]["err_code"] == CONSUMERS_MAX_REACHED {
                    // By those of passes, which end soon.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    socket.write_all(create.as_bytes()).await.expect("NATS reads");
                    continue;
                }
                assert!(answer["error"].is_null(), "{answer}");
                if answer["num_pending"] == 0 {
                    return true;
                }
                continue;
            }
            let (seq, time, pending) = place(&message.reply).expect("a delivery");
            let text = String::from_utf8_lossy(&message.payload);
            if let Some(nonce) = text.split(' ').next().and_then(|nonce| nonce.parse().ok()) {
                found.insert(seq, Stored { nonce, time });
            }
            if pending == 0 {
                return true;
            }
        }
        let Ok(count) = timeout(STUCK, socket.read_buf(&mut raw)).await else { return false };
        assert_ne!(count.expect("NATS answers"), 0, "NATS hung up: {raw:?}");
    }
}

struct Message {
    subject: String,
    reply: String,
    payload: Vec<u8>,
}

/// The next `MSG` or `HMSG`; other lines are passed over. `None` when more bytes are needed.
fn next(raw: &mut BytesMut) -> Option<Message> {
    loop {
        let end = memchr::memmem::find(raw, b"\r\n")?;
        let line = String::from_utf8_lossy(&raw[..end]).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let (headed, sized) = match words[0] {
            "MSG" => (false, true),
            "HMSG" => (true, true),
            _ => (false, false),
        };
        if !sized {
            assert!(!line.starts_with("-ERR"), "{line}");
            raw.advance(end + 2);
            continue;
        }
        // MSG subject sid [reply] total; HMSG subject sid [reply] head total.
        let number = |back: usize| words[words.len() - back].parse::<usize>().expect("a size");
        let (head, total) = if headed { (number(2), number(1)) } else { (0, number(1)) };
        if raw.len() < end + 2 + total + 2 {
            return None;
        }
        raw.advance(end + 2);
        let payload = raw.split_to(total)[head..].to_vec();
        raw.advance(2);
        let has_reply = words.len() == if headed { 6 } else { 5 };
        let reply = if has_reply { words[3].to_owned() } else { String::new() };
        return Some(Message { subject: words[1].to_owned(), reply, payload });
    }
}

/// Stream sequence, time, and what waits behind, from `$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<cseq>.<time>.<pending>`.
fn place(reply: &str) -> Option<(u64, u64, u64)> {
    let tokens: Vec<&str> = reply.split('.').collect();
    assert_eq!(tokens.len(), 9, "{reply}");
    Some((tokens[5].parse().ok()?, tokens[7].parse().ok()?, tokens[8].parse().ok()?))
}
