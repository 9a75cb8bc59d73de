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
        let line_start = text.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text.text[start..].find('\n').map_or(text.text.len(), |newline| start + newline);
        let line = text.text[line_start..line_end].trim_end_matches('\r');
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
    if line.split_once("://").is_some_and(|(_, rest)| rest.contains('@')) {
        return true;
    }
    let Some((key, value)) = line.split_once('=') else { return false };
    let key = key.to_ascii_lowercase();
    let sensitive =
        ["password", "passwd", "token", "secret", "nkey", "seed", "private"].iter().any(|w| key.contains(w))
            && !key.contains("header");
    let value = value.trim_start_matches(['[', ' ', '\t', '"', '\'']);
    let harmless = value.is_empty()
        || value.starts_with(['/', ']', '#', '{'])
        || value.starts_with("credential:")
        || value.starts_with("true")
        || value.starts_with("false");
    sensitive && !harmless
}
