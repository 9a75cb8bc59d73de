//! Asks the peer of an HTTP/2 connection for signs of life (RFC 9113 section 6.7).

use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

/// Between an answer and the next question.
const INTERVAL: Duration = Duration::from_secs(20);
/// For the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pings and their deadlines.
pub(super) struct Keepalive {
    pings: PingPong,
    asked: bool,
    due: Instant,
}

impl Keepalive {
    pub(super) fn new(pings: PingPong) -> Self {
        Self { pings, asked: false, due: Instant::now() + INTERVAL }
    }

    /// When to ask, or to give up.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Takes the answer, if it has come.
    pub(super) fn hear(&mut self, cx: &mut Context<'_>) {
        if self.asked && matches!(self.pings.poll_pong(cx), Poll::Ready(Ok(_))) {
            (self.asked, self.due) = (false, Instant::now() + INTERVAL);
        }
    }

    /// Asks, because it is due. `false` when there was neither an answer to the last question nor another sign that the peer
    /// is there: the question stands behind everything that a slow peer has still to read.
    pub(super) fn ask(&mut self, alive: bool, cx: &mut Context<'_>) -> bool {
        let due = Instant::now() + PATIENCE;
        if self.asked {
            self.due = due;
            return alive;
        }
        if self.pings.send_ping(Ping::opaque()).is_err() {
            return false;
        }
        (self.asked, self.due) = (true, due);
        // So that the answer wakes this task.
        let _ = self.pings.poll_pong(cx);
        true
    }
}
