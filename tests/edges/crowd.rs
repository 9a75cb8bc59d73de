//! Many streams through one proxy, which is more than the defaults of nginx and Envoy let through, and among them a reader that has
//! stopped: it is put out, and all others get their events.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;

use crate::attempt::Attempt;
use crate::front::{Front, Setup};
use crate::kind::Kind;
use crate::session::Session;
use crate::streams::is_retry;
use crate::support::bounded;
use crate::tap::Reply;

/// Streams at a time. nginx's 768 connections of a worker are 384 streams, Envoy's circuit breaker opens at 1024.
const STREAMS: usize = 1200;
/// Opened at a time.
const AT_ONCE: usize = 100;
/// What the reader that has stopped leaves unread: more than all buffers on the way hold.
const BULK: usize = 400;

#[tokio::test]
async fn a_crowd_behind_nginx() {
    crowds(&[Kind::Nginx, Kind::NginxAccel]).await;
}

#[tokio::test]
async fn a_crowd_behind_envoy() {
    crowds(&[Kind::Envoy, Kind::EnvoyH2, Kind::EnvoyJwt]).await;
}

#[tokio::test]
async fn a_crowd_behind_haproxy() {
    crowds(&[Kind::Haproxy]).await;
}

#[tokio::test]
async fn a_crowd_behind_caddy() {
    crowds(&[Kind::Caddy]).await;
}

#[tokio::test]
async fn nginx_spares_the_application() {
    bounded(async {
        for kind in [Kind::Nginx, Kind::NginxAccel] {
            let setup = Setup { limited: true, ..Setup::default() };
            let Some(front) = Front::start("limits of nginx", kind, setup).await else { return };
            let honest = Attempt::honest();
            let replies = join_all((0..400).map(|_| front.attempt(&honest))).await;
            let served = replies.iter().filter(|(reply, _)| *reply == Reply::Stream).count();
            assert!((100..=200).contains(&served), "{kind:?}: {served} streams of one address");
            for (reply, _) in replies.iter().filter(|(reply, _)| *reply != Reply::Stream) {
                assert!(matches!(reply, Reply::Answer(200, body) if is_retry(body)), "{kind:?}: {reply:?}");
            }
            let asked = front.application.take_heads().len();
            assert_eq!(asked, served, "{kind:?}: the application was asked about others as well");
        }
    })
    .await;
}

async fn crowds(kinds: &[Kind]) {
    bounded(async {
        for kind in kinds {
            crowd(*kind).await;
        }
    })
    .await;
}

async fn crowd(kind: Kind) {
    let setup = Setup { set: &["limits.write_timeout=3s"], ..Setup::default() };
    let Some(front) = Front::start("crowds", kind, setup).await else { return };
    // All but one hear nothing of the project.
    let quiet = Attempt::honest().session(Session::AliceWithout("subjects"));
    let opening = (0..STREAMS).map(|_| front.stream(&quiet));
    let taps: Vec<_> = futures_util::stream::iter(opening).buffer_unordered(AT_ONCE).collect().await;
    let _stopped = front.stream(&Attempt::honest()).await;

    let publisher = front.nats.publisher().await;
    let bulk = (0..BULK).map(|_| ("events.project.apollo.bulk".to_owned(), vec![b'x'; 64 * 1024]));
    publisher.publish_all(bulk).await;
    publisher.publish("events.broadcast.news", "for-everybody").await;
    for mut tap in taps {
        let body = tap.until("for-everybody").await;
        assert_eq!(body.matches("for-everybody").count(), 1, "{kind:?}: {body}");
        assert!(!body.contains("bulk"), "{kind:?}");
    }
    let closed = "sidestream_connections_closed_total";
    front.app.metric_is(closed, &[("reason", "slow")], 1.0, Duration::from_secs(30)).await;
}
