//! Layers that are not files: environment variables and `--set`, each one assignment.

use toml::de::DeValue;

use super::error::{Fault, FaultKind};
use super::source::{At, Layer, Texts};
use super::tree::{self, Node, Table, Value};

const PREFIX: &str = "SIDESTREAM_";
/// No key of ours is deeper than four levels.
const DEPTH_MAX: usize = 8;

/// `SIDESTREAM_SECTION__KEY=value` as a layer. `None` for a variable that is not ours: service managers and container
/// platforms set `SIDESTREAM_PORT` and the like on their own.
pub(super) fn from_env(texts: &mut Texts, name: &str, value: &str, faults: &mut Vec<Fault>) -> Option<Table> {
    let key = name.strip_prefix(PREFIX).filter(|key| key.contains("__"))?;
    let path: Vec<String> = key.split("__").map(str::to_lowercase).collect();
    let text = format!("{name}={value}");
    let number = texts.add(Layer::Env, &format!("env {name}"), &text);
    assignment(texts, number, &path, name.len(), value, faults)
}

/// `section.key=value` as a layer.
pub(super) fn from_set(texts: &mut Texts, argument: &str, faults: &mut Vec<Fault>) -> Option<Table> {
    let number = texts.add(Layer::Set, "--set", argument);
    let Some((key, value)) = argument.split_once('=') else {
        let fault = Fault::new(FaultKind::Invalid, "", "`--set` wants KEY=VALUE, such as `--set server.h2c=true`");
        faults.push(fault.at(texts, &At::new(number, 0..argument.len())).hidden());
        return None;
    };
    let path: Vec<String> = key.trim().split('.').map(|part| part.trim().to_owned()).collect();
    assignment(texts, number, &path, key.len(), value, faults)
}

/// Nests one value under its path. The text of the layer is the key, one `=`, and the value.
fn assignment(
    texts: &Texts,
    number: usize,
    path: &[String],
    key_bytes: usize,
    value: &str,
    faults: &mut Vec<Fault>,
) -> Option<Table> {
    let key_at = At::new(number, 0..key_bytes);
    if path.len() > DEPTH_MAX || path.iter().any(String::is_empty) {
        let fault = Fault::new(FaultKind::Invalid, "", "this is not the name of a key");
        faults.push(fault.at(texts, &key_at).note("a key is SECTION__KEY in the environment, section.key elsewhere"));
        return None;
    }
    let start = key_bytes + 1;
    let whole = At::new(number, start..start + value.len());
    let mut node = match DeValue::parse(value) {
        Ok(parsed) => tree::from_value(number, key_at.clone(), start, parsed),
        // `127.0.0.1:8080` is not TOML; people do not quote twice on a command line.
        Err(_) => Node { key_at: key_at.clone(), at: whole.clone(), value: Value::Text(value.to_owned()) },
    };
    let (first, rest) = path.split_first()?;
    for name in rest.iter().rev() {
        let table = Table::from([(name.clone(), node)]);
        node = Node { key_at: key_at.clone(), at: whole.clone(), value: Value::Table(table) };
    }
    Some(Table::from([(first.clone(), node)]))
}
