//! Everything that happens when NATS goes, and the sidecar with a goodbye: outages, drain, soft refusals, a purge, and silence.

use std::path::Path;

use serde_json::json;

use crate::crowd::Crowd;
use crate::front::Way;
use crate::stories::{config, token_file};
use crate::support::{App, DEADLINE, Nats, Version, bounded, eventually};

#[tokio::test]
async fn every_client_comes_back_after_outages() {
    bounded(async {
        let mut nats = Nats::start(Version::Current).await;
        // A cursor of another stream's life.
        let astray = Way::Astray("1234567.1.1");
        let Some(mut crowd) = Crowd::new("every_client_comes_back_after_outages", &nats, astray).await else { return };
        let token = token_file();
        let app = App::start(&config(&nats, token.path())).await;
        crowd.front.leads_to(app.address());
        crowd.start();
        let start = crowd.mark();
        crowd.told(&start, "sidestream.gap", json!({ "reason": "reset" })).await;
        crowd.front.goes(Way::Through);
        crowd.publish("note", "before everything").await;
        crowd.have_all().await;

        nats_goes_and_returns(&mut crowd, &mut nats).await;
        the_sidecar_drains(&mut crowd, app).await;
        let app = nobody_is_let_in_before_nats_is_seen(&mut crowd, &mut nats, token.path()).await;
        comments_are_not_events(&mut crowd, &app).await;
        an_event_without_id_is_not_the_last_one(&mut crowd).await;
    })
    .await;
}

async fn nats_goes_and_returns(crowd: &mut Crowd, nats: &mut Nats) {
    let outage = crowd.mark();
    nats.kill();
    crowd.told(&outage, "sidestream.degraded", json!({})).await;
    nats.restart().await;
    crowd.told(&outage, "sidestream.ok", json!({})).await;
    crowd.told(&outage, "sidestream.gap", json!({ "reason": "upstream" })).await;
    crowd.publish("note", "behind an outage").await;
    crowd.have_all().await;
}

/// SIGTERM: everybody is told, comes back, and finds nobody.
async fn the_sidecar_drains(crowd: &mut Crowd, mut app: App) {
    let drain = crowd.mark();
    app.terminate();
    crowd.told(&drain, "sidestream.bye", json!({ "code": "drain" })).await;
    app.exit(DEADLINE).await;
    let attempts = crowd.front.attempts(<[_]>::len);
    crowd.asked(attempts, 1).await;
}

/// A new sidecar, whose NATS is not there: it says when to come back. Nobody takes that for an event, and everybody does come back.
/// Of what was published meanwhile, a part was purged.
async fn nobody_is_let_in_before_nats_is_seen(crowd: &mut Crowd, nats: &mut Nats, token: &Path) -> App {
    for _ in 0..2 {
        crowd.publish_for_nobody(b"purged").await;
    }
    let stream = nats.jetstream().await.get_stream("EVENTS").await.expect("the stream");
    stream.purge().await.expect("purged");
    for number in 1..=2 {
        crowd.publish("note", &format!("behind a purge {number}")).await;
    }
    nats.kill();
    let mut config = config(nats, token);
    // The text goes on in `[heartbeat]`.
    config.tables.insert_str(0, "event = false\n");
    let refused = crowd.mark();
    let app = App::bound(&config).await;
    let attempts = crowd.front.attempts(<[_]>::len);
    crowd.front.leads_to(app.address());
    crowd.refused(attempts, "nats").await;
    nats.restart().await;
    crowd.told(&refused, "sidestream.connected", json!({ "resume": "gap" })).await;
    crowd.told(&refused, "sidestream.gap", json!({ "reason": "purged" })).await;
    crowd.have_all().await;
    app
}

/// Heartbeats as comments: the sidecar has written them, and no client has said a word.
async fn comments_are_not_events(crowd: &mut Crowd, app: &App) {
    let start = crowd.mark();
    let sent = app.metric("sidestream_heartbeats_sent_total", &[]).await;
    let enough = sent + 3.0 * crowd.len() as f64;
    eventually("heartbeats", DEADLINE, async || {
        (app.metric("sidestream_heartbeats_sent_total", &[]).await >= enough).then_some(())
    })
    .await;
    crowd.publish("marker", "behind comments").await;
    crowd.have_all().await;
    for (client, lines) in crowd.since(&start) {
        let lines: Vec<_> = client.events(&lines).collect();
        assert_eq!(lines.len(), 1, "{}: {lines:.200?}", client.who.user());
    }
}

/// Between heartbeats that are events an id would soon be back; here is none, and everybody remembers the last one all the same.
async fn an_event_without_id_is_not_the_last_one(crowd: &mut Crowd) {
    crowd.publish_live("of no stream").await;
    crowd.have_all().await;
    let cut = crowd.mark();
    crowd.front.goes(Way::Barred);
    crowd.front.cut();
    crowd.publish("note", "missed behind an event without id").await;
    crowd.front.goes(Way::Through);
    crowd.told(&cut, "sidestream.connected", json!({ "resume": "exact" })).await;
    crowd.have_all().await;
}
