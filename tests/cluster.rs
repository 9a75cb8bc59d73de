//! A cluster of three servers loses a leader, a server, the server we read from: clients stay, and hear everything once.
//!
//! What a client may hear is compared with what the stream holds at the end, sequence by sequence. Direct Get is never
//! asked, so that a follower that lags cannot make us declare what is not missing. A consumer may run on such a follower.

mod support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use support::cluster::Cluster;
use support::delivered::delivered;
use support::load::{Discord, Load, Witness};
use support::proxy::Proxy;
use support::{App, Config, Nats, Version, eventually, expect, on_both_servers};

const PER_SECOND: u32 = 300;
/// How long healing may take once the cluster is whole.
const HEAL: Duration = Duration::from_secs(20);

/// A cluster with a stream, the program on it, clients and a load.
struct Scene {
    cluster: Cluster,
    /// The only way of the program to the servers.
    proxies: Vec<Proxy>,
    app: App,
    witnesses: Vec<Witness>,
    load: Load,
}

impl Scene {
    async fn set(version: Version) -> Self {
        let cluster = Cluster::start(version).await;
        cluster.events().await;
        let mut proxies = Vec::new();
        for url in cluster.urls() {
            let proxy = Proxy::to(url.trim_start_matches("nats://").to_owned()).await;
            proxy.keep();
            proxies.push(proxy);
        }
        let through: Vec<_> = proxies.iter().map(|proxy| format!("nats://{}", proxy.address)).collect();
        let app = App::start(&Config::at_any(&through)).await;
        let mut witnesses = Vec::new();
        for name in ["alice", "bob", "carol"] {
            witnesses.push(Witness::of(name, app.events(name).await));
        }
        let load = Load::start(cluster.jetstream().await, PER_SECOND);
        load.goes_on(200).await;
        Self { cluster, proxies, app, witnesses, load }
    }

    /// Ends the load when everything is whole again, and checks what everybody heard.
    async fn check(self) {
        self.check_unless_void().await.expect("the servers agree");
    }

    /// The same; an error where the servers disagree among themselves, which is nothing that could be checked.
    async fn check_unless_void(self) -> Result<(), Discord> {
        let Self { cluster, proxies, app, witnesses, load } = self;
        load.goes_on(100).await;
        cluster.healthy().await;
        load.goes_on(100).await;
        let stored = load.stop().await?;
        println!("{} events", stored.len());
        let mut heard = Vec::new();
        for witness in witnesses {
            heard.push(witness.hears_the_end().await);
        }
        agree(&proxies, &stored)?;
        for heard in heard {
            heard.is_exactly(&stored);
        }
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
        let opened = app.metric("sidestream_connections_total", &[]).await;
        assert!((opened - 3.0).abs() < 0.5, "a client had to reconnect");
        eventually("one consumer is left", HEAL, async || (cluster.consumers().await == 1).then_some(())).await;
        Ok(())
    }
}

/// An error where a server has told the program of another message at a sequence than the stream holds in the end.
fn agree(proxies: &[Proxy], stored: &[(u64, String)]) -> Result<(), Discord> {
    let stored: HashMap<u64, &str> = stored.iter().map(|(seq, data)| (*seq, data.as_str())).collect();
    let mut told = HashSet::new();
    for connection in proxies.iter().flat_map(Proxy::returned) {
        for (seq, data) in delivered(&connection, "EVENTS") {
            let held = stored.get(&seq);
            if held != Some(&data.as_str()) {
                return Err(Discord(format!("sequence {seq} was told to be {data:?} and is {held:?} in the end")));
            }
            told.insert(seq);
        }
    }
    assert_eq!(told.len(), stored.len(), "the proxies have not seen all of what the program was told");
    Ok(())
}

/// Attempts for a fault after which nats-server 2.9 may disagree with itself, in 3 of 62 runs (`docs/guarantees.md`).
const ATTEMPTS: usize = 3;

on_both_servers! {
    async fn a_consumer_on_a_server_that_lags_declares_nothing(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        let app = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
        let mut alice = app.events("alice").await;
        publisher.publish_all(expect::broadcasts(0..3)).await;
        expect::all("alice", &mut alice, &expect::numbered(0..3), HEAL).await;
        proxy.close();
        expect::degraded(&mut alice, HEAL).await;
        publisher.publish_all(expect::broadcasts(3..8)).await;
        // What such a server says of a new consumer: it has nothing yet of what its leader has.
        proxy.replace("\"num_pending\":5", "\"num_pending\":0");
        proxy.open();
        expect::ok_and_all(&mut alice, &expect::numbered(3..8), HEAL).await;
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn a_leader_that_steps_down_loses_nothing(version: Version) {
        let scene = Scene::set(version).await;
        for _ in 0..3 {
            scene.cluster.step_down().await;
            scene.load.goes_on(150).await;
        }
        scene.check().await;
    }

    async fn a_killed_leader_loses_nothing(version: Version) {
        let mut scene = Scene::set(version).await;
        let leader = scene.cluster.leader().await;
        scene.cluster.kill(leader);
        scene.load.goes_on(200).await;
        scene.cluster.restart(leader);
        scene.check().await;
    }

    async fn a_killed_host_of_the_consumer_loses_nothing(version: Version) {
        let mut scene = Scene::set(version).await;
        let host = scene.cluster.host_of_consumer().await;
        scene.cluster.kill(host);
        scene.load.goes_on(200).await;
        scene.cluster.restart(host);
        scene.check().await;
    }

    async fn a_hung_server_of_three_loses_nothing(version: Version) {
        for _ in 0..ATTEMPTS {
            let scene = Scene::set(version).await;
            // The one we read from, which as likely as not leads nothing.
            let ours = scene.cluster.node_of("sidestream-feed-EVENTS").await;
            scene.cluster.pause(ours);
            scene.load.goes_on(600).await;
            scene.cluster.resume(ours);
            // A follower that has hung lags behind: what it does not have yet is not missing.
            match scene.check_unless_void().await {
                Ok(()) => return,
                Err(Discord(why)) => println!("*** VOID, tried again: {why}"),
            }
        }
        panic!("NATS disagreed with itself {ATTEMPTS} times");
    }

    async fn a_lame_duck_is_left_for_another_without_loss(version: Version) {
        let mut scene = Scene::set(version).await;
        let ours = scene.cluster.node_of("sidestream-feed-EVENTS").await;
        scene.cluster.lame_duck(ours);
        eventually("the lame duck has gone", Duration::from_secs(60), async || {
            scene.cluster.has_ended(ours).then_some(())
        })
        .await;
        assert_ne!(scene.cluster.node_of("sidestream-feed-EVENTS").await, ours);
        scene.load.goes_on(200).await;
        scene.cluster.restart(ours);
        scene.check().await;
    }
}
