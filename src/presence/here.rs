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

/// How users stand now, and since when.
type Changed = HashMap<Arc<str>, (Seen, Instant)>;

#[derive(Debug, Default)]
struct Counts {
    /// Streams of those who have any.
    open: HashMap<Arc<str>, u32>,
    /// Who stands otherwise since the last look.
    changed: Changed,
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
        self.counts().opened(user, connection);
    }

    /// One that had opened has ended.
    pub fn closed(&self, user: &str, connection: Uuid, reason: CloseReason) {
        self.counts().closed(user, connection, reason);
    }

    /// Who stands otherwise than at the last look, or may do so, and since how long ago. However many they are,
    /// shards wait for no more than their being taken away in one piece.
    pub(super) fn take(&self) -> Vec<(Arc<str>, Seen, Duration)> {
        let changed = std::mem::take(&mut self.counts().changed);
        changed.into_iter().map(|(user, (seen, since))| (user, seen, since.elapsed())).collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn opened(&mut self, user: &str, connection: Uuid) {
        if let Some(open) = self.open.get_mut(user) {
            *open += 1;
            return;
        }
        let user: Arc<str> = user.into();
        self.open.insert(user.clone(), 1);
        self.changed.insert(user, (Seen::Here(connection), Instant::now()));
    }

    fn closed(&mut self, user: &str, connection: Uuid, reason: CloseReason) {
        let Some(open) = self.open.get_mut(user) else { return };
        *open -= 1;
        if *open > 0 {
            return;
        }
        if let Some((user, _)) = self.open.remove_entry(user) {
            self.changed.insert(user, (Seen::Left(connection, reason), Instant::now()));
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
        assert!(here.counts().open.is_empty(), "nobody is kept who has gone");
        assert!(here.counts().changed.is_empty());
    }
}
