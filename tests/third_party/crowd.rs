//! All clients at once, the front before them, and what each must have said by now.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Client, Line, missing};
use crate::front::{Attempt, Front, Way};
use crate::roster::{CLIENTS, Situation};
use crate::support::{Nats, Publisher, skipped};

/// How long one step may take: two of the longest reconnection times, doubled by the clients that double them, and a busy machine.
const STEP: Duration = Duration::from_secs(40);

/// An event that was published.
struct Published {
    name: String,
    data: String,
    has_id: bool,
}

/// A place in what every client has said.
pub struct Mark(Vec<usize>);

/// All clients.
pub struct Crowd {
    /// Between them and the sidecar.
    pub front: Front,
    clients: Vec<Client>,
    published: Vec<Published>,
    publisher: Publisher,
}

impl Crowd {
    /// Nobody yet; `None`, and said so, where clients are not installed.
    pub async fn new(test: &str, nats: &Nats, way: Way) -> Option<Self> {
        if let Some(path) = missing() {
            skipped(test, &format!("no {}: run scripts/test", path.display()));
            return None;
        }
        let publisher = nats.events().await;
        Some(Self { front: Front::start(way).await, clients: Vec::new(), published: Vec::new(), publisher })
    }

    /// Starts everybody.
    pub fn start(&mut self) {
        self.clients = CLIENTS.iter().map(|who| Client::start(who, self.front.port)).collect();
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Publishes an event that everybody must get.
    pub async fn publish(&mut self, name: &str, data: &str) {
        self.publish_to("events.broadcast.x", name, data).await;
    }

    /// The same to a subject of its own.
    pub async fn publish_to(&mut self, subject: &str, name: &str, data: &str) {
        self.publisher.publish_named(subject, name, data).await;
        self.expect(name, data, true);
    }

    /// Publishes an event without id that everybody must get.
    pub async fn publish_live(&mut self, data: &str) {
        self.publisher.publish_core("live.x", data).await;
        self.expect("message", data, false);
    }

    /// Publishes what nobody gets.
    pub async fn publish_for_nobody(&self, data: &[u8]) {
        self.publisher.publish("events.broadcast.x", data).await;
    }

    fn expect(&mut self, name: &str, data: &str, has_id: bool) {
        self.published.push(Published { name: name.to_owned(), data: data.to_owned(), has_id });
    }

    /// Waits until everybody has got all that was published, once and in order.
    pub async fn have_all(&self) {
        for client in &self.clients {
            let wanted = &self.published;
            self.wait(client, "has all events", |lines| client.events(lines).count() >= wanted.len()).await;
            let lines = client.read(<[Line]>::to_vec);
            let got: Vec<_> = client.events(&lines).collect();
            for (got, wanted) in got.iter().zip(wanted) {
                let data = client.who.reading.of(&wanted.data);
                let (maimed, name) = (client.who.maims(&wanted.data), got.name());
                let same = got.data() == data && (name == Some(&*wanted.name) || maimed);
                assert!(same, "{}: {got:.300?} is not {:?} {data:.300?}", client.who.user(), wanted.name);
                assert!(!wanted.has_id || maimed || got.seq().is_some(), "{}: no id: {got:.300?}", client.who.user());
            }
            assert_eq!(got.len(), wanted.len(), "{}: {:#?}", client.who.user(), client.last_words());
            let with_id = got.iter().zip(wanted).filter(|(_, wanted)| wanted.has_id);
            let seqs: Vec<_> = with_id.filter_map(|(got, _)| got.seq()).collect();
            assert!(seqs.is_sorted_by(|a, b| a < b), "{}: not in order: {seqs:?}", client.who.user());
        }
    }

    /// Here and now.
    pub fn mark(&self) -> Mark {
        Mark(self.clients.iter().map(|client| client.read(<[Line]>::len)).collect())
    }

    /// Waits until everybody has been told this since then.
    pub async fn told(&self, since: &Mark, name: &str, what: Value) {
        for (client, from) in self.clients.iter().zip(&since.0) {
            let told = |lines: &[Line]| lines[*from..].iter().any(|line| line.says(name, &what));
            self.wait(client, &format!("is told {name} {what}"), told).await;
        }
    }

    /// Waits until everybody has got an event that is not ours since then.
    pub async fn said(&self, since: &Mark, name: &str, data: &str) {
        for (client, from) in self.clients.iter().zip(&since.0) {
            let said =
                |lines: &[Line]| lines[*from..].iter().any(|line| line.name() == Some(name) && line.data() == data);
            self.wait(client, &format!("gets {name} {data:?}"), said).await;
        }
    }

    /// Waits until everybody has been connected anew so often since then.
    pub async fn connected(&self, since: &Mark, times: usize) {
        for (client, from) in self.clients.iter().zip(&since.0) {
            self.wait(client, &format!("is connected {times} times"), |lines| {
                lines[*from..].iter().filter(|line| line.name() == Some("sidestream.connected")).count() >= times
            })
            .await;
        }
    }

    /// Waits until everybody has asked so often since a number of attempts.
    pub async fn asked(&self, since: usize, times: usize) {
        for client in &self.clients {
            let user = client.who.user();
            self.wait(client, &format!("asks {times} times"), |_| {
                self.front.attempts(|attempts| {
                    attempts[since..].iter().filter(|attempt| attempt.user == user).count() >= times
                })
            })
            .await;
        }
    }

    /// Waits until everybody has been refused softly, for this reason, since a number of attempts.
    pub async fn refused(&self, since: usize, reason: &str) {
        for client in &self.clients {
            let user = client.who.user();
            self.wait(client, &format!("is refused: {reason}"), |_| {
                let is_refused = |attempt: &Attempt| attempt.user == user && attempt.refused.as_deref() == Some(reason);
                self.front.attempts(|attempts| attempts[since..].iter().any(is_refused))
            })
            .await;
        }
    }

    /// Everybody who has given up since then, before the next stream, has done so where the table says it, and nobody else. A `cut` may
    /// have been one reason. Only sure once everybody is connected again: a client says that it gives up before it says anything else.
    pub fn gave_up(&self, since: &Mark, situation: Situation, behind_a_cut: bool) {
        let mut faults = Vec::new();
        for (client, lines) in self.since(since) {
            let listed = |situation| client.who.gives_up.contains(&situation);
            let by_cut = usize::from(behind_a_cut && listed(Situation::Cut));
            let before = lines.iter().take_while(|line| line.name() != Some("sidestream.connected"));
            let ends: Vec<_> = before.filter_map(|line| line.ended.as_deref()).collect();
            if (ends.len() > by_cut) != listed(situation) {
                faults.push(format!("{}: {situation:?}: {ends:.200?}", client.who.user()));
            }
        }
        assert!(faults.is_empty(), "the table does not hold: {faults:#?}");
    }

    /// What each client has said since then.
    pub fn since(&self, mark: &Mark) -> Vec<(&Client, Vec<Line>)> {
        self.clients
            .iter()
            .zip(&mark.0)
            .map(|(client, from)| (client, client.read(|lines| lines[*from..].to_vec())))
            .collect()
    }

    async fn wait(&self, client: &Client, what: &str, done: impl Fn(&[Line]) -> bool) {
        let started = Instant::now();
        while !client.read(&done) {
            let user = client.who.user();
            assert!(started.elapsed() < STEP, "not within {STEP:?}: {user} {what}: {:#?}", client.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
