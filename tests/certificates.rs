//! Certificate files that change while streams are open (requirement R66), and hosts that a certificate is not for (R65).

mod support;

use std::time::Duration;

use support::tls::{Certificate, Pem};
use support::{App, Config, Nats, Sse, Version, Wire, bounded, eventually, get};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Swaps of certificate and key under load.
const SWAPS: usize = 1000;
/// How soon a new certificate is shown after the signal.
const SOON: Duration = Duration::from_secs(5);

struct Scene {
    nats: Nats,
    app: App,
    files: Certificate,
}

impl Scene {
    async fn start(pem: &Pem) -> Self {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let files = Certificate::of(pem);
        let app = App::start(&Config::on(&nats).server(&files.table())).await;
        Self { nats, app, files }
    }

    /// A client that trusts `pem` and asks for this host.
    async fn handshake(&self, pem: &Pem, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.app.address()).await.expect("accepts");
        Certificate::of(pem).handshake_as(tcp, &["http/1.1"], host, None).await
    }

    fn write(&self, cert: &str, key: &str) {
        std::fs::write(self.files.cert(), cert).expect("written");
        std::fs::write(self.files.key(), key).expect("written");
        self.app.hang_up();
    }

    async fn is_shown(&self, pem: &Pem) {
        eventually("the certificate is shown", SOON, async || self.handshake(pem, "app.example").await.ok()).await;
    }
}

#[tokio::test]
async fn a_thousand_swaps_under_load_lose_nothing() {
    bounded(async {
        let pairs = [Pem::new(), Pem::new()];
        let scene = Scene::start(&pairs[0]).await;
        let publisher = scene.nats.publisher().await;
        let stream = scene.handshake(&pairs[0], "app.example").await.expect("a handshake");
        let mut alice = Sse::open(Wire::over(stream), &get("/events").user("alice")).await;
        for swap in 1..=SWAPS {
            let (new, old) = (&pairs[swap % 2], &pairs[(swap + 1) % 2]);
            // Half written first: the key is missing, cut off, or still that of the other certificate.
            let half = ["", &new.key[..new.key.len() / 2], &old.key][swap % 3];
            scene.write(&new.cert, half);
            publisher.publish("events.user.alice.note", format!("{swap}")).await;
            scene.write(&new.cert, &new.key);
            scene.is_shown(new).await;
            assert_eq!(alice.event().await.data, format!("{swap}"));
        }
        let applied = scene.app.metric("sidestream_certificate_reloads_total", &[("outcome", "applied")]).await;
        assert!(applied >= SWAPS as f64, "{applied}");
        let refused = scene.app.metric("sidestream_certificate_reloads_total", &[("outcome", "refused")]).await;
        assert!(refused > 0.5, "no half-written pair was ever seen");
    })
    .await;
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing_and_are_told_once() {
    bounded(async {
        let (old, new) = (Pem::new(), Pem::new());
        let scene = Scene::start(&old).await;
        scene.write(&new.cert, &old.key);
        scene.app.logs("Certificates have changed and cannot be used", SOON).await;
        scene.is_shown(&old).await;
        // The same again is not read again.
        scene.app.hang_up();
        scene.app.hang_up();
        std::fs::remove_file(scene.files.key()).expect("our own file");
        scene.app.hang_up();
        eventually("it is told", SOON, async || (told(&scene.app) == 2).then_some(())).await;
        scene.is_shown(&old).await;
        scene.write(&new.cert, &new.key);
        scene.app.logs("Certificates were read again", SOON).await;
        scene.is_shown(&new).await;
        assert_eq!(told(&scene.app), 2);
        assert!(!scene.app.log_lines().concat().contains("PRIVATE KEY"));
    })
    .await;
}

fn told(app: &App) -> usize {
    app.log_lines().iter().filter(|line| line.contains("Certificates have changed")).count()
}

#[tokio::test]
async fn a_change_is_noticed_without_a_signal() {
    bounded(async {
        let (old, new) = (Pem::new(), Pem::new());
        let scene = Scene::start(&old).await;
        std::fs::write(scene.files.cert(), &new.cert).expect("written");
        std::fs::write(scene.files.key(), &new.key).expect("written");
        scene.app.logs("Certificates were read again", Duration::from_secs(13)).await;
        scene.is_shown(&new).await;
    })
    .await;
}

#[tokio::test]
async fn a_host_that_the_certificate_is_not_for_is_an_alert() {
    bounded(async {
        let pem = Pem::new();
        let scene = Scene::start(&pem).await;
        // An address is not named in a handshake.
        for host in ["app.example", "APP.example", "127.0.0.1"] {
            let stream = scene.handshake(&pem, host).await.unwrap_or_else(|error| panic!("{host}: {error}"));
            assert!(pem.is_shown_by(&stream));
        }
        for host in ["evil.example", "example", "a.app.example", "app.example.evil.example"] {
            let error = scene.handshake(&pem, host).await.expect_err(host).to_string();
            assert!(error.contains("AccessDenied"), "{host}: {error}");
        }
    })
    .await;
}
