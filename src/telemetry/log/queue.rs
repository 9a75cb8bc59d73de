//! Between whoever writes a line and standard error: a bounded queue and a thread.
//!
//! Standard error may block (a service manager under pressure, a pipe that nobody reads), and a shard that waits for it waits
//! for nothing else. Lines that do not fit are lost and counted. [`Queue::close`] writes what there is and then lets everybody
//! write for himself, so that the last lines before the end are not lost either.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait at most: some thousands of lines.
const BYTES_MAX: usize = 1024 * 1024;
/// How long the end waits for standard error to take what there is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines lost in this process.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines were lost so far.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Where lines wait. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Something waits, or the end has come.
    filled: Condvar,
    /// Everything has been written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Taken and not yet written.
    writing: bool,
    end: End,
}

/// What becomes of lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum End {
    /// They wait for the thread.
    #[default]
    NotYet,
    /// The thread has written everything: whoever has another line writes it.
    Orderly,
    /// Standard error takes nothing.
    Stuck,
}

impl Queue {
    /// A queue whose thread writes to standard error. Without a thread everybody writes for himself.
    pub(super) fn start() -> Self {
        let queue = Self::new();
        let thread = queue.clone();
        let started = std::thread::Builder::new().name("sidestream-log".to_owned()).spawn(move || {
            thread.run(&mut io::stderr());
        });
        if started.is_err() {
            queue.lock().end = End::Orderly;
        }
        queue
    }

    fn new() -> Self {
        let shared = Shared { waiting: Mutex::default(), filled: Condvar::new(), written: Condvar::new() };
        Self(Arc::new(shared))
    }

    /// Writes what there is, and waits for it a second at most. The thread ends.
    pub(super) fn close(&self) {
        let waiting = self.lock();
        let is_left = |waiting: &mut Waiting| waiting.writing || !waiting.bytes.is_empty();
        let (mut waiting, timeout) =
            self.0.written.wait_timeout_while(waiting, PATIENCE, is_left).unwrap_or_else(PoisonError::into_inner);
        waiting.end = if timeout.timed_out() { End::Stuck } else { End::Orderly };
        self.0.filled.notify_all();
    }

    fn run(&self, to: &mut dyn Write) {
        let mut taken = Vec::new();
        while self.take(&mut taken) {
            // A log that cannot be written is no reason to end.
            let _ = to.write_all(&taken);
            taken.clear();
        }
    }

    /// Waits for lines and takes all of them, in the room of those taken before; false at the end.
    fn take(&self, taken: &mut Vec<u8>) -> bool {
        let mut waiting = self.lock();
        waiting.writing = false;
        if waiting.bytes.is_empty() {
            self.0.written.notify_all();
        }
        let is_idle = |waiting: &mut Waiting| waiting.bytes.is_empty() && waiting.end == End::NotYet;
        let mut waiting = self.0.filled.wait_while(waiting, is_idle).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, taken);
        waiting.writing = !taken.is_empty();
        waiting.writing
    }

    /// Takes a line, if there is room for it.
    fn put(&self, line: &[u8]) -> End {
        let mut waiting = self.lock();
        if waiting.end == End::NotYet {
            if waiting.bytes.len() + line.len() > BYTES_MAX {
                LOST.fetch_add(1, Ordering::Relaxed);
            } else {
                waiting.bytes.extend_from_slice(line);
                self.0.filled.notify_one();
            }
        }
        waiting.end
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line comes as one write.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.put(line) == End::Orderly {
            let _ = io::stderr().write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A standard error that says what it takes, each time when it is let.
    struct Slow {
        let_go: mpsc::Receiver<()>,
        took: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.let_go.recv();
            let _ = self.took.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Queue, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let (go, let_go) = mpsc::channel();
        let (took, taken) = mpsc::channel();
        let queue = Queue::new();
        let thread = queue.clone();
        std::thread::spawn(move || thread.run(&mut Slow { let_go, took }));
        (queue, go, taken)
    }

    #[test]
    fn lines_that_do_not_fit_are_counted_and_nobody_waits() {
        let (mut queue, go, taken) = slow();
        let line = [b'x'; 1024];
        let (before, lines) = (lost(), 3 * BYTES_MAX / line.len());
        for _ in 0..lines {
            queue.write_all(&line).expect("always");
        }
        let lost = usize::try_from(lost() - before).expect("few");
        // What the thread holds, and what waits.
        assert!((lines / 3..lines).contains(&lost), "{lost} of {lines}");
        drop(go);
        queue.close();
        let written: usize = taken.try_iter().map(|bytes| bytes.len()).sum();
        assert_eq!(written, (lines - lost) * line.len());
    }

    #[test]
    fn what_waits_at_the_end_is_written() {
        let (mut queue, go, taken) = slow();
        queue.write_all(b"last words\n").expect("always");
        let closing = std::thread::spawn({
            let queue = queue.clone();
            move || queue.close()
        });
        assert!(taken.try_recv().is_err());
        drop(go);
        closing.join().expect("closes");
        assert_eq!(taken.recv().expect("written"), b"last words\n");
        assert_eq!(queue.put(b"later\n"), End::Orderly, "who comes later writes for himself");
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let (mut queue, _go, _taken) = slow();
        queue.write_all(b"x\n").expect("always");
        queue.close();
        assert_eq!(queue.put(b"later\n"), End::Stuck);
    }
}
