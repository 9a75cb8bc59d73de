//! The examples, run: three publishers on a real server, and what they publish arrives at a browser's end of sidestream.

mod support;

use std::process::Stdio;

use support::*;

on_both_servers! {
    async fn every_publisher_reaches_alice(version: Version) {
        let nats = Nats::start(version).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/test.sh");
        let ran = tokio::process::Command::new(script)
            .env("NATS_URL", nats.url())
            .stdin(Stdio::null())
            .output()
            .await
            .expect("examples/test.sh is started");
        assert!(ran.status.success(), "{}\n{}", ran.status, String::from_utf8_lossy(&ran.stderr));
        for language in ["Rust", "Node", "Python"] {
            for name in ["note", "news"] {
                let event = alice.event().await;
                assert_eq!(event.name, name, "{language}: {event:?}");
                assert!(event.id.is_some() && !event.data.is_empty(), "{language}: {event:?}");
            }
        }
    }
}
