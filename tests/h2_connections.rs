//! HTTP/2 connections whose peers do not read, read slowly, or ask while they are told to go: none of them holds memory or a socket
//! for long, and none that moves is cut off.

mod support;

use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use support::frames::{ACK, Frame, GOAWAY, PING, WINDOW_UPDATE, ask, frame, preface};
use support::h2::{Deaf, Events};
use support::{App, Config, DEADLINE, Nats, Publisher, Version, h2};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant as Moment, Sleep};

/// From the stall to the end of the connection: `limits.write_timeout` of 10 s, a sweep, and what it takes to say goodbye.
const GONE: Duration = Duration::from_secs(15);

async fn publish(publisher: &Publisher, count: usize, size: usize) {
    publisher.publish_all((0..count).map(|n| (format!("events.user.slow.{n}"), vec![b'x'; size]))).await;
}

/// Sockets of the server's side, as `ss` lists them, whoever still owns them.
fn sockets(app: &App) -> Vec<String> {
    let port = app.address().rsplit_once(':').expect("host:port").1;
    let output = Command::new("ss").args(["-tanHO", &format!("( sport = :{port} )")]).output();
    let listing = String::from_utf8(output.expect("ss is there").stdout).expect("text");
    listing.lines().filter(|line| !line.starts_with("LISTEN")).map(str::to_owned).collect()
}

/// Beside the stream the connection goes, and what the kernel holds for it.
#[tokio::test]
async fn a_connection_whose_peer_stops_reading_is_gone_in_time() {
    let nats = Nats::start(Version::Current).await;
    let publisher = nats.events().await;
    let app = App::start(&Config::on(&nats).server("h2c = true\n")).await;
    let (io, ear) = Deaf::over(support::client::narrow(app.address()).await);
    let mut sender = h2::windowed(io, 1 << 22, 1 << 24).await;
    let answer = sender.send_request(h2::request("/events", "slow")).await.expect("an answer");
    let mut events = Events::of(answer.into_body());
    assert_eq!(events.next().await.name, "sidestream.connected");
    ear.stop();
    publish(&publisher, 800, 8192).await;
    let began = Instant::now();
    app.metric_is("sidestream_tasks", &[], 0.0, 2 * GONE).await;
    assert!(began.elapsed() < GONE, "{:?}", began.elapsed());
    assert_eq!(sockets(&app), Vec::<String>::new());
}

/// Takes so many bytes, and then nothing for a while.
struct Slow {
    io: TcpStream,
    left: usize,
    pause: Pin<Box<Sleep>>,
}

impl Slow {
    const BYTES: usize = 10_000;
    const PAUSE: Duration = Duration::from_millis(4500);
}

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.left == 0 {
            ready!(self.pause.as_mut().poll(cx));
            self.pause.as_mut().reset(Moment::now() + Self::PAUSE);
            self.left = Self::BYTES;
        }
        let mut bytes = [0; Self::BYTES];
        let most = self.left.min(buf.remaining());
        let mut few = ReadBuf::new(&mut bytes[..most]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut few))?;
        self.left -= few.filled().len();
        buf.put_slice(few.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Its answers to pings stand behind all that it has still to read.
#[tokio::test]
async fn a_slow_reader_is_not_taken_for_one_that_vanished() {
    let nats = Nats::start(Version::Current).await;
    let publisher = nats.events().await;
    let app = App::start(&Config::on(&nats).server("h2c = true\n")).await;
    let cursor = app.events("alice").await.last_event_id().to_owned();
    publish(&publisher, 400, 4096).await;
    let io = support::client::narrow(app.address()).await;
    let io = Slow { io, left: 0, pause: Box::pin(tokio::time::sleep(Duration::ZERO)) };
    let mut sender = h2::windowed(io, 65_535, 1 << 24).await;
    let mut request = h2::request("/events", "slow");
    request.headers_mut().insert("last-event-id", cursor.parse().expect("a cursor"));
    let mut events = Events::of(sender.send_request(request).await.expect("an answer").into_body());
    let began = Instant::now();
    // Twice a ping and the time for its answer.
    while began.elapsed() < Duration::from_secs(65) {
        let event = tokio::time::timeout(DEADLINE, events.try_next()).await.expect("an event in time");
        assert!(event.is_some(), "cut off after {:?}", began.elapsed());
    }
}

/// A hundred answers on each connection, with windows that take none: a few hold on, for a second or two.
#[tokio::test]
async fn answers_that_nobody_reads_take_little_and_not_for_long() {
    const CONNECTIONS: u32 = 200;
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let app = App::start(&Config::on(&nats).server("h2c = true\n")).await;
    let before = app.resident();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut socket = TcpStream::connect(app.address()).await.expect("accepts");
        let asked: Vec<u8> = (0..100).flat_map(|n| ask(2 * n + 1, "/nope", "alice")).collect();
        socket.write_all(&[preface(0), asked].concat()).await.expect("taken");
        held.push(socket);
    }
    let (mut most, began) = (0, Instant::now());
    while began.elapsed() < Duration::from_secs(1) {
        most = most.max(app.resident());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let each = most.saturating_sub(before) / u64::from(CONNECTIONS);
    println!("at most {} KiB for each connection", each / 1024);
    assert!(each < 128 * 1024, "{each} bytes for each connection");
    app.metric_is("sidestream_tasks", &[], 0.0, GONE).await;
}

/// The peer asks for a stream before it has read that it should not. It hears a heartbeat a second.
#[tokio::test]
async fn a_stream_that_crosses_the_goodbye_is_served() {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let config = Config::on(&nats).server("h2c = true\nheader_timeout = \"1s\"\n").heartbeat("1s");
    let app = App::start(&config).await;
    let mut socket = TcpStream::connect(app.address()).await.expect("accepts");
    socket.write_all(&[preface(65_535), ask(1, "/nope", "alice")].concat()).await.expect("taken");
    let (mut heartbeats, mut asked) = (0, false);
    while heartbeats < 10 {
        let read = tokio::time::timeout(DEADLINE, Frame::read(&mut socket)).await.expect("in time");
        let Frame { kind, flags, payload, .. } = read.expect("the connection is open");
        match (kind, flags) {
            // The first of two: the second follows the answer to a ping, and names the last stream.
            (GOAWAY, _) if !asked => {
                asked = true;
                socket.write_all(&ask(3, "/events", "alice")).await.expect("taken");
            }
            (PING, 0) => socket.write_all(&frame(PING, ACK, 0, &payload)).await.expect("taken"),
            _ => heartbeats += usize::from(String::from_utf8_lossy(&payload).contains("sidestream.heartbeat")),
        }
    }
}

/// It takes what it is sent, and says nothing more.
#[tokio::test]
async fn a_peer_that_answers_no_ping_is_gone_half_a_minute_later() {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let app = App::start(&Config::on(&nats).server("h2c = true\n").heartbeat("1s")).await;
    let mut socket = TcpStream::connect(app.address()).await.expect("accepts");
    let window = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 24).to_be_bytes());
    socket.write_all(&[preface(1 << 20), window, ask(1, "/events", "alice")].concat()).await.expect("taken");
    let (began, mut asked) = (Instant::now(), None);
    while let Some(frame) = tokio::time::timeout(DEADLINE, Frame::read(&mut socket)).await.expect("heartbeats") {
        if (frame.kind, frame.flags) == (PING, 0) {
            assert!(asked.replace(began.elapsed()).is_none(), "asked again without an answer");
        }
    }
    let (asked, gone) = (asked.expect("a question"), began.elapsed());
    println!("asked after {asked:?}, gone after {gone:?}");
    assert!(asked.abs_diff(Duration::from_secs(20)) < Duration::from_secs(2), "asked after {asked:?}");
    assert!(gone.abs_diff(Duration::from_secs(30)) < Duration::from_secs(2), "gone after {gone:?}");
    app.metric_is("sidestream_tasks", &[], 0.0, DEADLINE).await;
}
