//! One client's log, walked once.
//!
//! The walk stands at a position in one life of the stream. What lies ahead and must be heard is a sorted list; an event
//! must be the next of it, a gap may jump over a part of it. What a jump leaves behind undeclared is lost.

use std::collections::HashSet;

use super::super::client::{Gap, Item, Log, SILENCE};
use super::super::truth::{END, Fate, Nonce, Truth, may_hear};
use super::{Allowed, HEAL_MAX, Report};

/// Lines of the log shown before and after what is wrong.
const AROUND: usize = 6;

pub(super) struct Walk<'a> {
    truth: &'a Truth,
    log: &'a Log,
    allowed: Allowed,
    report: &'a mut Report,
    /// Where in the log.
    at: usize,
    life: usize,
    /// Everything up to here is settled.
    seq: u64,
    /// The newest id of this connection.
    newest_id: u64,
    /// The newest event of this connection.
    newest_event: u64,
    heard: HashSet<Nonce>,
    gaps: HashSet<Gap>,
    /// Holes that this connection has been told of.
    told: HashSet<Gap>,
    begun: bool,
    /// `connected` promised a gap before anything else.
    owes_gap: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(truth: &'a Truth, log: &'a Log, allowed: Allowed, report: &'a mut Report) -> Self {
        Self {
            truth,
            log,
            allowed,
            report,
            at: 0,
            life: 0,
            seq: 0,
            newest_id: 0,
            newest_event: 0,
            heard: HashSet::new(),
            gaps: HashSet::new(),
            told: HashSet::new(),
            begun: false,
            owes_gap: false,
        }
    }

    pub(super) fn run(mut self) {
        for (at, (_, item)) in self.log.items.iter().enumerate() {
            self.at = at;
            match item {
                Item::Connected { resume, id, sent } => self.connected(resume, id.seq(), sent.as_deref(), &id.text),
                Item::Data { id, nonce, subject } => {
                    self.data(id.seq(), *nonce, subject);
                    if subject == END {
                        return;
                    }
                }
                Item::Gap { id, gap } => self.gap(id.seq(), gap),
                Item::Own { id, .. } => self.id(id.seq()),
                Item::Broken(what) => {
                    self.report.foreign += 1;
                    self.show(&format!("not as it was published: {what}"));
                }
                Item::Asked => {}
                Item::Ended(why) => self.ended(why),
                Item::Refused(why) | Item::Failed(why) => self.not_opened(why),
            }
        }
        self.report.complain(format!("{}: the last message never came\n{}", self.log.name, self.around()));
        self.settle_to(u64::MAX, false);
    }

    fn connected(&mut self, resume: &str, seq: Option<u64>, sent: Option<&str>, id: &str) {
        (self.newest_id, self.newest_event) = (0, 0);
        self.told.clear();
        if !self.begun {
            self.begun = true;
            self.life = self.truth.life_at(self.log.items[self.at].0);
            self.seq = seq.unwrap_or(0);
            return;
        }
        self.owes_gap = resume == "gap";
        if resume == "new" {
            self.other(&format!("resumed as new, having sent {sent:?}"));
        }
        if resume == "exact" && Some(id) != sent {
            self.other(&format!("resumed from {id}, having sent {sent:?}"));
        }
    }

    fn ended(&mut self, why: &str) {
        self.owes_gap = false;
        if why == SILENCE && !self.allowed.silence {
            self.other("neither an event nor a heartbeat");
        }
    }

    /// Invariant I7: once the fault is over, everybody is let in.
    fn not_opened(&mut self, why: &str) {
        self.owes_gap = false;
        let at = self.log.items[self.at].0;
        if self.truth.healed.is_some_and(|healed| at > healed + HEAL_MAX) {
            self.other(&format!("not let in although all is well: {why}"));
        }
    }

    /// Ids of one connection never go back, whoever carries them.
    fn id(&mut self, seq: Option<u64>) {
        let Some(seq) = seq else { return };
        if seq < self.newest_id {
            self.other(&format!("id {seq} after {}", self.newest_id));
        }
        self.newest_id = self.newest_id.max(seq);
    }

    fn data(&mut self, seq: Option<u64>, nonce: Nonce, subject: &str) {
        self.report.events += 1;
        if std::mem::take(&mut self.owes_gap) {
            self.other("`connected` promised a gap, and an event came");
        }
        let known = self.truth.sent.get(&nonce).is_some_and(|sent| sent.subject == subject);
        if !known || !may_hear(&self.log.user, subject) {
            self.report.foreign += 1;
            return self.show(&format!("foreign: {subject}"));
        }
        let Some(seq) = seq else { return self.other("an event of a stream without an id") };
        self.id(Some(seq));
        if !self.heard.insert(nonce) {
            self.report.duplicated += 1;
            return self.show(&format!("heard twice: {nonce} at {seq}"));
        }
        if seq <= self.newest_event {
            self.report.out_of_order += 1;
            return self.show(&format!("{seq} after {}", self.newest_event));
        }
        self.newest_event = seq;
        if self.truth.fate(nonce) == Fate::Declare {
            self.other("a message that cannot be sent was sent");
        }
        self.find_life(seq, nonce);
        if seq <= self.seq {
            self.report.out_of_order += 1;
            return self.show(&format!("{seq} although everything up to {} was settled", self.seq));
        }
        self.settle_to(seq - 1, false);
        self.seq = seq;
    }

    /// Which life an event is of; a later one than ours was entered without a word.
    fn find_life(&mut self, seq: u64, nonce: Nonce) {
        let is_of = |life: usize| self.truth.lives[life].stored.get(&seq) == Some(&nonce);
        if is_of(self.life) {
            return;
        }
        let Some(next) = (self.life + 1..self.truth.lives.len()).find(|life| is_of(*life)) else {
            // Never acknowledged, and gone by now: only its place can be judged, unless somebody else stood there.
            if self.truth.lives.iter().any(|life| life.stored.values().any(|stored| *stored == nonce)) {
                self.report.out_of_order += 1;
                self.show(&format!("{nonce} came as {seq}, where it never was"));
            }
            return;
        };
        // What only the old life held was never declared. What both hold, and what the new one holds, is still to come.
        let (seq_before, kept) = (self.seq, self.truth.lives[next].kept);
        self.seq = seq_before.max(kept);
        self.settle_to(u64::MAX, false);
        self.life = next;
        self.seq = seq_before.min(kept);
    }

    fn gap(&mut self, id: Option<u64>, gap: &Gap) {
        self.owes_gap = false;
        let again = !self.told.insert(gap.clone()) && gap.after.is_some();
        if !self.gaps.insert(gap.clone()) {
            // A client that was cut right at it is told again.
            if again {
                self.false_gap("told twice");
            }
            return;
        }
        self.report.gaps += 1;
        if !self.allowed.reasons.contains(&gap.reason.as_str()) {
            self.false_gap(&format!("the fault does not explain {}", gap.reason));
        }
        let Some(next) = gap.next else { return self.other("a gap of a stream without `next`") };
        if id != Some(next.saturating_sub(1)) {
            self.other("a gap whose id is not the place before `next`");
        }
        match gap.after {
            Some(after) => self.hole(after, next),
            None => self.reset(next),
        }
    }

    /// A gap inside a life: something in it is gone, and nothing that is there was jumped over.
    fn hole(&mut self, after: u64, next: u64) {
        self.id(Some(next - 1));
        if next - 1 <= self.seq {
            return self.false_gap("everything in it had been heard or declared");
        }
        if !(self.seq.max(after) + 1..next).any(|seq| self.truth.is_gone(self.life, seq)) {
            self.false_gap("nothing is missing in it");
        }
        self.settle_to(after, false);
        self.settle_to(next - 1, true);
    }

    /// A gap into another life, or to a place that has nothing to do with ours.
    fn reset(&mut self, next: u64) {
        let life = self.truth.life_at(self.log.items[self.at].0);
        if life <= self.life {
            self.false_gap("the stream has had no other life since");
        }
        self.life = life;
        self.seq = next - 1;
        // What the lives have in common may come again: that is declared, too.
        self.heard.clear();
        (self.newest_id, self.newest_event) = (next - 1, next - 1);
    }

    /// Nothing up to `upto` will come any more. Declared, that is only honest for what is gone.
    fn settle_to(&mut self, upto: u64, declared: bool) {
        let from = self.seq + 1;
        if upto < from {
            return;
        }
        let missing: Vec<(u64, Nonce)> = self.truth.lives[self.life]
            .stored
            .range(from..=upto)
            .filter(|(_, nonce)| {
                !self.heard.contains(nonce) && may_hear(&self.log.user, &self.truth.sent[nonce].subject)
            })
            .filter(|(seq, nonce)| !declared || !self.may_be_declared(**seq, **nonce))
            .map(|(seq, nonce)| (*seq, *nonce))
            .collect();
        self.seq = upto;
        let Some((seq, nonce)) = missing.first() else { return };
        self.report.lost += missing.len();
        let how = if declared { "behind a gap, though still there" } else { "without a word" };
        let acked = self.truth.sent[nonce].acked.is_some();
        self.show(&format!(
            "lost {how}: {} messages from {seq} (nonce {nonce}, acked: {acked}) to {} of life {}",
            missing.len(),
            missing[missing.len() - 1].0,
            self.life
        ));
    }

    fn may_be_declared(&self, seq: u64, nonce: Nonce) -> bool {
        self.truth.is_gone(self.life, seq) || self.truth.fate(nonce) != Fate::Deliver
    }

    fn false_gap(&mut self, why: &str) {
        self.report.false_gaps += 1;
        self.show(&format!("a false gap: {why}"));
    }

    fn other(&mut self, what: &str) {
        self.report.other += 1;
        self.show(what);
    }

    fn show(&mut self, what: &str) {
        let text = format!("{}: {what}\n{}", self.log.name, self.around());
        self.report.show(text);
    }

    /// The log around the place.
    fn around(&self) -> String {
        let items = &self.log.items;
        let first = self.at.saturating_sub(AROUND);
        let last = items.len().min(self.at + AROUND);
        let zero = items.first().map(|(at, _)| *at);
        let line = |n: usize| {
            let (at, item) = &items[n];
            let mark = if n == self.at { "->" } else { "  " };
            let since = zero.map_or(0.0, |zero| at.duration_since(zero).as_secs_f64());
            format!("   {mark} {n} {since:8.3}s {item:?}")
        };
        (first..last).map(line).collect::<Vec<_>>().join("\n")
    }
}
