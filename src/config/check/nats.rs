//! `[nats]`: server URLs and exactly one way to log in.

use std::net::IpAddr;

use super::secret::Use;
use super::server::split_authority;
use super::{Checker, Read, Section};
use crate::config::error::{Fault, FaultKind};
use crate::config::units::shorten;
use crate::config::{Nats, NatsAuth, Secret};

const URL_ALLOWED: &str = "allowed: \"nats://host[:port]\" or \"tls://host[:port]\"";

pub(super) fn check(cx: &mut Checker<'_>, section: &Section<'_>) -> Nats {
    let reads = section.texts("servers");
    if reads.is_empty() {
        cx.fault_in(section, "servers", "at least one server is needed", Some(URL_ALLOWED));
    }
    let nats = Nats {
        servers: reads.iter().filter_map(|read| url(cx, read)).collect(),
        auth: auth(cx, section),
        ca: section.set_text("ca").and_then(|read| cx.file(&read, Use::Public)),
        client_cert: cx.pair(section, "cert", "key", "mutual TLS wants both `cert` and `key`", false),
        tls_first: section.flag("tls_first"),
    };
    if matches!(nats.auth, NatsAuth::Password { .. } | NatsAuth::Token(_)) && !nats.wants_tls() && !nats.is_local() {
        let message = "without TLS the login can be read, and taken over, by whoever is on the way";
        cx.warn_in(section, "servers", message, Some("use tls:// or nats.ca; or an nkey, which is never sent"));
    }
    nats
}

impl Nats {
    /// Whether every server is on this machine.
    fn is_local(&self) -> bool {
        let host =
            |url: &str| url.split_once("://").and_then(|(_, authority)| Some(split_authority(authority)?.0.to_owned()));
        let is_loopback = |host: String| {
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
            host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
        };
        self.servers.iter().all(|url| host(url).is_some_and(is_loopback))
    }
}

fn url(cx: &mut Checker<'_>, read: &Read<'_, &str>) -> Option<String> {
    let text = read.value;
    let (scheme, authority) = text.split_once("://").unwrap_or(("", text));
    if authority.contains('@') {
        // Requirement R71: a password in a URL would end up in logs and in `config show`.
        let fault = Fault::new(FaultKind::Invalid, &read.key, "a URL must not hold a user, password or token");
        let fault = fault.note("use nats.user with nats.password_file, nats.token_file, nats.nkey or nats.credentials");
        cx.faults.push(fault.at(cx.texts, read.at).hidden());
        return None;
    }
    if matches!(scheme, "ws" | "wss") {
        cx.fault_noted(read, "NATS over WebSocket is not supported", Some(URL_ALLOWED));
        return None;
    }
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if matches!(scheme, "nats" | "tls") && split_authority(authority).is_some_and(|(_, port)| port != Some(0)) {
        return Some(format!("{scheme}://{authority}"));
    }
    cx.fault_noted(read, format!("`{}` is not the URL of a NATS server", shorten(text)), Some(URL_ALLOWED));
    None
}

fn auth(cx: &mut Checker<'_>, section: &Section<'_>) -> NatsAuth {
    let user = section.set_text("user");
    let password = section.set_text("password_file");
    let ways: Vec<_> =
        ["credentials", "nkey", "user", "token_file"].iter().filter_map(|key| section.set_text(key)).collect();
    if let [first, second, ..] = ways.as_slice() {
        let note =
            "allowed: at most one of nats.credentials, nats.nkey, nats.user with nats.password_file, nats.token_file";
        cx.fault_noted(second, format!("there are two ways to log in: `{}` is set too", first.key), Some(note));
    }
    match (&user, &password) {
        (Some(user), None) => cx.fault_noted(user, "a user without a password", Some("set nats.password_file as well")),
        (None, Some(password)) => cx.fault_noted(password, "a password without a user", Some("set nats.user as well")),
        _ => {}
    }
    let secret = |cx: &mut Checker<'_>, key| section.set_text(key).and_then(|read| cx.secret(&read, 1));
    if let Some(read) = section.set_text("credentials") {
        return cx.file(&read, Use::Secret).map_or(NatsAuth::None, NatsAuth::Credentials);
    }
    if let Some(seed) = seed(cx, section) {
        return NatsAuth::Nkey(seed);
    }
    if let (Some(user), Some(password)) = (user, secret(cx, "password_file")) {
        return NatsAuth::Password { user: user.value.to_owned(), password };
    }
    secret(cx, "token_file").map_or(NatsAuth::None, NatsAuth::Token)
}

fn seed(cx: &mut Checker<'_>, section: &Section<'_>) -> Option<Secret> {
    let read = section.set_text("nkey")?;
    let seed = cx.secret(&read, 1)?;
    if !std::str::from_utf8(seed.expose()).is_ok_and(|text| nkeys::KeyPair::from_seed(text).is_ok()) {
        let note = "allowed: one line of 58 letters and digits that begins with `SU`, as `nk -gen user` prints it";
        cx.fault_noted(&read, format!("`{}` holds no nkey seed", read.value), Some(note));
    }
    Some(seed)
}
