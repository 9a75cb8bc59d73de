//! One message that is not UTF-8 and a client that subscribes: what does the client hear, and how often is it disconnected?
//!
//!     poison nats://127.0.0.1:4222

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, consumer, stream};
use async_nats::{Event, ServerAddr};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = std::env::args().nth(1).expect("the URL of a server with JetStream");
    let disconnects = Arc::new(AtomicUsize::new(0));
    let counted = disconnects.clone();
    let client = async_nats::ConnectOptions::new()
        .event_callback(move |event| {
            let counted = counted.clone();
            async move {
                match event {
                    Event::Disconnected => drop(counted.fetch_add(1, Ordering::SeqCst)),
                    Event::ClientError(error) => println!("    event: {error}"),
                    _ => {}
                }
            }
        })
        .reconnect_delay_callback(|_| Duration::from_millis(100))
        .connect(&url)
        .await
        .expect("the server accepts us");
    println!("nats-server {}", client.server_info().version);
    let address: ServerAddr = url.parse().expect("a URL");
    let address = format!("{}:{}", address.host(), address.port());
    let kinds: [(&str, &[u8]); 4] = [
        ("a header value", b"HPUB poison.a 21 23\r\nNATS/1.0\r\nX: caf\xe9\r\n\r\nhi\r\n"),
        ("a header name", b"HPUB poison.a 18 20\r\nNATS/1.0\r\n\xe9: x\r\n\r\nhi\r\n"),
        ("a subject", b"PUB poison.\xe9 2\r\nhi\r\n"),
        ("a subject beside headers", b"HPUB poison.\xe9 18 20\r\nNATS/1.0\r\nX: x\r\n\r\nhi\r\n"),
    ];
    for (what, bytes) in kinds {
        println!("{what} that is not UTF-8");
        disconnects.store(0, Ordering::SeqCst);
        let mut messages = client.subscribe("poison.>").await.expect("subscribed");
        client.flush().await.expect("flushed");
        // Flushed is not yet subscribed.
        tokio::time::sleep(Duration::from_millis(300)).await;
        publish(&address, bytes).await;
        publish(&address, b"PUB poison.a 4\r\nnext\r\n").await;
        let mut heard = Vec::new();
        while let Ok(Some(message)) = timeout(Duration::from_secs(1), messages.next()).await {
            heard.push(format!("{} {:?}", message.subject, message.payload));
        }
        println!("  core:      {} disconnects, heard {heard:?}", disconnects.load(Ordering::SeqCst));
        drop(messages);
        stored(&client, &address, bytes, &disconnects).await;
    }
}

/// The same over a stream, which keeps the message and sends it again.
async fn stored(client: &async_nats::Client, address: &str, bytes: &[u8], disconnects: &AtomicUsize) {
    let jetstream = jetstream::new(client.clone());
    let config = stream::Config { name: "P".into(), subjects: vec!["poison.>".into()], ..Default::default() };
    let stream = jetstream.create_stream(config).await.expect("created");
    let config = consumer::pull::Config {
        durable_name: Some("worker".into()),
        ack_wait: Duration::from_secs(1),
        ..Default::default()
    };
    let worker = stream.create_consumer(config).await.expect("created");
    publish(address, bytes).await;
    publish(address, b"PUB poison.a 4\r\nnext\r\n").await;
    disconnects.store(0, Ordering::SeqCst);
    let mut heard = Vec::new();
    let read = async {
        loop {
            // As a worker does: whatever goes wrong, ask again.
            let Ok(mut batch) = worker.fetch().max_messages(10).expires(Duration::from_secs(1)).messages().await else {
                continue;
            };
            while let Some(Ok(message)) = batch.next().await {
                heard.push(format!("{} {:?}", message.subject, message.payload));
                let _ = message.ack().await;
            }
        }
    };
    let _ = timeout(Duration::from_secs(20), read).await;
    println!("  JetStream: {} disconnects in 20 s, heard {heard:?}", disconnects.load(Ordering::SeqCst));
    jetstream.delete_stream("P").await.expect("deleted");
}

/// Sends protocol bytes that no client library would send, and waits until the server has taken them.
async fn publish(address: &str, bytes: &[u8]) {
    let mut socket = TcpStream::connect(address).await.expect("the server accepts us");
    let mut all = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
    all.extend_from_slice(bytes);
    all.extend_from_slice(b"PING\r\n");
    socket.write_all(&all).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"PONG\r\n") {
        assert_ne!(socket.read_buf(&mut answer).await.expect("an answer"), 0, "{answer:?}");
    }
    assert!(!answer.windows(4).any(|w| w == b"-ERR"), "{answer:?}");
}
