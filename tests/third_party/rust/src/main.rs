//! Clients of event streams that are crates, one of them each run. It prints a JSON line for every event that the client hands over, and
//! one, `{"ended": why}`, when the client has given up. The little loop around it then starts it anew from the last id, as an
//! application has to that uses it. What the clients do of themselves, and where they leave the standard, is told in
//! `../deviations.rs`.
//!
//! Usage: sidestream-third-party CLIENT URL

use std::time::Duration;

use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
use futures::{StreamExt as _, TryStreamExt as _};
use launchdarkly_sdk_transport::HyperTransport;
use reqwest_eventsource::{Event, EventSource};
use serde_json::{Value, json};

type Outcome = Result<String, Box<dyn std::error::Error>>;

/// The last id, for a start anew.
#[derive(Default)]
struct Last(String);

impl Last {
    /// Prints an event as it was handed over.
    fn event(&mut self, name: &str, id: Option<&str>, data: &str) {
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            self.0 = id.to_owned();
        }
        print(&json!({ "event": name, "id": id, "data": data }));
    }
}

fn print(line: &Value) {
    println!("{line}");
}

async fn eventsource_client(url: &str, last: &mut Last) -> Outcome {
    // Its own delays double without end; a server's `retry` it takes as the first of them.
    let steady = ReconnectOptions::reconnect(true).retry_initial(true).backoff_factor(1).build();
    let mut builder = ClientBuilder::for_url(url)?.reconnect(steady);
    if !last.0.is_empty() {
        builder = builder.last_event_id(last.0.clone());
    }
    let client = builder.build_with_transport(HyperTransport::builder().build_http()?);
    let mut stream = client.stream();
    let mut why = "no more events".to_owned();
    while let Some(item) = stream.next().await {
        match item {
            Ok(SSE::Event(event)) => last.event(&event.event_type, event.id.as_deref(), &event.data),
            Ok(SSE::Connected(_) | SSE::Comment(_)) => {}
            // It goes on after an error that it has told, unless nothing follows.
            Err(error) => why = error.to_string(),
        }
    }
    Ok(why)
}

async fn reqwest_eventsource(url: &str, last: &mut Last) -> Outcome {
    let mut request = reqwest::Client::builder().no_proxy().build()?.get(url);
    if !last.0.is_empty() {
        request = request.header("Last-Event-ID", last.0.clone());
    }
    let mut source = EventSource::new(request)?;
    let mut why = "no more events".to_owned();
    loop {
        match source.try_next().await {
            Ok(Some(Event::Message(event))) => last.event(&event.event, Some(&event.id), &event.data),
            Ok(Some(Event::Open)) => {}
            Ok(None) => return Ok(why),
            Err(error) => why = error.to_string(),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [client, url] = arguments.as_slice() else { panic!("usage: sidestream-third-party CLIENT URL") };
    let mut last = Last::default();
    loop {
        let outcome = match client.as_str() {
            "eventsource-client" => eventsource_client(url, &mut last).await,
            "reqwest-eventsource" => reqwest_eventsource(url, &mut last).await,
            other => panic!("no client {other:?}"),
        };
        print(&json!({ "ended": outcome.unwrap_or_else(|error| error.to_string()) }));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
