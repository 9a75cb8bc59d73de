//! Blocks of our own configuration. A whole file, which begins with its version, is taken by `sidestream check`; of a fragment
//! the schema knows every key and the form of its value.

use std::sync::LazyLock;

use serde_json::Value;

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(&super::blocks::read("conf/sidestream.schema.json")).expect("JSON");
    jsonschema::validator_for(&schema).expect("tests/references.rs checks the schema")
});

pub fn judge(text: &str) -> Result<(), String> {
    if text.lines().any(|line| line.starts_with("version")) { whole(text) } else { fragment(text) }
}

fn whole(text: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("sidestream.toml");
    std::fs::write(&file, text).expect("written");
    let check =
        super::support::program::command().args(["check", "--config"]).arg(file).env_remove("RUST_LOG").output();
    let check = check.expect("the program runs");
    if check.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&check.stderr).into_owned()) }
}

fn fragment(text: &str) -> Result<(), String> {
    let document: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let document = serde_json::to_value(document).map_err(|error| error.to_string())?;
    let faults: Vec<String> = SCHEMA.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}
