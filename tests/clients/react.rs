//! The hooks in real browsers, with React 18 and 19 under StrictMode: one connection, through restarts, remounts and
//! other URLs, and over what a server has rendered. The application is `clients/js/test/react-app.js`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::browser::{Browser, Kind};
use crate::package::succeeds;
use crate::site::Site;
use crate::support::{DEADLINE, bounded, eventually};

/// What a page may need on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tabs, by the version of React in them.
const VERSIONS: [&str; 2] = ["18", "19"];

/// What a page tells of itself.
#[derive(Debug, Deserialize)]
struct Report {
    version: String,
    heard: BTreeMap<String, Vec<Heard>>,
    seen: Vec<String>,
    complaints: Vec<String>,
    html: String,
    status: String,
    connection: String,
    late: String,
}

/// What a listener heard, and in which of its renders.
#[derive(Debug, Deserialize)]
struct Heard {
    data: String,
    render: u64,
}

impl Report {
    fn of(&self, tag: &str) -> Vec<&str> {
        self.heard.get(tag).into_iter().flatten().map(|heard| heard.data.as_str()).collect()
    }
}

/// A tab with the application.
struct Tab<'b> {
    browser: &'b Browser,
    version: &'static str,
}

impl<'b> Tab<'b> {
    async fn open(browser: &'b Browser, site: &Site, version: &'static str) -> Self {
        let url = format!("http://{}/react{version}.html", site.edge.address);
        browser.tab("alice", version, &url).await;
        browser.cookie(version, "user=alice").await;
        Self { browser, version }
    }

    async fn show(&self, properties: Value) {
        self.browser.call(self.version, "show", json!([properties])).await;
    }

    async fn report(&self) -> Report {
        let report = self.browser.call(self.version, "report", json!([])).await;
        let report: Report = serde_json::from_value(report).expect("a report");
        assert!(report.version.starts_with(self.version), "{}", report.version);
        assert_eq!(report.complaints, Vec::<String>::new(), "React {}", self.version);
        report
    }

    async fn until(&self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let what = format!("React {}: {what}", self.version);
        eventually(&what, PATIENCE, async || {
            let report = self.report().await;
            holds(&report).then_some(report)
        })
        .await
    }

    async fn is(&self, state: &str) -> Report {
        self.until(state, |report| report.status == state).await
    }

    /// Each of these listeners has heard all of these events, once and in order.
    async fn hears(&self, tags: &[&str], events: &[String]) -> Report {
        let last = events.last().expect("published").as_str();
        let heard = |report: &Report| tags.iter().all(|tag| report.of(tag).last() == Some(&last));
        let report = self.until(&format!("{tags:?} hear {last}"), heard).await;
        for tag in tags {
            assert_eq!(report.of(tag), events, "React {}, {tag}: lost, doubled or out of order", self.version);
        }
        report
    }
}

/// The site, with the application's pages.
async fn site(test: &str) -> Option<Site> {
    let site = Site::start(test, |config| config).await?;
    succeeds("node", &["test/react-build.js", &site.pages().display().to_string()]).await;
    Some(site)
}

/// How many connections of alice's the server has, once they are so many.
async fn connections(site: &Site, wanted: u64) {
    eventually(&format!("{wanted} connections"), DEADLINE, async || {
        let answer = site.app.admin_get("/connections?user=alice").await;
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        (body["total"] == json!(wanted)).then_some(())
    })
    .await;
}

/// How many streams the server has opened since it began.
async fn opened(site: &Site) -> f64 {
    site.app.metric("sidestream_connections_total", &[]).await
}

#[tokio::test]
async fn hooks_through_restarts_in_chromium() {
    bounded(restarts(Kind::Chromium)).await;
}

#[tokio::test]
async fn hooks_through_restarts_in_firefox() {
    bounded(restarts(Kind::Firefox)).await;
}

async fn restarts(kind: Kind) {
    let Some(mut site) = site("restarts under the hooks").await else { return };
    let browser = Browser::start(kind).await;
    browser.context("alice").await;
    let mut tabs = Vec::new();
    for version in VERSIONS {
        let tab = Tab::open(&browser, &site, version).await;
        tab.show(json!({ "url": "/events", "listeners": ["a", "b"], "once": ["c"] })).await;
        tab.is("open").await;
        tabs.push(tab);
    }
    let tags = ["a", "b", "c"];
    site.publish(4).await;
    for tab in &tabs {
        tab.hears(&tags, &site.published).await;
    }
    connections(&site, 2).await;
    assert!((opened(&site).await - 2.0).abs() < 0.5, "StrictMode opened one in each tab");

    site.app.kill();
    site.publish(3).await;
    for tab in &tabs {
        tab.is("waiting").await;
    }
    site.restart().await;
    site.publish(2).await;
    for tab in &tabs {
        tab.hears(&tags, &site.published).await;
    }

    site.app.terminate();
    site.publish(3).await;
    assert!(site.app.exit(Duration::from_secs(20)).await.success());
    site.restart().await;
    site.publish(2).await;
    for tab in &tabs {
        let report = tab.hears(&tags, &site.published).await;
        let renders: Vec<_> = report.heard["a"].iter().map(|heard| heard.render).collect();
        assert!(renders.first() < renders.last(), "the handlers were of different renders: {renders:?}");
    }
    connections(&site, 2).await;

    for tab in &tabs {
        tab.show(Value::Null).await;
    }
    connections(&site, 0).await;
    browser.close().await;
}

#[tokio::test]
async fn hooks_share_and_move_in_chromium() {
    bounded(moves(Kind::Chromium)).await;
}

#[tokio::test]
async fn hooks_share_and_move_in_firefox() {
    bounded(moves(Kind::Firefox)).await;
}

async fn moves(kind: Kind) {
    let Some(mut site) = site("remounts and other URLs under the hooks").await else { return };
    let browser = Browser::start(kind).await;
    browser.context("alice").await;
    for version in VERSIONS {
        moves_with(&mut site, &browser, version).await;
    }
    browser.close().await;
}

async fn moves_with(site: &mut Site, browser: &Browser, version: &'static str) {
    let tab = Tab::open(browser, site, version).await;
    site.published.clear();
    let before = if version == "18" { 0.0 } else { opened(site).await };

    // A provider and two components of their own: one connection.
    let mut page = json!({ "url": "/events", "listeners": ["a"], "once": ["b"], "own": ["c", "d"] });
    tab.show(page.clone()).await;
    let first = tab.is("open").await.connection;
    let tags = ["a", "b", "c", "d"];
    site.publish(2).await;
    tab.hears(&tags, &site.published).await;

    page["late"] = json!(true);
    tab.show(page.clone()).await;
    let report = tab.until("the last event is shown", |report| report.late == "event 1").await;
    assert_eq!(report.seen[0], "event 1", "in the first render");

    page["place"] = json!(1);
    tab.show(page.clone()).await;
    site.publish(2).await;
    let report = tab.hears(&tags, &site.published).await;
    assert_eq!(report.connection, first, "a remount keeps the connection");
    connections(site, 1).await;
    assert!((opened(site).await - before - 1.0).abs() < 0.5, "one was opened for all this");

    page["url"] = json!("/events?again");
    tab.show(page).await;
    let second = tab.until("another connection", |report| report.status == "open" && report.connection != first).await;
    assert_eq!(second.late, "nothing", "what the old one heard is not shown");
    connections(site, 1).await;
    site.publish(2).await;
    let report = tab.hears(&tags, &site.published).await;
    assert_eq!(report.connection, second.connection);

    tab.show(Value::Null).await;
    connections(site, 0).await;
}

#[tokio::test]
async fn hydration_in_chromium() {
    bounded(hydration(Kind::Chromium)).await;
}

#[tokio::test]
async fn hydration_in_firefox() {
    bounded(hydration(Kind::Firefox)).await;
}

async fn hydration(kind: Kind) {
    let Some(mut site) = site("hydration under the hooks").await else { return };
    let browser = Browser::start(kind).await;
    browser.context("alice").await;
    for version in VERSIONS {
        site.published.clear();
        let tab = Tab::open(&browser, &site, version).await;
        let html = tab.report().await.html;
        assert!(html.contains(">connecting</p>") && html.contains(">nothing</p>"), "{html}");
        let page = json!({ "url": "/events", "listeners": ["a"], "late": true });
        browser.call(version, "hydrate", json!([page])).await;
        tab.is("open").await;
        site.publish(2).await;
        tab.hears(&["a"], &site.published).await;
        tab.until("the last event is shown", |report| report.late == "event 1").await;
        tab.show(Value::Null).await;
        connections(&site, 0).await;
    }
    browser.close().await;
}
