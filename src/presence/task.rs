//! Presence on NATS: hears, asks the machine every so often what is to be done, and does it.
//!
//! What was heard is taken out of its subscriptions in the order that is the reverse of theirs in the machine: whoever leaves or
//! answers has published before, on the same connection, and what it published is then heard first.
//!
//! Answers of many users are long. They are read and written a little at a time, so that a turn never takes so long that this
//! sidecar seems to have stood still.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::{Client, HeaderMap, Message, Subject, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::coop::unconstrained;
use tokio::time::MissedTickBehavior;

use super::here::Here;
use super::machine::{Do, Machine, Why};
use super::message::{Change, INTERNAL, Pages, Said, What, pages};
use crate::cluster::{NodeId, Nodes};
use crate::feed::connection::{Connection, Kept, Link};
use crate::telemetry::metrics::PresenceMetrics;

/// Changes wait for so long at most before they are told, and are told together.
const TICK: Duration = Duration::from_millis(50);
/// How long a turn reads answers, and how long it writes them.
const SHARE: Duration = Duration::from_millis(100);
/// Most pages of answers that are taken at a time.
const PAGES_TAKEN: usize = 64;
/// Most answers under way: each holds all users.
const ASKED_MAX: usize = 64;
/// Who has stood still for so long may not be the one who publishes any more, and has not noticed.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// Time for the last words, with what is under way before them.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);
/// Before a subscription is tried again that the client, which has died, did not take.
const RETRY: Duration = Duration::from_millis(100);

/// Who waits for the last words to be said.
pub(super) type Leaving = mpsc::Receiver<oneshot::Sender<()>>;

/// Everything that the task holds.
pub(super) struct Task {
    pub machine: Machine,
    pub subject: Arc<str>,
    pub here: Arc<Here>,
    pub control: Kept,
    pub roll: watch::Receiver<Nodes>,
    pub metrics: Arc<PresenceMetrics>,
    pub clock: Clock,
}

/// Milliseconds since 1970, by a clock that never goes back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Instant,
    at: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), at: millis(at) }
    }

    fn now(self) -> u64 {
        self.at + millis(self.began.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One client, and what is heard by it.
struct Ears {
    client: Client,
    link: watch::Receiver<Link>,
    /// As of the last look; `None` while it was away.
    seen: Option<Link>,
    looked: Worked,
    inbox: Subject,
    changes: Subscriber,
    sidecars: Subscriber,
    answers: Subscriber,
    /// Pages of answers that were taken and not read yet.
    unread: VecDeque<Message>,
    /// Answers under way to those that have asked, a page from each in turn.
    asked: VecDeque<Asked>,
}

/// One who has asked: where its answer goes, and what is left of it.
struct Asked {
    node: NodeId,
    reply: Subject,
    pages: Pages,
}

/// The time, and how long this thread had worked by then.
#[derive(Clone, Copy)]
struct Worked {
    at: Instant,
    for_long: Duration,
}

impl Worked {
    fn now() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let for_long = Duration::try_from(time).unwrap_or_default();
        Self { at: Instant::now(), for_long }
    }

    /// How much of the time since then the thread has not worked: it slept, waited, or was not let.
    fn idle_since(self, then: Self) -> Duration {
        (self.at - then.at).saturating_sub(self.for_long.saturating_sub(then.for_long))
    }
}

impl Ears {
    async fn open(connection: &Connection, subject: &str) -> Option<Self> {
        let Connection { client, link } = connection.clone();
        let inbox = Subject::from(client.new_inbox());
        let changes = client.subscribe(subject.to_owned()).await.ok()?;
        let sidecars = client.subscribe(INTERNAL).await.ok()?;
        let answers = client.subscribe(inbox.clone()).await.ok()?;
        let (looked, unread, asked) = (Worked::now(), VecDeque::new(), VecDeque::new());
        Some(Self { client, link, seen: None, looked, inbox, changes, sidecars, answers, unread, asked })
    }

    /// Takes what waits out of the subscriptions; pages of answers when those taken before have been read. `None` when the
    /// client has ended.
    fn take(&mut self) -> Option<(Vec<Message>, Vec<Message>)> {
        if self.unread.is_empty() {
            self.unread = waiting(&mut self.answers, PAGES_TAKEN)?.into();
        }
        let sidecars = waiting(&mut self.sidecars, usize::MAX)?;
        let changes = waiting(&mut self.changes, usize::MAX)?;
        Some((sidecars, changes))
    }

    /// Answers from before NATS was away are of no use any more, to us or to others.
    fn forget_answers(&mut self) {
        self.unread.clear();
        self.asked.clear();
    }

    /// Answers one, instead of what it has asked before. Where too many wait, it has to ask again.
    fn answer(&mut self, node: NodeId, reply: Subject, pages: Pages) {
        self.asked.retain(|asked| asked.node != node);
        if self.asked.len() < ASKED_MAX {
            self.asked.push_back(Asked { node, reply, pages });
        }
    }

    /// Sends pages of answers for a while.
    async fn send_pages(&mut self) {
        let until = Instant::now() + SHARE;
        while let Some(mut asked) = self.asked.pop_front() {
            let Some(page) = asked.pages.next() else { continue };
            let _ = self.client.publish(asked.reply.clone(), json(&page).into()).await;
            self.asked.push_back(asked);
            if Instant::now() >= until {
                return;
            }
        }
    }
}

/// What waits, but no more than `most`. `None` when the client has ended.
fn waiting(subscriber: &mut Subscriber, most: usize) -> Option<Vec<Message>> {
    let mut all = Vec::new();
    while all.len() < most
        && let Some(message) = unconstrained(subscriber.next()).now_or_never()
    {
        all.push(message?);
    }
    Some(all)
}

impl Task {
    /// Runs until the process ends. After the last words nothing is said any more.
    pub(super) async fn run(mut self, mut leaving: Leaving) {
        loop {
            let connection = tokio::select! {
                connection = self.control.alive() => connection,
                Some(done) = leaving.recv() => return ended(done).await,
            };
            if let Some(mut ears) = Ears::open(&connection, &self.subject).await {
                self.machine.lose_nats();
                if let Some(done) = self.serve(&mut ears, &mut leaving).await {
                    let _ = tokio::time::timeout(GOODBYE, self.leave(&mut ears)).await;
                    return ended(done).await;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// By one client, until it dies, or the process ends.
    async fn serve(&mut self, ears: &mut Ears, leaving: &mut Leaving) -> Option<oneshot::Sender<()>> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.turn(ears).await?,
                // Never closed: the handle lives as long as the process.
                Some(done) = leaving.recv() => return Some(done),
            }
        }
    }

    /// Hears what waits and does what is to be done. `None` when the client has ended.
    async fn turn(&mut self, ears: &mut Ears) -> Option<()> {
        let now = self.clock.now();
        self.look(ears, now);
        let roll = self.roll.borrow().clone();
        let (sidecars, changes) = ears.take()?;
        for change in changes.iter().filter_map(|message| Change::parse(&message.payload)) {
            self.machine.hear_change(&change, now);
        }
        for message in sidecars {
            let Ok(said) = serde_json::from_slice::<Said>(&message.payload) else { continue };
            let asker = said.node;
            let answer = self.machine.hear(said, now);
            let (Some(answer), Some(reply)) = (answer, message.reply) else { continue };
            ears.answer(asker, reply, pages(answer, self.machine.list_bytes()));
        }
        self.read_pages(ears, now);
        ears.send_pages().await;
        for (user, seen, ago) in self.here.take() {
            self.machine.own_user(&user, seen, now.saturating_sub(millis(ago)), now);
        }
        let all = self.machine.act(&roll, now);
        self.execute(ears, all).await;
        self.count(now);
        Some(())
    }

    /// Reads pages of answers for a while.
    fn read_pages(&mut self, ears: &mut Ears, now: u64) {
        let until = Instant::now() + SHARE;
        while let Some(message) = ears.unread.pop_front() {
            if let Ok(page) = serde_json::from_slice(&message.payload) {
                self.machine.hear_answer(page, now);
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// Whether NATS is there, and was there all the time.
    fn look(&mut self, ears: &mut Ears, now: u64) {
        let link = *ears.link.borrow();
        let looked = Worked::now();
        let stood_still = looked.idle_since(ears.looked) > STOOD_STILL;
        ears.looked = looked;
        let before = ears.seen.take();
        if before.is_none_or(|before| before.losses != link.losses) {
            ears.forget_answers();
        }
        if !link.connected {
            self.machine.lose_nats();
            return;
        }
        ears.seen = Some(link);
        self.machine.set_payload_max(ears.client.server_info().max_payload);
        match before {
            Some(before) if before.losses == link.losses => {
                if stood_still || before.overflows != link.overflows {
                    self.machine.begin(Why::Missed, now);
                }
            }
            _ => self.machine.begin(Why::Lost, now),
        }
    }

    async fn execute(&self, ears: &Ears, all: Vec<Do>) {
        let client = &ears.client;
        for one in all {
            // Whatever does not go out is missed by the others, who ask for it, or by us, as we do not hear it.
            let _ = match one {
                Do::Say(said) => client.publish(INTERNAL, json(&said).into()).await,
                Do::Ask(said) => client.publish_with_reply(INTERNAL, ears.inbox.clone(), json(&said).into()).await,
                Do::Publish(change) => {
                    self.metrics.published[usize::from(change.event == What::Disconnect)].add(1);
                    let mut headers = HeaderMap::new();
                    headers.insert("Sse-Event", "presence");
                    headers.insert("Nats-Msg-Id", change.id());
                    client.publish_with_headers(self.subject.to_string(), headers, json(&change).into()).await
                }
            };
        }
    }

    fn count(&self, now: u64) {
        let left_out = self.machine.left_out();
        if left_out > 0 && self.metrics.left_out.get() == 0 {
            tracing::warn!("Users of other sidecars are left out of presence: there are too many of them");
        }
        self.metrics.left_out.set(left_out);
        let is_publishing = u64::from(self.machine.is_publishing(now));
        if self.metrics.publishing.get() != is_publishing {
            tracing::info!(is_publishing, "Presence");
            self.metrics.publishing.set(is_publishing);
        }
    }

    async fn leave(&mut self, ears: &mut Ears) {
        if self.turn(ears).await.is_some() {
            let all = self.machine.leave(self.clock.now());
            self.execute(ears, all).await;
            let _ = ears.client.flush().await;
        }
    }
}

async fn ended(done: oneshot::Sender<()>) {
    let _ = done.send(());
    std::future::pending::<()>().await;
}

/// Ours always can be written as JSON; nothing would be a word that nobody understands.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
