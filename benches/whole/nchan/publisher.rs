//! Publishing to nchan: requests on one connection that is kept, many on their way at the same time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that publishes.
pub struct Publisher {
    stream: BufReader<TcpStream>,
    output: Vec<u8>,
    /// Requests without an answer, those in `output` included.
    waiting: usize,
}

impl Publisher {
    /// Connects.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("nginx accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { stream: BufReader::new(stream), output: Vec::new(), waiting: 0 }
    }

    /// Puts a message for a channel where `settle` takes it from.
    pub fn put(&mut self, channel: &str, payload: &[u8]) {
        let size = payload.len();
        write!(self.output, "POST /pub?id={channel} HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\n\r\n")
            .expect("memory");
        self.output.extend_from_slice(payload);
        self.waiting += 1;
    }

    /// Sends what was put, and reads answers until no more than so many are missing.
    pub fn settle(&mut self, missing: usize) {
        self.stream.get_mut().write_all(&self.output).expect("nginx reads");
        self.output.clear();
        while self.waiting > missing {
            self.answer();
            self.waiting -= 1;
        }
    }

    fn answer(&mut self) {
        let status = self.line();
        // 201: with subscribers, 202: without.
        assert!(status.starts_with("HTTP/1.1 20"), "nchan refuses: {status}");
        let mut size = 0;
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            if let Some((_, value)) =
                line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                size = value.trim().parse().expect("a number");
            }
        }
        self.stream.read_exact(&mut vec![0; size]).expect("the whole answer");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).expect("nginx answers in time");
        assert!(read > 0, "nginx closes");
        line.truncate(line.trim_end().len());
        line
    }
}
