//! The comments of `default.toml`, by key: what stands above a key, or above the keys before it where it has none of its own.

use std::collections::HashMap;

use crate::config::file::join;

/// What is said of a key or a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Note {
    /// In words, lines joined; paragraphs are parted by an empty line.
    pub(super) text: String,
    /// TOML text: the default, or an example in a table that is absent.
    pub(super) value: Option<String>,
}

/// All of them, by path.
#[derive(Debug, Default)]
pub(super) struct Notes {
    by_path: HashMap<String, Note>,
    /// Tables that stand there as they are, not as comments.
    present: Vec<String>,
}

impl Notes {
    /// Reads a commented file. Text after `# ` explains; `#` at the start of anything else makes it optional.
    pub(super) fn read(toml: &str) -> Self {
        let mut notes = Self::default();
        let (mut table, mut block, mut last) = (String::new(), Vec::new(), String::new());
        for line in toml.lines() {
            if let Some(text) = line.strip_prefix("# ") {
                block.push(text);
                continue;
            }
            match line.strip_prefix('#').unwrap_or(line) {
                "" if line == "#" => block.push(""),
                "" => block.clear(),
                header if header.starts_with('[') => {
                    table = header.trim_matches(['[', ']']).to_owned();
                    if header == line {
                        notes.present.push(table.clone());
                    }
                    notes.add(&table, Note { text: joined(&block), value: None });
                    (block, last) = (Vec::new(), String::new());
                }
                assignment => {
                    if !block.is_empty() {
                        last = joined(&block);
                        block.clear();
                    }
                    if let Some((name, value)) = assignment.split_once(" = ") {
                        notes.add(&join(&table, name), Note { text: last.clone(), value: Some(value.to_owned()) });
                    }
                }
            }
        }
        notes
    }

    fn add(&mut self, path: &str, note: Note) {
        self.by_path.insert(path.to_owned(), note);
    }

    /// What is said of a key or a table.
    pub(super) fn of(&self, path: &str) -> Note {
        self.by_path.get(path).cloned().unwrap_or_default()
    }

    /// Whether a table is part of the defaults.
    pub(super) fn is_present(&self, path: &str) -> bool {
        self.present.iter().any(|table| table == path)
    }
}

fn joined(block: &[&str]) -> String {
    block.join("\n").split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_belong_to_what_follows_them() {
        let notes = Notes::read(
            "# A file.\n\n# About a.\n[a]\n# One,\n# two.\nx = 1\ny = \"z\"\n#\n#[a.b]\n# Maybe.\n#z = 2\n",
        );
        let texts = |path: &str| (notes.of(path).text, notes.of(path).value);
        assert_eq!(texts("a"), ("About a.".into(), None));
        assert_eq!(texts("a.x"), ("One, two.".into(), Some("1".into())));
        assert_eq!(texts("a.y"), ("One, two.".into(), Some("\"z\"".into())), "those before it");
        assert_eq!(texts("a.b.z"), ("Maybe.".into(), Some("2".into())));
        assert!(notes.is_present("a") && !notes.is_present("a.b"));
        assert_eq!(texts("nothing"), (String::new(), None));
    }
}
