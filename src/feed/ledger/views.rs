//! The last message of each subject under a pattern, for clients that begin with them: read once for all who want the same,
//! kept up to date by what the stream brings, and let go after a moment.
//!
//! A view is read when somebody waits for its pattern, and is good for [`LIFE`]; who has been given a part of it is given the rest
//! of it, whatever its age. Nothing here reads NATS ([`crate::feed::values`]) or knows clients ([`super::values`]): who waits is
//! handed in and given back.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::cursor::Position;
use crate::event::Event;
use crate::interest::{Interest, Leaf};
use crate::log::{Held, Log, PieceSize};
use crate::subject::Pattern;

/// How long a view is good for. What is deleted from the stream is shown for so long; and all who connect within it share one read.
const LIFE: Duration = Duration::from_secs(5);
/// Views that are read at the same time.
const READS_MAX: usize = 32;
/// What a value costs beside its frames, roughly.
const VALUE_OVERHEAD_BYTES: usize = 256;

/// Bounds of the views of a stream.
#[derive(Debug, Clone, Copy)]
pub(in crate::feed) struct ViewBounds {
    /// Values of one pattern; the oldest beyond are left out, which is declared.
    pub(in crate::feed) values: usize,
    /// Bytes of frames of one pattern, likewise.
    pub(in crate::feed) view_bytes: usize,
    /// Bytes of all views, beyond which the oldest are let go for which nobody waits.
    pub(in crate::feed) bytes: usize,
}

impl ViewBounds {
    /// The usual ones.
    pub(in crate::feed) const USUAL: Self =
        Self { values: 10_000, view_bytes: 4 * 1024 * 1024, bytes: 64 * 1024 * 1024 };
}

/// All views of a stream. `W` is somebody who waits.
#[derive(Debug)]
pub(super) struct Views<W> {
    bounds: ViewBounds,
    views: Slab<View<W>>,
    by_pattern: HashMap<Pattern, usize>,
    interest: Interest<usize>,
    /// Those to be read, in turn.
    wanted: VecDeque<Pattern>,
    /// Those that are read just now.
    reading: usize,
    /// How many wait, or waited at the last tick.
    waiting: usize,
}

#[derive(Debug)]
struct View<W> {
    leaf: Leaf,
    state: State,
    /// By sequence.
    values: BTreeMap<u64, Arc<Event>>,
    /// Where the value of each subject stands.
    places: HashMap<Box<str>, u64>,
    bytes: usize,
    /// Values up to here may have been left out for want of room; 0 is none.
    cut_upto: u64,
    waiting: Vec<W>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is to be read; with `true`, as soon as there is a turn.
    Wanted(bool),
    /// It was read, but a message in it is newer than the log.
    Ahead { at: Instant, reach: Position },
    /// It is complete.
    Read { at: Instant },
}

/// What was read of a pattern.
#[derive(Debug, Default)]
pub(in crate::feed) struct Values {
    /// The last message of each subject, in any order.
    pub(in crate::feed) events: Vec<Arc<Event>>,
    /// There are more than may be.
    pub(in crate::feed) cut: bool,
}

/// A part of the values of some patterns, by rising sequence.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) events: Vec<Arc<Event>>,
    /// Nothing follows.
    pub(super) complete: bool,
    /// Some that would have been in it, or in a later part, are left out of the views.
    pub(super) cut: bool,
}

impl<W> Views<W> {
    /// Nobody wants anything yet.
    pub(super) fn new(bounds: ViewBounds) -> Self {
        Self {
            bounds,
            views: Slab::new(),
            by_pattern: HashMap::new(),
            interest: Interest::default(),
            wanted: VecDeque::new(),
            reading: 0,
            waiting: 0,
        }
    }
}

impl<W> View<W> {
    fn put(&mut self, event: &Arc<Event>, bounds: ViewBounds) {
        let seq = event.at.seq;
        match self.places.get_mut(&event.subject) {
            Some(place) if *place >= seq => return,
            Some(place) => {
                let older = std::mem::replace(place, seq);
                self.bytes -= self.values.remove(&older).map_or(0, |older| cost(&older));
            }
            None => drop(self.places.insert(event.subject.clone(), seq)),
        }
        self.bytes += cost(event);
        self.values.insert(seq, event.clone());
        while self.values.len() > bounds.values || self.bytes > bounds.view_bytes {
            let Some((at, oldest)) = self.values.pop_first() else { break };
            self.places.remove(&oldest.subject);
            self.bytes -= cost(&oldest);
            self.cut_upto = self.cut_upto.max(at);
        }
    }

    fn forget_values(&mut self) {
        self.values.clear();
        self.places.clear();
        self.bytes = 0;
        self.cut_upto = 0;
    }
}

fn cost(event: &Event) -> usize {
    event.frames.bytes() + event.subject.len() + VALUE_OVERHEAD_BYTES
}

impl<W> Views<W> {
    /// Whether there are views for all patterns that are good: at `now` where somebody begins with them, whatever their age for who
    /// has a part of them already (`begins` is false). `Err` gives the first that is missing and is to be waited for. One at a time:
    /// whoever wants many has no more turns than others.
    pub(super) fn ready(&mut self, patterns: &[Pattern], begins: bool, now: Instant) -> Result<(), Pattern> {
        let missing = patterns.iter().find(|pattern| !self.is_ready(pattern, begins, now));
        missing.map_or(Ok(()), |pattern| Err(pattern.clone()))
    }

    fn is_ready(&self, pattern: &Pattern, begins: bool, now: Instant) -> bool {
        let view = self.by_pattern.get(pattern).map(|place| &self.views[*place]);
        match view.map(|view| view.state) {
            Some(State::Read { at }) => !begins || now < at + LIFE,
            _ => false,
        }
    }

    fn view(&mut self, pattern: &Pattern) -> &mut View<W> {
        let place = self.by_pattern.get(pattern).copied().unwrap_or_else(|| self.make(pattern));
        &mut self.views[place]
    }

    fn make(&mut self, pattern: &Pattern) -> usize {
        let entry = self.views.vacant_entry();
        let place = entry.key();
        entry.insert(View {
            leaf: self.interest.leaf_or_insert_with(pattern, || place),
            state: State::Wanted(true),
            values: BTreeMap::new(),
            places: HashMap::new(),
            bytes: 0,
            cut_upto: 0,
            waiting: Vec::new(),
        });
        self.by_pattern.insert(pattern.clone(), place);
        self.wanted.push_back(pattern.clone());
        place
    }

    /// Somebody waits for a view that was not ready.
    pub(super) fn wait(&mut self, pattern: &Pattern, who: W) {
        let view = self.view(pattern);
        view.waiting.push(who);
        let read_again = matches!(view.state, State::Read { .. });
        if read_again {
            view.state = State::Wanted(true);
            self.wanted.push_back(pattern.clone());
        }
        self.waiting += 1;
    }

    /// The next pattern that is to be read now; its answer goes to [`Views::read`]. `is_there`: whether somebody still is. What
    /// nobody waits for any more is not read.
    pub(super) fn next_read(&mut self, is_there: impl Fn(&W) -> bool) -> Option<Pattern> {
        while self.reading < READS_MAX {
            let pattern = self.wanted.pop_front()?;
            let view = self.view(&pattern);
            view.waiting.retain(&is_there);
            if view.waiting.is_empty() {
                self.remove(&pattern);
                continue;
            }
            // From here on what the stream brings is added; what was there is read again.
            view.forget_values();
            self.reading += 1;
            return Some(pattern);
        }
        None
    }

    /// The answer: what was read, or `None` where that failed. It is tried again at the next [`Views::tick`]. `head` is the log's.
    pub(super) fn read(&mut self, pattern: &Pattern, values: Option<Values>, head: Position, now: Instant) {
        self.reading = self.reading.saturating_sub(1);
        let (bounds, Some(place)) = (self.bounds, self.by_pattern.get(pattern)) else { return };
        let view = &mut self.views[*place];
        let Some(values) = values else {
            view.state = State::Wanted(false);
            return;
        };
        let newest = values.events.iter().map(|event| event.at).max_by_key(|at| at.seq);
        values.events.iter().for_each(|event| view.put(event, bounds));
        if values.cut {
            // Which are left out nobody knows.
            view.cut_upto = u64::MAX;
        }
        view.state = match newest {
            Some(reach) if reach.seq > head.seq => State::Ahead { at: now, reach },
            _ => State::Read { at: now },
        };
        self.let_go();
    }

    /// An answer of before everything was forgotten.
    pub(super) fn outdated(&mut self) {
        self.reading = self.reading.saturating_sub(1);
    }

    /// The log has moved on. Gives those back who wait for views that are complete.
    pub(super) fn served(&mut self, log: &Log) -> Vec<W> {
        let mut served = Vec::new();
        if self.waiting == 0 {
            return served;
        }
        for (pattern, place) in &self.by_pattern {
            let view = &mut self.views[*place];
            if let State::Ahead { at, reach } = view.state
                && reach.seq <= log.head().seq
            {
                // Of the same history? The store may have gone back behind it before the log got there.
                let same = matches!(log.at(reach.seq), Held::Event(there) if there.time == reach.time);
                if same {
                    view.state = State::Read { at };
                } else {
                    view.state = State::Wanted(true);
                    self.wanted.push_back(pattern.clone());
                }
            }
            if matches!(view.state, State::Read { .. }) {
                served.append(&mut view.waiting);
            }
        }
        self.waiting = self.waiting.saturating_sub(served.len());
        served
    }

    /// The stream has a new message.
    pub(super) fn put(&mut self, event: &Arc<Event>) {
        if self.views.is_empty() {
            return;
        }
        let (views, bounds) = (&mut self.views, self.bounds);
        self.interest.for_each_match(&event.subject, |place| views[*place].put(event, bounds));
    }

    /// The values behind a sequence and up to another one, until the piece is full; at least one if there is any. Of views that
    /// are ready.
    pub(super) fn select(&self, patterns: &[Pattern], after: u64, upto: u64, piece: PieceSize) -> Part {
        let mut part = Part::default();
        let mut values: BTreeMap<u64, &Arc<Event>> = BTreeMap::new();
        for view in patterns.iter().filter_map(|pattern| self.by_pattern.get(pattern)).map(|place| &self.views[*place])
        {
            part.cut |= view.cut_upto > after;
            // No more of one view are looked at than fit into the piece, and one that tells that there are more.
            let rest = view.values.range(after.saturating_add(1)..=upto.max(after.saturating_add(1)));
            values
                .extend(rest.filter(|(seq, _)| **seq <= upto).take(piece.events + 1).map(|(seq, event)| (*seq, event)));
        }
        let mut bytes = 0;
        for event in values.into_values() {
            bytes += event.frames.bytes();
            if !part.events.is_empty() && (bytes > piece.bytes || part.events.len() >= piece.events) {
                return part;
            }
            part.events.push(event.clone());
        }
        part.complete = true;
        part
    }

    /// A second has passed: failed reads are tried again where somebody still waits, views that are not good any more go.
    /// `is_there`: whether somebody still is. `in_hand`: patterns of whose views somebody has a part.
    pub(super) fn tick(&mut self, now: Instant, is_there: impl Fn(&W) -> bool, in_hand: &HashSet<Pattern>) {
        let mut over = Vec::new();
        self.waiting = 0;
        for (pattern, place) in &self.by_pattern {
            let view = &mut self.views[*place];
            view.waiting.retain(&is_there);
            self.waiting += view.waiting.len();
            match view.state {
                State::Wanted(false) if view.waiting.is_empty() => over.push(pattern.clone()),
                State::Wanted(false) => {
                    view.state = State::Wanted(true);
                    self.wanted.push_back(pattern.clone());
                }
                State::Read { at } | State::Ahead { at, .. } if now >= at + LIFE && view.waiting.is_empty() => {
                    if !in_hand.contains(pattern) {
                        over.push(pattern.clone());
                    }
                }
                // A message that never comes was of a history that is over.
                State::Ahead { at, .. } if now >= at + LIFE => {
                    view.state = State::Wanted(true);
                    self.wanted.push_back(pattern.clone());
                }
                State::Wanted(true) | State::Read { .. } | State::Ahead { .. } => {}
            }
        }
        over.iter().for_each(|pattern| self.remove(pattern));
    }

    /// Forgets all views, when another log begins. Gives those back who waited.
    pub(super) fn clear(&mut self) -> Vec<W> {
        // The answers to what is read just now are still to come.
        let anew = Self { reading: self.reading, ..Self::new(self.bounds) };
        let ended = std::mem::replace(self, anew);
        ended.views.into_iter().flat_map(|(_, view)| view.waiting).collect()
    }

    /// Lets go of the oldest for which nobody waits, until they take no more than they may.
    fn let_go(&mut self) {
        let mut bytes: usize = self.views.iter().map(|(_, view)| view.bytes).sum();
        while bytes > self.bounds.bytes {
            let read = |place: usize| match self.views[place].state {
                State::Read { at } if self.views[place].waiting.is_empty() => Some(at),
                _ => None,
            };
            let read = self.by_pattern.iter().filter_map(|(pattern, place)| Some((read(*place)?, *place, pattern)));
            let Some((_, place, pattern)) = read.min_by_key(|(at, _, _)| *at) else { return };
            let pattern = pattern.clone();
            bytes -= self.views[place].bytes;
            self.remove(&pattern);
        }
    }

    fn remove(&mut self, pattern: &Pattern) {
        if let Some(place) = self.by_pattern.remove(pattern) {
            let view = self.views.remove(place);
            self.interest.remove(view.leaf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;
    use crate::event::Frames;
    use crate::frame::Frame;

    const PIECE: PieceSize = PieceSize { bytes: 1 << 20, events: 1000 };

    fn event(seq: u64, subject: &str) -> Arc<Event> {
        let frames = Frames::Shared(Frame::comment());
        Arc::new(Event { at: Position { seq, time: seq * 10 }, subject: subject.into(), frames })
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text).expect("a pattern")).collect()
    }

    fn of(events: &[(u64, &str)]) -> Option<Values> {
        Some(Values { events: events.iter().map(|(seq, subject)| event(*seq, subject)).collect(), cut: false })
    }

    fn head(seq: u64) -> Position {
        Position { seq, time: seq * 10 }
    }

    fn log(head: u64) -> Log {
        let mut log = Log::new(Epoch::of("S", "t"), Position { seq: 1, time: 10 }, 1 << 20);
        (2..=head).for_each(|seq| log.append(event(seq, "x")));
        log
    }

    fn seqs(part: &Part) -> Vec<u64> {
        part.events.iter().map(|event| event.at.seq).collect()
    }

    /// Views in which so many wait for one pattern, which is being read.
    fn reading(pattern: &[Pattern], waiting: &[u32], bounds: ViewBounds) -> Views<u32> {
        let (mut views, now) = (Views::new(bounds), Instant::now());
        for who in waiting {
            let missing = views.ready(pattern, true, now).expect_err("nothing is read yet");
            views.wait(&missing, *who);
        }
        assert_eq!(views.next_read(|_| true).as_ref(), pattern.first());
        views
    }

    #[test]
    fn one_read_serves_all_who_come_within_its_life() {
        let (now, all) = (Instant::now(), patterns(&["a.>"]));
        let mut views = reading(&all, &[1, 2], ViewBounds::USUAL);
        assert_eq!(views.next_read(|_| true), None, "it is read once");
        views.read(&all[0], of(&[(5, "a.x"), (7, "a.y")]), head(9), now);
        assert_eq!(views.served(&log(9)), [1, 2]);
        assert_eq!(views.ready(&all, true, now + LIFE - Duration::from_millis(1)), Ok(()));
        assert!(views.ready(&all, true, now + LIFE).is_err(), "it is too old for who comes later");
        views.tick(now + LIFE, |_| true, &all.iter().cloned().collect());
        assert_eq!(views.ready(&all, false, now + LIFE), Ok(()), "but not for who has a part of it");
        views.tick(now + LIFE, |_| true, &HashSet::new());
        assert!(views.views.is_empty() && views.by_pattern.is_empty(), "nobody has");
    }

    #[test]
    fn what_the_stream_brings_takes_the_place_of_what_was_read() {
        let all = patterns(&["a.>"]);
        let mut views = reading(&all, &[1], ViewBounds::USUAL);
        views.put(&event(8, "a.x"));
        views.put(&event(9, "b.x"));
        views.read(&all[0], of(&[(5, "a.x"), (7, "a.y")]), head(9), Instant::now());
        assert_eq!(seqs(&views.select(&all, 0, 9, PIECE)), [7, 8]);
        views.put(&event(10, "a.y"));
        assert_eq!(seqs(&views.select(&all, 0, 10, PIECE)), [8, 10]);
        assert_eq!(seqs(&views.select(&all, 0, 9, PIECE)), [8], "the newer one follows from the log");
    }

    #[test]
    fn a_view_ahead_of_the_log_waits_for_it_and_trusts_only_its_own_history() {
        for (time, trusted) in [(70, true), (71, false)] {
            let all = patterns(&["a.>"]);
            let mut views = reading(&all, &[1], ViewBounds::USUAL);
            let newest = Arc::new(Event {
                at: Position { seq: 7, time },
                subject: "a.y".into(),
                frames: Frames::Shared(Frame::comment()),
            });
            views.read(&all[0], Some(Values { events: vec![newest], cut: false }), head(6), Instant::now());
            assert!(views.served(&log(6)).is_empty());
            assert_eq!(views.served(&log(8)).len(), usize::from(trusted));
            assert_eq!(views.next_read(|_| true).is_some(), !trusted, "it is read again");
        }
    }

    #[test]
    fn overlapping_patterns_give_a_message_once_and_pieces_lose_none() {
        let (mut views, now, all) = (Views::new(ViewBounds::USUAL), Instant::now(), patterns(&["a.>", "a.*.x", "b"]));
        let a: Vec<(u64, String)> = (10..40).map(|seq| (seq, format!("a.{seq}.x"))).collect();
        let a: Vec<(u64, &str)> = a.iter().map(|(seq, subject)| (*seq, subject.as_str())).collect();
        while let Err(missing) = views.ready(&all, true, now) {
            views.wait(&missing, 1);
            assert_eq!(views.next_read(|_| true).as_ref(), Some(&missing));
            assert_eq!(views.next_read(|_| true), None, "one at a time for each client");
            let values = if missing.as_str() == "b" { of(&[(45, "b")]) } else { of(&a) };
            views.read(&missing, values, head(50), now);
        }
        let piece = PieceSize { bytes: 1 << 20, events: 7 };
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let part = views.select(&all, after, 50, piece);
            seen.extend(seqs(&part));
            after = seen.last().copied().unwrap_or(after);
            if part.complete {
                break;
            }
            assert_eq!(part.events.len(), 7);
        }
        assert_eq!(seen, (10..40).chain([45]).collect::<Vec<u64>>());
    }

    #[test]
    fn the_oldest_values_beyond_the_bound_are_left_out_and_that_is_told() {
        let all = patterns(&["a.>"]);
        let mut views = reading(&all, &[1], ViewBounds { values: 10, ..ViewBounds::USUAL });
        (1..=15).for_each(|seq| views.put(&event(seq, &format!("a.{seq}"))));
        views.read(&all[0], of(&[]), head(20), Instant::now());
        let part = views.select(&all, 0, 20, PIECE);
        assert!(part.cut && part.complete);
        assert_eq!(seqs(&part), (6..=15).collect::<Vec<u64>>());
        assert!(!views.select(&all, 5, 20, PIECE).cut, "who has had those misses none");
        (16..=18).for_each(|seq| views.put(&event(seq, &format!("a.{seq}"))));
        assert!(views.select(&all, 7, 15, PIECE).cut, "8 was to come next, and is gone");
        assert!(!views.select(&all, 8, 15, PIECE).cut);
        let mut views = reading(&all, &[1], ViewBounds::USUAL);
        views.read(&all[0], Some(Values { events: vec![event(3, "a.3")], cut: true }), head(20), Instant::now());
        assert!(views.select(&all, 2, 20, PIECE).cut, "nobody knows which the stream has more");
    }

    #[test]
    fn a_failed_read_is_tried_again_while_somebody_waits() {
        let (now, all, nobody) = (Instant::now(), patterns(&["a.>"]), HashSet::new());
        let mut views = reading(&all, &[1], ViewBounds::USUAL);
        views.read(&all[0], None, head(1), now);
        assert_eq!(views.next_read(|_| true), None, "not at once");
        views.tick(now, |_| true, &nobody);
        assert_eq!(views.next_read(|_| true).as_ref(), all.first());
        views.read(&all[0], None, head(1), now);
        views.tick(now, |_| false, &nobody);
        assert_eq!(views.next_read(|_| true), None, "nobody waits any more");
        assert!(views.views.is_empty() && views.by_pattern.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_read() {
        let (mut views, now) = (Views::new(ViewBounds::USUAL), Instant::now());
        for (who, text) in [(1, "a.*"), (2, "b.*")] {
            let missing = views.ready(&patterns(&[text]), true, now).expect_err("nothing is read yet");
            views.wait(&missing, who);
        }
        assert_eq!(views.next_read(|who| *who != 1), patterns(&["b.*"]).pop());
        assert_eq!((views.next_read(|_| true), views.views.len()), (None, 1));
    }

    #[test]
    fn beyond_the_bound_of_all_the_oldest_view_goes_for_which_nobody_waits() {
        let (now, bytes) = (Instant::now(), 3 * VALUE_OVERHEAD_BYTES);
        let mut views: Views<u32> = Views::new(ViewBounds { bytes, ..ViewBounds::USUAL });
        for (age, text) in [(3, "a"), (2, "b"), (1, "c")] {
            let pattern = patterns(&[text]);
            let missing = views.ready(&pattern, true, now).expect_err("nothing is read yet");
            views.wait(&missing, 1);
            let _ = views.next_read(|_| true);
            views.read(&missing, of(&[(5, text)]), head(9), now - Duration::from_secs(age));
            let _ = views.served(&log(9));
        }
        let left = |text: &str| views.by_pattern.contains_key(&patterns(&[text])[0]);
        assert_eq!([left("a"), left("b"), left("c")], [false, true, true]);
    }
}
