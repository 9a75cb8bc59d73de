//! Who a client is to the application: what its cookie says, and what the application makes of it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::token::{Issuer, encoded};

/// What the application knows of alice. One of these can be missing.
pub const FACTS: [Fact; 4] = [
    Fact { claim: "sub", header: "X-Forwarded-User", nginx: "X-User-Id" },
    Fact { claim: "tenant", header: "X-Tenant", nginx: "X-User-Tenant" },
    Fact { claim: "exp", header: "X-Auth-Expires", nginx: "X-User-Expires" },
    Fact { claim: "subjects", header: "X-Sidestream-Subjects", nginx: "X-User-Subjects" },
];

/// One thing that is known of a user, and its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// In a token.
    pub claim: &'static str,
    /// To sidestream; what the application answers Envoy.
    pub header: &'static str,
    /// What the application answers nginx.
    pub nginx: &'static str,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Alice's.
    Alice,
    /// Alice's, where one of the facts is missing.
    AliceWithout(&'static str),
    /// Somebody's who may not have streams at all.
    Forbidden,
    /// No cookie.
    Nobody,
}

impl Session {
    /// The cookie's value where the application is asked.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Alice => Some("alice".to_owned()),
            Self::AliceWithout(claim) => Some(format!("alice-without-{claim}")),
            Self::Forbidden => Some("forbidden".to_owned()),
            Self::Nobody => None,
        }
    }

    /// What Envoy forwards of its token.
    pub fn payload(&self) -> Option<String> {
        match self {
            Self::Alice => Some(encoded(&claims(None))),
            Self::AliceWithout(claim) => Some(encoded(&claims(Some(claim)))),
            Self::Forbidden | Self::Nobody => None,
        }
    }

    /// The cookie's value where it is a token. A token that is not accepted is what nobody has.
    pub fn token(&self, issuer: &Issuer) -> Option<String> {
        match self {
            Self::Alice => Some(issuer.sign(&claims(None))),
            Self::AliceWithout(claim) => Some(issuer.sign(&claims(Some(claim)))),
            Self::Forbidden => Some(Issuer::new().sign(&claims(None))),
            Self::Nobody => None,
        }
    }
}

/// What a token for alice claims, perhaps without one of the facts.
pub fn claims(without: Option<&str>) -> Value {
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), json!("https://events.example.com"));
    claims.insert("aud".to_owned(), json!("events.example.com"));
    for Fact { claim, .. } in FACTS.into_iter().filter(|fact| Some(fact.claim) != without) {
        let value = if claim == "exp" { json!(in_an_hour()) } else { json!(of_alice(claim)) };
        claims.insert(claim.to_owned(), value);
    }
    Value::Object(claims)
}

/// The value of a fact about alice.
pub fn of_alice(claim: &str) -> String {
    match claim {
        "sub" => "alice".to_owned(),
        "tenant" => "acme".to_owned(),
        "subjects" => "events.project.apollo.>".to_owned(),
        "exp" => in_an_hour().to_string(),
        _ => panic!("nothing is known about {claim}"),
    }
}

/// The same in every request of a run.
fn in_an_hour() -> u64 {
    static EXPIRES: std::sync::LazyLock<u64> =
        std::sync::LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 3600);
    *EXPIRES
}
