//! Bad inputs from every side, each with the answer that the contract gives it: requests, admin requests, configurations,
//! command lines, and messages from NATS.
//!
//! The inputs stand in tables beside this file, one a row, so that another one costs a line. They are put to the real program,
//! with a real NATS server where one is needed. Every row that goes wrong is told, with its line.

mod admin;
mod ask;
mod commands;
mod configurations;
mod messages;
mod program;
mod request;
mod requests;
mod run;
mod table;

#[path = "../support/mod.rs"]
mod support;

use std::io::Write as _;

use table::Table;

/// Every table there is.
fn tables() -> Vec<Table> {
    let tables =
        [requests::tables(), configurations::tables(), commands::tables(), messages::tables(), admin::tables()];
    tables.into_iter().flatten().collect()
}

#[test]
fn no_row_stands_twice_and_there_are_at_least_400() {
    let tables = tables();
    let repeated: Vec<_> = tables.iter().flat_map(Table::repeated).collect();
    assert!(repeated.is_empty(), "{}", repeated.join("\n"));
    let rows: usize = tables.iter().map(|table| table.rows.len()).sum();
    let counts = tables.iter().map(|table| (table.rows.len(), table.name)).chain([(rows, "all")]);
    let said: String = counts.map(|(rows, name)| format!("{rows:5} bad inputs in {name}\n")).collect();
    // On the real standard error, which the test harness does not capture.
    let _ = std::io::stderr().write_all(said.as_bytes());
    assert!(rows >= 400, "{rows} rows");
}
