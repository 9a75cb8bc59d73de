//! The program as a service of systemd: what it tells the service manager, the sockets it is handed, and the units themselves.
//!
//! Here the manager is played by a datagram socket and `systemd-socket-activate`; tests/package.rs runs the units under the
//! real one.

mod support;

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, get, program};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
const TRUST: &str = "proxies = [\"127.0.0.1\", \"unix\"]\naddress_is_proof = true\n";

/// A service manager's end of the notification socket.
struct Manager {
    socket: tokio::net::UnixDatagram,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_nonblocking(true).expect("our own socket");
        Self { socket: tokio::net::UnixDatagram::from_std(socket).expect("a runtime"), path, _dir: dir }
    }

    /// The command under this manager, with a watchdog of so long where there is one.
    fn manages(&self, mut serve: Command, watchdog: Option<Duration>) -> Command {
        serve.env("NOTIFY_SOCKET", &self.path);
        if let Some(within) = watchdog {
            serve.env("WATCHDOG_USEC", within.as_micros().to_string());
        }
        serve
    }

    /// The next message.
    async fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let received = tokio::time::timeout(DEADLINE, self.socket.recv(&mut bytes)).await;
        let length = received.expect("the service manager is told something").expect("our own socket");
        String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned()
    }

    /// Messages up to and with the first that holds `text`.
    async fn until(&self, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        while !all.last().is_some_and(|told: &String| told.contains(text)) {
            assert!(all.len() < 200, "never told {text:?}: {all:?}");
            all.push(self.told().await);
        }
        all
    }

    /// What has been told already and not been read.
    fn waiting(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let next =
            || self.socket.try_recv(&mut bytes).ok().map(|length| String::from_utf8_lossy(&bytes[..length]).into());
        std::iter::from_fn(next).collect()
    }
}

#[tokio::test]
async fn the_service_manager_is_told_of_start_streams_reload_and_end() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let manager = Manager::new();
        let config = Config::on(&nats);
        // Without a watchdog the status is looked at every five seconds, and nothing is fed.
        let mut app = App::launch(&config, |serve| manager.manages(serve, None)).await;
        assert_eq!(manager.told().await, "READY=1");
        assert_eq!(manager.told().await, "STATUS=0 streams open");
        app.ready().await;
        let stream = app.events("alice").await;
        assert_eq!(manager.told().await, "STATUS=1 stream open");

        app.hang_up();
        let reloading = manager.told().await;
        let (first, clock) = reloading.split_once('\n').expect("two assignments");
        assert_eq!(first, "RELOADING=1");
        let micros = clock.strip_prefix("MONOTONIC_USEC=").and_then(|micros| micros.parse::<u64>().ok());
        assert!(micros.is_some_and(|micros| micros > 0), "{clock}");
        assert_eq!(manager.told().await, "READY=1");

        app.terminate();
        // The drain window is a second; the service manager is asked to wait for that and a margin.
        assert_eq!(manager.told().await, "STOPPING=1\nEXTEND_TIMEOUT_USEC=16000000");
        drop(stream);
        assert_eq!(app.exit(DEADLINE).await.code(), Some(0));
        assert!(!manager.waiting().iter().any(|told| told.contains("WATCHDOG")), "nobody asked for it");
    })
    .await;
}

#[tokio::test]
async fn ready_is_said_when_the_listeners_answer() {
    support::bounded(async {
        let manager = Manager::new();
        // NATS is away: that does not keep a service from being started.
        let app = App::launch(&Config::at("nats://127.0.0.1:1"), |serve| manager.manages(serve, None)).await;
        assert_eq!(manager.told().await, "READY=1");
        app.ask(get("/events").user("alice")).await.is_soft_refusal("nats");
        assert_eq!(app.admin_get("/livez").await.head.status, 200);
    })
    .await;
}

#[tokio::test]
async fn the_watchdog_is_fed_and_not_while_the_process_stands_still() {
    support::bounded(async {
        let manager = Manager::new();
        let watchdog = Some(Duration::from_millis(300));
        let app = App::launch(&Config::at("nats://127.0.0.1:1"), |serve| manager.manages(serve, watchdog)).await;
        manager.until("WATCHDOG=1").await;
        manager.until("WATCHDOG=1").await;
        app.pause();
        manager.waiting();
        // Three times the time in which a live process says something three times.
        let silent = tokio::time::timeout(Duration::from_millis(900), manager.told()).await;
        assert!(silent.is_err(), "a stopped process says {silent:?}");
        app.resume();
        manager.until("WATCHDOG=1").await;
    })
    .await;
}

#[tokio::test]
async fn a_watchdog_of_another_process_is_not_fed() {
    support::bounded(async {
        let manager = Manager::new();
        let app = App::launch(&Config::at("nats://127.0.0.1:1"), |serve| {
            let mut serve = manager.manages(serve, Some(Duration::from_millis(300)));
            serve.env("WATCHDOG_PID", "1");
            serve
        })
        .await;
        assert_eq!(manager.told().await, "READY=1");
        assert_eq!(manager.told().await, "STATUS=0 streams open");
        app.terminate();
        assert!(manager.told().await.starts_with("STOPPING=1"), "without a watchdog in between");
    })
    .await;
}

/// A thread of the program that a tracer holds. Dropping it lets the thread go on.
struct Held(Child);

impl Held {
    /// Holds the first thread with this name, of which the kernel keeps 15 bytes; `None` where this machine does not let us trace.
    fn thread(app: &App, name: &str) -> Option<Self> {
        let tasks = format!("/proc/{}/task", app.pid());
        let named =
            |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        let all = std::fs::read_dir(tasks).expect("our own child").flatten().map(|entry| entry.path());
        let thread = all.filter(named).min().expect("there is such a thread");
        let id = thread.file_name().expect("a thread's number").to_owned();
        // PTRACE_SEIZE and PTRACE_INTERRUPT stop that one thread; it goes on when the tracer ends.
        let script = "import ctypes, sys\n\
                      trace = ctypes.CDLL(None, use_errno=True).ptrace\n\
                      trace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]\n\
                      thread = int(sys.argv[1])\n\
                      held = trace(0x4206, thread, None, None) == 0 and trace(0x4207, thread, None, None) == 0\n\
                      print('held' if held else 'refused', flush=True)\n\
                      sys.stdin.read()\n";
        let mut tracer = Command::new("python3");
        tracer.arg("-c").arg(script).arg(id).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut held = Self(tracer.spawn().expect("python3 starts"));
        let mut answer = String::new();
        let stdout = held.0.stdout.take().expect("stdout is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut answer).expect("python3 answers");
        (answer.trim() == "held").then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_stuck_thread_starves_the_watchdog() {
    support::bounded(async {
        let manager = Manager::new();
        let watchdog = Some(Duration::from_secs(1));
        let app = App::launch(&Config::at("nats://127.0.0.1:1"), |serve| manager.manages(serve, watchdog)).await;
        for (thread, part) in [("sidestream-shar", "shard"), ("sidestream-feed", "feed"), ("sidestream-memo", "memory")]
        {
            manager.until("WATCHDOG=1").await;
            let Some(held) = Held::thread(&app, thread) else {
                return support::skipped("a_stuck_thread_starves_the_watchdog", "may not trace a process");
            };
            let stuck = format!("STATUS=stuck: no sign of life from {part} for");
            manager.until(&stuck).await;
            // Two more such looks, and nothing fed at any of them.
            for _ in 0..2 {
                assert!(manager.told().await.starts_with(&stuck), "fed while {part} is stuck");
            }
            app.logs("the watchdog is not fed", DEADLINE).await;
            drop(held);
            manager.until("STATUS=0 streams open").await;
        }
        manager.until("WATCHDOG=1").await;
    })
    .await;
}

/// A parent that holds the listening sockets, as systemd does, and hands them to one program after the other.
struct Holder {
    public: UnixListener,
    admin: std::net::TcpListener,
    dir: tempfile::TempDir,
}

impl Holder {
    fn new(admin: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let public = UnixListener::bind(dir.path().join("http.sock")).expect("bound");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
        std::fs::set_permissions(dir.path().join("http.sock"), mode).expect("our own socket");
        let admin = std::net::TcpListener::bind(admin).expect("bound");
        for fd in [public.as_fd(), admin.as_fd()] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).expect("our own descriptor");
        }
        Self { public, admin, dir }
    }

    fn config(&self, nats: &str) -> Config {
        Config::at(nats).trust(Some(TRUST)).listen(&["systemd:public"])
    }

    /// Descriptors 3 and 4, by name, with the admin listener on the second.
    fn hands_over(&self, serve: &Command) -> Command {
        let (public, admin) = (self.public.as_raw_fd(), self.admin.as_raw_fd());
        let script = format!(
            "exec 8<&{public} 9<&{admin}; exec 3<&8 4<&9 8<&- 9<&-; \
             LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=public:admin exec \"$@\" --set admin.listen=systemd:admin"
        );
        // dash knows descriptors of one digit only.
        let mut shell = Command::new("bash");
        shell.args(["-c", &script, "bash"]).arg(serve.get_program()).args(serve.get_args());
        shell
    }

    async fn connect(&self) -> Wire {
        Wire::tcp(&format!("unix:{}", self.dir.path().join("http.sock").display())).await
    }
}

#[tokio::test]
async fn a_restart_keeps_the_sockets_and_refuses_nobody() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let holder = Holder::new("127.0.0.1:0");
        let config = holder.config(&nats.url());
        let mut old = App::launch(&config, |serve| holder.hands_over(&serve)).await;
        old.ready().await;
        assert_eq!(old.admin, holder.admin.local_addr().expect("bound").to_string());
        let mut stays = Sse::open(holder.connect().await, &get("/events").user("alice")).await;
        publisher.publish("events.user.alice.note", "before").await;
        let before = stays.event().await;

        old.terminate();
        stays.until_named("sidestream.bye", DEADLINE).await;
        assert_eq!(old.exit(DEADLINE).await.code(), Some(0));
        // Nobody serves now. Those who connect wait; what happens meanwhile is in the stream.
        let again = get("/events").user("alice").header("Last-Event-ID", before.id.expect("a stored event"));
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let mut wire = holder.connect().await;
            wire.send(&again.bytes()).await;
            waiting.push(wire);
        }
        publisher.publish("events.user.alice.note", "meanwhile").await;

        let next = App::launch(&config, |serve| holder.hands_over(&serve)).await;
        next.ready().await;
        for mut wire in waiting {
            let head = wire.head().await;
            // Who was served before NATS was seen is asked to come again, by an answer and not by a refusal.
            let mut sse = if head.header("sidestream-refused").is_some() {
                Sse::open(holder.connect().await, &again).await
            } else {
                Sse::begun(wire, head).await
            };
            assert_eq!(sse.resume(), "exact");
            assert_eq!(sse.event().await.data, "meanwhile");
        }
    })
    .await;
}

#[tokio::test]
async fn an_inherited_admin_socket_is_judged_by_where_it_is_bound() {
    support::bounded(async {
        let token = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(token.path(), "0123456789abcdef0123456789abcdef").expect("written");
        let open = Holder::new("0.0.0.0:0");
        let config = open.config("nats://127.0.0.1:1");
        let mut app = App::spawn(&config, |serve| open.hands_over(&serve));
        assert_eq!(app.exit(DEADLINE).await.code(), Some(71), "{:?}", app.log_lines());
        app.logs("can be reached from other machines, and there is no admin.token_file", DEADLINE).await;
        let with_token = App::launch(&config, |mut serve| {
            serve.args(["--set", &format!("admin.token_file={}", token.path().display())]);
            open.hands_over(&serve)
        });
        with_token.await;

        // On loopback none is needed, and a page of a name that leads here is turned away as with an address of our own.
        let private = Holder::new("127.0.0.1:0");
        let app = App::launch(&private.config("nats://127.0.0.1:1"), |serve| private.hands_over(&serve)).await;
        assert_eq!(app.admin_get("/livez").await.head.status, 200);
        let mut wire = Wire::tcp(&app.admin).await;
        wire.send(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
        assert_eq!(wire.answer().await.head.status, 421);
    })
    .await;
}

/// The units with the program of this build in the place of the installed one.
fn units() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for entry in std::fs::read_dir(UNITS).expect("the units").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a unit");
        let text = text.replace("/usr/bin/sidestream", program::path().to_str().expect("a path in UTF-8"));
        std::fs::write(dir.path().join(entry.file_name()), text).expect("written");
    }
    dir
}

fn analyze(arguments: &[&str], units: &[PathBuf]) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).args(units).output().expect("systemd-analyze runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_units_are_sound() {
    let dir = units();
    let all: Vec<PathBuf> = std::fs::read_dir(dir.path()).expect("the units").flatten().map(|e| e.path()).collect();
    let (_, about) = analyze(&["verify", "--man=no"], &all);
    let ours: Vec<&str> = about.lines().filter(|line| line.contains("sidestream")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn the_service_is_exposed_to_1_2_at_most() {
    let unit = Path::new(UNITS).join("sidestream.service");
    let (kept, table) = analyze(&["security", "--offline=true", "--threshold=12", "--no-pager"], &[unit]);
    assert!(kept, "{table}");
}

#[test]
fn the_drop_in_for_credentials_is_sound() {
    let dir = units();
    let drop_ins = dir.path().join("sidestream.service.d");
    std::fs::create_dir(&drop_ins).expect("a directory");
    let credentials = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/credentials.conf");
    std::fs::copy(credentials, drop_ins.join("credentials.conf")).expect("copied");
    let (_, about) = analyze(&["verify", "--man=no"], &[dir.path().join("sidestream.service")]);
    let ours: Vec<&str> = about.lines().filter(|line| line.contains("sidestream")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn the_configuration_that_goes_with_the_units_is_right() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/sidestream.toml");
    let output = program::command().args(["check", "--config", file]).output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "it warns: {}", String::from_utf8_lossy(&output.stderr));
}

/// Codes after which a restart is pointless, and that the program gives: the unit names these and no others.
#[test]
fn what_cannot_be_healed_by_a_restart_is_not_restarted() {
    let unit = std::fs::read_to_string(Path::new(UNITS).join("sidestream.service")).expect("the unit");
    assert!(unit.lines().any(|line| line == "RestartPreventExitStatus=64 66 77 78"), "{unit}");
    let exit = |arguments: &[&str]| {
        let ended = program::command().args(arguments).output().expect("the program runs");
        ended.status.code()
    };
    assert_eq!(exit(&["serve", "--nonsense"]), Some(64));
    assert_eq!(exit(&["serve", "--config", "/nonexistent.toml"]), Some(66));
    assert_eq!(exit(&["serve", "--config", "/dev/null", "--set", "server.h2c=maybe"]), Some(78));
}

#[test]
fn units_and_configuration_name_the_same_sockets() {
    let text = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path);
    let config = text("packaging/sidestream.toml");
    for (unit, name) in [("systemd/sidestream.socket", "public"), ("systemd/sidestream-admin.socket", "admin")] {
        assert!(text(unit).contains(&format!("FileDescriptorName={name}\n")), "{unit}");
        assert!(config.contains(&format!("\"systemd:{name}\"")), "{name}");
    }
}
