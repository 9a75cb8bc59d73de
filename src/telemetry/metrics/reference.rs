//! The table of metrics as Markdown: the part of `docs/metrics.md` between its two marks.

use std::fmt::Write as _;

use super::names::{Metric, SECTIONS};

/// One table for each section.
pub fn markdown() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let _ = write!(text, "### {}\n\n| name | kind | labels | what it says |\n|---|---|---|---|\n", section.title);
        section.metrics.iter().for_each(|metric| row(&mut text, metric));
        text.push('\n');
    }
    text
}

fn row(text: &mut String, metric: &Metric) {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let (name, kind, labels, help) = (metric.name, metric.kind.label(), labels.join(", "), metric.help);
    let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {help} |");
}
