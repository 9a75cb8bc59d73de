//! Options that several commands share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::load::{self, Loaded, Sources};
use crate::config::units::parse_duration;
use crate::publish::is_key;

use super::exit::Exit;

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file; may be repeated, later wins [default: /etc/sidestream/sidestream.toml, else ./sidestream.toml]
    #[arg(long = "config", short = 'c', value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Sets one value over files and environment, such as server.h2c=true; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// Whether nothing is said of the configuration here.
    pub fn is_unnamed(&self) -> bool {
        self.files.is_empty() && self.set.is_empty()
    }

    /// These options and the environment of this process.
    pub fn sources(&self) -> Sources {
        // A name of ours is ASCII; a value that is not UTF-8 is shown with replacement characters in the fault about it.
        let env =
            std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()));
        Sources { files: self.files.clone(), env: env.collect(), set: self.set.clone() }
    }

    /// Loads, with warnings and the report of faults on standard error.
    pub fn load(&self) -> Result<Loaded, Exit> {
        load_or_report(&self.sources())
    }

    /// The same for commands that work without any file: then the defaults hold, under the environment and `--set`.
    pub fn load_or_defaults(&self) -> Result<Loaded, Exit> {
        let none = self.files.is_empty() && !load::DEFAULT_FILES.iter().any(|file| Path::new(file).exists());
        // Warnings are for who runs the server.
        let loaded = if none { load::load_text("defaults", "", &self.sources()) } else { load::load(&self.sources()) };
        loaded.map_err(|report| {
            super::complain(format_args!("{report}"));
            Exit::from(&report)
        })
    }
}

/// Loads, with warnings and the report of faults on standard error.
pub fn load_or_report(sources: &Sources) -> Result<Loaded, Exit> {
    match load::load(sources) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                super::complain(format_args!("{}", warning.labelled("warning")));
            }
            Ok(loaded)
        }
        Err(report) => {
            super::complain(format_args!("{report}"));
            Err(Exit::from(&report))
        }
    }
}

/// How often and under which name a message is published.
#[derive(Debug, Clone, clap::Args)]
pub struct MessageArgs {
    /// Event name, sent as the Sse-Event header
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// How many messages to publish
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Pause between messages, such as 500ms [default: none]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub every: Option<Duration>,
}

/// What every command that publishes takes.
#[derive(Debug, Clone, clap::Args)]
pub struct PublishArgs {
    /// The payload; `-` reads it from standard input [default: empty]
    pub data: Option<String>,
    /// Name, count and pause.
    #[command(flatten)]
    pub message: MessageArgs,
    /// Published once however often it is tried: JetStream knows a key for two minutes, or as long as the stream says
    #[arg(long, value_name = "KEY", value_parser = parse_key, conflicts_with = "count")]
    pub idempotency_key: Option<String>,
    /// The configuration: how NATS is reached, and the routes' templates.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// The key of a message: 1 to 255 bytes of visible ASCII.
pub fn parse_key(text: &str) -> Result<String, String> {
    if is_key(text) { Ok(text.to_owned()) } else { Err("a key is 1 to 255 bytes of visible ASCII".to_owned()) }
}

/// `NAME:VALUE` of a request header.
pub fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME:VALUE")?;
    let name = http_name(name)?;
    if value.contains(['\r', '\n', '\0']) {
        return Err("a header value has no line ends".to_owned());
    }
    Ok((name, value.trim().to_owned()))
}

fn http_name(name: &str) -> Result<String, String> {
    let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if valid { Ok(name.to_owned()) } else { Err(format!("`{name}` is not a header name")) }
}
