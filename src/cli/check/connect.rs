//! `check --connect`: whether the NATS server is one the configuration will work on.
//!
//! Reachable, its version, each stream there with `limits` retention, with the subjects its `[[stream]]` states and
//! capturing what the routes name, and the permissions the feed needs, each tried as the feed would use it.

use std::collections::BTreeSet;

use crate::cli::exit::Exit;
use crate::cli::runtime;
use crate::config::{self, Config};
use crate::feed::api::{self, ApiError, StreamInfo};
use crate::feed::connection::{Connection, Role};
use crate::feed::{privilege, version};
use crate::subject::Pattern;

/// What was found; lines go to standard output, faults and warnings to standard error. All of it may hold what a server
/// wrote.
struct Findings<'c> {
    config: &'c Config,
    worst: Option<Exit>,
}

impl<'c> Findings<'c> {
    fn new(config: &'c Config) -> Self {
        Self { config, worst: None }
    }

    fn fine(&self, text: &str) {
        println!("{}", runtime::shown(self.config, &text));
    }

    fn warning(&self, text: &str) {
        eprintln!("warning: {}", runtime::shown(self.config, &text));
    }

    fn fault(&mut self, exit: Exit, text: &str) {
        eprintln!("error: {}", runtime::shown(self.config, &text));
        self.worst.get_or_insert(exit);
    }
}

/// Checks everything and reports all of it.
pub(super) async fn run(config: &Config) -> Exit {
    let connection = match runtime::connect(config, Role::Control).await {
        Ok(connection) => connection,
        Err(exit) => return exit,
    };
    let version = connection.client.server_info().version;
    let mut findings = Findings::new(config);
    findings.fine(&format!("NATS {version} is reachable"));
    if version::is_outdated(&version) {
        let patched = version::PATCHED_TEXT;
        findings.warning(&format!("NATS {version} has known security faults; {patched} and newer have not"));
    }
    for (index, stream) in config.routes.streams.iter().enumerate() {
        let info = match api::stream_info(&connection.client, stream).await {
            Ok(info) => info,
            Err(error) => {
                no_info(&mut findings, config, stream, &error);
                continue;
            }
        };
        let (messages, first, last) = (info.state.messages, info.state.first_seq, info.state.last_seq);
        findings.fine(&format!("stream {stream}: {messages} messages, {first} to {last}"));
        stated(&mut findings, config, stream, &info);
        captures(&mut findings, config, index, stream, &info);
        permissions(&mut findings, &connection, stream, &info).await;
    }
    if let Some(presence) = &config.presence {
        for subject in [&*presence.subject, crate::presence::INTERNAL] {
            presence_permissions(&mut findings, &connection, subject).await;
        }
    }
    for may in privilege::excess(&connection, config).await {
        findings.warning(&format!("more than a sidecar needs: the account may {may}"));
    }
    findings.worst.unwrap_or(Exit::Ok)
}

fn no_info(findings: &mut Findings<'_>, config: &Config, stream: &str, error: &ApiError) {
    let created = config.streams.iter().any(|s| s.name == stream && s.create);
    match error {
        error if error.is_not_found() && created => {
            findings.fine(&format!("stream {stream}: will be created"));
        }
        error if error.is_not_found() => findings.fault(
            Exit::Config,
            &format!("stream {stream} does not exist; create it, or set create = true in its [[stream]]"),
        ),
        ApiError::Unanswered(_) => {
            let text = format!(
                "stream {stream}: no answer; the account needs permission to publish to $JS.API.STREAM.INFO.{stream}"
            );
            findings.fault(Exit::NoPermission, &text);
        }
        error => findings.fault(Exit::Unavailable, &format!("stream {stream}: {error}")),
    }
}

/// Whether the stream is the one that its `[[stream]]` states. One that may be created by us is not compared: as it exists,
/// it is never changed.
fn stated(findings: &mut Findings<'_>, config: &Config, stream: &str, info: &StreamInfo) {
    let is_stated = |s: &&config::Stream| s.name == stream && !s.create && !s.subjects.is_empty();
    let Some(ours) = config.streams.iter().find(is_stated) else { return };
    match compare(ours, &info.config.subjects) {
        Ok(()) => findings.fine(&format!("stream {stream}: its subjects are those configured")),
        Err(text) => findings.fault(Exit::Config, &text),
    }
}

/// Subjects are a set: neither order nor repetition matters.
fn compare(stated: &config::Stream, found: &[String]) -> Result<(), String> {
    let set = |subjects: &[String]| subjects.iter().cloned().collect::<BTreeSet<_>>();
    if set(&stated.subjects) == set(found) {
        return Ok(());
    }
    Err(format!("stream {} has the subjects {found:?}, but its [[stream]] states {:?}", stated.name, stated.subjects))
}

/// Retention, and whether what the routes name is stored there at all.
fn captures(findings: &mut Findings<'_>, config: &Config, index: usize, stream: &str, info: &StreamInfo) {
    if info.config.retention != "limits" {
        let text = format!("stream {stream} has retention `{}`; only `limits` can be replayed", info.config.retention);
        findings.fault(Exit::Config, &text);
    }
    let stored: Vec<Pattern> = info.config.subjects.iter().filter_map(|s| Pattern::parse(s).ok()).collect();
    for route in config.routes.routes.iter().filter(|route| route.stream == Some(index)) {
        for template in &route.subjects {
            let widest = template.widest();
            let place = format!("route {}: `{}`", route.path.as_str(), template.as_str());
            if stored.iter().any(|s| s.contains(&widest)) {
                continue;
            }
            if stored.iter().any(|s| s.overlaps(&widest)) {
                let stored = &info.config.subjects;
                findings.warning(&format!("{place} is stored only in part by stream {stream} {stored:?}"));
            } else {
                let text = format!("{place} is not stored by stream {stream}, which has {:?}", info.config.subjects);
                findings.fault(Exit::Config, &text);
            }
        }
    }
}

/// Opens a consumer as the feed does, and tries the sign the server waits for under load.
async fn permissions(findings: &mut Findings<'_>, connection: &Connection, stream: &str, info: &StreamInfo) {
    let client = &connection.client;
    let inbox = client.new_inbox();
    let Ok(_messages) = client.subscribe(inbox.clone()).await else {
        return findings.fault(Exit::Unavailable, "the subscription for the feed failed");
    };
    match api::consumer_create(client, stream, &inbox, info.state.last_seq + 1).await {
        Ok(consumer) => {
            api::consumer_delete(client, stream, &consumer.name).await;
            findings.fine(&format!("stream {stream}: a consumer can be created"));
        }
        Err(ApiError::Unanswered(_)) => {
            let text =
                format!("stream {stream}: the account needs permission to publish to $JS.API.CONSUMER.CREATE.{stream}");
            findings.fault(Exit::NoPermission, &text);
        }
        Err(error) => findings.fault(Exit::Config, &format!("stream {stream}: no consumer can be created: {error}")),
    }
    if connection.is_denied(api::flow_control_probe(stream)).await {
        let text = format!(
            "stream {stream}: the account needs permission to publish to $JS.FC.{stream}.>, or the feed stalls under load"
        );
        findings.fault(Exit::NoPermission, &text);
    }
    if let Err(ApiError::Unanswered(_)) = api::message_at(client, stream, info.state.last_seq.max(1)).await {
        let text =
            format!("stream {stream}: the account needs permission to publish to $JS.API.STREAM.MSG.GET.{stream}");
        findings.fault(Exit::NoPermission, &text);
    }
}

/// Whether presence can be spoken and heard on one of its subjects.
async fn presence_permissions(findings: &mut Findings<'_>, connection: &Connection, subject: &str) {
    let (publish, subscribe) =
        (connection.is_denied_unstored(subject.to_owned()).await, connection.is_subscription_denied(subject).await);
    for (is_denied, may) in [(publish, "publish"), (subscribe, "subscribe")] {
        if is_denied {
            let text = format!("presence: the account needs permission to {may} to {subject}");
            findings.fault(Exit::NoPermission, &text);
        }
    }
    if !publish && !subscribe {
        findings.fine(&format!("presence: {subject} can be published and heard"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn subjects_are_compared_as_sets() {
        let subjects = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let stream = config::Stream {
            name: "S".into(),
            subjects: subjects(&["a.>", "b"]),
            create: false,
            max_age: Duration::ZERO,
            max_bytes: 0,
        };
        for same in [&["a.>", "b"][..], &["b", "a.>"], &["b", "a.>", "b"]] {
            assert_eq!(compare(&stream, &subjects(same)), Ok(()), "{same:?}");
        }
        for other in [&[][..], &["a.>"], &["a.>", "b", "c"], &["a.*", "b"]] {
            assert!(compare(&stream, &subjects(other)).is_err(), "{other:?}");
        }
        let text = compare(&stream, &subjects(&["c"])).expect_err("they differ");
        assert_eq!(text, r#"stream S has the subjects ["c"], but its [[stream]] states ["a.>", "b"]"#);
    }

    #[test]
    fn only_what_is_stated_of_a_foreign_stream_is_a_fault() {
        let info = r#"{"config": {"retention": "limits", "subjects": ["c"]}, "created": "",
            "state": {"messages": 0, "bytes": 0, "first_seq": 1, "last_seq": 0}}"#;
        let info: StreamInfo = serde_json::from_str(info).expect("an answer");
        let worst = |lines: &str| {
            let text = format!(
                "[[stream]]\nname = \"S\"\n{lines}\n[[route]]\npath = \"/\"\nstream = \"S\"\nsubjects = [\"c\"]\n"
            );
            let loaded = config::load::load_text("test.toml", &text, &config::load::Sources::default());
            let config = loaded.expect("valid").config;
            let mut findings = Findings::new(&config);
            stated(&mut findings, &config, "S", &info);
            findings.worst
        };
        assert_eq!(worst("subjects = [\"d\"]"), Some(Exit::Config));
        assert_eq!(worst("subjects = [\"c\"]"), None);
        assert_eq!(worst("subjects = []"), None);
        assert_eq!(worst("subjects = [\"d\"]\ncreate = true"), None);
    }
}
