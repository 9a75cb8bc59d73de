//! A simulated sidecar: the real ledger, fan-out and shards around a consumer and passes that are made up.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::store::{Message, Store};
use super::{Random, World};
use crate::config::Format;
use crate::cursor::{Cursor, Epoch, Position};
use crate::event::Event;
use crate::feed::Feeds;
use crate::feed::encode::Encoder;
use crate::feed::fanout::Fanout;
use crate::feed::ledger::{Bounds, Filled, Ledger, Output, PassId, Settings, ValueRead, Values, ViewBounds};
use crate::feed::look::Looked;
use crate::feed::removal::Stock;
use crate::feed::start::{self, Begun, Known, RECENT, Seen, Start};
use crate::frame::{self, EventNaming, Payload};
use crate::link::{FeedHandle, FeedStatus, ShardQueue, StreamRequest};
use crate::live::Live;
use crate::log::PieceSize;
use crate::shard::{self, Shard, output};
use crate::telemetry::metrics::{FeedMetrics, ShardMetrics};

const SHARDS: usize = 2;

/// One sidecar, over one stream.
pub(super) struct Sidecar {
    pub(super) shards: Vec<Rc<Shard>>,
    deliver: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    ledger: Ledger,
    fanout: Fanout,
    requests: mpsc::UnboundedReceiver<StreamRequest>,
    encoder: Encoder,
    consumer: Consumer,
    readers: Vec<Reader>,
    /// A look that is ordered.
    look: Option<(Known, u64)>,
    /// Last values that are to be read.
    values: Vec<ValueReader>,
    /// Whether a consumer beyond the end is clamped, as old servers do, or waits for its first message.
    clamps: bool,
    pub(super) passes_begun: u64,
}

#[derive(Debug)]
enum Consumer {
    None,
    /// The stream has been looked at; the consumer is still to be created.
    Planned {
        start: Start,
        epoch: Epoch,
        base: Position,
    },
    Open {
        incarnation: u32,
        next: u64,
    },
}

/// Reads last values, as [`crate::feed::values`] does: first which subjects there are, then their messages.
#[derive(Debug)]
struct ValueReader {
    of: ValueRead,
    subjects: Option<Vec<String>>,
}

impl std::fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { consumer, ledger, readers, .. } = self;
        write!(f, "{consumer:?}, {ledger:?}, {readers:?}")
    }
}

/// Reads the past, as [`crate::feed::pass`] does.
#[derive(Debug)]
struct Reader {
    pass: PassId,
    next: u64,
    incarnation: Option<u32>,
    /// Read, but not handed over; `None` in it is the end of the reader.
    ready: Option<Option<Filled>>,
}

/// Polls a future that nothing will wake.
pub(super) fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs what may have to wait for a shard whose queue is full.
fn run_beside(order: impl Future<Output = ()>, deliver: &mut [Pin<Box<dyn Future<Output = ()>>>]) {
    let mut order = std::pin::pin!(order);
    while poll(order.as_mut()).is_pending() {
        for deliver in &mut *deliver {
            assert!(poll(deliver.as_mut()).is_pending());
        }
    }
}

impl Sidecar {
    pub(super) fn new(world: World) -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let status = Arc::new(FeedStatus::default());
        let (live, _) = mpsc::unbounded_channel();
        let live = FeedHandle { requests: live, status: Arc::default() };
        let feeds = Feeds { streams: vec![FeedHandle { requests: sender, status: status.clone() }], live };
        let settings = shard::Settings {
            bounds: output::Bounds { bytes: 900, frames: 8 },
            write_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(15),
            heartbeat_event: true,
            max_age: None,
        };
        let (mut shards, mut deliver, mut queues) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..SHARDS {
            let (queue, end) = ShardQueue::new();
            let metrics = Arc::new(ShardMetrics::new(&["/events".to_owned()]));
            let shard = Shard::new(index, Arc::new(Live::new(settings)), feeds.clone(), metrics);
            // Sweeping needs the clock of the machine; what it does is shown elsewhere.
            deliver.push(Box::pin(shard.clone().deliver_loop(end)) as Pin<Box<dyn Future<Output = ()>>>);
            shards.push(shard);
            queues.push(queue);
        }
        let encoder = Encoder {
            formats: vec![Format { naming: EventNaming::Header, payload: Payload::Text }],
            used: vec![0],
            event_bytes_max: 1 << 20,
            stream: Some("S".to_owned()),
            metrics: Arc::new(FeedMetrics::default()),
        };
        let bounds = Bounds {
            events: world.replay_events,
            clients: world.replays,
            piece: PieceSize { bytes: 450, events: 4 },
            pass_bytes: world.pass_bytes,
        };
        let values = ViewBounds { values: world.values_max, ..ViewBounds::USUAL };
        let settings =
            Settings { index: 0, encoder: encoder.clone(), history_bytes: world.history_bytes, bounds, values };
        Self {
            shards,
            deliver,
            ledger: Ledger::new(settings, status),
            fanout: Fanout::new(queues),
            requests,
            encoder,
            consumer: Consumer::None,
            readers: Vec::new(),
            look: None,
            values: Vec::new(),
            clamps: world.replays == 1,
            passes_begun: 0,
        }
    }

    /// One of the things that go on in a sidecar.
    pub(super) fn step(&mut self, store: &mut Store, random: &mut Random, now: Instant) {
        match random.below(10) {
            0..3 => self.deliver(),
            3..5 => (0..4).for_each(|_| self.take_request(now)),
            5..8 => self.feed(store, random, now),
            8 if random.chance(50) => self.look(store, random, now),
            8 => self.read_values(store, random, now),
            _ => self.read_past(store, random, now),
        }
    }

    /// All of them.
    pub(super) fn go_on(&mut self, store: &mut Store, random: &mut Random, now: Instant) {
        while !self.requests.is_empty() {
            self.take_request(now);
        }
        self.feed(store, random, now);
        self.look(store, random, now);
        for _ in 0..8 {
            self.read_values(store, random, now);
        }
        for _ in 0..4 {
            self.read_past(store, random, now);
        }
        self.deliver();
    }

    pub(super) fn tick(&mut self, now: Instant) {
        let settled = self.requests.is_empty();
        self.ledger.tick(now, settled);
        self.carry_out(now);
    }

    pub(super) fn is_serving(&self) -> bool {
        self.shards[0].can_serve(Some(0), false)
    }

    pub(super) fn break_consumer(&mut self) {
        self.consumer = Consumer::None;
        self.ledger.lost();
    }

    pub(super) fn break_passes(&mut self) {
        for reader in &mut self.readers {
            // What was read is lost with the connection; it is read again, unless the reader gives up.
            reader.incarnation = None;
        }
    }

    fn deliver(&mut self) {
        for deliver in &mut self.deliver {
            assert!(poll(deliver.as_mut()).is_pending(), "a shard's loop never ends");
        }
    }

    fn take_request(&mut self, now: Instant) {
        if let Ok(request) = self.requests.try_recv() {
            let settled = self.requests.is_empty();
            self.ledger.request(request, now, settled);
            self.carry_out(now);
        }
    }

    /// As the stream's task does.
    fn carry_out(&mut self, now: Instant) {
        self.carry_out_in_burst(now);
        let (fanout, deliver) = (&mut self.fanout, &mut self.deliver);
        run_beside(fanout.flush(0), deliver);
    }

    fn carry_out_in_burst(&mut self, now: Instant) {
        loop {
            while let Some(output) = self.ledger.output() {
                if let Output::Read { pass, from, .. } = output {
                    self.readers.push(Reader { pass, next: from, incarnation: None, ready: None });
                    self.passes_begun += 1;
                    continue;
                }
                if let Output::Look { known, at } = output {
                    self.look = Some((known, at));
                    continue;
                }
                if let Output::ReadValues(of) = output {
                    self.values.push(ValueReader { of, subjects: None });
                    continue;
                }
                run_beside(self.fanout.carry_out(0, output), &mut self.deliver);
            }
            let settled = self.requests.is_empty();
            if !self.ledger.next_turn(now, settled) {
                break;
            }
        }
        self.readers.retain(|reader| self.ledger.has_pass(reader.pass));
    }

    fn feed(&mut self, store: &mut Store, random: &mut Random, now: Instant) {
        match self.consumer {
            Consumer::None => {
                if random.chance(30) {
                    self.ledger.set_degraded(true);
                    self.carry_out(now);
                }
                self.consumer = self.plan(store);
            }
            Consumer::Planned { start, epoch, base } => self.open((start, epoch, base), store, now),
            Consumer::Open { incarnation, .. } if incarnation != store.incarnation => self.break_consumer(),
            Consumer::Open { incarnation, next } => {
                let wanted = 1 + random.below(12) as usize;
                let messages: Vec<Message> = store.from(next).take(wanted).cloned().collect();
                let mut pending = store.from(next).count() as u64;
                if messages.is_empty() {
                    self.ledger.idle(random.chance(50).then(|| store.last()), now);
                    self.carry_out(now);
                }
                for message in &messages {
                    pending -= 1;
                    let event = self.event(message, store.epoch());
                    self.ledger.take(event, pending, now);
                    self.carry_out_in_burst(now);
                }
                let next = messages.last().map_or(next, |last| last.at.seq + 1);
                self.consumer = Consumer::Open { incarnation, next };
                let settled = self.requests.is_empty();
                self.ledger.advanced(now, settled);
                self.carry_out(now);
            }
        }
    }

    fn event(&self, message: &Message, epoch: Epoch) -> Arc<Event> {
        let payload = format!("{} {}", message.number, "y".repeat(message.number as usize * 7 % 90));
        let subject = message.subject();
        let told = frame::Message { subject: &subject, name: None, payload: payload.as_bytes(), time: message.at.time };
        Arc::new(self.encoder.event(told, Some(Cursor { epoch, at: message.at })))
    }

    fn plan(&self, store: &Store) -> Consumer {
        let epoch = store.epoch();
        let known = self.ledger.known();
        let start = start::decide(known, seen(store, known));
        let base = match (start, known) {
            (Start::RolledBack, Some(Known { head, time: 0, .. })) => position(store, head.seq.min(store.last())),
            (Start::RolledBack, Some(known)) => {
                let older = store.from(1).take_while(|message| message.at.time <= known.time).last();
                older.map_or(Position { seq: store.first() - 1, time: 0 }, |message| message.at)
            }
            (Start::Continued, Some(known)) => known.head,
            _ => {
                let seq = store.last().saturating_sub(30).max(store.first() - 1).min(store.last());
                position(store, seq)
            }
        };
        Consumer::Planned { start, epoch, base }
    }

    fn open(&mut self, (start, epoch, base): (Start, Epoch, Position), store: &Store, now: Instant) {
        self.consumer = Consumer::None;
        let end = if self.clamps { store.last() } else { u64::MAX };
        let before_first = base.seq.max(store.first() - 1).min(end);
        let Some(begins) = start::clamped(base, before_first) else { return };
        let planned = Known { epoch, head: base, time: base.time, recent: [Position::START; RECENT] };
        if start::decide(Some(planned), seen(store, Some(planned))) != Start::Continued {
            return;
        }
        let pending = store.from(begins.seq + 1).count() as u64;
        let end = (pending == 0).then_some(store.last());
        let begun = Begun { start, epoch, base: begins, last_seq: store.last(), end, stock: Stock::unlimited(now) };
        self.ledger.begin(&begun, now);
        self.ledger.set_degraded(false);
        self.carry_out(now);
        self.consumer = Consumer::Open { incarnation: store.incarnation, next: begins.seq + 1 };
        let settled = self.requests.is_empty();
        self.ledger.advanced(now, settled);
        self.carry_out(now);
    }

    fn look(&mut self, store: &Store, random: &mut Random, now: Instant) {
        let Some((known, at)) = self.look.take() else { return };
        let (seen, stands) = (seen(store, Some(known)), store.at(at).is_some());
        let looked = Looked { known, seen, stock: Stock::unlimited(now), at: (at, stands), asked: now };
        if !self.ledger.looked((!random.chance(20)).then_some(looked)) {
            self.break_consumer();
        }
        self.carry_out(now);
    }

    fn read_values(&mut self, store: &Store, random: &mut Random, now: Instant) {
        if self.values.is_empty() {
            return;
        }
        let place = random.below(self.values.len() as u64) as usize;
        let read = &mut self.values[place];
        let fits = store.epoch() == read.of.epoch && store.last() >= read.of.head && !random.chance(10);
        if fits && read.subjects.is_none() {
            read.subjects = Some(store.last_values(&read.of.pattern).into_keys().collect());
            return;
        }
        let ValueReader { of, subjects } = self.values.swap_remove(place);
        let values = subjects.filter(|_| fits).map(|subjects| {
            let there = store.last_values(&of.pattern);
            let messages = subjects.iter().filter_map(|subject| there.get(subject));
            let events = messages.map(|message| self.event(message, store.epoch())).collect();
            Values { events, cut: false }
        });
        self.ledger.values_read(&of, values, now);
        self.carry_out(now);
    }

    fn read_past(&mut self, store: &Store, random: &mut Random, now: Instant) {
        for place in 0..self.readers.len() {
            if self.readers[place].ready.is_none() {
                let filled = self.pull(place, store, random);
                self.readers[place].ready = Some(filled);
            }
        }
        let takes = |reader: &&mut Reader| self.ledger.takes(reader.pass);
        let Some(reader) = self.readers.iter_mut().find(takes) else { return };
        let (pass, filled) = (reader.pass, reader.ready.take().flatten());
        let settled = self.requests.is_empty();
        self.ledger.filled(pass, filled, now, settled);
        self.carry_out(now);
    }

    /// One pull; `None` where the reader gives up.
    fn pull(&mut self, place: usize, store: &Store, random: &mut Random) -> Option<Filled> {
        let reader = &self.readers[place];
        if reader.incarnation != Some(store.incarnation) {
            let known = self.ledger.known();
            let is_ours = start::decide(known, seen(store, known)) == Start::Continued;
            if !is_ours || random.chance(10) {
                return None;
            }
            self.readers[place].incarnation = Some(store.incarnation);
        }
        let next = self.readers[place].next;
        let wanted = 1 + random.below(10) as usize;
        let messages: Vec<Message> = store.from(next).take(wanted).cloned().collect();
        if messages.is_empty() {
            return Some(Filled { end: Some(store.last()), ..Filled::default() });
        }
        let events: Vec<_> = messages.iter().map(|message| self.event(message, store.epoch())).collect();
        self.readers[place].next = messages.last().map_or(next, |last| last.at.seq + 1);
        Some(Filled { events, ..Filled::default() })
    }
}

fn position(store: &Store, seq: u64) -> Position {
    store.at(seq).map_or(Position { seq, time: 0 }, |message| message.at)
}

fn seen(store: &Store, known: Option<Known>) -> Seen {
    let places = known.iter().flat_map(Known::places);
    let found = places.filter_map(|held| store.at(held.seq).map(|message| (held, message.at))).next();
    Seen { epoch: store.epoch(), last_seq: store.last(), found, replicated: false }
}
