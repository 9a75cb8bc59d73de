//! Forwarded headers into an identity: the one evaluation point, before routing.
//!
//! In doubt it refuses, it never strips: wrong peer 403; two values, an alias spelling, a hop-by-hop nomination or bad bytes
//! 400; nothing is ever treated as anonymous because something was wrong with it. Afterwards the headers are gone. Who may
//! speak for a user is [`super::trust`]'s business.

mod claims;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderMap, HeaderValue};

use self::claims::Claims;
use super::reject::Refusal;
use super::trust::Peer;
use crate::config::{self, Config, UserEncoding};
use crate::subject::{Pattern, TOKEN_BYTES_MAX, Token, encode_user};
use crate::telemetry::metrics::Proof;

/// Whose values name headers that end at the next hop.
const HOP_BY_HOP: [&str; 2] = ["connection", "proxy-connection"];
/// Most subjects the app may name in `identity.subjects_header`.
const SUBJECTS_MAX: usize = 32;

/// What a proven proxy vouched for. Only [`evaluate`] makes one.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Why it is believed.
    pub proof: Proof,
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
        let proof = config.trust.as_ref().and_then(|trust| trust.proof(peer, headers)).ok_or(Refusal::UntrustedPeer)?;
        if nominated {
            return Err(Refusal::HopByHopIdentity);
        }
        if aliased {
            return Err(Refusal::HeaderAlias);
        }
        identity(config, proof, headers).map(Some)
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

fn identity(config: &Config, proof: Proof, headers: &HeaderMap) -> Result<Identity, Refusal> {
    let (config, wanted) = (&config.identity, &config.routes.claims);
    let claims = optional(headers, config.claims_header.as_deref())?;
    let claims = claims.map(|value| Claims::read(value, config, wanted)).transpose()?;
    let header_user = alone(headers, &config.user_header)?;
    let user = user(config, header_user, claims.as_ref().map(|claims| claims.subject.as_str()))?;
    let header_expiry = optional(headers, config.expires_header.as_deref())?.map(unix_seconds).transpose()?;
    let expiry = [header_expiry, claims.as_ref().and_then(|claims| claims.expires)].into_iter().flatten().min();
    let mut variables = variables(config, headers)?;
    variables.extend(claims.into_iter().flat_map(|claims| claims.variables));
    Ok(Identity {
        proof,
        user,
        variables,
        subjects: subjects(config, headers)?,
        expires_in: expiry.map(remaining).transpose()?,
    })
}

/// The user whom header and claims name. Where claims are configured, they are what the proxy has verified: a header alone
/// may be the client's own, on a path where the proxy found no token and left other headers as they came.
fn user(config: &config::Identity, header: Option<&[u8]>, subject: Option<&str>) -> Result<Option<User>, Refusal> {
    let header = header.map(visible).transpose()?;
    let subject = subject.map(|subject| visible(subject.as_bytes())).transpose()?;
    let id = match (header, subject) {
        (Some(header), Some(subject)) if header != subject => return Err(Refusal::IdentityAmbiguous),
        (Some(_), None) if config.claims_header.is_some() => return Err(Refusal::IdentityMissing),
        (header, subject) => subject.or(header),
    };
    let Some(id) = id else { return Ok(None) };
    let token = match config.user_encoding {
        UserEncoding::Refuse => Token::parse(&id),
        UserEncoding::Base64Url => encode_user(&id),
    };
    Ok(Some(User { token: token.ok_or(Refusal::IdentityInvalid)?, id }))
}

/// Exactly one line, or none.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Refusal::IdentityAmbiguous),
    }
}

/// Exactly one value, or none. A comma is how a proxy joins two.
fn alone<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h [u8]>, Refusal> {
    let value = single(headers, name)?.map(HeaderValue::as_bytes);
    if value.is_some_and(|value| value.contains(&b',')) { Err(Refusal::IdentityAmbiguous) } else { Ok(value) }
}

/// The same for a header that may not be configured.
fn optional<'h>(headers: &'h HeaderMap, name: Option<&str>) -> Result<Option<&'h [u8]>, Refusal> {
    name.map_or(Ok(None), |name| alone(headers, name))
}

/// 1 to 128 bytes of visible ASCII (requirement R6).
fn visible(bytes: &[u8]) -> Result<String, Refusal> {
    let fits = !bytes.is_empty() && bytes.len() <= TOKEN_BYTES_MAX && bytes.iter().all(u8::is_ascii_graphic);
    let text = fits.then(|| std::str::from_utf8(bytes).ok()).flatten();
    text.map(str::to_owned).ok_or(Refusal::IdentityInvalid)
}

fn unix_seconds(value: &[u8]) -> Result<Duration, Refusal> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).map(Duration::from_secs).ok_or(Refusal::IdentityInvalid)
}

/// How long it is until then, a time since the epoch.
fn remaining(expiry: Duration) -> Result<Duration, Refusal> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    expiry.checked_sub(now).filter(|left| !left.is_zero()).ok_or(Refusal::IdentityExpired)
}

fn variables(config: &config::Identity, headers: &HeaderMap) -> Result<Vec<(String, Token)>, Refusal> {
    let mut variables = Vec::with_capacity(config.variables.len());
    for (name, header) in &config.variables {
        if let Some(value) = alone(headers, header)? {
            let token = Token::parse(&visible(value)?).ok_or(Refusal::IdentityInvalid)?;
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
