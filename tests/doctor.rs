//! `doctor` before real proxies: nothing is found at what is shipped, and each mistake is found that is planted in it.

mod support;

use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::geteuid;
use serde_json::Value;
use support::command::{self, Ran};
use support::edge::{Account, Edge, Proxy, replaced, shared_directory};
use support::ports::free_port;
use support::tls::Certificate;
use support::{App, DEADLINE, Nats, Version, bounded, eventually, skipped};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// One run of it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Only the test of limits meets one.
const WIDE: [&str; 4] = [
    "limits.connections_per_user=100000",
    "limits.connections_per_address=100000",
    "limits.connects_per_second_per_user=100000",
    "limits.connects_per_second_per_address=100000",
];

/// NATS, sidestream on a unix socket, and the application that says who a cookie belongs to.
struct Site {
    nats: Nats,
    app: App,
    application: u16,
    certificate: Certificate,
    files: tempfile::TempDir,
}

impl Site {
    /// `uid`: the proxy's.
    async fn start(uid: u32, set: &[&str]) -> Self {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let (certificate, files) = (Certificate::new(), shared_directory());
        for (from, to) in [(certificate.cert(), "chain.pem"), (certificate.key(), "key.pem")] {
            let pem = std::fs::read(from).expect("readable");
            std::fs::write(files.path().join(to), pem).expect("written");
        }
        let mut settings = vec![
            format!("server.listen=unix:{}", files.path().join("http.sock").display()),
            format!("nats.servers={}", nats.url()),
            format!("trust.peer_uids=[{uid}]"),
            "admin.listen=127.0.0.1:0".to_owned(),
            "server.drain_window=1s".to_owned(),
            "heartbeat.interval=3s".to_owned(),
        ];
        settings.extend(set.iter().map(|assignment| (*assignment).to_owned()));
        let app = App::from_file(&conf("behind-nginx.toml"), &settings).await;
        Self { nats, app, application: application().await, certificate, files }
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// The shipped nginx with changes, each of which must find its place.
    async fn nginx(&self, changes: &[(&str, &str)]) -> Edge {
        let at = SocketAddrV4::new([127, 0, 0, 1].into(), free_port());
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = paths.map(|name| format!("{name}_temp_path @home@/{name};\n")).concat();
        let text = replaced(
            &read("nginx.conf"),
            &[
                ("listen 443 ssl http2;", format!("listen {at} ssl http2;")),
                ("/run/sidestream/http.sock", self.path("http.sock")),
                ("127.0.0.1:3000", format!("127.0.0.1:{}", self.application)),
                ("/etc/ssl/events.example.com/chain.pem", self.path("chain.pem")),
                ("/etc/ssl/events.example.com/key.pem", self.path("key.pem")),
                ("/run/nginx.pid", "@home@/nginx.pid".to_owned()),
                ("/var/log/nginx/error.log", "@home@/error.log".to_owned()),
                ("/var/log/nginx/access.log", "@home@/access.log".to_owned()),
                ("http {\n", format!("http {{\n{paths}")),
            ],
        );
        Edge::start(Proxy::Nginx, &planted(&text, changes), at).await
    }

    /// The same for Envoy.
    async fn envoy(&self, text: &str, changes: &[(&str, &str)]) -> Edge {
        let at = SocketAddrV4::new([127, 0, 0, 1].into(), free_port());
        let text = replaced(
            &planted(text, changes),
            &[
                ("address: 0.0.0.0, port_value: 443", format!("address: 127.0.0.1, port_value: {}", at.port())),
                ("/run/sidestream/http.sock", self.path("http.sock")),
                (
                    "address: 127.0.0.1, port_value: 3000",
                    format!("address: 127.0.0.1, port_value: {}", self.application),
                ),
                ("/etc/ssl/events.example.com/chain.pem", self.path("chain.pem")),
                ("/etc/ssl/events.example.com/key.pem", self.path("key.pem")),
            ],
        );
        Edge::start(Proxy::Envoy, &text, at).await
    }

    async fn doctor(&self, url: &str, more: &[&str]) -> Ran {
        let config = conf("behind-nginx.toml");
        let config = config.to_str().expect("UTF-8");
        let mut args = vec!["doctor", url, "--json", "--config", config, "--header", "Host:events.example.com"];
        args.extend(more);
        let mut command = command::command(&args);
        command.env("SSL_CERT_FILE", self.certificate.cert());
        command::output(&args, &mut command, PATIENCE).await
    }

    /// Behind TLS, as alice, a stream watched for five seconds.
    async fn examined(&self, at: SocketAddrV4) -> Ran {
        let more = ["--header", "Cookie:session=alice", "--for", "5s"];
        self.doctor(&format!("https://{at}/events"), &more).await
    }
}

fn conf(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(conf(file)).expect("readable")
}

fn planted(text: &str, changes: &[(&str, &str)]) -> String {
    let changes: Vec<_> = changes.iter().map(|(from, to)| (*from, (*to).to_owned())).collect();
    replaced(text, &changes)
}

/// Answers `/auth` for alice's cookie, in the headers of both proxies.
async fn application() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(authenticates(stream));
        }
    });
    port
}

async fn authenticates(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    loop {
        let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") else {
            if stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                continue;
            }
            return;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        bytes.drain(..end + 4);
        let answer = if head.contains("session=alice") {
            "HTTP/1.1 200 OK\r\nX-User-Id: alice\r\nX-Forwarded-User: alice\r\nX-User-Tenant: acme\r\nX-Tenant: acme\r\n\
             Content-Length: 0\r\n\r\n"
        } else {
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The codes of what was found, each once; the exit code agrees.
#[track_caller]
fn codes(ran: &Ran) -> Vec<String> {
    let report = ran.json();
    let findings = report["findings"].as_array().expect("a list");
    assert_eq!(ran.code, Some(i32::from(!findings.is_empty())), "{report}");
    for finding in findings {
        let has = |name: &str| finding[name].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("evidence") && has("what") && has("docs") && finding["cure"].is_object(), "{finding}");
    }
    let mut codes: Vec<String> = findings.iter().filter_map(|f| f["code"].as_str().map(str::to_owned)).collect();
    codes.dedup();
    codes
}

fn is_missing(test: &str, proxy: Proxy) -> bool {
    let missing = proxy.program().is_none();
    if missing {
        skipped(test, &format!("no {proxy:?}: run scripts/test, or see scripts/lib/edges.sh"));
    }
    missing
}

/// A mistake in nginx.conf, and what is found.
struct Mistake {
    changes: &'static [(&'static str, &'static str)],
    found: &'static str,
}

const PASSES_ALL: (&str, &str) =
    ("proxy_pass_request_headers off;                        # ... and of", "# passes all on, ... and of");
const SETS_BOTH: (&str, &str) =
    ("X-Forwarded-User $user;", "X-Forwarded-User $user; proxy_set_header X-Forwarded-User $http_x_forwarded_user;");
const SETS_NO_TENANT: (&str, &str) = ("proxy_set_header X-Tenant $tenant;", "#");
const SETS_NO_USER: (&str, &str) = ("proxy_set_header X-Forwarded-User $user;  ", "#");

static NGINX: &[Mistake] = &[
    Mistake {
        changes: &[
            ("proxy_http_version 1.1;", "proxy_http_version 1.0;"),
            ("proxy_buffering off;", "proxy_buffering on;"),
        ],
        found: "http_1_0",
    },
    Mistake {
        changes: &[("gzip off;", "gzip on; gzip_types text/event-stream; gzip_min_length 1;")],
        found: "compressed",
    },
    Mistake { changes: &[("gzip off;", "gzip off; proxy_hide_header Cache-Control;")], found: "cache_control" },
    Mistake { changes: &[("proxy_read_timeout 75s;", "proxy_read_timeout 1s;")], found: "cut_off" },
    Mistake { changes: &[PASSES_ALL, SETS_NO_USER], found: "spoofed_identity" },
    Mistake { changes: &[PASSES_ALL, SETS_BOTH], found: "identity_header_passes" },
    Mistake {
        changes: &[PASSES_ALL, SETS_NO_USER, SETS_NO_TENANT, ("auth_request /_auth; ", "#")],
        found: "spoofed_identity",
    },
    Mistake { changes: &[(" ssl http2;", " ssl;")], found: "no_http2" },
];

#[tokio::test]
async fn mistakes_in_nginx_are_found_and_the_shipped_file_has_none() {
    if is_missing("doctor before nginx", Proxy::Nginx) {
        return;
    }
    bounded(async {
        let site = Site::start(Account::of_proxies().uid, &WIDE).await;
        let edge = site.nginx(&[]).await;
        let clean = site.examined(edge.address).await;
        assert_eq!(codes(&clean), Vec::<String>::new(), "{}", clean.stdout);
        let site = &site;
        let found = NGINX.iter().map(|mistake| async move {
            let edge = site.nginx(mistake.changes).await;
            (mistake, site.examined(edge.address).await)
        });
        for (mistake, ran) in join_all(found.map(Box::pin)).await {
            let codes = codes(&ran);
            assert!(codes.iter().any(|code| code == mistake.found), "{:?}: {}", mistake.changes, ran.stdout);
            // One mistake in who is believed shows in several headers; others show once, in themselves.
            let alone = codes.iter().all(|code| code == mistake.found || mistake.found == "spoofed_identity");
            assert!(alone, "{:?}: {}", mistake.changes, ran.stdout);
        }
    })
    .await;
}

#[tokio::test]
async fn limits_of_a_user_are_no_finding_and_published_events_are_timed() {
    if is_missing("doctor at the limits that are shipped", Proxy::Nginx) {
        return;
    }
    bounded(async {
        let site = Site::start(Account::of_proxies().uid, &[]).await;
        let edge = site.nginx(&[]).await;
        let url = format!("https://{}/events", edge.address);
        let nats = format!("nats.servers={}", site.nats.url());
        let more =
            ["--header", "Cookie:session=alice", "--for", "1s", "--set", &nats, "--publish", "events.user.alice.probe"];
        let ran = site.doctor(&url, &more).await;
        assert_eq!(codes(&ran), Vec::<String>::new(), "{}", ran.stdout);
        assert!(ran.stdout.contains("5 published events took"), "{}", ran.stdout);
        // What alice does not hear does not arrive.
        let foreign =
            ["--header", "Cookie:session=alice", "--for", "1s", "--set", &nats, "--publish", "events.user.bob.probe"];
        let ran = site.doctor(&url, &foreign).await;
        assert_eq!(codes(&ran), ["buffering"], "{}", ran.stdout);
        // Without credentials no stream opens.
        let ran = site.doctor(&url, &["--for", "1s"]).await;
        assert_eq!(codes(&ran), ["refused"], "{}", ran.stdout);
    })
    .await;
}

#[tokio::test]
async fn mistakes_in_envoy_are_found_and_the_shipped_file_has_none() {
    if is_missing("doctor before Envoy", Proxy::Envoy) {
        return;
    }
    bounded(async {
        let site = Site::start(Account::of_proxies().uid, &WIDE).await;
        let text = read("envoy.yaml");
        let edge = site.envoy(&text, &[]).await;
        let clean = site.examined(edge.address).await;
        assert_eq!(codes(&clean), Vec::<String>::new(), "{}", clean.stdout);
        let short = [("timeout: 0s, idle_timeout: 75s", "timeout: 2s, idle_timeout: 75s")];
        let edge = site.envoy(&text, &short).await;
        let ran = site.examined(edge.address).await;
        assert_eq!(codes(&ran), ["cut_off"], "{}", ran.stdout);
        let quiet = [("timeout: 0s, idle_timeout: 75s", "timeout: 0s, idle_timeout: 1s")];
        let edge = site.envoy(&text, &quiet).await;
        let ran = site.examined(edge.address).await;
        assert_eq!(codes(&ran), ["cut_off"], "{}", ran.stdout);
        assert!(ran.stdout.contains("a limit on silence"), "{}", ran.stdout);
        let removes = r#"remove_on_match: { key_matcher: { safe_regex: { regex: "x[-.].*" } } }"#;
        let passes = [
            vec![(removes, "remove: x-nothing")],
            vec![
                ("x[-.].*", "x[-.](forwarded|tenant|auth|sidestream).*"),
                ("headers_with_underscores_action: REJECT_REQUEST", "headers_with_underscores_action: ALLOW"),
            ],
        ];
        for changes in passes {
            let edge = site.envoy(&text, &changes).await;
            let ran = site.examined(edge.address).await;
            let codes = codes(&ran);
            assert!(!codes.is_empty(), "{changes:?}");
            assert!(codes.iter().all(|code| code == "identity_header_passes"), "{changes:?}: {}", ran.stdout);
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_outage_answers() {
    if is_missing("doctor in an outage", Proxy::Nginx) || is_missing("doctor in an outage", Proxy::Envoy) {
        return;
    }
    bounded(async {
        let mut site = Site::start(Account::of_proxies().uid, &WIDE).await;
        let text = read("envoy.yaml");
        let (from, to) =
            (text.find("          local_reply_config:").expect("there"), text.find("  clusters:\n").expect("there"));
        let without = format!("{}{}", &text[..from], &text[to..]);
        let shipped = [site.nginx(&[]).await, site.envoy(&text, &[]).await];
        let broken =
            [site.nginx(&[("error_page 500 502 503 504 = @retry;", "#")]).await, site.envoy(&without, &[]).await];
        let outage = ["--header", "Cookie:session=alice", "--outage"];
        let url = |edge: &Edge| format!("https://{}/events", edge.address);
        let ran = site.doctor(&url(&shipped[0]), &outage).await.ends_with(69);
        assert!(ran.stderr.contains("the sidecar answers"), "{}", ran.stderr);
        site.app.terminate();
        site.app.exit(DEADLINE).await;
        for edge in &shipped {
            let ran = site.doctor(&url(edge), &outage).await;
            assert_eq!(codes(&ran), Vec::<String>::new(), "{}", ran.stdout);
        }
        for edge in &broken {
            let ran = site.doctor(&url(edge), &outage).await;
            assert_eq!(codes(&ran), ["no_retry_page"], "{}", ran.stdout);
            // It is one as well where nobody knew of an outage.
            let ran = site.examined(edge.address).await;
            assert!(codes(&ran).iter().any(|code| code == "no_retry_page"), "{}", ran.stdout);
        }
        let nowhere = format!("https://127.0.0.1:{}/events", free_port());
        site.doctor(&nowhere, &["--outage"]).await.ends_with(69);
        site.doctor("ftp://127.0.0.1/events", &[]).await.ends_with(64);
    })
    .await;
}

/// HAProxy with a configuration, ended by pid.
struct Haproxy {
    child: Child,
    address: SocketAddrV4,
    _home: tempfile::TempDir,
}

impl Haproxy {
    async fn start(site: &Site, changes: &[(&str, &str)]) -> Self {
        let address = SocketAddrV4::new([127, 0, 0, 1].into(), free_port());
        let text = planted(HAPROXY, changes).replace("@listen@", &address.to_string());
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("haproxy.cfg");
        std::fs::write(&file, text.replace("@socket@", &site.path("http.sock"))).expect("written");
        let mut command = Command::new("haproxy");
        let child =
            command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.spawn().expect("it was here a moment ago");
        let mut haproxy = Self { child, address, _home: home };
        eventually("HAProxy listens", DEADLINE, async || {
            let ended = haproxy.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "HAProxy ended instead of listening: {ended:?}");
            TcpStream::connect(address).await.ok()
        })
        .await;
        haproxy
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const HAPROXY: &str = "
defaults
    mode http
    option http-no-delay
    timeout connect 2s
    timeout client 75s
    timeout server 75s
frontend events
    bind @listen@
    http-request deny deny_status 401 unless { req.cook(session) alice }
    http-request del-header connection
    http-request del-header ^x[-_.] -m reg
    http-request set-header X-Forwarded-User alice
    http-request set-header X-Tenant acme
    default_backend sidestream
backend sidestream
    server sidestream unix@@socket@
";

#[tokio::test]
async fn mistakes_in_haproxy_are_found() {
    if Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_err() {
        return skipped("doctor before HAProxy", "there is no haproxy");
    }
    bounded(async {
        let site = Site::start(geteuid().as_raw(), &WIDE).await;
        for (changes, found) in [
            (&[][..], &[][..]),
            (&[("    option http-no-delay\n", "")], &["delay"]),
            (&[("timeout server 75s", "timeout server 1s")], &["cut_off"]),
            (&[("    http-request del-header connection\n", "")], &["identity_header_passes"]),
            (
                &[
                    ("    http-request del-header ^x[-_.] -m reg\n", ""),
                    ("set-header X-Forwarded-User", "add-header X-Forwarded-User"),
                ],
                &["identity_header_passes"],
            ),
        ] {
            let haproxy = Haproxy::start(&site, changes).await;
            let more = ["--header", "Cookie:session=alice", "--for", "5s"];
            let ran = site.doctor(&format!("http://{}/events", haproxy.address), &more).await;
            assert_eq!(codes(&ran), found, "{changes:?}: {}", ran.stdout);
        }
    })
    .await;
}

/// Passes the head of an answer on, and holds the rest until there is much of it.
async fn holding(upstream: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(upstream).await else { return };
                let (mut near_read, mut near_write) = near.split();
                let (mut far_read, mut far_write) = far.split();
                let back = async {
                    let mut held = Vec::new();
                    let mut passed_head = false;
                    while far_read.read_buf(&mut held).await.is_ok_and(|read| read > 0) {
                        let head = memchr::memmem::find(&held, b"\r\n\r\n").filter(|_| !passed_head).map(|end| end + 4);
                        let ready = head.unwrap_or(if held.len() > 16 * 1024 { held.len() } else { 0 });
                        passed_head |= head.is_some();
                        if near_write.write_all(&held[..ready]).await.is_err() {
                            return;
                        }
                        held.drain(..ready);
                    }
                };
                tokio::select! {
                    () = back => {}
                    _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_proxy_that_holds_small_events_back_is_found_and_so_is_a_sidecar_in_the_open() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&support::Config::on(&nats)).await;
        let url = format!("http://{}/events", holding(app.address().to_owned()).await);
        let args = ["doctor", &url, "--json", "--header", "X-Forwarded-User:alice", "--for", "1s"];
        let ran = command::output(&args, &mut command::command(&args), PATIENCE).await;
        assert_eq!(codes(&ran)[0], "buffering", "{}", ran.stdout);
        // Whoever reaches a sidecar whose proof is an address speaks for every user.
        let url = format!("http://{}/events", app.address());
        let args = ["doctor", &url, "--json", "--for", "1s"];
        let ran = command::output(&args, &mut command::command(&args), PATIENCE).await;
        assert!(codes(&ran).iter().any(|code| code == "spoofed_identity"), "{}", ran.stdout);
        let report: Value = ran.json();
        let spoofed = |finding: &&Value| finding["code"] == "spoofed_identity";
        let evidence =
            report["findings"].as_array().and_then(|all| all.iter().find(spoofed)).expect("found")["evidence"]
                .to_string();
        assert!(evidence.contains("x-forwarded-user, as it is") && evidence.contains("without it 401"), "{evidence}");
    })
    .await;
}
