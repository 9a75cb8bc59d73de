//! A simulation of presence: real machines, and a NATS that delays, cuts off and restarts, driven by seeds.
//!
//! Between two sidecars messages keep their order, between three they do not. Sidecars begin, leave, are killed, hang and are cut
//! off; users come, go and move. What is published is checked as it reaches the server: for each user connects and disconnects
//! take turns, nobody is said to have gone who has been there all the time, and in the end everybody knows who is there. A seed
//! repeats a run: `SIDESTREAM_SEEDS=4711 cargo test --lib presence::simulation`; `SIDESTREAM_SEEDS=0..100000` runs a range.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

use super::here::Here;
use super::machine::{Do, Machine, Why};
use super::message::{Answer, Change, Said, What, Word, pages};
use crate::cluster::{NodeId, Nodes};
use crate::telemetry::metrics::CloseReason;

const GRACE: u64 = 5_000;
/// A sidecar that is silent for so long is off the roll.
const SILENCE: u64 = 10_000;
const STEP: u64 = 10;
const TICK: u64 = 50;
const USERS: usize = 6;
/// How long everything goes on, and then is quiet.
const LASTS: u64 = 120_000;
const QUIET: u64 = 40_000;
/// A sidecar without faults for so long knows what there is to know.
const CALM: u64 = 16_000;

#[derive(Clone)]
enum Packet {
    Publish(Change),
    Say(Said),
    /// With who is to be answered.
    Ask(Said, NodeId),
    Answer(Answer, NodeId),
}

struct Node {
    id: NodeId,
    machine: Machine,
    here: Here,
    /// Whether packets pass; whether the machine believes it; the end of a hang.
    linked: bool,
    noticed: bool,
    hangs_until: u64,
    heals_at: u64,
    notices_at: u64,
    last_tick: u64,
    /// Since when nothing was wrong with it.
    calm_since: u64,
    skew: u64,
    up: VecDeque<(u64, Packet)>,
    down: Vec<(u64, Packet)>,
    roll: BTreeMap<NodeId, u64>,
}

struct World {
    random: fastrand::Rng,
    now: u64,
    nodes: Vec<Node>,
    /// When the last packet from one to another arrives.
    last: BTreeMap<(NodeId, NodeId), u64>,
    /// User, connection, sidecar, since when.
    connections: Vec<(usize, Uuid, NodeId, u64)>,
    /// Users who will connect: when, and whether to any.
    coming: Vec<(u64, usize)>,
    absent_since: [u64; USERS],
    log: Vec<Vec<Change>>,
    restarted: u64,
    /// What happened, for whoever looks for the cause of a failure.
    story: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.story.iter().rev().take(400).rev().for_each(|line| println!("{line}"));
        }
    }
}

fn name(user: usize) -> Arc<str> {
    format!("user{user}").into()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            now: 1_000_000,
            nodes: Vec::new(),
            last: BTreeMap::new(),
            connections: Vec::new(),
            coming: Vec::new(),
            absent_since: [0; USERS],
            log: vec![Vec::new(); USERS],
            restarted: 0,
            story: Vec::new(),
        };
        (0..2).for_each(|_| world.begin());
        world
    }

    fn begin(&mut self) {
        let id = NodeId::unused();
        let mut machine = Machine::new(id, "presence".into(), GRACE);
        // Pages of a user or two, so that there are several.
        machine.set_payload_max(400);
        let node = Node {
            id,
            machine,
            here: Here::default(),
            linked: true,
            noticed: true,
            hangs_until: 0,
            heals_at: 0,
            notices_at: 0,
            last_tick: self.now,
            calm_since: self.now,
            skew: self.random.u64(0..300),
            up: VecDeque::new(),
            down: Vec::new(),
            roll: BTreeMap::new(),
        };
        self.nodes.push(node);
        self.tell(format_args!("{id} begins"));
    }

    fn tell(&mut self, what: impl std::fmt::Display) {
        self.story.push(format!("{} {what}", self.now));
    }

    fn index(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    fn open(&mut self, user: usize) {
        let at = self.random.usize(..self.nodes.len());
        let connection = Uuid::from_u128(self.random.u128(..));
        self.nodes[at].here.opened(&name(user), connection);
        let id = self.nodes[at].id;
        self.tell(format_args!("user{user} opens at {id}"));
        self.connections.push((user, connection, self.nodes[at].id, self.now));
    }

    fn close(&mut self, at: usize) {
        let (user, connection, node, _) = self.connections.swap_remove(at);
        self.tell(format_args!("user{user} closes at {node}"));
        if let Some(node) = self.index(node) {
            self.nodes[node].here.closed(&name(user), connection, CloseReason::Client);
        }
        if !self.is_here(user) {
            self.absent_since[user] = self.now;
        }
    }

    fn is_here(&self, user: usize) -> bool {
        self.connections.iter().any(|(of, ..)| *of == user)
    }

    /// A sidecar goes, and its users with it, of whom most come back elsewhere.
    fn take_out(&mut self, at: usize) -> Node {
        let node = self.nodes.remove(at);
        self.tell(format_args!("{} goes", node.id));
        while let Some(at) = self.connections.iter().position(|(_, _, of, _)| *of == node.id) {
            let user = self.connections[at].0;
            self.close(at);
            if self.random.u8(..4) > 0 {
                self.coming.push((self.now + self.random.u64(100..3_000), user));
            }
        }
        node
    }

    fn is_calm(&self, node: &Node) -> bool {
        node.linked && self.now - node.calm_since > CALM
    }

    /// Whether another sidecar knows all that this one knows. What only one has heard is lost with it, and no design helps.
    fn is_known_elsewhere(&self, at: usize) -> bool {
        let mut others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
        self.is_calm(&self.nodes[at]) && others.any(|(_, node)| self.is_calm(node))
    }

    /// Whether it may fall silent for a while.
    fn may_fail(&self, at: usize) -> bool {
        self.nodes.len() == 1 || self.is_known_elsewhere(at)
    }

    fn something_happens(&mut self) {
        let at = self.random.usize(..self.nodes.len());
        match self.random.u32(..1000) {
            0..380 => {
                let user = self.random.usize(..USERS);
                self.open(user);
            }
            380..960 if !self.connections.is_empty() => {
                let at = self.random.usize(..self.connections.len());
                let user = self.connections[at].0;
                self.close(at);
                // A reload, a move, or the end.
                if self.random.bool() {
                    self.coming.push((self.now + self.random.u64(0..4_000), user));
                }
            }
            960..966 if self.nodes.len() < 5 && self.nodes.iter().any(|node| self.is_calm(node)) => self.begin(),
            966..972 if self.is_known_elsewhere(at) => drop(self.take_out(at)),
            972..978 if self.is_known_elsewhere(at) => {
                let mut node = self.take_out(at);
                node.tick_in(self.now, &mut Vec::new());
                let all = node.machine.leave(self.now + node.skew);
                // What it says at the end arrives.
                for one in all {
                    self.arrives(node.id, &packet(one, node.id));
                }
            }
            978..985 if self.may_fail(at) => {
                let until = self.now + self.random.u64(100..20_000);
                self.nodes[at].hangs_until = until;
                let id = self.nodes[at].id;
                self.tell(format_args!("{id} hangs until {until}"));
            }
            985..993 if self.may_fail(at) => self.cut_off(at, 30_000),
            993..995 if self.may_fail(at) => self.cut_off(at, 100_000),
            995..997 if self.nodes.iter().all(|node| self.is_calm(node)) => {
                self.restarted = self.now;
                (0..self.nodes.len()).for_each(|at| self.cut_off(at, 5_000));
            }
            _ => {}
        }
    }

    fn cut_off(&mut self, at: usize, most: u64) {
        let (now, lasts) = (self.now, self.random.u64(500..most));
        let notices = self.random.u64(..lasts.min(10_000));
        let node = &mut self.nodes[at];
        (node.linked, node.heals_at, node.notices_at) = (false, now + lasts, now + notices);
        node.up.clear();
        node.down.clear();
        let (id, notices, heals) = (node.id, node.notices_at, node.heals_at);
        self.tell(format_args!("{id} is cut off until {heals}, notices at {notices}"));
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        while let Some(at) = self.coming.iter().position(|(when, _)| *when <= now) {
            let (_, user) = self.coming.swap_remove(at);
            self.open(user);
        }
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if !node.linked && node.heals_at <= now {
                (node.linked, node.noticed) = (true, true);
                node.machine.lose_nats();
                node.roll.values_mut().for_each(|heard| *heard = now);
                node.calm_since = now;
            } else if !node.linked && node.notices_at <= now {
                node.noticed = false;
                node.machine.lose_nats();
            }
            if !node.linked || node.hangs_until > now {
                node.calm_since = now;
            }
            while let Some((_, packet)) = self.nodes[at].up.pop_front_if(|(when, _)| *when <= now) {
                self.arrives(self.nodes[at].id, &packet);
            }
            self.tick(at);
        }
    }

    fn tick(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.hangs_until > now || now < node.last_tick + TICK {
            return;
        }
        let mut out = Vec::new();
        if now - node.last_tick > 2_000 && node.noticed {
            node.machine.begin(Why::Missed, now + node.skew);
            node.roll.values_mut().for_each(|heard| *heard = now);
        }
        node.tick_in(now, &mut out);
        let roll: Nodes = node.roll.iter().filter(|(_, heard)| now - **heard < SILENCE).map(|(id, _)| *id).collect();
        let roll = roll.into_iter().chain([node.id]).collect();
        out.extend(node.machine.act(&roll, now + node.skew).into_iter().map(|one| packet(one, node.id)));
        if node.linked {
            for packet in out {
                let soonest = node.up.back().map_or(0, |(when, _)| *when);
                node.up.push_back((soonest.max(now + self.random.u64(0..40)), packet));
            }
        }
    }

    /// The server has it.
    fn arrives(&mut self, from: NodeId, packet: &Packet) {
        if let Packet::Publish(change) = packet {
            self.tell(format_args!("{from} publishes {:?} of {}", change.event, change.user));
            self.check(change);
        }
        for at in 0..self.nodes.len() {
            let to = self.nodes[at].id;
            if !self.nodes[at].linked || matches!(packet, Packet::Answer(_, asker) if *asker != to) {
                continue;
            }
            let last = self.last.entry((from, to)).or_default();
            *last = (*last).max(self.now + self.random.u64(0..80));
            self.nodes[at].down.push((*last, packet.clone()));
        }
    }

    fn check(&mut self, change: &Change) {
        let user: usize = change.user.trim_start_matches("user").parse().expect("one of ours");
        if self.log[user].iter().any(|before| before.id() == change.id()) {
            // Told again as it was, which a stream leaves out.
            assert_eq!(self.log[user].last(), Some(change), "told again too late");
            return;
        }
        let wanted = match self.log[user].last().map(|last| last.event) {
            Some(What::Connect) => What::Disconnect,
            _ => What::Connect,
        };
        assert_eq!(change.event, wanted, "{change:?} after {:?}", self.log[user].last());
        let calm = |id: NodeId| self.index(id).is_some_and(|at| self.now - self.nodes[at].calm_since > CALM);
        match change.event {
            What::Disconnect => {
                let there = self.connections.iter().find(|(of, _, node, since)| {
                    *of == user && self.now - since > 1_500 && calm(*node) && self.now - self.restarted > CALM
                });
                assert!(there.is_none(), "{change:?} though {there:?}");
            }
            What::Connect => {
                let is_gone = !self.is_here(user) && self.now - self.absent_since[user] > 45_000;
                assert!(!is_gone, "{change:?} though absent since {}", self.absent_since[user]);
            }
        }
        self.log[user].push(change.clone());
    }

    fn run(&mut self) {
        let end = self.now + LASTS;
        while self.now < end {
            if self.random.u8(..20) == 0 {
                self.something_happens();
            }
            self.step();
        }
        for node in &mut self.nodes {
            node.heals_at = node.heals_at.min(self.now);
            node.hangs_until = 0;
        }
        let quiet = self.now + QUIET;
        while self.now < quiet {
            self.step();
        }
        let publishing = self.nodes.iter().filter(|node| node.machine.is_publishing(self.now + node.skew)).count();
        assert_eq!(publishing, 1, "sidecars that publish");
        for user in 0..USERS {
            let is_told = self.log[user].last().is_some_and(|last| last.event == What::Connect);
            assert_eq!(is_told, self.is_here(user), "user{user}: {:?}", self.log[user].last());
            for node in &self.nodes {
                assert_eq!(node.machine.users().is_told(&name(user)), is_told, "user{user}, as {} knows", node.id);
            }
        }
        // Nothing is kept of those who have gone.
        let later = self.now + 130_000;
        while self.now < later {
            self.step();
        }
        let here = (0..USERS).filter(|user| self.is_here(*user)).count();
        for node in &self.nodes {
            assert_eq!(node.machine.users().sizes(), (here, 0));
        }
    }
}

impl Node {
    /// Takes in what has arrived, as the task does.
    fn tick_in(&mut self, now: u64, out: &mut Vec<Packet>) {
        self.last_tick = now;
        let at = now + self.skew;
        if self.noticed && self.machine.is_away() {
            self.machine.begin(Why::Lost, at);
        }
        let (mut arrived, waiting): (Vec<_>, Vec<_>) = self.down.drain(..).partition(|(when, _)| *when <= now);
        self.down = waiting;
        arrived.sort_by_key(|(when, _)| *when);
        let order = |packet: &Packet| match packet {
            Packet::Publish(_) => 0,
            Packet::Say(_) | Packet::Ask(..) => 1,
            Packet::Answer(..) => 2,
        };
        arrived.sort_by_key(|(_, packet)| order(packet));
        for (_, packet) in arrived {
            match packet {
                Packet::Publish(change) => self.machine.hear_change(&change, at),
                Packet::Say(said) => {
                    self.roll.insert(said.node, now);
                    if said.word == Word::Leaves {
                        self.roll.remove(&said.node);
                    }
                    self.machine.hear(said, at);
                }
                Packet::Ask(said, asker) => {
                    self.roll.insert(asker, now);
                    let answer = self.machine.hear(said, at);
                    let pages = answer.into_iter().flat_map(|answer| pages(answer, self.machine.list_bytes()));
                    out.extend(pages.map(|page| Packet::Answer(page, asker)));
                }
                Packet::Answer(page, _) => self.machine.hear_answer(page, at),
            }
        }
        for (user, seen, _) in self.here.take() {
            self.machine.own_user(&user, seen, at, at);
        }
    }
}

fn packet(one: Do, own: NodeId) -> Packet {
    match one {
        Do::Say(said) => Packet::Say(said),
        Do::Ask(said) => Packet::Ask(said, own),
        Do::Publish(change) => Packet::Publish(change),
    }
}

/// Seeds that have found a fault, since mended: sidecars that knew nothing passed for ones that had told everything.
const KEPT: [u64; 2] = [1_295, 30_061];

/// The seeds that are asked for, or some.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("SIDESTREAM_SEEDS").ok();
    let range = asked.as_deref().and_then(|text| match text.split_once("..") {
        Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
        None => text.parse().ok().map(|seed| seed..seed + 1),
    });
    range.unwrap_or(0..120)
}

#[test]
fn changes_take_turns_and_everybody_ends_up_knowing_who_is_there() {
    let mut published = 0;
    for seed in seeds() {
        // Shown where a check fails.
        println!("SIDESTREAM_SEEDS={seed}");
        let mut world = World::new(seed);
        world.run();
        published += world.log.iter().map(Vec::len).sum::<usize>();
    }
    assert!(published > 0, "nothing was published at all");
}

#[test]
fn what_once_failed_does_not_fail_again() {
    for seed in KEPT {
        println!("SIDESTREAM_SEEDS={seed}");
        World::new(seed).run();
    }
}
