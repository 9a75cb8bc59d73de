//! A child process: pinned to a core, measured by what the kernel says about it, ended by its id when dropped.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// What is measured runs here, alone.
pub const SERVER_CORE: usize = 0;
/// Readers, publishers and NATS run here.
pub const OTHER_CORE: usize = 1;
/// Nothing that is started may take longer than this to be of use.
const PATIENCE: Duration = Duration::from_secs(120);

/// A child and the children that it has, such as nginx's workers.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it.
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|fault| panic!("{}: {fault}", command.get_program().display()));
        Self { child }
    }

    /// Its pipes.
    pub fn pipes(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time so far, user and system, of all threads, in seconds; children included.
    pub fn cpu(&self) -> f64 {
        self.family().into_iter().flat_map(tasks).map(|task| nanoseconds(&task)).sum::<f64>() / 1e9
    }

    /// Memory that it alone is charged with, in KiB; children included.
    pub fn pss_kib(&self) -> f64 {
        self.family().into_iter().map(|id| field_kib(&format!("/proc/{id}/smaps_rollup"), "Pss")).sum()
    }

    /// Resident memory in MiB, by the name of its line: `VmRSS`, or `VmHWM` for the peak.
    pub fn resident(&self, line: &str) -> f64 {
        field_kib(&format!("/proc/{}/status", self.child.id()), line) / 1024.0
    }

    /// The peak of resident memory counts from now.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("our own child");
    }

    fn family(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        std::iter::once(id).chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Children first: without their parent nobody could tell any more whose they were.
        for id in self.family().into_iter().rev() {
            if let Some(id) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// A command that runs on one core, or where we do. It is told to end should we end without dropping it.
pub fn command(core: Option<usize>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let Some(core) = core {
        command.args(["taskset", "-c", &core.to_string()]);
    }
    // Both tools become the program: the id of the child is the program's.
    command.arg(program);
    command
}

/// Runs this thread, and what it starts, on one core.
pub fn pin(core: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(core);
    sched_setaffinity(None, &cpus).expect("a machine with two cores");
}

/// Raises the limit on descriptors as far as it goes, and gives it.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    limit.unwrap_or(u64::MAX)
}

/// A port that nobody has.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Waits until something is so.
pub fn until(what: &str, mut met: impl FnMut() -> bool) {
    let started = Instant::now();
    while !met() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn tasks(id: u32) -> Vec<std::path::PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("the process runs");
    tasks.flatten().map(|task| task.path()).collect()
}

/// Time on a CPU; to the nanosecond, which `stat` is not.
fn nanoseconds(task: &Path) -> f64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0.0)
}

fn field_kib(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(path).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).expect("a number")
}
