//! The clients: slow, all at once, away for long.

use super::super::world::World;

/// Half of the clients go.
pub fn leave(world: &World) {
    world.order(|index| index % 2 == 0, |orders| orders.away = true);
}

/// They come back.
pub fn back(world: &World) {
    world.order(|_| true, |orders| orders.away = false);
}

/// Waits until every client has heard everything that was acknowledged so far. The publisher must be paused.
pub async fn heard_everything(world: &World) {
    world.publisher.surely("events.broadcast.mark", 0).await;
    let mark = |log: &super::super::client::Log| {
        let last = log.items.iter().rev().find_map(|(_, item)| match item {
            super::super::client::Item::Data { subject, .. } => Some(subject.ends_with(".mark")),
            _ => None,
        });
        last.unwrap_or(false)
    };
    super::super::support::eventually(
        "every client has heard the mark",
        std::time::Duration::from_secs(60),
        async || world.clients.iter().all(|client| client.look(mark)).then_some(()),
    )
    .await;
}

pub async fn stall(world: &mut World) {
    world.order(|index| index % 4 == 3 || index % 5 == 0, |orders| orders.stalled = true);
    world.publisher.burst(6000).await;
    world.linger(1000, 14_000).await;
    world.order(|_| true, |orders| orders.stalled = false);
}

pub async fn storm(world: &mut World) {
    for _ in 0..world.random.usize(5..20) {
        world.order(|_| true, |orders| orders.bounce += 1);
        world.linger(0, 400).await;
    }
}

pub async fn away(world: &mut World) {
    leave(world);
    world.publisher.burst(6000).await;
    world.linger(0, 1000).await;
    back(world);
}
