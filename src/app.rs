//! Builds every part from the configuration, binds sockets, then starts threads; gives back the addresses that were bound.
//!
//! The only file that knows all the others. Threads: one per shard, one for the feeds, one that watches memory, and the caller's
//! own for signals and the admin listener. A thread that ends takes the process with it: half a server is worse than one
//! that is restarted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::cluster::{self, Cluster};
use crate::config::{Config, Limits};
use crate::feed::connection::Kept;
use crate::feed::{self, Feeds, SHARDS_MAX};
use crate::http::{Context, Front};
use crate::limit::Limiter;
use crate::link::{ShardQueue, ToShard};
use crate::live::Live;
use crate::memory::{Orders, Source, Watch};
use crate::presence::{self, Here, Presence};
use crate::server::accept::Acceptor;
use crate::server::listen::{self, Address, Bound, Group, Inherited, ListenError};
use crate::server::sockets::{Parts, Sockets};
use crate::server::tls::{LiveConfig, TlsError};
use crate::shard::output::Bounds;
use crate::shard::{Settings, Shard};
use crate::telemetry::metrics::{Metrics, ShardMetrics};

/// Connections of one shard that have not become streams yet; past it accepting waits.
const PENDING_MAX: usize = 4096;

/// Connections without a stream are waited for so long at the end of a drain.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// NATS could not even be tried.
    #[error(transparent)]
    Nats(#[from] feed::connection::ConnectError),
    /// A thread or runtime could not be made.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    /// The feed thread ended while starting.
    #[error("the feed thread has ended")]
    FeedEnded,
}

/// A running sidecar.
#[derive(Debug)]
pub struct Running {
    /// Where the public listener listens.
    pub public: Vec<Address>,
    /// The bound admin listener and its address.
    pub admin: (Address, Bound),
    /// What the parts say of themselves.
    pub state: Arc<State>,
    /// The NATS connection for requests and publishing.
    pub control: Kept,
    /// Certificate and key, to be read again; `None` without TLS.
    pub tls: Option<Arc<LiveConfig>>,
    /// Tells of a thread that has ended.
    pub ended: mpsc::Receiver<&'static str>,
}

/// What the admin listener and signals see of the process.
#[derive(Debug)]
pub struct State {
    /// The configuration in force.
    pub config: Arc<Live<Config>>,
    /// Every number.
    pub metrics: Arc<Metrics>,
    /// The feeds' status.
    pub feeds: Feeds,
    /// This sidecar among the others.
    pub cluster: Cluster,
    /// Who is there, if anybody is told.
    presence: Option<Presence>,
    /// The way to every shard.
    pub shards: Vec<ShardQueue>,
    settings: Arc<Live<Settings>>,
    limiter: Arc<Limiter>,
    /// Most streams that there are descriptors for.
    streams_max: usize,
    draining: AtomicBool,
}

impl State {
    /// Whether streams are being closed for shutdown.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Event streams open now.
    pub fn connections(&self) -> u64 {
        self.metrics.shards.iter().map(|shard| shard.connections.get()).sum()
    }

    /// Puts another configuration in force: for requests from the next one on, for open streams within a quarter of a second.
    /// What the process was built from must be the same in it ([`crate::config::reload`]).
    pub fn apply(&self, config: Config) {
        self.settings.set(settings(&config));
        self.limiter.limit(&within(&config.limits, self.streams_max));
        self.config.set(config);
    }

    /// Begins to close all streams one by one across the drain window, which is given. New ones are refused softly from now on, and
    /// the sidecar is not ready. A second call changes nothing.
    pub async fn begin_drain(&self) -> Duration {
        let window = self.config.get().server.drain_window;
        if !self.draining.swap(true, Ordering::Relaxed) {
            self.metrics.draining.set(1);
            let shards = self.shards.clone();
            // A task of its own: who asked may leave while a shard is behind, and then all are to be told all the same.
            let telling = tokio::spawn(async move {
                for shard in &shards {
                    shard.send(ToShard::Drain { window }).await;
                }
            });
            let _ = telling.await;
        }
        window
    }

    /// Drains. Returns when no stream is left, at the latest two seconds after the window.
    pub async fn drain(&self) {
        let until = Instant::now() + self.config.get().server.drain_window + Duration::from_secs(2);
        let _ = tokio::time::timeout_at(until.into(), self.begin_drain()).await;
        until_none(until, || self.connections()).await;
        // HTTP/2 connections write their last words after their streams have gone.
        until_none(until.min(Instant::now() + LAST_WORDS), || self.tasks()).await;
    }

    /// Says goodbye to the other sidecars, for the end of the process: of its users first. Waits a second at most.
    pub async fn leave(&self) {
        if let Some(presence) = &self.presence {
            presence.leave().await;
        }
        self.cluster.leave().await;
    }

    fn tasks(&self) -> u64 {
        self.metrics.shards.iter().map(|shard| shard.tasks.get()).sum()
    }
}

async fn until_none(until: Instant, count: impl Fn() -> u64) {
    while count() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts everything. Must be called on a runtime; the feeds and shards get threads and runtimes of their own.
pub async fn start(
    config: Config,
    inherited: &Inherited,
    front: Option<Arc<dyn Front>>,
) -> Result<Running, StartError> {
    // async-nats builds its TLS configuration from the process's default provider. A second call changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = Arc::new(config);
    let shard_count = std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX);
    let tls = config.server.tls.as_ref().map(LiveConfig::new).transpose()?.map(Arc::new);
    let unsent = config.limits.unsent_buffer;
    let groups = config
        .server
        .listen
        .iter()
        .map(|listen| listen::bind(listen, shard_count, unsent, inherited))
        .collect::<Result<Vec<_>, _>>()?;
    let admin = bind_admin(&config, inherited)?;

    let (feeds, unstarted) = feed::channels(&config);
    let metrics = Arc::new(metrics(&config, &feeds, shard_count));
    metrics.tls.not_after.set(tls.as_ref().map_or(0, |tls| tls.not_after()));
    let (queues, queue_ends): (Vec<_>, Vec<_>) = (0..shard_count).map(|_| ShardQueue::new()).unzip();
    let (alive, ended) = mpsc::channel(1);
    let (control, cluster) = start_feeds(&config, unstarted, &queues, &metrics, &alive).await?;
    let here = config.presence.is_some().then(Arc::<Here>::default);
    let presence = here.clone().map(|here| start_presence(&config, &cluster, &control, here, &metrics, &alive));
    let presence = presence.transpose()?.flatten();
    let public = groups.iter().map(|group| group.address.clone()).collect();
    let (streams, addresses) = (config.routes.streams.len(), groups.len());
    let sockets = Sockets::within(descriptors(), Parts { streams, shards: shard_count, addresses });
    let streams_max = sockets.streams_max();
    if config.limits.connections > streams_max {
        let configured = config.limits.connections;
        tracing::warn!(limit = streams_max, configured, "limits.connections lowered to fit LimitNOFILE");
    }
    let limiter = Limiter::new(&within(&config.limits, streams_max));
    let in_force = Arc::new(Live::new(config.clone()));
    let settings = Arc::new(Live::new(settings(&config)));
    let orders = Orders::new(shard_count);
    let mut listeners = by_shard(groups, shard_count);
    for (index, queue) in queue_ends.into_iter().enumerate() {
        let seed = ShardSeed {
            index,
            config: in_force.clone(),
            settings: settings.clone(),
            feeds: feeds.clone(),
            metrics: metrics.shards[index].clone(),
            limiter: limiter.clone(),
            front: front.clone(),
            tls: tls.clone(),
            listeners: std::mem::take(&mut listeners[index]),
            queue,
            sockets: sockets.clone(),
            orders: orders.clone(),
            here: here.clone(),
        };
        spawn("shard", &alive, move || seed.run())?;
    }
    watch_memory(&config, limiter.clone(), &metrics, orders, &alive)?;
    let draining = AtomicBool::new(false);
    let (config, shards) = (in_force, queues);
    let state = State { config, metrics, feeds, cluster, presence, shards, settings, limiter, streams_max, draining };
    Ok(Running { public, admin, state: Arc::new(state), control, tls, ended })
}

fn bind_admin(config: &Config, inherited: &Inherited) -> Result<(Address, Bound), StartError> {
    let mut group = listen::bind(&config.admin.listen, 1, config.limits.unsent_buffer, inherited)?;
    listen::admin_is_private(&config.admin, &group.address)?;
    let bound = group.listeners.pop().expect("one listener was asked for");
    Ok((group.address, bound))
}

fn metrics(config: &Config, feeds: &Feeds, shards: usize) -> Metrics {
    let routes = config.routes.routes.iter().map(|route| route.path.as_str().to_owned()).collect();
    let statuses = feeds.streams.iter().map(|feed| feed.status.clone());
    let streams = config.routes.streams.iter().cloned().zip(statuses).collect();
    Metrics::new(shards, routes, streams, feeds.live.status.clone())
}

/// Turns one group per address into one list of listeners per shard.
fn by_shard(groups: Vec<Group>, shards: usize) -> Vec<Vec<Bound>> {
    let mut lists: Vec<Vec<Bound>> = (0..shards).map(|_| Vec::new()).collect();
    for group in groups {
        for (list, listener) in lists.iter_mut().zip(group.listeners) {
            list.push(listener);
        }
    }
    lists
}

/// Raises the soft limit on descriptors as far as it goes, and gives it.
fn descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let current = getrlimit(Resource::Nofile).current;
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
}

/// Never promises more streams than there are sockets for.
fn within(limits: &Limits, room: usize) -> Limits {
    Limits { connections: limits.connections.min(room), ..limits.clone() }
}

async fn start_feeds(
    config: &Arc<Config>,
    unstarted: feed::Unstarted,
    queues: &[ShardQueue],
    metrics: &Arc<Metrics>,
    alive: &mpsc::Sender<&'static str>,
) -> Result<(Kept, Cluster), StartError> {
    let (config, queues, metrics) = (config.clone(), queues.to_vec(), metrics.feed.clone());
    let (started, result) = oneshot::channel();
    spawn("feed", alive, move || {
        local_runtime()?.block_on(async {
            let mut tasks = JoinSet::new();
            let control = feed::start(&config, unstarted, &queues, &metrics, &mut tasks).await;
            let all = control
                .map(|control| (control.clone(), cluster::start(&config, control, queues, &metrics, &mut tasks)));
            let _ = started.send(all);
            // Each runs until the process ends. A panic ends only its task: without this its clients would wait for ever.
            let _ = tasks.join_next().await;
        });
        Ok(())
    })?;
    Ok(result.await.map_err(|_| StartError::FeedEnded)??)
}

/// A thread of its own: what comes of thousands of users at once must not hold up the feeds.
fn start_presence(
    config: &Config,
    cluster: &Cluster,
    control: &Kept,
    here: Arc<Here>,
    metrics: &Arc<Metrics>,
    alive: &mpsc::Sender<&'static str>,
) -> io::Result<Option<Presence>> {
    let Some(config) = &config.presence else { return Ok(None) };
    let (presence, unstarted) = presence::prepare(config, cluster, control.clone(), here, metrics.presence.clone());
    spawn("presence", alive, move || {
        local_runtime()?.block_on(unstarted.run());
        Ok(())
    })?;
    Ok(Some(presence))
}

/// A thread of its own: memory must be watched also while a runtime is busy.
fn watch_memory(
    config: &Config,
    limiter: Arc<Limiter>,
    metrics: &Arc<Metrics>,
    orders: Arc<Orders>,
    alive: &mpsc::Sender<&'static str>,
) -> io::Result<()> {
    let source = Source::find();
    let budget = source.budget(config.limits.memory);
    let history = config.history_bytes as u64 * config.routes.streams.len() as u64;
    match budget {
        Some(budget) if history > budget / 2 => {
            tracing::warn!(budget, history, "history.bytes of all streams is more than half of the memory budget");
        }
        _ => tracing::info!(budget, "Memory budget"),
    }
    let watch = Watch { source, budget, limiter, metrics: metrics.clone(), orders };
    spawn("memory", alive, move || {
        watch.run();
        Ok(())
    })
}

/// What a shard's thread is made of.
struct ShardSeed {
    index: usize,
    config: Arc<Live<Config>>,
    settings: Arc<Live<Settings>>,
    feeds: Feeds,
    metrics: Arc<ShardMetrics>,
    limiter: Arc<Limiter>,
    front: Option<Arc<dyn Front>>,
    tls: Option<Arc<LiveConfig>>,
    listeners: Vec<Bound>,
    queue: mpsc::Receiver<ToShard>,
    sockets: Arc<Sockets>,
    orders: Arc<Orders>,
    here: Option<Arc<Here>>,
}

impl ShardSeed {
    fn run(self) -> io::Result<()> {
        local_runtime()?.block_on(async move {
            let shard = Shard::new(self.index, self.settings, self.feeds, self.metrics);
            if let Some(here) = self.here {
                shard.count_users(here);
            }
            let context = std::rc::Rc::new(Context {
                config: self.config,
                shard: shard.clone(),
                limiter: self.limiter,
                front: self.front,
            });
            for listener in self.listeners {
                // Only TCP is secured: who may open a unix socket is decided by its mode and the peer's uid.
                let tls = if matches!(listener, Bound::Tcp(_)) { self.tls.clone() } else { None };
                let acceptor = Acceptor::new(context.clone(), tls, PENDING_MAX, self.sockets.clone());
                tokio::task::spawn_local(acceptor.run(listener));
            }
            shard.run(self.queue, &self.orders).await;
        });
        Ok(())
    }
}

/// What a shard is to do by this configuration.
pub fn settings(config: &Config) -> Settings {
    Settings {
        bounds: Bounds { bytes: config.limits.queue_bytes, frames: config.limits.queue_events },
        write_timeout: config.limits.write_timeout,
        heartbeat: config.heartbeat.interval,
        heartbeat_event: config.heartbeat.event,
        max_age: config.server.max_age,
    }
}

fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// A thread whose end, by return or panic, is told.
fn spawn(
    name: &'static str,
    alive: &mpsc::Sender<&'static str>,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    struct Tell(&'static str, mpsc::Sender<&'static str>);
    impl Drop for Tell {
        fn drop(&mut self) {
            // Full: somebody has told already.
            let _ = self.1.try_send(self.0);
        }
    }
    let tell = Tell(name, alive.clone());
    std::thread::Builder::new().name(format!("sidestream-{name}")).spawn(move || {
        let tell = tell;
        if let Err(error) = run() {
            tracing::error!(thread = tell.0, %error, "Thread failed");
        }
    })?;
    Ok(())
}
