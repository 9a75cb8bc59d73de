//! The NATS server itself: killed, hung, emptied.

use std::time::Duration;

use rustix::process::Signal;

use super::super::world::World;

pub async fn kill(world: &mut World) {
    world.nats().kill();
    world.linger(0, 1500).await;
    world.nats().restart().await;
}

pub async fn kill_often(world: &mut World) {
    for _ in 0..5 {
        world.nats().kill();
        world.linger(0, 300).await;
        world.nats().restart().await;
        world.linger(0, 1500).await;
    }
    world.heal();
}

pub async fn down(world: &mut World) {
    world.nats().kill();
    world.linger(15_000, 15_000).await;
    world.nats().restart().await;
}

async fn hang(world: &mut World, length: Duration) {
    world.nats().pause();
    tokio::time::sleep(length).await;
    world.nats().resume();
}

pub async fn hang_5s(world: &mut World) {
    hang(world, Duration::from_secs(5)).await;
}

pub async fn hang_20s(world: &mut World) {
    hang(world, Duration::from_secs(20)).await;
}

pub async fn lame_duck(world: &mut World) {
    world.nats().signal(Signal::USR2);
    // Its grace period is 10 s; then it closes connections over two minutes, but some clients have left before.
    world.linger(2000, 12_000).await;
    world.nats().restart().await;
}

pub async fn empty_store(world: &mut World) {
    world.publisher.burst(500).await;
    world.publisher.pause().await;
    world.next_life(0);
    world.nats().kill();
    world.nats().wipe();
    world.nats().restart().await;
    world.create_stream().await;
    world.publisher.go_on();
}
