//! Everything that happens while NATS and the sidecar stand: events, gaps, cuts, goodbyes, and an answer that is final.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Line;
use crate::crowd::Crowd;
use crate::front::Way;
use crate::roster::{Form, Situation};
use crate::support::{App, Config, DEADLINE, Nats, Version, bounded};

/// What opens the admin listener.
pub const TOKEN: &str = "third-party-tests";

/// Short heartbeats, a low limit for events, subjects without ids, and identities that end.
pub fn config(nats: &Nats, token_file: &std::path::Path) -> Config {
    let mut config = Config::on(nats).heartbeat("1s").admin(&format!("token_file = {token_file:?}\n"));
    config.identity = "expires_header = \"X-Auth-Expires\"\n".to_owned();
    config.limits.insert("event_bytes", "\"512KiB\"".to_owned());
    config.tables = r#"
[[route]]
path = "/events"
stream = "EVENTS"
subjects = ["events.user.{user}.>", "events.broadcast.>"]
live_subjects = ["live.>"]
audience = "user"
"#
    .to_owned();
    config
}

/// A file with the token that lets kick.
pub fn token_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), TOKEN).expect("written");
    file
}

#[tokio::test]
async fn every_client_receives_resumes_and_survives_what_we_send() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let test = "every_client_receives_resumes_and_survives_what_we_send";
        let Some(mut crowd) = Crowd::new(test, &nats, Way::Astray("elsewhere")).await else { return };
        let token = token_file();
        let app = App::start(&config(&nats, token.path())).await;
        crowd.front.leads_to(app.address());

        a_foreign_cursor_is_a_gap(&mut crowd).await;
        events_arrive(&mut crowd).await;
        a_cut_loses_nothing(&mut crowd).await;
        what_cannot_be_sent_is_a_gap(&mut crowd).await;
        a_goodbye_is_no_end(&mut crowd, &app).await;
        a_final_answer(&mut crowd).await;
    })
    .await;
}

/// On a route with `last_value`: how things stand, then `sidestream.synced`, then the news.
#[tokio::test]
async fn every_client_sees_how_things_stand_before_the_news() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let test = "every_client_sees_how_things_stand_before_the_news";
        let Some(mut crowd) = Crowd::new(test, &nats, Way::Through).await else { return };
        let app = App::start(&Config::on(&nats).tables("last_value = true\n")).await;
        crowd.front.leads_to(app.address());
        // Of each subject the last: the first of all is for nobody.
        crowd.publish_for_nobody(b"no longer so").await;
        crowd.publish_to("events.broadcast.y", "note", "how y stands").await;
        crowd.publish("note", "how x stands").await;
        crowd.start();
        let start = crowd.mark();
        crowd.told(&start, "sidestream.synced", json!({})).await;
        crowd.publish("note", "news of x").await;
        crowd.have_all().await;
        for (client, lines) in crowd.since(&start) {
            let said: Vec<_> = lines.iter().filter_map(|line| Some((line.name()?, line.data()))).collect();
            let wanted = [("note", "how y stands"), ("note", "how x stands"), ("sidestream.synced", "{}")];
            assert_eq!(said[0].0, "sidestream.connected", "{}: {said:?}", client.who.user());
            assert_eq!(said[1..4], wanted, "{}: {said:?}", client.who.user());
            assert_eq!(said[4], ("note", "news of x"), "{}: {said:?}", client.who.user());
        }
    })
    .await;
}

async fn a_foreign_cursor_is_a_gap(crowd: &mut Crowd) {
    crowd.start();
    let start = crowd.mark();
    crowd.told(&start, "sidestream.connected", json!({ "resume": "gap" })).await;
    crowd.told(&start, "sidestream.gap", json!({ "reason": "cursor_unknown" })).await;
    crowd.front.goes(Way::Through);
}

async fn events_arrive(crowd: &mut Crowd) {
    let start = crowd.mark();
    let long = "0123456789abcdef".repeat(300 * 1024 / 16);
    for (name, data) in [
        ("note", "{\"text\":\"hello\"}"),
        ("message", "plain"),
        ("note", "three\n  lines, indented\n: and no comment"),
        ("größe", "🦀 é 𝄞 \u{2028} €"),
        ("note", &*long),
    ] {
        crowd.publish(name, data).await;
    }
    crowd.have_all().await;
    for (client, lines) in crowd.since(&start) {
        let in_pieces = lines.iter().any(Line::is_nothing);
        assert_eq!(in_pieces, client.who.phantoms.contains(&Form::Piece), "{}", client.who.user());
    }
    // Two for everybody: one of them at least with nothing else before it.
    crowd.told(&start, "sidestream.heartbeat", json!({})).await;
    let quiet = crowd.mark();
    crowd.told(&quiet, "sidestream.heartbeat", json!({})).await;
    crowd.publish("marker", "behind heartbeats").await;
    crowd.have_all().await;
}

async fn a_cut_loses_nothing(crowd: &mut Crowd) {
    let cut = crowd.mark();
    crowd.front.goes(Way::Barred);
    crowd.front.cut();
    for number in 1..=3 {
        crowd.publish("note", &format!("missed {number}")).await;
    }
    crowd.front.goes(Way::Through);
    crowd.told(&cut, "sidestream.connected", json!({ "resume": "exact" })).await;
    crowd.have_all().await;
    crowd.gave_up(&cut, Situation::Cut, false);
}

async fn what_cannot_be_sent_is_a_gap(crowd: &mut Crowd) {
    let start = crowd.mark();
    crowd.publish_for_nobody(&vec![b'x'; 600 * 1024]).await;
    crowd.publish_for_nobody(b"not UTF-8: \xff").await;
    crowd.publish("marker", "behind what cannot be sent").await;
    crowd.told(&start, "sidestream.gap", json!({ "reason": "oversize" })).await;
    crowd.told(&start, "sidestream.gap", json!({ "reason": "undecodable" })).await;
    crowd.have_all().await;
}

/// Kicked, and back with an identity that soon ends.
async fn a_goodbye_is_no_end(crowd: &mut Crowd, app: &App) {
    let kicked = crowd.mark();
    crowd.front.goes(Way::Briefly(Duration::from_secs(3)));
    // Those that were cut are gone by now.
    app.metric_is("sidestream_connections", &[], crowd.len() as f64, DEADLINE).await;
    let listed: Value =
        serde_json::from_str(&app.admin_ask("GET", "/connections", Some(TOKEN)).await.text()).expect("JSON");
    let connections = listed["connections"].as_array().expect("a list");
    assert_eq!(connections.len(), crowd.len(), "{listed}");
    for connection in connections {
        let id = connection["connection"].as_str().expect("an id");
        assert_eq!(app.admin_ask("POST", &format!("/kick/{id}"), Some(TOKEN)).await.head.status, 200);
    }
    crowd.told(&kicked, "sidestream.bye", json!({ "code": "kicked" })).await;
    crowd.publish("note", "behind a kick").await;
    crowd.told(&kicked, "sidestream.connected", json!({ "resume": "exact" })).await;
    crowd.front.goes(Way::Through);
    crowd.told(&kicked, "sidestream.bye", json!({ "code": "expired" })).await;
    crowd.publish("note", "behind an end of identity").await;
    crowd.have_all().await;
    crowd.connected(&kicked, 2).await;
    crowd.gave_up(&kicked, Situation::Close, false);
}

/// 401, as after a session's end: who stays away, and who asks again and again.
async fn a_final_answer(crowd: &mut Crowd) {
    let (cut, attempts) = (crowd.mark(), crowd.front.attempts(<[_]>::len));
    crowd.front.goes(Way::Anonymous);
    crowd.front.cut();
    crowd.asked(attempts, 2).await;
    crowd.front.goes(Way::Through);
    crowd.connected(&cut, 1).await;
    crowd.gave_up(&cut, Situation::Final, true);
}
