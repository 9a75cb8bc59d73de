//! The PROXY protocol, versions 1 and 2: where a connection really comes from, said by the load balancer before it.
//!
//! Where it is wanted a connection without it ends; where it is not, its header is no HTTP. It is never guessed. The bytes of
//! a header are `proxy-header`'s business; here is where it ends, so that nothing behind it is read.
//! Source: the HAProxy project, "The PROXY protocol", sections 2.1 and 2.2.

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Longest header of version 1, line end included.
const V1_BYTES_MAX: usize = 107;
/// How version 2 begins.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
/// Longest header of version 2 that is read: addresses and a few KiB of what load balancers add, certificates among it.
const V2_BYTES_MAX: usize = 4096;
/// Low half of the byte behind the signature of version 2: the load balancer speaks for itself.
const V2_LOCAL: u8 = 0;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From there.
    Address(SocketAddr),
    /// The load balancer itself, to see whether we live.
    LoadBalancer,
    /// It does not say.
    Unstated,
}

/// Not a header, or none that TCP connections have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY protocol header, or a malformed one")]
pub struct BadHeader;

/// Reads the header and nothing behind it. The deadline is the caller's.
pub async fn read(stream: &mut TcpStream) -> io::Result<Origin> {
    let mut header = Vec::new();
    loop {
        let mut next = [0; V1_BYTES_MAX];
        let seen = stream.peek(&mut next).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = header.len();
        header.extend_from_slice(&next[..seen]);
        let end = end(&header).map_err(io::Error::other)?;
        header.truncate(end.unwrap_or(usize::MAX));
        stream.read_exact(&mut next[..header.len() - before]).await?;
        if end.is_some() {
            return parse(&header).map_err(io::Error::other);
        }
    }
}

/// How long the header is that begins so; `None` while its end is not there.
pub fn end(bytes: &[u8]) -> Result<Option<usize>, BadHeader> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(theirs, wanted)| theirs == wanted);
    if begins(V2_SIGNATURE) {
        let Some(length) = bytes.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES) else { return Ok(None) };
        let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]]));
        return if length > V2_BYTES_MAX { Err(BadHeader) } else { Ok((bytes.len() >= length).then_some(length)) };
    }
    if !begins(b"PROXY ") {
        return Err(BadHeader);
    }
    match memchr::memchr(b'\n', &bytes[..bytes.len().min(V1_BYTES_MAX)]) {
        Some(newline) => Ok(Some(newline + 1)),
        None if bytes.len() >= V1_BYTES_MAX => Err(BadHeader),
        None => Ok(None),
    }
}

/// Reads a whole header, and nothing else.
pub fn parse(header: &[u8]) -> Result<Origin, BadHeader> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, length) = ProxyHeader::parse(header, config).map_err(|_: Error| BadHeader)?;
    if length != header.len() {
        return Err(BadHeader);
    }
    match parsed.proxied_address() {
        Some(address) if address.protocol == Protocol::Datagram => Err(BadHeader),
        Some(address) => Ok(Origin::Address(address.source)),
        None if header.starts_with(V2_SIGNATURE) && header[V2_SIGNATURE.len()] & 0xf == V2_LOCAL => {
            Ok(Origin::LoadBalancer)
        }
        None => Ok(Origin::Unstated),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2: command, family and transport, what follows.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [V2_SIGNATURE, &[0x20 | command, family], &length, rest].concat()
    }

    fn address(text: &str) -> Result<Origin, BadHeader> {
        Ok(Origin::Address(text.parse().expect("an address")))
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 0, 80];

    #[test]
    fn version_1_is_one_line() {
        let of = |text: &str| parse(text.as_bytes());
        assert_eq!(of("PROXY TCP4 192.0.2.7 198.51.100.1 4660 80\r\n"), address("192.0.2.7:4660"));
        assert_eq!(of("PROXY TCP6 2001:db8::7 2001:db8::1 4660 80\r\n"), address("[2001:db8::7]:4660"));
        assert_eq!(of("PROXY UNKNOWN\r\n"), Ok(Origin::Unstated));
        assert_eq!(of("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), Ok(Origin::Unstated));
        for bad in [
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4660\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4660 80\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4660 80 \r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4660 80\r\nX",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 80\r\n",
            "PROXY TCP4 192.0.2.777 198.51.100.1 1 80\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 80\r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 1 80\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 80\r\n",
            "proxy TCP4 192.0.2.7 198.51.100.1 1 80\r\n",
        ] {
            assert_eq!(of(bad), Err(BadHeader), "{bad:?}");
        }
    }

    #[test]
    fn version_2_is_binary() {
        assert_eq!(parse(&v2(1, 0x11, &IPV4)), address("192.0.2.7:4660"));
        let with_more = [&IPV4[..], &[4, 0, 1, 0]].concat();
        assert_eq!(parse(&v2(1, 0x11, &with_more)), address("192.0.2.7:4660"));
        let ipv6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0x12, 0x34, 0, 80]].concat();
        assert_eq!(parse(&v2(1, 0x21, &ipv6)), address("[2001:db8::7]:4660"));
        assert_eq!(parse(&v2(0, 0x00, &[])), Ok(Origin::LoadBalancer));
        assert_eq!(parse(&v2(0, 0x11, &IPV4)), Ok(Origin::LoadBalancer), "whose address is ignored");
        assert_eq!(parse(&v2(1, 0x00, &[])), Ok(Origin::Unstated));
        assert_eq!(parse(&v2(1, 0x31, &[0; 216])), Ok(Origin::Unstated), "a unix socket");
        for (what, bad) in [
            ("too short for IPv4", v2(1, 0x11, &IPV4[..11])),
            ("too short for IPv6", v2(1, 0x21, &IPV4)),
            ("a datagram", v2(1, 0x12, &IPV4)),
            ("another command", v2(2, 0x11, &IPV4)),
            ("another family", v2(1, 0x41, &IPV4)),
            ("another version", [V2_SIGNATURE, &[0x11, 0x11, 0, 12], &IPV4].concat()),
            ("cut off", v2(1, 0x11, &IPV4)[..20].to_vec()),
            ("followed by something", [v2(1, 0x11, &IPV4), vec![0]].concat()),
        ] {
            assert_eq!(parse(&bad), Err(BadHeader), "{what}");
        }
    }

    #[test]
    fn the_end_is_found_before_anything_behind_it() {
        assert_eq!(end(b"PROXY UNKNOWN\r\nGET"), Ok(Some(15)));
        for beginning in [&b"P"[..], b"PROXY", b"PROXY TCP4 1", b"\r", &V2_SIGNATURE[..11], &v2(1, 0x11, &IPV4)[..27]] {
            assert_eq!(end(beginning), Ok(None), "{}", beginning.escape_ascii());
        }
        for bad in [&b"GET / HTTP/1.1"[..], b"\x16\x03\x01", b"PROXY\t", b"\r\n\r\n\r", b"\n"] {
            assert_eq!(end(bad), Err(BadHeader), "{}", bad.escape_ascii());
        }
        let line = |length: usize| [&b"PROXY UNKNOWN "[..], &vec![b'x'; length - 16], b"\r\n"].concat();
        assert_eq!(end(&line(V1_BYTES_MAX)), Ok(Some(V1_BYTES_MAX)));
        assert_eq!(end(&line(V1_BYTES_MAX + 1)), Err(BadHeader));
        assert_eq!(end(&v2(1, 0, &[0; V2_BYTES_MAX - 16])), Ok(Some(V2_BYTES_MAX)));
        assert_eq!(end(&v2(1, 0, &[0; V2_BYTES_MAX - 15])[..16]), Err(BadHeader));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_an_end_stays_where_it_is(
            start in prop_oneof![Just(&b""[..]), Just(&b"PROXY "[..]), Just(V2_SIGNATURE)],
            bytes in any::<Vec<u8>>(),
        ) {
            let bytes = [start, &bytes].concat();
            let _ = parse(&bytes);
            if let Ok(Some(length)) = end(&bytes) {
                prop_assert!(length <= bytes.len() && length > 0);
                prop_assert_eq!(end(&bytes[..length]), Ok(Some(length)));
                prop_assert_eq!(end(&bytes[..length - 1]), Ok(None));
            }
        }
    }
}
