//! A machine of its own: the real systemd as PID 1 of new namespaces, on this system's files below a layer that is thrown away.
//!
//! Packages can be installed in it and units run as they are shipped, with their own ports and paths. Needs root and a
//! version 2 cgroup; where that is not to be had, the test says so aloud and ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{DEADLINE, eventually};

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machine/boot");
const NEEDS: [&str; 3] = ["/lib/systemd/systemd", "/usr/bin/unshare", "/usr/bin/nsenter"];

/// The running machine. Dropping it ends every process in it and removes what it wrote.
pub struct Machine {
    unshare: Child,
    /// Its PID 1, as we see it.
    init: u32,
    cgroup: PathBuf,
    dir: tempfile::TempDir,
}

impl Machine {
    /// Boots one; `None`, said on standard error, where this machine does not let us.
    pub async fn boot(test: &str) -> Option<Self> {
        let mounted = cgroup2();
        let able = rustix::process::geteuid().is_root() && NEEDS.iter().all(|program| Path::new(program).exists());
        let Some(mounted) = mounted.filter(|_| able) else {
            super::skipped(test, "needs root, systemd, util-linux and cgroup version 2");
            return None;
        };
        let cgroup = mounted.join(format!("sidestream-test-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        if let Err(error) = std::fs::create_dir(&cgroup) {
            super::skipped(test, &format!("no cgroup can be made: {error}"));
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        // The cgroup namespace has for its root where its maker is.
        let enter = "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";
        let unshare = Command::new("sh")
            .args(["-c", enter])
            .arg(&cgroup)
            .args([
                "unshare",
                "--fork",
                "--kill-child",
                "--pid",
                "--mount",
                "--ipc",
                "--uts",
                "--cgroup",
                "--net",
                BOOT,
            ])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("sh starts");
        let mut machine = Self { unshare, init: 0, cgroup, dir };
        machine.init = machine.await_init().await;
        eventually("systemd has booted", DEADLINE * 2, async || {
            let state = machine.run(&["systemctl", "is-active", "basic.target"]);
            (state.stdout == b"active\n").then_some(())
        })
        .await;
        Some(machine)
    }

    async fn await_init(&mut self) -> u32 {
        let started = Instant::now();
        loop {
            let outer = self.unshare.id();
            let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
            let child = children.split_whitespace().next().and_then(|pid| pid.parse::<u32>().ok());
            let is_systemd =
                |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "systemd\n");
            if let Some(pid) = child.filter(is_systemd) {
                return pid;
            }
            if let Some(status) = self.unshare.try_wait().expect("our own child") {
                panic!("the machine ended instead of booting: {status}");
            }
            assert!(started.elapsed() < DEADLINE, "systemd has not started within {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command in it, as root, to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("nsenter runs")
    }

    /// The same, which must succeed; gives what it printed.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}: {}\n{out}{err}{}", output.status, self.console());
        out
    }

    /// A command in it, not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("-t").arg(self.init.to_string()).args(["-m", "-p", "-n", "-i", "-u", "-C", "--"]).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// A file of the machine, as we reach it.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(inside.trim_start_matches('/'))
    }

    /// Writes a file in it, with the directories above.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().expect("a file in a directory")).expect("directories can be made");
        std::fs::write(&path, text).expect("the file is written");
    }

    /// What systemd said.
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            let log = self.run(&["journalctl", "--no-pager", "-n", "80", "-o", "cat"]);
            eprintln!("--- machine\n{}\n{}", self.console(), String::from_utf8_lossy(&log.stdout));
        }
        // Its PID 1 goes with unshare, and with PID 1 everything in it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let started = Instant::now();
        while remove_tree(&self.cgroup).is_err() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where version 2 of cgroups is mounted, alone or beside version 1.
fn cgroup2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|fields| fields.get(2) == Some(&"cgroup2")).find_map(|fields| Some(PathBuf::from(fields.get(1)?)))
}

/// Removes a cgroup and those below it. Their files cannot be removed, and go with them.
fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    std::fs::remove_dir(cgroup)
}
