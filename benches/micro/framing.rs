//! `framing`: making a message into the bytes that all clients get, once for each message and format, and freeing them.

use std::hint::black_box;

use sidestream::config::Format;
use sidestream::frame::{EventNaming, Frame, Message, Payload};

use crate::time::nanoseconds;

const SMALL: usize = 200;
const LARGE: usize = 4096;
/// Bytes of a line where there are several.
const LINE: usize = 64;
const ID: &str = "4yyh8gg2.zz.dn1tfqulaj9x";

/// Prints the table.
pub fn run() {
    println!("\n## Framing\n");
    println!("| payload | ns at {SMALL} B | ns at {LARGE} B |");
    println!("|---|---|---|");
    row("text", Payload::Text, text);
    row("text, a line end every 64 bytes", Payload::Text, lines);
    row("base64", Payload::Base64, text);
    row("envelope of JSON", Payload::Envelope, json);
    row("envelope of other text", Payload::Envelope, text);
}

fn row(name: &str, payload: Payload, make: fn(usize) -> String) {
    println!("| {name} | {:.0} | {:.0} |", cost(payload, &make(SMALL)), cost(payload, &make(LARGE)));
}

fn cost(payload: Payload, bytes: &str) -> f64 {
    let format = Format { naming: EventNaming::Header, payload };
    let time = 1_795_358_400_000_000_000;
    nanoseconds(|_| {
        let message =
            Message { subject: "events.user.alice.note", name: Some("note"), payload: bytes.as_bytes(), time };
        let encoded = Frame::encode(black_box(&format), black_box(message), Some(black_box(ID)));
        black_box(encoded.expect("text"));
    })
}

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn lines(bytes: usize) -> String {
    let line = format!("{}\n", "x".repeat(LINE - 1));
    line.chars().cycle().take(bytes).collect()
}

/// An object with several fields, as an application would send it.
fn json(bytes: usize) -> String {
    let mut json = String::from(r#"{"kind":"note","from":"bob""#);
    for number in 0.. {
        let field = format!(r#","field{number}":{}"#, number * 7919);
        if json.len() + field.len() + 1 > bytes {
            break;
        }
        json.push_str(&field);
    }
    json.push('}');
    json
}
