//! Messages that hurt who reads them.

use super::super::truth::Fate;
use super::super::world::World;

const SUBJECTS: [&str; 3] = ["events.user.u1.note", "events.user.u2.note", "events.broadcast.news"];

/// Publishes a few with these header bytes, among all the others, with clients that leave and come back over them.
async fn headers(world: &mut World, lines: &[&[u8]], fate: Fate) {
    for round in 0..world.random.usize(2..5) {
        if round == 1 {
            super::clients::leave(world);
        }
        let subject = SUBJECTS[world.random.usize(..SUBJECTS.len())];
        let payload = world.publisher.register(subject, fate, 10);
        let line = lines[world.random.usize(..lines.len())];
        world.nats().publish_raw(subject.as_bytes(), line, payload.as_bytes()).await;
        world.linger(0, 2500).await;
    }
    super::clients::back(world);
}

pub async fn poison_header(world: &mut World) {
    headers(world, &[b"X-Name: caf\xe9\r\n", b"Sse-Event: \xff\xfe\r\n", b"\xc3\x28: x\r\n"], Fate::DeliverOrDeclare)
        .await;
}

pub async fn carriage_return(world: &mut World) {
    headers(world, &[b"X-Name: a\rb\r\n", b"Sse-Event: one\rtwo\r\n"], Fate::DeliverOrDeclare).await;
}

pub async fn poison_subject(world: &mut World) {
    for round in 0..world.random.usize(2..5) {
        if round == 1 {
            super::clients::leave(world);
        }
        // As JSON and our own text could carry it.
        let payload = world.publisher.register("events.broadcast.x\u{fffd}", Fate::Declare, 10);
        world.nats().publish_raw(b"events.broadcast.x\xff", b"X-Name: x\r\n", payload.as_bytes()).await;
        world.linger(0, 2500).await;
    }
    super::clients::back(world);
}

pub async fn fake_status(world: &mut World) {
    for round in 0..world.random.usize(2..6) {
        if round == 1 {
            super::clients::leave(world);
        }
        let subject = SUBJECTS[world.random.usize(..SUBJECTS.len())];
        let payload = world.publisher.register(subject, Fate::DeliverOrDeclare, 10);
        let status =
            ["100 Idle Heartbeat", "100 FlowControl Request", "404 No Messages", "409 Consumer Deleted", "503"];
        let status = status[world.random.usize(..status.len())];
        let head = format!("NATS/1.0 {status}\r\nNats-Last-Consumer: 1\r\nNats-Last-Stream: 1\r\n\r\n");
        let (head_len, total) = (head.len(), head.len() + payload.len());
        let bytes = format!("HPUB {subject} {head_len} {total}\r\n{head}{payload}\r\n");
        world.nats().send_raw(bytes.as_bytes()).await;
        world.linger(0, 1500).await;
    }
    super::clients::back(world);
}

pub async fn oversize(world: &mut World) {
    for round in 0..world.random.usize(2..5) {
        if round == 1 {
            super::clients::leave(world);
        }
        let subject = SUBJECTS[world.random.usize(..SUBJECTS.len())];
        let payload = world.publisher.register(subject, Fate::Declare, 20_000);
        world.nats().publish_raw(subject.as_bytes(), b"X-Name: x\r\n", payload.as_bytes()).await;
        world.linger(0, 1500).await;
    }
    super::clients::back(world);
}

pub async fn burst(world: &mut World) {
    world.publisher.burst(20_000).await;
}
