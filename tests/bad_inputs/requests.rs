//! Requests on the public listener: what each is answered, that nothing of it comes back, and that it costs nothing at NATS.

use crate::ask::{Said, http1, http2, http2_connection};
use crate::request::Written;
use crate::run::{every_row, nothing_wrong, same};
use crate::support::{App, Config, DEADLINE, Nats, Publisher, Version, bounded};
use crate::table::{Row, Table};

/// What a good request has where the proxy may speak for a user, ...
const OF_ALICE: &[(&str, &str)] =
    &[("Host", "app.example"), ("Accept", "text/event-stream"), ("X-Forwarded-User", "alice")];
/// ... and elsewhere.
const OF_NOBODY: &[(&str, &str)] = &[("Host", "app.example"), ("Accept", "text/event-stream")];
/// Anybody may open this, anywhere.
const GOOD: &str = "GET /anyone";

const SECRET: &str = "correct-horse-battery-staple";

const ROUTES: &str = r#"
[[route]]
path = "/anyone"
stream = "EVENTS"
subjects = ["events.broadcast.>"]
audience = "anyone"

[[route]]
path = "/select"
stream = "EVENTS"
subjects = ["events.user.{user}.>"]
live_subjects = ["live.{user}.>"]
select = true

[[route]]
path = "/allowed"
stream = "EVENTS"
subjects = ["events.user.{user}.>"]
allow = ["events.orders.>"]

[[route]]
path = "/rooms/{room}"
stream = "EVENTS"
subjects = ["events.room.{room}.>"]
audience = "anyone"

[[route]]
path = "/tenant"
stream = "EVENTS"
subjects = ["events.tenant.{tenant}.>"]

[[route]]
path = "/live"
subjects = ["live.{user}.>"]
"#;

/// `{"sub":"alice"}`.
const OF_CLAIMS: &[(&str, &str)] =
    &[("Host", "app.example"), ("Accept", "text/event-stream"), ("X-Claims", "eyJzdWIiOiJhbGljZSJ9")];

const IDENTITY: &str = r#"
expires_header = "X-Expires"
subjects_header = "X-Subjects"
variables = { tenant = "X-Tenant" }
"#;

macro_rules! table {
    ($name:literal) => {
        Table::read(concat!("requests/", $name), include_str!(concat!("requests/", $name, ".txt")), 2, 1)
    };
}

/// Those of the server whose proxy is trusted.
fn trusted() -> Vec<Table> {
    vec![
        table!("targets"),
        table!("http"),
        table!("browsers"),
        table!("cursors"),
        table!("identities"),
        table!("subjects"),
    ]
}

/// All.
pub fn tables() -> Vec<Table> {
    trusted().into_iter().chain([table!("claims"), table!("unproven"), table!("secret")]).collect()
}

#[tokio::test]
async fn requests_through_a_trusted_proxy() {
    bounded(async {
        let server = "hosts = [\"app.example\"]\norigins = [\"https://page.example\"]\n";
        let place = Place::new(|config| config.server(server)).await;
        place.answers(&trusted(), OF_ALICE).await;
    })
    .await;
}

#[tokio::test]
async fn requests_with_claims() {
    bounded(async {
        let place = Place::new(|mut config| {
            config.identity.push_str("claims_header = \"X-Claims\"\n");
            config
        })
        .await;
        place.answers(&[table!("claims")], OF_CLAIMS).await;
    })
    .await;
}

#[tokio::test]
async fn requests_without_any_trust() {
    bounded(async {
        let place = Place::new(|config| config.trust(None)).await;
        place.answers(&[table!("unproven")], OF_NOBODY).await;
    })
    .await;
}

#[tokio::test]
async fn requests_through_a_proxy_with_a_secret() {
    bounded(async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("secret");
        std::fs::write(&file, SECRET).expect("written");
        let trust = format!("proxies = [\"127.0.0.1\"]\nsecret_files = [{file:?}]\n");
        let place = Place::new(|config| config.trust(Some(&trust))).await;
        place.answers(&[table!("secret")], OF_ALICE).await;
    })
    .await;
}

/// A NATS server and the program on it.
struct Place {
    nats: Nats,
    publisher: Publisher,
    app: App,
}

/// Metrics of one route: 24 ways to end, 3 to resume, 2 protocols, and three histograms.
const SERIES_OF_A_ROUTE: usize = 58;

impl Place {
    async fn new(change: impl FnOnce(Config) -> Config) -> Self {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let config = Config { identity: IDENTITY.to_owned(), ..Config::on(&nats) };
        let app = App::start(&change(config.server("h2c = true\n").tables(ROUTES))).await;
        Self { nats, publisher, app }
    }

    /// Puts every row to the program. Afterwards nothing is left of any of them.
    async fn answers(&self, tables: &[Table], good: &[(&str, &str)]) {
        let (before, series) = (self.traces().await, self.app.metrics().await.series());
        let mut wrong = Vec::new();
        for table in tables {
            wrong.extend(every_row(table, 1, async |row| self.answer(row, good).await).await);
        }
        nothing_wrong(&wrong);
        self.app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
        assert_eq!(self.traces().await, before, "consumers, subscriptions, connections to NATS, panics");
        assert_eq!(self.app.metrics().await.series(), series, "whatever is asked adds no series");
        // With one route there are 300 at most (requirement R69, tests/admin.rs); each further one adds its own.
        let routes = ROUTES.matches("[[route]]").count();
        assert!(series <= 300 + SERIES_OF_A_ROUTE * routes, "{series} series for {routes} more routes");
    }

    /// What requests that are refused must not leave behind.
    async fn traces(&self) -> (Vec<String>, String, Vec<String>, String) {
        let metrics = self.app.metrics().await;
        let number = |name| metrics.sum(name, &[]).to_string();
        let mut connections = self.nats.connection_names().await;
        connections.sort();
        let consumers = self.publisher.consumers("EVENTS").await;
        (consumers, number("sidestream_nats_subscriptions"), connections, number("sidestream_panics_total"))
    }

    async fn answer(&self, row: &Row, good: &[(&str, &str)]) -> Result<(), String> {
        let written = Written::read(row.input(1), good);
        let over = row.input(0);
        if over != "h2" {
            let said = http1(self.app.address(), &written.http1()).await;
            judge(row, &written, &said).map_err(|wrong| format!("over HTTP/1.1 {wrong}"))?;
            let good = http1(self.app.address(), &Written::read(GOOD, OF_NOBODY).http1()).await;
            same("200 new", &good.words).map_err(|wrong| format!("a good request behind it: {wrong}"))?;
        }
        if over != "h1" {
            let connection = http2_connection(self.app.address()).await;
            let said = http2(&connection, &written).await;
            judge(row, &written, &said).map_err(|wrong| format!("over HTTP/2 {wrong}"))?;
            let good = http2(&connection, &Written::read(GOOD, OF_NOBODY)).await;
            same("200 new", &good.words).map_err(|wrong| format!("a good request on the same connection: {wrong}"))?;
        }
        if ["h1", "h2", "both"].contains(&over) { Ok(()) } else { Err(format!("over {over:?}?")) }
    }
}

fn judge(row: &Row, written: &Written, said: &Said) -> Result<(), String> {
    same(row.answer(0), &said.words)?;
    if said.words != "200 exact"
        && let Some(echo) = said.echoes(&written.payloads())
    {
        return Err(format!("comes back: {echo:?}"));
    }
    let leaked = said.head.as_ref().and_then(|head| head.header("access-control-allow-origin"));
    match leaked {
        Some(origin) if origin != "https://page.example" => Err(format!("allows the origin {origin:?}")),
        _ => Ok(()),
    }
}
