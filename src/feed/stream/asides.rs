//! What is read beside the consumer: the past, last values, and what the stream's leader says.
//!
//! All of it goes on at once and is taken as it comes. What is read and what becomes of it is the ledger's business.

use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use crate::feed::connection::Kept;
use crate::feed::consumer::FeedError;
use crate::feed::encode::Encoder;
use crate::feed::ledger::{Filled, Ledger, PassId, ValueRead, Values};
use crate::feed::look::{self, Looked};
use crate::feed::start::Known;
use crate::feed::values::ValueReader;

/// The reads that are under way.
pub(super) struct Asides {
    control: Kept,
    stream: String,
    reader: Rc<ValueReader>,
    /// The past.
    passes: Vec<(PassId, mpsc::Receiver<Filled>)>,
    /// What the leader says.
    look: Option<LocalBoxFuture<'static, Result<Looked, FeedError>>>,
    /// When it has said something last.
    last_look: Option<Instant>,
    /// The last messages of subjects; as many as the ledger asks for at a time.
    values: FuturesUnordered<LocalBoxFuture<'static, ValuesRead>>,
}

/// Last values of a pattern; `None` where they could not be read.
type ValuesRead = (ValueRead, Option<Values>);

/// What was read.
pub(super) enum Aside {
    /// A pass; `None` when it ends.
    Filled(PassId, Option<Filled>),
    /// What the leader says.
    Looked(Result<Looked, FeedError>),
    /// The last messages of subjects.
    Values(ValuesRead),
}

impl Asides {
    /// Nothing yet, of a stream that is asked by this connection.
    pub(super) fn new(control: Kept, stream: String, encoder: &Encoder) -> Self {
        let reader = Rc::new(ValueReader::new(control.clone(), stream.clone(), encoder));
        let (passes, values) = (Vec::new(), FuturesUnordered::new());
        Self { control, stream, reader, passes, look: None, last_look: None, values }
    }

    /// Takes a pass from its reader.
    pub(super) fn fill(&mut self, pass: PassId, filled: mpsc::Receiver<Filled>) {
        self.passes.push((pass, filled));
    }

    /// Asks the leader, instead of what it has been asked before and not answered.
    pub(super) fn look(&mut self, known: Known, at: u64) {
        self.look =
            Some(look::look(self.control.clone(), self.stream.clone(), known, at, self.last_look).boxed_local());
    }

    /// Whether the leader has been asked and has not answered.
    pub(super) fn is_looking(&self) -> bool {
        self.look.is_some()
    }

    /// Reads the last messages of subjects.
    pub(super) fn read_values(&mut self, of: ValueRead) {
        let (reader, stream) = (self.reader.clone(), self.stream.clone());
        let read = async move {
            let values = reader.read(&of).await;
            if let Err(error) = &values {
                // Not of which pattern: it may name a user.
                tracing::warn!(stream, %error, "Last values not read; tried again");
            }
            (of, values.ok())
        };
        self.values.push(read.boxed_local());
    }

    /// Leaves the passes that the ledger has ended: their readers end with them.
    pub(super) fn retain(&mut self, ledger: &Ledger) {
        self.passes.retain(|(pass, _)| ledger.has_pass(*pass));
    }

    /// Waits until a pass that takes more has been read further, values have been read, or the leader has answered.
    pub(super) async fn next(&mut self, ledger: &Ledger) -> Aside {
        std::future::poll_fn(|cx| {
            if let Some(look) = &mut self.look
                && let Poll::Ready(looked) = look.poll_unpin(cx)
            {
                (self.look, self.last_look) = (None, Some(Instant::now()));
                return Poll::Ready(Aside::Looked(looked));
            }
            if let Poll::Ready(Some(read)) = self.values.poll_next_unpin(cx) {
                return Poll::Ready(Aside::Values(read));
            }
            for (pass, filled) in self.passes.iter_mut().filter(|(pass, _)| ledger.takes(*pass)) {
                if let Poll::Ready(filled) = filled.poll_recv(cx) {
                    return Poll::Ready(Aside::Filled(*pass, filled));
                }
            }
            Poll::Pending
        })
        .await
    }
}
