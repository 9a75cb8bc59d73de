//! Nothing foreign. The grant is made anew at each connect and holds for each message, live and from the past, whosever the
//! cursor is (R33); and a NATS that sends a message by the wrong subscription, or under another subject, reaches nobody by
//! it (R40).
//!
//! The broker is a real one behind a proxy that rewrites the subject of deliveries on their way, which is what a broken
//! subject mapping, import or filter looks like from here.

mod support;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::{App, Config, DEADLINE, Nats, Publisher, Request, Sse, Version, Wire, bounded, get, on_both_servers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const LIVE_ROUTE: &str = "\n[[route]]\npath = \"/live\"\nlive_subjects = [\"live.user.{user}.>\"]\n";
/// So small that nearly everything must be read from NATS.
const SMALL_HISTORY: &str = "\n[history]\nbytes = \"64KiB\"\n";
/// What the lie is about, of the same length, so that lengths in the protocol stay right.
const SENT: &str = "user.alice.";
const SEEN: &str = "user.bobby.";

/// A proxy that turns alice's deliveries into bobby's while it lies.
struct Liar {
    address: String,
    lying: Arc<AtomicBool>,
    lies: Arc<AtomicUsize>,
}

impl Liar {
    async fn before(nats: &Nats) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (lying, lies) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (upstream, state) = (nats.address(), (lying.clone(), lies.clone()));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&upstream).await.expect("NATS accepts");
                let (mut near_read, near_write) = near.into_split();
                let (far_read, mut far_write) = far.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
                tokio::spawn(deliver(far_read, near_write, state.clone()));
            }
        });
        Self { address, lying, lies }
    }

    fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    fn lie(&self, lying: bool) {
        self.lying.store(lying, Ordering::SeqCst);
    }

    fn lies(&self) -> usize {
        self.lies.load(Ordering::SeqCst)
    }
}

/// Passes on whole lines, so that no subject is cut in two.
async fn deliver(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: (Arc<AtomicBool>, Arc<AtomicUsize>)) {
    let (lying, lies) = state;
    let mut held = Vec::new();
    while let Ok(1..) = from.read_buf(&mut held).await {
        let Some(end) = memchr::memmem::rfind(&held, b"\r\n").map(|at| at + 2) else { continue };
        if lying.load(Ordering::SeqCst) {
            for prefix in ["MSG events.", "MSG live."] {
                let sent = format!("{prefix}{SENT}");
                let places: Vec<usize> = memchr::memmem::find_iter(&held[..end], &sent).collect();
                lies.fetch_add(places.len(), Ordering::SeqCst);
                for at in places {
                    held[at + prefix.len()..at + sent.len()].copy_from_slice(SEEN.as_bytes());
                }
            }
        }
        if to.write_all(&held[..end]).await.is_err() {
            return;
        }
        held.drain(..end);
    }
}

/// One message each in turn, numbered: to alice, to bob, to a room, to everybody.
fn numbered(range: Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    range.map(|n| {
        let subject = ["events.user.alice.x", "events.user.bob.x", "events.room.1.x", "events.broadcast.x"][n % 4];
        (subject.to_owned(), format!("{n} {}", "z".repeat(200)).into_bytes())
    })
}

/// Reads exactly the numbered messages of these kinds, in order, and after them nothing before `marker`, which is published
/// last.
async fn hears_only(who: &str, sse: &mut Sse, range: Range<usize>, kinds: &[usize], marker: &str) {
    let expected: Vec<usize> = range.filter(|n| kinds.contains(&(n % 4))).collect();
    let heard = sse.before(marker).await;
    let number = |data: &str| data.split(' ').next().and_then(|n| n.parse::<usize>().ok());
    for (event, wanted) in heard.iter().zip(&expected) {
        assert_eq!(number(&event.data), Some(*wanted), "{who} heard {event:?}");
    }
    assert_eq!(heard.len(), expected.len(), "what {who} heard");
}

/// The cursor of the end, where the sidecar has everything that was published before.
async fn end(app: &App, publisher: &Publisher) -> String {
    let mut nobody = app.events("nobody").await;
    publisher.publish("events.user.nobody.x", "the end").await;
    nobody.before("the end").await;
    nobody.last_event_id().to_owned()
}

const ALICE: usize = 0;
const BOB: usize = 1;
const ROOM: usize = 2;
const EVERYBODY: usize = 3;

fn resuming(target: &str, user: &str, id: &str) -> Request {
    get(target).user(user).header("Last-Event-ID", id)
}

on_both_servers! {
    async fn a_message_on_the_wrong_subscription_reaches_nobody(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let liar = Liar::before(&nats).await;
        let app = App::start(&Config::at(&liar.url()).tables(LIVE_ROUTE)).await;
        let open = async |user: &str| Sse::open(Wire::tcp(app.address()).await, &get("/live").user(user)).await;
        let (mut alice, mut bobby) = (open("alice").await, open("bobby").await);
        publisher.publish_core("live.user.alice.note", "honest").await;
        assert_eq!(alice.event().await.data, "honest");

        liar.lie(true);
        publisher.publish_core("live.user.alice.note", "foreign").await;
        app.metric_is("sidestream_subject_violations_total", &[], 1.0, DEADLINE).await;
        liar.lie(false);

        for (user, sse) in [("alice", &mut alice), ("bobby", &mut bobby)] {
            publisher.publish_core(&format!("live.user.{user}.note"), "after").await;
            sse.nothing_before("after").await;
        }
    }

    /// What was stored for alice is delivered as bobby's, by the feed that fills the history and by the passes that read what is
    /// older: nobody hears it as alice's, whatever consumer it came by.
    async fn a_stored_message_under_another_subject_is_not_hers(version: Version) {
        const COUNT: usize = 4000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let honest = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
        let start = honest.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..COUNT)).await;
        drop(honest);

        let liar = Liar::before(&nats).await;
        liar.lie(true);
        let app = App::start(&Config::at(&liar.url()).tables(SMALL_HISTORY)).await;
        let (mut alice, mut carol) =
            tokio::join!(app.stream(resuming("/events", "alice", &start)), app.stream(resuming("/events", "carol", &start)));
        publisher.publish("events.user.alice.x", "a lie too").await;
        publisher.publish("events.broadcast.x", "marker").await;
        hears_only("alice", &mut alice, 0..COUNT, &[EVERYBODY], "marker").await;
        hears_only("carol", &mut carol, 0..COUNT, &[EVERYBODY], "marker").await;
        assert!(app.metric("sidestream_replayed_events_total", &[]).await > 1000.0, "it was all in memory");
        assert!(liar.lies() >= COUNT / 4, "{} lies", liar.lies());
        liar.lie(false);
        publisher.publish("events.user.alice.x", "after").await;
        alice.nothing_before("after").await;
    }

    /// A cursor says where, never what: with hers somebody else hears what is theirs, from memory and from far beyond it.
    async fn the_cursor_of_another_user_opens_nothing(version: Version) {
        const COUNT: usize = 4000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
        let far = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..COUNT)).await;
        let near = end(&app, &publisher).await;
        publisher.publish_all(numbered(COUNT..COUNT + 8)).await;

        let by_query = get(&format!("/events?last_event_id={far}")).user("bob");
        let requests = [
            ("bob, far back", resuming("/events", "bob", &far), 0, &[BOB, EVERYBODY][..]),
            ("bob, far back by query", by_query, 0, &[BOB, EVERYBODY]),
            ("Alice, far back", resuming("/events", "Alice", &far), 0, &[EVERYBODY]),
            ("alice2, far back", resuming("/events", "alice2", &far), 0, &[EVERYBODY]),
            ("bob, from memory", resuming("/events", "bob", &near), COUNT, &[BOB, EVERYBODY]),
            ("alice herself", resuming("/events", "alice", &far), 0, &[ALICE, EVERYBODY]),
        ];
        let mut open = Vec::new();
        for (who, request, from, kinds) in requests {
            let sse = app.stream(request).await;
            assert_eq!(sse.resume(), "exact", "{who}");
            open.push((who, sse, from, kinds));
        }
        publisher.publish("events.broadcast.x", "marker").await;
        for (who, mut sse, from, kinds) in open {
            hears_only(who, &mut sse, from..COUNT + 8, kinds, "marker").await;
        }
        assert!(app.metric("sidestream_replayed_events_total", &[]).await > 1000.0, "it was all in memory");
    }

    /// What the application granted at one connect counts for that connection only.
    async fn a_grant_that_was_taken_away_is_gone_from_the_past_too(version: Version) {
        const COUNT: usize = 4000;
        let route = "\n[[route]]\npath = \"/rooms\"\nstream = \"EVENTS\"\nsubjects = [\"events.user.{user}.>\"]\n";
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let config = |allow: &str| {
            let mut config = Config::on(&nats).tables(&format!("{route}{allow}")).tables(SMALL_HISTORY);
            config.identity = "subjects_header = \"X-Subjects\"\n".to_owned();
            config
        };
        let app = App::start(&config("allow = [\"events.room.>\"]\n")).await;
        let rooms = |subjects: &str, id: &str| resuming("/rooms", "alice", id).header("X-Subjects", subjects);
        let mut before = app.stream(get("/rooms").user("alice").header("X-Subjects", "events.room.1.>, events.room.2.>")).await;
        let far = before.last_event_id().to_owned();
        publisher.publish_all(numbered(0..COUNT)).await;
        publisher.publish("events.room.1.x", "the last one").await;
        let near = end(&app, &publisher).await;
        publisher.publish_all(numbered(COUNT..COUNT + 8)).await;
        publisher.publish("events.user.alice.x", "marker").await;
        hears_only("alice while she was in the room", &mut before, 0..COUNT, &[ALICE, ROOM], "the last one").await;

        let past = async |app: &App| {
            for (id, from) in [(&far, 0), (&near, COUNT)] {
                for request in [rooms("events.room.2.>", id), rooms("", id), resuming("/rooms", "alice", id)] {
                    let mut alice = app.stream(request).await;
                    assert_eq!(alice.resume(), "exact");
                    hears_only("alice outside", &mut alice, from..COUNT + 8, &[ALICE], "marker").await;
                }
                for foreign in ["events.user.bob.>", "events.>", ">", "events.*.1.>", "events.room.2.>, events.user.bob.x"] {
                    app.ask(rooms(foreign, id)).await.is_refusal(403, "subject_denied");
                }
            }
        };
        past(&app).await;
        drop((before, app));
        // A configuration that allows less: what the application still names is refused, what it names no more is gone.
        let app = App::start(&config("allow = [\"events.room.2.>\"]\n")).await;
        for id in [&far, &near] {
            app.ask(rooms("events.room.1.>", id)).await.is_refusal(403, "subject_denied");
        }
        past(&app).await;
    }
}

/// A capture is what the client asks for, and asks for one token.
#[tokio::test]
async fn captures_are_one_token_each() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let routes = "\n[[route]]\npath = \"/rooms/{room}\"\nlive_subjects = [\"room.{room}\"]\naudience = \"anyone\"\n\
                      \n[[route]]\npath = \"/first/{room}\"\nlive_subjects = [\"{room}.>\"]\naudience = \"anyone\"\n";
        let app = App::start(&Config::on(&nats).tables(routes)).await;
        let long = "x".repeat(129);
        for room in [
            "%2a",
            "*",
            "%3e",
            ">",
            "a.b",
            "a%2eb",
            "%2E",
            ".",
            "%2e%2e",
            "%24JS",
            "$JS",
            "a%2fb",
            "a%2Fb",
            "a%5cb",
            "%00",
            "%0a",
            "%0d%0aSUB%20%3e%201",
            "a%20b",
            "a%09b",
            "%7f",
            "%c3%a9",
            "e%cc%81",
            "%ff",
            "%ef%bc%8e",
            "%",
            "%2",
            "%zz",
            &long,
        ] {
            let refused = app.ask(get(&format!("/rooms/{room}"))).await;
            // hyper stops what is no request target at all.
            if !(refused.head.status == 400 && refused.body.is_empty()) {
                refused.is_refusal(400, "bad_path");
            }
        }
        app.ask(get("/rooms/")).await.is_refusal(404, "not_found");
        app.ask(get("/rooms/a/b")).await.is_refusal(404, "not_found");
        for room in ["_INBOX", "_R_", "_sidestream", "%5fINBOX", "%24SYS"] {
            app.ask(get(&format!("/first/{room}"))).await.is_refusal(400, "bad_path");
        }
        // Decoded once, and what was decoded is what is heard.
        let mut once = app.stream(get("/rooms/%6cobby%252a")).await;
        let mut plain = app.stream(get("/rooms/_lobby")).await;
        publisher.publish_core("room.lobby*", "decoded twice").await;
        publisher.publish_core("room.Lobby%2a", "folded").await;
        publisher.publish_core("room.lobby%2a", "its own").await;
        publisher.publish_core("room._lobby", "its own").await;
        once.nothing_before("its own").await;
        plain.nothing_before("its own").await;
    })
    .await;
}

/// Values that are good one by one and too long together: the identity is there, so it is not missing.
#[tokio::test]
async fn values_too_long_together_are_a_bad_request() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let routes = "\n[[route]]\npath = \"/four\"\nlive_subjects = [\"four.{a}.{b}.{c}.{user}\"]\n\
                      \n[[route]]\npath = \"/four/{d}\"\nlive_subjects = [\"four.{a}.{b}.{c}.{d}\"]\n";
        let mut config = Config::on(&nats).tables(routes);
        config.identity = "variables = { a = \"X-A\", b = \"X-B\", c = \"X-C\" }\n".to_owned();
        let app = App::start(&config).await;
        let value = "v".repeat(128);
        let request = |target: &str, user: &str| {
            ["X-A", "X-B", "X-C"].iter().fold(get(target).user(user), |request, name| request.header(name, &value))
        };
        app.ask(request("/four", &value)).await.is_refusal(400, "identity_invalid");
        app.ask(request(&format!("/four/{value}"), "alice")).await.is_refusal(400, "bad_path");
        app.stream(request("/four", "alice")).await;
        app.stream(request("/four/d", "alice")).await;
        app.ask(get("/four").user("alice")).await.is_refusal(401, "identity_missing");
    })
    .await;
}
