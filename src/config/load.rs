//! Reads the layers, lays them over each other, and hands them to the checks.
//!
//! Defaults < files, later wins < environment < `--set`. All faults of all layers are collected; nothing is used unless
//! there are none. Re-reading at run time is the same call again.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{Fault, FaultKind, Report};
use super::file::{check_shape, fill_defaults};
use super::show::Effective;
use super::source::{At, Layer, Texts};
use super::tree::{self, Table};
use super::{Config, check, layers, show};

/// The commented defaults: the lowest layer, and what `config default` prints.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Where configuration is looked for when no file is named; the first that exists is used.
pub const DEFAULT_FILES: [&str; 2] = ["/etc/sidestream/sidestream.toml", "./sidestream.toml"];

/// Far above any real configuration; keeps `--config /dev/zero` from eating the memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Files, later wins; empty looks for [`DEFAULT_FILES`].
    pub files: Vec<PathBuf>,
    /// The environment: `SIDESTREAM_SECTION__KEY`, and `CREDENTIALS_DIRECTORY` for `credential:` names.
    pub env: Vec<(String, String)>,
    /// `section.key=value`.
    pub set: Vec<String>,
}

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is doubtful but allowed.
    pub warnings: Vec<Fault>,
    /// Every value with its origin, for `config show`.
    pub effective: Vec<Effective>,
}

/// Reads and checks a configuration.
pub fn load(sources: &Sources) -> Result<Loaded, Report> {
    load_looking_in(sources, &DEFAULT_FILES.map(Path::new))
}

/// Reads and checks configuration text that is in no file; `name` stands for the file in reports. `sources.files` are laid
/// over it. An empty text is the defaults alone.
pub fn load_text(name: &str, text: &str, sources: &Sources) -> Result<Loaded, Report> {
    let mut reader = Reader::default();
    reader.document(Layer::File, name, text);
    sources.files.iter().for_each(|file| reader.file(file));
    reader.finish(sources)
}

fn load_looking_in(sources: &Sources, usual: &[&Path]) -> Result<Loaded, Report> {
    let mut reader = Reader::default();
    if sources.files.is_empty() {
        match usual.iter().find(|file| file.exists()) {
            Some(file) => reader.file(file),
            None => reader.nothing_found(usual),
        }
    }
    sources.files.iter().for_each(|file| reader.file(file));
    reader.finish(sources)
}

/// Collects layers and faults.
#[derive(Default)]
struct Reader {
    texts: Texts,
    /// Everything above the defaults, merged.
    user: Table,
    faults: Vec<Fault>,
    /// A layer could not be read at all: checks across layers would only report its absence.
    incomplete: bool,
}

impl Reader {
    fn file(&mut self, path: &Path) {
        match read(path) {
            Ok(text) => self.document(Layer::File, &path.display().to_string(), &text),
            Err(fault) => {
                self.faults.push(*fault);
                self.incomplete = true;
            }
        }
    }

    fn nothing_found(&mut self, usual: &[&Path]) {
        let names: Vec<String> = usual.iter().map(|file| format!("`{}`", file.display())).collect();
        let message = format!("no configuration file: neither {} exists", names.join(" nor "));
        let fault = Fault::new(FaultKind::Missing, "", message);
        self.faults
            .push(fault.note("name one with `--config FILE`; `sidestream config default` prints one to start from"));
        self.incomplete = true;
    }

    fn document(&mut self, layer: Layer, name: &str, text: &str) {
        if let Some(table) = self.parse(layer, name, text) {
            tree::merge(&mut self.user, table);
        }
    }

    /// Parses and checks the shape; `None` after a syntax error.
    fn parse(&mut self, layer: Layer, name: &str, text: &str) -> Option<Table> {
        // An editor's byte order mark is not part of the text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let number = self.texts.add(layer, name, text);
        let (document, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            let mut table = tree::from_document(number, document);
            check_shape(&self.texts, &mut table, &mut self.faults);
            return Some(table);
        }
        self.incomplete = true;
        // Recovery makes one slip into many errors; those of the first line that has any are the true ones.
        let mut line = None;
        for error in errors {
            let at = At::new(number, error.span().unwrap_or(0..0));
            let mut fault = Fault::new(FaultKind::Invalid, "", error.message().trim()).at(&self.texts, &at);
            if self.texts.may_be_a_secret(&at) {
                fault = fault.hidden();
            }
            let here = fault.place.as_ref().map(|place| place.line);
            if *line.get_or_insert(here) == here {
                self.faults.push(fault);
            }
        }
        None
    }

    fn assignments(&mut self, sources: &Sources) {
        let mut tables = Vec::new();
        for (name, value) in &sources.env {
            tables.extend(layers::from_env(&mut self.texts, name, value, &mut self.faults));
        }
        for argument in &sources.set {
            tables.extend(layers::from_set(&mut self.texts, argument, &mut self.faults));
        }
        for mut table in tables {
            check_shape(&self.texts, &mut table, &mut self.faults);
            tree::merge(&mut self.user, table);
        }
    }

    fn finish(mut self, sources: &Sources) -> Result<Loaded, Report> {
        self.assignments(sources);
        let mut table = self.parse(Layer::Default, "default.toml (built in)", DEFAULT_TOML).unwrap_or_default();
        // The example stream belongs to the example route: whoever has routes of his own does not mean it.
        if self.user.contains_key("route") {
            table.remove("stream");
        }
        tree::merge(&mut table, self.user);
        fill_defaults(&mut self.texts, &mut table);
        let effective = show::effective(&self.texts, &table);
        let mut report = Report { faults: self.faults, warnings: Vec::new(), effective };
        if self.incomplete {
            report.sort();
            return Err(report);
        }
        let (config, faults, warnings) = check::check(&self.texts, &table, &sources.env);
        report.faults.extend(faults);
        report.warnings = warnings;
        report.sort();
        match report.faults.is_empty() {
            true => Ok(Loaded { config, warnings: report.warnings, effective: report.effective }),
            false => Err(report),
        }
    }
}

fn read(path: &Path) -> Result<String, Box<Fault>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let name = path.display();
    let refused = |kind, message: String| Err(Box::new(Fault::new(kind, "", message)));
    if let Err(error) = read {
        return refused(unreadable(error.kind()), format!("`{name}` cannot be read: {error}"));
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return refused(FaultKind::Invalid, format!("`{name}` is larger than 4 MiB: not a configuration"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => refused(FaultKind::Invalid, format!("`{name}` is not UTF-8 text")),
    }
}

/// The kind of fault that a failed read is.
pub(super) fn unreadable(error: ErrorKind) -> FaultKind {
    match error {
        ErrorKind::NotFound => FaultKind::Missing,
        ErrorKind::PermissionDenied => FaultKind::Denied,
        _ => FaultKind::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_usual_file_that_exists_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let (first, second) = (directory.path().join("first.toml"), directory.path().join("second.toml"));
        let usual = [first.as_path(), second.as_path()];
        let report = load_looking_in(&Sources::default(), &usual).expect_err("nothing is there");
        assert_eq!((report.kind(), report.faults.len()), (FaultKind::Missing, 1));
        for name in ["first.toml", "second.toml"] {
            assert!(report.to_string().contains(name), "{report}");
        }
        std::fs::write(&second, "[server]\nh2c = true\n").expect("written");
        assert!(load_looking_in(&Sources::default(), &usual).expect("loaded").config.server.h2c);
    }

    #[test]
    fn a_file_that_is_no_text_is_a_fault() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.toml");
        std::fs::write(&path, [0xff, 0xfe]).expect("written");
        for (file, part) in
            [(path.as_path(), "not UTF-8"), (Path::new("/dev/zero"), "4 MiB"), (directory.path(), "read")]
        {
            let report = load(&Sources { files: vec![file.into()], ..Sources::default() }).expect_err("refused");
            assert!(report.to_string().contains(part), "{report}");
        }
    }
}
