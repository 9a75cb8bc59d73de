//! Core NATS subjects are heard at most once, and what was missed is never hidden: a gap `upstream` comes before the next
//! message, for every client, whether our queue was full or the server sent us away.

mod support;

use std::ops::Range;
use std::time::Duration;

use support::nats::{Publisher, Setup};
use support::{App, Config, Event, Nats, Sse, Version, eventually, expect, get, json, on_both_servers};

const HEAL: Duration = Duration::from_secs(20);
const LIVE: &str = "\n[[route]]\npath = \"/live\"\nsubjects = [\"live.>\"]\n";
const MIXED: &str = "\n[[route]]\npath = \"/mixed\"\nstream = \"EVENTS\"\nsubjects = [\"events.user.{user}.>\"]\n\
                     live_subjects = [\"live.>\"]\n";

/// Clients with nothing but core subjects, and one with a stream beside them.
async fn clients(app: &App) -> Vec<Sse> {
    let mut clients = Vec::new();
    for (path, user) in [("/live", "alice"), ("/live", "bob"), ("/mixed", "carol")] {
        let mut sse = app.stream(get(path).user(user)).await;
        sse.forget_raw();
        clients.push(sse);
    }
    clients
}

fn is_upstream(event: &Event) -> bool {
    event.name == "sidestream.gap" && json(event)["reason"] == "upstream"
}

/// A client's reading: numbers rise, and none is passed over before a gap has been told.
#[derive(Default)]
struct Reading {
    next: usize,
    heard: usize,
    gaps: usize,
}

impl Reading {
    /// Takes one event. Gaps told before the flood that begins at `flood` do not excuse what is missing of it.
    fn take(&mut self, event: &Event, flood: usize, told_before: usize) {
        if is_upstream(event) {
            self.gaps += 1;
        } else if !expect::is_state(event) {
            let number: usize = event.data.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
            let due = self.next;
            assert!(number >= due, "{number} after {due} was due");
            assert!(number == due || self.gaps > 0, "{due} to {number} are missing, and nobody said so");
            let of_this_flood = number != due && number > flood;
            assert!(
                !of_this_flood || self.gaps > told_before,
                "{number} comes before the gap that hides what is missing"
            );
            self.next = number + 1;
            self.heard += 1;
        }
    }

    async fn to(&mut self, sse: &mut Sse, last: usize, flood: usize, told_before: usize) {
        while self.next <= last {
            self.take(&sse.event_within(HEAL).await, flood, told_before);
        }
        assert!(self.gaps > told_before, "nothing was missed: the fault did not happen");
    }
}

/// Lets all clients read to the end at once. The end is published until all have it: it may be among the missing.
async fn all_read_to(publisher: &Publisher, clients: &mut [Sse], last: usize) {
    let reading = futures_util::future::join_all(clients.iter_mut().map(async |sse| {
        let mut reading = Reading::default();
        reading.to(sse, last, 0, 0).await;
        reading.heard
    }));
    tokio::select! {
        heard = reading => println!("heard {heard:?} of {last}"),
        () = ends(publisher, last) => {}
    }
}

async fn ends(publisher: &Publisher, last: usize) {
    loop {
        publisher.publish_core("live.x", format!("{last} end")).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn flood(nats: &Nats, numbers: Range<usize>, size: usize) {
    let client = nats.client().await;
    for number in numbers {
        client.publish("live.x", format!("{number} {}", "x".repeat(size)).into()).await.expect("NATS takes it");
    }
    client.flush().await.expect("sent");
}

/// The program; clients may have long queues, because here nobody is to be slow but the program.
async fn app(nats: &Nats) -> App {
    let config = Config::on(nats).tables(LIVE).tables(MIXED);
    App::start(&config.limit("queue_events", "100000").limit("queue_bytes", "\"64MiB\"")).await
}

on_both_servers! {
    async fn an_overflow_is_told_before_the_next_message(version: Version) {
        const COUNT: usize = 40_000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = app(&nats).await;
        let mut clients = clients(&app).await;
        // Ten times what a subscription holds, all there at once when the program goes on.
        app.pause();
        flood(&nats, 0..COUNT, 20).await;
        app.resume();
        all_read_to(&publisher, &mut clients, COUNT).await;
        assert!(!app.log_lines().iter().any(|l| l.contains("Feed interrupted")), "the stream's feed was disturbed");
    }

    async fn two_overflows_in_a_second_are_each_told_in_time(version: Version) {
        const COUNT: usize = 10_000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = app(&nats).await;
        let mut alice = clients(&app).await.remove(0);
        app.pause();
        flood(&nats, 0..COUNT, 20).await;
        app.resume();
        let mut reading = Reading::default();
        while reading.gaps == 0 {
            reading.take(&alice.event_within(HEAL).await, 0, 0);
        }
        app.pause();
        flood(&nats, COUNT..2 * COUNT, 20).await;
        app.resume();
        tokio::select! {
            () = reading.to(&mut alice, 2 * COUNT, COUNT, 1) => {}
            () = ends(&publisher, 2 * COUNT) => {}
        }
    }

    async fn a_connection_that_the_server_cuts_is_told_before_the_next_message(version: Version) {
        const COUNT: usize = 20_000;
        let config = "max_pending: 2MB\nwrite_deadline: \"2s\"\n".to_owned();
        let nats = Nats::start_as(version, Setup { config: Some(config), ..Setup::default() }).await;
        let publisher = nats.events().await;
        let app = app(&nats).await;
        let mut clients = clients(&app).await;
        app.pause();
        flood(&nats, 0..COUNT, 1000).await;
        eventually("the server cuts the connection", HEAL, async || nats.log().contains("Slow Consumer").then_some(())).await;
        app.resume();
        all_read_to(&publisher, &mut clients, COUNT).await;
    }
}
