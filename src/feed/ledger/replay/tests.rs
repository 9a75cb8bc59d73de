//! How often a range is read, and who waits for whom: a stream that is read as ordered, and clients that ride on it.

use super::*;
use crate::config::Format;
use crate::cursor::{Epoch, Position};
use crate::event::Frames;
use crate::frame::{EventNaming, Frame, Payload};

/// Messages that the stream has; the last one is the base of its log.
const LAST: u64 = 5000;
const USERS: u64 = 50;

struct Bench {
    replay: Replay,
    log: Log,
    encoder: Encoder,
    now: Instant,
    /// Passes and what they have been read up to.
    readers: Vec<(PassId, u64)>,
    /// Messages read in all.
    read: u64,
    /// Where clients were when they came, by ticket.
    came_after: HashMap<u32, u64>,
    /// What they have got.
    got: HashMap<u32, Vec<u64>>,
    /// Who has a piece in hand, and is where.
    pieces: VecDeque<(Missing, u64)>,
    joined: usize,
    /// Clients are there as long as somebody besides us holds their grants.
    grants: Vec<Arc<Grant>>,
}

fn event(seq: u64) -> Arc<Event> {
    let subject = format!("e.u{}", seq % USERS).into();
    Arc::new(Event { at: Position { seq, time: seq * 10 }, subject, frames: Frames::Shared(Frame::comment()) })
}

impl Bench {
    fn new(clients: usize, piece: usize, pass_bytes: usize) -> Self {
        let piece = PieceSize { bytes: 1 << 20, events: piece };
        let bounds = Bounds { events: 1 << 20, clients, piece, pass_bytes };
        let encoder = Encoder {
            formats: vec![Format { naming: EventNaming::Header, payload: Payload::Text }],
            used: vec![0],
            event_bytes_max: 1 << 20,
            stream: Some("S".to_owned()),
            metrics: Arc::default(),
        };
        let log = Log::new(Epoch::of("S", "t"), Position { seq: LAST, time: LAST * 10 }, 1 << 20);
        let (readers, pieces) = (Vec::new(), VecDeque::new());
        let (replay, now) = (Replay::new(bounds), Instant::now());
        Self {
            replay,
            log,
            encoder,
            now,
            readers,
            read: 0,
            came_after: HashMap::new(),
            got: HashMap::new(),
            pieces,
            joined: 0,
            grants: Vec::new(),
        }
    }

    /// A client that has had everything up to a sequence.
    fn comes(&mut self, ticket: u32, after: u64) {
        let grant = Arc::new(Grant::of_stream(&format!("e.u{}", u64::from(ticket) % USERS)));
        self.grants.push(grant.clone());
        self.came_after.insert(ticket, after);
        let ticket = Ticket { slot: ticket, generation: 0 };
        let (shard, from) = (0, MissingFrom::After(after));
        self.asks(Missing { shard, ticket, grant, from });
    }

    fn asks(&mut self, missing: Missing) {
        let mut actions = Vec::new();
        self.replay.serve(missing, &self.log, self.now, &mut actions);
        actions.append(&mut self.replay.step(&self.log, self.now, true));
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Read { pass, from } => self.readers.push((pass, from)),
                Action::Join(_) => self.joined += 1,
                Action::Piece { missing, events, upto, .. } => {
                    self.got.entry(missing.ticket.slot).or_default().extend(events.iter().map(|event| event.at.seq));
                    self.pieces.push_back((missing, upto));
                }
                Action::Verdict(..) => panic!("nothing is missing"),
            }
        }
    }

    /// The oldest piece in hand is taken.
    fn takes_piece(&mut self) -> bool {
        self.takes_piece_but(u32::MAX)
    }

    /// The same, for anybody but one.
    fn takes_piece_but(&mut self, ticket: u32) -> bool {
        let place = self.pieces.iter().position(|(missing, _)| missing.ticket.slot != ticket);
        let Some((missing, upto)) = place.and_then(|place| self.pieces.remove(place)) else { return false };
        self.asks(Missing { from: MissingFrom::After(upto), ..missing });
        true
    }

    /// Every pass that takes more is read further once.
    fn reads(&mut self) -> bool {
        let mut any = false;
        for place in 0..self.readers.len() {
            let (id, from) = self.readers[place];
            if !self.replay.takes(id, &self.log) {
                continue;
            }
            any = true;
            let end = (from + 100).min(LAST + 1);
            self.readers[place].1 = end;
            self.read += end - from;
            let filled = Filled { events: (from..end).map(event).collect(), end: None, stock: None };
            self.replay.filled(id, Some(filled), &self.log, &self.encoder, |_| Cause::SOMEBODY);
            let actions = self.replay.step(&self.log, self.now, true);
            self.act(actions);
        }
        any
    }

    fn passes_time(&mut self, time: Duration) {
        self.now += time;
        let mut actions = self.replay.tick(&self.log, self.now);
        actions.append(&mut self.replay.step(&self.log, self.now, true));
        self.act(actions);
    }

    /// Until everybody has joined.
    fn runs(&mut self, clients: usize) {
        for _ in 0..100_000 {
            if self.joined == clients {
                return;
            }
            if !self.takes_piece() && !self.reads() {
                self.passes_time(Duration::from_millis(100));
            }
        }
        panic!("{} of {clients} have joined: {:?}", self.joined, self.replay);
    }

    fn everybody_got_everything(&self) {
        for (slot, got) in &self.got {
            let expected: Vec<u64> =
                (self.came_after[slot] + 1..=LAST).filter(|seq| seq % USERS == u64::from(*slot) % USERS).collect();
            assert_eq!(*got, expected, "client {slot}");
        }
    }
}

#[test]
fn a_storm_reads_a_range_larger_than_a_pass_once_however_few_may_have_a_piece() {
    for clients in [2, 256] {
        let mut bench = Bench::new(clients, 10, 200_000);
        for client in 0..200 {
            bench.comes(client, 0);
            bench.now += Duration::from_millis(5);
            while bench.reads() || bench.takes_piece() {}
        }
        bench.runs(200);
        bench.everybody_got_everything();
        assert_eq!((bench.readers.len(), bench.read), (1, LAST), "with {clients} pieces");
    }
}

#[test]
fn a_pass_that_meets_another_hands_its_riders_over() {
    let mut bench = Bench::new(256, 1, 200_000);
    bench.comes(1, 0);
    while bench.readers[0].1 < 2000 {
        if !bench.reads() {
            bench.takes_piece();
            bench.passes_time(Duration::from_millis(100));
        }
    }
    // It has left, and is held up by the first while the second goes as far as it can. The third takes its time.
    while bench.reads() {}
    let (ahead, held) = (bench.read, std::mem::take(&mut bench.pieces));
    let meets = bench.replay.passes[0].from();
    bench.comes(51, meets - 100);
    bench.comes(101, meets - 100);
    for _ in 0..10 {
        while bench.takes_piece_but(101) || bench.reads() {}
        bench.passes_time(Duration::from_millis(50));
    }
    let until = bench.got[&51].last().copied().unwrap_or(0);
    assert!(until > ahead - USERS, "the second got what the first pass holds, not only up to {until}");
    let read = bench.readers[1].1;
    assert!(read <= meets + 100, "the second is read up to {read}, {meets} is there");
    bench.pieces.extend(held);
    bench.runs(3);
    bench.everybody_got_everything();
    assert_eq!(bench.readers.len(), 2);
}

#[test]
fn who_comes_slowly_does_not_keep_passes_from_those_who_have_none() {
    let mut bench = Bench::new(256, 1, 400_000);
    bench.comes(1, 1);
    bench.comes(2, 2500);
    let mut left = 0;
    let none_covers = |bench: &Bench| bench.replay.passes.iter().all(|pass| !pass.reaches(MissingFrom::After(1)));
    for _ in 0..100 {
        while bench.reads() {}
        if bench.readers.len() == 2 && none_covers(&bench) && bench.grants.len() == 2 {
            bench.comes(3, 1);
            left = 4;
        }
        // Nobody needs a whole second for a piece.
        (0..bench.pieces.len()).for_each(|_| assert!(bench.takes_piece()));
        bench.passes_time(Duration::from_millis(990));
        left -= 1;
        if left == 0 {
            break;
        }
    }
    assert!(bench.got.get(&3).is_some_and(|got| !got.is_empty()), "the third waits for four seconds");
}

#[test]
fn an_event_larger_than_a_pass_does_not_wedge_it() {
    let mut bench = Bench::new(256, 10, 200_000);
    bench.comes(1, 0);
    let (id, from) = bench.readers[0];
    let large = |seq: u64| {
        let text = "x".repeat(250_000);
        let format = Format { naming: EventNaming::Header, payload: Payload::Text };
        let message = crate::frame::Message { subject: "e.u1", name: None, payload: text.as_bytes(), time: seq * 10 };
        let frame = Frame::encode(&format, message, None).expect("text").frame;
        Arc::new(Event { at: Position { seq, time: seq * 10 }, subject: "e.u1".into(), frames: Frames::Shared(frame) })
    };
    // 1 is of this client (1 % USERS).
    let filled = Filled { events: vec![large(from)], end: None, stock: None };
    bench.replay.filled(id, Some(filled), &bench.log, &bench.encoder, |_| Cause::SOMEBODY);
    bench.readers[0].1 = from + 1;
    let actions = bench.replay.step(&bench.log, bench.now, true);
    bench.act(actions);
    for _ in 0..600 {
        if bench.joined == 1 {
            break;
        }
        if !bench.takes_piece() && !bench.reads() {
            bench.passes_time(Duration::from_millis(100));
        }
    }
    assert_eq!(bench.joined, 1, "a minute later nothing has been read: {:?}", bench.replay);
}

#[test]
fn who_missed_little_does_not_wait_for_the_range_of_who_missed_all() {
    let mut bench = Bench::new(256, 10, 48 << 20);
    bench.comes(1, 0);
    bench.reads();
    bench.comes(2, LAST - 60);
    while !bench.got.contains_key(&2) {
        assert!(bench.reads() | bench.takes_piece());
    }
    assert!(bench.read < 1000, "{} events were read before it got its first of 60", bench.read);
}
