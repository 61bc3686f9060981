//! The numbers that are found of a row that is scored, and their place in an answer.

use super::artifact::TrainedModel;
use super::scoring::{Measure, Scores};

/// What is found of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// What it is judged by, in nats; larger for stranger rows.
    pub score: f32,
    /// The share of ordinary rows that are less strange; `None` where the model was not calibrated.
    pub anomaly: Option<f32>,
    /// Whether it is stranger than the asked share of ordinary rows.
    pub is_anomaly: Option<bool>,
    /// -log p(x given its code), in nats.
    pub reconstruction: f32,
    /// The mean squared error of what came back.
    pub error: f32,
    /// What its draws say, where there were some.
    pub density: Option<Density>,
}

/// What draws say of log p(x) of a row, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Density {
    /// The estimate.
    pub log_likelihood: f32,
    /// The mean of the logarithms of its weights.
    pub evidence_bound: f32,
    /// Of the estimate; infinite with a single draw.
    pub standard_error: f32,
    /// How many equally weighted draws would say as much.
    pub effective_draws: f32,
}

const PLAIN: usize = 5;
const WITH_DENSITY: usize = PLAIN + 4;

impl Scored {
    /// One row out of the numbers of an answer.
    fn from_numbers(numbers: &[f32]) -> Self {
        let density = numbers.get(PLAIN..WITH_DENSITY).map(|numbers| Density {
            log_likelihood: numbers[0],
            evidence_bound: numbers[1],
            standard_error: numbers[2],
            effective_draws: numbers[3],
        });
        let anomaly = (!numbers[1].is_nan()).then_some(numbers[1]);
        let is_anomaly = anomaly.map(|_| numbers[2] > 0.0);
        Self { score: numbers[0], anomaly, is_anomaly, reconstruction: numbers[3], error: numbers[4], density }
    }

    /// The rows of an answer.
    pub fn rows(numbers: &[f32], with_density: bool) -> impl Iterator<Item = Self> + '_ {
        numbers.chunks_exact(Self::width(with_density)).map(Self::from_numbers)
    }

    /// How many numbers an answer has of each row.
    pub fn width(with_density: bool) -> usize {
        if with_density { WITH_DENSITY } else { PLAIN }
    }

    /// The numbers of an answer, row after row.
    pub fn numbers(model: &TrainedModel, scores: &Scores, measure: Measure, threshold: f32) -> Vec<f32> {
        let calibration = model.header.calibration.as_ref();
        let limit = calibration.and_then(|known| known.value(measure, threshold));
        let mut numbers = Vec::with_capacity(scores.errors.len() * WITH_DENSITY);
        for (row, (nats, error)) in scores.reconstruction.iter().zip(&scores.errors).enumerate() {
            let log_likelihood = scores.density.as_ref().map(|density| density.log_likelihood[row]);
            let score = match (measure, log_likelihood) {
                (Measure::LogLikelihood, Some(log_likelihood)) => -log_likelihood,
                _ => *nats,
            };
            let is_above = limit.is_some_and(|limit| score > limit);
            let anomaly = calibration.and_then(|known| known.probability(measure, score)).unwrap_or(f32::NAN);
            numbers.extend([score, anomaly, f32::from(u8::from(is_above)), *nats, *error]);
            if let Some(density) = &scores.density {
                numbers.extend([
                    density.log_likelihood[row],
                    density.evidence_bound[row],
                    density.standard_error[row],
                    density.effective_draws[row],
                ]);
            }
        }
        numbers
    }
}
