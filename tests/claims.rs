//! Claims of a token that the proxy has verified (requirement R10): read strictly or refused, and the stream ends with them.

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use support::{App, Config, Nats, Request, Version, bounded, get, h2, json};

const IDENTITY: &str = "claims_header = \"X-Jwt-Payload\"\n";
/// Variables that are claims, a route that asks for none, and one for anyone.
const ROUTES: &str = r#"
[[route]]
path = "/tenant"
stream = "EVENTS"
subjects = ["events.tenant.{tenant}.>"]
[[route]]
path = "/open"
stream = "EVENTS"
subjects = ["events.broadcast.>"]
audience = "anyone"
"#;

async fn started(identity: &str) -> (Nats, App) {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let mut config = Config::on(&nats).tables(ROUTES).server("h2c = true\n");
    config.identity = identity.to_owned();
    let app = App::start(&config).await;
    (nats, app)
}

fn encoded(claims: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(claims)
}

fn with(target: &str, claims: impl AsRef<[u8]>) -> Request {
    get(target).header("X-Jwt-Payload", encoded(claims))
}

/// Seconds since the epoch, as a clock on the wall has them.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// So many levels of arrays inside the claims.
fn nested(levels: usize) -> String {
    format!(r#"{{"sub":"alice","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

/// Claims whose base64url is exactly so many bytes long.
fn of_length(bytes: usize) -> String {
    let json = bytes * 3 / 4;
    let frame = r#"{"sub":"alice","x":""}"#;
    frame.replace(r#""""#, &format!("\"{}\"", "x".repeat(json - frame.len())))
}

const INVALID: Option<(u16, &str)> = Some((400, "identity_invalid"));
const EXPIRED: Option<(u16, &str)> = Some((401, "identity_expired"));
const GOOD: Option<(u16, &str)> = None;

#[tokio::test]
async fn the_table() {
    bounded(async {
        let (_nats, app) = started(IDENTITY).await;
        let surrogates = r#"{"sub":"\ud83d\ude00"}"#;
        let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(129));
        let longest = format!(r#"{{"sub":"{}"}}"#, "x".repeat(128));
        let wide = format!(r#"{{"sub":"alice"{}}}"#, (0..500).map(|n| format!(r#","{n}":1"#)).collect::<String>());
        let (deepest, too_deep) = (nested(15), nested(16));
        let table = [
            // What Envoy sends.
            (r#"{"sub":"alice"}"#, GOOD),
            (r#" {"iss":"i","aud":["a"],"sub":"alice","iat":1,"nbf":1,"jti":"x","roles":["a",{"b":null}]} "#, GOOD),
            (r#"{"sub":"Alice","x":{"sub":"bob"},"y":[{"sub":1},{"sub":2}],"z":1e400}"#, GOOD),
            (r#"{"s\u0075b":"alice"}"#, GOOD),
            (r#"{"sub":"\u0061lice"}"#, GOOD),
            (&longest, GOOD),
            (&wide, GOOD),
            // The user.
            (r"{}", INVALID),
            (r#"{"sub":null}"#, INVALID),
            (r#"{"sub":1}"#, INVALID),
            (r#"{"sub":["alice"]}"#, INVALID),
            (r#"{"sub":{"sub":"alice"}}"#, INVALID),
            (r#"{"SUB":"alice"}"#, INVALID),
            (r#"{"sub":""}"#, INVALID),
            (r#"{"sub":"al ice"}"#, INVALID),
            (r#"{"sub":"alice\n"}"#, INVALID),
            (r#"{"sub":"alice\u0000"}"#, INVALID),
            (r#"{"sub":"\u00e9"}"#, INVALID),
            ("{\"sub\":\"\u{e9}\"}", INVALID),
            (surrogates, INVALID),
            (r#"{"sub":"\ud83d"}"#, INVALID),
            (r#"{"sub":"a.b"}"#, INVALID),
            (r#"{"sub":"*"}"#, INVALID),
            (r#"{"sub":">"}"#, INVALID),
            (r#"{"sub":"$JS"}"#, INVALID),
            (&long, INVALID),
            // A name twice, however it is written and wherever it stands.
            (r#"{"sub":"alice","sub":"alice"}"#, INVALID),
            (r#"{"sub":"alice","sub":"admin"}"#, INVALID),
            (r#"{"sub":"alice","s\u0075b":"admin"}"#, INVALID),
            (r#"{"sub":"alice","x":1,"\u0078":1}"#, INVALID),
            (r#"{"sub":"alice","x":{"y":1,"y":1}}"#, INVALID),
            (r#"{"sub":"alice","x":[0,[{"y":1,"\u0079":1}]]}"#, INVALID),
            (r#"{"sub":"alice","":1,"":1}"#, INVALID),
            // Depth.
            (&deepest, GOOD),
            (&too_deep, INVALID),
            // The end.
            (r#"{"sub":"alice","exp":4102444800}"#, GOOD),
            (r#"{"sub":"alice","exp":4102444800.5}"#, GOOD),
            (r#"{"sub":"alice","exp":4.1024448e9}"#, GOOD),
            (r#"{"sub":"alice","exp":1e300}"#, GOOD),
            (r#"{"sub":"alice","exp":18446744073709551616}"#, GOOD),
            (r#"{"sub":"alice","exp":0}"#, EXPIRED),
            (r#"{"sub":"alice","exp":-0}"#, EXPIRED),
            (r#"{"sub":"alice","exp":1.5}"#, EXPIRED),
            (r#"{"sub":"alice","exp":-1}"#, INVALID),
            (r#"{"sub":"alice","exp":-0.1}"#, INVALID),
            (r#"{"sub":"alice","exp":1e400}"#, INVALID),
            (r#"{"sub":"alice","exp":null}"#, INVALID),
            (r#"{"sub":"alice","exp":"4102444800"}"#, INVALID),
            (r#"{"sub":"alice","exp":true}"#, INVALID),
            (r#"{"sub":"alice","exp":[4102444800]}"#, INVALID),
            (r#"{"sub":"alice","exp":{"$serde_json::private::Number":"4102444800"}}"#, INVALID),
            (r#"{"sub":{"$serde_json::private::RawValue":"\"alice\""}}"#, INVALID),
            // No object.
            ("", INVALID),
            (r#""alice""#, INVALID),
            (r#"["alice"]"#, INVALID),
            ("null", INVALID),
            (r#"{"sub":"alice""#, INVALID),
            (r#"{"sub":"alice",}"#, INVALID),
            (r#"{"sub":"alice"}{"sub":"admin"}"#, INVALID),
            (r#"{"sub":"alice"} x"#, INVALID),
            ("\u{feff}{\"sub\":\"alice\"}", INVALID),
            (r#"{'sub':'alice'}"#, INVALID),
            (r#"{"sub":"alice","exp":0x10}"#, INVALID),
            (r#"{"sub":"alice","exp":NaN}"#, INVALID),
            // Of the length that is allowed, and one byte more.
            (&of_length(8192), GOOD),
            (&of_length(8196), INVALID),
        ];
        for (claims, refused) in table {
            let shown = claims.get(..80).unwrap_or(claims);
            println!("{shown}");
            match refused {
                None => drop(app.stream(with("/events", claims)).await),
                // Never anonymous instead, not even where anybody may listen.
                Some((status, code)) => {
                    for target in ["/events", "/open"] {
                        app.ask(with(target, claims)).await.is_refusal(status, code);
                    }
                }
            }
        }
        // What is no text.
        app.ask(with("/events", b"{\"sub\":\"alice\",\"x\":\"\xff\"}")).await.is_refusal(400, "identity_invalid");
    })
    .await;
}

#[tokio::test]
async fn base64url_with_padding_or_without_and_nothing_else() {
    bounded(async {
        let (_nats, app) = started(IDENTITY).await;
        let ask = |value: &str| get("/events").header("X-Jwt-Payload", value);
        for user in ["alice", "alic", "ali", "a~~~~?"] {
            let claims = format!(r#"{{"sub":"{user}"}}"#);
            for value in [URL_SAFE.encode(&claims), URL_SAFE_NO_PAD.encode(&claims)] {
                app.stream(ask(&value)).await;
            }
        }
        let claims = r#"{"sub":"alice","x":"???>>>~~~"}"#;
        let (url, standard) = (URL_SAFE_NO_PAD.encode(claims), STANDARD.encode(claims));
        assert!(url.contains(['-', '_']) && standard.contains(['+', '/']), "{url} {standard}");
        app.stream(ask(&url)).await;
        let token = format!("{}.{url}.c2ln", URL_SAFE_NO_PAD.encode("{}"));
        let (spaced, longer, dirty) = (url.replacen('e', "e ", 1), format!("{url}===="), format!("{url}\u{e9}"));
        let bare = r#"{"sub":"alice"}"#;
        for value in [standard.as_str(), &token, &spaced, &longer, &dirty, bare, "", "=", "e", "eyJzdWIiOiJhbGljZSJ9."]
        {
            app.ask(ask(value)).await.is_refusal(400, "identity_invalid");
        }
        // The last digit carries bits that belong to no byte: a lenient reader would drop them.
        let exact = URL_SAFE_NO_PAD.encode(r#"{"sub":"alic"}"#);
        app.stream(ask(&exact)).await;
        let (body, last) = exact.split_at(exact.len() - 1);
        assert_eq!(last, "0", "{exact}");
        app.ask(ask(&format!("{body}1"))).await.is_refusal(400, "identity_invalid");
        // Two of them.
        let two = ask(&url).header("X-Jwt-Payload", encoded(r#"{"sub":"admin"}"#));
        app.ask(two).await.is_refusal(400, "identity_ambiguous");
        app.ask(ask(&format!("{url},{url}"))).await.is_refusal(400, "identity_ambiguous");
    })
    .await;
}

/// Envoy takes away a client's own claims, and nothing else: without a token a client's `X-Forwarded-User` arrives.
#[tokio::test]
async fn a_header_alone_is_no_user_where_claims_are_configured() {
    bounded(async {
        let (nats, app) = started(IDENTITY).await;
        let publisher = nats.publisher().await;
        for target in ["/events", "/open"] {
            app.ask(get(target).user("admin")).await.is_refusal(401, "identity_missing");
            app.ask(with(target, r#"{"sub":"alice"}"#).user("admin")).await.is_refusal(400, "identity_ambiguous");
            app.ask(with(target, r#"{"sub":"alice"}"#).user("Alice")).await.is_refusal(400, "identity_ambiguous");
        }
        app.ask(get("/events")).await.is_refusal(401, "identity_missing");
        app.stream(get("/open")).await;
        let mut alice = app.stream(with("/events", r#"{"sub":"alice"}"#).user("alice")).await;
        publisher.publish("events.user.Alice.x", "another's").await;
        publisher.publish("events.user.alice.x", "hers").await;
        alice.nothing_before("hers").await;
    })
    .await;
}

#[tokio::test]
async fn any_claim_by_name_is_a_variable() {
    bounded(async {
        let (nats, app) = started(IDENTITY).await;
        let publisher = nats.publisher().await;
        let tenant = |claim: &str| with("/tenant", format!(r#"{{"sub":"alice"{claim}}}"#));
        let mut acme = app.stream(tenant(r#","tenant":"acme""#)).await;
        let mut seven = app.stream(tenant(r#","tenant":7"#)).await;
        let mut large = app.stream(tenant(r#","tenant":340282366920938463463374607431768211456"#)).await;
        for (subject, data) in [
            ("acme2", "foreign"),
            ("Acme", "foreign"),
            ("07", "foreign"),
            ("acme", "to acme"),
            ("7", "to seven"),
            ("340282366920938463463374607431768211456", "to the large one"),
        ] {
            publisher.publish(&format!("events.tenant.{subject}.x"), data).await;
        }
        acme.nothing_before("to acme").await;
        seven.nothing_before("to seven").await;
        large.nothing_before("to the large one").await;

        app.ask(tenant("")).await.is_refusal(401, "identity_missing");
        for bad in [
            r#""""#,
            r#""a.b""#,
            r#""*""#,
            r#"">""#,
            r#""$JS""#,
            r#""a b""#,
            r#""\u00e9""#,
            r#""a\u0000""#,
            "null",
            "true",
            "-1",
            "-0",
            "1.0",
            "1e3",
            r#"["acme"]"#,
            r#"{"a":1}"#,
        ] {
            app.ask(tenant(&format!(r#","tenant":{bad}"#))).await.is_refusal(400, "identity_invalid");
        }
        let long = "x".repeat(129);
        app.ask(tenant(&format!(r#","tenant":"{long}""#))).await.is_refusal(400, "identity_invalid");
        app.ask(tenant(&format!(r#","tenant":{}"#, "7".repeat(129)))).await.is_refusal(400, "identity_invalid");
        // Neither a header nor the URL nor a neighbour in the claims can stand in for it.
        let request = with("/tenant?tenant=acme", r#"{"sub":"alice","x":{"tenant":"acme"}}"#).header("tenant", "acme");
        app.ask(request).await.is_refusal(401, "identity_missing");
    })
    .await;
}

#[tokio::test]
async fn tokens_of_others_and_for_others_are_nobody() {
    bounded(async {
        let strict = "claims_issuer = \"https://issuer.example\"\nclaims_audiences = [\"events\", \"push\"]\n";
        let (_nats, app) = started(&format!("{IDENTITY}{strict}")).await;
        let claims = |iss: &str, aud: &str| format!(r#"{{"sub":"alice"{iss}{aud}}}"#);
        let (iss, aud) = (r#","iss":"https://issuer.example""#, r#","aud":"events""#);
        for good in [aud, r#","aud":["events"]"#, r#","aud":["other","push"]"#] {
            app.stream(with("/events", claims(iss, good))).await;
        }
        let foreign = [
            ("", aud),
            (iss, ""),
            (r#","iss":"https://issuer.example/""#, aud),
            (r#","iss":"HTTPS://issuer.example""#, aud),
            (r#","iss":"""#, aud),
            (iss, r#","aud":"other""#),
            (iss, r#","aud":"Events""#),
            (iss, r#","aud":"events push""#),
            (iss, r#","aud":[]"#),
            (iss, r#","aud":["other"]"#),
        ];
        let malformed = [
            (r#","iss":["https://issuer.example"]"#, aud),
            (r#","iss":null"#, aud),
            (iss, r#","aud":null"#),
            (iss, r#","aud":{"events":1}"#),
            (iss, r#","aud":["events",1]"#),
            (iss, r#","aud":[["events"]]"#),
        ];
        for target in ["/events", "/open"] {
            for (iss, aud) in foreign {
                app.ask(with(target, claims(iss, aud))).await.is_refusal(401, "identity_missing");
            }
            for (iss, aud) in malformed {
                app.ask(with(target, claims(iss, aud))).await.is_refusal(400, "identity_invalid");
            }
        }
    })
    .await;
}

/// Expiry by claims and by header, over HTTP/1.1 and HTTP/2, on a route for users and on one for anyone: each stream says
/// `expired` and ends no sooner, and no more than two seconds later.
#[tokio::test]
async fn the_stream_ends_with_the_identity() {
    bounded(async {
        let (_nats, app) = started(&format!("{IDENTITY}expires_header = \"X-Expires\"\n")).await;
        let exp = (now() + 2.5).floor() + 0.75;
        let claims = |exp: f64| format!(r#"{{"sub":"alice","exp":{exp}}}"#);
        let late = claims(exp + 1000.0);
        let (h1, open) = (with("/events", claims(exp)), with("/open", claims(exp)));
        // The earlier of both counts.
        let header = with("/events", &late).header("X-Expires", format!("{}", exp.ceil()));
        let both = with("/events", claims(exp)).header("X-Expires", "4102444800");
        let ends = async |request: Request, exp: f64| {
            let mut sse = app.stream(request).await;
            let bye = sse.until_named("sidestream.bye", support::DEADLINE).await.pop().expect("until it came");
            is_in_time(exp);
            assert_eq!(json(&bye)["code"], "expired", "{bye:?}");
            assert!(sse.try_next(support::DEADLINE).await.is_none(), "the stream goes on after its end");
        };
        let over_http2 = async {
            let mut request = h2::request("/events", "alice");
            request.headers_mut().insert("x-jwt-payload", encoded(claims(exp)).parse().expect("a value"));
            let answer = h2::tcp(app.address()).await.send_request(request).await.expect("an answer");
            let mut events = h2::Events::of(answer.into_body());
            while events.next().await.name != "sidestream.bye" {}
            is_in_time(exp);
            assert!(events.try_next().await.is_none(), "the stream goes on after its end");
        };
        tokio::join!(ends(h1, exp), ends(open, exp), ends(header, exp.ceil()), ends(both, exp), over_http2);
        app.ask(with("/events", claims(exp))).await.is_refusal(401, "identity_expired");
        app.ask(with("/open", claims(exp))).await.is_refusal(401, "identity_expired");
    })
    .await;
}

fn is_in_time(exp: f64) {
    let late = now() - exp;
    assert!((0.0..=2.0).contains(&late), "ended {late:.3} s after the identity");
    println!("ended {:?} after the identity", Duration::from_secs_f64(late));
}
