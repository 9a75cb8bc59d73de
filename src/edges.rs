//! Children of tree nodes by subject token: the one hash map behind [`crate::interest`] and the log's subject index.
//!
//! Nodes are numbers that the trees give out; looking a child up allocates nothing.

use std::hash::{Hash, Hasher};

use compact_str::CompactString;
use hashbrown::{Equivalent, HashMap};

/// From a node and a token to a child.
#[derive(Debug, Default)]
pub struct Edges(HashMap<Edge, u32>);

#[derive(Debug, PartialEq, Eq)]
struct Edge {
    parent: u32,
    /// Up to 24 bytes stand in the entry itself: a look-up that finds its entry does not go on to another place in memory.
    token: CompactString,
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        EdgeRef { parent: self.parent, token: &self.token }.hash(state);
    }
}

#[derive(Hash)]
struct EdgeRef<'t> {
    parent: u32,
    token: &'t str,
}

impl Equivalent<Edge> for EdgeRef<'_> {
    fn equivalent(&self, edge: &Edge) -> bool {
        self.parent == edge.parent && *self.token == *edge.token
    }
}

impl Edges {
    /// The child behind a token.
    pub fn child(&self, parent: u32, token: &str) -> Option<u32> {
        self.0.get(&EdgeRef { parent, token }).copied()
    }

    /// Adds a child; the place must be free.
    pub fn insert(&mut self, parent: u32, token: &str, child: u32) {
        self.0.insert(Edge { parent, token: token.into() }, child);
    }

    /// Takes a child out.
    pub fn remove(&mut self, parent: u32, token: &str) {
        self.0.remove(&EdgeRef { parent, token });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
