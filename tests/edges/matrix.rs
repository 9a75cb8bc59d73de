//! Every trick at every proxy: what arrives behind it, and who is served.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;

use crate::attempt::Attempt;
use crate::front::Front;
use crate::kind::Kind;
use crate::outcome::{Arrival, OF_ALICE, Outcome};
use crate::support::edge::Edge;
use crate::tap::{Reply, Tap};
use crate::tricks::{Row, Section};

/// Whose events a stream might bring.
const CANARIES: [(&str, &str); 7] = [
    ("alice", "events.user.alice.canary"),
    ("mallory", "events.user.mallory.canary"),
    ("admin", "events.user.admin.canary"),
    ("acme", "events.tenant.acme.canary"),
    ("evil", "events.tenant.evil.canary"),
    ("apollo", "events.project.apollo.canary"),
    ("manhattan", "events.project.manhattan.canary"),
];
/// What is published after them, to everybody.
const MARKER: &str = "the-canaries-have-sung";

/// Attempts under way at the same time: some proxies take a second to close.
const AT_ONCE: usize = 400;

/// How often one is asked again that has said nothing.
const ASKED_AGAIN: usize = 3;

/// What became of one attempt at one proxy.
pub struct Cell {
    /// The answer.
    pub outcome: Outcome,
    /// What arrived beside what an honest request brings; `None` where nothing did, or nobody looked.
    pub arrived: Option<Vec<String>>,
}

/// Makes every attempt at one proxy. Gives a cell for each row, in order.
pub async fn measure(front: &Front, sections: &[Section]) -> Vec<Cell> {
    let rows: Vec<&Row> = sections.iter().flat_map(|section| &section.rows).collect();
    let arrivals = arrivals(front, &rows).await;
    let outcomes = outcomes(front, &rows).await;
    if front.kind.is_shipped() {
        decisions_are_about_credentials_only(front);
    }
    let honest = honest(front, &rows, &arrivals);
    for ((row, outcome), arrival) in rows.iter().zip(&outcomes).zip(&arrivals) {
        nobody_else_is_served(front.kind, row, outcome, arrival.as_ref());
        if let (Some(arrival), Some(honest), true) = (arrival, &honest, front.kind.is_shipped()) {
            nothing_of_the_clients_arrives(front.kind, row, arrival, honest);
        }
    }
    let beside =
        arrivals.into_iter().map(|arrival| arrival.map(|arrival| arrival.beside(honest.as_ref().expect("arrives"))));
    outcomes.into_iter().zip(beside).map(|(outcome, arrived)| Cell { outcome, arrived }).collect()
}

/// The assertion of every row.
fn nobody_else_is_served(kind: Kind, row: &Row, outcome: &Outcome, arrival: Option<&Arrival>) {
    let what = format!("{kind:?}, {}, {:?}: {outcome}; {arrival:?}", row.trick, row.header.map(|header| header.name));
    let is_alice = outcome.served().iter().all(|whose| OF_ALICE.contains(whose));
    if kind.is_shipped() {
        assert!(is_alice, "somebody else is served: {what}");
    } else if !is_alice {
        // Such a proxy proves what the client says. All that can be asked is that nothing ambiguous is believed.
        let arrival = arrival.expect("looked at");
        for name in ["X-Forwarded-User", "X-Tenant", "X-Sidestream-Subjects"] {
            assert!(arrival.values(name).len() <= 1, "one of several was believed: {what}");
        }
        assert_eq!(arrival.values("X-Forwarded-User").len(), 1, "an alias was believed: {what}");
    }
}

/// What the application was asked by (CVE-2026-40575): the credentials, where it is from and where it goes, and nothing
/// that a client could have made up to move the decision.
fn decisions_are_about_credentials_only(front: &Front) {
    // Lengths and what begins with `x-envoy` are Envoy's own, the name of a program is Caddy's.
    const TOLD: [&str; 9] = [
        "host",
        "cookie",
        "authorization",
        "connection",
        "x-forwarded-for",
        "x-original-uri",
        "content-length",
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-internal",
    ];
    let heads = front.application.take_heads();
    let questions = front.kind.asks().unwrap_or("/auth");
    let is_question = |head: &&String| {
        let path = head.split([' ', '?']).nth(1).unwrap_or_default();
        // Envoy puts the client's path behind it; /events and more is a page.
        path == questions || questions == "/auth" && path.starts_with("/auth/")
    };
    let asked: Vec<_> = heads.iter().filter(is_question).collect();
    assert_eq!(asked.is_empty(), front.kind.asks().is_none(), "{:?}: {} questions", front.kind, asked.len());
    for head in asked {
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            let own = name == "User-Agent" && value == "Go-http-client/1.1";
            let told = own || TOLD.iter().any(|told| name.eq_ignore_ascii_case(told));
            let forged = name.eq_ignore_ascii_case("x-forwarded-for") && value.contains("192.0.2.66");
            assert!(told && !forged, "{:?} asks the application with {name:?}: {head}", front.kind);
        }
    }
}

/// What says who it is, behind a proxy that is configured well: what the application said, or nothing.
fn nothing_of_the_clients_arrives(kind: Kind, row: &Row, arrival: &Arrival, honest: &Arrival) {
    let what = format!("{kind:?}, {}, {:?}: {arrival:?}", row.trick, row.header.map(|header| header.name));
    for header in crate::tricks::headers() {
        let values = arrival.values(header.name);
        if header.name == "X-Jwt-Payload" && values.iter().eq(&row.attempt.session.payload()) {
            continue;
        }
        // An application that names subjects names fewer where it knows less.
        let part =
            |of: &String| honest.values(header.name).iter().any(|all| of.split(", ").all(|one| all.contains(one)));
        let fewer = header.name == "X-Sidestream-Subjects" && values.len() == 1 && values.iter().all(part);
        assert!(
            values.is_empty() || fewer || values == honest.values(header.name),
            "a client's own {}: {what}",
            header.name
        );
    }
    for secret in ["cookie", "authorization"] {
        assert!(arrival.values(secret).is_empty(), "{secret} arrives: {what}");
    }
}

/// What an honest request of the same protocol brings. On HTTP/2 Envoy says so to its upstream.
fn honest(front: &Front, rows: &[&Row], arrivals: &[Option<Arrival>]) -> Option<Arrival> {
    let at = rows.iter().position(|row| row.trick == "an honest request").expect("a row of its own");
    let arrival = arrivals[at].clone();
    assert!(arrival.is_some() || front.kind == Kind::EnvoyH2, "an honest request arrives");
    arrival
}

/// Sends every attempt to a proxy whose upstream writes everything down.
async fn arrivals(front: &Front, rows: &[&Row]) -> Vec<Option<Arrival>> {
    if front.kind == Kind::EnvoyH2 {
        // The recorder does not read HTTP/2.
        return rows.iter().map(|_| None).collect();
    }
    let (recorder, edge) = front.recorded().await;
    let mut arrivals: Vec<Option<Arrival>> = rows.iter().map(|_| None).collect();
    let (marked, others): (Vec<_>, Vec<_>) =
        rows.iter().map(|row| row.attempt.clone()).enumerate().partition(|(_, attempt)| attempt.can_be_marked());
    // At once, told apart by a mark in the query.
    let attempts = marked.into_iter().map(|(at, attempt)| attempted(front, &edge, attempt.marked(at)));
    futures_util::stream::iter(attempts).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    for bytes in recorder.take().await {
        let (arrival, mark) = Arrival::read(&bytes).unmarked();
        let place = &mut arrivals[mark.unwrap_or_else(|| panic!("{:?}: whose is {arrival:?}?", front.kind))];
        assert!(place.is_none(), "{:?}: several requests of one: {arrival:?}", front.kind);
        *place = Some(arrival);
    }
    // One after the other, where the path is the trick.
    for (at, attempt) in others {
        attempted(front, &edge, attempt).await;
        let mut requests = recorder.take().await;
        assert!(requests.len() <= 1, "{:?}, {}: several requests of one", front.kind, rows[at].trick);
        arrivals[at] = requests.pop().map(|bytes| Arrival::read(&bytes));
    }
    arrivals
}

/// Sends every attempt to sidestream, keeps the streams, and sees what they bring.
async fn outcomes(front: &Front, rows: &[&Row]) -> Vec<Outcome> {
    let attempts = rows.iter().map(|row| attempted(front, &front.edge, row.attempt.clone()));
    let opened: Vec<(Reply, Tap)> = futures_util::stream::iter(attempts).buffered(AT_ONCE).collect().await;
    let publisher = front.nats.publisher().await;
    for (whose, subject) in CANARIES {
        publisher.publish(subject, canary(whose)).await;
    }
    publisher.publish("events.broadcast.marker", MARKER).await;
    let mut outcomes = Vec::with_capacity(opened.len());
    for (reply, tap) in opened {
        outcomes.push(match reply {
            Reply::Stream => Outcome::Served(heard(tap).await),
            _ => Outcome::of(&reply),
        });
    }
    outcomes
}

/// Under load Caddy can give up what it passes on, and end it with an empty 200: asked again, it says what was answered. Where
/// that is the answer, it stays.
async fn attempted(front: &Front, edge: &Edge, attempt: Attempt) -> (Reply, Tap) {
    let says_nothing = |reply: &Reply| front.kind == Kind::Caddy && *reply == Reply::Answer(200, String::new());
    let mut answered = front.attempt_at(edge, &attempt).await;
    for _ in 0..ASKED_AGAIN {
        if !says_nothing(&answered.0) {
            break;
        }
        answered = front.attempt_at(edge, &attempt).await;
    }
    answered
}

fn canary(whose: &str) -> String {
    format!("canary-of-{whose}-")
}

/// Whose canaries a stream has brought by the time of the marker.
async fn heard(mut tap: Tap) -> BTreeSet<&'static str> {
    let body = tap.until(MARKER).await;
    CANARIES.iter().map(|(whose, _)| *whose).filter(|whose| body.contains(&canary(whose))).collect()
}
