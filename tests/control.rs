//! What an operator does on the admin listener: list, kick, drain; and who may.

mod support;

use std::time::{Duration, Instant};

use support::command::{Ran, run};
use support::{App, Config, DEADLINE, Nats, Version, bounded, eventually, h2, json};

const TOKEN: &str = "a-token-of-some-length";

struct Site {
    _nats: Nats,
    app: App,
    token: tempfile::NamedTempFile,
}

async fn with_token(config: impl FnOnce(Config) -> Config) -> Site {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), TOKEN).expect("written");
    let config = config(Config::on(&nats).admin(&format!("token_file = {:?}\n", token.path())));
    let app = App::start(&config).await;
    Site { _nats: nats, app, token }
}

fn body(answer: &support::client::Answer) -> serde_json::Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}

#[tokio::test]
async fn a_kicked_connection_ends_within_a_second_and_the_others_stay() {
    bounded(async {
        let site = with_token(|config| config.server("h2c = true\n")).await;
        let app = &site.app;
        let (mut alice, bob) = (app.events("alice").await, app.events("bob").await);
        let mut sender = h2::tcp(app.address()).await;
        let response = sender.send_request(h2::request("/events", "carol")).await.expect("an answer");
        let mut carol = h2::Events::of(response.into_body());
        let over_h2 = json(&carol.next().await)["connection"].as_str().expect("an id").to_owned();
        let over_h1 = json(&alice.connected)["connection"].as_str().expect("an id").to_owned();

        let listed = body(&app.admin_ask("GET", "/connections?user=alice", Some(TOKEN)).await);
        assert_eq!((&listed["total"], &listed["connections"][0]["connection"]), (&1.into(), &over_h1.as_str().into()));
        assert_eq!(listed["connections"][0]["route"], "/events");
        assert_eq!(listed["connections"][0]["protocol"], "h1");

        let began = Instant::now();
        let kicked = app.admin_ask("POST", &format!("/kick/{over_h1}"), Some(TOKEN)).await;
        assert_eq!((kicked.head.status, &body(&kicked)["kicked"]), (200, &true.into()));
        let bye = alice.event().await;
        assert_eq!((bye.name.as_str(), &json(&bye)["code"]), ("sidestream.bye", &"kicked".into()));
        assert_eq!(alice.rest().await, []);
        assert_eq!(app.admin_ask("POST", &format!("/kick/{over_h2}"), Some(TOKEN)).await.head.status, 200);
        assert_eq!(json(&carol.next().await)["code"], "kicked");
        assert!(carol.try_next().await.is_none());
        // Requirement R42. Both took a look at a second at most.
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

        let gone = app.admin_ask("POST", &format!("/kick/{over_h1}"), Some(TOKEN)).await;
        gone.is_refusal(404, "connection_unknown");
        app.admin_ask("POST", "/kick/alice", Some(TOKEN)).await.is_refusal(400, "bad_connection");
        let closed = [("reason", "kicked"), ("phase", "live")];
        app.metric_is("sidestream_connections_closed_total", &closed, 2.0, DEADLINE).await;
        assert_eq!(body(&app.admin_ask("GET", "/connections", Some(TOKEN)).await)["total"], 1);
        drop(bob);
    })
    .await;
}

#[tokio::test]
async fn nothing_changes_without_the_token() {
    bounded(async {
        let site = with_token(|config| config).await;
        let app = &site.app;
        let _held = app.events("alice").await;
        let changes = [
            "/drain",
            "/reload",
            "/kick/01980000-0000-7000-8000-000000000000",
            "/kick?user=alice",
            "/send/01980000-0000-7000-8000-000000000000",
            "/notify/alice",
            "/broadcast",
        ];
        for path in changes {
            app.admin_ask("POST", path, None).await.is_refusal(401, "token_missing");
            app.admin_ask("POST", path, Some("another-token-of-that-kind")).await.is_refusal(401, "token_wrong");
            app.admin_ask("PUT", path, Some(TOKEN)).await.is_refusal(405, "method_not_allowed");
        }
        assert_eq!(app.admin_get("/readyz").await.head.status, 200);
        assert_eq!(body(&app.admin_get("/drain").await)["draining"], false);

        // Where no token is configured there is none to have, and everybody on this machine reaches a loopback address.
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let open = App::start(&Config::on(&nats)).await;
        for path in changes {
            open.admin_ask("POST", path, None).await.is_refusal(403, "token_not_configured");
        }
        assert_eq!(open.admin_get("/readyz").await.head.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_drain_that_was_asked_for_leaves_a_process_that_refuses_softly() {
    bounded(async {
        let mut site = with_token(|mut config| {
            config.drain_window = "2s";
            config
        })
        .await;
        let app = &mut site.app;
        let mut held = Vec::new();
        for user in ["a", "b", "c", "d"] {
            held.push(app.events(user).await);
        }
        let answer = app.admin_ask("POST", "/drain", Some(TOKEN)).await;
        assert_eq!(answer.head.status, 202);
        assert_eq!(body(&answer)["window_seconds"].as_f64(), Some(2.0));
        assert_eq!(app.admin_get("/readyz").await.head.status, 503);
        for sse in &mut held {
            let bye = sse.event().await;
            assert_eq!((bye.name.as_str(), &json(&bye)["code"]), ("sidestream.bye", &"drain".into()));
        }
        eventually("nobody is left", DEADLINE, async || {
            (body(&app.admin_get("/drain").await)["connections"] == 0).then_some(())
        })
        .await;
        let refused = app.ask(support::get("/events").user("a")).await;
        refused.is_soft_refusal("drain");
        assert_eq!(refused.head.header("connection"), Some("close"));
        assert_eq!(app.admin_get("/livez").await.head.status, 200);
        // A second one changes nothing, and neither waits.
        assert_eq!(app.admin_ask("POST", "/drain", Some(TOKEN)).await.head.status, 202);
        let began = Instant::now();
        app.terminate();
        assert!(app.exit(DEADLINE).await.success());
        assert!(began.elapsed() < Duration::from_secs(2), "there was nobody to wait for: {:?}", began.elapsed());
    })
    .await;
}

#[tokio::test]
async fn the_configuration_in_force_is_shown_without_its_secrets() {
    bounded(async {
        let site = with_token(|config| config).await;
        let app = &site.app;
        app.admin_get("/config").await.is_refusal(401, "token_missing");
        let shown = app.admin_ask("GET", "/config", Some(TOKEN)).await.text();
        assert!(shown.contains("server.drain_window = \"1s\"  # "), "{shown}");
        assert!(shown.contains("sidestream.toml:"), "where each value comes from: {shown}");
        assert!(!shown.contains(TOKEN), "{shown}");
    })
    .await;
}

#[tokio::test]
async fn the_level_of_the_log_is_set_while_it_runs() {
    bounded(async {
        let site = with_token(|config| config).await;
        let app = &site.app;
        // Refusals are told at `debug`.
        let refused = |app: &App| app.log_lines().iter().filter(|line| line.contains("Request refused")).count();
        app.ask(support::get("/before")).await.is_refusal(404, "not_found");
        let set = app.admin_send("PUT", "/log-level", Some(TOKEN), "info,sidestream::http=debug").await;
        assert_eq!((set.head.status, &body(&set)["level"]), (200, &"info,sidestream::http=debug".into()));
        app.ask(support::get("/between")).await.is_refusal(404, "not_found");
        app.logs("Request refused", DEADLINE).await;
        assert_eq!(app.admin_send("PUT", "/log-level", Some(TOKEN), "info\n").await.head.status, 200);
        app.ask(support::get("/behind")).await.is_refusal(404, "not_found");
        for wrong in ["", "inof", "info,=", &"x".repeat(2000)] {
            app.admin_send("PUT", "/log-level", Some(TOKEN), wrong).await.is_refusal(400, "bad_level");
        }
        app.admin_send("PUT", "/log-level", None, "trace").await.is_refusal(401, "token_missing");
        app.admin_send("POST", "/log-level", Some(TOKEN), "trace").await.is_refusal(405, "method_not_allowed");
        assert_eq!(refused(app), 1, "before and behind are told of at debug only");
    })
    .await;
}

/// Runs the program with the site's admin address and token.
async fn command(site: &Site, words: &[&str]) -> Ran {
    let token = site.token.path().display().to_string();
    let args: Vec<&str> = words.iter().copied().chain(["--admin", &site.app.admin, "--token-file", &token]).collect();
    run(&args).await
}

#[tokio::test]
async fn the_commands_are_what_the_listener_does() {
    bounded(async {
        let site = with_token(|config| config).await;
        let mut alice = site.app.events("alice").await;
        let mut bob = site.app.events("bob").await;
        let id = json(&alice.connected)["connection"].as_str().expect("an id").to_owned();
        let listed = command(&site, &["connections", "--user", "alice", "--json"]).await.ends_with(0).json();
        assert_eq!(listed["connections"][0]["connection"], id.as_str());
        let said = command(&site, &["connections"]).await.ends_with(0).stdout;
        assert!(["alice", "bob", "/events"].iter().all(|word| said.contains(word)), "{said}");
        command(&site, &["kick", &id]).await.ends_with(0);
        assert_eq!(json(&alice.event().await)["code"], "kicked");
        // Nobody is there any more.
        command(&site, &["kick", &id]).await.ends_with(1);
        command(&site, &["drain"]).await.ends_with(0);
        assert_eq!(json(&bob.event().await)["code"], "drain");
        assert_eq!(site.app.admin_get("/readyz").await.head.status, 503);
    })
    .await;
}
