//! A network that is away, that is dead without a word, and a reader that does not keep up: nothing is lost or doubled.

use serde_json::{Value, json};

use crate::browser::{Browser, Kind};
use crate::page::{Page, both};
use crate::site::Site;
use crate::support::{DEADLINE, bounded};

#[tokio::test]
async fn offline_in_chromium() {
    bounded(offline(Kind::Chromium)).await;
}

#[tokio::test]
async fn offline_in_firefox() {
    bounded(offline(Kind::Firefox)).await;
}

/// Connections end at once, and come back at once.
async fn offline(kind: Kind) {
    let Some(mut site) = Site::start("offline", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    // Waits are so long that only the network's return can end them in time.
    let pages = both(&browser, &site, json!({ "backoff": { "min": 3_600_000, "max": 3_600_000 } })).await;
    site.publish(2).await;
    for page in &pages {
        page.hears(&site.published).await;
    }
    browser.offline("alice", true).await;
    for page in &pages {
        let report = page.is("waiting").await;
        assert_eq!(report.status["reason"]["type"], "offline");
    }
    site.app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
    site.publish(3).await;
    browser.offline("alice", false).await;
    for page in &pages {
        let report = page.hears(&site.published).await;
        assert_eq!(report.resumes(), ["new", "exact"]);
    }
    browser.close().await;
}

#[tokio::test]
async fn half_open_in_chromium() {
    bounded(half_open(Kind::Chromium)).await;
}

#[tokio::test]
async fn half_open_in_firefox() {
    bounded(half_open(Kind::Firefox)).await;
}

/// Nothing is closed, and nothing comes any more.
async fn half_open(kind: Kind) {
    let Some(mut site) = Site::start("a half-open connection", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    let pages = both(&browser, &site, json!({})).await;
    site.publish(2).await;
    for page in &pages {
        page.hears(&site.published).await;
    }
    site.network.stall();
    site.publish(2).await;
    for page in &pages {
        page.until("the silence is noticed", |report| report.faults().contains(&"timeout")).await;
    }
    site.network.release();
    site.publish(1).await;
    for page in &pages {
        let report = page.hears(&site.published).await;
        assert_eq!(report.of("gap"), Vec::<&Value>::new(), "nothing was lost");
    }
    browser.close().await;
}

#[tokio::test]
async fn evicted_in_chromium() {
    bounded(evicted(Kind::Chromium)).await;
}

#[tokio::test]
async fn evicted_in_firefox() {
    bounded(evicted(Kind::Firefox)).await;
}

/// The server ends what does not read; the client comes back for the rest.
async fn evicted(kind: Kind) {
    let slow = |config: crate::support::Config| config.limit("queue_bytes", "\"64KiB\"");
    let Some(mut site) = Site::start("a slow reader", slow).await else { return };
    let browser = Browser::start(kind).await;
    let pages = both(&browser, &site, json!({ "heartbeatTimeout": 0 })).await;
    site.network.stall();
    let reason = [("reason", "slow")];
    for _ in 0..100 {
        site.publish_long(20, 32 * 1024).await;
        if site.app.metric("sidestream_connections_closed_total", &reason).await > 1.5 {
            break;
        }
    }
    site.app.metric_is("sidestream_connections_closed_total", &reason, 2.0, DEADLINE).await;
    site.network.release();
    site.publish(1).await;
    for page in &pages {
        let report = page.hears(&site.published).await;
        assert_eq!(report.of("gap"), Vec::<&Value>::new(), "nothing was lost");
        assert!(report.resumes().len() > 1, "it was never away: {:?}", report.told);
    }
    browser.close().await;
}

#[tokio::test]
async fn a_full_house_is_tried_again_in_chromium() {
    bounded(full(Kind::Chromium)).await;
}

#[tokio::test]
async fn a_full_house_is_tried_again_in_firefox() {
    bounded(full(Kind::Firefox)).await;
}

/// A soft refusal is 200, and an `open` to a native EventSource; to the client it is none.
async fn full(kind: Kind) {
    let two = |config: crate::support::Config| config.limit("connections_per_user", "2");
    let Some(mut site) = Site::start("a full house", two).await else { return };
    let browser = Browser::start(kind).await;
    let inside = both(&browser, &site, json!({})).await;
    let mut outside = Vec::new();
    for transport in ["eventsource", "fetch"] {
        let page = Page::open(&browser, transport, "outside", "/events", json!({ "transport": transport })).await;
        let report = page.until("it is refused twice", |report| report.faults().len() > 1).await;
        assert!(report.of("state").iter().all(|state| state["state"] != "open"), "{report:?}");
        assert_eq!(report.resumes(), Vec::<&str>::new());
        outside.push((transport, page, report));
    }
    let refused = &outside[1].2.of("fault")[0]["reason"];
    assert_eq!((&refused["type"], &refused["status"]), (&json!("refused"), &json!(200)), "fetch sees why");
    for page in &inside {
        page.close().await;
    }
    for (_, page, _) in &outside {
        page.is("open").await;
    }
    site.publish(2).await;
    for (_, page, _) in &outside {
        page.hears(&site.published).await;
    }
    browser.close().await;
}
