//! Presence of two sidecars without NATS: answers that take long, and messages that no sidecar would write.
//!
//! What many sidecars do by chance, and over time, is [`super::simulation`]'s business.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use uuid::Uuid;

use super::Presence;
use super::here::Seen;
use super::machine::{Do, Machine, Why};
use super::message::{Answer, Change, Entry, Reason, Said, What, Word, pages};
use super::task::GOODBYE;
use crate::cluster::{NodeId, Nodes};

const BEGIN: u64 = 1_000_000;
const GRACE: u64 = 5_000;
const SUBJECT: &str = "presence";
/// The first and the last moments and numbers there are.
const EXTREMES: [u64; 3] = [0, u64::MAX - 1, u64::MAX];

fn machine() -> (NodeId, Machine) {
    let own = NodeId::unused();
    let mut machine = Machine::new(own, SUBJECT.into(), GRACE);
    machine.set_payload_max(400);
    machine.begin(Why::Lost, BEGIN);
    (own, machine)
}

/// Two sidecars; answers of the second reach the first page by page, with time between them.
struct Pair {
    now: u64,
    roll: Nodes,
    first: Machine,
    second: Machine,
    /// The first page of an answer takes so long, and each after it.
    takes: u64,
    each: u64,
    pages: VecDeque<(u64, Answer)>,
    asked: usize,
    published: Vec<(What, Arc<str>)>,
}

impl Pair {
    /// Both know each other, and the second has said of a user.
    fn new() -> Self {
        let ((one, first), (two, second)) = (machine(), machine());
        let roll = Nodes::from([one, two]);
        let (now, pages, published) = (BEGIN, VecDeque::new(), Vec::new());
        let mut pair = Self { now, roll, first, second, takes: 0, each: 0, pages, asked: 0, published };
        pair.run(10_000);
        pair.opens("carol");
        pair.run(1_000);
        assert_eq!(std::mem::take(&mut pair.published), [(What::Connect, "carol".into())]);
        pair
    }

    /// NATS is away for a second, and these come to the second sidecar while it is.
    fn outage(&mut self, users: &[&str]) {
        for machine in [&mut self.first, &mut self.second] {
            machine.lose_nats();
        }
        self.now += 1_000;
        users.iter().for_each(|user| self.opens(user));
        for machine in [&mut self.first, &mut self.second] {
            machine.begin(Why::Lost, self.now);
        }
        self.asked = 0;
    }

    fn opens(&mut self, user: &str) {
        let connection = Uuid::from_u128(self.now.into());
        self.second.own_user(&user.into(), Seen::Here(connection), self.now, self.now);
    }

    fn run(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.now += 50;
            let done: Vec<_> = self.first.act(&self.roll, self.now).into_iter().map(|one| (true, one)).collect();
            let other = self.second.act(&self.roll, self.now).into_iter().map(|one| (false, one));
            for (is_first, one) in done.into_iter().chain(other) {
                match one {
                    Do::Say(said) | Do::Ask(said) => self.hears(is_first, &said),
                    Do::Publish(change) => self.publishes(&change),
                }
            }
            while let Some((_, page)) = self.pages.pop_front_if(|(at, _)| *at <= self.now) {
                self.first.hear_answer(page, self.now);
            }
        }
    }

    fn hears(&mut self, is_first: bool, said: &Said) {
        let now = self.now;
        let answers = [&mut self.first, &mut self.second].map(|machine| machine.hear(said.clone(), now));
        let [of_first, of_second] = answers.map(|answer| answer.map(|answer| pages(answer, 100)));
        if is_first && matches!(said.word, Word::Ask { .. }) {
            self.asked += 1;
        }
        of_first.into_iter().flatten().for_each(|page| self.second.hear_answer(page, now));
        // One answer after the other, as on one connection.
        let mut at = self.pages.back().map_or(0, |(at, _)| *at).max(now + self.takes);
        for page in of_second.into_iter().flatten() {
            self.pages.push_back((at, page));
            at += self.each;
        }
    }

    fn publishes(&mut self, change: &Change) {
        self.published.push((change.event, change.user.clone()));
        self.first.hear_change(change, self.now);
        self.second.hear_change(change, self.now);
    }
}

#[test]
fn an_answer_may_take_long() {
    for takes in [0, 900, 1_200, 2_000, 7_000] {
        let mut pair = Pair::new();
        pair.takes = takes;
        pair.outage(&["alice"]);
        pair.run(20_000);
        assert_eq!(pair.published, [(What::Connect, "alice".into())], "an answer that takes {takes} ms");
        assert!(pair.asked <= 4, "{} questions, for an answer that takes {takes} ms", pair.asked);
    }
}

#[test]
fn while_pages_come_nobody_is_asked_again_and_all_of_them_are_waited_for() {
    let users: Vec<_> = (0..40).map(|n| format!("user{n}")).collect();
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    let mut pair = Pair::new();
    pair.each = 900;
    pair.outage(&users);
    pair.run(60_000);
    assert_eq!(pair.asked, 1);
    assert_eq!(pair.published.len(), users.len());
}

#[test]
fn what_came_too_late_to_be_waited_for_is_known_when_it_comes() {
    let mut pair = Pair::new();
    pair.takes = 15_000;
    pair.outage(&["alice"]);
    pair.run(12_000);
    assert!(pair.first.is_publishing(pair.now), "no longer waited for");
    assert!(pair.published.is_empty());
    // Nor is anything lost that is said meanwhile.
    pair.opens("bob");
    pair.run(1_000);
    assert_eq!(pair.published, [(What::Connect, "bob".into())]);
    pair.run(20_000);
    assert_eq!(pair.published[1..], [(What::Connect, "alice".into())]);
}

#[test]
fn an_answer_that_was_lost_is_asked_for_again() {
    let mut pair = Pair::new();
    pair.takes = 100_000;
    pair.outage(&["alice"]);
    pair.run(11_500);
    pair.pages.clear();
    pair.takes = 0;
    pair.run(10_000);
    assert_eq!(pair.published, [(What::Connect, "alice".into())]);
}

#[test]
fn one_that_publishes_elsewhere_is_not_waited_for() {
    let ((own, mut machine), other) = (machine(), NodeId::unused());
    for now in (BEGIN..=BEGIN + 1_500).step_by(50) {
        let sign = Said { node: other, subject: "elsewhere".into(), synced: true, word: Word::Here { seq: 3 } };
        machine.hear(sign, now);
        for one in machine.act(&Nodes::from([own, other]), now) {
            if let Do::Say(said) | Do::Ask(said) = one {
                machine.hear(said, now);
            }
        }
    }
    assert!(machine.is_publishing(BEGIN + 1_500));
}

/// All that others can write, with this number in every place where there is one.
fn forged(node: NodeId, number: u64) -> Vec<Said> {
    let left = Some((Reason::NodeLost, number));
    let entry = |user: &str, left| Entry { user: user.into(), connection: Uuid::nil(), left };
    let users = vec![entry("mallory", left), entry("nobody", None)];
    let but = Nodes::new();
    let words = [
        Word::Here { seq: number },
        Word::Users { seq: number, users: users.clone() },
        Word::Users { seq: number, users },
        Word::Ask { question: number, but: but.clone(), whole: true },
        Word::Ask { question: number, but, whole: false },
    ];
    words.map(|word| Said { node, subject: SUBJECT.into(), synced: true, word }).into()
}

fn forged_answers(node: NodeId, question: u64, number: u64) -> impl Iterator<Item = Answer> {
    let (left, index) = (Some((Reason::NodeLost, number)), usize::try_from(number).unwrap_or(usize::MAX));
    let (event, reason, connection) = (What::Connect, Reason::Opened, Uuid::nil());
    let users = vec![Entry { user: "mallory".into(), connection, left }];
    let told = vec![Change { event, user: "mallory".into(), connection, node, reason, time: number }];
    let pages = [(0, true), (index, true), (index, false), (1, true), (1, false), (0, false)];
    pages.into_iter().map(move |(page, last)| Answer {
        node,
        subject: SUBJECT.into(),
        question,
        page,
        last,
        seq: number,
        behind: number,
        knows: number,
        whole: true,
        users: users.clone(),
        told: told.clone(),
    })
}

#[test]
fn no_number_that_is_heard_ends_the_process_and_none_is_believed_for_long() {
    for (first, then) in EXTREMES.into_iter().flat_map(|first| EXTREMES.map(|then| (first, then))) {
        let mut pair = Pair::new();
        let known: Vec<_> = pair.roll.iter().copied().chain([NodeId::unused()]).collect();
        for why in [Why::Lost, Why::Missed, Why::Gap] {
            pair.first.begin(why, pair.now);
            pair.run(50);
            for (node, number) in known.iter().flat_map(|node| [(*node, first), (*node, then)]) {
                for said in forged(node, number) {
                    pair.first.hear(said, pair.now);
                }
                for question in EXTREMES.into_iter().chain(1..30) {
                    forged_answers(node, question, number).for_each(|page| pair.first.hear_answer(page, pair.now));
                }
                let (event, reason, connection) = (What::Disconnect, Reason::NodeLost, Uuid::nil());
                let user = "mallory".into();
                pair.first.hear_change(&Change { event, user, connection, node, reason, time: number }, pair.now);
                pair.run(50);
            }
            pair.run(15_000);
        }
        pair.opens("alice");
        pair.run(10_000);
        let is_told = pair.published.contains(&(What::Connect, "alice".into()));
        assert!(is_told, "alice, after {first} and {then}: {:?}", pair.published);
    }
}

#[tokio::test]
async fn leaving_ends_whatever_the_task_is_doing() {
    // A task that does not come round.
    let (leave, _leaving) = mpsc::channel(1);
    let left = tokio::time::timeout(GOODBYE * 60, Presence { leave }.leave()).await;
    left.expect("it is given up");
}
