//! A simulated browser, and the check of everything it is sent.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::sidecar::{Sidecar, poll};
use super::store::{Fate, Store};
use super::{Random, Tally, World};
use crate::config::Limits;
use crate::cursor::LastEventId;
use crate::limit::Limiter;
use crate::route::{Audience, Grant, PathTemplate, Route};
use crate::shard::client::Spec;
use crate::shard::guard::Guard;
use crate::sse::{Event, Parser};
use crate::subject::{Template, Token};
use crate::telemetry::metrics::Protocol;

/// A reader of one user's events, who comes and goes.
pub(super) struct Client {
    user: u64,
    grant: Grant,
    limiter: Arc<Limiter>,
    state: State,
    parser: Parser,
    seen: Seen,
}

enum State {
    Away,
    Opening(usize, Pin<Box<dyn Future<Output = Guard>>>),
    Open(usize, Guard),
}

/// What it has got so far.
#[derive(Debug, Default)]
struct Seen {
    /// Numbers of messages since it last began anew.
    received: HashSet<u64>,
    /// The last of them.
    last: Option<u64>,
    /// Everything of its own up to this sequence has been received or declared.
    upto: u64,
    /// Holes declared since the last message, both ends left out.
    holes: Vec<(u64, u64)>,
    /// A gap `reset` or `cursor_unknown` came since the last message.
    restarted: bool,
    /// Messages and gaps since it came this time.
    since_connected: u64,
    /// What it sent then.
    sent: Option<LastEventId>,
    /// Whether it begins with last values.
    last_values: bool,
    /// It is being given them, since the stream's life of that number.
    values_since: Option<u32>,
    /// It has been told that some are left out.
    values_cut: bool,
    /// It has been told that it has them.
    synced: bool,
    tally: Tally,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Away => "away".to_owned(),
            State::Opening(which, _) => format!("opening at {which}"),
            State::Open(which, guard) => {
                let client = guard.client();
                format!("open at {which}, live {}, closing {:?}", client.is_live(), client.closing())
            }
        };
        f.debug_struct("Client").field("user", &self.user).field("state", &state).field("seen", &self.seen).finish()
    }
}

fn grant_of(user: u64, last_value: bool) -> Grant {
    let template = |text| Template::parse(text).expect("a template");
    let route = Route {
        path: PathTemplate::parse("/events").expect("a path"),
        stream: Some(0),
        subjects: vec![template("e.{user}.>"), template("e.all.>")],
        allow: Vec::new(),
        live_subjects: Vec::new(),
        audience: Audience::User,
        format: 0,
        select: false,
        last_value,
    };
    let token = Token::parse(&format!("u{user}")).expect("a token");
    route.grant(&HashMap::from([("user", token)]), &[]).expect("a grant")
}

/// Limits that nobody meets.
fn wide() -> Limits {
    Limits {
        connections: 100,
        connections_per_user: 100,
        connections_per_address: 100,
        connects_per_second: 1_000_000,
        connects_per_second_per_user: 1_000_000,
        connects_per_second_per_address: 1_000_000,
        queue_bytes: 0,
        queue_events: 0,
        write_timeout: Duration::ZERO,
        unsent_buffer: 0,
        event_bytes: 0,
        replay_events: 0,
        replays: 0,
        memory: None,
    }
}

impl Client {
    pub(super) fn new(user: u64, last_values: bool) -> Self {
        let (grant, limiter) = (grant_of(user, last_values), Limiter::new(&wide()));
        let seen = Seen { last_values, ..Seen::default() };
        Self { user, grant, limiter, state: State::Away, parser: Parser::default(), seen }
    }

    pub(super) fn add_to(&self, tally: &mut Tally) {
        tally.events += self.seen.tally.events;
        tally.exact += self.seen.tally.exact;
        tally.gaps += self.seen.tally.gaps;
        tally.synced += self.seen.tally.synced;
        tally.cut += self.seen.tally.cut;
    }

    /// Its sidecar was killed.
    pub(super) fn sidecar_gone(&mut self, which: usize) {
        if matches!(&self.state, State::Opening(at, _) | State::Open(at, _) if *at == which) {
            self.leave();
        }
    }

    pub(super) fn is_at_the_end(&self, store: &Store) -> bool {
        let has_all = self.seen.last == store.stored().checked_sub(1) || self.seen.declared_upto() == store.last();
        matches!(self.state, State::Open(..)) && has_all
    }

    /// One of the things that a client does.
    pub(super) fn step(&mut self, sidecars: &mut [Sidecar; 2], store: &Store, world: World, random: &mut Random) {
        if random.chance(12) {
            return self.leave();
        }
        if matches!(self.state, State::Away) && random.chance(3) {
            // It begins anew: as a new page, or with an id that was never ours.
            self.parser = Parser::default();
            if random.chance(50) {
                self.parser.feed(b"id: nonsense\ndata\n\n", drop);
            }
        }
        // Half of an event may come before the connection ends.
        let cut = random.chance(3).then(|| random.below(60) as usize);
        self.move_on(sidecars, store, world, random, cut);
    }

    /// As far as it can go.
    pub(super) fn go_on(&mut self, sidecars: &mut [Sidecar; 2], store: &Store, world: World, random: &mut Random) {
        for _ in 0..4 {
            self.move_on(sidecars, store, world, random, None);
        }
    }

    fn move_on(
        &mut self,
        sidecars: &mut [Sidecar; 2],
        store: &Store,
        world: World,
        random: &mut Random,
        cut: Option<usize>,
    ) {
        match &mut self.state {
            State::Away => {
                let which = random.below(2) as usize;
                if sidecars[which].is_serving() {
                    self.connect(which, &sidecars[which], random);
                }
            }
            State::Opening(which, opening) => {
                if let Poll::Ready(guard) = poll(opening.as_mut()) {
                    guard.opened();
                    self.state = State::Open(*which, guard);
                }
            }
            State::Open(_, guard) => {
                let Some(mut bytes) = guard.take() else {
                    if guard.client().closing().is_some() {
                        self.leave();
                    }
                    return;
                };
                if let Some(cut) = cut {
                    bytes.truncate(cut);
                }
                let mut events = Vec::new();
                self.parser.feed(&bytes, |event| events.push(event));
                for event in events {
                    self.seen.take(&event, self.user, store, world);
                }
                if cut.is_some() {
                    self.leave();
                }
            }
        }
    }

    fn leave(&mut self) {
        self.state = State::Away;
        self.parser.end_of_stream();
    }

    fn connect(&mut self, which: usize, sidecar: &Sidecar, random: &mut Random) {
        let last_event_id = LastEventId::parse(self.parser.last_event_id().as_bytes()).expect("ids are visible ASCII");
        self.seen.sent = Some(last_event_id);
        self.seen.since_connected = 0;
        self.seen.synced = false;
        self.seen.values_since = None;
        let spec = Spec {
            connection: uuid::Uuid::nil(),
            route: 0,
            format: 0,
            stream: Some(0),
            grant: self.grant.clone(),
            last_event_id,
            protocol: Protocol::Http2,
            expires_in: None,
            arrival: None,
            permit: self.limiter.admit(None, None).expect("the limits are wide"),
        };
        let shard = sidecar.shards[random.below(sidecar.shards.len() as u64) as usize].clone();
        self.state = State::Opening(which, Box::pin(async move { shard.open(spec).await }));
    }
}

impl Seen {
    fn take(&mut self, event: &Event, user: u64, store: &Store, world: World) {
        match event.name.as_str() {
            "message" => self.message(event, user, store),
            "sidestream.connected" => self.connected(event, store),
            "sidestream.synced" => self.synced(event, user, store),
            "sidestream.gap" => self.gap(event, store, world),
            "sidestream.degraded" | "sidestream.ok" => {}
            _ => panic!("unexpected: {event:?}"),
        }
    }

    /// A copy that has received nothing, but for what is known of the connection.
    fn anew(&self, store: &Store) -> Self {
        let values_since = self.last_values.then_some(store.life);
        let (tally, sent, last_values, since_connected) =
            (self.tally, self.sent, self.last_values, self.since_connected);
        Self { tally, sent, last_values, since_connected, values_since, ..Self::default() }
    }

    /// The last values: all that are still there, of the stream as it was up to the cursor of the event.
    fn synced(&mut self, event: &Event, user: u64, store: &Store) {
        assert!(self.last_values && !std::mem::replace(&mut self.synced, true), "told again: {event:?}");
        let Some(life) = self.values_since.take() else { return };
        self.tally.synced += 1;
        let upto = seq_of(event);
        assert!(upto >= self.upto, "behind what was sent: {event:?}, {self:?}");
        // Of a life that is over, and the sidecar does not know yet, is told by a gap afterwards.
        let is_current =
            life == store.life && store.at(upto).is_some_and(|there| Some(there.at.time) == time_of(event));
        let is_whole = is_current && !std::mem::take(&mut self.values_cut);
        for value in store.lasting_values(user, upto).filter(|_| is_whole) {
            assert!(self.received.contains(&value.number), "not a last value: {value:?}, {event:?}, {self:?}");
        }
        if !is_current {
            // Of which life its values are nobody can say: it is told of another one, and gets them again.
            self.last = None;
            self.received.clear();
        }
        self.upto = upto;
    }

    fn connected(&mut self, event: &Event, store: &Store) {
        let data: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
        match (data["resume"].as_str(), self.sent) {
            (Some("new"), Some(LastEventId::Absent)) => {
                *self = Self { upto: seq_of(event), ..self.anew(store) };
            }
            (Some("new"), Some(LastEventId::Cursor(cursor))) if self.last_values && cursor.at.seq == 0 => {
                *self = self.anew(store);
            }
            // Of more values than are held some are left out.
            (Some("gap"), Some(sent))
                if self.last_values && (sent == LastEventId::Absent || sent.is_before_everything()) =>
            {
                assert_eq!(seq_of(event), 0, "it has nothing: {event:?}");
                *self = self.anew(store);
            }
            (Some("exact"), Some(LastEventId::Cursor(_))) => self.tally.exact += 1,
            (Some("gap"), Some(LastEventId::Unknown)) => {
                *self = self.anew(store);
            }
            (Some("gap"), Some(LastEventId::Cursor(_))) => {}
            _ => panic!("resumed wrongly with {:?}: {event:?}", self.sent),
        }
    }

    fn gap(&mut self, event: &Event, store: &Store, world: World) {
        self.tally.gaps += 1;
        self.since_connected += 1;
        assert!(!world.loses_nothing() || matches!(self.sent, Some(LastEventId::Unknown)), "a false gap: {event:?}");
        let data: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
        if self.last_values && data["next"].is_null() {
            return self.gap_before_values(event, &data, store, world);
        }
        let next = data["next"].as_u64().expect("a sequence");
        assert_eq!(seq_of(event) + 1, next, "the id of a gap is where it ends: {event:?}");
        match (data["reason"].as_str().expect("a word"), data["after"].as_u64()) {
            ("purged", Some(after)) => {
                let removed = store.ever_between(after, next).any(|fate| fate.removed);
                assert!(removed, "nothing was ever removed there: {event:?}");
                let begins = store.ever_between(after, after + 2).any(|fate| fate.removed);
                assert!(begins, "nothing was removed directly behind `after`: {event:?}, {self:?}");
                assert!(next - 1 > self.declared_upto(), "told again: {event:?}, {self:?}");
                self.holes.push((after, next));
            }
            ("replay_limit", Some(after)) => {
                assert!(self.since_connected > world.replay_events, "{} came before {event:?}", self.since_connected);
                self.holes.push((after, next));
            }
            ("reset", None) => {
                let since = self.last.map_or(0, |last| store.fates[last as usize].lives.start);
                assert!(store.life > since, "the stream was never another one: {event:?}");
                self.restart(next);
            }
            ("cursor_unknown", None) => {
                assert_eq!(self.sent, Some(LastEventId::Unknown), "{event:?}");
                self.restart(next);
            }
            _ => panic!("no such gap here: {event:?}"),
        }
    }

    /// Whatever was missed, last values follow.
    fn gap_before_values(&mut self, event: &Event, data: &serde_json::Value, store: &Store, world: World) {
        assert_eq!(seq_of(event), 0, "a place behind what follows: {event:?}");
        match data["reason"].as_str().expect("a word") {
            // More values than are held: at the beginning, or in the middle of them.
            "replay_limit" if world.values_max < 3 => {
                if self.values_since.is_none() {
                    *self = Self { restarted: true, ..self.anew(store) };
                }
                self.values_cut = true;
                self.tally.cut += 1;
                return;
            }
            "replay_limit" => assert!(self.since_connected > world.replay_events, "{event:?}, {self:?}"),
            // Its values may have been read after the stream became another one, and before the sidecar knew.
            "reset" if self.values_since.is_some() => assert!(store.life > 0, "{event:?}"),
            "reset" => {
                let since = self.last.map_or(0, |last| store.fates[last as usize].lives.start);
                assert!(store.life > since, "the stream was never another one: {event:?}");
            }
            "cursor_unknown" => assert_eq!(self.sent, Some(LastEventId::Unknown), "{event:?}"),
            _ => panic!("no such gap here: {event:?}"),
        }
        *self = Self { restarted: true, ..self.anew(store) };
    }

    /// Everything up to here has been received or declared.
    fn declared_upto(&self) -> u64 {
        self.holes.iter().map(|(_, next)| next - 1).max().unwrap_or(0).max(self.upto)
    }

    fn restart(&mut self, next: u64) {
        self.upto = next - 1;
        self.holes.clear();
        self.restarted = true;
    }

    fn message(&mut self, event: &Event, user: u64, store: &Store) {
        self.tally.events += 1;
        self.since_connected += 1;
        let number: u64 = event.data.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        let fate = &store.fates[number as usize];
        let seq = fate.message.at.seq;
        assert!(fate.message.is_for(user), "foreign to u{user}: {fate:?}");
        assert_eq!(seq_of(event), seq, "the id of another message: {event:?}");
        // A cursor inside a hole proves nothing to a sidecar that does not know yet that its history is over.
        let is_over = fate.lives.end <= store.life;
        let unproven = is_over && matches!(self.sent, Some(LastEventId::Cursor(cursor)) if cursor.at.time == 0);
        assert!(self.received.insert(number) || unproven, "doubled: {fate:?}");
        assert!(seq > self.upto, "out of order, after {}: {fate:?}", self.upto);
        if self.values_since.is_some() {
            self.upto = seq;
            self.last = Some(number);
            return;
        }
        self.check_life(fate, store);
        for missed in store.ever_between(self.upto, seq).filter(|missed| missed.coexisted_with(fate)) {
            let at = missed.message.at.seq;
            let declared = self.holes.iter().any(|(after, next)| *after < at && at < *next);
            let had = self.received.contains(&missed.message.number);
            // Where a sequence is given out again and that message is removed too, nothing is left that could tell.
            let given_twice = store.ever_between(at - 1, at + 1).count() > 1;
            let untold = given_twice && missed.removed;
            let fine = !missed.message.is_for(user) || declared || had || untold;
            assert!(fine, "lost: {missed:?}, before {fate:?}, {self:?}");
        }
        self.upto = seq;
        self.last = Some(number);
        self.holes.clear();
        self.restarted = false;
    }

    /// Another history of the stream does not begin unsaid.
    fn check_life(&self, fate: &Fate, store: &Store) {
        let Some(last) = self.last.map(|last| &store.fates[last as usize]) else { return };
        if self.restarted || last.coexisted_with(fate) {
            return;
        }
        // Nothing is proven where the message that had the sequence after it is gone as well: neither to a sidecar that
        // stood there, nor by the cursor of a client that comes.
        let mut places = vec![last.message.at.seq];
        match self.sent {
            Some(LastEventId::Cursor(cursor)) if cursor.at.time == 0 => return,
            Some(LastEventId::Cursor(cursor)) => places.push(cursor.at.seq),
            _ => {}
        }
        let gone =
            |seq: &u64| store.ever_between(seq - 1, seq + 1).any(|there| there.removed && there.coexisted_with(fate));
        assert!(places.iter().any(gone), "another history, undeclared: {fate:?} after {last:?}, {self:?}");
    }
}

fn time_of(event: &Event) -> Option<u64> {
    match LastEventId::parse(event.id.as_deref().unwrap_or_default().as_bytes()) {
        Ok(LastEventId::Cursor(cursor)) => Some(cursor.at.time),
        _ => None,
    }
}

fn seq_of(event: &Event) -> u64 {
    match LastEventId::parse(event.id.as_deref().unwrap_or_default().as_bytes()) {
        Ok(LastEventId::Cursor(cursor)) => cursor.at.seq,
        _ => panic!("no cursor: {event:?}"),
    }
}
