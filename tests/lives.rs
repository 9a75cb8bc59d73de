//! A stream ends and another takes its name, or its store goes back in time: clients are told one `reset`, and then hear the
//! new life from its beginning. Cursors of the old life are told the same, by whoever they come back to.

mod support;

use std::time::{Duration, Instant};

use support::expect::{self, broadcasts, numbered};
use support::proxy::Proxy;
use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, eventually, get, on_both_servers_at_once};

/// How long healing may take after the stream is back.
const HEAL: Duration = Duration::from_secs(20);

/// Opens `/events`, with a cursor if there is one. A sidecar that still reads its history refuses softly.
async fn open(app: &App, cursor: Option<&str>) -> Sse {
    let request = get("/events").user("alice");
    let request = cursor.map_or(request.clone(), |cursor| request.header("Last-Event-ID", cursor));
    eventually("the history is read", DEADLINE, async || Sse::try_open(Wire::tcp(app.address()).await, &request).await)
        .await
}

/// A client that comes back with a cursor of the old life: told so, then given these.
async fn comes_back(app: &App, cursor: &str, expected: &[String]) {
    let mut sse = open(app, Some(cursor)).await;
    assert_eq!(sse.resume(), "gap", "{:?}", sse.connected);
    expect::reset_and_all("who comes back", &mut sse, expected, HEAL).await;
}

on_both_servers_at_once! {
    async fn a_stream_that_was_away_is_a_reset(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        publisher.publish_all(broadcasts(0..10)).await;
        expect::all("alice", &mut alice, &numbered(0..10), DEADLINE).await;
        let old = alice.last_event_id().to_owned();

        publisher.delete_stream("EVENTS").await;
        let deleted = Instant::now();
        expect::degraded(&mut alice, Duration::from_secs(10)).await;
        app.logs("stream not found", DEADLINE).await;
        // Away for longer than one failed look at it.
        tokio::time::sleep(Duration::from_secs(6).saturating_sub(deleted.elapsed())).await;
        publisher.create_stream("EVENTS", &["events.>"]).await;
        publisher.publish_all(broadcasts(100..105)).await;
        expect::reset_and_all("alice", &mut alice, &numbered(100..105), HEAL).await;
        comes_back(&app, &old, &numbered(100..105)).await;
        publisher.publish_all(broadcasts(105..107)).await;
        expect::all("alice", &mut alice, &numbered(105..107), HEAL).await;
        app.metric_is("sidestream_nats_connected", &[], 1.0, DEADLINE).await;
    }

    async fn a_longer_new_life_is_a_reset(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        let config = Config::at(&format!("nats://{}", proxy.address));
        let app = App::start(&config).await;
        let mut alice = app.events("alice").await;
        publisher.publish_all(broadcasts(0..10)).await;
        expect::all("alice", &mut alice, &numbered(0..10), DEADLINE).await;
        let old = alice.last_event_id().to_owned();

        // The sidecar sees nothing of it: what it had stood at 10 is somebody else's now, and the end is far beyond.
        proxy.close();
        publisher.delete_stream("EVENTS").await;
        publisher.create_stream("EVENTS", &["events.>"]).await;
        publisher.publish_all(broadcasts(100..130)).await;
        proxy.open();
        expect::reset_and_all("alice", &mut alice, &numbered(100..130), HEAL).await;
        comes_back(&app, &old, &numbered(100..130)).await;
        // Another sidecar, which never saw the old life.
        let app = App::start(&config).await;
        comes_back(&app, &old, &numbered(100..130)).await;
    }

    async fn an_empty_store_is_a_reset(version: Version) {
        let mut nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        publisher.publish_all(broadcasts(0..10)).await;
        expect::all("alice", &mut alice, &numbered(0..10), DEADLINE).await;
        let old = alice.last_event_id().to_owned();

        nats.kill();
        nats.wipe();
        nats.restart().await;
        let publisher = nats.events().await;
        publisher.publish_all(broadcasts(100..103)).await;
        expect::reset_and_all("alice", &mut alice, &numbered(100..103), HEAL).await;
        comes_back(&app, &old, &numbered(100..103)).await;
    }

    async fn edited_subjects_disturb_nobody(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        let mut next = 0;
        for subjects in [["events.>", "more.>"], ["events.user.*.>", "events.broadcast.>"], ["events.>", "other.>"]] {
            publisher.publish_all(broadcasts(next..next + 5)).await;
            let config = async_nats::jetstream::stream::Config {
                name: "EVENTS".to_owned(),
                subjects: subjects.map(str::to_owned).into(),
                allow_direct: true,
                ..Default::default()
            };
            publisher.jetstream().update_stream(config).await.expect("the stream is edited");
            publisher.publish_all(broadcasts(next + 5..next + 10)).await;
            next += 10;
        }
        expect::all("alice", &mut alice, &numbered(0..next), HEAL).await;
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn a_store_that_went_back_is_a_reset(version: Version) {
        let mut nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.publish_all(broadcasts(0..5)).await;
        nats.kill();
        nats.save();
        nats.restart().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = open(&app, None).await;
        let publisher = nats.publisher().await;
        publisher.publish_all(broadcasts(5..10)).await;
        expect::all("alice", &mut alice, &numbered(5..10), DEADLINE).await;
        let old = alice.last_event_id().to_owned();

        // Shorter than what was heard, also when it has grown a little.
        nats.kill();
        nats.go_back();
        nats.restart().await;
        let publisher = nats.publisher().await;
        publisher.publish_all(broadcasts(105..107)).await;
        // What was there before is not told again: only what was stored since is new.
        let new = numbered(105..107);
        expect::reset_and_all("alice", &mut alice, &new, HEAL).await;
        // Beyond the head, here and at a sidecar that never saw what was taken back.
        let mut back = open(&app, Some(&old)).await;
        expect::reset_and_all("back", &mut back, &new, DEADLINE).await;
        let fresh = App::start(&Config::on(&nats)).await;
        let mut also = open(&fresh, Some(&old)).await;
        expect::reset_and_all("also", &mut also, &new, DEADLINE).await;
        publisher.publish_all(broadcasts(107..109)).await;
        for sse in [&mut alice, &mut back, &mut also] {
            expect::all("everybody", sse, &numbered(107..109), DEADLINE).await;
        }
    }

    async fn a_store_that_went_back_behind_a_purge_is_a_reset(version: Version) {
        let mut nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.publish_all(broadcasts(0..5)).await;
        nats.kill();
        nats.save();
        nats.restart().await;
        let publisher = nats.publisher().await;
        publisher.publish_all(broadcasts(5..10)).await;
        publisher.purge_keeping("EVENTS", 0).await;
        let proxy = Proxy::to(nats.address()).await;
        let app = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
        // No message stands where she is, by which another one could be told from it.
        let mut alice = open(&app, None).await;

        proxy.close();
        nats.kill();
        nats.go_back();
        nats.restart().await;
        nats.publisher().await.publish_all(broadcasts(105..125)).await;
        proxy.open();
        // Nor can it be told what is new to her before her place: that is part of the gap.
        expect::reset_and_all("alice", &mut alice, &numbered(110..125), HEAL).await;
    }

    async fn a_store_that_went_back_and_grew_is_a_reset(version: Version) {
        let mut nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.publish_all(broadcasts(0..5)).await;
        nats.kill();
        nats.save();
        nats.restart().await;
        let proxy = Proxy::to(nats.address()).await;
        let config = Config::at(&format!("nats://{}", proxy.address));
        nats.publisher().await.publish_all(broadcasts(5..10)).await;
        // One sidecar has only read what was there, and heard nothing since.
        let apps = [App::start(&config).await, App::start(&config).await];
        let mut clients = Vec::new();
        for app in &apps {
            clients.push(open(app, None).await);
        }
        let old = clients[0].last_event_id().to_owned();

        proxy.close();
        nats.kill();
        nats.go_back();
        nats.restart().await;
        nats.publisher().await.publish_all(broadcasts(105..125)).await;
        proxy.open();
        let all = numbered(105..125);
        for (app, alice) in apps.iter().zip(&mut clients) {
            expect::reset_and_all("alice", alice, &all, HEAL).await;
            comes_back(app, &old, &all).await;
        }
        // Another sidecar, which never saw what was taken back.
        comes_back(&App::start(&config).await, &old, &all).await;
    }
}
