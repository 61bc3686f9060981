//! Deep Gaussian process autoencoder: every layer is a Gaussian process, seen through random features.
//!
//! loss = E_q[-log p(x given g(f(x)))] + KL(q(W) || N(0, I)) / rows, layer(x) = Φ(x) W
//!        (Cutajar, Bonilla, Michiardi and Filippone, 2017)
//!
//! Φ(x) = [sqrt(σ²/D) cos(xΩ), sqrt(σ²/D) sin(xΩ), τx] with D random frequencies Ω ~ N(0, 1/ℓ²) stands for the kernel
//! σ² exp(-‖x - x'‖² / 2ℓ²) + Σ τ² x x' (Rahimi and Recht, 2008, for the first term; the second, exact, is Bayesian linear
//! regression, so that a process holds what is linear without spending frequencies on it). The directions stay; σ, and for each
//! input a length ℓ and a slope τ, are learned. Weights have a normal posterior each. A layer's output for a row is drawn
//! directly, with mean ΦM and variance Φ²S (Kingma, Salimans and Welling, 2015). Where there is no data the posterior of a
//! frequency stays the prior and the spread of the slopes grows with the distance, so that what is told there has a wide spread.
//!
//! The network's own layers are not used: hidden layers are processes too. With label columns, one more process tells them
//! from the code.

use std::cell::OnceCell;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::likelihood::{Likelihood, Modelled, Variance};
use super::losses::{known_negative_log, mean};
use super::network::Plan;
use super::noise::{Noise, Purpose};
use super::parameters::{Builder, Filling};
use super::{Code, Family, Labels, Loss, Network, Sampling, Step};
use crate::domain::limits::EPOCHS;
use crate::domain::refusal::Faults;

/// Settings of a deep Gaussian process autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeepGp {
    /// Width of the code.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// Processes one after the other in the encoder, and as many in the decoder.
    #[schema(minimum = 1, maximum = 8)]
    pub layers: u32,
    /// Width between two processes of the encoder or the decoder.
    #[schema(minimum = 1, maximum = 65536)]
    pub width: u32,
    /// Random frequencies of each process.
    #[schema(minimum = 1, maximum = 65536)]
    pub features: u32,
    /// Draws per row in training.
    #[schema(minimum = 1, maximum = 100)]
    pub samples: u32,
    /// Epochs over which the weight of the KL term rises from 0 to 1; 0 for none.
    #[schema(minimum = 0, maximum = 100000)]
    pub kl_warmup_epochs: u32,
    /// Weight of the labels beside the row, where there are label columns.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub label_weight: f64,
}

impl Default for DeepGp {
    fn default() -> Self {
        Self { latent: 8, layers: 1, width: 16, features: 64, samples: 1, kl_warmup_epochs: 10, label_weight: 1.0 }
    }
}

impl Family for DeepGp {
    const FORMULA: &'static str = "E_q[-log p(x | g(f(x)))] + KL(q(W) || N(0, I)) / rows, layers Φ(x) W";
    const PAPER: &'static str = "Cutajar et al., Random feature expansions for deep Gaussian processes, 2017";
    const SAMPLING: Sampling = Sampling::Fitted;
    const VARIANCE: Variance = Variance::Shared;
    const LABELS: Labels = Labels::Optional;
    const STOCHASTIC: bool = true;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn passes(&self) -> u32 {
        self.samples
    }

    fn check(&self, faults: &mut Faults) {
        faults.require_within("/layers", self.layers, 1..=8);
        faults.require_within("/width", self.width, 1..=65_536);
        faults.require_within("/features", self.features, 1..=65_536);
        faults.require_within("/samples", self.samples, 1..=100);
        faults.require_within("/kl_warmup_epochs", self.kl_warmup_epochs, 0..=EPOCHS);
        faults.require_within("/label_weight", self.label_weight, 0.0..=1000.0);
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let features = i64::from(self.features);
        let (rows, latent, between) = (plan.width(), i64::from(self.latent), i64::from(self.width));
        let zeros = |width: i64| vec![0.0; width as usize];
        let processes = |name: &str, from: i64, last: Vec<f32>, builder: &mut Builder| -> Vec<Process> {
            let inner = std::iter::repeat_n(zeros(between), self.layers as usize - 1);
            let mut inputs = from;
            (inner.chain([last]).enumerate())
                .map(|(layer, start)| {
                    let inputs = std::mem::replace(&mut inputs, start.len() as i64);
                    builder
                        .within(&format!("{name}.{layer}"), |builder| Process::build(inputs, &start, features, builder))
                })
                .collect()
        };
        let encoder = processes("encoder", rows, zeros(latent), builder);
        let decoder = processes("decoder", latent, Modelled::starts(plan.columns), builder);
        let head = plan.target.map(|target| {
            let start = Modelled::starts(target.columns);
            let process = builder.within("head", |builder| Process::build(latent, &start, features, builder));
            let likelihood = builder
                .within("head_likelihood", |builder| Likelihood::build(target.likelihood, target.columns, builder));
            (process, likelihood)
        });
        let (filling, likelihood) = (builder.filling(), plan.likelihood(builder));
        let (output_draws, label_draws) = (OnceCell::new(), OnceCell::new());
        Box::new(Processes {
            settings: self.clone(),
            filling,
            encoder,
            decoder,
            head,
            likelihood,
            output_draws,
            label_draws,
        })
    }
}

/// One layer: as many processes over its inputs as it has outputs.
struct Process {
    /// Directions of unit length scale, `[inputs, features]`.
    frequencies: Tensor,
    /// How far the logarithms of the lengths have moved, `[inputs]`.
    length_drift: Tensor,
    /// How far the logarithm of σ² has moved, `[1]`.
    amplitude_drift: Tensor,
    /// How far the logarithms of τ² have moved, `[inputs]`.
    slope_drift: Tensor,
    /// Means of the weights, `[2 * features + inputs, outputs]`.
    means: Tensor,
    /// How far the logarithms of their deviations have moved, `[2 * features + inputs, outputs]`.
    deviation_drift: Tensor,
    /// What the processes are around, `[outputs]`.
    constant: Tensor,
    log_length: f64,
}

/// Where the logarithms of deviations start: narrow, so that training begins with little noise.
const LOG_DEVIATION: f64 = -3.0;
/// What a drift of 1 means for a deviation, and for a length or an amplitude; Adam moves drifts by about the learning rate.
const UNIT: f64 = 10.0;
const KERNEL_UNIT: f64 = 3.0;
/// Logarithms of lengths and amplitudes stay this near to where they start.
const KERNEL_RANGE: f64 = 6.0;
/// Draws of the weights that a mean or a spread is told from; even, because they come in pairs.
const SPREAD_DRAWS: i64 = 64;

/// What a layer's output has for noise.
#[derive(Clone, Copy)]
enum Weights<'a> {
    /// None: weights are at their means.
    Means,
    /// A draw for each row.
    Drawn(&'a Noise),
    /// The same draw for all rows, so that no row's answer depends on those beside it: normal numbers `[draws, 1, outputs]`.
    Shared(&'a Tensor),
}

impl Process {
    /// Processes around the constants `start`, one for each output.
    fn build(inputs: i64, start: &[f32], features: i64, builder: &mut Builder) -> Self {
        let outputs = start.len() as i64;
        let weights = 2 * features + inputs;
        Self {
            frequencies: builder.normal_buffer("frequencies", &[inputs, features], 1.0),
            length_drift: builder.constant("length_drift", &[inputs], 0.0),
            amplitude_drift: builder.constant("amplitude_drift", &[1], 0.0),
            slope_drift: builder.constant("slope_drift", &[inputs], 0.0),
            means: builder.normal("means", &[weights, outputs], 1.0 / (features as f64).sqrt()),
            deviation_drift: builder.constant("deviation_drift", &[weights, outputs], 0.0),
            constant: builder.given("constant", &[outputs], start),
            // Rows of standard columns are about sqrt(inputs) from their mean and from each other.
            log_length: 0.5 * (inputs as f64).ln(),
        }
    }

    /// Φ(x), `[..., inputs]` to `[..., 2 * features + inputs]`.
    fn features(&self, x: &Tensor) -> Tensor {
        let drift = |drift: &Tensor| (drift * KERNEL_UNIT).clamp(-KERNEL_RANGE, KERNEL_RANGE);
        let lengths = (drift(&self.length_drift) + self.log_length).exp();
        let phases = (x / lengths).matmul(&self.frequencies);
        let amplitude = (drift(&self.amplitude_drift) * 0.5).exp() / (self.frequencies.size()[1] as f64).sqrt();
        let slopes = ((drift(&self.slope_drift)) * 0.5 - self.log_length).exp();
        Tensor::cat(&[phases.cos() * &amplitude, phases.sin() * &amplitude, x * slopes], -1)
    }

    fn log_deviations(&self) -> Tensor {
        (&self.deviation_drift * UNIT + LOG_DEVIATION).clamp(-12.0, 3.0)
    }

    /// Mean and variance of the outputs over the weights, each `[..., outputs]`.
    fn moments(&self, x: &Tensor) -> (Tensor, Tensor) {
        let features = self.features(x);
        let variance = features.square().matmul(&(self.log_deviations() * 2.0).exp());
        (features.matmul(&self.means) + &self.constant, variance.clamp_min(1e-12))
    }

    fn forward(&self, x: &Tensor, weights: Weights<'_>) -> Tensor {
        let (mean, variance) = match weights {
            Weights::Means => return self.features(x).matmul(&self.means) + &self.constant,
            _ => self.moments(x),
        };
        let noise = match weights {
            Weights::Drawn(noise) => noise.normal(&mean.size()),
            Weights::Shared(normal) => normal.shallow_clone(),
            Weights::Means => unreachable!("answered above; this is a bug"),
        };
        mean + variance.sqrt() * noise
    }

    /// KL(q(W) || N(0, I)) in nats.
    fn kl(&self) -> Tensor {
        let log_deviations = self.log_deviations();
        let each: Tensor = (self.means.square() + (&log_deviations * 2.0).exp() - 1.0) * 0.5 - log_deviations;
        each.sum(Kind::Float)
    }
}

struct Processes {
    settings: DeepGp,
    /// Of the rows that go into the encoder.
    filling: Filling,
    encoder: Vec<Process>,
    decoder: Vec<Process>,
    /// From codes to labels.
    head: Option<(Process, Likelihood)>,
    likelihood: Likelihood,
    /// Draws for the spread of outputs, and for what is told of labels; the same at every call, and kept after the first.
    output_draws: OnceCell<Vec<Tensor>>,
    label_draws: OnceCell<Vec<Tensor>>,
}

fn through<'a>(processes: &[Process], x: &Tensor, weights: impl Fn(usize) -> Weights<'a>) -> Tensor {
    let layers = processes.iter().enumerate();
    layers.fold(x.shallow_clone(), |x, (place, process)| process.forward(&x, weights(place)))
}

/// Draws for the weights of some processes, `[draws, 1, outputs]` each.
///
/// The second half is the first with the other sign, and the mean square is 1: so the mean and the variance over the draws are
/// those of the weights after one process, and what is linear in them has no error after several. All rows share the draws, so
/// an error of theirs would move every answer in the same direction.
fn shared_draws<'a>(processes: impl Iterator<Item = &'a Process>, device: tch::Device) -> Vec<Tensor> {
    let noise = Noise::new(0, Purpose::Inference, 0, device);
    let draws = |process: &Process| {
        let half = noise.normal(&[SPREAD_DRAWS / 2, 1, process.constant.size()[0]]);
        let half = &half / half.square().mean_dim([0].as_slice(), true, Kind::Float).sqrt();
        Tensor::cat(&[&half, &-&half], 0)
    };
    processes.map(draws).collect()
}

/// Rows as often as there are draws, `[draws, rows, columns]`.
fn repeated(x: &Tensor, draws: i64) -> Tensor {
    x.unsqueeze(0).expand([draws, -1, -1], false)
}

impl Processes {
    /// The outputs that some draws of the weights give for codes, `[draws, rows, width]`. The same draws at every call.
    fn drawn_outputs(&self, z: &Tensor) -> Tensor {
        let draws = self.output_draws.get_or_init(|| shared_draws(self.decoder.iter(), z.device()));
        through(&self.decoder, &repeated(z, SPREAD_DRAWS), |place| Weights::Shared(&draws[place]))
    }

    /// What some draws of all weights say of the labels, `[draws, rows, labels]`. What is told is their mean: between processes
    /// the mean over the weights is not what the mean weights say.
    fn drawn_labels(&self, x: &Tensor) -> Option<(Tensor, &Likelihood)> {
        let (process, likelihood) = self.head.as_ref()?;
        let draws = self.label_draws.get_or_init(|| shared_draws(self.encoder.iter().chain([process]), x.device()));
        let weights = |place: usize| Weights::Shared(&draws[place]);
        let code = through(&self.encoder, &repeated(&self.filling.fill(x), SPREAD_DRAWS), weights);
        Some((process.forward(&code, weights(self.encoder.len())), likelihood))
    }
}

impl Network for Processes {
    fn encode(&self, x: &Tensor) -> Code {
        let (last, before) = self.encoder.split_last().expect("there is a layer; this is a bug");
        let (mean, variance) = last.moments(&through(before, &self.filling.fill(x), |_| Weights::Means));
        Code { mean, spread: Some(variance.sqrt()) }
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        through(&self.decoder, z, |_| Weights::Means)
    }

    fn likelihood(&self) -> &Likelihood {
        &self.likelihood
    }

    fn spread(&self, z: &Tensor) -> Tensor {
        self.likelihood.spread_over(&self.drawn_outputs(z))
    }

    fn draw(&self, z: &Tensor, noise: &Noise) -> Tensor {
        let outputs = through(&self.decoder, &repeated(z, 1), |_| Weights::Drawn(noise));
        self.likelihood.draw(&outputs.squeeze_dim(0), noise)
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let weights = Weights::Drawn(step.noise);
        let code =
            through(&self.encoder, &repeated(&self.filling.fill(x), i64::from(self.settings.samples)), |_| weights);
        let outputs = through(&self.decoder, &code, |_| weights);
        let reconstruction = mean(&self.likelihood.negative_log(&outputs, x));
        let heads = self.head.iter().map(|(process, _)| process);
        let kl = self.encoder.iter().chain(&self.decoder).chain(heads).map(Process::kl);
        let kl = kl.reduce(|sum, kl| sum + kl).expect("there is a layer; this is a bug") / step.train_rows;
        let warmup = f64::from(self.settings.kl_warmup_epochs);
        let risen = if step.training && warmup > 0.0 { (step.epoch / warmup).min(1.0) } else { 1.0 };
        let mut total = &reconstruction + &kl * risen;
        let mut parts = vec![("reconstruction", reconstruction), ("kl", kl)];
        if let (Some((process, likelihood)), Some(labels)) = (&self.head, step.labels) {
            let supervised = known_negative_log(likelihood, &process.forward(&code, weights), labels);
            total += &supervised * self.settings.label_weight;
            parts.push(("supervised", supervised));
        }
        Loss::new(total, parts)
    }

    fn predict(&self, x: &Tensor) -> Option<(Tensor, &Likelihood)> {
        let (outputs, likelihood) = self.drawn_labels(x)?;
        Some((outputs.mean_dim([0].as_slice(), false, Kind::Float), likelihood))
    }

    fn predict_spread(&self, x: &Tensor) -> Option<Tensor> {
        let (outputs, likelihood) = self.drawn_labels(x)?;
        Some(likelihood.spread_over(&outputs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parameters::values;
    use tch::Device;

    fn process(features: i64) -> Process {
        let mut builder = Builder::new(4, Device::Cpu);
        let process = Process::build(2, &[0.0; 3], features, &mut builder);
        let _ = builder.finish();
        process
    }

    #[test]
    fn many_random_features_are_the_kernel() {
        let process = process(20_000);
        let x = Tensor::from_slice(&[0.4_f32, -1.0, 1.3, 0.8]).view([2, 2]);
        let features = process.features(&x);
        let kernel = values(&features.matmul(&features.transpose(0, 1)));
        // Lengths start at sqrt(2) and slopes at its inverse, so k = exp(-‖x - x'‖² / 4) + x x' / 2.
        let apart = 0.9_f64.powi(2) + 1.8_f64.powi(2);
        let [first, both, second] = [0.16 + 1.0, 0.52 - 0.8, 1.69 + 0.64].map(|product: f64| product / 2.0);
        let between = (-apart / 4.0).exp() + both;
        for (found, expected) in kernel.iter().zip([1.0 + first, between, between, 1.0 + second]) {
            assert!((f64::from(*found) - expected).abs() < 0.02, "{kernel:?}");
        }
    }

    #[test]
    fn outputs_have_the_moments_of_their_weights() {
        let process = process(8);
        let x = Tensor::from_slice(&[0.4_f32, -1.0]).view([1, 2]);
        let features: Vec<f64> = values(&process.features(&x)).into_iter().map(f64::from).collect();
        let means = values(&process.means);
        let (mean, variance) = process.moments(&x);
        for output in 0..3 {
            let expected: f64 =
                features.iter().enumerate().map(|(f, phi)| phi * f64::from(means[f * 3 + output])).sum();
            assert!((f64::from(values(&mean)[output]) - expected).abs() < 1e-5);
            // Deviations start at e^-3; the squares of cosines and sines sum to 1, those of x to 1.16, with slopes of 1/2.
            assert!((f64::from(values(&variance)[output]) - 1.58 * (-6_f64).exp()).abs() < 1e-6);
        }
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let drawn = process.forward(&repeated(&x, 20_000), Weights::Drawn(&noise));
        let deviation = values(&drawn.std_dim([0].as_slice(), false, false));
        assert!(
            deviation
                .iter()
                .all(|deviation| (f64::from(*deviation) / (1.58_f64.sqrt() * (-3_f64).exp()) - 1.0).abs() < 0.03)
        );
    }

    #[test]
    fn the_draws_that_answers_are_made_from_have_the_moments_of_the_weights() {
        let process = process(8);
        let draws = shared_draws([&process].into_iter(), Device::Cpu);
        let x = Tensor::from_slice(&[0.4_f32, -1.0, 1.3, 0.8]).view([2, 2]);
        let drawn = process.forward(&repeated(&x, SPREAD_DRAWS), Weights::Shared(&draws[0]));
        let (mean, variance) = process.moments(&x);
        let near = |found: &Tensor, expected: &Tensor| {
            let pairs = values(found).into_iter().zip(values(expected));
            pairs.into_iter().all(|(found, expected)| (found - expected).abs() < 1e-4 * expected.abs().max(0.1))
        };
        assert!(near(&drawn.mean_dim([0].as_slice(), false, Kind::Float), &mean));
        assert!(near(&drawn.var_dim([0].as_slice(), false, false).sqrt(), &variance.sqrt()));
    }

    #[test]
    fn the_kl_of_the_weights_is_the_closed_form() {
        let process = process(4);
        let means: f64 = values(&process.means).iter().map(|mean| f64::from(mean * mean)).sum();
        let count = 30.0;
        let expected = 0.5 * means + count * (0.5 * ((-6_f64).exp() - 1.0) + 3.0);
        assert!((process.kl().double_value(&[]) - expected).abs() < 1e-3);
    }
}
