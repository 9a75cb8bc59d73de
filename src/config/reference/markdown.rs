//! `config docs`: the reference of all keys as Markdown.

use std::fmt::Write as _;

use super::{Entry, entries, is_optional};
use crate::config::file::{Key, ROOT, Shape};
use crate::config::load::DEFAULT_TOML;
use crate::config::reference::notes::Notes;
use crate::config::reload::needs_restart;

const HEAD: &str = "# Configuration

<!-- Made by `sidestream config docs` from the program's own table of keys; SIDESTREAM_WRITE_DOCS=1 cargo test --test references
rewrites it. -->

A TOML file: `--config FILE`, which may be repeated, else `/etc/sidestream/sidestream.toml`, else `./sidestream.toml`. Later layers win:
the defaults, files in their order, `SIDESTREAM_SECTION__KEY` in the environment, `--set section.key=value`. Tables merge key by key, a list
is replaced whole.

`sidestream check` reports every fault with its line, `sidestream config show` prints each value with where it came from, and
`sidestream config default` prints all of this as a file to start from. For editors that read schemas: `sidestream config schema >
sidestream.schema.json`, and `#:schema ./sidestream.schema.json` as the first line of the file.

Durations are `\"500ms\"`, `\"15s\"`, `\"15m\"`, `\"24h\"`, `\"1d\"` or `\"1h30m\"`. Sizes are bytes, or `\"64kB\"` (1000), `\"256KiB\"` (1024), `\"1MiB\"`.
Keys marked *restart* are read when the process begins; a change of all others is in force after a reload (SIGHUP, `POST /reload`).
Secrets are never written here: a key names a file that holds one, `\"/absolute/path\"` or `\"credential:NAME\"`, a systemd credential.
";

/// The whole page.
pub fn markdown() -> String {
    let notes = Notes::read(DEFAULT_TOML);
    let mut page = HEAD.to_owned();
    let (tables, plain): (Vec<_>, Vec<_>) =
        entries(&notes, ROOT, "", false).into_iter().partition(|entry| keys_of(entry.key).is_some());
    page.push('\n');
    plain.iter().for_each(|entry| line(&mut page, entry));
    tables.iter().for_each(|entry| section(&mut page, &notes, entry));
    page
}

fn keys_of(key: &Key) -> Option<&'static [Key]> {
    match key.shape {
        Shape::Table(keys) | Shape::Tables(keys) => Some(keys),
        _ => None,
    }
}

fn section(page: &mut String, notes: &Notes, entry: &Entry) {
    let Some(keys) = keys_of(entry.key) else { return };
    let optional = is_optional(notes, entry.key, &entry.path);
    let repeats = matches!(entry.key.shape, Shape::Tables(_));
    let title = if repeats { format!("[[{}]]", entry.path) } else { format!("[{}]", entry.path) };
    // Writing to a string cannot fail.
    let _ = writeln!(page, "\n## `{title}`\n");
    if !entry.note.text.is_empty() {
        let _ = writeln!(page, "{}\n", entry.note.text);
    }
    let (tables, plain): (Vec<_>, Vec<_>) =
        entries(notes, keys, &entry.path, optional).into_iter().partition(|entry| keys_of(entry.key).is_some());
    plain.iter().for_each(|entry| line(page, entry));
    tables.iter().for_each(|entry| section(page, notes, entry));
}

fn line(page: &mut String, entry: &Entry) {
    let default = match &entry.default {
        Some(text) => format!("default `{text}`"),
        None if entry.key.required => "required".to_owned(),
        None => "no default".to_owned(),
    };
    let text = entry.note.text.replace("\n\n", "\n  ");
    let restart = if needs_restart(&entry.path) { "; restart" } else { "" };
    let _ = writeln!(page, "- **`{}`** ({}; {default}{restart}): {text}", entry.path, kind(entry.key.shape));
}

fn kind(shape: Shape) -> String {
    match shape {
        Shape::Flag => "true or false",
        Shape::Integer => "integer",
        Shape::Text => "string",
        Shape::Duration => "duration",
        Shape::Choice(words) => {
            return words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ");
        }
        Shape::Size => "size",
        Shape::Texts => "list of strings",
        Shape::Integers => "list of integers",
        Shape::Map => "table of strings",
        Shape::Table(_) => "table",
        Shape::Tables(_) => "tables",
    }
    .to_owned()
}
