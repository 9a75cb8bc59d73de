//! `sidestream serve`: runs until it is told to stop. The parts are built elsewhere; this is the command line of it.

use clap::ValueEnum;

use super::exit::Exit;
use super::options::ConfigArgs;
use crate::config::load::Sources;

/// Options of `serve`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidestream serve --config /etc/sidestream/sidestream.toml --log-level debug")]
pub struct Args {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How log lines look [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArg>,
    /// Log level or filter, such as debug or info,sidestream::feed=trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Args {
    /// What to load: the log options are `--set` in other words, and win over it.
    pub fn sources(&self) -> Sources {
        let mut sources = self.config.sources();
        let format = self.log_format.map(|format| match format {
            LogFormatArg::Text => "log.format=text".to_owned(),
            LogFormatArg::Json => "log.format=json".to_owned(),
        });
        sources.set.extend(format);
        sources.set.extend(self.log_level.as_ref().map(|level| format!("log.level={level}")));
        sources
    }
}

/// Runs the server.
pub fn run(args: &Args) -> Exit {
    // wired in app.rs
    match super::options::load_or_report(&args.sources()) {
        Ok(_) => super::not_wired("serve"),
        Err(exit) => exit,
    }
}
