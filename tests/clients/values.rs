//! Last values: a page that comes first has those of the subjects it wants, and is told that it has them all; a late
//! tab of a shared connection has the last of each name.

use serde_json::{Value, json};

use crate::browser::{Browser, Kind};
use crate::page::{Page, both};
use crate::site::Site;
use crate::support::bounded;

#[tokio::test]
async fn last_values_in_chromium() {
    bounded(values(Kind::Chromium)).await;
}

#[tokio::test]
async fn last_values_in_firefox() {
    bounded(values(Kind::Firefox)).await;
}

/// Publishes to one of alice's subjects.
async fn say(site: &Site, subject: &str, data: &str) {
    site.publisher.publish_named(&format!("events.user.alice.{subject}"), "note", data).await;
}

/// The page has been told this often that it has the last values.
async fn synced(page: &Page<'_>, times: usize) {
    page.until("it is told that it has the last values", |report| report.of("synced").len() == times).await;
}

/// `subjects` narrows the values and what follows.
async fn values(kind: Kind) {
    let routes = "last_value = true\nselect = true\n";
    let Some(mut site) = Site::start("last values of the client", |config| config.tables(routes)).await else { return };
    for (subject, data) in [("a", "a 0"), ("a", "a 1"), ("c", "c 1"), ("b", "b 1")] {
        say(&site, subject, data).await;
    }
    let browser = Browser::start(kind).await;
    let pages = both(&browser, &site, json!({ "subjects": ["events.user.alice.a", "events.user.alice.b"] })).await;
    for page in &pages {
        synced(page, 1).await;
        assert_eq!(page.report().await.heard(), ["a 1", "b 1"]);
    }
    say(&site, "c", "c 2").await;
    say(&site, "a", "a 2").await;
    let after = ["a 1", "b 1", "a 2"].map(str::to_owned);
    for page in &pages {
        page.hears(&after).await;
    }

    // Who comes back has its values, and is told so again.
    site.app.kill();
    site.restart().await;
    for page in &pages {
        synced(page, 2).await;
        let report = page.hears(&after).await;
        assert_eq!(report.of("gap"), Vec::<&Value>::new(), "{report:?}");
        page.close().await;
    }

    let options = json!({ "shared": true });
    let first = Page::open(&browser, "fetch", "first", "/events", options.clone()).await;
    synced(&first, 1).await;
    assert_eq!(first.report().await.heard(), ["b 1", "c 2", "a 2"]);
    let late = Page::open(&browser, "eventsource", "late", "/events", options).await;
    synced(&late, 1).await;
    let report = late.report().await;
    assert_eq!((report.heard(), report.cached()), (vec!["a 2"], vec!["a 2"]));
    browser.close().await;
}
