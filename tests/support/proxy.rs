//! A TCP proxy that can stall and cut: a network between two real programs, misbehaving on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;

/// The proxy. Dropping it cuts every connection.
pub struct Proxy {
    /// Where it listens, `host:port`.
    pub address: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    stalled: AtomicBool,
    moved: Notify,
    cut: broadcast::Sender<()>,
}

impl Proxy {
    /// Forwards to `upstream`.
    pub async fn to(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let state =
            Arc::new(State { stalled: AtomicBool::new(false), moved: Notify::new(), cut: broadcast::Sender::new(1) });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut cut = shared.cut.subscribe();
                let (state, upstream) = (Arc::clone(&shared), upstream.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(upstream).await else { return };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    tokio::select! {
                        () = pump(near_read, far_write, &state) => {}
                        () = pump(far_read, near_write, &state) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self { address, state, task }
    }

    /// Stops moving bytes, without closing anything.
    pub fn stall(&self) {
        self.state.stalled.store(true, Ordering::SeqCst);
    }

    /// Moves bytes again.
    pub fn release(&self) {
        self.state.stalled.store(false, Ordering::SeqCst);
        self.state.moved.notify_waiters();
    }

    /// Closes every connection; new ones are accepted.
    pub fn cut(&self) {
        let _ = self.state.cut.send(());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn pump(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, state: &State) {
    let mut buffer = vec![0u8; 16 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        loop {
            let moved = state.moved.notified();
            if !state.stalled.load(Ordering::SeqCst) {
                break;
            }
            moved.await;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
