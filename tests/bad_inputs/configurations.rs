//! Configurations that `sidestream check` refuses: with which exit code, and every fault with its key, its place and what is
//! said of it.
//!
//! A fault is written as `key @line:column words … more words`, faults of one configuration with `;;` between them. Nothing
//! that a table calls a canary is ever repeated.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::program::{Ran, sidestream};
use crate::run::{every_row, nothing_wrong, same};
use crate::table::{Row, Table, unescape};

/// Every table of a file, so that all keys are there.
const EVERY_TABLE: &str = "[server.tls]\n[trust]\n[[stream]]\n[[route]]\n";

fn files() -> Vec<Table> {
    macro_rules! table {
        ($name:literal) => {
            Table::read(
                concat!("configurations/", $name),
                include_str!(concat!("configurations/", $name, ".txt")),
                1,
                2,
            )
        };
    }
    vec![table!("files"), table!("sections"), table!("routes"), table!("proxies")]
}

fn layers() -> Table {
    Table::read("configurations/layers", include_str!("configurations/layers.txt"), 3, 2)
}

/// All.
pub fn tables() -> Vec<Table> {
    files().into_iter().chain([layers()]).collect()
}

#[tokio::test]
async fn configurations_are_refused_with_every_fault() {
    let place = Place::new();
    let mut wrong = Vec::new();
    for table in files() {
        let check = async |row: &Row| {
            let file = place.write(row, 0);
            let arguments = ["check".to_owned(), "--config".to_owned(), file.clone()];
            let ran = sidestream(&arguments, &place.environment(""), row.answer(0) == "77").await;
            place.judge(row, &file, &ran)
        };
        wrong.extend(every_row(&table, 4, check).await);
    }
    nothing_wrong(&wrong);
}

#[tokio::test]
async fn layers_over_a_configuration_are_refused_with_every_fault() {
    let place = Place::new();
    let check = async |row: &Row| {
        let file = place.write(row, 0);
        let mut arguments = vec!["check".to_owned(), "--config".to_owned(), file.clone()];
        for set in place.text(row, 2).split(" ;; ").filter(|set| !set.is_empty()) {
            arguments.extend(["--set".to_owned(), set.to_owned()]);
        }
        let environment = place.environment(&place.text(row, 1));
        place.judge(row, &file, &sidestream(&arguments, &environment, false).await)
    };
    nothing_wrong(&every_row(&layers(), 4, check).await);
}

/// A key without rows is a key whose bad values nobody has thought of.
#[tokio::test]
async fn every_key_is_refused_for_two_reasons_at_least() {
    let place = Place::new();
    let file = place.directory.path().join("every-table.toml");
    fs::write(&file, EVERY_TABLE).expect("written");
    let arguments = ["config", "show", "--config", file.to_str().expect("UTF-8")].map(str::to_owned);
    let shown = sidestream(&arguments, &place.environment(""), false).await.stdout;
    let keys: Vec<String> =
        shown.lines().filter_map(|line| Some(line.split_once(" = ")?.0.replace("[0]", ""))).collect();
    assert!(keys.len() > 60, "{shown}");
    let tables = tables();
    let rows = tables.iter().flat_map(|table| &table.rows);
    let refused: Vec<&str> = rows.flat_map(|row| faults(row).map(|fault| fault.key).collect::<Vec<_>>()).collect();
    let reasons = |key: &str| {
        refused.iter().filter(|refused| **refused == key || refused.starts_with(&format!("{key}."))).count()
    };
    let few: Vec<_> = keys.iter().filter(|key| reasons(key) < 2).collect();
    assert!(few.is_empty(), "less than two bad values in the tables: {few:?}");
}

/// A fault as a row wants it.
struct Wanted<'r> {
    key: &'r str,
    place: &'r str,
    words: Vec<&'r str>,
}

fn faults(row: &Row) -> impl Iterator<Item = Wanted<'static>> {
    row.answer(1).split(" ;; ").map(|fault| {
        let (key, rest) = fault.split_once(" @").unwrap_or_else(|| panic!("no place in {fault:?}"));
        let (place, words) = rest.split_once(' ').unwrap_or_else(|| panic!("no words in {fault:?}"));
        Wanted { key: key.trim(), place, words: words.split(" … ").map(str::trim).collect() }
    })
}

/// A directory with files that rows name as `{dir}/…`.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mode =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode is set");
        mode(directory.path(), 0o755);
        let seed = nkeys::KeyPair::new_user().seed().expect("a new pair has a seed");
        let changed = format!("{}{}", &seed[..57], if seed.ends_with('A') { 'B' } else { 'A' });
        let contents: [(&str, &str, u32); 8] = [
            ("seed", &seed, 0o600),
            ("changed-seed", &changed, 0o600),
            ("secret", "canary-canary-canary", 0o600),
            ("short", "canary", 0o600),
            ("empty", "", 0o600),
            ("blank", " \n\t\n", 0o600),
            ("large", &"canary".repeat(12_000), 0o600),
            ("denied", "canary-canary-canary", 0o000),
        ];
        for (name, content, bits) in contents {
            let path = directory.path().join(name);
            fs::write(&path, content).expect("written");
            mode(&path, bits);
        }
        fs::create_dir(directory.path().join("directory")).expect("created");
        Self { directory }
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{dir}", self.directory.path().to_str().expect("UTF-8"))
    }

    fn text(&self, row: &Row, column: usize) -> String {
        self.fill(&String::from_utf8(unescape(row.input(column))).expect("UTF-8"))
    }

    /// Writes a column as a file, byte by byte.
    fn write(&self, row: &Row, column: usize) -> String {
        let file = self.directory.path().join(format!("{}.toml", row.line));
        let bytes = unescape(row.input(column));
        let bytes = match String::from_utf8(bytes) {
            Ok(text) => self.fill(&text).into_bytes(),
            Err(error) => error.into_bytes(),
        };
        fs::write(&file, bytes).expect("written");
        file.to_str().expect("UTF-8").to_owned()
    }

    /// Variables as a row writes them.
    fn environment(&self, variables: &str) -> Vec<(String, String)> {
        let pairs = variables.split(" ;; ").filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), self.fill(value))).collect()
    }

    fn judge(&self, row: &Row, file: &str, ran: &Ran) -> Result<(), String> {
        let report = &ran.stderr;
        same(row.answer(0), &ran.exit).map_err(|wrong| format!("exit code: {wrong}\n{report}"))?;
        let told: Vec<&str> = report.split("\n\n").filter(|block| block.starts_with("error: ")).collect();
        let wanted: Vec<_> = faults(row).collect();
        for fault in &wanted {
            if !told.iter().any(|block| self.tells(block, fault, file)) {
                return Err(format!("not told: {} @{} {:?}\n{report}", fault.key, fault.place, fault.words));
            }
        }
        if told.len() != wanted.len() {
            return Err(format!("{} faults, not {}:\n{report}", told.len(), wanted.len()));
        }
        if ran.says("canary") {
            return Err(format!("repeats what may be a secret:\n{report}"));
        }
        if report.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            return Err(format!("control characters in {report:?}"));
        }
        if report.len() > 2000 * (1 + wanted.len()) { Err(format!("{} bytes of report", report.len())) } else { Ok(()) }
    }

    fn tells(&self, block: &str, fault: &Wanted<'_>, file: &str) -> bool {
        let start = match fault.key {
            "-" => "error: ".to_owned(),
            key => format!("error: {}: ", String::from_utf8(unescape(key)).expect("UTF-8")),
        };
        let place = match fault.place.split_once(':') {
            Some(("env" | "set", column)) => {
                let layer = if fault.place.starts_with("env") { "env SIDESTREAM_" } else { "--set" };
                block.lines().any(|l| l.contains(&format!("--> {layer}")) && l.ends_with(&format!(":{column}")))
            }
            Some(_) => block.contains(&format!("--> {file}:{}\n", fault.place)),
            None => !block.contains("-->"),
        };
        let mut rest = block;
        let words = fault.words.iter().all(|words| {
            let found = rest.split_once(self.fill(words).as_str());
            rest = found.map_or("", |(_, behind)| behind);
            found.is_some()
        });
        block.starts_with(&start) && place && words
    }
}
