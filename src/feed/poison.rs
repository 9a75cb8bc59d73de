//! Which messages async-nats does not survive: it drops its connection over them, or panics. The rules are its parser's
//! (0.51, `connection.rs`); a message that is judged wrongly costs a lost connection, no more.

use super::api::StoredMessage;

/// Whether the client loses its connection over this message, or dies.
pub(super) fn is_poison(message: &StoredMessage) -> bool {
    // A subject stands between blanks in the protocol, and all of Unicode's are taken for some.
    let subject = !message.subject_is_utf8 || message.subject.contains(char::is_whitespace);
    subject || !(message.headers.is_empty() || is_readable(&message.headers))
}

fn is_readable(headers: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(headers) else { return false };
    let mut lines = text.lines();
    let Some(status) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else { return false };
    let mut continues = false;
    let all = lines.filter(|line| !line.is_empty()).all(|line| {
        // A value may go on in lines that begin with a blank.
        let readable =
            (continues && line.starts_with(char::is_whitespace)) || line.split_once(':').is_some_and(is_name);
        continues = true;
        readable && !line.contains('\r')
    });
    all && is_status(status.trim())
}

fn is_name((name, _): (&str, &str)) -> bool {
    name.chars().all(|c| c.is_ascii_graphic())
}

fn is_status(status: &str) -> bool {
    let code = status.split(' ').next().unwrap_or("").as_bytes();
    code.is_empty() || (code.len() == 3 && code[0] != b'0' && code.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, headers: &[u8]) -> StoredMessage {
        StoredMessage {
            subject: subject.to_owned(),
            subject_is_utf8: !subject.contains(char::REPLACEMENT_CHARACTER),
            seq: 1,
            payload: Vec::new(),
            headers: headers.to_vec(),
            time: 1,
        }
    }

    #[test]
    fn what_the_client_reads_is_no_poison() {
        let blocks: [&[u8]; 7] = [
            b"",
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0\r\nSse-Event: caf\xc3\xa9\r\n\r\n",
            b"NATS/1.0\r\nA:\r\nB: x:y \r\n\r\n",
            b"NATS/1.0\r\nA: one\r\n two\r\n\r\n",
            b"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\n\r\n",
            b"NATS/1.0 503\r\n\r\n",
        ];
        for headers in blocks {
            assert!(!is_poison(&message("events.x", headers)), "{}", headers.escape_ascii());
        }
    }

    #[test]
    fn what_it_does_not_read_is() {
        let blocks: [&[u8]; 8] = [
            b"NATS/1.0\r\nX-Name: caf\xe9\r\n\r\n",
            b"NATS/1.0\r\n\xc3\x28: x\r\n\r\n",
            b"NATS/1.0\r\nSse Event: x\r\n\r\n",
            b"NATS/1.0\r\nnothing here\r\n\r\n",
            b"NATS/1.0\r\nA: a\rb\r\n\r\n",
            b"NATS/1.0\r\n A: first\r\n\r\n",
            b"NATS/1.0 abc\r\n\r\n",
            b"NATS/2.0\r\n\r\n",
        ];
        for headers in blocks {
            assert!(is_poison(&message("events.x", headers)), "{}", headers.escape_ascii());
        }
        for subject in ["events.\u{fffd}", "events.a\u{a0}b"] {
            assert!(is_poison(&message(subject, b"")), "{subject}");
        }
    }
}
