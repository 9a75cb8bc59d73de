//! Addresses as proxies write them, taken apart by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
pub fn read(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, behind) = rest.split_once(']')?;
            if !behind.is_empty() && !is_port(behind.strip_prefix(':')?) {
                return None;
            }
            IpAddr::V6(v6(inside)?)
        }
        None if text.matches(':').count() > 1 => IpAddr::V6(v6(text)?),
        None => match text.split_once(':') {
            Some((address, port)) if is_port(port) => IpAddr::V4(address.parse::<Ipv4Addr>().ok()?),
            Some(_) => return None,
            None => IpAddr::V4(text.parse::<Ipv4Addr>().ok()?),
        },
    };
    Some(plain(address))
}

/// An IPv4 address in IPv6 form is the IPv4 address.
pub fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.octets()[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        other => other,
    }
}

fn is_port(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_digit())
        && text.trim_start_matches('0').len() <= 5
        && text.parse::<u32>().is_ok_and(|port| port <= 65535)
}

fn v6(text: &str) -> Option<Ipv6Addr> {
    text.parse().ok()
}
