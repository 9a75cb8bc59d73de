//! How streams end for good, each with its reason, by both transports; and what is said of events that are gone.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::browser::{Browser, Kind};
use crate::page::{Page, TRANSPORTS, both};
use crate::site::Site;
use crate::support::bounded;

#[tokio::test]
async fn refusals_in_chromium() {
    bounded(refusals(Kind::Chromium)).await;
}

#[tokio::test]
async fn refusals_in_firefox() {
    bounded(refusals(Kind::Firefox)).await;
}

/// Path, last event ID, whether the user is known; status and code.
const REFUSALS: [(&str, &str, bool, u16, &str); 4] = [
    ("/events", "", false, 401, "identity_missing"),
    ("/denied", "", true, 403, "subject_denied"),
    ("/nowhere", "", true, 404, "not_found"),
    ("/events", "two words", true, 400, "bad_cursor"),
];

async fn refusals(kind: Kind) {
    let Some(site) = Site::start("refusals of the client", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    browser.context("alice").await;
    browser.tab("alice", "tab", &site.page()).await;
    for (path, last_event_id, known, status, code) in REFUSALS {
        browser.cookie("tab", if known { "user=alice" } else { "user=; max-age=0" }).await;
        for transport in TRANSPORTS {
            let options = json!({ "transport": transport, "lastEventId": last_event_id });
            let page = Page::open(&browser, "tab", "s", path, options).await;
            let report = page.is("closed").await;
            let reason = json!({ "type": "refused", "status": status, "code": code });
            assert_eq!(report.status["reason"], reason, "{transport} {path}");
            assert_eq!(report.of("fault"), [&json!({ "type": "connection", "reason": reason, "final": true })]);
        }
    }
    browser.close().await;
}

#[tokio::test]
async fn expiry_in_chromium() {
    bounded(expiry(Kind::Chromium)).await;
}

#[tokio::test]
async fn expiry_in_firefox() {
    bounded(expiry(Kind::Firefox)).await;
}

/// The identity ends: the server says goodbye, and no to who comes back.
async fn expiry(kind: Kind) {
    let Some(mut site) = Site::start("expiry under the client", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    browser.context("alice").await;
    browser.tab("alice", "tab", &site.page()).await;
    browser.cookie("tab", "user=alice").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    browser.cookie("tab", &format!("expires={}", now + 8)).await;
    let mut pages = Vec::new();
    for transport in TRANSPORTS {
        let page = Page::open(&browser, "tab", transport, "/events", json!({ "transport": transport })).await;
        page.is("open").await;
        pages.push(page);
    }
    site.publish(2).await;
    for page in &pages {
        page.hears(&site.published).await;
        let report = page.is("closed").await;
        assert_eq!(report.of("bye")[0]["code"], "expired");
        assert_eq!(report.status["reason"], json!({ "type": "refused", "status": 401, "code": "identity_expired" }));
    }
    browser.close().await;
}

#[tokio::test]
async fn gaps_in_chromium() {
    bounded(gaps(Kind::Chromium)).await;
}

#[tokio::test]
async fn gaps_in_firefox() {
    bounded(gaps(Kind::Firefox)).await;
}

/// Somebody purges the stream while nobody listens.
async fn gaps(kind: Kind) {
    let Some(mut site) = Site::start("gaps under the client", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    let pages = both(&browser, &site, json!({})).await;
    site.publish(2).await;
    for page in &pages {
        page.hears(&site.published).await;
    }
    site.app.kill();
    site.publish(5).await;
    site.publisher.purge_keeping("EVENTS", 2).await;
    site.restart().await;
    site.published.drain(2..5);
    for page in &pages {
        let report = page.hears(&site.published).await;
        let gap = json!({ "stream": "EVENTS", "after": 2, "next": 6, "reason": "purged" });
        assert_eq!(report.of("gap"), [&gap]);
        // Before what comes after it.
        assert_eq!(report.resumes().last(), Some(&"gap"));
    }
    browser.close().await;
}
