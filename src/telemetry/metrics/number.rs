//! A number that one thread writes and any may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts. Relaxed, and no read-modify-write: only the thread that owns it writes.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds; only from the thread that owns it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts; only from the thread that owns it.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The same for a number with a fraction.
#[derive(Debug, Default)]
pub struct Fraction(Number);

impl Fraction {
    /// Adds; only from the thread that owns it.
    pub fn add(&self, n: f64) {
        self.set(self.get() + n);
    }

    /// Sets.
    pub fn set(&self, n: f64) {
        self.0.set(n.to_bits());
    }

    /// Reads.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.get())
    }
}
