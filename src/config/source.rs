//! Where a value was written: the texts that were read, and places in them.
//!
//! A file, one environment variable and one `--set` argument are all texts, so every fault can point into one. What is
//! shown of a line is decided here too: nothing that may be a secret, nothing that a terminal would obey.

use std::fmt;
use std::ops::Range;

/// Most characters of a source line that a report shows.
const SHOWN_MAX: usize = 110;

/// The kind of a text. Later layers win, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    Default,
    File,
    Env,
    Set,
}

/// A text that configuration was read from.
#[derive(Debug)]
struct Text {
    layer: Layer,
    name: String,
    text: String,
}

/// All texts of one load.
#[derive(Debug, Default)]
pub(super) struct Texts(Vec<Text>);

/// A range of bytes in one of the [`Texts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    text: usize,
    span: Range<usize>,
}

impl At {
    pub(super) fn new(text: usize, span: Range<usize>) -> Self {
        Self { text, span }
    }
}

impl Texts {
    pub(super) fn add(&mut self, layer: Layer, name: &str, text: &str) -> usize {
        self.0.push(Text { layer, name: name.to_owned(), text: text.to_owned() });
        self.0.len() - 1
    }

    pub(super) fn layer(&self, at: &At) -> Layer {
        self.0.get(at.text).map_or(Layer::Default, |text| text.layer)
    }

    /// What stands at a place; empty when the place is not on character boundaries.
    pub(super) fn slice(&self, at: &At) -> &str {
        self.0.get(at.text).and_then(|text| text.text.get(at.span.clone())).unwrap_or_default()
    }

    /// Whether what stands around a place, which could not be parsed, may be a secret.
    pub(super) fn may_be_a_secret(&self, at: &At) -> bool {
        self.0.get(at.text).is_some_and(|text| may_be_a_secret(line_around(&text.text, at.span.start).1))
    }

    /// The origin of a value, for `config show`.
    pub(super) fn origin(&self, at: &At) -> String {
        let Some(text) = self.0.get(at.text) else { return "default".to_owned() };
        match text.layer {
            Layer::Default => "default".to_owned(),
            Layer::File => format!("{}:{}", text.name, self.place(at).line),
            Layer::Env | Layer::Set => text.name.clone(),
        }
    }

    /// Resolves a place to line and column, with the line as it may be shown.
    pub(super) fn place(&self, at: &At) -> Place {
        let Some(text) = self.0.get(at.text) else { return Place::default() };
        let start = floor_boundary(&text.text, at.span.start);
        let (line_start, line) = line_around(&text.text, start);
        let end = floor_boundary(&text.text, at.span.end.clamp(start, (line_start + line.len()).max(start)));
        let column = text.text[line_start..start].chars().count();
        let width = text.text[start..end].chars().count().max(1);
        let mut place = Place {
            name: text.name.clone(),
            line: text.text[..line_start].matches('\n').count() + 1,
            column: column + 1,
            shown: String::new(),
            before: 0,
            width,
        };
        if !may_hold_a_secret(line) {
            place.show(line, column);
        }
        place
    }
}

/// A place as people read it, free of the text it came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, `env NAME` or `--set`.
    pub name: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The part of the line that is shown; empty when it may hold a secret.
    shown: String,
    /// Characters of `shown` before the caret.
    before: usize,
    /// Carets.
    width: usize,
}

impl Place {
    /// Forgets the line, keeping where it is.
    pub(super) fn hide(&mut self) {
        self.shown.clear();
    }

    /// Cuts a window out of a long line, so that one fault never fills a screen.
    fn show(&mut self, line: &str, column: usize) {
        let first = column.saturating_sub(SHOWN_MAX / 2);
        self.shown = line.chars().skip(first).take(SHOWN_MAX).map(printable).collect();
        self.before = column - first;
        self.width = self.width.min(SHOWN_MAX - self.before.min(SHOWN_MAX - 1));
    }
}

impl fmt::Display for Place {
    /// `--> name:line:column`, the line and the caret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{gutter}--> {}:{}:{}", self.name, self.line, self.column)?;
        if self.shown.is_empty() {
            return writeln!(f, "{gutter} | (the line is not shown: it may hold a secret)");
        }
        // Tabs before the caret stay tabs, so that it stands under its value whatever the width of a tab.
        let indent: String = self.shown.chars().take(self.before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{gutter} |\n{number} | {}", self.shown.trim_end())?;
        writeln!(f, "{gutter} | {indent}{}", "^".repeat(self.width))
    }
}

/// A control character could move the cursor of the terminal that shows the report.
fn printable(c: char) -> char {
    if c.is_control() && c != '\t' { '\u{fffd}' } else { c }
}

/// The line that a byte stands in, and where it starts.
fn line_around(text: &str, at: usize) -> (usize, &str) {
    let (before, after) = text.split_at(floor_boundary(text, at));
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let end = after.find('\n').map_or(text.len(), |newline| before.len() + newline);
    (start, text[start..end].trim_end_matches('\r'))
}

fn floor_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// Whether a line could be a secret written where a file name belongs (`password = "hunter2"`), or a URL with a password
/// in it. Requirement R71: such text never reaches a log, not even in a report about it.
fn may_hold_a_secret(line: &str) -> bool {
    let url = line.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    url || sensitive_values(line).any(|value| !names_files(value))
}

/// The same of a line that could not be parsed: it may be of another file than was meant, or an item of a list whose key
/// stands elsewhere.
fn may_be_a_secret(line: &str) -> bool {
    let is_bare = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_-. \t".contains(c));
    let line = line.trim();
    let header = line.starts_with('[') && is_bare(line.trim_matches(['[', ']']));
    let assignment = line.split_once('=').is_some_and(|(key, value)| {
        !key.is_empty() && is_bare(key) && !value.trim().is_empty() && !value.starts_with('=')
    });
    let innocent = line.is_empty() || line.starts_with('#') || header || assignment;
    !innocent || sensitive_values(line).next().is_some()
}

/// What follows each key of a line that should name the file of a secret.
fn sensitive_values(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices('=').filter_map(|(at, _)| {
        let (before, value) = (line.get(..at)?, line.get(at + 1..)?);
        is_sensitive(before.rsplit(['{', ',']).next()?).then_some(value)
    })
}

fn is_sensitive(key: &str) -> bool {
    let key = key.trim().to_ascii_lowercase();
    let words = ["password", "passwd", "token", "secret", "nkey", "seed", "private", "credential"];
    let last = key.rsplit(['.', '_']).next().map(|last| last.trim_matches(['"', '\'', ' ']));
    (words.iter().any(|word| key.contains(word)) || last == Some("key")) && !key.contains("header")
}

/// Whether every string in a value is a file name, and outside of strings stands nothing but punctuation and a comment.
fn names_files(value: &str) -> bool {
    let is_file = |text: &str| text.is_empty() || text.starts_with('/') || text.starts_with("credential:");
    let mut in_string = false;
    for piece in value.split(['"', '\'']) {
        let (code, comment) = if in_string { (piece, false) } else { before_comment(piece) };
        if !is_file(code) {
            return false;
        }
        if comment {
            break;
        }
        in_string = !in_string;
    }
    true
}

/// What is left of text outside of strings without punctuation and a comment, and whether there was one.
fn before_comment(text: &str) -> (&str, bool) {
    let code = text.split('#').next().unwrap_or_default();
    (code.trim_matches([' ', '\t', '[', ']', '{', '}', ',']), code.len() < text.len())
}
