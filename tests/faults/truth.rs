//! What really happened: everything that was sent, where the stream stored it, and what of it is still there.
//!
//! Filled in by the publisher (attempts and acknowledgements), by the faults (a new life of the stream) and, after the
//! run, from the stream's own content. It judges nothing; that is the checker's part.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// What every payload begins with: a number that no other message of the run has.
pub type Nonce = u64;

/// The subject of the last message of a run: everybody hears it.
pub const END: &str = "events.broadcast.end";

/// What must become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, or a fault has destroyed it.
    Deliver,
    /// It may arrive, and it may be declared: what it holds is not quite text.
    DeliverOrDeclare,
    /// It cannot be sent: a gap stands in its place.
    Declare,
}

/// One attempt to publish.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The wire subject.
    pub subject: String,
    /// What must become of it.
    pub fate: Fate,
    /// When it was handed to the client library.
    pub at: Instant,
    /// When the stream acknowledged it.
    pub acked: Option<Instant>,
}

/// One life of the stream: ends when it is deleted, or when its store goes back in time.
#[derive(Debug, Clone)]
pub struct Life {
    /// When it began.
    pub began: Instant,
    /// Up to here it holds what the life before it held.
    pub kept: u64,
    /// What was stored in it, as far as anybody knows.
    pub stored: BTreeMap<u64, Nonce>,
}

/// The whole of it.
#[derive(Debug, Clone)]
pub struct Truth {
    /// Every attempt.
    pub sent: HashMap<Nonce, Sent>,
    /// The stream's lives, oldest first.
    pub lives: Vec<Life>,
    /// What the last life holds at the end of the run.
    pub present: BTreeMap<u64, Nonce>,
    /// The last sequence of the last life.
    pub last: u64,
    /// When the fault was over.
    pub healed: Option<Instant>,
}

impl Truth {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        let life = Life { began: Instant::now(), kept: 0, stored: BTreeMap::new() };
        Self { sent: HashMap::new(), lives: vec![life], present: BTreeMap::new(), last: 0, healed: None }
    }

    /// Notes an attempt and gives its payload.
    pub fn send(&mut self, subject: &str, fate: Fate, fill: usize) -> (Nonce, String) {
        let nonce = self.sent.len() as u64 + 1;
        self.sent.insert(nonce, Sent { subject: subject.to_owned(), fate, at: Instant::now(), acked: None });
        (nonce, payload(nonce, subject, fill))
    }

    /// Notes an acknowledgement of the present life.
    pub fn acked(&mut self, nonce: Nonce, seq: u64) {
        if let Some(sent) = self.sent.get_mut(&nonce) {
            sent.acked = Some(Instant::now());
        }
        self.life().stored.insert(seq, nonce);
    }

    /// The present life.
    pub fn life(&mut self) -> &mut Life {
        self.lives.last_mut().expect("there is always one")
    }

    /// Another life has begun, which holds what stood at or below `kept`. Only while nothing is being published.
    pub fn next_life(&mut self, began: Instant, kept: u64) {
        let before = &self.life().stored;
        let stored = before.range(..=kept).map(|(seq, nonce)| (*seq, *nonce)).collect();
        self.lives.push(Life { began, kept, stored });
    }

    /// Takes in what the stream holds at the end.
    pub fn read(&mut self, present: BTreeMap<u64, Nonce>, last: u64) {
        self.life().stored.extend(present.iter().map(|(seq, nonce)| (*seq, *nonce)));
        (self.present, self.last) = (present, last);
    }

    /// The life of a moment.
    pub fn life_at(&self, at: Instant) -> usize {
        self.lives.iter().rposition(|life| life.began <= at).unwrap_or(0)
    }

    /// Whether a message stood at this place that nobody can be sent any more. Sequences are given out without holes, so
    /// every place up to the last was taken.
    pub fn is_gone(&self, life: usize, seq: u64) -> bool {
        if life + 1 < self.lives.len() {
            return true;
        }
        seq <= self.last && !self.present.get(&seq).is_some_and(|nonce| self.fate(*nonce) == Fate::Deliver)
    }

    /// What must become of a message.
    pub fn fate(&self, nonce: Nonce) -> Fate {
        self.sent.get(&nonce).map_or(Fate::Declare, |sent| sent.fate)
    }
}

/// A payload that can be checked without knowing more than itself: `nonce subject length xxxx…`.
pub fn payload(nonce: Nonce, subject: &str, fill: usize) -> String {
    format!("{nonce} {subject} {fill} {}", "x".repeat(fill))
}

/// The nonce and subject of a payload; `None` where it is not exactly as it was made.
pub fn parse(data: &str) -> Option<(Nonce, &str)> {
    let mut parts = data.splitn(4, ' ');
    let (nonce, subject) = (parts.next()?.parse().ok()?, parts.next()?);
    let fill: usize = parts.next()?.parse().ok()?;
    let text = parts.next()?;
    (text.len() == fill && text.bytes().all(|b| b == b'x')).then_some((nonce, subject))
}

/// Whether a client of `user` may hear a subject.
pub fn may_hear(user: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    let granted = match (tokens.next(), tokens.next()) {
        (Some("events"), Some("user")) => tokens.next() == Some(user),
        (Some("events"), Some("broadcast")) => true,
        _ => false,
    };
    // The pattern ends in `>`: at least one more token.
    granted && tokens.next().is_some()
}
