//! The users of this process: counted where streams open and end, compared by the task that tells the others.
//!
//! Shards only count here, under one lock for each opening and each end, as `limit` does. Nothing is queued, so nothing can be lost
//! for want of room: what has changed is a set of users, and the task reads how they stand when it comes round.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::telemetry::metrics::CloseReason;

/// Users with a stream of this process, and those that the task has not looked at since they had one.
#[derive(Debug, Default)]
pub struct Here(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    users: HashMap<Arc<str>, Count>,
    /// Each once, by [`Count::is_changed`].
    changed: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Count {
    open: u32,
    state: Seen,
    since: Instant,
    is_changed: bool,
}

/// How a user stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// With a stream; the one that was opened first when there was none.
    Here(Uuid),
    /// Without one; which ended last, and why.
    Left(Uuid, CloseReason),
}

impl Here {
    /// A user's stream has opened.
    pub fn opened(&self, user: &str, connection: Uuid) {
        self.counts().count(user, |count| {
            count.open += 1;
            (count.open == 1).then_some(Seen::Here(connection))
        });
    }

    /// One that had opened has ended.
    pub fn closed(&self, user: &str, connection: Uuid, reason: CloseReason) {
        self.counts().count(user, |count| {
            count.open = count.open.saturating_sub(1);
            (count.open == 0).then_some(Seen::Left(connection, reason))
        });
    }

    /// Who stands otherwise than at the last look, or may do so, and since how long ago.
    pub(super) fn take(&self) -> Vec<(Arc<str>, Seen, Duration)> {
        let mut counts = self.counts();
        let changed = std::mem::take(&mut counts.changed);
        let seen = changed.into_iter().filter_map(|user| {
            let count = counts.users.get_mut(&user)?;
            count.is_changed = false;
            let (open, state, ago) = (count.open, count.state, count.since.elapsed());
            if open == 0 {
                counts.users.remove(&user);
            }
            Some((user, state, ago))
        });
        seen.collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn count(&mut self, user: &str, step: impl FnOnce(&mut Count) -> Option<Seen>) {
        let user = self.users.get_key_value(user).map_or_else(|| Arc::from(user), |(user, _)| user.clone());
        let nobody = || Count { open: 0, state: Seen::Here(Uuid::nil()), since: Instant::now(), is_changed: false };
        let count = self.users.entry(user.clone()).or_insert_with(nobody);
        let Some(state) = step(count) else { return };
        (count.state, count.since) = (state, Instant::now());
        if !std::mem::replace(&mut count.is_changed, true) {
            self.changed.push(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    fn taken(here: &Here) -> Vec<(String, Seen)> {
        here.take().into_iter().map(|(user, seen, _)| (user.to_string(), seen)).collect()
    }

    #[test]
    fn two_tabs_are_one_user() {
        let here = Here::default();
        here.opened("alice", ONE);
        here.opened("alice", TWO);
        assert_eq!(taken(&here), [("alice".to_owned(), Seen::Here(ONE))]);
        here.closed("alice", ONE, CloseReason::Client);
        assert!(taken(&here).is_empty());
        here.closed("alice", TWO, CloseReason::Age);
        assert_eq!(taken(&here), [("alice".to_owned(), Seen::Left(TWO, CloseReason::Age))]);
    }

    #[test]
    fn who_came_and_went_between_two_looks_is_seen_as_it_stands() {
        let here = Here::default();
        here.opened("alice", ONE);
        here.closed("alice", ONE, CloseReason::Kicked);
        here.opened("alice", TWO);
        assert_eq!(taken(&here), [("alice".to_owned(), Seen::Here(TWO))]);
        here.closed("alice", TWO, CloseReason::Client);
        here.opened("bob", ONE);
        here.closed("bob", ONE, CloseReason::Client);
        assert_eq!(taken(&here).len(), 2);
        assert!(here.counts().users.is_empty(), "nobody is kept who has gone");
    }
}
