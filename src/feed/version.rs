//! Whether the NATS server has known security faults.

use std::sync::Arc;

use super::connection::Kept;
use crate::telemetry::metrics::FeedMetrics;

/// Versions from which on every known security fault is mended (requirement R58).
const PATCHED: [(u32, u32, u32); 3] = [(2, 11, 17), (2, 12, 12), (2, 14, 3)];

/// Looks at the server after each connect: keeps a metric, and warns of each version once. Of a cluster it sees the server it
/// is connected to.
pub(super) async fn watch(control: Kept, metrics: Arc<FeedMetrics>) {
    let mut warned = None;
    loop {
        let mut connection = control.connected().await;
        let losses = connection.link.borrow().losses;
        let version = connection.client.server_info().version;
        let outdated = is_outdated(&version);
        metrics.server_outdated.set(u64::from(outdated));
        if outdated && warned.as_ref() != Some(&version) {
            tracing::warn!(version, "NATS server has known security faults; {PATCHED_TEXT} and newer have not");
            warned = Some(version);
        }
        // Also over when the client has died.
        let _ = connection.link.wait_for(|link| link.losses != losses).await;
    }
}

/// The patched versions in words.
pub const PATCHED_TEXT: &str = "2.11.17, 2.12.12, 2.14.3";

/// Older than the patched release of its line. A version that cannot be read is not judged.
pub fn is_outdated(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|n| n.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor)), Some(Some(patch))) = (numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    match PATCHED.iter().find(|(m, n, _)| (*m, *n) == (major, minor)) {
        Some((_, _, good)) => patch < *good,
        None => PATCHED.last().is_some_and(|newest| (major, minor) < (newest.0, newest.1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_their_line() {
        for old in ["2.9.10", "2.10.29", "2.11.16", "2.12.8", "2.13.9", "2.14.2"] {
            assert!(is_outdated(old), "{old}");
        }
        for good in ["2.11.17", "2.12.12", "2.14.3", "2.15.1", "3.0.0", "dev"] {
            assert!(!is_outdated(good), "{good}");
        }
    }

    #[test]
    fn the_words_name_the_versions() {
        let words: Vec<String> = PATCHED.iter().map(|(a, b, c)| format!("{a}.{b}.{c}")).collect();
        assert_eq!(words.join(", "), PATCHED_TEXT);
    }
}
