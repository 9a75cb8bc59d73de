//! What is said and published when: presence without I/O. What happens goes in with the time, what is to be done comes out.
//!
//! Every sidecar tells the others of its own users, and hears what is published. One publishes: the one that has run for the longest
//! of those that are heard. It does so only while it hears itself, and only once it knows what all others know; who comes back after
//! an outage asks before it does anything.

use std::sync::Arc;

use super::here::Seen;
use super::message::{Answer, Change, Reason, Said, Word, lists};
use super::peers::Peers;
use super::users::{LATE, Stay, Users};
use crate::cluster::{NodeId, Nodes};
use crate::telemetry::metrics::CloseReason;

/// Between two signs of life, in milliseconds.
const SIGN: u64 = 1_000;
/// Who has not heard itself for so long is cut off, and publishes nothing.
const CUT_OFF: u64 = 3_000;
/// Before those that have not answered are asked again.
const ASK_AGAIN: u64 = 1_000;
/// Time for those to answer of whom nothing is known yet.
const ANSWER_MIN: u64 = 500;
/// Who has not answered by then has no presence, or is about to be off the roll.
const ANSWER_MAX: u64 = 10_500;
/// What was published so long before is heard by all who listen, by whatever clocks.
const HEARD_BY_THEN: u64 = 2_000;
/// Most changes published at a time, so that all who hear them can follow.
const CHANGES_MAX: usize = 1_000;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Do {
    /// Say this to the other sidecars.
    Say(Said),
    /// Ask this, with the subject where answers are heard.
    Ask(Said),
    /// Publish this.
    Publish(Change),
}

/// Presence of one sidecar.
#[derive(Debug)]
pub(super) struct Machine {
    own: NodeId,
    subject: Arc<str>,
    users: Users,
    peers: Peers,
    seq: u64,
    sync: Sync,
    /// Up to here everything was heard that was published.
    heard_until: u64,
    /// When it last heard itself.
    echo: u64,
    said: u64,
    question: u64,
    resend: Vec<Change>,
    was_publishing: bool,
    /// Bytes of JSON in a list.
    list_bytes: usize,
}

#[derive(Debug)]
enum Sync {
    /// NATS is away.
    Away,
    Asking(Asking),
    Done,
}

/// What is asked of the others.
#[derive(Debug)]
struct Asking {
    since: u64,
    asked: Option<u64>,
    why: Why,
    /// What those have heard that have answered: until when, and whether it is everything.
    told: Vec<(u64, bool, Vec<Change>)>,
}

/// Why the others are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// NATS was away, or was never there yet: what we have sent may be lost.
    Lost,
    /// Something was not heard, though what we have sent was.
    Missed,
    /// A list of one of them is missing.
    Gap,
}

impl Machine {
    /// Without users and without NATS. `grace` and all times are in milliseconds.
    pub(super) fn new(own: NodeId, subject: Arc<str>, grace: u64) -> Self {
        Self {
            own,
            subject,
            users: Users::new(own, grace),
            peers: Peers::default(),
            seq: 0,
            sync: Sync::Away,
            heard_until: 0,
            echo: 0,
            said: 0,
            question: 0,
            resend: Vec::new(),
            was_publishing: false,
            list_bytes: usize::MAX,
        }
    }

    /// NATS takes messages of so many bytes.
    pub(super) fn set_payload_max(&mut self, bytes: usize) {
        self.list_bytes = (bytes / 2).min(128 * 1024);
    }

    /// Bytes of JSON in a page or list.
    pub(super) fn list_bytes(&self) -> usize {
        self.list_bytes
    }

    /// One of our own users stands otherwise since `at`.
    pub(super) fn own_user(&mut self, user: &Arc<str>, seen: Seen, at: u64, now: u64) {
        let stay = match seen {
            Seen::Here(connection) => Stay { connection, left: None },
            Seen::Left(connection, reason) => Stay { connection, left: Some((Reason::Closed(reason), at)) },
        };
        self.users.set_own(user, stay, now);
    }

    /// NATS is away.
    pub(super) fn lose_nats(&mut self) {
        self.sync = Sync::Away;
    }

    /// NATS is there, or something may have been missed: what the others know is asked for.
    pub(super) fn begin(&mut self, why: Why, now: u64) {
        if why != Why::Gap {
            self.peers.doubt(now);
        }
        let why = match &self.sync {
            // A question that is open keeps the graver reason.
            Sync::Away | Sync::Asking(Asking { why: Why::Lost, .. }) => Why::Lost,
            _ => why,
        };
        self.sync = Sync::Asking(Asking { since: now, asked: None, why, told: Vec::new() });
    }

    /// Something has been published.
    pub(super) fn hear_change(&mut self, change: &Change, now: u64) {
        self.users.hear(change, now);
    }

    /// A sidecar has said something. Gives the answer where it has asked.
    pub(super) fn hear(&mut self, said: Said, now: u64) -> Option<Answer> {
        let Said { node, subject, synced, word } = said;
        if subject != self.subject {
            return None;
        }
        if node == self.own {
            self.echo = now;
            return None;
        }
        if let Word::Leaves = word {
            self.peers.remove(node);
            self.users.lose(node, now);
            return None;
        }
        if !self.peers.meet(node, synced, now) {
            return None;
        }
        match word {
            Word::Here { seq } => drop(self.peers.counted(node, seq)),
            Word::Users { seq, users } => {
                let users = self.peers.list(node, seq, users).unwrap_or_default();
                users.iter().for_each(|entry| self.users.set(node, entry, now));
            }
            Word::Ask { question, but, whole } if !but.contains(&self.own) => {
                return Some(self.answer(node, question, whole, now));
            }
            Word::Ask { .. } | Word::Leaves => {}
        }
        if self.peers.is_doubtful() && matches!(self.sync, Sync::Done) {
            self.begin(Why::Gap, now);
        }
        None
    }

    /// All that we know. One of those that know what was published tells all of it, the others what was published of late, unless
    /// all of it is asked for.
    fn answer(&self, asker: NodeId, question: u64, whole: bool, now: u64) -> Answer {
        let first = self.peers.first_synced_but(asker);
        let whole = whole || first.is_none_or(|first| self.own < first);
        let heard_until = if self.misses_nothing() { now } else { self.heard_until };
        Answer {
            node: self.own,
            subject: self.subject.clone(),
            question,
            page: 0,
            pages: 1,
            seq: self.seq,
            behind: now.saturating_sub(heard_until),
            whole,
            // Lists in the making have a number of their own: users in them are told twice, which changes nothing.
            users: self.users.own(now),
            told: self.users.told(if whole { 0 } else { heard_until.saturating_sub(LATE) }),
        }
    }

    /// A page of an answer to us.
    pub(super) fn hear_answer(&mut self, page: Answer, now: u64) {
        let (node, question) = (page.node, page.question);
        if page.subject != self.subject || question != self.question || node == self.own {
            return;
        }
        let Sync::Asking(asking) = &mut self.sync else { return };
        if !self.peers.meet(node, false, now) {
            return;
        }
        let Some(answered) = self.peers.page(page) else { return };
        self.users.replace(node, &answered.users, now);
        answered.later.iter().flatten().for_each(|entry| self.users.set(node, entry, now));
        asking.told.push((now.saturating_sub(answered.behind), answered.whole, answered.told));
    }

    /// What is to be done now, given who is on the roll.
    pub(super) fn act(&mut self, roll: &Nodes, now: u64) -> Vec<Do> {
        let mut all = Vec::new();
        if self.users.has_given_up(now) {
            // A number that is never said: others ask.
            self.seq += 1;
        }
        if matches!(self.sync, Sync::Away) {
            self.users.turn(usize::MAX, false, now);
            return all;
        }
        if self.users.is_overdue() && self.misses_nothing() {
            self.begin(Why::Lost, now);
        }
        for node in self.peers.lost(roll, now) {
            self.users.lose(node, now);
        }
        self.ask(roll, now, &mut all);
        self.tell(now, &mut all);
        let is_publishing = self.is_publishing(now);
        if !std::mem::replace(&mut self.was_publishing, is_publishing) && is_publishing {
            self.users.look_at_all(now);
        }
        if is_publishing {
            all.extend(std::mem::take(&mut self.resend).into_iter().map(Do::Publish));
        }
        let changes = self.users.turn(CHANGES_MAX, is_publishing, now);
        all.extend(changes.into_iter().map(Do::Publish));
        if self.misses_nothing() {
            self.heard_until = now;
        }
        all
    }

    /// Whether everything has been heard that was published; lists of users are another matter.
    fn misses_nothing(&self) -> bool {
        matches!(self.sync, Sync::Done | Sync::Asking(Asking { why: Why::Gap, .. }))
    }

    /// Goes on asking, or knows enough.
    fn ask(&mut self, roll: &Nodes, now: u64, all: &mut Vec<Do>) {
        let Sync::Asking(asking) = &mut self.sync else { return };
        let (known, waited) = (self.peers.known(), now.saturating_sub(asking.since));
        let has_all = !self.peers.is_doubtful()
            && (asking.why == Why::Gap || roll.iter().all(|node| *node == self.own || known.contains(node)));
        let min = if asking.why == Why::Gap { 0 } else { ANSWER_MIN };
        // Each has left it to another, which may have gone: all are asked anew.
        let lacks =
            !asking.told.is_empty() && asking.why != Why::Gap && !asking.told.iter().any(|(_, whole, _)| *whole);
        if asking.asked.is_some() && waited >= min && (has_all && !lacks || waited >= ANSWER_MAX) {
            return self.finish(now);
        }
        let is_time = asking.asked.is_none_or(|asked| now >= asked + ASK_AGAIN);
        if is_time && (!has_all || lacks || asking.asked.is_none()) {
            asking.asked = Some(now);
            self.question += 1;
            self.peers.asked();
            let but = if lacks { Nodes::new() } else { known };
            let word = Word::Ask { question: self.question, but, whole: lacks };
            all.push(Do::Ask(self.say(word)));
        }
    }

    /// Knows what the others know.
    fn finish(&mut self, now: u64) {
        let Sync::Asking(asking) = std::mem::replace(&mut self.sync, Sync::Done) else { return };
        self.peers.settle();
        let others = asking.told.iter().map(|(until, ..)| *until).max().unwrap_or_default();
        let newest = others.max(self.heard_until);
        // What was heard so much earlier lacks ends of which nobody knows any more.
        let counts = |until: u64| until + LATE >= newest;
        if !counts(self.heard_until) && asking.why != Why::Gap {
            self.users.forget_told(asking.since);
        }
        let told = asking.told.into_iter().filter(|(until, ..)| counts(*until));
        self.users.adopt(told.flat_map(|(_, _, told)| told), now);
        match asking.why {
            Why::Lost => {
                // Another who has listened all the while would have heard it; and where another publishes, it knows what it has
                // heard itself. What may have come through is published again as it was.
                let unheard = if self.is_first() { others.saturating_sub(HEARD_BY_THEN) } else { u64::MAX };
                self.users.revert(unheard);
                self.resend = self.users.pending(now);
            }
            Why::Missed => self.users.confirm(),
            Why::Gap => {}
        }
        self.users.look_at_all(now);
    }

    /// Tells the others of our own users, or that we are there.
    fn tell(&mut self, now: u64, all: &mut Vec<Do>) {
        let unsaid = self.users.unsaid(now);
        for users in lists(unsaid, self.list_bytes) {
            self.seq += 1;
            self.said = now;
            all.push(Do::Say(self.say(Word::Users { seq: self.seq, users })));
        }
        if now >= self.said + SIGN {
            self.said = now;
            all.push(Do::Say(self.say(Word::Here { seq: self.seq })));
        }
    }

    fn say(&self, word: Word) -> Said {
        let synced = matches!(self.sync, Sync::Done);
        Said { node: self.own, subject: self.subject.clone(), synced, word }
    }

    fn is_first(&self) -> bool {
        self.peers.first().is_none_or(|first| self.own < first)
    }

    /// Whether it is us who publish.
    pub(super) fn is_publishing(&self, now: u64) -> bool {
        matches!(self.sync, Sync::Done) && self.is_first() && now < self.echo + CUT_OFF
    }

    /// The process ends: our users leave. Others wait the grace for them; where there is no other, it is said at once that all have
    /// gone.
    pub(super) fn leave(&mut self, now: u64) -> Vec<Do> {
        let mut all = Vec::new();
        if matches!(self.sync, Sync::Away) {
            return all;
        }
        self.users.leave(Reason::Closed(CloseReason::Drain), now);
        self.tell(now, &mut all);
        if self.peers.is_empty() && self.is_publishing(now) {
            all.extend(std::mem::take(&mut self.resend).into_iter().map(Do::Publish));
            all.extend(self.users.end_all(now).into_iter().map(Do::Publish));
        }
        all.push(Do::Say(self.say(Word::Leaves)));
        all
    }

    /// How often something of other sidecars' users was not kept for want of room.
    pub(super) fn left_out(&self) -> u64 {
        self.users.left_out()
    }

    /// Whether it believes NATS to be away.
    #[cfg(test)]
    pub(super) fn is_away(&self) -> bool {
        matches!(self.sync, Sync::Away)
    }

    /// What everybody knows, for the simulation.
    #[cfg(test)]
    pub(super) fn users(&self) -> &Users {
        &self.users
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const BEGIN: u64 = 1_000_000;

    /// One alone, with alice, that hears itself up to a moment.
    fn alone(hears_until: u64, runs_until: u64) -> (Machine, Vec<Change>) {
        let own = NodeId::unused();
        let mut machine = Machine::new(own, "p".into(), 5_000);
        machine.set_payload_max(1 << 20);
        machine.begin(Why::Lost, BEGIN);
        let mut published = Vec::new();
        for now in (BEGIN..runs_until).step_by(50) {
            for one in machine.act(&Nodes::from([own]), now) {
                match one {
                    Do::Say(said) | Do::Ask(said) if now < hears_until => drop(machine.hear(said, now)),
                    Do::Publish(change) => {
                        machine.hear_change(&change, now);
                        published.push(change);
                    }
                    Do::Say(_) | Do::Ask(_) => {}
                }
            }
        }
        (machine, published)
    }

    #[test]
    fn nothing_is_published_before_others_had_time_to_answer() {
        let (mut machine, _) = alone(BEGIN + ANSWER_MIN, BEGIN + ANSWER_MIN);
        assert!(!machine.is_publishing(BEGIN + ANSWER_MIN));
        machine.act(&Nodes::new(), BEGIN + ANSWER_MIN);
        assert!(machine.is_publishing(BEGIN + ANSWER_MIN));
    }

    #[test]
    fn who_does_not_hear_itself_publishes_nothing() {
        let (mut machine, _) = alone(BEGIN + 10_000, BEGIN + 20_000);
        machine.own_user(&"alice".into(), Seen::Here(Uuid::nil()), BEGIN + 20_000, BEGIN + 20_000);
        let all = machine.act(&Nodes::new(), BEGIN + 20_000);
        assert!(!all.iter().any(|one| matches!(one, Do::Publish(_))), "{all:?}");
    }

    #[test]
    fn one_on_the_roll_that_says_nothing_is_waited_for_no_longer_than_the_roll_does() {
        let own = NodeId::unused();
        let roll = Nodes::from([own, NodeId::unused()]);
        let mut machine = Machine::new(own, "p".into(), 5_000);
        machine.begin(Why::Lost, BEGIN);
        for now in (BEGIN..=BEGIN + ANSWER_MAX).step_by(50) {
            assert!(!machine.is_publishing(now));
            for one in machine.act(&roll, now) {
                if let Do::Say(said) | Do::Ask(said) = one {
                    machine.hear(said, now);
                }
            }
        }
        assert!(machine.is_publishing(BEGIN + ANSWER_MAX));
    }

    #[test]
    fn who_was_away_for_long_believes_the_others_and_not_itself() {
        let (mut machine, _) = alone(BEGIN + 2_000, BEGIN + 2_000);
        let (other, now) = (NodeId::unused(), BEGIN + 2_000 + 3 * LATE);
        let (event, reason) = (super::super::message::What::Connect, Reason::Opened);
        let change = Change { event, user: "m".into(), connection: Uuid::nil(), node: other, reason, time: BEGIN };
        machine.hear_change(&change, BEGIN + 2_000);
        machine.begin(Why::Lost, now);
        machine.act(&Nodes::from([machine.own, other]), now);
        let (users, told, subject) = (Vec::new(), Vec::new(), machine.subject.clone());
        let question = machine.question;
        let (page, pages, seq, behind, whole) = (0, 1, 0, 0, true);
        let answer = Answer { node: other, subject, question, page, pages, seq, behind, whole, users, told };
        machine.hear_answer(answer, now);
        machine.act(&Nodes::from([machine.own, other]), now + ANSWER_MIN);
        assert!(!machine.users().is_told("m"), "an end of long ago, of which nobody knows any more");
    }
}
