//! A TCP proxy that can stall, cut, close and delay: a network between two real programs, misbehaving on request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    closed: AtomicBool,
    opened: Notify,
    /// How late every read is passed on: between these.
    slow: Mutex<Option<(Duration, Duration)>>,
    /// Bytes on their way to the upstream that are late, once, and how late.
    late: Mutex<Option<(Vec<u8>, Duration)>>,
    /// Bytes on their way back, and what stands there instead.
    replaced: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    /// What went back on each connection, for who wants to know.
    kept: Mutex<Option<Vec<Vec<u8>>>>,
    cut: broadcast::Sender<()>,
}

impl Proxy {
    /// Forwards to `upstream`.
    pub async fn to(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let state = Arc::new(State {
            stalled: AtomicBool::new(false),
            moved: Notify::new(),
            closed: AtomicBool::new(false),
            opened: Notify::new(),
            slow: Mutex::new(None),
            late: Mutex::new(None),
            replaced: Mutex::new(None),
            kept: Mutex::new(None),
            cut: broadcast::Sender::new(1),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut cut = shared.cut.subscribe();
                let (state, upstream) = (Arc::clone(&shared), upstream.clone());
                tokio::spawn(async move {
                    pass(&state.closed, &state.opened).await;
                    let Ok(far) = TcpStream::connect(upstream).await else { return };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let back = Direction::Back(state.keeps_another());
                    tokio::select! {
                        () = pump(near_read, far_write, &state, Direction::There) => {}
                        () = pump(far_read, near_write, &state, back) => {}
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

    /// Closes every connection; new ones are accepted, and reach nobody until [`Proxy::open`].
    pub fn close(&self) {
        self.state.closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Lets connections through again, also those that wait.
    pub fn open(&self) {
        self.state.closed.store(false, Ordering::SeqCst);
        self.state.opened.notify_waiters();
    }

    /// From now on, passes every read on late by a random time between these two, or at once again.
    pub fn slow(&self, by: Option<(Duration, Duration)>) {
        *self.state.slow.lock().expect("no holder panics") = by;
    }

    /// Delays the next bytes to the upstream that hold this text, and with them what follows on the same connection.
    pub fn delay(&self, text: &str, by: Duration) {
        *self.state.late.lock().expect("no holder panics") = Some((text.as_bytes().to_vec(), by));
    }

    /// Lies: on their way back these bytes become others, of the same length.
    pub fn replace(&self, text: &str, by: &str) {
        assert_eq!(text.len(), by.len(), "NATS counts bytes");
        *self.state.replaced.lock().expect("no holder panics") = Some((text.into(), by.into()));
    }

    /// Keeps what goes back on connections made from now on, for [`Proxy::returned`].
    pub fn keep(&self) {
        *self.state.kept.lock().expect("no holder panics") = Some(Vec::new());
    }

    /// What has gone back since [`Proxy::keep`], by connection.
    pub fn returned(&self) -> Vec<Vec<u8>> {
        self.state.kept.lock().expect("no holder panics").clone().unwrap_or_default()
    }

    /// Whether such bytes have come.
    pub fn has_delayed(&self) -> bool {
        self.state.late.lock().expect("no holder panics").is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

/// Waits for as long as a flag is up.
async fn pass(barred: &AtomicBool, lifted: &Notify) {
    loop {
        let waiting = lifted.notified();
        if !barred.load(Ordering::SeqCst) {
            return;
        }
        waiting.await;
    }
}

/// To the upstream, or from it: then with the number under which the connection's bytes are kept, where they are.
#[derive(Clone, Copy)]
enum Direction {
    There,
    Back(Option<usize>),
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    state: &State,
    direction: Direction,
) {
    // So large that a slow proxy delays, but does not throttle.
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        pass(&state.stalled, &state.moved).await;
        let slow = *state.slow.lock().expect("no holder panics");
        if let Some((from, to)) = slow {
            tokio::time::sleep(from + (to - from).mul_f64(fastrand::f64())).await;
        }
        match direction {
            Direction::There => {
                if let Some(delay) = state.delay_of(&buffer[..count]) {
                    tokio::time::sleep(delay).await;
                }
            }
            Direction::Back(connection) => {
                state.lie(&mut buffer[..count]);
                state.keep(connection, &buffer[..count]);
            }
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

impl State {
    fn keeps_another(&self) -> Option<usize> {
        let mut kept = self.kept.lock().expect("no holder panics");
        let kept = kept.as_mut()?;
        kept.push(Vec::new());
        Some(kept.len() - 1)
    }

    fn keep(&self, connection: Option<usize>, bytes: &[u8]) {
        let mut kept = self.kept.lock().expect("no holder panics");
        if let (Some(connection), Some(kept)) = (connection, kept.as_mut()) {
            kept[connection].extend_from_slice(bytes);
        }
    }

    fn lie(&self, bytes: &mut [u8]) {
        let replaced = self.replaced.lock().expect("no holder panics");
        if let Some((text, by)) = &*replaced
            && let Some(at) = memchr::memmem::find(bytes, text)
        {
            bytes[at..at + by.len()].copy_from_slice(by);
        }
    }

    fn delay_of(&self, bytes: &[u8]) -> Option<Duration> {
        let mut late = self.late.lock().expect("no holder panics");
        let found = late.as_ref().is_some_and(|(text, _)| memchr::memmem::find(bytes, text).is_some());
        if found { late.take().map(|(_, delay)| delay) } else { None }
    }
}
