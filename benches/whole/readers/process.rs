//! The readers' own process: opens the connections, then answers what it is asked about them.

use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncBufReadExt;

use super::Target;
use super::came::Came;
use super::opening::{connector, open};
use crate::clock;

/// No event, and no stream's beginning, may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the connections and answers until there are no more orders.
pub fn run(arguments: &[String]) {
    let target: Target = serde_json::from_str(&arguments[0]).expect("a target");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let came = Rc::new(Came::default());
        let connector = connector(&target);
        let began = clock::now();
        let opening = futures_util::stream::iter(0..target.connections).map(|index| {
            let opened = open(index, &target, connector.as_ref(), &came);
            async { tokio::time::timeout(PATIENCE, opened).await.expect("a stream in time") }
        });
        opening.buffer_unordered(target.at_once).collect::<()>().await;
        println!("open {began}");
        obey(&came).await;
    });
}

async fn obey(came: &Came) {
    let mut orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await.expect("text") {
        if let Some(events) = order.strip_prefix("wait ") {
            let events = events.parse().expect("a number");
            let reached = tokio::time::timeout(PATIENCE, came.reach(events)).await;
            assert!(reached.is_ok(), "{} of {events} events", came.events.get());
            println!("have {}", came.last.get());
        } else {
            let latencies = came.latencies.take();
            println!(
                "tails {} {} {} {}",
                latencies.permille(500),
                latencies.permille(990),
                latencies.max(),
                came.reads.take()
            );
        }
    }
}
