//! Does what the tests say: one JSON command a line on standard input, one JSON answer a line on standard output. The
//! drivers of the other libraries understand the same commands.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sidestream_publish::{Progress, Publisher, UserEncoding};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let nats = async_nats::connect(std::env::var("NATS_URL")?).await?;
    let jetstream = async_nats::jetstream::new(nats);
    let mut driver = Driver { publisher: Publisher::new(jetstream.clone()), jetstream, progress: None };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut stdout = tokio::io::stdout();
    while let Some(line) = lines.next_line().await? {
        let answer = driver.obey(&serde_json::from_str(&line)?).await;
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        stdout.write_all(format!("{answer}\n").as_bytes()).await?;
        stdout.flush().await?;
    }
    Ok(())
}

struct Driver {
    jetstream: async_nats::jetstream::Context,
    publisher: Publisher,
    progress: Option<Arc<Progress>>,
}

impl Driver {
    async fn obey(&mut self, command: &Value) -> Result<Value, Failure> {
        let text = |key: &str| command[key].as_str().unwrap_or_default();
        match text("do") {
            "configure" => {
                let encoding =
                    if text("encoding") == "base64url" { UserEncoding::Base64Url } else { UserEncoding::Refuse };
                let publisher = Publisher::new(self.jetstream.clone()).prefix(text("prefix"))?.user_encoding(encoding);
                let patience = Duration::from_millis(command["patience"].as_u64().unwrap_or(60_000));
                self.publisher = publisher.progress_patience(patience);
                Ok(json!({}))
            }
            "subjects" => {
                let user = |user: &str| self.publisher.user_subject(user, "note").ok();
                let event = |event: &str| self.publisher.broadcast_subject(event).ok();
                Ok(json!({ "users": each(&command["users"], user), "events": each(&command["events"], event) }))
            }
            "notify" => {
                let sent = self.publisher.notify(text("user"), text("event"), &command["data"], command["id"].as_str());
                Ok(stored(&sent.await?))
            }
            "broadcast" => {
                let sent = self.publisher.broadcast(text("event"), &command["data"], command["id"].as_str());
                Ok(stored(&sent.await?))
            }
            "begin" => {
                self.progress = Some(Arc::new(self.publisher.progress(text("user"), text("task"))?));
                Ok(json!({}))
            }
            "update" => {
                let percent = command["percent"].as_f64().unwrap_or(f64::NAN);
                Ok(json!({ "runs": self.progress()?.update(percent, text("message")) }))
            }
            "storm" => self.storm().await,
            "complete" => Ok(stored(&self.progress()?.complete().await?)),
            "fail" => Ok(stored(&self.progress()?.fail(text("message")).await?)),
            "within" => self.within(text("user"), text("task"), text("error")).await,
            "drop" => {
                self.progress = None;
                Ok(json!({}))
            }
            other => Err(format!("no command {other:?}").into()),
        }
    }

    fn progress(&self) -> Result<Arc<Progress>, Failure> {
        Ok(Arc::clone(self.progress.as_ref().ok_or("begin first")?))
    }

    /// Ten callers at the same time, a hundred updates each, none in order.
    async fn storm(&self) -> Result<Value, Failure> {
        let mut callers = Vec::new();
        for caller in 0..10 {
            let progress = self.progress()?;
            callers.push(tokio::spawn(async move {
                for update in 0..100 {
                    progress.update(f64::from((update * 37 + caller * 11) % 100), &format!("caller {caller}"));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }));
        }
        for caller in callers {
            caller.await?;
        }
        Ok(json!({}))
    }

    async fn within(&self, user: &str, task: &str, error: &str) -> Result<Value, Failure> {
        let progress = self.publisher.progress(user, task)?;
        let done = progress.within(async |progress| {
            progress.update(30.0, "within");
            if error.is_empty() { Ok(json!({})) } else { Err(Failure::from(error)) }
        });
        done.await
    }
}

fn each(values: &Value, subject: impl Fn(&str) -> Option<String>) -> Vec<Option<String>> {
    values.as_array().into_iter().flatten().map(|value| subject(value.as_str().unwrap_or_default())).collect()
}

fn stored(ack: &async_nats::jetstream::publish::PublishAck) -> Value {
    json!({ "seq": ack.sequence, "duplicate": ack.duplicate })
}
