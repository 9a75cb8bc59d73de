//! Requirement R71: secrets stand in no log, metric, answer, command line, environment, report or core file, whatever is done
//! with them. Every kind of secret is a canary here, and everything that comes out of the program is searched for all of them.

mod support;

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use support::nats::Setup;
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Version, Wire, bounded, get, h2, skipped};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A seed that nobody uses.
const NKEY_SEED: &str = "SUAHOKLSWYOMFYRVF5ZQEHSJKFYAP4E5RS2D7YHOW2IJZ27RLXUJCYVVLQ";
const OTHER_SEED: &str = "SUAOI4MLPUX2WPC4BGT3XS2JTZJAVJ3OB6LOYRMOMXOQO7LFP3T7NK5IJU";
/// As chatty as it gets, also for the crates whose traces hold secrets.
const ALL_LOGS: &str = "trace,async_nats=trace,hyper=trace,h2=trace,rustls=trace,sidestream=trace";

/// Every secret, in a file each.
struct Canaries {
    dir: tempfile::TempDir,
    certificate: Certificate,
    key: String,
}

const PROXY: &str = "canary-proxy-secret-one";
const PROXY_NEW: &str = "canary-proxy-secret-two";
const ADMIN: &str = "canary-admin-token-xyz";
const PASSWORD: &str = "canary-nats-password-xyz";
const TOKEN: &str = "canary-nats-token-xyz";

impl Canaries {
    fn new() -> Self {
        let certificate = Certificate::new();
        let table = certificate.table();
        let key_file = table.split('"').nth(3).expect("cert and key are named");
        let pem = std::fs::read_to_string(key_file).expect("the key is there");
        let key = pem.lines().nth(1).expect("a line of the key").to_owned();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let canaries = Self { dir, certificate, key };
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJKV1QifQ.e30.AAAA\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{OTHER_SEED}\n------END USER NKEY SEED------\n"
        );
        for (name, secret) in [
            ("proxy", PROXY),
            ("proxy-new", PROXY_NEW),
            ("admin", ADMIN),
            ("password", PASSWORD),
            ("token", TOKEN),
            ("nkey", NKEY_SEED),
            ("creds", &creds),
        ] {
            std::fs::write(canaries.path(name), secret).expect("written");
            std::fs::set_permissions(canaries.path(name), Permissions::from_mode(0o600)).expect("our own file");
        }
        canaries
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn all(&self) -> [&str; 8] {
        [PROXY, PROXY_NEW, ADMIN, PASSWORD, TOKEN, NKEY_SEED, OTHER_SEED, &self.key]
    }

    /// Shows that none of them is in what came out.
    #[track_caller]
    fn absent(&self, whence: &str, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        for canary in self.all() {
            let found = memchr::memmem::find(text, canary.as_bytes());
            assert_eq!(found, None, "{canary:?} in {whence}: {}", String::from_utf8_lossy(text));
        }
    }

    /// A configuration with a proxy that proves itself by a secret, on a unix socket and by TLS.
    fn config(&self, nats: &str, login: &str) -> Config {
        let socket = format!("unix:{}", self.path("http.sock").display());
        let trust = format!(
            "proxies = [\"127.0.0.1\", \"unix\"]\nsecret_files = [{:?}, {:?}]\n",
            self.path("proxy"),
            self.path("proxy-new")
        );
        Config::at(nats)
            .listen(&["127.0.0.1:0", &socket])
            .server(&format!("{}\n", self.certificate.table()))
            .trust(Some(&trust))
            .nats(login)
            .tables(&format!("\n[log]\nlevel = {ALL_LOGS:?}\n"))
    }

    /// How to log in at NATS, in every way there is.
    fn logins(&self) -> [String; 4] {
        [
            format!("user = \"side\"\npassword_file = {:?}\n", self.path("password")),
            format!("token_file = {:?}\n", self.path("token")),
            format!("nkey = {:?}\n", self.path("nkey")),
            format!("credentials = {:?}\n", self.path("creds")),
        ]
    }

    fn admin_token(&self) -> String {
        format!("admin.token_file={}", self.path("admin").display())
    }

    /// Searches everything that a running program shows of itself.
    async fn absent_from(&self, app: &App) {
        for file in ["cmdline", "environ"] {
            let shown = std::fs::read(format!("/proc/{}/{file}", app.pid())).expect("the program runs");
            self.absent(file, shown);
        }
        for path in ["/livez", "/readyz?verbose", "/version", "/metrics", "/connections", "/config", "/"] {
            for token in ["", ADMIN, PROXY, "wrong"] {
                self.absent(path, self.admin(app, path, token).await);
            }
        }
        self.absent("/…", self.admin(app, &format!("/{ADMIN}"), ADMIN).await);
        self.absent("?…", self.admin(app, &format!("/connections?user={PROXY}&token={ADMIN}"), ADMIN).await);
        self.absent("the log", app.log_lines().join("\n"));
    }

    async fn admin(&self, app: &App, path: &str, token: &str) -> Vec<u8> {
        let mut wire = Wire::tcp(&app.admin).await;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        wire.send(request.as_bytes()).await;
        wire.read_to_end().await
    }
}

/// What clients send that have a secret, and should not, or where it does not belong.
fn misplaced() -> Vec<Vec<u8>> {
    let streams = [
        get("/events").user("alice").header("X-Sidestream-Secret", &PROXY[..10]),
        get("/events").user("alice").header("X-Sidestream-Secret", format!("{PROXY}x")),
        get("/events").user("alice").header("X-Sidestream-Secret", PROXY).header("X-Sidestream-Secret", PROXY),
        get("/events").user("alice").header("X_Sidestream_Secret", PROXY),
        get("/events").user("alice").header("Authorization", format!("Bearer {PROXY}")),
        get("/events").user(PROXY).header("X-Sidestream-Secret", ADMIN),
        get("/events").header("Cookie", format!("secret={PROXY}")).header("User-Agent", PROXY_NEW),
        get("/events").without("Host").header("Host", PROXY),
        get("/events").header("Origin", format!("https://{PROXY}")),
        get("/events").header("Last-Event-ID", format!("{PROXY} ")).user("a").header("X-Sidestream-Secret", PROXY_NEW),
        get("/events").header("Last-Event-ID", PROXY).user("a").header("X-Sidestream-Secret", PROXY_NEW),
        get(&format!("/events?token={PROXY}&secret={ADMIN}")),
        get(&format!("/events?last_event_id={PROXY}&last_event_id={PASSWORD}")),
        get(&format!("/{PROXY}")),
        get(&format!("/%{PROXY}")),
        support::Request::new(PROXY, "/events"),
        get("/events").version(PROXY),
    ];
    let mut bytes: Vec<_> = streams.iter().map(support::Request::bytes).collect();
    bytes.push(format!("{PROXY}\r\n\r\n").into_bytes());
    bytes.push(format!("GET / HTTP/1.1\r\n{PROXY}\r\n\r\n").into_bytes());
    bytes.push(format!("GET / HTTP/1.1\r\nHost: a\r\nX-{PROXY}\u{1}: b\r\n\r\n").into_bytes());
    bytes.push(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", PROXY.repeat(2000)).into_bytes());
    bytes
}

#[tokio::test]
async fn nothing_that_comes_out_of_the_program_holds_a_secret() {
    bounded(async {
        let canaries = Canaries::new();
        let users = |password: &str| {
            format!("authorization {{ users: [{{user: admin, password: admin}}, {{user: side, password: {password:?}}}] }}\n")
        };
        let setup = Setup { config: Some(users(PASSWORD)), user: Some(("admin", "admin")), ..Setup::default() };
        let nats = Nats::start_as(Version::Current, setup).await;
        let publisher = nats.events().await;
        let config = canaries.config(&nats.url(), &canaries.logins()[0]);
        let token = canaries.admin_token();
        let app = App::launch(&config, |mut serve| {
            serve.args(["--set", &token]);
            serve
        })
        .await;
        app.ready().await;
        let (tls, socket) = match &app.public[..] {
            [a, b] if a.starts_with("unix:") => (b, a),
            [a, b] => (a, b),
            other => panic!("two addresses were configured: {other:?}"),
        };

        // Who has the secret is let in, by either of them, on every protocol.
        let request = get("/events").user("alice").header("X-Sidestream-Secret", PROXY);
        let mut alice = support::Sse::open(Wire::tcp(socket).await, &request).await;
        let secured = canaries.certificate.handshake(TcpStream::connect(tls).await.expect("accepts"), &[]).await;
        let request = get("/events").user("alice").header("X-Sidestream-Secret", PROXY_NEW);
        let mut also = support::Sse::open(Wire::over(secured.expect("a handshake")), &request).await;
        publisher.publish("events.user.alice.note", "one").await;
        for sse in [&mut alice, &mut also] {
            assert_eq!(sse.event().await.data, "one");
            canaries.absent("a stream", &sse.raw);
        }
        let secured = canaries.certificate.handshake(TcpStream::connect(tls).await.expect("accepts"), &["h2"]).await;
        let mut sender = h2::over(secured.expect("a handshake")).await;
        for (name, value) in [("x-sidestream-secret", PROXY), ("x-sidestream-secret", ADMIN), ("x_secret", PROXY)] {
            let mut request = h2::request(&format!("/events?x={PROXY}"), "alice");
            request.headers_mut().insert(name, value.parse().expect("a value"));
            let response = sender.send_request(request).await.expect("an answer");
            canaries.absent("an HTTP/2 head", format!("{response:?}"));
            if response.status() != 200 {
                canaries.absent("an HTTP/2 body", response.into_body().collect().await.expect("whole").to_bytes());
            }
        }

        let answers = misplaced().into_iter().map(async |bytes| {
            let mut wire = Wire::tcp(socket).await;
            wire.send_anyway(&bytes).await;
            // Connections that stay open have said what they say.
            let answer = wire.read_for(Duration::from_secs(1)).await;
            assert!(answer.starts_with(b"HTTP/1.1 "), "{}: {}", bytes.escape_ascii(), answer.escape_ascii());
            canaries.absent(&format!("the answer to {}", bytes.escape_ascii()), answer);
        });
        futures_util::future::join_all(answers).await;
        let mut garbage = Wire::tcp(tls).await;
        garbage.send_anyway(PROXY.as_bytes()).await;
        canaries.absent("a TLS alert", garbage.read_to_end().await);

        // The password is changed, and NATS lets nobody in.
        nats.reconfigure(&users("another password")).await;
        app.logs("NATS does not let this account in", DEADLINE).await;

        canaries.absent_from(&app).await;
        let log = app.log_json();
        for talkative in ["h2", "async_nats", "sidestream::http"] {
            let tells = |line: &serde_json::Value| line["target"].as_str().is_some_and(|t| t.starts_with(talkative));
            assert!(log.iter().any(tells), "{talkative} logs nothing: the levels are not what this test is about");
        }
    })
    .await;
}

/// Takes a login, and gives it back in every text that a server may send.
async fn echo(mut stream: TcpStream, refuses: bool) -> Option<()> {
    let info = |version: &str| {
        serde_json::json!({
            "server_id": "X", "server_name": version, "version": format!("2.9.0-{version}"), "proto": 1, "host": "x",
            "port": 1, "max_payload": 1_048_576, "headers": true, "nonce": "abcdef", "auth_required": true,
        })
    };
    stream.write_all(format!("INFO {}\r\n", info("")).as_bytes()).await.ok()?;
    let mut lines = BufReader::new(stream);
    let mut login = String::new();
    lines.read_line(&mut login).await.ok()?;
    let login = login.trim().replace(['\'', '"'], " ");
    let said = if refuses {
        format!("-ERR '{login}'\r\n")
    } else {
        format!(
            "INFO {}\r\nPONG\r\n-ERR 'Permissions Violation for Publish to \"$x.{login}\"'\r\n-ERR 'odd: {login}'\r\n",
            info(&login)
        )
    };
    let stream = lines.get_mut();
    stream.write_all(said.as_bytes()).await.ok()?;
    // Until the client has enough of it.
    let _ = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut Vec::new())).await;
    Some(())
}

#[tokio::test]
async fn a_nats_server_that_tells_secrets_is_not_quoted() {
    bounded(async {
        let canaries = Canaries::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("nats://{}", listener.local_addr().expect("bound"));
        let served = Arc::new(AtomicUsize::new(0));
        let count = served.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, before) = (count.clone(), count.load(Ordering::Relaxed));
                tokio::spawn(async move {
                    echo(stream, before % 3 == 0).await;
                    count.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        let logins = canaries.logins();
        let configs = logins.each_ref().map(|login| canaries.config(&url, login).listen(&["127.0.0.1:0"]));
        let [password, token, nkey, creds] = &configs;
        let (password, token, nkey, creds) =
            tokio::join!(App::bound(password), App::bound(token), App::bound(nkey), App::bound(creds));
        for app in [&password, &token] {
            // It was there, in every way.
            app.logs("[redacted]", DEADLINE).await;
            app.logs("The NATS account lacks a permission", DEADLINE).await;
            app.logs("NATS server error", DEADLINE).await;
            app.logs("known security faults", DEADLINE).await;
        }
        let commands = logins[..2].iter().enumerate().flat_map(|(index, login)| {
            let file = canaries.path(&format!("echo-{index}.toml"));
            std::fs::write(&file, Config::at(&url).nats(login).render()).expect("written");
            let commands = [&["check", "--connect"][..], &["publish", "events.user.a.b", "x"], &["notify", "a", "x"]];
            commands
                .map(|args| run(args.iter().map(OsString::from).chain(["--config".into(), file.clone().into()]), &[]))
        });
        for said in futures_util::future::join_all(commands).await {
            canaries.absent("what a command says", &said);
        }
        assert!(served.load(Ordering::Relaxed) > 16, "too few logins have been echoed");
        for app in [&password, &token, &nkey, &creds] {
            canaries.absent_from(app).await;
        }
    })
    .await;
}

/// Runs a command; gives all it said.
async fn run(args: impl IntoIterator<Item = OsString>, env: &[(&str, &str)]) -> String {
    let args: Vec<_> = args.into_iter().collect();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidestream"));
    let output = command.args(&args).envs(env.iter().copied()).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(DEADLINE, output).await.unwrap_or_else(|_| panic!("{args:?} did not end"));
    let output = output.expect("the program starts");
    String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
}

#[tokio::test]
async fn no_report_quotes_a_secret_that_stands_in_the_wrong_place() {
    bounded(async {
        let canaries = Canaries::new();
        let good = canaries.config("nats://127.0.0.1:1", &canaries.logins()[0]).render();
        let file = |name: &str, text: &str| {
            let path = canaries.path(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let whole = file("whole.toml", &good);
        let wrong = file("wrong.toml", &format!("{good}\n[nonsense]\nx = 1\n"));
        let misplaced =
            file("misplaced.toml", &good.replace(&format!("{:?}", canaries.path("proxy")), &format!("{PROXY:?}")));
        let torn =
            file("torn.toml", &good.replace(&format!("{:?}", canaries.path("password")), &format!("\"{PASSWORD}")));
        assert!(misplaced.exists() && std::fs::read_to_string(&torn).expect("there").contains(PASSWORD));
        let table = canaries.certificate.table();
        let key_file = Path::new(table.split('"').nth(3).expect("cert and key are named")).to_owned();
        let mut said = Vec::new();
        for config in
            [&whole, &wrong, &misplaced, &torn, &key_file, &canaries.path("creds"), &canaries.path("password")]
        {
            for command in [&["config", "show"][..], &["check"], &["serve"]] {
                if command == ["serve"] && config == &whole {
                    continue;
                }
                let args = command.iter().map(OsString::from).chain(["--config".into(), config.into()]);
                said.push(run(args, &[]).await);
            }
        }
        for set in [
            format!("nats.password={PASSWORD}"),
            format!("nats.password_file={PASSWORD}"),
            format!("nats.nkey={NKEY_SEED}"),
            format!("nats={{token_file=\"{TOKEN}\", user=1}}"),
            format!("nats.servers=[\"nats://u:{PASSWORD}@127.0.0.1:1\"]"),
            format!("admin.token_file={ADMIN}"),
            format!("trust.secret_files=[\"{PROXY}\",\"{PROXY_NEW}\",3]"),
            format!("server.tls.key={}", canaries.key),
            PASSWORD.to_owned(),
        ] {
            for command in [&["config", "show"][..], &["check"], &["serve"]] {
                let args = command.iter().map(OsString::from);
                let args = args.chain(["--config".into(), whole.clone().into(), "--set".into(), set.clone().into()]);
                said.push(run(args, &[]).await);
            }
        }
        for (name, value) in [
            ("SIDESTREAM_NATS__PASSWORD_FILE", PASSWORD),
            ("SIDESTREAM_NATS__PASSWORD", PASSWORD),
            ("SIDESTREAM_ADMIN__TOKEN_FILE", ADMIN),
            ("SIDESTREAM_TRUST__SECRET_FILES", PROXY),
            ("SIDESTREAM_SERVER__TLS__KEY", &canaries.key),
        ] {
            for command in ["check", "serve"] {
                said.push(run([command.into(), "--config".into(), whole.clone().into()], &[(name, value)]).await);
            }
        }
        said.push(run(["dev".into(), "--nats".into(), format!("nats://u:{PASSWORD}@127.0.0.1:1").into()], &[]).await);
        for text in said {
            assert!(!text.is_empty());
            canaries.absent("a report", text);
        }
    })
    .await;
}

/// Ends the program by a signal that dumps core.
async fn crash(app: &mut App) -> ExitStatus {
    kill_process(Pid::from_raw(app.pid().cast_signed()).expect("a pid"), Signal::ABORT).expect("our own child");
    let status = app.exit(DEADLINE).await;
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status}");
    status
}

/// The command under a shell that allows cores of any size, in a directory where they may be written.
fn allowing_cores(command: &Command, dir: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited && cd \"$1\" && shift && exec \"$@\"", "sh"]).arg(dir);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).expect("a directory").count()
}

#[tokio::test]
async fn no_core_is_left_behind() {
    bounded(async {
        let cores = tempfile::tempdir().expect("a temporary directory");
        let mut control = Command::new("sh");
        control.args(["-c", "kill -ABRT $$"]);
        let control = allowing_cores(&control, cores.path()).status().expect("sh runs");
        if !control.core_dumped() {
            return skipped("no_core_is_left_behind", "no process leaves a core on this machine");
        }
        let written = files(cores.path());

        // The limit that was inherited does not hold.
        let plain = Config::at("nats://127.0.0.1:1");
        let mut app = App::launch(&plain, |serve| allowing_cores(&serve, cores.path())).await;
        assert!(!crash(&mut app).await.core_dumped());

        // Nor does one that is raised while it runs, where there are secrets; without secrets it does.
        let canaries = Canaries::new();
        let secret = canaries.config("nats://127.0.0.1:1", &canaries.logins()[0]).listen(&["127.0.0.1:0"]);
        for (config, dumps) in [(&plain, true), (&secret, false)] {
            let mut app = App::launch(config, |serve| allowing_cores(&serve, cores.path())).await;
            let pid = Pid::from_raw(app.pid().cast_signed());
            let all = Rlimit { current: None, maximum: None };
            prlimit(pid, Resource::Core, all).expect("the limit of our own child is raised");
            let status = crash(&mut app).await;
            assert_eq!(status.core_dumped(), dumps, "{status}");
            if !dumps {
                assert!(files(cores.path()) <= written + 1, "a core file");
            }
        }
    })
    .await;
}
