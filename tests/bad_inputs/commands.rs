//! Command lines that make no sense, or ask for what cannot be: the exit code, and what is said of it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use crate::program::sidestream;
use crate::run::{every_row, nothing_wrong, same};
use crate::support::{Config, Nats, Version, bounded};
use crate::table::{Row, Table, unescape};

/// All.
pub fn tables() -> Vec<Table> {
    vec![Table::read("commands", include_str!("commands.txt"), 1, 2)]
}

#[tokio::test]
async fn command_lines_are_refused_by_exit_code_and_in_words() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
        fs::write(path("good.toml"), Config::on(&nats).render()).expect("written");
        fs::write(path("garbage"), "no sense at all").expect("written");
        let fill = |text: &str| text.replace("{dir}", &path("")).replace("{nats}", &nats.address());
        let check = async |row: &Row| {
            let arguments: Vec<_> = row.input(0).split_whitespace().map(|word| argument(&fill(word))).collect();
            let ran = sidestream(&arguments, &[], false).await;
            let told = format!("{}{}", ran.stdout, ran.stderr);
            same(row.answer(0), &ran.exit).map_err(|wrong| format!("exit code: {wrong}\n{told}"))?;
            let mut rest = told.as_str();
            for words in row.answer(1).split(" … ").map(fill) {
                let (_, behind) = rest.split_once(&words).ok_or_else(|| format!("does not say {words:?}:\n{told}"))?;
                rest = behind;
            }
            match () {
                () if ran.says("canary") => Err(format!("repeats what may be a secret:\n{told}")),
                () if ran.says("panicked") => Err(format!("panics:\n{told}")),
                () => Ok(()),
            }
        };
        for table in tables() {
            nothing_wrong(&every_row(&table, 4, check).await);
        }
    })
    .await;
}

/// A word of the command line; `''` is an empty one.
fn argument(word: &str) -> OsString {
    let bytes = if word == "''" { Vec::new() } else { unescape(word) };
    OsString::from_vec(bytes)
}
