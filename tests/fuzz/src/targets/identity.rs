//! F1: a list of header lines, and who the request then speaks for.
//!
//! The input is a byte for the configuration, one for the peer, and header lines. Every fault that the rules name is looked for
//! on its own in the list: the refusal must be one of those that are there, and where there is none there is an identity.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use sidestream::config::{self, Config, Secret, Trust, UserEncoding};
use sidestream::http::identity::{Identity, evaluate};
use sidestream::http::reject::Refusal;
use sidestream::http::trust::Peer;

use crate::harness::configuration;
use crate::input::Input;
use crate::oracle::subjects;

const SECRETS: [&str; 2] = ["0123456789abcdef", "fedcba9876543210"];
const SECRET_HEADER: &str = "x-secret";
const USER: &str = "x-forwarded-user";
const EXPIRES: &str = "x-expires";
const TENANT: &str = "x-tenant";
const SUBJECTS: &str = "x-subjects";

type Line = (String, Vec<u8>);

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let config = input.choose(configurations());
    let peer = peer(input.below(8));
    let mut headers = HeaderMap::new();
    let mut lines: Vec<Line> = Vec::new();
    while !input.is_empty() {
        let line = input.line();
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        // As hyper hands them on: names in lower case, values without control characters.
        let parsed = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value));
        if let (Ok(name), Ok(parsed)) = parsed {
            lines.push((name.as_str().to_owned(), value.to_vec()));
            headers.append(name, parsed);
        }
    }
    let result = evaluate(config, peer, &mut headers);
    judge(config, peer, &lines, result.as_ref());
    let ours = meant(config);
    for (name, value) in &lines {
        let stays = !ours.contains(&name.as_str());
        let there = headers.get_all(name).iter().any(|kept| kept.as_bytes() == value);
        assert_eq!(there, stays, "{name} after the evaluation");
    }
}

fn configurations() -> &'static [Config] {
    static ALL: OnceLock<Vec<Config>> = OnceLock::new();
    ALL.get_or_init(|| {
        let trust = |address_is_proof, secrets: &[&str], certificate| Trust {
            proxies: vec!["10.0.0.0/8".parse().expect("a net")],
            unix: true,
            peer_uids: vec![33],
            client_certificate: certificate,
            secret_header: SECRET_HEADER.to_owned(),
            secrets: secrets.iter().map(|secret| Secret::new(secret.as_bytes())).collect(),
            forwarded_for_hops: 1,
            address_is_proof,
        };
        let identity = |user_encoding, all: bool| config::Identity {
            user_header: USER.to_owned(),
            claims_header: None,
            claims_issuer: None,
            claims_audiences: Vec::new(),
            expires_header: all.then(|| EXPIRES.to_owned()),
            variables: all.then(|| ("tenant".to_owned(), TENANT.to_owned())).into_iter().collect::<BTreeMap<_, _>>(),
            user_encoding,
            subjects_header: all.then(|| SUBJECTS.to_owned()),
        };
        let with = |trust, identity| Config { trust, identity, ..configuration("") };
        vec![
            with(None, identity(UserEncoding::Refuse, true)),
            with(Some(trust(true, &[], false)), identity(UserEncoding::Refuse, false)),
            with(Some(trust(true, &[], false)), identity(UserEncoding::Base64Url, true)),
            with(Some(trust(false, &SECRETS, false)), identity(UserEncoding::Refuse, true)),
            with(Some(trust(false, &SECRETS[..1], true)), identity(UserEncoding::Base64Url, false)),
            with(Some(trust(false, &[], true)), identity(UserEncoding::Refuse, true)),
        ]
    })
}

fn peer(choice: usize) -> Peer {
    let tcp = |text: &str| text.parse::<SocketAddr>().expect("an address");
    match choice {
        0 => Peer::Tcp(tcp("10.1.2.3:1")),
        1 => Peer::Tcp(tcp("192.0.2.1:1")),
        2 => Peer::Tcp(tcp("[::ffff:10.1.2.3]:1")),
        3 => Peer::Unix { uid: Some(33) },
        4 => Peer::Unix { uid: Some(34) },
        5 => Peer::Certified(tcp("10.1.2.3:1")),
        6 => Peer::Certified(tcp("192.0.2.1:1")),
        _ => Peer::Proxied { by: SocketAddr::from(([192, 0, 2, 1], 1)), client: None, certified: true },
    }
}

/// Names that mean something under a configuration.
fn meant(config: &Config) -> Vec<&str> {
    let config::Identity { user_header, expires_header, variables, subjects_header, .. } = &config.identity;
    let mut names = vec![user_header.as_str()];
    names.extend(expires_header.as_deref());
    names.extend(subjects_header.as_deref());
    names.extend(variables.values().map(String::as_str));
    let has_secrets = config.trust.as_ref().is_some_and(|trust| !trust.secrets.is_empty());
    names.extend(has_secrets.then_some(SECRET_HEADER));
    names
}

fn judge(config: &Config, peer: Peer, lines: &[Line], result: Result<&Option<Identity>, &Refusal>) {
    let names = meant(config);
    // CGI and its heirs make one character of all punctuation.
    let folded = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_ascii_lowercase();
    let stands = lines.iter().any(|(name, _)| names.contains(&name.as_str()));
    let is_spelling = |name: &str| names.iter().any(|ours| folded(ours) == folded(name));
    let aliased = lines.iter().any(|(name, _)| !names.contains(&name.as_str()) && is_spelling(name));
    let hop_by_hop = |name: &str| name == "connection" || name == "proxy-connection";
    let nominated = lines.iter().filter(|(name, _)| hop_by_hop(name)).any(|(_, value)| {
        let value = value.iter().map(|byte| char::from(*byte)).collect::<String>();
        value.split([',', ';', ' ', '\t', '"', '\'', '=']).any(is_spelling)
    });
    if !(stands || aliased || nominated) {
        assert!(matches!(result, Ok(None)), "nobody is claimed: {result:?}");
        return;
    }
    if !is_proven(config, peer, lines) {
        assert_eq!(result.err(), Some(&Refusal::UntrustedPeer), "{result:?}");
        return;
    }
    if nominated || aliased {
        let refusal = if nominated { Refusal::HopByHopIdentity } else { Refusal::HeaderAlias };
        assert_eq!(result.err(), Some(&refusal), "{result:?}");
        return;
    }
    let faults = faults(config, lines);
    match result {
        Err(refusal) => assert!(faults.contains(refusal), "{refusal:?} is not among {faults:?}"),
        Ok(identity) => {
            assert!(faults.is_empty(), "an identity in spite of {faults:?}");
            agrees(config, lines, identity.as_ref().expect("somebody is claimed"));
        }
    }
}

fn is_proven(config: &Config, peer: Peer, lines: &[Line]) -> bool {
    let Some(trust) = &config.trust else { return false };
    // Our proxies are 10.0.0.0/8 and whoever may open the unix socket.
    let (from_proxy, certified, uid) = match peer {
        Peer::Tcp(address) => (!address.to_string().starts_with("192.0.2.1"), false, None),
        Peer::Certified(address) => (!address.to_string().starts_with("192.0.2.1"), true, None),
        Peer::Proxied { .. } => (false, false, None),
        Peer::Unix { uid } => (true, false, uid),
    };
    let secrets: Vec<&Vec<u8>> =
        lines.iter().filter(|(name, _)| name == SECRET_HEADER).map(|(_, value)| value).collect();
    let knows_secret =
        secrets.len() == 1 && trust.secrets.iter().any(|secret| secret.expose() == secrets[0].as_slice());
    from_proxy && (trust.address_is_proof || uid == Some(33) || (certified && trust.client_certificate) || knows_secret)
}

fn values<'l>(lines: &'l [Line], name: &str) -> Vec<&'l [u8]> {
    lines.iter().filter(|(theirs, _)| theirs == name).map(|(_, value)| value.as_slice()).collect()
}

/// Everything that is wrong with the headers themselves.
fn faults(config: &Config, lines: &[Line]) -> Vec<Refusal> {
    let mut faults = Vec::new();
    let names = meant(config);
    for name in names.iter().filter(|name| **name != SECRET_HEADER) {
        let values = values(lines, name);
        if values.len() > 1 {
            faults.push(Refusal::IdentityAmbiguous);
        }
        for value in values {
            faults.extend(fault(config, name, value));
        }
    }
    faults
}

fn fault(config: &Config, name: &str, value: &[u8]) -> Option<Refusal> {
    let text = std::str::from_utf8(value).unwrap_or("\u{0}");
    let is_visible = text.chars().all(|c| ('!'..='~').contains(&c));
    match name {
        USER | TENANT | EXPIRES if value.contains(&b',') => Some(Refusal::IdentityAmbiguous),
        USER if config.identity.user_encoding == UserEncoding::Base64Url => {
            // What has to be encoded is, four bytes for three, unless the token would be too long.
            let fits = (1..=128).contains(&text.len()) && is_visible;
            let encoded = sidestream::subject::encode_user(text).is_some() || text.len() <= 96;
            (!fits || !encoded).then_some(Refusal::IdentityInvalid)
        }
        USER | TENANT => (!subjects::is_plain_token(text)).then_some(Refusal::IdentityInvalid),
        EXPIRES => {
            let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
            match text.parse::<u64>() {
                Ok(at) if is_number => (at <= now()).then_some(Refusal::IdentityExpired),
                _ => Some(Refusal::IdentityInvalid),
            }
        }
        SUBJECTS => {
            let listed: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
            let good = text.chars().all(|c| (' '..='~').contains(&c) || c == '\t')
                && listed.len() <= 32
                && listed.iter().all(|entry| subjects::is_pattern(entry));
            (!good).then_some(Refusal::IdentityInvalid)
        }
        _ => None,
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// What was forwarded is what is believed.
fn agrees(config: &Config, lines: &[Line], identity: &Identity) {
    use base64::Engine as _;
    let said = values(lines, USER).first().map(|value| String::from_utf8_lossy(value).into_owned());
    assert_eq!(identity.user.as_ref().map(|user| user.id.clone()), said);
    if let Some(user) = &identity.user {
        let token = user.token.as_str();
        assert!(subjects::is_plain_token(token), "{token:?}");
        let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
        let encoded = config.identity.user_encoding == UserEncoding::Base64Url && decoded == user.id.as_bytes();
        assert!(token == user.id || encoded, "{:?} became {token:?}", user.id);
    }
    let tenant = identity.variables.iter().map(|(name, token)| (name.as_str(), token.as_str().as_bytes()));
    let forwarded = config.identity.variables.values().flat_map(|name| values(lines, name));
    assert!(tenant.eq(forwarded.map(|value| ("tenant", value))));
    if let Some(left) = identity.expires_in {
        let at: u64 = String::from_utf8_lossy(values(lines, EXPIRES)[0]).parse().expect("a number");
        assert!(left.as_secs() <= at - now() + 1);
    } else {
        assert!(config.identity.expires_header.is_none() || values(lines, EXPIRES).is_empty());
    }
}
