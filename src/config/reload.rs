//! A configuration read again while the process runs: what of it is put in force, and what waits for a restart.
//!
//! What others were built from when the process began (sockets, NATS connections, streams, the shape of routes) stays as it was,
//! whole; everything else is the new configuration's. Nothing is in force by halves, and what waits is named.

use std::collections::{BTreeSet, HashMap};

use super::load::Loaded;
use super::show::Effective;
use super::{Config, Limits, Secret};
use crate::route::RouteTable;

/// Keys, or tables of keys, that are read when the process begins and not again.
const RESTART: [&str; 13] = [
    "server.listen",
    "server.tls",
    "admin.listen",
    "nats",
    "stream",
    "history",
    "presence",
    "log.format",
    "limits.unsent_buffer",
    "limits.event_bytes",
    "limits.replay_events",
    "limits.replays",
    "limits.memory",
];

/// Keys of a route that metrics, feeds and frames are made for; another of these waits as well.
const SHAPE: [&str; 4] = ["route.path", "route.stream", "route.event", "route.payload"];

/// Whether a key (of a route: `route.path`) is read when the process begins and not again.
pub fn needs_restart(key: &str) -> bool {
    is_in(key, &RESTART) || is_in(key, &SHAPE)
}

/// What came of reading it again.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// What is to be in force, and every value of it with its origin.
    pub loaded: Loaded,
    /// Keys whose new values are in it.
    pub applied: Vec<String>,
    /// Keys whose new values wait for a restart.
    pub waiting: Vec<String>,
}

type SecretsOf = fn(&Config) -> Vec<Secret>;

/// Keys that name files with secrets, and those secrets.
const SECRETS: [(&str, SecretsOf); 3] = [
    ("admin.token_file", |config| config.admin.token.iter().cloned().collect()),
    ("nats", |config| config.nats.secret().into_iter().cloned().collect()),
    ("trust.secret_files", |config| config.trust.iter().flat_map(|trust| trust.secrets.clone()).collect()),
];

/// Lays a configuration that was read again over the one in force.
pub fn reload(in_force: &Loaded, read: Loaded) -> Reloaded {
    let routes_wait = !same_shape(&in_force.config.routes, &read.config.routes);
    // Templates name what the identity brings: both come from the same file, or neither.
    let waits = |key: &str| is_in(key, &RESTART) || (routes_wait && is_in(key, &["route", "identity"]));
    let mut changed = changed(&in_force.effective, &read.effective);
    for (key, secrets) in SECRETS {
        let is_named = changed.iter().any(|key_changed| is_in(key_changed, &[key]));
        if !is_named && secrets(&in_force.config) != secrets(&read.config) {
            changed.insert(format!("{key} (the content of a file)"));
        }
    }
    let (waiting, applied) = changed.into_iter().partition(|key| waits(key));
    // In the order of the documentation, but for routes that wait, which stand together.
    let (new, old) = (read.effective.into_iter(), in_force.effective.iter());
    let mut effective: Vec<_> = new.filter(|value| !waits(&value.key)).collect();
    effective.extend(old.filter(|value| waits(&value.key)).cloned());
    let mut config = kept(&in_force.config, read.config);
    if routes_wait {
        config.routes = in_force.config.routes.clone();
        config.identity = in_force.config.identity.clone();
    }
    Reloaded { loaded: Loaded { config, warnings: read.warnings, effective }, applied, waiting }
}

/// The new configuration with the values of [`RESTART`] that the old one has.
fn kept(old: &Config, mut new: Config) -> Config {
    new.server.listen = old.server.listen.clone();
    new.server.tls = old.server.tls.clone();
    new.admin.listen = old.admin.listen.clone();
    new.nats = old.nats.clone();
    new.streams = old.streams.clone();
    new.history_bytes = old.history_bytes;
    new.presence = old.presence.clone();
    new.log.format = old.log.format;
    let Limits { unsent_buffer, event_bytes, replay_events, replays, memory, .. } = old.limits;
    new.limits = Limits { unsent_buffer, event_bytes, replay_events, replays, memory, ..new.limits };
    new
}

/// Whether metrics, feeds and frames that were made for one table fit the other.
fn same_shape(old: &RouteTable, new: &RouteTable) -> bool {
    let shape = |table: &RouteTable| -> Vec<_> {
        table.routes.iter().map(|route| (route.path.clone(), route.stream, route.format, route.hears_live())).collect()
    };
    shape(old) == shape(new) && old.streams == new.streams && old.formats == new.formats
}

/// Keys that stand in one only, or with another value.
fn changed(old: &[Effective], new: &[Effective]) -> BTreeSet<String> {
    let values = |list: &[Effective]| -> HashMap<String, String> {
        list.iter().map(|value| (value.key.clone(), value.value.clone())).collect()
    };
    let (old, new) = (values(old), values(new));
    old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

/// Whether a key is one of these, or stands in one of these tables.
fn is_in(key: &str, names: &[&str]) -> bool {
    names
        .iter()
        .any(|name| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', ' '])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load_text};

    const FILE: &str = r#"
        [server]
        listen = ["127.0.0.1:0"]
        hosts = ["a.example"]
        [[route]]
        path = "/events"
        stream = "EVENTS"
        subjects = ["events.user.{user}.>"]
    "#;

    fn loaded(text: &str) -> Loaded {
        load_text("test.toml", text, &Sources::default()).expect("a configuration")
    }

    /// What reading `FILE` again gives once these words in it have become others.
    fn again(changes: &[(&str, &str)]) -> Reloaded {
        let text = changes.iter().fold(FILE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        reload(&loaded(FILE), loaded(&text))
    }

    #[test]
    fn every_name_is_a_key_or_a_table() {
        let all = loaded(&format!("{FILE}\n[[stream]]\nname = \"EVENTS\"\nsubjects = [\"events.>\"]\n")).effective;
        for name in RESTART.into_iter().chain(SHAPE) {
            // Tables that are absent by default are not among the effective values.
            let known = all.iter().any(|value| is_in(&value.key.replace("[0]", ""), &[name])) || name == "server.tls";
            assert!(known, "{name}");
        }
    }

    #[test]
    fn what_is_asked_for_each_request_is_applied() {
        let done = again(&[("a.example", "b.example"), ("events.user", "events.people")]);
        assert_eq!(done.applied, ["route[0].subjects", "server.hosts"]);
        assert!(done.waiting.is_empty());
        assert_eq!(done.loaded.config.server.hosts, ["b.example"]);
        assert!(again(&[]).applied.is_empty());
    }

    #[test]
    fn what_the_process_was_built_from_waits_and_is_named_again() {
        let text = FILE.replace("127.0.0.1:0", "127.0.0.2:0").replace("a.example", "b.example");
        let done = reload(&loaded(FILE), loaded(&text));
        assert_eq!((done.applied, done.waiting), (vec!["server.hosts".to_owned()], vec!["server.listen".to_owned()]));
        assert_eq!(done.loaded.config.server.listen, loaded(FILE).config.server.listen);
        let once_more = reload(&done.loaded, loaded(&text));
        assert_eq!((once_more.applied, once_more.waiting), (Vec::new(), vec!["server.listen".to_owned()]));
    }

    /// The feed of core subjects encodes for the routes that listened to it when it began.
    #[test]
    fn a_route_that_begins_or_ends_to_hear_live_waits() {
        let live = ("path = \"/events\"", "path = \"/events\"\n live_subjects = [\"typing.{user}\"]");
        let done = again(&[live]);
        assert_eq!((done.applied, done.waiting), (Vec::new(), vec!["route[0].live_subjects".to_owned()]));
        assert!(done.loaded.config.routes.routes[0].live_subjects.is_empty());
        let live = FILE.replace(live.0, live.1);
        let other = reload(&loaded(&live), loaded(&live.replace("typing.", "moving.")));
        assert_eq!((other.applied, other.waiting), (vec!["route[0].live_subjects".to_owned()], Vec::new()));
        assert_eq!(reload(&loaded(&live), loaded(FILE)).waiting, ["route[0].live_subjects"]);
    }

    #[test]
    fn a_secret_whose_file_holds_another_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("secret");
        let text = format!("{FILE}\n[trust]\nproxies = [\"10.0.0.1\"]\nsecret_files = [{file:?}]\n");
        std::fs::write(&file, "the-secret-before").expect("written");
        let before = loaded(&text);
        std::fs::write(&file, "the-secret-behind").expect("written");
        let done = reload(&before, loaded(&text));
        assert_eq!(done.applied, ["trust.secret_files (the content of a file)"]);
        assert!(reload(&done.loaded, loaded(&text)).applied.is_empty());
    }

    #[test]
    fn what_is_in_the_shape_of_a_route_waits() {
        for (key, change) in [
            ("route[0].path", "/rooms"),
            ("route[0].stream", "OTHER"),
            ("route[0].event", "EVENTS\"\nevent = \"note"),
            ("route[0].payload", "EVENTS\"\npayload = \"base64"),
        ] {
            let from = if key == "route[0].path" { "/events" } else { "EVENTS" };
            let done = again(&[(from, change)]);
            assert_eq!((done.waiting, done.applied), (vec![key.to_owned()], Vec::new()));
            assert!(needs_restart(&key.replace("[0]", "")));
        }
        assert!(!needs_restart("route.subjects") && !needs_restart("server.hosts"));
    }

    #[test]
    fn routes_of_another_shape_wait_together_with_what_their_templates_name() {
        let other =
            "[[route]]\n path = \"/rooms\"\n live_subjects = [\"rooms.{user}\"]\n[[route]]\n path = \"/events\"";
        let done = again(&[("[[route]]\n        path = \"/events\"", other), ("a.example", "b.example")]);
        assert_eq!(done.applied, ["server.hosts"]);
        assert!(done.waiting.iter().any(|key| key == "route[1].path"), "{:?}", done.waiting);
        assert_eq!(done.loaded.config.routes.routes.len(), 1);
    }
}
