//! `explain` says what the server answers: the same requests are put to both.

mod support;

use serde_json::Value;
use support::command::run;
use support::{App, Config, Nats, Version, bounded, get};

const ROUTES: &str = r#"
[[route]]
path = "/events"
stream = "EVENTS"
subjects = ["events.user.{user}.>", "events.broadcast.>"]
live_subjects = ["live.{user}"]
allow = ["events.project.>"]
select = true

[[route]]
path = "/rooms/{room}"
stream = "EVENTS"
subjects = ["events.rooms.{room}.>"]
audience = "anyone"
"#;

fn config(nats: &str) -> Config {
    let mut config = Config::at(nats);
    config.tables = ROUTES.to_owned();
    config.identity = "subjects_header = \"X-Sidestream-Subjects\"\nvariables = { tenant = \"X-Tenant\" }\n".to_owned();
    config.server("origins = [\"https://app.example\"]\n")
}

struct Asked {
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

const fn asked(path: &'static str, headers: &'static [(&'static str, &'static str)]) -> Asked {
    Asked { path, headers }
}

const ALICE: (&str, &str) = ("X-Forwarded-User", "alice");

static REQUESTS: &[Asked] = &[
    asked("/events", &[ALICE]),
    asked("/events", &[]),
    asked("/nothing", &[ALICE]),
    asked("/rooms/7", &[]),
    asked("/rooms/a.b", &[]),
    asked("/events?subject=events.broadcast.news", &[ALICE]),
    asked("/events?subject=events.user.bob.x", &[ALICE]),
    asked("/events?subject=a&lastEventId=a&last_event_id=b", &[ALICE]),
    asked("/events", &[ALICE, ALICE]),
    asked("/events", &[("X-Forwarded-User", "a b")]),
    asked("/events", &[ALICE, ("X_Forwarded_User", "bob")]),
    asked("/events", &[ALICE, ("Connection", "X-Forwarded-User")]),
    asked("/events", &[ALICE, ("X-Sidestream-Subjects", "events.project.apollo.>")]),
    asked("/events", &[ALICE, ("X-Sidestream-Subjects", "orders.>")]),
    asked("/events", &[ALICE, ("X-Tenant", "a.b")]),
    asked("/events", &[ALICE, ("Origin", "https://evil.example")]),
    asked("/events", &[ALICE, ("Origin", "https://app.example")]),
    asked("/events", &[ALICE, ("Accept", "application/json")]),
    asked("/events", &[ALICE, ("Last-Event-ID", "x y")]),
    asked("/events", &[ALICE, ("Last-Event-ID", "not-a-cursor")]),
];

async fn explained(file: &str, request: &Asked, more: &[&str]) -> Value {
    let headers: Vec<String> = request.headers.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    let mut args = vec!["explain", "--json", "--config", file, "--path", request.path];
    headers.iter().for_each(|header| args.extend(["--header", header]));
    args.extend(more);
    let ran = run(&args).await;
    let refused = ran.json()["answer"]["code"].is_string();
    ran.ends_with(i32::from(refused)).json()
}

#[tokio::test]
async fn it_says_what_the_server_answers() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let config = config(&nats.url());
        let (app, directory) = (App::start(&config).await, tempfile::tempdir().expect("a directory"));
        let file = directory.path().join("sidestream.toml");
        std::fs::write(&file, config.render()).expect("written");
        let file = file.to_str().expect("UTF-8");
        let mut codes = std::collections::BTreeSet::new();
        for request in REQUESTS {
            let said = explained(file, request, &[]).await;
            let asked = request.headers.iter().fold(get(request.path), |asked, (name, value)| {
                let asked = if *name == "Accept" { asked.without(name) } else { asked };
                asked.header(name, value)
            });
            let (status, code) = if said["answer"]["status"] == 200 {
                app.stream(asked).await;
                (200, Value::Null)
            } else {
                let answer = app.ask(asked).await;
                let body: Value = serde_json::from_str(&answer.text()).expect("JSON");
                (answer.head.status, body["error"]["code"].clone())
            };
            assert_eq!(
                (&said["answer"]["status"], &said["answer"]["code"]),
                (&status.into(), &code),
                "{} {:?}",
                request.path,
                request.headers
            );
            codes.extend(code.as_str().map(str::to_owned));
        }
        assert!(codes.len() >= 10, "{codes:?}");
    })
    .await;
}

#[tokio::test]
async fn it_tells_identity_grant_and_route() {
    let directory = tempfile::tempdir().expect("a directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "correct-horse-battery-staple").expect("written");
    let trust = format!("proxies = [\"10.0.0.0/8\", \"unix\"]\npeer_uids = [33]\nsecret_files = [{secret:?}]\n");
    let file = directory.path().join("sidestream.toml");
    std::fs::write(&file, config("nats://127.0.0.1:1").trust(Some(&trust)).render()).expect("written");
    let file = file.to_str().expect("UTF-8");
    let alice = asked("/events", &[ALICE, ("X-Tenant", "acme"), ("X-Sidestream-Subjects", "events.project.apollo.>")]);

    let by_uid = explained(file, &alice, &["--peer", "unix:33"]).await;
    assert_eq!(
        (&by_uid["identity"]["user"], &by_uid["identity"]["proof"]),
        (&"alice".into(), &"uid".into()),
        "{by_uid}"
    );
    assert_eq!(by_uid["identity"]["variables"]["tenant"], "acme");
    let granted = ["events.broadcast.>", "events.project.apollo.>", "events.user.alice.>"];
    assert_eq!(by_uid["grant"]["stream"], serde_json::json!(granted));
    assert_eq!(by_uid["grant"]["live"], serde_json::json!(["live.alice"]));
    assert_eq!((&by_uid["route"]["stream"], &by_uid["resume"]["outcome"]), (&"EVENTS".into(), &"new".into()));

    let header = "X-Sidestream-Secret:correct-horse-battery-staple";
    let by_secret = explained(file, &alice, &["--peer", "10.1.2.3", "--header", header]).await;
    assert_eq!(by_secret["identity"]["proof"], "secret");
    assert!(!by_secret.to_string().contains("correct-horse"), "{by_secret}");
    let args = [
        "explain",
        "--config",
        file,
        "--path",
        "/events",
        "--peer",
        "10.1.2.3",
        "--header",
        header,
        "--header",
        "X-Forwarded-User:alice",
    ];
    let text = run(&args).await.ends_with(0).stdout;
    assert!(text.contains("alice, proven by secret") && !text.contains("correct-horse"), "{text}");

    let stranger = explained(file, &alice, &["--peer", "192.0.2.1"]).await;
    assert_eq!((&stranger["answer"]["code"], &stranger["peer"]["admitted"]), (&"untrusted_peer".into(), &false.into()));
    let ran = run(&["explain", "--config", file, "--path", "/events", "--peer", "unix:34"]).await.ends_with(1);
    assert!(ran.stdout.contains("closed before a byte is read"), "{}", ran.stdout);
    run(&["explain", "--config", file, "--path", "events"]).await.ends_with(64);
    run(&["explain", "--config", file, "--path", "/events", "--peer", "nobody"]).await.ends_with(64);
}

#[tokio::test]
async fn with_nats_it_tells_what_becomes_of_a_cursor() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let config = config(&nats.url());
        let (app, directory) = (App::start(&config).await, tempfile::tempdir().expect("a directory"));
        let file = directory.path().join("sidestream.toml");
        std::fs::write(&file, config.render()).expect("written");
        let file = file.to_str().expect("UTF-8");
        let mut alice = app.events("alice").await;
        let mut ids = Vec::new();
        for number in 0..3 {
            publisher.publish("events.user.alice.n", number.to_string()).await;
            ids.push(alice.event().await.id.expect("an id"));
        }
        let request = asked("/events", &[ALICE]);
        let outcome = async |id: &str| {
            let said = explained(file, &request, &["--last-event-id", id, "--connect"]).await;
            (
                said["resume"]["outcome"].as_str().expect("told").to_owned(),
                said["resume"]["why"].as_str().expect("told").to_owned(),
            )
        };
        let offline = explained(file, &request, &["--last-event-id", &ids[0]]).await;
        assert_eq!(offline["resume"]["outcome"], "unknown", "{offline}");
        assert_eq!(outcome(&ids[0]).await.0, "exact");
        assert_eq!(outcome("not-a-cursor").await.0, "gap");
        let (epoch, rest) = ids[0].split_once('.').expect("a cursor");
        let (seq, time) = rest.split_once('.').expect("a cursor");
        let (gap, why) = outcome(&format!("zzz.{rest}")).await;
        assert!(gap == "gap" && why.contains("`reset`"), "another epoch: {why}");
        let (gap, why) = outcome(&format!("{epoch}.{seq}.1{time}")).await;
        assert!(gap == "gap" && why.contains("`reset`"), "another message there: {why}");
        let (gap, why) = outcome(&format!("{epoch}.zz.{time}")).await;
        assert!(gap == "gap" && why.contains("`reset`"), "above the head: {why}");
        publisher.purge_keeping("EVENTS", 1).await;
        let (gap, why) = outcome(&ids[0]).await;
        assert!(gap == "gap" && why.contains("2 to 2 are no longer"), "{why}");
        let (exact, why) = outcome(&ids[2]).await;
        assert!(exact == "exact" && why.ends_with("nothing has come since"), "{why}");
    })
    .await;
}
