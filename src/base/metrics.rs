//! Counters and gauges without locks, and their Prometheus text (exposition format 0.0.4).
//!
//! The metrics themselves stand in one table: [`crate::base::figures`].

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    #[must_use]
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Zero.
    #[must_use]
    pub const fn new() -> Gauge {
        Gauge(AtomicI64::new(0))
    }

    /// Adds `amount`, which may be negative.
    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Sets the number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds one until the returned value is dropped.
    #[must_use]
    pub fn hold(&'static self) -> Held {
        self.add(1);
        Held(self)
    }
}

/// One added to a gauge, taken back on drop.
#[derive(Debug)]
pub struct Held(&'static Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// One time series of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Series {
    /// A counter with its labels, such as `source="peer"`; no labels: the empty string.
    Counter(&'static str, &'static Counter),
    /// A gauge with its labels.
    Gauge(&'static str, &'static Gauge),
}

/// One metric: its name, what it means, its series.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Full name with the `torrent_cache_` prefix and the unit.
    pub name: &'static str,
    /// One sentence for `# HELP` and the table of `docs/reference.md`.
    pub help: &'static str,
    /// Its series; all of one kind.
    pub series: &'static [Series],
}

/// The Prometheus text of `metrics`.
#[must_use]
pub fn render(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for metric in metrics {
        let kind = match metric.series.first() {
            Some(Series::Gauge(..)) => "gauge",
            _ => "counter",
        };
        let name = metric.name;
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", metric.help);
        for series in metric.series {
            let (labels, value) = match series {
                Series::Counter(labels, counter) => (*labels, counter.value().to_string()),
                Series::Gauge(labels, gauge) => (*labels, gauge.value().to_string()),
            };
            let _ = if labels.is_empty() {
                writeln!(text, "{name} {value}")
            } else {
                writeln!(text, "{name}{{{labels}}} {value}")
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_help_type_and_series() {
        static BYTES: Counter = Counter::new();
        static OPEN: Gauge = Gauge::new();
        BYTES.add(7);
        let _held = OPEN.hold();
        let text = render(METRICS);
        const METRICS: &[Metric] = &[
            Metric {
                name: "x_bytes_total",
                help: "Bytes.",
                series: &[Series::Counter("source=\"peer\"", &BYTES)],
            },
            Metric { name: "x_open", help: "Open.", series: &[Series::Gauge("", &OPEN)] },
        ];
        assert_eq!(
            text,
            "# HELP x_bytes_total Bytes.\n# TYPE x_bytes_total counter\n\
             x_bytes_total{source=\"peer\"} 7\n\
             # HELP x_open Open.\n# TYPE x_open gauge\nx_open 1\n"
        );
    }
}
