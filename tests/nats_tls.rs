//! TLS to NATS: the host that is configured is the one that must prove itself, and TLS that is meant cannot be talked away.
//!
//! The class of RUSTSEC-2023-0027: what a NATS server says before TLS may be said by anybody.

mod support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::nats::Setup;
use support::{App, Config, DEADLINE, Nats, Version, bounded, eventually, on_both_servers_at_once};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const PASSWORD: &str = "a password that is worth something";

/// A certificate for one name, which is its own authority.
struct Named {
    dir: tempfile::TempDir,
}

impl Named {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        std::fs::write(dir.path().join("password"), PASSWORD).expect("written");
        Self { dir }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// A real server with this certificate.
    async fn server(&self, version: Version, tls_first: bool) -> Nats {
        let first = if tls_first { "handshake_first: true" } else { "" };
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        let config = format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, {first} }}\n");
        let setup = Setup { config: Some(config), ca: Some(cert), tls_first, ..Setup::default() };
        Nats::start_as(version, setup).await
    }

    fn acceptor(&self) -> TlsAcceptor {
        let certs = CertificateDer::pem_file_iter(self.path("cert.pem")).expect("a file").flatten().collect();
        let key = PrivateKeyDer::from_pem_file(self.path("key.pem")).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(certs, key)
            .expect("they fit");
        TlsAcceptor::from(Arc::new(config))
    }

    /// A configuration that trusts this certificate only, and logs in with a password.
    fn trusted_by(&self, url: &str) -> Config {
        let lines =
            format!("ca = {:?}\nuser = \"side\"\npassword_file = {:?}\n", self.path("cert.pem"), self.path("password"));
        Config::at(url).nats(&lines)
    }
}

/// A server that is not one: it greets, and notes what clients do then.
struct Impostor {
    url: String,
    /// What each client did after the greeting.
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// It began TLS, and took our certificate.
    Secured { login: String },
    /// It began TLS, and did not take it.
    Refused,
    /// It wrote something else, which is readable by everybody.
    Plain(Vec<u8>),
}

impl Impostor {
    /// `tls_required` and `others` are what it says in its greeting.
    async fn start(certificate: &Named, tls_required: bool, others: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("nats://{}", listener.local_addr().expect("bound"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, notes) = (certificate.acceptor(), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, notes, others) = (acceptor.clone(), notes.clone(), others.clone());
                tokio::spawn(async move {
                    if let Some(seen) = Self::speak(stream, &acceptor, tls_required, &others).await {
                        notes.lock().expect("no holder panics").push(seen);
                    }
                });
            }
        });
        Self { url, seen }
    }

    /// Greets; lets in who comes by TLS, and hangs up.
    async fn speak(mut stream: TcpStream, tls: &TlsAcceptor, tls_required: bool, others: &[String]) -> Option<Seen> {
        let info = serde_json::json!({
            "server_id": "X", "server_name": "X", "version": "2.12.12", "proto": 1, "host": "nats.example", "port": 4222,
            "max_payload": 1_048_576, "headers": true, "tls_required": tls_required, "connect_urls": others,
        });
        stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.ok()?;
        let mut first = [0; 64];
        let count = stream.peek(&mut first).await.ok().filter(|count| *count > 0)?;
        // The first byte of a TLS record that holds a handshake.
        if first[0] != 0x16 {
            return Some(Seen::Plain(first[..count].to_vec()));
        }
        let Ok(stream) = tls.accept(stream).await else { return Some(Seen::Refused) };
        let mut lines = BufReader::new(stream);
        let mut login = String::new();
        lines.read_line(&mut login).await.ok()?;
        lines.get_mut().write_all(b"PONG\r\n").await.ok()?;
        Some(Seen::Secured { login })
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no holder panics").clone()
    }

    /// Waits until so many clients have come.
    async fn visited(&self, count: usize) -> Vec<Seen> {
        eventually("clients have come", DEADLINE, async || Some(self.seen()).filter(|seen| seen.len() >= count)).await
    }
}

on_both_servers_at_once! {
    async fn streams_are_read_by_tls(version: Version) {
        let certificate = Named::new("127.0.0.1");
        let nats = certificate.server(version, false).await;
        nats.events().await;
        // A URL that does not say so is as good, with an authority.
        for url in [nats.url(), nats.url().replace("nats://", "tls://")] {
            hears(&nats, &certificate.trusted_by(&url)).await;
        }
    }
}

async fn hears(nats: &Nats, config: &Config) {
    let app = App::start(config).await;
    let mut alice = app.events("alice").await;
    nats.publisher().await.publish("events.user.alice.note", "one").await;
    assert_eq!(alice.event().await.data, "one");
}

#[tokio::test]
async fn tls_before_the_first_word_works_where_the_server_does_it() {
    bounded(async {
        let certificate = Named::new("127.0.0.1");
        let nats = certificate.server(Version::Current, true).await;
        nats.events().await;
        hears(&nats, &certificate.trusted_by(&nats.url()).nats("tls_first = true\n")).await;

        // One that speaks first is not listened to.
        let impostor = Impostor::start(&certificate, true, Vec::new()).await;
        let app = App::bound(&certificate.trusted_by(&impostor.url).nats("tls_first = true\n")).await;
        app.logs("NATS cannot be reached", DEADLINE).await;
        assert!(impostor.seen().iter().all(|seen| *seen == Seen::Refused), "{:?}", impostor.seen());
    })
    .await;
}

#[tokio::test]
async fn another_host_than_the_configured_one_is_refused() {
    bounded(async {
        // Its certificate is good, and for the host that it says it is.
        let certificate = Named::new("nats.example");
        let impostor = Impostor::start(&certificate, true, Vec::new()).await;
        let app = App::bound(&certificate.trusted_by(&impostor.url)).await;
        for seen in impostor.visited(5).await {
            assert_eq!(seen, Seen::Refused);
        }
        app.logs("NATS cannot be reached", DEADLINE).await;
        assert_eq!(app.admin_get("/readyz").await.head.status, 503);
    })
    .await;
}

#[tokio::test]
async fn a_server_cannot_talk_a_client_out_of_tls() {
    bounded(async {
        let certificate = Named::new("127.0.0.1");
        let impostor = Impostor::start(&certificate, false, Vec::new()).await;
        let secured = impostor.url.replace("nats://", "tls://");
        let configs = [&impostor.url, &secured].map(|url| certificate.trusted_by(url));
        let _apps = tokio::join!(App::bound(&configs[0]), App::bound(&configs[1]));
        for seen in impostor.visited(8).await {
            let Seen::Secured { login } = seen else { panic!("in clear: {seen:?}") };
            assert!(login.starts_with("CONNECT ") && login.contains(PASSWORD), "{login}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_cannot_name_others_to_log_in_at() {
    bounded(async {
        let (certificate, theirs) = (Named::new("127.0.0.1"), Named::new("nats.example"));
        let other = Impostor::start(&theirs, false, Vec::new()).await;
        let named = other.url.trim_start_matches("nats://").to_owned();
        let impostor = Impostor::start(&certificate, true, vec![named]).await;
        // By the platform's authorities nobody would get in here; what counts is who is asked.
        let _app = App::bound(&certificate.trusted_by(&impostor.url.replace("nats://", "tls://"))).await;
        impostor.visited(12).await;
        assert_eq!(other.seen(), [], "it was asked");
    })
    .await;
}
