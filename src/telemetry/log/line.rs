//! How an event becomes a line: JSON for programs, text for people, from the same cleaned values.
//!
//! Values may hold what peers, publishers and servers sent. Each is made printable and cut off, so that an event is one
//! line whatever is in it; and none shows a secret of the configuration, whoever quoted it.

use std::fmt::{self, Debug, Write as _};
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::Redaction;
use crate::text::bounded;

/// Longest value shown, in bytes before escaping.
const VALUE_BYTES_MAX: usize = 1024;

/// What is not shown; may change while lines are made.
pub(super) type Shared = Arc<RwLock<Redaction>>;

/// Makes lines.
#[derive(Debug)]
pub(super) struct Lines {
    json: bool,
    redaction: Shared,
}

impl Lines {
    pub(super) fn new(json: bool, redaction: Shared) -> Self {
        Self { json, redaction }
    }

    /// Shows a value. Secrets are looked for also where it is cut off.
    fn show(&self, value: &dyn fmt::Display) -> String {
        let redaction = self.redaction.read().unwrap_or_else(PoisonError::into_inner);
        let mut shown = redaction.hide(bounded(value, VALUE_BYTES_MAX + redaction.bytes_max()));
        drop(redaction);
        if shown.len() > VALUE_BYTES_MAX {
            shown.truncate(shown.floor_char_boundary(VALUE_BYTES_MAX));
            shown.push('…');
        }
        shown
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields { lines: self, values: Vec::new() };
        event.record(&mut fields);
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let line = match self.json {
            true => json(time, *level, target, fields.values),
            false => text(&time, *level, target, &fields.values, writer.has_ansi_escapes()),
        };
        writeln!(writer, "{line}")
    }
}

fn json(time: String, level: Level, target: &str, fields: Values) -> String {
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), time.into());
    line.insert("level".to_owned(), level.as_str().into());
    line.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    line.insert("target".to_owned(), target.into());
    Value::Object(line).to_string()
}

fn text(time: &str, level: Level, target: &str, fields: &Values, coloured: bool) -> String {
    let (on, off) = if coloured { (colour(level), "\u{1b}[0m") } else { ("", "") };
    let mut line = format!("{time} {on}{level:>5}{off} {target}:");
    // The message first, whatever the order in which it was recorded.
    let (message, others): (Vec<_>, Vec<_>) = fields.iter().partition(|(name, _)| *name == MESSAGE);
    for (_, value) in message {
        line.push(' ');
        line.push_str(value.as_str().unwrap_or_default());
    }
    for (name, value) in others {
        // A value in quotes cannot be taken for a field.
        let _ = write!(line, " {name}={value}");
    }
    line
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        _ => "\u{1b}[34m",
    }
}

/// The field that `tracing` puts the text of an event in.
const MESSAGE: &str = "message";

type Values = Vec<(&'static str, Value)>;

/// Takes the fields of an event, cleaned.
struct Fields<'l> {
    lines: &'l Lines,
    values: Values,
}

impl Fields<'_> {
    fn show(&mut self, field: &Field, value: &dyn fmt::Display) {
        self.values.push((field.name(), self.lines.show(value).into()));
    }
}

impl Visit for Fields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.values.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.values.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.values.push((field.name(), value.into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.show(field, &value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.show(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.show(field, &format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::config::Secret;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Memory {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is written while something happens.
    fn written(json: bool, secrets: &[&str], happens: impl FnOnce()) -> String {
        let secrets = secrets.iter().map(|secret| Secret::new(secret.as_bytes()));
        written_with(json, Arc::new(RwLock::new(Redaction::of(secrets))), happens)
    }

    fn written_with(json: bool, redaction: Shared, happens: impl FnOnce()) -> String {
        let memory = Memory::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(memory.clone())
            .event_format(Lines::new(json, redaction))
            .finish();
        tracing::subscriber::with_default(subscriber, happens);
        let bytes = memory.0.lock().expect("one thread").clone();
        String::from_utf8(bytes).expect("text")
    }

    const HOSTILE: &str = "a\nb\r\u{1b}[2J\u{202e}\u{9b}\" level=\"ERROR\" {\"x\":1}";

    fn hostile() {
        let error = io::Error::other(HOSTILE);
        tracing::warn!(subject = HOSTILE, %error, debug = ?HOSTILE, count = 3, right = true, "told by {HOSTILE}");
    }

    #[test]
    fn an_event_is_one_line_of_json_whatever_is_in_it() {
        let line = written(true, &[], hostile);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(line.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line:?}");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["level"], "WARN");
        assert_eq!(event["count"], 3);
        assert_eq!(event["right"], true);
        assert_eq!(event["target"], module_path!());
        let shown = "a\\nb\\r\\u{1b}[2J\\u{202e}\\u{9b}\" level=\"ERROR\" {\"x\":1}";
        assert_eq!(event["subject"], shown);
        assert_eq!(event["error"], shown);
        assert_eq!(event["message"], format!("told by {shown}"));
        for value in event.as_object().expect("an object").values().filter_map(Value::as_str) {
            assert!(value.chars().all(|c| !c.is_control()), "{value:?}");
        }
    }

    #[test]
    fn an_event_is_one_line_of_text_whose_values_are_quoted() {
        let line = written(false, &[], hostile);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(line.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line:?}");
        assert!(line.contains(" subject=\"a\\\\nb") && line.contains(r#"\" level=\"ERROR\""#), "{line:?}");
        assert!(line.contains(" WARN ") && line.contains(" count=3 right=true"), "{line:?}");
    }

    #[test]
    fn no_value_is_longer_than_its_bound() {
        let long = "x".repeat(10_000);
        let line = written(true, &[], || tracing::warn!(a = long, b = %long, c = ?long.as_bytes(), "{long}"));
        assert!(line.len() < 5 * VALUE_BYTES_MAX, "{} bytes", line.len());
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["a"], format!("{}…", "x".repeat(VALUE_BYTES_MAX)));
    }

    #[test]
    fn a_secret_is_not_shown_whoever_quotes_it() {
        let padded = format!("{}correct horse", "x".repeat(VALUE_BYTES_MAX - 5));
        let line = written(true, &["correct horse", "short", "\"quoted\""], || {
            tracing::error!(error = "user correct horse unknown", padded, debug = ?"is \"quoted\"", "short: correct horse");
        });
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["error"], "user [redacted] unknown");
        assert_eq!(event["message"], "short: [redacted]");
        assert_eq!(event["debug"], "\"is [redacted]\"");
        assert!(!line.contains("corre"), "{line}");
    }

    #[test]
    fn secrets_may_change_while_lines_are_made() {
        let shared = Shared::default();
        let later = shared.clone();
        let lines = written_with(true, shared, || {
            tracing::warn!("before: correct horse");
            let secret = Secret::new(b"correct horse");
            *later.write().expect("one thread") = Redaction::of(std::iter::once(secret));
            tracing::warn!("after: correct horse");
        });
        assert!(lines.contains("before: correct horse") && lines.contains("after: [redacted]"), "{lines}");
    }
}
