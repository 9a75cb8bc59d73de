//! The reply subject of a JetStream delivery, which carries its sequences (NATS ADR-15).
//!
//! Two forms: `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<ns>.<pending>` and, with a domain and account hash
//! in front of the stream, eleven tokens or more.

/// Where a delivered message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Stream sequence.
    pub stream_seq: u64,
    /// Consumer sequence, counted from 1 without holes.
    pub consumer_seq: u64,
    /// When the message was stored, nanoseconds since 1970.
    pub time: u64,
    /// Messages that wait behind this one.
    pub pending: u64,
}

impl Delivery {
    /// Reads a reply subject; `None` where it is not a delivery.
    pub fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?.as_bytes();
        let skipped = match memchr::memchr_iter(b'.', rest).count() + 1 {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let mut numbers = rest.split(|byte| *byte == b'.').skip(skipped).map(number);
        let mut next = || numbers.next()?;
        Some(Self { stream_seq: next()?, consumer_seq: next()?, time: next()?, pending: next()? })
    }
}

/// Decimal digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let expected = Delivery { stream_seq: 7, consumer_seq: 3, time: 1_700_000_000_000_000_001, pending: 5 };
        assert_eq!(Delivery::parse("$JS.ACK.EV.c1.1.7.3.1700000000000000001.5"), Some(expected));
        assert_eq!(Delivery::parse("$JS.ACK._.acc.EV.c1.1.7.3.1700000000000000001.5"), Some(expected));
        assert_eq!(Delivery::parse("$JS.ACK.hub.acc.EV.c1.1.7.3.1700000000000000001.5.tok"), Some(expected));
        let too_large = "$JS.ACK.EV.c.1.18446744073709551616.3.1.5";
        for other in [
            too_large,
            "",
            "_INBOX.x",
            "$JS.ACK.EV.c.1.7.3",
            "$JS.ACK.EV.c.1.x.3.1.5",
            "$JS.ACK.EV.c.1..3.1.5",
            "$JS.FC.EV.c.1",
        ] {
            assert_eq!(Delivery::parse(other), None, "{other}");
        }
    }
}
