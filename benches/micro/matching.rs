//! `matching`: finding who listens to a message's subject, among so many patterns. A feed asks it once for each message, and
//! so does each shard that wants the message.
//!
//! Subjects come in random order, each for another user, so that with many patterns the memory of most is far away.

use std::hint::black_box;

use sidestream::interest::Interest;
use sidestream::subject::Pattern;

use crate::time::nanoseconds;

const USERS: [usize; 3] = [1, 1000, 100_000];

/// Patterns of one user, and the subjects that are asked for.
struct Case {
    name: &'static str,
    patterns: &'static [&'static str],
    /// For everybody; adds one match.
    common: Option<&'static str>,
    subject: &'static str,
    matches: usize,
}

const CASES: [Case; 5] = [
    Case {
        name: "one's own",
        patterns: &["events.user.{user}.>"],
        common: None,
        subject: "events.user.{user}.note",
        matches: 1,
    },
    Case {
        name: "one's own, of somebody who is not here",
        patterns: &["events.user.{user}.>"],
        common: None,
        subject: "events.user.not-{user}.note",
        matches: 0,
    },
    Case {
        name: "literal, without wildcards",
        patterns: &["events.user.{user}.note"],
        common: None,
        subject: "events.user.{user}.note",
        matches: 1,
    },
    Case {
        name: "a wildcard before the user",
        patterns: &["events.*.{user}.note"],
        common: None,
        subject: "events.user.{user}.note",
        matches: 1,
    },
    Case {
        name: "one's own, a wildcard before the user, and everybody's",
        patterns: &["events.user.{user}.>", "events.*.{user}.>"],
        common: Some("events.>"),
        subject: "events.user.{user}.note",
        matches: 3,
    },
];

/// Prints the table.
pub fn run() {
    println!("\n## Matching\n");
    println!("| patterns | matches | ns with 1 user | 1000 users | 100 000 users |");
    println!("|---|---|---|---|---|");
    for case in &CASES {
        let [one, some, many] = USERS.map(|users| cost(case, users));
        println!("| {} | {} | {one:.0} | {some:.0} | {many:.0} |", case.name, case.matches);
    }
}

fn cost(case: &Case, users: usize) -> f64 {
    let interest = interest_of(case, users);
    let subjects = subjects_of(case, users);
    let matches = |subject: &str| {
        let mut matches = 0;
        interest.for_each_match(subject, |user| matches += usize::from(black_box(*user) <= users));
        matches
    };
    assert!(subjects.iter().all(|subject| matches(subject) == case.matches), "{}", case.name);
    let mut next = subjects.iter().cycle();
    nanoseconds(|_| {
        let subject = next.next().expect("at least one user");
        black_box(matches(black_box(subject)));
    })
}

fn interest_of(case: &Case, users: usize) -> Interest<usize> {
    let mut interest = Interest::default();
    let mut add = |text: &str, value| {
        let pattern = Pattern::parse(text).expect("a pattern");
        interest.leaf_or_insert_with(&pattern, || value);
    };
    case.common.iter().for_each(|common| add(common, users));
    for user in 0..users {
        case.patterns.iter().for_each(|pattern| add(&of(pattern, user), user));
    }
    interest
}

fn subjects_of(case: &Case, users: usize) -> Vec<String> {
    let mut subjects: Vec<String> = (0..users).map(|user| of(case.subject, user)).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut subjects);
    subjects
}

fn of(text: &str, user: usize) -> String {
    text.replace("{user}", &format!("user-{user}"))
}
