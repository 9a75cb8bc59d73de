//! NATS cannot do what it should, though it runs: the network swallows everything, the disk is full, there are too many
//! consumers, it is too old. And ten sidecars that have lost it do not return all at once.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::expect::{self, broadcasts, numbered};
use support::load::{Load, Witness};
use support::nats::Setup;
use support::netns::Namespace;
use support::{
    App, Config, DEADLINE, Nats, Sse, Version, Wire, eventually, get, json as data_of, on_both_servers_at_once, skipped,
};
use tokio::net::TcpListener;

/// How long healing may take once the cause is gone.
const HEAL: Duration = Duration::from_secs(25);

/// A file system of its own, of so many MiB. Dropping it unmounts it.
struct Disk {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    fn of(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("disk");
        std::fs::create_dir(&path).expect("a directory");
        mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], &path).then_some(Self { path, _dir: dir })
    }

    fn grow(&self, mib: u32) {
        assert!(mount(&["-o", &format!("remount,size={mib}m")], &self.path), "our own file system");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).output().is_ok_and(|output| output.status.success())
}

async fn no_gap(app: &App) {
    assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
}

on_both_servers_at_once! {
    async fn a_partition_without_a_reset_loses_nothing(version: Version) {
        let Some(network) = Namespace::new("a_partition_without_a_reset_loses_nothing") else { return };
        let setup = Setup { prefix: network.prefix(), host: Some(network.address.clone()), ..Setup::default() };
        let nats = Nats::start_as(version, setup).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        let mut witnesses = Vec::new();
        for name in ["bob", "carol"] {
            witnesses.push(Witness::of(name, app.events(name).await));
        }
        let load = Load::start(publisher.jetstream().clone(), 200);
        load.goes_on(100).await;
        network.link_down();
        let down = Instant::now();
        alice.until_named("sidestream.degraded", Duration::from_secs(15)).await;
        println!("noticed after {:?}", down.elapsed());
        // On the other side life goes on.
        let there = [format!("nats.servers=[\"nats://127.0.0.1:{}\"]", nats.port())];
        let mut inside = network.prefix();
        inside.extend([env!("CARGO_BIN_EXE_sidestream"), "publish", "events.broadcast.x", "there", "--set"].map(str::to_owned));
        inside.extend(there);
        for _ in 0..3 {
            let published = Command::new(&inside[0]).args(&inside[1..]).output().expect("ip runs");
            assert!(published.status.success(), "{published:?}");
        }
        // The partition itself.
        tokio::time::sleep(Duration::from_secs(20).saturating_sub(down.elapsed())).await;
        network.link_up();
        alice.until_named("sidestream.ok", HEAL).await;
        load.goes_on(100).await;
        let stored = load.stop().await.expect("one server agrees with itself");
        for witness in witnesses {
            assert_eq!(witness.heard_exactly(&stored).await, 1);
        }
        no_gap(&app).await;
    }

    async fn a_full_disk_ends_nobody_and_nothing_false_is_told(version: Version) {
        let test = "a_full_disk_ends_nobody_and_nothing_false_is_told";
        let Some(disk) = Disk::of(16) else { return skipped(test, "needs root to mount a small file system") };
        let setup = Setup { store: Some(disk.path.clone()), config: Some(String::new()), ..Setup::default() };
        let mut nats = Nats::start_as(version, setup).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables("\n[history]\nbytes = \"64KiB\"\n")).await;
        let mut alice = app.events("alice").await;
        let start = alice.connected.id.clone().expect("a cursor");
        publisher.publish_all(broadcasts(0..10)).await;
        expect::all("alice", &mut alice, &numbered(0..10), DEADLINE).await;

        // For bob alone, until no more is taken.
        let fill = "x".repeat(100_000);
        let mut filled = 0;
        loop {
            let sent = publisher.jetstream().publish("events.user.bob.x", fill.clone().into()).await;
            if sent.expect("NATS takes the message").await.is_err() {
                break;
            }
            filled += 1;
            assert!(filled < 1000, "the disk does not fill");
        }
        println!("full after {filled}");
        assert!(publisher.jetstream().publish("events.broadcast.news", "x".into()).await.expect("sent").await.is_err());
        assert_eq!(app.admin_get("/livez").await.head.status, 200);

        // Room is made. A server that has put JetStream out of service needs to be started again.
        disk.grow(64);
        nats.restart().await;
        let publisher = nats.publisher().await;
        publisher.purge_keeping("EVENTS", 5).await;
        publisher.publish_all(broadcasts(10..20)).await;
        expect::all("alice", &mut alice, &numbered(10..20), HEAL).await;
        no_gap(&app).await;
        // Only who missed what was purged is told.
        let request = get("/events").user("alice").header("Last-Event-ID", &start);
        let mut late = Sse::open(Wire::tcp(app.address()).await, &request).await;
        let gap = late.event_within(HEAL).await;
        assert_eq!(data_of(&gap)["reason"], "purged", "{gap:?}");
        expect::all("late", &mut late, &numbered(10..20), HEAL).await;
    }

    async fn too_many_consumers_are_told_and_heal_when_one_goes(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.publisher().await;
        let jetstream = publisher.jetstream();
        let config = json!({"name": "EVENTS", "subjects": ["events.>"], "retention": "limits", "storage": "file",
            "max_consumers": 1, "max_msgs": -1, "max_bytes": -1, "num_replicas": 1});
        let created: Value = jetstream.request("STREAM.CREATE.EVENTS", &config).await.expect("an answer");
        assert!(created["error"].is_null(), "{created}");
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        publisher.publish_all(broadcasts(0..5)).await;
        expect::all("alice", &mut alice, &numbered(0..5), DEADLINE).await;

        publisher.delete_consumers("EVENTS").await;
        let other = json!({"stream_name": "EVENTS", "config": {"durable_name": "other", "ack_policy": "none"}});
        let taken: Value = jetstream.request("CONSUMER.DURABLE.CREATE.EVENTS.other", &other).await.expect("an answer");
        assert!(taken["error"].is_null(), "{taken}");
        publisher.publish_all(broadcasts(5..10)).await;
        expect::degraded(&mut alice, Duration::from_secs(10)).await;
        app.logs("maximum consumers limit reached", DEADLINE).await;
        publisher.delete_consumers("EVENTS").await;
        expect::ok_and_all(&mut alice, &numbered(5..10), HEAL).await;
        no_gap(&app).await;
    }

    async fn an_old_server_is_warned_of(version: Version) {
        let nats = Nats::start(version).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let old = if version == Version::Debian { 1.0 } else { 0.0 };
        app.metric_is("sidestream_nats_server_outdated", &[], old, DEADLINE).await;
        assert!(app.metrics().await.has("sidestream_nats_server_outdated"));
        let warned = app.log_lines().iter().any(|line| line.contains("known security faults"));
        assert_eq!(warned, version == Version::Debian);
    }
}

/// Accepts and closes at once, and notes when.
async fn busy_signal(port: u16) -> (Arc<Mutex<Vec<Instant>>>, tokio::task::JoinHandle<()>) {
    let listener =
        eventually("the port is free", DEADLINE, async || TcpListener::bind(("127.0.0.1", port)).await.ok()).await;
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let noted = accepted.clone();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            noted.lock().expect("no holder panics").push(Instant::now());
            drop(stream);
        }
    });
    (accepted, task)
}

#[tokio::test]
async fn ten_sidecars_do_not_return_all_at_once() {
    support::bounded(async {
        const SIDECARS: usize = 10;
        // Each has four.
        const CONNECTIONS: usize = 4 * SIDECARS;
        let mut nats = Nats::start(Version::Current).await;
        nats.events().await;
        let mut apps = Vec::new();
        for _ in 0..SIDECARS {
            apps.push(App::start(&Config::on(&nats)).await);
        }
        // All of them lose it in the same moment, and somebody else answers for ten seconds.
        nats.kill();
        let lost = Instant::now();
        let (accepted, task) = busy_signal(nats.port()).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        task.abort();
        let _ = task.await;
        let accepted: Vec<Duration> =
            accepted.lock().expect("no holder panics").iter().map(|at| at.duration_since(lost)).collect();
        let within = |from: u64, to: u64| {
            let range = Duration::from_millis(from)..Duration::from_millis(to);
            accepted.iter().filter(|at| range.contains(*at)).count()
        };
        let by_second: Vec<usize> = (0..10).map(|s| within(s * 1000, s * 1000 + 1000)).collect();
        println!("attempts by second: {by_second:?}");
        assert!(by_second[0] <= 4 * CONNECTIONS, "{by_second:?}");
        assert!(by_second[5..].iter().sum::<usize>() <= 5 * CONNECTIONS, "they do not back off: {by_second:?}");
        assert!(by_second[5..].iter().sum::<usize>() >= CONNECTIONS / 2, "they have given up: {by_second:?}");
        // Late enough to have drifted apart: not all in the same tenth of a second.
        let most = (30..100).map(|tenth| within(tenth * 100, tenth * 100 + 100)).max().unwrap_or_default();
        assert!(most <= CONNECTIONS / 2, "{most} of {CONNECTIONS} at once");

        nats.restart().await;
        for app in &apps {
            app.metric_is("sidestream_nats_connected", &[], 1.0, DEADLINE).await;
        }
    })
    .await;
}
