//! One of three servers, or all of them. The fault is over when the cluster is whole again; until then clients may be told
//! `degraded`, but while two servers are left they must hear on without the third.

use std::time::{Duration, Instant};

use super::super::layout::STREAM;
use super::super::support::eventually;
use super::super::world::World;

/// A lame duck takes 30 s to go.
const GONE: Duration = Duration::from_secs(60);

pub async fn step_down(world: &mut World) {
    for _ in 0..world.random.usize(1..5) {
        world.cluster().step_down().await;
        world.linger(0, 3000).await;
    }
    world.servers.whole().await;
}

/// Every client hears what is published from now on.
async fn goes_on_with_two(world: &World) {
    let started = Instant::now();
    assert!(world.is_heard_since(started).await, "a client heard nothing for a minute, though two servers are left");
    println!("    with two servers, everybody heard on after {:.1} s", started.elapsed().as_secs_f64());
}

/// Comes back in the middle of the elections that it has caused, or long after them.
async fn kill(world: &mut World, which: usize) {
    world.cluster().kill(which);
    if world.random.bool() {
        goes_on_with_two(world).await;
    }
    world.linger(0, 5000).await;
    world.cluster().restart(which);
    world.servers.whole().await;
}

async fn hang(world: &mut World, which: usize) {
    world.cluster().pause(which);
    world.linger(5000, 20_000).await;
    world.cluster().resume(which);
    world.servers.whole().await;
}

/// The server that holds a sidecar's feed.
async fn ours(world: &mut World) -> usize {
    world.cluster().node_of(&format!("sidestream-feed-{STREAM}")).await
}

pub async fn leader_kill(world: &mut World) {
    let leader = world.cluster().leader().await;
    kill(world, leader).await;
}

pub async fn ours_kill(world: &mut World) {
    let ours = ours(world).await;
    kill(world, ours).await;
}

pub async fn rolling_kill(world: &mut World) {
    let mut order = [0, 1, 2];
    world.random.shuffle(&mut order);
    for which in order {
        kill(world, which).await;
    }
}

pub async fn follower_away(world: &mut World) {
    let follower = (world.cluster().leader().await + world.random.usize(1..3)) % 3;
    world.cluster().kill(follower);
    world.linger(5000, 20_000).await;
    world.cluster().restart(follower);
    world.servers.whole().await;
}

pub async fn leader_hang(world: &mut World) {
    let leader = world.cluster().leader().await;
    hang(world, leader).await;
}

pub async fn ours_hang(world: &mut World) {
    let ours = ours(world).await;
    hang(world, ours).await;
}

pub async fn lame_duck(world: &mut World) {
    let ours = ours(world).await;
    world.cluster().lame_duck(ours);
    eventually("the lame duck has gone", GONE, async || world.cluster().has_ended(ours).then_some(())).await;
    goes_on_with_two(world).await;
    world.cluster().restart(ours);
    world.servers.whole().await;
}

pub async fn all_kill(world: &mut World) {
    for which in 0..3 {
        world.cluster().kill(which);
    }
    world.linger(0, 5000).await;
    for which in 0..3 {
        world.cluster().restart(which);
    }
    world.servers.whole().await;
}
