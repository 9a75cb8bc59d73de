//! What operators see: logs and metrics.

pub mod access;
pub mod log;
pub mod metrics;
