//! One connection for all tabs: by a SharedWorker, and by a leader where there is none. Tabs come, go and die; every
//! event is heard once and in order by each.

use serde_json::{Value, json};

use crate::browser::{Browser, Kind};
use crate::package::bundled;
use crate::page::Page;
use crate::site::Site;
use crate::support::{DEADLINE, bounded, eventually};

/// What a page has, to share a connection by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Everything.
    Worker,
    /// No SharedWorker.
    Leader,
    /// Neither a SharedWorker nor locks: each tab has its own.
    Nothing,
}

impl By {
    fn lacks(self) -> &'static [&'static str] {
        match self {
            Self::Worker => &[],
            Self::Leader => &["SharedWorker"],
            Self::Nothing => &["SharedWorker", "locks"],
        }
    }
}

/// A tab of alice's with a shared stream.
async fn tab<'b>(browser: &'b Browser, site: &Site, name: &str, by: By) -> Page<'b> {
    tab_in(browser, site, "alice", name, by).await
}

/// The same in another context than that of her name.
async fn tab_in<'b>(browser: &'b Browser, site: &Site, context: &str, name: &str, by: By) -> Page<'b> {
    browser.tab(context, name, &site.page()).await;
    browser.cookie(name, "user=alice").await;
    for lacking in by.lacks() {
        browser.call(name, "without", json!([lacking])).await;
    }
    let page = Page::open(browser, name, "s", "/events", json!({ "shared": true })).await;
    page.is("open").await;
    page
}

/// Waits until so many connections are open, as the admin listener lists them.
async fn connections(site: &Site, count: usize) {
    eventually(&format!("{count} connections"), DEADLINE, async || {
        let answer = site.app.admin_get("/connections").await;
        let listed: Value = serde_json::from_slice(&answer.body).expect("JSON");
        (listed["total"] == count).then_some(())
    })
    .await;
}

/// With a worker every tab holds a lock of its own; without one, the leader holds that of the connection.
async fn is_shared_by(browser: &Browser, tab: &str, by: By, tabs: usize) {
    let held = browser.call(tab, "held_locks", json!([])).await;
    let held: Vec<_> = held.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let (of_tabs, of_connections) = if by == By::Worker { (tabs, 0) } else { (0, 1) };
    let count = |start: &str| held.iter().filter(|name| name.starts_with(start)).count();
    assert_eq!((count("sidestream tab "), count("sidestream [")), (of_tabs, of_connections), "{held:?}");
}

#[tokio::test]
async fn eight_tabs_have_one_connection_in_chromium() {
    bounded(eight_tabs(Kind::Chromium, By::Worker)).await;
}

#[tokio::test]
async fn eight_tabs_have_one_connection_in_firefox() {
    bounded(eight_tabs(Kind::Firefox, By::Worker)).await;
}

#[tokio::test]
async fn eight_tabs_have_one_connection_without_a_worker_in_chromium() {
    bounded(eight_tabs(Kind::Chromium, By::Leader)).await;
}

#[tokio::test]
async fn eight_tabs_have_one_connection_without_a_worker_in_firefox() {
    bounded(eight_tabs(Kind::Firefox, By::Leader)).await;
}

async fn eight_tabs(kind: Kind, by: By) {
    let Some(mut site) = Site::start("tabs of the client", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    browser.context("alice").await;
    let mut tabs = Vec::new();
    for number in 0..7 {
        tabs.push(tab(&browser, &site, &format!("{number}"), by).await);
    }
    site.publish(3).await;
    for tab in &tabs {
        let report = tab.hears(&site.published).await;
        assert_eq!(report.cached(), Vec::<&str>::new());
    }
    // One that comes late has the last value, at once and once.
    tabs.push(tab(&browser, &site, "late", by).await);
    connections(&site, 1).await;
    let report = tabs[7].hears(&site.published[2..]).await;
    assert_eq!(report.cached(), &site.published[2..]);
    is_shared_by(&browser, "late", by, 8).await;

    // The first leads, where there is a leader: it is closed. Others are closed and killed, and the server dies as
    // well.
    browser.close_tab("0").await;
    site.publish(2).await;
    if kind == Kind::Chromium {
        browser.crash("1").await;
    } else {
        browser.close_tab("1").await;
    }
    site.publish(2).await;
    tabs[2].close().await;
    site.publish(2).await;
    site.app.kill();
    site.publish(2).await;
    site.restart().await;
    site.publish(2).await;
    for tab in &tabs[3..7] {
        let report = tab.hears(&site.published).await;
        assert_eq!(report.of("gap"), Vec::<&Value>::new(), "nothing was lost");
    }
    tabs[7].hears(&site.published[2..]).await;
    connections(&site, 1).await;

    // The last ones go: by closing the stream, the tab, and, where it can be done, by the end of its process.
    for tab in &tabs[3..6] {
        tab.close().await;
    }
    browser.close_tab("6").await;
    connections(&site, 1).await;
    site.publish(1).await;
    tabs[7].hears(&site.published[2..]).await;
    if kind == Kind::Chromium {
        browser.crash("late").await;
    } else {
        browser.close_tab("late").await;
    }
    connections(&site, 0).await;
    browser.close().await;
}

#[tokio::test]
async fn a_dead_tab_is_noticed_by_the_worker() {
    bounded(async {
        let Some(mut site) = Site::start("a dead tab of the client", |config| config).await else { return };
        let browser = Browser::start(Kind::Chromium).await;
        browser.context("alice").await;
        // The worker lives on for the other one, and its connection must not.
        let other = tab(&browser, &site, "other", By::Worker).await;
        let options = json!({ "shared": true, "key": "another" });
        browser.tab("alice", "dead", &site.page()).await;
        let dead = Page::open(&browser, "dead", "s", "/events", options).await;
        dead.is("open").await;
        connections(&site, 2).await;
        browser.crash("dead").await;
        connections(&site, 1).await;
        site.publish(2).await;
        other.hears(&site.published).await;
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_worker_that_dies_with_the_first_tab_is_replaced() {
    bounded(async {
        let Some(mut site) = Site::start("a dead worker of the client", |config| config).await else { return };
        let browser = Browser::start(Kind::Chromium).await;
        browser.context("alice").await;
        let mut tabs = Vec::new();
        for name in ["host", "1", "2"] {
            tabs.push(tab(&browser, &site, name, By::Worker).await);
        }
        site.publish(2).await;
        for tab in &tabs {
            tab.hears(&site.published).await;
        }
        // Chromium runs the worker in the process of the tab that came first.
        browser.crash("host").await;
        site.publish(2).await;
        for tab in &tabs[1..] {
            let report = tab.hears(&site.published).await;
            assert_eq!(report.faults(), ["network"], "it was told that the worker is gone");
            assert_eq!(report.of("gap"), Vec::<&Value>::new(), "nothing was lost");
            tab.is("open").await;
        }
        is_shared_by(&browser, "1", By::Worker, 2).await;
        connections(&site, 1).await;
        tabs.push(tab(&browser, &site, "late", By::Worker).await);
        tabs[3].hears(&site.published[3..]).await;
        connections(&site, 1).await;
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn in_a_frame_without_an_origin_each_has_its_own_in_chromium() {
    bounded(without_an_origin(Kind::Chromium)).await;
}

#[tokio::test]
async fn in_a_frame_without_an_origin_each_has_its_own_in_firefox() {
    bounded(without_an_origin(Kind::Firefox)).await;
}

/// Workers and locks are there, and refused.
async fn without_an_origin(kind: Kind) {
    let Some(site) = Site::start("a sandbox of the client", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    browser.context("alice").await;
    browser.tab("alice", "tab", &site.page()).await;
    // From no origin every request is another origin's, and nobody allows it: it fails, and does not hang.
    let told = browser.call("tab", "sandboxed", json!(["/events", bundled("worker.js").await])).await;
    assert_eq!(told, json!({ "type": "connection", "reason": "network", "final": false }));
    browser.close().await;
}

#[tokio::test]
async fn without_locks_each_tab_has_its_own() {
    bounded(async {
        let Some(mut site) = Site::start("tabs of the client without locks", |config| config).await else { return };
        let browser = Browser::start(Kind::Chromium).await;
        browser.context("alice").await;
        let tabs = [tab(&browser, &site, "0", By::Nothing).await, tab(&browser, &site, "1", By::Nothing).await];
        connections(&site, 2).await;
        site.publish(2).await;
        for tab in &tabs {
            tab.hears(&site.published).await;
        }
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_cannot_be_had_is_replaced_by_a_leader() {
    bounded(async {
        let Some(mut site) = Site::start("a worker that cannot be had", |config| config).await else { return };
        // Its script is not where the page's bundler should have put it.
        site.take_away("shared-worker.js");
        let browser = Browser::start(Kind::Chromium).await;
        browser.context("alice").await;
        let tabs = [tab(&browser, &site, "0", By::Worker).await, tab(&browser, &site, "1", By::Worker).await];
        connections(&site, 1).await;
        is_shared_by(&browser, "1", By::Leader, 2).await;
        site.publish(2).await;
        browser.close_tab("0").await;
        site.publish(2).await;
        tabs[1].hears(&site.published).await;
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_worker_may_stand_elsewhere() {
    bounded(async {
        let Some(mut site) = Site::start("a worker elsewhere", |config| config).await else { return };
        site.take_away("shared-worker.js");
        site.put("elsewhere.js", &bundled("shared-worker.js").await);
        let browser = Browser::start(Kind::Chromium).await;
        browser.context("alice").await;
        browser.tab("alice", "tab", &site.page()).await;
        browser.cookie("tab", "user=alice").await;
        let options = json!({ "shared": true, "worker": "/elsewhere.js" });
        let page = Page::open(&browser, "tab", "s", "/events", options).await;
        page.is("open").await;
        is_shared_by(&browser, "tab", By::Worker, 1).await;
        site.publish(2).await;
        page.hears(&site.published).await;
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_network_away_in_chromium() {
    bounded(offline(Kind::Chromium)).await;
}

#[tokio::test]
async fn the_network_away_in_firefox() {
    bounded(offline(Kind::Firefox)).await;
}

/// The connection ends at once, and is there again at once, whoever holds it.
async fn offline(kind: Kind) {
    let Some(mut site) = Site::start("offline, with tabs", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    for by in [By::Worker, By::Leader] {
        let context = format!("{by:?}");
        browser.context(&context).await;
        let from = site.published.len();
        let tabs = ["0", "1"].map(|number| format!("{context} {number}"));
        let tabs = [
            tab_in(&browser, &site, &context, &tabs[0], by).await,
            tab_in(&browser, &site, &context, &tabs[1], by).await,
        ];
        site.publish(1).await;
        browser.offline(&context, true).await;
        for tab in &tabs {
            tab.is("waiting").await;
        }
        connections(&site, 0).await;
        site.publish(2).await;
        browser.offline(&context, false).await;
        for tab in &tabs {
            let report = tab.hears(&site.published[from..]).await;
            assert_eq!(report.resumes(), ["new", "exact"]);
        }
        tabs[0].close().await;
        tabs[1].close().await;
        connections(&site, 0).await;
    }
    browser.close().await;
}

#[tokio::test]
async fn a_final_refusal_ends_all_tabs_in_chromium() {
    bounded(refused(Kind::Chromium)).await;
}

#[tokio::test]
async fn a_final_refusal_ends_all_tabs_in_firefox() {
    bounded(refused(Kind::Firefox)).await;
}

/// The identity ends, and whoever comes later asks anew.
async fn refused(kind: Kind) {
    let Some(mut site) = Site::start("a refusal of the client's tabs", |config| config).await else { return };
    let browser = Browser::start(kind).await;
    for by in [By::Worker, By::Leader] {
        let names = [0, 1].map(|number| format!("{by:?} {number}"));
        browser.context("alice").await;
        let tabs = [tab(&browser, &site, &names[0], by).await, tab(&browser, &site, &names[1], by).await];
        browser.cookie(&names[0], "user=; max-age=0").await;
        site.app.kill();
        site.restart().await;
        for tab in &tabs {
            let report = tab.is("closed").await;
            let reason = json!({ "type": "refused", "status": 401, "code": "identity_missing" });
            assert_eq!(report.status["reason"], reason);
            assert_eq!(
                report.of("fault").last().expect("told"),
                &&json!({ "type": "connection", "reason": reason, "final": true })
            );
        }
        browser.cookie(&names[0], "user=alice").await;
        let again = Page::open(&browser, &names[1], "again", "/events", json!({ "shared": true })).await;
        again.is("open").await;
        again.close().await;
        connections(&site, 0).await;
    }
    browser.close().await;
}
