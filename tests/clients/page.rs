//! One stream of a page with the client: what it was told, and what must be true of that.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::site::Site;
use crate::support::eventually;

/// What a stream may need to come back: waits add up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream in a tab.
pub struct Page<'b> {
    browser: &'b Browser,
    tab: String,
    name: String,
}

/// What the page wrote down.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// `stream.status`.
    pub status: Value,
    /// What callbacks were told, in order.
    pub told: Vec<Value>,
    heard: Vec<Heard>,
}

/// What a handler heard.
#[derive(Debug, Deserialize)]
struct Heard {
    data: String,
    cached: bool,
}

/// The transports, each in a tab of its own.
pub const TRANSPORTS: [&str; 2] = ["eventsource", "fetch"];

/// A tab of alice's for each transport, with these options, open.
pub async fn both<'b>(browser: &'b Browser, site: &Site, mut options: Value) -> Vec<Page<'b>> {
    browser.context("alice").await;
    let mut pages = Vec::new();
    for transport in TRANSPORTS {
        browser.tab("alice", transport, &site.page()).await;
        browser.cookie(transport, "user=alice").await;
        options["transport"] = json!(transport);
        let page = Page::open(browser, transport, "s", "/events", options.clone()).await;
        page.is("open").await;
        pages.push(page);
    }
    pages
}

impl<'b> Page<'b> {
    /// Opens a stream, of a name, in a tab.
    pub async fn open(browser: &'b Browser, tab: &str, name: &str, url: &str, options: Value) -> Self {
        browser.call(tab, "open_stream", json!([name, url, options])).await;
        Self { browser, tab: tab.to_owned(), name: name.to_owned() }
    }

    /// What it has been told by now.
    pub async fn report(&self) -> Report {
        let report = self.browser.call(&self.tab, "report", json!([self.name])).await;
        serde_json::from_value(report).expect("a report")
    }

    /// Waits until this holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let mut last = None;
        let waited = eventually(what, PATIENCE, async || {
            let report = self.report().await;
            let held = holds(&report);
            if last.as_ref() != Some(&report.status) {
                println!("{} {}: {}", self.tab, self.name, report.status);
                last = Some(report.status.clone());
            }
            held.then_some(report)
        });
        waited.await
    }

    /// Waits for a state.
    pub async fn is(&self, state: &str) -> Report {
        self.until(&format!("{} {} is {state}", self.tab, self.name), |report| report.state() == state).await
    }

    /// Waits until a handler has heard the last of these, and checks that it has heard all of them, once and in order.
    pub async fn hears(&self, events: &[String]) -> Report {
        let last = events.last().expect("published");
        let heard = |report: &Report| report.heard().last() == Some(&last.as_str());
        let report = self.until(&format!("{} {} hears {last:?}", self.tab, self.name), heard).await;
        assert_eq!(report.heard(), events, "{} {}: lost, doubled or out of order", self.tab, self.name);
        report
    }

    /// Ends the stream, as its page does.
    pub async fn close(&self) {
        self.browser.call(&self.tab, "close_stream", json!([self.name])).await;
    }
}

impl Report {
    /// The state.
    pub fn state(&self) -> &str {
        self.status["state"].as_str().unwrap_or_default()
    }

    /// The data of the events that handlers heard.
    pub fn heard(&self) -> Vec<&str> {
        self.heard.iter().map(|heard| heard.data.as_str()).collect()
    }

    /// The data of those that were kept for it from before it came.
    pub fn cached(&self) -> Vec<&str> {
        self.heard.iter().filter(|heard| heard.cached).map(|heard| heard.data.as_str()).collect()
    }

    /// What one callback was told.
    pub fn of(&self, what: &str) -> Vec<&Value> {
        self.told.iter().filter_map(|told| told.get(what)).collect()
    }

    /// Why connections ended, or were not made.
    pub fn faults(&self) -> Vec<&str> {
        self.of("fault").iter().filter_map(|fault| fault["reason"]["type"].as_str()).collect()
    }

    /// How the stream came back each time: `new`, `exact` or `gap`.
    pub fn resumes(&self) -> Vec<&str> {
        self.of("open").iter().filter_map(|open| open["resume"].as_str()).collect()
    }
}
