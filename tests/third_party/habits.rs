//! A sidecar that is killed, limits of a stream, streams that grow old; and two things that sidestream does not do, with the reason why
//! it does not.

use std::path::Path;

use serde_json::json;

use crate::crowd::Crowd;
use crate::front::Way;
use crate::roster::{Form, Situation};
use crate::stories::{config, token_file};
use crate::support::{App, Nats, Version, bounded};

#[tokio::test]
async fn every_client_finds_a_new_sidecar() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let Some(mut crowd) = Crowd::new("every_client_finds_a_new_sidecar", &nats, Way::Through).await else { return };
        let token = token_file();
        let app = App::start(&config(&nats, token.path())).await;
        crowd.front.leads_to(app.address());
        crowd.start();
        let start = crowd.mark();
        crowd.told(&start, "sidestream.connected", json!({ "resume": "new" })).await;

        let _app = limits_of_the_stream_are_a_gap(&mut crowd, &nats, app, token.path()).await;
        age_is_no_end(&mut crowd).await;
        forms_that_some_take_for_events(&mut crowd).await;
        no_content(&mut crowd).await;
    })
    .await;
}

/// The sidecar is killed, nobody is found for a while, and of what was published meanwhile the stream keeps the last two.
async fn limits_of_the_stream_are_a_gap(crowd: &mut Crowd, nats: &Nats, mut app: App, token: &Path) -> App {
    let (killed, attempts) = (crowd.mark(), crowd.front.attempts(<[_]>::len));
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
    let (cut, attempts) = (crowd.mark(), crowd.front.attempts(<[_]>::len));
    crowd.front.goes(Way::Canned("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned()));
    crowd.front.cut();
    crowd.asked(attempts, 2).await;
    crowd.front.goes(Way::Through);
    crowd.connected(&cut, 1).await;
    crowd.gave_up(&cut, Situation::NoContent, true);
}
