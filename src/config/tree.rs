//! TOML as a tree in which every key and value knows where it was written. What the keys mean is left to [`super::file`].

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::At;

/// A table's keys.
pub(super) type Table = BTreeMap<String, Node>;

/// A value and where its key and itself stand.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) key_at: At,
    pub(super) at: At,
    pub(super) value: Value,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    /// Saturated: no bound of ours comes near.
    Integer(i128),
    Flag(bool),
    Array(Vec<Node>),
    Table(Table),
    /// A float or a date; no key of ours takes one.
    Other(&'static str),
    /// Present, but already reported as wrong; keeps "is missing" from being reported too.
    Wrong,
}

impl Value {
    /// What a report calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Flag(_) => "a boolean",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
            Self::Wrong => "a value",
        }
    }
}

/// Moves a parsed document into a tree. `text` is its number in [`Texts`].
pub(super) fn from_document(text: usize, table: Spanned<DeTable<'_>>) -> Table {
    convert_table(&|span| At::new(text, span), table.into_inner())
}

/// Moves one parsed value into a tree; `offset` is where the value starts in its text.
pub(super) fn from_value(text: usize, key_at: At, offset: usize, value: Spanned<DeValue<'_>>) -> Node {
    convert(&|span| At::new(text, span.start + offset..span.end + offset), key_at, value)
}

type Locate<'l> = &'l dyn Fn(std::ops::Range<usize>) -> At;

fn convert_table(locate: Locate<'_>, table: DeTable<'_>) -> Table {
    let entries = table.into_iter().map(|(key, value)| {
        let key_at = locate(key.span());
        (key.into_inner().into_owned(), convert(locate, key_at, value))
    });
    entries.collect()
}

fn convert(locate: Locate<'_>, key_at: At, value: Spanned<DeValue<'_>>) -> Node {
    let at = locate(value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(digits) => {
            let saturated = if digits.as_str().starts_with('-') { i128::MIN } else { i128::MAX };
            Value::Integer(i128::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(saturated))
        }
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            Value::Array(items.into_iter().map(|item| convert(locate, key_at.clone(), item)).collect())
        }
        DeValue::Table(table) => Value::Table(convert_table(locate, table)),
    };
    Node { key_at, at, value }
}

/// Lays a later layer over an earlier one: tables merge key by key, everything else is replaced whole.
pub(super) fn merge(into: &mut Table, later: Table) {
    for (key, mut node) in later {
        if let Some(earlier) = into.get_mut(&key)
            && let (Value::Table(earlier), Value::Table(later)) = (&mut earlier.value, &mut node.value)
        {
            merge(earlier, std::mem::take(later));
            continue;
        }
        into.insert(key, node);
    }
}

/// A value as TOML text on one line, for `config show`.
pub(super) fn to_toml(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => toml::Value::from(text.as_str()).to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(to_toml).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) if table.is_empty() => "{}".to_owned(),
        Value::Table(table) => {
            let entries: Vec<String> = table.iter().map(|(k, v)| format!("{k} = {}", to_toml(v))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Other(_) | Value::Wrong => "(refused)".to_owned(),
    }
}
