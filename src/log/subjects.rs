//! Which entries of a log have which subject: what makes a resume cost its own matches and not the whole log.
//!
//! Subjects that occur are interned, each with the list of its entries, in a tree by token that patterns are walked
//! through. It is [`crate::interest`] turned around: there patterns are kept and a subject is looked up.

use std::collections::VecDeque;

use slab::Slab;

use crate::edges::Edges;
use crate::subject::{Pattern, split_first_token};

/// An interned subject, valid while an entry has it.
pub(super) type SubjectId = u32;

/// Subjects and their entries.
#[derive(Debug)]
pub(super) struct Subjects {
    nodes: Slab<Node>,
    edges: Edges,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    token: Box<str>,
    children: Vec<u32>,
    /// Place among the parent's children.
    place: usize,
    /// Numbers of the entries whose subject ends here, rising.
    entries: VecDeque<u64>,
}

const ROOT: u32 = 0;

impl Default for Subjects {
    fn default() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(ROOT, ""));
        Self { nodes, edges: Edges::default() }
    }
}

impl Node {
    fn new(parent: u32, token: &str) -> Self {
        Self { parent, token: token.into(), children: Vec::new(), place: 0, entries: VecDeque::new() }
    }
}

impl Subjects {
    /// Tokens in the tree; what subjects share counts once.
    pub(super) fn tokens(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Notes an entry. Numbers rise from call to call. Gives the subject's id.
    pub(super) fn push(&mut self, subject: &str, entry: u64) -> SubjectId {
        let (mut at, mut rest) = (ROOT, Some(subject));
        while let Some(subject) = rest {
            let token;
            (token, rest) = split_first_token(subject);
            at = self.child_or_insert(at, token);
        }
        self.nodes[at as usize].entries.push_back(entry);
        at
    }

    /// Forgets the oldest entry of a subject.
    pub(super) fn pop(&mut self, id: SubjectId) {
        let entries = &mut self.nodes[id as usize].entries;
        entries.pop_front();
        if !entries.is_empty() {
            // A burst on one subject is not paid for ever after.
            if entries.len() * 4 < entries.capacity() {
                entries.shrink_to(entries.len() * 2);
            }
            return;
        }
        entries.shrink_to_fit();
        self.prune(id);
    }

    /// Every subject that one of the patterns matches, each once, and the empty one, which concerns everyone.
    pub(super) fn matching(&self, patterns: &[Pattern]) -> Vec<SubjectId> {
        let mut found = Vec::from_iter(self.edges.child(ROOT, ""));
        for pattern in patterns {
            self.walk(ROOT, Some(pattern.as_str()), &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The entries of a subject at or after a number, oldest first.
    pub(super) fn entries_from(&self, id: SubjectId, number: u64) -> impl Iterator<Item = u64> {
        let entries = &self.nodes[id as usize].entries;
        let start = entries.partition_point(|entry| *entry < number);
        entries.range(start..).copied()
    }

    /// Above every id in use.
    pub(super) fn ids_end(&self) -> usize {
        self.nodes.capacity().max(self.nodes.len())
    }

    fn walk(&self, at: u32, pattern: Option<&str>, found: &mut Vec<SubjectId>) {
        let node = &self.nodes[at as usize];
        let Some(pattern) = pattern else {
            if !node.entries.is_empty() {
                found.push(at);
            }
            return;
        };
        let (token, rest) = split_first_token(pattern);
        match token {
            ">" => node.children.iter().for_each(|child| self.collect(*child, found)),
            "*" => node.children.iter().for_each(|child| self.walk(*child, rest, found)),
            literal => {
                if let Some(child) = self.edges.child(at, literal) {
                    self.walk(child, rest, found);
                }
            }
        }
    }

    fn collect(&self, at: u32, found: &mut Vec<SubjectId>) {
        let node = &self.nodes[at as usize];
        if !node.entries.is_empty() {
            found.push(at);
        }
        node.children.iter().for_each(|child| self.collect(*child, found));
    }

    fn child_or_insert(&mut self, parent: u32, token: &str) -> u32 {
        if let Some(child) = self.edges.child(parent, token) {
            return child;
        }
        let child = u32::try_from(self.nodes.insert(Node::new(parent, token))).expect("fewer than 2^32 subjects");
        let siblings = &mut self.nodes[parent as usize].children;
        siblings.push(child);
        let place = siblings.len() - 1;
        self.nodes[child as usize].place = place;
        self.edges.insert(parent, token, child);
        child
    }

    /// Frees nodes that lead nowhere any more.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let node = &self.nodes[at as usize];
            if !node.entries.is_empty() || !node.children.is_empty() {
                return;
            }
            let node = self.nodes.remove(at as usize);
            self.edges.remove(node.parent, &node.token);
            let siblings = &mut self.nodes[node.parent as usize].children;
            siblings.swap_remove(node.place);
            if let Some(moved) = siblings.get(node.place).copied() {
                self.nodes[moved as usize].place = node.place;
            }
            at = node.parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_what_they_match_and_nothing_is_left_behind() {
        let mut subjects = Subjects::default();
        let names = ["e.user.a.x", "e.user.b.x", "e.user.a.y", "e.all", "e", "e.user.a"];
        let ids: Vec<_> = names.iter().zip(0..).map(|(name, number)| subjects.push(name, number)).collect();
        for text in ["e.user.a.>", "e.>", "e.*", ">", "e.*.a.x", "e.user.*.x", "x.>", "e", "*"] {
            let pattern = Pattern::parse(text).expect(text);
            let mut expected: Vec<_> =
                names.iter().zip(&ids).filter(|(name, _)| pattern.matches(name)).map(|(_, id)| *id).collect();
            expected.sort_unstable();
            assert_eq!(subjects.matching(&[pattern]), expected, "{text}");
        }
        subjects.push("e.all", 9);
        assert_eq!(subjects.entries_from(ids[3], 4).collect::<Vec<_>>(), [9]);
        subjects.pop(ids[3]);
        subjects.pop(ids[3]);
        for (place, id) in ids.iter().enumerate() {
            if place != 3 {
                subjects.pop(*id);
            }
        }
        assert_eq!((subjects.nodes.len(), subjects.edges.len()), (1, 0));
    }
}
