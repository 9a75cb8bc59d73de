//! The stream in `conf/streams/events.json`, made as `nats stream add --config` makes it, is one that is served from, and resumed
//! from, on both servers; with three replicas as well, which is one number.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::cluster::Cluster;
use support::{App, Config, Nats, Publisher, Version, get, on_both_servers};

fn definition() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/streams/events.json");
    serde_json::from_slice(&std::fs::read(file).expect("a file of conf/")).expect("JSON")
}

/// Makes the stream from the definition as it is, and sees that the server understood all of it.
async fn created(publisher: &Publisher, definition: &Value) {
    let name = definition["name"].as_str().expect("a name");
    let answer: Value =
        publisher.jetstream().request(format!("STREAM.CREATE.{name}"), definition).await.expect("an answer");
    assert!(answer.get("error").is_none(), "{answer}");
    for (key, value) in definition.as_object().expect("an object") {
        // What is false is left out of the answer by old servers.
        let told = answer["config"].get(key).unwrap_or(&Value::Bool(false));
        assert_eq!(told, value, "{key} of {answer}");
    }
}

/// An event that is heard, and one that is heard after a cut.
async fn serves(app: &App, publisher: &Publisher) {
    let mut sse = app.events("alice").await;
    publisher.publish("events.user.alice.note", "live").await;
    let live = sse.event().await;
    assert_eq!(live.data, "live");
    drop(sse);
    publisher.publish("events.user.alice.note", "missed").await;
    let cursor = live.id.expect("an id");
    let mut again = app.stream(get("/events").user("alice").header("Last-Event-ID", cursor)).await;
    assert_eq!(again.resume(), "exact");
    assert_eq!(again.event().await.data, "missed");
}

on_both_servers! {
    async fn the_definition_is_served_from(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.publisher().await;
        created(&publisher, &definition()).await;
        serves(&App::start(&Config::on(&nats)).await, &publisher).await;
    }
}

#[tokio::test]
async fn three_replicas_are_one_number() {
    support::bounded(async {
        let cluster = Cluster::start(Version::Current).await;
        let publisher = Publisher::over(cluster.jetstream().await);
        let mut definition = definition();
        definition["num_replicas"] = json!(3);
        // The servers of the test have less.
        definition["max_bytes"] = json!(64 << 20);
        created(&publisher, &definition).await;
        serves(&App::start(&Config::at_any(&cluster.urls())).await, &publisher).await;
    })
    .await;
}
