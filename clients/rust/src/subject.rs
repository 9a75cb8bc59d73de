//! What may stand in a subject or a header: the sidecar's own rules, so that an event lands where its user listens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest token that stands for a variable, in bytes; also the longest prefix.
const TOKEN_BYTES_MAX: usize = 128;
/// Longest event name or message id, in bytes.
const HEADER_BYTES_MAX: usize = 256;

/// What to do with a user id that is not one plain subject token. Must be what the sidecar's `identity.user_encoding`
/// says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UserEncoding {
    /// It is refused.
    #[default]
    Refuse,
    /// It becomes unpadded base64url, and so does a plain one that could be taken for an encoded one.
    Base64Url,
}

/// The token by which a user is reached.
pub fn user_token(encoding: UserEncoding, user: &str) -> Option<String> {
    if encoding == UserEncoding::Refuse || !needs_encoding(user) {
        return is_token(user).then(|| user.to_owned());
    }
    Some(URL_SAFE_NO_PAD.encode(user)).filter(|token| is_visible(user) && is_token(token))
}

fn needs_encoding(user: &str) -> bool {
    if !is_token(user) {
        return true;
    }
    // Each decoding is a quarter shorter, so this ends after a few steps.
    match URL_SAFE_NO_PAD.decode(user).map(String::from_utf8) {
        Ok(Ok(inner)) => is_visible(&inner) && needs_encoding(&inner),
        _ => false,
    }
}

fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// One plain token: visible ASCII, no dot, no wildcard, no `$` first.
pub fn is_token(text: &str) -> bool {
    is_visible(text) && text.len() <= TOKEN_BYTES_MAX && !text.starts_with('$') && !text.contains(['.', '*', '>'])
}

/// Plain tokens with dots between them. What begins with `_` belongs to NATS and its clients.
pub fn is_prefix(text: &str) -> bool {
    text.len() <= TOKEN_BYTES_MAX && !text.starts_with('_') && text.split('.').all(is_token)
}

/// What may be the value of a header and comes out of it as it went in.
pub fn is_header_value(text: &str) -> bool {
    !text.is_empty() && text.len() <= HEADER_BYTES_MAX && text.trim() == text && !text.chars().any(char::is_control)
}

/// A name that the sidecar hands on as it is.
pub fn is_event_name(name: &str) -> bool {
    is_header_value(name) && !name.starts_with("sidestream.")
}

/// The last token of an event's subject: its name where that is a token, as the sidecar's own `notify` does it.
pub fn leaf(event: &str) -> &str {
    if is_token(event) { event } else { "message" }
}
