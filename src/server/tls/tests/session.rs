//! Sessions in memory: no socket decides how the bytes are cut.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use bytes::BytesMut;
use rustls::client::ClientConnection;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, ServerConfig};

use super::super::session::{PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, Session};
use super::{VERSIONS, client, connection, server, server_with, worn_out_after};

/// A client and a session that exchange bytes in pieces of at most so many.
struct Pair {
    client: ClientConnection,
    session: Session,
    piece: usize,
    /// What the session has heard.
    heard: Vec<u8>,
}

impl Pair {
    fn new(config: &Arc<ClientConfig>, server: Arc<ServerConfig>, piece: usize) -> Self {
        let mut pair = Self {
            client: connection(config),
            session: Session::new(server).expect("a session"),
            piece,
            heard: Vec::new(),
        };
        pair.settle().expect("a handshake");
        assert!(!pair.client.is_handshaking() && !pair.session.agreed().is_handshaking());
        pair
    }

    /// Lets both talk until neither has anything to say.
    fn settle(&mut self) -> Result<(), rustls::Error> {
        while self.client.wants_write() || !self.session.outgoing().is_empty() {
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut bytes).expect("memory");
            }
            self.give(&mut bytes)?;
            self.client_reads()?;
        }
        Ok(())
    }

    fn give(&mut self, bytes: &mut [u8]) -> Result<(), rustls::Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at_mut(self.session.room().min(self.piece).min(rest.len()));
            self.session.receive(piece, |plaintext| self.heard.extend_from_slice(plaintext))?;
            rest = behind;
        }
        Ok(())
    }

    fn client_reads(&mut self) -> Result<(), rustls::Error> {
        while !self.session.outgoing().is_empty() {
            let piece = self.session.outgoing().len().min(self.piece);
            let read = self.client.read_tls(&mut &self.session.outgoing()[..piece]).expect("memory");
            self.session.sent(read);
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    /// The session says something; gives what the client reads.
    fn says(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = BytesMut::new();
        let record = self.session.encrypt(plaintext, &mut sealed).expect("an open session");
        self.session.keep(&sealed[..record]);
        self.client_reads().expect("a record");
        let mut read = Vec::new();
        let _ = self.client.reader().read_to_end(&mut read);
        read
    }

    fn client_says(&mut self, plaintext: &[u8]) {
        self.client.writer().write_all(plaintext).expect("memory");
        self.settle().expect("a record");
    }
}

#[test]
fn records_may_be_cut_anywhere_and_nothing_is_kept_of_them() {
    for version in VERSIONS {
        let config = Arc::new(client(version));
        for piece in [1, 2, 7, 1000, RECORD_BYTES_MAX] {
            let mut pair = Pair::new(&config, server(), piece);
            assert_eq!(pair.session.agreed().protocol_version(), Some(version.version));
            assert_eq!(pair.session.agreed().alpn_protocol(), Some(&b"http/1.1"[..]));
            let long: Vec<u8> = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
            pair.client_says(b"first");
            pair.client_says(&long);
            assert!(pair.heard.starts_with(b"first") && pair.heard[5..] == long, "in pieces of {piece}");
            assert_eq!(pair.says(b"answer"), b"answer");
            assert_eq!(pair.says(&long[..PLAINTEXT_BYTES_MAX]), &long[..PLAINTEXT_BYTES_MAX]);
            assert_eq!(pair.session.kept_bytes(), 0, "an idle session keeps buffers");
        }
    }
}

#[test]
fn a_ticket_brings_a_client_back_without_a_full_handshake() {
    for version in VERSIONS {
        let (config, server) = (Arc::new(client(version)), server());
        let first = Pair::new(&config, server.clone(), 500);
        assert_eq!(first.session.agreed().handshake_kind(), Some(HandshakeKind::Full));
        let mut second = Pair::new(&config, server, 500);
        assert_eq!(second.session.agreed().handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(second.says(b"again"), b"again");
    }
}

#[test]
fn keys_change_when_the_peer_asks() {
    let mut pair = Pair::new(&Arc::new(client(VERSIONS[1])), server(), 3);
    for round in 0..100_u8 {
        pair.client.refresh_traffic_keys().expect("TLS 1.3");
        pair.client_says(&[round]);
        assert_eq!(pair.says(&[round]), [round], "under new keys in both directions");
    }
    assert_eq!(pair.heard, (0..100).collect::<Vec<u8>>());
}

#[test]
fn more_key_updates_than_anybody_needs_end_the_session() {
    let mut pair = Pair::new(&Arc::new(client(VERSIONS[1])), server(), RECORD_BYTES_MAX);
    let ended = (0..100).find_map(|_| {
        pair.client.refresh_traffic_keys().expect("TLS 1.3");
        let settled = pair.settle();
        assert!(pair.session.kept_bytes() < 100, "answers pile up");
        settled.err()
    });
    assert!(matches!(ended, Some(rustls::Error::PeerMisbehaved(_))), "{ended:?}");
}

#[test]
fn worn_out_keys_are_changed_before_they_are_used_again() {
    let mut pair = Pair::new(&Arc::new(client(VERSIONS[1])), server_with(worn_out_after(8)), 100);
    for round in 0..100_u8 {
        let sent = vec![round; 300];
        assert_eq!(pair.says(&sent), sent);
    }
}

#[test]
fn worn_out_keys_of_tls_1_2_end_the_session_in_order() {
    let mut pair = Pair::new(&Arc::new(client(VERSIONS[0])), server_with(worn_out_after(8)), 100);
    let mut sealed = BytesMut::new();
    let mut said = 0;
    while let Ok(record) = pair.session.encrypt(b"event", &mut sealed) {
        pair.session.keep(&sealed[..record]);
        pair.client_reads().expect("a record");
        said += 1;
    }
    assert!((1..8).contains(&said), "{said} records");
    pair.client_reads().expect("close_notify");
    let mut read = Vec::new();
    pair.client.reader().read_to_end(&mut read).expect("an orderly end");
    assert_eq!(read, b"event".repeat(said));
    assert!(pair.session.encrypt(b"event", &mut sealed).is_err(), "it stays ended");
}

#[test]
fn the_peers_end_is_seen_and_ours_is_said() {
    for version in VERSIONS {
        let mut pair = Pair::new(&Arc::new(client(version)), server(), 1);
        pair.client.writer().write_all(b"last words").expect("memory");
        pair.client.send_close_notify();
        pair.settle().expect("close_notify");
        assert!(pair.session.peer_closed());
        assert_eq!(pair.heard, b"last words");
        // Half-closed: what we say is still heard (RFC 8446 section 6.1), what the peer says is not.
        assert_eq!(pair.says(b"still here"), b"still here");
        pair.give(&mut b"anything".repeat(10_000)).expect("ignored");
        assert_eq!((pair.heard.len(), pair.session.kept_bytes()), (10, 0));
        pair.session.close();
        pair.session.close();
        pair.client_reads().expect("close_notify");
        assert_eq!(pair.client.reader().read(&mut [0]).expect("an orderly end"), 0);
    }
}

/// What a session answers to bytes that are no handshake.
fn answer_to(bytes: &[u8]) -> (rustls::Error, Vec<u8>) {
    let mut session = Session::new(server()).expect("a session");
    for piece in bytes.chunks(RECORD_BYTES_MAX) {
        let room = session.room().min(piece.len());
        if let Err(error) = session.receive(&mut piece[..room].to_vec(), |_| panic!("plaintext of no session")) {
            return (error, session.outgoing().to_vec());
        }
    }
    panic!("{} bytes are taken for a handshake", bytes.len());
}

/// A fatal alert in the clear (RFC 8446 section 6).
fn alert(description: AlertDescription) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description.into()]
}

#[test]
fn what_is_no_handshake_is_answered_by_an_alert() {
    for bytes in [
        &b"GET /events HTTP/1.1\r\nHost: app.example\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 5000],
        // A handshake record with a ClientHello of rubbish in it.
        &[22, 3, 1, 0, 8, 1, 0, 0, 4, 1, 2, 3, 4],
        // A record that says it is too long.
        &[22, 3, 1, 0xff, 0xff, 1, 0, 0],
    ] {
        let (error, answer) = answer_to(bytes);
        assert_eq!(answer, alert(AlertDescription::DecodeError), "{error}");
    }
}

#[test]
fn a_handshake_message_without_end_is_given_up() {
    // A ClientHello of 65 535 bytes, of which ever more come in records of 256.
    let mut bytes = vec![22, 3, 1, 1, 0, 1, 0, 0xff, 0xff];
    bytes.resize(5 + 256, 7);
    for _ in 0..300 {
        bytes.extend_from_slice(&[22, 3, 1, 1, 0]);
        bytes.resize(bytes.len() + 256, 7);
    }
    let (error, _) = answer_to(&bytes);
    assert_eq!(error, rustls::Error::PeerSentOversizedRecord);
}

#[test]
fn a_damaged_record_ends_the_session_with_an_alert() {
    for version in VERSIONS {
        let mut pair = Pair::new(&Arc::new(client(version)), server(), RECORD_BYTES_MAX);
        pair.client.writer().write_all(b"a request").expect("memory");
        let mut bytes = Vec::new();
        pair.client.write_tls(&mut bytes).expect("memory");
        *bytes.last_mut().expect("a record") ^= 1;
        assert_eq!(pair.give(&mut bytes), Err(rustls::Error::DecryptError));
        assert!(pair.session.encrypt(b"event", &mut BytesMut::new()).is_err(), "nothing follows an alert");
        let told = pair.client_reads();
        assert_eq!(told, Err(rustls::Error::AlertReceived(AlertDescription::BadRecordMac)));
    }
}
