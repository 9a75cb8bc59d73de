//! What `sidestream_build_info` says of a build: the compiler, and the revision where the environment or, for a release, git
//! tells it.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SIDESTREAM_REVISION");
    let rustc = std::env::var("RUSTC").ok().and_then(|rustc| said(Command::new(rustc).arg("--version")));
    // "rustc 1.95.0 (…)": the version is enough.
    let rustc = rustc.and_then(|text| text.split_whitespace().nth(1).map(str::to_owned));
    println!("cargo:rustc-env=SIDESTREAM_RUSTC={}", rustc.as_deref().unwrap_or("unknown"));
    let revision = std::env::var("SIDESTREAM_REVISION").ok().or_else(of_git);
    println!("cargo:rustc-env=SIDESTREAM_REVISION={}", revision.as_deref().unwrap_or("unknown"));
}

/// Not for other builds: each commit would compile everything again.
fn of_git() -> Option<String> {
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    let head = said(Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"]))?;
    println!("cargo:rerun-if-changed={head}");
    said(Command::new("git").args(["rev-parse", "--short=12", "HEAD"]))
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}
