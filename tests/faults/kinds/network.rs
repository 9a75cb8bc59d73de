//! The network between the sidecars and NATS.

use std::process::Command;
use std::time::Duration;

use super::super::support::netns::Namespace;
use super::super::truth::Fate;
use super::super::world::World;

pub async fn cut(world: &mut World) {
    for _ in 0..world.random.usize(1..6) {
        world.proxies.iter().for_each(super::super::support::proxy::Proxy::cut);
        world.linger(0, 800).await;
    }
}

pub async fn cut_off(world: &mut World) {
    world.proxies[0].close();
    world.linger(500, 7000).await;
    world.proxies[0].open();
}

async fn stalled(world: &mut World) {
    world.proxies.iter().for_each(super::super::support::proxy::Proxy::stall);
    world.linger(500, 9000).await;
    world.proxies.iter().for_each(super::super::support::proxy::Proxy::release);
}

pub async fn stall(world: &mut World) {
    stalled(world).await;
}

pub async fn stall_cut(world: &mut World) {
    stalled(world).await;
    world.proxies.iter().for_each(super::super::support::proxy::Proxy::cut);
}

pub async fn slow(world: &mut World) {
    let late = Some((Duration::from_millis(100), Duration::from_millis(300)));
    world.proxies.iter().for_each(|proxy| proxy.slow(late));
    world.linger(3000, 6000).await;
    // It is still slow when a connection has to be made anew.
    world.proxies[0].cut();
    world.linger(3000, 6000).await;
    world.proxies.iter().for_each(|proxy| proxy.slow(None));
}

/// Nothing is reset, nothing is closed. On the other side life goes on: what is published there is heard afterwards.
pub async fn partition(world: &mut World) {
    let network = world.network.take().expect("the layout has a network");
    network.link_down();
    world.linger(500, 10_000).await;
    for _ in 0..world.random.usize(0..5) {
        let payload = world.publisher.register("events.broadcast.news", Fate::Deliver, 10);
        publish_inside(&network, world.nats().port(), &payload);
    }
    world.linger(500, 10_000).await;
    network.link_up();
    world.network = Some(network);
}

fn publish_inside(network: &Namespace, port: u16, payload: &str) {
    let mut words = network.prefix();
    let server = format!("nats.servers=[\"nats://127.0.0.1:{port}\"]");
    let publish = [env!("CARGO_BIN_EXE_sidestream"), "publish", "events.broadcast.news", payload, "--set", &server];
    words.extend(publish.map(str::to_owned));
    let published = Command::new(&words[0]).args(&words[1..]).output().expect("ip runs");
    assert!(published.status.success(), "{published:?}");
}
