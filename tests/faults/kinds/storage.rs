//! The store under NATS: taken back, damaged, full.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::layout::STREAM;
use super::super::support::eventually;
use super::super::world::World;

/// Restores an older copy of the store: sequences are given out again, under the same creation time.
pub async fn rollback(world: &mut World) {
    world.publisher.pause().await;
    let (_, kept) = world.bounds().await;
    world.nats().kill();
    world.nats().save();
    world.nats().restart().await;
    world.publisher.go_on();
    world.publisher.burst(300).await;
    world.linger(500, 1500).await;
    world.publisher.pause().await;
    // Everybody must have been beyond the place that the store goes back to: who was not cannot tell the difference.
    super::clients::heard_everything(world).await;
    world.next_life(kept);
    world.nats().kill();
    world.nats().go_back();
    world.nats().restart().await;
    world.publisher.go_on();
}

/// Flips one bit of one block. What NATS then still has is up to NATS.
pub async fn bit_flip(world: &mut World) {
    world.publisher.burst(2000).await;
    world.publisher.pause().await;
    super::clients::heard_everything(world).await;
    let (_, before) = world.bounds().await;
    world.order(|index| index % 2 == 0, |orders| orders.away = true);
    world.nats().kill();
    let mut blocks = Vec::new();
    find_blocks(&world.nats().store(), &mut blocks);
    let block = &blocks[world.random.usize(..blocks.len())];
    let length = std::fs::metadata(block).expect("a block").len();
    let at = world.random.u64(..length);
    flip(block, at, 1 << world.random.u8(..8));
    println!("    bit flipped at {at} of {length} in {}", block.display());
    let began = Instant::now();
    world.nats().restart().await;
    let (first, last) = world.bounds().await;
    println!("    the stream had 1..={before}, and has {first}..={last}");
    if last < before {
        world.next_life_since(began, last);
    }
    world.publisher.go_on();
    world.linger(1000, 2000).await;
    world.read_back().await;
}

fn find_blocks(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_blocks(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "blk") {
            found.push(path);
        }
    }
}

fn flip(path: &Path, at: u64, bit: u8) {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the block opens");
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut byte)).expect("the block is read");
    byte[0] ^= bit;
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&byte)).expect("the block is written");
}

/// Fills the disk with another file until NATS refuses, then frees it.
pub async fn disk_full(world: &mut World) {
    let hog = world.nats().store().with_file_name("hog");
    let mut file = std::fs::File::create(&hog).expect("there is room for a file");
    let piece = vec![1; 64 << 10];
    while file.write_all(&piece).is_ok() {}
    // The publisher fills what the file left over.
    let mut acked = usize::MAX;
    let refused = eventually("NATS refuses to store", Duration::from_secs(30), async || {
        world.publisher.burst(200).await;
        let now = world.publisher.truth().sent.values().filter(|sent| sent.acked.is_some()).count();
        let stuck = now == acked;
        acked = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stuck.then_some(())
    });
    refused.await;
    world.linger(1000, 3000).await;
    drop(file);
    std::fs::remove_file(&hog).expect("the file is removed");
    // NATS does not try again by itself once a write has failed, and an old server does not even answer.
    world.publisher.pause().await;
    let last = world.publisher.truth().life().stored.last_key_value().map_or(0, |(seq, _)| *seq);
    println!("    the disk was full at {STREAM} {last}");
    let began = Instant::now();
    world.nats().restart().await;
    let (_, now) = world.bounds().await;
    if now < last {
        println!("    and came back at {now}");
        world.next_life_since(began, now);
    }
    world.publisher.go_on();
}
