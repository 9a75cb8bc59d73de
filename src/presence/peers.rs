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
/// Who is not on the roll but was heard of within so many milliseconds is about to stand there.
const ARRIVING: u64 = 3_000;

/// All others.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<NodeId, Peer>);

#[derive(Debug, Default)]
struct Peer {
    /// The number of the last list that was taken in.
    seq: u64,
    /// The last number that was heard of.
    said: u64,
    /// Whether nothing of its lists is missing.
    known: bool,
    synced: bool,
    heard: u64,
    waiting: VecDeque<(u64, Vec<Entry>)>,
    answering: Option<Answering>,
}

#[derive(Debug)]
struct Answering {
    pages: Vec<Option<Answer>>,
}

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Its users as of the answer, then what changed while it was on its way.
    pub users: Vec<Entry>,
    pub later: Vec<Vec<Entry>>,
    pub told: Vec<Change>,
    pub behind: u64,
    pub whole: bool,
}

impl Peers {
    /// One has been heard. `false`: there are too many.
    pub(super) fn meet(&mut self, node: NodeId, synced: bool, now: u64) -> bool {
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&node) {
            return false;
        }
        let peer = self.0.entry(node).or_default();
        (peer.synced, peer.heard) = (synced, now);
        true
    }

    /// It has said so many lists so far. Gives whether some are missing.
    pub(super) fn counted(&mut self, node: NodeId, seq: u64) -> bool {
        let Some(peer) = self.0.get_mut(&node) else { return false };
        peer.said = peer.said.max(seq);
        // Who has said nothing yet has no users.
        peer.known |= seq == 0;
        peer.known &= seq <= peer.seq;
        !peer.known
    }

    /// Its next list; gives it back where it can be taken in at once.
    pub(super) fn list(&mut self, node: NodeId, seq: u64, users: Vec<Entry>) -> Option<Vec<Entry>> {
        let peer = self.0.get_mut(&node)?;
        peer.said = peer.said.max(seq);
        let is_first = seq == 1 && peer.seq == 0;
        if (peer.known || is_first) && seq == peer.seq + 1 {
            (peer.seq, peer.known) = (seq, true);
            return Some(users);
        }
        if seq > peer.seq {
            peer.known = false;
            peer.waiting.push_back((seq, users));
            if peer.waiting.len() > WAITING_MAX {
                peer.waiting.pop_front();
            }
        }
        None
    }

    /// A page of an answer to our last question; gives the answer when it is whole.
    pub(super) fn page(&mut self, page: Answer) -> Option<Answered> {
        if page.pages > PAGES_MAX || page.page >= page.pages {
            return None;
        }
        let peer = self.0.get_mut(&page.node)?;
        let pages = page.pages;
        let answering = peer.answering.get_or_insert_with(|| Answering { pages: vec![None; pages] });
        let index = page.page;
        *answering.pages.get_mut(index)? = Some(page);
        if answering.pages.iter().any(Option::is_none) {
            return None;
        }
        let mut answered = Answered::default();
        for page in peer.answering.take()?.pages.into_iter().flatten() {
            (answered.behind, answered.whole) = (page.behind, page.whole);
            answered.users.extend(page.users);
            answered.told.extend(page.told);
            peer.seq = page.seq;
        }
        for (seq, users) in std::mem::take(&mut peer.waiting) {
            if seq == peer.seq + 1 {
                peer.seq = seq;
                answered.later.push(users);
            }
        }
        peer.known = peer.seq >= peer.said;
        Some(answered)
    }

    /// Another question is asked: what was answered by halves is not of it.
    pub(super) fn asked(&mut self) {
        self.0.values_mut().for_each(|peer| peer.answering = None);
    }

    /// Nothing that was known may be right any more, and nobody could be heard until now.
    pub(super) fn doubt(&mut self, now: u64) {
        for peer in self.0.values_mut() {
            (peer.known, peer.heard) = (false, now);
            peer.waiting.clear();
        }
    }

    /// Who does not answer is taken as far as it is known.
    pub(super) fn settle(&mut self) {
        for peer in self.0.values_mut().filter(|peer| !peer.known) {
            (peer.known, peer.seq) = (true, peer.said);
            peer.waiting.clear();
        }
    }

    /// Those of whom nothing is missing.
    pub(super) fn known(&self) -> Nodes {
        self.0.iter().filter(|(_, peer)| peer.known).map(|(node, _)| *node).collect()
    }

    /// Whether this one is among the others and something of it is missing.
    pub(super) fn is_doubtful(&self) -> bool {
        self.0.values().any(|peer| !peer.known)
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    /// Takes out who is not on the roll.
    pub(super) fn lost(&mut self, roll: &Nodes, now: u64) -> Vec<NodeId> {
        let is_lost = |node: &NodeId, peer: &Peer| !roll.contains(node) && peer.heard + ARRIVING < now;
        let lost: Vec<_> = self.0.iter().filter(|(node, peer)| is_lost(node, peer)).map(|(node, _)| *node).collect();
        lost.iter().for_each(|node| self.remove(*node));
        lost
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one that has run for the longest.
    pub(super) fn first(&self) -> Option<NodeId> {
        self.0.keys().next().copied()
    }

    /// The same among those that know all, but for one.
    pub(super) fn first_synced_but(&self, but: NodeId) -> Option<NodeId> {
        self.0.iter().find(|(node, peer)| peer.synced && **node != but).map(|(node, _)| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(node: NodeId) -> Peers {
        let mut peers = Peers::default();
        assert!(peers.meet(node, true, 0));
        peers
    }

    fn answer(node: NodeId, page: usize, pages: usize, seq: u64) -> Answer {
        let (users, told, subject) = (Vec::new(), Vec::new(), "p".into());
        Answer { node, subject, question: 1, page, pages, seq, behind: 0, whole: true, users, told }
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
        assert!(peers.page(answer(node, 1, 2, 2)).is_none());
        let answered = peers.page(answer(node, 0, 2, 2)).expect("both pages");
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
