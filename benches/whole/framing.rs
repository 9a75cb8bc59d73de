//! Payloads that readers can count, and the bytes that carry one to a client.

use std::io::Write;

use crate::clock;

/// Begins every payload and occurs nowhere else in what is sent: a reader counts events by counting it.
pub const MARK: u8 = b'~';
/// The time behind the mark, in decimal nanoseconds.
pub const STAMP_BYTES: usize = 19;
const PAYLOAD_BYTES: usize = 200;

/// A payload of 200 bytes that says when it was made.
pub fn payload() -> Vec<u8> {
    let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
    write!(payload, "~{:0width$} ", clock::now(), width = STAMP_BYTES).expect("memory");
    payload.resize(PAYLOAD_BYTES, b'x');
    payload
}

/// Appends one event in one HTTP/1.1 chunk, as long as what the sidecar sends.
pub fn frame(into: &mut Vec<u8>, payload: &[u8]) {
    const BEFORE: &[u8] = b"id: 4yyh8gg2.zz.dn1tfqulaj9x\ndata: ";
    let size = BEFORE.len() + payload.len() + 2;
    write!(into, "{size:x}\r\n").expect("memory");
    into.extend_from_slice(BEFORE);
    into.extend_from_slice(payload);
    into.extend_from_slice(b"\n\n\r\n");
}

/// The time in what follows a mark, if it is there as a whole.
pub fn stamp(after: &[u8]) -> Option<u64> {
    std::str::from_utf8(after.get(..STAMP_BYTES)?).ok()?.parse().ok()
}
