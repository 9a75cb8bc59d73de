//! Streams through a proxy: events arrive at once, clients resume, refusals come as they are, and a slow reader is noticed.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::attempt::Attempt;
use crate::front::{Front, Setup};
use crate::kind::{Kind, SHIPPED};
use crate::session::Session;
use crate::support::{DEADLINE, bounded, eventually};
use crate::tap::Reply;

/// Runs a test behind every proxy that is shipped, at the same time.
async fn behind_each(name: &str, set: &[&str], test: impl AsyncFn(Front)) {
    let run = |kind: Kind| async move {
        let setup = Setup { set, ..Setup::default() };
        Front::start(name, kind, setup).await
    };
    bounded(async {
        let fronts = join_all(SHIPPED.map(|kind| Box::pin(run(kind)))).await;
        join_all(fronts.into_iter().flatten().map(|front| Box::pin(test(front)))).await;
    })
    .await;
}

#[tokio::test]
async fn an_event_arrives_within_a_second_and_a_cut_loses_nothing() {
    behind_each("streams", &[], async |front: Front| {
        let publisher = front.nats.publisher().await;
        for attempt in [Attempt::honest(), Attempt::honest().h2()] {
            let mut tap = front.stream(&attempt).await;
            for number in 0..3 {
                let data = format!("{}-{number}", attempt.h2);
                let published = Instant::now();
                publisher.publish("events.user.alice.note", &data).await;
                tap.until(&data).await;
                let took = published.elapsed();
                assert!(took < Duration::from_secs(1), "{:?}: an event took {took:?}", front.kind);
            }
            let last = tap.last_event_id();
            drop(tap);
            for number in 3..5 {
                publisher.publish("events.user.alice.note", format!("{}-{number}", attempt.h2)).await;
            }
            let mut again = front.stream(&attempt.clone().line("last-event-id", &last)).await;
            let body = again.until(&format!("{}-4", attempt.h2)).await;
            assert!(body.contains(r#""resume":"exact""#), "{:?}: {body}", front.kind);
            for number in 0..5 {
                let count = body.matches(&format!("data: {}-{number}\n", attempt.h2)).count();
                assert_eq!(count, usize::from(number > 2), "{:?}, event {number}: {body}", front.kind);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn refusals_come_through_as_they_are() {
    behind_each("refusals", &["limits.connections_per_user=1"], async |front: Front| {
        let kind = front.kind;
        let _held = front.stream(&Attempt::honest()).await;
        let (reply, tap) = front.attempt(&Attempt::honest()).await;
        let head = tap.head().to_ascii_lowercase();
        assert!(matches!(&reply, Reply::Answer(200, body) if is_retry(body)), "{kind:?}: {reply:?}");
        assert!(head.contains("\r\nsidestream-refused: user"), "{kind:?}: {head}");
        assert!(head.contains("\r\ncontent-type: text/event-stream"), "{kind:?}: {head}");

        let not_a_browser = Attempt::honest().without("Accept").line("Accept", "*/*");
        let (reply, tap) = front.attempt(&not_a_browser).await;
        let head = tap.head().to_ascii_lowercase();
        assert!(
            matches!(&reply, Reply::Answer(429, body) if is_error(body, "too_many_requests")),
            "{kind:?}: {reply:?}"
        );
        assert!(head.contains("\r\nretry-after: "), "{kind:?}: {head}");

        // Where the application names the tenant's subjects, no template does.
        let missing = if kind == Kind::NginxAccel { "sub" } else { "tenant" };
        let nobody = Attempt::honest().session(Session::AliceWithout(missing));
        let foreign = Attempt::honest().target("/events?token=open-sesame").line("Origin", "https://evil.example");
        for (attempt, status, code) in [(nobody, 401, "identity_missing"), (foreign, 403, "origin_denied")] {
            let (reply, tap) = front.attempt(&attempt).await;
            let head = tap.head().to_ascii_lowercase();
            assert!(
                matches!(&reply, Reply::Answer(s, body) if *s == status && is_error(body, code)),
                "{kind:?}: {reply:?}"
            );
            for line in ["content-type: application/json", "cache-control: no-store", "x-content-type-options: nosniff"]
            {
                assert!(head.contains(&format!("\r\n{line}")), "{kind:?}: no {line} in {head}");
            }
        }
        if kind == Kind::Nginx {
            eventually("nginx logs the refusals", DEADLINE, async || {
                let log = front.edge.access_log();
                (log.contains(" 401 ") && log.contains(" 403 ")).then_some(())
            })
            .await;
        }
        for log in [front.edge.access_log(), front.edge.log(), front.app.log_lines().join("\n")] {
            assert!(!log.contains("open-sesame"), "{kind:?}: a query is in a log: {log}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_handed_over_is_a_stream_whatever_the_application_says_of_it() {
    bounded(async {
        let Some(front) = Front::start("handing over", Kind::NginxAccel, Setup::default()).await else { return };
        let head = front.stream(&Attempt::honest()).await.head().to_ascii_lowercase();
        let values = |name: &str| -> Vec<_> {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(other, _)| *other == name).map(|(_, value)| value.to_owned()).collect()
        };
        // A charset stays, and means nothing: event streams are UTF-8.
        assert_eq!(values("content-type"), ["text/event-stream; charset=utf-8"], "{head}");
        // The application's is kept by nginx 1.22 whatever is hidden; `no-store` wins over anything beside it.
        assert_eq!(values("cache-control"), ["private", "no-store, no-transform"], "{head}");
        assert_eq!(values("set-cookie"), ["seen=1"], "{head}");
        assert!(!head.contains("x-sidestream") && !head.contains("x-powered-by"), "{head}");
    })
    .await;
}

/// One `retry:` line and no blank line.
pub fn is_retry(body: &str) -> bool {
    let time = body.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix('\n'));
    time.is_some_and(|time| time.parse::<u64>().is_ok_and(|time| time > 0))
}

fn is_error(body: &str, code: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(body).is_ok_and(|json| json["error"]["code"] == code)
}

#[tokio::test]
async fn a_reader_that_stops_is_noticed_behind_a_proxy() {
    behind_each("slow readers", &["limits.write_timeout=1s"], async |front: Front| {
        let publisher = front.nats.publisher().await;
        // Over HTTP/2 as well: there the client's window is what is full, and nobody's socket.
        for (attempt, slow) in [(Attempt::honest(), 1.0), (Attempt::honest().h2(), 2.0)] {
            let _never_reads = front.stream(&attempt).await;
            let bulk = (0..200).map(|_| ("events.user.alice.bulk".to_owned(), vec![b'x'; 64 * 1024]));
            publisher.publish_all(bulk).await;
            let closed = "sidestream_connections_closed_total";
            front.app.metric_is(closed, &[("reason", "slow")], slow, Duration::from_secs(20)).await;
        }
    })
    .await;
}

/// Waits until sidestream has sent nothing for half a second, while there is more to send.
async fn nothing_moves(front: &Front) {
    let sent = async || front.app.metric("sidestream_bytes_sent_total", &[]).await;
    let mut last = (0.0, Instant::now());
    eventually("nothing moves", 2 * DEADLINE, async || {
        let now = sent().await;
        if now > last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(500)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn readers_that_stop_hold_up_nobody_on_the_same_connection() {
    bounded(async {
        // Together they leave more unread than a connection's usual window of a megabyte.
        const STOPPED: usize = 24;
        let setup = Setup { set: &["limits.write_timeout=60s"], ..Setup::default() };
        let Some(front) = Front::start("windows", Kind::EnvoyH2, setup).await else { return };
        let (project, quiet) = (Attempt::honest(), Attempt::honest().session(Session::AliceWithout("subjects")));
        let _stopped = join_all((0..STOPPED).map(|_| front.stream(&project))).await;
        let mut reading = front.stream(&quiet).await;
        let publisher = front.nats.publisher().await;
        let bulk = (0..100).map(|_| ("events.project.apollo.bulk".to_owned(), vec![b'x'; 64 * 1024]));
        publisher.publish_all(bulk).await;
        nothing_moves(&front).await;
        publisher.publish("events.user.alice.note", "not held up").await;
        reading.until("not held up").await;
    })
    .await;
}
