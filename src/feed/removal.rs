//! Why messages are gone from a stream: its limits, or somebody removed them.
//!
//! Nobody keeps a record of that. Known are the limits in force, how full the stream was when its leader was last asked, and how
//! old the missing messages can be at most. A limit takes the oldest first, so what it cannot have done to the youngest of them
//! it did not do to all: then somebody did. All of it errs towards the limits.

use std::time::Instant;

use super::api::StreamInfo;
use crate::event::Cause;

/// This part of a limit may be missing: messages are stored between a look and a hole, and limits are edited a little.
const SLACK: u64 = 10;
/// So much, at most, of a limit in time: clocks differ.
const SLACK_NANOS: u64 = 60_000_000_000;

/// What a stream keeps, and how full it was when its leader was asked. A limit of 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// Nanoseconds.
    max_age: u64,
    max_bytes: u64,
    max_messages: u64,
    max_per_subject: u64,
    /// Messages may bring a limit in time of their own.
    own_age: bool,
    first_seq: u64,
    last_seq: u64,
    messages: u64,
    bytes: u64,
    /// How large a message can be.
    largest: u64,
    /// No message is older; nanoseconds since 1970, as all times of messages.
    oldest: u64,
    /// When the newest was stored.
    newest: u64,
    /// The time when the leader was asked, by both clocks.
    asked: (Instant, u64),
}

impl Stock {
    /// What the leader has just said. `payload_max`: how large a message the server takes. `clock`: ours, nanoseconds since 1970.
    pub fn of(info: &StreamInfo, payload_max: usize, now: Instant, clock: u64) -> Self {
        let (config, state) = (&info.config, &info.state);
        let limit = |limit: i64| u64::try_from(limit).unwrap_or(0);
        // A stream that refuses new messages removes no old ones.
        let drops = |max: i64| if config.discard == "new" { 0 } else { limit(max) };
        let payload_max = u64::try_from(payload_max).unwrap_or(u64::MAX);
        Self {
            max_age: config.max_age,
            max_bytes: drops(config.max_bytes),
            max_messages: drops(config.max_msgs),
            max_per_subject: if config.discard_new_per_subject { 0 } else { limit(config.max_msgs_per_subject) },
            own_age: config.allow_msg_ttl,
            first_seq: state.first_seq,
            last_seq: state.last_seq,
            messages: state.messages,
            bytes: state.bytes,
            largest: if config.max_msg_size > 0 { limit(config.max_msg_size) } else { payload_max },
            // A mirror's messages have the times of their origin.
            oldest: if config.mirror.is_some() { 0 } else { info.created_at() },
            newest: state.last_ts,
            // An old server does not tell its time.
            asked: (now, info.ts.max(clock)),
        }
    }

    /// Without limits.
    #[cfg(test)]
    pub fn unlimited(now: Instant) -> Self {
        Self {
            max_age: 0,
            max_bytes: 0,
            max_messages: 0,
            max_per_subject: 0,
            own_age: false,
            first_seq: 0,
            last_seq: 0,
            messages: 0,
            bytes: 0,
            largest: 0,
            oldest: 0,
            newest: 0,
            asked: (now, 0),
        }
    }

    /// What can have removed the messages up to a sequence; `last` is the newest sequence that is known.
    pub fn cause(&self, upto: u64, last: u64, now: Instant) -> Cause {
        let behind = last.max(self.last_seq).saturating_sub(upto);
        let by_size = self.own_age
            || reaches(behind, self.max_messages)
            || reaches(behind, self.max_per_subject)
            || reaches(self.bytes_from(upto, behind), self.max_bytes);
        Cause { by_size, aged: self.aged(upto, now) }
    }

    /// What the message at `upto` and those `behind` it can have taken at most.
    fn bytes_from(&self, upto: u64, behind: u64) -> u64 {
        let before = (upto + 1).saturating_sub(self.first_seq);
        let still_there = self.messages.saturating_sub(before);
        let unknown = (behind + 1).saturating_sub(still_there).saturating_mul(self.largest);
        self.bytes.saturating_add(unknown).min((behind + 1).saturating_mul(self.largest))
    }

    /// Messages up to `upto` that were stored before this time can be too old; 0 where none can.
    fn aged(&self, upto: u64, now: Instant) -> u64 {
        if self.max_age == 0 {
            return 0;
        }
        let (asked, clock) = self.asked;
        let since = u64::try_from(now.saturating_duration_since(asked).as_nanos()).unwrap_or(u64::MAX);
        let slack = (self.max_age / SLACK).min(SLACK_NANOS);
        let aged = clock.saturating_add(since).saturating_sub(self.max_age - slack);
        // No message is older than the stream, and one behind the newest of then is younger.
        let youngest = if upto >= self.last_seq { self.newest } else { 0 };
        if aged <= self.oldest.max(youngest) { 0 } else { aged }
    }
}

/// Whether so many can have met a limit.
fn reaches(there: u64, limit: u64) -> bool {
    limit > 0 && there >= limit - limit / SLACK
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::frame::notice::GapReason;

    const HOUR: u64 = 3_600_000_000_000;
    /// The time of the look.
    const NOW: u64 = 1_000_000 * HOUR;

    /// Messages 101 to 1000 of 100 bytes, a minute apart, in a stream without limits.
    fn stock(now: Instant) -> Stock {
        Stock {
            first_seq: 101,
            last_seq: 1000,
            messages: 900,
            bytes: 90_000,
            largest: 1000,
            oldest: NOW - 1000 * HOUR,
            newest: NOW - HOUR,
            asked: (now, NOW),
            ..Stock::unlimited(now)
        }
    }

    #[test]
    fn a_stream_that_refuses_new_messages_removes_no_old_ones() {
        let stock = |discard: &str, per_subject: bool| {
            let config = serde_json::json!({
                "retention": "limits", "max_msgs": 900, "max_bytes": 90_000, "max_msgs_per_subject": 5,
                "discard": discard, "discard_new_per_subject": per_subject,
            });
            let state = serde_json::json!({"messages": 900, "bytes": 90_000, "first_seq": 101, "last_seq": 1000});
            let info = serde_json::json!({"config": config, "state": state, "created": "2026-01-01T00:00:00Z"});
            let stock = Stock::of(&serde_json::from_value(info).expect("a description"), 1000, Instant::now(), NOW);
            (stock.max_messages, stock.max_bytes, stock.max_per_subject)
        };
        assert_eq!(stock("old", false), (900, 90_000, 5));
        assert_eq!(stock("new", false), (0, 0, 5), "the limit per subject goes on dropping");
        assert_eq!(stock("new", true), (0, 0, 0));
    }

    #[test]
    fn a_limit_is_the_reason_where_it_can_be() {
        use GapReason::{Purged, Retention};
        let now = Instant::now();
        let stock = stock(now);
        let day = Stock { max_age: 24 * HOUR, ..stock };
        let number = |max_messages| Stock { max_messages, ..stock };
        let bytes = |max_bytes| Stock { max_bytes, ..stock };
        let each = |max_per_subject| Stock { max_per_subject, ..stock };
        let young = Stock { oldest: NOW - HOUR, ..day };
        let empty = Stock { first_seq: 1001, messages: 0, bytes: 0, ..bytes(100_000) };
        // The stock, the hole's last sequence, the newest known, hours since the look, hours of age of the message before.
        let table = [
            ("no limits", stock, 100, 1000, 0, None, Purged),
            ("too young to be too old", day, 100, 1000, 0, Some(20), Purged),
            ("too old", day, 100, 1000, 0, Some(25), Retention),
            ("too old by now", day, 100, 1000, 10, Some(15), Retention),
            ("of unknown age", day, 100, 1000, 0, None, Retention),
            ("of unknown age, in a young stream", young, 100, 1000, 0, None, Purged),
            ("the last one is young", day, 1000, 1000, 0, Some(25), Purged),
            ("the last one may be old by now", day, 1000, 1000, 24, Some(25), Retention),
            ("clocks differ", day, 100, 1000, 0, Some(24), Retention),
            ("as many as may be", number(900), 100, 1000, 0, Some(1), Retention),
            ("far fewer than may be", number(2000), 100, 1000, 0, Some(1), Purged),
            ("as many as may be since the look", number(2000), 100, 2100, 0, Some(1), Retention),
            ("in the middle, with fewer behind", number(900), 500, 1000, 0, Some(1), Purged),
            ("at the end", number(1), 1000, 1000, 0, Some(1), Purged),
            ("as large as may be", bytes(90_500), 100, 1000, 0, Some(1), Retention),
            ("far smaller than may be", bytes(200_000), 100, 1000, 0, Some(1), Purged),
            ("as large as may be since the look", bytes(200_000), 100, 1100, 0, Some(1), Retention),
            ("the last few", bytes(90_500), 990, 1000, 0, Some(1), Purged),
            ("all", empty, 1000, 1000, 0, Some(1), Purged),
            ("who knows how large", Stock { messages: 700, ..bytes(200_000) }, 100, 1000, 0, Some(1), Retention),
            ("with enough behind", each(5), 995, 1000, 0, Some(1), Retention),
            ("with too few behind", each(5), 996, 1000, 0, Some(1), Purged),
            ("by a limit of its own", Stock { own_age: true, ..stock }, 100, 1000, 0, Some(1), Retention),
            (
                "two limits, one of them met",
                Stock { max_age: 24 * HOUR, ..number(900) },
                100,
                1000,
                0,
                Some(1),
                Retention,
            ),
        ];
        for (what, stock, upto, last, since, age, expected) in table {
            let before = age.map_or(0, |age| NOW - age * HOUR);
            let cause = stock.cause(upto, last, now + Duration::from_secs(3600 * since));
            assert_eq!(cause.reason(before), expected, "{what}: {cause:?}");
        }
        assert_eq!(Cause::SOMEBODY.reason(0), Purged);
    }
}
