//! Alert rules, dashboard and runbook: each takes what there is, and each says what the others expect of it.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::tls::Certificate;
use support::{App, Config, Nats, Version, bounded};

const RULES: &str = "conf/prometheus/sidestream.rules.yml";
const DASHBOARD: &str = "examples/grafana/sidestream.json";
/// Labels that Prometheus itself adds.
const ADDED: [&str; 2] = ["instance", "job"];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Lines of the rules that begin with a key, and what follows it.
fn of_rules(key: &str) -> Vec<String> {
    let rules = text(RULES);
    rules.lines().filter_map(|line| line.trim().strip_prefix(key)).map(|value| value.trim().to_owned()).collect()
}

fn alerts() -> BTreeSet<String> {
    of_rules("- alert:").into_iter().collect()
}

/// The queries of the dashboard.
fn queries() -> Vec<String> {
    let board: serde_json::Value = serde_json::from_str(&text(DASHBOARD)).expect("JSON");
    let panels = board["panels"].as_array().expect("panels").clone();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

/// A metric in a query, with the labels it is asked for by: name, operator and value.
#[derive(Debug)]
struct Asked {
    name: String,
    labels: Vec<(String, String, String)>,
}

/// Every metric of ours in a text of queries.
fn asked(query: &str) -> Vec<Asked> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in query.match_indices("sidestream_").chain(query.match_indices("process_")) {
        // `process_` may stand within another name.
        if query[..at].ends_with(is_name) {
            continue;
        }
        let rest = &query[at..];
        let (name, rest) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
        let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        let labels = matchers.split(',').filter(|m| !m.trim().is_empty()).map(|matcher| {
            let (label, rest) = matcher.trim().split_at(matcher.trim().find(|c| !is_name(c)).expect("an operator"));
            let (operator, value) = rest.split_once('"').expect("a value in quotes");
            (label.to_owned(), operator.to_owned(), value.trim_end_matches('"').to_owned())
        });
        found.push(Asked { name: name.to_owned(), labels: labels.collect() });
    }
    found
}

/// Shows that a scrape has what is asked for.
#[track_caller]
fn is_there(asked: &Asked, scraped: &str) {
    let series: Vec<&str> = scraped
        .lines()
        .filter(|line| line.strip_prefix(&asked.name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .collect();
    assert!(!series.is_empty(), "{asked:?} is not scraped");
    for (label, operator, value) in asked.labels.iter().filter(|(label, ..)| !ADDED.contains(&label.as_str())) {
        for value in value.split('|') {
            let wanted = format!("{label}=\"{value}\"");
            assert!(operator == "=" || operator == "=~" || operator == "!~", "{asked:?}");
            assert!(series.iter().any(|line| line.contains(&wanted)), "{asked:?}: no series has {wanted}");
        }
    }
}

#[tokio::test]
async fn what_alerts_and_dashboard_ask_for_is_scraped() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats).server(&Certificate::new().table())).await;
        let scraped = app.admin_get("/metrics").await.text();
        let rules = text(RULES);
        let without_comments: Vec<&str> = rules.lines().filter(|line| !line.trim().starts_with('#')).collect();
        let of_rules = asked(&without_comments.join("\n"));
        assert!(of_rules.len() > alerts().len(), "{of_rules:?}");
        let of_board: Vec<_> = queries().iter().flat_map(|query| asked(query)).collect();
        assert!(of_board.len() > 40, "{of_board:?}");
        of_rules.iter().chain(&of_board).for_each(|asked| is_there(asked, &scraped));
    })
    .await;
}

#[test]
fn every_query_groups_by_labels_that_there_are() {
    use sidestream::telemetry::metrics::names::SECTIONS;
    let metrics = SECTIONS.iter().flat_map(|section| section.metrics);
    let known: BTreeSet<&str> = metrics.flat_map(|metric| metric.labels).copied().chain(ADDED).chain(["le"]).collect();
    let rules = text(RULES);
    for query in queries().iter().chain([&rules]) {
        for (_, rest) in query.match_indices("by (").map(|(at, found)| query.split_at(at + found.len())) {
            let labels = rest.split_once(')').expect("ends").0;
            labels.split(',').for_each(|label| assert!(known.contains(label.trim()), "{label} in {query}"));
        }
    }
}

#[test]
fn every_alert_has_its_entry_in_the_runbook_and_every_entry_its_alert() {
    let runbook = text("docs/runbook.md");
    let entries: Vec<&str> = runbook.split("\n## ").skip(1).collect();
    let titles: BTreeSet<String> =
        entries.iter().map(|entry| entry.lines().next().unwrap_or_default().to_owned()).collect();
    assert_eq!(titles, alerts());
    for entry in entries {
        for part in ["**Means**:", "**Look at**:", "**Do**:"] {
            assert!(entry.contains(part), "no {part} in {entry}");
        }
    }
    let pointers: Vec<String> =
        alerts().iter().map(|alert| format!("docs/runbook.md#{}", alert.to_ascii_lowercase())).collect();
    let mut of_rules = of_rules("runbook:");
    of_rules.sort_unstable();
    assert_eq!(of_rules, pointers);
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(path("conf/prometheus")).output();
    let output = output.expect("promtool starts (Debian: apt-get install prometheus; scripts/test does)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "sidestream.rules.yml"]);
}

#[test]
fn every_alert_fires_when_it_should_and_not_otherwise() {
    let tests = text("conf/prometheus/sidestream.test.yml");
    for alert in alerts() {
        for kind in ["fires", "is quiet"] {
            assert!(tests.contains(&format!("  - name: {alert} {kind}\n")), "no test that {alert} {kind}");
        }
    }
    promtool(&["test", "rules", "sidestream.test.yml"]);
}
