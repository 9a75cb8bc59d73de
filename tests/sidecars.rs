//! Three sidecars on one NATS: what is counted over all of them, whether the sum is whole, and what reaches a connection on another.
//!
//! A sidecar that hangs, that was killed, that has ended in order; one that has lost NATS.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use support::command::run;
use support::proxy::Proxy;
use support::sidecars::{OFF_THE_ROLL, Sidecars, TOKEN, json_of};
use support::{Config, DEADLINE, Event, Version, eventually, get, json, on_both_servers};

/// What the issue asks of anything that crosses sidecars.
const ACROSS: Duration = Duration::from_secs(1);
const NOBODY: &str = "01980000-0000-7000-8000-000000000000";
/// A route that no stream backs.
const LIVE: &str = "\n[[route]]\npath = \"/live\"\nsubjects = [\"live.{user}.>\"]\n";

/// `sidestream notify alice`, which is no sidecar: how many hear it, and whether all were counted.
async fn notify(all: &Sidecars) -> (u64, bool) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("sidestream.toml");
    std::fs::write(&file, all.config().render()).expect("written");
    let answer = run(&["notify", "alice", "x", "--config", &file.display().to_string()]).await.ends_with(0).json();
    (answer["sent"].as_u64().expect("a number"), answer["complete"].as_bool().expect("a truth"))
}

fn is_bye(event: &Event) -> bool {
    event.name == "sidestream.bye" && json(event)["code"] == "kicked"
}

on_both_servers! {
    async fn a_hung_sidecar_makes_the_sum_incomplete(version: Version) {
        let all = Sidecars::three(version).await;
        assert_eq!(notify(&all).await, (3, true));
        all.apps[2].pause();
        assert_eq!(notify(&all).await, (2, false));
        assert_eq!(all.counted_by(0).await, (2, false));
        // It may be there.
        all.ask(0, "POST", &format!("/kick/{NOBODY}")).await.is_refusal(504, "incomplete");
        let sent = all.post(0, &format!("/send/{}", all.connection(2)), "{\"data\":1}").await;
        assert_eq!(sent.is_refusal(504, "incomplete").head.header("retry-after"), Some("1"));
        all.apps[2].resume();
        all.is_counted(3, true).await;
        all.ask(0, "POST", &format!("/kick/{NOBODY}")).await.is_refusal(404, "connection_unknown");
    }

    async fn what_a_hung_sidecar_was_not_given_does_not_come_later(version: Version) {
        let mut all = Sidecars::three(version).await;
        all.apps[2].pause();
        let path = format!("/send/{}", all.connection(2));
        for _ in 0..3 {
            let refused = all.post(0, &path, "{\"event\":\"export\",\"data\":\"lost\"}").await;
            assert!(refused.is_refusal(504, "incomplete").text().contains("nothing has been sent"));
        }
        all.apps[2].resume();
        all.is_counted(3, true).await;
        assert_eq!(json_of(&all.post(0, &path, "{\"event\":\"export\",\"data\":\"last\"}").await)["sent"], 1);
        assert_eq!(all.clients[2].event().await.data, "last");
    }

    async fn an_event_sent_again_with_its_key_is_put_once(version: Version) {
        let mut all = Sidecars::three(version).await;
        let path = format!("/send/{}", all.connection(2));
        let body = "{\"event\":\"export\",\"data\":\"once\"}";
        let send = async |at, key: &str| json_of(&all.post_with(at, &path, &format!("Idempotency-Key: {key}\r\n"), body).await);
        assert_eq!(send(0, "k").await, serde_json::json!({"sent": 1}));
        // By any sidecar, its own included.
        for at in 0..3 {
            assert_eq!(send(at, "k").await, serde_json::json!({"sent": 1, "duplicate": true}));
        }
        let other = all.post_with(0, &format!("/send/{}", all.connection(1)), "Idempotency-Key: k\r\n", body).await;
        assert_eq!(json_of(&other), serde_json::json!({"sent": 1}), "the key is the connection's");
        all.post_with(0, &path, "Idempotency-Key: a b\r\n", body).await.is_refusal(400, "bad_idempotency_key");
        assert_eq!(json_of(&all.post(1, &path, "{\"data\":\"last\"}").await)["sent"], 1);
        let heard = all.clients[2].before("last").await;
        assert_eq!(heard.iter().filter(|event| event.data == "once").count(), 1);
    }

    async fn one_that_came_without_an_answer_comes_once(version: Version) {
        let mut all = Sidecars::three(version).await;
        let (path, connection) = (format!("/send/{}", all.connection(2)), all.connection(2));
        let listed = json_of(&all.ask(2, "GET", "/connections?scope=cluster").await);
        let mut theirs = listed["connections"].as_array().expect("a list").iter();
        let node = &theirs.find(|shown| shown["connection"] == connection.as_str()).expect("it is there")["node"];
        // As a sidecar asks that does not hear the answer.
        let event = serde_json::json!({"connection": connection, "key": "k", "event": null, "data": "once"});
        let question = serde_json::json!({"node": node, "event": event}).to_string();
        let client = all.nats.client().await;
        client.publish("_sidestream.send", question.into()).await.expect("published");
        client.flush().await.expect("flushed");
        assert_eq!(all.clients[2].event().await.data, "once");
        let again = all.post_with(0, &path, "Idempotency-Key: k\r\n", "{\"data\":\"once\"}").await;
        assert_eq!(json_of(&again)["duplicate"], true);
        assert_eq!(json_of(&all.post(0, &path, "{\"data\":\"last\"}").await)["sent"], 1);
        assert_eq!(all.clients[2].event().await.data, "last");
    }

    async fn what_nats_does_not_take_is_too_large_and_not_tried_again(version: Version) {
        let mut all = Sidecars::three(version).await;
        // Quotes are escaped in the event's text, and again in the question: together more than the server's 1 MiB.
        let body = format!("{{\"data\":[{:?}]}}", "\"".repeat(400_000));
        let refused = all.post(0, &format!("/send/{}", all.connection(2)), &body).await;
        let said = refused.is_refusal(413, "body_too_large").text();
        assert!(said.contains("NATS takes 1048576 (max_payload)"), "{said}");
        assert_eq!(json_of(&all.post(2, &format!("/send/{}", all.connection(2)), &body).await)["sent"], 1);
        assert_eq!(all.clients[2].event().await.data.len(), 800_004);
    }

    async fn answers_of_nobody_and_counts_beyond_measure_do_no_harm(version: Version) {
        let all = Sidecars::three(version).await;
        let client = all.nats.client().await;
        let mut heard = client.subscribe("_sidestream.>").await.expect("subscribed");
        client.flush().await.expect("flushed");
        let huge = u64::MAX;
        let answer = |node: &str| {
            let counts = serde_json::json!({"live": huge, "total": huge, "kicked": huge, "connections": []});
            let mut answer = serde_json::json!({"node": node, "roll": []});
            answer.as_object_mut().expect("an object").extend(counts.as_object().expect("an object").clone());
            answer.to_string()
        };
        let forged = [answer("01980000-0000-7000-8000-000000000001"), answer("01980000-0000-7000-8000-000000000002")];
        let no_node = answer("01980000-0000-4000-8000-000000000003");
        let forger = tokio::spawn(async move {
            while let Some(message) = futures_util::StreamExt::next(&mut heard).await {
                let Some(reply) = message.reply else { continue };
                let is_counted = message.subject.as_str() != "_sidestream.connections";
                let answers = if is_counted { &forged[..] } else { std::slice::from_ref(&no_node) };
                for answer in answers {
                    client.publish(reply.clone(), answer.clone().into()).await.expect("published");
                }
                client.flush().await.expect("flushed");
            }
        });
        let sent = json_of(&all.post(0, "/notify/alice", "{\"data\":1}").await);
        assert_eq!(sent["total"], huge, "{sent}");
        assert_eq!(json_of(&all.ask(0, "POST", "/kick?user=bob").await)["kicked"], huge);
        // What does not bear the id of a node is no answer.
        assert_eq!(all.counted_by(0).await, (3, true));
        forger.abort();
    }

    async fn a_killed_sidecar_is_missed_until_it_is_off_the_roll(version: Version) {
        let mut all = Sidecars::three(version).await;
        all.apps[1].kill();
        assert_eq!(notify(&all).await, (2, false));
        eventually("it is off the roll", OFF_THE_ROLL, async || (notify(&all).await == (2, true)).then_some(())).await;
        // Another in its place is counted at once.
        all.add(|config| config).await;
        all.is_counted(3, true).await;
    }

    async fn a_sidecar_that_ends_in_order_is_not_missed(version: Version) {
        let mut all = Sidecars::three(version).await;
        all.apps[0].terminate();
        assert!(all.apps[0].exit(DEADLINE).await.success());
        assert_eq!(notify(&all).await, (2, true));
        assert_eq!(all.counted_by(1).await, (2, true));
    }

    async fn the_roll_outlives_nats(version: Version) {
        let mut all = Sidecars::three(version).await;
        all.nats.restart().await;
        eventually("NATS is back", OFF_THE_ROLL, async || {
            (all.ask(0, "GET", "/connections?scope=cluster").await.head.status == 200).then_some(())
        })
        .await;
        all.is_counted(3, true).await;
        all.apps[2].pause();
        assert_eq!(all.counted_by(0).await, (2, false), "known as before the outage");
        all.apps[2].resume();
    }

    async fn a_sidecar_that_has_lost_nats_says_so_and_is_missed(version: Version) {
        let mut all = Sidecars::three(version).await;
        let proxy = Proxy::to(all.nats.address()).await;
        let cut_off = Config::at(&format!("nats://{}", proxy.address));
        all.add(|config| Config { nats: cut_off.nats, ..config }).await;
        all.is_counted(4, true).await;
        proxy.close();
        all.clients[3].until_named("sidestream.degraded", DEADLINE).await;
        eventually("its control connection is lost as well", DEADLINE, async || {
            (all.ask(3, "GET", "/connections?scope=cluster").await.head.status == 503).then_some(())
        })
        .await;
        assert_eq!(all.counted_by(0).await, (3, false));
        let refused = all.post(3, "/notify/alice", "{\"data\":1}").await;
        assert_eq!(refused.is_refusal(503, "nats_unavailable").head.header("retry-after"), Some("1"));
        all.ask(3, "POST", &format!("/kick/{}", all.connection(0))).await.is_refusal(503, "nats_unavailable");
        // What is its own it still does.
        assert_eq!(json_of(&all.ask(3, "GET", "/connections").await)["total"], 1);
        let kicked = json_of(&all.ask(3, "POST", "/kick?user=alice").await);
        assert_eq!((&kicked["kicked"], &kicked["complete"]), (&1.into(), &false.into()));
        assert!(is_bye(&all.clients[3].event().await));
        all.is_counted(3, true).await;
        proxy.open();
        eventually("it is back", OFF_THE_ROLL, async || {
            (all.ask(3, "GET", "/connections?scope=cluster").await.head.status == 200).then_some(())
        })
        .await;
        eventually("it is counted again", OFF_THE_ROLL, async || (all.counted_by(0).await == (3, true)).then_some(()))
            .await;
        all.apps[0].metric_is("sidestream_nodes", &[], 4.0, OFF_THE_ROLL).await;
        // It could hear nobody all the while, and has taken nobody off its own roll for that.
        let lines = all.apps[3].log_json();
        let rolls: Vec<_> = lines.iter().filter(|line| line["message"] == "Sidecars on the roll").map(|line| &line["nodes"]).collect();
        assert_eq!(rolls.last(), Some(&&4.into()), "{rolls:?}");
        assert_eq!(rolls.iter().filter(|nodes| **nodes == &serde_json::json!(4)).count(), 1, "{rolls:?}");
        all.apps[3].pause();
        assert_eq!(all.counted_by(0).await, (3, false), "it is on the roll again");
        all.apps[3].resume();
    }

    async fn connections_of_all_are_listed_with_their_sidecars(version: Version) {
        let all = Sidecars::three(version).await;
        let bob = all.apps[1].events("bob").await;
        let listed = json_of(&all.ask(0, "GET", "/connections?scope=cluster").await);
        assert_eq!((&listed["total"], &listed["complete"]), (&4.into(), &true.into()));
        let nodes: BTreeSet<_> = listed["connections"].as_array().expect("a list").iter().map(|c| c["node"].to_string()).collect();
        assert_eq!(nodes.len(), 3, "{listed}");
        let of_bob = json_of(&all.ask(2, "GET", "/connections?user=bob&scope=cluster").await);
        assert_eq!(of_bob["connections"][0]["connection"], json(&bob.connected)["connection"]);
        assert_eq!((&of_bob["connections"][0]["route"], &of_bob["total"]), (&"/events".into(), &1.into()));
        let here = json_of(&all.ask(2, "GET", "/connections?scope=node").await);
        assert_eq!(here["total"], 1);
        assert!(here["complete"].is_null() && here["connections"][0]["node"].is_null(), "{here}");
        all.ask(2, "GET", "/connections?scope=all").await.is_refusal(400, "bad_scope");
        all.apps[2].admin_get("/connections?scope=cluster").await.is_refusal(401, "token_missing");
    }

    async fn a_connection_is_kicked_wherever_it_is_within_a_second(version: Version) {
        let mut all = Sidecars::three(version).await;
        let mut bob = all.apps[0].events("bob").await;
        let began = Instant::now();
        assert_eq!(json_of(&all.ask(0, "POST", &format!("/kick/{}", all.connection(2))).await)["kicked"], true);
        assert!(began.elapsed() < ACROSS, "{:?}", began.elapsed());
        assert!(is_bye(&all.clients[2].event().await));
        let gone = format!("/kick/{}", all.connection(2));
        all.clients[2].rest().await;
        all.is_counted(3, true).await;
        all.ask(0, "POST", &gone).await.is_refusal(404, "connection_unknown");

        // A user is logged out everywhere.
        let kicked = json_of(&all.ask(1, "POST", "/kick?user=alice").await);
        assert_eq!((&kicked["kicked"], &kicked["complete"]), (&2.into(), &true.into()));
        for at in [0, 1] {
            assert!(is_bye(&all.clients[at].event().await));
        }
        let again = json_of(&all.ask(1, "POST", "/kick?user=alice").await);
        assert_eq!((&again["kicked"], &again["complete"]), (&0.into(), &true.into()));
        assert_eq!(json_of(&all.post(2, "/notify/bob", "{\"data\":\"stays\"}").await)["sent"], 1);
        assert_eq!(bob.event().await.data, "stays");
    }

    async fn an_event_reaches_one_connection_wherever_it_is_in_its_place(version: Version) {
        let mut all = Sidecars::three(version).await;
        let publisher = all.nats.publisher().await;
        publisher.publish("events.user.alice.x", "before").await;
        let id = all.clients[2].event().await.id.expect("a cursor");
        all.clients[2].forget_raw();
        let began = Instant::now();
        let body = r#"{"event":"export","data":{"n": 1}}"#;
        assert_eq!(json_of(&all.post(0, &format!("/send/{}", all.connection(2)), body).await)["sent"], 1);
        let sent = all.clients[2].event().await;
        assert!(began.elapsed() < ACROSS, "{:?}", began.elapsed());
        assert_eq!((sent.name.as_str(), sent.data.as_str()), ("export", r#"{"n": 1}"#));
        assert_eq!(sent.id.as_deref(), Some(id.as_str()), "the place that the client has anyway");
        publisher.publish("events.user.alice.x", "after").await;
        for client in &mut all.clients {
            assert_eq!(client.before("after").await.iter().filter(|event| event.name == "export").count(), 0);
        }
        // A client that comes back with its id misses nothing and hears nothing twice.
        let mut back = all.apps[1].stream(get("/events").user("alice").header("Last-Event-ID", &id)).await;
        assert_eq!((back.resume().as_str(), back.event().await.data.as_str()), ("exact", "after"));
        all.post(0, &format!("/send/{NOBODY}"), body).await.is_refusal(404, "connection_unknown");
        let foreign = all.apps[0].admin_send("POST", &format!("/send/{NOBODY}"), None, body).await;
        foreign.is_refusal(401, "token_missing");
    }

    async fn one_that_is_ending_is_not_told_twice(version: Version) {
        let all = Sidecars::one(version, |config| config).await;
        let wire = support::Wire::narrow(all.apps[0].address()).await;
        let mut carol = support::Sse::open(wire, &get("/events").user("carol")).await;
        // More than the kernel takes: the goodbye has to wait behind it.
        all.nats.publisher().await.publish("events.user.carol.x", "x".repeat(900_000)).await;
        eventually("it waits", DEADLINE, async || {
            let listed = json_of(&all.ask(0, "GET", "/connections?user=carol").await);
            listed["connections"][0]["queued_bytes"].as_u64().filter(|bytes| *bytes > 0)
        })
        .await;
        let path = format!("/kick/{}", json(&carol.connected)["connection"].as_str().expect("an id"));
        assert_eq!(json_of(&all.ask(0, "POST", &path).await)["kicked"], true);
        all.ask(0, "POST", &path).await.is_refusal(404, "connection_unknown");
        assert!(carol.rest().await.iter().filter(|event| is_bye(event)).count() <= 1);
    }

    async fn a_client_of_nats_that_dies_is_replaced_with_its_endpoints(version: Version) {
        let all = Sidecars::three(version).await;
        // A header that ends async-nats' client, on a subject that publishers may use.
        all.nats.publish_raw(b"_sidestream.audience", b"X: a\rb\r\n", b"{}").await;
        for app in &all.apps {
            app.logs("The NATS client has died", DEADLINE).await;
        }
        eventually("it is replaced", DEADLINE, async || {
            (all.ask(0, "GET", "/connections?scope=cluster").await.head.status == 200).then_some(())
        })
        .await;
        all.is_counted(3, true).await;
        all.apps[2].pause();
        assert_eq!(all.counted_by(0).await, (2, false), "the roll goes on as well");
        all.apps[2].resume();
    }

    async fn the_commands_ask_all(version: Version) {
        let mut all = Sidecars::three(version).await;
        let (admin, token) = (all.apps[0].admin.clone(), all.token_file());
        let ask = async |words: &[&str]| {
            let args: Vec<&str> = words.iter().copied().chain(["--admin", &admin, "--token-file", &token]).collect();
            run(&args).await
        };
        let listed = ask(&["connections", "--cluster"]).await.ends_with(0).stdout;
        assert!(listed.starts_with("3 connections, 3 of them live\n"), "{listed}");
        assert_eq!(listed.matches("  on ").count(), 3, "{listed}");
        let sent = ask(&["send", &all.connection(1), "by hand", "--event", "note"]).await.ends_with(0).json();
        assert_eq!(sent["sent"], 1);
        let event = all.clients[1].event().await;
        assert_eq!((event.name.as_str(), event.data.as_str()), ("note", "by hand"));
        for again in [false, true] {
            let sent = ask(&["send", &all.connection(1), "once", "--idempotency-key", "k"]).await.ends_with(0).json();
            assert_eq!(sent["duplicate"].as_bool().unwrap_or_default(), again, "{sent}");
        }
        ask(&["send", NOBODY, "x"]).await.ends_with(1);
        ask(&["kick", &all.connection(2)]).await.ends_with(0);
        assert!(is_bye(&all.clients[2].event().await));
        ask(&["kick", NOBODY]).await.ends_with(1);
        let kicked = ask(&["kick", "--user", "alice"]).await.ends_with(0).json();
        assert_eq!((&kicked["kicked"], &kicked["complete"]), (&2.into(), &true.into()));
        all.apps[2].pause();
        let kicked = ask(&["kick", "--user", "alice"]).await.ends_with(69);
        assert!(kicked.stdout.contains("\"complete\":false"), "{}", kicked.stdout);
        all.apps[2].resume();
        ask(&["kick"]).await.ends_with(64);
        ask(&["kick", NOBODY, "--user", "alice"]).await.ends_with(64);
    }

    async fn every_sidecar_is_an_instance_of_the_micro_service(version: Version) {
        let all = Sidecars::three(version).await;
        let client = all.nats.client().await;
        let listed = json_of(&all.ask(0, "GET", "/connections?scope=cluster").await);
        let nodes: BTreeSet<_> =
            listed["connections"].as_array().expect("a list").iter().filter_map(|c| c["node"].as_str().map(str::to_owned)).collect();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.expect("subscribed");
        client.publish_with_reply("$SRV.INFO.sidestream", inbox, "".into()).await.expect("asked");
        let mut found = BTreeSet::new();
        for _ in 0..3 {
            let answer = tokio::time::timeout(DEADLINE, futures_util::StreamExt::next(&mut answers)).await;
            let info: serde_json::Value = serde_json::from_slice(&answer.expect("in time").expect("one").payload).expect("JSON");
            assert_eq!((&info["name"], &info["endpoints"].as_array().map(Vec::len)), (&"sidestream".into(), &Some(4)));
            found.insert(info["metadata"]["node"].as_str().expect("its node").to_owned());
        }
        assert_eq!(found, nodes);
    }
}

on_both_servers! {
    async fn one_that_catches_up_hears_it_in_order_and_without_an_id(version: Version) {
        const COUNT: usize = 400;
        let all = Sidecars::one(version, |config| config.limit("queue_bytes", "\"256KiB\"")).await;
        let start = all.clients[0].connected.id.clone().expect("a cursor");
        let payload = "x".repeat(100_000);
        let bulk = (0..COUNT).map(|n| ("events.user.carol.x".to_owned(), format!("{n} {payload}").into_bytes()));
        all.nats.publisher().await.publish_all(bulk).await;
        // It does not read: its kernel and ours take little, and the rest is to be caught up with.
        let wire = support::Wire::narrow(all.apps[0].address()).await;
        let mut carol = support::Sse::open(wire, &get("/events").user("carol").header("Last-Event-ID", &start)).await;
        let id = json(&carol.connected)["connection"].as_str().expect("an id").to_owned();
        assert_eq!(json_of(&all.post(0, &format!("/send/{id}"), "{\"event\":\"now\",\"data\":1}").await)["sent"], 1);
        let (mut next, mut sent, mut last) = (0, 0, String::new());
        while next < COUNT || sent == 0 {
            let event = carol.event().await;
            if event.name == "now" {
                sent += 1;
                assert_eq!(carol.last_event_id(), last, "nothing runs ahead");
                assert!(next < COUNT, "it had not caught up");
                continue;
            }
            assert!(event.data.starts_with(&format!("{next} ")), "{}", &event.data[..20]);
            (next, last) = (next + 1, event.id.expect("a cursor"));
        }
        assert_eq!(sent, 1);
    }

    async fn one_that_catches_up_has_room_for_a_large_event(version: Version) {
        const COUNT: usize = 2000;
        let all = Sidecars::one(version, |config| config).await;
        let start = all.clients[0].connected.id.clone().expect("a cursor");
        let payload = "x".repeat(1000);
        let bulk = (0..COUNT).map(|n| ("events.user.carol.x".to_owned(), format!("{n} {payload}").into_bytes()));
        all.nats.publisher().await.publish_all(bulk).await;
        let wire = support::Wire::narrow(all.apps[0].address()).await;
        let mut carol = support::Sse::open(wire, &get("/events").user("carol").header("Last-Event-ID", &start)).await;
        let path = format!("/send/{}", json(&carol.connected)["connection"].as_str().expect("an id"));
        let body = format!("{{\"event\":\"export\",\"data\":{:?}}}", "y".repeat(150_000));
        // It reads nothing meanwhile: a piece of what it missed waits for it.
        assert_eq!(json_of(&all.post(0, &path, &body).await), serde_json::json!({"sent": 1}));
        // There is room for one of them, and no stream is ended for another.
        let full = json_of(&all.post(0, &path, &body).await);
        assert_eq!(full, serde_json::json!({"sent": 0, "reason": "full"}));
        let (mut next, mut sent) = (0, 0);
        while next < COUNT {
            let event = carol.event().await;
            if event.name == "export" {
                assert!(event.data.len() == 150_000 && next < COUNT, "{} at {next}", event.data.len());
                sent += 1;
                continue;
            }
            assert!(event.data.starts_with(&format!("{next} ")), "{}", &event.data[..20]);
            next += 1;
        }
        assert_eq!(sent, 1, "what was said to be sent");
        all.apps[0].metric_is("sidestream_connections_closed_total", &[("reason", "slow")], 0.0, DEADLINE).await;
    }

    async fn who_does_not_read_what_is_sent_is_full_and_told_so(version: Version) {
        // Nor evicted within this time for taking nothing.
        let all = Sidecars::one(version, |config| config.limit("write_timeout", "\"60s\"")).await;
        let wire = support::Wire::narrow(all.apps[0].address()).await;
        let mut carol = support::Sse::open(wire, &get("/events").user("carol")).await;
        let path = format!("/send/{}", json(&carol.connected)["connection"].as_str().expect("an id"));
        let body = format!("{{\"data\":{:?}}}", "x".repeat(60_000));
        let before = all.apps[0].resident();
        let mut sent = 0;
        let full = eventually("it is full", DEADLINE, async || {
            let answer = json_of(&all.post(0, &path, &body).await);
            sent += answer["sent"].as_u64().expect("a number");
            (answer["sent"] == 0).then_some(answer)
        })
        .await;
        assert_eq!(full["reason"], "full");
        assert!(all.apps[0].resident() < before + 64 * 1024 * 1024, "its queue is bounded");
        // All that was said to be sent comes, and the stream goes on.
        all.nats.publisher().await.publish("events.user.carol.x", "after").await;
        assert_eq!(carol.before("after").await.iter().filter(|event| event.data.len() == 60_000).count() as u64, sent);
    }

    async fn a_route_without_a_stream_has_no_ids_here_either(version: Version) {
        let all = Sidecars::one(version, |config| config.tables(LIVE)).await;
        let mut carol = all.apps[0].stream(get("/live").user("carol")).await;
        let path = format!("/send/{}", json(&carol.connected)["connection"].as_str().expect("an id"));
        let sent = all.apps[0].admin_send("POST", &path, Some(TOKEN), "{\"data\":\"hello\"}").await;
        assert_eq!(json_of(&sent)["sent"], 1);
        let event = carol.event().await;
        assert_eq!((event.name.as_str(), event.data.as_str(), event.id), ("message", "hello", None));
    }
}
