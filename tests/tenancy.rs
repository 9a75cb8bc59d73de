//! Nothing foreign: a NATS that sends a message by the wrong subscription reaches nobody by it (requirement R40).
//!
//! The broker is a real one behind a proxy that rewrites the subject of deliveries on their way, which is what a broken
//! subject mapping, import or filter looks like from here.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, get, on_both_servers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIVE_ROUTE: &str = "\n[[route]]\npath = \"/live\"\nlive_subjects = [\"live.user.{user}.>\"]\n";
/// Of the same length, so that lengths in the protocol stay right.
const SENT: &[u8] = b"MSG live.user.alice.";
const SEEN: &[u8] = b"MSG live.user.bobby.";

/// A proxy that turns alice's deliveries into bobby's while `lying` is set. Gives its address.
async fn lying_proxy(upstream: String, lying: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(&upstream).await.expect("NATS accepts");
            let (mut near_read, mut near_write) = near.into_split();
            let (mut far_read, mut far_write) = far.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
            let lying = lying.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(n @ 1..) = far_read.read(&mut buffer).await {
                    let bytes = &mut buffer[..n];
                    if lying.load(Ordering::SeqCst) {
                        let places: Vec<usize> =
                            bytes.windows(SENT.len()).enumerate().filter(|(_, w)| *w == SENT).map(|(i, _)| i).collect();
                        places.into_iter().for_each(|at| bytes[at..at + SEEN.len()].copy_from_slice(SEEN));
                    }
                    if near_write.write_all(bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

on_both_servers! {
    async fn a_message_on_the_wrong_subscription_reaches_nobody(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let lying = Arc::new(AtomicBool::new(false));
        let address = lying_proxy(nats.address(), lying.clone()).await;
        let app = App::start(&Config::at(&format!("nats://{address}")).tables(LIVE_ROUTE)).await;
        let open = async |user: &str| Sse::open(Wire::tcp(app.address()).await, &get("/live").user(user)).await;
        let (mut alice, mut bobby) = (open("alice").await, open("bobby").await);
        publisher.publish_core("live.user.alice.note", "honest").await;
        assert_eq!(alice.event().await.data, "honest");

        lying.store(true, Ordering::SeqCst);
        publisher.publish_core("live.user.alice.note", "foreign").await;
        app.metric_is("sidestream_subject_violations_total", &[], 1.0, DEADLINE).await;
        lying.store(false, Ordering::SeqCst);

        for (user, sse) in [("alice", &mut alice), ("bobby", &mut bobby)] {
            publisher.publish_core(&format!("live.user.{user}.note"), "after").await;
            sse.nothing_before("after").await;
        }
    }
}
