//! One GET, for health, metrics and monitoring pages.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A page that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// The whole answer, head included; empty when nobody answers.
pub fn get(port: u16, path: &str) -> String {
    // In HTTP/1.0 an answer is not chunked.
    request(port, path).map(|answer| String::from_utf8_lossy(&answer).into_owned()).unwrap_or_default()
}

fn request(port: u16, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Whether a page is there and well.
pub fn is_well(port: u16, path: &str) -> bool {
    get(port, path).split(' ').nth(1) == Some("200")
}

/// The body of an answer.
pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}
