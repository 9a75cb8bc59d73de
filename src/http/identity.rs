//! Forwarded headers into an identity: the one evaluation point, before routing.
//!
//! In doubt it refuses, it never strips: wrong peer 403; two values, an alias spelling, a hop-by-hop nomination or bad bytes
//! 400; nothing is ever treated as anonymous because something was wrong with it. Afterwards the headers are gone. Who may
//! speak for a user is [`super::trust`]'s business.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::header::{HeaderMap, HeaderValue};
use serde::Deserialize;

use super::reject::Refusal;
use super::trust::Peer;
use crate::config::{self, Config, UserEncoding};
use crate::subject::{Pattern, TOKEN_BYTES_MAX, Token, encode_user};

/// Longest claims header, in bytes (requirement R10).
const CLAIMS_BYTES_MAX: usize = 8 * 1024;
/// Whose values name headers that end at the next hop.
const HOP_BY_HOP: [&str; 2] = ["connection", "proxy-connection"];
/// Most subjects the app may name in `identity.subjects_header`.
const SUBJECTS_MAX: usize = 32;

/// What a proven proxy vouched for. Only [`evaluate`] makes one.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who it is; absent where the proxy decided something else only, such as subjects on a route for anyone.
    pub user: Option<User>,
    /// More template variables.
    pub variables: Vec<(String, Token)>,
    /// The app's own decision.
    pub subjects: Vec<Pattern>,
    /// How long it is still valid.
    pub expires_in: Option<Duration>,
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// The id as forwarded.
    pub id: String,
    /// It as a subject token.
    pub token: Token,
}

/// Claims as Envoy's `jwt_authn` forwards them.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    exp: Option<u64>,
}

/// Evaluates a request's headers and takes every identity and trust header out of them. `None`: nobody is claimed.
pub fn evaluate(config: &Config, peer: Peer, headers: &mut HeaderMap) -> Result<Option<Identity>, Refusal> {
    let names = Names::new(config);
    let result = names.evaluate(config, peer, headers);
    for name in names.all() {
        headers.remove(name);
    }
    result
}

/// Header names that mean something here.
struct Names<'c> {
    identity: Vec<&'c str>,
    secret: Option<&'c str>,
}

impl<'c> Names<'c> {
    fn new(config: &'c Config) -> Self {
        let config::Identity { user_header, claims_header, expires_header, variables, subjects_header, .. } =
            &config.identity;
        let optional = [claims_header, expires_header, subjects_header];
        let identity = std::iter::once(user_header.as_str())
            .chain(optional.into_iter().flatten().map(String::as_str))
            .chain(variables.values().map(String::as_str))
            .collect();
        let secret = config.trust.as_ref().filter(|t| !t.secrets.is_empty()).map(|t| t.secret_header.as_str());
        Self { identity, secret }
    }

    fn all(&self) -> impl Iterator<Item = &'c str> {
        self.identity.iter().copied().chain(self.secret)
    }

    fn evaluate(&self, config: &Config, peer: Peer, headers: &HeaderMap) -> Result<Option<Identity>, Refusal> {
        let nominated = self.is_nominated(headers);
        let aliased = self.has_alias(headers);
        let claimed = self.all().any(|name| headers.contains_key(name));
        if !(claimed || nominated || aliased) {
            return Ok(None);
        }
        let proven = config.trust.as_ref().is_some_and(|trust| trust.is_proven(peer, headers));
        if !proven {
            return Err(Refusal::UntrustedPeer);
        }
        if nominated {
            return Err(Refusal::HopByHopIdentity);
        }
        if aliased {
            return Err(Refusal::HeaderAlias);
        }
        identity(&config.identity, headers)
    }

    /// `Connection: x-forwarded-user` makes the next hop remove the proxy's own header. What is no token there is read as
    /// generously as a careless hop might.
    fn is_nominated(&self, headers: &HeaderMap) -> bool {
        let lines = HOP_BY_HOP.iter().flat_map(|name| headers.get_all(*name));
        let mut words = lines.flat_map(|line| line.as_bytes().split(|byte| b",; \t\"'=".contains(byte)));
        words.any(|word| self.all().any(|ours| is_spelling(word, ours)))
    }

    /// `X_Forwarded_User` and `X.Forwarded.User` are other headers to us, and the same to many servers.
    fn has_alias(&self, headers: &HeaderMap) -> bool {
        let alias = |theirs: &str| self.all().any(|ours| theirs != ours && is_spelling(theirs.as_bytes(), ours));
        headers.keys().any(|theirs| alias(theirs.as_str()))
    }
}

/// Whether some server takes one name for the other: CGI and its heirs turn every punctuation mark into the same one.
fn is_spelling(theirs: &[u8], ours: &str) -> bool {
    let folded = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    theirs.len() == ours.len() && theirs.iter().zip(ours.bytes()).all(|(t, o)| folded(*t) == folded(o))
}

fn identity(config: &config::Identity, headers: &HeaderMap) -> Result<Option<Identity>, Refusal> {
    let header_user = single(headers, &config.user_header)?.map(user_id).transpose()?;
    let claims = match &config.claims_header {
        Some(name) => single(headers, name)?.map(claims).transpose()?,
        None => None,
    };
    let claimed_user = claims.as_ref().map(|c| c.sub.clone());
    let user = match (header_user, claimed_user) {
        (Some(header), Some(claimed)) if *header != *claimed => return Err(Refusal::IdentityAmbiguous),
        (header, claimed) => header.or(claimed),
    };
    let header_expiry = match &config.expires_header {
        Some(name) => single(headers, name)?.map(unix_seconds).transpose()?,
        None => None,
    };
    let expiry = [header_expiry, claims.and_then(|c| c.exp)].into_iter().flatten().min();
    let user = user.map(|id| Ok(User { token: user_token(config.user_encoding, &id)?, id })).transpose()?;
    Ok(Some(Identity {
        user,
        variables: variables(config, headers)?,
        subjects: subjects(config, headers)?,
        expires_in: expiry.map(remaining).transpose()?,
    }))
}

/// Exactly one value, or none. A comma is how a proxy joins two.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Refusal::IdentityAmbiguous),
    }
}

fn user_id(value: &HeaderValue) -> Result<String, Refusal> {
    if value.as_bytes().contains(&b',') {
        return Err(Refusal::IdentityAmbiguous);
    }
    visible(value.as_bytes())
}

/// 1 to 128 bytes of visible ASCII (requirement R6).
fn visible(bytes: &[u8]) -> Result<String, Refusal> {
    let fits = !bytes.is_empty() && bytes.len() <= TOKEN_BYTES_MAX && bytes.iter().all(u8::is_ascii_graphic);
    let text = fits.then(|| std::str::from_utf8(bytes).ok()).flatten();
    text.map(str::to_owned).ok_or(Refusal::IdentityInvalid)
}

fn user_token(encoding: UserEncoding, user: &str) -> Result<Token, Refusal> {
    let token = match encoding {
        UserEncoding::Refuse => Token::parse(user),
        UserEncoding::Base64Url => encode_user(user),
    };
    token.ok_or(Refusal::IdentityInvalid)
}

fn claims(value: &HeaderValue) -> Result<Claims, Refusal> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    if value.len() > CLAIMS_BYTES_MAX {
        return Err(Refusal::IdentityInvalid);
    }
    let json = ENGINE.decode(value.as_bytes()).map_err(|_| Refusal::IdentityInvalid)?;
    let claims: Claims = serde_json::from_slice(&json).map_err(|_| Refusal::IdentityInvalid)?;
    visible(claims.sub.as_bytes())?;
    Ok(claims)
}

fn unix_seconds(value: &HeaderValue) -> Result<u64, Refusal> {
    let digits = value.to_str().ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|v| v.parse().ok()).ok_or(Refusal::IdentityInvalid)
}

fn remaining(expiry: u64) -> Result<Duration, Refusal> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(expiry).checked_sub(now).filter(|left| !left.is_zero()).ok_or(Refusal::IdentityExpired)
}

fn variables(config: &config::Identity, headers: &HeaderMap) -> Result<Vec<(String, Token)>, Refusal> {
    let mut variables = Vec::with_capacity(config.variables.len());
    for (name, header) in &config.variables {
        if let Some(value) = single(headers, header)? {
            let token = Token::parse(&user_id(value)?).ok_or(Refusal::IdentityInvalid)?;
            variables.push((name.clone(), token));
        }
    }
    Ok(variables)
}

fn subjects(config: &config::Identity, headers: &HeaderMap) -> Result<Vec<Pattern>, Refusal> {
    let Some(name) = &config.subjects_header else { return Ok(Vec::new()) };
    let Some(value) = single(headers, name)? else { return Ok(Vec::new()) };
    let text = value.to_str().map_err(|_| Refusal::IdentityInvalid)?;
    let patterns: Vec<&str> = text.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
    if patterns.len() > SUBJECTS_MAX {
        return Err(Refusal::IdentityInvalid);
    }
    patterns.into_iter().map(|p| Pattern::parse(p).map_err(|_| Refusal::IdentityInvalid)).collect()
}
