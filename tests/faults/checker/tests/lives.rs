//! A stream that is deleted and created again, or that goes back in time.

use std::time::{Duration, Instant};

use super::*;

/// The stream lives again, from 1 to 12, after the first life's first five were heard.
fn second_life() -> (Truth, Vec<Item>) {
    let mut truth = truth();
    let mut items = clean(&truth);
    items.truncate(4);
    truth.next_life(Instant::now(), 0);
    for seq in 1..=12 {
        publish(&mut truth, seq);
    }
    truth.present.clone_from(&truth.lives[1].stored);
    (truth, items)
}

fn in_time(truth: &Truth, items: Vec<Item>, first_life: usize) -> Log {
    let mut log = log(items);
    let began = truth.lives[1].began;
    for (n, (at, _)) in log.items.iter_mut().enumerate() {
        *at = if n < first_life { truth.lives[0].began } else { began + Duration::from_millis(1) };
    }
    log
}

#[test]
fn another_life_is_entered_by_a_reset() {
    let (truth, mut items) = second_life();
    let first_life = items.len();
    items.push(gap(None, 1, "reset"));
    items.extend([1, 3, 5, 7, 9, 11, 12].map(|seq| heard(&truth, seq)));
    let report = check(&truth, &[in_time(&truth, items.clone(), first_life)], RESET);
    assert!(report.is_clean() && report.gaps == 1, "{report:?}");

    items.remove(first_life + 1);
    let report = check(&truth, &[in_time(&truth, items.clone(), first_life)], RESET);
    assert_eq!(report.lost, 1, "the first of the new life: {report:?}");

    items.remove(first_life);
    let report = check(&truth, &[in_time(&truth, items, first_life)], RESET);
    assert!(report.lost >= 4, "what the old life still had, without a word: {report:?}");
}

#[test]
fn a_reset_without_another_life_is_false() {
    let truth = truth();
    let mut items = clean(&truth);
    items.insert(3, gap(None, 5, "reset"));
    assert_eq!(found(&truth, items, RESET).false_gaps, 1);
}

#[test]
fn a_store_that_went_back_gives_what_both_lives_have_again() {
    let mut truth = truth();
    let mut items = clean(&truth);
    items.truncate(6);
    let first_life = items.len();
    truth.next_life(Instant::now(), 5);
    for seq in 6..=12 {
        publish(&mut truth, seq);
    }
    truth.present.clone_from(&truth.lives[1].stored);
    items.push(gap(None, 4, "reset"));
    items.extend([5, 7, 9, 11, 12].map(|seq| heard(&truth, seq)));
    let report = check(&truth, &[in_time(&truth, items.clone(), first_life)], RESET);
    assert!(report.is_clean(), "{report:?}");

    // Without the gap, 7 and 9 of the old life were heard and are not there any more: nobody was told.
    items.remove(first_life);
    let report = check(&truth, &[in_time(&truth, items, first_life)], RESET);
    assert!(!report.is_clean());
}
