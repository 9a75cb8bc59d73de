//! The `sidestream` binary: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

/// Small objects that live long are kept apart from hyper's large buffers that come and go with every request: with the
/// system's allocator those leave holes behind that cost as much again as an idle connection.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sidestream::cli::run(std::env::args_os()).into()
}
