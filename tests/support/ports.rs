//! Ports for servers that are told where to listen, and that come back there after a restart.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel gives ports to connections that go out and to binds of port 0 (32768 and up
/// unless configured): nobody is given one of these by chance while the server that owns it is not running.
const RESERVED: Range<u16> = 16_384..32_768;

/// Where the next search starts. Another process starts elsewhere, this one never gives a port twice.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(RESERVED)));

/// A port that nobody uses now, and that nobody is given by the kernel later.
pub fn free_port() -> u16 {
    for _ in RESERVED {
        let port = RESERVED.start + NEXT.fetch_add(1, Ordering::Relaxed) % (RESERVED.end - RESERVED.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {RESERVED:?} is free on 127.0.0.1");
}
