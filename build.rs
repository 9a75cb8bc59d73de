//! What `sidestream version --json` says of the build: the revision, the compiler, the features.
//!
//! `SIDESTREAM_REVISION` says it where there is no git, as in a packaged source. Builds for development do not ask git: every commit
//! would compile everything anew.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SIDESTREAM_REVISION");
    let named = std::env::var("SIDESTREAM_REVISION").ok().filter(|revision| !revision.is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let revision = named.or_else(|| if is_release { of_git() } else { None });
    println!("cargo::rustc-env=SIDESTREAM_BUILD_REVISION={}", revision.unwrap_or_else(|| "unknown".to_owned()));
    let compiler = std::env::var("RUSTC").ok().and_then(|rustc| output(Command::new(rustc).arg("--version")));
    println!("cargo::rustc-env=SIDESTREAM_BUILD_RUSTC={}", compiler.unwrap_or_else(|| "unknown".to_owned()));
    let features = std::env::vars().filter_map(|(name, _)| name.strip_prefix("CARGO_FEATURE_").map(str::to_lowercase));
    let mut features: Vec<String> =
        features.filter(|name| name != "default").map(|name| name.replace('_', "-")).collect();
    features.sort();
    println!("cargo::rustc-env=SIDESTREAM_BUILD_FEATURES={}", features.join(","));
}

/// The commit that is checked out here, with `-dirty` where files differ from it. A repository that merely holds this directory
/// says nothing of it.
fn of_git() -> Option<String> {
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let git = |args: &[&str]| output(Command::new("git").arg("-C").arg(&here).args(args));
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    for file in ["HEAD", "logs/HEAD"] {
        println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--path-format=absolute", "--git-path", file])?);
    }
    let revision = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { revision } else { format!("{revision}-dirty") })
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
