//! Bytes that wait, which take nothing but a pointer while there are none.

use std::ops::{Deref, DerefMut};

use bytes::{Buf, BytesMut};

/// A queue of bytes that is empty most of the time. Its bound is its owner's business.
#[derive(Debug, Default)]
pub(super) struct Waiting(Option<Box<BytesMut>>);

impl Waiting {
    /// Puts bytes behind what waits.
    pub fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.get_or_insert_default().extend_from_slice(bytes);
        }
    }

    /// Puts so many zeros behind what waits, and gives them to be written.
    pub fn append_zeros(&mut self, bytes: usize) -> &mut [u8] {
        let waiting = self.0.get_or_insert_default();
        let before = waiting.len();
        waiting.resize(before + bytes, 0);
        &mut waiting[before..]
    }

    /// Takes the first so many away; the last ones take the buffer with them.
    pub fn consume(&mut self, bytes: usize) {
        if let Some(waiting) = &mut self.0 {
            waiting.advance(bytes);
            if waiting.is_empty() {
                self.0 = None;
            }
        }
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| size_of::<BytesMut>() + waiting.capacity())
    }
}

impl Deref for Waiting {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().map_or(&[], |waiting| waiting)
    }
}

impl DerefMut for Waiting {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().map_or(&mut [], |waiting| waiting)
    }
}
