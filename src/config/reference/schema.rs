//! `config schema`: JSON Schema of the TOML file, for editors and for checks before a deployment. What needs more than one key
//! or a look at the machine is left to `sidestream check`.

use serde_json::{Map, Value, json};

use super::{Entry, entries, is_optional};
use crate::config::file::{Key, ROOT, Shape};
use crate::config::load::DEFAULT_TOML;
use crate::config::reference::notes::Notes;

/// As `config::units` reads them: units go down.
const DURATION: &str = "^(0|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$";
/// The same of sizes.
const SIZE: &str = "^[0-9]+ *(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?$";

/// The schema, as draft 2020-12.
pub fn schema() -> Value {
    let notes = Notes::read(DEFAULT_TOML);
    let mut schema = Map::from_iter([
        ("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema")),
        ("title".to_owned(), json!("sidestream configuration")),
    ]);
    schema.extend(table(&notes, ROOT, "", false));
    Value::Object(schema)
}

fn table(notes: &Notes, keys: &'static [Key], path: &str, optional: bool) -> Map<String, Value> {
    let entries = entries(notes, keys, path, optional);
    let required: Vec<&str> = entries.iter().filter(|entry| entry.key.required).map(|entry| entry.key.name).collect();
    let properties: Map<String, Value> =
        entries.iter().map(|entry| (entry.key.name.to_owned(), Value::Object(property(notes, entry)))).collect();
    let mut schema = Map::from_iter([
        ("type".to_owned(), json!("object")),
        ("additionalProperties".to_owned(), json!(false)),
        ("properties".to_owned(), Value::Object(properties)),
    ]);
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema
}

fn property(notes: &Notes, entry: &Entry) -> Map<String, Value> {
    let mut property = Map::new();
    if !entry.note.text.is_empty() {
        property.insert("description".to_owned(), json!(entry.note.text));
    }
    let shape = match entry.key.shape {
        Shape::Flag => json!({"type": "boolean"}),
        Shape::Integer => json!({"type": "integer", "minimum": 0}),
        Shape::Text => json!({"type": "string"}),
        Shape::Duration => json!({"type": "string", "minLength": 1, "pattern": DURATION}),
        Shape::Choice(words) => json!({"type": "string", "enum": words}),
        Shape::Size => json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SIZE}]}),
        Shape::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Shape::Integers => json!({"type": "array", "items": {"type": "integer", "minimum": 0}}),
        Shape::Map => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Shape::Table(keys) => {
            Value::Object(table(notes, keys, &entry.path, is_optional(notes, entry.key, &entry.path)))
        }
        Shape::Tables(keys) => json!({"type": "array", "items": table(notes, keys, &entry.path, true)}),
    };
    if let Value::Object(shape) = shape {
        property.extend(shape);
    }
    if let Some(default) = entry.default.as_deref().and_then(to_json) {
        property.insert("default".to_owned(), default);
    }
    property
}

/// The value of a TOML text; `None` where it is none, which the tests of the table rule out.
fn to_json(text: &str) -> Option<Value> {
    let document: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    serde_json::to_value(document.get("value")?).ok()
}
