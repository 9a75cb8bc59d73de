//! Durations and sizes with a unit: `"1h30m"`, `"256KiB"`. Bounds of a particular key are left to its check.

use std::time::Duration;

/// Why a duration or size was refused. The text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error(
        "`{0}` is not a duration: write a number and a unit (ms, s, m, h, d), such as \"15s\", \"500ms\" or \"1h30m\""
    )]
    Duration(String),
    /// Not a size.
    #[error(
        "`{0}` is not a size: write bytes, or a number and a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), such as \"256KiB\""
    )]
    Size(String),
    /// Does not fit.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// Longest text worth reading; also keeps quoted values short in reports.
const TEXT_BYTES_MAX: usize = 40;

/// Reads `"15s"`, `"500ms"`, `"1h30m"`. A bare `"0"` needs no unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let refused = || UnitError::Duration(shorten(text));
    let too_large = || UnitError::TooLarge(shorten(text));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(refused)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        // Units go down, each once: "30m1h" and "5s5s" are more likely mistakes than meant.
        if unit_ms >= last_unit {
            return Err(refused());
        }
        last_unit = unit_ms;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)).ok_or_else(too_large)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(too_large)?;
        rest = next;
    }
    if last_unit == u64::MAX { Err(refused()) } else { Ok(total) }
}

/// Reads `"256KiB"`, `"64kB"`, `"1024"`: bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let refused = || UnitError::Size(shorten(text));
    let (number, unit) = split_number(text).ok_or_else(refused)?;
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(refused()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(|| UnitError::TooLarge(shorten(text)))
}

/// Leading decimal digits, at least one, and the rest.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A value as it is quoted in a report.
pub(super) fn shorten(text: &str) -> String {
    shorten_to(text, TEXT_BYTES_MAX)
}

/// At most so many characters of a text.
pub(super) fn shorten_to(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units() {
        let cases = [("15s", 15_000), ("500ms", 500), ("15m", 900_000), ("24h", 86_400_000), ("1d", 86_400_000)];
        for (text, ms) in cases.into_iter().chain([("1h30m", 5_400_000), ("1m1s1ms", 61_001), ("0s", 0), ("0", 0)]) {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "15", "s", "15 s", "1.5s", "-1s", "5s5s", "30m1h", "1y", "15S", "1s ", "٣s"] {
            assert!(matches!(parse_duration(bad), Err(UnitError::Duration(_))), "{bad:?}");
        }
        for huge in ["99999999999999999999s", "18446744073709551615d"] {
            assert!(matches!(parse_duration(huge), Err(UnitError::TooLarge(_))), "{huge}");
        }
    }

    #[test]
    fn sizes_are_bytes() {
        let cases = [("256KiB", 262_144), ("1MiB", 1 << 20), ("64kB", 64_000), ("0", 0), ("1024", 1024), ("7 B", 7)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "KiB", "1.5MiB", "-1", "1kib", "1 2", "1KiB1", "1s"] {
            assert!(matches!(parse_size(bad), Err(UnitError::Size(_))), "{bad:?}");
        }
        for huge in ["18446744073709551616", "18446744073709551615KiB"] {
            assert!(matches!(parse_size(huge), Err(UnitError::TooLarge(_))), "{huge}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9]{0,25}[a-zA-Zé]{0,4}[0-9]{0,3}[smhd]{0,2}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
