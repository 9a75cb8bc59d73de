//! Certificates of proxies (requirement R9): only an exact name of the right authority is let in, and only that is a proof.

mod support;

use std::io;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use support::tls::{Authority, Certificate, Pem};
use support::{App, Config, Nats, Sse, Version, Wire, bounded, get, h2};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

struct Scene {
    nats: Nats,
    app: App,
    server: Certificate,
    _files: tempfile::TempDir,
}

impl Scene {
    async fn with(authority: &Authority, trust: &str) -> Self {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let server = Certificate::new();
        let files = tempfile::tempdir().expect("a temporary directory");
        let ca = files.path().join("ca.pem");
        std::fs::write(&ca, &authority.cert).expect("written");
        let tls =
            format!("{}client_ca = {ca:?}\nclient_names = [\"nginx.internal\", \"Envoy.Internal\"]\n", server.table());
        let app = App::start(&Config::on(&nats).server(&tls).trust(Some(trust))).await;
        Self { nats, app, server, _files: files }
    }

    async fn handshake(&self, alpn: &[&str], shown: Option<&Pem>) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.app.address()).await.expect("accepts");
        self.server.handshake_as(tcp, alpn, "app.example", shown).await
    }

    /// What the server says to a client that is not let in. With TLS 1.3 it says so after the client's end of the handshake.
    async fn alert(&self, shown: Option<&Pem>) -> String {
        let asked = async {
            let mut stream = self.handshake(&["http/1.1"], shown).await?;
            let _ = stream.write_all(&get("/events").user("alice").bytes()).await;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.map(|_| answer)
        };
        match asked.await {
            Err(error) => error.to_string(),
            Ok(answer) => panic!("no alert but {:?}", String::from_utf8_lossy(&answer)),
        }
    }
}

const PROXY: &str = "proxies = [\"127.0.0.1\"]\nclient_certificate = true\n";

#[tokio::test]
async fn the_exact_name_is_let_in_and_speaks_for_users() {
    bounded(async {
        let authority = Authority::new();
        let scene = Scene::with(&authority, PROXY).await;
        for names in [&["nginx.internal"][..], &["other.internal", "ENVOY.internal"]] {
            let proxy = authority.client(names);
            let stream = scene.handshake(&["http/1.1"], Some(&proxy)).await.expect("let in");
            Sse::open(Wire::over(stream), &get("/events").user("alice")).await;
            let stream = scene.handshake(&["h2"], Some(&proxy)).await.expect("let in");
            let answer = h2::over(stream).await.send_request(h2::request("/events", "alice")).await;
            assert_eq!(answer.expect("an answer").status(), 200);
        }
    })
    .await;
}

#[tokio::test]
async fn everybody_else_ends_in_the_handshake() {
    bounded(async {
        let authority = Authority::new();
        let scene = Scene::with(&authority, PROXY).await;
        let common_name = |params: &mut CertificateParams| {
            params.distinguished_name.push(DnType::CommonName, "nginx.internal");
        };
        let expired = |params: &mut CertificateParams| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        };
        let for_servers = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        };
        for (what, shown, alert) in [
            ("no certificate", None, "CertificateRequired"),
            ("another name", Some(authority.client(&["evil.internal"])), "AccessDenied"),
            ("a longer name", Some(authority.client(&["nginx.internal.evil.example"])), "AccessDenied"),
            ("a name below it", Some(authority.client(&["a.nginx.internal"])), "AccessDenied"),
            ("a wildcard", Some(authority.client(&["*.internal"])), "AccessDenied"),
            ("an address", Some(authority.client(&["127.0.0.1"])), "AccessDenied"),
            ("no name", Some(authority.client(&[])), "AccessDenied"),
            ("a common name only", Some(authority.sign(&[], common_name)), "AccessDenied"),
            ("expired", Some(authority.sign(&["nginx.internal"], expired)), "CertificateExpired"),
            ("not for clients", Some(authority.sign(&["nginx.internal"], for_servers)), "UnsupportedCertificate"),
            ("another authority", Some(Authority::new().client(&["nginx.internal"])), "DecryptError|UnknownCA"),
            ("self-signed", Some(Pem::new()), "UnknownCA"),
        ] {
            let said = scene.alert(shown.as_ref()).await;
            assert!(alert.split('|').any(|alert| said.contains(alert)), "{what}: {said}");
        }
        // None of them was asked what it wanted.
        assert!(scene.app.metric("sidestream_connections_total", &[]).await < 0.5);
        assert!(scene.app.metric("sidestream_tls_handshakes_failed_total", &[]).await > 11.5);
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_no_proof_from_another_address_or_where_it_is_not_wanted() {
    bounded(async {
        let authority = Authority::new();
        let proxy = authority.client(&["nginx.internal"]);
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), "0123456789abcdef").expect("written");
        let by_secret = format!("proxies = [\"127.0.0.1\"]\nsecret_files = [{:?}]\n", secret.path());
        for trust in ["proxies = [\"192.0.2.1\"]\nclient_certificate = true\n", &by_secret] {
            let scene = Scene::with(&authority, trust).await;
            let stream = scene.handshake(&["http/1.1"], Some(&proxy)).await.expect("let in");
            let mut wire = Wire::over(stream);
            wire.send(&get("/events").user("alice").bytes()).await;
            wire.answer().await.is_refusal(403, "untrusted_peer");
        }
    })
    .await;
}

#[tokio::test]
async fn no_session_is_resumed_where_certificates_are_wanted() {
    bounded(async {
        let authority = Authority::new();
        let scene = Scene::with(&authority, PROXY).await;
        let proxy = authority.client(&["nginx.internal"]);
        assert_eq!(tickets(scene.handshake(&["http/1.1"], Some(&proxy)).await.expect("let in")).await, 0);

        let app = App::start(&Config::on(&scene.nats).server(&scene.server.table())).await;
        let tcp = TcpStream::connect(app.address()).await.expect("accepts");
        assert_eq!(tickets(scene.server.handshake(tcp, &["http/1.1"]).await.expect("let in")).await, 1);
    })
    .await;
}

/// How many tickets came with an answer.
async fn tickets(mut stream: TlsStream<TcpStream>) -> u32 {
    stream.write_all(&get("/nothing").header("Connection", "close").bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an orderly end");
    assert!(answer.starts_with(b"HTTP/1.1 404"));
    stream.get_ref().1.tls13_tickets_received()
}
