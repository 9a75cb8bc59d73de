//! Every key with its meaning, for the schema and the reference: the table of keys (`file`) and the comments of
//! `default.toml`, read side by side. Neither is written down a second time.

mod markdown;
mod notes;
mod schema;

use super::file::{Key, Shape, join};
use notes::{Note, Notes};

pub use markdown::markdown;
pub use schema::schema;

/// A key, its place and what is said of it.
struct Entry {
    key: &'static Key,
    path: String,
    note: Note,
    default: Option<String>,
}

/// The keys of one table, in the order of the documentation. `optional`: the table is absent unless somebody writes it, so that
/// what `default.toml` shows of it are examples.
fn entries(notes: &Notes, keys: &'static [Key], path: &str, optional: bool) -> Vec<Entry> {
    let entry = |key: &'static Key| {
        let path = join(path, key.name);
        let note = notes.of(&path);
        let default = match key.default {
            Some(text) => Some(text.to_owned()),
            None if optional => None,
            None => note.value.clone(),
        };
        Entry { key, path, note, default }
    };
    keys.iter().map(entry).collect()
}

/// Whether a table is absent unless it is written; of `[[tables]]` every entry is.
fn is_optional(notes: &Notes, key: &Key, path: &str) -> bool {
    matches!(key.shape, Shape::Tables(_)) || !notes.is_present(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::ROOT;
    use crate::config::load::{DEFAULT_TOML, Sources, load_text};

    /// Every key that is not a table, with its entry.
    fn leaves(notes: &Notes, keys: &'static [Key], path: &str, optional: bool) -> Vec<Entry> {
        let mut all = Vec::new();
        for entry in entries(notes, keys, path, optional) {
            match entry.key.shape {
                Shape::Table(keys) | Shape::Tables(keys) => {
                    all.extend(leaves(notes, keys, &entry.path, is_optional(notes, entry.key, &entry.path)));
                }
                _ => all.push(entry),
            }
        }
        all
    }

    #[test]
    fn every_key_is_explained_and_has_a_default_or_none() {
        let notes = Notes::read(DEFAULT_TOML);
        let all = leaves(&notes, ROOT, "", false);
        assert!(all.len() > 70, "{}", all.len());
        for entry in all {
            assert!(!entry.note.text.is_empty(), "{} is not explained", entry.path);
            assert!(entry.note.value.is_some(), "{} stands nowhere in default.toml", entry.path);
            let none = entry.key.required || entry.path == "route.stream";
            assert_eq!(entry.default.is_none(), none, "{}: {:?}", entry.path, entry.default);
        }
    }

    /// The words of the schema are those that the checks take.
    #[test]
    fn the_words_of_a_choice_are_all_that_is_taken() {
        let notes = Notes::read(DEFAULT_TOML);
        let mut seen = 0;
        for entry in leaves(&notes, ROOT, "", false) {
            let Shape::Choice(words) = entry.key.shape else { continue };
            seen += 1;
            let (table, name) = entry.path.split_once('.').expect("in a table");
            let header = if table == "route" { "[[route]]\npath = \"/e\"".to_owned() } else { format!("[{table}]") };
            let fits = |word: &str| {
                let text = format!("{header}\n{name} = \"{word}\"\n");
                let refused = load_text("test", &text, &Sources::default()).err().map(|report| report.to_string());
                !refused.is_some_and(|report| report.contains("is not one of"))
            };
            for word in words {
                assert!(fits(word), "{} = {word}", entry.path);
            }
            assert!(!fits("other"), "{}", entry.path);
        }
        assert_eq!(seen, 4);
    }

    #[test]
    fn what_is_called_required_is() {
        // Only that there is such a file is looked at here.
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let whole = format!(
            "[server.tls]\ncert = {file:?}\nkey = {file:?}\n[trust]\nproxies = [\"127.0.0.1\"]\naddress_is_proof = true\n\
             [[stream]]\nname = \"S\"\n[[route]]\npath = \"/e\"\nstream = \"S\"\nsubjects = [\"a\"]\naudience = \"anyone\"\n"
        );
        let faults = |text: &str| match load_text("test", text, &Sources::default()) {
            Ok(_) => Vec::new(),
            Err(report) => report.faults.iter().map(|fault| fault.key.clone()).collect(),
        };
        assert_eq!(faults(&whole), Vec::<String>::new());
        let notes = Notes::read(DEFAULT_TOML);
        let required: Vec<_> = leaves(&notes, ROOT, "", false).into_iter().filter(|entry| entry.key.required).collect();
        assert_eq!(required.len(), 5);
        for entry in required {
            let name = entry.key.name;
            let without: String = whole
                .lines()
                .filter(|line| !line.starts_with(&format!("{name} = ")))
                .map(|line| format!("{line}\n"))
                .collect();
            assert!(!faults(&without).is_empty(), "nothing is said where {} is missing", entry.path);
        }
    }
}
