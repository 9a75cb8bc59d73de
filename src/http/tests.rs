//! Tenancy (requirements R37, R38, R41): whatever bytes come in whatever place of a request, the grant has the shape of the
//! route's templates and is nobody else's. Every run prints its seed.

use std::collections::HashMap;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::identity::evaluate;
use super::reject::Refusal;
use super::target::{Query, segments};
use super::trust::Peer;
use super::{find, grant};
use crate::config::Config;
use crate::config::load::{Sources, load_text};
use crate::route::Grant;
use crate::subject::{Pattern, Template, Token, encode_user};

const CASES: usize = 1_000_000;

fn seeded() -> fastrand::Rng {
    let seed = std::env::var("SIDESTREAM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed: SIDESTREAM_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// What matters to subjects, JSON, URLs or headers, or looks like what does.
const PIECES: [&str; 40] = [
    "",
    ".",
    "..",
    "*",
    ">",
    "$",
    "$JS",
    "$SYS.>",
    "$JS.API.>",
    "_INBOX",
    "_",
    "{user}",
    "{",
    "}",
    "%",
    "%2e",
    "%3E",
    "/",
    "\\",
    "\"",
    ",",
    " ",
    "\t",
    "\r\n",
    "\0",
    "\u{7f}",
    "alice",
    "Alice",
    "ALICE",
    "alice2",
    "YWxpY2U",
    "e\u{301}",
    "\u{e9}",
    "\u{ff0e}",
    "\u{ff0a}",
    "\u{200b}",
    "\u{a0}",
    "\u{212a}",
    "?",
    "#",
];

/// Bytes that a request could hold somewhere.
fn hostile(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(..4) {
        match random.u8(..8) {
            0..=2 => bytes.extend_from_slice(PIECES[random.usize(..PIECES.len())].as_bytes()),
            3 => bytes.push(random.u8(..)),
            4 => bytes.extend(std::iter::repeat_n(b'x', random.usize(120..135))),
            _ => bytes.extend((0..random.usize(..6)).map(|_| random.alphanumeric() as u8)),
        }
    }
    bytes
}

#[test]
fn a_value_fills_exactly_one_token_or_none() {
    let mut random = seeded();
    let template = Template::parse("a.{v}.*.{v}.>").expect("a template");
    let first = Template::parse("{v}.>").expect("a template");
    let alices = ["a.alice.x.alice.y", "alice.x"];
    let mut taken = 0;
    for _ in 0..CASES {
        let bytes = hostile(&mut random);
        let text = String::from_utf8_lossy(&bytes);
        let Some(token) = Token::parse(&text) else { continue };
        taken += 1;
        assert_eq!(token.as_str(), text, "a value was changed");
        let filled = template.fill(|_| Some(&token)).expect("filled");
        let tokens: Vec<&str> = filled.as_str().split('.').collect();
        assert_eq!(tokens, ["a", &text, "*", &text, ">"], "{text:?}");
        assert_eq!(filled.matches(alices[0]), text == "alice", "{text:?}");
        let Ok(filled) = first.fill(|_| Some(&token)) else {
            assert!(text.starts_with('_'), "{text:?}");
            continue;
        };
        assert!(!filled.as_str().starts_with(['$', '_', '*', '>']), "{text:?}");
        assert_eq!(filled.matches(alices[1]), text == "alice", "{text:?}");
    }
    assert!((CASES / 10..CASES).contains(&taken), "{taken} of {CASES} values were tokens: nothing was tried");
}

/// No two users share a token: all of a million, among them many that look like the encoding of another one.
#[test]
fn encoded_users_never_share_a_token() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    let mut random = seeded();
    let mut owners: HashMap<Box<str>, Box<str>> = HashMap::new();
    let mut last = vec![String::new(); 64];
    for _ in 0..CASES {
        let earlier = last[random.usize(..last.len())].clone();
        let user = match random.u8(..6) {
            0 | 1 => (0..random.usize(1..6)).map(|_| char::from(random.u8(0x21..0x7f))).collect(),
            2 => URL_SAFE_NO_PAD.encode(&earlier),
            3 => encode_user(&earlier).map_or_else(String::new, |token| token.as_str().to_owned()),
            4 => URL_SAFE.encode(&earlier),
            _ => format!("{earlier}{}", char::from(random.u8(0x21..0x7f))),
        };
        // Up to the length that an id may have; short enough to be encoded again and again.
        let user: String = user.chars().take(128).collect();
        if let Some(token) = encode_user(&user) {
            let owner = owners.entry(token.as_str().into()).or_insert_with(|| user.as_str().into());
            assert_eq!(**owner, *user, "two users are {token:?}");
        }
        let place = random.usize(..last.len());
        last[place] = if random.u8(..16) == 0 { String::new() } else { user };
    }
    assert!(owners.len() > CASES / 4, "{} tokens: nothing was tried", owners.len());
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    User,
    Variable,
    Capture,
    Subject,
    Named,
    Sub,
    Claim,
}

const PLACES: [Place; 7] =
    [Place::User, Place::Variable, Place::Capture, Place::Subject, Place::Named, Place::Sub, Place::Claim];

const ROUTES: &str = r#"
[trust]
proxies = ["127.0.0.1"]
address_is_proof = true
[[route]]
path = "/{room}"
subjects = ["{tenant}.u.{user}.{room}.>", "x.*.{user}", "{room}.r.{user}.{tenant}"]
allow = ["app.*.mallory.>"]
select = true
"#;

fn config(identity: &str) -> Config {
    let text = format!("[identity]\nsubjects_header = \"X-Subjects\"\n{identity}{ROUTES}");
    load_text("test.toml", &text, &Sources::default()).expect("a configuration").config
}

/// The values of a request: of somebody who is not alice, and one of them hostile.
struct Asked {
    user: Vec<u8>,
    tenant: Vec<u8>,
    room: Vec<u8>,
    subject: Option<Vec<u8>>,
    named: Option<Vec<u8>>,
    claims: bool,
}

impl Asked {
    fn with(place: Place, value: Vec<u8>) -> Self {
        let mut asked = Self {
            user: b"mallory".into(),
            tenant: b"acme".into(),
            room: b"lobby".into(),
            subject: None,
            named: None,
            claims: matches!(place, Place::Sub | Place::Claim),
        };
        match place {
            Place::User | Place::Sub => asked.user = value,
            Place::Variable | Place::Claim => asked.tenant = value,
            Place::Capture => asked.room = value,
            Place::Subject => asked.subject = Some(value),
            Place::Named => asked.named = Some(value),
        }
        asked
    }

    /// The headers; `None` where HTTP itself does not let the value through.
    fn headers(&self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        let mut set =
            |name, value: &[u8]| headers.insert(name, HeaderValue::from_bytes(value).ok()?).map_or(Some(()), |_| None);
        if self.claims {
            use base64::Engine as _;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let claims = serde_json::json!({ "sub": text(&self.user), "tenant": text(&self.tenant) });
            let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
            set("x-claims", claims.as_bytes())?;
        } else {
            set("x-forwarded-user", &self.user)?;
            set("x-tenant", &self.tenant)?;
        }
        if let Some(named) = &self.named {
            set("x-subjects", named)?;
        }
        Some(headers)
    }

    fn uri(&self, raw: bool) -> Option<Uri> {
        let encode = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            // What ends a path or a value, or is decoded, is written so only where it is meant.
            Ok(text) if raw && !text.contains(['?', '#', '&', '%', '+']) => text.to_owned(),
            _ => percent_encode(bytes, NON_ALPHANUMERIC).to_string(),
        };
        let query = self.subject.as_ref().map(|subject| format!("?subject={}", encode(subject)));
        format!("/{}{}", encode(&self.room), query.unwrap_or_default()).parse().ok()
    }

    /// What the request path makes of it.
    fn grant(&self, config: &Config, raw: bool) -> Option<Result<Grant, Refusal>> {
        let peer = Peer::Tcp("127.0.0.1:1".parse().expect("an address"));
        let (uri, mut headers) = (self.uri(raw)?, self.headers()?);
        Some((|| {
            let identity = evaluate(config, peer, &mut headers)?;
            assert!(headers.is_empty(), "later code can see {headers:?}");
            let segments = segments(&uri)?;
            let (_, route, captures) = find(config, &segments)?;
            let user = identity.as_ref().and_then(|identity| identity.user.as_ref()).map(|user| user.token.clone());
            grant(route, user, identity.as_ref(), &captures, &Query::parse(&uri)?)
        })())
    }
}

/// A subject that may be asked for, but for one token perhaps.
fn nearly_granted(random: &mut fastrand::Rng, value: &[u8]) -> Vec<u8> {
    let bases =
        ["acme.u.mallory.lobby.x.>", "x.y.mallory", "lobby.r.mallory.acme", "app.*.mallory.>", "app.x.mallory.y.z"];
    let value = String::from_utf8_lossy(value);
    let mut tokens: Vec<&str> = bases[random.usize(..bases.len())].split('.').collect();
    let place = random.usize(..tokens.len());
    match random.u8(..4) {
        0 => tokens[place] = &value,
        1 => tokens[place] = PIECES[random.usize(..PIECES.len())],
        2 => drop(tokens.remove(place)),
        _ => {}
    }
    tokens.join(".").into()
}

/// Whether a pattern is a template with these values in it, or what such a pattern contains where it was selected.
fn has_shape(pattern: &str, shapes: &[Vec<&str>], selected: bool) -> bool {
    let tokens: Vec<&str> = pattern.split('.').collect();
    let inside = |shape: &Vec<&str>| {
        let open = shape.last() == Some(&">");
        let fits = if open && selected { tokens.len() >= shape.len() } else { tokens.len() == shape.len() };
        fits && shape.iter().zip(&tokens).all(|(ours, theirs)| match *ours {
            ">" => selected || *theirs == ">",
            "*" => *theirs == "*" || (selected && *theirs != ">"),
            literal => literal == *theirs,
        })
    };
    shapes.iter().any(inside)
}

#[test]
fn no_bytes_anywhere_in_a_request_widen_a_grant() {
    let mut random = seeded();
    let by_header = config("variables = { tenant = \"X-Tenant\" }\n");
    let encoded = config("variables = { tenant = \"X-Tenant\" }\nuser_encoding = \"base64url\"\n");
    let by_claims = config("claims_header = \"X-Claims\"\n");
    let victims: Vec<String> =
        ["acme.u.alice.lobby.x", "x.y.alice", "lobby.r.alice.acme", "app.y.alice.x"].map(String::from).into();
    let mut granted = [0; PLACES.len()];
    for _ in 0..CASES / 4 {
        let place = PLACES[random.usize(..PLACES.len())];
        let mut value = hostile(&mut random);
        if matches!(place, Place::Subject | Place::Named) && random.u8(..4) > 0 {
            value = nearly_granted(&mut random, &value);
        }
        let asked = Asked::with(place, value.clone());
        let config = match asked.claims {
            true => &by_claims,
            false if place == Place::User && random.bool() => &encoded,
            false => &by_header,
        };
        let Some(Ok(grant)) = asked.grant(config, random.bool()) else { continue };
        granted[place as usize] += 1;

        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let user = text(&asked.user);
        let user = if std::ptr::eq(config, &raw const encoded) {
            encode_user(&user).expect("granted").as_str().to_owned()
        } else {
            user
        };
        let (tenant, room) = (text(&asked.tenant), text(&asked.room));
        let mut shapes =
            vec![vec![&*tenant, "u", &user, &room, ">"], vec!["x", "*", &user], vec![&*room, "r", &user, &tenant]];
        let named = asked.named.as_deref().map(text).unwrap_or_default();
        let named: Vec<&str> = named.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
        let app = [vec!["app", "*", "mallory", ">"]];
        assert!(named.iter().all(|one| has_shape(one, &app, true)), "{place:?} {named:?} is not allowed");
        shapes.extend(named.iter().map(|one| one.split('.').collect()));
        for pattern in grant.live() {
            let shown = || format!("{place:?} {} -> {pattern}", value.escape_ascii());
            assert!(has_shape(pattern.as_str(), &shapes, asked.subject.is_some()), "{}", shown());
            assert!(Pattern::parse(pattern.as_str()).is_ok(), "{}", shown());
            assert!(!pattern.as_str().starts_with(['$', '_']), "{}", shown());
            if user != "alice" {
                assert!(victims.iter().all(|subject| !pattern.matches(subject)), "{}", shown());
            }
        }
        assert!(grant.stream().is_empty(), "the route has no stream");
    }
    assert!(granted.iter().all(|count| *count > CASES / 1000), "{PLACES:?} were granted {granted:?} times");
}
