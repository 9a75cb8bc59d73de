//! Everything that happens when NATS or the sidecar goes: outages, drain, soft refusals, age, purges and limits of the stream. And at
//! the end two things that sidestream does not do, with the reason why it does not.

use std::path::Path;

use serde_json::json;

use crate::crowd::Crowd;
use crate::front::Way;
use crate::roster::{Form, Situation};
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
        let _app = limits_of_the_stream_are_a_gap(&mut crowd, &nats, app, token.path()).await;
        age_is_no_end(&mut crowd).await;
        forms_that_some_take_for_events(&mut crowd).await;
        no_content(&mut crowd).await;
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
    let attempts = crowd.front.attempts().len();
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
    let attempts = crowd.front.attempts().len();
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

/// The sidecar is killed, nobody is found for a while, and of what was published meanwhile the stream keeps the last two.
async fn limits_of_the_stream_are_a_gap(crowd: &mut Crowd, nats: &Nats, mut app: App, token: &Path) -> App {
    let (killed, attempts) = (crowd.mark(), crowd.front.attempts().len());
    crowd.front.goes(Way::Nowhere);
    crowd.front.cut();
    app.kill();
    crowd.asked(attempts, 2).await;
    for _ in 0..5 {
        crowd.publish_for_nobody(b"too old").await;
    }
    for number in 1..=2 {
        crowd.publish("note", &format!("kept {number}")).await;
    }
    let jetstream = nats.jetstream().await;
    let mut limited = jetstream.get_stream("EVENTS").await.expect("the stream").cached_info().config.clone();
    limited.max_messages = 2;
    jetstream.update_stream(limited).await.expect("the stream takes limits");
    let app = App::start(&config(nats, token).server("max_age = \"4s\"\n")).await;
    crowd.front.leads_to(app.address());
    crowd.front.goes(Way::Through);
    crowd.told(&killed, "sidestream.gap", json!({ "reason": "retention" })).await;
    crowd.have_all().await;
    crowd.gave_up(&killed, Situation::Down, true);
    app
}

async fn age_is_no_end(crowd: &mut Crowd) {
    let start = crowd.mark();
    crowd.told(&start, "sidestream.bye", json!({ "code": "age" })).await;
    crowd.publish("note", "behind an end by age").await;
    crowd.connected(&start, 1).await;
    crowd.have_all().await;
}

/// Each form, and behind it an event that names it.
const FORMS: &str = "event: marker\nid: 1.1.1\ndata: start\n\n\
    : a comment\n\nevent: marker\ndata: comment\n\n\
    retry: 1000\n\nevent: marker\ndata: retry\n\n\
    id: 1.2.1\n\nevent: marker\ndata: id\n\n";

/// Why a heartbeat is one line without a blank one, and why `retry:` and ids ride on events that have data.
async fn forms_that_some_take_for_events(crowd: &mut Crowd) {
    let start = crowd.mark();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    crowd.front.goes(Way::Canned(format!("{head}{:x}\r\n{FORMS}\r\n", FORMS.len())));
    crowd.front.cut();
    let forms = [(Form::Comment, "start", "comment"), (Form::Retry, "comment", "retry"), (Form::Id, "retry", "id")];
    crowd.said(&start, "marker", "id").await;
    for (client, lines) in crowd.since(&start) {
        let at = |marker: &str| {
            lines.iter().position(|line| line.name() == Some("marker") && line.data() == marker).expect("a marker")
        };
        let seen: Vec<_> = forms.iter().filter(|(_, from, to)| at(to) > at(from) + 1).map(|(form, ..)| *form).collect();
        let listed: Vec<_> = client.who.phantoms.iter().copied().filter(|form| *form != Form::Piece).collect();
        assert_eq!(seen, listed, "{}: {lines:.200?}", client.who.user());
    }
}

/// The standard's word for "stay away", which not everybody hears: sidestream never says it.
async fn no_content(crowd: &mut Crowd) {
    let (cut, attempts) = (crowd.mark(), crowd.front.attempts().len());
    crowd.front.goes(Way::Canned("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned()));
    crowd.front.cut();
    crowd.asked(attempts, 2).await;
    crowd.front.goes(Way::Through);
    crowd.connected(&cut, 1).await;
    crowd.gave_up(&cut, Situation::NoContent, true);
}
