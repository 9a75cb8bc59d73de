//! A program under valgrind's callgrind, which counts the instructions of each thread in user space.
//!
//! It is steered by `vgdb`, of the same package, as `callgrind_control` does it, which wants Perl. Its pipes lie in the
//! directory of the profiles and not in /tmp, where one that is killed would leave them behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A place for profiles, and the way to the process that makes them.
pub struct Callgrind {
    directory: PathBuf,
}

/// What one thread did.
pub struct Thread {
    pub name: String,
    pub instructions: u64,
    /// For `callgrind_annotate`.
    pub profile: PathBuf,
}

impl Callgrind {
    /// Whether this machine has it.
    pub fn is_here() -> bool {
        ["valgrind", "vgdb"].iter().all(|program| Command::new(program).arg("--help").output().is_ok())
    }

    /// Profiles go into this directory.
    pub fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).expect("a directory");
        Self { directory }
    }

    /// What stands before a program so that it runs under callgrind. Nothing is counted yet: it starts faster that way.
    pub fn before(&self) -> Vec<String> {
        let fixed = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"];
        let profiles = format!("--callgrind-out-file={}", self.profiles().display());
        fixed.map(str::to_owned).into_iter().chain([self.pipes(), profiles]).collect()
    }

    /// Instructions are counted from now on.
    pub fn count(&self, process: u32) {
        self.order(process, "instrumentation on");
    }

    /// What was counted so far does not count.
    pub fn forget(&self, process: u32) {
        self.order(process, "zero");
    }

    /// What each thread did.
    pub fn threads(&self, process: u32) -> Vec<Thread> {
        let status = self.order(process, "v.info scheduler");
        self.order(process, "dump");
        status.lines().filter_map(|line| self.thread(process, line)).collect()
    }

    /// The thread of a line like `Thread 2: status = VgTs_WaitSys syscall 232 (lwpid 10014)`; one that did nothing has no
    /// profile.
    fn thread(&self, process: u32, line: &str) -> Option<Thread> {
        let (number, rest) = line.strip_prefix("Thread ")?.split_once(": status")?;
        let (_, task) = rest.trim_end_matches(')').rsplit_once("(lwpid ")?;
        let number: u32 = number.parse().ok()?;
        let profile = PathBuf::from(format!("{}.1-{number:02}", self.profiles().display()));
        let text = fs::read_to_string(&profile).ok()?;
        // The sum of the profile's lines, which `summary:` misses by a few.
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let instructions = total.and_then(|total| total.trim().parse().ok()).expect("a total");
        Some(Thread { name: name(process, task), instructions, profile })
    }

    fn order(&self, process: u32, order: &str) -> String {
        let mut vgdb = Command::new("vgdb");
        vgdb.arg(self.pipes()).arg(format!("--pid={process}")).args(order.split(' '));
        let output = vgdb.output().expect("vgdb runs");
        assert!(output.status.success(), "{order}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn pipes(&self) -> String {
        format!("--vgdb-prefix={}", self.directory.join("vgdb").display())
    }

    fn profiles(&self) -> PathBuf {
        self.directory.join("profile")
    }
}

/// A thread's own name, without the program's, of which the kernel keeps fifteen bytes.
fn name(process: u32, task: &str) -> String {
    let path = format!("/proc/{process}/task/{task}/comm");
    let name = fs::read_to_string(Path::new(&path)).unwrap_or_default();
    match name.trim().strip_prefix("sidestream-") {
        Some("shar") => "shard".to_owned(),
        Some(own) => own.to_owned(),
        None if task == process.to_string() => "main".to_owned(),
        None => name.trim().to_owned(),
    }
}
