//! F6: claims as Envoy forwards them, against a second reading of the JSON.
//!
//! The input is a byte that says how the rest becomes a header: as it is, or in base64url with padding or without; and whether
//! issuer and audience matter. Routes use the claim `tenant`.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use hyper::header::{HeaderMap, HeaderValue};
use sidestream::config::Config;
use sidestream::http::identity::evaluate;
use sidestream::http::reject::Refusal;
use sidestream::http::trust::Peer;

use crate::harness::configuration;
use crate::input::Input;
use crate::oracle::json::Json;
use crate::oracle::subjects;

const HEADER: &str = "x-jwt-payload";

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.byte();
    let config = &configurations()[usize::from(how / 3 % 2)];
    let rest = input.rest();
    let value = match how % 3 {
        0 => rest.to_vec(),
        1 => URL_SAFE.encode(rest).into_bytes(),
        _ => URL_SAFE_NO_PAD.encode(rest).into_bytes(),
    };
    let Ok(header) = HeaderValue::from_bytes(&value) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(HEADER, header);
    let peer = Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)));
    let result = evaluate(config, peer, &mut headers);
    assert!(headers.is_empty(), "the claims were left for others to read");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let claims = read(&value);
    let is_for_us = claims.as_ref().is_none_or(|claims| config.identity.claims_issuer.is_none() || claims.is_for_us);
    match result {
        Ok(identity) => {
            let identity = identity.expect("somebody is claimed");
            let user = identity.user.expect("claims have a subject");
            let claims = claims.expect("what is believed can be read");
            assert!(is_for_us);
            assert_eq!((&user.id, user.token.as_str()), (&claims.subject, claims.subject.as_str()));
            assert!(subjects::is_plain_token(&user.id));
            let tenant: Vec<&str> = identity.variables.iter().map(|(_, token)| token.as_str()).collect();
            assert_eq!(tenant, claims.tenant.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(identity.expires_in.is_some(), claims.expires.is_some());
            if let (Some(left), Some(at)) = (identity.expires_in, claims.expires) {
                assert!((now + left.as_secs_f64() - at).abs() < 5.0 || at > 1e15, "{left:?} is left until {at}");
            }
        }
        Err(Refusal::IdentityExpired) => {
            assert!(claims.and_then(|claims| claims.expires).is_some_and(|at| at <= now + 1.0))
        }
        // Whose token it is is asked before anything else of it: one of somebody else's may be wrong in other ways too.
        Err(Refusal::IdentityMissing) => {
            assert!(config.identity.claims_issuer.is_some() && claims.is_none_or(|claims| !claims.is_for_us))
        }
        Err(Refusal::IdentityInvalid) => {
            assert!(claims.is_none_or(|claims| !claims.is_plain()), "good claims were refused")
        }
        Err(Refusal::IdentityAmbiguous) => assert!(value.contains(&b',')),
        Err(other) => panic!("{other:?} says nothing of claims"),
    }
}

fn configurations() -> &'static [Config; 2] {
    static ALL: OnceLock<[Config; 2]> = OnceLock::new();
    ALL.get_or_init(|| {
        let with = |more: &str| {
            configuration(&format!(
                "trust = {{ proxies = [\"127.0.0.1\"], address_is_proof = true }}\n\
                 identity = {{ claims_header = \"X-Jwt-Payload\"{more} }}\n\
                 [[route]]\npath = \"/e\"\nsubjects = [\"e.{{tenant}}.{{user}}\"]\n"
            ))
        };
        [with(""), with(", claims_issuer = \"us\", claims_audiences = [\"a\", \"b\"]")]
    })
}

#[derive(Debug)]
struct Claims {
    subject: String,
    expires: Option<f64>,
    tenant: Option<String>,
    is_for_us: bool,
}

impl Claims {
    /// Nothing is wrong with what they say.
    fn is_plain(&self) -> bool {
        subjects::is_plain_token(&self.subject) && self.tenant.as_deref().is_none_or(subjects::is_plain_token)
    }
}

/// A strict reading: base64url without stray bits, JSON in which no object has a name twice and nothing is nested deeper than 16
/// levels, and what we use of it of the type that RFC 7519 gives it.
fn read(header: &[u8]) -> Option<Claims> {
    if header.len() > 8 * 1024 {
        return None;
    }
    let unpadded = match header {
        [text @ .., b'=', b'='] | [text @ .., b'='] => text,
        text => text,
    };
    let json = URL_SAFE_NO_PAD.decode(unpadded).ok()?;
    let is_padded_rightly = header.len() == unpadded.len() || header.len() % 4 == 0;
    let claims = Json::parse(std::str::from_utf8(&json).ok().filter(|_| is_padded_rightly)?)?;
    if !claims.is_unambiguous() || claims.depth() > 16 {
        return None;
    }
    let Json::Object(members) = &claims else { return None };
    let of = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let Some(Json::Text(subject)) = of("sub") else { return None };
    let expires = match of("exp") {
        None => None,
        Some(Json::Number(number)) => Some(number.parse().ok().filter(|at: &f64| at.is_finite() && *at >= 0.0)?),
        Some(_) => return None,
    };
    let tenant = match of("tenant") {
        None => None,
        Some(Json::Text(text)) => Some(text.clone()),
        Some(Json::Number(number)) => Some(number.clone()),
        Some(_) => return None,
    };
    let audiences: Vec<&Json> = match of("aud") {
        Some(Json::Array(several)) => several.iter().collect(),
        one => one.into_iter().collect(),
    };
    let is = |value: &Json, wanted: &str| matches!(value, Json::Text(text) if text == wanted);
    let is_our_audience = audiences.iter().any(|audience| is(audience, "a") || is(audience, "b"));
    let is_for_us = of("iss").is_some_and(|issuer| is(issuer, "us")) && is_our_audience;
    Some(Claims { subject: subject.clone(), expires, tenant, is_for_us })
}
