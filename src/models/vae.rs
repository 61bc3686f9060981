//! Variational autoencoder, with a weighted KL term or the importance-weighted bound.
//!
//! samples = 1:  loss = E_q[-log p(x given z)] + beta * KL(q(z given x) || N(0, I))
//!               (Kingma and Welling, 2014; beta: Higgins et al., 2017)
//! samples = K:  loss = -log (1/K) Σ_k p(x given z_k) p(z_k) / q(z_k given x)
//!               (Burda, Grosse and Salakhutdinov, 2016), its gradient for the encoder doubly reparameterised
//!               (Tucker, Lawson, Gu and Maddison, 2019)
//!
//! Of rows with gaps the encoder sees the means of their columns, and p(x given z) is that of the observed values alone. The
//! bound with K samples is then that of MIWAE, of log p(observed) (Mattei and Frellsen, 2019).
//!
//! Encoders give the mean and the logarithm of the variance; draws are reparameterised.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use utoipa::ToSchema;

use super::fused::Divergence;
use super::likelihood::{Likelihood, Variance};
use super::losses::{log_normal, log_standard_normal, mean, unit_kl};
use super::network::{Body, Plan};
use super::noise::Noise;
use super::parameters::Builder;
use super::{Code, Family, Loss, Network, Sampling, Step, fused};
use crate::domain::limits::EPOCHS;
use crate::domain::refusal::Faults;

/// Settings of a variational autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Vae {
    /// Width of the code.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// Weight of the KL term; 1 gives the evidence lower bound.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub beta: f64,
    /// Draws per row; above 1 the importance-weighted bound is optimised, and `beta` must be 1.
    #[schema(minimum = 1, maximum = 100)]
    pub samples: u32,
    /// Epochs over which the weight of the KL term rises from 0 to `beta`; 0 for none.
    #[schema(minimum = 0, maximum = 100000)]
    pub kl_warmup_epochs: u32,
    /// Nats that each unit of the code may carry before the KL term presses on it in training (Kingma et al., 2016); 0 for
    /// none. It keeps units from dying early.
    #[schema(minimum = 0.0, maximum = 100.0)]
    pub free_bits: f64,
}

impl Default for Vae {
    fn default() -> Self {
        Self { latent: 16, beta: 1.0, samples: 1, kl_warmup_epochs: 0, free_bits: 0.0 }
    }
}

impl Family for Vae {
    const FORMULA: &'static str = "E_q[-log p(x | z)] + beta * KL(q(z | x) || N(0, I))";
    const PAPER: &'static str = "Kingma and Welling, Auto-encoding variational Bayes, 2014";
    const SAMPLING: Sampling = Sampling::Prior;
    const VARIANCE: Variance = Variance::Shared;
    const DENSITY: bool = true;
    const STOCHASTIC: bool = true;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn passes(&self) -> u32 {
        self.samples
    }

    fn check(&self, faults: &mut Faults) {
        faults.require_within("/beta", self.beta, 0.0..=1000.0);
        faults.require_within("/samples", self.samples, 1..=100);
        faults.require_within("/kl_warmup_epochs", self.kl_warmup_epochs, 0..=EPOCHS);
        if self.samples > 1 && self.beta != 1.0 {
            faults.push("/beta", "conflict", format!("is {}; with more than one sample it must be 1", self.beta));
        }
        faults.require_within("/free_bits", self.free_bits, 0.0..=100.0);
        for (pointer, given) in [("/kl_warmup_epochs", self.kl_warmup_epochs > 0), ("/free_bits", self.free_bits > 0.0)]
        {
            if self.samples > 1 && given {
                faults.push(pointer, "conflict", "goes with one sample; the importance-weighted bound has no KL term");
            }
        }
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        Box::new(Variational::build(self, plan, builder))
    }
}

struct Variational {
    settings: Vae,
    encoder: Body,
    decoder: Body,
    likelihood: Likelihood,
}

/// Variances of the code stay within e^±12, where neither their exponential nor its inverse leaves 32 bits.
const LOG_VARIANCE: f64 = 12.0;

/// Values of codes that are in memory at once while a likelihood is estimated.
const LIKELIHOOD_BLOCK: i64 = 1 << 21;

impl Variational {
    fn build(settings: &Vae, plan: &Plan<'_>, builder: &mut Builder) -> Self {
        let latent = i64::from(settings.latent);
        let encoder = plan.encoder("encoder", 2 * latent, builder);
        let decoder = plan.decoder("decoder", latent, &encoder, builder);
        Self { settings: settings.clone(), encoder, decoder, likelihood: plan.likelihood(builder) }
    }

    /// Mean and log-variance of q(z given x), each `[rows, latent]`.
    fn posterior(&self, x: &Tensor, step: Option<&Step<'_>>) -> (Tensor, Tensor) {
        self.halves(&self.encoder.forward(x, step))
    }

    /// Mean and log-variance as the encoder gives them, `[rows, 2 * latent]`.
    fn halves(&self, both: &Tensor) -> (Tensor, Tensor) {
        let latent = i64::from(self.settings.latent);
        (both.narrow(-1, 0, latent), both.narrow(-1, latent, latent).clamp(-LOG_VARIANCE, LOG_VARIANCE))
    }

    /// A draw of q(z given x) for each row, `[rows, latent]`, and the mean over rows of each unit's KL term, `[latent]`.
    fn draw(&self, x: &Tensor, step: &Step<'_>) -> (Tensor, Tensor) {
        let both = self.encoder.forward(x, Some(step)); // [rows, 2 * latent]
        let noise = step.noise.normal(&[both.size()[0], i64::from(self.settings.latent)]);
        let fused = if step.training { fused::gaussian_code(&both, &noise, LOG_VARIANCE) } else { None };
        fused.unwrap_or_else(|| {
            let (center, log_variance) = self.halves(&both);
            let units = unit_kl(&center, &log_variance).mean_dim([0].as_slice(), false, Kind::Float);
            (center + (log_variance * 0.5).exp() * noise, units)
        })
    }

    /// The loss of one draw a row as one node of the graph, where there is nothing in it that must be seen.
    fn loss_at_once(&self, x: &Tensor, step: &Step<'_>) -> Option<Loss> {
        let simple = self.likelihood.simple().filter(|_| step.training && x.device() == Device::Cpu)?;
        let layers = (self.encoder.as_mlp()?.plain(true)?, self.decoder.as_mlp()?.plain(true)?);
        let noise = step.noise.normal(&[x.size()[0], i64::from(self.settings.latent)]);
        let free_bits = self.settings.free_bits;
        let least = if free_bits > 0.0 { free_bits } else { f64::NEG_INFINITY };
        let divergence = Divergence { limit: LOG_VARIANCE, weight: self.kl_weight(step), least };
        let seen = self.encoder.filling().fill(x);
        let losses = fused::variational((&seen, x, &noise), (&layers.0, &layers.1), step.half, simple, divergence);
        let [total, reconstruction, kl] = losses?;
        Some(Loss::new(total, vec![("reconstruction", reconstruction), ("kl", kl)]))
    }

    /// `samples` draws of q(z given x) for each row, `[samples, rows, latent]`.
    fn drawn((mean, log_variance): &(Tensor, Tensor), samples: i64, noise: &Noise) -> Tensor {
        let size = mean.size();
        mean + (log_variance * 0.5).exp() * noise.normal(&[samples, size[0], size[1]])
    }

    /// log p(x given z) + log p(z) - log q(z given x) of draws, `[samples, rows]`.
    fn importance_weights(
        &self,
        x: &Tensor,
        z: &Tensor,
        (mean, log_variance): &(Tensor, Tensor),
        step: Option<&Step<'_>>,
    ) -> Tensor {
        let given = self.likelihood.negative_log(&self.decoder.forward(z, step), x); // [samples, rows]
        log_standard_normal(z) - log_normal(z, mean, log_variance) - given
    }

    /// The importance-weighted bound. With w the normalised weights of the draws, the decoder's gradient is that of
    /// Σ w log w, the encoder's Σ w² d log w / dz dz / dφ: as expected from the bound itself, but it does not drown in noise
    /// as draws become many.
    fn importance_bound(&self, x: &Tensor, samples: i64, step: &Step<'_>) -> Loss {
        let posterior = self.posterior(x, Some(step));
        let z = Self::drawn(&posterior, samples, step.noise);
        let leaf = z.detach().set_requires_grad(step.training);
        let log_weights = self.importance_weights(x, &leaf, &(posterior.0.detach(), posterior.1.detach()), Some(step)); // [samples, rows]
        let known = log_weights.detach();
        let bound = mean(&((samples as f64).ln() - known.logsumexp([0].as_slice(), false)));
        if !step.training {
            return Loss::new(bound.shallow_clone(), vec![("importance_bound", bound)]);
        }
        let weights = known.softmax(0, Kind::Float);
        let decoding = -mean(&(&weights * log_weights).sum_dim_intlist([0].as_slice(), false, Kind::Float));
        let slopes = Tensor::run_backward(&[&decoding], &[&leaf], true, false);
        let encoding = (z * &slopes[0] * weights.unsqueeze(-1)).sum(Kind::Float);
        Loss { total: decoding + encoding, reported: bound.shallow_clone(), parts: vec![("importance_bound", bound)] }
    }

    fn kl_weight(&self, step: &Step<'_>) -> f64 {
        let warmup = f64::from(self.settings.kl_warmup_epochs);
        let risen = if step.training && warmup > 0.0 { (step.epoch / warmup).min(1.0) } else { 1.0 };
        self.settings.beta * risen
    }
}

impl Network for Variational {
    fn encode(&self, x: &Tensor) -> Code {
        let (mean, log_variance) = self.posterior(x, None);
        Code { mean, spread: Some((log_variance * 0.5).exp()) }
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        self.decoder.forward(z, None)
    }

    fn likelihood(&self) -> &Likelihood {
        &self.likelihood
    }

    fn prior(&self, rows: i64, temperature: f64, noise: &Noise) -> Option<Tensor> {
        Some(noise.normal(&[rows, i64::from(self.settings.latent)]) * temperature)
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let samples = i64::from(self.settings.samples);
        if samples > 1 {
            return self.importance_bound(x, samples, step);
        }
        if let Some(loss) = self.loss_at_once(x, step) {
            return loss;
        }
        let (z, units) = self.draw(x, step);
        let reconstruction = mean(&self.likelihood.negative_log(&self.decoder.forward(&z, Some(step)), x));
        let kl = units.sum(Kind::Float);
        let pressing = if step.training && self.settings.free_bits > 0.0 {
            units.clamp_min(self.settings.free_bits).sum(Kind::Float)
        } else {
            kl.shallow_clone()
        };
        let total = &reconstruction + pressing * self.kl_weight(step);
        Loss::new(total, vec![("reconstruction", reconstruction), ("kl", kl)])
    }

    fn unit_kl(&self, x: &Tensor) -> Option<Tensor> {
        let (center, log_variance) = self.posterior(x, None);
        Some(unit_kl(&center, &log_variance).mean_dim([0].as_slice(), false, Kind::Float))
    }

    fn log_weights(&self, x: &Tensor, samples: u32, noise: &Noise) -> Option<Tensor> {
        let rows = x.size()[0].max(1);
        let samples = i64::from(samples);
        let posterior = self.posterior(x, None);
        let at_once = (LIKELIHOOD_BLOCK / (rows * x.size()[1].max(1))).clamp(1, samples);
        let mut blocks = Vec::new();
        let mut drawn = 0;
        while drawn < samples {
            let count = at_once.min(samples - drawn);
            let z = Self::drawn(&posterior, count, noise);
            blocks.push(self.importance_weights(x, &z, &posterior, None));
            drawn += count;
        }
        Some(Tensor::cat(&blocks, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled};
    use crate::models::network::NetworkSpec;
    use crate::models::noise::Purpose;
    use crate::models::parameters::{Named, Parameters, values};

    /// A linear VAE with known weights, for which log p(x) is a normal density.
    fn linear(settings: Vae, weight: f32, bias: f32) -> Variational {
        linear_with_parameters(settings, weight, bias).0
    }

    fn linear_with_parameters(settings: Vae, weight: f32, bias: f32) -> (Variational, Parameters) {
        let network = NetworkSpec { hidden: Some(vec![]), ..NetworkSpec::default() };
        let likelihood = LikelihoodSpec { variance: Variance::Fixed, ..LikelihoodSpec::of(LikelihoodKind::Gaussian) };
        let columns = [Modelled::linear(LikelihoodKind::Gaussian)];
        let plan = Plan { image: None, network: &network, likelihood: &likelihood, columns: &columns, target: None };
        let mut builder = Builder::new(0, Device::Cpu);
        let built = Variational::build(&settings, &plan, &mut builder);
        let mut parameters = builder.finish();
        let set: Vec<Named> = parameters.named();
        let shapes = |name: &str| set.iter().find(|one| one.name == name).unwrap().shape.clone();
        parameters
            .load(|name| {
                let values = match name {
                    "encoder.0.weight" => vec![0.3, 0.0],
                    "encoder.0.bias" => vec![0.1, -0.4],
                    "decoder.0.weight" => vec![weight],
                    _ => vec![bias],
                };
                Some((shapes(name), values))
            })
            .unwrap();
        (built, parameters)
    }

    fn one() -> Vae {
        Vae { latent: 1, ..Vae::default() }
    }

    #[test]
    fn the_likelihood_of_a_linear_model_is_its_normal_density() {
        // x = 1.7 z + 0.2 + e with z and e standard normal is N(0.2, 1.7² + 1).
        let (weight, bias, x) = (1.7_f64, 0.2_f64, -0.8_f64);
        let variance = weight * weight + 1.0;
        let exact = -0.5 * ((x - bias).powi(2) / variance + variance.ln() + crate::models::losses::LN_2_PI);
        let noise = Noise::new(5, Purpose::Likelihood, 0, Device::Cpu);
        let rows = Tensor::from_slice(&[x as f32]).view([1, 1]);
        let estimate = linear(one(), weight as f32, bias as f32).log_likelihood(&rows, 20_000, &noise).unwrap();
        let estimate = f64::from(values(&estimate)[0]);
        assert!((estimate - exact).abs() < 0.02, "{estimate} is not {exact}");
    }

    #[test]
    fn of_a_row_with_a_gap_the_density_is_that_of_what_is_there() {
        let network = NetworkSpec { hidden: Some(vec![]), ..NetworkSpec::default() };
        let likelihood = LikelihoodSpec { variance: Variance::Fixed, ..LikelihoodSpec::of(LikelihoodKind::Gaussian) };
        let columns = vec![Modelled::linear(LikelihoodKind::Gaussian); 2];
        let plan = Plan { image: None, network: &network, likelihood: &likelihood, columns: &columns, target: None };
        let mut builder = Builder::new(0, Device::Cpu);
        builder.expect_gaps(&[0.5, -1.0]);
        let built = Variational::build(&one(), &plan, &mut builder);
        let mut parameters = builder.finish();
        let shapes: Vec<_> = parameters.named().into_iter().map(|one| (one.name, one.shape)).collect();
        parameters
            .load(|name| {
                let shape = shapes.iter().find(|(other, _)| other == name).unwrap().1.clone();
                let values = match name {
                    "gaps.means" => vec![0.5, -1.0],
                    "encoder.0.weight" => vec![0.3, 0.2, 0.0, 0.0],
                    "encoder.0.bias" => vec![0.1, -0.4],
                    "decoder.0.weight" => vec![1.7, -0.6],
                    _ => vec![0.2, 0.9],
                };
                Some((shape, values))
            })
            .unwrap();
        // Of the pair only the first is observed: x = 1.7 z + 0.2 + e is N(0.2, 1.7² + 1).
        let x = Tensor::from_slice(&[-0.8_f32, f32::NAN]).view([1, 2]);
        let variance = 1.7_f64 * 1.7 + 1.0;
        let exact = -0.5 * (1.0 / variance + variance.ln() + crate::models::losses::LN_2_PI);
        let noise = Noise::new(5, Purpose::Likelihood, 0, Device::Cpu);
        let estimate = f64::from(values(&built.log_likelihood(&x, 20_000, &noise).unwrap())[0]);
        assert!((estimate - exact).abs() < 0.02, "{estimate} is not {exact}");
        // The importance-weighted bound comes near it too, from above its negative.
        let many = Variational { settings: Vae { samples: 500, ..one() }, ..built };
        let noise = || Noise::new(6, Purpose::Training, 0, Device::Cpu);
        let bound = many.loss(&x, &Step::training(&noise())).total.double_value(&[]);
        assert!(bound.is_finite());
        let reported = many.loss(&x, &Step::training(&noise())).reported.double_value(&[]);
        assert!((reported + exact).abs() < 0.1, "{reported} is not {}", -exact);
        // q has mean 0.3 * -0.8 + 0.2 * -1 + 0.1, the gap being seen as the mean of its column.
        let single = Variational { settings: one(), ..many };
        let loss = single.loss(&x, &Step::training(&noise()));
        let kl = 0.5 * (0.34_f64.powi(2) + (-0.4_f64).exp() + 0.4 - 1.0);
        assert!((loss.parts[1].1.double_value(&[]) - kl).abs() < 1e-6);
        let gradient = values(&parameters.gradient(&loss.total, &parameters.part(&["decoder"])));
        // Weight and bias of the column that is missing stay where they are.
        assert!(gradient[0] != 0.0 && gradient[1] == 0.0 && gradient[2] != 0.0 && gradient[3] == 0.0, "{gradient:?}");
    }

    #[test]
    fn parts_add_up_and_the_kl_is_the_closed_form() {
        let network = linear(Vae { beta: 3.0, ..one() }, 1.0, 0.0);
        let noise = Noise::new(5, Purpose::Training, 0, Device::Cpu);
        let rows = Tensor::from_slice(&[2.0_f32]).view([1, 1]);
        let loss = network.loss(&rows, &Step::training(&noise));
        let parts: Vec<f64> = loss.parts.iter().map(|(_, part)| part.double_value(&[])).collect();
        // q has mean 0.3 * 2 + 0.1 = 0.7 and log-variance -0.4.
        let kl = 0.5 * (0.49 + (-0.4_f64).exp() + 0.4 - 1.0);
        assert!((parts[1] - kl).abs() < 1e-6, "{parts:?}");
        assert!((loss.total.double_value(&[]) - (parts[0] + 3.0 * parts[1])).abs() < 1e-6);
    }

    #[test]
    fn the_kl_warms_up_in_training_and_counts_in_full_in_validation() {
        let network = linear(Vae { kl_warmup_epochs: 4, ..one() }, 1.0, 0.0);
        let rows = Tensor::from_slice(&[2.0_f32]).view([1, 1]);
        let weight = |training, epoch| {
            let noise = Noise::new(5, Purpose::Training, 0, Device::Cpu);
            let loss = network.loss(&rows, &Step { training, epoch, ..Step::training(&noise) });
            let [reconstruction, kl] = [0, 1].map(|part| loss.parts[part].1.double_value(&[]));
            (loss.total.double_value(&[]) - reconstruction) / kl
        };
        for (training, epoch, expected) in [(true, 0.0, 0.0), (true, 1.0, 0.25), (true, 9.0, 1.0), (false, 0.0, 1.0)] {
            assert!((weight(training, epoch) - expected).abs() < 1e-5, "{training} {epoch}");
        }
    }

    #[test]
    fn free_bits_press_on_a_unit_only_above_them() {
        let rows = Tensor::from_slice(&[2.0_f32]).view([1, 1]);
        let pressing = |free_bits, training| {
            let noise = Noise::new(5, Purpose::Training, 0, Device::Cpu);
            let network = linear(Vae { free_bits, ..one() }, 1.0, 0.0);
            let loss = network.loss(&rows, &Step { training, ..Step::training(&noise) });
            loss.total.double_value(&[]) - loss.parts[0].1.double_value(&[])
        };
        // The KL of this unit is 0.2801600...: q has mean 0.7 and log-variance -0.4.
        let kl = 0.5 * (0.49 + (-0.4_f64).exp() + 0.4 - 1.0);
        for (free_bits, training, expected) in [(0.0, true, kl), (0.1, true, kl), (2.0, true, 2.0), (2.0, false, kl)] {
            assert!((pressing(free_bits, training) - expected).abs() < 1e-5, "{free_bits} {training}");
        }
    }

    #[test]
    fn more_importance_samples_tighten_the_bound() {
        let rows = Tensor::from_slice(&[-0.8_f32]).view([1, 1]).repeat([2000, 1]);
        let bound = |samples| {
            let noise = Noise::new(5, Purpose::Training, 0, Device::Cpu);
            let network = linear(Vae { samples, ..one() }, 1.7, 0.2);
            network.loss(&rows, &Step::training(&noise)).reported.double_value(&[])
        };
        let exact = 0.5 * (1.0 / 3.89 + 3.89_f64.ln() + crate::models::losses::LN_2_PI);
        assert!(bound(1) > bound(5) && bound(5) > bound(50), "{} {} {}", bound(1), bound(5), bound(50));
        assert!((bound(50) - exact).abs() < 0.05);
    }
    #[test]
    fn the_gradient_of_the_importance_bound_is_the_bounds_with_less_noise_in_the_encoder() {
        let (samples, rows) = (8, 40_000);
        let (network, parameters) = linear_with_parameters(Vae { samples: 8, ..one() }, 1.7, 0.2);
        let x = Tensor::from_slice(&[-0.8_f32]).view([1, 1]).repeat([rows, 1]);
        let all = parameters.part(&[] as &[&str]);
        let noise = Noise::new(5, Purpose::Training, 0, Device::Cpu);
        let ours = values(&parameters.gradient(&network.loss(&x, &Step::training(&noise)).total, &all));
        // The bound itself, as Burda et al. differentiate it.
        let noise = Noise::new(6, Purpose::Training, 0, Device::Cpu);
        let plain = |x: &Tensor| {
            let posterior = network.posterior(x, None);
            let z = Variational::drawn(&posterior, samples, &noise);
            -mean(&network.importance_weights(x, &z, &posterior, None).logsumexp([0].as_slice(), false))
        };
        let theirs = values(&parameters.gradient(&plain(&x), &all));
        assert_eq!(ours.len(), 6);
        for (number, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert!((ours - theirs).abs() < 0.02, "parameter {number}: {ours} is not {theirs}");
        }
        // From row to row, the slope of the encoder's mean (its second trained number is a bias) scatters less.
        let encoder = parameters.part(&["encoder.0.bias"]);
        let scatter = |gradient: &dyn Fn() -> Tensor| {
            let slopes: Vec<f64> =
                (0..300).map(|_| f64::from(values(&parameters.gradient(&gradient(), &encoder))[0])).collect();
            let center = slopes.iter().sum::<f64>() / 300.0;
            slopes.iter().map(|slope| (slope - center).powi(2)).sum::<f64>() / 299.0
        };
        let row = x.narrow(0, 0, 1);
        let (mine, plains) = (scatter(&|| network.loss(&row, &Step::training(&noise)).total), scatter(&|| plain(&row)));
        assert!(mine < 0.7 * plains, "{mine} beside {plains}");
    }
}
