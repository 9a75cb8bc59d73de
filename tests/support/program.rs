//! Which program the tests run: that of this build, or the one that `SIDESTREAM_PROGRAM` names, such as a static release.

use std::path::PathBuf;
use std::process::Command;

/// Where it is.
pub fn path() -> PathBuf {
    let named = std::env::var_os("SIDESTREAM_PROGRAM").filter(|path| !path.is_empty());
    named.map_or_else(|| env!("CARGO_BIN_EXE_sidestream").into(), PathBuf::from)
}

/// To be given arguments.
pub fn command() -> Command {
    Command::new(path())
}
