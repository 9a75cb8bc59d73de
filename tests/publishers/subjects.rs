//! Which subject an event goes to, and what is refused: the sidecar's own functions are the measure for all three
//! libraries.

use serde_json::{Value, json};
use sidestream::config::Config;
use sidestream::config::load::{Sources, load_text};
use sidestream::frame::checked_name;
use sidestream::publish::{broadcast_target, user_target};

use crate::driver::{Driver, Language};
use crate::support::{self, Nats, Version};

/// User ids at the borders of what is allowed: tokens, what needs encoding, what looks as if it were encoded, what is
/// refused.
const USERS: &[&str] = &[
    "alice",
    "a.b",
    "*",
    ">",
    "a*",
    "$x",
    "x$",
    "_INBOX",
    "a b",
    "",
    "a\tb",
    "a\n",
    "\n",
    "é",
    "a\u{7f}",
    "alice@example.com",
    "YS5i",
    "WVM1aQ",
    "V1ZNMWFR",
    "YWxpY2U",
    "YWxpY2U=",
    "YS5j",
    "YS5",
    "YS5q",
    "YS5r",
    "YQ",
    "YR",
    "Y",
    "LQ",
    "Lg",
    "Kg",
    "PiA",
    "JHg",
    "_-_-",
    "-_",
    "a/b",
    "a+b",
    "{user}",
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "\u{feff}a",
];
/// Event names.
const EVENTS: &[&str] = &[
    "note",
    "order.created",
    "größe",
    "",
    " a",
    "a ",
    "a b",
    "\u{a0}a",
    "a\u{3000}",
    "\u{feff}a",
    "a\nb",
    "a\r",
    "a\u{85}b",
    "\u{1}",
    "a\u{7f}",
    "sidestream.gap",
    "sidestream.",
    "sidestream",
    "Sidestream.x",
    "message",
    "*",
    ">",
    "$x",
    "a>",
    "🦀",
];
/// Random ids and names beside them.
const RANDOM: usize = 2000;

fn random(alphabet: &str) -> String {
    let alphabet: Vec<char> = alphabet.chars().collect();
    (0..fastrand::usize(0..14)).map(|_| alphabet[fastrand::usize(..alphabet.len())]).collect()
}

fn users() -> Vec<String> {
    let lengths = [127, 128, 129, 96, 97].map(|length| "u".repeat(length));
    let dotted = [95, 96, 97].map(|length| ".".repeat(length));
    let mut users: Vec<String> = USERS.iter().map(|user| (*user).to_owned()).chain(lengths).chain(dotted).collect();
    users.extend((0..RANDOM).map(|_| random("aYZ05.*>$_-=@ é")));
    // Ids that are somebody's token already.
    let token = |user: &String| Some(sidestream::subject::encode_user(user)?.as_str().to_owned());
    users.extend(users.iter().filter_map(token).collect::<Vec<_>>());
    users
}

fn events() -> Vec<String> {
    let lengths = [127, 128, 129, 256, 257]
        .map(|length| "e".repeat(length))
        .into_iter()
        .chain(["é".repeat(128), "é".repeat(129)]);
    let mut events: Vec<String> = EVENTS.iter().map(|event| (*event).to_owned()).chain(lengths).collect();
    events.extend((0..RANDOM).map(|_| random("ab.*>$_- é\u{85}\n🦀")));
    events
}

fn config(encoding: &str) -> Config {
    let text = format!(
        "[identity]\nuser_encoding = {encoding:?}\n[trust]\nproxies = [\"127.0.0.1\"]\naddress_is_proof = true\n\
         [[route]]\npath = \"/events\"\nstream = \"EVENTS\"\n\
         subjects = [\"app.events.user.{{user}}.>\", \"app.events.broadcast.>\"]\n"
    );
    load_text("test.toml", &text, &Sources::default()).expect("a configuration").config
}

/// What the sidecar makes of them; white space at the ends of a name is refused by the libraries alone.
fn measure(encoding: &str, users: &[String], events: &[String]) -> Value {
    let config = config(encoding);
    let name = |event: &&String| checked_name(event).is_some() && event.trim() == **event;
    let event = |event: &String| {
        Some(event)
            .filter(name)
            .and_then(|event| broadcast_target(&config, Some(event)).ok().map(|target| target.subject))
    };
    let user = |user: &String| user_target(&config, user, Some("note")).ok().map(|target| target.subject);
    let (users, events): (Vec<_>, Vec<_>) = (users.iter().map(user).collect(), events.iter().map(event).collect());
    json!({ "users": users, "events": events })
}

#[tokio::test]
async fn the_libraries_and_the_sidecar_agree_on_subjects() {
    fastrand::seed(support::seed());
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let (users, events) = (users(), events());
        for language in Language::installed("the_libraries_and_the_sidecar_agree_on_subjects") {
            let mut driver = Driver::start(language, &nats.url());
            for encoding in ["refuse", "base64url"] {
                driver.ask(json!({ "do": "configure", "prefix": "app.events", "encoding": encoding })).await;
                let found = driver.ask(json!({ "do": "subjects", "users": users, "events": events })).await;
                let wanted = measure(encoding, &users, &events);
                for (kind, values) in [("users", &users), ("events", &events)] {
                    for (at, value) in values.iter().enumerate() {
                        let (found, wanted) = (&found[kind][at], &wanted[kind][at]);
                        assert_eq!(found, wanted, "{language:?}, {encoding}: {kind}: {value:?}");
                    }
                }
            }
            for prefix in ["", ".", "a.", "a b", "a.*", ">", "_INBOX", "$JS.API", &"p".repeat(129)] {
                let refused =
                    driver.try_ask(json!({ "do": "configure", "prefix": prefix, "encoding": "refuse" })).await;
                assert!(refused["error"].is_string(), "{language:?}: {prefix:?} was taken as a prefix");
            }
        }
    })
    .await;
}
