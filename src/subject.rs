//! NATS subjects as values: patterns, templates, and how a user id becomes exactly one token.
//!
//! A [`Template`] is what an operator writes (`events.user.{user}.>`); filled with checked [`Token`]s it becomes a
//! [`Pattern`], which is what a client is granted. A pattern can only be made by parsing or by filling a template, so
//! no bytes of a request ever reach a subject unchecked. Matching and subset are by token, never by string prefix.
//! This module knows no sockets and no NATS client.
//!
//! Subject rules: <https://docs.nats.io/nats-concepts/subjects>.

// Reads what others send: nothing here may panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest value that may fill a variable, in bytes (requirement R37).
pub const TOKEN_BYTES_MAX: usize = 128;
/// Longest pattern we accept, in bytes. NATS itself allows a whole protocol line (4 KiB).
pub const PATTERN_BYTES_MAX: usize = 512;
/// Most tokens a pattern may have; bounds the work of one match.
pub const PATTERN_TOKENS_MAX: usize = 32;

/// Why a subject, pattern or template was refused. The text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Nothing at all.
    #[error("a subject cannot be empty")]
    Empty,
    /// Two dots in a row, or one at an end.
    #[error("a subject has no empty tokens: check for a leading, trailing or doubled `.`")]
    EmptyToken,
    /// White space or control characters.
    #[error("white space and control characters are not allowed in a subject")]
    BadCharacter,
    /// `>` before the end.
    #[error("`>` must be the last token; use `*` for one token in the middle")]
    FullWildcardNotLast,
    /// `foo*` or `a>b`.
    #[error("`{0}`: a wildcard must be a whole token (`*`, or `>` at the end)")]
    PartialWildcard(String),
    /// `user-{user}` or `{user`.
    #[error("`{0}`: a variable must be a whole token, as in `events.{{user}}.>`")]
    PartialVariable(String),
    /// `{}` or `{1x}`.
    #[error("`{0}` is not a variable name: letters, digits and `_`, not starting with a digit")]
    BadVariableName(String),
    /// `$JS.…`, `$SYS.…`.
    #[error("subjects starting with `$` belong to the NATS server")]
    Reserved,
    /// Over [`PATTERN_BYTES_MAX`] or [`PATTERN_TOKENS_MAX`].
    #[error("a subject has at most {PATTERN_BYTES_MAX} bytes and {PATTERN_TOKENS_MAX} tokens")]
    TooLong,
    /// The value of a first variable starts with `_`.
    #[error("subjects starting with `_`, such as `_INBOX`, belong to NATS and its clients; no variable names them")]
    ReservedValue,
    /// A template was filled without this variable.
    #[error("no value for the variable `{{{0}}}`")]
    MissingVariable(String),
}

/// Exactly one concrete subject token: no `.`, no wildcard, no `$` first, 1 to [`TOKEN_BYTES_MAX`] bytes of visible ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token(Box<str>);

impl Token {
    /// Accepts a value that is one plain token as it stands.
    pub fn parse(value: &str) -> Option<Self> {
        let plain = !value.is_empty()
            && value.len() <= TOKEN_BYTES_MAX
            && !value.starts_with('$')
            && value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'.' | b'*' | b'>'));
        plain.then(|| Self(value.into()))
    }

    /// The token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The token of a user id under `identity.user_encoding = "base64url"`: a plain id stays as it is, any other becomes
/// unpadded base64url (RFC 4648 section 5).
///
/// The mapping is injective: a plain id that could be mistaken for an encoded one is encoded as well, so that no two
/// users ever share a token. `None` when the id is empty, not visible ASCII, or its token would pass
/// [`TOKEN_BYTES_MAX`].
pub fn encode_user(user: &str) -> Option<Token> {
    if user.is_empty() || !user.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    if needs_encoding(user) { Token::parse(&URL_SAFE_NO_PAD.encode(user)) } else { Token::parse(user) }
}

fn needs_encoding(user: &str) -> bool {
    if Token::parse(user).is_none() {
        return true;
    }
    // Each decoding is a quarter shorter, so this ends after a few steps.
    match URL_SAFE_NO_PAD.decode(user).map(String::from_utf8) {
        Ok(Ok(inner)) => !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_graphic()) && needs_encoding(&inner),
        _ => false,
    }
}

/// A subject with wildcards: what a client may hear. Cannot hold a malformed subject.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Parses a concrete subject or one with `*` and `>`.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check_shape(text)?;
        for (token, last) in tokens_with_last(text) {
            check_wildcards(token, last)?;
        }
        Ok(Self(text.into()))
    }

    /// The text, as NATS wants it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether it has a wildcard.
    pub fn is_wild(&self) -> bool {
        self.tokens().any(|t| matches!(t, "*" | ">"))
    }

    /// Whether a concrete subject matches.
    pub fn matches(&self, subject: &str) -> bool {
        let mut theirs = subject.split('.');
        for ours in self.tokens() {
            match (ours, theirs.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(token)) if literal == token => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether every subject that `other` matches is matched by `self` too: subset by token.
    pub fn contains(&self, other: &Pattern) -> bool {
        let mut theirs = other.tokens();
        for ours in self.tokens() {
            match (ours, theirs.next()) {
                (">", Some(_)) => return true,
                ("*", Some(token)) if token != ">" => {}
                (literal, Some(token)) if literal == token => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether some subject could match both.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        let (mut a, mut b) = (self.tokens(), other.tokens());
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pattern with `{variables}`, each a whole token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// A literal token or a wildcard.
    Fixed(Box<str>),
    Variable(Box<str>),
}

impl Template {
    /// Parses what an operator wrote.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check_shape(text)?;
        let parts = tokens_with_last(text).map(|(token, last)| Part::parse(token, last)).collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), parts })
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Names of its variables, in order of appearance.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(&**name),
            Part::Fixed(_) => None,
        })
    }

    /// Fills every variable with exactly one token. As the first one, a value that starts with `_` is refused: `{room}.>` is
    /// not for the answers to everybody's requests.
    pub fn fill<'v>(&self, lookup: impl Fn(&str) -> Option<&'v Token>) -> Result<Pattern, SubjectError> {
        let mut text = String::with_capacity(self.text.len());
        for part in &self.parts {
            if !text.is_empty() {
                text.push('.');
            }
            match part {
                Part::Fixed(token) => text.push_str(token),
                Part::Variable(name) => {
                    let token = lookup(name).ok_or_else(|| SubjectError::MissingVariable(name.to_string()))?;
                    if text.is_empty() && token.as_str().starts_with('_') {
                        return Err(SubjectError::ReservedValue);
                    }
                    text.push_str(token.as_str());
                }
            }
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(SubjectError::TooLong);
        }
        Ok(Pattern(text.into()))
    }

    /// The widest pattern it can become: every variable as `*`.
    pub fn widest(&self) -> Pattern {
        let tokens: Vec<&str> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Fixed(token) => &**token,
                Part::Variable(_) => "*",
            })
            .collect();
        Pattern(tokens.join(".").into())
    }
}

impl Part {
    fn parse(token: &str, last: bool) -> Result<Self, SubjectError> {
        if !token.contains(['{', '}']) {
            check_wildcards(token, last)?;
            return Ok(Self::Fixed(token.into()));
        }
        let name = token.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
        match name {
            Some(name) if is_variable_name(name) => Ok(Self::Variable(name.into())),
            Some(name) if !name.contains(['{', '}']) => Err(SubjectError::BadVariableName(name.into())),
            _ => Err(SubjectError::PartialVariable(token.into())),
        }
    }
}

/// Letters, digits and `_`, not starting with a digit.
pub fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_shape(text: &str) -> Result<(), SubjectError> {
    if text.is_empty() {
        return Err(SubjectError::Empty);
    }
    if text.len() > PATTERN_BYTES_MAX || text.split('.').count() > PATTERN_TOKENS_MAX {
        return Err(SubjectError::TooLong);
    }
    if text.starts_with('$') {
        return Err(SubjectError::Reserved);
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SubjectError::BadCharacter);
    }
    if text.split('.').any(str::is_empty) {
        return Err(SubjectError::EmptyToken);
    }
    Ok(())
}

fn check_wildcards(token: &str, last: bool) -> Result<(), SubjectError> {
    match token {
        "*" => Ok(()),
        ">" if last => Ok(()),
        ">" => Err(SubjectError::FullWildcardNotLast),
        _ if token.contains(['*', '>']) => Err(SubjectError::PartialWildcard(token.into())),
        _ => Ok(()),
    }
}

fn tokens_with_last(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut tokens = text.split('.').peekable();
    std::iter::from_fn(move || {
        let token = tokens.next()?;
        Some((token, tokens.peek().is_none()))
    })
}

/// The first token, and what follows its dot. Asked several times for every message.
pub fn split_first_token(subject: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'.', subject.as_bytes()) {
        Some(dot) => {
            let (first, rest) = subject.split_at(dot);
            (first, rest.get(1..))
        }
        None => (subject, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect(text)
    }

    #[test]
    fn wildcards_are_whole_tokens() {
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.\t", ">.a", "a.>.b", "a*", "a.b>", "$JS.API", "$x"] {
            assert!(Pattern::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "a.*", "*", ">", "a.*.c", "a.>", "a.é", "a.$b"] {
            assert!(Pattern::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn matching_is_by_token() {
        let cases = [
            ("a.>", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("orders.alice.>", "orders.alice2.x", false),
            ("orders.alice", "orders.alice", true),
            ("*.b", "a.b", true),
            (">", "a", true),
        ];
        for (p, s, expected) in cases {
            assert_eq!(pattern(p).matches(s), expected, "{p} / {s}");
        }
    }

    #[test]
    fn subset_is_by_token() {
        let cases = [
            ("a.>", "a.b.>", true),
            ("a.>", "a.>", true),
            ("a.*", "a.>", false),
            ("a.*", "a.b", true),
            ("a.b", "a.*", false),
            ("a.>", ">", false),
            ("a.*.c", "a.*.c", true),
            ("a.*", "a.*.c", false),
        ];
        for (outer, inner, expected) in cases {
            assert_eq!(pattern(outer).contains(&pattern(inner)), expected, "{outer} / {inner}");
        }
    }

    #[test]
    fn variables_fill_exactly_one_token() {
        let template = Template::parse("events.user.{user}.>").expect("a template");
        let alice = Token::parse("alice").expect("a token");
        assert_eq!(template.fill(|_| Some(&alice)).expect("filled").as_str(), "events.user.alice.>");
        assert_eq!(template.widest().as_str(), "events.user.*.>");
        assert!(template.fill(|_| None).is_err());
        for bad in ["events.x{user}", "events.{user", "events.{}", "events.{1a}", "events.{a}{b}", "e.{a-b}"] {
            assert!(Template::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn encoded_users_never_meet_plain_ones() {
        assert_eq!(encode_user("alice").expect("token").as_str(), "alice");
        assert_eq!(encode_user("a.b").expect("token").as_str(), "YS5i");
        assert_ne!(encode_user("YS5i").expect("token").as_str(), "YS5i");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn no_value_escapes_its_token(value in any::<Vec<u8>>()) {
            let text = String::from_utf8_lossy(&value);
            if let Some(token) = Token::parse(&text) {
                let template = Template::parse("a.{user}.b").expect("a template");
                let filled = template.fill(|_| Some(&token)).expect("filled");
                prop_assert_eq!(filled.tokens().count(), 3);
                prop_assert!(!filled.is_wild());
                prop_assert!(Pattern::parse(filled.as_str()).is_ok());
            }
        }

        #[test]
        fn encoding_is_injective(a in "[!-~]{1,12}", b in "[!-~]{1,12}") {
            let (ta, tb) = (encode_user(&a), encode_user(&b));
            prop_assert!(ta.is_some() && tb.is_some());
            prop_assert_eq!(a == b, ta == tb);
            // And against the one id that would be its double.
            let double = ta.expect("checked").as_str().to_owned();
            if double != a {
                let token = encode_user(&double).expect("a token");
                prop_assert_ne!(token.as_str(), double);
            }
        }

        #[test]
        fn contains_agrees_with_matches(p in "(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?", q in "(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?", s in "(a|b)(\\.(a|b)){0,3}") {
            let (p, q) = (pattern(&p), pattern(&q));
            if p.contains(&q) && q.matches(&s) {
                prop_assert!(p.matches(&s));
            }
            if p.matches(&s) && q.matches(&s) {
                prop_assert!(p.overlaps(&q));
            }
        }
    }
}
