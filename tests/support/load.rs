//! A steady publisher, clients that write down what they hear, and the comparison with what the stream holds.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream;
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use super::{Event, Sse, eventually, seq_of};

/// Where a load goes: everybody on `/events` hears it.
const SUBJECT: &str = "events.broadcast.load";
/// The data of the last event of a load.
const END: &str = "end";
/// Consumers made at most to meet every server that keeps a stream.
const READS_MAX: usize = 40;
/// How long one event may take to be acknowledged, all attempts together.
const ACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Publishes numbered events, each until it is acknowledged, with an id by which the server drops repeats.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
    jetstream: jetstream::Context,
}

impl Load {
    /// Starts publishing, so many a second at most.
    pub fn start(jetstream: jetstream::Context, per_second: u32) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count, context) = (stop.clone(), acknowledged.clone(), jetstream.clone());
        let task = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_secs(1) / per_second);
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !stopped.load(Ordering::SeqCst) {
                beat.tick().await;
                let number = count.load(Ordering::SeqCst);
                store(&context, &number.to_string()).await;
                count.store(number + 1, Ordering::SeqCst);
            }
            store(&context, END).await;
        });
        Self { stop, acknowledged, task, jetstream }
    }

    /// Waits until so many more have been acknowledged.
    pub async fn goes_on(&self, more: u64) {
        let wanted = self.acknowledged.load(Ordering::SeqCst) + more;
        eventually("more events are acknowledged", ACKNOWLEDGED, async || {
            (self.acknowledged.load(Ordering::SeqCst) >= wanted).then_some(())
        })
        .await;
    }

    /// Publishes the end, and gives what the stream holds: (sequence, data), everything acknowledged among it. An error
    /// where its servers hold different messages at one sequence: then there is no truth to compare anything with.
    pub async fn stop(self) -> Result<Vec<(u64, String)>, Discord> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("every event was acknowledged");
        let stored = agreed(&self.jetstream, "EVENTS").await?;
        let have: HashSet<&str> = stored.iter().map(|(_, data)| data.as_str()).collect();
        for number in 0..self.acknowledged.load(Ordering::SeqCst) {
            assert!(have.contains(number.to_string().as_str()), "NATS itself lost {number}");
        }
        Ok(stored)
    }
}

/// Where the servers of a stream disagree about what it holds, as nats-server 2.9 has been seen to leave them behind after
/// one of them hung.
#[derive(Debug)]
pub struct Discord(pub String);

/// What the stream holds by all servers that keep it: consumers are made until each of the servers has run one.
async fn agreed(jetstream: &jetstream::Context, stream: &str) -> Result<Vec<(u64, String)>, Discord> {
    let (first, mut hosts) = stored(jetstream, stream).await;
    let info = jetstream.get_stream(stream).await.expect("the stream exists").cached_info().clone();
    let servers = 1 + info.cluster.map_or(0, |cluster| cluster.replicas.len());
    for _ in 0..READS_MAX {
        if servers == 1 || hosts.len() >= servers {
            break;
        }
        let (other, host) = stored(jetstream, stream).await;
        if let Some((a, b)) = first.iter().zip(&other).find(|(a, b)| a != b) {
            return Err(Discord(format!("two servers hold {a:?} and {b:?} (sequence, data)")));
        }
        hosts.extend(host);
    }
    Ok(first)
}

async fn store(jetstream: &jetstream::Context, data: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", data);
    let started = Instant::now();
    while started.elapsed() < ACKNOWLEDGED {
        let payload = bytes::Bytes::copy_from_slice(data.as_bytes());
        if let Ok(sent) = jetstream.publish_with_headers(SUBJECT, headers.clone(), payload).await
            && sent.await.is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{data} is not acknowledged after {ACKNOWLEDGED:?}");
}

/// Everything that a stream holds by one of its servers, and which. A cluster that has just healed may need several attempts
/// to say it.
async fn stored(jetstream: &jetstream::Context, stream: &str) -> (Vec<(u64, String)>, HashSet<String>) {
    eventually("the stream is read whole", ACKNOWLEDGED, async || read(jetstream, stream).await).await
}

async fn read(jetstream: &jetstream::Context, stream: &str) -> Option<(Vec<(u64, String)>, HashSet<String>)> {
    let stream = jetstream.get_stream(stream).await.ok()?;
    let last = stream.cached_info().state.last_sequence;
    let config = jetstream::consumer::pull::Config {
        ack_policy: jetstream::consumer::AckPolicy::None,
        num_replicas: 1,
        memory_storage: true,
        // One that an attempt leaves behind is gone before somebody counts consumers.
        inactive_threshold: Duration::from_secs(5),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.ok()?;
    let mut held: Vec<(u64, String)> = Vec::new();
    while held.last().is_none_or(|(seq, _)| *seq < last) {
        let mut batch = consumer.fetch().max_messages(1000).messages().await.ok()?;
        let before = held.len();
        while let Some(message) = batch.next().await {
            let message = message.ok()?;
            let seq = message.info().ok()?.stream_sequence;
            held.push((seq, String::from_utf8_lossy(&message.payload).into_owned()));
        }
        if held.len() == before {
            return None;
        }
    }
    let in_order = held.windows(2).all(|pair| pair[0].0 < pair[1].0);
    stream.delete_consumer(&consumer.cached_info().name).await.ok()?;
    let host = consumer.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
    in_order.then(|| (held, host.into_iter().collect()))
}

/// A client that reads on its own until the end of the load.
pub struct Witness {
    name: String,
    start: u64,
    task: JoinHandle<Vec<Event>>,
}

impl Witness {
    /// Lets a stream be read.
    pub fn of(name: &str, mut sse: Sse) -> Self {
        let start = sse.connected.id.as_deref().map_or(0, seq_of);
        sse.forget_raw();
        let task = tokio::spawn(async move {
            let mut events = Vec::new();
            loop {
                let event = sse.event_within(ACKNOWLEDGED).await;
                let is_end = event.data == END;
                events.push(event);
                if is_end {
                    return events;
                }
            }
        });
        Self { name: name.to_owned(), start, task }
    }

    /// Waits until it has heard the end.
    pub async fn hears_the_end(self) -> Heard {
        let Self { name, start, task } = self;
        Heard { name, start, events: task.await.expect("the client was served to the end") }
    }

    /// What it heard to the end: [`Heard::is_exactly`].
    pub async fn heard_exactly(self, stored: &[(u64, String)]) -> usize {
        self.hears_the_end().await.is_exactly(stored)
    }
}

/// Everything that a client heard.
pub struct Heard {
    name: String,
    start: u64,
    events: Vec<Event>,
}

impl Heard {
    /// Fails unless that is exactly what the stream holds behind the client's start: each once, in order, under its own
    /// sequence; `degraded` and `ok` in pairs. Gives how often it was told `degraded`.
    pub fn is_exactly(&self, stored: &[(u64, String)]) -> usize {
        let Self { name, start, events } = self;
        let mut expected = stored.iter().filter(|(seq, _)| seq > start);
        let (mut degraded, mut outages) = (false, 0);
        for event in events {
            match event.name.as_str() {
                "sidestream.degraded" => {
                    assert!(!degraded, "{name} was told twice: {event:?}");
                    degraded = true;
                    outages += 1;
                }
                "sidestream.ok" => assert!(std::mem::take(&mut degraded), "{name} was told ok for nothing: {event:?}"),
                _ => {
                    let got = (event.id.as_deref().map(seq_of), &event.data);
                    let wanted = expected.next().map(|(seq, data)| (Some(*seq), data));
                    assert_eq!(Some(got), wanted, "{name}: lost, doubled, out of order or a false gap: {event:?}");
                }
            }
        }
        assert!(!degraded, "{name} was never told ok");
        assert_eq!(expected.next(), None, "{name} missed the rest");
        outages
    }
}
