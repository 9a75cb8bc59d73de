//! One connection to NATS, and how its state looks to the rest of us.
//!
//! async-nats keeps it up; its event callback only moves a watch value. Whoever reads from a connection decides what a
//! loss means. Several connections are kept apart on purpose (design section 7): a message that the client cannot parse
//! drops the connection that reads it, so each stream is read by connections of its own.

mod lazy;
mod state;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::header::NATS_EXPECTED_STREAM;
use async_nats::{Client, ConnectOptions, Event, HeaderMap};
use bytes::Bytes;
use tokio::sync::watch;

pub use self::lazy::Lazy;
pub use self::state::Link;
use crate::config::{Nats, NatsAuth};
use crate::telemetry::metrics::FeedMetrics;

/// Ping interval: a hung server is noticed after two of them without an answer.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long one request may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for one TCP connect and NATS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Reconnect back-off, before jitter, which halves it at most.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Wait before a refused subscription is asked for again by a new connection, before jitter.
const REFUSED_MIN: Duration = Duration::from_secs(5);
const REFUSED_MAX: Duration = Duration::from_secs(60);
/// Time for the server to complain of a permission after a publication.
const COMPLAINT: Duration = Duration::from_millis(200);

/// No stream has this name.
const NO_STREAM: &str = "sidestream-check-none";

/// Messages that wait in one subscription on core subjects; more are dropped.
pub const LIVE_CAPACITY: usize = 4096;

/// What a connection is for: decides its name and buffers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Reads this stream. Its capacity must exceed what NATS's flow control keeps in flight (some 115 000 small messages).
    Feed(String),
    /// Reads the past of this stream.
    History(String),
    /// Core subjects.
    Live,
    /// API requests and publishing.
    Control,
    /// Finding out what the account may do.
    Check,
    /// A command that publishes.
    Command,
}

impl Role {
    fn capacity(&self) -> usize {
        match self {
            Self::Feed(_) => 262_144,
            Self::Live => LIVE_CAPACITY,
            Self::History(_) | Self::Control | Self::Check | Self::Command => 4096,
        }
    }

    /// Where answers come to. Streams are delivered to inboxes too: who may publish by a command need not hear those.
    fn inbox_prefix(&self) -> &'static str {
        match self {
            Self::Command => "_INBOX_sidestream_command",
            _ => "_INBOX_sidestream",
        }
    }
}

/// The word in the connection's name and in logs.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feed(stream) => write!(f, "feed-{stream}"),
            Self::History(stream) => write!(f, "history-{stream}"),
            Self::Live => f.write_str("live"),
            Self::Control => f.write_str("control"),
            Self::Check => f.write_str("check"),
            Self::Command => f.write_str("command"),
        }
    }
}

/// A client together with its state.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Its state.
    pub link: watch::Receiver<Link>,
}

/// Why a connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A credentials file.
    #[error("nats.credentials: {0}")]
    Credentials(#[source] std::io::Error),
    /// The client refused.
    #[error("NATS: {0}")]
    Nats(#[from] async_nats::ConnectError),
    /// A secret that is not text.
    #[error("the NATS password, token or nkey is not text")]
    SecretNotText,
}

impl Connection {
    /// Whether its client still runs. A panic inside the client ends it for good: a publisher can cause one, with a header
    /// value that holds a carriage return.
    pub fn is_alive(&self) -> bool {
        // The event callback, which owns the sender, goes with the client.
        self.link.has_changed().is_ok()
    }

    /// Whether the account may not publish to a subject, by publishing nothing to it.
    pub async fn is_denied(&self, subject: String) -> bool {
        self.is_complained_of(async { drop(self.client.publish(subject, Bytes::new()).await) }).await
    }

    /// The same for a subject that a stream may capture: none keeps the message.
    pub async fn is_denied_unstored(&self, subject: String) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, NO_STREAM);
        let publish = self.client.publish_with_headers(subject, headers, Bytes::new());
        self.is_complained_of(async { drop(publish.await) }).await
    }

    /// Whether the account may not subscribe to a subject, by a subscription that is given up at once.
    pub async fn is_subscription_denied(&self, subject: &str) -> bool {
        self.is_complained_of(async { drop(self.client.subscribe(subject.to_owned()).await) }).await
    }

    /// Whether the server complains of what is done. A refusal has no other answer. Not for two things at the same time.
    async fn is_complained_of(&self, done: impl Future<Output = ()>) -> bool {
        let mut link = self.link.clone();
        let before = link.borrow_and_update().denials;
        done.await;
        let _ = self.client.flush().await;
        let complained = link.wait_for(|l| l.denials > before);
        tokio::time::timeout(COMPLAINT, complained).await.is_ok_and(|link| link.is_ok())
    }

    /// Watches over the client until it dies. What the server refused once stays refused, also when the permission is given
    /// back: a subscription is asked for again only by a new connection.
    async fn mind(&self, role: &Role) {
        let mut link = self.link.clone();
        let mut wait = REFUSED_MIN;
        while link.wait_for(|l| l.refused).await.is_ok() {
            tokio::time::sleep(jittered(wait)).await;
            if !self.is_alive() {
                return;
            }
            if !self.link.borrow().refused {
                continue;
            }
            tracing::warn!(connection = %role, "NATS refuses a subscription; asking again by a new connection");
            let _ = self.client.force_reconnect().await;
            // Until the server has had its say on the new one.
            tokio::time::sleep(REQUEST_TIMEOUT).await;
            wait = if self.link.borrow().refused { (wait * 2).min(REFUSED_MAX) } else { REFUSED_MIN };
        }
    }
}

/// A connection that is made anew when its client has died, unlike a lost one, which the client mends itself.
#[derive(Debug, Clone)]
pub struct Kept(watch::Receiver<Connection>);

impl Kept {
    /// The connection of the moment; it may be lost or even dead.
    pub fn current(&self) -> Connection {
        self.0.borrow().clone()
    }

    /// A connection whose client runs.
    pub async fn alive(&self) -> Connection {
        let mut connections = self.0.clone();
        loop {
            let connection = connections.borrow_and_update().clone();
            // The keeper goes with the process.
            if connection.is_alive() || connections.changed().await.is_err() {
                return connection;
            }
        }
    }

    /// A connection that is up.
    pub async fn connected(&self) -> Connection {
        loop {
            let mut connection = self.alive().await;
            if connection.link.wait_for(|link| link.connected).await.is_ok() {
                return connection;
            }
        }
    }
}

/// Connects in the background and for ever: returns at once, also while NATS is away. Runs on the current local runtime.
pub async fn keep(config: &Nats, role: Role, metrics: &Arc<FeedMetrics>) -> Result<Kept, ConnectError> {
    let (sender, receiver) = watch::channel(connect_patiently(config, &role, again(metrics, false)).await?);
    let (config, metrics) = (config.clone(), metrics.clone());
    tokio::task::spawn_local(async move {
        loop {
            let connection = sender.borrow().clone();
            connection.mind(&role).await;
            tracing::warn!(connection = %role, "The NATS client has died; starting another");
            tokio::time::sleep(backoff(1)).await;
            match connect_patiently(&config, &role, again(&metrics, true)).await {
                Ok(connection) => drop(sender.send(connection)),
                Err(error) => tracing::error!(connection = %role, %error, "NATS client cannot be started"),
            }
        }
    });
    Ok(Kept(receiver))
}

/// Counts each time that a connection comes up again; `was_up`: another client was it before. On the feed thread, as everything
/// that counts in these metrics.
fn again(metrics: &Arc<FeedMetrics>, was_up: bool) -> impl Fn() + Send + Sync + 'static {
    let (metrics, was_up) = (metrics.clone(), AtomicBool::new(was_up));
    move || metrics.reconnects.add(was_up.swap(true, Ordering::Relaxed).into())
}

async fn connect_patiently(
    config: &Nats,
    role: &Role,
    up: impl Fn() + Send + Sync + 'static,
) -> Result<Connection, ConnectError> {
    let options = options(config, role).await?.retry_on_initial_connect().reconnect_delay_callback(backoff);
    connect(options, role.clone(), config, up).await
}

/// Connects now or fails, and is not kept: for commands.
pub async fn connect_once(config: &Nats, role: Role) -> Result<Connection, ConnectError> {
    connect(options(config, &role).await?, role, config, || {}).await
}

async fn connect(
    options: ConnectOptions,
    role: Role,
    config: &Nats,
    up: impl Fn() + Send + Sync + 'static,
) -> Result<Connection, ConnectError> {
    let (sender, link) = watch::channel(Link::default());
    let sender = Arc::new(sender);
    let client = options
        .event_callback(move |event| {
            if event == Event::Connected {
                up();
            }
            state::observe(&sender, &role, &event);
            std::future::ready(())
        })
        .connect(config.servers.clone())
        .await?;
    Ok(Connection { client, link })
}

async fn options(config: &Nats, role: &Role) -> Result<ConnectOptions, ConnectError> {
    let mut options = ConnectOptions::new()
        .name(format!("sidestream-{role}"))
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .subscription_capacity(role.capacity())
        .custom_inbox_prefix(role.inbox_prefix());
    options = match &config.auth {
        NatsAuth::None => options,
        NatsAuth::Credentials(path) => options.credentials_file(path).await.map_err(ConnectError::Credentials)?,
        NatsAuth::Nkey(seed) => options.nkey(text(seed)?),
        NatsAuth::Password { user, password } => options.user_and_password(user.clone(), text(password)?),
        NatsAuth::Token(token) => options.token(text(token)?),
    };
    if let Some(ca) = &config.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = &config.client_cert {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if config.tls_first {
        options = options.tls_first();
    }
    if config.wants_tls() {
        // The first words of a server are not secured, and could talk us out of TLS, or name other servers to log in at.
        options = options.require_tls(true).ignore_discovered_servers();
    }
    Ok(options)
}

fn text(secret: &crate::config::Secret) -> Result<String, ConnectError> {
    String::from_utf8(secret.expose().to_vec()).map_err(|_| ConnectError::SecretNotText)
}

/// Exponential with jitter, so that a hundred sidecars do not return in the same millisecond.
fn backoff(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(8);
    jittered((BACKOFF_MIN * 2u32.pow(doublings)).min(BACKOFF_MAX))
}

fn jittered(ceiling: Duration) -> Duration {
    ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
}
