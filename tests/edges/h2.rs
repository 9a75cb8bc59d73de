//! As much of HTTP/2 as it takes to send what no library would, and to read a status and a body.
//!
//! Fields are sent as literals that are not indexed, so any byte can stand anywhere. Of what comes back only the first field of
//! the first header block is read, which is the status.

use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame, preface,
};

const PADDED: u8 = 8;
/// What RFC 9113 gives each stream where nobody asks for more.
const WINDOW: u32 = 65_535;

/// A connection's beginning, and one request on stream 1.
pub fn request(fields: &[(Vec<u8>, Vec<u8>)], body: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    let end = if body.is_empty() { END_STREAM } else { 0 };
    let mut bytes = [preface(WINDOW), frame(SETTINGS, ACK, 0, &[])].concat();
    bytes.extend(frame(HEADERS, end | END_HEADERS, 1, &block));
    if !body.is_empty() {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    bytes
}

/// An HPACK integer with a prefix of seven bits.
fn length(block: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        block.push(u8::try_from(length).expect("small"));
        return;
    }
    block.push(127);
    length -= 127;
    while length >= 128 {
        block.push(u8::try_from(length % 128).expect("small") | 128);
        length /= 128;
    }
    block.push(u8::try_from(length).expect("small"));
}

struct Frame<'b> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'b [u8],
}

/// The frames that are complete.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    })
}

/// The status of the answer, and whether that has ended; no status where the stream or the connection was ended without one.
/// `None` while there is neither.
pub fn answer(bytes: &[u8]) -> Option<(Option<u16>, bool)> {
    let mut status = None;
    for frame in frames(bytes) {
        match frame.kind {
            HEADERS if frame.stream == 1 && status.is_none() => status = Some(first_status(frame.payload)),
            RST_STREAM | GOAWAY => return Some((status, true)),
            _ => {}
        }
        if matches!(frame.kind, HEADERS | DATA) && frame.stream == 1 && frame.flags & END_STREAM != 0 {
            return Some((status, true));
        }
    }
    status.map(|status| (Some(status), false))
}

/// The body so far.
pub fn data(bytes: &[u8]) -> Vec<u8> {
    let ours = frames(bytes).filter(|frame| frame.kind == DATA && frame.stream == 1);
    ours.inspect(|frame| assert_eq!(frame.flags & PADDED, 0, "no server here pads"))
        .flat_map(|frame| frame.payload.to_vec())
        .collect()
}

/// `:status`, from RFC 7541's static table or as a literal with its name from there.
fn first_status(block: &[u8]) -> u16 {
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    match block {
        // 8 to 14 of the static table.
        [indexed, ..] if indexed & 0x80 != 0 => {
            [200, 204, 206, 304, 400, 404, 500][usize::from(indexed & 0x7f).checked_sub(8).expect("a status")]
        }
        [_, length, text @ ..] if length & 0x80 == 0 => {
            number(text[..usize::from(*length)].iter().map(|digit| digit - b'0'))
        }
        [_, length, text @ ..] => number(huffman_digits(&text[..usize::from(length & 0x7f)])),
        _ => panic!("not a header block with a status: {block:?}"),
    }
}

fn number(digits: impl IntoIterator<Item = u8>) -> u16 {
    digits.into_iter().fold(0, |number, digit| number * 10 + u16::from(digit))
}

/// RFC 7541, appendix B, as far as digits go: 0 to 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let take = |from: usize, count: usize| (from..from + count).fold(0, |code, at| code << 1 | bit(at));
    let (mut at, mut digits) = (0, Vec::new());
    while digits.len() < 3 {
        let (digit, bits) = match take(at, 5) {
            code @ 0..=2 => (code, 5),
            _ => (take(at, 6) - 0x19 + 3, 6),
        };
        digits.push(digit);
        at += bits;
    }
    digits
}

#[test]
fn statuses_are_read_in_every_form() {
    assert_eq!(first_status(&[0x88]), 200);
    assert_eq!(first_status(&[0x20, 0x8c, 1, 2]), 400);
    assert_eq!(first_status(b"\x08\x03401..."), 401);
    // 4, 2, 1: 011010 00010 00001.
    assert_eq!(first_status(&[0x48, 0x82, 0b0110_1000, 0b0100_0001]), 421);
}
