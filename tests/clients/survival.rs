//! Streams of the client through everything that happens to them: every event once and in order, at every handler.

use std::time::Duration;

use serde_json::{Value, json};

use crate::browser::{Browser, Kind};
use crate::page::both;
use crate::site::Site;
use crate::support::{DEADLINE, bounded};

#[tokio::test]
async fn restarts_in_chromium() {
    bounded(restarts(Kind::Chromium)).await;
}

#[tokio::test]
async fn restarts_in_firefox() {
    bounded(restarts(Kind::Firefox)).await;
}

/// nginx answers 502 meanwhile, which kills an EventSource.
async fn restarts(kind: Kind) {
    let Some(mut site) = Site::start("restarts under the client", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    let pages = both(&browser, &site, json!({})).await;
    site.publish(2).await;
    for page in &pages {
        page.hears(&site.published).await;
    }

    site.app.kill();
    site.publish(3).await;
    for page in &pages {
        let refused = json!({ "type": "refused", "status": 502, "code": "" });
        page.until("it is told why", |report| report.of("fault").iter().any(|fault| fault["reason"] == refused)).await;
    }
    site.restart().await;
    site.publish(2).await;
    for page in &pages {
        page.hears(&site.published).await;
    }

    site.app.terminate();
    site.publish(3).await;
    assert!(site.app.exit(Duration::from_secs(20)).await.success());
    site.restart().await;
    site.publish(2).await;
    for page in &pages {
        let report = page.hears(&site.published).await;
        assert_eq!(report.of("bye").iter().filter(|bye| bye["code"] == "drain").count(), 1, "{report:?}");
        assert_eq!(report.resumes().first(), Some(&"new"));
        assert!(report.resumes().len() > 2 && report.resumes()[1..].iter().all(|how| *how == "exact"), "{report:?}");
        assert_eq!(report.of("gap"), Vec::<&Value>::new(), "nothing was lost");
        page.close().await;
    }
    site.app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
    browser.close().await;
}
