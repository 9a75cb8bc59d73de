//! The harness itself, on real servers and without the program: what it claims to do to NATS, it does. A fault here would
//! make other tests prove nothing.

mod support;

use std::time::{Duration, Instant};

use support::proxy::Proxy;
use support::{Nats, Version, on_both_servers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

on_both_servers! {
    async fn a_killed_server_keeps_its_port_and_its_store(version: Version) {
        let mut nats = Nats::start(version).await;
        let publisher = nats.events().await;
        assert_eq!(publisher.publish("events.x", "one").await, 1);
        let address = nats.address();
        nats.kill();
        assert!(TcpStream::connect(&address).await.is_err(), "the server still listens");
        nats.restart().await;
        assert_eq!(nats.address(), address);
        assert_eq!(nats.publisher().await.publish("events.x", "two").await, 2);
        nats.kill();
        nats.wipe();
        nats.restart().await;
        assert_eq!(nats.events().await.publish("events.x", "three").await, 1);
    }

    async fn a_paused_server_accepts_and_says_nothing(version: Version) {
        let nats = Nats::start(version).await;
        nats.pause();
        let mut stream = TcpStream::connect(nats.address()).await.expect("the kernel accepts");
        let mut byte = [0];
        let silent = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut byte)).await;
        assert!(silent.is_err(), "a paused server spoke");
        nats.resume();
        tokio::time::timeout(support::DEADLINE, stream.read_exact(&mut byte)).await.expect("goes on").expect("greets");
    }

    async fn hostile_bytes_are_really_stored(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        nats.publish_raw(b"events.x", b"Sse-Event: caf\xc3\x28\r\n", b"poisoned").await;
        nats.publish_raw(b"events.\xff\xfe", b"Sse Event: x\r\n", b"poisoned").await;
        nats.publish_raw(b"events.x", b"Sse-Event: a\rdata: injected\r\n", b"hostile").await;
        nats.publish_raw(b"events.x", b"nothing here\r\n", b"no colon").await;
        assert_eq!(publisher.publish("events.x", "after").await, 5, "the server refused one");
    }
}

#[tokio::test]
async fn the_proxy_forwards_stalls_releases_and_cuts() {
    support::bounded(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy = Proxy::to(listener.local_addr().expect("bound").to_string()).await;
        let mut near = TcpStream::connect(&proxy.address).await.expect("accepts");
        let (mut far, _) = listener.accept().await.expect("forwarded");
        let mut byte = [0];
        near.write_all(b"1").await.expect("written");
        far.read_exact(&mut byte).await.expect("forwarded");

        proxy.stall();
        near.write_all(b"2").await.expect("written");
        let stalled = tokio::time::timeout(Duration::from_millis(300), far.read_exact(&mut byte)).await;
        assert!(stalled.is_err(), "a stalled proxy forwards");
        proxy.release();
        far.read_exact(&mut byte).await.expect("forwarded");
        assert_eq!(&byte, b"2");

        proxy.cut();
        assert_eq!(far.read(&mut byte).await.unwrap_or(0), 0);
        assert_eq!(near.read(&mut byte).await.unwrap_or(0), 0);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_fails_a_test() {
    let started = Instant::now();
    let waiting = tokio::spawn(support::eventually::<()>("never", Duration::from_millis(100), async || None));
    assert!(waiting.await.is_err_and(|error| error.is_panic()));
    assert!(started.elapsed() < Duration::from_secs(5));
}
