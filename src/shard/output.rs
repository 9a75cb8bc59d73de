//! What one client has still to get: its transport and its bounded backlog.
//!
//! No queue exists until a socket is full; then references to frames wait here, bounded by bytes and by count. Judging a
//! slow reader is the sweep's and the shard's business; this only says when a bound is passed.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

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

/// A backlog passed its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// Where a client's bytes go.
#[derive(Debug, Default)]
pub struct Output {
    /// Absent before the take-over and on HTTP/2, where the body takes bytes out by [`Output::take`].
    pub transport: Option<Transport>,
    /// Only there while something waits.
    backlog: Option<Box<Backlog>>,
}

#[derive(Debug, Default)]
struct Backlog {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Output {
    /// The transport, if a frame can be written to it at once because nothing waits.
    pub fn clear_transport(&mut self) -> Option<&mut Transport> {
        if self.backlog.is_some() {
            return None;
        }
        self.transport.as_mut().filter(|transport| !transport.wants_flush())
    }

    /// Whether nothing waits, neither here nor in the TLS session.
    pub fn is_empty(&self) -> bool {
        self.backlog.is_none() && self.transport.as_ref().is_none_or(|t| !t.wants_flush())
    }

    /// Bytes that wait.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |b| b.bytes)
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

    /// Writes the backlog until it is empty or the socket is full (`WouldBlock`). Gives the bytes written and the calls made.
    pub fn drain(&mut self, scratch: &mut Vec<u8>) -> (Written, io::Result<()>) {
        let mut written = Written::default();
        let result = self.drain_counted(scratch, &mut written);
        let moved = self.transport.as_mut().is_some_and(Transport::take_moved);
        written.progress = moved || written.bytes > 0;
        (written, result)
    }

    fn drain_counted(&mut self, scratch: &mut Vec<u8>, written: &mut Written) -> io::Result<()> {
        let Some(transport) = &mut self.transport else { return Ok(()) };
        if transport.wants_flush() {
            transport.flush()?;
        }
        while let Some(backlog) = &mut self.backlog {
            let n = match backlog.frames.front() {
                Some(front) if backlog.frames.len() == 1 || front.len() >= GATHER_BYTES => {
                    transport.try_write(front)?
                }
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
                self.backlog = None;
            }
        }
        // Over TLS everything may have been taken and yet wait as records.
        if transport.wants_flush() {
            transport.flush()?;
        }
        Ok(())
    }

    /// Takes what waits, gathered or split to at most [`GATHER_BYTES`]; for HTTP/2 bodies, whose progress shows by being asked.
    pub fn take(&mut self) -> Option<Bytes> {
        let backlog = self.backlog.as_mut()?;
        let front = backlog.frames.front_mut()?;
        let taken = if front.len() > GATHER_BYTES { front.split_to(GATHER_BYTES) } else { backlog.gather() };
        backlog.bytes -= taken.len();
        if backlog.frames.is_empty() {
            self.backlog = None;
        }
        Some(taken)
    }
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
    /// The first frames, as many as fit; a single one is not copied.
    fn gather(&mut self) -> Bytes {
        let first = self.frames.pop_front().unwrap_or_default();
        if self.frames.front().is_none_or(|next| first.len() + next.len() > GATHER_BYTES) {
            return first;
        }
        let mut gathered = first.to_vec();
        while let Some(next) = self.frames.pop_front_if(|next| gathered.len() + next.len() <= GATHER_BYTES) {
            gathered.extend_from_slice(&next);
        }
        gathered.into()
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

    #[test]
    fn taking_empties_it_in_order() {
        let mut output = output(&["ab", "cd"]);
        output.push_front(Bytes::from_static(b"head"));
        assert_eq!(output.backlog_bytes(), 8);
        assert_eq!(output.take().as_deref(), Some(&b"headabcd"[..]));
        assert!(output.is_empty() && output.take().is_none() && output.backlog_bytes() == 0);
    }

    #[test]
    fn a_large_frame_is_taken_in_parts() {
        let mut output = Output::default();
        output.push_beyond(vec![1; GATHER_BYTES + 5].into());
        assert_eq!(output.take().map(|b| b.len()), Some(GATHER_BYTES));
        assert_eq!((output.take().map(|b| b.len()), output.is_empty()), (Some(5), true));
    }

    #[test]
    fn a_partial_write_leaves_the_rest() {
        let mut output = output(&["abc", "def"]);
        let backlog = output.backlog.as_mut().expect("two frames");
        backlog.consume(4);
        assert_eq!(output.take().as_deref(), Some(&b"ef"[..]));
    }
}
