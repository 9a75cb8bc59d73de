//! Permissions are taken from the sidecar's account while it runs, and given back: it says so, heals, and loses nothing.

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use support::nats::{Publisher, Setup};
use support::{App, Config, Nats, Sse, Version, Wire, eventually, expect, get, json, on_both_servers_at_once};

/// Never silent for longer than this.
const TOLD: Duration = Duration::from_secs(10);
/// How long healing may take after a permission is given back: a reconnect with its back-off.
const HEAL: Duration = Duration::from_secs(25);
const LIVE: &str = "\n[[route]]\npath = \"/live\"\nsubjects = [\"live.{user}.>\"]\n";
/// So small that a resume must be read from NATS.
const SMALL_HISTORY: &str = "\n[history]\nbytes = \"64KiB\"\n";

const PRESENCE: &str = "\n[presence]\nsubject = \"sidestream.presence\"\n";

/// What docs/nats.md and docs/presence.md say a sidecar needs.
const PUBLISH: [&str; 9] = [
    "$JS.API.STREAM.INFO.EVENTS",
    "$JS.API.CONSUMER.CREATE.EVENTS",
    "$JS.API.CONSUMER.DELETE.EVENTS.*",
    "$JS.API.CONSUMER.MSG.NEXT.EVENTS.*",
    "$JS.API.STREAM.MSG.GET.EVENTS",
    "$JS.FC.EVENTS.>",
    "_sidestream.>",
    "_INBOX_sidestream.>",
    "sidestream.presence",
];
const SUBSCRIBE: [&str; 4] = ["_INBOX_sidestream.>", "_sidestream.>", "live.>", "sidestream.presence"];

const SIDE: &str = "user: side, password: side";

/// A server's configuration with an administrator and these users.
fn accounts(users: &str) -> String {
    format!("accounts {{ APP: {{ jetstream: enabled, users: [\n{{ user: admin, password: admin }}\n{users}\n] }} }}\n")
}

/// One in which the sidecar may do everything but these.
fn without(lost: &[&str]) -> String {
    let left = |all: &[&str]| format!("{:?}", all.iter().filter(|s| !lost.contains(s)).collect::<Vec<_>>());
    let (publish, subscribe) = (left(&PUBLISH), left(&SUBSCRIBE));
    accounts(&format!(
        "{{ {SIDE}, permissions: {{ publish: {{ allow: {publish} }}, subscribe: {{ allow: {subscribe} }} }} }}"
    ))
}

/// A server with accounts, the program on the least one of them, and a client that has heard ten events.
struct Scene {
    nats: Nats,
    publisher: Publisher,
    app: App,
    alice: Sse,
    _password: tempfile::TempDir,
}

impl Scene {
    async fn set(version: Version, lost: &[&str]) -> Self {
        let setup = Setup { config: Some(without(lost)), user: Some(("admin", "admin")), ..Setup::default() };
        let nats = Nats::start_as(version, setup).await;
        let publisher = nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("password");
        std::fs::write(&file, "side").expect("the password is written");
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("our own file");
        let login = format!("user = \"side\"\npassword_file = {file:?}\n");
        let app = App::start(&Config::on(&nats).nats(&login).tables(LIVE).tables(SMALL_HISTORY).tables(PRESENCE)).await;
        let mut alice = app.events("alice").await;
        publisher.publish_all(expect::broadcasts(0..10)).await;
        expect::all("alice", &mut alice, &expect::numbered(0..10), TOLD).await;
        Self { nats, publisher, app, alice, _password: dir }
    }

    /// Resumes as a browser does: who cannot be served in time, because NATS does not answer yet, is asked to come back.
    async fn resume(&self, cursor: &str) -> Sse {
        let request = get("/events").user("alice").header("Last-Event-ID", cursor);
        eventually("NATS answers", HEAL, async || Sse::try_open(Wire::tcp(self.app.address()).await, &request).await)
            .await
    }

    async fn no_gap(&self) {
        assert!(self.app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }
}

on_both_servers_at_once! {
    async fn without_the_discovery_of_services_everything_else_works(version: Version) {
        let scene = Scene::set(version, &[]).await;
        scene.app.logs("may not subscribe to $SRV.>", TOLD).await;
        // The account lacks nothing that anybody would have to give: the connection is not made anew for it.
        for line in scene.app.log_lines() {
            assert!(!line.contains("lacks a permission") && !line.contains("asking again"), "{line}");
        }
        scene.nats.reconfigure(&without(&["live.>"])).await;
        scene.nats.reconfigure(&without(&[])).await;
        let count = scene.app.log_lines().iter().filter(|line| line.contains("$SRV.>")).count();
        assert_eq!(count, 1, "said once");
        let all = eventually("it is counted", HEAL, async || {
            let answer = scene.app.admin_get("/connections?scope=cluster").await;
            (answer.head.status == 200 && answer.text().contains("\"complete\":true")).then(|| answer.text())
        })
        .await;
        assert!(all.contains("\"total\":1"), "{all}");
    }

    async fn the_api_may_be_taken_away_and_given_back(version: Version) {
        let mut scene = Scene::set(version, &[]).await;
        scene.nats.reconfigure(&without(&PUBLISH[..5])).await;
        // What is open goes on.
        scene.publisher.publish_all(expect::broadcasts(10..20)).await;
        expect::all("alice", &mut scene.alice, &expect::numbered(10..20), TOLD).await;
        scene.publisher.delete_consumers("EVENTS").await;
        expect::degraded(&mut scene.alice, TOLD).await;
        scene.app.logs("The NATS account lacks a permission", TOLD).await;
        scene.app.logs("$JS.API.STREAM.INFO.EVENTS", TOLD).await;
        scene.publisher.publish_all(expect::broadcasts(20..30)).await;
        scene.nats.reconfigure(&without(&[])).await;
        expect::ok_and_all(&mut scene.alice, &expect::numbered(20..30), HEAL).await;
        scene.no_gap().await;
    }

    async fn the_inbox_may_be_taken_away_and_given_back(version: Version) {
        let mut scene = Scene::set(version, &[]).await;
        let start = scene.alice.connected.id.clone().expect("a cursor");
        let mut live = scene.app.stream(get("/live").user("alice")).await;
        let bulk = |range: std::ops::Range<usize>| {
            range.map(|n| ("events.user.bob.x".to_owned(), format!("{n} {}", "x".repeat(500)).into_bytes()))
        };
        // Every connection has made requests before, also the one that reads the past.
        scene.publisher.publish_all(bulk(0..300)).await;
        let mut early = scene.resume(&start).await;
        expect::all("early", &mut early, &expect::numbered(0..10), HEAL).await;

        scene.nats.reconfigure(&without(&["_INBOX_sidestream.>"])).await;
        scene.publisher.publish_all(expect::broadcasts(10..20)).await;
        // The last that came before the inbox was gone may have come.
        scene.alice.until_named("sidestream.degraded", TOLD).await;
        scene.app.logs("_INBOX_sidestream", TOLD).await;
        live.until_named("sidestream.degraded", TOLD).await;
        scene.nats.reconfigure(&without(&[])).await;
        expect::ok_and_all(&mut scene.alice, &expect::numbered(10..20), HEAL).await;
        live.until_named("sidestream.ok", HEAL).await;

        // All of it works again: the past, and new listeners on core subjects.
        let mut late = scene.resume(&start).await;
        expect::all("late", &mut late, &expect::numbered(0..20), HEAL).await;
        let mut also = scene.app.stream(get("/live").user("alice")).await;
        scene.publisher.publish_core("live.alice.x", "both").await;
        for sse in [&mut live, &mut also] {
            assert!(sse.before("both").await.iter().all(|e| e.name == "sidestream.gap" || expect::is_state(e)));
        }
    }

    async fn the_account_may_be_removed_and_come_back(version: Version) {
        let mut scene = Scene::set(version, &[]).await;
        scene.nats.reconfigure(&accounts("")).await;
        expect::degraded(&mut scene.alice, TOLD).await;
        scene.app.logs("NATS does not let this account in", TOLD).await;
        scene.publisher.publish_all(expect::broadcasts(10..20)).await;
        scene.nats.reconfigure(&without(&[])).await;
        expect::ok_and_all(&mut scene.alice, &expect::numbered(10..20), HEAL).await;
        scene.no_gap().await;
    }

    async fn without_flow_control_the_feed_is_degraded_and_goes_on(version: Version) {
        // As much as a server sends three times before it waits for a sign.
        const COUNT: usize = 20_000;
        let mut scene = Scene::set(version, &["$JS.FC.EVENTS.>"]).await;
        scene.alice.forget_raw();
        let load = expect::numbered(10..COUNT);
        let padded = |data: &String| ("events.broadcast.news".to_owned(), format!("{data:200}").into_bytes());
        scene.publisher.publish_all(load.iter().map(padded)).await;
        let mut load = load.iter();
        let mut next = |event: &support::Event| assert_eq!(Some(event.data.trim_end()), load.next().map(String::as_str));
        loop {
            let event = scene.alice.event_within(TOLD).await;
            if expect::is_state(&event) {
                assert_eq!(event.name, "sidestream.degraded");
                break;
            }
            next(&event);
        }
        scene.app.logs("permission to publish to $JS.FC.", TOLD).await;
        scene.app.metric_is("sidestream_nats_connected", &[], 0.0, TOLD).await;
        scene.nats.reconfigure(&without(&[])).await;
        let mut ok = false;
        loop {
            let event = scene.alice.event_within(HEAL).await;
            if expect::is_state(&event) {
                ok = event.name == "sidestream.ok";
                continue;
            }
            next(&event);
            if event.data.trim_end() == format!("event {}", COUNT - 1) {
                break;
            }
        }
        if !ok {
            let told = scene.alice.event_within(HEAL).await;
            assert_eq!(told.name, "sidestream.ok", "{told:?}");
        }
        scene.app.metric_is("sidestream_nats_connected", &[], 1.0, TOLD).await;
        scene.no_gap().await;
    }

    async fn a_core_subject_may_be_taken_away_and_given_back(version: Version) {
        let scene = Scene::set(version, &[]).await;
        let mut live = scene.app.stream(get("/live").user("alice")).await;
        scene.publisher.publish_core("live.alice.x", "before").await;
        live.nothing_before("before").await;
        scene.nats.reconfigure(&without(&["live.>"])).await;
        expect::degraded(&mut live, TOLD).await;
        scene.app.logs("Subscription to \\\"live.…", TOLD).await;
        // Whose subject it is does not stand in a log.
        assert!(!scene.app.log_lines().iter().any(|line| line.contains("alice")));
        scene.publisher.publish_core("live.alice.x", "lost").await;
        // Who comes now is let in and told too.
        let mut late = scene.app.stream(get("/live").user("alice")).await;
        late.until_named("sidestream.degraded", TOLD).await;

        scene.nats.reconfigure(&without(&[])).await;
        for sse in [&mut live, &mut late] {
            let told = sse.until_named("sidestream.ok", HEAL).await;
            let gap = |e: &&support::Event| e.name == "sidestream.gap" && json(e)["reason"] == "upstream";
            assert!(told.iter().filter(gap).count() >= 1, "{told:?}");
            assert!(told.iter().all(|e| gap(&e) || expect::is_state(e)), "{told:?}");
        }
        eventually("ready", TOLD, async || (scene.app.admin_get("/readyz").await.head.status == 200).then_some(())).await;
        scene.publisher.publish_core("live.alice.x", "after").await;
        live.nothing_before("after").await;
        late.nothing_before("after").await;
    }

    async fn presence_may_be_taken_away_and_given_back(version: Version) {
        let scene = Scene::set(version, &["sidestream.presence"]).await;
        scene.app.logs("The NATS account lacks a permission", TOLD).await;
        let mut heard = scene.nats.client().await.subscribe("sidestream.presence").await.expect("sent");
        scene.nats.reconfigure(&without(&[])).await;
        // What could not be published then is published now.
        let told = tokio::time::timeout(HEAL * 2, heard.next()).await.expect("in time").expect("the client runs");
        let told: serde_json::Value = serde_json::from_slice(&told.payload).expect("JSON");
        assert_eq!((&told["event"], &told["user"]), (&"connect".into(), &"alice".into()));
        scene.no_gap().await;
    }
}
