//! Estimates of log p(x) from importance samples.
//!
//! With weights w_k = p(x, z_k) / q(z_k given x) of K draws the estimate is log (1/K) Σ w_k, a lower bound in the mean that
//! closes as K grows (Burda, Grosse and Salakhutdinov, 2016). Of a single draw it is the evidence lower bound in the mean.

use tch::{Kind, Tensor};

use super::parameters::values;

/// What some draws say of the density of rows; each has one number a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimates {
    /// log (1/K) Σ w_k, in nats.
    pub log_likelihood: Vec<f32>,
    /// The mean of log w_k, in nats: the evidence lower bound.
    pub evidence_bound: Vec<f32>,
    /// The standard error of the first, in nats, by the delta method: sqrt((K / n - 1) / (K - 1)) with n effective draws. Of a
    /// single draw it is infinite.
    pub standard_error: Vec<f32>,
    /// How many equally weighted draws would say as much: (Σ w)² / Σ w² (Kong, 1992), from 1 to K.
    pub effective_draws: Vec<f32>,
}

/// log p(x) of each row from the logarithms of weights: `[draws, rows]` to `[rows]`.
pub fn log_mean(log_weights: &Tensor) -> Tensor {
    log_weights.logsumexp([0].as_slice(), false) - (log_weights.size()[0].max(1) as f64).ln()
}

impl Estimates {
    /// From the logarithms of weights, `[draws, rows]`.
    pub fn of(log_weights: &Tensor) -> Self {
        let draws = log_weights.size()[0].max(1) as f64;
        let log_weights = log_weights.to_kind(Kind::Double);
        let sum = log_weights.logsumexp([0].as_slice(), false);
        let squares = (&log_weights * 2.0).logsumexp([0].as_slice(), false);
        let effective = (&sum * 2.0 - squares).exp();
        let error = ((draws / &effective - 1.0).clamp_min(0.0) / (draws - 1.0)).sqrt();
        Self {
            log_likelihood: values(&(sum - draws.ln())),
            evidence_bound: values(&log_weights.mean_dim([0].as_slice(), false, Kind::Double)),
            standard_error: if draws > 1.0 {
                values(&error)
            } else {
                vec![f32::INFINITY; log_weights.size()[1] as usize]
            },
            effective_draws: values(&effective),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_known_weights_are_theirs() {
        let weights = [[1.0_f64, 2.0], [3.0, 2.0], [2.0, 2.0]];
        let logs: Vec<f64> = weights.concat().iter().map(|weight| weight.ln()).collect();
        let found = Estimates::of(&Tensor::from_slice(&logs).view([3, 2]));
        let close =
            |found: f32, expected: f64| assert!((f64::from(found) - expected).abs() < 1e-6, "{found}: {expected}");
        close(found.log_likelihood[0], 2_f64.ln());
        close(found.evidence_bound[0], (1_f64.ln() + 3_f64.ln() + 2_f64.ln()) / 3.0);
        close(found.effective_draws[0], 36.0 / 14.0);
        // The standard deviation of 1, 3, 2 over their mean, over the root of three.
        close(found.standard_error[0], 0.5 / 3_f64.sqrt());
        // Draws of one weight say everything.
        close(found.effective_draws[1], 3.0);
        close(found.standard_error[1], 0.0);
        close(found.log_likelihood[1], 2_f64.ln());
    }

    #[test]
    fn weights_far_below_what_an_exponential_holds_are_told_apart() {
        let found = Estimates::of(&Tensor::from_slice(&[-2000.0_f64, -2000.0 + 3_f64.ln()]).view([2, 1]));
        assert!((f64::from(found.log_likelihood[0]) - (-2000.0 + 2_f64.ln())).abs() < 1e-3);
        assert!((f64::from(found.effective_draws[0]) - 1.6).abs() < 1e-6);
    }
}
