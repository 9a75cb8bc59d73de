//! Who may ask the admin listener for what.
//!
//! Health and metrics are for everybody who reaches it, which are this machine's processes. Who is connected is for those with the
//! token, where there is one. To change something takes the token, or the right to open the unix socket that it listens on: a
//! page in a browser on this machine reaches a loopback address as well as anybody.

use std::net::Ipv4Addr;

use hyper::header::{AUTHORIZATION, HOST};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode};
use subtle::ConstantTimeEq;

use super::Admin;
use super::answer::Refusal;
use crate::server::listen::Address;

/// Refuses what pages in a browser on this machine ask, but for the live page itself. One whose own name leads to the loopback
/// address (DNS rebinding) asks with that name. It can be any that has a dot;
/// addresses, `localhost` and names without a dot are nobody's pages. Where others may connect a token is wanted instead.
pub fn is_for_this_machine<B>(admin: &Admin, request: &Request<B>) -> Result<(), Refusal> {
    let on_loopback = matches!(&admin.address, Address::Tcp(address) if address.ip().is_loopback());
    let host = request.headers().get(HOST).map_or(Some(""), |host| host.to_str().ok()).unwrap_or(".");
    let named = match host.parse::<Authority>() {
        Ok(authority) => !authority.host().contains('.') || authority.host().parse::<Ipv4Addr>().is_ok(),
        Err(_) => host.is_empty(),
    };
    if !named && on_loopback {
        return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", "ask by address or as localhost"));
    }
    // It could read nothing, but take places, which are few.
    let from = request.headers().get("sec-fetch-site").map_or(&b"none"[..], |site| site.as_bytes());
    if matches!(from, b"none" | b"same-origin") {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "origin_denied", "not for pages from elsewhere"))
}

/// With a token configured, who is connected is told only to those who have it.
pub fn may_see_all<B>(admin: &Admin, request: &Request<B>) -> Result<(), Refusal> {
    match given(admin, request) {
        Token::Right | Token::None => Ok(()),
        Token::Absent => Err(unauthorized("token_missing", "send the admin token: Authorization: Bearer …")),
        Token::Wrong => Err(unauthorized("token_wrong", "this is not the token in admin.token_file")),
    }
}

/// Whether something may be changed.
pub fn may_change<B>(admin: &Admin, request: &Request<B>) -> Result<(), Refusal> {
    may_see_all(admin, request)?;
    if given(admin, request) == Token::Right || matches!(admin.address, Address::Unix(_)) {
        return Ok(());
    }
    let message =
        "nothing is changed without a token: set admin.token_file, or let the admin listener be a unix socket";
    Err(Refusal::new(StatusCode::FORBIDDEN, "token_not_configured", message))
}

fn unauthorized(code: &'static str, message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, code, message)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// None is configured.
    None,
    Absent,
    Wrong,
    Right,
}

fn given<B>(admin: &Admin, request: &Request<B>) -> Token {
    let config = admin.state.config.get();
    let Some(token) = &config.admin.token else { return Token::None };
    let given = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    match given.and_then(|value| value.strip_prefix(b"Bearer ")) {
        None => Token::Absent,
        Some(given) if token.expose().ct_eq(given).into() => Token::Right,
        Some(_) => Token::Wrong,
    }
}
