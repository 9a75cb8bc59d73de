//! One run's world: NATS, two sidecars on one stream, a publisher and clients, and what a fault may do to them.
//!
//! It says when the fault was over and hands out what the checker needs; what a fault does is in `kinds`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::client::{Addresses, Client, Log, Manner};
use super::disk::Disk;
use super::layout::{Layout, PATIENCE, STREAM, configs, create_stream};
use super::leaks::Baseline;
use super::publisher::{Publisher, USERS};
use super::servers::Servers;
use super::stored::Stored;
use super::support::cluster::Cluster;
use super::support::netns::Namespace;
use super::support::proxy::Proxy;
use super::support::{App, Config, Nats, Version, eventually};
use super::truth::Truth;

/// Clients; the first users are read for by two of them.
const CLIENTS: usize = 16;
/// If each is placed on one of three servers at random, one run in sixty does not meet all of them.
const READS: usize = 12;

/// A run's world.
pub struct World {
    /// Seeded; every choice of a fault comes from it.
    pub random: fastrand::Rng,
    /// NATS.
    pub servers: Servers,
    /// Around the server, where it has one.
    pub network: Option<Namespace>,
    /// A JetStream client with all rights, for what the fault does.
    pub jetstream: jetstream::Context,
    /// In front of the sidecars that have one.
    pub proxies: Vec<Proxy>,
    /// The sidecars.
    pub apps: Vec<Option<App>>,
    /// The load.
    pub publisher: Publisher,
    /// The readers.
    pub clients: Vec<Client>,
    /// What NATS itself has done wrong: then there is no truth to hold anything against.
    pub broken: Option<String>,
    addresses: Addresses,
    configs: Vec<Config>,
    layout: Layout,
    /// Outlives the server, whose store is on it.
    _disk: Disk,
}

impl World {
    /// Builds it and waits until every client hears something.
    pub async fn build(layout: Layout, version: Version, seed: u64) -> (Self, Baseline) {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = Disk::of(layout.disk_mib);
        let network = layout.namespace.then(|| Namespace::new("a world").expect("there was no obstacle"));
        let mut servers = Servers::start(layout, version, &disk, network.as_ref()).await;
        let jetstream = servers.jetstream().await;
        let mut proxies = Vec::new();
        let configs = configs(&mut servers, layout, &mut random, &mut proxies).await;
        let apps = [App::start(&configs[0]).await, App::start(&configs[1]).await];
        let baseline = super::leaks::baseline(&apps).await;
        let addresses: Addresses = Arc::new(Mutex::new(apps.iter().map(|app| app.address().to_owned()).collect()));
        let quick = |_| Duration::from_millis(50);
        let options = servers.options().reconnect_delay_callback(quick).ping_interval(Duration::from_secs(2));
        let client = options.connect(servers.urls()).await.expect("NATS accepts the publisher");
        let fill_max = [40, 300, 3000][random.usize(..3)];
        let publisher = Publisher::start(client, layout.rate, fill_max, random.fork());
        let clients = (0..CLIENTS).map(|index| {
            let user = format!("u{}", index % USERS);
            let manner = Manner { patience: [40, 250, 4000][index % 3], narrow: index % 4 == 3 };
            Client::start(format!("client {index} ({user})"), user, manner, addresses.clone(), random.fork())
        });
        let clients = clients.collect();
        let apps = apps.map(Some).into();
        let mut world = Self {
            random,
            servers,
            network,
            jetstream,
            proxies,
            apps,
            publisher,
            clients,
            broken: None,
            addresses,
            configs,
            layout,
            _disk: disk,
        };
        eventually("every client hears something", PATIENCE, async || {
            world.clients.iter().all(|client| client.look(|log| log.received().count() >= 15)).then_some(())
        })
        .await;
        world.linger(0, 700).await;
        (world, baseline)
    }

    /// The one server.
    pub fn nats(&mut self) -> &mut Nats {
        self.servers.one()
    }

    /// The three servers.
    pub fn cluster(&mut self) -> &mut Cluster {
        self.servers.three()
    }

    /// Lets a random time pass: the fault's own duration, or its place in the run.
    pub async fn linger(&mut self, from_ms: u64, to_ms: u64) {
        let length = self.random.u64(from_ms..=to_ms);
        tokio::time::sleep(Duration::from_millis(length)).await;
    }

    /// The fault is over now.
    pub fn heal(&self) {
        self.publisher.truth().healed = Some(Instant::now());
    }

    /// Another life of the stream begins, which holds the old one's messages up to `kept`. The publisher must be paused.
    pub fn next_life(&self, kept: u64) {
        self.next_life_since(Instant::now(), kept);
    }

    /// The same where only the server can say afterwards what it has kept.
    pub fn next_life_since(&self, began: Instant, kept: u64) {
        self.publisher.truth().next_life(began, kept);
    }

    /// A JetStream request that must succeed.
    pub async fn ask(&self, subject: &str, body: &Value) -> Value {
        let answer = self.try_ask(subject, body).await;
        assert!(answer.is_object() && answer["error"].is_null(), "{subject}: {answer}");
        answer
    }

    /// A JetStream request; a failure is `null` or an answer with an error.
    pub async fn try_ask(&self, subject: &str, body: &Value) -> Value {
        // Some requests must have an empty body, and `null` is none.
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.jetstream.client().request(format!("$JS.API.{subject}"), body.into()).await;
        answer.ok().and_then(|answer| serde_json::from_slice(&answer.payload).ok()).unwrap_or_default()
    }

    /// A question, asked until there is an answer: a cluster may have no leader for a moment.
    async fn question(&self, subject: &str) -> Value {
        eventually(subject, PATIENCE, async || {
            let answer = self.try_ask(subject, &Value::Null).await;
            (answer.is_object() && answer["error"].is_null()).then_some(answer)
        })
        .await
    }

    /// The stream as the server describes it.
    pub async fn stream(&self) -> Value {
        self.question(&format!("STREAM.INFO.{STREAM}")).await
    }

    /// The stream's first and last sequence.
    pub async fn bounds(&self) -> (u64, u64) {
        let state = &self.stream().await["state"];
        (state["first_seq"].as_u64().unwrap_or(0), state["last_seq"].as_u64().unwrap_or(0))
    }

    /// The names of the stream's consumers.
    pub async fn consumers(&self) -> Vec<String> {
        let answer = self.question(&format!("CONSUMER.NAMES.{STREAM}")).await;
        let names = answer["consumers"].as_array().cloned().unwrap_or_default();
        names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Creates the stream as it was at first.
    pub async fn create_stream(&self) {
        create_stream(&self.jetstream, self.layout).await;
    }

    /// Gives orders to every client whose index fits.
    pub fn order(&self, which: impl Fn(usize) -> bool, change: impl Fn(&mut super::client::Orders)) {
        for (_, client) in self.clients.iter().enumerate().filter(|(index, _)| which(*index)) {
            client.orders.send_modify(&change);
        }
    }

    /// Sends a signal to a sidecar.
    pub fn signal(&self, sidecar: usize, signal: Signal) {
        let app = self.apps[sidecar].as_ref().expect("the sidecar runs");
        let pid = i32::try_from(app.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our own child can be signalled");
    }

    /// How often the feeds and replays of the sidecars that run have broken off.
    pub fn interruptions(&self) -> usize {
        let lines = self.apps.iter().flatten().flat_map(App::log_json);
        let broken = |line: &Value| {
            ["Feed interrupted", "Feed not open", "Replay interrupted"]
                .contains(&line["message"].as_str().unwrap_or_default())
        };
        lines.filter(broken).count()
    }

    /// A sidecar that has ended is replaced by a new one.
    pub async fn replace(&mut self, sidecar: usize) {
        self.apps[sidecar] = None;
        let app = App::bound(&self.configs[sidecar]).await;
        self.addresses.lock().expect("no holder panics")[sidecar] = app.address().to_owned();
        self.apps[sidecar] = Some(app);
    }

    /// Waits until every client has heard something that was published after the fault; false where one has not.
    pub async fn has_healed(&self) -> bool {
        let healed = self.publisher.truth().healed.expect("the fault is over");
        self.is_heard_since(healed).await
    }

    /// Finds out whether the server can read what it acknowledges: 2.9 goes on behind the place where it has cut a damaged block
    /// off, and knows nothing of it until that block is full.
    pub async fn read_back(&mut self) {
        let seq = self.publisher.surely("events.broadcast.news", 0).await;
        let answer = self.try_ask(&format!("STREAM.MSG.GET.{STREAM}"), &json!({ "seq": seq })).await;
        if answer["error"]["code"] == 404 {
            self.broken = Some(format!("it cannot read {seq}, which it has just acknowledged"));
        }
    }

    /// The same for what was published after any moment.
    pub async fn is_heard_since(&self, since: Instant) -> bool {
        let started = Instant::now();
        loop {
            let truth = self.publisher.truth().clone();
            let after = |nonce: u64| truth.sent.get(&nonce).is_some_and(|sent| sent.at >= since);
            // The newest is enough: what matters is that there is one.
            let heard = |log: &Log| log.received().collect::<Vec<_>>().iter().rev().any(|(_, nonce)| after(*nonce));
            if self.clients.iter().all(|client| client.look(heard)) {
                return true;
            }
            if started.elapsed() > PATIENCE {
                return false;
            }
            drop(truth);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends the load with a last message, waits for everybody to hear it, and gives the truth, the logs, and what the servers
    /// do not agree on.
    pub async fn finish(&mut self) -> (Truth, Vec<Log>, Option<String>) {
        self.publisher.end().await;
        let started = Instant::now();
        while !self.clients.iter().all(Client::is_done) && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let login = self.layout.accounts.map_or(String::new(), |accounts| {
            format!(",\"user\":{:?},\"pass\":{:?}", accounts.admin[0], accounts.admin[1])
        });
        self.servers.whole().await;
        let (_, last) = self.bounds().await;
        let stored = super::stored::read(&self.servers, &login, STREAM, last).await;
        let discord = self.discord(&login, last, &stored).await;
        let mut truth = self.publisher.truth().clone();
        truth.read(stored.iter().map(|(seq, stored)| (*seq, stored.nonce)).collect(), last);
        let mut logs = Vec::new();
        for client in self.clients.drain(..) {
            logs.push(client.finish().await);
        }
        (truth, logs, discord)
    }

    /// Where three servers disagree about what the stream holds. A consumer runs on any of them: several
    /// are likely to meet them all.
    async fn discord(&self, login: &str, last: u64, stored: &BTreeMap<u64, Stored>) -> Option<String> {
        let reads = if self.layout.cluster { READS } else { 0 };
        for _ in 0..reads {
            let other = super::stored::read(&self.servers, login, STREAM, last).await;
            let place = stored.keys().chain(other.keys()).find(|seq| stored.get(seq) != other.get(seq));
            if let Some(seq) = place {
                return Some(format!("from {seq} on, {:?} and {:?}", stored.get(seq), other.get(seq)));
            }
        }
        None
    }
}
