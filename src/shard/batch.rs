//! The messages at hand, and which of them each client is to get.
//!
//! What a client is to get is a [`List`]: a node of a tree in which the way from the root spells the messages. Clients that are
//! to get the same stand at the same node, so marking a client is one step in the tree, lists are compared by comparing
//! numbers, and what belongs to a list (the bytes gathered from it, what a client knows after it) is made once for all of
//! its clients. How a list is written is [`super::deliver`]'s business.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::event::Event;
use crate::frame::Frame;
use crate::link::Tells;

/// Messages of one batch. What has come by now goes together: who is to get several of them gets them by one write.
const ITEMS_MAX: usize = 16 * 1024;
/// As many are room for the next batch; the memory of more is given back.
const ITEMS_KEPT: usize = 4096;
/// Bytes of one batch. More may come with the last messages taken in: they have been in the shard's queue, which is bounded.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Items of one list. What is written to one client at once must be what a socket takes: everything beyond is kept for it.
const LIST_MAX: u32 = 64;
/// A gather buffer is kept up to this size: a burst of large events must not be paid for ever after.
const GATHERED_BYTES_KEPT: usize = 256 * 1024;

/// One message of a batch.
#[derive(Debug)]
pub(super) enum Item {
    Event(Arc<Event>),
    Notice(Frame, Notice),
    /// What follows is in another log.
    Begin {
        log: u32,
        base: u64,
        gap: Frame,
    },
}

/// What a notice is about, and so whether a client that falls behind may miss it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Its stream. Whether NATS is away is told by comparison when the client has caught up, a hole is found again by the
    /// client's position.
    Stream(Tells),
    /// Core subjects: whether NATS is away.
    Live(bool),
    /// A hole in core subjects; not to be had again.
    LiveGap,
}

impl Item {
    /// Its bytes in a format. `None` only for a format that the source was not built for.
    pub(super) fn frame(&self, format: u8) -> Option<&Frame> {
        match self {
            Self::Event(event) => event.frames.get(format),
            Self::Notice(frame, _) | Self::Begin { gap: frame, .. } => Some(frame),
        }
    }

    /// Whether a client that misses it finds it again in its stream's log, by its position.
    pub(super) fn is_logged(&self) -> bool {
        match self {
            Self::Event(event) => event.at.seq > 0,
            Self::Notice(_, notice) => *notice != Notice::LiveGap,
            // Its position stays in the log before, which is a gap when it asks.
            Self::Begin { .. } => true,
        }
    }
}

/// What a client knows after a list, where that changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    /// The log that its position is in.
    pub(super) log: Option<u32>,
    /// Its position.
    pub(super) position: Option<u64>,
    /// Whether it was told that NATS is away.
    pub(super) degraded: Option<bool>,
}

impl Standing {
    fn then(mut self, item: &Item) -> Self {
        match item {
            // Core subjects have no sequence.
            Item::Event(event) if event.at.seq > 0 => self.position = Some(event.at.seq),
            Item::Notice(_, Notice::Live(degraded) | Notice::Stream(Tells::Degraded(degraded))) => {
                self.degraded = Some(*degraded);
            }
            Item::Notice(_, Notice::Stream(Tells::Hole(upto))) => self.position = Some(*upto),
            Item::Begin { log, base, .. } => (self.log, self.position) = (Some(*log), Some(*base)),
            Item::Event(_) | Item::Notice(_, Notice::LiveGap) => {}
        }
        self
    }
}

/// What a client is to get, for as long as the batch lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List(u32);

/// A list that has been taken to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// Which.
    pub(super) list: List,
    /// How many items it has; 0 is nothing to do.
    pub(super) len: u32,
    last: u32,
}

impl List {
    /// Nothing.
    pub(super) const EMPTY: Self = Self(0);
}

/// No position of an item.
const NO_ITEM: u32 = u32::MAX;

/// A list: another one, and an item after it.
#[derive(Debug, Clone, Copy)]
struct Node {
    before: List,
    item: u32,
    len: u32,
    standing: Standing,
    /// The way taken last from here. Where clients part, nodes may be made twice: that costs a little work, nothing else.
    next: (u32, List),
}

const ROOT: Node = Node {
    before: List::EMPTY,
    item: NO_ITEM,
    len: 0,
    standing: Standing { log: None, position: None, degraded: None },
    next: (NO_ITEM, List::EMPTY),
};

/// Who is to get what.
#[derive(Debug)]
struct Lists {
    nodes: Vec<Node>,
    /// By slot.
    of: Vec<List>,
    /// Items of the longest.
    longest: u32,
    /// Slots whose list is not empty; a slot that has been given to another client may stand here twice.
    dirty: Vec<u32>,
}

impl Default for Lists {
    fn default() -> Self {
        Self { nodes: vec![ROOT], of: Vec::new(), longest: 0, dirty: Vec::new() }
    }
}

impl Lists {
    /// A client that matches twice hears once.
    fn mark(&mut self, slot: u32, item: u32, items: &[Item]) {
        let list = self.of[slot as usize];
        let node = &self.nodes[list.0 as usize];
        if node.item == item {
            return;
        }
        let (known, next) = node.next;
        let next = if known == item { next } else { self.extend(list, item, items) };
        if list == List::EMPTY {
            self.dirty.push(slot);
        }
        self.of[slot as usize] = next;
    }

    fn extend(&mut self, list: List, item: u32, items: &[Item]) -> List {
        let place = u32::try_from(self.nodes.len()).expect("a batch makes far fewer than 2^32 lists");
        let before = &mut self.nodes[list.0 as usize];
        before.next = (item, List(place));
        let standing = before.standing.then(&items[item as usize]);
        let node = Node { before: list, item, len: before.len + 1, standing, next: (NO_ITEM, List::EMPTY) };
        self.longest = self.longest.max(node.len);
        self.nodes.push(node);
        List(place)
    }

    fn node(&self, list: List) -> &Node {
        &self.nodes[list.0 as usize]
    }
}

/// The bytes of the list that was written last.
#[derive(Debug)]
struct Gathered<B> {
    list: List,
    format: u8,
    bytes: B,
}

impl<B: Default> Default for Gathered<B> {
    fn default() -> Self {
        Self { list: List::EMPTY, format: 0, bytes: B::default() }
    }
}

/// The messages at hand and the clients they touch. Positions and lists stay valid until [`Batch::clear`].
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: RefCell<Vec<Item>>,
    /// Of all items' events.
    bytes: Cell<usize>,
    lists: RefCell<Lists>,
    gathered: RefCell<Gathered<Vec<u8>>>,
    /// The same for HTTP/2.
    gathered_body: RefCell<Gathered<Option<Bytes>>>,
    scratch: RefCell<Vec<u8>>,
    path: RefCell<Vec<(List, u32)>>,
    /// When the oldest event was read.
    read: Cell<Option<Instant>>,
    /// When the oldest event of a stream was stored, nanoseconds since 1970; 0 where there is none.
    stored: Cell<u64>,
    /// The time of the pass: the clock is read once per turn, not once per client.
    pub(super) now: Cell<u64>,
}

impl Batch {
    /// Makes room for a client in a slot, to which nothing is to be sent yet.
    pub(super) fn admit(&self, slot: u32) {
        let of = &mut self.lists.borrow_mut().of;
        let room = of.len().max(slot as usize + 1);
        of.resize(room, List::EMPTY);
        of[slot as usize] = List::EMPTY;
    }

    /// Messages taken in.
    pub(super) fn len(&self) -> usize {
        self.items.borrow().len()
    }

    /// Whether it is to be written before more is taken in.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= ITEMS_MAX || self.bytes.get() >= BYTES_MAX || self.lists.borrow().longest >= LIST_MAX
    }

    /// Takes an item in.
    pub(super) fn push(&self, item: Item) -> u32 {
        if let Item::Event(event) = &item {
            self.bytes.set(self.bytes.get() + event.frames.bytes());
            let (stored, oldest) = (event.at.time, self.stored.get());
            if stored > 0 && (oldest == 0 || stored < oldest) {
                self.stored.set(stored);
            }
        }
        let mut items = self.items.borrow_mut();
        items.push(item);
        u32::try_from(items.len() - 1).expect("a batch is far below 2^32 items")
    }

    /// Events that have been taken in were read at this time, or later.
    pub(super) fn read_at(&self, at: Instant) {
        self.read.set(Some(self.read.get().map_or(at, |before| before.min(at))));
    }

    /// Takes when the oldest event was read, and when the oldest of a stream was stored.
    pub(super) fn take_oldest(&self) -> (Option<Instant>, u64) {
        (self.read.take(), self.stored.take())
    }

    /// An item is for these clients.
    pub(super) fn mark_all(&self, slots: impl Iterator<Item = u32>, item: u32) {
        let (items, mut lists) = (self.items.borrow(), self.lists.borrow_mut());
        slots.for_each(|slot| lists.mark(slot, item, &items));
    }

    /// Takes the slots whose list is not empty.
    pub(super) fn take_dirty(&self) -> Vec<u32> {
        std::mem::take(&mut self.lists.borrow_mut().dirty)
    }

    /// Whether something of the batch waits for a client.
    pub(super) fn waits_for(&self, slot: u32) -> bool {
        self.lists.borrow().of[slot as usize] != List::EMPTY
    }

    /// Takes what a client is to get.
    pub(super) fn take(&self, slot: u32) -> Taken {
        let mut lists = self.lists.borrow_mut();
        let list = std::mem::replace(&mut lists.of[slot as usize], List::EMPTY);
        let node = lists.node(list);
        Taken { list, len: node.len, last: node.item }
    }

    /// Lends what a client knows after a list.
    pub(super) fn with_standing<T>(&self, list: List, use_it: impl FnOnce(&Standing) -> T) -> T {
        use_it(&self.lists.borrow().node(list).standing)
    }

    /// The bytes of a list as HTTP/1.1 wants them: a frame as it is, several gathered, once for all clients that follow each
    /// other with the same list.
    pub(super) fn with_bytes<T>(&self, taken: Taken, format: u8, use_it: impl FnOnce(&[u8]) -> T) -> T {
        if taken.len == 1 {
            let items = self.items.borrow();
            return use_it(items[taken.last as usize].frame(format).map_or(&[], |frame| frame.wire()));
        }
        let mut gathered = self.gathered.borrow_mut();
        if gathered.list != taken.list || gathered.format != format {
            self.gather(taken.list, format, &mut gathered);
        }
        use_it(&gathered.bytes)
    }

    /// Lends the bytes of a list as HTTP/2 wants them, in order and each to be kept: a frame as it is; several gathered, once for
    /// neighbours too, as long as that makes at most `max` bytes. Who keeps a part keeps the whole, so more are not gathered.
    pub(super) fn with_bodies(&self, taken: Taken, format: u8, max: usize, mut use_it: impl FnMut(Bytes)) {
        if taken.len == 1 {
            let items = self.items.borrow();
            return items[taken.last as usize].frame(format).into_iter().for_each(|frame| use_it(frame.body()));
        }
        let mut gathered = self.gathered_body.borrow_mut();
        if gathered.list != taken.list || gathered.format != format {
            *gathered = Gathered { list: taken.list, format, bytes: self.gather_bodies(taken.list, format, max) };
        }
        match &gathered.bytes {
            Some(bytes) => use_it(bytes.clone()),
            None => self.with_frames(taken.list, format, |frame| use_it(frame.body())),
        }
    }

    fn gather_bodies(&self, list: List, format: u8, max: usize) -> Option<Bytes> {
        let mut all = 0;
        self.with_frames(list, format, |frame| all += frame.body().len());
        let mut bytes = Vec::with_capacity(if all <= max { all } else { return None });
        self.with_frames(list, format, |frame| bytes.extend_from_slice(&frame.body()));
        Some(bytes.into())
    }

    fn gather(&self, list: List, format: u8, gathered: &mut Gathered<Vec<u8>>) {
        (gathered.list, gathered.format) = (list, format);
        gathered.bytes.clear();
        self.with_frames(list, format, |frame| gathered.bytes.extend_from_slice(frame.wire()));
    }

    /// Lends every frame of a list, in order.
    fn with_frames(&self, list: List, format: u8, use_it: impl FnMut(&Frame)) {
        let items = self.items.borrow();
        self.with_path(list, |path| {
            path.iter().filter_map(|(_, item)| items[*item as usize].frame(format)).for_each(use_it);
        });
    }

    /// Lends every list on the way to this one, itself included, shortest first, each with the item that is its last.
    pub(super) fn with_path<T>(&self, list: List, use_it: impl FnOnce(&[(List, u32)]) -> T) -> T {
        let mut path = self.path.borrow_mut();
        path.clear();
        let lists = self.lists.borrow();
        let mut at = list;
        while at != List::EMPTY {
            let node = lists.node(at);
            path.push((at, node.item));
            at = node.before;
        }
        path.reverse();
        use_it(&path)
    }

    /// Lends an item.
    pub(super) fn with_item<T>(&self, item: u32, use_it: impl FnOnce(&Item) -> T) -> T {
        use_it(&self.items.borrow()[item as usize])
    }

    /// Lends the buffer that backlogs are gathered in.
    pub(super) fn with_scratch<T>(&self, use_it: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        use_it(&mut self.scratch.borrow_mut())
    }

    /// Forgets the items, and keeps the memory. `dirty` comes from [`Batch::take_dirty`]; every list of its slots has been taken.
    pub(super) fn clear(&self, mut dirty: Vec<u32>) {
        let mut items = self.items.borrow_mut();
        items.clear();
        items.shrink_to(ITEMS_KEPT);
        self.bytes.set(0);
        dirty.clear();
        let mut lists = self.lists.borrow_mut();
        lists.longest = 0;
        lists.dirty = dirty;
        lists.nodes.clear();
        lists.nodes.shrink_to(ITEMS_KEPT);
        lists.nodes.push(ROOT);
        self.gathered_body.take();
        let mut gathered = self.gathered.borrow_mut();
        gathered.list = List::EMPTY;
        gathered.bytes.clear();
        gathered.bytes.shrink_to(GATHERED_BYTES_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(slots: u32) -> Batch {
        let batch = Batch::default();
        (0..slots).for_each(|slot| batch.admit(slot));
        batch
    }

    fn mark(batch: &Batch, slots: &[u32]) -> u32 {
        let item = batch.push(Item::Notice(Frame::comment(), Notice::Live(true)));
        batch.mark_all(slots.iter().copied(), item);
        item
    }

    #[test]
    fn clients_that_get_the_same_share_a_list_and_hear_once() {
        let batch = batch(3);
        let first = mark(&batch, &[0, 1, 2]);
        let second = mark(&batch, &[0, 2, 0]);
        assert_eq!(batch.take_dirty(), [0, 1, 2]);
        let [a, b, c] = [0, 1, 2].map(|slot| batch.take(slot));
        assert_eq!((a.list, a.len, b.len), (c.list, 2, 1));
        assert_ne!(a.list, b.list);
        batch.with_path(a.list, |path| assert_eq!([path[0].1, path[1].1], [first, second]));
        assert_eq!(batch.with_bytes(a, 0, <[u8]>::len), 2 * batch.with_bytes(b, 0, <[u8]>::len));
        batch.with_standing(a.list, |standing| assert_eq!(standing.degraded, Some(true)));
        assert_eq!(batch.take(0).len, 0, "taken once");
    }

    #[test]
    fn a_slot_that_is_given_away_inherits_nothing() {
        let batch = batch(1);
        mark(&batch, &[0]);
        batch.take(0);
        batch.admit(0);
        assert!(!batch.waits_for(0));
        mark(&batch, &[0]);
        assert_eq!(
            (batch.take_dirty(), batch.take(0).len),
            (vec![0, 0], 1),
            "it stands there twice, and is written once"
        );
    }

    #[test]
    fn it_is_full_when_one_client_is_to_get_as_much_as_a_socket_takes() {
        let batch = batch(1);
        for _ in 1..LIST_MAX {
            mark(&batch, &[0]);
        }
        assert!(!batch.is_full());
        mark(&batch, &[0]);
        assert!(batch.is_full());
        batch.take(0);
        batch.clear(batch.take_dirty());
        assert!(!batch.is_full());
    }
}
