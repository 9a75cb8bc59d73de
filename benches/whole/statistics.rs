//! Medians and tails.

/// A value below which this share of the values lies, between two of them where need be; the values need no order.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1).expect("at least one value");
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The middle.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// `median (lower quartile-upper quartile)`.
pub fn spread(values: &[f64]) -> String {
    format!("{:.2} ({:.2}-{:.2})", median(values), quantile(values, 0.25), quantile(values, 0.75))
}

/// Each value beside the one of the same round.
pub fn ratios(values: &[f64], floor: &[f64]) -> Vec<f64> {
    values.iter().zip(floor).map(|(value, floor)| value / floor).collect()
}

/// `p50 / p99 / max` in milliseconds.
pub fn tail(milliseconds: &[f64]) -> String {
    let at = |share| quantile(milliseconds, share);
    format!("{:.2} / {:.2} / {:.2}", at(0.5), at(0.99), at(1.0))
}

/// Buckets for one power of two: figures are right to 3 %.
const STEPS: usize = 32;

/// How often each latency was seen, in bounded memory.
pub struct Latencies {
    buckets: Vec<u64>,
    max: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; 64 * STEPS], max: 0 }
    }
}

impl Latencies {
    /// Counts one, in nanoseconds.
    pub fn add(&mut self, latency: u64) {
        let latency = latency.max(STEPS as u64);
        let power = latency.ilog2() as usize;
        let step = (latency >> (power - STEPS.ilog2() as usize)) as usize - STEPS;
        self.buckets[power * STEPS + step] += 1;
        self.max = self.max.max(latency);
    }

    /// A latency above which no more than this share of a thousand lies, in nanoseconds.
    pub fn permille(&self, share: u64) -> u64 {
        let all: u64 = self.buckets.iter().sum();
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen * 1000 >= all * share
        });
        let Some(bucket) = bucket else { return 0 };
        let (power, step) = (bucket / STEPS, bucket % STEPS);
        ((STEPS + step) as u64) << power.saturating_sub(STEPS.ilog2() as usize)
    }

    /// The longest.
    pub fn max(&self) -> u64 {
        self.max
    }
}
