//! `sidestream completions`: completions for a shell, from the definition of the command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use super::exit::Exit;

/// Options of `completions`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream completions bash > /usr/share/bash-completion/completions/sidestream\n  sidestream completions zsh > /usr/share/zsh/vendor-completions/_sidestream"
)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints them.
pub fn run(args: &Args) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sidestream", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}
