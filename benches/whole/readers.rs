//! Readers: connections of one process that count events and remember when they came.

mod came;
mod opening;
pub mod process;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::child::Child;
use crate::engine::Protocol;
use crate::support::process::OTHER_CORE;

/// The first argument that makes this program the readers.
pub const PRIVATE: &str = "readers-process";

/// Whom they read, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    pub protocol: Protocol,
    pub port: u16,
    /// With `{user}` where the number of the reader belongs.
    pub path: String,
    /// What tells in the stream that it is open. Without it nothing is asked for and nothing awaited.
    pub ready: Option<String>,
    pub cursor: Option<String>,
    /// The certificate's file, for TLS.
    pub certificate: String,
    pub connections: usize,
    /// How many open at the same time.
    pub at_once: usize,
}

/// Readers that are open.
pub struct Readers {
    child: Child,
    /// When the first of them began to open.
    pub began: u64,
}

/// How long events took from their stamp to their readers, in milliseconds.
pub struct Tails {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    /// Reads that found something.
    pub reads: u64,
}

impl fmt::Display for Tails {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.1} / {:.1} / {:.1}", self.p50, self.p99, self.max)
    }
}

impl Readers {
    /// Opens them all.
    pub fn open(target: &Target) -> Self {
        let target = serde_json::to_string(target).expect("JSON");
        let mut child = Child::start(OTHER_CORE, &[PRIVATE, &target]);
        let began = child.answer("open")[0];
        Self { child, began }
    }

    /// Waits until they have so many events together; gives when the last came.
    pub fn have(&mut self, events: u64) -> u64 {
        self.child.order(&format!("wait {events}"));
        self.child.answer("have")[0]
    }

    /// Latencies of all events since this was asked last.
    pub fn tails(&mut self) -> Tails {
        self.child.order("tails");
        let numbers = self.child.answer("tails");
        let milliseconds = |place: usize| numbers[place] as f64 / 1e6;
        Tails { p50: milliseconds(0), p99: milliseconds(1), max: milliseconds(2), reads: numbers[3] }
    }
}
