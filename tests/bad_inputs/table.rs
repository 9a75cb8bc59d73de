//! The tables: text files of one row a line, columns between bars, read and checked here. What a row means is left to those
//! who run it.
//!
//! Empty lines and lines that begin with `#` are for people. What a column cannot show it holds escaped: `\n` `\r` `\t` `\0`
//! `\\`, any byte as `\xff`, a blank at an end as `\x20`, a bar as `\x7c`, and one text many times as `\{text*300}`.

use std::collections::HashMap;

/// A table. The first column of a row says why it stands there, in words that no other row uses; then come columns of input,
/// and at the end what the program must answer.
pub struct Table {
    /// As it is called in reports.
    pub name: &'static str,
    /// Its rows, in order.
    pub rows: Vec<Row>,
}

/// One line.
#[derive(Clone)]
pub struct Row {
    /// From 1.
    pub line: usize,
    columns: Vec<&'static str>,
    inputs: usize,
}

impl Table {
    /// Reads a table with so many columns of input and of answers. Fails the test over a line that has not.
    pub fn read(name: &'static str, text: &'static str, inputs: usize, answers: usize) -> Self {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let rows = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(line, text)| {
            let columns: Vec<_> = text.split('|').map(str::trim).collect();
            assert_eq!(columns.len(), 1 + inputs + answers, "{name}:{line}: this many columns are wanted: {text}");
            Row { line, columns, inputs }
        });
        Self { name, rows: rows.collect() }
    }

    /// What stands twice: the name of a row, or its input.
    pub fn repeated(&self) -> Vec<String> {
        let mut first: HashMap<String, usize> = HashMap::new();
        let mut repeated = Vec::new();
        for row in &self.rows {
            for key in [row.name().to_owned(), row.columns[1..=row.inputs].join(" | ")] {
                if let Some(line) = first.insert(key, row.line) {
                    repeated.push(format!("{}:{} repeats line {line}: {}", self.name, row.line, row.name()));
                }
            }
        }
        repeated
    }
}

impl Row {
    /// Why it stands there.
    pub fn name(&self) -> &'static str {
        self.columns[0]
    }

    /// A column of input as it is written, from 0.
    pub fn input(&self, column: usize) -> &'static str {
        self.columns[1 + column]
    }

    /// A column of answers as it is written, from 0.
    pub fn answer(&self, column: usize) -> &'static str {
        self.columns[1 + self.inputs + column]
    }
}

/// What an escaped text stands for.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let kind = after.chars().next().unwrap_or_else(|| panic!("a lone backslash ends {text:?}"));
        rest = &after[kind.len_utf8()..];
        match kind {
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits = rest.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(digits.unwrap_or_else(|| panic!("`\\x` wants two digits in {text:?}")));
                rest = &rest[2..];
            }
            '{' => {
                let (repeated, after) =
                    rest.split_once('}').unwrap_or_else(|| panic!("`\\{{` is not closed in {text:?}"));
                let (what, times) = repeated.rsplit_once('*').unwrap_or_else(|| panic!("how often, in {text:?}?"));
                let times = times.parse().unwrap_or_else(|e| panic!("{times:?} in {text:?}: {e}"));
                bytes.extend(unescape(what).repeat(times));
                rest = after;
            }
            _ => panic!("`\\{kind}` means nothing, in {text:?}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[test]
fn escapes_stand_for_bytes() {
    assert_eq!(unescape(r"a\n\r\t\0\\\xff\x20b"), b"a\n\r\t\0\\\xff b");
    assert_eq!(unescape(r"<\{a\xe9*3}>"), b"<a\xe9a\xe9a\xe9>");
    assert_eq!(unescape("caf\u{e9}"), "caf\u{e9}".as_bytes());
}
