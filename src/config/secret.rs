//! A secret in memory. It is read from a file (`check/secret.rs`), compared or sent to log in, and shown to nobody.

use std::fmt;

use zeroize::Zeroizing;

use super::{Config, Nats, NatsAuth};

/// A secret read from a file. `Debug` never shows it, nothing serialises it, and what is dropped is overwritten.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    /// Takes the bytes of a secret, as they stand in the file less trailing line ends.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.trim_ascii_end().into()))
    }

    /// The bytes, for comparison or login only.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Takes secrets out of text before anybody sees it: the last line of defence, where others wrote the text.
#[derive(Debug, Clone, Default)]
pub struct Redaction(Vec<Secret>);

impl Redaction {
    /// Shorter secrets are not looked for: they stand in ordinary words.
    const BYTES_MIN: usize = 8;

    /// Looks for these.
    pub fn of(secrets: impl Iterator<Item = Secret>) -> Self {
        Self(secrets.filter(|secret| secret.expose().len() >= Self::BYTES_MIN).collect())
    }

    /// The text without them, as they are and as `Debug` writes them.
    pub fn hide(&self, mut text: String) -> String {
        for secret in self.0.iter().filter_map(|secret| std::str::from_utf8(secret.expose()).ok()) {
            for form in [secret, &secret.escape_debug().to_string()] {
                if text.contains(form) {
                    text = text.replace(form, "[redacted]");
                }
            }
        }
        text
    }

    /// The most bytes that a secret may take in a text.
    pub fn bytes_max(&self) -> usize {
        self.0.iter().map(|secret| 2 * secret.expose().len()).max().unwrap_or_default()
    }
}

impl Nats {
    /// What it logs in with, where that was read by us.
    pub fn secret(&self) -> Option<&Secret> {
        match &self.auth {
            NatsAuth::None | NatsAuth::Credentials(_) => None,
            NatsAuth::Nkey(secret) | NatsAuth::Password { password: secret, .. } | NatsAuth::Token(secret) => {
                Some(secret)
            }
        }
    }
}

impl Config {
    /// What must not be shown of text that others wrote.
    pub fn redaction(&self) -> Redaction {
        Redaction::of(self.secrets())
    }

    /// Every secret that the configuration holds itself.
    fn secrets(&self) -> impl Iterator<Item = Secret> {
        let shared = self.trust.iter().flat_map(|trust| &trust.secrets);
        shared.chain(&self.admin.token).chain(self.nats.secret()).cloned()
    }

    /// Whether there is anything in memory that must not be read out of it: those, or a key or credentials read from a file
    /// by whoever uses them.
    pub fn is_secret(&self) -> bool {
        self.secrets().next().is_some()
            || self.server.tls.is_some()
            || self.nats.client_cert.is_some()
            || matches!(self.nats.auth, NatsAuth::Credentials(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does not compile once a secret can be serialised or displayed: the call would be ambiguous.
    const _: fn() = || {
        trait Hidden<A> {
            fn holds() {}
        }
        struct Serialises;
        struct Displays;
        impl<T> Hidden<()> for T {}
        impl<T: serde::Serialize> Hidden<Serialises> for T {}
        impl<T: fmt::Display> Hidden<Displays> for T {}
        <Secret as Hidden<_>>::holds();
    };

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new(b"canary\r\n")), "[redacted]");
        assert_eq!(Secret::new(b"canary\r\n").expose(), b"canary");
    }
}
