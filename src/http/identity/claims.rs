//! Claims as a proxy forwards them once it has verified a token (Envoy's `forward_payload_header`): base64url, JSON inside.
//!
//! That the token was good is the proxy's word, and who may give it [`crate::http::trust`]'s business. Here they are read so
//! strictly that no other reader can have read them differently: no name twice at any level, nothing nested without end,
//! registered claims of the types that RFC 7519 gives them.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config;
use crate::http::reject::Refusal;
use crate::subject::Token;

/// Longest header, in bytes (requirement R10).
const BYTES_MAX: usize = 8 * 1024;
/// Objects and arrays inside each other, the claims themselves included (requirement R10).
const DEPTH_MAX: usize = 16;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is taken from a token.
#[derive(Debug)]
pub(super) struct Claims {
    /// `sub`, any text yet.
    pub(super) subject: String,
    /// `exp`, as time since the epoch.
    pub(super) expires: Option<Duration>,
    /// Those that routes use as variables, where they are there.
    pub(super) variables: Vec<(String, Token)>,
}

impl Claims {
    /// Reads a header's value. `wanted` are the claims that routes use as variables; what else there is may be anything.
    pub(super) fn read(value: &[u8], config: &config::Identity, wanted: &[String]) -> Result<Self, Refusal> {
        let json = decode(value).ok_or(Refusal::IdentityInvalid)?;
        let object = Object::parse(&json).ok_or(Refusal::IdentityInvalid)?;
        if !object.is_for_us(config)? {
            return Err(Refusal::IdentityMissing);
        }
        let there = wanted.iter().filter_map(|name| Some((name, object.0.get(name)?)));
        Ok(Self {
            subject: object.read("sub", text)?.ok_or(Refusal::IdentityInvalid)?,
            expires: object.read("exp", numeric_date)?,
            variables: there.map(|(name, value)| Ok((name.clone(), token(value)?))).collect::<Result<_, Refusal>>()?,
        })
    }
}

fn decode(value: &[u8]) -> Option<String> {
    let bytes = if value.len() <= BYTES_MAX { BASE64.decode(value).ok()? } else { return None };
    String::from_utf8(bytes).ok()
}

/// A JSON object, its values as they are written. No name stands in it twice, however its characters are escaped.
struct Object<'j>(HashMap<String, &'j RawValue>);

impl<'j> Object<'j> {
    fn parse(json: &'j str) -> Option<Self> {
        let object: Self = serde_json::from_str(json).ok()?;
        object.0.values().all(|value| is_sound(value, DEPTH_MAX - 1)).then_some(object)
    }

    /// A claim, where it is there.
    fn read<T>(&self, name: &str, read: impl Fn(&RawValue) -> Result<T, Refusal>) -> Result<Option<T>, Refusal> {
        self.0.get(name).map(|value| read(value)).transpose()
    }

    /// Whether issuer and audience are those of the configuration, as far as it names any.
    fn is_for_us(&self, config: &config::Identity) -> Result<bool, Refusal> {
        if config.claims_issuer.is_some() && self.read("iss", text)? != config.claims_issuer {
            return Ok(false);
        }
        let ours = &config.claims_audiences;
        if ours.is_empty() {
            return Ok(true);
        }
        let audiences = self.read("aud", one_or_more)?.unwrap_or_default();
        Ok(audiences.iter().any(|audience| ours.contains(audience)))
    }
}

/// Whether no object in it has a name twice, and it is at most so many levels deep.
fn is_sound(value: &RawValue, levels: usize) -> bool {
    let json = value.get();
    let inner: Vec<&RawValue> = match json.as_bytes().first() {
        Some(b'{' | b'[') if levels == 0 => return false,
        Some(b'{') => match serde_json::from_str::<Object<'_>>(json) {
            Ok(object) => object.0.into_values().collect(),
            Err(_) => return false,
        },
        Some(b'[') => serde_json::from_str(json).unwrap_or_default(),
        _ => return true,
    };
    inner.into_iter().all(|value| is_sound(value, levels - 1))
}

fn text(value: &RawValue) -> Result<String, Refusal> {
    serde_json::from_str(value.get()).map_err(|_| Refusal::IdentityInvalid)
}

/// A string, or an array of strings.
fn one_or_more(value: &RawValue) -> Result<Vec<String>, Refusal> {
    let several = || serde_json::from_str(value.get()).map_err(|_| Refusal::IdentityInvalid);
    text(value).map(|one| vec![one]).or_else(|_| several())
}

/// Seconds since the epoch, perhaps with a fraction.
fn numeric_date(value: &RawValue) -> Result<Duration, Refusal> {
    let number =
        Some(value.get()).filter(|json| json.starts_with(|first: char| first == '-' || first.is_ascii_digit()));
    let seconds: Option<f64> = number.and_then(|json| json.parse().ok());
    let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0).ok_or(Refusal::IdentityInvalid)?;
    // What no `Duration` holds is beyond the end of time, and never comes.
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// A string or a natural number that is one plain subject token.
fn token(value: &RawValue) -> Result<Token, Refusal> {
    let json = value.get();
    let natural = json.bytes().all(|byte| byte.is_ascii_digit());
    let token = if natural { Token::parse(json) } else { Token::parse(&text(value)?) };
    token.ok_or(Refusal::IdentityInvalid)
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut members = HashMap::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Object(members))
    }
}
