//! An event passes a proxy at once, each time: none waits for the next one, for a buffer to fill, or for an acknowledgement.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::attempt::{Attempt, HOST};
use crate::front::{Front, Setup};
use crate::kind::{Kind, SHIPPED};
use crate::session::Session;
use crate::support::{Sse, Wire, bounded, get};

/// Events, one published when the one before has come. A busy machine makes some of them late, and not all.
const EVENTS: usize = 20;
/// What a proxy waits that gathers what it sends: Linux delivers what is held back after 200 ms at the latest.
const HELD_BACK: Duration = Duration::from_millis(150);

#[tokio::test]
async fn no_shipped_proxy_holds_an_event_back() {
    bounded(async {
        let quickest = join_all(SHIPPED.map(|kind| Box::pin(quickest(kind)))).await;
        for (kind, quickest) in SHIPPED.iter().zip(quickest) {
            assert!(
                quickest.is_none_or(|quickest| quickest < HELD_BACK),
                "{kind:?} holds every event back: {quickest:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_haproxy_that_gathers_is_noticed() {
    bounded(async {
        let quickest = async |kind| {
            let front = Front::start("delays", kind, Setup::default()).await?;
            let cookie = kind.cookie(&Session::Alice, &front.issuer).expect("alice has one");
            let request =
                get("/events").without("Host").header("Host", HOST).header("Cookie", format!("session={cookie}"));
            let mut sse = Sse::open(Wire::tcp(&front.edge.address.to_string()).await, &request).await;
            Some(quickest_of(&front, async |data| assert_eq!(sse.event().await.data, data)).await)
        };
        let Some(gathering) = quickest(Kind::HaproxyGathering).await else { return };
        assert!(gathering >= HELD_BACK, "without `option http-no-delay` an event took {gathering:?} only");
        let plain = quickest(Kind::HaproxyPlain).await.expect("HAProxy is here");
        assert!(plain < HELD_BACK, "with it every event took {plain:?} and more");
    })
    .await;
}

/// What the quickest of the events took behind a proxy, by HTTP/1.1 over TLS.
async fn quickest(kind: Kind) -> Option<Duration> {
    let front = Front::start("delays", kind, Setup::default()).await?;
    let mut tap = front.stream(&Attempt::honest()).await;
    Some(quickest_of(&front, async |data| drop(tap.until(&data).await)).await)
}

/// The same for any client.
async fn quickest_of(front: &Front, mut hears: impl AsyncFnMut(String)) -> Duration {
    let publisher = front.nats.publisher().await;
    let mut quickest = Duration::MAX;
    for number in 0..EVENTS {
        let data = format!("event-{number}-");
        let published = Instant::now();
        publisher.publish("events.user.alice.note", &data).await;
        hears(data).await;
        quickest = quickest.min(published.elapsed());
    }
    quickest
}
