//! Requests on the admin listener, with a token and without one configured: nothing but its few paths, and only by GET.

use std::process::Command;

use crate::ask::{Said, http1};
use crate::request::Written;
use crate::run::{every_row, nothing_wrong, same};
use crate::support::{App, Config, Nats, Version, bounded};
use crate::table::{Row, Table};

const GOOD: &[(&str, &str)] = &[("Host", "127.0.0.1:9464")];
/// What answers say whatever is asked, though it may stand in requests, too.
const SAID_ANYWAY: [&str; 8] = [
    "there are / /livez /readyz /metrics /version /config /connections /live /drain /kick/{connection} /kick?user= \
     /send/{connection} /notify/{user} /broadcast /reload /log-level",
    "Authorization: Bearer",
    "\"connections\":[]",
    "token_not_configured",
    "the body is {\\\"event\\\": a name, may be left out, \\\"data\\\": any JSON value}",
    "expected `event` or `data`",
    "does not begin with `sidestream.`",
    "a connection is named by the id in its `sidestream.connected`, which /connections lists",
];
const TOKEN: &str = "a-token-of-some-length";

macro_rules! table {
    ($name:literal) => {
        Table::read(concat!("admin/", $name), include_str!(concat!("admin/", $name, ".txt")), 1, 1)
    };
}

/// All.
pub fn tables() -> Vec<Table> {
    vec![table!("guarded"), table!("open")]
}

#[tokio::test]
async fn admin_requests() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("token");
        std::fs::write(&file, TOKEN).expect("written");
        let config = Config::on(&nats);
        let with_token = |mut serve: Command| {
            serve.arg("--set").arg(format!("admin.token_file={}", file.display()));
            serve
        };
        let (guarded, open) = tokio::join!(App::launch(&config, with_token), App::start(&config));
        let listed = b"GET /connections HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a-token-of-some-length\r\n\r\n";
        assert_eq!(http1(&guarded.admin, listed).await.words, "200 text", "the token opens");
        let mut wrong = every_row(&table!("guarded"), 1, async |row| answer(&guarded, row).await).await;
        wrong.extend(every_row(&table!("open"), 1, async |row| answer(&open, row).await).await);
        nothing_wrong(&wrong);
        let log = guarded.log_lines().join("\n");
        assert!(!log.contains(TOKEN), "the token is in the log: {log}");
    })
    .await;
}

async fn answer(app: &App, row: &Row) -> Result<(), String> {
    let written = Written::read(row.input(0), GOOD);
    let mut said = http1(&app.admin, &written.http1()).await;
    same(row.answer(0), &said.words)?;
    kept_to_oneself(&said)?;
    let body = SAID_ANYWAY.iter().fold(said.text(), |body, words| body.replace(words, ""));
    said.body = body.into_bytes();
    if let Some(echo) = said.echoes(&written.payloads()) {
        return Err(format!("comes back: {echo:?}"));
    }
    let good = http1(&app.admin, b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    same("200 text", &good.words).map_err(|wrong| format!("a good request behind it: {wrong}"))
}

/// What the program itself answers, and not the parser, is neither stored nor guessed at.
fn kept_to_oneself(said: &Said) -> Result<(), String> {
    let Some(head) = said.head.as_ref().filter(|_| !said.body.is_empty()) else { return Ok(()) };
    let kept =
        head.header("cache-control") == Some("no-store") && head.header("x-content-type-options") == Some("nosniff");
    if kept { Ok(()) } else { Err(format!("{head:?}")) }
}
