//! Everything that stands in a row: NATS, sidestream, the proxy, the application; and a client's way in.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpSocket, TcpStream};

use crate::application::{Application, PAGE};
use crate::attempt::{Attempt, HOST};
use crate::kind::Kind;
use crate::recorder::Recorder;
use crate::support::edge::{Account, Edge, Proxy, replaced, shared_directory};
use crate::support::ports::free_port;
use crate::support::tls::{Certificate, Pem};
use crate::support::{App, DEADLINE, Nats, Version, skipped};
use crate::tap::{Reply, Tap};
use crate::token::Issuer;

/// Wide limits: only the tests of a limit meet one.
const WIDE: [&str; 4] = [
    "limits.connections_per_user=100000",
    "limits.connections_per_address=100000",
    "limits.connects_per_second_per_user=100000",
    "limits.connects_per_second_per_address=100000",
];

/// sidestream's socket.
const SOCKET: &str = "http.sock";

/// What is unusual about a site.
pub struct Setup<'s> {
    /// Set beside sidestream's file.
    pub set: &'s [&'s str],
    /// The application's page.
    pub page: &'s str,
    /// Where the proxy listens.
    pub listen: Ipv4Addr,
    /// With nginx's limits as they are in the file. All clients here are one address.
    pub limited: bool,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { set: &[], page: PAGE, listen: Ipv4Addr::LOCALHOST, limited: false }
    }
}

/// A site with its events.
pub struct Front {
    /// Which proxy.
    pub kind: Kind,
    /// The proxy.
    pub edge: Edge,
    /// sidestream.
    pub app: App,
    /// The application.
    pub application: Application,
    /// NATS.
    pub nats: Nats,
    /// Whose tokens the application issues.
    pub issuer: Issuer,
    certificate: Certificate,
    files: tempfile::TempDir,
    set: Vec<String>,
}

impl Front {
    /// Starts everything; says so and gives nothing where the proxy is not here.
    pub async fn start(test: &str, kind: Kind, setup: Setup<'_>) -> Option<Self> {
        let proxy = kind.proxy();
        if proxy.program().is_none() {
            skipped(test, &format!("no {proxy:?}: run scripts/test, or see scripts/lib/edges.sh"));
            return None;
        }
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let certificate = Certificate::of(&Pem::named(&[HOST]));
        let (issuer, files) = (Issuer::new(), shared_directory());
        let application = Application::start(issuer.keys(), setup.page).await;
        share(&certificate, &issuer, files.path());
        let set = settings(kind, &nats, &files.path().join(SOCKET), setup.set);
        let app = serve(kind, &set).await;
        let at = SocketAddrV4::new(setup.listen, free_port());
        let edge = if setup.limited {
            limited_edge(kind, at, files.path(), application.port).await
        } else {
            edge(kind, at, files.path(), SOCKET, application.port).await
        };
        Some(Self { kind, edge, app, application, nats, issuer, certificate, files, set })
    }

    /// A recorder, and a second proxy of the same kind before it.
    pub async fn recorded(&self) -> (Recorder, Edge) {
        let recorder = Recorder::at(&self.files.path().join("recorder.sock"));
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port());
        (recorder, edge(self.kind, at, self.files.path(), "recorder.sock", self.application.port).await)
    }

    /// sidestream again, after its end.
    pub async fn restart(&mut self) {
        self.app = serve(self.kind, &self.set).await;
    }

    /// A connection to a proxy from an address.
    pub async fn dial(edge: &Edge, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("an address of ours");
        // Little, so that a reader that stops is soon noticed.
        socket.set_recv_buffer_size(16 * 1024).expect("a fresh socket");
        let connecting = tokio::time::timeout(DEADLINE, socket.connect(edge.address.into()));
        connecting.await.expect("connects in time").expect("the proxy accepts")
    }

    /// Secures a connection, as a client that knows the proxy's certificate.
    pub async fn secure(&self, stream: TcpStream, h2: bool) -> Tap {
        stream.set_nodelay(true).expect("a fresh socket");
        let alpn = if h2 { "h2" } else { "http/1.1" };
        let stream = self.certificate.handshake_as(stream, &[alpn], HOST, None).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()), "what the proxy agreed to");
        Tap::over(stream, h2)
    }

    /// Makes an attempt, on a connection of its own.
    pub async fn attempt(&self, attempt: &Attempt) -> (Reply, Tap) {
        self.attempt_at(&self.edge, attempt).await
    }

    /// The same at another proxy.
    pub async fn attempt_at(&self, edge: &Edge, attempt: &Attempt) -> (Reply, Tap) {
        self.attempt_over(Self::dial(edge, *edge.address.ip()).await, attempt).await
    }

    /// The same over a connection that the caller made.
    pub async fn attempt_over(&self, stream: TcpStream, attempt: &Attempt) -> (Reply, Tap) {
        let mut tap = self.secure(stream, attempt.h2).await;
        let cookie = self.kind.cookie(&attempt.session, &self.issuer);
        tap.send(&attempt.wire(cookie.as_deref())).await;
        (tap.reply().await, tap)
    }

    /// An attempt that must open a stream.
    pub async fn stream(&self, attempt: &Attempt) -> Tap {
        let (reply, tap) = self.attempt(attempt).await;
        assert_eq!(reply, Reply::Stream, "{:?}: {}", self.kind, tap.head());
        tap
    }
}

/// The certificate and the key for tokens, under the names of `conf/`, where the proxy may read them.
fn share(certificate: &Certificate, issuer: &Issuer, files: &Path) {
    // Written, not copied: a copy would keep the key to its owner.
    let read = |path| std::fs::read_to_string(path).expect("readable");
    let (chain, key) = (read(certificate.cert()), read(certificate.key()));
    let both = format!("{chain}{key}");
    for (name, text) in [("chain.pem", chain), ("key.pem", key), ("both.pem", both), ("tokens.pem", issuer.pem())] {
        std::fs::write(files.join(name), text).expect("written");
    }
}

/// All that is set beside sidestream's file. The file is used as it is; only what names this machine is said anew.
fn settings(kind: Kind, nats: &Nats, socket: &Path, more: &[&str]) -> Vec<String> {
    let machine = [
        format!("server.listen=unix:{}", socket.display()),
        format!("nats.servers={}", nats.url()),
        format!("trust.peer_uids=[{}]", Account::of_proxies().uid),
        "admin.listen=127.0.0.1:0".to_owned(),
        "server.drain_window=1s".to_owned(),
    ];
    let others = kind.sidestream().1.iter().chain(&WIDE).chain(more);
    machine.into_iter().chain(others.map(|assignment| (*assignment).to_owned())).collect()
}

async fn serve(kind: Kind, set: &[String]) -> App {
    App::from_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join(kind.sidestream().0), set).await
}

/// Starts the proxy without its limits per address: all clients here have one.
async fn edge(kind: Kind, at: SocketAddrV4, files: &Path, socket: &str, application: u16) -> Edge {
    let mut replacements = machine(kind, at, files, socket, application);
    if kind.proxy() == Proxy::Nginx {
        replacements.push(("limit_conn streams 200;", String::new()));
        replacements.push(("limit_req zone=attempts burst=100 nodelay;", String::new()));
    }
    Edge::start(kind.proxy(), &replaced(&kind.configuration(), &replacements), at).await
}

/// Starts the proxy with them.
async fn limited_edge(kind: Kind, at: SocketAddrV4, files: &Path, application: u16) -> Edge {
    let replacements = machine(kind, at, files, SOCKET, application);
    Edge::start(kind.proxy(), &replaced(&kind.configuration(), &replacements), at).await
}

type Replacements = Vec<(&'static str, String)>;

/// All else in which a configuration differs from the file: addresses, accounts, and paths. The application's comes before other
/// addresses: a port may begin as its own does.
fn machine(kind: Kind, at: SocketAddrV4, files: &Path, socket: &str, application: u16) -> Replacements {
    let socket = files.join(socket).display().to_string();
    let files = files.display().to_string();
    let mut replacements = vec![("/run/sidestream/http.sock", socket)];
    replacements.extend(match kind.proxy() {
        Proxy::Nginx => nginx(at, &files, application),
        Proxy::Envoy => envoy(at, &files, application),
        Proxy::Haproxy => haproxy(kind, at, &files, application),
        Proxy::Caddy => caddy(at, &files, application),
    });
    replacements
}

fn nginx(at: SocketAddrV4, files: &str, application: u16) -> Replacements {
    let paths =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path @home@/{name};\n"));
    vec![
        ("127.0.0.1:3000", format!("127.0.0.1:{application}")),
        ("listen 443 ssl http2;", format!("listen {at} ssl http2;")),
        ("/etc/ssl/events.example.com/chain.pem", format!("{files}/chain.pem")),
        ("/etc/ssl/events.example.com/key.pem", format!("{files}/key.pem")),
        ("/run/nginx.pid", "@home@/nginx.pid".to_owned()),
        ("/var/log/nginx/error.log", "@home@/error.log".to_owned()),
        ("/var/log/nginx/access.log", "@home@/access.log".to_owned()),
        // Where the package, which is not installed here, has directories of its own.
        ("http {\n", format!("http {{\n{}", paths.concat())),
    ]
}

fn envoy(at: SocketAddrV4, files: &str, application: u16) -> Replacements {
    let (ip, port) = (at.ip(), at.port());
    vec![
        ("address: 127.0.0.1, port_value: 3000", format!("address: 127.0.0.1, port_value: {application}")),
        ("address: 0.0.0.0, port_value: 443", format!("address: {ip}, port_value: {port}")),
        ("/etc/ssl/events.example.com/chain.pem", format!("{files}/chain.pem")),
        ("/etc/ssl/events.example.com/key.pem", format!("{files}/key.pem")),
    ]
}

fn haproxy(kind: Kind, at: SocketAddrV4, files: &str, application: u16) -> Replacements {
    let account = Account::of_proxies();
    // HAProxy refuses more than its limit of descriptors can hold.
    let most = getrlimit(Resource::Nofile).maximum.map_or(50_000, |descriptors| (descriptors / 2 - 500).min(50_000));
    let secured = (kind == Kind::Haproxy).then(|| ("/etc/haproxy/events.example.com.pem", format!("{files}/both.pem")));
    let mut replacements = vec![
        ("maxconn 50000", format!("maxconn {most}")),
        ("127.0.0.1:3000", format!("127.0.0.1:{application}")),
        ("bind :443", format!("bind {at}")),
        ("/etc/haproxy/tokens.pem", format!("{files}/tokens.pem")),
        ("user haproxy ", format!("uid {} ", account.uid)),
        ("group haproxy\n", format!("gid {}\n", account.gid)),
        ("/dev/log", "stdout format raw".to_owned()),
    ];
    replacements.extend(secured);
    replacements
}

fn caddy(at: SocketAddrV4, files: &str, application: u16) -> Replacements {
    let (ip, port, plain) = (at.ip(), at.port(), free_port());
    vec![
        ("\nevents.example.com {", format!("\nevents.example.com:{port} {{")),
        ("@asked 127.0.0.1:3000", format!("@asked 127.0.0.1:{application}")),
        ("\treverse_proxy 127.0.0.1:3000", format!("\treverse_proxy 127.0.0.1:{application}")),
        ("/etc/ssl/events.example.com/chain.pem", format!("{files}/chain.pem")),
        ("/etc/ssl/events.example.com/key.pem", format!("{files}/key.pem")),
        // One port for the redirect to https, and none for its interface, as several run here.
        ("\tservers {", format!("\tadmin off\n\thttp_port {plain}\n\tdefault_bind {ip}\n\tservers {{")),
    ]
}
