//! A real proxy in front: nginx, Envoy, HAProxy or Caddy, started from the text of a file in `conf/`, ended by pid, its log shown when a test
//! fails.
//!
//! What has to differ from the file on a test machine is a list of replacements, each of which must find its place: a file
//! that changes does so in the tests as well.

use std::net::SocketAddrV4;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getegid, geteuid};
use tokio::net::TcpStream;

use super::{DEADLINE, eventually, process};

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// Debian's nginx.
    Nginx,
    /// Envoy 1.40.0, from PyPI, pinned in `tools/envoy.txt`.
    Envoy,
    /// Debian's HAProxy.
    Haproxy,
    /// Debian's Caddy.
    Caddy,
}

impl Proxy {
    /// Its program, where `scripts/lib/edges.sh` leaves it or the environment names it; `None` where there is none.
    pub fn program(self) -> Option<PathBuf> {
        let (variable, cached) = match self {
            Self::Nginx => ("NGINX_PROGRAM", ".cache/nginx/usr/sbin/nginx"),
            Self::Envoy => ("ENVOY_PROGRAM", ".cache/envoy/1.40.0/envoy"),
            // A path that is absolute stays what it is.
            Self::Haproxy => ("HAPROXY_PROGRAM", "/usr/sbin/haproxy"),
            Self::Caddy => ("CADDY_PROGRAM", "/usr/bin/caddy"),
        };
        let named = std::env::var_os(variable).map(PathBuf::from);
        let found = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(cached));
        found.exists().then_some(found)
    }

    /// Its version, such as `1.22.1`.
    pub fn version(self) -> String {
        let flag = match self {
            Self::Nginx | Self::Haproxy => "-v",
            Self::Envoy => "--version",
            Self::Caddy => "version",
        };
        let output = Command::new(self.program().expect("asked for before")).arg(flag).output().expect("it runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let is_version =
            |word: &&str| word.matches('.').count() == 2 && word.bytes().all(|b| b == b'.' || b.is_ascii_digit());
        said.split(['/', ' ', '-', '\n'])
            .find(is_version)
            .unwrap_or_else(|| panic!("no version in {said:?}"))
            .to_owned()
    }

    fn command(self, home: &Path, config: &Path) -> Command {
        let mut command = Command::new(self.program().expect("asked for before"));
        match self {
            Self::Nginx => {
                command.arg("-p").arg(home).arg("-c").arg(config).arg("-e").arg(home.join("error.log"));
                command.args(["-g", "daemon off;"]);
            }
            Self::Envoy => {
                command.arg("--config-path").arg(config);
                command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
            }
            Self::Haproxy => {
                command.arg("-db").arg("-f").arg(config);
            }
            Self::Caddy => {
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
                for variable in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
                    command.env(variable, home);
                }
            }
        }
        command
    }

    /// What its configuration is called.
    fn file(self) -> &'static str {
        match self {
            Self::Nginx => "nginx.conf",
            Self::Envoy => "envoy.yaml",
            Self::Haproxy => "haproxy.cfg",
            Self::Caddy => "Caddyfile",
        }
    }

    /// Whether it is started as root and gives its account to itself; the others are started under it.
    fn changes_account_itself(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy)
    }

    /// What ends it, and not after the last stream only.
    fn end(self) -> Signal {
        if self == Self::Caddy { Signal::QUIT } else { Signal::TERM }
    }
}

/// Who the proxy is to its upstream: nginx's workers, and the others.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// What sidestream sees by `SO_PEERCRED`.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Account {
    /// As root `www-data`, as Debian's nginx has it; otherwise there is no choice.
    pub fn of_proxies() -> Self {
        if !geteuid().is_root() {
            return Self { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        }
        let passwd = std::fs::read_to_string("/etc/passwd").expect("a list of accounts");
        let line =
            passwd.lines().find(|line| line.starts_with("www-data:")).expect("an account www-data, as Debian has");
        let mut numbers = line.split(':').skip(2).map(|field| field.parse().expect("a number"));
        let mut next = || numbers.next().expect("a number");
        Self { uid: next(), gid: next() }
    }
}

/// A directory for files that a proxy shares with others: its group may read and write, and what is made in it is the group's.
pub fn shared_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    chown(directory.path(), None, Some(Account::of_proxies().gid)).expect("our own directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o2770)).expect("our own directory");
    directory
}

/// Replaces each first text by the second. A text that does not occur, or occurs twice, fails the test.
pub fn replaced(text: &str, replacements: &[(&str, String)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "to be replaced, once: {from:?} in\n{text}");
        text.replace(from, to)
    })
}

/// A running proxy.
pub struct Edge {
    proxy: Proxy,
    child: Child,
    /// Where it listens.
    pub address: SocketAddrV4,
    home: tempfile::TempDir,
}

impl Edge {
    /// Starts a proxy from a configuration that makes it listen at an address, and waits until it does. The configuration may
    /// use `@home@` for a directory of the proxy's own.
    pub async fn start(proxy: Proxy, config: &str, address: SocketAddrV4) -> Self {
        let home = shared_directory();
        let file = home.path().join(proxy.file());
        std::fs::write(&file, config.replace("@home@", &home.path().display().to_string())).expect("written");
        let log = std::fs::File::create(home.path().join("output.log")).expect("created");
        let mut command = proxy.command(home.path(), &file);
        if !proxy.changes_account_itself() && geteuid().is_root() {
            let account = Account::of_proxies();
            command.uid(account.uid).gid(account.gid);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{proxy:?} does not start: {error}"));
        let mut edge = Self { proxy, child, address, home };
        eventually(&format!("{proxy:?} listens"), DEADLINE, async || {
            let ended = edge.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "{proxy:?} ended instead of listening: {ended:?}");
            TcpStream::connect(address).await.ok()
        })
        .await;
        edge
    }

    /// What it wrote to its log, the access log left out.
    pub fn log(&self) -> String {
        ["output.log", "error.log"]
            .iter()
            .filter_map(|name| std::fs::read_to_string(self.home.path().join(name)).ok())
            .collect()
    }

    /// What nginx wrote to its access log.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("access.log")).unwrap_or_default()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Not SIGKILL first: nginx's master would leave its workers behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            process::signal(&self.child, self.proxy.end());
        }
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(10_000);
            eprintln!("--- {:?}, log\n{}", self.proxy, String::from_utf8_lossy(&log.as_bytes()[from..]));
        }
    }
}
