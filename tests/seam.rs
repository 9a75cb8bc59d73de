//! The seam between replay and live, under load and faults: clients that come and go at random, between two sidecars, see
//! one exact sequence. Prints its seed; `SIDESTREAM_SEED=N` repeats a run.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::proxy::Proxy;
use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, get, on_both_servers};

const USERS: usize = 20;
const CLIENTS: usize = 40;
const MESSAGES: usize = 24_000;
const END: &str = "the end";

/// Small, fast and seeded; the numbers need no quality.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn seed() -> u64 {
    let given = std::env::var("SIDESTREAM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + 1);
    println!("seed {seed} (repeat with SIDESTREAM_SEED={seed})");
    seed
}

/// Whom the messages go to: a user, or everybody.
fn plan(random: &mut Random) -> Vec<Option<usize>> {
    (0..MESSAGES).map(|_| (random.below(10) > 0).then(|| random.below(USERS as u64) as usize)).collect()
}

fn message(number: usize, to: Option<usize>) -> (String, Vec<u8>) {
    let subject = to.map_or("events.broadcast.x".to_owned(), |user| format!("events.user.u{user}.x"));
    (subject, format!("{number} {}", "y".repeat(number * 37 % 700)).into_bytes())
}

/// Reads what a client of `user` must see, reconnecting at random to either sidecar.
async fn client(
    user: usize,
    addresses: Arc<[String]>,
    expected: Vec<usize>,
    mut random: Random,
    started: Arc<tokio::sync::Barrier>,
) {
    let mut last_id = None::<String>;
    let mut expected = expected.into_iter();
    let mut connections = 0;
    loop {
        let address = &addresses[random.below(addresses.len() as u64) as usize];
        let mut request = get("/events").user(&format!("u{user}"));
        if let Some(id) = &last_id {
            request = request.header("Last-Event-ID", id);
        }
        // Soft refusals are part of a client's life: it comes back.
        let Some(mut sse) = Sse::try_open(Wire::tcp(address).await, &request).await else { continue };
        sse.forget_raw();
        let wanted = if last_id.is_none() { "new" } else { "exact" };
        if sse.resume() == "gap" {
            panic!("u{user}: resumed with a gap after {last_id:?}: {:?}", sse.event().await);
        }
        assert_eq!(sse.resume(), wanted, "u{user}, connection {connections}, after {last_id:?}");
        if last_id.is_none() {
            // Nothing is published before everybody has a place to resume from.
            last_id = Some(sse.last_event_id().to_owned());
            started.wait().await;
        }
        connections += 1;
        for _ in 0..=random.below(250) {
            let event = sse.event_within(Duration::from_secs(60)).await;
            last_id = Some(sse.last_event_id().to_owned());
            if event.name.starts_with("sidestream.") {
                assert!(event.name != "sidestream.gap", "u{user}: a false gap: {event:?}");
                continue;
            }
            if event.data == END {
                assert_eq!(expected.next(), None, "u{user} missed events before the end");
                return;
            }
            let number: usize = event.data.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
            assert_eq!(Some(number), expected.next(), "u{user}, connection {connections}, id {last_id:?}");
        }
    }
}

/// Moves a client to a sidecar whose connection to NATS has stalled; it goes on only when the client waits there.
/// `tasks` is how many it has without the client.
async fn move_to_stalled(app: &App, proxy: &Proxy, tasks: f64, cursor: &str) -> Sse {
    let request = get("/events").user("alice").header("Last-Event-ID", cursor);
    // The client may have been here before.
    app.metric_is("sidestream_tasks", &[], tasks, DEADLINE).await;
    let opening = async {
        loop {
            // Refused softly where the machine is so slow that the stall was noticed.
            if let Some(sse) = Sse::try_open(Wire::tcp(app.address()).await, &request).await {
                return sse;
            }
        }
    };
    let release = async {
        app.metric_is("sidestream_tasks", &[], tasks + 1.0, DEADLINE).await;
        proxy.release();
    };
    tokio::join!(opening, release).0
}

on_both_servers! {
    async fn a_client_that_moves_at_every_reconnect_waits_for_the_sidecar_that_lags(version: Version) {
        const ROUNDS: usize = 12;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        let ahead = App::start(&Config::on(&nats)).await;
        let lagging = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
        let mut witness = lagging.events("alice").await;
        let mut alice = ahead.events("alice").await;
        let tasks = lagging.metric("sidestream_tasks", &[]).await;
        let mut expected = 0..;
        for round in 0..ROUNDS {
            // Heard from the one while the other stands still: the cursor is beyond the other's head.
            proxy.stall();
            let numbers: Vec<usize> = expected.by_ref().take(1 + round).collect();
            for number in &numbers {
                publisher.publish("events.user.alice.x", number.to_string()).await;
                assert_eq!(alice.event().await.data.parse(), Ok(*number), "ahead, round {round}");
            }
            alice = move_to_stalled(&lagging, &proxy, tasks, alice.last_event_id()).await;
            assert_eq!(alice.resume(), "exact", "round {round}: {:?}", alice.connected);
            for number in &numbers {
                let event = witness.event().await;
                assert_eq!(event.data.parse(), Ok(*number), "witness, round {round}: {event:?}");
            }
            // Live on the one that lagged; then back, with something missed in between.
            let (live, missed) = (expected.next(), expected.next());
            for (number, hears) in [(live, true), (missed, false)] {
                let number = number.expect("without end");
                publisher.publish("events.user.alice.x", number.to_string()).await;
                assert_eq!(witness.event().await.data.parse(), Ok(number), "witness, round {round}");
                if hears {
                    assert_eq!(alice.event().await.data.parse(), Ok(number), "lagging, round {round}");
                }
            }
            let request = get("/events").user("alice").header("Last-Event-ID", alice.last_event_id());
            alice = ahead.stream(request).await;
            assert_eq!(alice.resume(), "exact", "round {round}");
            assert_eq!(alice.event().await.data.parse().ok(), missed, "ahead again, round {round}");
        }
        for app in [&ahead, &lagging] {
            assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
        }
    }

    async fn clients_that_come_and_go_see_one_exact_sequence(version: Version) {
        run(version, "64MiB").await;
    }

    async fn the_same_when_nearly_everything_must_be_read_from_nats(version: Version) {
        run(version, "256KiB").await;
    }
}

async fn run(version: Version, history: &str) {
    let seed = seed();
    let mut random = Random(seed);
    let nats = Nats::start(version).await;
    let publisher = nats.events().await;
    let history = format!("\n[history]\nbytes = {history:?}\n");
    let proxy = Proxy::to(nats.address()).await;
    // Queues so small that catching up takes many pieces and readers fall behind.
    let config = || Config::at(&format!("nats://{}", proxy.address)).limit("queue_bytes", "\"16KiB\"").tables(&history);
    let apps = [App::start(&config()).await, App::start(&config()).await];
    let addresses: Arc<[String]> = apps.iter().map(|app| app.address().to_owned()).collect();
    let plan = plan(&mut random);
    let started = Arc::new(tokio::sync::Barrier::new(CLIENTS + 1));
    let mut clients = tokio::task::JoinSet::new();
    for index in 0..CLIENTS {
        let user = index % USERS;
        let mine = |to: &Option<usize>| to.is_none_or(|to| to == user);
        let expected = plan.iter().enumerate().filter(|(_, to)| mine(to)).map(|(number, _)| number).collect();
        let random = Random(random.below(u64::MAX >> 34) + index as u64);
        clients.spawn(client(user, addresses.clone(), expected, random, started.clone()));
    }
    started.wait().await;
    for (part, range) in plan.chunks(1000).enumerate() {
        let first = part * 1000;
        publisher.publish_all(range.iter().enumerate().map(|(n, to)| message(first + n, *to))).await;
        match random.below(4) {
            0 => proxy.cut(),
            1 => drop(publisher.delete_consumers("EVENTS").await),
            _ => {}
        }
    }
    publisher.publish("events.broadcast.end", END).await;
    while let Some(ended) = clients.join_next().await {
        ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    for app in &apps {
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "seed {seed}: a false gap");
        assert!(app.metric("sidestream_subject_violations_total", &[]).await < 0.5, "seed {seed}");
    }
}
