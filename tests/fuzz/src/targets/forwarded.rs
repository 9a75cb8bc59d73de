//! F5: `X-Forwarded-For`, counted from the right over all lines.
//!
//! The input is a byte for the proxies in front, one for what proves them, one for the peer, and the lines.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HeaderMap, HeaderValue};
use sidestream::config::Trust;
use sidestream::http::trust::Peer;

use crate::input::Input;
use crate::oracle::address;

const PEERS: [&str; 4] = ["10.0.0.1", "::ffff:10.0.0.1", "192.0.2.1", "2001:db8::1"];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let trust = Trust {
        proxies: vec!["10.0.0.0/8".parse().expect("a net")],
        unix: true,
        peer_uids: vec![1],
        client_certificate: true,
        secret_header: "x-secret".to_owned(),
        secrets: Vec::new(),
        forwarded_for_hops: u8::try_from(input.below(4)).expect("small"),
        address_is_proof: input.below(2) == 0,
    };
    let peer = peer(&mut input);
    let mut headers = HeaderMap::new();
    let mut lines: Vec<&[u8]> = Vec::new();
    // No request that hyper lets through has more.
    while !input.is_empty() && lines.len() < 64 {
        let line = input.line();
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("x-forwarded-for", value);
            lines.push(line);
        }
    }
    let direct = match peer {
        Peer::Tcp(address) | Peer::Certified(address) => Some(address::plain(address.ip())),
        Peer::Proxied { client, .. } => client.map(|address| address::plain(address.ip())),
        Peer::Unix { .. } => None,
    };
    // By its address, and by what proves that it is the proxy.
    let trusted = match peer {
        Peer::Unix { uid } => trust.address_is_proof || uid == Some(1),
        Peer::Tcp(by) => is_proxy(by) && trust.address_is_proof,
        Peer::Certified(by) | Peer::Proxied { by, certified: true, .. } => is_proxy(by),
        Peer::Proxied { by, certified: false, .. } => is_proxy(by) && trust.address_is_proof,
    };
    let expected = match trust.forwarded_for_hops {
        hops if hops == 0 || !trusted => direct,
        _ if lines.is_empty() && matches!(peer, Peer::Proxied { .. }) => direct,
        _ if lines.is_empty() => None,
        hops => entry(&lines, usize::from(hops)).or(direct),
    };
    assert_eq!(
        trust.client_address(peer, &headers),
        expected,
        "{hops} of {headers:?}",
        hops = trust.forwarded_for_hops
    );
}

fn peer(input: &mut Input<'_>) -> Peer {
    let choice = input.below(14);
    let address = |which: usize| SocketAddr::new(PEERS[which].parse().expect("an address"), 1);
    match choice {
        0..4 => Peer::Tcp(address(choice)),
        4..8 => Peer::Certified(address(choice - 4)),
        8..12 => {
            let client = [None, Some(address(2)), Some(address(0)), Some(address(3))][choice - 8];
            Peer::Proxied { by: address(input.below(4)), client, certified: input.below(2) == 0 }
        }
        12 => Peer::Unix { uid: Some(1) },
        _ => Peer::Unix { uid: None },
    }
}

fn is_proxy(address: SocketAddr) -> bool {
    matches!(address::plain(address.ip()), IpAddr::V4(v4) if v4.octets()[0] == 10)
}

/// The entry that the outermost of so many proxies has appended. What a client has put before it changes nothing, be it
/// text or not.
fn entry(lines: &[&[u8]], hops: usize) -> Option<IpAddr> {
    let all = lines.join(&b',');
    let entries: Vec<&[u8]> = all.split(|byte| *byte == b',').collect();
    let entry = entries[entries.len().checked_sub(hops)?];
    address::read(std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']))
}
