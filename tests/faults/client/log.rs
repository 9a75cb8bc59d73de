//! What one client wrote down.

use std::time::Instant;

use sidestream::sse::Event;

use super::super::truth::Nonce;

/// Everything one client met, in order.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// For people.
    pub name: String,
    /// Whom it reads for.
    pub user: String,
    /// When, and what.
    pub items: Vec<(Instant, Item)>,
}

/// One thing that happened.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "some of it is only shown, as evidence")]
pub enum Item {
    /// It asks for a stream.
    Asked,
    /// `sidestream.connected`.
    Connected {
        /// `new`, `exact` or `gap`.
        resume: String,
        /// From where events follow.
        id: Id,
        /// The `Last-Event-ID` that was sent.
        sent: Option<String>,
    },
    /// A message.
    Data {
        /// Its id.
        id: Id,
        /// What its payload says.
        nonce: Nonce,
        /// What its payload says.
        subject: String,
    },
    /// `sidestream.gap`.
    Gap {
        /// Its id.
        id: Id,
        /// Its data.
        gap: Gap,
    },
    /// Any other event of the sidecar's own.
    Own {
        /// Its name and data.
        what: String,
        /// Its id.
        id: Id,
    },
    /// A message that is not as it was published.
    Broken(String),
    /// The connection ended.
    Ended(String),
    /// A soft refusal.
    Refused(String),
    /// No connection, or no answer.
    Failed(String),
}

/// A gap's data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gap {
    /// The last sequence before it.
    pub after: Option<u64>,
    /// The first behind it.
    pub next: Option<u64>,
    /// Why.
    pub reason: String,
}

/// An `id:` line; empty where there was none.
#[derive(Clone, PartialEq, Eq)]
pub struct Id {
    /// As it came.
    pub text: String,
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = self.text.split('.');
        let (epoch, time) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
        match self.seq() {
            Some(seq) => write!(f, "{epoch}:{seq}:{time}"),
            None => write!(f, "{:?}", self.text),
        }
    }
}

impl Id {
    /// Its sequence.
    pub fn seq(&self) -> Option<u64> {
        u64::from_str_radix(self.text.split('.').nth(1)?, 36).ok()
    }
}

impl Log {
    /// The messages, with when they came.
    pub fn received(&self) -> impl Iterator<Item = (Instant, Nonce)> {
        self.items.iter().filter_map(|(at, item)| match item {
            Item::Data { nonce, .. } => Some((*at, *nonce)),
            _ => None,
        })
    }

    /// When the client first wanted events at or after a moment: at once if it was connected or asking, else when it next
    /// asked.
    pub fn asked_after(&self, moment: Instant) -> Instant {
        let before = self.items.iter().rev().find(|(at, _)| *at <= moment);
        if before.is_some_and(|(_, item)| !matches!(item, Item::Ended(_) | Item::Refused(_) | Item::Failed(_))) {
            return moment;
        }
        let asked = self.items.iter().find(|(at, item)| *at > moment && matches!(item, Item::Asked));
        asked.map_or(moment, |(at, _)| *at)
    }
}

/// An event of the sidecar's own. `sent` is the cursor of the request.
pub(super) fn own(event: Event, sent: Option<String>) -> Item {
    let data = json(&event.data);
    let id = Id { text: event.id.unwrap_or_default() };
    match event.name.as_str() {
        "sidestream.connected" => {
            Item::Connected { resume: data["resume"].as_str().unwrap_or_default().to_owned(), id, sent }
        }
        "sidestream.gap" => {
            let reason = data["reason"].as_str().unwrap_or_default().to_owned();
            Item::Gap { id, gap: Gap { after: data["after"].as_u64(), next: data["next"].as_u64(), reason } }
        }
        name => Item::Own { what: format!("{name} {}", event.data), id },
    }
}

/// Data of an event; null where they are none.
pub(super) fn json(data: &str) -> serde_json::Value {
    serde_json::from_str(data).unwrap_or_default()
}
