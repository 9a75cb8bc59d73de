//! Bytes of an input as the choices and texts that a target is made of.

/// An input that is read from its beginning. Past its end everything is zero or empty.
pub struct Input<'d>(&'d [u8]);

impl<'d> Input<'d> {
    pub fn new(data: &'d [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of so many, by one byte.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub fn choose<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    /// The next bytes, as many as there are.
    pub fn take(&mut self, length: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Up to a line feed, which is left out.
    pub fn line(&mut self) -> &'d [u8] {
        let end = self.0.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.unwrap_or(usize::MAX));
        self.take(1);
        line
    }

    /// The same as text; empty where it is none.
    pub fn text_line(&mut self) -> &'d str {
        std::str::from_utf8(self.line()).unwrap_or_default()
    }

    /// What is left.
    pub fn rest(&mut self) -> &'d [u8] {
        self.take(usize::MAX)
    }
}
