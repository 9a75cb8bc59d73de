//! Peers that vanish without a word, as a machine does that loses its network: gone within 45 s, although nothing is sent to
//! them but heartbeats. And those who only read slowly: they are still there.

mod support;

use std::time::{Duration, Instant};

use support::h2::Events;
use support::netns::Namespace;
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, get, h2};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// From the cut to the end of the last stream.
const GONE: Duration = Duration::from_secs(45);
/// Of each kind; they are due for a heartbeat at different times.
const EACH: usize = 10;

/// What is held open on the peers' side.
#[derive(Default)]
struct Peers {
    http_1: Vec<Sse>,
    http_2: Vec<Events>,
}

/// Streams from inside the namespace: on HTTP/1.1 and, each on a connection of its own, on HTTP/2.
async fn streams(network: &Namespace, app: &App, certificate: Option<&Certificate>) -> Peers {
    let mut peers = Peers::default();
    for (index, stream) in network.connect(app.address(), 2 * EACH).into_iter().enumerate() {
        let user = format!("user{index}");
        let http_2 = index % 2 == 1;
        let io: Box<dyn support::client::Io> = match certificate {
            Some(certificate) => {
                let alpn = if http_2 { "h2" } else { "http/1.1" };
                Box::new(certificate.handshake(stream, &[alpn]).await.expect("a handshake"))
            }
            None => Box::new(stream),
        };
        if http_2 {
            let mut sender = h2::over(io).await;
            let answer = sender.send_request(h2::request("/events", &user)).await.expect("an answer");
            let mut events = Events::of(answer.into_body());
            assert_eq!(events.next().await.name, "sidestream.connected");
            peers.http_2.push(events);
        } else {
            peers.http_1.push(Sse::open(Wire::over(io), &get("/events").user(&user)).await);
        }
    }
    peers
}

#[allow(clippy::cast_precision_loss, reason = "forty")]
#[tokio::test]
async fn a_peer_that_vanishes_is_gone_within_45_seconds() {
    support::bounded(async {
        let Some(network) = Namespace::new("a_peer_that_vanishes_is_gone_within_45_seconds") else { return };
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let certificate = Certificate::new();
        let trust = format!("proxies = [\"{}\"]\naddress_is_proof = true\n", network.address);
        let listen = format!("{}:0", network.ours);
        let config = Config::on(&nats).listen(&[&listen]).trust(Some(&trust));
        let (plain, secured) = (config.clone().server("h2c = true\n"), config.server(&certificate.table()));
        let (plain, secured) = tokio::join!(App::start(&plain), App::start(&secured));
        let held = [streams(&network, &plain, None).await, streams(&network, &secured, Some(&certificate)).await];
        for app in [&plain, &secured] {
            app.metric_is("sidestream_connections", &[], (2 * EACH) as f64, DEADLINE).await;
        }
        network.link_down();
        let cut = Instant::now();
        let gone = async |app: &App, name: &str| {
            app.metric_is("sidestream_connections", &[], 0.0, GONE).await;
            println!("{name}: all streams gone {:?} after the cut", cut.elapsed());
            assert!(cut.elapsed() < GONE);
            app.metric_is("sidestream_tasks", &[], 0.0, DEADLINE).await;
        };
        tokio::join!(gone(&plain, "plain"), gone(&secured, "TLS"));
        drop(held);
    })
    .await;
}

/// For the kernel a window that never holds a whole segment is shut, however much goes through it: by `TCP_USER_TIMEOUT`
/// alone this reader is cut off after 27 s.
#[tokio::test]
async fn a_slow_reader_with_a_narrow_window_stays() {
    let nats = Nats::start(Version::Current).await;
    let publisher = nats.events().await;
    let app = App::start(&Config::on(&nats)).await;
    let cursor = app.events("alice").await.last_event_id().to_owned();
    publisher.publish_all((0..200).map(|n| (format!("events.user.slow.{n}"), vec![b'x'; 4096]))).await;
    let mut socket = support::client::narrow(app.address()).await;
    let request = get("/events").user("slow").header("Last-Event-ID", &cursor);
    socket.write_all(&request.bytes()).await.expect("the request is taken");
    let began = Instant::now();
    let mut taken = [0; 10_000];
    while began.elapsed() < GONE {
        let read = tokio::time::timeout(DEADLINE, socket.read_exact(&mut taken)).await.expect("read in time");
        assert!(read.is_ok(), "cut off after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(4500)).await;
    }
}
