//! Sparse autoencoder: a wide code of which each row uses little.
//!
//! l1:     loss = -log p(x given g(h)) + weight * Σ_i |h_i|, h = max(0, f(x))
//! kl:     loss = -log p(x given g(h)) + weight * Σ_i KL(rate || mean of h_i over rows), h = σ(f(x))
//! top_k:  loss = -log p(x given g(h)), h = the greatest units of max(0, f(x)), and an auxiliary loss
//!
//! The `l1` penalty is -log p(h) of the Laplace prior p(h_i) = weight/2 e^(-weight |h_i|) less its constant (Olshausen and
//! Field, 1996); the part `joint` is -log p(x, h) with the constant. `kl` holds each unit to a rate (Ng, 2011). `top_k` keeps so
//! many units of each row (Makhzani and Frey, 2014). Its auxiliary loss has units that have not been used for some time restore
//! what the others leave, so that they come back to life (Gao et al., 2024), and draws up those that no row reaches.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::likelihood::{Likelihood, Variance};
use super::losses::{mean, sum_columns};
use super::network::Plan;
use super::parameters::Builder;
use super::plain::EncoderDecoder;
use super::{Code, Family, Loss, Network, Sampling, Step};
use crate::domain::refusal::Faults;

/// What keeps the code sparse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SparsePenalty {
    /// The sum of absolute values: a Laplace prior.
    #[default]
    L1,
    /// The divergence of each unit's mean from a rate.
    Kl,
    /// Only so many units of each row are kept.
    TopK,
}

/// Settings of a sparse autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sparse {
    /// Width of the code; it may well exceed the width of the rows.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// What keeps it sparse.
    pub penalty: SparsePenalty,
    /// Weight of the penalty of `l1` and `kl`.
    #[schema(exclusive_minimum = 0.0, maximum = 1000.0)]
    pub weight: f64,
    /// Mean activity that `kl` holds each unit to.
    #[schema(minimum = 0.001, maximum = 0.5)]
    pub rate: f64,
    /// Units that `top_k` keeps of each row; at most `latent`.
    #[schema(minimum = 1, maximum = 65536)]
    pub active: u32,
    /// Steps after which a unit that `top_k` has not kept counts as dead.
    #[schema(minimum = 1, maximum = 1000000)]
    pub dead_after_steps: u32,
    /// Weight of the auxiliary loss of `top_k`; 0 for none.
    #[schema(minimum = 0.0, maximum = 100.0)]
    pub auxiliary_weight: f64,
}

impl Default for Sparse {
    fn default() -> Self {
        Self {
            latent: 64,
            penalty: SparsePenalty::L1,
            weight: 0.02,
            rate: 0.05,
            active: 8,
            dead_after_steps: 50,
            auxiliary_weight: 0.1,
        }
    }
}

impl Family for Sparse {
    const FORMULA: &'static str = "-log p(x | g(h)) + weight * Σ_i |h_i|, or a KL to a rate, or the top k units";
    const PAPER: &'static str = "Gao et al., Scaling and evaluating sparse autoencoders, 2024";
    const SAMPLING: Sampling = Sampling::Fitted;
    const VARIANCE: Variance = Variance::Fixed;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn check(&self, faults: &mut Faults) {
        faults.require_within("/weight", self.weight, f64::MIN_POSITIVE..=1000.0);
        faults.require_within("/rate", self.rate, 0.001..=0.5);
        faults.require_within("/active", self.active, 1..=65_536);
        if self.penalty == SparsePenalty::TopK && self.active > self.latent {
            let detail = format!("is {}, more than the {} units there are", self.active, self.latent);
            faults.push("/active", "conflict", detail);
        }
        faults.require_within("/dead_after_steps", self.dead_after_steps, 1..=1_000_000);
        faults.require_within("/auxiliary_weight", self.auxiliary_weight, 0.0..=100.0);
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let inner = EncoderDecoder::build(self.latent, plan, builder);
        let unused = builder.buffer("unused_steps", &[i64::from(self.latent)], 0.0);
        Box::new(SparseNetwork { settings: self.clone(), inner, unused })
    }
}

struct SparseNetwork {
    settings: Sparse,
    inner: EncoderDecoder,
    /// Steps since each unit was last used, `[latent]`.
    unused: Tensor,
}

/// Means of units stay this far from 0 and 1, where a divergence is not finite.
const LEAST_MEAN: f64 = 1e-6;

impl SparseNetwork {
    /// What the encoder gives, and the code made of it, both `[rows, latent]`.
    fn code(&self, x: &Tensor, step: Option<&Step<'_>>) -> (Tensor, Tensor) {
        let raw = self.inner.encoder.forward(x, step);
        let code = match self.settings.penalty {
            SparsePenalty::L1 => raw.relu(),
            SparsePenalty::Kl => raw.sigmoid(),
            SparsePenalty::TopK => greatest(&raw, i64::from(self.settings.active)),
        };
        (raw, code)
    }

    /// The loss of dead units that restore what the others leave (NaN where the row has a gap, which counts nothing): half the
    /// squared error in prepared units; and how far each is below zero for the row that is nearest to it, without which a unit
    /// that no row reaches would never learn (after Anthropic's pre-act loss, 2025).
    fn auxiliary(&self, raw: &Tensor, rest: &Tensor, dead: &Tensor, step: &Step<'_>) -> Tensor {
        let half = (i64::from(self.settings.latent) / 2).max(1);
        // Alive units get the least value there is, of which nothing is left above zero.
        let candidates = raw.where_self(dead, &Tensor::from(f32::MIN));
        let code = greatest(&candidates, half.min(4 * i64::from(self.settings.active)));
        let none = code.zeros_like();
        let decode = |code: &Tensor| self.inner.decoder.forward(code, Some(&Step { training: false, ..*step }));
        let restored = decode(&code) - decode(&none);
        let below = raw.amax([0].as_slice(), false).clamp_max(0.0) * dead.to_kind(Kind::Float);
        let off = (restored - rest).masked_fill(&rest.isnan(), 0.0);
        mean(&(sum_columns(&off.square()) * 0.5)) - below.sum(Kind::Float)
    }

    /// Units that have gone unused for so long, as flags `[latent]`.
    fn dead(&self) -> Tensor {
        self.unused.gt(f64::from(self.settings.dead_after_steps))
    }

    fn note_use(&self, code: &Tensor) {
        let _guard = tch::no_grad_guard();
        let used = code.detach().amax([0].as_slice(), false).gt(0.0);
        let next = (&self.unused + 1.0).where_self(&used.logical_not(), &self.unused.zeros_like());
        self.unused.shallow_clone().copy_(&next);
    }
}

/// The `count` greatest positive values of each row; the others are 0.
fn greatest(raw: &Tensor, count: i64) -> Tensor {
    let (values, places) = raw.topk(count, -1, true, false);
    raw.zeros_like().scatter(-1, &places, &values.relu())
}

impl Network for SparseNetwork {
    fn encode(&self, x: &Tensor) -> Code {
        Code { mean: self.code(x, None).1, spread: None }
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        self.inner.outputs(z)
    }

    fn likelihood(&self) -> &Likelihood {
        self.inner.likelihood()
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let Sparse { weight, rate, auxiliary_weight, latent, .. } = self.settings;
        let (raw, code) = self.code(x, Some(step));
        let outputs = self.inner.decoder.forward(&code, Some(step));
        let reconstruction = mean(&self.inner.likelihood.negative_log(&outputs, x));
        let active = mean(&sum_columns(&code.detach().gt(1e-3).to_kind(Kind::Float)));
        let mut parts = vec![("reconstruction", reconstruction.shallow_clone()), ("active_units", active)];
        let (total, reported) = match self.settings.penalty {
            SparsePenalty::L1 => {
                let size = mean(&sum_columns(&code.abs()));
                let total = &reconstruction + &size * weight;
                let joint = total.detach() + f64::from(latent) * (2.0 / weight).ln();
                parts.extend([("l1", size), ("joint", joint)]);
                (total.shallow_clone(), total)
            }
            SparsePenalty::Kl => {
                let means = code.mean_dim([0].as_slice(), false, Kind::Float).clamp(LEAST_MEAN, 1.0 - LEAST_MEAN);
                let idle: Tensor = (1.0 - &means) / (1.0 - rate);
                let each: Tensor = (&means / rate).log() * -rate - idle.log() * (1.0 - rate);
                let divergence = each.sum(Kind::Float);
                let total = &reconstruction + &divergence * weight;
                parts.push(("kl", divergence));
                (total.shallow_clone(), total)
            }
            SparsePenalty::TopK => {
                let rest = (x - self.inner.likelihood.mean(&outputs)).detach();
                let dead = self.dead();
                let auxiliary = self.auxiliary(&raw, &rest, &dead, step);
                if step.training {
                    self.note_use(&code);
                }
                let total = &reconstruction + &auxiliary * auxiliary_weight;
                parts.extend([("auxiliary", auxiliary), ("dead_units", dead.sum(Kind::Float))]);
                // The auxiliary loss is a help in training and says nothing of the model.
                (total, reconstruction)
            }
        };
        Loss { total, reported, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled};
    use crate::models::network::NetworkSpec;
    use crate::models::noise::{Noise, Purpose};
    use crate::models::parameters::{Parameters, values};
    use tch::Device;

    /// Two columns, four units, one layer each way; the encoder's weights are `WEIGHTS`, the decoder's all one half.
    const WEIGHTS: [f32; 8] = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 2.0, 1.0];
    const ROWS: [f32; 4] = [1.0, 0.5, -2.0, 0.25];

    fn built(settings: Sparse) -> (Box<dyn Network>, Parameters) {
        let network = NetworkSpec { hidden: Some(vec![]), ..NetworkSpec::default() };
        let likelihood = LikelihoodSpec::of(LikelihoodKind::Gaussian);
        let columns = vec![Modelled::linear(LikelihoodKind::Gaussian); 2];
        let plan = Plan { image: None, network: &network, likelihood: &likelihood, columns: &columns, target: None };
        let mut builder = Builder::new(4, Device::Cpu);
        let built = Sparse { latent: 4, active: 1, ..settings }.build(&plan, &mut builder);
        let mut parameters = builder.finish();
        let shapes: Vec<_> = parameters.named().into_iter().map(|one| (one.name, one.shape)).collect();
        parameters
            .load(|name| {
                let shape = shapes.iter().find(|(other, _)| other == name).unwrap().1.clone();
                let count = shape.iter().product();
                let values = match name {
                    "encoder.0.weight" => WEIGHTS.to_vec(),
                    "decoder.0.weight" => vec![0.5; count],
                    _ => vec![0.0; count],
                };
                Some((shape, values))
            })
            .unwrap();
        (built, parameters)
    }

    fn rows() -> Tensor {
        Tensor::from_slice(&ROWS).view([2, 2])
    }

    fn loss(network: &dyn Network, training: bool) -> (f64, std::collections::BTreeMap<&'static str, f64>) {
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let loss = network.loss(&rows(), &Step { training, ..Step::training(&noise) });
        let parts = loss.parts.iter().map(|(name, part)| (*name, part.double_value(&[]))).collect();
        (loss.total.double_value(&[]), parts)
    }

    #[test]
    fn l1_is_a_laplace_prior_and_tells_the_joint_density() {
        let (network, _) = built(Sparse { penalty: SparsePenalty::L1, weight: 0.3, ..Sparse::default() });
        let (total, parts) = loss(&*network, true);
        // Codes are [1, .5, 0, 2.5] and [0, .25, 2, 0].
        assert_eq!(values(&network.encode(&rows()).mean), [1.0, 0.5, 0.0, 2.5, 0.0, 0.25, 2.0, 0.0]);
        let size = (4.0 + 2.25) / 2.0;
        // Each column is restored as half the sum of the code.
        let square = |row: [f64; 2], restored: f64| row.iter().map(|x| 0.5 * (x - restored).powi(2)).sum::<f64>();
        let reconstruction =
            (square([1.0, 0.5], 2.0) + square([-2.0, 0.25], 1.125)) / 2.0 + super::super::losses::LN_2_PI;
        assert!(
            (parts["l1"] - size).abs() < 1e-6 && (parts["reconstruction"] - reconstruction).abs() < 1e-5,
            "{parts:?}"
        );
        assert!((total - (reconstruction + 0.3 * size)).abs() < 1e-5);
        // -log of the Laplace density of every unit, summed.
        let density = |h: f64| 0.15 * (-0.3 * h.abs()).exp();
        let prior: f64 = [1.0, 0.5, 0.0, 2.5, 0.0, 0.25, 2.0, 0.0].iter().map(|h| -density(*h).ln()).sum::<f64>() / 2.0;
        assert!((parts["joint"] - (reconstruction + prior)).abs() < 1e-5);
        assert_eq!(parts["active_units"], 2.5);
    }

    #[test]
    fn kl_compares_the_mean_activity_with_the_rate() {
        let (network, _) = built(Sparse { penalty: SparsePenalty::Kl, weight: 2.0, rate: 0.1, ..Sparse::default() });
        let (total, parts) = loss(&*network, true);
        let sigmoid = |a: f64| 1.0 / (1.0 + (-a).exp());
        let divergence: f64 = [[1.0, -2.0], [0.5, 0.25], [-1.0, 2.0], [2.5, -3.75]]
            .iter()
            .map(|unit| {
                let mean = (sigmoid(unit[0]) + sigmoid(unit[1])) / 2.0;
                0.1 * (0.1 / mean).ln() + 0.9 * (0.9 / (1.0 - mean)).ln()
            })
            .sum();
        assert!((parts["kl"] - divergence).abs() < 1e-5, "{parts:?} {divergence}");
        assert!((total - (parts["reconstruction"] + 2.0 * divergence)).abs() < 1e-4);
    }

    #[test]
    fn top_k_keeps_the_greatest_units_and_finds_the_dead() {
        let settings =
            Sparse { penalty: SparsePenalty::TopK, dead_after_steps: 2, auxiliary_weight: 0.5, ..Sparse::default() };
        let (network, parameters) = built(settings);
        assert_eq!(values(&network.encode(&rows()).mean), [0.0, 0.0, 0.0, 2.5, 0.0, 0.0, 2.0, 0.0]);
        let dead: Vec<f64> = (0..5).map(|_| loss(&*network, true).1["dead_units"]).collect();
        // The units 0 and 1 are never used; after the third step without use they count as dead.
        assert_eq!(dead, [0.0, 0.0, 0.0, 2.0, 2.0]);
        assert_eq!(parameters.snapshot().buffers, [5.0, 5.0, 0.0, 0.0]);
        let (total, parts) = loss(&*network, false);
        assert_eq!(parameters.snapshot().buffers, [5.0, 5.0, 0.0, 0.0], "validation must not count");
        // Rests are x less half the code: [1, .5] - 1.25 and [-2, .25] - 1. Dead units give 1 and .5, and 0 and .25, of which
        // two may be kept; each column of what they restore is half their sum.
        let square = |rest: [f64; 2], restored: f64| rest.iter().map(|x| 0.5 * (restored - x).powi(2)).sum::<f64>();
        let auxiliary = (square([-0.25, -0.75], 0.75) + square([-3.0, -0.75], 0.125)) / 2.0;
        assert!((parts["auxiliary"] - auxiliary).abs() < 1e-5, "{parts:?} {auxiliary}");
        assert!((total - (parts["reconstruction"] + 0.5 * auxiliary)).abs() < 1e-5);
    }

    #[test]
    fn the_auxiliary_loss_moves_dead_units_alone() {
        let settings = Sparse { penalty: SparsePenalty::TopK, dead_after_steps: 1, ..Sparse::default() };
        let (network, parameters) = built(settings);
        for _ in 0..3 {
            loss(&*network, true);
        }
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let loss = network.loss(&rows(), &Step::training(&noise));
        let auxiliary = &loss.parts.iter().find(|(name, _)| *name == "auxiliary").unwrap().1;
        let gradient = values(&parameters.gradient(auxiliary, &parameters.part(&["encoder.0.weight"])));
        assert!(gradient[..4].iter().any(|slope| *slope != 0.0));
        assert_eq!(gradient[4..], [0.0; 4]);
    }
}
