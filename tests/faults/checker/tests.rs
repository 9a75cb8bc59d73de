//! The checker itself: it must find what it is there to find, and be silent where all is well.
//!
//! Each test starts from the same small, clean run and breaks one thing.

mod lives;
mod times;

use std::time::Instant;

use super::super::client::{Gap, Id, Item, Log, SILENCE};
use super::super::truth::{Fate, Truth};
use super::{Allowed, HEAL_MAX, Report, check};

const NOTHING: Allowed = Allowed { reasons: &[], silence: false };
const PURGE: Allowed = Allowed { reasons: &["purged"], silence: false };
const RESET: Allowed = Allowed { reasons: &["reset"], silence: false };

/// Ten messages at 1 to 10: odd ones for `u1`, even ones for `u2`; then a broadcast at 11 and the end at 12.
fn truth() -> Truth {
    let mut truth = Truth::new();
    for seq in 1..=12 {
        publish(&mut truth, seq);
    }
    truth.present.clone_from(&truth.lives[0].stored);
    truth.last = 12;
    truth
}

fn publish(truth: &mut Truth, seq: u64) {
    let subject = match seq {
        12 => "events.broadcast.end",
        11 => "events.broadcast.news",
        seq if seq % 2 == 1 => "events.user.u1.note",
        _ => "events.user.u2.note",
    };
    let (nonce, _) = truth.send(subject, Fate::Deliver, 0);
    truth.acked(nonce, seq);
}

fn id(seq: u64) -> Id {
    let seq = match seq {
        seq @ 0..=9 => seq.to_string(),
        seq => char::from(b'a' + u8::try_from(seq - 10).expect("small")).to_string(),
    };
    Id { text: format!("epoch.{seq}.0") }
}

fn connected(resume: &str, at: u64) -> Item {
    Item::Connected { resume: resume.to_owned(), id: id(at), sent: Some(id(at).text) }
}

fn heard(truth: &Truth, seq: u64) -> Item {
    let nonce = truth.lives.last().expect("one").stored[&seq];
    Item::Data { id: id(seq), nonce, subject: truth.sent[&nonce].subject.clone() }
}

fn gap(after: Option<u64>, next: u64, reason: &str) -> Item {
    Item::Gap { id: id(next - 1), gap: Gap { after, next: Some(next), reason: reason.to_owned() } }
}

fn log(items: Vec<Item>) -> Log {
    let items = items.into_iter().map(|item| (Instant::now(), item)).collect();
    Log { name: "a client".into(), user: "u1".into(), items }
}

/// What `u1` hears of all of it.
fn clean(truth: &Truth) -> Vec<Item> {
    let mut items = vec![connected("new", 0)];
    items.extend([1, 3, 5, 7, 9, 11, 12].map(|seq| heard(truth, seq)));
    items
}

fn found(truth: &Truth, items: Vec<Item>, allowed: Allowed) -> Report {
    check(truth, &[log(items)], allowed)
}

#[test]
fn a_clean_run_is_clean() {
    let truth = truth();
    let report = found(&truth, clean(&truth), NOTHING);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.events, 7);
}

#[test]
fn a_resume_is_clean() {
    let truth = truth();
    let mut items = clean(&truth);
    items.splice(3..3, [Item::Ended(String::new()), connected("exact", 3)]);
    assert!(found(&truth, items, NOTHING).is_clean());
}

#[test]
fn a_lost_message_is_found_wherever_it_is() {
    let truth = truth();
    for place in 1..=6 {
        let mut items = clean(&truth);
        items.remove(place);
        let report = found(&truth, items, NOTHING);
        assert_eq!((report.lost, report.duplicated, report.out_of_order), (1, 0, 0), "{place}: {report:?}");
        assert!(report.evidence[0].contains("without a word"), "{report:?}");
    }
}

#[test]
fn a_message_lost_across_a_resume_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.splice(3..4, [Item::Ended(String::new()), connected("exact", 3)]);
    assert_eq!(found(&truth, items, NOTHING).lost, 1);
}

#[test]
fn a_message_that_was_stored_without_an_acknowledgement_must_be_heard_too() {
    let mut truth = truth();
    let nonce = truth.lives[0].stored[&5];
    truth.sent.get_mut(&nonce).expect("sent").acked = None;
    let mut items = clean(&truth);
    items.remove(3);
    assert_eq!(found(&truth, items, NOTHING).lost, 1);
}

#[test]
fn the_end_that_never_comes_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.truncate(5);
    let report = found(&truth, items, NOTHING);
    assert!(report.other == 1 && report.lost == 3, "{report:?}");
}

#[test]
fn a_doubled_message_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.insert(4, heard(&truth, 5));
    let report = found(&truth, items, NOTHING);
    assert_eq!((report.lost, report.duplicated), (0, 1), "{report:?}");

    let mut items = clean(&truth);
    items.splice(4..4, [Item::Ended(String::new()), connected("exact", 3), heard(&truth, 5)]);
    let report = found(&truth, items, NOTHING);
    assert_eq!((report.lost, report.duplicated), (0, 1), "across a resume: {report:?}");
}

#[test]
fn messages_that_change_places_are_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.swap(3, 4);
    assert!(found(&truth, items, NOTHING).out_of_order >= 1);
}

#[test]
fn an_id_that_is_not_the_messages_own_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items[3] = match heard(&truth, 5) {
        Item::Data { nonce, subject, .. } => Item::Data { id: id(6), nonce, subject },
        _ => unreachable!("an event"),
    };
    assert!(found(&truth, items, NOTHING).out_of_order >= 1);
}

#[test]
fn an_id_that_goes_back_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.splice(4..4, [6, 5].map(|seq| Item::Own { what: "sidestream.heartbeat".into(), id: id(seq) }));
    assert_eq!(found(&truth, items, NOTHING).other, 1);
}

#[test]
fn a_foreign_message_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.insert(3, heard(&truth, 4));
    assert_eq!(found(&truth, items, NOTHING).foreign, 1);

    let mut items = clean(&truth);
    items.insert(3, Item::Data { id: id(4), nonce: 999, subject: "events.user.u1.note".into() });
    assert_eq!(found(&truth, items, NOTHING).foreign, 1, "nobody published it");
}

#[test]
fn a_message_that_was_changed_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.insert(3, Item::Broken("bytes".into()));
    assert_eq!(found(&truth, items, NOTHING).foreign, 1);
}

#[test]
fn a_gap_is_honest_where_something_is_gone() {
    let mut truth = truth();
    truth.present.remove(&5);
    let mut items = clean(&truth);
    items[3] = gap(Some(4), 6, "purged");
    let report = found(&truth, items.clone(), PURGE);
    assert!(report.is_clean() && report.gaps == 1, "{report:?}");
    // Told again after a cut, it counts once.
    items.splice(4..4, [Item::Ended(String::new()), connected("exact", 5), gap(Some(4), 6, "purged")]);
    let report = found(&truth, items, PURGE);
    assert!(report.is_clean() && report.gaps == 1, "{report:?}");
}

#[test]
fn a_gap_that_is_told_twice_is_false() {
    let mut truth = truth();
    truth.present.remove(&5);
    let mut items = clean(&truth);
    items[3] = gap(Some(4), 6, "purged");
    items.insert(4, gap(Some(4), 6, "purged"));
    assert_eq!(found(&truth, items, PURGE).false_gaps, 1);
}

#[test]
fn a_gap_after_the_next_message_is_too_late() {
    let mut truth = truth();
    truth.present.remove(&5);
    let mut items = clean(&truth);
    items[3] = gap(Some(4), 6, "purged");
    items.swap(3, 4);
    let report = found(&truth, items, PURGE);
    assert!(report.lost == 1 && report.false_gaps == 1, "{report:?}");
}

#[test]
fn a_gap_where_nothing_is_missing_is_false() {
    let truth = truth();
    let mut items = clean(&truth);
    items.insert(3, gap(Some(3), 5, "purged"));
    assert_eq!(found(&truth, items, PURGE).false_gaps, 1);
}

#[test]
fn a_gap_that_the_fault_does_not_explain_is_false() {
    let mut truth = truth();
    truth.present.remove(&5);
    let mut items = clean(&truth);
    items[3] = gap(Some(4), 6, "purged");
    assert_eq!(found(&truth, items, NOTHING).false_gaps, 1);
}

#[test]
fn a_gap_over_what_is_still_there_hides_a_loss() {
    let mut truth = truth();
    truth.present.remove(&5);
    let mut items = clean(&truth);
    items.splice(3..5, [gap(Some(4), 9, "purged")]);
    let report = found(&truth, items, PURGE);
    assert_eq!((report.lost, report.false_gaps), (1, 0), "{report:?}");
}

#[test]
fn a_gap_that_was_promised_must_come() {
    let truth = truth();
    let mut items = clean(&truth);
    items.splice(3..3, [Item::Ended(String::new()), connected("gap", 3)]);
    assert_eq!(found(&truth, items, NOTHING).other, 1);
}

#[test]
fn a_resume_that_forgets_the_cursor_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.splice(3..3, [Item::Ended(String::new()), connected("new", 3)]);
    assert_eq!(found(&truth, items, NOTHING).other, 1);
}

#[test]
fn a_silent_sidecar_is_found() {
    let truth = truth();
    let mut items = clean(&truth);
    items.splice(3..3, [Item::Ended(SILENCE.into()), connected("exact", 3)]);
    assert_eq!(found(&truth, items.clone(), NOTHING).other, 1);
    assert!(found(&truth, items, Allowed { silence: true, ..NOTHING }).is_clean());
}

#[test]
fn who_is_not_let_in_is_found_once_the_fault_is_over() {
    let mut truth = truth();
    let mut items = clean(&truth);
    items.splice(3..3, [Item::Ended(String::new()), Item::Refused("nats".into()), connected("exact", 3)]);
    truth.healed = Some(Instant::now());
    assert!(found(&truth, items.clone(), NOTHING).is_clean(), "right after it");
    truth.healed = Instant::now().checked_sub(2 * HEAL_MAX);
    assert_eq!(found(&truth, items, NOTHING).other, 1);
}

#[test]
fn what_cannot_be_sent_must_be_declared() {
    let mut truth = truth();
    let nonce = truth.lives[0].stored[&5];
    truth.sent.get_mut(&nonce).expect("sent").fate = Fate::Declare;
    let mut items = clean(&truth);
    assert_eq!(found(&truth, items.clone(), PURGE).other, 1, "it was sent");
    items[3] = gap(Some(4), 6, "purged");
    assert!(found(&truth, items.clone(), PURGE).is_clean());
    items.remove(3);
    assert_eq!(found(&truth, items, PURGE).lost, 1);
}
