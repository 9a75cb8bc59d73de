//! How values are spread: a fixed row of counters, written by one thread.
//!
//! Each bound is one more series for every set of labels, so there are as few as an alert or a graph can do with.

use std::time::Duration;

use super::number::{Fraction, Number};

/// Seconds that an event stream lasts.
pub const DURATION: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
/// Seconds until something answers.
pub const ANSWER: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5];
/// Seconds from one of our ends to the other.
pub const DELIVERY: &[f64] = &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0, 10.0];
/// Seconds from the publisher's server to a socket.
pub const PUBLISHED: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0];
/// Seconds that a resuming client's last event is old.
pub const AGE: &[f64] = &[1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0];
/// Bytes that wait for one client.
pub const QUEUE: &[f64] = &[0.0, 4096.0, 16_384.0, 65_536.0, 131_072.0, 524_288.0];

/// Values by the bound they do not pass.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what passes all of them.
    counts: Box<[Number]>,
    sum: Fraction,
}

impl Histogram {
    /// No value yet. `bounds` rise.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Number::default()).collect();
        Self { bounds, counts, sum: Fraction::default() }
    }

    /// Takes a value; only from the thread that owns it.
    pub fn observe(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place].add(1);
        self.sum.add(value);
    }

    /// Takes a time, in seconds; only from the thread that owns it.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }
}

/// The values of several histograms with the same bounds, as they stand now.
#[derive(Debug, Default, PartialEq)]
pub struct Sum {
    /// For each bound how many values do not pass it.
    pub buckets: Vec<(f64, u64)>,
    /// How many values there are.
    pub count: u64,
    /// All of them added up.
    pub sum: f64,
}

impl Sum {
    /// Adds up. The count is that of the buckets, so that both fit while others write.
    pub fn of<'h>(histograms: impl Iterator<Item = &'h Histogram>) -> Self {
        let mut all = Self::default();
        for histogram in histograms {
            if all.buckets.is_empty() {
                all.buckets = histogram.bounds.iter().map(|bound| (*bound, 0)).collect();
            }
            let mut below = 0;
            for ((_, sum), count) in all.buckets.iter_mut().zip(&histogram.counts) {
                below += count.get();
                *sum += below;
            }
            all.count += below + histogram.counts.last().map_or(0, Number::get);
            all.sum += histogram.sum.get();
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_every_bucket_that_it_does_not_pass() {
        let (one, other) = (Histogram::new(&[1.0, 2.0]), Histogram::new(&[1.0, 2.0]));
        for value in [0.5, 1.0, 1.5] {
            one.observe(value);
        }
        other.observe_time(Duration::from_secs(4));
        let sum = Sum::of([&one, &other].into_iter());
        assert_eq!(sum, Sum { buckets: vec![(1.0, 2), (2.0, 3)], count: 4, sum: 7.0 });
    }
}
