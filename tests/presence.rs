//! Presence: real sidecars on real NATS, and what a stream that captures the subject holds in the end.
//!
//! Two tabs, reloads, moves, kills, drains, a storm, NATS that restarts. That something was *not* published is shown by a later
//! change that was, or by the state of everybody after the grace.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use support::nats::Publisher;
use support::{App, Config, DEADLINE, Nats, Sse, Version, eventually, h2, json, on_both_servers};
use tokio::task::JoinSet;

/// After so long a silence a sidecar is off the roll, with what a busy machine may add.
const OFF_THE_ROLL: Duration = Duration::from_secs(30);
const SUBJECT: &str = "sidestream.presence";

/// Sidecars with presence, and a stream that keeps what they publish.
struct Scene {
    nats: Nats,
    publisher: Publisher,
    grace: &'static str,
    /// More lines of `[server]`.
    server: &'static str,
    apps: Vec<App>,
}

impl Scene {
    /// `grace` is the value of `presence.grace`.
    async fn set(version: Version, sidecars: usize, grace: &'static str) -> Self {
        Self::set_with(version, sidecars, grace, "").await
    }

    async fn set_with(version: Version, sidecars: usize, grace: &'static str, server: &'static str) -> Self {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.create_stream("PRESENCE", &[SUBJECT]).await;
        let mut scene = Self { nats, publisher, grace, server, apps: Vec::new() };
        for _ in 0..sidecars {
            scene.add().await;
        }
        scene
    }

    /// Another sidecar, which has run for a shorter time than all others.
    async fn add(&mut self) {
        let presence = format!("\n[presence]\nsubject = {SUBJECT:?}\ngrace = {:?}\n", self.grace);
        self.apps.push(App::start(&Config::on(&self.nats).tables(&presence).server(self.server)).await);
        let first = &self.apps[0];
        first.metric_is("sidestream_presence_publishing", &[], 1.0, DEADLINE).await;
    }

    /// Everything that was published, in the stream's order.
    async fn published(&self) -> Vec<serde_json::Value> {
        let mut stream = self.publisher.jetstream().get_stream("PRESENCE").await.expect("the stream exists");
        let count = stream.info().await.expect("an answer").state.messages;
        let config = consumer::pull::OrderedConfig::default();
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let messages = consumer.messages().await.expect("a subscription");
        let parsed = messages.take(usize::try_from(count).expect("few")).map(|message| {
            let message = message.expect("a message");
            let headers = message.headers.as_ref().expect("headers");
            assert_eq!(headers.get("Sse-Event").map(|value| value.as_str()), Some("presence"));
            serde_json::from_slice(&message.payload).expect("JSON")
        });
        tokio::time::timeout(DEADLINE, parsed.collect()).await.expect("all messages come")
    }

    /// Waits until so many messages are there.
    async fn counts(&self, count: usize, within: Duration) {
        eventually(&format!("{count} changes"), within, async || {
            let mut stream = self.publisher.jetstream().get_stream("PRESENCE").await.ok()?;
            (stream.info().await.ok()?.state.messages >= count as u64).then_some(())
        })
        .await;
    }

    /// The same, and gives them.
    async fn has_published(&self, count: usize, within: Duration) -> Vec<serde_json::Value> {
        eventually(&format!("{count} changes"), within, async || {
            let published = self.published().await;
            (published.len() >= count).then_some(published)
        })
        .await
    }

    /// Who is connected, as the sidecars say.
    async fn connected(&self) -> BTreeSet<String> {
        let mut users = BTreeSet::new();
        for app in &self.apps {
            let all: serde_json::Value =
                serde_json::from_str(&app.admin_get("/connections").await.text()).expect("JSON");
            let all = all["connections"].as_array().expect("a list");
            users.extend(all.iter().filter_map(|connection| connection["user"].as_str().map(str::to_owned)));
        }
        users
    }

    /// Waits until those who replay the messages know who is there, and checks that changes take turns.
    async fn is_known(&self, within: Duration) -> Vec<serde_json::Value> {
        eventually("what was published is who is connected", within, async || {
            let published = self.published().await;
            (replayed(&published) == self.connected().await).then_some(published)
        })
        .await
    }
}

/// Who is there for somebody who has read these; a change that is none fails the test.
fn replayed(messages: &[serde_json::Value]) -> BTreeSet<String> {
    let mut there = BTreeSet::new();
    for message in messages {
        let user = message["user"].as_str().expect("a user").to_owned();
        let changed = match message["event"].as_str() {
            Some("connect") => there.insert(user),
            Some("disconnect") => there.remove(&user),
            _ => panic!("neither: {message}"),
        };
        assert!(changed, "no change: {message} in {messages:#?}");
    }
    there
}

/// Event, user and reason.
fn changes(messages: &[serde_json::Value]) -> Vec<(String, String, String)> {
    let text = |message: &serde_json::Value, key: &str| message[key].as_str().expect("text").to_owned();
    messages.iter().map(|message| (text(message, "event"), text(message, "user"), text(message, "reason"))).collect()
}

fn change(event: &str, user: &str, reason: &str) -> (String, String, String) {
    (event.to_owned(), user.to_owned(), reason.to_owned())
}

fn connection(sse: &Sse) -> String {
    json(&sse.connected)["connection"].as_str().expect("an id").to_owned()
}

/// Several users' streams on a sidecar.
async fn open(app: &App, users: impl Iterator<Item = usize>) -> BTreeMap<usize, Sse> {
    let mut open = BTreeMap::new();
    for user in users {
        open.insert(user, app.events(&format!("user{user}")).await);
    }
    open
}

on_both_servers! {
    async fn two_tabs_are_one_connect_and_one_disconnect(version: Version) {
        let scene = Scene::set(version, 1, "1s").await;
        let first = scene.apps[0].events("alice").await;
        let published = scene.has_published(1, DEADLINE).await;
        assert_eq!(changes(&published), [change("connect", "alice", "opened")]);
        assert_eq!(published[0]["connection"], connection(&first));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
        let time = u128::from(published[0]["time"].as_u64().expect("a time"));
        assert!(now.abs_diff(time) < DEADLINE.as_millis(), "{time} at {now}");

        let second = scene.apps[0].events("alice").await;
        let last = connection(&second);
        drop(first);
        scene.apps[0].metric_is("sidestream_connections", &[], 1.0, DEADLINE).await;
        drop(second);
        let published = scene.has_published(2, DEADLINE).await;
        assert_eq!(changes(&published)[1..], [change("disconnect", "alice", "client")]);
        assert_eq!(published[1]["connection"], last);
        assert_eq!(published[1]["node"], published[0]["node"]);
        let app = &scene.apps[0];
        for event in ["connect", "disconnect"] {
            app.metric_is("sidestream_presence_published_total", &[("event", event)], 1.0, DEADLINE).await;
        }
    }

    async fn a_reload_is_no_change(version: Version) {
        let scene = Scene::set(version, 1, "3s").await;
        let mut alice = scene.apps[0].events("alice").await;
        scene.has_published(1, DEADLINE).await;
        for _ in 0..3 {
            drop(alice);
            scene.apps[0].metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
            alice = scene.apps[0].events("alice").await;
        }
        drop(alice);
        let published = scene.has_published(2, DEADLINE).await;
        assert_eq!(changes(&published), [change("connect", "alice", "opened"), change("disconnect", "alice", "client")]);
    }

    async fn why_the_last_connection_ended_is_told(version: Version) {
        let scene = Scene::set_with(version, 1, "3s", "max_age = \"1s\"\n").await;
        let first = scene.apps[0].events("alice").await;
        scene.apps[0].metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
        // Back within the grace, as a browser is; then no more.
        let second = scene.apps[0].events("alice").await;
        let published = scene.has_published(2, DEADLINE).await;
        assert_eq!(changes(&published), [change("connect", "alice", "opened"), change("disconnect", "alice", "age")]);
        assert_eq!(published[1]["connection"], connection(&second));
        drop(first);
    }

    async fn a_user_who_moves_between_three_sidecars_stays(version: Version) {
        let scene = Scene::set(version, 3, "2s").await;
        let mut stream = scene.apps[0].events("alice").await;
        let _bob = scene.apps[1].events("bob").await;
        scene.has_published(2, DEADLINE).await;
        for at in [1, 2, 0, 2] {
            drop(stream);
            stream = scene.apps[at].events("alice").await;
        }
        // For both at once: a tab on each of two sidecars.
        let other = scene.apps[1].events("alice").await;
        drop(stream);
        scene.apps[2].metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
        // Told behind her end there, so that this is known to all as well.
        let _carol = scene.apps[2].events("carol").await;
        scene.has_published(3, DEADLINE).await;
        let last = connection(&other);
        drop(other);
        let published = scene.has_published(4, DEADLINE).await;
        assert_eq!(changes(&published)[3..], [change("disconnect", "alice", "client")]);
        assert_eq!(published[3]["connection"], last);
        scene.is_known(DEADLINE).await;
    }

    async fn the_users_of_a_killed_sidecar_expire_unless_they_are_elsewhere(version: Version) {
        let mut scene = Scene::set(version, 3, "1s").await;
        let _stays = scene.apps[0].events("stays").await;
        let _moves = scene.apps[2].events("moves").await;
        let _goes = scene.apps[2].events("goes").await;
        scene.has_published(3, DEADLINE).await;
        scene.apps[2].kill();
        let _moved = scene.apps[1].events("moves").await;
        scene.apps.pop();
        let published = scene.has_published(4, OFF_THE_ROLL).await;
        assert_eq!(changes(&published)[3..], [change("disconnect", "goes", "node_lost")]);
        scene.is_known(DEADLINE).await;
    }

    async fn a_killed_leader_is_followed_by_the_next(version: Version) {
        let mut scene = Scene::set(version, 3, "1s").await;
        let mut first = open(&scene.apps[1], 0..20).await;
        let _killed = open(&scene.apps[0], 20..30).await;
        let mut second = open(&scene.apps[2], 30..40).await;
        // In the middle of changes: some are published by one, some by the other.
        first.retain(|user, _| user % 2 == 0);
        second.extend(open(&scene.apps[2], 40..60).await);
        scene.apps[0].kill();
        scene.apps.remove(0);
        second.retain(|user, _| user % 3 != 0);
        let published = scene.is_known(OFF_THE_ROLL).await;
        let lost = changes(&published).into_iter().filter(|(_, _, reason)| reason == "node_lost").count();
        assert_eq!(lost, replayed_by(&published, 20..30), "the users of the killed one whom anybody knew");
        scene.apps[0].metric_is("sidestream_presence_publishing", &[], 1.0, DEADLINE).await;
    }

    async fn nothing_is_doubled_or_forgotten_while_nats_restarts(version: Version) {
        let mut scene = Scene::set(version, 2, "1s").await;
        let mut first = open(&scene.apps[0], 0..20).await;
        let mut second = open(&scene.apps[1], 20..40).await;
        scene.is_known(DEADLINE).await;
        scene.nats.kill();
        // Changes while nobody can be told.
        first.retain(|user, _| user % 2 == 0);
        second.retain(|user, _| user % 2 == 0);
        scene.nats.restart().await;
        scene.publisher = scene.nats.publisher().await;
        let published = scene.is_known(OFF_THE_ROLL).await;
        assert_eq!(replayed(&published).len(), 20);
        assert_eq!(published.len(), 60, "each came once, and half of them left once");
    }

    async fn a_drain_hands_its_users_over(version: Version) {
        let mut scene = Scene::set(version, 2, "3s").await;
        let _stays = scene.apps[1].events("stays").await;
        let _moves = scene.apps[0].events("moves").await;
        let goes = scene.apps[0].events("goes").await;
        scene.has_published(3, DEADLINE).await;
        let began = Instant::now();
        scene.apps[0].terminate();
        assert!(scene.apps[0].exit(DEADLINE).await.success());
        let _moved = scene.apps[1].events("moves").await;
        let last = connection(&goes);
        scene.apps.remove(0);
        let published = scene.has_published(4, DEADLINE).await;
        assert_eq!(changes(&published)[3..], [change("disconnect", "goes", "drain")]);
        assert_eq!(published[3]["connection"], last);
        assert!(began.elapsed() < Duration::from_secs(9), "not by the time-out of the roll");
        scene.is_known(DEADLINE).await;
    }

    async fn the_last_sidecar_says_itself_that_all_have_gone(version: Version) {
        let mut scene = Scene::set(version, 1, "10m").await;
        let _alice = scene.apps[0].events("alice").await;
        scene.has_published(1, DEADLINE).await;
        scene.apps[0].terminate();
        assert!(scene.apps[0].exit(DEADLINE).await.success());
        scene.apps.clear();
        let published = scene.is_known(DEADLINE).await;
        assert_eq!(changes(&published)[1..], [change("disconnect", "alice", "drain")]);
        // Who begins anew tells anew.
        scene.add().await;
        let _alice = scene.apps[0].events("alice").await;
        let published = scene.has_published(3, DEADLINE).await;
        assert_eq!(changes(&published)[2..], [change("connect", "alice", "opened")]);
    }

    async fn two_thousand_users_come_and_go_once_each(version: Version) {
        const USERS: usize = 2_000;
        let scene = Scene::set(version, 2, "1s").await;
        let (left, right) = (&scene.apps[0], &scene.apps[1]);
        let halves = tokio::join!(open(left, 0..USERS / 2), open(right, USERS / 2..USERS));
        let published = scene.has_published(USERS, DEADLINE).await;
        assert_eq!(replayed(&published).len(), USERS);
        assert_eq!(published.len(), USERS);
        drop(halves);
        let published = scene.has_published(2 * USERS, OFF_THE_ROLL).await;
        assert!(replayed(&published).is_empty());
        assert_eq!(published.len(), 2 * USERS);
    }

    async fn what_strangers_publish_is_set_right(version: Version) {
        let scene = Scene::set(version, 2, "1s").await;
        for nonsense in ["", "{}", "[1]", "\u{0}", r#"{"event":"connect","user":""}"#] {
            scene.publisher.publish_core("sidestream.presence", nonsense).await;
            scene.publisher.publish_core("_sidestream.presence", nonsense).await;
        }
        scene.publisher.purge_keeping("PRESENCE", 0).await;
        let alice = scene.apps[1].events("alice").await;
        let mine = scene.has_published(1, DEADLINE).await;
        // Somebody who is not there, and somebody who has not gone.
        let mut forged = mine[0].clone();
        forged["user"] = "mallory".into();
        forged["time"] = u64::MAX.into();
        let client = scene.nats.client().await;
        let mut sse = async_nats::HeaderMap::new();
        sse.insert("Sse-Event", "presence");
        client.publish_with_headers(SUBJECT, sse.clone(), forged.to_string().into()).await.expect("sent");
        let mut forged = mine[0].clone();
        (forged["event"], forged["reason"]) = ("disconnect".into(), "client".into());
        client.publish_with_headers(SUBJECT, sse, forged.to_string().into()).await.expect("sent");
        client.flush().await.expect("NATS takes it");
        eventually("both are set right", DEADLINE, async || {
            let all = scene.published().await;
            let of = |user: &str| all.iter().rev().find(|message| message["user"] == user).map(|m| m["event"].clone());
            (of("mallory") == Some("disconnect".into()) && of("alice") == Some("connect".into())).then_some(())
        })
        .await;
        drop(alice);
    }
}

/// How many of these users were ever said to be there.
fn replayed_by(messages: &[serde_json::Value], users: std::ops::Range<usize>) -> usize {
    let came = |user: &usize| {
        let user = format!("user{user}");
        messages.iter().any(|message| message["event"] == "connect" && message["user"] == user.as_str())
    };
    users.filter(came).count()
}

/// A number from the environment, for runs by hand that are larger than a test should be.
fn by_hand(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().map_or(otherwise, |value| value.parse().expect("a number"))
}

/// Streams of these users, a hundred on a connection, each for as long as its place in this is kept.
async fn crowd(app: &App, users: Range<usize>) -> Vec<JoinSet<()>> {
    let mut streams = Vec::new();
    for some in users.collect::<Vec<_>>().chunks(100) {
        let connection = h2::tcp(&app.public[0]).await;
        let opened = some.iter().map(async |user| {
            let mut connection = connection.clone();
            let answer = connection.send_request(h2::request("/events", &format!("user{user}"))).await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body();
            let mut reader = JoinSet::new();
            // What nobody reads ends the connection: the h2 crate allows some hundred small frames of it.
            reader.spawn(async move {
                let _connection = connection;
                while body.frame().await.is_some() {}
            });
            reader
        });
        streams.extend(futures_util::future::join_all(opened).await);
    }
    streams
}

/// `SIDESTREAM_PRESENCE_SIDECARS` and `SIDESTREAM_PRESENCE_USERS`, of each, make it larger.
#[tokio::test]
async fn sidecars_agree_on_a_crowd_after_nats_was_away() {
    const WITHIN: Duration = Duration::from_secs(120);
    let (sidecars, each) = (by_hand("SIDESTREAM_PRESENCE_SIDECARS", 3), by_hand("SIDESTREAM_PRESENCE_USERS", 400));
    support::bounded(async {
        let mut scene = Scene::set_with(Version::Current, sidecars, "1s", "h2c = true\n").await;
        let began = Instant::now();
        let mut crowds = Vec::new();
        for (n, app) in scene.apps.iter().enumerate() {
            crowds.push(crowd(app, n * each..(n + 1) * each).await);
        }
        let all = sidecars * each;
        println!("{all} users have come after {:?}", began.elapsed());
        scene.counts(all, WITHIN).await;
        println!("and are told of after {:?}", began.elapsed());
        scene.nats.restart().await;
        let began = Instant::now();
        scene.publisher = scene.nats.publisher().await;
        // One leaves everybody, one comes to everybody: told when the sidecars have compared what they know.
        let mut there: BTreeSet<_> = (0..all).map(|user| format!("user{user}")).collect();
        for (n, crowd) in crowds.iter_mut().enumerate() {
            crowd.pop();
            there.remove(&format!("user{}", (n + 1) * each - 1));
        }
        let mut new = Vec::new();
        for (n, app) in scene.apps.iter().enumerate() {
            new.push(crowd(app, all + n..all + n + 1).await);
            there.insert(format!("user{}", all + n));
        }
        scene.counts(all + 2 * sidecars, WITHIN).await;
        println!("agreed {:?} after the restart", began.elapsed());
        let published = scene.published().await;
        assert_eq!(published.len(), all + 2 * sidecars, "nobody was told of twice");
        assert!(replayed(&published) == there, "others are there");
        drop((crowds, new));
        eventually("all have gone", DEADLINE, async || scene.connected().await.is_empty().then_some(())).await;
    })
    .await;
}
