//! A well-behaved reader of event streams that writes down everything: it comes and goes at random, alternates between
//! the sidecars, comes back with its last event ID after every end, and waits as long as it was asked to.
//!
//! It judges nothing. Unlike the reader in `support`, it takes refusals, resets and silence as part of a day's work.

mod log;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sidestream::sse::Event;
use tokio::sync::watch;
use tokio::time::timeout;

use super::truth::{self, END};
pub use log::{Gap, Id, Item, Log};
use wire::{Answer, Stream};

/// Where the sidecars listen at the moment.
pub type Addresses = Arc<Mutex<Vec<String>>>;

/// How long an answer may take before the client tries elsewhere.
const ANSWER: Duration = Duration::from_secs(5);
/// How a connection ended on which nothing came for two and a half heartbeats.
pub const SILENCE: &str = "silence";
/// Wait after a connection that could not be made.
const FAILED: Duration = Duration::from_millis(200);

/// What a fault makes a client do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// Stay away.
    pub away: bool,
    /// Stay connected and read nothing.
    pub stalled: bool,
    /// Changed: leave and come back at once.
    pub bounce: u64,
}

/// A client at work.
pub struct Client {
    /// What it is told to do.
    pub orders: watch::Sender<Orders>,
    log: Arc<Mutex<Log>>,
    task: tokio::task::JoinHandle<()>,
}

/// How it reads.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Leaves by itself after at most so many events.
    pub patience: u64,
    /// Its kernel takes little.
    pub narrow: bool,
}

impl Client {
    /// Starts reading for a user.
    pub fn start(name: String, user: String, manner: Manner, addresses: Addresses, random: fastrand::Rng) -> Self {
        let (orders, ordered) = watch::channel(Orders::default());
        let log = Arc::new(Mutex::new(Log { name, user: user.clone(), items: Vec::new() }));
        let reader = Reader { log: log.clone(), ordered, addresses, random, user, manner, last_id: None, turn: 0 };
        Self { orders, log, task: tokio::spawn(reader.run()) }
    }

    /// Looks into the log so far.
    pub fn look<T>(&self, at: impl FnOnce(&Log) -> T) -> T {
        at(&self.log.lock().expect("no writer panics"))
    }

    /// Whether it has read the last message.
    pub fn is_done(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it and gives its log.
    pub async fn finish(self) -> Log {
        self.task.abort();
        let _ = self.task.await;
        std::mem::take(&mut *self.log.lock().expect("no writer panics"))
    }
}

struct Reader {
    log: Arc<Mutex<Log>>,
    ordered: watch::Receiver<Orders>,
    addresses: Addresses,
    random: fastrand::Rng,
    user: String,
    manner: Manner,
    last_id: Option<String>,
    turn: usize,
}

/// How a connection ended.
enum End {
    /// The last message came.
    Done,
    /// We left, or were told to: back at once.
    Left,
    /// Not by us: back after this long.
    Ended(Duration),
}

impl Reader {
    async fn run(mut self) {
        self.turn = self.random.usize(..2);
        loop {
            let _ = self.ordered.wait_for(|orders| !orders.away).await;
            let address = {
                let addresses = self.addresses.lock().expect("no holder panics");
                addresses[self.turn % addresses.len()].clone()
            };
            self.turn += 1;
            self.note(Item::Asked);
            let opened =
                timeout(ANSWER, Stream::open(&address, &self.user, self.last_id.as_deref(), self.manner.narrow));
            let wait = match opened.await {
                Ok(Ok(Answer::Opened(stream))) => match self.read(*stream).await {
                    End::Done => return,
                    End::Left => Duration::ZERO,
                    End::Ended(wait) => wait,
                },
                Ok(Ok(Answer::Refused(reason, retry))) => {
                    self.note(Item::Refused(reason));
                    retry
                }
                Ok(Err(error)) => {
                    self.note(Item::Failed(error.to_string()));
                    FAILED
                }
                Err(_) => {
                    self.note(Item::Failed(format!("no answer in {ANSWER:?}")));
                    FAILED
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn read(&mut self, mut stream: Stream) -> End {
        let patience = 1 + self.random.u64(..self.manner.patience);
        let bounce = self.ordered.borrow().bounce;
        let mut silence = ANSWER;
        let mut events = 0;
        loop {
            let orders = *self.ordered.borrow_and_update();
            if orders.away || orders.bounce != bounce {
                self.note(Item::Ended("left as ordered".to_owned()));
                return End::Left;
            }
            let next = tokio::select! {
                _ = self.ordered.changed() => continue,
                next = timeout(silence, stream.next()), if !orders.stalled => next,
            };
            let Ok(Ok(Some(event))) = next else {
                let why = match next {
                    Err(_) => SILENCE.to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Ok(_) => "the end".to_owned(),
                };
                self.note(Item::Ended(why));
                return End::Ended(stream.retry());
            };
            if event.name == "sidestream.connected" {
                let seconds = log::json(&event.data)["heartbeat"].as_f64().unwrap_or(15.0);
                silence = Duration::from_secs_f64(seconds * 2.5);
            }
            let done = self.take(event);
            self.last_id = Some(stream.last_event_id().to_owned()).filter(|id| !id.is_empty());
            if done {
                return End::Done;
            }
            events += 1;
            if events > patience {
                self.note(Item::Ended("left".to_owned()));
                return End::Left;
            }
        }
    }

    /// Writes an event down; whether it was the last of the run.
    fn take(&mut self, event: Event) -> bool {
        if event.name.starts_with("sidestream.") {
            let item = log::own(event, self.last_id.take());
            self.note(item);
            return false;
        }
        let id = Id { text: event.id.unwrap_or_default() };
        match truth::parse(&event.data) {
            Some((nonce, subject)) => {
                let end = subject == END;
                self.note(Item::Data { id, nonce, subject: subject.to_owned() });
                end
            }
            None => {
                let start: String = event.data.chars().take(60).collect();
                self.note(Item::Broken(format!("{} bytes at {}: {start}", event.data.len(), id.text)));
                false
            }
        }
    }

    fn note(&self, item: Item) {
        self.log.lock().expect("no reader panics").items.push((Instant::now(), item));
    }
}
