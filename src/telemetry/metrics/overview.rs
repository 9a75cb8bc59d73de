//! What the live page shows of the numbers: sums that people look at, in JSON. Everything there is, is on the page that is scraped.

use serde_json::{Map, Value, json};

use super::Metrics;
use super::histogram::Sum;
use super::labels::{CloseReason, Phase, Protocol, RESUMES, Refused};
use super::shard::{RouteMetrics, ShardMetrics};
use crate::frame::notice::GapReason;

impl Metrics {
    /// The numbers of this moment. `latency` is the histogram of deliveries: upper bound in seconds (`null`: none) and how many
    /// were no slower, since the process began.
    pub fn overview(&self) -> Map<String, Value> {
        let (sum, feed) = (|number: fn(&ShardMetrics) -> u64| self.sum(number), &self.feed);
        let delivery = Sum::of(self.shards.iter().map(|shard| &shard.delivery));
        let bounds = delivery.buckets.iter().map(|(bound, count)| json!([bound, count]));
        let latency: Vec<_> = bounds.chain([json!([null, delivery.count])]).collect();
        let opened = |route: &RouteMetrics| Protocol::ALL.iter().map(|p| route.opened[*p as usize].get()).sum::<u64>();
        let closed = |reason: CloseReason| {
            self.of_routes(|route| {
                Phase::ALL.iter().map(|phase| route.closed[reason as usize][*phase as usize].get()).sum()
            })
        };
        let numbers = json!({
            "uptime": self.started.elapsed().unwrap_or_default().as_secs(),
            "connections": sum(|s| s.connections.get()),
            "opened": self.of_routes(opened),
            "closed": named(CloseReason::ALL.map(|reason| (reason.label(), closed(reason)))),
            "rejected": named(Refused::ALL.map(|reason| (reason.label(), self.sum(|s| s.refused[reason as usize].get())))),
            "resumes": named(std::array::from_fn::<_, { RESUMES.len() }, _>(|place| {
                (RESUMES[place], self.of_routes(|route| route.resumes[place].get()))
            })),
            "gaps": named(std::array::from_fn::<_, { GapReason::ALL.len() }, _>(|place| {
                (GapReason::ALL[place].label(), feed.gaps[place].get())
            })),
            "received": feed.stream_events.get() + feed.live_events.get(),
            "events": sum(|s| s.events_sent.get()),
            "bytes": sum(|s| s.bytes_sent.get()),
            "queued": sum(|s| s.queued.get()),
            "slow": sum(|s| s.slow.get()),
            "latency": latency,
            "memory": {"used": self.memory.used.get(), "budget": self.memory.budget.get()},
        });
        match numbers {
            Value::Object(numbers) => numbers,
            _ => Map::new(),
        }
    }

    fn of_routes(&self, number: impl Fn(&RouteMetrics) -> u64) -> u64 {
        self.shards.iter().flat_map(|shard| &shard.routes).fold(0, |sum, route| sum.wrapping_add(number(route)))
    }
}

fn named<const N: usize>(counts: [(&'static str, u64); N]) -> Value {
    counts.into_iter().map(|(name, count)| (name.to_owned(), Value::from(count))).collect::<Map<_, _>>().into()
}
