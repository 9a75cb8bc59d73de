//! How long a client waits after a fault.

use std::time::Duration;

use super::*;

#[test]
fn the_time_to_heal_is_the_slowest_clients() {
    let mut truth = truth();
    let items = clean(&truth);
    let start = truth.lives[0].began;
    for (nonce, sent) in &mut truth.sent {
        sent.at = start + Duration::from_secs(*nonce);
        sent.acked = Some(sent.at);
    }
    truth.healed = Some(start + Duration::from_secs(6));
    let mut log = log(items);
    for (n, (at, _)) in log.items.iter_mut().enumerate() {
        *at = start + Duration::from_secs(2 * n as u64);
    }
    // For `u1`, 7 is the first after the fault: published in second 7, heard in second 8.
    assert_eq!(check(&truth, &[log], NOTHING).worst_heal, Some(Duration::from_secs(1)));
}

#[test]
fn silence_after_the_fault_is_found() {
    let mut truth = truth();
    let mut log = log(clean(&truth));
    let start = truth.lives[0].began;
    truth.healed = Some(start);
    for (at, _) in log.items.iter_mut().skip(1) {
        *at = start + 2 * HEAL_MAX;
    }
    log.items[0].0 = start;
    let report = check(&truth, &[log], NOTHING);
    assert!(report.other == 1 && report.evidence[0].contains("the first event came"), "{report:?}");
}
