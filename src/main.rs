//! The `sidestream` binary: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidestream::cli::run(std::env::args_os()).into()
}
