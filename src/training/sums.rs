//! Means over the rows of an epoch, gathered batch by batch.

use serde::{Deserialize, Serialize};

use crate::domain::metric::Metric;

/// Sums over batches, each weighted by its rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    rows: f64,
    steps: f64,
    total: f64,
    parts: Vec<(String, f64)>,
    gradient_norm: f64,
}

impl Sums {
    /// Adds the mean losses of a batch of `rows`.
    pub fn add(&mut self, rows: usize, total: f64, parts: &[(&'static str, f64)], gradient_norm: f64) {
        let weight = rows as f64;
        self.rows += weight;
        self.steps += 1.0;
        self.total += weight * total;
        self.gradient_norm += gradient_norm;
        if self.parts.is_empty() {
            self.parts = parts.iter().map(|(name, _)| ((*name).to_owned(), 0.0)).collect();
        }
        for ((_, sum), (_, value)) in self.parts.iter_mut().zip(parts) {
            *sum += weight * value;
        }
    }

    /// The mean loss; `None` before the first batch.
    pub fn loss(&self) -> Option<f64> {
        (self.rows > 0.0).then(|| self.total / self.rows)
    }

    /// The means as metrics of a phase: `train/loss`, `train/kl` …
    pub fn metrics(&self, phase: &str) -> Vec<Metric> {
        let Some(loss) = self.loss() else { return Vec::new() };
        std::iter::once(("loss", loss))
            .chain(self.parts.iter().map(|(name, sum)| (name.as_str(), sum / self.rows)))
            .filter_map(|(name, value)| Metric::finite(format!("{phase}/{name}"), value))
            .collect()
    }

    /// The mean norm of the gradients before clipping.
    pub fn gradient_norm(&self) -> Option<Metric> {
        (self.steps > 0.0).then(|| Metric::finite("train/gradient_norm", self.gradient_norm / self.steps)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_count_by_their_rows() {
        let mut sums = Sums::default();
        assert_eq!(sums.loss(), None);
        sums.add(3, 1.0, &[("kl", 2.0)], 1.0);
        sums.add(1, 5.0, &[("kl", 6.0)], 3.0);
        let metrics = sums.metrics("train");
        assert_eq!(
            metrics,
            [Metric { name: "train/loss".into(), value: 2.0 }, Metric { name: "train/kl".into(), value: 3.0 }]
        );
        assert_eq!(sums.gradient_norm().unwrap().value, 2.0);
    }
}
