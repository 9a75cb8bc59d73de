//! Runs rows and gathers every one that went wrong: a test tells of all of them, not of the first.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt as _, StreamExt as _, stream};

use crate::table::{Row, Table};

/// Runs every row of a table, so many at the same time, and gives what went wrong. A panic is something that went wrong, too.
pub async fn every_row(table: &Table, lanes: usize, check: impl AsyncFn(&Row) -> Result<(), String>) -> Vec<String> {
    let one = async |row: &Row| {
        let outcome = AssertUnwindSafe(check(row)).catch_unwind().await;
        let wrong = outcome.unwrap_or_else(|panic| Err(words(&*panic))).err()?;
        Some((row.line, format!("{}:{} ({}): {wrong}", table.name, row.line, row.name())))
    };
    let mut wrong: Vec<_> =
        stream::iter(&table.rows).map(one).buffer_unordered(lanes).filter_map(async |wrong| wrong).collect().await;
    wrong.sort();
    wrong.into_iter().map(|(_, wrong)| wrong).collect()
}

/// Fails the test with everything that went wrong.
pub fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} rows went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

/// Compares what was wanted with what came.
pub fn same(wanted: &str, got: &str) -> Result<(), String> {
    if wanted == got { Ok(()) } else { Err(format!("wanted {wanted:?}, got {got:?}")) }
}
