//! `[trust]`: who may speak for a user. An address rule *and* a proof, or no start (requirement R1).

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Checker, Read, Section};
use crate::config::units::shorten;
use crate::config::{Identity, Secret, Trust};

/// 128 bits, written as 16 bytes at the least.
const SECRET_BYTES_MIN: usize = 16;
/// Longer chains of proxies exist only by mistake.
const HOPS_MAX: u32 = 32;
const PROOFS: &str = "allowed: peer_uids (with \"unix\" in proxies), client_certificate (with server.tls.client_ca), secret_files, or \
                      address_is_proof = true";

pub(super) fn check(cx: &mut Checker<'_>, root: &Section<'_>, identity: &Identity) -> Option<Trust> {
    let section = root.optional("trust")?;
    let (proxies, unix) = proxies(cx, &section);
    let client_certificate = client_certificate(cx, root, &section, &proxies);
    let trust = Trust {
        proxies,
        unix,
        peer_uids: peer_uids(cx, &section, unix),
        client_certificate,
        secret_header: secret_header(cx, &section, identity),
        secrets: secrets(cx, &section),
        forwarded_for_hops: u8::try_from(cx.count(&section, "forwarded_for_hops", 0..=HOPS_MAX)).unwrap_or(0),
        address_is_proof: section.flag("address_is_proof"),
    };
    proof(cx, &section, &trust);
    Some(trust)
}

fn proof(cx: &mut Checker<'_>, section: &Section<'_>, trust: &Trust) {
    // What was written counts here, not what passed: a missing secret file is reported once, as that.
    let by_secret = !section.texts("secret_files").is_empty();
    let by_uid = !section.integers("peer_uids").is_empty();
    let over_tcp = by_secret || trust.address_is_proof || section.flag("client_certificate");
    if !by_uid && !over_tcp {
        cx.fault_in(section, "", "an address alone does not prove who speaks: there is no proof", Some(PROOFS));
    } else if !over_tcp && !trust.proxies.is_empty() {
        let message = "peer_uids proves only peers on the unix socket; the addresses listed here will be refused";
        cx.warn_in(section, "proxies", message, Some(PROOFS));
    }
}

fn proxies(cx: &mut Checker<'_>, section: &Section<'_>) -> (Vec<IpNet>, bool) {
    let reads = section.texts("proxies");
    if reads.is_empty() {
        let note = "name the proxies' addresses or CIDRs, and/or \"unix\"";
        cx.fault_in(section, "proxies", "at least one proxy is needed", Some(note));
    }
    let unix = reads.iter().any(|read| read.value == "unix");
    let networks: Vec<IpNet> =
        reads.iter().filter(|read| read.value != "unix").filter_map(|read| network(cx, read)).collect();
    // 0.0.0.0/1 and 128.0.0.0/1 are /0 in two words.
    if IpNet::aggregate(&networks).iter().any(|network| network.prefix_len() == 0) {
        cx.fault_in(section, "proxies", "together these are every address there is (`/0`)", None);
    }
    (networks, unix)
}

fn network(cx: &mut Checker<'_>, read: &Read<'_, &str>) -> Option<IpNet> {
    let note = Some("allowed: an address, a CIDR such as \"10.1.0.0/16\", or \"unix\"");
    let parsed = read.value.parse::<IpAddr>().map(IpNet::from).or_else(|_| read.value.parse::<IpNet>());
    let message = match parsed {
        Ok(network) if network.prefix_len() == 0 => {
            format!("`{}` trusts every address there is: anybody could be any user", read.value)
        }
        Ok(IpNet::V6(network)) if network.addr().to_ipv4_mapped().is_some() => {
            format!("`{}` is an IPv4 address in IPv6 form; write it as IPv4", read.value)
        }
        Ok(network) => return Some(network.trunc()),
        Err(_) => format!("`{}` is not an address or CIDR", shorten(read.value)),
    };
    cx.fault_noted(read, message, note);
    None
}

fn peer_uids(cx: &mut Checker<'_>, section: &Section<'_>, unix: bool) -> Vec<u32> {
    let reads = section.integers("peer_uids");
    if !reads.is_empty() && !unix {
        let message = "only a unix socket tells the uid of its peer, and \"unix\" is not in trust.proxies";
        cx.fault_in(section, "peer_uids", message, None);
    }
    // u32::MAX is "no uid" to the system.
    reads.iter().map(|read| cx.in_range(read, 0..=u32::MAX - 1)).collect()
}

/// A certificate proves a proxy only if it says which proxy it is.
fn client_certificate(cx: &mut Checker<'_>, root: &Section<'_>, section: &Section<'_>, proxies: &[IpNet]) -> bool {
    let asked = section.flag("client_certificate");
    let tls = root.section("server").section("tls");
    if asked && proxies.is_empty() {
        let message = "certificates are shown over TCP, and no address is in trust.proxies";
        cx.fault_in(section, "client_certificate", message, None);
    }
    if asked && tls.set_text("client_ca").is_none() {
        let note = Some("set server.tls.client_ca and server.tls.client_names");
        cx.fault_in(section, "client_certificate", "server.tls asks for no client certificate", note);
    } else if asked && tls.texts("client_names").is_empty() {
        let note = Some("name the proxies, exactly as in their certificates, in server.tls.client_names");
        cx.fault_in(section, "client_certificate", "any certificate of server.tls.client_ca would be a proof", note);
    }
    asked
}

fn secret_header(cx: &mut Checker<'_>, section: &Section<'_>, identity: &Identity) -> String {
    let Some(read) = section.text("secret_header") else { return String::new() };
    let name = cx.header_name(&read).unwrap_or_default();
    let others = [&identity.claims_header, &identity.expires_header, &identity.subjects_header];
    let mut used = others.into_iter().flatten().chain(identity.variables.values()).chain([&identity.user_header]);
    if !name.is_empty() && used.any(|other| *other == name) {
        cx.fault(&read, format!("`{name}` already carries part of the identity"));
    }
    name
}

fn secrets(cx: &mut Checker<'_>, section: &Section<'_>) -> Vec<Secret> {
    let reads = section.texts("secret_files");
    if reads.len() > 2 {
        let message = format!("{} files; one, or two while a secret is being changed", reads.len());
        cx.fault_in(section, "secret_files", message, None);
    }
    reads.iter().filter_map(|read| cx.secret(read, SECRET_BYTES_MIN)).collect()
}
