//! A site for pages with the client: NATS, sidestream, a network that can be broken, and nginx, which knows the user
//! by a cookie and serves the page and the client's scripts. nginx answers 502 while nobody is behind it: it has no
//! page that tells browsers to come back.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use crate::package::built;
use crate::support::edge::{self, Edge, shared_directory};
use crate::support::ports::free_port;
use crate::support::proxy::Proxy;
use crate::support::{App, Config, Nats, Publisher, Version, skipped};

/// All that stands between a page and a publisher.
pub struct Site {
    /// nginx.
    pub edge: Edge,
    /// sidestream.
    pub app: App,
    /// Between the two.
    pub network: Proxy,
    /// Publishes to the stream.
    pub publisher: Publisher,
    /// What was published for alice, in order.
    pub published: Vec<String>,
    config: Config,
    _nats: Nats,
    pages: tempfile::TempDir,
}

impl Site {
    /// Starts everything; says so and gives nothing where nginx is not here.
    pub async fn start(test: &str, configure: impl FnOnce(Config) -> Config) -> Option<Self> {
        if edge::Proxy::Nginx.program().is_none() {
            skipped(test, "no nginx: run scripts/test, or see scripts/lib/edges.sh");
            return None;
        }
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        // A port of its own, to come back to.
        let address = format!("127.0.0.1:{}", free_port());
        let mut config = configure(Config::on(&nats).heartbeat("1s").listen(&[address.as_str()]));
        config.identity.push_str("expires_header = \"X-Expires\"\nsubjects_header = \"X-Sidestream-Subjects\"\n");
        let app = App::start(&config).await;
        let network = Proxy::to(address).await;
        let pages = pages(&built().await);
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port());
        let edge = Edge::start(edge::Proxy::Nginx, &nginx(at, &network.address, pages.path()), at).await;
        Some(Self { edge, app, network, publisher, published: Vec::new(), config, _nats: nats, pages })
    }

    /// The page. On loopback a browser takes it for secure, as it takes `https`.
    pub fn page(&self) -> String {
        format!("http://{}/page.html", self.edge.address)
    }

    /// Where nginx finds pages, for those that need others.
    pub fn pages(&self) -> &Path {
        self.pages.path()
    }

    /// sidestream again, after its end.
    pub async fn restart(&mut self) {
        self.app = App::start(&self.config).await;
    }

    /// One more file beside the page.
    pub fn put(&self, file: &str, text: &str) {
        std::fs::write(self.pages.path().join(file), text).expect("written");
    }

    /// One of the page's files is not there.
    pub fn take_away(&self, file: &str) {
        std::fs::remove_file(self.pages.path().join(file)).expect("it was there");
    }

    /// Publishes more for alice.
    pub async fn publish(&mut self, count: usize) {
        self.publish_long(count, 0).await;
    }

    /// The same, so many bytes longer each.
    pub async fn publish_long(&mut self, count: usize, bytes: usize) {
        for _ in 0..count {
            let data = format!("event {}", self.published.len());
            let long = if bytes == 0 { data.clone() } else { format!("{data} {}", "x".repeat(bytes)) };
            self.publisher.publish_named("events.user.alice.note", "note", long).await;
            self.published.push(data);
        }
    }
}

/// The page, and the client's scripts, where nginx may read them.
fn pages(scripts: &Path) -> tempfile::TempDir {
    let pages = shared_directory();
    let copy = |from: &Path, to: &Path| {
        let text = std::fs::read(from).expect("readable");
        std::fs::write(to, text).expect("written");
    };
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    for name in ["page.html", "page.mjs"] {
        copy(&ours.join(name), &pages.path().join(name));
    }
    for entry in std::fs::read_dir(scripts).expect("built").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "js") {
            copy(&entry.path(), &pages.path().join(entry.file_name()));
        }
    }
    pages
}

/// A site's nginx: who the user is, and until when, is in cookies. `/denied` asks for more than anybody may hear.
fn nginx(at: SocketAddrV4, upstream: &str, pages: &Path) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("  {name}_temp_path @home@/{name};\n")).concat();
    let pages = pages.display();
    format!(
        r#"user www-data;
worker_processes 1;
pid @home@/nginx.pid;
events {{ worker_connections 1024; }}
http {{
{temporary}  access_log @home@/access.log;
  types {{ text/html html; text/javascript js mjs; }}
  server {{
    listen {at};
    root {pages};
    location / {{ try_files $uri @sidestream; }}
    location /denied {{
      rewrite ^ /events break;
      proxy_pass http://{upstream};
      proxy_set_header X-Sidestream-Subjects "secret.>";
      {SETTINGS}
    }}
    location @sidestream {{ proxy_pass http://{upstream}; proxy_set_header X-Sidestream-Subjects ""; {SETTINGS} }}
  }}
}}
"#
    )
}

const SETTINGS: &str = "proxy_set_header X-Forwarded-User $cookie_user; proxy_set_header X-Expires $cookie_expires; \
    proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; proxy_read_timeout 1h;";
