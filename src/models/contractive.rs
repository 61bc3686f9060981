//! Contractive autoencoder: a code that hardly moves when the row moves, but for directions in which rows differ.
//!
//! loss = -log p(x given g(h)) + weight * Σ_i ‖∂h_i/∂x‖², h = σ(f(x))   (Rifai et al., 2011)
//!
//! The code ends in a sigmoid, as in the paper: the slopes of a linear code could be made as small as one likes by a decoder that
//! makes up for them. The Jacobian is that of the encoder as it answers questions: without dropout, and with the running
//! statistics of batch norm, because those of a batch would mix its rows. It is found by automatic differentiation,
//! for any layers: exactly, by one pass over as many copies of the rows as the code has units; or from a few random directions,
//! E‖vᵀJ‖² = ‖J‖² for v of independent signs (Hutchinson, 1990). Its own gradient is of second order and reaches the encoder.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::likelihood::{Likelihood, Variance};
use super::losses::mean;
use super::network::Plan;
use super::parameters::Builder;
use super::plain::EncoderDecoder;
use super::{Code, Family, Loss, Network, Sampling, Step};
use crate::domain::refusal::Faults;

/// How the squared norm of the Jacobian is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JacobianEstimate {
    /// `exact` for codes of up to 32 units, else `hutchinson`.
    #[default]
    Auto,
    /// Exactly; the time grows with the width of the code.
    Exact,
    /// From random directions; the time grows with `probes`.
    Hutchinson,
}

/// Settings of a contractive autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Contractive {
    /// Width of the code.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// Weight of the squared norm of the Jacobian.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub weight: f64,
    /// How that norm is found.
    pub estimate: JacobianEstimate,
    /// Random directions of the `hutchinson` estimate.
    #[schema(minimum = 1, maximum = 100)]
    pub probes: u32,
}

impl Default for Contractive {
    fn default() -> Self {
        Self { latent: 16, weight: 0.1, estimate: JacobianEstimate::Auto, probes: 2 }
    }
}

/// The widest code whose Jacobian is found exactly when that is left open.
const EXACT_UNITS: u32 = 32;

impl Family for Contractive {
    const FORMULA: &'static str = "-log p(x | g(h)) + weight * Σ_i ‖∂h_i/∂x‖²";
    const PAPER: &'static str =
        "Rifai et al., Contractive auto-encoders: explicit invariance during feature extraction, 2011";
    const SAMPLING: Sampling = Sampling::Fitted;
    const VARIANCE: Variance = Variance::Fixed;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn check(&self, faults: &mut Faults) {
        faults.require_within("/weight", self.weight, 0.0..=1000.0);
        faults.require_within("/probes", self.probes, 1..=100);
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let exact = match self.estimate {
            JacobianEstimate::Auto => self.latent <= EXACT_UNITS,
            JacobianEstimate::Exact => true,
            JacobianEstimate::Hutchinson => false,
        };
        let inner = EncoderDecoder::build(self.latent, plan, builder);
        let probes = (!exact).then_some(i64::from(self.probes));
        Box::new(Contracting { inner, weight: self.weight, latent: i64::from(self.latent), probes })
    }
}

struct Contracting {
    inner: EncoderDecoder,
    weight: f64,
    latent: i64,
    /// Random directions; none where the Jacobian is found exactly.
    probes: Option<i64>,
}

impl Contracting {
    fn code(&self, x: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        self.inner.encoder.forward(x, step).sigmoid()
    }

    /// ‖J‖² as the mean over rows; in training with a graph to the encoder.
    fn contraction(&self, x: &Tensor, step: &Step<'_>) -> Tensor {
        let penalty = tch::with_grad(|| {
            let rows = x.size()[0];
            let (copies, directions) = match self.probes {
                None => {
                    let eye = Tensor::eye(self.latent, (Kind::Float, x.device()));
                    (self.latent, eye.unsqueeze(1)) // the copy i looks at the unit i
                }
                Some(probes) => (probes, step.noise.mask(&[probes, rows, self.latent], 0.5) * 2.0 - 1.0),
            };
            let copied = x.detach().repeat([copies, 1]).set_requires_grad(true);
            let codes = self.code(&copied, None).view([copies, rows, self.latent]);
            let seen = (codes * directions).sum(Kind::Float);
            let slopes = Tensor::run_backward(&[seen], &[&copied], true, true);
            slopes[0].square().sum(Kind::Float) / (rows * self.probes.unwrap_or(1)) as f64
        });
        if step.training { penalty } else { penalty.detach() }
    }
}

impl Network for Contracting {
    fn encode(&self, x: &Tensor) -> Code {
        Code { mean: self.code(x, None), spread: None }
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        self.inner.outputs(z)
    }

    fn likelihood(&self) -> &Likelihood {
        self.inner.likelihood()
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let outputs = self.inner.decoder.forward(&self.code(x, Some(step)), Some(step));
        let reconstruction = mean(&self.inner.likelihood.negative_log(&outputs, x));
        let contraction = self.contraction(x, step);
        let total = &reconstruction + &contraction * self.weight;
        Loss::new(total, vec![("reconstruction", reconstruction), ("contraction", contraction)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled};
    use crate::models::network::{Activation, NetworkSpec};
    use crate::models::noise::{Noise, Purpose};
    use crate::models::parameters::{Parameters, values};
    use tch::Device;

    const WIDTH: usize = 3;
    const ROWS: [[f64; WIDTH]; 2] = [[0.5, -1.0, 0.3], [1.2, 0.4, -0.6]];

    fn built(hidden: Vec<u32>, estimate: JacobianEstimate, probes: u32) -> (Box<dyn Network>, Parameters) {
        let network = NetworkSpec { hidden: Some(hidden), activation: Activation::Tanh, ..NetworkSpec::default() };
        let likelihood = LikelihoodSpec::of(LikelihoodKind::Gaussian);
        let columns = vec![Modelled::linear(LikelihoodKind::Gaussian); WIDTH];
        let plan = Plan { image: None, network: &network, likelihood: &likelihood, columns: &columns, target: None };
        let mut builder = Builder::new(4, Device::Cpu);
        let built = Contractive { latent: 2, weight: 1.0, estimate, probes }.build(&plan, &mut builder);
        (built, builder.finish())
    }

    fn rows() -> Tensor {
        let flat: Vec<f32> = ROWS.concat().into_iter().map(|value| value as f32).collect();
        Tensor::from_slice(&flat).view([2, WIDTH as i64])
    }

    fn contraction(network: &dyn Network, training: bool) -> Tensor {
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let loss = network.loss(&rows(), &Step { training, ..Step::training(&noise) });
        loss.parts.into_iter().find(|(name, _)| *name == "contraction").unwrap().1
    }

    /// The code of a network with one hidden layer, in 64 bits.
    fn code(weights: &[Vec<f64>; 2], x: &[f64]) -> Vec<f64> {
        let layer = |weights: &[f64], x: &[f64], f: fn(f64) -> f64| -> Vec<f64> {
            weights.chunks(x.len()).map(|row| f(row.iter().zip(x).map(|(w, x)| w * x).sum())).collect()
        };
        layer(&weights[1], &layer(&weights[0], x, f64::tanh), |a| 1.0 / (1.0 + (-a).exp()))
    }

    /// ‖J‖² by central differences in 64 bits.
    fn reference(weights: &[Vec<f64>; 2]) -> f64 {
        let step = 1e-5;
        let mut sum = 0.0;
        for row in ROWS {
            for column in 0..WIDTH {
                let moved = |by: f64| {
                    let mut row = row;
                    row[column] += by;
                    code(weights, &row)
                };
                let (up, down) = (moved(step), moved(-step));
                sum += up.iter().zip(&down).map(|(up, down)| ((up - down) / (2.0 * step)).powi(2)).sum::<f64>();
            }
        }
        sum / ROWS.len() as f64
    }

    fn encoder_weights(parameters: &Parameters) -> [Vec<f64>; 2] {
        let named = parameters.named();
        ["encoder.0.weight", "encoder.1.weight"].map(|name| {
            let found = named.iter().find(|one| one.name == name).unwrap();
            found.values.iter().map(|value| f64::from(*value)).collect()
        })
    }

    #[test]
    fn the_norm_is_that_of_differences_for_a_deep_encoder_with_and_without_training() {
        let (network, parameters) = built(vec![4], JacobianEstimate::Exact, 1);
        let expected = reference(&encoder_weights(&parameters));
        for training in [true, false] {
            let found = contraction(&*network, training).double_value(&[]);
            assert!((found - expected).abs() < 1e-5 * expected.max(1.0), "{found} is not {expected}");
        }
        let quiet = tch::no_grad(|| contraction(&*network, false));
        assert!((quiet.double_value(&[]) - expected).abs() < 1e-5 && !quiet.requires_grad());
    }

    #[test]
    fn the_gradient_of_the_norm_reaches_every_weight_of_the_encoder() {
        let (network, parameters) = built(vec![4], JacobianEstimate::Exact, 1);
        let weights = encoder_weights(&parameters);
        for (layer, name) in ["encoder.0.weight", "encoder.1.weight"].into_iter().enumerate() {
            let part = parameters.part(&[name]);
            let gradient = values(&parameters.gradient(&contraction(&*network, true), &part));
            for (index, found) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut weights = weights.clone();
                    weights[layer][index] += by;
                    reference(&weights)
                };
                let expected = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                assert!((f64::from(*found) - expected).abs() < 1e-4, "{name} {index}: {found} is not {expected}");
            }
        }
    }

    #[test]
    fn random_directions_agree_with_the_exact_norm_in_the_mean() {
        let (network, _) = built(vec![4], JacobianEstimate::Exact, 1);
        let exact = contraction(&*network, true).double_value(&[]);
        let (network, _) = built(vec![4], JacobianEstimate::Hutchinson, 100);
        let mean = (0..30)
            .map(|seed| {
                let noise = Noise::new(seed, Purpose::Training, 0, Device::Cpu);
                let loss = network.loss(&rows(), &Step::training(&noise));
                loss.parts[1].1.double_value(&[])
            })
            .sum::<f64>()
            / 30.0;
        assert!((mean / exact - 1.0).abs() < 0.03, "{mean} is not {exact}");
    }
}
