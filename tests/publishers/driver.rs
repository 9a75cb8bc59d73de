//! The drivers: one program in each language that does what a test says with the library of that language. Built once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::support;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
    Node,
    Python,
}

impl Language {
    pub const ALL: [Self; 3] = [Self::Rust, Self::Node, Self::Python];

    /// The languages whose tools are here; what is missing is said aloud.
    pub fn installed(test: &str) -> Vec<Self> {
        Self::ALL.into_iter().filter(|language| language.is_installed(test)).collect()
    }

    pub fn is_installed(self, test: &str) -> bool {
        let missing = match self {
            Self::Rust => return true,
            Self::Node => {
                (!self.dir().join("node_modules/typescript").exists()).then_some("npm ci in clients/publish-js")
            }
            Self::Python => (!python().exists()).then_some("clients/python/requirements.txt in .cache/publish-python"),
        };
        if let Some(missing) = missing {
            support::skipped(test, &format!("{self:?}: not installed: {missing} (scripts/test does it)"));
        }
        missing.is_none()
    }

    /// The package.
    pub fn dir(self) -> PathBuf {
        Path::new(ROOT).join("clients").join(match self {
            Self::Rust => "rust",
            Self::Node => "publish-js",
            Self::Python => "python",
        })
    }

    /// A program of the package: an example, or the driver.
    pub fn program(self, name: &str) -> Command {
        let dir = if self != Self::Rust && name == "driver" { "test" } else { "examples" };
        match self {
            Self::Rust => Command::new(built_rust().join("debug/examples").join(name)),
            Self::Node => {
                built_node();
                let mut node = Command::new("node");
                node.arg(self.dir().join(dir).join(format!("{name}.mjs")));
                node
            }
            Self::Python => {
                let dir = if dir == "test" { "tests" } else { dir };
                let mut python = in_python();
                python.arg(self.dir().join(dir).join(format!("{name}.py")));
                python
            }
        }
    }
}

fn python() -> PathBuf {
    Path::new(ROOT).join(".cache/publish-python/bin/python")
}

/// The interpreter, with the library as it stands here.
pub fn in_python() -> Command {
    let mut command = Command::new(python());
    command.env("PYTHONPATH", Language::Python.dir().join("src")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.current_dir(Language::Python.dir());
    command
}

/// cargo in the Rust package, with a target directory beside that of this build.
pub fn in_rust(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).arg("--quiet").arg("--locked").current_dir(Language::Rust.dir());
    command.env("CARGO_TARGET_DIR", rust_target());
    command
}

fn rust_target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from);
    target.join("clients-rust")
}

fn built_rust() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        must(in_rust("build").arg("--examples"));
        rust_target()
    })
}

/// Compiles the TypeScript package.
pub fn built_node() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        must(Command::new("node_modules/.bin/tsc").current_dir(Language::Node.dir()));
    });
}

/// Runs a command to its end; what it printed if it succeeded.
#[track_caller]
pub fn must(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out
}

/// A running driver. Dropping it ends it.
pub struct Driver {
    _child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    /// Starts the one of this language on a NATS server.
    pub fn start(language: Language, nats: &str) -> Self {
        let mut command = tokio::process::Command::from(language.program("driver"));
        command.env("NATS_URL", nats).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the driver starts");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { _child: child, stdin, answers: BufReader::new(stdout).lines() }
    }

    /// Tells it to do something, and does not wait.
    pub async fn tell(&mut self, command: Value) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.expect("the driver reads");
    }

    /// Its answer to the oldest command that has none.
    pub async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(support::DEADLINE * 2, self.answers.next_line()).await;
        let line = line.expect("the driver answers in time").expect("the driver writes").expect("the driver lives");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("not an answer: {line:?}: {e}"))
    }

    /// Tells it to do something; its answer, which is no error.
    pub async fn ask(&mut self, command: Value) -> Value {
        let answer = self.try_ask(command.clone()).await;
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer
    }

    /// Tells it to do something; its answer.
    pub async fn try_ask(&mut self, command: Value) -> Value {
        self.tell(command).await;
        self.answer().await
    }
}
