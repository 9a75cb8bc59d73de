//! What the stream keeps, message by message, as the leader has it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Publisher, eventually};

/// One message.
#[derive(Debug, Clone)]
pub struct Kept {
    pub subject: String,
    pub headers: BTreeMap<String, String>,
    pub data: String,
    /// When it was stored, as the server writes it.
    pub time: String,
}

impl Kept {
    /// A progress message's payload.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{self:?}: {e}"))
    }

    /// When it was stored, in milliseconds since 1970.
    pub fn millis(&self) -> i128 {
        let time = time::OffsetDateTime::parse(&self.time, &time::format_description::well_known::Rfc3339);
        time.unwrap_or_else(|e| panic!("{self:?}: {e}")).unix_timestamp_nanos() / 1_000_000
    }

    fn of(answer: &Value) -> Option<Self> {
        let message = answer.get("message")?;
        let text = |key: &str| {
            let bytes = STANDARD.decode(message[key].as_str().unwrap_or_default()).expect("base64");
            String::from_utf8(bytes).expect("our publishers write UTF-8")
        };
        let headers = text("hdrs");
        let headers = headers.lines().filter_map(|line| line.split_once(':'));
        Some(Self {
            subject: message["subject"].as_str()?.to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
            data: text("data"),
            time: message["time"].as_str()?.to_owned(),
        })
    }
}

async fn get(publisher: &Publisher, question: Value) -> Option<Kept> {
    let answer = publisher.jetstream().request("STREAM.MSG.GET.EVENTS", &question).await;
    Kept::of(&answer.ok()?)
}

/// All messages of the stream, from the first on, in order.
pub async fn everything(publisher: &Publisher) -> Vec<Kept> {
    let mut kept = Vec::new();
    for seq in 1.. {
        let Some(message) = get(publisher, json!({ "seq": seq })).await else { break };
        kept.push(message);
    }
    kept
}

/// All messages of a subject, in order.
pub async fn all(publisher: &Publisher, subject: &str) -> Vec<Kept> {
    everything(publisher).await.into_iter().filter(|message| message.subject == subject).collect()
}

/// The last message of a subject.
pub async fn last(publisher: &Publisher, subject: &str) -> Option<Kept> {
    get(publisher, json!({ "last_by_subj": subject })).await
}

/// Waits until the last message of a subject says this.
pub async fn until(publisher: &Publisher, subject: &str, state: &str, percent: u64) {
    let what = format!("{subject} is {state} at {percent}");
    eventually(&what, DEADLINE * 2, async || {
        let payload = last(publisher, subject).await?.json();
        (payload["state"] == state && payload["percent"] == percent).then_some(())
    })
    .await;
}
