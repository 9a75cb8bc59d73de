//! `[identity]`, and what a header name must look like to carry an identity.

use std::collections::BTreeMap;

use super::{Checker, Read, Section, text_of};
use crate::config::file::join;
use crate::config::tree::Value;
use crate::config::units::shorten;
use crate::config::{Identity, UserEncoding};
use crate::subject::is_variable_name;

/// Headers with a meaning of their own, which a proxy may add, change, combine or drop.
const TAKEN: [&str; 18] = [
    "accept",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-forwarded-for",
];

pub(super) fn check(cx: &mut Checker<'_>, section: &Section<'_>) -> Identity {
    let mut names = Names::default();
    let user_header = match section.set_text("user_header") {
        Some(read) => names.take(cx, &read).unwrap_or_default(),
        None => {
            if section.text("user_header").is_some() {
                cx.fault_in(section, "user_header", "a header name is needed", None);
            }
            String::new()
        }
    };
    let mut optional = |cx: &mut Checker<'_>, key| section.set_text(key).and_then(|read| names.take(cx, &read));
    let claims_header = optional(cx, "claims_header");
    let expires_header = optional(cx, "expires_header");
    let subjects_header = optional(cx, "subjects_header");
    needs_claims(cx, section);
    let variables = variables(cx, section, &mut names);
    let encodings = [("refuse", UserEncoding::Refuse), ("base64url", UserEncoding::Base64Url)];
    let user_encoding = cx.choice(section, "user_encoding", &encodings, UserEncoding::Refuse);
    Identity {
        user_header,
        claims_header,
        claims_issuer: section.set_text("claims_issuer").map(|read| read.value.to_owned()),
        claims_audiences: audiences(cx, section),
        expires_header,
        variables,
        user_encoding,
        subjects_header,
    }
}

/// What is said about claims, although there are none.
fn needs_claims(cx: &mut Checker<'_>, section: &Section<'_>) {
    let message = "there are no claims to check: identity.claims_header is not set";
    let absent = section.set_text("claims_header").is_none();
    if absent && section.set_text("claims_issuer").is_some() {
        cx.fault_in(section, "claims_issuer", message, None);
    }
    if absent && !section.texts("claims_audiences").is_empty() {
        cx.fault_in(section, "claims_audiences", message, None);
    }
}

fn audiences(cx: &mut Checker<'_>, section: &Section<'_>) -> Vec<String> {
    let reads = section.texts("claims_audiences");
    for read in reads.iter().filter(|read| read.value.is_empty()) {
        cx.fault(read, "an audience cannot be empty");
    }
    reads.iter().map(|read| read.value.to_owned()).collect()
}

fn variables(cx: &mut Checker<'_>, section: &Section<'_>, names: &mut Names) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let Some(Value::Table(table)) = section.table.get("variables").map(|node| &node.value) else { return variables };
    let path = join(&section.path, "variables");
    for (name, node) in table {
        let key = join(&path, name);
        let at_name = Read { value: (), key: key.clone(), at: &node.key_at };
        if name == "user" {
            cx.fault(&at_name, "`user` is the user id itself and cannot be another variable");
        } else if !is_variable_name(name) {
            let message = format!(
                "`{}` is not a variable name: letters, digits and `_`, not starting with a digit",
                shorten(name)
            );
            cx.fault(&at_name, message);
        }
        let Some(value) = text_of(node) else { continue };
        if let Some(header) = names.take(cx, &Read { value, key, at: &node.at }) {
            variables.insert(name.clone(), header);
        }
    }
    variables
}

/// Header names in use, each for one thing.
#[derive(Debug, Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn take(&mut self, cx: &mut Checker<'_>, read: &Read<'_, &str>) -> Option<String> {
        let name = cx.header_name(read)?;
        if let Some((_, key)) = self.0.iter().find(|(taken, _)| *taken == name) {
            cx.fault(read, format!("`{name}` is already `{key}`; one header says one thing"));
        }
        self.0.push((name.clone(), read.key.clone()));
        Some(name)
    }
}

impl Checker<'_> {
    /// A header name that can carry something we trust, in lower case.
    pub(super) fn header_name(&mut self, read: &Read<'_, &str>) -> Option<String> {
        let name = read.value.to_ascii_lowercase();
        let shown = shorten(read.value);
        // Servers that fold other punctuation marks into one would let a client send an alias.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
            let note = "allowed: letters, digits and `-`, such as \"X-Forwarded-User\"";
            self.fault_noted(read, format!("`{shown}` is not a header name"), Some(note));
            return None;
        }
        if name.contains(['_', '.']) {
            // Proxies that strip `X-User` from clients may let `X_User` through, and some servers read both as one.
            let message = format!("`{shown}` has `_` or `.`, which some proxies and servers treat as `-`");
            self.fault_noted(read, message, Some("a client could send such an alias past the proxy; use `-`"));
            return None;
        }
        if TAKEN.contains(&name.as_str()) {
            self.fault(read, format!("`{shown}` has a meaning of its own and cannot carry an identity or a proof"));
            return None;
        }
        Some(name)
    }
}
