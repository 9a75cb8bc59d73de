//! What became of an attempt: the answer, who was served, and what arrived at sidestream.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::application::PAGE;
use crate::attempt::MARK;
use crate::tap::Reply;

/// The answer, or whose events the stream brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A stream, and whose canaries it brought.
    Served(BTreeSet<&'static str>),
    /// sidestream's refusal: status and code.
    Refused(u16, String),
    /// An answer of the application's.
    Application,
    /// An answer of the proxy's, or one without anything by which to tell whose it is.
    Answered(u16),
    /// The stream or the connection was ended without an answer.
    Closed,
    /// No answer.
    Silence,
}

impl Outcome {
    /// Of a reply that is no stream.
    pub fn of(reply: &Reply) -> Self {
        match reply {
            Reply::Stream => Self::Served(BTreeSet::new()),
            Reply::Answer(_, body) if body == PAGE => Self::Application,
            Reply::Answer(status, body) => match serde_json::from_str::<serde_json::Value>(body) {
                Ok(json) => Self::Refused(*status, json["error"]["code"].as_str().unwrap_or("?").to_owned()),
                Err(_) => Self::Answered(*status),
            },
            Reply::Closed => Self::Closed,
            Reply::Silence => Self::Silence,
        }
    }

    /// Who was served, if anybody.
    pub fn served(&self) -> &BTreeSet<&'static str> {
        static NOBODY: BTreeSet<&'static str> = BTreeSet::new();
        if let Self::Served(heard) = self { heard } else { &NOBODY }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served(heard) if heard.iter().all(|whose| OF_ALICE.contains(whose)) => {
                let missing: Vec<_> = OF_ALICE.iter().filter(|whose| !heard.contains(*whose)).copied().collect();
                let without = if missing.is_empty() { "" } else { " without " };
                write!(f, "alice{without}{}", missing.join(", "))
            }
            Self::Served(heard) => write!(f, "**{}**", heard.iter().copied().collect::<Vec<_>>().join(", ")),
            Self::Refused(status, code) => write!(f, "{status} `{code}`"),
            Self::Application => write!(f, "the application"),
            Self::Answered(status) => write!(f, "{status}"),
            Self::Closed => write!(f, "closed"),
            Self::Silence => write!(f, "nothing"),
        }
    }
}

/// What alice hears: her own events, her tenant's, and her project's.
pub const OF_ALICE: [&str; 3] = ["acme", "alice", "apollo"];

/// A request as it arrived behind the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    request_line: String,
    /// Names in lower case, with all that came under them.
    lines: BTreeMap<String, Vec<String>>,
}

impl Arrival {
    /// Reads a request; whatever cannot be read in one way is shown as it is.
    pub fn read(bytes: &[u8]) -> Self {
        let head = String::from_utf8_lossy(bytes);
        let mut lines = head.split("\r\n\r\n").next().unwrap_or_default().split("\r\n");
        let request_line = lines.next().unwrap_or_default().to_owned();
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            // A new one for each request, and no business of sidestream's.
            let value = if name == "x-request-id" && value.len() == 36 { "…" } else { value };
            map.entry(name.to_ascii_lowercase()).or_default().push(value.escape_debug().to_string());
        }
        Self { request_line, lines: map }
    }

    /// Takes the mark out of the query.
    pub fn unmarked(mut self) -> (Self, Option<usize>) {
        let Some((before, after)) = self.request_line.split_once(MARK) else { return (self, None) };
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let mark = after[..digits].parse().ok();
        self.request_line = format!("{}{}", &before[..before.len() - 1], &after[digits..]);
        (self, mark)
    }

    /// Every value under a name.
    pub fn values(&self, name: &str) -> &[String] {
        self.lines.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// In what it differs from an honest request: lines that came, and names that did not.
    pub fn beside(&self, honest: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.request_line != honest.request_line {
            differences.push(self.request_line.clone());
        }
        for (name, values) in &self.lines {
            // Where it is passed on at all, it is the session's.
            if name != "cookie" && values != honest.values(name) {
                differences.extend(values.iter().map(|value| format!("{name}: {}", shortened(value))));
            }
        }
        let missing = honest.lines.keys().filter(|name| *name != "cookie" && self.values(name).is_empty());
        differences.extend(missing.map(|name| format!("no {name}")));
        differences
    }
}

fn shortened(value: &str) -> String {
    if value.len() <= 60 { value.to_owned() } else { format!("{}…", value.chars().take(20).collect::<String>()) }
}
