//! Where a client comes from (requirement R11): `X-Forwarded-For` is counted from the right over all lines, and whatever a
//! client puts to the left of what the trusted proxies append changes nothing.

mod support;

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use sidestream::config::Trust;
use sidestream::config::load::{Sources, load_text};
use sidestream::http::trust::Peer;
use support::{App, Config, Nats, Request, Sse, Version, Wire, bounded, get};

const FORWARDED_FOR: &str = "x-forwarded-for";

/// `[trust]` for proxies in 10.0.0.0/8 and on the unix socket.
fn trust(hops: u8) -> Trust {
    let text = format!(
        "[trust]\nproxies = [\"10.0.0.0/8\", \"unix\"]\naddress_is_proof = true\nforwarded_for_hops = {hops}\n"
    );
    load_text("test.toml", &text, &Sources::default()).expect("a configuration").config.trust.expect("[trust]")
}

fn tcp(address: &str) -> Peer {
    Peer::Tcp(SocketAddr::new(address.parse().expect("an address"), 4711))
}

fn lines(lines: &[impl AsRef<[u8]>]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line.as_ref()).expect("a value that hyper lets through"));
    }
    headers
}

/// What is wanted where an entry is no address.
const PEER: &str = "10.0.0.1";

/// Hops, lines in their order, and the address.
#[rustfmt::skip]
const TABLE: &[(u8, &[&[u8]], &str)] = &[
    // One proxy: the last entry of the last line.
    (1, &[b"203.0.113.9"], "203.0.113.9"),
    (1, &[b"6.6.6.6, 203.0.113.9"], "203.0.113.9"),
    (1, &[b"6.6.6.6,203.0.113.9"], "203.0.113.9"),
    (1, &[b"6.6.6.6", b"203.0.113.9"], "203.0.113.9"),
    (1, &[b"203.0.113.9, 6.6.6.6", b"7.7.7.7, 203.0.113.9"], "203.0.113.9"),
    (1, &[b"\t 203.0.113.9 \t"], "203.0.113.9"),
    (1, &[b"6.6.6.6 , \t203.0.113.9"], "203.0.113.9"),
    // As proxies write them: with a port, in brackets.
    (1, &[b"203.0.113.9:4711"], "203.0.113.9"),
    (1, &[b"2001:db8::9"], "2001:db8::9"),
    (1, &[b"[2001:db8::9]"], "2001:db8::9"),
    (1, &[b"[2001:db8::9]:4711"], "2001:db8::9"),
    (1, &[b"2001:DB8:0::0:9"], "2001:db8::9"),
    // One client, one key: IPv4 in IPv6 form is IPv4.
    (1, &[b"::ffff:203.0.113.9"], "203.0.113.9"),
    (1, &[b"::FFFF:cb00:7109"], "203.0.113.9"),
    (1, &[b"[::ffff:203.0.113.9]:4711"], "203.0.113.9"),
    // Garbage in the entry that counts: the peer, never the entry beside it.
    (1, &[b"203.0.113.9, unknown"], PEER),
    (1, &[b"203.0.113.9,"], PEER),
    (1, &[b"203.0.113.9, , "], PEER),
    (1, &[b""], PEER),
    (1, &[b","], PEER),
    (1, &[b"203.0.113.9", b""], PEER),
    (1, &[b"203.0.113.9", b"\xff"], PEER),
    (1, &[b"6.6.6.6, 203.0.113.9\xff"], PEER),
    (1, &[b"203.0.113.9\xa0"], PEER),
    (1, &[b"203.0.113"], PEER),
    (1, &[b"203.0.113.9.9"], PEER),
    (1, &[b"203.0.113.09"], PEER),
    (1, &[b"203.0.113.256"], PEER),
    (1, &[b"203.0.113.9:"], PEER),
    (1, &[b"203.0.113.9:65536"], PEER),
    (1, &[b"203.0.113.9 6.6.6.6"], PEER),
    (1, &[b"\"203.0.113.9\""], PEER),
    (1, &[b"for=203.0.113.9"], PEER),
    (1, &[b"0xcb.0.113.9"], PEER),
    (1, &[b"3405803785"], PEER),
    (1, &[b"[203.0.113.9]"], PEER),
    (1, &[b"[2001:db8::9"], PEER),
    (1, &[b"2001:db8::9]"], PEER),
    (1, &[b"[2001:db8::9]:"], PEER),
    (1, &[b"[[2001:db8::9]]"], PEER),
    // A zone is a name on the proxy's own links and says nothing here.
    (1, &[b"fe80::1%eth0"], PEER),
    (1, &[b"fe80::1%1"], PEER),
    (1, &[b"[fe80::1%1]:4711"], PEER),
    // Bytes that are no text stand where they stand; they hide neither their line nor their entry.
    (1, &[b"6.6.6.6", b"\xff, 203.0.113.9"], "203.0.113.9"),
    (1, &[b"6.6.6.6, 7.7.7.7", b"caf\xc3\xa9, \xe9, 203.0.113.9"], "203.0.113.9"),
    // Two and three proxies.
    (2, &[b"203.0.113.9, 10.0.0.7"], "203.0.113.9"),
    (2, &[b"6.6.6.6, 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
    (2, &[b"6.6.6.6, 203.0.113.9", b"10.0.0.7"], "203.0.113.9"),
    (2, &[b"6.6.6.6", b"\xff", b"203.0.113.9", b"10.0.0.7"], "203.0.113.9"),
    (2, &[b"6.6.6.6, 203.0.113.9", b""], "203.0.113.9"),
    (2, &[b"6.6.6.6, , 10.0.0.7"], PEER),
    (2, &[b"6.6.6.6, \xff, 10.0.0.7"], PEER),
    (2, &[b"6.6.6.6", b"\xff", b"10.0.0.7"], PEER),
    (2, &[b"203.0.113.9, garbage"], "203.0.113.9"),
    (3, &[b"6.6.6.6, 203.0.113.9", b"10.0.0.7, 10.0.0.8"], "203.0.113.9"),
    (3, &[b"6.6.6.6", b"203.0.113.9", b"10.0.0.7", b"10.0.0.8"], "203.0.113.9"),
    // Too few entries: somebody has not appended.
    (2, &[b"203.0.113.9"], PEER),
    (3, &[b"203.0.113.9, 10.0.0.7"], PEER),
    (3, &[b"203.0.113.9", b"10.0.0.7"], PEER),
    (32, &[b"203.0.113.9"], PEER),
    // No proxy appends: the header is the client's own.
    (0, &[b"203.0.113.9"], PEER),
    (0, &[], PEER),
];

#[test]
fn the_table() {
    for (hops, sent, expected) in TABLE {
        let address = trust(*hops).client_address(tcp(PEER), &lines(sent));
        let shown: Vec<String> = sent.iter().map(|line| line.escape_ascii().to_string()).collect();
        assert_eq!(address, expected.parse().ok(), "{hops} hops, {shown:?}");
    }
    // A proxy that sends none is not the client, and nobody knows who is.
    assert_eq!(trust(1).client_address(tcp(PEER), &HeaderMap::new()), None);
    assert_eq!(trust(1).client_address(Peer::Unix { uid: None }, &HeaderMap::new()), None);
    // A unix socket has an entry to count by, and no address to fall back to.
    let unix = Peer::Unix { uid: None };
    assert_eq!(trust(1).client_address(unix, &lines(&["6.6.6.6, 203.0.113.9"])), "203.0.113.9".parse().ok());
    assert_eq!(trust(1).client_address(unix, &lines(&["garbage"])), None);
}

#[test]
fn whoever_is_not_a_trusted_proxy_is_the_client() {
    for (peer, address) in
        [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::7", "2001:db8::7")]
    {
        for sent in [&[][..], &["6.6.6.6"], &["6.6.6.6", "7.7.7.7"], &["garbage"]] {
            assert_eq!(trust(1).client_address(tcp(peer), &lines(sent)), address.parse().ok(), "{peer} {sent:?}");
        }
    }
    assert_eq!(trust(1).client_address(tcp("::ffff:10.0.0.1"), &lines(&["203.0.113.9"])), "203.0.113.9".parse().ok());
}

/// A line as hyper lets it through: TAB, visible ASCII, and everything from 0x80 on.
fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => 0x20..=0x7eu8, 2 => Just(b','), 1 => Just(b'\t'), 2 => 0x80..=0xffu8];
    let address = any::<[u8; 4]>().prop_map(|octets| IpAddr::from(octets).to_string().into_bytes());
    let several = proptest::collection::vec(address.clone(), 0..4).prop_map(|some| some.join(&b", "[..]));
    prop_oneof![proptest::collection::vec(byte, 0..24), address, several]
}

/// How a proxy adds what it saw.
#[derive(Debug, Clone, Copy)]
enum Appends {
    /// To the last line there is.
    ToTheLastLine,
    /// After joining all lines, as nginx does.
    ToAllInOne,
    /// As a line of its own, as HAProxy does.
    ALineOfItsOwn,
}

fn append(mut lines: Vec<Vec<u8>>, seen: &str, how: Appends) -> Vec<Vec<u8>> {
    if let Appends::ToAllInOne = how {
        lines = if lines.is_empty() { lines } else { vec![lines.join(&b", "[..])] };
    }
    match (lines.last_mut(), how) {
        (Some(line), Appends::ToTheLastLine | Appends::ToAllInOne) => {
            line.extend_from_slice(b", ");
            line.extend_from_slice(seen.as_bytes());
        }
        _ => lines.push(seen.into()),
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn what_a_client_puts_to_the_left_changes_nothing(
        theirs in proptest::collection::vec(any_line(), 0..5),
        client in any::<[u8; 16]>().prop_map(|bits| if bits[0] < 128 { IpAddr::from(bits) } else { IpAddr::from([bits[1], bits[2], bits[3], bits[4]]) }),
        proxies in proptest::collection::vec(
            prop_oneof![Just(Appends::ToTheLastLine), Just(Appends::ToAllInOne), Just(Appends::ALineOfItsOwn)], 1..4),
    ) {
        // The first proxy sees the client, the next one the proxy before it.
        let saw = std::iter::once(client.to_string()).chain((7..).map(|n| format!("10.0.0.{n}")));
        let sent = proxies.iter().zip(saw).fold(theirs, |lines, (how, seen)| append(lines, &seen, *how));
        let hops = u8::try_from(proxies.len()).expect("three at most");
        let address = TRUSTS.with(|trusts| trusts[usize::from(hops)].client_address(tcp(PEER), &lines(&sent)));
        prop_assert_eq!(address, Some(client.to_canonical()), "{:?}", sent);
    }
}

thread_local! {
    static TRUSTS: [Trust; 4] = std::array::from_fn(|hops| trust(u8::try_from(hops).expect("three at most")));
}

/// Two streams of one address, whatever else is in the header: the third is refused as one of that address.
#[tokio::test]
async fn a_spoofed_left_part_never_changes_the_limit_key() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats).limit("connections_per_address", "2")).await;
        let request = || get("/events").user("alice");
        let spoofed: Vec<Request> = vec![
            request().header("X-Forwarded-For", "6.6.6.6, 203.0.113.9"),
            request().header("X-Forwarded-For", "7.7.7.7").header("X-Forwarded-For", "203.0.113.9"),
            request().header("X-Forwarded-For", "8.8.8.8").header("X-Forwarded-For", b"\xff, 203.0.113.9"),
            request().header("X-Forwarded-For", b"\xff").header("x-forwarded-for", "9.9.9.9,\t::ffff:203.0.113.9"),
            request().header("X-Forwarded-For", "203.0.113.9:1").header("X_Forwarded_For", "5.5.5.5"),
            request().header("X-Forwarded-For", "203.0.113.9").header("Forwarded", "for=4.4.4.4"),
            request().header("X-Forwarded-For", "203.0.113.9").header("X-Real-IP", "3.3.3.3"),
        ];
        let mut held: Vec<Sse> = Vec::new();
        for request in spoofed.iter().take(2) {
            held.push(app.stream(request.clone()).await);
        }
        for request in &spoofed {
            app.ask(request.clone()).await.is_soft_refusal("address");
        }
        // Others are not in its way, and a place that is given back is one of this address.
        held.push(app.stream(request().header("X-Forwarded-For", "203.0.113.9, 203.0.113.10")).await);
        held.remove(0);
        support::eventually("the place is free again", support::DEADLINE, async || {
            Sse::try_open(Wire::tcp(app.address()).await, &spoofed[2]).await
        })
        .await;
    })
    .await;
}
