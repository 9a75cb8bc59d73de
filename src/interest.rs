//! Who listens to what: a map from subject patterns to values, matched against concrete subjects.
//!
//! The feed keeps one to learn which shards want a message, each shard keeps one to learn which clients do. Matching costs
//! one hash look-up per token and wildcard branch, whatever the number of patterns. It holds no payloads and knows no
//! clients. Dispatch through it *is* the authorization check of every message: a client's patterns are its grant, and
//! only the subject on the wire is matched.

use slab::Slab;

use crate::edges::Edges;
use crate::subject::{Pattern, split_first_token};

/// A place in the map that a pattern leads to. Stays valid until [`Interest::remove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaf(u32);

/// Patterns with a value each.
#[derive(Debug)]
pub struct Interest<V> {
    nodes: Slab<Node<V>>,
    /// Literal children; wildcard children stand in the node itself.
    edges: Edges,
}

#[derive(Debug)]
struct Node<V> {
    parent: u32,
    /// The token that leads here from the parent.
    token: Box<str>,
    /// Child behind `*`.
    star: Option<u32>,
    /// Child behind `>`.
    full: Option<u32>,
    literal_children: u32,
    value: Option<V>,
}

const ROOT: u32 = 0;

impl<V> Default for Interest<V> {
    fn default() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(ROOT, ""));
        Self { nodes, edges: Edges::default() }
    }
}

impl<V> Node<V> {
    fn new(parent: u32, token: &str) -> Self {
        Self { parent, token: token.into(), star: None, full: None, literal_children: 0, value: None }
    }

    fn is_bare(&self) -> bool {
        self.value.is_none() && self.star.is_none() && self.full.is_none() && self.literal_children == 0
    }
}

impl<V> Interest<V> {
    /// The leaf of a pattern, made with `value` if the pattern is new.
    pub fn leaf_or_insert_with(&mut self, pattern: &Pattern, value: impl FnOnce() -> V) -> Leaf {
        let mut at = ROOT;
        for token in pattern.tokens() {
            at = self.child_or_insert(at, token);
        }
        self.node_mut(at).value.get_or_insert_with(value);
        Leaf(at)
    }

    /// The leaf of a pattern, if it has one.
    pub fn leaf(&self, pattern: &Pattern) -> Option<Leaf> {
        let mut at = ROOT;
        for token in pattern.tokens() {
            at = match token {
                "*" => self.node(at).star?,
                ">" => self.node(at).full?,
                literal => self.edges.child(at, literal)?,
            };
        }
        self.node(at).value.is_some().then_some(Leaf(at))
    }

    /// The value at a leaf.
    pub fn value_mut(&mut self, leaf: Leaf) -> &mut V {
        self.node_mut(leaf.0).value.as_mut().expect("a leaf has a value until it is removed")
    }

    /// Takes a leaf out and frees every node that then leads nowhere.
    pub fn remove(&mut self, leaf: Leaf) -> Option<V> {
        let value = self.node_mut(leaf.0).value.take();
        let mut at = leaf.0;
        while at != ROOT && self.node(at).is_bare() {
            let node = self.nodes.remove(at as usize);
            let parent = self.node_mut(node.parent);
            match &*node.token {
                "*" => parent.star = None,
                ">" => parent.full = None,
                literal => {
                    parent.literal_children -= 1;
                    self.edges.remove(node.parent, literal);
                }
            }
            at = node.parent;
        }
        value
    }

    /// Calls `visit` with the value of every pattern that matches a concrete subject.
    pub fn for_each_match(&self, subject: &str, mut visit: impl FnMut(&V)) {
        self.walk(ROOT, Some(subject), &mut visit);
    }

    /// Nodes in use, the root included: back at 1 when nobody listens.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn walk(&self, at: u32, rest: Option<&str>, visit: &mut impl FnMut(&V)) {
        let node = self.node(at);
        let Some(rest) = rest else {
            if let Some(value) = &node.value {
                visit(value);
            }
            return;
        };
        let (token, rest) = split_first_token(rest);
        if let Some(value) = node.full.and_then(|full| self.node(full).value.as_ref()) {
            visit(value);
        }
        if let Some(star) = node.star {
            self.walk(star, rest, visit);
        }
        if node.literal_children > 0
            && let Some(child) = self.edges.child(at, token)
        {
            self.walk(child, rest, visit);
        }
    }

    fn child_or_insert(&mut self, parent: u32, token: &str) -> u32 {
        let existing = match token {
            "*" => self.node(parent).star,
            ">" => self.node(parent).full,
            literal => self.edges.child(parent, literal),
        };
        if let Some(child) = existing {
            return child;
        }
        let child = u32::try_from(self.nodes.insert(Node::new(parent, token))).expect("fewer than 2^32 nodes");
        match token {
            "*" => self.node_mut(parent).star = Some(child),
            ">" => self.node_mut(parent).full = Some(child),
            literal => {
                self.node_mut(parent).literal_children += 1;
                self.edges.insert(parent, literal, child);
            }
        }
        child
    }

    fn node(&self, at: u32) -> &Node<V> {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node<V> {
        &mut self.nodes[at as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect(text)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn agrees_with_matching_one_by_one(
            patterns in proptest::collection::btree_set("(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?", 0..12),
            removed in any::<u16>(),
            subject in "(a|b|c)(\\.(a|b|c)){0,3}",
        ) {
            let mut interest = Interest::default();
            let leaves: Vec<_> = patterns.iter().map(|p| interest.leaf_or_insert_with(&pattern(p), || p.clone())).collect();
            let mut kept = Vec::new();
            for (index, (text, leaf)) in patterns.iter().zip(&leaves).enumerate() {
                if removed >> (index % 16) & 1 == 1 {
                    prop_assert_eq!(interest.remove(*leaf), Some(text.clone()));
                    prop_assert_eq!(interest.leaf(&pattern(text)), None);
                } else {
                    kept.push((text.clone(), *leaf));
                }
            }
            let mut found = Vec::new();
            interest.for_each_match(&subject, |text| found.push(text.clone()));
            found.sort();
            let expected: Vec<_> = kept.iter().map(|(t, _)| t.clone()).filter(|p| pattern(p).matches(&subject)).collect();
            prop_assert_eq!(found, expected);
            for (text, leaf) in kept {
                prop_assert_eq!(interest.leaf(&pattern(&text)), Some(leaf));
                interest.remove(leaf);
            }
            prop_assert_eq!(interest.nodes(), 1);
        }
    }
}
