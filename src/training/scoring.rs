//! How strange rows are to a model, and how strange that is.
//!
//! A row's measure is -log p(x given its code), which every family has, or -log p(x), which some have: nats of prepared
//! values, larger for stranger rows. When training ends both are taken of rows that were held out, and their quantiles are
//! kept in the model file, so that a measure becomes a probability: the share of ordinary rows that are less strange.
//!
//! Start reading with [`Calibration`] and [`Scores`].

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use crate::data::quantiles::quantile;
use crate::models::Network;
use crate::models::importance::Estimates;
use crate::models::noise::Noise;
use crate::models::parameters::values;

/// Draws for a row's log p(x) where nothing else is said.
pub const SCORE_SAMPLES: u32 = 64;
/// Quantiles that are kept of a measure, both ends among them.
const QUANTILES: usize = 201;
/// Rows that a calibration looks at.
pub(super) const CALIBRATION_ROWS: usize = 1_024;

/// What a row is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// -log p(x given the code of x): what going through the code loses.
    #[default]
    Reconstruction,
    /// -log p(x) by importance samples, of families that have a density.
    LogLikelihood,
}

/// Measures of held-out rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// How many rows they were.
    pub rows: u32,
    /// Whether they were held out. Otherwise the model has trained on them, and new rows look somewhat stranger than they are.
    pub held_out: bool,
    /// Quantiles of -log p(x given code), evenly spaced from the least to the most.
    pub reconstruction: Vec<f32>,
    /// The same of -log p(x), with [`SCORE_SAMPLES`] draws, where the family has a density.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_likelihood: Option<Vec<f32>>,
}

impl Calibration {
    /// From prepared rows, given piece by piece. `None` where a measure is not finite.
    pub(super) fn of(
        network: &dyn Network,
        pieces: impl Iterator<Item = Tensor>,
        held_out: bool,
        noise: impl Fn(u64) -> Noise,
    ) -> Option<Self> {
        let _guard = tch::no_grad_guard();
        let (mut reconstruction, mut log_likelihood) = (Vec::new(), Some(Vec::new()));
        for (index, x) in pieces.enumerate() {
            reconstruction.extend(values(&sum_of_rows(&reconstructed(network, &x).0)));
            let weights = network.log_weights(&x, SCORE_SAMPLES, &noise(index as u64));
            log_likelihood = log_likelihood.zip(weights).map(|(mut all, weights)| {
                all.extend(Estimates::of(&weights).log_likelihood.iter().map(|nats| -nats));
                all
            });
        }
        let rows = reconstruction.len() as u32;
        let log_likelihood = match log_likelihood {
            Some(measures) => Some(quantiles(measures)?),
            None => None,
        };
        Some(Self { rows, held_out, reconstruction: quantiles(reconstruction)?, log_likelihood })
    }

    /// The share of ordinary rows that are less strange than one of this measure: above 0 and below 1, because a finite number of
    /// rows tells no more. `None` where the measure was not calibrated.
    pub fn probability(&self, measure: Measure, value: f32) -> Option<f32> {
        let known = self.known(measure)?;
        let last = (known.len() - 1) as f32;
        let below = known.partition_point(|quantile| *quantile < value);
        let share = match below {
            0 => 0.0,
            _ if below == known.len() => 1.0,
            _ => {
                let (low, high) = (known[below - 1], known[below]);
                let within = if high > low { (value - low) / (high - low) } else { 1.0 };
                ((below - 1) as f32 + within) / last
            }
        };
        let rows = self.rows as f32;
        Some((share * rows + 0.5) / (rows + 1.0))
    }

    /// The measure that this share of ordinary rows lies below.
    pub fn value(&self, measure: Measure, share: f32) -> Option<f32> {
        let known = self.known(measure)?;
        Some(quantile(known, f64::from(share)) as f32)
    }

    fn known(&self, measure: Measure) -> Option<&[f32]> {
        match measure {
            Measure::Reconstruction => Some(&self.reconstruction),
            Measure::LogLikelihood => self.log_likelihood.as_deref(),
        }
    }
}

/// Evenly spaced quantiles, both ends among them. `None` when there are no values, or one is not finite.
fn quantiles(mut values: Vec<f32>) -> Option<Vec<f32>> {
    if values.is_empty() || !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    values.sort_unstable_by(f32::total_cmp);
    let count = QUANTILES.min(values.len().max(2));
    let at = |number: usize| quantile(&values, number as f64 / (count - 1) as f64) as f32;
    Some((0..count).map(at).collect())
}

/// What is found of rows; each has one number a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// -log p(x given its code), in nats of prepared values; what is missing counts nothing.
    pub reconstruction: Vec<f32>,
    /// The mean squared error of what came back, over prepared numbers.
    pub errors: Vec<f32>,
    /// The share of each column in that, `[rows, columns]`, where it was asked for.
    pub contributions: Option<Vec<f32>>,
    /// What importance samples say, where they were asked for.
    pub density: Option<Estimates>,
}

/// What a network makes of prepared rows, both `[rows, width]`: -log p(x given its code) of each number, and what came back.
pub(super) fn reconstructed(network: &dyn Network, x: &Tensor) -> (Tensor, Tensor) {
    let output = network.outputs(&network.encode(x).mean);
    let likelihood = network.likelihood();
    (likelihood.negative_log_each(&output, x), likelihood.mean(&output))
}

/// The sum of each row: `[rows, width]` to `[rows]`.
pub(super) fn sum_of_rows(x: &Tensor) -> Tensor {
    x.sum_dim_intlist([-1].as_slice(), false, Kind::Float)
}

/// The mean squared error of each row `[rows, width]`, of which missing values do not count: `[rows]`.
pub(super) fn squared_errors(x: &Tensor, restored: &Tensor) -> Tensor {
    let missing = x.isnan();
    let squares = (restored - x).square().masked_fill(&missing, 0.0);
    sum_of_rows(&squares) / sum_of_rows(&missing.logical_not()).clamp_min(1.0)
}

impl Scores {
    /// Of prepared rows `[rows, width]`, whose columns have `slots` numbers each. `None` where densities are asked for and the
    /// family has none.
    pub(super) fn of(
        network: &dyn Network,
        x: &Tensor,
        slots: Option<&[usize]>,
        density: Option<(u32, &Noise)>,
    ) -> Option<Self> {
        let (nats, restored) = reconstructed(network, x);
        let contributions = slots.map(|slots| {
            let of_row = |row: &[f32]| -> Vec<f32> {
                let mut rest = row.iter();
                slots.iter().map(|slots| rest.by_ref().take(*slots).sum()).collect()
            };
            values(&nats).chunks_exact(slots.iter().sum::<usize>().max(1)).flat_map(of_row).collect()
        });
        let density = match density {
            Some((samples, noise)) => Some(Estimates::of(&network.log_weights(x, samples, noise)?)),
            None => None,
        };
        let (reconstruction, errors) = (values(&sum_of_rows(&nats)), values(&squared_errors(x, &restored)));
        Some(Self { reconstruction, errors, contributions, density })
    }

    /// Adds what was found of the first `count` of other rows, without a density.
    pub(super) fn append(&mut self, other: &Self, count: usize) {
        let all = other.errors.len().max(1);
        self.reconstruction.extend(&other.reconstruction[..count]);
        self.errors.extend(&other.errors[..count]);
        if let Some(shares) = &other.contributions {
            self.contributions.get_or_insert_default().extend(&shares[..shares.len() / all * count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(measures: &[f32]) -> Calibration {
        let reconstruction = quantiles(measures.to_vec()).unwrap();
        Calibration { rows: measures.len() as u32, held_out: true, reconstruction, log_likelihood: None }
    }

    #[test]
    fn a_measure_becomes_the_share_of_rows_below_it() {
        let measures: Vec<f32> = (0..1000).rev().map(|number| number as f32).collect();
        let known = calibration(&measures);
        let of = |value: f32| known.probability(Measure::Reconstruction, value).unwrap();
        for (value, share) in [(250.0, 0.25), (500.0, 0.5), (990.0, 0.99)] {
            assert!((of(value) - share).abs() < 0.003, "{value}: {}", of(value));
        }
        // Beyond what was seen a thousand rows say no more than that it is rarer than one in a thousand.
        assert!(of(5000.0) > 0.999 && of(5000.0) < 1.0 && of(-1.0) > 0.0 && of(-1.0) < 0.001);
        let back = known.value(Measure::Reconstruction, 0.9).unwrap();
        assert!((of(back) - 0.9).abs() < 0.002, "{back}");
        assert_eq!(known.probability(Measure::LogLikelihood, 1.0), None);
    }

    #[test]
    fn few_rows_and_equal_rows_are_enough_for_a_calibration() {
        let one = calibration(&[3.0]);
        assert!(one.probability(Measure::Reconstruction, 9.0).unwrap() <= 0.75);
        let same = calibration(&[2.0; 50]);
        let (below, above) =
            (same.probability(Measure::Reconstruction, 1.0), same.probability(Measure::Reconstruction, 3.0));
        assert!(below.unwrap() < 0.02 && above.unwrap() > 0.98);
        assert_eq!(quantiles(vec![1.0, f32::NAN]), None);
    }
}
