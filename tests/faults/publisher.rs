//! A seeded load: messages to users and to everybody, each with a number of its own, every acknowledgement noted.
//!
//! An attempt that is not acknowledged in time is not repeated: the next message is the retry. Whether it was stored all
//! the same is found out when the stream is read at the end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::support::eventually;
use super::truth::{END, Fate, Truth};

/// Users that messages go to.
pub const USERS: usize = 12;
/// One message in so many goes to everybody.
const BROADCAST_EVERY: u32 = 15;
/// An acknowledgement that takes longer is given up.
const ACK: Duration = Duration::from_secs(5);
/// Attempts under way at most: while NATS is away, this is what waits for it.
const UNDER_WAY_MAX: usize = 400;
const TICK: Duration = Duration::from_millis(5);

/// The load.
pub struct Publisher {
    sender: Sender,
    paused: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Sender {
    jetstream: Context,
    truth: Arc<Mutex<Truth>>,
    under_way: Arc<AtomicUsize>,
    random: fastrand::Rng,
    fill_max: usize,
}

/// The subject of a user's message.
pub fn subject_of(user: usize) -> String {
    format!("events.user.u{user}.note")
}

impl Publisher {
    /// Begins to publish at a rate per second.
    pub fn start(client: async_nats::Client, rate: u32, fill_max: usize, random: fastrand::Rng) -> Self {
        let truth = Arc::new(Mutex::new(Truth::new()));
        let sender = Sender { jetstream: jetstream::new(client), truth, under_way: Arc::default(), random, fill_max };
        let (paused, watched) = watch::channel(false);
        let task = tokio::spawn(sender.clone().run(rate, watched));
        Self { sender, paused, task }
    }

    /// What is known so far.
    pub fn truth(&self) -> MutexGuard<'_, Truth> {
        self.sender.truth.lock().expect("no holder panics")
    }

    /// Stops, and waits until every attempt has its acknowledgement or has been given up.
    pub async fn pause(&self) {
        self.paused.send_replace(true);
        eventually("every attempt has ended", ACK * 3, async || {
            (self.sender.under_way.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
    }

    /// Goes on.
    pub fn go_on(&self) {
        self.paused.send_replace(false);
    }

    /// Publishes many as fast as the server takes them.
    pub async fn burst(&self, count: usize) {
        let mut sender = self.sender.clone();
        sender.random = sender.random.fork();
        for _ in 0..count {
            while sender.under_way.load(Ordering::SeqCst) >= UNDER_WAY_MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            sender.publish_one();
        }
    }

    /// Notes a message that a fault publishes in a way of its own; gives its payload.
    pub fn register(&self, subject: &str, fate: Fate, fill: usize) -> String {
        self.truth().send(subject, fate, fill).1
    }

    /// Publishes one message until it is acknowledged; gives its sequence.
    pub async fn surely(&self, subject: &str, fill: usize) -> u64 {
        eventually("an acknowledgement", Duration::from_secs(30), async || {
            self.sender.attempt(subject.to_owned(), fill).await
        })
        .await
    }

    /// Stops for good with a message to everybody.
    pub async fn end(&self) {
        self.pause().await;
        self.surely(END, 0).await;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sender {
    async fn run(mut self, rate: u32, mut paused: watch::Receiver<bool>) {
        let mut owed = 0.0;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            tick.tick().await;
            owed += f64::from(rate) * TICK.as_secs_f64();
            while owed >= 1.0 {
                owed -= 1.0;
                if self.under_way.load(Ordering::SeqCst) < UNDER_WAY_MAX && !*paused.borrow() {
                    self.publish_one();
                }
            }
        }
    }

    /// Starts an attempt.
    fn publish_one(&mut self) {
        let subject = match self.random.u32(..BROADCAST_EVERY) {
            0 => "events.broadcast.news".to_owned(),
            _ => subject_of(self.random.usize(..USERS)),
        };
        let fill = self.random.usize(..=self.fill_max);
        let sender = self.clone();
        self.under_way.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            sender.attempt(subject, fill).await;
            sender.under_way.fetch_sub(1, Ordering::SeqCst);
        });
    }

    async fn attempt(&self, subject: String, fill: usize) -> Option<u64> {
        let (nonce, payload) = self.truth.lock().expect("no holder panics").send(&subject, Fate::Deliver, fill);
        let sent = async { self.jetstream.publish(subject, Bytes::from(payload)).await.ok()?.await.ok() };
        let ack = timeout(ACK, sent).await.ok()??;
        self.truth.lock().expect("no holder panics").acked(nonce, ack.sequence);
        Some(ack.sequence)
    }
}
