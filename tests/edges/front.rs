//! Everything that stands in a row: NATS, sidestream, the proxy, the application; and a client's way in.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use tokio::net::{TcpSocket, TcpStream};

use crate::application::{Application, PAGE};
use crate::attempt::Attempt;
use crate::kind::Kind;
use crate::recorder::Recorder;
use crate::support::edge::{Account, Edge, Proxy, replaced, shared_directory};
use crate::support::ports::free_port;
use crate::support::tls::Certificate;
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
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { set: &[], page: PAGE, listen: Ipv4Addr::LOCALHOST }
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
        let (certificate, issuer, files) = (Certificate::new(), Issuer::new(), shared_directory());
        let application = Application::start(issuer.keys(), setup.page).await;
        share(&certificate, files.path());
        let set = settings(kind, &nats, &files.path().join(SOCKET), setup.set);
        let app = serve(kind, &set).await;
        let at = SocketAddrV4::new(setup.listen, free_port());
        let edge = edge(kind, at, files.path(), SOCKET, application.port).await;
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
        let stream = self.certificate.handshake(stream, &[alpn]).await.expect("a handshake");
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

/// The certificate, under the names of `conf/`, where the proxy may read it.
fn share(certificate: &Certificate, files: &Path) {
    for (from, to) in [(certificate.cert(), "chain.pem"), (certificate.key(), "key.pem")] {
        // Written, not copied: a copy would keep the key to its owner.
        let pem = std::fs::read(from).expect("readable");
        std::fs::write(files.join(to), pem).expect("written");
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

/// Starts the proxy. The replacements are all in which its configuration differs from the file: addresses, and paths.
async fn edge(kind: Kind, at: SocketAddrV4, files: &Path, socket: &str, application: u16) -> Edge {
    let (ip, port) = (at.ip(), at.port());
    let path = files.join(socket).display().to_string();
    let files = files.display().to_string();
    let replacements = match kind.proxy() {
        Proxy::Nginx => vec![
            ("listen 443 ssl http2;", format!("listen {at} ssl http2;")),
            ("/run/sidestream/http.sock", path),
            ("127.0.0.1:3000", format!("127.0.0.1:{application}")),
            ("/etc/ssl/events.example.com/chain.pem", format!("{files}/chain.pem")),
            ("/etc/ssl/events.example.com/key.pem", format!("{files}/key.pem")),
            ("/run/nginx.pid", "@home@/nginx.pid".to_owned()),
            ("/var/log/nginx/error.log", "@home@/error.log".to_owned()),
            ("/var/log/nginx/access.log", "@home@/access.log".to_owned()),
            // Where the package, which is not installed here, has directories of its own.
            ("http {\n", temporary_paths()),
        ],
        Proxy::Envoy => vec![
            ("address: 0.0.0.0, port_value: 443", format!("address: {ip}, port_value: {port}")),
            ("/run/sidestream/http.sock", path),
            ("address: 127.0.0.1, port_value: 3000", format!("address: 127.0.0.1, port_value: {application}")),
            ("/etc/ssl/events.example.com/chain.pem", format!("{files}/chain.pem")),
            ("/etc/ssl/events.example.com/key.pem", format!("{files}/key.pem")),
        ],
    };
    Edge::start(kind.proxy(), &replaced(&kind.configuration(), &replacements), at).await
}

fn temporary_paths() -> String {
    let paths =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path @home@/{name};\n"));
    format!("http {{\n{}", paths.concat())
}
