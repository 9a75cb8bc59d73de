//! This program again, as another process that takes orders by lines on stdin and answers by lines on stdout.
//!
//! A process may hold only so many descriptors, and what is measured must not share its clock with what measures.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};

use crate::support::process::{Process, command};

/// A child with this program's code.
pub struct Child {
    pub process: Process,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Child {
    /// Starts it on a core.
    pub fn start(core: usize, arguments: &[&str]) -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        let mut command = command(Some(core), &this);
        let mut process = Process::spawn(command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let orders = process.pipes().stdin.take().expect("piped");
        let answers = BufReader::new(process.pipes().stdout.take().expect("piped"));
        Self { process, orders, answers }
    }

    /// Gives an order.
    pub fn order(&mut self, line: &str) {
        writeln!(self.orders, "{line}").expect("the child takes orders");
    }

    /// Waits for the answer that begins with this word; gives the numbers that follow.
    pub fn answer(&mut self, word: &str) -> Vec<u64> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the child answers in text");
        let rest = line.strip_prefix(word).unwrap_or_else(|| panic!("instead of {word:?}: {line:?}"));
        rest.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    }
}
