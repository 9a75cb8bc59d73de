//! The other end of the server's socket.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};

/// Bytes that a server may send to a peer of ours.
const RECEIVED_BYTES_MAX: usize = 4 << 20;
/// Looks at a socket without news after which a server has nothing more to say.
const QUIET_LOOKS: usize = 3;

pub enum Peer {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// What came from the server.
#[derive(Default)]
pub struct Received {
    pub bytes: Vec<u8>,
    /// It has ended the connection.
    pub ended: bool,
}

impl Peer {
    /// Sends everything, reading meanwhile, unless the server ends first.
    pub async fn send(&self, mut bytes: &[u8], received: &mut Received) {
        while !bytes.is_empty() && !received.ended {
            match self.try_write(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.read_some(received);
                    pause().await;
                }
                Err(_) => break,
            }
        }
        self.read_some(received);
    }

    /// Reads until the server is at rest.
    pub async fn settle(&self, received: &mut Received) {
        let mut quiet = 0;
        while quiet < QUIET_LOOKS && !received.ended {
            pause().await;
            quiet = if self.read_some(received) { 0 } else { quiet + 1 };
        }
    }

    /// Says that it sends no more, and waits for the server to end. It must.
    pub async fn finish(self, received: &mut Received) {
        let _ = match &self {
            Self::Unix(unix) => SockRef::from(unix).shutdown(Shutdown::Write),
            Self::Tcp(tcp) => SockRef::from(tcp).shutdown(Shutdown::Write),
        };
        self.wait_for_the_end(received).await;
    }

    /// Says nothing, and waits for the server to end. It must.
    pub async fn wait_for_the_end(self, received: &mut Received) {
        for _ in 0..600 {
            self.read_some(received);
            if received.ended {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the server does not end the connection");
    }

    /// Whether anything came.
    fn read_some(&self, received: &mut Received) -> bool {
        let mut buffer = [0; 16 * 1024];
        let before = received.bytes.len();
        while !received.ended {
            match self.try_read(&mut buffer) {
                Ok(0) => received.ended = true,
                Ok(n) => received.bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => received.ended = true,
            }
        }
        assert!(received.bytes.len() <= RECEIVED_BYTES_MAX, "the server sends without end");
        received.bytes.len() > before
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(unix) => unix.try_read(buffer),
            Self::Tcp(tcp) => tcp.try_read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(unix) => unix.try_write(bytes),
            Self::Tcp(tcp) => tcp.try_write(bytes),
        }
    }
}

/// The clock moves when nobody else has anything to do.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
