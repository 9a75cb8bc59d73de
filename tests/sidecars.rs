//! Three sidecars on one NATS: what is counted over all of them, and whether the sum is whole.
//!
//! A sidecar that hangs, that was killed, that has ended in order; one that has lost NATS.

mod support;

use std::time::Duration;

use support::command::run;
use support::{App, Config, DEADLINE, Nats, Sse, Version, eventually, on_both_servers};

/// After so long a silence a sidecar is off the roll, and what a busy machine may add.
const OFF_THE_ROLL: Duration = Duration::from_secs(25);

/// Three sidecars that know each other, and a client of alice on each.
struct Scene {
    nats: Nats,
    apps: Vec<App>,
    clients: Vec<Sse>,
}

impl Scene {
    async fn set(version: Version) -> Self {
        let nats = Nats::start(version).await;
        nats.events().await;
        let mut scene = Self { nats, apps: Vec::new(), clients: Vec::new() };
        for _ in 0..3 {
            scene.add().await;
        }
        scene.is_counted(3, true).await;
        scene
    }

    async fn add(&mut self) {
        let app = App::start(&Config::on(&self.nats)).await;
        self.clients.push(app.events("alice").await);
        self.apps.push(app);
    }

    /// `sidestream notify alice`: how many hear it, and whether all were counted.
    async fn notify(&self) -> (u64, bool) {
        let nats = format!("nats.servers=[{:?}]", self.nats.url());
        let route = r#"route=[{path="/events",stream="EVENTS",subjects=["events.user.{user}.>"],audience="user"}]"#;
        let ran = run(&["notify", "alice", "x", "--set", &nats, "--set", route]).await.ends_with(0);
        let answer: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        (answer["sent"].as_u64().expect("a number"), answer["complete"].as_bool().expect("a truth"))
    }

    async fn is_counted(&self, sent: u64, complete: bool) {
        eventually("the sum is whole", OFF_THE_ROLL, async || (self.notify().await == (sent, complete)).then_some(()))
            .await;
    }
}

on_both_servers! {
    async fn a_hung_sidecar_makes_the_sum_incomplete(version: Version) {
        let scene = Scene::set(version).await;
        scene.apps[2].pause();
        assert_eq!(scene.notify().await, (2, false));
        scene.apps[2].resume();
        scene.is_counted(3, true).await;
    }

    async fn a_killed_sidecar_is_missed_until_it_is_off_the_roll(version: Version) {
        let mut scene = Scene::set(version).await;
        scene.apps[1].kill();
        assert_eq!(scene.notify().await, (2, false));
        scene.is_counted(2, true).await;
        // Another in its place is counted at once.
        scene.add().await;
        scene.is_counted(3, true).await;
    }

    async fn a_sidecar_that_ends_in_order_is_not_missed(version: Version) {
        let mut scene = Scene::set(version).await;
        scene.apps[0].terminate();
        assert!(scene.apps[0].exit(DEADLINE).await.success());
        assert_eq!(scene.notify().await, (2, true));
    }

    async fn the_roll_outlives_nats(version: Version) {
        let mut scene = Scene::set(version).await;
        scene.nats.restart().await;
        scene.is_counted(3, true).await;
        scene.apps[2].pause();
        assert_eq!(scene.notify().await, (2, false), "known as before the outage");
        scene.apps[2].resume();
    }
}
