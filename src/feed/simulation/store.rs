//! The simulated stream, and the memory of everything that was ever stored in it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::{Random, USERS};
use crate::cursor::{Epoch, Position};
use crate::subject::Pattern;

/// Subjects of each user, and of all.
const SUBJECTS: u64 = 3;

/// One message, as it stands in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) at: Position,
    /// Its payload: no two messages have the same.
    pub(super) number: u64,
    /// Whom it goes to; `None` is everybody.
    pub(super) to: Option<u64>,
}

impl Message {
    pub(super) fn subject(&self) -> String {
        let what = self.number % SUBJECTS;
        self.to.map_or(format!("e.all.{what}"), |user| format!("e.u{user}.{what}"))
    }

    pub(super) fn is_for(&self, user: u64) -> bool {
        self.to.is_none_or(|to| to == user)
    }
}

/// What happened to a message that was once stored.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) message: Message,
    /// The lives of the stream it was part of: the store went back behind it, or was lost, where they end.
    pub(super) lives: Range<u32>,
    /// It was removed: deleted, purged, dropped by a limit.
    pub(super) removed: bool,
}

impl Fate {
    /// Whether both were part of the stream in the same life of it.
    pub(super) fn coexisted_with(&self, other: &Self) -> bool {
        self.lives.start < other.lives.end && other.lives.start < self.lives.end
    }
}

/// A stream with limits retention.
#[derive(Debug, Clone, Default)]
struct State {
    messages: BTreeMap<u64, Message>,
    first: u64,
    last: u64,
}

/// The stream, and what it ever held.
#[derive(Debug, Default)]
pub(super) struct Store {
    state: State,
    saved: Option<State>,
    created: u32,
    /// Changes whenever the server has started anew: consumers are gone then.
    pub(super) incarnation: u32,
    /// Changes whenever sequences mean something else.
    pub(super) life: u32,
    /// By number.
    pub(super) fates: Vec<Fate>,
    /// The numbers that ever stood at a sequence.
    by_seq: BTreeMap<u64, Vec<u64>>,
    time: u64,
}

impl Store {
    pub(super) fn epoch(&self) -> Epoch {
        Epoch::of("S", &self.created.to_string())
    }

    pub(super) fn first(&self) -> u64 {
        self.state.first.max(1)
    }

    pub(super) fn last(&self) -> u64 {
        self.state.last
    }

    pub(super) fn stored(&self) -> u64 {
        self.fates.len() as u64
    }

    pub(super) fn at(&self, seq: u64) -> Option<&Message> {
        self.state.messages.get(&seq)
    }

    pub(super) fn from(&self, seq: u64) -> impl Iterator<Item = &Message> {
        self.state.messages.range(seq..).map(|(_, message)| message)
    }

    pub(super) fn publish(&mut self, random: &mut Random) {
        let to = (!random.chance(20)).then(|| random.below(USERS + 1));
        self.store(to);
    }

    pub(super) fn publish_to_all(&mut self) {
        self.store(None);
    }

    fn store(&mut self, to: Option<u64>) {
        self.time += 1000;
        self.state.last += 1;
        let at = Position { seq: self.state.last, time: self.time };
        let message = Message { at, number: self.fates.len() as u64, to };
        self.fates.push(Fate { message: message.clone(), lives: self.life..u32::MAX, removed: false });
        self.by_seq.entry(at.seq).or_default().push(message.number);
        self.state.messages.insert(at.seq, message);
    }

    /// Everything that ever stood between two sequences, both left out.
    pub(super) fn ever_between(&self, after: u64, before: u64) -> impl Iterator<Item = &Fate> {
        let range = after.saturating_add(1)..before.max(after.saturating_add(1));
        self.by_seq.range(range).flat_map(|(_, numbers)| numbers).map(|number| &self.fates[*number as usize])
    }

    /// The last message of each subject under a pattern.
    pub(super) fn last_values(&self, pattern: &Pattern) -> HashMap<String, &Message> {
        let matching = self.state.messages.values().map(|message| (message.subject(), message));
        matching.filter(|(subject, _)| pattern.matches(subject)).collect()
    }

    /// The last that was ever stored in this life on each subject of a user, as far as it is still there and no newer than a
    /// sequence: what is newer follows, and then the one before does not matter.
    pub(super) fn lasting_values(&self, user: u64, upto: u64) -> impl Iterator<Item = &Message> {
        let theirs = self.ever_between(0, self.last() + 1).filter(|fate| fate.message.is_for(user));
        let of_this_life = theirs.filter(|fate| fate.lives.end == u32::MAX);
        let last: HashMap<String, &Fate> = of_this_life.map(|fate| (fate.message.subject(), fate)).collect();
        last.into_values().filter(move |fate| !fate.removed && fate.message.at.seq <= upto).map(|fate| &fate.message)
    }

    fn remove(&mut self, seq: u64) {
        if let Some(message) = self.state.messages.remove(&seq) {
            self.fates[message.number as usize].removed = true;
        }
    }

    fn remove_until(&mut self, seq: u64) {
        let gone: Vec<u64> = self.state.messages.range(..=seq).map(|(seq, _)| *seq).collect();
        gone.into_iter().for_each(|seq| self.remove(seq));
        self.move_first();
    }

    /// As the server does: the first sequence is that of the first message.
    fn move_first(&mut self) {
        self.state.first = self.state.messages.keys().next().copied().unwrap_or(self.state.last + 1);
    }

    pub(super) fn purge(&mut self, random: &mut Random) {
        let keep = random.below(10);
        self.remove_until(self.state.last.saturating_sub(keep));
    }

    pub(super) fn drop_oldest(&mut self, random: &mut Random) {
        self.remove_until(self.first() + random.below(20).min(self.state.last.saturating_sub(self.first())));
    }

    pub(super) fn delete_some(&mut self, random: &mut Random) {
        if self.state.last == 0 {
            return;
        }
        let near_the_end = random.chance(50);
        let span = if near_the_end { 10.min(self.state.last) } else { self.state.last };
        let from = self.state.last - random.below(span);
        for seq in from..=(from + random.below(3)) {
            self.remove(seq);
        }
        self.move_first();
    }

    pub(super) fn restart(&mut self) {
        self.incarnation += 1;
    }

    pub(super) fn save(&mut self) {
        self.saved = Some(self.state.clone());
    }

    /// The same creation time, and sequences that are given out again.
    pub(super) fn roll_back(&mut self, random: &mut Random) {
        let Some(saved) = self.saved.take() else { return };
        let (life, last) = (self.life, saved.last);
        let current = self.fates.iter_mut().filter(|fate| fate.lives.end == u32::MAX);
        current.filter(|fate| fate.message.at.seq > last).for_each(|fate| fate.lives.end = life + 1);
        self.state = saved;
        self.begin_life(random);
    }

    pub(super) fn recreate(&mut self, random: &mut Random) {
        for fate in self.fates.iter_mut().filter(|fate| fate.lives.end == u32::MAX) {
            fate.lives.end = self.life + 1;
        }
        self.state = State::default();
        self.saved = None;
        self.created += 1;
        self.begin_life(random);
    }

    fn begin_life(&mut self, random: &mut Random) {
        self.life += 1;
        self.incarnation += 1;
        // Seen or unseen by sidecars before they notice.
        for _ in 0..random.below(60) {
            self.publish(random);
        }
    }
}
