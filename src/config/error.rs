//! Faults of a configuration and the report that shows all of them: key, place, what was read, what is allowed.
//!
//! Nothing is checked here, and no exit code is chosen: a [`Report`] only says what kind of fault it holds.

use std::fmt;

use super::show::Effective;
pub use super::source::Place;
use super::source::{At, Texts};
use super::units::shorten_to;

/// Most characters of a key that a report shows; ours are far shorter.
const KEY_SHOWN_MAX: usize = 80;

/// Something wrong, or doubtful, about a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, such as `server.listen`; empty when a whole file is meant.
    pub key: String,
    /// What is wrong, with what was read.
    pub message: String,
    /// What is allowed, or what to do.
    pub notes: Vec<String>,
    /// Where it was written.
    pub place: Option<Place>,
    /// What kind of fault.
    pub kind: FaultKind,
}

/// What kind of fault; decides the exit code when it is the only kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The configuration is wrong.
    Invalid,
    /// A file it names does not exist.
    Missing,
    /// A file it names cannot be read by us.
    Denied,
}

impl Fault {
    /// A fault without a place.
    pub(super) fn new(kind: FaultKind, key: &str, message: impl Into<String>) -> Self {
        Self { key: key.to_owned(), message: message.into(), notes: Vec::new(), place: None, kind }
    }

    /// The same fault with its place.
    pub(super) fn at(mut self, texts: &Texts, at: &At) -> Self {
        self.place = Some(texts.place(at));
        self
    }

    /// The same fault with one more line of advice.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The same fault without the line it stands in.
    pub(super) fn hidden(mut self) -> Self {
        if let Some(place) = &mut self.place {
            place.hide();
        }
        self
    }

    /// Shows it with a label, `error` or `warning`.
    pub fn labelled<'f>(&'f self, label: &'f str) -> impl fmt::Display + 'f {
        Labelled { fault: self, label }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.labelled("error").fmt(f)
    }
}

struct Labelled<'f> {
    fault: &'f Fault,
    label: &'f str,
}

impl fmt::Display for Labelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { key, message, notes, place, .. } = self.fault;
        let colon = if key.is_empty() { "" } else { ": " };
        let key = shorten_to(&visible(key), KEY_SHOWN_MAX);
        writeln!(f, "{}: {key}{colon}{}", self.label, visible(message))?;
        if let Some(place) = place {
            write!(f, "{place}")?;
        }
        for note in notes {
            writeln!(f, "  = {}", visible(note))?;
        }
        Ok(())
    }
}

/// Keys and values are quoted in messages; their control characters must not reach a terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Why a configuration was refused: every fault, not the first.
#[derive(Debug, Clone, Default, thiserror::Error)]
pub struct Report {
    /// At least one.
    pub faults: Vec<Fault>,
    /// What is doubtful but allowed.
    pub warnings: Vec<Fault>,
    /// The values as they were layered, as far as they could be read; for `config show`.
    pub effective: Vec<Effective>,
}

impl Report {
    /// The kind that all faults share, [`FaultKind::Invalid`] when they differ.
    pub fn kind(&self) -> FaultKind {
        let mut kinds = self.faults.iter().map(|fault| fault.kind);
        let first = kinds.next().unwrap_or(FaultKind::Invalid);
        if kinds.all(|kind| kind == first) { first } else { FaultKind::Invalid }
    }

    /// Puts faults in the order in which one would go through the files to mend them.
    pub(super) fn sort(&mut self) {
        self.faults.sort_by_key(|fault| fault.place.as_ref().map(|p| (p.name.clone(), p.line, p.column)));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "{}", warning.labelled("warning"))?;
        }
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        match self.faults.len() {
            1 => f.write_str("the configuration was refused: 1 fault"),
            faults => write!(f, "the configuration was refused: {faults} faults"),
        }
    }
}
