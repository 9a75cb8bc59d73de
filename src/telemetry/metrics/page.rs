//! Numbers as Prometheus text: the numbers are ours, the format is the library's.

use prometheus::TextEncoder;
use prometheus::proto::{self, Bucket, LabelPair, MetricFamily, MetricType};

use super::histogram::{Histogram, Sum};
use super::names::{Kind, Metric};

/// A page in the making. Each metric's samples stand together, in the order in which metrics are first given.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<MetricFamily>);

impl Page {
    /// One sample of a counter or a gauge. `labels` are values, in the order of the metric's own.
    pub(super) fn number(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let mut sample = sample(metric, labels);
        if metric.kind == Kind::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.put(metric, sample);
    }

    /// The same for a whole number.
    pub(super) fn count(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        self.number(metric, labels, value as f64);
    }

    /// Histograms with the same bounds, added up.
    pub(super) fn histogram<'h>(
        &mut self,
        metric: &Metric,
        labels: &[&str],
        histograms: impl Iterator<Item = &'h Histogram>,
    ) {
        let Sum { buckets, count, sum } = Sum::of(histograms);
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.into_iter().map(bucket).collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let mut sample = sample(metric, labels);
        sample.set_histogram(histogram);
        self.put(metric, sample);
    }

    /// The page as text.
    pub(super) fn text(&self) -> String {
        // Only families without samples are refused, and there are none.
        TextEncoder::new().encode_to_string(&self.0).unwrap_or_default()
    }

    fn put(&mut self, metric: &Metric, sample: proto::Metric) {
        let place = self.0.iter().rposition(|family| family.name() == metric.name).unwrap_or_else(|| {
            self.0.push(family(metric));
            self.0.len() - 1
        });
        self.0[place].mut_metric().push(sample);
    }
}

fn family(metric: &Metric) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family
}

fn sample(metric: &Metric, labels: &[&str]) -> proto::Metric {
    debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    proto::Metric::from_label(metric.labels.iter().zip(labels).map(pair).collect())
}
