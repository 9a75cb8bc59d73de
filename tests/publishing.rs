//! `POST /notify/{user}` and `POST /broadcast`: what arrives, what is answered, once for a key, and what is refused how.

mod support;

use std::time::{Duration, Instant};

use async_nats::jetstream;
use support::client::Answer;
use support::command::run;
use support::sidecars::{Sidecars, TOKEN, json_of};
use support::{DEADLINE, Version, Wire, bounded, eventually, on_both_servers};

/// A route that no stream backs.
const LIVE: &str = "\n[[route]]\npath = \"/live\"\nlive_subjects = [\"live.all.>\"]\n";

/// Publishes with these header lines.
async fn post(all: &Sidecars, path: &str, headers: &str, body: &str) -> Answer {
    all.post_with(0, path, headers, body).await
}

/// Changes the stream of the tests.
async fn bound_stream(all: &Sidecars, change: impl FnOnce(&mut jetstream::stream::Config)) {
    let jetstream = all.nats.jetstream().await;
    let mut config = jetstream.get_stream("EVENTS").await.expect("it is there").cached_info().config.clone();
    change(&mut config);
    jetstream.update_stream(config).await.expect("changed");
}

on_both_servers! {
    async fn a_user_and_everybody_hear_what_is_published_by_http(version: Version) {
        let mut all = Sidecars::one(version, |config| config).await;
        let mut bob = all.apps[0].events("bob").await;
        let notified = json_of(&all.post(0, "/notify/alice", r#"{"event":"note","data":"for alice"}"#).await);
        assert_eq!(notified, serde_json::json!({"sent":1,"total":1,"complete":true,"stream":"EVENTS","seq":1}));
        let told = json_of(&all.post(0, "/broadcast", r#"{"data":{"n": 1.50}}"#).await);
        assert_eq!(told, serde_json::json!({"sent":2,"total":2,"complete":true,"stream":"EVENTS","seq":2}));
        let event = all.clients[0].event().await;
        assert_eq!((event.name.as_str(), event.data.as_str()), ("note", "for alice"));
        for sse in [&mut all.clients[0], &mut bob] {
            assert_eq!(sse.event().await.data, r#"{"n": 1.50}"#);
        }
        // Percent-encoded, and nobody is there.
        let nobody = json_of(&all.post(0, "/notify/c%61rol%40example", r#"{"data":""}"#).await);
        assert_eq!((&nobody["sent"], &nobody["complete"], &nobody["seq"]), (&0.into(), &true.into(), &3.into()));
        let stored = all.nats.jetstream().await.get_stream("EVENTS").await.expect("there");
        assert_eq!(stored.get_raw_message(3).await.expect("stored").subject.as_str(), "events.user.carol@example.message");
    }

    async fn a_key_makes_two_requests_one_event(version: Version) {
        let mut all = Sidecars::one(version, |config| config).await;
        let body = r#"{"data":"once"}"#;
        let first = json_of(&post(&all, "/notify/alice", "Idempotency-Key: order-17\r\n", body).await);
        let second = json_of(&post(&all, "/notify/alice", "Idempotency-Key: order-17\r\n", body).await);
        assert_eq!((&first["seq"], &first["duplicate"]), (&1.into(), &serde_json::Value::Null));
        assert_eq!((&second["seq"], &second["duplicate"]), (&1.into(), &true.into()));
        // JetStream knows a key by its stream, not by its subject: it is the event's, not the user's.
        let bob = json_of(&post(&all, "/notify/bob", "Idempotency-Key: order-17\r\n", body).await);
        assert_eq!((&bob["seq"], &bob["duplicate"]), (&1.into(), &true.into()));
        // Across a restart of NATS as well, and by the command.
        all.nats.restart().await;
        eventually("NATS is back", DEADLINE, async || {
            let again = post(&all, "/notify/alice", "Idempotency-Key: order-17\r\n", body).await;
            (again.head.status == 200).then(|| assert_eq!(json_of(&again)["duplicate"], true))
        })
        .await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("sidestream.toml");
        std::fs::write(&file, all.config().render()).expect("written");
        let file = file.display().to_string();
        let again = run(&["notify", "alice", "once", "--idempotency-key", "order-17", "--config", &file]).await;
        assert_eq!(again.ends_with(0).json()["duplicate"], true);
        let fresh = ["publish", "events.user.alice.x", "last", "--idempotency-key", "order-18", "--config", &file];
        assert_eq!(run(&fresh).await.ends_with(0).json()["seq"], 2);
        run(&["notify", "alice", "x", "--idempotency-key", "a b", "--config", &file]).await.ends_with(64);
        run(&["notify", "alice", "x", "--idempotency-key", "a", "--count", "2", "--config", &file]).await.ends_with(64);
        let heard = all.clients[0].before("last").await;
        assert_eq!(heard.iter().filter(|event| event.data == "once").count(), 1);
    }

    async fn what_jetstream_refuses_is_told_in_its_words(version: Version) {
        let all = Sidecars::one(version, |config| config).await;
        bound_stream(&all, |config| config.max_message_size = 1000).await;
        let body = format!("{{\"data\":{:?}}}", "x".repeat(2000));
        let large = all.post(0, "/broadcast", &body).await;
        assert!(large.is_refusal(413, "jetstream_refused").text().contains("message size exceeds maximum allowed"));
        bound_stream(&all, |config| {
            config.max_message_size = -1;
            config.max_messages = 1;
            config.discard = jetstream::stream::DiscardPolicy::New;
        })
        .await;
        assert_eq!(json_of(&all.post(0, "/broadcast", "{\"data\":1}").await)["seq"], 1);
        let full = all.post(0, "/broadcast", "{\"data\":2}").await;
        assert!(full.is_refusal(502, "jetstream_refused").text().contains("maximum messages exceeded"));
        all.nats.publisher().await.delete_stream("EVENTS").await;
        all.post(0, "/broadcast", "{\"data\":3}").await.is_refusal(502, "no_stream");
    }

    async fn without_nats_a_request_is_refused_for_a_while(version: Version) {
        let mut all = Sidecars::one(version, |config| config).await;
        all.nats.pause();
        // Not known to be away yet: the acknowledgement does not come.
        let late = post(&all, "/notify/alice", "Idempotency-Key: k\r\n", "{\"data\":\"kept\"}").await;
        assert_eq!(late.is_refusal(503, "nats_unavailable").head.header("retry-after"), Some("1"));
        all.nats.resume();
        let again = post(&all, "/notify/alice", "Idempotency-Key: k\r\n", "{\"data\":\"kept\"}").await;
        // Whether the first one came through or not, it is stored once.
        assert_eq!(json_of(&again)["seq"], 1);
        assert_eq!(all.clients[0].event().await.data, "kept");
        all.nats.kill();
        eventually("the connection is lost", DEADLINE, async || {
            (all.post(0, "/notify/alice", "{\"data\":1}").await.head.status == 503).then_some(())
        })
        .await;
        let began = Instant::now();
        all.post(0, "/broadcast", "{\"data\":1}").await.is_refusal(503, "nats_unavailable");
        assert!(began.elapsed() < Duration::from_secs(1), "known by now: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn bodies_are_bounded_in_bytes_and_time() {
    bounded(async {
        let all = Sidecars::one(Version::Current, |config| config.limit("event_bytes", "\"4KiB\"")).await;
        let fits = format!("{{\"data\":{:?}}}", "x".repeat(4096 - 11));
        assert_eq!(fits.len(), 4096);
        json_of(&all.post(0, "/broadcast", &fits).await);
        all.post(0, "/broadcast", &(fits.clone() + " ")).await.is_refusal(413, "body_too_large");
        // One that says so is answered before any of it has come; another when it has grown too large.
        let head = format!("POST /broadcast HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {TOKEN}\r\n");
        let mut wire = Wire::tcp(&all.apps[0].admin).await;
        wire.send(format!("{head}Content-Length: 1000000000\r\n\r\n").as_bytes()).await;
        wire.answer().await.is_refusal(413, "body_too_large");
        let mut wire = Wire::tcp(&all.apps[0].admin).await;
        wire.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n1001\r\n{}", "x".repeat(4097)).as_bytes()).await;
        wire.answer().await.is_refusal(413, "body_too_large");
        let mut wire = Wire::tcp(&all.apps[0].admin).await;
        wire.send(format!("{head}Content-Length: 20\r\n\r\n{{\"data\"").as_bytes()).await;
        wire.answer().await.is_refusal(408, "body_timeout");
        assert_eq!(json_of(&all.post(0, "/broadcast", "{\"data\":1}").await)["seq"], 2);
    })
    .await;
}

#[tokio::test]
async fn refusals_say_what_is_allowed_and_publish_nothing() {
    bounded(async {
        let all = Sidecars::one(Version::Current, |config| config).await;
        for (body, says) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("[\"x\", 1]", "not an object"),
            ("{\"data\":1,\"evnt\":\"x\"}", "unknown field `evnt`, expected `event` or `data` at line 1 column 16"),
            ("{\"event\":\"x\"}", "missing field `data`"),
            ("{\"data\":1,\"data\":2}", "duplicate field `data`"),
            ("{\"event\":1,\"data\":2}", "invalid type: integer `1`, expected a string"),
            ("{\"data\":1} x", "trailing characters at line 1 column 12"),
        ] {
            let refused = all.post(0, "/notify/alice", body).await;
            assert!(refused.is_refusal(400, "bad_body").text().contains(says), "{body}: {}", refused.text());
        }
        all.post(0, "/broadcast", r#"{"event":"sidestream.bye","data":1}"#).await.is_refusal(400, "bad_event");
        for user in ["", "a/b", "a.b", "%3e", "a%20b", "%ff", "%2a", "caf%C3%A9", "$x"] {
            all.post(0, &format!("/notify/{user}"), "{\"data\":1}").await.is_refusal(400, "bad_user");
        }
        let long = "x".repeat(256);
        for keys in [
            "Idempotency-Key:\r\n",
            "Idempotency-Key: a b\r\n",
            "Idempotency-Key: \u{e9}\r\n",
            &format!("Idempotency-Key: {long}\r\n"),
            "Idempotency-Key: a\r\nIdempotency-Key: a\r\n",
        ] {
            post(&all, "/broadcast", keys, "{\"data\":1}").await.is_refusal(400, "bad_idempotency_key");
        }
        post(&all, "/broadcast", "Sec-Fetch-Site: cross-site\r\n", "{\"data\":1}")
            .await
            .is_refusal(403, "origin_denied");
        let allowed = all.ask(0, "GET", "/notify/alice").await;
        assert_eq!(allowed.is_refusal(405, "method_not_allowed").head.header("allow"), Some("POST"));
        assert_eq!(json_of(&all.post(0, "/broadcast", "{\"data\":1}").await)["seq"], 1, "nothing was published");
    })
    .await;
}

#[tokio::test]
async fn a_route_without_a_stream_acknowledges_nothing() {
    bounded(async {
        let all = Sidecars::one(Version::Current, |mut config| {
            config.tables = LIVE.to_owned() + "[[route]]\npath = \"/events\"\nsubjects = [\"live.user.{user}\"]\n";
            config
        })
        .await;
        let answer = json_of(&all.post(0, "/notify/alice", "{\"data\":1}").await);
        assert_eq!(answer, serde_json::json!({"sent": 1, "total": 1, "complete": true}));
        // With its key as a header more than the server's 1 MiB, within ours.
        let (key, body) = ("k".repeat(100), format!("{{\"data\":{:?}}}", "x".repeat((1 << 20) - 11)));
        let large = post(&all, "/notify/alice", &format!("Idempotency-Key: {key}\r\n"), &body).await;
        assert!(large.is_refusal(413, "body_too_large").text().contains("max_payload"));
    })
    .await;
}
