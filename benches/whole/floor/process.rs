//! The floor's own process: blocking sockets, one thread, one write at a time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::framing;
use crate::storm::MISSED;
use crate::wire::Wire;

const BACKLOG: i32 = 4096;
/// As much as the sidecar answers before the first event.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store, no-transform\r\n\
    x-accel-buffering: no\r\nx-content-type-options: nosniff\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
    86\r\nevent: sidestream.connected\nretry: 2371\nid: 4yyh8gg2.0.0\n\
    data: {\"connection\":\"019aabc1-6d3e-7c40-b7a1-0f3c2f7e5a10\",\"resume\":\"new\"}\n\n\r\n";

/// Takes orders until there are no more.
pub fn run() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // Those who come at once must not wait for the kernel to try again.
    socket2::SockRef::from(&listener).listen(BACKLOG).expect("a listener");
    println!("port {}", listener.local_addr().expect("bound").port());
    let mut sockets = Vec::new();
    for order in std::io::stdin().lines() {
        let order = order.expect("text");
        let (verb, rest) = order.split_once(' ').expect("an order and what it is about");
        match verb {
            "accept" => sockets = accept(&listener, rest, |_| {}),
            "answer" => sockets = accept(&listener, rest, answer),
            "serve" => {
                let missed = missed();
                sockets = accept(&listener, rest, |socket| socket.write_all(&missed).expect("written"));
            }
            "write" => write(&sockets, rest.as_bytes()),
            "close" => {
                sockets.clear();
                println!("closed");
            }
            "follow" => follow(&sockets, rest),
            _ => panic!("not an order: {order}"),
        }
    }
}

fn accept(listener: &TcpListener, count: &str, mut greet: impl FnMut(&mut TcpStream)) -> Vec<TcpStream> {
    let count: usize = count.parse().expect("a number");
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let (mut socket, _) = listener.accept().expect("a reader");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        greet(&mut socket);
        sockets.push(socket);
    }
    println!("accepted");
    sockets
}

fn answer(socket: &mut TcpStream) {
    let read = socket.read(&mut [0; 4096]).expect("a request");
    assert!(read > 0, "a reader that asks");
    socket.write_all(ANSWER).expect("written");
}

/// What a storm's client has missed.
fn missed() -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..MISSED {
        framing::frame(&mut bytes, &framing::payload());
    }
    bytes
}

fn write(sockets: &[TcpStream], payload: &[u8]) {
    let mut bytes = Vec::new();
    framing::frame(&mut bytes, payload);
    for mut socket in sockets {
        socket.write_all(&bytes).expect("written");
    }
}

/// Reads `PREFIX.user.u7.x` and writes each to the connection that came as number 7. Ends with NATS or with the process.
fn follow(sockets: &[TcpStream], how: &str) {
    let (port, prefix) = how.split_once(' ').expect("a port and a prefix");
    let mut nats = Wire::connect(port.parse().expect("a port"));
    let before = format!("{prefix}.user.u");
    nats.subscribe(&format!("{prefix}.user.*.x"));
    println!("following");
    let mut bytes = Vec::new();
    loop {
        let message = nats.next();
        let user = message.subject.strip_prefix(&before).and_then(|rest| rest.strip_suffix(".x"));
        let user: usize = user.and_then(|user| user.parse().ok()).expect("a user");
        bytes.clear();
        framing::frame(&mut bytes, message.payload);
        (&sockets[user]).write_all(&bytes).expect("written");
    }
}
