//! The Debian package: made by scripts/package from the program of this build, judged by lintian, and installed, used, upgraded
//! and removed on a machine of its own that the real systemd runs. This machine is not touched.

mod support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::machine::Machine;
use support::{DEADLINE, Version, eventually, program};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const NEEDS: [&str; 3] = ["dpkg-deb", "dpkg-shlibdeps", "lintian"];
const UNITS: [&str; 3] = ["sidestream.service", "sidestream.socket", "sidestream-admin.socket"];
const CONFIG: &str = "/etc/sidestream/sidestream.toml";
/// As nginx's workers: the only uid that the shipped configuration believes.
const AS_NGINX: [&str; 4] = ["setpriv", "--reuid=33", "--regid=33", "--clear-groups"];

fn is_able(test: &str) -> bool {
    let found = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let able = NEEDS.iter().all(found);
    if !able {
        support::skipped(test, "needs dpkg-dev and lintian");
    }
    able
}

/// Builds a package of this revision into the directory.
fn package(dir: &Path, revision: &str) -> PathBuf {
    let mut script = Command::new(Path::new(ROOT).join("scripts/package"));
    script.arg("--binary").arg(program::path()).args(["--revision", revision, "--out"]).arg(dir);
    let pages = tempfile::tempdir().expect("a temporary directory");
    let manual = program::command().args(["man", "--dir"]).arg(pages.path()).output().expect("the program runs");
    if !manual.status.success() {
        script.arg("--generator").arg(stand_in(dir));
    }
    // Hard work on a program of this size, and nothing the tests look at.
    script.env("DPKG_DEB_COMPRESSOR_LEVEL", "0");
    let output = script.stdin(Stdio::null()).output().expect("scripts/package runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Prints a manual and completions, where the program of this build cannot yet.
fn stand_in(dir: &Path) -> PathBuf {
    let file = dir.join("generator");
    let page = r".TH sidestream 1\n.SH NAME\nsidestream \\- NATS subjects as Server-Sent Events\n";
    let text = format!("#!/bin/sh\ncase $1 in man) printf '{page}' >$3/sidestream.1 ;; *) echo \"# $2\" ;; esac\n");
    std::fs::write(&file, text).expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("our own file");
    file
}

#[test]
fn lintian_finds_nothing() {
    if !is_able("lintian_finds_nothing") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let package = package(dir.path(), "1");
    let output = Command::new("lintian").args(["--fail-on", "error,warning,info"]).arg(package).output();
    let output = output.expect("lintian runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_same_commit_gives_the_same_bytes() {
    if !is_able("the_same_commit_gives_the_same_bytes") {
        return;
    }
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [one, other] = dirs.each_ref().map(|dir| std::fs::read(package(dir.path(), "1")).expect("the package"));
    assert!(one == other, "two packages of the same sources differ");
}

#[tokio::test]
async fn it_is_installed_used_upgraded_and_removed() {
    const TEST: &str = "it_is_installed_used_upgraded_and_removed";
    if !is_able(TEST) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let packages = ["1", "2"].map(|revision| (revision, package(dir.path(), revision)));
    let Some(machine) = Machine::boot(TEST).await else { return };
    support::bounded(async {
        for (revision, package) in packages {
            std::fs::copy(package, machine.path(&format!("/var/{revision}.deb"))).expect("copied");
        }
        start_nats(&machine);
        machine.must(&["dpkg", "--install", "/var/1.deb"]);
        is_ready(&machine).await;
        is_installed(&machine);
        is_confined(&machine);
        only_the_proxy_is_believed(&machine);
        streams(&machine);
        configured_with_a_credential(&machine).await;
        a_faulty_file_changes_nothing(&machine).await;
        nobody_is_refused_while(&machine, &["systemctl", "restart", "sidestream.service"]).await;
        the_watchdog_restarts_what_stands_still(&machine).await;
        upgraded(&machine).await;
        removed(&machine);
    })
    .await;
}

fn start_nats(machine: &Machine) {
    let server = Version::Current.binary();
    let unit = format!(
        "[Service]\nExecStart={} --addr 127.0.0.1 --port 4222 --jetstream --store_dir /var/lib/nats-test\n",
        server.display()
    );
    machine.write("/etc/systemd/system/nats-server.service", &unit);
    machine.must(&["systemctl", "daemon-reload"]);
    machine.must(&["systemctl", "start", "nats-server.service"]);
}

async fn is_ready(machine: &Machine) {
    eventually("the service is ready", DEADLINE * 2, async || {
        machine.run(&["curl", "-sf", "http://127.0.0.1:9464/readyz"]).status.success().then_some(())
    })
    .await;
}

fn is_installed(machine: &Machine) {
    for unit in UNITS {
        assert_eq!(machine.must(&["systemctl", "is-active", unit]), "active\n", "{unit}");
        assert_eq!(machine.must(&["systemctl", "is-enabled", unit]), "enabled\n", "{unit}");
    }
    let about = |path: &str| machine.must(&["stat", "--format=%a %U:%G", path]).trim().to_owned();
    for (path, wanted) in [
        ("/usr/bin/sidestream", "755 root:root"),
        ("/etc/sidestream", "750 root:sidestream"),
        (CONFIG, "640 root:sidestream"),
        ("/run/sidestream", "755 root:root"),
        ("/run/sidestream/http.sock", "660 root:www-data"),
        ("/lib/systemd/system/sidestream.service", "644 root:root"),
        ("/usr/lib/sysusers.d/sidestream.conf", "644 root:root"),
        ("/usr/share/man/man1/sidestream.1.gz", "644 root:root"),
        ("/usr/share/bash-completion/completions/sidestream", "644 root:root"),
        ("/usr/share/zsh/vendor-completions/_sidestream", "644 root:root"),
        ("/usr/share/fish/vendor_completions.d/sidestream.fish", "644 root:root"),
        ("/usr/share/doc/sidestream/copyright", "644 root:root"),
        ("/usr/share/doc/sidestream/examples/credentials.conf", "644 root:root"),
    ] {
        assert_eq!(about(path), wanted, "{path}");
    }
    machine.must(&["runuser", "-u", "sidestream", "--", "sidestream", "check"]);
    assert!(!Path::new("/usr/lib/sysusers.d/sidestream.conf").exists(), "this machine was touched");
}

/// What the unit asks for is what the kernel says of the process.
fn is_confined(machine: &Machine) {
    let pid = main_pid(machine);
    let status = machine.must(&["cat", &format!("/proc/{pid}/status")]);
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line:?} is not in\n{status}");
    }
    assert_eq!(machine.must(&["stat", "--format=%U", &format!("/proc/{pid}")]), "sidestream\n");
    let told = machine.must(&["systemctl", "show", "--property=StatusText", "--value", "sidestream.service"]);
    assert_eq!(told, "0 streams open\n");
}

fn main_pid(machine: &Machine) -> String {
    machine.must(&["systemctl", "show", "--property=MainPID", "--value", "sidestream.service"]).trim().to_owned()
}

/// curl for alice's events, as this user.
fn alice(machine: &Machine, user: &[&str]) -> Command {
    let curl = ["curl", "-sSN", "--max-time", "60", "--unix-socket", "/run/sidestream/http.sock", "-i"];
    let request = ["-H", "X-Forwarded-User: alice", "-H", "Accept: text/event-stream", "http://sidestream/events"];
    machine.command(&[user, &curl, &request].concat())
}

/// Ends when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn only_the_proxy_is_believed(machine: &Machine) {
    let root = alice(machine, &[]).output().expect("curl runs");
    assert!(!root.status.success() && root.stdout.is_empty(), "root is not the proxy, and was answered");
}

fn streams(machine: &Machine) {
    let mut curl = Running(alice(machine, &AS_NGINX).stdout(Stdio::piped()).spawn().expect("curl starts"));
    let mut lines = BufReader::new(curl.0.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line == "event: sidestream.connected"), "no event stream");
    machine.must(&["sidestream", "publish", "events.user.alice.note", "hello"]);
    assert!(lines.any(|line| line == "data: hello"), "the event has not come");
}

/// A local change, and a secret that only systemd and the service can read.
async fn configured_with_a_credential(machine: &Machine) {
    machine.write("/etc/sidestream/admin.token", "0123456789abcdef0123456789abcdef\n");
    machine.must(&["chmod", "600", "/etc/sidestream/admin.token"]);
    machine.must(&["sed", "-i", "s/^listen = \"systemd:admin\"/&\\ntoken_file = \"credential:admin.token\"/", CONFIG]);
    let shipped = std::fs::read_to_string(Path::new(ROOT).join("packaging/credentials.conf")).expect("the drop-in");
    let drop_in = shipped.replace("nats.creds", "admin.token") + "WatchdogSec=3s\nTimeoutAbortSec=1s\n";
    machine.write("/etc/systemd/system/sidestream.service.d/credentials.conf", &drop_in);
    machine.must(&["systemctl", "daemon-reload"]);
    machine.must(&["systemctl", "restart", "sidestream.service"]);
    is_ready(machine).await;
    let connections = "http://127.0.0.1:9464/connections";
    assert!(!machine.run(&["curl", "-sf", connections]).status.success(), "told without the token");
    machine.must(&["curl", "-sf", "-H", "Authorization: Bearer 0123456789abcdef0123456789abcdef", connections]);
}

async fn a_faulty_file_changes_nothing(machine: &Machine) {
    let before = main_pid(machine);
    machine.must(&["sed", "-i", "s/^version = 1/version = 2/", CONFIG]);
    machine.must(&["systemctl", "reload", "sidestream.service"]);
    is_ready(machine).await;
    machine.must(&["sed", "-i", "s/^version = 2/version = 1/", CONFIG]);
    machine.must(&["systemctl", "reload", "sidestream.service"]);
    is_ready(machine).await;
    assert_eq!(main_pid(machine), before, "it runs on");
}

/// While the command runs, whoever connects waits or is asked to come again; nobody is refused.
async fn nobody_is_refused_while(machine: &Machine, command: &[&str]) {
    let (before, socket) = (main_pid(machine), inode(machine));
    let mut running = Running(machine.command(command).stdout(Stdio::null()).spawn().expect("it starts"));
    let mut connected = 0;
    while running.0.try_wait().expect("our own child").is_none() {
        let mut curl = alice(machine, &AS_NGINX);
        let mut curl = Running(curl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("curl starts"));
        let mut lines = BufReader::new(curl.0.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok);
        assert_eq!(lines.next().as_deref(), Some("HTTP/1.1 200 OK"), "after {connected}");
        connected += 1;
    }
    assert!(running.0.wait().expect("our own child").success(), "{command:?}");
    assert!(connected > 0, "nobody connected");
    assert_ne!(main_pid(machine), before, "another process serves");
    assert_eq!(inode(machine), socket, "on the same socket");
    is_ready(machine).await;
}

fn inode(machine: &Machine) -> String {
    machine.must(&["stat", "--format=%i", "/run/sidestream/http.sock"])
}

async fn the_watchdog_restarts_what_stands_still(machine: &Machine) {
    let before = main_pid(machine);
    machine.must(&["kill", "-STOP", &before]);
    eventually("the watchdog restarts the service", DEADLINE * 2, async || {
        let show = ["systemctl", "show", "--property=NRestarts", "--value", "sidestream.service"];
        (machine.must(&show) == "1\n").then_some(())
    })
    .await;
    is_ready(machine).await;
    assert_ne!(main_pid(machine), before);
}

async fn upgraded(machine: &Machine) {
    let changed = machine.must(&["cat", CONFIG]);
    nobody_is_refused_while(machine, &["dpkg", "--install", "/var/2.deb"]).await;
    assert_eq!(machine.must(&["cat", CONFIG]), changed, "a local change is kept");
    let mode = machine.must(&["stat", "--format=%a %U:%G", CONFIG]);
    assert_eq!(mode, "640 root:sidestream\n");
    let version = machine.must(&["dpkg-query", "--show", "--showformat=${Version} ${db:Status-Abbrev}", "sidestream"]);
    assert!(version.ends_with("-2 ii "), "{version:?}");
}

fn removed(machine: &Machine) {
    machine.must(&["dpkg", "--remove", "sidestream"]);
    let exists = |path: &str| machine.run(&["test", "-e", path]).status.success();
    for unit in UNITS {
        assert!(!machine.run(&["systemctl", "is-active", unit]).status.success(), "{unit} runs on");
    }
    for path in ["/usr/bin/sidestream", "/run/sidestream/http.sock", "/usr/share/doc/sidestream"] {
        assert!(!exists(path), "{path} is left");
    }
    assert!(exists(CONFIG), "the configuration stays until it is purged");
    machine.must(&["rm", "/etc/sidestream/admin.token"]);
    machine.must(&["dpkg", "--purge", "sidestream"]);
    let left = machine.must(&[
        "sh",
        "-c",
        "find /etc/sidestream /etc/systemd/system /var/lib/systemd | grep sidestream || true",
    ]);
    // The drop-in is the administrator's.
    let left: Vec<&str> = left.lines().filter(|path| !path.contains("sidestream.service.d")).collect();
    assert!(left.is_empty(), "{left:?}");
}
