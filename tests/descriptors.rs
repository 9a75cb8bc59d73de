//! At the limit on open files: accepting pauses and costs nothing, streams flow, operators are answered, and as soon as there
//! are descriptors again everybody comes in.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{App, Config, DEADLINE, Nats, Publisher, Sse, Version, Wire, eventually, get};
use tokio::net::TcpStream;

/// `LimitNOFILE`.
const LIMIT: usize = 256;
/// Connections that come.
const COMERS: usize = 400;
/// Streams that must not notice.
const READERS: usize = 20;
/// CPU time is measured over this: at a hundred ticks a second a tenth of a core is twenty ticks.
const MEASURED: Duration = Duration::from_secs(2);
/// As soon as there are descriptors again, a client must be in within this.
const RECOVERY: Duration = Duration::from_secs(2);

async fn limited(config: &Config) -> App {
    let app = App::launch(config, |serve| {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg(format!("--nofile={LIMIT}")).arg(serve.get_program()).args(serve.get_args());
        prlimit
    })
    .await;
    app.ready().await;
    app
}

async fn readers(app: &App) -> Vec<Sse> {
    let mut readers = Vec::new();
    for n in 0..READERS {
        readers.push(app.events(&format!("reader{n}")).await);
    }
    readers
}

async fn all_hear(publisher: &Publisher, readers: &mut [Sse], what: &str) {
    publisher.publish("events.broadcast.news", what).await;
    for reader in readers {
        assert_eq!(reader.event().await.data, what);
    }
}

/// Streams flow, and what accepting costs meanwhile is nothing.
async fn streams_flow_at_no_cost(app: &App, publisher: &Publisher, readers: &mut [Sse], what: &str) {
    all_hear(publisher, readers, what).await;
    let (before, started) = (app.cpu(), Instant::now());
    // Measuring is what takes time here; nothing is waited for.
    tokio::time::sleep(MEASURED).await;
    let (used, within) = (app.cpu() - before, started.elapsed());
    println!("{what}: {used:?} of CPU in {within:?}, {} descriptors", app.descriptors());
    assert!(used < within / 10, "{used:?} of CPU in {within:?} while accepting pauses");
    all_hear(publisher, readers, "and afterwards").await;
}

/// A client is in within [`RECOVERY`].
async fn somebody_comes_in(app: &App, since: Instant) {
    eventually("a client is let in", RECOVERY, async || {
        let wire = Wire::tcp(app.address()).await;
        Sse::try_open(wire, &get("/events").user("late")).await.map(drop)
    })
    .await;
    println!("a client came in after {:?}", since.elapsed());
    assert!(since.elapsed() < RECOVERY);
}

#[tokio::test]
async fn connections_that_say_nothing_leave_descriptors_for_the_program() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = limited(&Config::on(&nats).server("header_timeout = \"5m\"\n")).await;
        println!("{} descriptors without clients", app.descriptors());
        let mut readers = readers(&app).await;
        let mut silent = Vec::new();
        for _ in 0..COMERS {
            // The kernel accepts for the program until its own queue is full.
            silent.push(TcpStream::connect(app.address()).await.expect("the kernel accepts"));
        }
        eventually("accepting pauses", DEADLINE, async || {
            (app.metric("sidestream_accept_pauses_total", &[]).await > 0.5).then_some(())
        })
        .await;
        streams_flow_at_no_cost(&app, &publisher, &mut readers, "full of silent ones").await;
        // The program has descriptors of its own left: it goes on by itself when NATS has been away, and answers operators.
        let open = app.descriptors();
        assert!(open > LIMIT / 2 && open + 8 < LIMIT, "{open} descriptors");
        let told = app.log_lines().iter().filter(|line| line.contains("Accepting pauses")).count();
        assert!((1..=4).contains(&told), "told {told} times");
        let freed = Instant::now();
        drop(silent);
        somebody_comes_in(&app, freed).await;
        all_hear(&publisher, &mut readers, "the end").await;
    })
    .await;
}

#[tokio::test]
async fn streams_past_the_limit_are_told_to_come_back() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = limited(&Config::on(&nats)).await;
        let mut readers = readers(&app).await;
        let opening = (0..COMERS).map(|n| {
            let app = &app;
            async move {
                let wire = Wire::tcp(app.address()).await;
                Sse::try_open(wire, &get("/events").user(&format!("comer{n}"))).await
            }
        });
        // Each is either let in or refused softly, which `try_open` checks.
        let open: Vec<Sse> = futures_util::future::join_all(opening).await.into_iter().flatten().collect();
        println!("{} of {COMERS} came in, {} descriptors", open.len(), app.descriptors());
        assert!(open.len() + READERS > LIMIT / 2 && open.len() + READERS < LIMIT - 64, "{} came in", open.len());
        app.ask(get("/events").user("late")).await.is_soft_refusal("connections");
        all_hear(&publisher, &mut readers, "in a full house").await;
        let freed = Instant::now();
        drop(open);
        somebody_comes_in(&app, freed).await;
    })
    .await;
}

#[tokio::test]
async fn without_any_descriptor_accepting_waits_and_recovers() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = limited(&Config::on(&nats)).await;
        let mut readers = readers(&app).await;
        // Not even what the program keeps for itself is left: somebody else has used it up.
        let limit = |soft: usize| {
            let set = Command::new("prlimit")
                .arg(format!("--pid={}", app.pid()))
                .arg(format!("--nofile={soft}:"))
                .status()
                .expect("prlimit is there");
            assert!(set.success(), "our own child's limit can be set");
        };
        limit(app.descriptors());
        let waiting = TcpStream::connect(app.address()).await.expect("the kernel accepts");
        app.logs("Accepting pauses", DEADLINE).await;
        streams_flow_at_no_cost(&app, &publisher, &mut readers, "no descriptor at all").await;
        let freed = Instant::now();
        limit(LIMIT);
        let mut wire = Wire::over(waiting);
        wire.send(&get("/events").user("waited").bytes()).await;
        Sse::opened(wire).await;
        println!("who waited came in after {:?}", freed.elapsed());
        assert!(freed.elapsed() < RECOVERY);
        somebody_comes_in(&app, freed).await;
    })
    .await;
}
