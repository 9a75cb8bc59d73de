//! Second readings of rules that the program has read once already. Simple and slow, and written from the rules alone.

pub mod address;
pub mod answer;
pub mod event_stream;
pub mod json;
pub mod percent;
pub mod subjects;
