//! One core: its clients, who of them hears what, and the loop that writes to them.
//!
//! Everything here belongs to one thread: `Rc`, `Cell` and `RefCell`, no locks and no atomics per client. Messages come
//! from the feeds by one queue ([`crate::link`]); [`deliver`] turns a batch of them into at most one write per client;
//! [`sweep`] judges slow readers, heartbeats and ends of life; [`budget`] frees memory; [`client`] is one event stream.
//! Sockets are accepted and requests understood elsewhere (`server`, `http`).

mod batch;
mod budget;
pub mod client;
pub mod course;
mod deliver;
pub mod guard;
pub mod output;
mod sweep;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::mpsc;

use self::client::{Client, Spec};
use self::guard::Guard;
use self::output::Bounds;
use crate::cursor::Cursor;
use crate::feed::Feeds;
use crate::frame::notice::ByeCode;
use crate::interest::{Interest, Leaf};
use crate::link::{LiveRequest, StreamRequest, Ticket, ToShard};
use crate::live::Live;
use crate::memory::Orders;
use crate::presence::Here;
use crate::route::Grant;
use crate::subject::Pattern;
use crate::telemetry::metrics::ShardMetrics;

/// What a shard needs to know of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bounds of one client's backlog.
    pub bounds: Bounds,
    /// No progress for this long ends a stream.
    pub write_timeout: Duration,
    /// Silence after which a heartbeat is written.
    pub heartbeat: Duration,
    /// As an event with the cursor, rather than a comment.
    pub heartbeat_event: bool,
    /// Streams end after this long.
    pub max_age: Option<Duration>,
}

/// One core's share of the clients.
#[derive(Debug)]
pub struct Shard {
    /// Which one.
    pub index: usize,
    /// What it counts.
    pub metrics: Arc<ShardMetrics>,
    /// As of the last look at `in_force`.
    settings: Cell<Settings>,
    in_force: Arc<Live<Settings>>,
    /// Where users are counted, if anybody is told of them.
    here: OnceCell<Arc<Here>>,
    feeds: Feeds,
    clients: RefCell<Slab<Rc<Client>>>,
    streams: Vec<StreamView>,
    live: RefCell<HashMap<Pattern, Members>>,
    /// The grant given last, by route.
    grants: RefCell<HashMap<u8, Grant>>,
    /// Everyone with core subjects, for notices.
    live_members: RefCell<Members>,
    batch: batch::Batch,
    generation: Cell<u32>,
    /// Bytes that wait for clients, by part of the sweep.
    queued: [Cell<u64>; sweep::PARTS],
    /// Clients for which something waits, likewise.
    slow: [Cell<u64>; sweep::PARTS],
    started: Instant,
    draining: Cell<bool>,
}

/// Slots of clients. A slab of its own, so that joining and leaving cost the same however many there are.
type Members = Slab<u32>;

/// What a shard knows of one stream.
#[derive(Debug, Default)]
struct StreamView {
    interest: RefCell<Interest<Members>>,
    /// Everyone, for notices.
    members: RefCell<Members>,
    /// Everything up to here has been put to this shard's clients.
    head: Cell<Option<Cursor>>,
}

/// Where a client stands in a shard's indexes, to be taken out again.
#[derive(Debug, Default)]
struct Membership {
    stream: Option<StreamMembership>,
    live: Option<LiveMembership>,
}

#[derive(Debug)]
struct StreamMembership {
    leaves: Box<[(Leaf, u32)]>,
    member: u32,
}

#[derive(Debug)]
struct LiveMembership {
    /// By pattern of the grant.
    keys: Box<[u32]>,
    member: u32,
}

/// Puts a client among others; the key takes it out again.
fn join(members: &mut Members, slot: u32) -> u32 {
    u32::try_from(members.insert(slot)).expect("a client joins once, and slots are 32 bits")
}

impl Shard {
    /// A shard without clients. Where `in_force` changes, it does as that says within a quarter of a second.
    pub fn new(index: usize, in_force: Arc<Live<Settings>>, feeds: Feeds, metrics: Arc<ShardMetrics>) -> Rc<Self> {
        let streams = feeds.streams.iter().map(|_| StreamView::default()).collect();
        Rc::new(Self {
            index,
            metrics,
            settings: Cell::new(*in_force.get()),
            in_force,
            here: OnceCell::new(),
            feeds,
            clients: RefCell::default(),
            streams,
            live: RefCell::default(),
            grants: RefCell::default(),
            live_members: RefCell::default(),
            batch: batch::Batch::default(),
            generation: Cell::new(0),
            queued: Default::default(),
            slow: Default::default(),
            started: Instant::now(),
            draining: Cell::new(false),
        })
    }

    /// Reads the queue, sweeps and frees memory until the queue ends. Run on the shard's own runtime; a panic here ends the
    /// process, because a shard without its loop would be deaf.
    pub async fn run(self: Rc<Self>, queue: mpsc::Receiver<ToShard>, orders: &Orders) {
        tokio::select! {
            () = self.clone().deliver_loop(queue) => {}
            () = self.sweep_loop() => {}
            () = self.budget_loop(orders) => {}
        }
    }

    /// Counts the users of this shard there, from now on. Once.
    pub fn count_users(&self, here: Arc<Here>) {
        let _ = self.here.set(here);
    }

    /// Bounds of one client's backlog.
    pub fn bounds(&self) -> Bounds {
        self.settings.get().bounds
    }

    /// Whether streams are being closed for shutdown.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Streams open or opening now.
    pub fn len(&self) -> usize {
        self.clients.borrow().len()
    }

    /// Whether there is no stream.
    pub fn is_empty(&self) -> bool {
        self.clients.borrow().is_empty()
    }

    /// Whether all feeds that a client would need let it in.
    pub fn can_serve(&self, stream: Option<u8>, live: bool) -> bool {
        let serving = stream.is_none_or(|s| self.feeds.streams[usize::from(s)].status.is_serving());
        serving && (!live || self.feeds.live.status.is_serving())
    }

    /// Opens a stream: takes a slot, asks the feeds, and waits until they have answered. Dropping the future or the guard
    /// undoes all of it.
    pub async fn open(self: &Rc<Self>, spec: Spec) -> Guard {
        let last_event_id = spec.last_event_id;
        let guard = self.insert(spec);
        let client = guard.client();
        if let Some(stream) = client.stream {
            self.feeds.streams[usize::from(stream)].send(StreamRequest::Attach {
                shard: self.index,
                ticket: client.ticket,
                grant: client.grant.clone(),
                from: crate::link::From::LastEventId(last_event_id),
            });
        }
        if client.hears_live() {
            let (shard, ticket, grant) = (self.index, client.ticket, client.grant.clone());
            client.live.set(client::Live::Asked);
            self.feeds.live.send(LiveRequest::Listen { shard, ticket, grant });
        }
        std::future::poll_fn(|cx| client.poll_opened(cx)).await;
        guard
    }

    fn insert(self: &Rc<Self>, mut spec: Spec) -> Guard {
        let grant = self.share(spec.route, std::mem::take(&mut spec.grant));
        let mut clients = self.clients.borrow_mut();
        let entry = clients.vacant_entry();
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let slot = u32::try_from(entry.key()).expect("connections are limited far below 2^32");
        self.batch.admit(slot);
        let arrival = spec.arrival.take();
        let asked = arrival.as_ref().map_or_else(Instant::now, |arrival| arrival.at);
        let asked = micros(asked.saturating_duration_since(self.started));
        let client = Rc::new(Client::new(spec, grant, Ticket { slot, generation }, self.now(), asked));
        if let Some(age) = self.settings.get().max_age {
            client.end_by(self.now() + millis(age.mul_f64(0.9 + fastrand::f64() / 5.0)), ByeCode::Age);
        }
        entry.insert(client.clone());
        Guard::new(self.clone(), client, arrival)
    }

    /// Routes that name nobody give everyone the same patterns, which are then held once. The grant itself stays the client's
    /// own: feeds know by it whether the client is still there.
    fn share(&self, route: u8, grant: Grant) -> Arc<Grant> {
        let mut grants = self.grants.borrow_mut();
        let last = grants.entry(route).or_default();
        if *last != grant {
            *last = grant;
        }
        Arc::new(last.clone())
    }

    fn client(&self, ticket: Ticket) -> Option<Rc<Client>> {
        self.clients.borrow().get(ticket.slot as usize).filter(|c| c.ticket == ticket).cloned()
    }

    /// Registers a client for everything its feeds say from now on.
    fn join_stream(&self, client: &Client) {
        let Some(stream) = client.stream else { return };
        let view = &self.streams[usize::from(stream)];
        let mut interest = view.interest.borrow_mut();
        let leaves = client
            .grant
            .stream()
            .iter()
            .map(|pattern| {
                let leaf = interest.leaf_or_insert_with(pattern, Members::new);
                (leaf, join(interest.value_mut(leaf), client.ticket.slot))
            })
            .collect();
        let member = join(&mut view.members.borrow_mut(), client.ticket.slot);
        client.membership.borrow_mut().stream = Some(StreamMembership { leaves, member });
    }

    fn join_live(&self, client: &Client) {
        let mut live = self.live.borrow_mut();
        let slot = client.ticket.slot;
        let keys = client.grant.live().iter().map(|p| join(live.entry(p.clone()).or_default(), slot)).collect();
        let member = join(&mut self.live_members.borrow_mut(), slot);
        client.membership.borrow_mut().live = Some(LiveMembership { keys, member });
    }

    /// Takes a client out of its stream's index and tells the feed.
    fn leave_stream(&self, client: &Client) {
        let (Some(stream), Some(joined)) = (client.stream, client.membership.borrow_mut().stream.take()) else {
            return;
        };
        let view = &self.streams[usize::from(stream)];
        let mut interest = view.interest.borrow_mut();
        for (leaf, key) in joined.leaves {
            let members = interest.value_mut(leaf);
            members.remove(key as usize);
            if members.is_empty() {
                interest.remove(leaf);
            }
        }
        view.members.borrow_mut().remove(joined.member as usize);
        let request = StreamRequest::Detach { shard: self.index, grant: client.grant.clone() };
        self.feeds.streams[usize::from(stream)].send(request);
    }

    /// Takes a client out of every index and tells the feeds.
    fn remove(&self, client: &Client) {
        self.leave_stream(client);
        let joined = client.membership.borrow_mut().live.take();
        if let Some(joined) = joined {
            self.live_members.borrow_mut().remove(joined.member as usize);
            let mut live = self.live.borrow_mut();
            for (pattern, key) in client.grant.live().iter().zip(joined.keys) {
                if let Some(members) = live.get_mut(pattern) {
                    members.remove(key as usize);
                    if members.is_empty() {
                        live.remove(pattern);
                    }
                }
            }
        }
        if client.live.get() != client::Live::Unasked {
            self.feeds.live.send(LiveRequest::Unlisten { shard: self.index, grant: client.grant.clone() });
        }
        self.batch.take(client.ticket.slot);
        self.clients.borrow_mut().try_remove(client.ticket.slot as usize);
    }

    /// Asks for what a client that catches up has still missed.
    fn ask_next_piece(&self, client: &Client, after: u64) {
        if let Some(stream) = client.stream {
            self.feeds.streams[usize::from(stream)].send(StreamRequest::Attach {
                shard: self.index,
                ticket: client.ticket,
                grant: client.grant.clone(),
                from: crate::link::From::Sequence { log: client.log.get(), after },
            });
        }
    }

    /// The cursor that everything put to this client has reached, if its subjects come from a stream and it has caught up.
    fn head_for(&self, client: &Client) -> Option<Cursor> {
        if !client.is_live() {
            return None;
        }
        self.streams[usize::from(client.stream?)].head.get()
    }

    /// How long ago a client's request came.
    fn since_asked(&self, client: &Client) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_micros(client.asked))
    }

    /// Milliseconds since the shard began; the clock of every deadline here.
    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

/// Microseconds, likewise.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds; 64 bits, so that no uptime wraps it.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
