//! The network between the sidecars and NATS.

use std::time::Duration;

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
