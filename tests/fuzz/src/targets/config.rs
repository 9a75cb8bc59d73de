//! F7: configuration text, as a file, as `--set` and as environment variables: whatever it says, all faults have a place in it,
//! and the report can be shown.
//!
//! Lines that begin with `#set ` or `#env ` go there, everything is the file.

use sidestream::config::error::{Fault, Report};
use sidestream::config::load::{DEFAULT_TOML, Loaded, Sources, load_text};

const NAME: &str = "fuzz.toml";

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let set = text.lines().filter_map(|line| line.strip_prefix("#set ")).map(str::to_owned).collect();
    let env = text.lines().filter_map(|line| line.strip_prefix("#env ")).filter_map(|line| line.split_once('='));
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let sources = Sources { files: Vec::new(), env, set };
    match load_text(NAME, text, &sources) {
        Ok(loaded) => accepted(text, &sources, &loaded),
        Err(report) => refused(text, &sources, &report),
    }
}

fn accepted(text: &str, sources: &Sources, loaded: &Loaded) {
    loaded.warnings.iter().for_each(|warning| has_a_place(text, sources, warning));
    // What the program relies on without looking.
    let routes = &loaded.config.routes;
    assert!(!loaded.config.server.listen.is_empty() && !loaded.config.nats.servers.is_empty());
    assert!(routes.routes.len() <= 255 && routes.streams.len() <= 255 && routes.formats.len() <= 255);
    for route in &routes.routes {
        assert!(route.stream.is_none_or(|stream| stream < routes.streams.len()) && route.format < routes.formats.len());
    }
    let trust_proves = |trust: &sidestream::config::Trust| {
        let proof = !trust.peer_uids.is_empty()
            || trust.client_certificate
            || !trust.secrets.is_empty()
            || trust.address_is_proof;
        proof && (trust.unix || !trust.proxies.is_empty()) && trust.proxies.iter().all(|net| net.prefix_len() > 0)
    };
    assert!(loaded.config.trust.as_ref().is_none_or(trust_proves), "{:?}", loaded.config.trust);
    for value in &loaded.effective {
        is_printable(&value.to_string());
    }
}

fn refused(text: &str, sources: &Sources, report: &Report) {
    assert!(!report.faults.is_empty());
    for fault in report.faults.iter().chain(&report.warnings) {
        has_a_place(text, sources, fault);
    }
    is_printable(&report.to_string());
    let _ = report.kind();
}

fn has_a_place(text: &str, sources: &Sources, fault: &Fault) {
    let shown = fault.to_string();
    is_printable(&shown);
    // A fault is a few lines, whatever it quotes.
    assert!(shown.len() <= 4096, "{} bytes: {shown}", shown.len());
    let Some(place) = &fault.place else { return };
    let text = match place.name.as_str() {
        NAME => text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
        "--set" => {
            let longest = sources.set.iter().map(|text| text.chars().count()).max().unwrap_or(0);
            assert!(place.line == 1 && place.column <= longest + 1, "{shown}");
            return;
        }
        "default.toml (built in)" => DEFAULT_TOML.to_owned(),
        // Of a table that the default file has not.
        "built-in default" => return assert_eq!((place.line, place.column), (1, 1), "{shown}"),
        env => {
            let name = env.strip_prefix("env ").unwrap_or_else(|| panic!("no such source: {shown}"));
            let values = sources.env.iter().filter(|(theirs, _)| theirs == name);
            let longest = values.map(|(name, value)| name.chars().count() + 1 + value.chars().count()).max();
            assert!(place.line == 1 && place.column <= longest.expect("it was read") + 1, "{shown}");
            return;
        }
    };
    let line = text.split('\n').nth(place.line - 1).unwrap_or_else(|| panic!("line {} of {text:?}", place.line));
    assert!((1..=line.chars().count() + 1).contains(&place.column), "column {} of {line:?}", place.column);
}

/// Nothing that a terminal obeys.
fn is_printable(text: &str) {
    let bad = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(bad, None, "{text:?}");
}
