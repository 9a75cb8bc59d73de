//! `sidestream config show`, `config default`, `config schema` and `config docs`.

use super::exit::Exit;
use super::options::ConfigArgs;
use super::print;
use crate::config::error::Report;
use crate::config::load::{self, DEFAULT_TOML, Loaded};
use crate::config::reference;

/// Options of `config`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream config default > sidestream.toml\n  sidestream config show --set server.h2c=true"
)]
pub struct Args {
    /// What to print.
    #[command(subcommand)]
    pub command: Command,
}

/// What to print.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Prints every effective value with its origin; secrets stay in their files
    #[command(after_help = "Example:\n  sidestream config show --config sidestream.toml | grep -v '# default'")]
    Show(ConfigArgs),
    /// Prints the defaults, every key explained
    #[command(after_help = "Example:\n  sidestream config default > sidestream.toml")]
    Default,
    /// Prints a JSON Schema of the file, for editors and for checks before a deployment
    #[command(after_help = "Example:\n  sidestream config schema > sidestream.schema.json")]
    Schema,
    /// Prints the reference of all keys as Markdown
    #[command(after_help = "Example:\n  sidestream config docs > configuration.md")]
    Docs,
}

/// Prints.
pub fn run(args: &Args) -> Exit {
    match &args.command {
        Command::Default => print(DEFAULT_TOML),
        Command::Schema => print(&format!("{:#}\n", reference::schema())),
        Command::Docs => print(&reference::markdown()),
        Command::Show(config) => show(config),
    }
}

/// A faulty configuration is shown as well: where its values come from is what one wants to know then.
fn show(args: &ConfigArgs) -> Exit {
    let (effective, exit) = match load::load(&args.sources()) {
        Ok(Loaded { effective, .. }) => (effective, Exit::Ok),
        Err(report) => {
            eprintln!("{report}");
            let exit = Exit::from(&report);
            let Report { effective, .. } = report;
            (effective, exit)
        }
    };
    let lines: String = effective.iter().map(|line| format!("{line}\n")).collect();
    match print(&lines) {
        Exit::Ok => exit,
        failed => failed,
    }
}
