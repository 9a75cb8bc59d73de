//! The command line: parse, choose the command, and give back how it ended. Nothing else reads arguments.

mod admin_client;
pub mod broadcast;
pub mod check;
pub mod completions;
pub mod config;
pub mod connections;
pub mod dev;
pub mod doctor;
pub mod drain;
pub mod exit;
pub mod explain;
pub mod kick;
pub mod man;
pub mod notify;
pub mod options;
pub mod publish;
pub mod runtime;
pub mod send;
pub mod serve;
pub mod service;
pub mod tail;
pub mod version;

use std::ffi::OsString;
use std::io::Write as _;

use clap::Parser;

use exit::Exit;

/// Turns NATS subjects into Server-Sent Events.
#[derive(Debug, Parser)]
#[command(name = "sidestream", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  sidestream dev\n\nExit codes: 1 the answer is no (explain, doctor), 64 usage, 66 missing file, 69 NATS unavailable, 70 internal, 71 system, 77 permission, 78 configuration"
)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command of this version.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Runs the server
    Serve(serve::Args),
    /// Checks a configuration and reports every fault
    Check(check::Args),
    /// Prints the effective or the default configuration
    Config(config::Args),
    /// Runs a demonstration on this machine
    Dev(dev::Args),
    /// Publishes to a subject
    Publish(publish::Args),
    /// Publishes to one user
    Notify(notify::Args),
    /// Publishes to everybody
    Broadcast(broadcast::Args),
    /// Reads a stream
    Tail(tail::Args),
    /// Tells what would become of a request, and why
    Explain(explain::Args),
    /// Probes a deployed chain from outside
    Doctor(doctor::Args),
    /// Lists who is connected to a running instance, or to all
    Connections(connections::Args),
    /// Ends a connection, or all of a user, on any instance
    Kick(kick::Args),
    /// Sends an event to one connection, on any instance
    Send(send::Args),
    /// Lets a running instance close all streams, spread over time
    Drain(drain::Args),
    /// Prints completions for a shell
    Completions(completions::Args),
    /// Prints the manual
    Man(man::Args),
    /// Prints the version
    Version(version::Args),
}

/// Runs the command that the arguments name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    crate::dumps::no_core_files();
    match Cli::try_parse_from(arguments) {
        Ok(cli) => dispatch(&cli.command),
        Err(error) => {
            // Nothing is left to do when the terminal is gone.
            let _ = error.print();
            // --help and --version are errors to clap as well, of the kind that goes to standard output.
            if error.use_stderr() { Exit::Usage } else { Exit::Ok }
        }
    }
}

fn dispatch(command: &Command) -> Exit {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(args),
        Command::Config(args) => config::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Publish(args) => publish::run(args),
        Command::Notify(args) => notify::run(args),
        Command::Broadcast(args) => broadcast::run(args),
        Command::Tail(args) => tail::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Connections(args) => connections::run(args),
        Command::Kick(args) => kick::run(args),
        Command::Send(args) => send::run(args),
        Command::Drain(args) => drain::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Version(args) => version::run(args),
    }
}

/// Prints a result. `println!` would panic on a closed pipe, which `config show | head` makes.
fn print(text: &str) -> Exit {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(_) => Exit::Os,
    }
}

/// Says something on standard error. `eprintln!` would panic where that is full or closed, which is no reason to end a server.
fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn exit(arguments: &[&str]) -> Exit {
        run(std::iter::once("sidestream").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("  sidestream "), "{} has no example", command.get_name());
        }
    }

    #[test]
    fn usage_errors_exit_64_and_help_exits_0() {
        for wrong in [&["nonsense"][..], &["serve", "--nonsense"], &["publish"], &["tail", "x", "--timeout", "5"], &[]]
        {
            assert_eq!(exit(wrong), Exit::Usage, "{wrong:?}");
        }
        for fine in [&["--help"][..], &["--version"], &["serve", "--help"], &["config", "show", "--help"], &["version"]]
        {
            assert_eq!(exit(fine), Exit::Ok, "{fine:?}");
        }
    }

    #[test]
    fn missing_and_faulty_configurations_exit_differently() {
        assert_eq!(exit(&["check", "--config", "/nonexistent/a.toml"]), Exit::NoInput);
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/sidestream.toml");
        assert_eq!(exit(&["check", "--config", example]), Exit::Ok);
        assert_eq!(exit(&["check", "--config", example, "--set", "server.h2c=maybe"]), Exit::Config);
        assert_eq!(exit(&["config", "show", "--config", example]), Exit::Ok);
    }

    #[test]
    fn serve_turns_log_options_into_settings() {
        let cli = Cli::try_parse_from(["sidestream", "serve", "--log-format", "json", "--log-level", "debug"]);
        let Ok(Cli { command: Command::Serve(args) }) = cli else { panic!("serve was not parsed") };
        assert_eq!(args.sources().set, ["log.format=json", "log.level=debug"]);
    }
}
