//! Publishes one event to one user and one to everybody, and prints where the stream keeps them. Needs a NATS server with a
//! stream that captures `events.>`; `sidestream dev` makes one and prints its address.
//!
//!     NATS_URL=nats://127.0.0.1:4222 cargo run --example publish
//!
//! The payload is what the browser gets as `event.data`, the header `Sse-Event` becomes the event's name. The second `await`
//! waits for the stream's acknowledgement: before it the event is only on its way.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await?);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Sse-Event", "note");
    let ack =
        jetstream.publish_with_headers("events.user.alice.note", headers, r#"{"text":"hi"}"#.into()).await?.await?;
    println!(r#"{{"stream":"{}","seq":{}}}"#, ack.stream, ack.sequence);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Sse-Event", "news");
    let ack =
        jetstream.publish_with_headers("events.broadcast.news", headers, r#"{"text":"hi all"}"#.into()).await?.await?;
    println!(r#"{{"stream":"{}","seq":{}}}"#, ack.stream, ack.sequence);
    Ok(())
}
