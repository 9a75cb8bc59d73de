//! The floor: the least that a process can do to give these events to these connections.

pub mod process;

use crate::child::Child;
use crate::support::process::SERVER_CORE;

/// The first argument that makes this program the floor.
pub const PRIVATE: &str = "floor-process";

/// A floor that runs.
pub struct Floor {
    pub child: Child,
    pub port: u16,
}

impl Floor {
    /// Starts one.
    pub fn start() -> Self {
        let mut child = Child::start(SERVER_CORE, &[PRIVATE]);
        let port = child.answer("port").first().and_then(|port| u16::try_from(*port).ok()).expect("a port");
        Self { child, port }
    }

    /// It will accept so many connections, as `open` says.
    pub fn expect(&mut self, opening: Opening, connections: usize) {
        let how = match opening {
            Opening::Silent => "accept",
            Opening::Answered => "answer",
            Opening::Served => "serve",
        };
        self.child.order(&format!("{how} {connections}"));
    }

    /// It has accepted them.
    pub fn accepted(&mut self) {
        self.child.answer("accepted");
    }

    /// It closes its connections.
    pub fn close(&mut self) {
        self.child.order("close all");
        self.child.answer("closed");
    }

    /// One event to everybody.
    pub fn write(&mut self, payload: &[u8]) {
        self.child.order(&format!("write {}", String::from_utf8_lossy(payload)));
    }

    /// The connections, in the order in which they came, are the users whose events come by NATS from now on. It does
    /// nothing else any more.
    pub fn follow(&mut self, nats: u16, prefix: &str) {
        self.child.order(&format!("follow {nats} {prefix}"));
        self.child.answer("following");
    }
}

/// What a connection gets when it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Nothing; its request is not read either.
    Silent,
    /// The head of an answer, when its request has come.
    Answered,
    /// A hundred events at once.
    Served,
}
