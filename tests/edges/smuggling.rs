//! Requests that two parsers may read differently: what the proxy sends on is one request, or none, and never a second one hidden
//! in it (requirement R17).

use std::time::Duration;

use futures_util::future::join_all;

use crate::attempt::Attempt;
use crate::front::{Front, Setup};
use crate::kind::{Kind, SHIPPED};
use crate::support::bounded;
use crate::tap::Tap;

/// What is hidden.
const CANARY: &str = "GET /canary HTTP/1.1\r\nHost: events.example.com\r\nCookie: session=alice\r\n\r\n";

/// Lines and bodies after which the canary stands.
fn attacks() -> Vec<(&'static str, String)> {
    let plain = [
        ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n"),
        ("TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
        ("two codings", "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
        ("coding twice", "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ("xchunked", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("xchunked and chunked", "Transfer-Encoding: xchunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("coding after a tab", "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n"),
        ("coding after a vertical tab", "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        ("space before the colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        ("coding on the next line", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        ("coding after a bare LF", "X: x\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("coding after a bare CR", "X: x\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("alias of the coding", "Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("length with a sign", "Content-Length: +3\r\n\r\nabc"),
        ("length twice", "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        ("lengths in one line", "Content-Length: 3, 3\r\n\r\nabc"),
        ("length in hexadecimal", "Content-Length: 0x3\r\n\r\nabc"),
        ("length that wraps", "Content-Length: 18446744073709551619\r\n\r\nabc"),
        ("length that is nominated", "Connection: content-length\r\nContent-Length: 3\r\n\r\nabc"),
        ("chunk of 17 digits", "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n"),
        ("chunk with a sign", "Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n"),
        ("chunk in a bare LF", "Transfer-Encoding: chunked\r\n\r\n0\n\n"),
        ("chunk extension with a bare LF", "Transfer-Encoding: chunked\r\n\r\n0;x\n\r\n"),
        ("trailer of trust", "Transfer-Encoding: chunked\r\n\r\n0\r\nX-Forwarded-User: admin\r\n\r\n"),
        (
            "an upgrade",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        ),
        (
            "a web socket",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\r\n",
        ),
        ("an expectation", "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"),
    ];
    plain.map(|(name, text)| (name, text.to_owned())).into()
}

/// The same ideas in HTTP/2, where a proxy has to write the framing itself.
fn h2_attacks() -> Vec<(&'static str, Attempt)> {
    let post = || Attempt::honest().h2().method("POST").body(CANARY);
    vec![
        ("H2.CL", post().line("content-length", "0")),
        ("H2.TE", post().line("transfer-encoding", "chunked")),
        ("H2, no length", post()),
        ("H2, GET with a body", Attempt::honest().h2().body(CANARY)),
        ("H2, a request in the path", Attempt::honest().h2().target("/events HTTP/1.1\r\nHost: x\r\n\r\nGET /canary")),
        ("H2, a request in the method", Attempt::honest().h2().method("GET /canary HTTP/1.1\r\nHost: x\r\n\r\nGET")),
        ("H2, a request in a value", Attempt::honest().h2().line("x", format!("x\r\n\r\n{CANARY}"))),
        ("H2, a request in a name", Attempt::honest().h2().line(format!("x: x\r\n\r\n{CANARY}"), "x")),
        ("H2, a request in the authority", Attempt::honest().h2().hosts(&["events.example.com\r\n\r\nGET /canary"])),
    ]
}

#[tokio::test]
async fn nothing_is_smuggled_past_a_proxy() {
    bounded(async {
        // The recorder does not read HTTP/2.
        let kinds = SHIPPED.into_iter().filter(|kind| *kind != Kind::EnvoyH2);
        join_all(kinds.map(|kind| Box::pin(nothing_is_smuggled(kind)))).await;
    })
    .await;
}

async fn nothing_is_smuggled(kind: Kind) {
    let Some(front) = Front::start("smuggling", kind, Setup { set: &["log.level=debug"], ..Setup::default() }).await
    else {
        return;
    };
    let (recorder, edge) = front.recorded().await;
    let cookie = kind.cookie(&Attempt::honest().session, &front.issuer).expect("alice has one");
    let attacks = attacks().into_iter().flat_map(|attack| ["GET", "POST"].map(|method| (method, attack.clone())));
    let h1 = attacks.map(|(method, (name, text))| {
        let start = format!("{method} /events HTTP/1.1\r\nHost: events.example.com\r\nCookie: session={cookie}\r\n");
        (format!("{name}, {method}"), false, format!("{start}{text}{CANARY}").into_bytes())
    });
    let h2 = h2_attacks().into_iter().map(|(name, attempt)| (name.to_owned(), true, attempt.wire(Some(&cookie))));
    let all: Vec<_> = h1.chain(h2).collect();
    // At the recorder all at once: no connection to it may hold more than one request, whoever's it is.
    join_all(all.iter().map(|(_, h2, bytes)| sent(&front, *h2, bytes, &edge))).await;
    let requests = recorder.take().await;
    assert!(!requests.is_empty(), "{kind:?}: none of the attacks was passed on, and nothing shown");
    for bytes in requests {
        is_one_request(kind, &bytes);
    }
    // At sidestream: who is answered twice has asked twice, in a way that the proxy reads as well.
    let taps = join_all(all.iter().map(|(_, h2, bytes)| sent(&front, *h2, bytes, &front.edge))).await;
    for ((name, h2, _), mut tap) in all.iter().zip(taps) {
        let bytes = tap.rest(Duration::ZERO).await;
        let answers = if *h2 { 1 } else { answers(bytes) };
        assert!(answers <= 2, "{kind:?}, {name}: {}", bytes.escape_ascii());
    }
    // The canary's path is nobody's there.
    let refused = |reason: &str| front.app.log_lines().iter().filter(|line| line.contains(reason)).count();
    assert_eq!(refused("not_found"), 0, "{kind:?}: the canary was asked for");
    // What an application hands over is a GET without a body, whatever it was.
    let refusals = refused("Request refused") > 0 || kind == Kind::NginxAccel;
    assert!(refusals, "{kind:?}: refusals are not in the log");
}

/// Answers in what came back; `100 Continue` is none.
fn answers(bytes: &[u8]) -> usize {
    let count = |text: &[u8]| memchr::memmem::find_iter(bytes, text).count();
    count(b"HTTP/1.1 ") - count(b"HTTP/1.1 100 ")
}

/// Sends an attack and waits until there is an answer, or none is to be expected.
async fn sent(front: &Front, h2: bool, bytes: &[u8], edge: &crate::support::edge::Edge) -> Tap {
    let mut tap = front.secure(Front::dial(edge, *edge.address.ip()).await, h2).await;
    tap.send(bytes).await;
    tap.rest(Duration::from_secs(2)).await;
    tap
}

/// What came over one connection, read by RFC 9112: one request with its body, and nothing behind it.
fn is_one_request(kind: Kind, bytes: &[u8]) {
    let what = || format!("{kind:?}: {}", bytes.escape_ascii());
    let end = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap_or_else(|| panic!("no request: {}", what()));
    let (head, body) = (String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase(), &bytes[end + 4..]);
    let values = |name: &str| -> Vec<String> {
        let lines = head.split("\r\n").filter_map(|line| line.split_once(':')).filter(|(n, _)| *n == name);
        lines.map(|(_, value)| value.trim().to_owned()).collect()
    };
    assert!(!head.contains("canary"), "in the head: {}", what());
    assert!(head.bytes().all(|byte| !matches!(byte, b'\0' | 0x0b)), "{}", what());
    assert_eq!(head.matches('\n').count(), head.matches("\r\n").count(), "a bare LF: {}", what());
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let after = match (&lengths[..], &codings[..]) {
        ([], []) => body,
        ([length], []) => {
            assert!(length.bytes().all(|digit| digit.is_ascii_digit()), "{}", what());
            // Perhaps the rest is still to come, and the proxy knows better.
            let length = length.parse().unwrap_or_else(|_| panic!("a length that nobody can hold: {}", what()));
            body.get(length..).unwrap_or_default()
        }
        ([], [coding]) if coding == "chunked" => after_chunks(body),
        _ => panic!("two ways to read it: {}", what()),
    };
    assert!(after.is_empty(), "{:?} behind the request: {}", String::from_utf8_lossy(after), what());
}

/// What stands behind the last chunk; nothing where that has not come.
fn after_chunks(mut bytes: &[u8]) -> &[u8] {
    while let Some(end) = memchr::memmem::find(bytes, b"\r\n") {
        let digits = String::from_utf8_lossy(&bytes[..end]);
        let size = usize::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("not a chunk: {digits:?}"));
        bytes = bytes.get(end + 2 + size + 2..).unwrap_or_default();
        if size == 0 {
            return bytes;
        }
    }
    &[]
}
