//! New rows that have given values in some columns.
//!
//! Codes are drawn as those of any new row are, each is weighted by p(given values | code), and codes are drawn again by these
//! weights (sampling importance resampling; Rubin, 1988): as their number grows they come from p(code | given values). The
//! other columns are then what the decoder says of them. This asks no more of a family than that its decoder has a likelihood.

use tch::{Kind, Tensor};

use super::artifact::{Draw, TrainedModel};
use crate::domain::limits::{CONDITIONAL_CODES, INFERENCE_BATCH_ROWS};
use crate::models::noise::{Noise, Purpose};
use crate::models::parameters::values;

/// Codes that are drawn for each row that is wanted, within the bounds of [`CONDITIONAL_CODES`].
const CODES_A_ROW: usize = 8;

impl TrainedModel {
    /// New rows in the user's units, `given` `[width]` in those columns where that is not NaN; and how many equally weighted codes
    /// the given values left of those that were drawn: (Σ w)² / Σ w² (Kong, 1992). They depend on what is asked and the seed alone.
    pub fn sample_given(&self, asked: &Draw, given: &[f32]) -> (Vec<f32>, f32) {
        let _guard = tch::no_grad_guard();
        let noise = Noise::new(asked.seed, Purpose::Inference, 3, self.device());
        let row = self.with_missing(given);
        let known = row.isnan().logical_not();
        let row = row.nan_to_num(0.0, None, None);
        let (least, most) = CONDITIONAL_CODES;
        let codes = self.draw_codes((CODES_A_ROW * asked.count).clamp(least, most), asked.temperature, asked.seed);
        let log_weights: Vec<f32> = codes
            .split(INFERENCE_BATCH_ROWS as i64, 0)
            .iter()
            .flat_map(|z| {
                let output = self.network().outputs(z);
                let nats = self.network().likelihood().negative_log_each(&output, &row.expand_as(&output));
                let none = Tensor::zeros_like(&nats);
                values(&-nats.where_self(&known, &none).sum_dim_intlist([1].as_slice(), false, Kind::Double))
            })
            .collect();
        let (weights, effective) = weighted(&log_weights);
        let start = f64::from(values(&noise.uniform(&[1]))[0]);
        let picked = Tensor::from_slice(&resampled(&weights, asked.count, start)).to_device(self.device());
        let rows = |z: &Tensor| {
            let all = [z.size()[0], -1];
            let known = known.expand(all, false);
            let rows =
                self.rows_of_codes(asked, z, &noise, |x| row.expand(all, false).where_self(&known, x), Some(&known));
            self.restored(values(&rows))
        };
        let mut rows: Vec<f32> =
            codes.index_select(0, &picked).split(INFERENCE_BATCH_ROWS as i64, 0).iter().flat_map(rows).collect();
        // What was given comes back as it was given.
        if !self.gives_prepared() {
            for row in rows.chunks_exact_mut(given.len()) {
                row.iter_mut()
                    .zip(given)
                    .filter(|(_, given)| !given.is_nan())
                    .for_each(|(value, given)| *value = *given);
            }
        }
        (rows, effective)
    }
}

/// Weights that sum to 1, and how many equal ones are worth as much. Where none is finite all are alike.
fn weighted(log_weights: &[f32]) -> (Vec<f64>, f32) {
    let most = log_weights.iter().copied().filter(|weight| weight.is_finite()).fold(f32::NEG_INFINITY, f32::max);
    let weight = |log: &f32| if log.is_finite() { f64::from(log - most).exp() } else { 0.0 };
    let mut weights: Vec<f64> = log_weights.iter().map(weight).collect();
    let sum: f64 = weights.iter().sum();
    if sum > 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    } else {
        weights.fill(1.0 / log_weights.len() as f64);
    }
    let squares: f64 = weights.iter().map(|weight| weight * weight).sum();
    (weights, (1.0 / squares) as f32)
}

/// Places of `count` draws by weights that sum to 1, evenly spaced from `start` (0 to 1) of a space on: systematic resampling
/// (Kitagawa, 1996), which picks each place as often as its weight says, up to one.
fn resampled(weights: &[f64], count: usize, start: f64) -> Vec<i64> {
    let mut place = 0;
    let mut reached = weights[0];
    let pick = |draw: usize| {
        let wanted = (draw as f64 + start) / count as f64;
        while reached <= wanted && place + 1 < weights.len() {
            place += 1;
            reached += weights[place];
        }
        // Rounding may leave the last draws beyond the last weight that is more than nothing.
        let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
        place.min(last) as i64
    };
    (0..count).map(pick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_picked_as_often_as_their_weights_say() {
        let (weights, effective) = weighted(&[0.0, 3_f32.ln(), f32::NEG_INFINITY, 0.0]);
        assert!((effective - 25.0 / 11.0).abs() < 1e-5, "{effective}");
        let picked = resampled(&weights, 10, 0.5);
        let count = |place: i64| picked.iter().filter(|picked| **picked == place).count();
        assert_eq!([count(0), count(1), count(2), count(3)], [2, 6, 0, 2]);
        // One that weighs all but nothing beside the others is not picked, nor is one that weighs nothing, at either end.
        for start in [0.0, 0.999_999_999] {
            let (weights, _) = weighted(&[f32::NEG_INFINITY, -1e30, 0.0, f32::NEG_INFINITY]);
            assert_eq!(resampled(&weights, 3, start), [2, 2, 2]);
        }
    }

    #[test]
    fn weights_that_are_all_nothing_are_alike() {
        let (weights, effective) = weighted(&[f32::NEG_INFINITY, f32::NAN]);
        assert_eq!((weights, effective), (vec![0.5, 0.5], 2.0));
    }
}
