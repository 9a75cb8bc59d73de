//! The page that is scraped: sums over shards, made when somebody asks.

use std::time::UNIX_EPOCH;

use super::labels::{CloseReason, Phase, Proof, Protocol, REFUSAL_CODES, RESUMES, Refused};
use super::page::Page;
use super::shard::{RouteMetrics, ShardMetrics};
use super::{Metrics, names, process};
use crate::frame::notice::GapReason;
use crate::telemetry::log;

impl Metrics {
    /// Prometheus text.
    pub fn render(&self) -> String {
        let mut page = Page::default();
        self.process(&mut page);
        self.memory(&mut page);
        self.connections(&mut page);
        self.refusals(&mut page);
        self.presence(&mut page);
        self.delivery(&mut page);
        self.resumes(&mut page);
        self.nats(&mut page);
        page.text()
    }

    fn process(&self, page: &mut Page) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let (revision, rustc) = (env!("SIDESTREAM_BUILD_REVISION"), env!("SIDESTREAM_BUILD_RUSTC"));
        let build = [env!("CARGO_PKG_VERSION"), revision, rustc, "aws-lc-rs"];
        page.count(&names::BUILD_INFO, &build, 1);
        page.number(&names::START_TIME, &[], started);
        page.count(&names::READY, &[], self.is_ready().into());
        page.count(&names::RELOAD_SUCCESSFUL, &[], self.reload.successful.get());
        page.count(&names::RELOAD_TIMESTAMP, &[], self.reload.at.get());
        if self.tls.not_after.get() > 0 {
            page.count(&names::CERTIFICATE_NOT_AFTER, &[], self.tls.not_after.get());
        }
        for (outcome, number) in [("applied", &self.tls.applied), ("refused", &self.tls.refused)] {
            page.count(&names::CERTIFICATE_RELOADS, &[outcome], number.get());
        }
        self.of_shards(page, &names::PANICS, |s| s.panics.get());
        page.count(&names::LOG_LINES_DROPPED, &["repeated"], log::left_out());
        page.count(&names::LOG_LINES_DROPPED, &["blocked"], log::lost());
        page.count(&names::SHARDS, &[], self.shards.len() as u64);
        page.number(&names::CPU, &[], process::cpu().as_secs_f64());
        page.count(&names::RESIDENT, &[], crate::memory::resident());
        if let Some(open) = process::open_descriptors() {
            page.count(&names::OPEN_FDS, &[], open as u64);
        }
        page.number(&names::MAX_FDS, &[], process::descriptors_max().map_or(f64::INFINITY, |max| max as f64));
        page.number(&names::PROCESS_START_TIME, &[], started);
    }

    fn memory(&self, page: &mut Page) {
        page.count(&names::MEMORY_BUDGET, &[], self.memory.budget.get());
        page.count(&names::MEMORY_USED, &[], self.memory.used.get());
        page.count(&names::MEMORY_HELD_BACK, &[], self.memory.held_back.get());
        page.count(&names::FRAMES, &[], self.memory.frames.get());
    }

    fn connections(&self, page: &mut Page) {
        self.of_shards(page, &names::CONNECTIONS, |s| s.connections.get());
        for (index, path) in self.routes.iter().enumerate() {
            for protocol in Protocol::ALL {
                let count = self.sum(|s| s.routes[index].opened[protocol as usize].get());
                page.count(&names::CONNECTIONS_TOTAL, &[path, protocol.label()], count);
            }
            for reason in CloseReason::ALL {
                for phase in Phase::ALL {
                    let count = self.sum(|s| s.routes[index].closed[reason as usize][phase as usize].get());
                    page.count(&names::CONNECTIONS_CLOSED, &[path, reason.label(), phase.label()], count);
                }
            }
            page.histogram(&names::CONNECTION_DURATION, &[path], self.of_route(index).map(|r| &r.duration));
            page.histogram(&names::FIRST_BYTE, &[path], self.of_route(index).map(|r| &r.first_byte));
        }
        page.count(&names::USERS, &[], self.memory.users.get());
        self.of_shards(page, &names::SUBSCRIPTIONS, |s| s.subscriptions.get());
        self.of_shards(page, &names::TASKS, |s| s.tasks.get());
    }

    fn refusals(&self, page: &mut Page) {
        for reason in Refused::ALL {
            let count = self.sum(|s| s.refused[reason as usize].get());
            page.count(&names::CONNECTIONS_REJECTED, &[reason.label()], count);
        }
        for (place, code) in REFUSAL_CODES.iter().enumerate() {
            page.count(&names::REQUESTS_REFUSED, &[code], self.sum(|s| s.refused_finally[place].get()));
        }
        for proof in Proof::ALL {
            page.count(&names::IDENTITIES, &[proof.label()], self.sum(|s| s.vouched[proof as usize].get()));
        }
        self.of_shards(page, &names::PEERS_REFUSED, |s| s.peers_refused.get());
        self.of_shards(page, &names::PROXY_PROTOCOL_REFUSED, |s| s.proxy_headers_refused.get());
        self.of_shards(page, &names::TLS_HANDSHAKES_FAILED, |s| s.handshakes_failed.get());
        self.of_shards(page, &names::ACCEPT_PAUSES, |s| s.accept_pauses.get());
    }

    fn presence(&self, page: &mut Page) {
        let presence = &self.presence;
        for (event, number) in ["connect", "disconnect"].iter().zip(&presence.published) {
            page.count(&names::PRESENCE_PUBLISHED, &[event], number.get());
        }
        page.count(&names::PRESENCE_PUBLISHING, &[], presence.publishing.get());
        page.count(&names::PRESENCE_LEFT_OUT, &[], presence.left_out.get());
    }

    fn delivery(&self, page: &mut Page) {
        page.count(&names::EVENTS_RECEIVED, &["stream"], self.feed.stream_events.get());
        page.count(&names::EVENTS_RECEIVED, &["core"], self.feed.live_events.get());
        self.of_shards(page, &names::EVENTS_SENT, |s| s.events_sent.get());
        self.of_shards(page, &names::BYTES_SENT, |s| s.bytes_sent.get());
        self.of_shards(page, &names::WRITES, |s| s.writes.get());
        self.of_shards(page, &names::HEARTBEATS, |s| s.heartbeats.get());
        let shards = || self.shards.iter();
        page.histogram(&names::DELIVERY_LATENCY, &[], shards().map(|s| &s.delivery));
        page.histogram(&names::PUBLISH_TO_SOCKET, &[], shards().map(|s| &s.published));
        page.count(&names::EVENT_NAMES_REPLACED, &[], self.feed.names_replaced.get());
        self.of_shards(page, &names::QUEUE, |s| s.queued.get());
        self.of_shards(page, &names::SLOW_CLIENTS, |s| s.slow.get());
        page.histogram(&names::CLIENT_QUEUE, &[], shards().map(|s| &s.queue_at_close));
        self.of_shards(page, &names::FELL_BEHIND, |s| s.fell_behind.get());
    }

    fn resumes(&self, page: &mut Page) {
        for (index, path) in self.routes.iter().enumerate() {
            for (place, outcome) in RESUMES.iter().enumerate() {
                page.count(&names::RESUMES, &[path, outcome], self.sum(|s| s.routes[index].resumes[place].get()));
            }
            page.histogram(&names::RESUME_AGE, &[path], self.of_route(index).map(|r| &r.resume_age));
        }
        page.count(&names::REPLAYED, &[], self.feed.replayed.get());
        page.count(&names::REPLAY_PASSES, &[], self.feed.passes.get());
        page.count(&names::LAST_VALUES, &[], self.feed.last_values.get());
        page.count(&names::LAST_VALUE_READS, &[], self.feed.last_value_reads.get());
        for (reason, count) in GapReason::ALL.iter().zip(&self.feed.gaps) {
            page.count(&names::GAPS, &[reason.label()], count.get());
        }
    }

    fn nats(&self, page: &mut Page) {
        for ((stream, status), leader) in self.streams.iter().zip(&self.feed.leaders) {
            page.count(&names::NATS_CONNECTED, &[stream], status.is_up().into());
            page.number(&names::NATS_RTT, &[stream], leader.rtt.get());
            page.count(&names::NATS_LAG, &[stream], leader.lag.get());
            page.count(&names::STREAM_HEAD, &[stream], status.head());
        }
        let feed = &self.feed;
        page.count(&names::NATS_CORE_CONNECTED, &[], self.core.is_up().into());
        page.count(&names::NODES, &[], feed.nodes.get());
        page.count(&names::NATS_RECONNECTS, &[], feed.reconnects.get());
        page.count(&names::NATS_SUBSCRIPTIONS, &[], feed.live_subscriptions.get());
        page.count(&names::NATS_SERVER_OUTDATED, &[], feed.server_outdated.get());
        page.count(&names::SUBJECT_VIOLATIONS, &[], feed.violations.get());
        page.count(&names::POISON, &[], feed.poison.get());
    }

    fn of_shards(&self, page: &mut Page, metric: &names::Metric, number: impl Fn(&ShardMetrics) -> u64) {
        page.count(metric, &[], self.sum(number));
    }

    pub(super) fn sum(&self, number: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.wrapping_add(number(shard)))
    }

    fn of_route(&self, index: usize) -> impl Iterator<Item = &RouteMetrics> {
        self.shards.iter().map(move |shard| &shard.routes[index])
    }
}
