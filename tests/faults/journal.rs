//! One line per run in a file: a long run can be interrupted, continued and split, and its parts counted together.
//!
//! A run is known by its fault, server and seed, and is not done twice. Files are put together by `cat`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use super::checker::Report;
use super::kinds::{KINDS, Kind};
use super::support::Version;
use super::table::Table;

/// Fault, server, seed.
pub type Key = (&'static str, Version, u64);

/// The file; nothing where none is wanted.
pub struct Journal {
    file: Option<File>,
    done: HashSet<Key>,
}

impl Journal {
    /// Opens it, and counts what it holds.
    pub fn open(path: Option<String>, table: &mut Table) -> Self {
        let mut journal = Self { file: None, done: HashSet::new() };
        let Some(path) = path else { return journal };
        let file = File::options().read(true).append(true).create(true).open(&path);
        let file = file.unwrap_or_else(|error| panic!("{path}: {error}"));
        for line in BufReader::new(&file).lines() {
            let line = line.unwrap_or_else(|error| panic!("{path}: {error}"));
            let (key, report) = parse(&line).unwrap_or_else(|| panic!("{path}: not a run: {line}"));
            let kind = KINDS.iter().find(|kind| kind.name == key.0).expect("`parse` has found it");
            if journal.done.insert(key) {
                table.add(kind, &report);
            }
        }
        journal.file = Some(file);
        journal
    }

    /// What had been done before.
    pub fn done(&self) -> &HashSet<Key> {
        &self.done
    }

    /// Adds a run.
    pub fn add(&mut self, kind: &Kind, version: Version, seed: u64, report: &Report) {
        if let Some(file) = &mut self.file {
            let line = line((kind.name, version, seed), report);
            file.write_all(line.as_bytes()).expect("the journal is written");
        }
    }
}

fn line((kind, version, seed): Key, report: &Report) -> String {
    let counts: Vec<String> = report.counts().iter().map(usize::to_string).collect();
    let heal = report.worst_heal.map_or("-".to_owned(), |heal| heal.as_millis().to_string());
    format!("{kind} {version:?} {seed} {} {heal}\n", counts.join(" "))
}

fn parse(line: &str) -> Option<(Key, Report)> {
    let mut words = line.split(' ');
    let (name, version, seed) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    let kind = KINDS.iter().find(|kind| kind.name == name)?;
    let version = [Version::Debian, Version::Current].into_iter().find(|v| format!("{v:?}") == version)?;
    let mut words: Vec<&str> = words.collect();
    let heal = words.pop()?.parse().ok().map(Duration::from_millis);
    let counts: Vec<usize> = words.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let report = Report { worst_heal: heal, ..Report::of(counts.try_into().ok()?) };
    Some(((kind.name, version, seed), report))
}

#[test]
fn a_run_is_read_as_it_was_written() {
    let report = Report { lost: 3, void: 1, worst_heal: Some(Duration::from_millis(1500)), ..Report::default() };
    let line = line((KINDS[0].name, Version::Current, 7), &report);
    let (key, read) = parse(line.trim_end()).expect("a run");
    assert_eq!(key, (KINDS[0].name, Version::Current, 7));
    assert_eq!((read.counts(), read.worst_heal), (report.counts(), report.worst_heal));
}
