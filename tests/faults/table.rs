//! Results as rows of a Markdown table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::checker::Report;
use super::kinds::Kind;

/// Results by fault.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<&'static str, (usize, Report)>,
    not_run: BTreeMap<&'static str, String>,
}

impl Table {
    /// Adds a run.
    pub fn add(&mut self, kind: &'static Kind, report: &Report) {
        let (runs, sum) = self.rows.entry(kind.name).or_default();
        *runs += 1;
        sum.add(report);
    }

    /// Says why a fault was not run.
    pub fn not_run(&mut self, kind: &'static Kind, why: String) {
        self.not_run.insert(kind.name, why);
    }

    /// The table, in the order of the list of faults.
    pub fn markdown(&self, kinds: &[Kind]) -> String {
        let mut text = String::from(
            "| fault | what happens | runs | interruptions | events | gaps | lost | duplicated | out of order | foreign | false gaps | other | \
             worst time to heal |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for kind in kinds {
            if let Some((runs, sum)) = self.rows.get(kind.name) {
                let heal = sum.worst_heal.map_or("-".to_owned(), |heal| format!("{:.1} s", heal.as_secs_f64()));
                let void = if sum.void > 0 { format!(", {} void", sum.void) } else { String::new() };
                let _ = writeln!(
                    text,
                    "| `{}` | {} | {runs}{} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {heal} |",
                    kind.name,
                    kind.what,
                    void,
                    sum.interruptions,
                    sum.events,
                    sum.gaps,
                    sum.lost,
                    sum.duplicated,
                    sum.out_of_order,
                    sum.foreign,
                    sum.false_gaps,
                    sum.other,
                );
            } else if let Some(why) = self.not_run.get(kind.name) {
                let _ = writeln!(text, "| `{}` | {} | **not run: {why}** | | | | | | | | | | |", kind.name, kind.what);
            }
        }
        text
    }
}
