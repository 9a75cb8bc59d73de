//! How an explanation looks. Values of headers are shown only where they became an identity; a shared secret never is.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::why::why;
use super::{Explained, Verdict};
use crate::config::Config;
use crate::http::trust::Peer;
use crate::route::Route;
use crate::subject::Pattern;
use crate::text::printable;

/// Lines for people.
pub(super) fn text(config: &Config, explained: &Explained<'_>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<9} {}", printable(value));
    };
    let by_address =
        if explained.admitted { "its address may speak for a user" } else { "its address may not speak for a user" };
    line("peer", &format!("{}; {by_address}", peer(explained.peer)));
    match &explained.identity {
        None => line("identity", "none"),
        Some(identity) => {
            let user = identity.user.as_ref().map_or("no user", |user| user.id.as_str());
            line("identity", &format!("{user}, proven by {}", identity.proof.label()));
            if let Some(user) = identity.user.as_ref().filter(|user| user.token.as_str() != user.id) {
                line("", &format!("in subjects {}", user.token.as_str()));
            }
            identity
                .variables
                .iter()
                .for_each(|(name, token)| line("variable", &format!("{name} = {}", token.as_str())));
            if let Some(left) = identity.expires_in {
                line("expires", &format!("in {} s", left.as_secs()));
            }
        }
    }
    if let Some(asked) = &explained.asked {
        line("route", &route(config, asked.route));
        asked.grant.stream().iter().for_each(|pattern| line("hears", pattern.as_str()));
        asked.grant.live().iter().for_each(|pattern| line("live", pattern.as_str()));
    }
    if let Some(resume) = &explained.resume {
        line("resume", &format!("{}: {}", resume.outcome, resume.why));
    }
    line("answer", &answer(&explained.verdict));
    text
}

/// One object for programs.
pub(super) fn json(config: &Config, explained: &Explained<'_>) -> Value {
    let patterns =
        |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect::<Vec<_>>();
    let (status, code, reason) = match &explained.verdict {
        Verdict::Stream => (Some(200), None, None),
        Verdict::Answered(status) => (Some(*status), None, None),
        Verdict::Refused(refusal) => (Some(refusal.parts().0.as_u16()), Some(refusal.parts().1), Some(why(*refusal))),
        Verdict::Closed => (None, None, Some(CLOSED)),
    };
    json!({
        "answer": {"status": status, "code": code, "why": reason},
        "peer": {"is": peer(explained.peer), "admitted": explained.admitted},
        "client_address": explained.client_address.map(|address| address.to_string()),
        "identity": explained.identity.as_ref().map(|identity| json!({
            "proof": identity.proof.label(),
            "user": identity.user.as_ref().map(|user| user.id.as_str()),
            "token": identity.user.as_ref().map(|user| user.token.as_str()),
            "variables": identity.variables.iter().map(|(name, token)| (name.clone(), token.as_str().into())).collect::<serde_json::Map<_, Value>>(),
            "subjects": patterns(&identity.subjects),
            "expires_in_seconds": identity.expires_in.map(|left| left.as_secs()),
        })),
        "route": explained.asked.as_ref().map(|asked| json!({
            "path": asked.route.path.as_str(),
            "stream": stream(config, asked.route),
        })),
        "grant": explained.asked.as_ref().map(|asked| json!({
            "stream": patterns(asked.grant.stream()),
            "live": patterns(asked.grant.live()),
        })),
        "resume": explained.resume.as_ref().map(|resume| json!({"outcome": resume.outcome, "why": resume.why})),
    })
}

const CLOSED: &str = "the connection is closed before a byte is read: trust.peer_uids does not list this uid";

fn answer(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Stream => "200, an event stream (limits, drain and NATS permitting)".to_owned(),
        Verdict::Answered(status) => format!("{status}, without a stream"),
        Verdict::Refused(refusal) => {
            let (status, code) = refusal.parts();
            format!("{} {code}: {}", status.as_u16(), why(*refusal))
        }
        Verdict::Closed => CLOSED.to_owned(),
    }
}

fn peer(peer: Peer) -> String {
    match peer {
        Peer::Unix { uid: Some(uid) } => format!("unix socket, uid {uid}"),
        Peer::Unix { uid: None } => "unix socket, uid unknown".to_owned(),
        Peer::Tcp(address) => address.ip().to_string(),
        Peer::Certified(address) => format!("{}, with an accepted certificate", address.ip()),
        Peer::Proxied { by, .. } => format!("{}, passing a connection on", by.ip()),
    }
}

fn route(config: &Config, route: &Route) -> String {
    let path = route.path.as_str();
    stream(config, route)
        .map_or_else(|| format!("{path}, without a stream"), |stream| format!("{path}, stream {stream}"))
}

fn stream<'c>(config: &'c Config, route: &Route) -> Option<&'c str> {
    route.stream.and_then(|index| config.routes.streams.get(index)).map(String::as_str)
}
