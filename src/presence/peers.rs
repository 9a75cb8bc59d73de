//! The other sidecars that publish presence: whether what they say of their users has arrived without a gap, and what they answer.
//!
//! Each numbers its lists of users. A number that is missing, and whoever is met in the middle, is asked for everything; lists that
//! come before the answer wait for it. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::message::{Answer, Change, Entry};
use crate::cluster::{NodeId, Nodes};

/// Most sidecars, as many as stand on a roll.
const PEERS_MAX: usize = 1024;
/// Lists that wait for an answer; of more the first are left out, and asked for again.
const WAITING_MAX: usize = 256;
/// Most pages of an answer.
const PAGES_MAX: usize = 16_384;
/// Who sent a page so many milliseconds ago is still answering.
const UNDER_WAY: u64 = 3_000;
/// Who is not on the roll but was heard of within so many milliseconds is about to stand there.
const ARRIVING: u64 = 3_000;

/// All others.
#[derive(Debug, Default)]
pub(super) struct Peers {
    all: BTreeMap<NodeId, Peer>,
    /// When the last page came that was new.
    paged: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// The number of the last list that was taken in.
    seq: u64,
    /// The last number that was heard of.
    said: u64,
    /// Whether nothing of its lists is missing.
    known: bool,
    /// It has not answered, and nobody waits for it any more. What it says is taken in, though
    /// something may be missing.
    given_up: bool,
    synced: bool,
    heard: u64,
    waiting: VecDeque<(u64, Vec<Entry>)>,
    answering: Option<Answering>,
}

#[derive(Debug)]
struct Answering {
    question: u64,
    pages: BTreeMap<usize, Answer>,
    paged: u64,
}

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Its users as of the answer, then what changed while it was on its way.
    pub users: Vec<Entry>,
    pub later: Vec<Vec<Entry>>,
    pub told: Vec<Change>,
    pub behind: u64,
    pub knows: u64,
    pub whole: bool,
    /// Lists that were said after this answer have been taken in: what it says of its users is out of date.
    pub is_old: bool,
}

impl Peers {
    /// One has been heard. `false`: there are too many.
    pub(super) fn meet(&mut self, node: NodeId, synced: bool, now: u64) -> bool {
        if self.all.len() >= PEERS_MAX && !self.all.contains_key(&node) {
            return false;
        }
        let peer = self.all.entry(node).or_default();
        (peer.synced, peer.heard) = (synced, now);
        true
    }

    /// It has said so many lists so far. Gives whether some are missing.
    pub(super) fn counted(&mut self, node: NodeId, seq: u64) -> bool {
        let Some(peer) = self.all.get_mut(&node) else { return false };
        // The last word counts, not the greatest: a number that was never one of its own is forgotten with the next
        // sign.
        peer.said = seq;
        // Who has said nothing yet has no users. Less than was taken in has been said by somebody else.
        peer.known |= seq == 0;
        peer.known &= seq == peer.seq;
        !peer.known
    }

    /// Its next list; gives it back where it can be taken in at once.
    pub(super) fn list(&mut self, node: NodeId, seq: u64, users: Vec<Entry>) -> Option<Vec<Entry>> {
        let peer = self.all.get_mut(&node)?;
        peer.said = seq;
        let is_first = seq == 1 && peer.seq == 0;
        if (peer.known || is_first) && follows(peer.seq, seq) {
            (peer.seq, peer.known) = (seq, true);
            return Some(users);
        }
        if seq <= peer.seq {
            return None;
        }
        peer.known = false;
        let at_once = peer.given_up.then(|| users.clone());
        peer.waiting.push_back((seq, users));
        if peer.waiting.len() > WAITING_MAX {
            peer.waiting.pop_front();
        }
        at_once
    }

    /// A page of an answer to one of our questions; gives the answer when it is whole. A node answers one question after
    /// the other, so what came of an earlier one is not completed any more.
    pub(super) fn page(&mut self, page: Answer, now: u64) -> Option<Answered> {
        let (index, question) = (page.page, page.question);
        if index >= PAGES_MAX {
            return None;
        }
        let peer = self.all.get_mut(&page.node)?;
        let new = || Answering { question, pages: BTreeMap::new(), paged: now };
        let answering = peer.answering.get_or_insert_with(new);
        if answering.question < question {
            *answering = new();
        }
        if answering.question != question {
            return None;
        }
        if answering.pages.insert(index, page).is_none() {
            (answering.paged, self.paged) = (now, now);
        }
        let (end, last) = answering.pages.last_key_value()?;
        if !last.last || answering.pages.len() <= *end {
            return None;
        }
        let pages = peer.answering.take()?.pages;
        Some(peer.answered(pages.into_values()))
    }

    /// Nothing that was known may be right any more, and nobody could be heard until now.
    pub(super) fn doubt(&mut self, now: u64) {
        for peer in self.all.values_mut() {
            (peer.known, peer.given_up, peer.heard) = (false, false, now);
            peer.waiting.clear();
            peer.answering = None;
        }
    }

    /// Who does not answer is not waited for any more.
    pub(super) fn give_up(&mut self) {
        self.all.values_mut().filter(|peer| !peer.known).for_each(|peer| peer.given_up = true);
    }

    /// Whether somebody is not waited for who has not answered.
    pub(super) fn has_given_up(&self) -> bool {
        self.all.values().any(|peer| peer.given_up)
    }

    /// When the last page of an answer came; 0 before the first.
    pub(super) fn paged(&self) -> u64 {
        self.paged
    }

    /// Those whose answers are coming in.
    pub(super) fn answering(&self, now: u64) -> Nodes {
        let is_answering = |peer: &Peer| peer.answering.as_ref().is_some_and(|one| one.paged + UNDER_WAY > now);
        self.all.iter().filter(|(_, peer)| is_answering(peer)).map(|(node, _)| *node).collect()
    }

    /// All.
    pub(super) fn nodes(&self) -> Nodes {
        self.all.keys().copied().collect()
    }

    /// Whether nothing is missing of this one.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.all.get(&node).is_some_and(|peer| peer.known)
    }

    /// Those of whom nothing is missing.
    pub(super) fn known(&self) -> Nodes {
        self.all.iter().filter(|(_, peer)| peer.known).map(|(node, _)| *node).collect()
    }

    /// Whether something is missing of one that is waited for.
    pub(super) fn is_doubtful(&self) -> bool {
        self.all.values().any(|peer| !peer.known && !peer.given_up)
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.all.remove(&node);
    }

    /// Takes out who is not on the roll.
    pub(super) fn lost(&mut self, roll: &Nodes, now: u64) -> Vec<NodeId> {
        let is_lost = |node: &NodeId, peer: &Peer| !roll.contains(node) && peer.heard + ARRIVING < now;
        let lost: Vec<_> = self.all.iter().filter(|(node, peer)| is_lost(node, peer)).map(|(node, _)| *node).collect();
        lost.iter().for_each(|node| self.remove(*node));
        lost
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The one that has run for the longest.
    pub(super) fn first(&self) -> Option<NodeId> {
        self.all.keys().next().copied()
    }

    /// The same among those that know all, but for one.
    pub(super) fn first_synced_but(&self, but: NodeId) -> Option<NodeId> {
        self.all.iter().find(|(node, peer)| peer.synced && **node != but).map(|(node, _)| *node)
    }
}

impl Peer {
    /// Takes in a whole answer, and the lists that have waited for it.
    fn answered(&mut self, pages: impl Iterator<Item = Answer>) -> Answered {
        let mut answered = Answered::default();
        let mut seq = 0;
        for page in pages {
            (answered.behind, answered.knows) = (page.behind, page.knows);
            (answered.whole, seq) = (page.whole, page.seq);
            answered.users.extend(page.users);
            answered.told.extend(page.told);
        }
        answered.is_old = self.known && seq < self.seq;
        if answered.is_old {
            return answered;
        }
        self.seq = seq;
        for (seq, users) in std::mem::take(&mut self.waiting) {
            if follows(self.seq, seq) {
                self.seq = seq;
                answered.later.push(users);
            }
        }
        self.known = self.seq >= self.said;
        self.given_up &= !self.known;
        answered
    }
}

/// Whether one number comes right after the other. Numbers are whatever somebody has written.
fn follows(before: u64, seq: u64) -> bool {
    before.checked_add(1) == Some(seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(node: NodeId) -> Peers {
        let mut peers = Peers::default();
        assert!(peers.meet(node, true, 0));
        peers
    }

    fn answer(node: NodeId, page: usize, last: bool, seq: u64) -> Answer {
        let (users, told, subject) = (Vec::new(), Vec::new(), "p".into());
        Answer { node, subject, question: 1, page, last, seq, behind: 0, knows: 0, whole: true, users, told }
    }

    #[test]
    fn who_begins_is_known_and_who_is_met_in_the_middle_is_asked() {
        let node = NodeId::unused();
        let mut peers = met(node);
        assert!(!peers.counted(node, 0));
        assert!(peers.list(node, 1, Vec::new()).is_some());
        assert!(peers.list(node, 1, Vec::new()).is_none(), "once");
        assert!(!peers.counted(node, 1));
        let mut peers = met(node);
        assert!(peers.counted(node, 7));
        assert!(peers.is_doubtful());
    }

    #[test]
    fn a_list_that_is_missing_makes_a_doubt_that_the_answer_ends() {
        let node = NodeId::unused();
        let mut peers = met(node);
        peers.counted(node, 0);
        assert!(peers.list(node, 2, Vec::new()).is_none());
        assert!(peers.list(node, 3, Vec::new()).is_none());
        assert!(peers.is_doubtful());
        assert!(peers.page(answer(node, 1, true, 2), 0).is_none());
        let answered = peers.page(answer(node, 0, false, 2), 0).expect("both pages");
        assert_eq!(answered.later.len(), 1, "the list behind the answer has waited for it");
        assert!(!peers.is_doubtful());
        assert!(peers.list(node, 4, Vec::new()).is_some());
    }

    #[test]
    fn who_is_off_the_roll_is_lost_once_it_is_not_just_arriving() {
        let node = NodeId::unused();
        let mut peers = met(node);
        assert!(peers.lost(&Nodes::new(), ARRIVING).is_empty());
        assert_eq!(peers.lost(&Nodes::new(), ARRIVING + 1), [node]);
        assert!(peers.is_empty());
        let mut peers = met(node);
        assert!(peers.lost(&Nodes::from([node]), 1_000_000).is_empty());
    }

    #[test]
    fn their_number_is_bounded() {
        let mut peers = Peers::default();
        let met = (0..2 * PEERS_MAX).filter(|_| peers.meet(NodeId::unused(), true, 0)).count();
        assert_eq!(met, PEERS_MAX);
    }
}
