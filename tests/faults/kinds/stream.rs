//! What somebody with rights does to the stream: deletes, purges, changes, limits.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::super::layout::STREAM;
use super::super::publisher::subject_of;
use super::super::support::eventually;
use super::super::world::World;
use super::clients::{back, leave};

pub async fn consumers_deleted(world: &mut World) {
    for _ in 0..world.random.usize(1..4) {
        for name in world.consumers().await {
            // It may have gone by itself meanwhile.
            world.try_ask(&format!("CONSUMER.DELETE.{STREAM}.{name}"), &Value::Null).await;
        }
        world.linger(0, 1500).await;
    }
}

/// Others hold as many consumers as the stream may have, at a moment when the sidecars need new ones.
pub async fn crowded(world: &mut World) {
    let mut others = Vec::new();
    for name in world.consumers().await {
        world.try_ask(&format!("CONSUMER.DELETE.{STREAM}.{name}"), &Value::Null).await;
    }
    let full = eventually("the stream has no place for consumers", Duration::from_secs(15), async || {
        let config =
            json!({"stream_name": STREAM, "config": {"ack_policy": "none", "inactive_threshold": 60_000_000_000u64}});
        let made = world.try_ask(&format!("CONSUMER.CREATE.{STREAM}"), &config).await;
        if let Some(name) = made["name"].as_str() {
            others.push(name.to_owned());
        }
        (!made["error"].is_null()).then_some(())
    });
    full.await;
    world.linger(1000, 5000).await;
    for name in others {
        world.try_ask(&format!("CONSUMER.DELETE.{STREAM}.{name}"), &Value::Null).await;
    }
}

async fn delete(world: &mut World) {
    world.publisher.burst(500).await;
    world.publisher.pause().await;
    world.next_life(0);
    world.ask(&format!("STREAM.DELETE.{STREAM}"), &Value::Null).await;
}

pub async fn recreated(world: &mut World) {
    delete(world).await;
    world.create_stream().await;
    world.publisher.go_on();
}

pub async fn away(world: &mut World) {
    delete(world).await;
    // Publishers go on meanwhile, and are refused.
    world.publisher.go_on();
    world.linger(500, 8000).await;
    world.create_stream().await;
}

pub async fn edited(world: &mut World) {
    let mut config = world.stream().await["config"].clone();
    let changes = [
        json!({"subjects": ["events.>", "more.>"], "max_msgs": 5_000_000}),
        json!({"subjects": ["events.user.>", "events.broadcast.>"], "max_age": 3_600_000_000_000u64}),
        json!({"subjects": ["events.>"], "max_msgs": -1, "description": "edited"}),
    ];
    for change in changes {
        for (key, value) in change.as_object().expect("an object") {
            config[key] = value.clone();
        }
        world.ask(&format!("STREAM.UPDATE.{STREAM}"), &config).await;
        world.linger(100, 1000).await;
        // An edit takes effect where a consumer is opened anew, too.
        consumers_deleted(world).await;
    }
}

pub async fn purged(world: &mut World) {
    leave(world);
    world.linger(300, 1500).await;
    let order = match world.random.usize(..3) {
        0 => json!({}),
        1 => json!({"keep": world.random.u64(1..100)}),
        _ => {
            let (first, last) = world.bounds().await;
            json!({"seq": world.random.u64(first..=last)})
        }
    };
    world.ask(&format!("STREAM.PURGE.{STREAM}"), &order).await;
    back(world);
}

pub async fn purged_by_subject(world: &mut World) {
    leave(world);
    world.linger(300, 1500).await;
    let order = json!({"filter": subject_of(world.random.usize(..4))});
    world.ask(&format!("STREAM.PURGE.{STREAM}"), &order).await;
    back(world);
}

pub async fn deleted(world: &mut World) {
    leave(world);
    world.linger(300, 1500).await;
    let (first, _) = world.bounds().await;
    for _ in 0..world.random.usize(1..30) {
        let (_, last) = world.bounds().await;
        let seq = if world.random.bool() { last } else { world.random.u64(first..=last) };
        // It may have been deleted before.
        world.try_ask(&format!("STREAM.MSG.DELETE.{STREAM}"), &json!({"seq": seq})).await;
    }
    back(world);
}

/// The stream's limits remove messages all the time. Some clients are away, and one sidecar is, for a while.
pub async fn limit_reached(world: &mut World) {
    leave(world);
    let hangs = world.random.bool();
    if hangs {
        world.signal(0, Signal::STOP);
    }
    world.linger(2000, 4000).await;
    if hangs {
        world.signal(0, Signal::CONT);
    }
    back(world);
}
