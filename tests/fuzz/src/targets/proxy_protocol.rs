//! F5: headers of the PROXY protocol, versions 1 and 2, by the HAProxy project's text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sidestream::server::proxy_protocol::{BadHeader, Origin, end, parse};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub fn run(data: &[u8]) {
    header_and_more(data);
    // What is hard to guess.
    header_and_more(&[SIGNATURE, data].concat());
}

fn header_and_more(bytes: &[u8]) {
    // However little has come, the end is where it will be.
    let whole = end(bytes);
    for length in (0..bytes.len().min(300)).chain([bytes.len()]) {
        match (end(&bytes[..length]), whole) {
            (Ok(None), _) => {}
            (Ok(Some(early)), Ok(Some(late))) => assert!(early == late && late <= length),
            (Err(BadHeader), Err(BadHeader)) => {}
            differs => panic!("{differs:?} after {length} bytes of {}", bytes.escape_ascii()),
        }
    }
    let Ok(Some(length)) = whole else { return };
    let header = &bytes[..length];
    let is_v2 = header.starts_with(SIGNATURE);
    assert!(length > 0 && length <= if is_v2 { 4096 } else { 107 });
    let parsed = parse(header).ok();
    if is_v2 && header[SIGNATURE.len()] == 0x20 {
        // Whatever else a load balancer says when it speaks for itself is ignored, or refused.
        assert!(matches!(parsed, None | Some(Origin::LoadBalancer)), "{}", header.escape_ascii());
        return;
    }
    let expected = if is_v2 { v2(header) } else { v1(header) };
    assert_eq!(parsed, expected, "{}", header.escape_ascii());
}

fn v1(header: &[u8]) -> Option<Origin> {
    let line = header.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r'))?;
    if line.starts_with(b"PROXY UNKNOWN") {
        // What follows is ignored.
        return Some(Origin::Unstated);
    }
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
    match words[..] {
        ["PROXY", family, source, destination, from, to] => {
            let address = |text: &str| match family {
                "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                _ => None,
            };
            let port = |text: &str| text.parse::<u16>().ok();
            address(destination).zip(port(to))?;
            Some(Origin::Address(SocketAddr::new(address(source)?, port(from)?)))
        }
        _ => None,
    }
}

fn v2(header: &[u8]) -> Option<Origin> {
    let [version_and_command, family, _, _, rest @ ..] = &header[SIGNATURE.len()..] else { return None };
    if *version_and_command != 0x21 {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    match family {
        0x11 if rest.len() >= 12 => {
            let source: [u8; 4] = rest[..4].try_into().ok()?;
            Some(Origin::Address(SocketAddr::new(IpAddr::from(source), port(8)?)))
        }
        0x21 if rest.len() >= 36 => {
            let source: [u8; 16] = rest[..16].try_into().ok()?;
            Some(Origin::Address(SocketAddr::new(IpAddr::from(source), port(32)?)))
        }
        0x00 => Some(Origin::Unstated),
        // A unix socket.
        0x31 | 0x32 if rest.len() >= 216 => Some(Origin::Unstated),
        _ => None,
    }
}
