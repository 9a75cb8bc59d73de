//! `config show`: every effective value and the layer it came from. Contents of secret files are not even read here.

use std::fmt;

use super::file::{Key, ROOT, Shape, join};
use super::source::Texts;
use super::tree::{Node, Table, Value, to_toml};

/// Keys that name a secret's file. A value that is no file name may be the secret itself, written in the wrong place.
const SECRET_FILES: [&str; 6] = ["token_file", "credentials", "nkey", "password_file", "secret_files", "key"];

/// One effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Such as `server.listen` or `route[0].path`.
    pub key: String,
    /// TOML text, redacted.
    pub value: String,
    /// `file:line`, `env NAME`, `--set` or `default`.
    pub origin: String,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  # {}", self.key, self.value, self.origin)
    }
}

/// Every value of a merged tree, in the order of the documentation.
pub(super) fn effective(texts: &Texts, table: &Table) -> Vec<Effective> {
    let mut lines = Vec::new();
    walk(texts, table, ROOT, "", &mut lines);
    lines
}

fn walk(texts: &Texts, table: &Table, keys: &'static [Key], path: &str, lines: &mut Vec<Effective>) {
    for key in keys {
        let Some(node) = table.get(key.name) else { continue };
        let full = join(path, key.name);
        match (key.shape, &node.value) {
            (Shape::Table(keys), Value::Table(table)) => walk(texts, table, keys, &full, lines),
            (Shape::Tables(keys), Value::Array(items)) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Table(table) = &item.value {
                        walk(texts, table, keys, &format!("{full}[{index}]"), lines);
                    }
                }
            }
            _ => {
                let value = shown(key.name, node);
                lines.push(Effective { key: full, value, origin: texts.origin(&node.at) });
            }
        }
    }
}

fn shown(name: &str, node: &Node) -> String {
    let secret = SECRET_FILES.contains(&name);
    match &node.value {
        Value::Text(text) if secret && !text.is_empty() && !is_file_reference(text) => "\"[redacted]\"".to_owned(),
        Value::Text(text) if text.contains("://") && text.contains('@') => "\"[redacted]\"".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown(name, item)).collect();
            format!("[{}]", items.join(", "))
        }
        _ => to_toml(node),
    }
}

/// Whether a text names a file the way secrets are named.
pub(super) fn is_file_reference(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("credential:")
}
