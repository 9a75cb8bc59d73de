//! `sidestream man`: the manual, from the definition of the command line; as pages for man(1), or as one Markdown page.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::Cli;
use super::exit::Exit;

/// Options of `man`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream man | man -l -\n  sidestream man --dir /usr/share/man/man1\n  sidestream man --markdown > cli.md"
)]
pub struct Args {
    /// Writes a page for each command into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "markdown")]
    pub dir: Option<PathBuf>,
    /// Prints what --help of every command says, as Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// Prints or writes.
pub fn run(args: &Args) -> Exit {
    match &args.dir {
        Some(dir) => write(dir),
        None if args.markdown => super::print(&markdown()),
        None => page(),
    }
}

fn page() -> Exit {
    let mut page = Vec::new();
    match Man::new(Cli::command()).render(&mut page) {
        Ok(()) => super::print(&String::from_utf8_lossy(&page)),
        Err(error) => {
            super::complain(format_args!("error: {error}"));
            Exit::Internal
        }
    }
}

fn write(dir: &Path) -> Exit {
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    match written {
        Ok(()) => Exit::Ok,
        Err(error) => {
            super::complain(format_args!("error: {}: {error}", dir.display()));
            Exit::Os
        }
    }
}

const HEAD: &str = "# Command line

<!-- Made by `sidestream man --markdown`; SIDESTREAM_WRITE_DOCS=1 cargo test --test references rewrites it. -->
";

fn markdown() -> String {
    let mut page = HEAD.to_owned();
    let mut root = Cli::command();
    root.build();
    section(&mut page, &mut root, "sidestream");
    page
}

/// A command and those below it. `help`, which clap adds, says nothing that is not here.
fn section(page: &mut String, command: &mut Command, path: &str) {
    let help = command.render_long_help().to_string();
    // Lines that end in spaces are clap's layout. Writing to a string cannot fail.
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = writeln!(page, "\n## `{path}`\n\n```text\n{}\n```", help.join("\n").trim_end());
    for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
        let path = format!("{path} {}", below.get_name());
        section(page, below, &path);
    }
}
