//! The publishers in Rust, TypeScript and Python (`clients/`): the same commands make the same messages, on real NATS
//! servers and to a reader of the real sidecar; what they promise of progress holds when callers are many and NATS is
//! away.
//!
//! What each library is by itself (types, packages, its own tests, the example of its README) is in
//! `publishers/packages.rs`.

mod support;

#[path = "publishers/driver.rs"]
mod driver;
#[path = "publishers/kept.rs"]
mod kept;
#[path = "publishers/packages.rs"]
mod packages;
#[path = "publishers/subjects.rs"]
mod subjects;

use std::time::Duration;

use driver::{Driver, Language};
use futures_util::StreamExt as _;
use kept::Kept;
use serde_json::{Value, json};
use support::proxy::Proxy;
use support::{App, Config, DEADLINE, Nats, Publisher, Sse, Version, on_both_servers, on_both_servers_at_once};

const TASK: &str = "events.user.alice.progress.import-7";

/// A server with the stream, and who looks at it.
async fn ready(version: Version) -> (Nats, Publisher) {
    let nats = Nats::start(version).await;
    let publisher = nats.events().await;
    (nats, publisher)
}

fn begin(task: &str) -> Value {
    json!({ "do": "begin", "user": "alice", "task": task })
}

fn update(percent: f64, message: &str) -> Value {
    json!({ "do": "update", "percent": percent, "message": message })
}

fn states(messages: &[Kept]) -> Vec<(String, u64, String)> {
    let state = |kept: &Kept| {
        let payload = kept.json();
        let text = |key: &str| payload[key].as_str().expect("text").to_owned();
        (text("state"), payload["percent"].as_u64().expect("a whole number"), text("message"))
    };
    messages.iter().map(state).collect()
}

fn owned(states: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    states.iter().map(|(state, percent, message)| ((*state).to_owned(), *percent, (*message).to_owned())).collect()
}

/// Subject, headers in their names' order, payload.
type Shape = (String, Vec<(String, String)>, String);

/// A message with what differs from run to run made the same.
fn shape(message: &Kept) -> Shape {
    let mut data = message.data.clone();
    if let Ok(payload) = serde_json::from_str::<Value>(&data)
        && let (Some(run), Some(updated)) = (payload["run"].as_str(), payload["updated"].as_u64())
    {
        data = data.replace(run, "RUN").replace(&updated.to_string(), "UPDATED");
    }
    let headers = message.headers.iter().map(|(name, value)| {
        let value = match name.as_str() {
            "Nats-Msg-Id" if value.ends_with(".end") => "RUN.end",
            "Nats-Expected-Last-Subject-Sequence" => "SEQ",
            _ => value,
        };
        (name.clone(), value.to_owned())
    });
    (message.subject.clone(), headers.collect(), data)
}

/// What every language is told, step by step: where updates would be merged, the next comes when the last is kept.
async fn scenario(driver: &mut Driver, publisher: &Publisher) {
    let note = json!({ "text": "grüße", "n": 1 });
    let sent = driver.ask(json!({ "do": "notify", "user": "alice", "event": "note", "data": note, "id": "n-1" })).await;
    let again =
        driver.ask(json!({ "do": "notify", "user": "alice", "event": "note", "data": note, "id": "n-1" })).await;
    assert_eq!((sent["duplicate"].clone(), again["duplicate"].clone()), (json!(false), json!(true)));
    driver.ask(json!({ "do": "notify", "user": "alice", "event": "order.größe", "data": "text" })).await;
    driver.ask(json!({ "do": "broadcast", "event": "news", "data": [1, null, true] })).await;
    driver.ask(begin("import-7")).await;
    kept::until(publisher, TASK, "running", 0).await;
    for (percent, message, kept) in [(40.9, "row \"8\"", 40), (99.9, "", 99)] {
        assert_eq!(driver.ask(update(percent, message)).await["runs"], true);
        kept::until(publisher, TASK, "running", kept).await;
    }
    driver.ask(json!({ "do": "complete" })).await;
}

fn expected() -> Vec<Shape> {
    let row = |subject: &str, headers: &[(&str, &str)], data: &str| {
        let mut headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        headers.sort();
        (subject.to_owned(), headers, data.to_owned())
    };
    let progress = |state: &str, percent: u64, message: &str, more: &[(&str, &str)]| {
        let data = format!(
            r#"{{"task":"import-7","run":"RUN","state":"{state}","percent":{percent},"message":"{message}","updated":UPDATED}}"#
        );
        row(TASK, &[&[("Sse-Event", "progress")], more].concat(), &data)
    };
    let last = &[("Nats-Expected-Last-Subject-Sequence", "SEQ")];
    vec![
        row("events.user.alice.note", &[("Sse-Event", "note"), ("Nats-Msg-Id", "n-1")], r#"{"text":"grüße","n":1}"#),
        row("events.user.alice.message", &[("Sse-Event", "order.größe")], r#""text""#),
        row("events.broadcast.news", &[("Sse-Event", "news")], "[1,null,true]"),
        progress("running", 0, "", last),
        progress("running", 40, r#"row \"8\""#, last),
        progress("running", 99, r#"row \"8\""#, last),
        progress("completed", 100, r#"row \"8\""#, &[("Nats-Msg-Id", "RUN.end")]),
    ]
}

/// Reads so many events, `degraded` and `ok` left out.
async fn events(sse: &mut Sse, count: usize) -> Vec<support::Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let event = sse.event_within(DEADLINE * 2).await;
        if !support::expect::is_state(&event) {
            events.push(event);
        }
    }
    events
}

/// Longer than the libraries wait for one acknowledgement (2 s).
const AWAY: Duration = Duration::from_secs(3);

async fn away_in_the_middle(version: Version, language: Language) {
    let (mut nats, publisher) = ready(version).await;
    let app = App::start(&Config::on(&nats)).await;
    let mut alice = app.events("alice").await;
    let mut driver = Driver::start(language, &nats.url());
    driver.ask(begin("import-7")).await;
    driver.ask(update(30.0, "before")).await;
    kept::until(&publisher, TASK, "running", 30).await;
    nats.kill();
    assert_eq!(driver.ask(update(60.0, "meanwhile")).await["runs"], true, "{language:?}");
    driver.tell(json!({ "do": "complete" })).await;
    tokio::time::sleep(AWAY).await;
    nats.restart().await;
    let end = driver.answer().await;
    assert!(end["seq"].is_u64(), "{language:?}: {end}");

    // The reader sees what the stream keeps, and the end is in it once, and last.
    let messages = kept::all(&nats.publisher().await, TASK).await;
    let ends = messages.iter().filter(|m| m.json()["state"] == "completed").count();
    assert_eq!(
        (ends, states(&messages).last()),
        (1, owned(&[("completed", 100, "meanwhile")]).first()),
        "{language:?}"
    );
    let seen: Vec<_> = events(&mut alice, messages.len()).await.into_iter().map(|event| event.data).collect();
    assert_eq!(seen, messages.iter().map(|message| message.data.clone()).collect::<Vec<_>>(), "{language:?}");
}

/// The next message, as it is published.
async fn next(published: &mut async_nats::Subscriber) -> async_nats::Message {
    let next = tokio::time::timeout(DEADLINE, published.next()).await;
    next.expect("published in time").expect("the subscription lives")
}

fn says(message: &async_nats::Message, text: &str) -> bool {
    String::from_utf8_lossy(&message.payload).contains(text)
}

/// The next message that ends a run, as it is published.
async fn next_end(published: &mut async_nats::Subscriber) -> async_nats::Message {
    loop {
        let message = next(published).await;
        if says(&message, r#""state":"completed""#) {
            return message;
        }
    }
}

on_both_servers! {
    async fn the_same_commands_make_the_same_messages(version: Version) {
        for language in Language::installed("the_same_commands_make_the_same_messages") {
            let (nats, publisher) = ready(version).await;
            let app = App::start(&Config::on(&nats)).await;
            let mut alice = app.events("alice").await;
            scenario(&mut Driver::start(language, &nats.url()), &publisher).await;

            let messages = kept::everything(&publisher).await;
            let found: Vec<_> = messages.iter().map(shape).collect();
            assert_eq!(found, expected(), "{language:?}");
            let keys = |payload: Value| payload.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
            let shown = serde_json::from_str(packages::block(include_str!("../clients/README.md"))).expect("JSON");
            assert_eq!(keys(messages[3].json()), keys(shown), "{language:?}: clients/README.md shows another payload");
            for (event, message) in events(&mut alice, messages.len()).await.iter().zip(&messages) {
                assert_eq!((&event.name, &event.data), (&message.headers["Sse-Event"], &message.data), "{language:?}");
            }
        }
    }
}

on_both_servers_at_once! {
    async fn a_failure_keeps_the_value_and_nothing_follows_the_end(version: Version) {
        for language in Language::installed("a_failure_keeps_the_value_and_nothing_follows_the_end") {
            let (nats, publisher) = ready(version).await;
            let mut driver = Driver::start(language, &nats.url());
            driver.ask(begin("import-7")).await;
            kept::until(&publisher, TASK, "running", 0).await;
            driver.ask(update(60.0, "going")).await;
            kept::until(&publisher, TASK, "running", 60).await;
            // Back, not a number: no change of the percentage.
            driver.ask(update(20.0, "back")).await;
            driver.ask(json!({ "do": "update" })).await;
            let end = driver.ask(json!({ "do": "fail", "message": "no space" })).await;
            assert_eq!(driver.ask(update(70.0, "late")).await["runs"], false, "{language:?}");
            assert_eq!(driver.ask(json!({ "do": "complete" })).await, end, "{language:?}");
            assert_eq!(driver.ask(json!({ "do": "fail", "message": "again" })).await, end, "{language:?}");
            // A second run begins anew, under another name.
            driver.ask(begin("import-7")).await;
            kept::until(&publisher, TASK, "running", 0).await;

            let messages = kept::all(&publisher, TASK).await;
            let found = states(&messages);
            let ends = owned(&[("failed", 60, "no space"), ("running", 0, "")]);
            let between = &found[2..found.len() - 2];
            assert_eq!(found[..2], owned(&[("running", 0, ""), ("running", 60, "going")]), "{language:?}");
            assert!(between.iter().all(|s| s == &owned(&[("running", 60, "back")])[0]), "{language:?}: {between:?}");
            assert_eq!(found[found.len() - 2..], ends, "{language:?}");
            let runs: Vec<_> = messages.iter().map(|m| m.json()["run"].clone()).collect();
            let (last, first) = runs.split_last().expect("several");
            assert!(first.iter().all(|run| run == &runs[0]) && last != &runs[0], "{language:?}: {runs:?}");
        }
    }

    async fn a_scope_ends_its_run(version: Version) {
        for language in Language::installed("a_scope_ends_its_run") {
            let (nats, publisher) = ready(version).await;
            let mut driver = Driver::start(language, &nats.url());
            let within = |task: &str, error: &str| {
                json!({ "do": "within", "user": "alice", "task": task, "error": error })
            };
            driver.ask(within("good", "")).await;
            let failed = driver.try_ask(within("bad", "disk full")).await;
            assert_eq!(failed["error"], "disk full", "{language:?}: the scope's own error comes back");
            for (task, end) in [("good", ("completed", 100, "within")), ("bad", ("failed", 30, "disk full"))] {
                let messages = kept::all(&publisher, &format!("events.user.alice.progress.{task}")).await;
                assert_eq!(states(&messages).last(), owned(&[end]).first(), "{language:?}");
                let ends = messages.iter().filter(|m| m.json()["state"] != "running").count();
                assert_eq!(ends, 1, "{language:?}");
            }
        }
    }

    async fn in_rust_a_run_that_is_dropped_is_abandoned(version: Version) {
        let (nats, publisher) = ready(version).await;
        let mut driver = Driver::start(Language::Rust, &nats.url());
        driver.ask(begin("import-7")).await;
        driver.ask(update(12.0, "begun")).await;
        driver.ask(json!({ "do": "drop" })).await;
        kept::until(&publisher, TASK, "failed", 12).await;
        assert_eq!(states(&kept::all(&publisher, TASK).await).last(), owned(&[("failed", 12, "abandoned")]).first());
    }

    async fn a_thousand_updates_are_few_messages_and_never_go_back(version: Version) {
        for language in Language::installed("a_thousand_updates_are_few_messages_and_never_go_back") {
            let (nats, publisher) = ready(version).await;
            let mut driver = Driver::start(language, &nats.url());
            driver.ask(begin("import-7")).await;
            driver.ask(json!({ "do": "storm" })).await;
            driver.ask(json!({ "do": "fail", "message": "enough" })).await;

            let messages = kept::all(&publisher, TASK).await;
            let percents: Vec<_> = states(&messages).into_iter().map(|(_, percent, _)| percent).collect();
            assert!(percents.is_sorted() && percents.last() == Some(&99), "{language:?}: {percents:?}");
            // A message waits for the acknowledgement of the last and then 100 ms; a timer of Node may be a millisecond
            // early.
            let times: Vec<_> = messages[..messages.len() - 1].iter().map(Kept::millis).collect();
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 95), "{language:?}: {times:?}");
            assert!(messages.len() > 2, "{language:?}: it was told while it ran");
        }
    }

    async fn nats_away_in_the_middle_does_not_lose_or_double_the_end(version: Version) {
        let languages = Language::installed("nats_away_in_the_middle_does_not_lose_or_double_the_end");
        let each = languages.into_iter().map(|language| away_in_the_middle(version, language));
        futures_util::future::join_all(each).await;
    }

    async fn an_end_whose_acknowledgement_is_lost_is_stored_once(version: Version) {
        for language in Language::installed("an_end_whose_acknowledgement_is_lost_is_stored_once") {
            let (nats, publisher) = ready(version).await;
            let proxy = Proxy::to(nats.address()).await;
            let mut driver = Driver::start(language, &format!("nats://{}", proxy.address));
            driver.ask(begin("import-7")).await;
            driver.ask(update(30.0, "")).await;
            kept::until(&publisher, TASK, "running", 30).await;
            // Acknowledgements come back as something else until the end is published for the second time. A plain
            // subscription hears also what the stream does not keep.
            let client = nats.client().await;
            let mut published = client.subscribe(TASK).await.expect("subscribed");
            support::nats::account(&async_nats::jetstream::new(client)).await.expect("the server has read it");
            proxy.replace(r#"{"stream":"#, r#"?"stream":"#);
            driver.tell(json!({ "do": "complete" })).await;
            let (first, second) = (next_end(&mut published).await, next_end(&mut published).await);
            proxy.replace("\0", "\0");
            assert_eq!((first.payload, first.headers), (second.payload, second.headers), "{language:?}");
            let end = driver.answer().await;
            assert_eq!(end["duplicate"], true, "{language:?}: {end}: it was published again");
            let messages = kept::all(&publisher, TASK).await;
            let ends = messages.iter().filter(|m| m.json()["state"] == "completed").count();
            assert_eq!((ends, states(&messages).last()), (1, owned(&[("completed", 100, "")]).first()), "{language:?}");
        }
    }

    async fn an_update_that_comes_after_the_end_is_refused_by_the_stream(version: Version) {
        for language in Language::installed("an_update_that_comes_after_the_end_is_refused_by_the_stream") {
            let (nats, publisher) = ready(version).await;
            let mut driver = Driver::start(language, &nats.url());
            driver.ask(begin("import-7")).await;
            kept::until(&publisher, TASK, "running", 0).await;
            driver.ask(update(30.0, "")).await;
            kept::until(&publisher, TASK, "running", 30).await;
            driver.ask(json!({ "do": "complete" })).await;
            // The same message once more, as from a connection that broke and was read late.
            let late = &kept::all(&publisher, TASK).await[1];
            let mut headers = async_nats::HeaderMap::new();
            late.headers.iter().for_each(|(name, value)| headers.insert(name.as_str(), value.as_str()));
            let sent = publisher.jetstream().publish_with_headers(TASK, headers, late.data.clone().into()).await;
            let refused = sent.expect("NATS takes it").await.expect_err("the stream refuses it");
            let wrong = async_nats::jetstream::context::PublishErrorKind::WrongLastSequence;
            assert_eq!(refused.kind(), wrong, "{language:?}");
            let last = kept::last(&publisher, TASK).await.expect("kept");
            assert_eq!(last.json()["state"], "completed", "{language:?}");
        }
    }

    /// A copy of each, whatever became of it, comes late: the stream has none of them behind the end.
    async fn no_copy_of_an_update_is_stored_after_the_end(version: Version) {
        for language in Language::installed("no_copy_of_an_update_is_stored_after_the_end") {
            let (nats, publisher) = ready(version).await;
            let proxy = Proxy::to(nats.address()).await;
            let mut driver = Driver::start(language, &format!("nats://{}", proxy.address));
            let client = nats.client().await;
            let mut published = client.subscribe(TASK).await.expect("subscribed");
            support::nats::account(&async_nats::jetstream::new(client)).await.expect("the server has read it");
            let mut copies = Vec::new();
            // Of the second run, the first update finds the first run's end.
            for _ in 0..2 {
                driver.ask(begin("import-7")).await;
                kept::until(&publisher, TASK, "running", 0).await;
                // Stored, and not acknowledged: the publisher cannot know that.
                proxy.replace(r#"{"stream":"#, r#"?"stream":"#);
                driver.ask(update(30.0, "")).await;
                let mut again = 0;
                while again < 3 {
                    copies.push(next(&mut published).await);
                    again += usize::from(copies.last().is_some_and(|copy| says(copy, r#""percent":30"#)));
                }
                proxy.replace("\0", "\0");
                driver.ask(json!({ "do": "complete" })).await;
                while copies.last().is_none_or(|copy| !says(copy, r#""state":"completed""#)) {
                    copies.push(next(&mut published).await);
                }
            }
            let before = kept::all(&publisher, TASK).await;
            for copy in copies {
                let headers = copy.headers.expect("all have some");
                let sent = publisher.jetstream().publish_with_headers(TASK, headers, copy.payload).await;
                // Updates are refused, ends are known.
                let _ = sent.expect("NATS takes it").await;
            }
            assert_eq!(states(&kept::all(&publisher, TASK).await), states(&before), "{language:?}");
        }
    }

    async fn what_goes_wrong_is_told_and_nothing_is_sent(version: Version) {
        for language in Language::installed("what_goes_wrong_is_told_and_nothing_is_sent") {
            let (nats, publisher) = ready(version).await;
            let mut driver = Driver::start(language, &nats.url());
            for refused in [
                begin("two.tokens"),
                begin(""),
                json!({ "do": "begin", "user": "a.b", "task": "import-7" }),
                json!({ "do": "notify", "user": "alice", "event": "sidestream.gap", "data": 1 }),
                json!({ "do": "notify", "user": "alice", "event": "note", "data": 1, "id": "" }),
                json!({ "do": "broadcast", "event": "note", "data": 1, "id": "a\r\nSse-Event: b" }),
            ] {
                let answer = driver.try_ask(refused.clone()).await;
                assert!(answer["error"].is_string(), "{language:?}: {refused}: {answer}");
            }
            assert!(kept::everything(&publisher).await.is_empty(), "{language:?}");

            // A message is cut at 1000 characters, not in the middle of one.
            driver.ask(begin("import-7")).await;
            driver.ask(json!({ "do": "fail", "message": "🦀".repeat(1001) })).await;
            let last = kept::last(&publisher, TASK).await.expect("kept");
            assert_eq!(last.json()["message"], "🦀".repeat(1000), "{language:?}");

            // No stream has these subjects: updates do not mind, the end says so.
            driver.ask(json!({ "do": "configure", "prefix": "nowhere", "encoding": "refuse", "patience": 0 })).await;
            driver.ask(begin("import-7")).await;
            assert_eq!(driver.ask(update(10.0, "")).await["runs"], true, "{language:?}");
            let answer = driver.try_ask(json!({ "do": "complete" })).await;
            assert!(answer["error"].is_string(), "{language:?}: {answer}");
        }
    }

    async fn a_page_that_is_opened_late_sees_how_each_task_stands(version: Version) {
        for language in Language::installed("a_page_that_is_opened_late_sees_how_each_task_stands") {
            let (nats, publisher) = ready(version).await;
            let app = App::start(&Config::on(&nats).tables("last_value = true\n")).await;
            let mut driver = Driver::start(language, &nats.url());
            let fail = json!({ "do": "fail", "message": "why" });
            for (task, end) in [("done", json!({ "do": "complete" })), ("bad", fail)] {
                driver.ask(begin(task)).await;
                driver.ask(update(40.0, "going")).await;
                driver.ask(end).await;
            }
            driver.ask(begin("import-7")).await;
            driver.ask(update(70.0, "going")).await;
            kept::until(&publisher, TASK, "running", 70).await;

            let mut late = app.events("alice").await;
            let told = late.until_named("sidestream.synced", DEADLINE).await;
            let (_, values) = told.split_last().expect("at least the marker");
            let stands = |event: &support::Event| {
                let payload = support::json(event);
                ["task", "state", "percent"].map(|key| payload[key].clone())
            };
            let mut found: Vec<_> = values.iter().map(stands).collect();
            found.sort_by_key(|stands| stands[0].to_string());
            let wanted = [("bad", "failed", 40), ("done", "completed", 100), ("import-7", "running", 70)];
            assert_eq!(json!(found), json!(wanted), "{language:?}");
            // And then what follows, live.
            driver.ask(json!({ "do": "complete" })).await;
            let end = late.event().await;
            assert_eq!(end.name, "progress", "{language:?}");
            assert_eq!(support::json(&end)["state"], "completed", "{language:?}");
        }
    }
}
