//! The checked configuration: values that can no longer be wrong.
//!
//! Everything here is the result of [`load::load`]: units are parsed, templates compiled, cross-checks done. It leaves
//! the shape of the TOML file to `file`, reading and layering to [`load`], and the report of faults to [`error`].
//! The meaning of every key is documented once, in `default.toml` beside this file.

mod check;
pub mod error;
mod file;
mod layers;
pub mod load;
mod nearest;
pub mod reference;
pub mod reload;
mod secret;
pub mod show;
mod source;
mod tree;
pub mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::frame::{EventNaming, Payload};
use crate::route::RouteTable;

pub use self::secret::{Redaction, Secret};

/// A whole, valid configuration. Cheap enough to clone once per shard, never per request.
#[derive(Debug, Clone)]
pub struct Config {
    /// The public listener.
    pub server: Server,
    /// The admin listener.
    pub admin: Admin,
    /// How NATS is reached.
    pub nats: Nats,
    /// Which peers may speak for a user; `None` refuses every identity header.
    pub trust: Option<Trust>,
    /// Which headers carry the identity.
    pub identity: Identity,
    /// What is stated of streams; those that no route names are not looked at.
    pub streams: Vec<Stream>,
    /// The public routes, in file order.
    pub routes: RouteTable,
    /// Bounds.
    pub limits: Limits,
    /// Heartbeats.
    pub heartbeat: Heartbeat,
    /// Recent frames kept in memory, in bytes, per stream.
    pub history_bytes: usize,
    /// Who is told who is connected; `None` tells nobody.
    pub presence: Option<Presence>,
    /// Logging.
    pub log: Log,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`, resolved when the configuration was read.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
    /// `systemd:name`: a socket inherited from systemd, by its `FileDescriptorName`.
    Systemd(String),
}

/// `[server]`.
#[derive(Debug, Clone)]
pub struct Server {
    /// At least one address.
    pub listen: Vec<Listen>,
    /// Accepted `Host` / `:authority` values, lower case, without port; empty accepts any.
    pub hosts: Vec<String>,
    /// Exact origins that may connect from other pages, such as `https://app.example`; empty is same-origin only.
    pub origins: Vec<String>,
    /// Streams close one by one across this time after SIGTERM.
    pub drain_window: Duration,
    /// A stream is ended after this long, +-10 %; `None` is never.
    pub max_age: Option<Duration>,
    /// Longest time for a TLS handshake, and for a complete request head after it.
    pub header_timeout: Duration,
    /// HTTP/2 with prior knowledge on plain listeners.
    pub h2c: bool,
    /// A PROXY protocol header is wanted on every TCP connection, from `trust.proxies` only.
    pub proxy_protocol: bool,
    /// TLS on every TCP listener; `None` is plain.
    pub tls: Option<Tls>,
}

/// `[server.tls]`.
#[derive(Debug, Clone)]
pub struct Tls {
    /// PEM file, leaf first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// Present: a client certificate is wanted.
    pub proxies: Option<ClientCertificates>,
}

/// `server.tls.client_ca` and `server.tls.client_names`.
#[derive(Debug, Clone)]
pub struct ClientCertificates {
    /// PEM file with the authorities that sign them.
    pub ca: PathBuf,
    /// Exact DNS names, lower case, one of which a certificate must be for; empty takes every certificate of the authorities.
    pub names: Vec<String>,
}

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Loopback or unix socket; a public address is refused without a token.
    pub listen: Listen,
    /// Bearer token that `/connections` is answered for only.
    pub token: Option<Secret>,
}

/// `[nats]`.
#[derive(Debug, Clone)]
pub struct Nats {
    /// Server URLs, at least one.
    pub servers: Vec<String>,
    /// How we log in.
    pub auth: NatsAuth,
    /// PEM file of the authority that signs the servers; `None` uses the platform's.
    pub ca: Option<PathBuf>,
    /// Client certificate and key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// TLS before the server's INFO line.
    pub tls_first: bool,
}

impl Nats {
    /// Whether TLS is meant. Then every connection has it, to the servers that are configured only.
    pub fn wants_tls(&self) -> bool {
        let named = || self.servers.iter().any(|url| url.starts_with("tls://"));
        self.ca.is_some() || self.client_cert.is_some() || self.tls_first || named()
    }
}

/// How we log in at NATS.
#[derive(Debug, Clone)]
pub enum NatsAuth {
    /// No credentials.
    None,
    /// A `.creds` file.
    Credentials(PathBuf),
    /// An nkey seed.
    Nkey(Secret),
    /// User and password.
    Password {
        /// The user name.
        user: String,
        /// The password, from its file.
        password: Secret,
    },
    /// A token.
    Token(Secret),
}

/// `[trust]`: present only with an address rule *and* a proof (requirement R1).
#[derive(Debug, Clone)]
pub struct Trust {
    /// Peers that may speak for a user, by address.
    pub proxies: Vec<IpNet>,
    /// Peers on a unix socket may speak for a user.
    pub unix: bool,
    /// Proof 1: the uid of the peer on the unix socket.
    pub peer_uids: Vec<u32>,
    /// Proof 2: a client certificate that `server.tls` accepted.
    pub client_certificate: bool,
    /// Proof 3: name of the header that carries the shared secret, lower case.
    pub secret_header: String,
    /// Proof 3: one or two secrets (rotation); empty when this proof is not used.
    pub secrets: Vec<Secret>,
    /// Trusted proxies that append to `X-Forwarded-For`.
    pub forwarded_for_hops: u8,
    /// "Any local process may speak for any user."
    pub address_is_proof: bool,
}

/// `[identity]`. Header names are lower case.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Exactly one value, or 400/401.
    pub user_header: String,
    /// Base64url JSON claims as Envoy's `jwt_authn` forwards them; then they say who the user is.
    pub claims_header: Option<String>,
    /// What `iss` must be.
    pub claims_issuer: Option<String>,
    /// What `aud` must name one of; empty takes any.
    pub claims_audiences: Vec<String>,
    /// Unix seconds; the stream ends then.
    pub expires_header: Option<String>,
    /// Template variable to header.
    pub variables: BTreeMap<String, String>,
    /// What to do with a user id that is not one plain subject token.
    pub user_encoding: UserEncoding,
    /// The app's own decision: subjects added to the grant.
    pub subjects_header: Option<String>,
}

/// What to do with a user id that is not one plain subject token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserEncoding {
    /// 400 `identity_invalid`.
    Refuse,
    /// Reversible base64url; see [`crate::subject::encode_user`].
    Base64Url,
}

/// `[[stream]]`.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The JetStream name.
    pub name: String,
    /// Its subjects.
    pub subjects: Vec<String>,
    /// Create it when it does not exist.
    pub create: bool,
    /// Oldest message kept; zero keeps for ever.
    pub max_age: Duration,
    /// Bytes kept; zero is unlimited.
    pub max_bytes: u64,
}

/// How a route turns a message into an SSE event. Equal formats share their frames.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Format {
    /// Where the event name comes from.
    pub naming: EventNaming,
    /// How the payload becomes text.
    pub payload: Payload,
}

/// `[limits]`; every one is non-zero.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Event streams in the whole process.
    pub connections: usize,
    /// Streams of one user.
    pub connections_per_user: u32,
    /// Connections of one client address; IPv6 by /64.
    pub connections_per_address: u32,
    /// Streams opened per second, whole process; burst is twice that.
    pub connects_per_second: u32,
    /// Streams opened per second by one user.
    pub connects_per_second_per_user: u32,
    /// Streams opened per second by one address.
    pub connects_per_second_per_address: u32,
    /// Backlog of one client, in bytes.
    pub queue_bytes: usize,
    /// Backlog of one client, in events.
    pub queue_events: usize,
    /// No progress on the socket for this long ends the stream.
    pub write_timeout: Duration,
    /// `TCP_NOTSENT_LOWAT`, in bytes.
    pub unsent_buffer: u32,
    /// Largest payload, in bytes; a larger one is declared as a gap.
    pub event_bytes: usize,
    /// Events one resume may read from the stream, beyond the history in memory.
    pub replay_events: u64,
    /// Resumes from beyond the history that have a piece in hand at the same time; the streams share them evenly.
    pub replays: usize,
    /// Memory budget in bytes; `None` is 80 % of the cgroup's limit.
    pub memory: Option<u64>,
}

/// `[heartbeat]`.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// Silence after which a heartbeat is written.
    pub interval: Duration,
    /// An event with the cursor, rather than a comment line.
    pub event: bool,
}

/// `[presence]` with a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The concrete subject on which changes are published.
    pub subject: String,
    /// A user without a connection is still there for so long.
    pub grace: Duration,
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct Log {
    /// A `tracing` filter such as `info` or `sidestream=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Log {
    /// Whether a text is a level, or a filter, that can be meant.
    pub fn is_level(text: &str) -> bool {
        check::is_log_filter(text)
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests;
