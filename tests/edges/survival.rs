//! A browser's `EventSource` behind every proxy that is shipped, through a kill and through an orderly end of the sidecar: it never
//! gives up, and hears everything once and in order (promises P1 and P4).

use std::time::Duration;

use futures_util::future::join_all;

use crate::front::{Front, Setup};
use crate::kind::SHIPPED;
use crate::support::bounded;
use crate::watched::{Page, Watched};

/// Told to come back later so often while nobody is there, after the cut: seconds, by what the retry pages say.
const RETRIES: usize = 2;

#[tokio::test]
async fn chromium_survives_the_sidecar() {
    bounded(survives("chromium")).await;
}

#[tokio::test]
async fn firefox_survives_the_sidecar() {
    bounded(survives("firefox")).await;
}

async fn survives(browser: &str) {
    let starts = SHIPPED.map(|kind| Box::pin(Front::start("browsers", kind, Setup::default())));
    let mut fronts: Vec<Front> = join_all(starts).await.into_iter().flatten().collect();
    let mut watched = Watched::start(browser, &fronts).await;
    let mut events = Events::default();
    watched.until("every page is connected", |page| page.is_connected()).await;
    events.publish(&fronts, 2).await;
    heard(&mut watched, &events).await;

    // Killed, and nobody there for a while.
    fronts.iter_mut().for_each(|front| front.app.kill());
    events.publish(&fronts, 3).await;
    let before = errors(&mut watched).await;
    watched.until("pages are told to come back later", |page| page.errors() > before.max(1) + RETRIES).await;
    events.publish(&fronts, 2).await;
    restart(&mut fronts).await;
    events.publish(&fronts, 2).await;
    heard(&mut watched, &events).await;

    // Told to end, while events go on.
    fronts.iter().for_each(|front| front.app.terminate());
    events.publish(&fronts, 3).await;
    for front in &mut fronts {
        let status = front.app.exit(Duration::from_secs(20)).await;
        assert!(status.success(), "{:?}: {status}", front.kind);
    }
    events.publish(&fronts, 2).await;
    restart(&mut fronts).await;
    events.publish(&fronts, 2).await;
    heard(&mut watched, &events).await;

    let pages = watched.pages().await;
    assert_eq!(pages.len(), fronts.len());
    pages.iter().for_each(|page| page.survived(&events.0, 2));
    watched.close().await;
}

/// The most errors that any page has had.
async fn errors(watched: &mut Watched) -> usize {
    watched.pages().await.iter().map(Page::errors).max().unwrap_or_default()
}

/// Waits until every page has heard the last event.
async fn heard(watched: &mut Watched, events: &Events) {
    let last = events.0.last().expect("published");
    watched.until(&format!("every page hears {last:?}"), |page| page.heard().contains(&last.as_str())).await;
}

async fn restart(fronts: &mut [Front]) {
    join_all(fronts.iter_mut().map(|front| Box::pin(front.restart()))).await;
}

/// What was published, the same behind each proxy.
#[derive(Default)]
struct Events(Vec<String>);

impl Events {
    async fn publish(&mut self, fronts: &[Front], count: usize) {
        let from = self.0.len();
        self.0.extend((from..from + count).map(|number| format!("event {number}")));
        for front in fronts {
            let publisher = front.nats.publisher().await;
            for data in &self.0[from..] {
                publisher.publish("events.user.alice.note", data).await;
            }
        }
    }
}
