//! The whole server in memory: a real acceptor, shard and limiter behind a socket, on a clock that moves only when there is
//! nothing to do, and a feed that answers.

mod feed;
pub mod peer;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidestream::app::settings;
use sidestream::config::Config;
use sidestream::config::load::{Sources, load_text};
use sidestream::http::Context;
use sidestream::limit::Limiter;
use sidestream::link::ShardQueue;
use sidestream::live::Live;
use sidestream::memory::Orders;
use sidestream::server::accept::Acceptor;
use sidestream::server::listen::Bound;
use sidestream::server::sockets::{Parts, Sockets};
use sidestream::server::tls::LiveConfig;
use sidestream::shard::Shard;
use sidestream::telemetry::metrics::ShardMetrics;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};

use self::peer::Peer;

/// A configuration that is known to be good.
pub fn configuration(toml: &str) -> Config {
    match load_text("fuzz.toml", toml, &Sources::default()) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{report}"),
    }
}

/// How a peer reaches the server.
pub enum By<'t> {
    /// A unix socket.
    Unix,
    /// TCP, with TLS in front of HTTP.
    Tls(&'t Arc<LiveConfig>),
}

/// Runs a peer against a server of its own. Afterwards nothing may be left: no task, no stream, no place taken.
pub fn serve<F: Future<Output = ()>>(config: &Arc<Config>, by: &By<'_>, act: impl FnOnce(Peer) -> F) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(async {
        let paths: Vec<String> = config.routes.routes.iter().map(|route| route.path.as_str().to_owned()).collect();
        let metrics = Arc::new(ShardMetrics::new(&paths));
        let (queue, queue_end) = ShardQueue::new();
        let feeds = feed::spawn(config, queue);
        let shard = Shard::new(0, Arc::new(Live::new(settings(config))), feeds, metrics.clone());
        let limiter = Limiter::new(&config.limits);
        let config_in_force = Arc::new(Live::new(config.clone()));
        let context = Context { config: config_in_force, shard: shard.clone(), limiter: limiter.clone(), front: None };
        let sockets = Sockets::within(1000, Parts { streams: config.routes.streams.len(), shards: 1, addresses: 1 });
        let (bound, connect, tls) = listen(by);
        let acceptor = Acceptor::new(Rc::new(context), tls, 100, sockets);
        tokio::task::spawn_local(acceptor.run(bound));
        let orders = Orders::new(1);
        let running = shard.clone();
        tokio::task::spawn_local(async move { running.run(queue_end, &orders).await });
        act(connect.await).await;
        let all_gone = || shard.is_empty() && limiter.open() == 0 && metrics.tasks.get() == 0;
        for _ in 0..100 {
            if all_gone() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("left behind: {} streams, {} places, {} tasks", shard.len(), limiter.open(), metrics.tasks.get());
    });
}

fn listen(by: &By<'_>) -> (Bound, impl Future<Output = Peer>, Option<Arc<LiveConfig>>) {
    match by {
        By::Unix => {
            let name = format!("sidestream-fuzz-{}", std::process::id());
            let address = SocketAddr::from_abstract_name(name).expect("an address");
            let listener = UnixListener::bind_addr(&address).expect("a listener");
            listener.set_nonblocking(true).expect("a socket");
            let connect = move || {
                let stream = std::os::unix::net::UnixStream::connect_addr(&address).expect("a connection");
                stream.set_nonblocking(true).expect("a socket");
                Peer::Unix(UnixStream::from_std(stream).expect("a socket"))
            };
            (
                Bound::Unix(listener),
                Box::pin(async move { connect() }) as std::pin::Pin<Box<dyn Future<Output = Peer>>>,
                None,
            )
        }
        By::Tls(tls) => {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            listener.set_nonblocking(true).expect("a socket");
            let address = listener.local_addr().expect("an address");
            let connect = async move { Peer::Tcp(TcpStream::connect(address).await.expect("a connection")) };
            (Bound::Tcp(listener), Box::pin(connect), Some((*tls).clone()))
        }
    }
}
