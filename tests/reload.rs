//! The configuration read again while the program runs: put in force whole or not at all, streams kept, and what waits is named
//! (requirement R63).

mod support;

use std::path::Path;
use std::process::Command;

use support::client::Answer;
use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, bounded, eventually, get};

struct Site {
    nats: Nats,
    app: App,
    config: Config,
    directory: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let directory = tempfile::tempdir().expect("a directory");
        let token = directory.path().join("token");
        std::fs::write(&token, TOKEN).expect("written");
        let config =
            Config::on(&nats).server("hosts = [\"app.example\"]\n").admin(&format!("token_file = {token:?}\n"));
        let app = App::of_file(&directory.path().join("sidestream.toml"), &config).await;
        Self { nats, app, config, directory }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.file(), text).expect("written");
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("sidestream.toml")
    }

    /// Writes a configuration, sends the signal and waits for what is said of it.
    async fn reload(&self, text: &str, says: &str) -> serde_json::Value {
        let before = self.app.log_json().len();
        self.write(text);
        self.app.hang_up();
        eventually(&format!("the log says {says:?}"), DEADLINE, async || {
            self.app.log_json().into_iter().skip(before).find(|line| line["message"] == says)
        })
        .await
    }

    async fn asks(&self, host: &str) -> Answer {
        self.app.ask(get("/nothing").without("Host").header("Host", host)).await
    }
}

const TOKEN: &str = "the-token-of-this-site";
const APPLIED: &str = "Configuration was read again";
const WAITING: &str = "Changed keys wait for a restart";

#[tokio::test]
async fn a_new_configuration_holds_for_new_requests_and_open_streams_stay() {
    bounded(async {
        let site = Site::start().await;
        let publisher = site.nats.publisher().await;
        let mut alice = site.app.events("alice").await;
        site.asks("other.example").await.is_refusal(421, "unknown_host");
        let mut changed = site.config.clone();
        changed.server = "hosts = [\"other.example\"]\n".to_owned();
        changed.tables = changed.tables.replace("events.user.{user}.>", "events.people.{user}.>");
        changed.limits.insert("connections_per_user", "1".to_owned());
        changed.trust =
            Some("proxies = [\"127.0.0.1\"]\nsecret_files = [\"SECRET\"]\n".replace("SECRET", &secret(&site)));
        let said = site.reload(&changed.render(), APPLIED).await;
        let applied = said["applied"].as_str().expect("a list");
        for key in ["server.hosts", "route[0].subjects", "limits.connections_per_user", "trust.address_is_proof"] {
            assert!(applied.contains(key), "{key}: {applied}");
        }
        site.asks("app.example").await.is_refusal(421, "unknown_host");
        site.asks("other.example").await.is_refusal(404, "not_found");
        // Another proof is wanted.
        let request = || get("/events").without("Host").header("Host", "other.example").user("alice");
        site.app.ask(request()).await.is_refusal(403, "untrusted_peer");
        let proven = || request().header("X-Sidestream-Secret", "a-secret-of-some-length");
        // She has one stream already, which is now as many as she may have; bob's hears what the new templates say.
        site.app.ask(proven()).await.is_soft_refusal("user");
        let mut bob =
            Sse::open(Wire::tcp(site.app.address()).await, &proven().without("X-Forwarded-User").user("bob")).await;
        publisher.publish("events.people.bob.x", "to new templates").await;
        assert_eq!(bob.event().await.data, "to new templates");
        publisher.publish("events.user.alice.x", "to the old grant").await;
        assert_eq!(alice.event().await.data, "to the old grant");
    })
    .await;
}

fn secret(site: &Site) -> String {
    let file = site.directory.path().join("secret");
    std::fs::write(&file, "a-secret-of-some-length\n").expect("written");
    file.display().to_string()
}

#[tokio::test]
async fn heartbeats_of_open_streams_follow() {
    bounded(async {
        let site = Site::start().await;
        let mut alice = site.app.events("alice").await;
        site.reload(&site.config.clone().heartbeat("1s").render(), APPLIED).await;
        assert_eq!(alice.next().await.name, "sidestream.heartbeat");
        // What is refused is told as well, where it was asked for by a signal.
        site.write("version = 9\n");
        site.app.hang_up();
        site.app.logs("Configuration was not changed", DEADLINE).await;
    })
    .await;
}

#[tokio::test]
async fn what_waits_for_a_restart_is_named_and_the_rest_is_applied() {
    bounded(async {
        let site = Site::start().await;
        let mut changed = site.config.clone().listen(&["127.0.0.1:1"]);
        changed.server = "hosts = [\"other.example\"]\n".to_owned();
        changed.limits.insert("replays", "7".to_owned());
        changed.tables.push_str("[history]\nbytes = \"32MiB\"\n");
        let said = site.reload(&changed.render(), WAITING).await;
        assert_eq!(said["keys"], "history.bytes, limits.replays, server.listen");
        site.asks("other.example").await.is_refusal(404, "not_found");
        // And once more, as it is still so.
        let said = site.reload(&changed.render(), WAITING).await;
        assert_eq!(said["keys"], "history.bytes, limits.replays, server.listen");
    })
    .await;
}

/// Ways to spoil a configuration; each must be refused by `check` and by the running program, which goes on with what it has.
const SPOILT: [(&str, &str); 20] = [
    ("version = 1", "version = 2"),
    ("version = 1", "versoin = 1"),
    ("[server]", "[server"),
    ("[server]", "[sever]"),
    ("listen = [\"127.0.0.1:0\"]", "listen = []"),
    ("listen = [\"127.0.0.1:0\"]", "listen = [\"nowhere:80\"]"),
    ("drain_window = \"1s\"", "drain_window = \"1 fortnight\""),
    ("drain_window = \"1s\"", "drain_window = 1"),
    ("hosts = [\"app.example\"]", "hosts = [\"https://app.example\"]"),
    ("hosts = [\"app.example\"]", "origins = [\"*\"]"),
    ("proxies = [\"127.0.0.1\"]", "proxies = [\"0.0.0.0/0\"]"),
    ("address_is_proof = true", "address_is_proof = false"),
    ("address_is_proof = true", "secret_files = [\"/nonexistent/secret\"]"),
    ("user_header = \"X-Forwarded-User\"", "user_header = \"X Forwarded User\""),
    ("interval = \"15s\"", "interval = \"0s\""),
    ("connections_per_user = 100000", "connections_per_user = 0"),
    ("path = \"/events\"", "path = \"events\""),
    ("{user}", "{nobody}"),
    ("audience = \"user\"", "audience = \"anyone\""),
    ("events.broadcast.>", "events..>"),
];

#[tokio::test]
async fn a_faulty_configuration_changes_nothing() {
    bounded(async {
        let site = Site::start().await;
        let mut alice = site.app.events("alice").await;
        let good = site.config.render();
        for (from, to) in SPOILT {
            assert!(good.contains(from), "{from}");
            // With it a change that would be seen.
            let spoilt = good.replacen(from, to, 1).replace("app.example", "other.example");
            site.write(&spoilt);
            // The log has a line for the first ten of them.
            let said = site.app.admin_ask("POST", "/reload", Some(TOKEN)).await;
            assert_eq!(said.head.status, 422, "{from} -> {to}: {}", said.text());
            let code = check(&site.file());
            assert!(matches!(code, 66 | 77 | 78), "{from} -> {to}: check exits {code}");
            site.asks("app.example").await.is_refusal(404, "not_found");
        }
        // Half a file, as it is seen while somebody writes it, and none.
        site.write(&good[..good.len() / 2]);
        assert_eq!(site.app.admin_ask("POST", "/reload", Some(TOKEN)).await.head.status, 422);
        std::fs::remove_file(site.file()).expect("there");
        assert_eq!(site.app.admin_ask("POST", "/reload", Some(TOKEN)).await.head.status, 422);
        site.reload(&good, APPLIED).await;
        site.nats.publisher().await.publish("events.user.alice.x", "still here").await;
        assert_eq!(alice.event().await.data, "still here");
    })
    .await;
}

fn check(file: &Path) -> i32 {
    let output = Command::new(env!("CARGO_BIN_EXE_sidestream")).arg("check").arg("--config").arg(file).output();
    output.expect("runs").status.code().expect("an exit code")
}

#[tokio::test]
async fn the_admin_listener_reads_it_again_and_says_what_came_of_it() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let directory = tempfile::tempdir().expect("a directory");
        let token = directory.path().join("token");
        std::fs::write(&token, "the-first-admin-token").expect("written");
        let file = directory.path().join("sidestream.toml");
        let config = Config::on(&nats).admin(&format!("token_file = {token:?}\n"));
        let app = App::of_file(&file, &config).await;
        let reload = async |token: &str| app.admin_ask("POST", "/reload", Some(token)).await;

        std::fs::write(&file, config.clone().listen(&["127.0.0.1:1"]).heartbeat("20s").render()).expect("written");
        let done = reload("the-first-admin-token").await;
        assert_eq!(done.text(), "{\"applied\":[\"heartbeat.interval\"],\"restart_needed\":[\"server.listen\"]}\n");
        let shown = app.admin_ask("GET", "/config", Some("the-first-admin-token")).await.text();
        assert!(shown.contains("heartbeat.interval = \"20s\"") && shown.contains("server.listen = [\"127.0.0.1:0\"]"));

        std::fs::write(&file, config.render().replace("version = 1", "version = 9")).expect("written");
        let refused = reload("the-first-admin-token").await;
        assert_eq!(refused.head.status, 422);
        assert!(refused.text().contains("version"), "{}", refused.text());

        // The token itself is read again.
        std::fs::write(&file, config.render()).expect("written");
        std::fs::write(&token, "the-second-admin-token").expect("written");
        assert_eq!(reload("the-first-admin-token").await.head.status, 200);
        reload("the-first-admin-token").await.is_refusal(401, "token_wrong");
        assert_eq!(reload("the-second-admin-token").await.head.status, 200);
    })
    .await;
}
