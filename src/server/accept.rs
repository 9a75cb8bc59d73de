//! Accepting on one shard: a permit, a task, a deadline; and from there to HTTP/1.1 or HTTP/2.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::listen::Bound;
use super::proxy_protocol::{self, Origin};
use super::socket::Socket;
use super::sockets::{Place, Sockets};
use super::tls::{LiveConfig, Scratch, TlsStream};
use super::{h1, h2};
use crate::http::Context;
use crate::http::trust::Peer;
use crate::shard::Shard;

/// Pause while there is no descriptor, memory or place for another connection: streams go on, accepting waits. Short, because
/// nothing tells when there is one again; long enough to cost nothing.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// A pause that follows this soon is told with the one before.
const PAUSE_TOLD: Duration = Duration::from_secs(10);
/// TLS handshakes that begin on one shard at the same time; each costs CPU that streams need too.
const HANDSHAKES_MAX: usize = 200;
/// How long a handshake counts as one of them: its computing is done with the first bytes, and the rest is waiting.
const HANDSHAKE_TURN: Duration = Duration::from_millis(100);

/// Connections of one shard that are no streams while memory is short; each may take a hundred KiB on HTTP/2.
const OTHERS_HELD_BACK_MAX: u64 = 256;

/// Of the time for a head, what is left to the last that finds a place. A proxy's head is there in milliseconds.
const PATIENCE_MIN: Duration = Duration::from_millis(500);

/// How long one connection may take, when so many others have not become streams yet: all of it while half of the places are
/// free, then less and less. Silent connections would otherwise keep everybody out for as long as they may be silent.
fn patience(whole: Duration, pending: usize, pending_max: usize) -> Duration {
    let free = u32::try_from(pending_max.saturating_sub(pending)).unwrap_or(u32::MAX);
    let half = u32::try_from(pending_max / 2).unwrap_or(u32::MAX).max(1);
    let left = whole.saturating_mul(free.min(half)) / half;
    left.max(PATIENCE_MIN.min(whole))
}

/// What accepting needs.
#[derive(Debug)]
pub struct Acceptor {
    context: Rc<Context>,
    tls: Option<Tls>,
    handshakes: Semaphore,
    /// Connections that are no stream yet, or never will be.
    pending: Cell<usize>,
    pending_max: usize,
    sockets: Arc<Sockets>,
    /// When a pause was last told.
    told: Cell<Option<Instant>>,
}

/// What TLS needs.
#[derive(Debug)]
struct Tls {
    config: Arc<LiveConfig>,
    scratch: Rc<RefCell<Scratch>>,
}

/// Counts a connection's task, and its descriptor, for as long as it lives.
pub(super) struct TaskCount {
    shard: Rc<Shard>,
    _place: Place,
}

impl TaskCount {
    fn new(acceptor: &Acceptor) -> Self {
        let shard = acceptor.context.shard.clone();
        shard.metrics.tasks.add(1);
        Self { shard, _place: acceptor.sockets.take() }
    }
}

impl Drop for TaskCount {
    fn drop(&mut self) {
        self.shard.metrics.tasks.sub(1);
        if std::thread::panicking() {
            self.shard.metrics.panics.add(1);
        }
    }
}

/// Counts a connection that is not a stream yet.
pub(super) struct Pending(Rc<Acceptor>);

impl Pending {
    fn new(acceptor: Rc<Acceptor>) -> Self {
        acceptor.pending.set(acceptor.pending.get() + 1);
        Self(acceptor)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get() - 1);
    }
}

impl Acceptor {
    /// For one shard. `pending_max` bounds connections that are not streams yet, `sockets` all of the process.
    pub fn new(
        context: Rc<Context>,
        tls: Option<Arc<LiveConfig>>,
        pending_max: usize,
        sockets: Arc<Sockets>,
    ) -> Rc<Self> {
        let handshakes = Semaphore::new(HANDSHAKES_MAX);
        let tls = tls.map(|config| Tls { config, scratch: Scratch::new() });
        let (pending, told) = (Cell::new(0), Cell::new(None));
        Rc::new(Self { context, tls, handshakes, pending, pending_max, sockets, told })
    }

    /// Accepts until the process ends.
    pub async fn run(self: Rc<Self>, bound: Bound) -> io::Result<()> {
        match bound {
            Bound::Tcp(tcp) => self.accept_tcp(TcpListener::from_std(tcp)?).await,
            Bound::Unix(unix) => self.accept_unix(UnixListener::from_std(unix)?).await,
        }
    }

    async fn accept_tcp(self: Rc<Self>, listener: TcpListener) -> io::Result<()> {
        loop {
            self.room().await;
            match listener.accept().await {
                Ok((stream, address)) => self.spawn(move |this| this.tcp(stream, address)),
                Err(error) => self.pause_after(&error).await,
            }
        }
    }

    async fn accept_unix(self: Rc<Self>, listener: UnixListener) -> io::Result<()> {
        loop {
            self.room().await;
            match listener.accept().await {
                Ok((stream, _)) => self.unix(stream),
                Err(error) => self.pause_after(&error).await,
            }
        }
    }

    /// Waits while too many connections have not become streams, or are open at all.
    async fn room(&self) {
        while self.is_crowded() || !self.sockets.has_room() {
            self.pause(&"too many connections are open").await;
        }
    }

    /// By when a connection must have said what it wants.
    fn deadline(&self) -> Instant {
        let patience = patience(self.context.config.get().server.header_timeout, self.pending.get(), self.pending_max);
        Instant::now() + patience
    }

    fn is_crowded(&self) -> bool {
        let shard = &self.context.shard;
        let no_streams = || shard.metrics.tasks.get().saturating_sub(shard.len() as u64);
        self.pending.get() >= self.pending_max
            || (self.context.limiter.is_held_back() && no_streams() >= OTHERS_HELD_BACK_MAX)
    }

    async fn pause_after(&self, error: &io::Error) {
        // ENFILE, EMFILE, ENOBUFS, ENOMEM; everything else concerns one connection that is already gone.
        if matches!(error.raw_os_error(), Some(23 | 24 | 105 | 12)) {
            self.pause(error).await;
        }
    }

    async fn pause(&self, why: &dyn std::fmt::Display) {
        self.context.shard.metrics.accept_pauses.add(1);
        let now = Instant::now();
        if self.told.get().is_none_or(|told| now - told >= PAUSE_TOLD) {
            tracing::warn!(error = %why, "Accepting pauses");
            self.told.set(Some(now));
        }
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
    }

    fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, serve: impl FnOnce(Rc<Self>) -> F) {
        let count = TaskCount::new(self);
        let connection = serve(self.clone());
        tokio::task::spawn_local(async move {
            let _count = count;
            connection.await;
        });
    }

    async fn tcp(self: Rc<Self>, mut stream: TcpStream, address: SocketAddr) {
        let pending = Pending::new(self.clone());
        let deadline = self.deadline();
        let Some(peer) = self.peer(&mut stream, address, deadline).await else {
            self.context.shard.metrics.proxy_headers_refused.add(1);
            return;
        };
        let Some(tls) = &self.tls else {
            return self.plain(stream.into(), peer, deadline, pending).await;
        };
        let handshake = async {
            // A peer that says nothing takes no place among the handshakes. `readable` would not do: tokio takes a fresh
            // socket for ready until a read has shown that it is not.
            stream.peek(&mut [0]).await?;
            let turn = self.handshakes.acquire().await;
            let mut accepting = pin!(TlsStream::accept(stream, tls.config.current(), tls.scratch.clone()));
            match tokio::time::timeout(HANDSHAKE_TURN, &mut accepting).await {
                Ok(accepted) => accepted,
                Err(_) => {
                    // Who is slow does not keep others from theirs.
                    drop(turn);
                    accepting.await
                }
            }
        };
        let Ok(Ok(stream)) = tokio::time::timeout_at(deadline, handshake).await else {
            self.context.shard.metrics.handshakes_failed.add(1);
            return;
        };
        let http2 = stream.agreed().alpn_protocol() == Some(b"h2");
        let peer = if stream.agreed().peer_certificates().is_some() { peer.certified() } else { peer };
        self.serve(stream.into(), peer, http2, deadline, pending).await;
    }

    /// Who is at the other end, by the PROXY protocol where it is wanted, which only a load balancer in `trust.proxies` may speak.
    /// `None` closes the connection.
    async fn peer(&self, stream: &mut TcpStream, address: SocketAddr, deadline: Instant) -> Option<Peer> {
        let config = self.context.config.get();
        let direct = Peer::Tcp(address);
        if !config.server.proxy_protocol {
            return Some(direct);
        }
        if !config.trust.as_ref().is_some_and(|trust| trust.admits_address(direct)) {
            return None;
        }
        let origin = tokio::time::timeout_at(deadline, proxy_protocol::read(stream)).await;
        Some(match origin.ok()?.ok()? {
            Origin::Address(client) => Peer::Proxied { by: address, client: Some(client), certified: false },
            Origin::LoadBalancer => direct,
            Origin::Unstated => Peer::Proxied { by: address, client: None, certified: false },
        })
    }

    fn unix(self: &Rc<Self>, stream: UnixStream) {
        let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
        let admitted = self.context.config.get().trust.as_ref().is_none_or(|trust| trust.admits_uid(uid));
        if !admitted {
            // Closed before anything is read.
            self.context.shard.metrics.peers_refused.add(1);
            tracing::warn!(?uid, "Peer on the unix socket refused: its uid is not in trust.peer_uids");
            return;
        }
        self.spawn(move |this| async move {
            let pending = Pending::new(this.clone());
            let deadline = this.deadline();
            this.plain(stream.into(), Peer::Unix { uid }, deadline, pending).await;
        });
    }

    async fn plain(&self, mut socket: Socket, peer: Peer, deadline: Instant, pending: Pending) {
        let mut http2 = false;
        if self.context.config.get().server.h2c {
            let Ok(Ok(sniffed)) = tokio::time::timeout_at(deadline, socket.starts_http2()).await else { return };
            http2 = sniffed;
        }
        self.serve(socket, peer, http2, deadline, pending).await;
    }

    async fn serve(&self, socket: Socket, peer: Peer, http2: bool, deadline: Instant, pending: Pending) {
        if http2 {
            // A task of its own: this one holds what a handshake and HTTP/1.1 need.
            let accepted = h2::accept(self.context.clone(), socket, peer, deadline, pending).await;
            let (Some(mut connection), count) = (accepted, TaskCount::new(self)) else { return };
            tokio::task::spawn_local(async move {
                let _count = count;
                connection.run().await;
            });
            return;
        }
        if let Some(stream) = h1::serve(&self.context, socket, peer, deadline).await {
            drop(pending);
            // A task of its own, a few dozen bytes: hyper's buffers are freed with this one.
            let count = TaskCount::new(self);
            tokio::task::spawn_local(async move {
                let _count = count;
                stream.run().await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_runs_out_as_places_do() {
        let whole = Duration::from_secs(10);
        let of = |pending| patience(whole, pending, 4096);
        assert_eq!([of(0), of(2048)], [whole; 2]);
        assert_eq!(of(3072), whole / 2);
        assert_eq!([of(4096), of(5000)], [PATIENCE_MIN; 2]);
        assert_eq!(patience(Duration::from_millis(100), 9, 9), Duration::from_millis(100));
        assert_eq!(patience(whole, 0, 1), whole);
    }
}
