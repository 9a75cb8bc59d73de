//! What the requests of one HTTP/2 connection have in common, and its task has to know of them.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Waker};

/// Answers of one connection that wait for its peer. One that asks, and leaves no room for answers, gets no more.
const UNREAD_MAX: usize = 8;

/// The requests of a connection.
#[derive(Default)]
pub(super) struct Streams {
    running: Cell<usize>,
    unread: Cell<usize>,
    /// We have reset one.
    cut: Cell<bool>,
    /// The connection's task.
    task: Cell<Option<Waker>>,
}

impl Streams {
    /// Counts a request as running until what is given is dropped.
    pub(super) fn run(self: &Rc<Self>) -> Running {
        self.running.set(self.running.get() + 1);
        Running(self.clone())
    }

    /// Whether any request is being answered, or is an event stream.
    pub(super) fn any(&self) -> bool {
        self.running.get() > 0
    }

    /// Whether there are answers that the peer has not taken.
    pub(super) fn unread(&self) -> bool {
        self.unread.get() > 0
    }

    /// Whether one was reset by us since this was last asked.
    pub(super) fn take_cut(&self) -> bool {
        self.cut.take()
    }

    /// Remembers the connection's task, to be woken by [`Running::cut`].
    pub(super) fn set_task(&self, cx: &Context<'_>) {
        let known = self.task.take().filter(|waker| waker.will_wake(cx.waker()));
        self.task.set(Some(known.unwrap_or_else(|| cx.waker().clone())));
    }
}

/// A request that is being served.
pub(super) struct Running(Rc<Streams>);

impl Running {
    /// Whether one more answer may wait for the peer to take it.
    pub(super) fn may_wait(&self) -> bool {
        self.0.unread.get() < UNREAD_MAX
    }

    /// Counts an ordinary answer until its body has been taken.
    pub(super) fn answers(&self) -> Unread {
        self.0.unread.set(self.0.unread.get() + 1);
        Unread(self.0.clone())
    }

    /// We have reset it. The connection's task is told, because h2 does not wake it while the socket is full.
    pub(super) fn cut(&self) {
        self.0.cut.set(true);
        if let Some(task) = self.0.task.take() {
            task.wake();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

/// An answer on its way.
pub(super) struct Unread(Rc<Streams>);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.unread.set(self.0.unread.get() - 1);
    }
}
