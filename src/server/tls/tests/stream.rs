//! Streams over loopback sockets, as hyper and event streams use them.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::AlertDescription;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::super::session::PLAINTEXT_BYTES_MAX;
use super::super::{Scratch, TlsStream};
use super::{VERSIONS, client, name, server};

type Client = tokio_rustls::client::TlsStream<TcpStream>;

const DEADLINE: Duration = Duration::from_secs(60);

/// Both ends of a connection; kernel buffers as small as they get where `narrow`.
async fn sockets(narrow: bool) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    if narrow {
        socket.set_recv_buffer_size(1).expect("a small buffer");
    }
    socket.connect(&address.into()).expect("accepted");
    socket.set_nonblocking(true).expect("a socket");
    let theirs = TcpStream::from_std(socket.into()).expect("a socket");
    let (ours, _) = listener.accept().await.expect("a connection");
    if narrow {
        SockRef::from(&ours).set_send_buffer_size(1).expect("a small buffer");
    }
    (ours, theirs)
}

async fn accept(socket: TcpStream) -> io::Result<Box<TlsStream>> {
    TlsStream::accept(socket, server(), Scratch::new()).await
}

async fn connected(version: &'static rustls::SupportedProtocolVersion, narrow: bool) -> (Box<TlsStream>, Client) {
    let (ours, theirs) = sockets(narrow).await;
    let connector = TlsConnector::from(Arc::new(client(version)));
    let (server, client) = tokio::join!(accept(ours), connector.connect(name(), theirs));
    (server.expect("a handshake"), client.expect("a handshake"))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("in time") });
}

/// Bytes that tell where in the stream they are.
fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

#[test]
fn what_hyper_writes_and_reads_is_whole_in_both_directions() {
    const DOWN: usize = 200 << 20;
    const UP: usize = 20 << 20;
    const PART: usize = 100_000;
    run(async {
        let (server, client) = connected(VERSIONS[1], false).await;
        let (mut from_client, mut to_client) = tokio::io::split(server);
        let (mut from_server, mut to_server) = tokio::io::split(client);
        let write_down = async {
            for at in (0..DOWN).step_by(PART) {
                to_client.write_all(&pattern(at, PART.min(DOWN - at))).await.expect("written");
            }
            to_client.shutdown().await.expect("closed");
        };
        let write_up = async {
            for at in (0..UP).step_by(PART) {
                to_server.write_all(&pattern(at, PART.min(UP - at))).await.expect("written");
            }
            to_server.shutdown().await.expect("closed");
        };
        let read_down = async {
            let (mut at, mut buffer) = (0, vec![0; 77_777]);
            while let n @ 1.. = from_server.read(&mut buffer).await.expect("an orderly end") {
                assert!(buffer[..n] == pattern(at, n), "damaged behind {at}");
                at += n;
            }
            assert_eq!(at, DOWN);
        };
        let read_up = async {
            let (mut at, mut buffer) = (0, vec![0; 3333]);
            while let n @ 1.. = from_client.read(&mut buffer).await.expect("an orderly end") {
                assert!(buffer[..n] == pattern(at, n), "damaged behind {at}");
                at += n;
            }
            assert_eq!(at, UP);
        };
        tokio::join!(write_down, write_up, read_down, read_up);
    });
}

#[test]
fn a_socket_may_stop_in_the_middle_of_a_record_wherever_it_likes() {
    const EVENT: &[u8] = b"id: 1\ndata: an event\n\n";
    for version in VERSIONS {
        run(async {
            let (mut server, mut client) = connected(version, false).await;
            assert!(server.take_moved(), "a handshake moves bytes");
            let mut heard = [0; EVENT.len()];
            // Longer than the record: then the socket takes everything.
            for stop in 0..80 {
                let taken = server.write_records(EVENT, |tcp, record| match stop.min(record.len()) {
                    0 => Poll::Pending,
                    n => Poll::Ready(tcp.try_write(&record[..n])),
                });
                assert_eq!(taken.expect("a socket"), EVENT.len());
                assert_eq!(server.take_moved(), stop > 0);
                server.try_flush().expect("room");
                assert!(!server.wants_flush());
                server.take_moved();
                client.read_exact(&mut heard).await.expect("a record");
                assert_eq!(heard, EVENT, "stopped after {stop}");
            }
        });
    }
}

#[test]
fn a_stream_keeps_one_record_for_a_socket_that_is_full() {
    const BYTES: usize = 3_000_000;
    run(async {
        let (mut server, mut client) = connected(VERSIONS[1], true).await;
        let (bytes, mut at) = (pattern(0, BYTES), 0);
        let write = async {
            while at < BYTES || server.wants_flush() {
                match server.try_write(&bytes[at..]) {
                    Ok(taken) => at += taken,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                assert!(server.session.outgoing().len() < PLAINTEXT_BYTES_MAX + 100, "more than one record waits");
                if server.wants_flush() {
                    let refused = server.try_write(b"behind what waits");
                    assert_eq!(refused.expect_err("the socket is full").kind(), io::ErrorKind::WouldBlock);
                    poll_fn(|cx| server.tcp().poll_write_ready(cx)).await.expect("a socket");
                    let _ = server.try_flush();
                }
            }
            server.finish();
        };
        let read = async {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.expect("an orderly end");
            read
        };
        let ((), read) = tokio::join!(write, read);
        assert!(read == bytes, "{} bytes of {BYTES}", read.len());
    });
}

/// What a client reads that sends these bytes instead of a handshake.
async fn answer_to(bytes: &[u8]) -> (io::Error, Vec<u8>) {
    let (ours, mut theirs) = sockets(false).await;
    theirs.write_all(bytes).await.expect("a socket");
    theirs.shutdown().await.expect("a socket");
    let error = accept(ours).await.expect_err("no handshake");
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).await.expect("an orderly end");
    (error, answer)
}

#[test]
fn a_handshake_that_fails_ends_with_an_alert_on_the_wire() {
    run(async {
        let (error, answer) = answer_to(b"GET /events HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, AlertDescription::DecodeError.into()]);

        let mut config = client(VERSIONS[1]);
        config.alpn_protocols = vec![b"spdy/3".to_vec()];
        let (ours, theirs) = sockets(false).await;
        let connector = TlsConnector::from(Arc::new(config));
        let (server, client) = tokio::join!(accept(ours), connector.connect(name(), theirs));
        assert_eq!(server.expect_err("no common protocol").kind(), io::ErrorKind::InvalidData);
        let told = client.expect_err("no common protocol").to_string();
        assert!(told.contains("NoApplicationProtocol"), "{told}");
    });
}

#[test]
fn a_hello_without_its_end_is_no_handshake_and_gets_no_answer() {
    run(async {
        let mut hello = Vec::new();
        let mut client = super::connection(&Arc::new(client(VERSIONS[1])));
        client.write_tls(&mut hello).expect("memory");
        for bytes in [0, 1, 5, hello.len() / 2, hello.len() - 1] {
            let (error, answer) = answer_to(&hello[..bytes]).await;
            assert_eq!((error.kind(), answer.len()), (io::ErrorKind::UnexpectedEof, 0), "after {bytes} bytes");
        }
    });
}

#[test]
fn a_stream_notices_how_its_peer_ends() {
    async fn discards(server: &mut TlsStream) -> io::Result<usize> {
        let mut scratch = [0; 1024];
        let mut discarded = 0;
        loop {
            poll_fn(|cx| server.poll_read_ready(cx)).await?;
            match server.try_discard(&mut scratch) {
                Ok(0) => return Ok(discarded),
                Ok(n) => discarded += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    for version in VERSIONS {
        run(async {
            // With close_notify and an open socket, behind more than anybody wants to hear.
            let (mut server, mut client) = connected(version, false).await;
            client.write_all(&[0; 100_000]).await.expect("written");
            client.get_mut().1.send_close_notify();
            client.flush().await.expect("written");
            let discarded = discards(&mut server).await.expect("an orderly end");
            assert!(discarded > 95_000, "{discarded} bytes do not show in what is counted");
            assert_eq!(discards(&mut server).await.expect("the end stays"), 0);
            // Without.
            let (mut server, client) = connected(version, false).await;
            client.into_inner().0.shutdown().await.expect("a socket");
            assert_eq!(discards(&mut server).await.expect("an end"), 0);
            // With rubbish, which is told to the peer.
            let (mut server, client) = connected(version, false).await;
            let (mut tcp, mut session) = client.into_inner();
            tcp.write_all(&[23, 3, 3, 0, 40]).await.expect("written");
            tcp.write_all(&[7; 40]).await.expect("written");
            assert_eq!(discards(&mut server).await.expect_err("no record").kind(), io::ErrorKind::InvalidData);
            drop(server);
            let mut answer = Vec::new();
            tcp.read_to_end(&mut answer).await.expect("an orderly end");
            session.read_tls(&mut &answer[..]).expect("memory");
            let told = session.process_new_packets().map(|_| ());
            assert_eq!(told, Err(rustls::Error::AlertReceived(AlertDescription::BadRecordMac)));
        });
    }
}

#[test]
fn hyper_is_told_of_an_end_that_anybody_could_have_made() {
    run(async {
        let (mut server, mut client) = connected(VERSIONS[1], false).await;
        client.write_all(b"GET /").await.expect("written");
        client.into_inner().0.shutdown().await.expect("a socket");
        let mut read = Vec::new();
        let error = server.read_to_end(&mut read).await.expect_err("no close_notify");
        assert_eq!((error.kind(), &read[..]), (io::ErrorKind::UnexpectedEof, &b"GET /"[..]));
    });
}
