//! How a run's world is laid out: proxies, the stream's configuration, users, the sidecars' configurations.
//!
//! What is random in it comes from the run's seed. Putting it together is `world`'s part.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::Value;

use super::servers::Servers;
use super::support::proxy::Proxy;
use super::support::{Config, eventually};

/// The stream.
pub const STREAM: &str = "EVENTS";
/// How long the slowest step of a healthy world may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which sidecars reach NATS through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxied {
    /// None.
    None,
    /// Both.
    Both,
    /// The first only: the other goes on undisturbed.
    One,
}

/// How a world is laid out. A cluster has neither proxies nor accounts nor a disk or network of its own.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Three servers instead of one.
    pub cluster: bool,
    /// The server is in a network namespace of its own (root only).
    pub namespace: bool,
    /// Who goes through a proxy.
    pub proxied: Proxied,
    /// More of the stream's configuration, as JSON.
    pub stream: &'static str,
    /// More of the sidecars' limits.
    pub limits: &'static [(&'static str, &'static str)],
    /// The store is a file system of so many MiB.
    pub disk_mib: Option<u32>,
    /// The server's configuration, the user who may do everything, and the one for the sidecars.
    pub accounts: Option<Accounts>,
    /// Messages per second.
    pub rate: u32,
    /// How large the sidecars' histories may be; small ones make replays read from the stream.
    pub histories: &'static [&'static str],
}

/// Users of a NATS server.
#[derive(Debug, Clone, Copy)]
pub struct Accounts {
    /// The configuration file.
    pub config: &'static str,
    /// Name and password of the user who may do everything.
    pub admin: [&'static str; 2],
    /// Name and password of the sidecars' user.
    pub sidecar: [&'static str; 2],
}

/// The usual one.
pub const PLAIN: Layout = Layout {
    cluster: false,
    namespace: false,
    proxied: Proxied::None,
    stream: "{}",
    limits: &[],
    disk_mib: None,
    accounts: None,
    rate: 500,
    histories: &["64KiB", "1MiB", "64MiB"],
};

/// The configurations of the two sidecars, and the proxies they need.
pub async fn configs(
    servers: &mut Servers,
    layout: Layout,
    random: &mut fastrand::Rng,
    proxies: &mut Vec<Proxy>,
) -> Vec<Config> {
    let mut configs = Vec::new();
    for sidecar in 0..2 {
        let proxied = layout.proxied == Proxied::Both || (layout.proxied == Proxied::One && sidecar == 0);
        let urls = if proxied {
            let proxy = Proxy::to(servers.address()).await;
            let url = format!("nats://{}", proxy.address);
            proxies.push(proxy);
            vec![url]
        } else {
            servers.urls()
        };
        let history = layout.histories[random.usize(..layout.histories.len())];
        // A small queue makes clients catch up in pieces.
        let queue = ["\"8KiB\"", "\"128KiB\""][random.usize(..2)];
        let mut config = Config::at_any(&urls).limit("queue_bytes", queue).heartbeat("2s");
        for (key, value) in layout.limits {
            config = config.limit(key, value);
        }
        if let Some(accounts) = layout.accounts {
            let [user, password] = accounts.sidecar;
            let file = servers.one().store().with_file_name("sidecar-password");
            std::fs::write(&file, password).expect("the password is written");
            config.nats_more = format!("user = {user:?}\npassword_file = {file:?}\n");
        }
        println!("    sidecar {sidecar}: history {history}, queue {queue}");
        configs.push(config.tables(&format!("\n[history]\nbytes = {history:?}\n")));
    }
    configs
}

/// Creates the stream; waits until the servers can.
pub async fn create_stream(jetstream: &jetstream::Context, layout: Layout) {
    let mut config = serde_json::json!({
        "name": STREAM, "subjects": ["events.>"], "retention": "limits", "storage": "file",
        "num_replicas": if layout.cluster { 3 } else { 1 }, "allow_direct": true,
    });
    let more: Value = serde_json::from_str(layout.stream).expect("JSON");
    for (key, value) in more.as_object().expect("an object") {
        config[key] = value.clone();
    }
    eventually("the stream is created", PATIENCE, async || {
        let client = jetstream.client();
        let answer = client.request(format!("$JS.API.STREAM.CREATE.{STREAM}"), config.to_string().into());
        let answer: Value = serde_json::from_slice(&answer.await.ok()?.payload).ok()?;
        answer["error"].is_null().then_some(())
    })
    .await;
}
