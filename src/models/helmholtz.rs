//! Helmholtz machine: layers of binary units that recognise, and layers that generate, each the teacher of the other.
//!
//! wake_sleep:  the generative net learns -log p(x, h) for h drawn from q(h given x), the recognition net -log q(h given x) for
//!              rows and units that the generative net dreams   (Hinton, Dayan, Frey and Neal, 1995)
//! reweighted:  of K draws h_k from q(h given x), each counts by its share of the importance weights
//!              w_k = p(x, h_k) / q(h_k given x); the recognition net learns from these and from dreams in equal parts
//!              (Bornschein and Bengio, 2015)
//!
//! Both curves show -log (1/K) Σ_k w_k, a bound of -log p(x); with one draw it is the evidence lower bound. Units are binary, so no
//! gradient goes through a draw: the players' gradients touch different parameters, and both move in one turn.
//!
//! The network's own layers stand between the rows and the first binary layer; binary layers are joined by single linear maps.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::likelihood::{Likelihood, Variance};
use super::losses::{mean, sum_columns};
use super::mlp::Mlp;
use super::network::{Body, NetworkSpec, Plan};
use super::noise::Noise;
use super::parameters::Builder;
use super::{Code, Family, Loss, Network, Sampling, Step};
use crate::domain::limits::LAYER_UNITS;
use crate::domain::refusal::Faults;

/// How a Helmholtz machine learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HelmholtzAlgorithm {
    /// Several draws, weighted by how well they explain the row.
    #[default]
    Reweighted,
    /// One draw.
    WakeSleep,
}

/// Settings of a Helmholtz machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Helmholtz {
    /// Width of the top binary layer, which is the code.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// Widths of binary layers between the rows and the top, from below; at most 8.
    pub layers: Vec<u32>,
    /// How it learns.
    pub algorithm: HelmholtzAlgorithm,
    /// Draws per row of the `reweighted` algorithm.
    #[schema(minimum = 1, maximum = 100)]
    pub samples: u32,
}

impl Default for Helmholtz {
    fn default() -> Self {
        Self { latent: 32, layers: Vec::new(), algorithm: HelmholtzAlgorithm::Reweighted, samples: 5 }
    }
}

/// Binary layers below the top.
const LAYERS_BELOW: usize = 8;

impl Family for Helmholtz {
    const FORMULA: &'static str = "-log (1/K) Σ_k p(x, h_k) / q(h_k | x), h_k binary, drawn from q";
    const PAPER: &'static str = "Bornschein and Bengio, Reweighted wake-sleep, 2015";
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
        faults.require_within("/samples", self.samples, 1..=100);
        for (position, units) in self.layers.iter().enumerate() {
            faults.require_within(&format!("/layers/{position}"), *units, 1..=LAYER_UNITS);
        }
        if self.layers.len() > LAYERS_BELOW {
            let detail = format!("has {} layers; allowed are up to {LAYERS_BELOW}", self.layers.len());
            faults.push("/layers", "too_many", detail);
        }
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let widths: Vec<i64> = self.layers.iter().copied().chain([self.latent]).map(i64::from).collect(); // from below to the top
        let linear = NetworkSpec::default();
        let link = |name: String, widths: [i64; 2], builder: &mut Builder| {
            builder.within(&name, |builder| Mlp::build(&widths, &linear, builder))
        };
        let recognise_rows = plan.encoder("recognition.rows", widths[0], builder);
        let recognise = widths
            .windows(2)
            .enumerate()
            .map(|(layer, pair)| link(format!("recognition.{layer}"), [pair[0], pair[1]], builder))
            .collect();
        let prior = builder.constant("generative.prior", &[i64::from(self.latent)], 0.0);
        let generate = widths
            .windows(2)
            .enumerate()
            .map(|(layer, pair)| link(format!("generative.{layer}"), [pair[1], pair[0]], builder))
            .collect();
        let generate_rows = plan.decoder("generative.rows", widths[0], &recognise_rows, builder);
        let likelihood = plan.likelihood(builder);
        let samples = match self.algorithm {
            HelmholtzAlgorithm::Reweighted => i64::from(self.samples),
            HelmholtzAlgorithm::WakeSleep => 1,
        };
        Box::new(Machine {
            algorithm: self.algorithm,
            samples,
            recognise_rows,
            recognise,
            prior,
            generate,
            generate_rows,
            likelihood,
        })
    }
}

struct Machine {
    algorithm: HelmholtzAlgorithm,
    samples: i64,
    /// From rows to the logits of the lowest binary layer.
    recognise_rows: Body,
    /// From each binary layer to the logits of the next above.
    recognise: Vec<Mlp>,
    /// Logits of the top layer.
    prior: Tensor,
    /// From each binary layer but the lowest to the logits of the one below it, the lowest pair first.
    generate: Vec<Mlp>,
    /// From the lowest binary layer to the likelihood's parameters.
    generate_rows: Body,
    likelihood: Likelihood,
}

/// Values of binary layers that are in memory at once while a likelihood is estimated.
const LIKELIHOOD_BLOCK: i64 = 1 << 21;

/// log p of binary units by their logits, summed over units.
fn log_bernoulli(h: &Tensor, logits: &Tensor) -> Tensor {
    sum_columns(&(h * logits - logits.softplus()))
}

/// Binary layers, from below, and log q of them given the row.
struct Recognised {
    layers: Vec<Tensor>,
    log_q: Tensor,
}

impl Machine {
    /// `samples` draws of all layers: each `[samples, rows, units]`, log q `[samples, rows]`.
    fn recognised(&self, x: &Tensor, samples: i64, noise: &Noise, step: Option<&Step<'_>>) -> Recognised {
        let logits = self.recognise_rows.forward(x, step).unsqueeze(0);
        let size = logits.size();
        let mut h = noise.bernoulli(&logits.sigmoid().expand([samples, size[1], size[2]], false));
        let mut log_q = log_bernoulli(&h, &logits);
        let mut layers = vec![h.shallow_clone()];
        for map in &self.recognise {
            let logits = map.forward(&h, None);
            h = noise.bernoulli(&logits.sigmoid());
            log_q = &log_q + log_bernoulli(&h, &logits);
            layers.push(h.shallow_clone());
        }
        Recognised { layers, log_q }
    }

    /// log p(x, h) of layers `[samples, rows, units]`.
    fn log_joint(&self, x: &Tensor, layers: &[Tensor], step: Option<&Step<'_>>) -> Tensor {
        let top = layers.last().expect("there is a top layer; this is a bug");
        let mut log_p = log_bernoulli(top, &self.prior);
        for (pair, map) in layers.windows(2).zip(&self.generate) {
            log_p = &log_p + log_bernoulli(&pair[0], &map.forward(&pair[1], None));
        }
        log_p - self.likelihood.negative_log(&self.generate_rows.forward(&layers[0], step), x)
    }

    /// log q of layers that were dreamt, `[rows, units]` each, for the rows dreamt of them.
    fn log_recognition(&self, x: &Tensor, layers: &[Tensor], step: &Step<'_>) -> Tensor {
        let mut log_q = log_bernoulli(&layers[0], &self.recognise_rows.forward(x, Some(step)));
        for (pair, map) in layers.windows(2).zip(&self.recognise) {
            log_q = &log_q + log_bernoulli(&pair[1], &map.forward(&pair[0], None));
        }
        log_q
    }

    /// Layers drawn from the generative net, from below, and rows drawn of them.
    fn dream(&self, rows: i64, noise: &Noise) -> (Tensor, Vec<Tensor>) {
        let _guard = tch::no_grad_guard();
        let top = noise.bernoulli(&self.prior.sigmoid().unsqueeze(0).expand([rows, self.prior.size()[0]], false));
        let mut layers = vec![top];
        for map in self.generate.iter().rev() {
            layers.push(noise.bernoulli(&map.forward(&layers[layers.len() - 1], None).sigmoid()));
        }
        layers.reverse();
        let x = self.likelihood.draw(&self.generate_rows.forward(&layers[0], None), noise);
        (x, layers)
    }

    /// Probabilities of the top layer, with those below at theirs.
    fn top_logits(&self, x: &Tensor) -> Tensor {
        let lowest = self.recognise_rows.forward(x, None);
        self.recognise.iter().fold(lowest, |logits, map| map.forward(&logits.sigmoid(), None))
    }
}

impl Network for Machine {
    fn encode(&self, x: &Tensor) -> Code {
        let p = self.top_logits(x).sigmoid();
        let variance: Tensor = &p * (1.0 - &p);
        Code { spread: Some(variance.clamp_min(1e-12).sqrt()), mean: p }
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        let lowest = self.generate.iter().rev().fold(z.shallow_clone(), |h, map| map.forward(&h, None).sigmoid());
        self.generate_rows.forward(&lowest, None)
    }

    fn likelihood(&self) -> &Likelihood {
        &self.likelihood
    }

    /// Binary codes by the learned prior; a temperature divides its logits, and at 0 each unit is what it most often is.
    fn prior(&self, rows: i64, temperature: f64, noise: &Noise) -> Option<Tensor> {
        let p = (&self.prior / temperature.max(1e-6)).sigmoid();
        Some(noise.bernoulli(&p.unsqueeze(0).expand([rows, self.prior.size()[0]], false)))
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let Recognised { layers, log_q } = self.recognised(x, self.samples, step.noise, Some(step));
        let log_p = self.log_joint(x, &layers, Some(step));
        let log_weights = (&log_p - &log_q).detach(); // [samples, rows]
        let bound = mean(&((self.samples as f64).ln() - log_weights.logsumexp([0].as_slice(), false)));
        let shares = log_weights.softmax(0, Kind::Float);
        let weighted = |log: &Tensor| mean(&-(&shares * log).sum_dim_intlist([0].as_slice(), false, Kind::Float));
        let generative = weighted(&log_p);
        let (dreamt, dreams) = self.dream(x.size()[0], step.noise);
        let sleep = mean(&-self.log_recognition(&dreamt, &dreams, step));
        let recognition = match self.algorithm {
            HelmholtzAlgorithm::WakeSleep => sleep.shallow_clone(),
            HelmholtzAlgorithm::Reweighted => (&sleep + weighted(&log_q)) * 0.5,
        };
        let total = &generative + &recognition;
        let parts = vec![("generative", generative), ("recognition", recognition), ("sleep", sleep)];
        Loss { total, reported: bound, parts }
    }

    fn log_weights(&self, x: &Tensor, samples: u32, noise: &Noise) -> Option<Tensor> {
        let samples = i64::from(samples);
        let at_once = (LIKELIHOOD_BLOCK / x.numel().max(1) as i64).clamp(1, samples);
        let mut blocks = Vec::new();
        let mut drawn = 0;
        while drawn < samples {
            let count = at_once.min(samples - drawn);
            let Recognised { layers, log_q } = self.recognised(x, count, noise, None);
            blocks.push(self.log_joint(x, &layers, None) - log_q);
            drawn += count;
        }
        Some(Tensor::cat(&blocks, 0))
    }

    /// Of the top layer, with the layers below at their probabilities.
    fn unit_kl(&self, x: &Tensor) -> Option<Tensor> {
        let logits = self.top_logits(x);
        let p = logits.sigmoid();
        // p log(p / r) + (1 - p) log((1 - p) / (1 - r)), from logits.
        let kl = &p * (&logits - &self.prior) - logits.softplus() + self.prior.softplus();
        Some(kl.mean_dim([0].as_slice(), false, Kind::Float))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled};
    use crate::models::noise::Purpose;
    use crate::models::parameters::{Parameters, values};
    use tch::Device;

    const WIDTH: usize = 3;

    /// Three binary columns under two binary layers of two units, with weights of a size that matters.
    fn built(algorithm: HelmholtzAlgorithm, samples: u32) -> (Box<dyn Network>, Parameters) {
        let network = NetworkSpec { hidden: Some(vec![]), ..NetworkSpec::default() };
        let likelihood = LikelihoodSpec::of(LikelihoodKind::Bernoulli);
        let columns = vec![Modelled::linear(LikelihoodKind::Bernoulli); WIDTH];
        let plan = Plan { image: None, network: &network, likelihood: &likelihood, columns: &columns, target: None };
        let mut builder = Builder::new(4, Device::Cpu);
        let built = Helmholtz { latent: 2, layers: vec![2], algorithm, samples }.build(&plan, &mut builder);
        let mut parameters = builder.finish();
        let noise = Noise::new(9, Purpose::Training, 0, Device::Cpu);
        let count = parameters.count() as i64;
        tch::no_grad(|| parameters.flat().copy_(&noise.normal(&[count])));
        (built, parameters)
    }

    struct Weights(std::collections::BTreeMap<String, Vec<f64>>);

    impl Weights {
        fn of(parameters: &Parameters) -> Self {
            let named = parameters.named().into_iter();
            Self(named.map(|one| (one.name, one.values.into_iter().map(f64::from).collect())).collect())
        }

        /// log p of binary `h` under the map `name` of `below`.
        fn log(&self, name: &str, below: &[f64], h: &[f64]) -> f64 {
            let (weight, bias) = (&self.0[&format!("{name}.0.weight")], &self.0[&format!("{name}.0.bias")]);
            let row = |unit: usize| &weight[unit * below.len()..][..below.len()];
            let logit = |unit: usize| bias[unit] + row(unit).iter().zip(below).map(|(w, x)| w * x).sum::<f64>();
            (0..h.len()).map(|unit| log_unit(h[unit], logit(unit))).sum()
        }

        fn log_joint(&self, x: &[f64], h: [&[f64]; 2]) -> f64 {
            let prior: f64 = h[1].iter().zip(&self.0["generative.prior"]).map(|(h, logit)| log_unit(*h, *logit)).sum();
            prior + self.log("generative.0", h[1], h[0]) + self.log("generative.rows", h[0], x)
        }

        fn log_q(&self, x: &[f64], h: [&[f64]; 2]) -> f64 {
            self.log("recognition.rows", x, h[0]) + self.log("recognition.0", h[0], h[1])
        }
    }

    fn log_unit(h: f64, logit: f64) -> f64 {
        h * logit - (1.0 + logit.exp()).ln()
    }

    const STATES: [[f64; 2]; 4] = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];
    const X: [f64; WIDTH] = [1.0, 0.0, 1.0];

    fn rows(count: i64) -> Tensor {
        Tensor::from_slice(&X.map(|value| value as f32)).view([1, WIDTH as i64]).repeat([count, 1])
    }

    fn every_state() -> impl Iterator<Item = [[f64; 2]; 2]> {
        STATES.into_iter().flat_map(|low| STATES.into_iter().map(move |top| [low, top]))
    }

    #[test]
    fn importance_samples_find_the_likelihood_of_all_states_counted() {
        let (network, parameters) = built(HelmholtzAlgorithm::Reweighted, 5);
        let weights = Weights::of(&parameters);
        let exact = every_state().map(|[low, top]| weights.log_joint(&X, [&low, &top]).exp()).sum::<f64>().ln();
        let noise = Noise::new(1, Purpose::Likelihood, 0, Device::Cpu);
        let found = f64::from(values(&network.log_likelihood(&rows(1), 40_000, &noise).unwrap())[0]);
        assert!((found - exact).abs() < 0.02, "{found} is not {exact}");
        let whole: f64 = (0..8)
            .map(|bits| [0, 1, 2].map(|bit| f64::from(bits >> bit & 1)))
            .map(|x| every_state().map(|[low, top]| weights.log_joint(&x, [&low, &top]).exp()).sum::<f64>())
            .sum();
        assert!((whole - 1.0).abs() < 1e-9, "the reference is no density: {whole}");
    }

    #[test]
    fn one_draw_is_the_evidence_lower_bound_and_the_losses_are_expectations() {
        let (network, parameters) = built(HelmholtzAlgorithm::WakeSleep, 1);
        let weights = Weights::of(&parameters);
        let under_q = |what: &dyn Fn([&[f64]; 2]) -> f64| -> f64 {
            every_state().map(|[low, top]| weights.log_q(&X, [&low, &top]).exp() * what([&low, &top])).sum()
        };
        let bound = under_q(&|h| weights.log_q(&X, h) - weights.log_joint(&X, h));
        let generative = under_q(&|h| -weights.log_joint(&X, h));
        // The dream's own expectation: over all rows and states of the generative net.
        let sleep: f64 = (0..8)
            .map(|bits| [0, 1, 2].map(|bit| f64::from(bits >> bit & 1)))
            .map(|x| {
                every_state()
                    .map(|[low, top]| {
                        let h: [&[f64]; 2] = [&low, &top];
                        -weights.log_joint(&x, h).exp() * weights.log_q(&x, h)
                    })
                    .sum::<f64>()
            })
            .sum();
        let noise = Noise::new(1, Purpose::Training, 0, Device::Cpu);
        let loss = network.loss(&rows(40_000), &Step::training(&noise));
        let found = [&loss.reported, &loss.parts[0].1, &loss.parts[2].1].map(|part| part.double_value(&[]));
        for (found, expected) in found.into_iter().zip([bound, generative, sleep]) {
            assert!((found - expected).abs() < 0.05, "{found} is not {expected}");
        }
    }

    #[test]
    fn each_player_learns_from_its_own_loss() {
        let (network, parameters) = built(HelmholtzAlgorithm::Reweighted, 3);
        let slope = |part: usize, name: &str| {
            let noise = Noise::new(1, Purpose::Training, 0, Device::Cpu);
            let loss = network.loss(&rows(8), &Step::training(&noise));
            let gradient = parameters.gradient(&loss.parts[part].1, &parameters.part(&[name]));
            gradient.abs().sum(Kind::Float).double_value(&[])
        };
        assert!(slope(0, "generative") > 0.0 && slope(1, "recognition") > 0.0);
        let noise = Noise::new(1, Purpose::Training, 0, Device::Cpu);
        let loss = network.loss(&rows(8), &Step::training(&noise));
        // The whole gradient of each net is that of its own part: nothing of the other leaks in.
        for (part, name) in [(0, "generative"), (1, "recognition")] {
            let whole = parameters.part(&[name]);
            let noise = Noise::new(1, Purpose::Training, 0, Device::Cpu);
            let again = network.loss(&rows(8), &Step::training(&noise));
            let (own, total) = (
                parameters.gradient(&again.parts[part].1, &whole),
                values(&parameters.gradient(
                    &network.loss(&rows(8), &Step::training(&Noise::new(1, Purpose::Training, 0, Device::Cpu))).total,
                    &whole,
                )),
            );
            assert_eq!(values(&own), total, "{name}");
        }
        assert!(!loss.reported.requires_grad());
    }

    #[test]
    fn more_draws_tighten_the_bound() {
        let bound = |samples| {
            let (network, _) = built(HelmholtzAlgorithm::Reweighted, samples);
            let noise = Noise::new(1, Purpose::Training, 0, Device::Cpu);
            network.loss(&rows(4_000), &Step::training(&noise)).reported.double_value(&[])
        };
        let bounds = [1, 5, 50].map(bound);
        assert!(bounds[0] > bounds[1] && bounds[1] > bounds[2], "{bounds:?}");
    }

    #[test]
    fn a_prior_of_no_temperature_gives_what_units_most_often_are() {
        let (network, parameters) = built(HelmholtzAlgorithm::Reweighted, 1);
        let noise = Noise::new(1, Purpose::Inference, 0, Device::Cpu);
        let codes = values(&network.prior(50, 0.0, &noise).unwrap());
        let likely: Vec<f32> = Weights::of(&parameters).0["generative.prior"]
            .iter()
            .map(|logit| f32::from(u8::from(*logit > 0.0)))
            .collect();
        assert!(codes.chunks(2).all(|code| code == likely), "{codes:?}");
    }
}
