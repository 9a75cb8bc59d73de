//! `sidestream explain`: what would become of a request, and why. It goes through the very functions of the request path, with a
//! configuration and without a server, so it cannot say anything else than the server would.
//!
//! Limits, drain and an outage are not part of it: those depend on the moment, and are said softly.

mod print;
mod resume;
mod why;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{ACCEPT, HOST, HeaderName, HeaderValue};
use hyper::{Request, Uri};

use super::exit::Exit;
use super::options::{ConfigArgs, parse_header};
use crate::config::Config;
use crate::cursor::LastEventId;
use crate::feed::connection::Role;
use crate::http::identity::Identity;
use crate::http::reject::Refusal;
use crate::http::trust::Peer;
use crate::http::{self, Asked, Asker, No};
use crate::route::Grant;
use resume::Resume;

/// Options of `explain`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream explain --path /events --peer unix:33 --header X-Forwarded-User:alice\n  sidestream explain --path /events --peer 127.0.0.1 --header X-Forwarded-User:alice --last-event-id ID --connect --json\n\nExits 1 when the request would be refused."
)]
pub struct Args {
    /// Path of the request, with its query
    #[arg(long, value_name = "PATH")]
    pub path: String,
    /// Request header; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// Who connects: an address, or unix[:UID]
    #[arg(long, value_name = "PEER", default_value = "127.0.0.1", value_parser = parse_peer)]
    pub peer: Peer,
    /// The peer shows a client certificate that server.tls accepts
    #[arg(long)]
    pub client_certificate: bool,
    /// The last event ID of a client that comes back
    #[arg(long, value_name = "ID")]
    pub last_event_id: Option<String>,
    /// Asks NATS what becomes of the last event ID
    #[arg(long)]
    pub connect: bool,
    /// Prints one JSON object
    #[arg(long)]
    pub json: bool,
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Everything that is told.
struct Explained<'c> {
    peer: Peer,
    /// Whether the peer may speak for a user, as far as its address tells.
    admitted: bool,
    client_address: Option<IpAddr>,
    identity: Option<Identity>,
    asked: Option<Asked<'c>>,
    resume: Option<Resume>,
    verdict: Verdict,
}

/// What the client gets.
enum Verdict {
    Stream,
    Refused(Refusal),
    /// Another answer, such as that to `OPTIONS`.
    Answered(u16),
    /// The connection is closed before a byte is read.
    Closed,
}

/// Explains.
pub fn run(args: &Args) -> Exit {
    let config = match args.config.load_or_defaults() {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let mut request = match request(args, &config) {
        Ok(request) => request,
        Err(why) => {
            super::complain(format_args!("error: {why}"));
            return Exit::Usage;
        }
    };
    let peer = if args.client_certificate { args.peer.certified() } else { args.peer };
    let mut explained = decide(&config, peer, &mut request);
    if args.connect
        && let Some(Asked { route, grant, last_event_id, .. }) = &explained.asked
        && let Some(stream) = route.stream.and_then(|index| config.routes.streams.get(index))
        && let last = without_values(grant, *last_event_id)
        && last != LastEventId::Absent
    {
        match super::runtime::block_on_for(ask(&config, stream, last)) {
            Ok(resume) => {
                explained.resume = Some(if grant.last_values() { resume.with_last_values() } else { resume });
            }
            Err(exit) => return exit,
        }
    }
    let text =
        if args.json { format!("{}\n", print::json(&config, &explained)) } else { print::text(&config, &explained) };
    match (super::print(&text), &explained.verdict) {
        (Exit::Ok, Verdict::Refused(_) | Verdict::Closed) => Exit::Negative,
        (exit, _) => exit,
    }
}

fn decide<'c>(config: &'c Config, peer: Peer, request: &mut Request<Empty<Bytes>>) -> Explained<'c> {
    let mut explained = Explained {
        peer,
        admitted: config.trust.as_ref().is_some_and(|trust| trust.admits_address(peer)),
        client_address: peer.address(),
        identity: None,
        asked: None,
        resume: None,
        verdict: Verdict::Stream,
    };
    if let (Peer::Unix { uid }, Some(trust)) = (peer, &config.trust)
        && !trust.admits_uid(uid)
    {
        explained.verdict = Verdict::Closed;
        return explained;
    }
    match http::asker(config, peer, request) {
        Ok(Asker { address, identity }) => (explained.client_address, explained.identity) = (address, identity),
        Err(refusal) => {
            explained.verdict = Verdict::Refused(refusal);
            return explained;
        }
    }
    match http::asked(config, request, explained.identity.as_ref(), |_| None) {
        Ok(asked) => {
            let last = without_values(&asked.grant, asked.last_event_id);
            let resume = Resume::without_nats(asked.route.stream.is_some(), last);
            explained.resume = Some(if asked.grant.last_values() { resume.with_last_values() } else { resume });
            explained.asked = Some(asked);
        }
        Err(No::Refusal(refusal)) => explained.verdict = Verdict::Refused(refusal),
        Err(No::Response(response)) => explained.verdict = Verdict::Answered(response.status().as_u16()),
        Err(No::Soft(_)) => {}
    }
    explained
}

/// Who left before the first of its last values has nothing: it begins anew.
fn without_values(grant: &Grant, last: LastEventId) -> LastEventId {
    if grant.last_values() && last.is_before_everything() { LastEventId::Absent } else { last }
}

async fn ask(config: &Config, stream: &str, last: LastEventId) -> Result<Resume, Exit> {
    let connection = super::runtime::connect(config, Role::Command).await?;
    resume::of_nats(&connection.client, stream, last).await.map_err(|error| {
        super::complain(format_args!("error: {}", super::runtime::shown(config, &error)));
        Exit::Unavailable
    })
}

/// The request; `Host` and `Accept` are a browser's where they are not given.
fn request(args: &Args, config: &Config) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::new(Empty::new());
    let uri: Uri = args.path.parse().map_err(|_| format!("`{}` is not a path", crate::text::printable(&args.path)))?;
    if uri.path_and_query().is_none() || uri.authority().is_some() || !args.path.starts_with('/') {
        return Err("a path starts with `/`".to_owned());
    }
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    let last_event_id = args.last_event_id.iter().map(|id| ("last-event-id", id.as_str()));
    for (name, value) in args.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(last_event_id) {
        let named = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a header name"))?;
        // The value may be a secret.
        let value =
            HeaderValue::from_str(value).map_err(|_| format!("this value cannot stand in the header {name}"))?;
        headers.append(named, value);
    }
    if !headers.contains_key(HOST) {
        let host = config.server.hosts.first().map_or("localhost", String::as_str);
        headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| "give a Host header".to_owned())?);
    }
    if !headers.contains_key(ACCEPT) {
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    }
    Ok(request)
}

/// `ADDRESS`, `ADDRESS:PORT`, `unix` or `unix:UID`.
fn parse_peer(text: &str) -> Result<Peer, String> {
    if text == "unix" {
        return Ok(Peer::Unix { uid: None });
    }
    if let Some(uid) = text.strip_prefix("unix:") {
        return uid.parse().map(|uid| Peer::Unix { uid: Some(uid) }).map_err(|_| format!("`{uid}` is not a uid"));
    }
    let with_port = text.parse::<SocketAddr>();
    let address =
        with_port.or_else(|_| text.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)));
    address.map(Peer::Tcp).map_err(|_| "write an address, or unix, or unix:UID".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_addresses_or_unix() {
        let tcp = |text: &str| Peer::Tcp(text.parse().expect("an address"));
        assert_eq!(parse_peer("10.0.0.1"), Ok(tcp("10.0.0.1:0")));
        assert_eq!(parse_peer("10.0.0.1:7"), Ok(tcp("10.0.0.1:7")));
        assert_eq!(parse_peer("::1"), Ok(tcp("[::1]:0")));
        assert_eq!(parse_peer("[::1]"), Ok(tcp("[::1]:0")));
        assert_eq!(parse_peer("unix"), Ok(Peer::Unix { uid: None }));
        assert_eq!(parse_peer("unix:33"), Ok(Peer::Unix { uid: Some(33) }));
        for bad in ["", "unix:", "unix:www", "localhost", "10.0.0.0/8"] {
            assert!(parse_peer(bad).is_err(), "{bad}");
        }
    }
}
