//! What Envoy and HAProxy take for a token, and what they do not.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::attempt::Attempt;
use crate::front::{Front, Setup};
use crate::kind::Kind;
use crate::session::{Session, claims};
use crate::support::bounded;
use crate::tap::Reply;
use crate::token::{Issuer, encoded};

fn changed(claim: &str, value: Value) -> Value {
    let mut claims = claims(None);
    claims[claim] = value;
    claims
}

/// Tokens that are nobody's.
fn forged(issuer: &Issuer) -> Vec<(&'static str, String)> {
    let good = issuer.sign(&claims(None));
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let header = signed.split('.').next().expect("a header");
    let admin = changed("sub", json!("admin"));
    let stranger = Issuer::new();
    vec![
        ("another key", stranger.sign(&admin)),
        ("another payload", format!("{header}.{}.{signature}", encoded(&admin))),
        ("no signature", format!("{signed}.")),
        ("algorithm none", format!("{}.{}.", encoded(&json!({ "alg": "none", "typ": "JWT" })), encoded(&admin))),
        ("another algorithm", issuer.sign_under(&json!({ "alg": "HS256", "kid": "1" }), &admin)),
        ("a key in the header", {
            let keys: Value = serde_json::from_str(&stranger.keys()).expect("JSON");
            stranger.sign_under(&json!({ "alg": "ES256", "kid": "1", "jwk": keys["keys"][0] }), &admin)
        }),
        ("another issuer", issuer.sign(&changed("iss", json!("https://evil.example")))),
        ("no issuer", issuer.sign(&changed("iss", Value::Null))),
        ("for others", issuer.sign(&changed("aud", json!("other.example.com")))),
        ("expired", issuer.sign(&changed("exp", json!(1_700_000_000)))),
        ("not yet valid", issuer.sign(&changed("nbf", json!(4_102_444_800_u64)))),
        ("without an end", issuer.sign(&claims(Some("exp")))),
        ("no token at all", "alice".to_owned()),
    ]
}

#[tokio::test]
async fn only_a_valid_token_is_an_identity() {
    bounded(async {
        join_all([Kind::EnvoyJwt, Kind::Haproxy].map(|kind| Box::pin(behind(kind)))).await;
    })
    .await;
}

async fn behind(kind: Kind) {
    let Some(front) = Front::start("tokens", kind, Setup::default()).await else { return };
    let nobody = || Attempt::honest().session(Session::Nobody);
    for (what, token) in forged(&front.issuer) {
        for attempt in [
            nobody().line("Cookie", format!("session={token}")),
            nobody().line("Authorization", format!("Bearer {token}")),
            // Beside one that is good: never the other's, whichever the proxy looks at first.
            Attempt::honest().line("Authorization", format!("Bearer {token}")),
        ] {
            let (reply, _) = front.attempt(&attempt).await;
            assert!(matches!(reply, Reply::Answer(401 | 403, _)), "{kind:?}, {what}: {reply:?} to {attempt:?}");
        }
    }
    let good = front.issuer.sign(&claims(None));
    for query in ["access_token", "token", "jwt"] {
        let (reply, _) = front.attempt(&nobody().target(&format!("/events?{query}={good}"))).await;
        assert!(matches!(reply, Reply::Answer(401, _)), "{kind:?}, a token in the URL: {reply:?}");
    }
    for (what, claim, value) in [
        ("a line in the user", "sub", json!("alice\r\nX-Tenant: evil")),
        ("a line in the tenant", "tenant", json!("acme\nX-Forwarded-User: admin")),
        ("a list of users", "sub", json!(["alice", "admin"])),
    ] {
        let token = front.issuer.sign(&changed(claim, value));
        let (reply, _) = front.attempt(&nobody().line("Cookie", format!("session={token}"))).await;
        assert_ne!(reply, Reply::Stream, "{kind:?}, {what}");
    }
    front.stream(&nobody().line("Authorization", format!("Bearer {good}"))).await;
}
