//! What a browser is told while sidestream, or the application, is away: come back. A native `EventSource` never does after any
//! answer other than 200.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;

use crate::attempt::Attempt;
use crate::front::{Front, Setup};
use crate::kind::{Kind, SHIPPED};
use crate::streams::is_retry;
use crate::support::bounded;
use crate::tap::Reply;

#[tokio::test]
async fn a_browser_comes_back_whatever_was_away() {
    bounded(async {
        join_all(SHIPPED.map(|kind| Box::pin(comes_back(kind)))).await;
    })
    .await;
}

async fn comes_back(kind: Kind) {
    let Some(mut front) = Front::start("outages", kind, Setup::default()).await else { return };
    let publisher = front.nats.publisher().await;
    let mut stream = front.stream(&Attempt::honest()).await;
    publisher.publish("events.user.alice.note", "before").await;
    stream.until("before").await;
    front.app.kill();
    stream.rest(Duration::from_secs(5)).await;
    assert!(stream.has_ended(), "{kind:?}: the stream outlives its sidecar");

    retries(&front, "sidestream is killed").await;
    let api = Attempt::honest().without("Accept").line("Accept", "application/json");
    let (reply, _) = front.attempt(&api).await;
    assert!(matches!(reply, Reply::Answer(502..=504, _)), "{kind:?}, not a browser: {reply:?}");

    publisher.publish("events.user.alice.note", "meanwhile").await;
    front.restart().await;
    let resumed = Attempt::honest().line("Last-Event-ID", stream.last_event_id());
    let body = front.stream(&resumed).await.until("meanwhile").await;
    assert!(body.contains(r#""resume":"exact""#) && !body.contains("before"), "{kind:?}: {body}");

    if kind.asks().is_some() {
        for status in [500, 502, 503, 504, 429] {
            front.application.fail(status);
            retries(&front, &format!("the application answers {status}")).await;
        }
    }
    front.application.stop().await;
    if kind.asks().is_none() {
        // It has the key, and asks nobody.
        front.stream(&Attempt::honest()).await;
    } else {
        retries(&front, "the application is away").await;
    }
}

/// Every attempt is told to come back, and not all at the same time.
async fn retries(front: &Front, what: &str) {
    let kind = front.kind;
    let mut times = BTreeSet::new();
    for attempt in std::iter::repeat_n([Attempt::honest(), Attempt::honest().h2()], 12).flatten() {
        let (reply, tap) = front.attempt(&attempt).await;
        let Reply::Answer(200, body) = &reply else { panic!("{kind:?}, {what}: {reply:?}") };
        assert!(is_retry(body), "{kind:?}, {what}: {body:?}");
        times.insert(body.clone());
        if !attempt.h2 {
            let head = tap.head().to_ascii_lowercase();
            for line in ["content-type: text/event-stream", "cache-control: no-store"] {
                assert!(head.contains(&format!("\r\n{line}")), "{kind:?}, {what}: {head}");
            }
        }
    }
    // 24 of them alike by chance: once in eight million runs where there are two times.
    assert!(times.len() > 1, "{kind:?}, {what}: all come back after {times:?}");
}
