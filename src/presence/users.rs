//! Users over all sidecars: where each is or has just been, what was published of each, and what is to be published next.
//!
//! Pure: the time goes in as milliseconds since 1970 by a clock that never goes back. Who sidecars are, and whether this one is to
//! publish, is [`super::peers`]'s business.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;
use uuid::Uuid;

use super::message::{Change, Entry, Reason, What, is_user};
use crate::cluster::NodeId;

/// Most users of whom something is known, our own apart, and most places where they are: whoever may publish cannot make it grow
/// for ever.
const KNOWN_MAX: usize = 500_000;
/// A disconnect that was published is remembered for so long, for sidecars that have not heard it.
const REMEMBERED: u64 = 120_000;
/// What was published as late as this before an outage may not have been heard by all.
pub(super) const LATE: u64 = 60_000;
/// A time further ahead than this is not believed.
const AHEAD: u64 = 60_000;
/// What we have published is heard by then, or was not let through.
const OVERDUE: u64 = 10_000;
/// Most users whose names wait for being told to other sidecars; with more of them, others ask for all.
const UNSAID_MAX: usize = 65_536;

/// Everybody.
#[derive(Debug)]
pub(super) struct Users {
    own: NodeId,
    grace: u64,
    all: HashMap<Arc<str>, User>,
    /// When to look at whom.
    due: BTreeSet<(u64, Arc<str>)>,
    /// Our own users of whom others have not been told as they stand now.
    unsaid: BTreeSet<Arc<str>>,
    /// Places of users at other sidecars.
    elsewhere: usize,
    left_out: u64,
    is_overdue: bool,
    known_max: usize,
}

#[derive(Debug, Default)]
struct User {
    stays: SmallVec<[(NodeId, Stay); 1]>,
    told: Option<Told>,
}

/// A user at one sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stay {
    /// The connection that began it, or the last one when it has ended.
    pub connection: Uuid,
    /// Why and when the last connection ended.
    pub left: Option<(Reason, u64)>,
}

/// What was published last of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    change: Change,
    /// When it was heard here.
    heard: u64,
    /// We have published it and have not heard it ourselves yet.
    pending: bool,
}

/// How a user stands over all sidecars.
enum Standing {
    Connected(NodeId, Uuid),
    /// Without a connection until then, and for others still there.
    Away(u64),
    /// By the last place known.
    Gone(Option<(NodeId, Uuid, Reason)>),
}

impl User {
    fn is_told(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.change.event == What::Connect)
    }

    fn standing(&self, grace: u64, now: u64) -> Standing {
        if let Some((node, stay)) = self.stays.iter().find(|(_, stay)| stay.left.is_none()) {
            return Standing::Connected(*node, stay.connection);
        }
        let lefts = self.stays.iter().filter_map(|(node, stay)| stay.left.map(|left| (node, stay.connection, left)));
        match lefts.max_by_key(|(_, _, (_, at))| *at) {
            Some((_, _, (_, at))) if at + grace > now => Standing::Away(at + grace),
            Some((node, connection, (reason, _))) => Standing::Gone(Some((*node, connection, reason))),
            None => Standing::Gone(None),
        }
    }
}

impl Users {
    pub(super) fn new(own: NodeId, grace: u64) -> Self {
        let (all, due, unsaid) = (HashMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { own, grace, all, due, unsaid, elsewhere: 0, left_out: 0, is_overdue: false, known_max: KNOWN_MAX }
    }

    /// One of our own users stands otherwise. Who came and went before anybody was told has not been here.
    pub(super) fn set_own(&mut self, user: &Arc<str>, stay: Stay, now: u64) {
        let own = self.own;
        let is_known = self.all.get(user).is_some_and(|known| known.stays.iter().any(|(node, _)| *node == own));
        if !is_known && stay.left.is_some() {
            return;
        }
        self.put(user, own, stay, now);
        self.unsaid.insert(user.clone());
    }

    /// A user of another sidecar stands otherwise.
    pub(super) fn set(&mut self, node: NodeId, entry: &Entry, now: u64) {
        if node == self.own || !is_user(&entry.user) {
            return;
        }
        let left = entry.left.map(|(reason, ago)| (reason, now.saturating_sub(ago)));
        self.put(&entry.user, node, Stay { connection: entry.connection, left }, now);
    }

    fn put(&mut self, name: &Arc<str>, node: NodeId, stay: Stay, now: u64) {
        let known = self.all.get_mut(name).and_then(|user| user.stays.iter_mut().find(|(at, _)| *at == node));
        if let Some((_, known)) = known {
            *known = stay;
        } else if node == self.own {
            self.all.entry(name.clone()).or_default().stays.push((node, stay));
        } else if self.elsewhere < self.known_max && self.has_room(name) {
            self.all.entry(name.clone()).or_default().stays.push((node, stay));
            self.elsewhere += 1;
        } else {
            self.left_out += 1;
            return;
        }
        self.due.insert((now, name.clone()));
    }

    fn has_room(&self, user: &Arc<str>) -> bool {
        self.all.len() < self.known_max || self.all.contains_key(user)
    }

    /// All that a sidecar has: who of its users is not among them is not there any more, and has left a moment ago for all we know.
    pub(super) fn replace(&mut self, node: NodeId, entries: &[Entry], now: u64) {
        let named: std::collections::HashSet<&str> = entries.iter().map(|entry| &*entry.user).collect();
        self.end(node, |user| !named.contains(user), Reason::NodeLost, now, now);
        entries.iter().for_each(|entry| self.set(node, entry, now));
    }

    /// A sidecar is not heard of any more. It was silent for longer than users are given.
    pub(super) fn lose(&mut self, node: NodeId, now: u64) {
        self.end(node, |_| true, Reason::NodeLost, now.saturating_sub(self.grace), now);
    }

    /// All of our own users leave, with the process.
    pub(super) fn leave(&mut self, reason: Reason, now: u64) {
        let left = self.end(self.own, |_| true, reason, now, now);
        self.unsaid.extend(left);
    }

    fn end(&mut self, node: NodeId, of: impl Fn(&str) -> bool, reason: Reason, at: u64, now: u64) -> Vec<Arc<str>> {
        let mut ended = Vec::new();
        for (name, user) in &mut self.all {
            let stay = user.stays.iter_mut().find(|(known, stay)| *known == node && stay.left.is_none());
            if let Some((_, stay)) = stay.filter(|_| of(name)) {
                stay.left = Some((reason, at));
                self.due.insert((now, name.clone()));
                ended.push(name.clone());
            }
        }
        ended
    }

    /// Our own users of whom others are to be told, as they stand. Asked for once: they count as told.
    pub(super) fn unsaid(&mut self, now: u64) -> Vec<Entry> {
        let unsaid = self.take_unsaid(now);
        unsaid.iter().filter_map(|name| self.own_entry(name, now)).collect()
    }

    /// Gives up telling of so many: whether others must ask for all.
    pub(super) fn has_given_up(&mut self, now: u64) -> bool {
        let is_too_much = self.unsaid.len() > UNSAID_MAX;
        if is_too_much {
            self.take_unsaid(now);
        }
        is_too_much
    }

    fn take_unsaid(&mut self, now: u64) -> BTreeSet<Arc<str>> {
        let unsaid = std::mem::take(&mut self.unsaid);
        self.due.extend(unsaid.iter().map(|name| (now, name.clone())));
        unsaid
    }

    fn own_entry(&self, name: &Arc<str>, now: u64) -> Option<Entry> {
        let (_, stay) = self.all.get(name)?.stays.iter().find(|(node, _)| *node == self.own)?;
        let left = stay.left.map(|(reason, at)| (reason, now.saturating_sub(at)));
        Some(Entry { user: name.clone(), connection: stay.connection, left })
    }

    /// All our own users.
    pub(super) fn own(&self, now: u64) -> Vec<Entry> {
        self.all.keys().filter_map(|name| self.own_entry(name, now)).collect()
    }

    /// What was published last of everybody, or of those of whom something was published at `since` or later.
    pub(super) fn told(&self, since: u64) -> Vec<Change> {
        let told = self.all.values().filter_map(|user| user.told.as_ref());
        told.filter(|told| !told.pending && told.change.time >= since).map(|told| told.change.clone()).collect()
    }

    /// Something has been published. The last word counts, but for ours, which is on its way and comes after this.
    pub(super) fn hear(&mut self, change: &Change, now: u64) {
        if !self.has_room(&change.user) {
            self.left_out += 1;
            return;
        }
        let user = self.all.entry(change.user.clone()).or_default();
        match &mut user.told {
            Some(told) if told.pending && told.change != *change => return,
            Some(told) if told.pending => told.pending = false,
            // Our own, heard again.
            Some(told) if told.change == *change => return,
            told => *told = Some(Told { change: believed(change, now), heard: now, pending: false }),
        }
        self.due.insert((now, change.user.clone()));
    }

    /// What others have heard while we may not have: the later word counts.
    pub(super) fn adopt(&mut self, changes: impl Iterator<Item = Change>, now: u64) {
        for change in changes.filter(|change| is_user(&change.user)) {
            if !self.has_room(&change.user) {
                self.left_out += 1;
                continue;
            }
            let user = self.all.entry(change.user.clone()).or_default();
            match &mut user.told {
                Some(told) if told.change.time > change.time => {}
                Some(told) if told.change.time == change.time => told.pending &= told.change != change,
                told => *told = Some(Told { change: believed(&change, now), heard: now, pending: false }),
            }
        }
    }

    /// Nothing of what we have heard before is believed any more.
    pub(super) fn forget_told(&mut self, before: u64) {
        let users = self.all.values_mut();
        users
            .filter(|user| user.told.as_ref().is_some_and(|told| told.heard < before))
            .for_each(|user| user.told = None);
    }

    /// What we have published and nobody has heard, to be published again as it was.
    pub(super) fn pending(&mut self, now: u64) -> Vec<Change> {
        let mut pending = Vec::new();
        for told in self.all.values_mut().filter_map(|user| user.told.as_mut()).filter(|told| told.pending) {
            told.heard = now;
            self.due.insert((now + OVERDUE, told.change.user.clone()));
            pending.push(told.change.clone());
        }
        pending
    }

    /// What we have published and nobody has heard counts as heard: NATS has not been away.
    pub(super) fn confirm(&mut self) {
        self.all.values_mut().filter_map(|user| user.told.as_mut()).for_each(|told| told.pending = false);
    }

    /// What we have published at such a time and nobody has heard counts as never published.
    pub(super) fn revert(&mut self, is_lost: impl Fn(u64) -> bool) {
        let told = self.all.values_mut().filter_map(|user| user.told.as_mut());
        for told in told.filter(|told| told.pending && is_lost(told.change.time)) {
            told.pending = false;
            told.change.event = match told.change.event {
                What::Connect => What::Disconnect,
                What::Disconnect => What::Connect,
            };
        }
    }

    /// Everybody is to be looked at.
    pub(super) fn look_at_all(&mut self, now: u64) {
        self.due.extend(self.all.keys().map(|name| (now, name.clone())));
    }

    /// Looks at whom it is time for; gives what is to be published, `most` at a time, where it is us who publish.
    pub(super) fn turn(&mut self, most: usize, is_publishing: bool, now: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some((at, name)) = self.due.first().cloned()
            && at <= now
        {
            self.due.remove(&(at, name.clone()));
            changes.extend(self.look_at(&name, is_publishing, now));
            self.tidy(&name, now);
        }
        changes
    }

    /// Publishes the end of everybody, grace or not: nobody is left who could.
    pub(super) fn end_all(&mut self, now: u64) -> Vec<Change> {
        let names: Vec<_> = self.all.iter().filter(|(_, user)| user.is_told()).map(|(name, _)| name.clone()).collect();
        let grace = std::mem::replace(&mut self.grace, 0);
        let changes = names.iter().filter_map(|name| self.look_at(name, true, now)).collect();
        self.grace = grace;
        changes
    }

    fn look_at(&mut self, name: &Arc<str>, is_publishing: bool, now: u64) -> Option<Change> {
        let user = self.all.get_mut(name)?;
        let told = user.told.as_ref();
        // One change of a user after the other: of two that were lost nobody could say which.
        if let Some(told) = told.filter(|told| told.pending) {
            self.is_overdue |= told.heard + OVERDUE <= now;
            return None;
        }
        let (event, (node, connection, reason)) = match (user.standing(self.grace, now), user.is_told()) {
            (Standing::Connected(node, connection), false) => (What::Connect, (node, connection, Reason::Opened)),
            (Standing::Gone(Some(last)), true) => (What::Disconnect, last),
            (Standing::Gone(None), true) => {
                let told = told?;
                // Another sidecar has published it, and knows more than we do as yet.
                let until = told.heard + self.grace;
                if until > now {
                    self.due.insert((until, name.clone()));
                    return None;
                }
                (What::Disconnect, (told.change.node, told.change.connection, Reason::NodeLost))
            }
            (Standing::Away(until), _) => {
                self.due.insert((until, name.clone()));
                return None;
            }
            _ => return None,
        };
        if !is_publishing {
            return None;
        }
        let time = told.map_or(now, |told| now.max(told.change.time + 1));
        let change = Change { event, user: name.clone(), connection, node, reason, time };
        user.told = Some(Told { change: change.clone(), heard: now, pending: true });
        self.due.insert((now + OVERDUE, name.clone()));
        Some(change)
    }

    /// Forgets what nobody asks for again.
    fn tidy(&mut self, name: &Arc<str>, now: u64) {
        let Some(user) = self.all.get_mut(name) else { return };
        let is_here = user.stays.iter().any(|(_, stay)| stay.left.is_none());
        // Where somebody was last is needed until that has been published.
        if is_here || !user.is_told() {
            let (own, is_unsaid, grace) = (self.own, self.unsaid.contains(name), self.grace);
            let before = user.stays.iter().filter(|(node, _)| *node != own).count();
            user.stays
                .retain(|(node, stay)| stay.left.is_none_or(|(_, at)| at + grace > now) || (*node == own && is_unsaid));
            self.elsewhere -= before - user.stays.iter().filter(|(node, _)| *node != own).count();
        }
        match &user.told {
            _ if !user.stays.is_empty() => {}
            None => drop(self.all.remove(name)),
            Some(told) if told.change.event == What::Disconnect => {
                let until = told.heard + REMEMBERED;
                if until > now {
                    self.due.insert((until, name.clone()));
                } else {
                    self.all.remove(name);
                }
            }
            Some(_) => {}
        }
    }

    /// Whether something that we have published has not been heard in time. Asked once.
    pub(super) fn is_overdue(&mut self) -> bool {
        std::mem::take(&mut self.is_overdue)
    }

    /// How often something was not kept for want of room.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether everybody believes the user to be there.
    #[cfg(test)]
    pub(super) fn is_told(&self, user: &str) -> bool {
        self.all.get(user).is_some_and(User::is_told)
    }

    /// Users of whom anything is known, and moments at which somebody is looked at.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.all.len(), self.due.len())
    }
}

/// With a time that does not hinder the changes to come.
fn believed(change: &Change, now: u64) -> Change {
    Change { time: change.time.min(now + AHEAD), ..change.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::CloseReason;

    const GRACE: u64 = 5_000;
    const BEGIN: u64 = 1_000_000;

    fn here(user: &str) -> Entry {
        Entry { user: user.into(), connection: Uuid::from_u128(7), left: None }
    }

    fn left(user: &str) -> Entry {
        Entry { left: Some((Reason::Closed(CloseReason::Client), 0)), ..here(user) }
    }

    fn published(users: &mut Users, now: u64) -> Vec<(What, Reason)> {
        let changes = users.turn(10, true, now);
        changes.iter().for_each(|change| users.hear(change, now));
        changes.into_iter().map(|change| (change.event, change.reason)).collect()
    }

    #[test]
    fn a_user_has_gone_when_the_grace_is_over_and_not_before() {
        let (own, other) = (NodeId::unused(), NodeId::unused());
        let mut users = Users::new(own, GRACE);
        users.set(other, &here("alice"), BEGIN);
        assert_eq!(published(&mut users, BEGIN), [(What::Connect, Reason::Opened)]);
        users.set(other, &left("alice"), BEGIN);
        assert!(published(&mut users, BEGIN + GRACE - 1).is_empty());
        let gone = [(What::Disconnect, Reason::Closed(CloseReason::Client))];
        assert_eq!(published(&mut users, BEGIN + GRACE), gone);
        published(&mut users, BEGIN + GRACE + REMEMBERED);
        assert_eq!(users.sizes(), (0, 0), "nothing is kept of her");
    }

    #[test]
    fn a_lost_sidecar_takes_its_users_with_it_at_once_but_for_those_elsewhere() {
        let (own, other, third) = (NodeId::unused(), NodeId::unused(), NodeId::unused());
        let mut users = Users::new(own, GRACE);
        users.set(other, &here("alice"), BEGIN);
        users.set(other, &here("bob"), BEGIN);
        published(&mut users, BEGIN);
        users.set(third, &here("bob"), BEGIN);
        users.lose(other, BEGIN + 10);
        assert_eq!(published(&mut users, BEGIN + 10), [(What::Disconnect, Reason::NodeLost)]);
        assert!(users.is_told("bob"));
    }

    #[test]
    fn what_another_published_of_somebody_unknown_stands_for_the_grace() {
        let mut users = Users::new(NodeId::unused(), GRACE);
        let (event, node, reason) = (What::Connect, NodeId::unused(), Reason::Opened);
        let change = Change { event, user: "m".into(), connection: Uuid::nil(), node, reason, time: u64::MAX };
        users.hear(&change, BEGIN);
        assert!(published(&mut users, BEGIN).is_empty());
        // However far ahead its time was.
        assert_eq!(published(&mut users, BEGIN + GRACE), [(What::Disconnect, Reason::NodeLost)]);
    }

    #[test]
    fn what_is_kept_of_others_is_bounded_and_our_own_have_room() {
        let (own, other) = (NodeId::unused(), NodeId::unused());
        let mut users = Users::new(own, GRACE);
        users.known_max = 2;
        for user in ["a", "b", "c", "d"] {
            users.set(other, &here(user), BEGIN);
        }
        assert_eq!((users.sizes().0, users.left_out()), (2, 2));
        users.set_own(&"mine".into(), Stay { connection: Uuid::nil(), left: None }, BEGIN);
        users.set(other, &left("a"), BEGIN);
        assert_eq!(published(&mut users, BEGIN).len(), 2, "mine and b");
        assert_eq!(published(&mut users, BEGIN + GRACE).len(), 0, "nobody was told of a");
        assert_eq!(users.left_out(), 2);
    }
}
