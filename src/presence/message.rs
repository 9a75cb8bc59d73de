//! What is said of users: to everybody, on the subject of the configuration; and among sidecars, on a subject of our own.
//!
//! Both may be written by whoever the account lets publish there, so all of it is data: parsed, bounded, and never more than that.

use std::iter::{Peekable, from_fn};
use std::sync::Arc;
use std::vec::IntoIter;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cluster::{NodeId, Nodes};
use crate::telemetry::metrics::CloseReason;

/// Where sidecars tell each other of their users.
pub const INTERNAL: &str = "_sidestream.presence";
/// Longest user id that is believed: an identity is shorter.
const USER_BYTES_MAX: usize = 1024;

/// Shared text in JSON.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

/// Which change of a user is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    Connect,
    Disconnect,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub(super) enum Reason {
    Opened,
    Closed(CloseReason),
    /// Its sidecar is not heard of any more.
    NodeLost,
}

impl Reason {
    /// The word in messages.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed(reason) => reason.label(),
            Self::NodeLost => "node_lost",
        }
    }
}

impl From<Reason> for &'static str {
    fn from(reason: Reason) -> Self {
        reason.label()
    }
}

impl TryFrom<String> for Reason {
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        let closed = CloseReason::ALL.into_iter().map(Self::Closed);
        let mut all = [Self::Opened, Self::NodeLost].into_iter().chain(closed);
        all.find(|reason| reason.label() == word).ok_or("not a reason")
    }
}

/// A message for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    pub event: What,
    #[serde(with = "shared")]
    pub user: Arc<str>,
    /// The connection that made the change, and where it is or was.
    pub connection: Uuid,
    pub node: NodeId,
    pub reason: Reason,
    /// When it was published, in milliseconds since 1970; rises from change to change of a user.
    pub time: u64,
}

impl Change {
    /// What somebody has published; `None` where that says nothing of a user.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let change: Self = serde_json::from_slice(payload).ok()?;
        let fits = (change.event == What::Connect) == (change.reason == Reason::Opened);
        (fits && is_user(&change.user)).then_some(change)
    }

    /// The same for one change and no other, for streams that leave out what they have already (`Nats-Msg-Id`).
    pub(super) fn id(&self) -> String {
        let event = if self.event == What::Connect { "connect" } else { "disconnect" };
        format!("{event}-{}-{}", self.connection, self.time)
    }
}

/// What a sidecar says to the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    pub node: NodeId,
    /// Where it publishes presence: whoever publishes elsewhere is nobody to it.
    #[serde(with = "shared")]
    pub subject: Arc<str>,
    /// Whether it knows all that the others know.
    pub synced: bool,
    pub word: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    /// It is there, and has said so many lists of users so far.
    Here { seq: u64 },
    /// How some of its users stand now, in its list of this number.
    Users { seq: u64, users: Vec<Entry> },
    /// It asks all for what they know, but for these. The answers name the question. `whole`: nobody has told everything yet.
    Ask { question: u64, but: Nodes, whole: bool },
    /// It ends; its users have been told of before.
    Leaves,
}

/// How a user stands at one sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(with = "shared")]
    pub user: Arc<str>,
    pub connection: Uuid,
    /// The last connection has ended: why, and how many milliseconds ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<(Reason, u64)>,
}

/// A page of what a sidecar knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub node: NodeId,
    #[serde(with = "shared")]
    pub subject: Arc<str>,
    pub question: u64,
    /// Which page, from 0, and whether there is none after it.
    pub page: usize,
    pub last: bool,
    /// The number of its last list that is in this.
    pub seq: u64,
    /// For how many milliseconds it may have missed what was published.
    pub behind: u64,
    /// For how many it knows everything that was published up to then.
    pub knows: u64,
    /// Whether `told` is everything, rather than the changes of late.
    pub whole: bool,
    /// Its own users.
    pub users: Vec<Entry>,
    /// The last change published of users anywhere.
    pub told: Vec<Change>,
}

/// An answer in pages of some so many bytes of JSON, each made when it is asked for: an answer of many users is long.
pub(super) struct Pages {
    /// All but the users and changes that follow.
    frame: Answer,
    users: Peekable<IntoIter<Entry>>,
    told: Peekable<IntoIter<Change>>,
    bytes: usize,
}

/// Cuts an answer.
pub(super) fn pages(mut answer: Answer, bytes: usize) -> Pages {
    let users = std::mem::take(&mut answer.users).into_iter().peekable();
    let told = std::mem::take(&mut answer.told).into_iter().peekable();
    answer.last = false;
    Pages { frame: answer, users, told, bytes }
}

impl Iterator for Pages {
    type Item = Answer;

    fn next(&mut self) -> Option<Answer> {
        if self.frame.last {
            return None;
        }
        let (mut taken, most) = (0, self.bytes);
        let mut fits = |size: usize| {
            let fits = taken == 0 || taken + size <= most;
            taken += if fits { size } else { 0 };
            fits
        };
        let users: Vec<_> = from_fn(|| self.users.next_if(|entry| fits(size(entry)))).collect();
        let told: Vec<_> = from_fn(|| self.told.next_if(|change| fits(size(change)))).collect();
        self.frame.last = self.users.peek().is_none() && self.told.peek().is_none();
        let page = Answer { users, told, ..self.frame.clone() };
        self.frame.page += 1;
        Some(page)
    }
}

/// Cuts users into lists of some so many bytes of JSON.
pub(super) fn lists(users: Vec<Entry>, bytes: usize) -> Vec<Vec<Entry>> {
    let mut lists: Vec<Vec<Entry>> = Vec::new();
    let mut room = 0;
    for entry in users {
        let size = size(&entry);
        if room < size || lists.is_empty() {
            lists.push(Vec::new());
            room = bytes;
        }
        room = room.saturating_sub(size);
        lists.last_mut().expect("one was pushed").push(entry);
    }
    lists
}

/// Bytes of JSON, with the comma.
fn size(entry: &impl Serialize) -> usize {
    serde_json::to_vec(entry).map_or(0, |json| json.len() + 1)
}

/// Whether this can be the id of a user.
pub(super) fn is_user(user: &str) -> bool {
    (1..=USER_BYTES_MAX).contains(&user.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(user: &str) -> Entry {
        Entry { user: user.into(), connection: Uuid::nil(), left: Some((Reason::NodeLost, 3)) }
    }

    #[test]
    fn a_message_is_what_the_page_says_and_nothing_else_is_believed() {
        let node = NodeId::unused();
        let text = |event: &str, user: &str, reason: &str| {
            let id = Uuid::nil();
            format!(
                r#"{{"event":"{event}","user":"{user}","connection":"{id}","node":"{node}","reason":"{reason}","time":5}}"#
            )
        };
        let change = Change::parse(text("connect", "alice", "opened").as_bytes()).expect("a change");
        assert_eq!(serde_json::to_string(&change).expect("JSON"), text("connect", "alice", "opened"));
        for reason in CloseReason::ALL.map(CloseReason::label).into_iter().chain(["node_lost"]) {
            assert!(Change::parse(text("disconnect", "alice", reason).as_bytes()).is_some(), "{reason}");
            assert!(Change::parse(text("connect", "alice", reason).as_bytes()).is_none(), "{reason}");
        }
        for (event, user, reason) in [
            ("disconnect", "alice", "opened"),
            ("disconnect", "alice", "other"),
            ("arrive", "alice", "opened"),
            ("connect", "", "opened"),
            ("connect", &"a".repeat(USER_BYTES_MAX + 1), "opened"),
        ] {
            assert!(Change::parse(text(event, user, reason).as_bytes()).is_none(), "{event} {user} {reason}");
        }
    }

    #[test]
    fn pages_and_lists_are_no_larger_than_they_may_be_and_lose_nothing() {
        let users: Vec<_> = (0..100).map(|n| entry(&format!("user{n}"))).collect();
        let told = Vec::new();
        let (node, subject) = (NodeId::unused(), Arc::from("p"));
        let answer = Answer {
            node,
            subject,
            question: 1,
            page: 0,
            last: true,
            seq: 1,
            behind: 0,
            knows: 0,
            whole: true,
            users,
            told,
        };
        let pages: Vec<_> = pages(answer.clone(), 1_000).collect();
        assert!(pages.len() > 1);
        assert!(pages.iter().enumerate().all(|(n, page)| page.page == n && page.last == (n + 1 == pages.len())));
        assert!(pages.iter().all(|page| page.users.iter().map(size).sum::<usize>() <= 1_000));
        assert_eq!(pages.into_iter().flat_map(|page| page.users).collect::<Vec<_>>(), answer.users);
        let lists = lists(answer.users.clone(), 1_000);
        assert!(lists.iter().all(|list| list.iter().map(size).sum::<usize>() <= 1_000));
        assert_eq!(lists.concat(), answer.users);
    }
}
