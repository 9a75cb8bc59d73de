//! What one client has still to get: its transport and its bounded backlog.
//!
//! No queue exists until a socket is full; then references to frames wait here, bounded by bytes and by count. Judging a
//! slow reader is the sweep's and the shard's business; this only says when a bound is passed.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use crate::server::h2::outgoing::Outgoing;
use crate::server::socket::Transport;

/// Most bytes gathered into one write while a backlog is drained.
const GATHER_BYTES: usize = 16 * 1024;

/// Bounds of one client's backlog.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes.
    pub bytes: usize,
    /// Frames.
    pub frames: usize,
}

impl Bounds {
    /// For an event that is for one client only: as much again, so that it has room behind what the client catches up with.
    pub fn for_one(self) -> Self {
        Self { bytes: self.bytes.saturating_mul(2), ..self }
    }
}

/// A backlog passed its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// The way to a client.
#[derive(Debug, Default)]
pub enum Way {
    /// None yet: its response is not committed.
    #[default]
    Unopened,
    /// Its own socket (HTTP/1.1).
    Socket(Transport),
    /// A stream of a connection (HTTP/2).
    Http2(Outgoing),
}

impl Way {
    /// Whether records wait in a TLS session.
    fn wants_flush(&self) -> bool {
        matches!(self, Self::Socket(transport) if transport.wants_flush())
    }
}

/// Where a client's bytes go.
#[derive(Debug, Default)]
pub struct Output {
    /// The way there.
    pub way: Way,
    /// Only there while something waits.
    backlog: Waiting,
}

#[derive(Debug, Default)]
struct Backlog {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Output {
    /// The way, if a frame can be written at once because nothing waits.
    pub fn clear_way(&mut self) -> Option<&mut Way> {
        if self.is_empty() { Some(&mut self.way) } else { None }
    }

    /// Whether nothing waits, neither here nor in the TLS session.
    pub fn is_empty(&self) -> bool {
        self.backlog.is_none() && !self.way.wants_flush()
    }

    /// Bytes that wait, here or in an HTTP/2 connection.
    pub fn waiting_bytes(&self) -> usize {
        let held = if let Way::Http2(outgoing) = &self.way { outgoing.held() } else { 0 };
        held + self.backlog.as_ref().map_or(0, |b| b.bytes)
    }

    /// Queues a frame. A single frame is taken whatever its size; a second one only within the bounds.
    pub fn push(&mut self, frame: Bytes, bounds: Bounds) -> Result<(), Overflow> {
        let full = |b: &Backlog| b.bytes + frame.len() > bounds.bytes || b.frames.len() >= bounds.frames;
        if self.backlog.as_deref().is_some_and(full) {
            return Err(Overflow);
        }
        self.push_beyond(frame);
        Ok(())
    }

    /// Queues a frame whatever the bounds: for what is bounded by its maker, such as one piece of a replay.
    pub fn push_beyond(&mut self, frame: Bytes) {
        let backlog = self.backlog.get_or_insert_default();
        backlog.bytes += frame.len();
        backlog.frames.push_back(frame);
    }

    /// Puts bytes before everything else: the response head.
    pub fn push_front(&mut self, bytes: Bytes) {
        let backlog = self.backlog.get_or_insert_default();
        backlog.bytes += bytes.len();
        backlog.frames.push_front(bytes);
    }

    /// Writes the backlog until it is empty or the way is full (`WouldBlock`). Gives the bytes written and the calls made.
    pub fn drain(&mut self, scratch: &mut Vec<u8>) -> (Written, io::Result<()>) {
        let mut written = Written::default();
        let Self { way, backlog } = self;
        let result = match way {
            Way::Unopened => Ok(()),
            Way::Socket(transport) => drain_to_socket(backlog, transport, scratch, &mut written),
            Way::Http2(outgoing) => drain_to_http2(backlog, outgoing, &mut written),
        };
        (written, result)
    }
}

#[cfg(test)]
impl Output {
    /// Takes the first of what waits, where there is no way.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        let backlog = self.backlog.as_mut()?;
        let taken = backlog.take(GATHER_BYTES);
        if backlog.frames.is_empty() {
            self.backlog = None;
        }
        Some(taken)
    }
}

type Waiting = Option<Box<Backlog>>;

fn drain_to_socket(
    waiting: &mut Waiting,
    transport: &mut Transport,
    scratch: &mut Vec<u8>,
    written: &mut Written,
) -> io::Result<()> {
    let result = write_all(waiting, transport, scratch, written);
    written.progress = transport.take_moved() || written.bytes > 0;
    result
}

fn write_all(
    waiting: &mut Waiting,
    transport: &mut Transport,
    scratch: &mut Vec<u8>,
    written: &mut Written,
) -> io::Result<()> {
    if transport.wants_flush() {
        transport.flush()?;
    }
    while let Some(backlog) = waiting {
        let n = match backlog.frames.front() {
            Some(front) if backlog.frames.len() == 1 || front.len() >= GATHER_BYTES => transport.try_write(front)?,
            _ => {
                scratch.clear();
                for frame in &backlog.frames {
                    if scratch.len() + frame.len() > GATHER_BYTES && !scratch.is_empty() {
                        break;
                    }
                    scratch.extend_from_slice(frame);
                }
                transport.try_write(scratch)?
            }
        };
        written.calls += 1;
        written.bytes += n;
        backlog.consume(n);
        if backlog.frames.is_empty() {
            *waiting = None;
        }
    }
    // Over TLS everything may have been taken and yet wait as records.
    if transport.wants_flush() {
        transport.flush()?;
    }
    Ok(())
}

/// To the connection's buffer, which counts as progress: its bound is part of the client's.
fn drain_to_http2(waiting: &mut Waiting, outgoing: &mut Outgoing, written: &mut Written) -> io::Result<()> {
    while let Some(backlog) = waiting {
        let room = outgoing.room()?;
        let sent = outgoing.try_send(backlog.take(room))?;
        written.bytes += sent;
        written.progress = true;
        if backlog.frames.is_empty() {
            *waiting = None;
        }
    }
    Ok(())
}

/// What a drain did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    /// Bytes taken by the socket.
    pub bytes: usize,
    /// Write calls.
    pub calls: u64,
    /// The socket took something, be it of a record that had waited.
    pub progress: bool,
}

impl Backlog {
    /// Takes the first bytes, at most `max`: part of a frame, or whole ones; a single one is not copied.
    fn take(&mut self, max: usize) -> Bytes {
        let Some(mut taken) = self.frames.pop_front() else { return Bytes::new() };
        if taken.len() > max {
            self.frames.push_front(taken.split_off(max));
        } else if self.frames.front().is_some_and(|next| taken.len() + next.len() <= max) {
            let mut gathered = taken.to_vec();
            while let Some(next) = self.frames.pop_front_if(|next| gathered.len() + next.len() <= max) {
                gathered.extend_from_slice(&next);
            }
            taken = gathered.into();
        }
        self.bytes -= taken.len();
        taken
    }

    fn consume(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(front) = self.frames.front_mut() {
            if n < front.len() {
                let _ = front.split_to(n);
                return;
            }
            n -= front.len();
            self.frames.pop_front();
            if n == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 10, frames: 3 };

    fn output(frames: &[&'static str]) -> Output {
        let mut output = Output::default();
        for frame in frames {
            output.push(Bytes::from_static(frame.as_bytes()), BOUNDS).expect("within bounds");
        }
        output
    }

    #[test]
    fn is_bounded_in_bytes_and_frames_but_takes_one_of_any_size() {
        assert_eq!(output(&["123456"]).push(Bytes::from_static(b"12345"), BOUNDS), Err(Overflow));
        assert_eq!(output(&["1", "2", "3"]).push(Bytes::from_static(b"4"), BOUNDS), Err(Overflow));
        assert_eq!(Output::default().push(Bytes::from_static(b"12345678901234567890"), BOUNDS), Ok(()));
        assert_eq!(output(&["123456"]).push(Bytes::from_static(b"1234"), BOUNDS), Ok(()));
    }

    fn backlog(frames: &[&'static str]) -> Backlog {
        *output(frames).backlog.expect("frames")
    }

    #[test]
    fn what_is_put_in_front_comes_first() {
        let mut output = output(&["ab", "cd"]);
        output.push_front(Bytes::from_static(b"head"));
        assert_eq!(output.waiting_bytes(), 8);
        assert_eq!(&output.backlog.expect("three frames").take(8)[..], b"headabcd");
    }

    #[test]
    fn taken_are_whole_frames_or_a_part_of_one() {
        let mut backlog = backlog(&["abc", "de", "fgh"]);
        assert_eq!(&backlog.take(6)[..], b"abcde");
        assert_eq!(&backlog.take(2)[..], b"fg");
        assert_eq!((backlog.bytes, &backlog.take(2)[..]), (1, &b"h"[..]));
        assert!(backlog.take(2).is_empty() && backlog.frames.is_empty() && backlog.bytes == 0);
    }

    #[test]
    fn a_partial_write_leaves_the_rest() {
        let mut backlog = backlog(&["abc", "def"]);
        backlog.consume(4);
        assert_eq!(&backlog.take(9)[..], b"ef");
    }
}
