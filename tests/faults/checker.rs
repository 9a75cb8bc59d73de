//! Holds the clients' logs against the truth: what was lost, doubled, out of order, foreign, or declared without need.
//!
//! A pure function. It walks each client's log once, with the messages that the client had to hear beside it; what it
//! finds it counts and shows with the lines of the log around it. Liveness and leaks are measured elsewhere
//! (`world`, `leaks`), except for the time to heal, which can be read from the logs.

mod walk;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::client::{Item, Log};
use super::truth::{Truth, may_hear};

/// Invariant I7: how long after a fault a client may have to wait.
pub const HEAL_MAX: Duration = Duration::from_secs(5);

/// What a kind of fault may cause.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// The reasons it may explain; none: no gap at all.
    pub reasons: &'static [&'static str],
    /// Whether a sidecar may be silent.
    pub silence: bool,
}

/// What was found, summed over the clients of a run or over runs.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Data events received.
    pub events: usize,
    /// Gaps that were declared, repetitions not counted.
    pub gaps: usize,
    /// Messages that a client had to hear and neither heard nor was told of.
    pub lost: usize,
    /// Heard twice.
    pub duplicated: usize,
    /// Heard, or named by an id, behind a later one.
    pub out_of_order: usize,
    /// Outside the grant, or not as it was published.
    pub foreign: usize,
    /// Gaps where nothing is missing, or with a reason that the fault does not explain.
    pub false_gaps: usize,
    /// Everything else: protocol, liveness, leaks, panics.
    pub other: usize,
    /// How often a sidecar's feed or replay broke off: shows that the fault was felt.
    pub interruptions: usize,
    /// Runs that show nothing: the servers themselves disagree about what the stream holds.
    pub void: usize,
    /// Worst time from the end of the fault to the first event after it.
    pub worst_heal: Option<Duration>,
    /// What went wrong, with the log around it; only the first few.
    pub evidence: Vec<String>,
}

/// Evidence kept per run.
const EVIDENCE_MAX: usize = 12;

impl Report {
    /// Whether every invariant held.
    pub fn is_clean(&self) -> bool {
        [self.lost, self.duplicated, self.out_of_order, self.foreign, self.false_gaps, self.other] == [0; 6]
    }

    /// Notes something that is not an event's fault.
    pub fn complain(&mut self, what: String) {
        self.other += 1;
        self.show(what);
    }

    /// Keeps a piece of evidence.
    pub fn show(&mut self, what: String) {
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(what);
        }
    }

    /// Every count, in the order of [`Report::of`].
    pub fn counts(&self) -> [usize; 10] {
        let Self {
            interruptions, events, gaps, lost, duplicated, out_of_order, foreign, false_gaps, other, void, ..
        } = self;
        [interruptions, events, gaps, lost, duplicated, out_of_order, foreign, false_gaps, other, void]
            .map(|count| *count)
    }

    /// Made of its counts.
    pub fn of(counts: [usize; 10]) -> Self {
        let [interruptions, events, gaps, lost, duplicated, out_of_order, foreign, false_gaps, other, void] = counts;
        Self {
            events,
            gaps,
            lost,
            duplicated,
            out_of_order,
            foreign,
            false_gaps,
            other,
            interruptions,
            void,
            ..Self::default()
        }
    }

    /// Sums up.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.gaps += other.gaps;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.foreign += other.foreign;
        self.false_gaps += other.false_gaps;
        self.other += other.other;
        self.interruptions += other.interruptions;
        self.void += other.void;
        self.worst_heal = self.worst_heal.max(other.worst_heal);
    }
}

/// Checks the logs of one run.
pub fn check(truth: &Truth, logs: &[Log], allowed: Allowed) -> Report {
    let mut report = Report::default();
    for log in logs {
        walk::Walk::new(truth, log, allowed, &mut report).run();
        let Some(healed) = truth.healed else { continue };
        report.worst_heal = report.worst_heal.max(time_to_heal(truth, log, healed));
        let first = first_after(truth, log, healed);
        if first > HEAL_MAX {
            report.complain(format!(
                "{}: the first event came {first:?} after the fault, {HEAL_MAX:?} are allowed",
                log.name
            ));
        }
    }
    report
}

/// From the end of the fault to the first event that was published after it: everything before it has been caught up with.
/// The clock starts when there was something to hear and the client asked for it: the publisher's own recovery and a
/// client's own absence are not the sidecar's.
fn time_to_heal(truth: &Truth, log: &Log, healed: Instant) -> Option<Duration> {
    let heard = |nonce| truth.sent.get(&nonce).is_some_and(|sent| sent.at >= healed);
    let received = log.received().find(|(_, nonce)| heard(*nonce))?.0;
    Some(received.saturating_duration_since(clock(truth, log, healed)?))
}

/// Invariant I7: from the end of the fault to the first event or gap, be it one that was missed during the fault.
fn first_after(truth: &Truth, log: &Log, healed: Instant) -> Duration {
    let Some(clock) = clock(truth, log, healed) else { return Duration::ZERO };
    let first =
        log.items.iter().find(|(at, item)| *at >= healed && matches!(item, Item::Data { .. } | Item::Gap { .. }));
    first.map_or(Duration::MAX, |(at, _)| at.saturating_duration_since(clock))
}

fn clock(truth: &Truth, log: &Log, healed: Instant) -> Option<Instant> {
    let mine = |subject: &str| may_hear(&log.user, subject);
    let published = truth.sent.values().filter(|sent| sent.at >= healed && sent.acked.is_some() && mine(&sent.subject));
    Some(published.map(|sent| sent.at).min()?.max(log.asked_after(healed)))
}
