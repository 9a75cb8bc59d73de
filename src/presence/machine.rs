//! What is said and published when: presence without I/O. What happens goes in with the time, what is to be done comes out.
//!
//! Every sidecar tells the others of its own users, and hears what is published. One publishes: the one that has run for the longest
//! of those that are heard. It does so only while it hears itself, and only once it knows what all others know; who comes back after
//! an outage asks before it does anything.

use std::collections::BTreeMap;
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
/// Before those that have not answered are asked again: at first, and at most after that has doubled. To a busy
/// one, every question is more to do.
const ASK_AGAIN: u64 = 1_000;
const ASK_AGAIN_MAX: u64 = 4_000;
/// Between two questions to those that are not waited for any more.
const ASK_THE_REST: u64 = 5_000;
/// Time for those to answer of whom nothing is known yet.
const ANSWER_MIN: u64 = 500;
/// Without a page of any answer for so long, those that have not answered have no presence, or are about to be off the
/// roll.
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
    /// Since then: by its own ears, or by those of others who have told it.
    heard_since: u64,
    /// When it last heard itself.
    echo: u64,
    said: u64,
    /// The last question, and the first of those whose answers are still of use.
    question: u64,
    first_question: u64,
    /// The last of them that it has heard itself.
    echoed_question: u64,
    /// When it was asked.
    asked: u64,
    /// Sidecars that publish on another subject: they have nothing to tell us.
    elsewhere: Nodes,
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
    /// How long to wait before asking again; `None` before the first question.
    again: Option<u64>,
    why: Why,
    /// What those have heard that have answered.
    told: BTreeMap<NodeId, Told>,
}

/// What another has heard.
#[derive(Debug)]
struct Told {
    /// Since when and up to when it has missed nothing.
    since: u64,
    until: u64,
    misses_nothing: bool,
    /// All it knows, rather than the changes of late.
    whole: bool,
    changes: Vec<Change>,
}

impl Asking {
    /// Whether each has left it to another to tell everything, and none that knows it has. Where all have told all they
    /// know, there is no more to be had.
    fn lacks(&self) -> bool {
        let is_enough = self.told.values().any(|told| told.whole && told.misses_nothing);
        self.why != Why::Gap && !is_enough && !self.told.values().all(|told| told.whole)
    }

    /// Whether nothing more is needed of one whose lists are all there.
    fn is_told_by(&self, node: NodeId, lacks: bool) -> bool {
        self.why == Why::Gap || self.told.get(&node).is_some_and(|told| told.whole || !lacks)
    }
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
            heard_since: 0,
            echo: 0,
            said: 0,
            question: 0,
            first_question: 0,
            echoed_question: 0,
            asked: 0,
            elsewhere: Nodes::new(),
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
        self.doubt_what_was_heard();
        self.sync = Sync::Away;
    }

    /// That NATS is away is noticed late. It was there when this sidecar last heard itself.
    fn doubt_what_was_heard(&mut self) {
        self.heard_until = self.heard_until.min(self.echo);
    }

    /// NATS is there, or something may have been missed: what the others know is asked for.
    pub(super) fn begin(&mut self, why: Why, now: u64) {
        if why != Why::Gap {
            self.peers.doubt(now);
            self.doubt_what_was_heard();
        }
        let why = match &self.sync {
            // A question that is open keeps the graver reason.
            Sync::Away | Sync::Asking(Asking { why: Why::Lost, .. }) => Why::Lost,
            _ => why,
        };
        self.sync = Sync::Asking(Asking { since: now, again: None, why, told: BTreeMap::new() });
        self.first_question = self.question + 1;
    }

    /// Something has been published.
    pub(super) fn hear_change(&mut self, change: &Change, now: u64) {
        self.users.hear(change, now);
    }

    /// A sidecar has said something. Gives the answer where it has asked.
    pub(super) fn hear(&mut self, said: Said, now: u64) -> Option<Answer> {
        let Said { node, subject, synced, word } = said;
        if node == self.own {
            self.hear_itself(&subject, &word, now);
            return None;
        }
        if subject != self.subject {
            self.elsewhere.insert(node);
            return None;
        }
        self.elsewhere.remove(&node);
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

    fn hear_itself(&mut self, subject: &str, word: &Word, now: u64) {
        if *subject != *self.subject {
            return;
        }
        self.echo = now;
        if let Word::Ask { question, .. } = word {
            self.echoed_question = self.echoed_question.max((*question).min(self.question));
        }
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
            last: true,
            seq: self.seq,
            behind: now.saturating_sub(heard_until),
            knows: now.saturating_sub(self.heard_since),
            whole,
            // Lists in the making have a number of their own: users in them are told twice, which changes nothing.
            users: self.users.own(now),
            told: self.users.told(if whole { 0 } else { heard_until.saturating_sub(LATE) }),
        }
    }

    /// A page of an answer to us.
    pub(super) fn hear_answer(&mut self, page: Answer, now: u64) {
        let node = page.node;
        let is_ours = (self.first_question..=self.question).contains(&page.question);
        if page.subject != self.subject || node == self.own || !is_ours || !self.needs(node) {
            return;
        }
        if !self.peers.meet(node, false, now) {
            return;
        }
        let Some(answered) = self.peers.page(page, now) else { return };
        if !answered.is_old {
            self.users.replace(node, &answered.users, now);
            answered.later.iter().flatten().for_each(|entry| self.users.set(node, entry, now));
        }
        let (since, until) = (now.saturating_sub(answered.knows), now.saturating_sub(answered.behind));
        let misses_nothing = answered.behind == 0;
        let told = Told { since, until, misses_nothing, whole: answered.whole, changes: answered.told };
        match &mut self.sync {
            Sync::Asking(asking) => drop(asking.told.insert(node, told)),
            // Later than anybody waited for.
            Sync::Done if until.saturating_add(LATE) >= now => self.users.adopt(told.changes.into_iter(), now),
            Sync::Done | Sync::Away => {}
        }
    }

    /// Whether an answer of this one says what is not known yet.
    fn needs(&self, node: NodeId) -> bool {
        match &self.sync {
            Sync::Away => false,
            Sync::Asking(asking) => !self.peers.knows(node) || !asking.is_told_by(node, true),
            Sync::Done => !self.peers.knows(node),
        }
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
        self.elsewhere.retain(|node| roll.contains(node));
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
        let Sync::Asking(asking) = &self.sync else { return self.ask_the_rest(now, all) };
        let lacks = asking.lacks();
        let mut of = self.peers.nodes();
        if asking.why != Why::Gap {
            of.extend(roll.iter().filter(|node| **node != self.own && !self.elsewhere.contains(node)));
        }
        let (done, rest): (Nodes, Nodes) =
            of.into_iter().partition(|node| self.peers.knows(*node) && asking.is_told_by(*node, lacks));
        let min = if asking.why == Why::Gap { 0 } else { ANSWER_MIN };
        // Otherwise NATS may be away, unnoticed as yet, and what counts as heard would be lost.
        let hears_itself = asking.why != Why::Missed || self.echoed_question >= self.first_question;
        let has_waited = hears_itself && now >= asking.since + min;
        let has_given_up = now >= asking.since.max(self.peers.paged()) + ANSWER_MAX;
        if asking.again.is_some() && has_waited && (rest.is_empty() || has_given_up) {
            return self.finish(now);
        }
        let is_time = asking.again.is_none_or(|again| now >= self.asked + again);
        let answering = self.peers.answering(now);
        if is_time && (asking.again.is_none() || !hears_itself || !rest.is_subset(&answering)) {
            let but = done.union(&answering).copied().collect();
            all.push(self.question(but, lacks, now));
            if let Sync::Asking(asking) = &mut self.sync {
                asking.again = Some(asking.again.map_or(ASK_AGAIN, |again| (2 * again).min(ASK_AGAIN_MAX)));
            }
        }
    }

    /// Those that are not waited for any more are asked again and again, as long as they are heard.
    fn ask_the_rest(&mut self, now: u64, all: &mut Vec<Do>) {
        if matches!(self.sync, Sync::Done) && self.peers.has_given_up() && now >= self.asked + ASK_THE_REST {
            let but = self.peers.known().union(&self.peers.answering(now)).copied().collect();
            all.push(self.question(but, false, now));
        }
    }

    fn question(&mut self, but: Nodes, whole: bool, now: u64) -> Do {
        self.question += 1;
        self.asked = now;
        Do::Ask(self.say(Word::Ask { question: self.question, but, whole }))
    }

    /// Knows what the others know.
    fn finish(&mut self, now: u64) {
        let Sync::Asking(asking) = std::mem::replace(&mut self.sync, Sync::Done) else { return };
        self.peers.give_up();
        let others = asking.told.values().map(|told| told.until).max().unwrap_or_default();
        let newest = others.max(self.heard_until);
        // What was heard so much earlier lacks ends of which nobody knows any more.
        let counts = |until: u64| until + LATE >= newest;
        if !counts(self.heard_until) && asking.why != Why::Gap {
            self.users.forget_told(asking.since);
        }
        let heard: Vec<_> = asking.told.values().map(|told| (told.since, told.until)).collect();
        if asking.why != Why::Gap {
            self.heard_since = self.known_since(asking.since, &heard);
        }
        let told = asking.told.into_values().filter(|told| counts(told.until));
        self.users.adopt(told.flat_map(|told| told.changes), now);
        match asking.why {
            Why::Lost => {
                // Another who has missed nothing around it would have heard it; and where another publishes, it knows what it has
                // heard itself. What may have come through is published again as it was.
                let around =
                    |at: u64, since: u64, until: u64| since + HEARD_BY_THEN <= at && at + HEARD_BY_THEN <= until;
                let is_first = self.is_first();
                self.users.revert(|at| !is_first || heard.iter().any(|(since, until)| around(at, *since, *until)));
                self.resend = self.users.pending(now);
            }
            Why::Missed => self.users.confirm(),
            Why::Gap => {}
        }
        self.users.look_at_all(now);
    }

    /// Since when nothing was missed, for one who has listened since `began` and knows by now what others have heard, each since
    /// and up to such a time: they fill its own break if they were there before and after it.
    fn known_since(&self, began: u64, heard: &[(u64, u64)]) -> u64 {
        let over = heard.iter().filter(|(_, until)| *until >= began).map(|(since, _)| *since);
        let first = over.min().unwrap_or(began).min(began);
        if first <= self.heard_until { first.min(self.heard_since) } else { first }
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
        let (page, last, seq, behind, knows, whole) = (0, true, 0, 0, 0, true);
        let answer = Answer { node: other, subject, question, page, last, seq, behind, knows, whole, users, told };
        machine.hear_answer(answer, now);
        machine.act(&Nodes::from([machine.own, other]), now + ANSWER_MIN);
        assert!(!machine.users().is_told("m"), "an end of long ago, of which nobody knows any more");
    }
}
