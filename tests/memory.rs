//! The memory budget: flooded readers that do not read cannot bring the process down, who reads loses nothing by it, nor does
//! who is put out, and when they have gone there is room again.
//!
//! The bound is the kernel's: a control group of 256 MiB, below this process's own (version 1) or in the directory that
//! `SIDESTREAM_TEST_CGROUP` names (version 2, with the memory controller). Where none can be made, that is said, and resident
//! memory must stay below the same bound.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{App, Config, DEADLINE, Nats, Publisher, Sse, Version, Wire, eventually, get};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const BOUND: u64 = 256 << 20;
/// 80 % of the bound, as a cgroup's limit would give by itself.
const BUDGET: u64 = BOUND / 10 * 8;
const STALLED: usize = 3000;
/// Of these what arrived is read later.
const SAMPLE: usize = 20;
const HEALTHY: usize = 10;
/// Events of 15 KiB to each stalled reader: together far more than the bound. (16 KiB and a few bytes are 20 KiB to the allocator.)
const ROUNDS: usize = 9;
const EVENT: usize = 15 * 1024;

/// The kernel's bound around the program.
struct Bound {
    /// Absent where no group can be made.
    group: Option<PathBuf>,
}

impl Bound {
    fn new() -> Self {
        let group = std::env::var_os("SIDESTREAM_TEST_CGROUP").map(PathBuf::from).or_else(own_group);
        let group = group.and_then(|parent| make_group(&parent).ok());
        if group.is_none() {
            support::skipped("memory under a bound of the kernel", "no control group can be made here");
        }
        Self { group }
    }

    /// The command under the bound.
    fn around(&self, serve: &Command) -> Command {
        let Some(group) = &self.group else {
            let mut plain = Command::new(serve.get_program());
            plain.args(serve.get_args());
            return plain;
        };
        let mut shell = Command::new("sh");
        let enter = format!("echo $$ > {} && exec \"$@\"", group.join("cgroup.procs").display());
        shell.args(["-c", &enter, "sh"]).arg(serve.get_program()).args(serve.get_args());
        shell
    }

    /// How often the kernel killed in it.
    fn kills(&self) -> u64 {
        let Some(group) = &self.group else { return 0 };
        let file =
            ["memory.events", "memory.oom_control"].map(|name| group.join(name)).into_iter().find(|f| f.exists());
        let events = std::fs::read_to_string(file.expect("the kernel tells")).expect("our own group");
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.expect("oom_kill is told").parse().expect("a number")
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// The group of this process, where version 1 has the memory controller: groups may be made below it. (In version 2 a group
/// with processes has no groups with controllers below it.)
fn own_group() -> Option<PathBuf> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = membership.lines().find_map(|line| line.split_once(":memory:"))?.1;
    Some(Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')))
}

fn make_group(parent: &Path) -> std::io::Result<PathBuf> {
    let group = parent.join(format!("sidestream-{}", std::process::id()));
    std::fs::create_dir(&group)?;
    let limit = ["memory.max", "memory.limit_in_bytes"].map(|name| group.join(name)).into_iter().find(|f| f.exists());
    std::fs::write(limit.ok_or(std::io::ErrorKind::Unsupported)?, BOUND.to_string())?;
    // Only there where swap is accounted for.
    let _ = std::fs::write(group.join("memory.swap.max"), "0");
    Ok(group)
}

/// A reader that asks and never reads, on a socket whose kernel takes little.
async fn stalled(address: &str, user: usize) -> TcpStream {
    let mut socket = support::client::narrow(address).await;
    socket.write_all(&get("/events").user(&format!("stalled{user}")).bytes()).await.expect("the request is taken");
    socket
}

fn subject(user: usize) -> String {
    format!("events.user.stalled{user}.flood")
}

/// One event for each stalled reader, then one for everybody, which the healthy wait for.
async fn round(publisher: &Publisher, healthy: &mut [Sse], n: usize) {
    for users in (0..STALLED).step_by(200) {
        let flood = (users..users + 200).map(|user| (subject(user), format!("{n} {}", "x".repeat(EVENT)).into_bytes()));
        publisher.publish_all(flood).await;
    }
    publisher.publish("events.broadcast.round", n.to_string()).await;
    for sse in healthy {
        assert_eq!(sse.event().await.data, n.to_string(), "a healthy reader");
    }
}

#[tokio::test]
async fn a_flood_to_readers_that_do_not_read_stays_within_the_budget() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let bound = Bound::new();
        // Only memory may end them. The budget is what the bound would give by itself where it is a cgroup's.
        let automatic = bound.group.is_some();
        let config = Config::on(&nats)
            .limit("write_timeout", "\"10m\"")
            .limit("memory", &if automatic { "0".to_owned() } else { BUDGET.to_string() })
            .tables("\n[history]\nbytes = \"16MiB\"\n");
        let mut app = App::launch(&config, |serve| bound.around(&serve)).await;
        app.ready().await;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        app.metric_is("sidestream_memory_budget_bytes", &[], BUDGET as f64, DEADLINE).await;

        let mut healthy = Vec::new();
        for n in 0..HEALTHY {
            let mut sse = app.events(&format!("healthy{n}")).await;
            sse.forget_raw();
            healthy.push(sse);
        }
        let mut sample = Vec::new();
        for user in 0..SAMPLE {
            let wire = Wire::narrow(app.address()).await;
            sample.push(Sse::open(wire, &get("/events").user(&format!("stalled{user}"))).await);
        }
        let mut others = Vec::new();
        for users in (SAMPLE..STALLED).step_by(100) {
            let users = users..STALLED.min(users + 100);
            others.extend(futures_util::future::join_all(users.map(|user| stalled(app.address(), user))).await);
        }
        #[allow(clippy::cast_precision_loss, reason = "three thousand")]
        app.metric_is("sidestream_connections", &[], (STALLED + HEALTHY) as f64, DEADLINE).await;

        for n in 0..ROUNDS {
            round(&publisher, &mut healthy, n).await;
            report(&app, n).await;
        }
        // At one moment: evictions go on.
        let metrics = app.metrics().await;
        let evicted = metrics.sum("sidestream_connections_closed_total", &[("reason", "memory")]);
        assert!(evicted >= 1.0, "nobody was put out");
        let left = metrics.sum("sidestream_queue_bytes", &[]);
        assert!(left > BUDGET as f64 / 2.0, "{evicted} put out, more than needed: {left} bytes are left");
        let ended = metrics.sum("sidestream_connections_closed_total", &[]);
        assert!((ended - evicted).abs() < 0.5, "{} ended for another reason", ended - evicted);

        // Over the budget: whoever comes is told to come back, in its own way.
        // `try_open` ends with the head where the stream is let in, `ask` would wait for the end of it.
        let let_in = Sse::try_open(Wire::tcp(app.address()).await, &get("/events").user("late")).await.is_some();
        assert!(!let_in, "let in over the budget");
        app.ask(get("/events").user("late")).await.is_soft_refusal("memory");
        let answer = app.ask(get("/events").user("late").without("Accept").header("Accept", "*/*")).await;
        assert_eq!(answer.head.status, 503, "{:?}", answer.head);
        assert_eq!(answer.head.header("sidestream-refused"), Some("memory"));
        assert!(answer.head.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()), "{:?}", answer.head);

        drop(others);
        eventually("a new client is let in", DEADLINE, async || {
            let wire = Wire::tcp(app.address()).await;
            Sse::try_open(wire, &get("/events").user("late")).await.map(drop)
        })
        .await;
        report(&app, ROUNDS).await;

        // Put out or not, nobody has lost anything.
        let sample = sample.into_iter().enumerate();
        futures_util::future::join_all(sample.map(|(user, sse)| everything_arrives(&app, user, sse))).await;
        publisher.publish("events.broadcast.round", "the end").await;
        for sse in &mut healthy {
            assert_eq!(sse.event().await.data, "the end");
        }
        assert_eq!(bound.kills(), 0, "the kernel killed");
        assert!(app.peak_resident() < BOUND, "{} bytes were resident", app.peak_resident());
        app.terminate();
        assert!(app.exit(DEADLINE).await.success(), "it was the same process all the time");
    })
    .await;
}

/// Reads what a stalled reader was sent, across its eviction if there was one.
async fn everything_arrives(app: &App, user: usize, mut sse: Sse) {
    let wanted = (0..ROUNDS).flat_map(|n| [format!("{n} {}", "x".repeat(EVENT)), n.to_string()]);
    let mut wanted = wanted.collect::<Vec<_>>().into_iter();
    let mut connections = 1;
    while wanted.len() > 0 {
        match sse.try_next(DEADLINE).await {
            Some(event) if event.name.starts_with("sidestream.h") => {}
            Some(event) => assert_eq!(Some(event.data), wanted.next(), "stalled{user}: {}", event.name),
            None => {
                connections += 1;
                assert!(connections <= 2, "stalled{user} is put out again and again");
                let cursor = sse.last_event_id().to_owned();
                let request = get("/events").user(&format!("stalled{user}")).header("Last-Event-ID", &cursor);
                sse = app.stream(request).await;
                assert_eq!(sse.resume(), "exact");
            }
        }
    }
}

async fn report(app: &App, round: usize) {
    let metrics = app.metrics().await;
    let mib = |name: &str| metrics.sum(name, &[]) / f64::from(1 << 20);
    println!(
        "round {round}: resident {} MiB, used {:.0}, frames {:.0}, queued {:.0}, {} streams, {} put out",
        app.resident() >> 20,
        mib("sidestream_memory_used_bytes"),
        mib("sidestream_frames_bytes"),
        mib("sidestream_queue_bytes"),
        metrics.sum("sidestream_connections", &[]),
        metrics.sum("sidestream_connections_closed_total", &[("reason", "memory")]),
    );
}
