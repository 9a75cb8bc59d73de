//! The whole server on the bytes of a TLS connection: what is no TLS at all, and a real client whose bytes are damaged on the way.
//!
//! The server ends the connection or serves it, keeps little of what it cannot read yet, and nothing is left behind.

use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use sidestream::config::{Config, Tls};
use sidestream::server::tls::LiveConfig;

use super::http1::configurations;
use crate::harness::peer::{Peer, Received};
use crate::harness::{By, serve};
use crate::input::Input;

/// Rounds of bytes between client and server at most: a handshake takes two.
const ROUNDS_MAX: usize = 6;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (config, setup) = (config(), setup());
    let honest = input.below(2) == 0;
    let damage = Damage { round: input.below(4), place: usize::from(input.byte()), with: input.byte() };
    let bytes = input.rest();
    serve(config, &By::Tls(&setup.server), async |peer: Peer| {
        let mut received = Received::default();
        if honest {
            talk(&peer, setup.client(), &damage, bytes, &mut received).await;
        } else {
            peer.send(bytes, &mut received).await;
            peer.settle(&mut received).await;
        }
        peer.finish(&mut received).await;
    });
}

/// Which byte of what the client sends is changed, and how; 0 changes none.
struct Damage {
    round: usize,
    place: usize,
    with: u8,
}

/// A handshake, then the input as what is said inside.
async fn talk(peer: &Peer, mut client: ClientConnection, damage: &Damage, inside: &[u8], received: &mut Received) {
    let mut read = 0;
    let mut said = false;
    for round in 0..ROUNDS_MAX {
        let mut out = Vec::new();
        while client.wants_write() {
            let _ = client.write_tls(&mut out);
        }
        if round == damage.round && !out.is_empty() {
            let place = damage.place * out.len() / 256;
            out[place] ^= damage.with;
        }
        peer.send(&out, received).await;
        peer.settle(received).await;
        let mut news = &received.bytes[read..];
        while !news.is_empty() && client.read_tls(&mut news).is_ok() {
            if client.process_new_packets().is_err() {
                return;
            }
        }
        read = received.bytes.len();
        let mut plaintext = Vec::new();
        let _ = client.reader().read_to_end(&mut plaintext);
        if !client.is_handshaking() && !said {
            said = true;
            let _ = std::io::Write::write_all(&mut client.writer(), inside);
        }
    }
}

/// Identity by TCP, as in the other targets.
fn config() -> &'static Arc<Config> {
    &configurations()[2]
}

struct Setup {
    server: Arc<LiveConfig>,
    client: Arc<ClientConfig>,
}

impl Setup {
    fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("app.example").expect("a name");
        ClientConnection::new(self.client.clone(), name).expect("a client")
    }
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let made = rcgen::generate_simple_self_signed(vec!["app.example".to_owned()]).expect("a certificate");
        let tls = Tls { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem"), proxies: None };
        std::fs::write(&tls.cert, made.cert.pem()).expect("written");
        std::fs::write(&tls.key, made.signing_key.serialize_pem()).expect("written");
        let server = Arc::new(LiveConfig::new(&tls).expect("a configuration"));
        let mut roots = RootCertStore::empty();
        let pem = made.cert.pem();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        Setup { server, client: Arc::new(client) }
    })
}
