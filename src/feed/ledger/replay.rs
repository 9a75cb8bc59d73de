//! Older than memory: what clients missed is read from the stream once for all of them, never once per client.
//!
//! A [`Pass`] reads a range of the stream forwards into a small log of its own, from the oldest cursor that waits until it
//! meets the stream's log. Clients ride on it and take their pieces at their own pace; when it is full it lets go of the
//! oldest and reads on as the slowest of them moves. Those who lost their connections together do not come back in the same
//! instant: so a full pass waits a moment for others to get on, a pass that has caught up with another one hands its riders
//! over, and one that nobody needs stays a little. Who holds others up waits for another pass. Memory is bounded by the
//! passes and by how many clients have a piece in hand, reads by the range, and exactness is the log's own. Reading NATS is
//! [`crate::feed::pass`]'s business, sending pieces the ledger's.

mod pass;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

pub(in crate::feed) use self::pass::Filled;
use self::pass::{Pass, Serve};
use crate::cursor::Cursor;
use crate::event::{Cause, Event};
use crate::feed::encode::Encoder;
use crate::link::Ticket;
use crate::log::{Log, PieceSize};
use crate::resume::{self, Verdict};
use crate::route::Grant;

/// Passes at the same time over one stream.
const PASSES_MAX: usize = 2;
/// A client that has not come for its next piece for this long does not hold others up.
const LAGGARD: Duration = Duration::from_secs(1);
/// A pass that has to be read so many sequences further before it has what a client wants has it soon: in a fraction of a second.
const NEAR: u64 = 2000;
/// How long a pass that nobody rides on is kept for those who come next: a storm takes a second or two.
const LINGER: Duration = Duration::from_secs(2);

/// Bounds of replaying.
#[derive(Debug, Clone, Copy)]
pub(in crate::feed) struct Bounds {
    /// Events one client may replay.
    pub(in crate::feed) events: u64,
    /// Clients that have a piece in hand at the same time; others wait.
    pub(in crate::feed) clients: usize,
    /// What one client gets at a time.
    pub(in crate::feed) piece: PieceSize,
    /// What all passes together hold before they wait for their clients, in bytes.
    pub(in crate::feed) pass_bytes: usize,
}

/// A client that wants what the stream's log does not hold.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) shard: usize,
    pub(super) ticket: Ticket,
    pub(super) grant: Arc<Grant>,
    pub(super) from: MissingFrom,
}

/// From where.
#[derive(Debug, Clone, Copy)]
pub(super) enum MissingFrom {
    /// It connects with this cursor, which is still to be proven.
    Cursor(Cursor),
    /// It has everything up to here.
    After(u64),
}

type Key = (usize, Ticket);

impl Missing {
    fn key(&self) -> Key {
        (self.shard, self.ticket)
    }

    /// Only this request still holds the grant of a client that has gone.
    fn is_gone(&self) -> bool {
        Arc::strong_count(&self.grant) == 1
    }
}

impl MissingFrom {
    pub(super) fn seq(self) -> u64 {
        match self {
            Self::Cursor(cursor) => cursor.at.seq,
            Self::After(seq) => seq,
        }
    }
}

/// What is to be done for a client.
#[derive(Debug)]
pub(super) enum Action {
    /// Send these events; it is then at `upto` and asks for more. `proven`: its cursor, now that the stream is open.
    Piece { missing: Missing, proven: Option<Cursor>, events: Vec<Arc<Event>>, upto: u64 },
    /// The stream's log has what it wants.
    Join(Missing),
    /// It is told of a gap and goes on elsewhere.
    Verdict(Missing, Verdict),
    /// A pass begins: the stream is to be read from here.
    Read { pass: PassId, from: u64 },
}

/// A pass, among all of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::feed) struct PassId(u64);

/// All passes over one stream, and who waits for what.
#[derive(Debug)]
pub(super) struct Replay {
    bounds: Bounds,
    passes: Vec<Pass>,
    /// Those who have boarded a pass, until they have joined or gone.
    members: HashMap<Key, Member>,
    /// Members that have a piece in hand.
    served: usize,
    /// Members whose turn it is as soon as fewer have a piece in hand.
    queue: VecDeque<Missing>,
    /// Members whose pass has nothing more for them yet.
    waiting: Vec<Missing>,
    /// Those whom no pass covers.
    stranded: Vec<Missing>,
    /// What has been read since those who wait were last looked at, in events.
    news: usize,
    /// Passes begun so far.
    begun: u64,
}

/// A client that is given pieces.
#[derive(Debug)]
struct Member {
    /// Gone when the client is.
    grant: Weak<Grant>,
    /// The pass that holds what it is to get next, and where it is. None once it has held others up, or its pass has ended.
    seat: Option<(PassId, u64)>,
    replayed: u64,
    /// Since when it has a piece in hand.
    served: Option<Instant>,
}

impl Replay {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            passes: Vec::new(),
            members: HashMap::new(),
            served: 0,
            queue: VecDeque::new(),
            waiting: Vec::new(),
            stranded: Vec::new(),
            news: 0,
            begun: 0,
        }
    }

    /// How many there are.
    pub(super) fn passes(&self) -> usize {
        self.passes.len()
    }

    /// How much more the stream's log is to hold meanwhile, in bytes: clients that come to the end of a pass shall find what
    /// follows there.
    pub(super) fn pins(&self) -> usize {
        if self.passes.is_empty() { 0 } else { self.bounds.pass_bytes / 8 }
    }

    /// Ends all passes, when another consumer is read: what they have read beside the one before is proven by nothing.
    pub(super) fn end_passes(&mut self) {
        self.passes.clear();
        self.members.values_mut().for_each(|member| member.seat = None);
        self.news = usize::MAX;
    }

    /// Forgets all passes and clients, when another log has begun. Gives the clients that waited.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Missing> {
        let ended = std::mem::replace(self, Self { begun: self.begun, ..Self::new(self.bounds) });
        ended.queue.into_iter().chain(ended.waiting).chain(ended.stranded)
    }

    /// Whether a pass is still wanted.
    pub(super) fn has(&self, id: PassId) -> bool {
        self.passes.iter().any(|pass| pass.id == id)
    }

    /// Whether a pass takes more now. `log` is the stream's. Where another pass goes on, there is nothing to read again.
    pub(super) fn takes(&self, id: PassId, log: &Log) -> bool {
        let Some(pass) = self.passes.iter().find(|pass| pass.id == id) else { return false };
        let end = MissingFrom::After(pass.head());
        pass.wants_more(log, self.bytes_max(id)) && !self.passes.iter().any(|other| other.id != id && other.holds(end))
    }

    /// What a pass may hold besides the others.
    fn bytes_max(&self, id: PassId) -> usize {
        let all = self.bounds.pass_bytes;
        let others: usize = self.passes.iter().filter(|pass| pass.id != id).map(Pass::bytes).sum();
        all.saturating_sub(others).clamp(all / 4, all / 4 * 3)
    }

    /// A pass has been read further; with `None`, its reader has given up. Sequences that the stream has no message for are
    /// holes, and `removed` says what they can come from.
    pub(super) fn filled(
        &mut self,
        id: PassId,
        filled: Option<Filled>,
        log: &Log,
        encoder: &Encoder,
        removed: impl Fn(u64) -> Cause,
    ) {
        let Some(pass) = self.passes.iter_mut().find(|pass| pass.id == id) else { return };
        match filled {
            Some(filled) => {
                self.news = self.news.saturating_add(filled.events.len());
                pass.append(filled, log, |before, id| encoder.removed(before, id, removed(id.at.seq)));
            }
            None => pass.break_off(),
        }
        if !self.takes(id, log) {
            // Those who wait for more of it wait for something else now.
            self.news = usize::MAX;
        }
    }

    /// Serves a client, now or in its turn.
    pub(super) fn serve(&mut self, missing: Missing, log: &Log, now: Instant, actions: &mut Vec<Action>) {
        if let Some(member) = self.members.get_mut(&missing.key()) {
            self.served -= usize::from(member.served.take().is_some());
        }
        self.admit(missing, log, now, actions);
        self.serve_queue(log, now, actions);
    }

    /// Serves whoever can be served now. With `settled`, no further request is at hand: then passes begin for those whom none
    /// covers. Those who wait are only looked at when as much has been read as there are of them: a storm of clients that each
    /// want little of a large range must not be gone through for every pull.
    pub(super) fn step(&mut self, log: &Log, now: Instant, settled: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        let owed = self.waiting.len() + self.stranded.len();
        if owed > 0 && self.news >= owed {
            self.look_again(log, now, &mut actions);
        }
        while settled && !self.stranded.is_empty() && self.begin_pass(log, now, &mut actions) {}
        actions
    }

    /// A second has passed: clients that have gone are forgotten, those who hold others up lose their seats, and passes that
    /// nobody needs end.
    pub(super) fn tick(&mut self, log: &Log, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.sweep(now);
        self.unseat_laggards(now);
        // Not at once: a new leader of the stream may not know its end yet, and the next pass would end like this one.
        self.end(|pass| pass.is_behind(log) || (pass.is_idle() && now >= pass.boarded() + LINGER));
        self.look_again(log, now, &mut actions);
        actions
    }

    /// A client takes no more pieces.
    pub(super) fn leave(&mut self, shard: usize, ticket: Ticket, now: Instant) {
        self.seat(&(shard, ticket), None, now);
        let member = self.members.remove(&(shard, ticket));
        self.served -= usize::from(member.is_some_and(|member| member.served.is_some()));
    }

    /// Finds a place for a client.
    fn admit(&mut self, missing: Missing, log: &Log, now: Instant, actions: &mut Vec<Action>) {
        if missing.from.seq() >= log.base().seq {
            self.leave(missing.shard, missing.ticket, now);
            actions.push(Action::Join(missing));
        } else if self.board(&missing, now) {
            self.queue.push_back(missing);
        } else {
            self.stranded.push(missing);
        }
    }

    /// Gives a client a seat on the pass that has what it wants, or will soon: the one that it is on already, if that is so.
    /// Only when no further pass can begin, one that has far to go will do. A full pass has only what it holds: when it reads
    /// on is up to its own riders.
    fn board(&mut self, missing: &Missing, now: Instant) -> bool {
        let (key, from) = (missing.key(), missing.from);
        let own = self.pass_of(missing);
        let far = if self.passes.len() < PASSES_MAX { NEAR } else { u64::MAX };
        let distance = |pass: &Pass| {
            let distance = pass.distance(from).filter(|distance| *distance <= far)?;
            (distance == 0 || !pass.is_full(self.bytes_max(pass.id))).then_some((distance, pass.id))
        };
        let stays = self.passes.iter().find(|pass| Some(pass.id) == own && pass.reaches(from)).map(|pass| pass.id);
        let pass = stays.or_else(|| self.passes.iter().filter_map(distance).min_by_key(|(d, _)| *d).map(|(_, id)| id));
        if pass.is_some() {
            let new = Member { grant: Arc::downgrade(&missing.grant), seat: None, replayed: 0, served: None };
            self.members.entry(key).or_insert(new);
        }
        self.seat(&key, pass.map(|id| (id, from.seq())), now);
        pass.is_some()
    }

    /// The pass that a client rides on.
    fn pass_of(&self, missing: &Missing) -> Option<PassId> {
        self.members.get(&missing.key())?.seat.map(|(id, _)| id)
    }

    /// Notes where a member is.
    fn seat(&mut self, key: &Key, to: Option<(PassId, u64)>, now: Instant) {
        let Some(member) = self.members.get_mut(key) else { return };
        let before = std::mem::replace(&mut member.seat, to);
        for pass in &mut self.passes {
            if let Some((_, at)) = to.filter(|(id, _)| *id == pass.id) {
                pass.board(at);
                if before.is_none() {
                    pass.welcome(now);
                }
            }
            if let Some((_, at)) = before.filter(|(id, _)| *id == pass.id) {
                pass.alight(at, now);
            }
        }
    }

    /// As many as may have a piece in hand get theirs, in turn.
    fn serve_queue(&mut self, log: &Log, now: Instant, actions: &mut Vec<Action>) {
        while self.served < self.bounds.clients
            && let Some(missing) = self.queue.pop_front()
        {
            if missing.is_gone() {
                self.leave(missing.shard, missing.ticket, now);
            } else {
                self.give(missing, log, now, actions);
            }
        }
        for place in 0..self.passes.len() {
            let bytes_max = self.bytes_max(self.passes[place].id);
            self.passes[place].make_room(bytes_max, now);
        }
    }

    /// Gives one what its pass has for it.
    fn give(&mut self, mut missing: Missing, log: &Log, now: Instant, actions: &mut Vec<Action>) {
        let key = missing.key();
        let seated = self.members.get(&key).and_then(|member| Some((member.seat?.0, member.replayed)));
        let on = seated.and_then(|(id, replayed)| Some((self.passes.iter().find(|pass| pass.id == id)?, replayed)));
        let Some((pass, replayed)) = on.filter(|_| missing.from.seq() < log.base().seq) else {
            return self.admit(missing, log, now, actions);
        };
        let id = pass.id;
        match pass.serve(&missing, replayed, self.bounds, log.base().seq) {
            Serve::Wait(at) => {
                if let MissingFrom::After(after) = &mut missing.from {
                    *after = at;
                }
                self.seat(&key, Some((id, at)), now);
                self.wait(missing, log, now, actions);
            }
            Serve::Piece { proven, events, upto } => {
                self.seat(&key, Some((id, upto)), now);
                if let Some(member) = self.members.get_mut(&key) {
                    member.replayed += events.len() as u64;
                    member.served = Some(now);
                    self.served += 1;
                }
                actions.push(Action::Piece { missing, proven, events, upto });
            }
            Serve::Reset(verdict) => {
                self.leave(missing.shard, missing.ticket, now);
                actions.push(Action::Verdict(missing, verdict));
            }
            Serve::Limit => {
                self.leave(missing.shard, missing.ticket, now);
                let verdict = resume::limited(log, missing.from.seq());
                actions.push(Action::Verdict(missing, verdict));
            }
        }
    }

    /// A client has had all that its pass holds: it joins, rides on with a pass that is ahead, or waits.
    fn wait(&mut self, missing: Missing, log: &Log, now: Instant, actions: &mut Vec<Action>) {
        let joins = missing.from.seq() >= log.base().seq && matches!(missing.from, MissingFrom::After(_));
        let own = self.pass_of(&missing);
        let ahead =
            self.passes.iter().find(|pass| Some(pass.id) != own && pass.holds(missing.from)).map(|pass| pass.id);
        if joins {
            self.admit(missing, log, now, actions);
        } else if let Some(id) = ahead {
            self.seat(&missing.key(), Some((id, missing.from.seq())), now);
            self.queue.push_back(missing);
        } else {
            self.waiting.push(missing);
        }
    }

    /// Finds out what there is now for everybody who waits, in the order in which they have come.
    fn look_again(&mut self, log: &Log, now: Instant, actions: &mut Vec<Action>) {
        self.news = 0;
        self.end(Pass::is_broken);
        let stranded = std::mem::take(&mut self.stranded);
        for missing in std::mem::take(&mut self.waiting).into_iter().chain(stranded) {
            self.admit(missing, log, now, actions);
        }
        self.serve_queue(log, now, actions);
    }

    /// Ends passes. Who rode on them is admitted anew when it is its turn.
    fn end(&mut self, ends: impl Fn(&Pass) -> bool) {
        let before = self.passes.len();
        self.passes.retain(|pass| !ends(pass));
        if self.passes.len() < before {
            let left: HashSet<PassId> = self.passes.iter().map(|pass| pass.id).collect();
            self.members.values_mut().for_each(|member| member.seat = member.seat.filter(|(id, _)| left.contains(id)));
        }
    }

    /// Begins a pass at the oldest of those whom none covers, if there may be another.
    fn begin_pass(&mut self, log: &Log, now: Instant, actions: &mut Vec<Action>) -> bool {
        if self.passes.len() >= PASSES_MAX {
            self.end(Pass::is_idle);
        }
        if self.passes.len() >= PASSES_MAX {
            return false;
        }
        self.stranded.retain(|missing| !missing.is_gone());
        let Some(oldest) = self.stranded.iter().map(|missing| missing.from.seq()).min() else { return false };
        let pass = Pass::new(PassId(self.begun), oldest, log, now);
        self.begun += 1;
        actions.push(Action::Read { pass: pass.id, from: pass.from() });
        self.passes.push(pass);
        for missing in std::mem::take(&mut self.stranded) {
            self.admit(missing, log, now, actions);
        }
        self.serve_queue(log, now, actions);
        true
    }

    /// Forgets clients that have gone.
    fn sweep(&mut self, now: Instant) {
        self.queue.retain(|missing| !missing.is_gone());
        self.waiting.retain(|missing| !missing.is_gone());
        self.stranded.retain(|missing| !missing.is_gone());
        self.unseat(now, |member| member.grant.strong_count() == 0);
        self.members.retain(|_, member| member.grant.strong_count() > 0);
    }

    /// A client that does not come for its next piece must not hold up who waits for a place, for another pass, or for what a
    /// full pass can only read when it has let go of something. Nor must it come so slowly that a pass crawls for which others
    /// wait.
    fn unseat_laggards(&mut self, now: Instant) {
        let crowded = self.passes.len() >= PASSES_MAX && !self.stranded.is_empty();
        let urgent = crowded || !self.queue.is_empty();
        let waited_for: HashSet<PassId> = self.waiting.iter().filter_map(|missing| self.pass_of(missing)).collect();
        let mut hurried = HashMap::new();
        for place in 0..self.passes.len() {
            let bytes_max = self.bytes_max(self.passes[place].id);
            let pass = &mut self.passes[place];
            let waited_for = pass.is_nearly_full(bytes_max) && waited_for.contains(&pass.id);
            let behind = pass.crawls(now).filter(|_| waited_for || crowded);
            hurried.insert(pass.id, (waited_for || urgent, behind));
        }
        self.unseat(now, |member| {
            let Some((since, (id, at))) = member.served.zip(member.seat) else { return false };
            let Some((holds_up, behind)) = hurried.get(&id) else { return false };
            (*holds_up && now >= since + LAGGARD) || behind.is_some_and(|behind| at < behind)
        });
    }

    /// Takes their seats from members, and their places among [`Bounds::clients`].
    fn unseat(&mut self, now: Instant, choose: impl Fn(&Member) -> bool) {
        let chosen: Vec<Key> = self.members.iter().filter(|(_, member)| choose(member)).map(|(key, _)| *key).collect();
        for key in chosen {
            self.seat(&key, None, now);
            if let Some(member) = self.members.get_mut(&key) {
                self.served -= usize::from(member.served.take().is_some());
            }
        }
    }
}
