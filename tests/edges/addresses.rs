//! Limits count the client's own address, whatever it writes into `X-Forwarded-For` (requirement R11).

use std::net::Ipv4Addr;

use tokio::net::TcpStream;

use crate::attempt::Attempt;
use crate::front::{Front, Setup};
use crate::kind::Kind;
use crate::support::bounded;
use crate::support::netns::Namespace;
use crate::tap::Reply;

const TWO: &[&str] = &["limits.connections_per_address=2"];

/// What a client writes to be somebody else, or nobody: the other client's address among it.
fn lies(other: &str) -> Vec<Attempt> {
    let line = |name: &str, value: &str| Attempt::honest().line(name, value);
    vec![
        Attempt::honest(),
        line("X-Forwarded-For", "203.0.113.7"),
        line("X-Forwarded-For", other),
        line("X-Forwarded-For", "203.0.113.7, 203.0.113.8, 203.0.113.9"),
        line("X-Forwarded-For", "203.0.113.7").line("X-Forwarded-For", "203.0.113.8"),
        line("x-forwarded-for", ","),
        line("X-Forwarded-For", ""),
        line("X-Forwarded-For", "unknown"),
        line("X_Forwarded_For", "203.0.113.7"),
        line("X.Forwarded.For", "203.0.113.7"),
        line("Connection", "X-Forwarded-For"),
        line("X-Real-IP", "203.0.113.7").line("Forwarded", "for=203.0.113.7").line("True-Client-IP", "203.0.113.7"),
        line("X-Envoy-External-Address", "203.0.113.7"),
        Attempt::honest().h2().line("x-forwarded-for", "203.0.113.7"),
    ]
}

/// Two streams of one client are all it gets, by any lie; the other client gets its own two.
async fn counts(front: &Front, one: impl AsyncFn() -> TcpStream, other: impl AsyncFn() -> TcpStream, its: &str) {
    let lies = lies(its);
    let mut held = Vec::new();
    for lie in &lies[1..3] {
        let (reply, tap) = front.attempt_over(one().await, lie).await;
        assert_eq!(reply, Reply::Stream, "{:?}: {}", front.kind, tap.head());
        held.push(tap);
    }
    for lie in &lies {
        let (reply, tap) = front.attempt_over(one().await, lie).await;
        // Envoy refuses aliases itself.
        let refused = matches!(&reply, Reply::Answer(200, body) if body.starts_with("retry: "));
        assert!(
            refused || reply == Reply::Answer(400, "Bad Request".to_owned()),
            "{:?}, {lie:?}: {reply:?}",
            front.kind
        );
        if refused && !lie.h2 {
            assert!(tap.head().to_ascii_lowercase().contains("sidestream-refused: address"), "{}", tap.head());
        }
    }
    for _ in 0..2 {
        let (reply, tap) = front.attempt_over(other().await, &Attempt::honest()).await;
        assert_eq!(reply, Reply::Stream, "{:?}, the other client: {}", front.kind, tap.head());
        held.push(tap);
    }
}

#[tokio::test]
async fn proxies_tell_the_client_s_own_address() {
    bounded(async {
        for kind in [Kind::Nginx, Kind::NginxAccel, Kind::Haproxy, Kind::Caddy, Kind::NginxAppending] {
            let setup = Setup { set: TWO, ..Setup::default() };
            let Some(front) = Front::start("addresses", kind, setup).await else { continue };
            let from = |last| async move |edge: &_| Front::dial(edge, Ipv4Addr::new(127, 0, 0, last)).await;
            let (one, other) = (from(2), from(3));
            counts(&front, async || one(&front.edge).await, async || other(&front.edge).await, "127.0.0.3").await;
        }
    })
    .await;
}

#[tokio::test]
async fn envoy_tells_the_client_s_own_address() {
    bounded(async {
        // To Envoy every client on loopback is the machine itself, so these come over a link.
        let Some(namespace) = Namespace::new("addresses through Envoy") else { return };
        let listen: Ipv4Addr = namespace.ours.parse().expect("an address");
        let setup = Setup { set: TWO, listen, ..Setup::default() };
        let Some(front) = Front::start("addresses through Envoy", Kind::Envoy, setup).await else { return };
        let address = front.edge.address.to_string();
        let inside = async || namespace.connect(&address, 1).pop().expect("connected");
        counts(&front, inside, async || Front::dial(&front.edge, listen).await, &namespace.ours).await;
    })
    .await;
}
