//! The matrix as Markdown: rows that differ in the header only, and show the same, are one.

use std::fmt::Write as _;

use crate::matrix::Cell;
use crate::outcome::Outcome;
use crate::tricks::{Header, Row, Section, headers};

/// One proxy's column.
pub struct Column {
    /// Its heading.
    pub title: &'static str,
    /// A cell for each row.
    pub cells: Vec<Cell>,
}

/// All tables.
pub fn markdown(sections: &[Section], columns: &[Column]) -> String {
    let mut text = String::new();
    let mut at = 0;
    for section in sections {
        let _ = writeln!(text, "\n## {}\n", section.title);
        heading(&mut text, columns);
        for lines in grouped(&section.rows, columns, at) {
            text.push_str(&lines);
        }
        at += section.rows.len();
    }
    text
}

fn heading(text: &mut String, columns: &[Column]) {
    let titles: Vec<_> = columns.iter().map(|column| column.title).collect();
    let _ = writeln!(text, "| trick | {} |\n|---|{}", titles.join(" | "), "---|".repeat(titles.len()));
}

/// The rows of a section, one trick after the other.
fn grouped(rows: &[Row], columns: &[Column], at: usize) -> Vec<String> {
    let mut groups: Vec<(&str, Vec<(String, Vec<&Header>)>)> = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let cells: Vec<_> =
            columns.iter().map(|column| shown(&column.cells[at + place], row.header.as_ref())).collect();
        let cells = cells.join(" | ");
        let group = match groups.iter_mut().find(|(trick, _)| *trick == row.trick) {
            Some((_, group)) => group,
            None => {
                groups.push((&row.trick, Vec::new()));
                &mut groups.last_mut().expect("just pushed").1
            }
        };
        match group.iter_mut().find(|(same, _)| *same == cells) {
            Some((_, headers)) => headers.extend(&row.header),
            None => group.push((cells, row.header.iter().collect())),
        }
    }
    let lines = groups.into_iter().flat_map(|(trick, group)| {
        group.into_iter().map(move |(cells, headers)| format!("| {}{} | {cells} |\n", escaped(trick), which(&headers)))
    });
    lines.collect()
}

fn which(of: &[&Header]) -> String {
    if of.is_empty() || of.len() == headers().len() {
        return String::new();
    }
    let names: Vec<_> = of.iter().map(|header| format!("`{}`", header.name)).collect();
    format!("; {}", names.join(", "))
}

/// `alice`, or `400 code`, and what arrived in an unusual way.
fn shown(cell: &Cell, header: Option<&Header>) -> String {
    let arrived = match &cell.arrived {
        None if matches!(cell.outcome, Outcome::Answered(_)) => " by the proxy".to_owned(),
        None => String::new(),
        Some(lines) if lines.is_empty() => String::new(),
        Some(lines) => {
            let lines: Vec<_> = lines.iter().map(|line| format!("`{}`", abstracted(line, header))).collect();
            format!(" ← {}", lines.join(", "))
        }
    };
    format!("{}{}", cell.outcome, escaped(&arrived))
}

/// With `H` for the header and `v` for the lie, so that rows can be compared.
fn abstracted(line: &str, header: Option<&Header>) -> String {
    let Some(header) = header else { return line.to_owned() };
    let lower = header.name.to_ascii_lowercase();
    line.replace(&lower, "H").replace(header.name, "H").replace(header.lie, "v")
}

/// A line of a table ends a cell at each bar.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}
