//! Checks the merged tree and turns it into the [`Config`]; this file has what all sections share.
//!
//! A value that was reported stands as something harmless in the result, so that checking goes on and finds the rest. The
//! result is thrown away unless there was no fault.

mod identity;
mod limits;
mod nats;
mod presence;
mod route;
mod secret;
mod server;
mod stream;
mod trust;

use std::ops::RangeInclusive;
use std::time::Duration;

pub(super) use self::limits::is_filter as is_log_filter;
use super::Config;
use super::error::{Fault, FaultKind};
use super::file::join;
use super::source::{At, Layer, Texts};
use super::tree::{Node, Table, Value};
use super::units::{parse_duration, parse_size};

/// Longest duration of any key: far beyond use, and safe to add to any clock.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Largest size of what is held in memory.
const MEMORY_MAX: u64 = 1 << 40;

/// Checks everything. The configuration counts only when there are no faults.
pub(super) fn check(texts: &Texts, table: &Table, env: &[(String, String)]) -> (Config, Vec<Fault>, Vec<Fault>) {
    let mut cx = Checker { texts, env, faults: Vec::new(), warnings: Vec::new() };
    let root = Section::root(table);
    cx.version(&root);
    let identity = identity::check(&mut cx, &root.section("identity"));
    let trust = trust::check(&mut cx, &root, &identity);
    let routes = route::check(&mut cx, &root, &identity, trust.is_some());
    let history = root.section("history");
    let config = Config {
        server: server::check(&mut cx, &root.section("server"), trust.as_ref()),
        admin: server::check_admin(&mut cx, &root.section("admin")),
        nats: nats::check(&mut cx, &root.section("nats")),
        trust,
        identity,
        streams: stream::check(&mut cx, &root, &routes.streams),
        routes,
        limits: limits::check(&mut cx, &root.section("limits")),
        heartbeat: limits::check_heartbeat(&mut cx, &root.section("heartbeat")),
        history_bytes: cx.memory_size(&history, "bytes"),
        presence: presence::check(&mut cx, &root.section("presence")),
        log: limits::check_log(&mut cx, &root.section("log")),
    };
    limits::check_budget(&mut cx, &root, &config);
    (config, cx.faults, cx.warnings)
}

/// Collects faults while sections are checked.
struct Checker<'c> {
    texts: &'c Texts,
    env: &'c [(String, String)],
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

/// A value with its key and place.
#[derive(Debug, Clone)]
struct Read<'t, T> {
    value: T,
    key: String,
    at: &'t At,
}

/// A table with its path.
#[derive(Debug, Clone)]
struct Section<'t> {
    path: String,
    at: Option<&'t At>,
    table: &'t Table,
    /// Something else stands in its place, which was reported: its keys are not missing.
    refused: bool,
}

static EMPTY: Table = Table::new();

impl<'t> Section<'t> {
    fn root(table: &'t Table) -> Self {
        Self { path: String::new(), at: None, table, refused: false }
    }

    /// A table below this one, empty when absent.
    fn section(&self, name: &str) -> Section<'t> {
        let path = join(&self.path, name);
        let refused = self.is_refused(name);
        self.optional(name).unwrap_or(Section { path, at: None, table: &EMPTY, refused })
    }

    fn optional(&self, name: &str) -> Option<Section<'t>> {
        let node = self.table.get(name)?;
        let path = join(&self.path, name);
        Some(Section { path, at: Some(&node.at), table: table_of(node)?, refused: false })
    }

    /// The tables of `[[name]]`, in file order.
    fn sections(&self, name: &str) -> Vec<Section<'t>> {
        let Some(Value::Array(items)) = self.table.get(name).map(|node| &node.value) else { return Vec::new() };
        let path = join(&self.path, name);
        let tables = items.iter().filter_map(|item| table_of(item).map(|table| (&item.at, table)));
        tables.map(|(at, table)| Section { path: path.clone(), at: Some(at), table, refused: false }).collect()
    }

    /// Whether the key was written, rightly or wrongly.
    fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    fn text(&self, name: &str) -> Option<Read<'t, &'t str>> {
        let node = self.table.get(name)?;
        text_of(node).map(|value| Read { value, key: join(&self.path, name), at: &node.at })
    }

    /// A text that is empty when it is not set.
    fn set_text(&self, name: &str) -> Option<Read<'t, &'t str>> {
        self.text(name).filter(|read| !read.value.is_empty())
    }

    fn texts(&self, name: &str) -> Vec<Read<'t, &'t str>> {
        let Some(Value::Array(items)) = self.table.get(name).map(|node| &node.value) else { return Vec::new() };
        let key = join(&self.path, name);
        let texts = items.iter().filter_map(|item| text_of(item).map(|value| (value, &item.at)));
        texts.map(|(value, at)| Read { value, key: key.clone(), at }).collect()
    }

    fn integers(&self, name: &str) -> Vec<Read<'t, i128>> {
        let Some(Value::Array(items)) = self.table.get(name).map(|node| &node.value) else { return Vec::new() };
        let key = join(&self.path, name);
        let numbers = items.iter().filter_map(|item| match item.value {
            Value::Integer(value) => Some((value, &item.at)),
            _ => None,
        });
        numbers.map(|(value, at)| Read { value, key: key.clone(), at }).collect()
    }

    fn integer(&self, name: &str) -> Option<Read<'t, i128>> {
        let node = self.table.get(name)?;
        match node.value {
            Value::Integer(value) => Some(Read { value, key: join(&self.path, name), at: &node.at }),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.table.get(name).map(|node| &node.value), Some(Value::Flag(true)))
    }

    /// Whether nothing of what was written for the key is left, since all of it was reported.
    fn is_refused(&self, name: &str) -> bool {
        let refused = |node: &Node| matches!(node.value, Value::Wrong);
        self.refused
            || self.table.get(name).is_some_and(|node| match &node.value {
                Value::Array(items) => !items.is_empty() && items.iter().all(refused),
                _ => refused(node),
            })
    }
}

fn table_of(node: &Node) -> Option<&Table> {
    match &node.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

impl Checker<'_> {
    /// Reports a value.
    fn fault<T>(&mut self, read: &Read<'_, T>, message: impl Into<String>) {
        self.fault_noted(read, message, None);
    }

    /// Reports a value, with advice.
    fn fault_noted<T>(&mut self, read: &Read<'_, T>, message: impl Into<String>, note: Option<&str>) {
        let mut fault = Fault::new(FaultKind::Invalid, &read.key, message).at(self.texts, read.at);
        fault.notes.extend(note.map(str::to_owned));
        self.faults.push(fault);
    }

    /// Reports a table or a key that may be absent; but one that was reported is not.
    fn fault_in(&mut self, section: &Section<'_>, name: &str, message: impl Into<String>, note: Option<&str>) {
        if section.is_refused(name) {
            return;
        }
        let fault = self.located(section, name, message, note);
        self.faults.push(fault);
    }

    /// The same as a warning.
    fn warn_in(&mut self, section: &Section<'_>, name: &str, message: impl Into<String>, note: Option<&str>) {
        let warning = self.located(section, name, message, note);
        self.warnings.push(warning);
    }

    fn located(&self, section: &Section<'_>, name: &str, message: impl Into<String>, note: Option<&str>) -> Fault {
        let key = if name.is_empty() { section.path.clone() } else { join(&section.path, name) };
        let mut fault = Fault::new(FaultKind::Invalid, &key, message);
        fault.notes.extend(note.map(str::to_owned));
        match self.place_of(section, name) {
            Some(at) => fault.at(self.texts, at),
            None => fault,
        }
    }

    /// Where the key stands; where it was left out, its table's header.
    fn place_of<'t>(&self, section: &Section<'t>, name: &str) -> Option<&'t At> {
        let written = |at: &&At| self.texts.layer(at) > Layer::Default;
        let key = section.table.get(name).map(|node| &node.at);
        key.filter(written).or(section.at.filter(written)).or(key).or(section.at)
    }

    fn version(&mut self, root: &Section<'_>) {
        if let Some(version) = root.integer("version").filter(|version| version.value != 1) {
            self.fault(&version, format!("version {} is not known; this program reads version 1", version.value));
        }
    }

    /// A duration above zero.
    fn duration(&mut self, section: &Section<'_>, name: &str) -> Duration {
        let duration = self.duration_or_zero(section, name);
        if duration.is_zero()
            && let Some(read) = section.text(name)
            && parse_duration(read.value) == Ok(Duration::ZERO)
        {
            self.fault(&read, "must be longer than zero");
        }
        duration
    }

    fn duration_or_zero(&mut self, section: &Section<'_>, name: &str) -> Duration {
        let Some(read) = section.text(name) else { return Duration::ZERO };
        match parse_duration(read.value) {
            Ok(duration) if duration <= DURATION_MAX => return duration,
            Ok(_) => self.fault(&read, format!("`{}` is longer than 3650 days", read.value)),
            Err(error) => self.fault(&read, error.to_string()),
        }
        Duration::ZERO
    }

    /// A duration within bounds, the lower one when it was reported. `words` are the bounds as they are written.
    fn duration_within(
        &mut self,
        section: &Section<'_>,
        name: &str,
        allowed: RangeInclusive<Duration>,
        words: &str,
    ) -> Duration {
        let Some(read) = section.text(name) else { return *allowed.start() };
        match parse_duration(read.value) {
            Ok(duration) if allowed.contains(&duration) => return duration,
            Ok(_) => self.fault(&read, format!("`{}` was read; allowed are {words}", read.value)),
            Err(error) => self.fault(&read, error.to_string()),
        }
        *allowed.start()
    }

    /// A size in bytes within bounds, zero when it was reported.
    fn size(&mut self, section: &Section<'_>, name: &str, allowed: RangeInclusive<u64>) -> u64 {
        let (read, parsed) = if let Some(text) = section.text(name) {
            let parsed = parse_size(text.value).map_err(|error| error.to_string());
            (Read { value: (), key: text.key, at: text.at }, parsed)
        } else if let Some(integer) = section.integer(name) {
            let parsed = u64::try_from(integer.value).map_err(|_| "a size cannot be negative or this large".to_owned());
            (Read { value: (), key: integer.key, at: integer.at }, parsed)
        } else {
            return 0;
        };
        match parsed {
            Ok(bytes) if allowed.contains(&bytes) => return bytes,
            Ok(0) => self.fault(&read, "must be larger than zero"),
            Ok(bytes) => {
                let (low, high) = (allowed.start(), allowed.end());
                self.fault(&read, format!("{bytes} bytes were read; allowed are {low} to {high} bytes"));
            }
            Err(message) => self.fault(&read, message),
        }
        0
    }

    /// A size above zero of something held in memory.
    fn memory_size(&mut self, section: &Section<'_>, name: &str) -> usize {
        usize::try_from(self.size(section, name, 1..=MEMORY_MAX)).unwrap_or(usize::MAX)
    }

    /// An integer within bounds, the lower bound when it was reported.
    fn count(&mut self, section: &Section<'_>, name: &str, allowed: RangeInclusive<u32>) -> u32 {
        let Some(read) = section.integer(name) else { return *allowed.start() };
        self.in_range(&read, allowed)
    }

    fn in_range(&mut self, read: &Read<'_, i128>, allowed: RangeInclusive<u32>) -> u32 {
        match u32::try_from(read.value) {
            Ok(value) if allowed.contains(&value) => value,
            _ => {
                let (low, high) = (allowed.start(), allowed.end());
                self.fault(read, format!("{} was read; allowed are {low} to {high}", read.value));
                *allowed.start()
            }
        }
    }

    /// One of a few words.
    fn choice<T: Copy>(&mut self, section: &Section<'_>, name: &str, choices: &[(&str, T)], otherwise: T) -> T {
        let Some(read) = section.text(name) else { return otherwise };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == read.value) {
            return *choice;
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.fault(&read, format!("`{}` is not one of {}", super::units::shorten(read.value), words.join(", ")));
        otherwise
    }
}
