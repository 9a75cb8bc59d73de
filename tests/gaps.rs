//! Every way in which events can be missing, met by every way to come past the place: connected all the time, resuming from
//! memory, from a pass over the stream, and at a sidecar that has just been started.
//!
//! The stream itself is the oracle: after a removal it is asked which sequences are left, and what each client must see
//! follows from that alone. A hole is one gap, directly before the next event, with the reason, with `after` and `next`
//! around exactly what the client misses, and with an id from which a further resume is exact. Where nothing is missing
//! there is none. What replaces a single message live (`oversize`, `undecodable`) and cursors that cannot be placed at all
//! are also in `stream.rs`.

mod support;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use futures_util::future::join_all;
use support::proxy::Proxy;
use support::{
    App, Config, DEADLINE, Event, Nats, Publisher, Sse, Version, eventually, get, json, on_both_servers, seq_of,
};

/// Messages before the client goes away, and in all.
const HALF: u64 = 20;
const ALL: u64 = 40;
/// Some fifteen of them fit in the smallest history.
const MESSAGE_BYTES: usize = 4096;
const SMALL_HISTORY: &str = "\n[history]\nbytes = \"64KiB\"\n";
const HEAL: Duration = Duration::from_secs(20);
/// Read, but not delivered: larger than `limits.event_bytes`.
const OVERSIZE: u64 = 7;
/// Read, but not delivered: not UTF-8.
const UNDECODABLE: u64 = 9;

/// Where the clients stand that come back.
const CURSORS: [u64; 12] = [0, 1, 5, 6, 7, 8, 13, 19, 20, 21, 30, 40];

/// How messages go.
#[derive(Debug, Clone, Copy)]
enum Removal {
    /// None does.
    Nothing,
    /// A limit of the stream removes the oldest.
    MaxMessages,
    MaxBytes,
    MaxAge,
    /// A limit of the stream removes all of a subject but the last: every other message.
    PerSubject,
    /// Somebody purges the oldest, a subject, or everything.
    PurgeOldest,
    PurgeSubject,
    PurgeAll,
    /// Somebody deletes these.
    Delete(&'static [u64]),
    /// A message in the first half cannot be delivered.
    Unsendable,
}

/// What removes only what is older than the smallest history.
const OLD: [Removal; 11] = [
    Removal::Nothing,
    Removal::MaxMessages,
    Removal::MaxBytes,
    Removal::MaxAge,
    Removal::PurgeOldest,
    Removal::Delete(&[1]),
    Removal::Delete(&[6]),
    Removal::Delete(&[7]),
    Removal::Delete(&[6, 7, 8]),
    Removal::Delete(&[2, 3, 5, 9, 10, 12, 13, 14, 15]),
    Removal::Unsendable,
];
/// What also removes younger ones.
const YOUNG: [Removal; 9] = [
    Removal::PerSubject,
    Removal::PurgeSubject,
    Removal::PurgeAll,
    Removal::Delete(&[21]),
    Removal::Delete(&[22, 24, 25, 30, 31, 32]),
    Removal::Delete(&[40]),
    Removal::Delete(&[38, 39, 40]),
    Removal::Delete(&[20, 21, 36, 37, 40]),
    // More than the smallest history has room for: such a log begins inside the hole.
    Removal::Delete(&[22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]),
];

impl Removal {
    fn config(self) -> stream::Config {
        let mut config =
            stream::Config { name: "EVENTS".into(), subjects: vec!["events.>".into()], ..Default::default() };
        match self {
            Self::MaxMessages => config.max_messages = 20,
            Self::MaxBytes => config.max_bytes = 90_000,
            Self::MaxAge => config.max_age = Duration::from_millis(500),
            Self::PerSubject => config.max_messages_per_subject = 1,
            _ => {}
        }
        config
    }

    /// What clients are told of removed messages.
    fn reason(self) -> &'static str {
        match self {
            Self::MaxMessages | Self::MaxBytes | Self::PerSubject => "retention",
            // Also after `MaxAge`: that limit is not in force any more, and the one that is explains nothing.
            _ => "purged",
        }
    }

    fn message(self, seq: u64) -> (String, Vec<u8>) {
        // Every second message on one subject, all others on one each.
        let subject =
            if seq.is_multiple_of(2) { "events.user.alice.even".into() } else { format!("events.user.alice.{seq}") };
        let mut data = format!("{seq} {}", "x".repeat(MESSAGE_BYTES)).into_bytes();
        match (self, seq) {
            (Self::Unsendable, OVERSIZE) => data.resize(2 * MESSAGE_BYTES, b'x'),
            (Self::Unsendable, UNDECODABLE) => data.push(0xff),
            _ => {}
        }
        (subject, data)
    }
}

/// A stream in the making, and what its clients must see.
struct Stage {
    removal: Removal,
    jetstream: jetstream::Context,
    publisher: Publisher,
}

impl Stage {
    async fn new(nats: &Nats, removal: Removal) -> Self {
        let jetstream = nats.jetstream().await;
        let _ = jetstream.delete_stream("EVENTS").await;
        // A current server may still be removing the files of the stream before, and then fails to make new ones.
        eventually("the stream is created", DEADLINE, async || jetstream.create_stream(removal.config()).await.ok())
            .await;
        Self { removal, jetstream, publisher: nats.publisher().await }
    }

    async fn publish(&self, seqs: RangeInclusive<u64>) {
        self.publisher.publish_all(seqs.map(|seq| self.removal.message(seq))).await;
    }

    async fn request(&self, subject: &str, order: serde_json::Value) -> serde_json::Value {
        let answer: serde_json::Value = self.jetstream.request(subject.to_owned(), &order).await.expect("an answer");
        assert!(answer.get("error").is_none(), "{answer}");
        answer
    }

    /// What goes before the second half is published: a limit in time.
    async fn age(&self) {
        if !matches!(self.removal, Removal::MaxAge) {
            return;
        }
        eventually("the first half is too old", DEADLINE, async || (self.left().await.is_empty()).then_some(())).await;
        let config = stream::Config { max_age: Duration::from_secs(3600), ..self.removal.config() };
        self.jetstream.update_stream(config).await.expect("the stream is updated");
    }

    /// What goes when everything has been published. A limit is then raised by one message: the one that comes later removes
    /// nothing.
    async fn remove(&self) {
        let config = self.removal.config();
        let raised = match self.removal {
            Removal::MaxMessages => Some(stream::Config { max_messages: 21, ..config }),
            Removal::MaxBytes => Some(stream::Config { max_bytes: 95_000, ..config }),
            _ => None,
        };
        if let Some(raised) = raised {
            self.jetstream.update_stream(raised).await.expect("the stream is updated");
        }
        match self.removal {
            Removal::PurgeOldest => self.publisher.purge_keeping("EVENTS", 22).await,
            Removal::PurgeAll => self.publisher.purge_keeping("EVENTS", 0).await,
            Removal::PurgeSubject => {
                let order = serde_json::json!({"filter": "events.user.alice.even"});
                self.request("STREAM.PURGE.EVENTS", order).await;
            }
            Removal::Delete(seqs) => {
                for seq in seqs {
                    self.publisher.delete_message("EVENTS", *seq).await;
                }
            }
            _ => {}
        }
    }

    /// The sequences that the stream still has.
    async fn left(&self) -> Vec<u64> {
        let info = self.request("STREAM.INFO.EVENTS", serde_json::json!({"deleted_details": true})).await;
        let state = &info["state"];
        let number = |key: &str| state[key].as_u64().unwrap_or_default();
        let deleted: Vec<u64> = serde_json::from_value(state["deleted"].clone()).unwrap_or_default();
        (number("first_seq").max(1)..=number("last_seq")).filter(|seq| !deleted.contains(seq)).collect()
    }

    /// What a client that has everything up to `after` must see of these, which are left.
    fn expected(&self, after: u64, left: &[u64]) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut at = after;
        for seq in left.iter().copied().filter(|seq| *seq > after) {
            if seq > at + 1 {
                seen.push(Seen::Gap { after: at, next: seq, reason: self.removal.reason().into() });
            }
            let gap = |reason: &str| Seen::Gap { after: seq - 1, next: seq + 1, reason: reason.into() };
            seen.push(match (self.removal, seq) {
                (Removal::Unsendable, OVERSIZE) => gap("oversize"),
                (Removal::Unsendable, UNDECODABLE) => gap("undecodable"),
                _ => Seen::Event(seq),
            });
            at = seq;
        }
        seen
    }
}

/// What a client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Event(u64),
    Gap { after: u64, next: u64, reason: String },
}

/// Reads up to and with a sequence. Gives the id of each gap too, by its place.
async fn read(sse: &mut Sse, last: u64) -> (Vec<Seen>, Vec<String>) {
    let (mut seen, mut ids) = (Vec::new(), Vec::new());
    loop {
        let event = sse.event_within(HEAL).await;
        match event.name.as_str() {
            "sidestream.degraded" | "sidestream.ok" => continue,
            "sidestream.gap" => {
                let told = json(&event);
                assert_eq!(told["stream"], "EVENTS", "{told}");
                let number = |key: &str| told[key].as_u64().unwrap_or_else(|| panic!("no {key} in {told}"));
                let (after, next) = (number("after"), number("next"));
                let id = event.id.clone().unwrap_or_else(|| panic!("no id: {event:?}"));
                assert_eq!(seq_of(&id), next - 1, "the id is the place to go on from: {event:?}");
                seen.push(Seen::Gap { after, next, reason: told["reason"].as_str().unwrap_or_default().to_owned() });
                ids.push(id);
            }
            _ => {
                let seq = number(&event);
                assert_eq!(event.id.as_deref().map(seq_of), Some(seq), "{:.40}", event.data);
                seen.push(Seen::Event(seq));
                if seq == last {
                    return (seen, ids);
                }
            }
        }
    }
}

fn number(event: &Event) -> u64 {
    event.data.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("not numbered: {event:?}"))
}

/// Clients come back from every cursor, and from every gap that they are told of, and see exactly what is left.
async fn all_resume(what: &str, app: &App, stage: &Stage, ids: &BTreeMap<u64, String>, left: &[u64]) {
    let last = *left.last().expect("the marker");
    for (after, id) in ids.iter().filter(|(after, _)| CURSORS.contains(after)) {
        let what = format!("{what}, {:?}, cursor at {after}", stage.removal);
        let further = resumes(&what, app, id, &stage.expected(*after, left), last).await;
        for id in further {
            let after = seq_of(&id);
            let further =
                resumes(&format!("{what}, again at {after}"), app, &id, &stage.expected(after, left), last).await;
            assert!(further.iter().all(|id| seq_of(id) > after), "{what}: the gap was declared again");
        }
    }
}

async fn resumes(what: &str, app: &App, id: &str, expected: &[Seen], last: u64) -> Vec<String> {
    let mut sse = app.stream(get("/events").user("alice").header("Last-Event-ID", id)).await;
    sse.forget_raw();
    let resume = sse.resume();
    if expected.is_empty() {
        assert_eq!(resume, "exact", "{what}");
        return Vec::new();
    }
    let (seen, ids) = read(&mut sse, last).await;
    assert_eq!(seen, expected, "{what}, {resume}");
    let gap_first = matches!(expected[0], Seen::Gap { ref reason, .. } if reason == "purged" || reason == "retention");
    assert_eq!(resume, if gap_first { "gap" } else { "exact" }, "{what}: {:?}", expected[0]);
    ids
}

/// A client hears each of these as it is published; its cursors by sequence, with the one that it has before.
async fn hears(alice: &mut Sse, stage: &Stage, seqs: RangeInclusive<u64>) -> BTreeMap<u64, String> {
    let before = alice.last_event_id().to_owned();
    let mut ids = BTreeMap::from([(seq_of(&before), before)]);
    for seq in seqs {
        stage.publish(seq..=seq).await;
        let id = alice.event_within(HEAL).await.id.expect("an id");
        assert_eq!(seq_of(&id), seq, "{:?}", stage.removal);
        ids.insert(seq, id);
    }
    ids
}

fn config(nats: &str, history: &str) -> Config {
    let config = Config { drain_window: "50ms", ..Config::at(nats) };
    config.limit("event_bytes", "\"6KiB\"").tables(history)
}

fn all() -> impl Iterator<Item = Removal> {
    OLD.into_iter().chain(YOUNG)
}

/// A sidecar reads the whole; then messages go. Gives the cursors of a client that heard everything.
async fn read_then_removed(app: &App, stage: &Stage) -> BTreeMap<u64, String> {
    let mut alice = app.events("alice").await;
    let mut ids = hears(&mut alice, stage, 1..=HALF).await;
    stage.age().await;
    ids.extend(hears(&mut alice, stage, HALF + 1..=ALL).await);
    stage.remove().await;
    ids
}

async fn a_fresh_sidecar(version: Version, history: &str) {
    in_lanes(version, all(), async |nats, removal| {
        let stage = Stage::new(nats, removal).await;
        let ids = {
            let app = App::start(&config(&nats.url(), "")).await;
            read_then_removed(&app, &stage).await
        };
        let app = App::start(&config(&nats.url(), history)).await;
        // First those who meet the stream as it is, then again with a live event behind it.
        let mut waiting = Vec::new();
        for (after, id) in ids.iter().filter(|(after, _)| CURSORS.contains(after)) {
            waiting.push((*after, app.stream(get("/events").user("alice").header("Last-Event-ID", id)).await));
        }
        stage.publish(ALL + 1..=ALL + 1).await;
        let left = stage.left().await;
        for (after, mut sse) in waiting {
            let (seen, _) = read(&mut sse, ALL + 1).await;
            assert_eq!(seen, stage.expected(after, &left), "waiting, {removal:?}, cursor at {after}, {}", sse.resume());
        }
        all_resume("fresh", &app, &stage, &ids, &left).await;
    })
    .await;
}

/// Runs these side by side, as they mostly wait: each lane has a server of its own.
async fn in_lanes(version: Version, removals: impl Iterator<Item = Removal>, test: impl AsyncFn(&Nats, Removal)) {
    const LANES: usize = 4;
    let removals: Vec<_> = removals.collect();
    join_all((0..LANES).map(async |lane| {
        let nats = Nats::start(version).await;
        for removal in removals.iter().skip(lane).step_by(LANES) {
            test(&nats, *removal).await;
        }
    }))
    .await;
}

on_both_servers! {
    async fn what_went_while_a_connected_clients_sidecar_was_cut_off(version: Version) {
        in_lanes(version, all(), async |nats, removal| {
            let stage = Stage::new(nats, removal).await;
            let proxy = Proxy::to(nats.address()).await;
            let app = App::start(&config(&format!("nats://{}", proxy.address), "")).await;
            let mut alice = app.events("alice").await;
            let ids = hears(&mut alice, &stage, 1..=HALF).await;
            proxy.close();
            alice.until_named("sidestream.degraded", DEADLINE).await;
            stage.age().await;
            stage.publish(HALF + 1..=ALL).await;
            stage.remove().await;
            proxy.open();
            let opened = || app.log_json().iter().filter(|line| line["message"] == "Feed open").count();
            eventually("the feed is open again", HEAL, async || (opened() > 1).then_some(())).await;
            stage.publish(ALL + 1..=ALL + 1).await;

            let mut left = stage.left().await;
            let expected = stage.expected(HALF, &left);
            let (seen, _) = read(&mut alice, ALL + 1).await;
            assert_eq!(seen, expected, "connected, {removal:?}");
            // What was read before the cut is still in memory, unless a new log has begun.
            if app.log_json().iter().all(|line| line["start"] != "Skipped") {
                left.retain(|seq| *seq > HALF);
                left.splice(0..0, 1..=HALF);
            }
            all_resume("after a cut", &app, &stage, &ids, &left).await;
        })
        .await;
    }

    async fn what_memory_holds_is_served_whatever_went_since(version: Version) {
        in_lanes(version, all(), async |nats, removal| {
            let stage = Stage::new(nats, removal).await;
            let app = App::start(&config(&nats.url(), "")).await;
            let ids = read_then_removed(&app, &stage).await;
            stage.publish(ALL + 1..=ALL + 1).await;
            let left: Vec<u64> = (1..=ALL + 1).collect();
            all_resume("memory", &app, &stage, &ids, &left).await;
        })
        .await;
    }

    async fn what_is_older_than_memory_and_went_is_declared(version: Version) {
        in_lanes(version, OLD.into_iter(), async |nats, removal| {
            let stage = Stage::new(nats, removal).await;
            let app = App::start(&config(&nats.url(), SMALL_HISTORY)).await;
            let ids = read_then_removed(&app, &stage).await;
            stage.publish(ALL + 1..=ALL + 1).await;
            let left = stage.left().await;
            let old = ids.into_iter().filter(|(after, _)| *after <= HALF).collect();
            all_resume("pass", &app, &stage, &old, &left).await;
        })
        .await;
    }

    async fn what_went_before_a_sidecar_started_is_declared(version: Version) {
        a_fresh_sidecar(version, "").await;
    }

    async fn what_went_before_a_sidecar_with_a_small_history_started_is_declared(version: Version) {
        a_fresh_sidecar(version, SMALL_HISTORY).await;
    }

    async fn cursors_of_nowhere_are_declared_and_all_that_is_held_follows(version: Version) {
        let nats = Nats::start(version).await;
        let stage = Stage::new(&nats, Removal::Nothing).await;
        let running = App::start(&config(&nats.url(), SMALL_HISTORY)).await;
        let ids = read_then_removed(&running, &stage).await;
        let fresh = App::start(&config(&nats.url(), "")).await;
        let fresh_and_small = App::start(&config(&nats.url(), SMALL_HISTORY)).await;
        let apps = [("running", &running), ("fresh", &fresh), ("fresh and small", &fresh_and_small)];
        join_all(apps.map(async |(what, app)| {
            for (reason, id) in of_nowhere(&ids) {
                let what = format!("{what}, {reason}, {id}");
                let mut sse = app.stream(get("/events").user("alice").header("Last-Event-ID", &id)).await;
                assert_eq!(sse.resume(), "gap", "{what}");
                let gap = sse.event().await;
                let told = json(&gap);
                assert_eq!((gap.name.as_str(), &told["reason"]), ("sidestream.gap", &reason.into()), "{what}");
                // No sequence of another life, or of no life, means anything here.
                assert!(told["after"].is_null() && told["stream"] == "EVENTS", "{what}: {told}");
                let next = told["next"].as_u64().unwrap_or_else(|| panic!("{what}: no next in {told}"));
                let from = gap.id.expect("the place to go on from");
                assert_eq!(seq_of(&from), next - 1, "{what}");
                for seq in next..=ALL {
                    assert_eq!(number(&sse.event().await), seq, "{what}");
                }
                if next <= ALL {
                    let left: Vec<u64> = (1..=ALL).collect();
                    resumes(&what, app, &from, &stage.expected(next - 1, &left), ALL).await;
                }
            }
        }))
        .await;
    }
}

/// Cursors that cannot be placed, and what is to be told of them.
fn of_nowhere(ids: &BTreeMap<u64, String>) -> Vec<(&'static str, String)> {
    let mut cursors = vec![("cursor_unknown", "17".to_owned())];
    // Young enough to be in every memory, in some, and in none but the stream.
    for seq in [38, 5] {
        let id = &ids[&seq];
        let (epoch, rest) = id.split_once('.').expect("three parts");
        let (seq, time) = rest.split_once('.').expect("three parts");
        let other = |text: &str| format!("{}{}", if text.starts_with('1') { "2" } else { "1" }, &text[1..]);
        cursors.push(("reset", format!("{}.{seq}.{time}", other(epoch))));
        cursors.push(("reset", format!("{epoch}.{seq}.{}", other(time))));
    }
    // Above the head, for which it must wait.
    let (epoch, _) = ids[&38].split_once('.').expect("three parts");
    cursors.push(("reset", format!("{epoch}.zzz.1")));
    cursors
}
