//! HTTP/2 connections that flood (requirements R22 and R23), by raw frames against the real program. Each ends in GOAWAY, is held
//! because it reads no answers, or costs what its bytes cost; in memory next to nothing; and whoever has a stream hears every
//! event in time meanwhile.
//!
//! One stream of many that does not read is in `stalled.rs`, peers that say nothing in `slow_requests.rs`.

mod support;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use support::client::Io;
use support::frames::*;
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Publisher, Sse, Version, Wire, bounded, get};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Connections that flood at the same time.
const AT_ONCE: usize = 8;
/// Streams that a connection may have at a time.
const STREAMS: usize = 100;
/// Resident memory that one of them may take.
const COST: u64 = 1 << 20;
/// CPU that all of them may use: what they send costs less than 10 ns a byte, not optimised, and most of it is never looked at.
const USED: Duration = Duration::from_secs(1);
/// Bytes that the kernels between take from one whose peer has hung up, or does not go on.
const ON_THE_WAY: usize = 12 << 20;
/// Two cores for everybody, and a program that is not optimised.
const LATE: Duration = Duration::from_secs(1);
/// From the last byte that was taken to the end, where `header_timeout` and `limits.write_timeout` are 2 s.
const GONE: Duration = Duration::from_secs(6);
/// Errors of streams that a connection is forgiven.
const RESETS: usize = 1024;

/// Error codes (RFC 9113 section 7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Served {
    nats: Nats,
    plain: App,
    tls: App,
    certificate: Certificate,
}

impl Served {
    async fn start() -> Self {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let certificate = Certificate::new();
        let config = Config::on(&nats).server("header_timeout = \"2s\"\n").limit("write_timeout", "\"2s\"");
        let (plain, tls) = (config.clone().server("h2c = true\n"), config.server(&certificate.table()));
        let (plain, tls) = tokio::join!(App::start(&plain), App::start(&tls));
        Self { nats, plain, tls, certificate }
    }

    async fn secured(&self, stream: TcpStream) -> impl Io + 'static {
        self.certificate.handshake(stream, &["h2"]).await.expect("a handshake")
    }
}

/// Readers of event streams, and a publisher that keeps them busy.
struct Healthy {
    publishing: JoinHandle<()>,
    readers: Vec<JoinHandle<(usize, Duration)>>,
    publisher: Publisher,
}

impl Healthy {
    /// As many as make it likely that every shard has one.
    const READERS: usize = 8;
    const PAUSE: Duration = Duration::from_millis(20);

    async fn on(nats: &Nats, wires: Vec<Wire>) -> Self {
        let began = Instant::now();
        let mut readers = Vec::new();
        for wire in wires {
            let mut sse = Sse::open(wire, &get("/events").user("alice")).await;
            sse.forget_raw();
            readers.push(tokio::spawn(async move { Self::hears(&mut sse, began).await }));
        }
        let publisher = nats.publisher().await;
        let publishing = tokio::spawn(async move {
            for n in 0_usize.. {
                publisher.publish("events.broadcast.n", format!("{n} {}", began.elapsed().as_micros())).await;
                tokio::time::sleep(Self::PAUSE).await;
            }
        });
        Self { publishing, readers, publisher: nats.publisher().await }
    }

    /// Every number to the end; gives how many, and the longest that one was on its way.
    async fn hears(sse: &mut Sse, began: Instant) -> (usize, Duration) {
        let (mut wanted, mut slowest) = (0_usize, Duration::ZERO);
        loop {
            let event = sse.event().await;
            let Some((n, sent)) = event.data.split_once(' ') else { return (wanted, slowest) };
            assert_eq!(n.parse(), Ok(wanted), "a healthy stream");
            let sent = Duration::from_micros(sent.parse().expect("a time"));
            slowest = slowest.max(began.elapsed() - sent);
            wanted += 1;
        }
    }

    /// All have heard everything, none of it late.
    async fn heard_everything(self) {
        self.publishing.abort();
        let _ = self.publishing.await;
        self.publisher.publish("events.broadcast.n", "end").await;
        let mut heard = Vec::new();
        for reader in self.readers {
            heard.push(reader.await.expect("a healthy stream"));
        }
        let slowest = heard.iter().map(|(_, slowest)| *slowest).max().unwrap_or_default();
        println!("{} events to each healthy stream, the slowest in {slowest:?}", heard[0].0);
        assert!(heard.iter().all(|(count, _)| *count == heard[0].0 && *count > 0), "{heard:?}");
        assert!(slowest < LATE, "an event took {slowest:?}");
    }
}

async fn healthy_on_plain(served: &Served) -> Healthy {
    let wires = join_all((0..Healthy::READERS).map(|_| Wire::tcp(served.plain.address()))).await;
    Healthy::on(&served.nats, wires).await
}

/// What a flood consists of, in the pieces in which it is sent.
struct Flood {
    name: &'static str,
    pieces: Vec<Vec<u8>>,
    /// The code of the GOAWAY in which it ends; none where it breaks no rule.
    ends: Option<u32>,
}

/// What became of a connection.
#[derive(Debug, Default)]
struct Outcome {
    sent: usize,
    resets: Vec<u32>,
    answers: usize,
    goaway: Option<u32>,
    /// All that was sent has been dealt with, and the connection is as good as before.
    lives: bool,
}

/// Floods, and reads all the time. At the end a ping shows whether the connection lives.
async fn flood(io: impl Io + 'static, pieces: &[Vec<u8>]) -> Outcome {
    const LAST: [u8; 8] = *b"the last";
    let (mut read, mut write) = tokio::io::split(io);
    let mut outcome = Outcome::default();
    let writing = async {
        let mut sent = 0;
        let start = [preface(1 << 20), frame(SETTINGS, ACK, 0, &[])].concat();
        let last = frame(PING, 0, 0, &LAST);
        for piece in [&start].into_iter().chain(pieces).chain([&last]) {
            if write.write_all(piece).await.is_err() {
                break;
            }
            sent += piece.len();
        }
        let _ = write.flush().await;
        sent
    };
    let reading = async {
        while let Some(frame) = Frame::read(&mut read).await {
            match frame.kind {
                HEADERS => outcome.answers += 1,
                RST_STREAM => outcome.resets.push(frame.number(0)),
                GOAWAY => outcome.goaway = Some(frame.number(4)),
                PING if frame.payload == LAST => {
                    outcome.lives = true;
                    break;
                }
                _ => {}
            }
        }
    };
    let both = async { tokio::join!(writing, reading).0 };
    outcome.sent = tokio::time::timeout(2 * DEADLINE, both).await.expect("a flood has an end");
    outcome
}

/// The same on every stream, a hundred streams in a piece.
fn each(streams: u32, one: impl Fn(u32) -> Vec<u8>) -> Vec<Vec<u8>> {
    let all: Vec<Vec<u8>> = (0..streams).map(|n| one(2 * n + 1)).collect();
    all.chunks(100).map(<[_]>::concat).collect()
}

/// The same frame again and again, behind a beginning.
fn again(start: Vec<u8>, one: &[u8], count: usize) -> Vec<Vec<u8>> {
    let pieces = std::iter::once(start);
    pieces.chain((0..count.div_ceil(100)).map(|_| one.repeat(100))).collect()
}

/// A request for an event stream, with a header block of so many fields in it, that goes on.
fn opens(stream: u32, fields: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[&block("/events", "mallory"), fields].concat())
}

fn wide_window(stream: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())
}

/// A whole request whose header list has so many bytes, in as many frames as it needs.
fn large(stream: u32, list: usize) -> Vec<u8> {
    let field = |n| field(&format!("x-{n:04}"), &"v".repeat(100));
    // As HTTP/2 counts a field (RFC 9113 section 6.5.2).
    let fields: Vec<u8> = (0..list / (6 + 100 + 32)).flat_map(field).collect();
    split(stream, &[block("/nope", "mallory"), fields].concat())
}

/// A header block in a HEADERS frame and CONTINUATION frames.
fn split(stream: u32, block: &[u8]) -> Vec<u8> {
    let parts = block.chunks(16 << 10).collect::<Vec<_>>();
    let part = |(n, part): (usize, &&[u8])| {
        let (kind, first) = if n == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        let last = if n + 1 == parts.len() { END_HEADERS } else { 0 };
        frame(kind, first | last, stream, part)
    };
    parts.iter().enumerate().flat_map(part).collect()
}

/// A field of 4000 bytes that is put into the table (RFC 7541 section 6.2.1), and thousands of references to it.
fn bomb(stream: u32) -> Vec<u8> {
    const VALUE: usize = 4000;
    // 127 and 33 + 30 * 128 (RFC 7541 section 5.1).
    let value = [&[0x7f, 0x80 | 33, 30][..], &[b'v'; VALUE]].concat();
    assert_eq!(127 + 33 + 30 * 128, VALUE);
    let references = [0x80 | 62; 8000];
    split(stream, &[&block("/nope", "mallory")[..], &[0x40, 1, b'b'], &value, &references].concat())
}

/// Those who make us reset streams, or break a rule for connections.
#[rustfmt::skip]
fn hostile() -> Vec<Flood> {
    let calm = |name, pieces| Flood { name, pieces, ends: Some(ENHANCE_YOUR_CALM) };
    let wrong = |name, code, one: Vec<u8>| Flood { name, pieces: vec![one], ends: Some(code) };
    let asks = |stream| ask(stream, "/events", "mallory");
    let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let itself = |stream: u32| [&stream.to_be_bytes()[..], &[0]].concat();
    let begun = frame(HEADERS, 0, 1, &block("/nope", "mallory"));
    vec![
        // Opened, and left at once: CVE-2023-44487.
        calm("rapid reset", each(5000, |n| [asks(n), reset(n)].concat())),
        // We are made to reset: CVE-2025-8671.
        calm("window overflow", each(3000, |n| [asks(n), wide_window(n)].concat())),
        calm("streams that depend on themselves", each(3000, |n| [asks(n), frame(PRIORITY, 0, n, &itself(n))].concat())),
        calm("the same in HEADERS", each(3000, |n| {
            frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, n, &[itself(n), block("/events", "mallory")].concat())
        })),
        calm("less than content-length", each(3000, |n| {
            [opens(n, &field("content-length", "5")), frame(DATA, END_STREAM, n, b"x")].concat()
        })),
        calm("empty HEADERS", each(3000, |n| frame(HEADERS, END_STREAM | END_HEADERS, n, &[]))),
        calm("streams over the limit", each(3000, asks)),
        // Header blocks without an end.
        calm("CONTINUATION", again(begun.clone(), &frame(CONTINUATION, 0, 1, &field("name", "value").repeat(1300)), 4000)),
        calm("empty CONTINUATION", again(begun, &frame(CONTINUATION, 0, 1, &[]), 4000)),
        calm("one long string", again(
            frame(HEADERS, 0, 1, &[block("/nope", "mallory"), vec![0, 0x7f, 0xff, 0xff, 0x7f]].concat()),
            &frame(CONTINUATION, 0, 1, &[b'a'; 16 << 10]),
            4000,
        )),
        Flood { name: "a large header list", pieces: vec![large(1, 80 << 10).repeat(300)], ends: Some(COMPRESSION_ERROR) },
        calm("references to a large field", vec![bomb(1).repeat(300)]),
        // Bodies of nothing.
        calm("empty DATA", again(opens(1, &[]), &frame(DATA, 0, 1, &[]), 4000)),
        calm("empty DATA on many streams", each(3000, |n| [opens(n, &[]), frame(DATA, 0, n, &[]).repeat(20)].concat())),
        calm("DATA of one byte", again(opens(1, &[]), &frame(DATA, 0, 1, b"x"), 4000)),
        // Broken rules of a connection: one frame is enough.
        wrong("no increment", PROTOCOL_ERROR, [asks(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat()),
        wrong("window overflow of the connection", FLOW_CONTROL_ERROR, wide_window(0)),
        wrong("DATA behind the end", PROTOCOL_ERROR, [asks(1), frame(DATA, 0, 1, b"x")].concat()),
        wrong("HEADERS behind the end", PROTOCOL_ERROR, [asks(1), asks(1)].concat()),
        wrong("a smaller stream id", PROTOCOL_ERROR, [asks(5), asks(3)].concat()),
        wrong("an even stream id", PROTOCOL_ERROR, asks(2)),
        wrong("stream 0", PROTOCOL_ERROR, asks(0)),
        wrong("DATA on an idle stream", PROTOCOL_ERROR, frame(DATA, 0, 1, b"x")),
        wrong("RST_STREAM on an idle stream", PROTOCOL_ERROR, reset(1)),
        wrong("WINDOW_UPDATE on an idle stream", PROTOCOL_ERROR, frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        wrong("PRIORITY too short", PROTOCOL_ERROR, frame(PRIORITY, 0, 1, &[0; 4])),
        wrong("PUSH_PROMISE", PROTOCOL_ERROR, frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
        wrong("an index that there is not", PROTOCOL_ERROR, frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0x70])),
        wrong("an acknowledgement of nothing", PROTOCOL_ERROR, frame(SETTINGS, ACK, 0, &[])),
        wrong("a frame over 16 KiB", FRAME_SIZE_ERROR, frame(DATA, 0, 1, &[0; (16 << 10) + 1])),
        wrong("the head of one of 16 MiB", FRAME_SIZE_ERROR, vec![0xff, 0xff, 0xff, HEADERS, 4, 0, 0, 0, 1]),
        wrong("HTTP/1.1", FRAME_SIZE_ERROR, get("/events").bytes()),
    ]
}

/// Those who keep to the rules.
#[rustfmt::skip]
fn lawful() -> Vec<Flood> {
    let lawful = |name, pieces| Flood { name, pieces, ends: None };
    let windows = |window| settings(&[(4, window)]);
    let hundred = each(100, |n| ask(n, "/events", "mallory")).concat();
    vec![
        lawful("PING", again(vec![], &frame(PING, 0, 0, &[7; 8]), 20_000)),
        lawful("answers to no PING", again(vec![], &frame(PING, ACK, 0, &[7; 8]), 20_000)),
        lawful("SETTINGS", again(vec![], &windows(65_535), 20_000)),
        lawful("the windows of a hundred streams", again(hundred, &[windows(1), windows(1 << 20)].concat(), 2000)),
        lawful("WINDOW_UPDATE", again(vec![], &frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), 20_000)),
        lawful("WINDOW_UPDATE of a stream", again(
            ask(1, "/events", "mallory"), &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), 20_000,
        )),
        lawful("PRIORITY of idle streams", each(20_000, |n| frame(PRIORITY, 0, n, &[0, 0, 0, 0, 9]))),
        lawful("unknown frames", again(vec![], &frame(0x42, 0, 0, &[7; 8]), 20_000)),
        // Without a stream it is the end.
        lawful("GOAWAY beside a stream", again(ask(1, "/events", "mallory"), &frame(GOAWAY, 0, 0, &[0; 8]), 2000)),
        lawful("header lists of 30 KiB", (0..80).map(|n| large(2 * n + 1, 30 << 10)).collect()),
    ]
}

/// Floods by [`AT_ONCE`] connections, and checks what becomes of each.
async fn all_at_once<T: Io + 'static>(app: &App, flood_: &Flood, connect: impl AsyncFn(TcpStream) -> T) {
    app.forget_peak();
    let (memory, cpu, lines) = (app.resident(), app.cpu(), app.log_lines().len());
    let outcomes = join_all((0..AT_ONCE).map(async |_| {
        let stream = TcpStream::connect(app.address()).await.expect("accepts");
        flood(connect(stream).await, &flood_.pieces).await
    }))
    .await;
    let (name, cpu) = (flood_.name, app.cpu() - cpu);
    let each = app.peak_resident().saturating_sub(memory) / AT_ONCE as u64;
    println!("{name}: {cpu:?} of CPU for all, at most {} KiB for each", each / 1024);
    assert!(each < COST, "{name}: {each} bytes for each connection");
    assert!(cpu < USED, "{name}: {cpu:?} of CPU");
    for outcome in &outcomes {
        assert_eq!(outcome.goaway, flood_.ends, "{name}: {outcome:.200?}");
        assert_eq!(outcome.lives, flood_.ends.is_none(), "{name}: {outcome:.200?}");
        assert!(outcome.lives || outcome.sent < ON_THE_WAY, "{name}: {} bytes", outcome.sent);
        assert!(outcome.resets.len() <= RESETS, "{name}: {} resets", outcome.resets.len());
    }
    // What a peer does is nothing that an operator acts on; and a line for each frame would fill a disk. A stream has one for its
    // opening and one for its end.
    let logged = app.log_lines().split_off(lines);
    let (access, other): (Vec<_>, Vec<_>) =
        logged.into_iter().partition(|line| line.contains("\"target\":\"sidestream::access\""));
    assert!(other.is_empty(), "{name}: {} lines in the log, such as {}", other.len(), other[0]);
    assert!(access.len() <= 2 * STREAMS * AT_ONCE, "{name}: {} lines of streams", access.len());
}

async fn plain(stream: TcpStream) -> TcpStream {
    stream
}

#[tokio::test]
async fn hostile_floods_end_in_goaway() {
    bounded(async {
        let served = Served::start().await;
        let healthy = healthy_on_plain(&served).await;
        let floods = hostile();
        for flood in &floods {
            all_at_once(&served.plain, flood, plain).await;
        }
        for flood in floods.iter().filter(|flood| flood.ends == Some(ENHANCE_YOUR_CALM)) {
            all_at_once(&served.tls, flood, async |stream| served.secured(stream).await).await;
        }
        only_the_healthy_are_left(&served, DEADLINE).await;
        healthy.heard_everything().await;
    })
    .await;
}

#[tokio::test]
async fn lawful_floods_cost_no_memory() {
    bounded(async {
        let served = Served::start().await;
        let healthy = healthy_on_plain(&served).await;
        let floods = lawful();
        for flood in &floods {
            all_at_once(&served.plain, flood, plain).await;
        }
        for flood in &floods[..3] {
            all_at_once(&served.tls, flood, async |stream| served.secured(stream).await).await;
        }
        only_the_healthy_are_left(&served, DEADLINE).await;
        healthy.heard_everything().await;
    })
    .await;
}

/// No flood has left anything behind.
async fn only_the_healthy_are_left(served: &Served, within: Duration) {
    #[allow(clippy::cast_precision_loss, reason = "eight")]
    served.plain.metric_is("sidestream_tasks", &[], Healthy::READERS as f64, within).await;
    served.tls.metric_is("sidestream_tasks", &[], 0.0, within).await;
}

/// Sends until nothing is taken any more, and reads nothing. Gives what was taken, and the connection, still open.
async fn deaf<T: Io>(mut io: T, start: &[u8], piece: &[u8]) -> (usize, T) {
    const HELD: Duration = Duration::from_millis(500);
    io.write_all(&[&preface(1 << 20), start].concat()).await.expect("taken");
    let mut sent = 0;
    while sent < ON_THE_WAY {
        match tokio::time::timeout(HELD, io.write(piece)).await {
            Ok(taken) => sent += taken.expect("the connection is open"),
            Err(_) => break,
        }
    }
    (sent, io)
}

/// Answers that are not read hold their peer; it goes with its header timeout, or behind its stream.
#[tokio::test]
async fn floods_whose_answers_are_not_read_are_held_and_go() {
    bounded(async {
        let served = Served::start().await;
        let healthy = healthy_on_plain(&served).await;
        let floods = [
            (vec![], frame(PING, 0, 0, &[7; 8])),
            (vec![], settings(&[(4, 65_535)])),
            (ask(1, "/events", "mallory"), frame(PING, 0, 0, &[7; 8])),
        ];
        let floods = floods.map(|(start, one)| (start, one.repeat(200)));
        let all: Vec<&(Vec<u8>, Vec<u8>)> = (0..AT_ONCE).flat_map(|_| &floods).collect();
        served.plain.forget_peak();
        served.tls.forget_peak();
        let before = served.plain.resident() + served.tls.resident();
        let (plain, tls) = tokio::join!(
            join_all(all.iter().map(async |(start, piece)| {
                deaf(support::client::narrow(served.plain.address()).await, start, piece).await
            })),
            join_all(all.iter().map(async |(start, piece)| {
                let stream = support::client::narrow(served.tls.address()).await;
                deaf(served.secured(stream).await, start, piece).await
            })),
        );
        let most = plain.iter().map(|p| p.0).chain(tls.iter().map(|t| t.0)).max().unwrap_or_default();
        println!("at most {} KiB taken", most / 1024);
        assert!(most < ON_THE_WAY, "{most} bytes were taken");
        // Nobody reads: they are gone by themselves, while their sockets are still open here.
        only_the_healthy_are_left(&served, GONE).await;
        let grown = (served.plain.peak_resident() + served.tls.peak_resident()).saturating_sub(before);
        let each = grown / (2 * all.len()) as u64;
        println!("at most {} KiB for each", each / 1024);
        assert!(each < COST, "{each} bytes for each connection");
        healthy.heard_everything().await;
    })
    .await;
}

/// What we say of ourselves before we are asked.
#[tokio::test]
async fn the_limits_are_announced() {
    bounded(async {
        let served = Served::start().await;
        let plain = TcpStream::connect(served.plain.address()).await.expect("accepts");
        let tls = TcpStream::connect(served.tls.address()).await.expect("accepts");
        let tls = served.secured(tls).await;
        let (plain, tls) = tokio::join!(announced(plain), announced(tls));
        // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE; frames and tables are as large as they are by default.
        let wanted = [(3, 100), (4, 64 << 10), (6, 16 << 10)];
        assert_eq!((&plain[..], &tls[..]), (&wanted[..], &wanted[..]));
    })
    .await;
}

async fn announced(mut io: impl Io) -> Vec<(u16, u32)> {
    io.write_all(&preface(65_535)).await.expect("taken");
    let settings = tokio::time::timeout(DEADLINE, Frame::read(&mut io)).await.expect("in time").expect("open");
    assert_eq!((settings.kind, settings.flags, settings.stream), (SETTINGS, 0, 0));
    let value = |value: &[u8]| {
        (u16::from_be_bytes([value[0], value[1]]), u32::from_be_bytes(value[2..].try_into().expect("four")))
    };
    settings.payload.chunks(6).map(value).collect()
}

/// The hundred are event streams: one more is refused, in the way that says it was not touched, and has room when one goes.
#[tokio::test]
async fn a_stream_over_the_limit_is_refused_and_may_come_again() {
    bounded(async {
        let served = Served::start().await;
        let mut io = TcpStream::connect(served.plain.address()).await.expect("accepts");
        let hundred: Vec<u8> = (0..100).flat_map(|n| ask(2 * n + 1, "/events", "alice")).collect();
        io.write_all(&[preface(65_535), hundred].concat()).await.expect("taken");
        served.plain.metric_is("sidestream_connections", &[], 100.0, DEADLINE).await;
        io.write_all(&ask(201, "/events", "alice")).await.expect("taken");
        let refused = read_until(&mut io, |frame| frame.stream == 201).await;
        assert_eq!((refused.kind, refused.number(0)), (RST_STREAM, REFUSED_STREAM));
        // Too much room for one: that stream goes, and no other.
        io.write_all(&wide_window(1)).await.expect("taken");
        let reset = read_until(&mut io, |frame| frame.kind == RST_STREAM).await;
        assert_eq!((reset.stream, reset.number(0)), (1, FLOW_CONTROL_ERROR));
        served.plain.metric_is("sidestream_connections", &[], 99.0, DEADLINE).await;
        io.write_all(&ask(203, "/events", "alice")).await.expect("taken");
        let served_ = read_until(&mut io, |frame| frame.stream == 203).await;
        assert_eq!(served_.kind, HEADERS);
        served.plain.metric_is("sidestream_connections", &[], 100.0, DEADLINE).await;
    })
    .await;
}

async fn read_until(io: &mut TcpStream, wanted: impl Fn(&Frame) -> bool) -> Frame {
    let reading = async {
        loop {
            let frame = Frame::read(io).await.expect("the connection is open");
            if wanted(&frame) {
                return frame;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("in time")
}

/// HTTP/2 on a plain listener needs `server.h2c`, and prior knowledge: nobody is switched to it.
#[tokio::test]
async fn there_is_no_http_2_where_it_is_not_configured() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut wire = Wire::tcp(app.address()).await;
        wire.send_anyway(&[preface(65_535), ask(1, "/events", "alice")].concat()).await;
        let answer = wire.read_to_end().await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.1 505"),
            "{}",
            answer.escape_ascii()
        );

        let h2c = App::start(&Config::on(&nats).server("h2c = true\n")).await;
        for app in [&app, &h2c] {
            let upgrade = get("/events").user("alice").header("Connection", "Upgrade, HTTP2-Settings");
            let upgrade = upgrade.header("Upgrade", "h2c").header("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA");
            let mut sse = app.stream(upgrade).await;
            nats.publisher().await.publish("events.user.alice.note", "on HTTP/1.1").await;
            assert_eq!(sse.event().await.data, "on HTTP/1.1");
        }
    })
    .await;
}
