//! What the tests share: real NATS servers, the real program, raw clients, and a TCP proxy that misbehaves on request.
//!
//! Nothing here sleeps to give something time to happen: helpers wait for a condition, under a deadline, and a deadline
//! that passes fails the test. That something was *not* delivered is shown by a later marker that arrives first.

// Every test file compiles its own copy and uses a part of it.
#![allow(dead_code, unreachable_pub, unused_macros, unused_imports)]

pub mod app;
pub mod client;
pub mod cluster;
pub mod command;
pub mod delivered;
pub mod edge;
pub mod expect;
pub mod frames;
pub mod h2;
pub mod load;
pub mod machine;
pub mod nats;
pub mod netns;
pub mod ports;
pub mod process;
pub mod program;
pub mod proxy;
pub mod sidecars;
pub mod tls;

use std::future::Future;
use std::time::{Duration, Instant};

pub use app::{App, Config};
pub use client::{Request, Sse, Wire, get};
pub use nats::{Nats, Publisher, Version};
pub use sidestream::sse::Event;

/// How long one step of a test may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// How long a whole test may take.
pub const TEST_DEADLINE: Duration = Duration::from_secs(240);

/// Asks `probe` again and again until it gives a value; panics with `what` when the deadline passes.
pub async fn eventually<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The sequence in a cursor `<epoch>.<seq>.<time>`.
pub fn seq_of(cursor: &str) -> u64 {
    let seq = cursor.split('.').nth(1).unwrap_or_else(|| panic!("not a cursor: {cursor:?}"));
    u64::from_str_radix(seq, 36).unwrap_or_else(|e| panic!("not a cursor: {cursor:?}: {e}"))
}

/// The data of an event of ours.
pub fn json(event: &Event) -> serde_json::Value {
    serde_json::from_str(&event.data)
        .unwrap_or_else(|e| panic!("{} has no JSON data: {:?}: {e}", event.name, event.data))
}

/// A seed for a random run, printed so that a failing run can be repeated with `SIDESTREAM_TEST_SEED`.
pub fn seed() -> u64 {
    let seed =
        std::env::var("SIDESTREAM_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed: SIDESTREAM_TEST_SEED={seed}");
    seed
}

/// Declares each test twice: on Debian's NATS server and on a current one.
macro_rules! on_both_servers {
    ($($(#[$meta:meta])* async fn $name:ident($version:ident: Version) $body:block)*) => {
        $(
            $(#[$meta])*
            mod $name {
                #[allow(unused_imports)]
                use super::*;

                async fn body($version: Version) $body

                #[tokio::test]
                async fn on_nats_2_9() {
                    support::bounded(body(support::Version::Debian)).await;
                }

                #[tokio::test]
                async fn on_current_nats() {
                    support::bounded(body(support::Version::Current)).await;
                }
            }
        )*
    };
}
pub(crate) use on_both_servers;

/// The same for tests that wait most of the time: each runs on both servers at the same time.
macro_rules! on_both_servers_at_once {
    ($($(#[$meta:meta])* async fn $name:ident($version:ident: Version) $body:block)*) => {
        $(
            $(#[$meta])*
            #[tokio::test]
            async fn $name() {
                async fn body($version: Version) $body
                support::bounded(async {
                    tokio::join!(body(support::Version::Debian), body(support::Version::Current));
                })
                .await;
            }
        )*
    };
}
pub(crate) use on_both_servers_at_once;

/// Says on the real standard error, which the test harness does not capture, that a test has shown nothing. `scripts/test`
/// gathers these lines at its end.
pub fn skipped(test: &str, why: &str) {
    use std::io::Write as _;
    let line = format!("SKIPPED: {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os("SIDESTREAM_SKIPPED") {
        let file = std::fs::File::options().create(true).append(true).open(file);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skipped tests can be written");
    }
}

/// Runs a test under [`TEST_DEADLINE`].
pub async fn bounded(test: impl Future<Output = ()>) {
    let test = Box::pin(test);
    assert!(tokio::time::timeout(TEST_DEADLINE, test).await.is_ok(), "the test took longer than {TEST_DEADLINE:?}");
}
