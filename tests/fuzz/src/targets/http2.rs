//! F11: the whole server on the frames of an HTTP/2 connection.
//!
//! Behind the preface the input is a list of frames: some whole requests, most of them of any kind, flags and stream, with a
//! length that may lie. Everything that comes back is frames, of a size that was agreed, and nothing is left behind.

use super::http1::configurations;
use crate::harness::peer::{Peer, Received};
use crate::harness::{By, serve};
use crate::input::Input;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frames of one input at most; each lets the server work.
const FRAMES_MAX: usize = 64;
/// What a server may send in one frame to a peer that has not said otherwise (RFC 9113 section 6.5.2).
const PAYLOAD_BYTES_MAX: usize = 16_384;
const HEAD_BYTES: usize = 9;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    // The one that speaks HTTP/2 without TLS, and, seldom, one that does not.
    let config = &configurations()[usize::from(input.below(8) != 0)];
    let waits = input.below(8) == 0;
    let mut frames = Vec::new();
    while !input.is_empty() && frames.len() < FRAMES_MAX {
        frames.push(frame(&mut input));
    }
    let h2c = config.server.h2c;
    serve(config, &By::Unix, async |peer: Peer| {
        let mut received = Received::default();
        peer.send(PREFACE, &mut received).await;
        for frame in &frames {
            peer.send(frame, &mut received).await;
            peer.settle(&mut received).await;
        }
        if waits {
            peer.wait_for_the_end(&mut received).await;
        } else {
            peer.finish(&mut received).await;
        }
        if h2c {
            judge(&received.bytes);
        } else {
            assert!(received.bytes.is_empty() || received.bytes.starts_with(b"HTTP/1.1 "), "an answer in no protocol");
        }
    });
}

/// One frame, mostly with the length that it has.
fn frame(input: &mut Input<'_>) -> Vec<u8> {
    let shape = input.byte();
    if shape < 64 {
        return request(input);
    }
    let (kind, flags, stream) = (input.byte() % 12, input.byte(), u32::from(input.byte() % 8));
    let length = usize::from(input.byte());
    let payload = input.take(length).repeat(if shape > 250 { 200 } else { 1 });
    let told = if shape > 240 { usize::from(input.byte()) << 8 } else { payload.len() };
    build(told, kind, flags, stream, &payload)
}

/// A whole request, so that others have something to disturb: HEADERS, mostly with END_HEADERS and END_STREAM.
fn request(input: &mut Input<'_>) -> Vec<u8> {
    let stream = 1 + 2 * u32::from(input.byte() % 4);
    let flags = if input.byte() % 8 == 0 { input.byte() } else { 0x5 };
    let paths: [&[u8]; 4] = [b"/events", b"/rooms/7", b"/nothing", b"/events?subject=events.broadcast.x"];
    let users: [&[u8]; 4] = [b"alice", b"bob", b"*", b""];
    let (path, user) = (*input.choose(&paths), *input.choose(&users));
    // Indexed: GET, http. Literals without indexing, names from the static table or new.
    let mut block = vec![0x82, 0x86];
    literal(&mut block, &[0x04], path);
    literal(&mut block, &[0x01], b"app.example");
    literal(&mut block, b"\x00\x10x-forwarded-user", user);
    let more = usize::from(input.byte() % 32);
    block.extend_from_slice(input.take(more));
    build(block.len(), 1, flags, stream, &block)
}

fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.extend_from_slice(name);
    block.push(u8::try_from(value.len()).expect("short"));
    block.extend_from_slice(value);
}

fn build(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Whole frames of known kinds, and one that is cut off at the most.
fn judge(mut bytes: &[u8]) {
    while bytes.len() >= HEAD_BYTES {
        let length = usize::try_from(u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])).expect("24 bits");
        let kind = bytes[3];
        assert!(length <= PAYLOAD_BYTES_MAX, "a frame of {length} bytes");
        assert!(kind <= 9 && kind != 2 && kind != 5, "a frame of kind {kind} from a server");
        let Some(rest) = bytes.get(HEAD_BYTES + length..) else { return };
        bytes = rest;
    }
}
