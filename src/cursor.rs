//! The SSE `id:` as a position in a stream that can be checked.
//!
//! A cursor is `<epoch>.<seq>.<time>`, each in base 36: a short hash of stream name and creation time, the stream
//! sequence, and the timestamp of the message at that sequence (nanoseconds since 1970, 0 where it is not known). It
//! proves *which* message it points at, because a restored store keeps its creation time and reuses its sequences.
//! Authorization never depends on it. What becomes of a cursor on resume is decided in [`crate::resume`].

// Reads what others send: nothing here may panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fmt;

use aws_lc_rs::digest;

/// Longest cursor we emit, in bytes; the format itself needs at most 34.
pub const CURSOR_BYTES_MAX: usize = 128;
/// Longest `Last-Event-ID` that is looked at at all, in bytes.
pub const LAST_EVENT_ID_BYTES_MAX: usize = 256;

/// One life of a stream: changes when the stream is deleted and created again. 40 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a stream: the first 40 bits of SHA-256 over its name, a zero byte and its creation time as the
    /// server states it.
    pub fn of(stream: &str, created: &str) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(stream.as_bytes());
        hash.update(&[0]);
        hash.update(created.as_bytes());
        let bits = hash.finish().as_ref().iter().take(5).fold(0u64, |acc, byte| acc << 8 | u64::from(*byte));
        Self(bits)
    }
}

/// A place in one life of a stream: everything up to and including `seq` is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Stream sequence; 0 is before the first message.
    pub seq: u64,
    /// Timestamp of the message at `seq`, nanoseconds since 1970; 0 is not known.
    pub time: u64,
}

impl Position {
    /// Before the first message.
    pub const START: Position = Position { seq: 0, time: 0 };

    /// Whether another message has the same sequence: both timestamps are known and differ. Then the store went back in
    /// time and gave the sequence out again.
    pub fn is_another_than(self, other: Self) -> bool {
        self.seq == other.seq && self.time != 0 && other.time != 0 && self.time != other.time
    }
}

/// A position together with the life of the stream it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which life of the stream.
    pub epoch: Epoch,
    /// Where in it.
    pub at: Position,
}

/// What a client sent as its last event ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastEventId {
    /// None, or an empty one: a new client.
    Absent,
    /// A cursor of ours by its form.
    Cursor(Cursor),
    /// Well-formed, but nothing we ever sent.
    Unknown,
}

/// Over [`LAST_EVENT_ID_BYTES_MAX`] bytes, or bytes outside visible ASCII: 400 `bad_cursor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a last event ID has at most {LAST_EVENT_ID_BYTES_MAX} bytes of visible ASCII")]
pub struct BadCursor;

impl LastEventId {
    /// Whether it is a cursor that stands before every message.
    pub fn is_before_everything(self) -> bool {
        matches!(self, Self::Cursor(cursor) if cursor.at.seq == 0)
    }

    /// Reads the value of `Last-Event-ID` or its query twin. Strict: no sign, no leading zero, no other alphabet.
    pub fn parse(value: &[u8]) -> Result<Self, BadCursor> {
        if value.len() > LAST_EVENT_ID_BYTES_MAX || !value.iter().all(u8::is_ascii_graphic) {
            return Err(BadCursor);
        }
        if value.is_empty() {
            return Ok(Self::Absent);
        }
        Ok(Cursor::parse(value).map_or(Self::Unknown, Self::Cursor))
    }
}

impl Cursor {
    fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = value.split(|b| *b == b'.');
        let (epoch, seq, time) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let epoch = Epoch(from_base36(epoch)?);
        Some(Self { epoch, at: Position { seq: from_base36(seq)?, time: from_base36(time)? } })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

/// Digits of the largest number in base 36.
const DIGITS_MAX: usize = 13;
/// Three numbers and two dots.
const TEXT_BYTES_MAX: usize = 3 * DIGITS_MAX + 2;

/// A cursor written out, without an allocation: one is made for every message.
#[derive(Debug)]
pub struct CursorText {
    bytes: [u8; TEXT_BYTES_MAX],
    /// Where it begins: it is written from the end.
    start: usize,
}

#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "writes what is ours, and there is room for the three largest numbers: what_we_emit_is_what_we_read"
)]
impl CursorText {
    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.start..]).expect("base-36 digits and dots are ASCII")
    }

    fn prepend(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[self.start] = byte;
    }

    fn prepend_base36(&mut self, mut value: u64) {
        loop {
            self.prepend(DIGITS[(value % 36) as usize]);
            value /= 36;
            if value == 0 {
                break;
            }
        }
    }
}

impl Cursor {
    /// The cursor as an `id:` carries it.
    pub fn text(&self) -> CursorText {
        let mut text = CursorText { bytes: [0; TEXT_BYTES_MAX], start: TEXT_BYTES_MAX };
        text.prepend_base36(self.at.time);
        text.prepend(b'.');
        text.prepend_base36(self.at.seq);
        text.prepend(b'.');
        text.prepend_base36(self.epoch.0);
        text
    }
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

fn from_base36(text: &[u8]) -> Option<u64> {
    match text {
        [] => return None,
        [b'0'] => return Some(0),
        [b'0', ..] => return None,
        _ => {}
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = DIGITS.iter().position(|digit| digit == byte)?;
        value.checked_mul(36)?.checked_add(digit as u64)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_ids_are_told_apart() {
        let unknown: &[&[u8]] = &[
            b"0",
            b"-1",
            b"+1",
            b"01",
            b"1e3",
            b"0x1",
            b"9223372036854775808",
            b"a.b",
            b"a.b.c.d",
            b"a..c",
            b"A.1.1",
            b"1.01.1",
            b"1.-1.1",
            b"1.3w5e11264sgsg.1",
            b"..",
            b"~",
            b"%0a",
        ];
        for id in unknown {
            assert_eq!(LastEventId::parse(id), Ok(LastEventId::Unknown), "{}", id.escape_ascii());
        }
        let bad: &[&[u8]] = &[b"\0", b"a b", b"\n", b"\xff", "٣".as_bytes(), &[b'1'; 257]];
        for id in bad {
            assert_eq!(LastEventId::parse(id), Err(BadCursor), "{}", id.escape_ascii());
        }
        assert_eq!(LastEventId::parse(b""), Ok(LastEventId::Absent));
        assert_eq!(LastEventId::parse(&[b'1'; 256]), Ok(LastEventId::Unknown));
    }

    #[test]
    fn epochs_tell_lives_apart() {
        let first = Epoch::of("EVENTS", "2026-01-01T00:00:00Z");
        assert_ne!(first, Epoch::of("EVENTS", "2026-01-01T00:00:00.1Z"));
        assert_ne!(first, Epoch::of("EVENT", "S2026-01-01T00:00:00Z"));
    }

    proptest! {
        #[test]
        fn what_we_emit_is_what_we_read(epoch in 0u64..1 << 40, seq in any::<u64>(), time in any::<u64>()) {
            let cursor = Cursor { epoch: Epoch(epoch), at: Position { seq, time } };
            let text = cursor.to_string();
            prop_assert!(text.len() <= CURSOR_BYTES_MAX);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'));
            prop_assert_eq!(LastEventId::parse(text.as_bytes()), Ok(LastEventId::Cursor(cursor)));
        }

        #[test]
        fn anything_parses_without_panic(bytes in any::<Vec<u8>>()) {
            let _ = LastEventId::parse(&bytes);
        }
    }
}
