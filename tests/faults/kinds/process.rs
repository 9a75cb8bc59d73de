//! The sidecars themselves: killed, replaced, hung, without rights.

use std::time::Duration;

use rustix::process::Signal;

use super::super::client::{Item, Log};
use super::super::support::eventually;
use super::super::world::World;

pub async fn kill(world: &mut World) {
    for _ in 0..2 {
        let which = world.random.usize(..2);
        world.signal(which, Signal::KILL);
        world.linger(0, 1500).await;
        world.replace(which).await;
        world.linger(0, 1000).await;
    }
    world.heal();
}

pub async fn deploy(world: &mut World) {
    for which in [0, 1] {
        let app = world.apps[which].as_mut().expect("the sidecar runs");
        app.terminate();
        let status = app.exit(Duration::from_secs(10)).await;
        assert!(status.success(), "SIGTERM ended the sidecar with {status}");
        world.replace(which).await;
        world.linger(0, 1500).await;
    }
}

pub async fn hang(world: &mut World) {
    let which = world.random.usize(..2);
    world.signal(which, Signal::STOP);
    world.linger(5000, 5000).await;
    world.signal(which, Signal::CONT);
}

/// What `docs/nats.md` says a sidecar needs, on stream `EVENTS`.
pub const PERMITTED: &str = r#"
authorization { users = [
  { user: admin, password: all },
  { user: sidecar, password: little, permissions: {
    publish: { allow: ["$JS.API.STREAM.INFO.EVENTS", "$JS.API.CONSUMER.CREATE.EVENTS", "$JS.API.CONSUMER.DELETE.EVENTS.*",
      "$JS.API.CONSUMER.MSG.NEXT.EVENTS.*", "$JS.API.STREAM.MSG.GET.EVENTS", "$JS.FC.EVENTS.>", "_sidestream.>",
      "_INBOX_sidestream.>"] }
    subscribe: { allow: ["_INBOX_sidestream.>", "_sidestream.>"] }
  } }
] }
"#;

const REVOKED: &str = r#"
authorization { users = [
  { user: admin, password: all },
  { user: sidecar, password: little, permissions: { publish: { deny: ">" }, subscribe: { deny: ">" } } }
] }
"#;

pub async fn revoked(world: &mut World) {
    world.nats().reconfigure(REVOKED).await;
    let told = |log: &Log| {
        log.items.iter().any(|(_, item)| matches!(item, Item::Own { what, .. } if what.contains("degraded")))
    };
    eventually("a client is told that NATS is lost", Duration::from_secs(15), async || {
        world.clients.iter().any(|client| client.look(told)).then_some(())
    })
    .await;
    world.linger(1000, 5000).await;
    world.nats().reconfigure(PERMITTED).await;
}
