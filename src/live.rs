//! A value that is replaced while others use it: whoever asked before keeps what it got, whoever asks after gets the new one.
//!
//! For things asked once per connection or request, never per event. What is in it, and who may replace it, is its owner's business.

use std::sync::{Arc, PoisonError, RwLock};

/// The value in force.
#[derive(Debug)]
pub struct Live<T>(RwLock<Arc<T>>);

impl<T> Live<T> {
    /// In force from the start.
    pub fn new(value: impl Into<Arc<T>>) -> Self {
        Self(RwLock::new(value.into()))
    }

    /// What is in force now.
    pub fn get(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another in force.
    pub fn set(&self, value: impl Into<Arc<T>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value.into();
    }
}
