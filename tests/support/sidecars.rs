//! Several sidecars on one NATS, asked by their admin listeners with a token.

use std::time::Duration;

use serde_json::Value;

use super::client::Answer;
use super::{App, Config, Nats, Sse, Version, Wire, eventually};

/// The token of every sidecar here.
pub const TOKEN: &str = "a-token-of-some-length";
/// After so long a silence a sidecar is off the roll, and what a busy machine may add.
pub const OFF_THE_ROLL: Duration = Duration::from_secs(25);

/// Sidecars that know each other, and a client of alice on each.
pub struct Sidecars {
    /// Their server.
    pub nats: Nats,
    /// They.
    pub apps: Vec<App>,
    /// Alice, by the place of the sidecar.
    pub clients: Vec<Sse>,
    token: tempfile::NamedTempFile,
}

impl Sidecars {
    /// Three of them.
    pub async fn three(version: Version) -> Self {
        let mut all = Self::one(version, |config| config).await;
        all.add(|config| config).await;
        all.add(|config| config).await;
        all.is_counted(3, true).await;
        all
    }

    /// One by itself.
    pub async fn one(version: Version, config: impl FnOnce(Config) -> Config) -> Self {
        let nats = Nats::start(version).await;
        nats.events().await;
        let token = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(token.path(), TOKEN).expect("written");
        let mut all = Self { nats, apps: Vec::new(), clients: Vec::new(), token };
        all.add(config).await;
        all.is_counted(1, true).await;
        all
    }

    /// Another.
    pub async fn add(&mut self, config: impl FnOnce(Config) -> Config) {
        let app = App::start(&config(self.config())).await;
        self.clients.push(app.events("alice").await);
        self.apps.push(app);
    }

    /// What each is configured with.
    pub fn config(&self) -> Config {
        Config::on(&self.nats).admin(&format!("token_file = {:?}\n", self.token.path()))
    }

    /// Where the token is.
    pub fn token_file(&self) -> String {
        self.token.path().display().to_string()
    }

    /// Asks one of them with the token.
    pub async fn ask(&self, at: usize, method: &str, path: &str) -> Answer {
        self.apps[at].admin_ask(method, path, Some(TOKEN)).await
    }

    /// The same with a body.
    pub async fn post(&self, at: usize, path: &str, body: &str) -> Answer {
        self.apps[at].admin_send("POST", path, Some(TOKEN), body).await
    }

    /// The same with more header lines.
    pub async fn post_with(&self, at: usize, path: &str, headers: &str, body: &str) -> Answer {
        let mut wire = Wire::tcp(&self.apps[at].admin).await;
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        wire.send_anyway((head + body).as_bytes()).await;
        wire.answer().await
    }

    /// The id of alice's connection to one of them.
    pub fn connection(&self, at: usize) -> String {
        super::json(&self.clients[at].connected)["connection"].as_str().expect("an id").to_owned()
    }

    /// What one of them says of all connections: how many, and whether all were counted.
    pub async fn counted_by(&self, at: usize) -> (u64, bool) {
        counted(&self.ask(at, "GET", "/connections?scope=cluster").await)
    }

    /// Waits until the first of them counts so. One that has just begun may not have reached NATS yet.
    pub async fn is_counted(&self, total: u64, complete: bool) {
        eventually("the sum is whole", OFF_THE_ROLL, async || {
            let answer = self.ask(0, "GET", "/connections?scope=cluster").await;
            (answer.head.status != 503 && counted(&answer) == (total, complete)).then_some(())
        })
        .await;
    }
}

#[track_caller]
fn counted(listing: &Answer) -> (u64, bool) {
    let listed = json_of(listing);
    (listed["total"].as_u64().expect("a number"), listed["complete"].as_bool().expect("a truth"))
}

/// The JSON of an answer that is not a refusal.
#[track_caller]
pub fn json_of(answer: &Answer) -> Value {
    assert!(answer.head.status < 300, "{:?}: {}", answer.head, answer.text());
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}
