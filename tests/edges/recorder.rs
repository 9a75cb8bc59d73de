//! What stands where sidestream would, and writes down every byte that a proxy sends there.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::support::{DEADLINE, eventually};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\nConnection: close\r\n\r\nrecorded";

type Connections = Arc<Mutex<Vec<Arc<Mutex<Connection>>>>>;

/// A recorder on a unix socket.
pub struct Recorder {
    connections: Connections,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Connection {
    bytes: Vec<u8>,
    ended: bool,
}

impl Recorder {
    /// Listens at a path.
    pub fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a free path");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).expect("our own socket");
        let connections = Arc::default();
        Self { task: tokio::spawn(serve(listener, Arc::clone(&connections))), connections }
    }

    /// What came since the last time, connection by connection, once the proxy has ended each of them. Connections on which nothing
    /// came are left out: a proxy may have opened one for a client that was gone by then, and keeps it.
    pub async fn take(&self) -> Vec<Vec<u8>> {
        eventually("the proxy ends its connections", DEADLINE, async || {
            let mut connections = self.connections.lock().expect("no writer panics");
            let done = connections.iter().all(|connection| {
                let connection = connection.lock().expect("no writer panics");
                connection.ended || connection.bytes.is_empty()
            });
            let bytes = |connection: &Arc<Mutex<Connection>>| {
                std::mem::take(&mut connection.lock().expect("no writer panics").bytes)
            };
            done.then(|| {
                let taken = connections.iter().map(bytes).filter(|bytes| !bytes.is_empty()).collect();
                connections.retain(|connection| !connection.lock().expect("no writer panics").ended);
                taken
            })
        })
        .await
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: UnixListener, connections: Connections) {
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
        let connection = Arc::new(Mutex::new(Connection::default()));
        connections.lock().expect("no writer panics").push(Arc::clone(&connection));
        tasks.spawn(record(stream, connection));
    }
}

async fn record(mut stream: UnixStream, connection: Arc<Mutex<Connection>>) {
    let (mut buffer, mut answered) = (Vec::new(), false);
    while stream.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
        let head = {
            let bytes = &mut connection.lock().expect("no writer panics").bytes;
            bytes.append(&mut buffer);
            memchr::memmem::find(bytes, b"\r\n\r\n").is_some()
        };
        if head && !answered {
            answered = true;
            let _ = stream.write_all(ANSWER).await;
        }
    }
    connection.lock().expect("no writer panics").ended = true;
}
