//! Generative stochastic network: the transition of a Markov chain whose rows are like those it was trained on.
//!
//! loss = mean over t of -log p(x given h_t), h_t = f(corrupted x_t) with noise, x_1 = x, x_{t+1} drawn from p(· given h_t)
//!        (Bengio, Thibodeau-Laufer, Alain and Yosinski, 2014)
//!
//! The walk away from the row ("walkback") is what the chain itself would do; learning to come back from there removes rows that the
//! chain would wander to. Hidden units have normal noise before and after their tanh. The loss is against the clean row, and no gradient
//! goes through a draw.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use utoipa::ToSchema;

use super::denoising::{Corruption, clamped};
use super::likelihood::{Likelihood, Variance};
use super::losses::mean;
use super::network::Plan;
use super::noise::Noise;
use super::parameters::Builder;
use super::plain::EncoderDecoder;
use super::{Code, Family, Loss, Network, Sampling, Step};
use crate::domain::refusal::Faults;

/// Settings of a generative stochastic network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gsn {
    /// Width of the code. It may exceed the width of the rows: the noise keeps the network from copying them.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// Steps of the chain that each row is followed for in training.
    #[schema(minimum = 1, maximum = 50)]
    pub walkback: u32,
    /// How rows are damaged at each step.
    pub corruption: Corruption,
    /// How much: a standard deviation for `gaussian` (up to 10), a share for the others (up to 0.95).
    #[schema(minimum = 0.0, maximum = 10.0)]
    pub level: f64,
    /// Standard deviation of the noise that hidden units have before and after their activation.
    #[schema(minimum = 0.0, maximum = 10.0)]
    pub hidden_noise: f64,
}

impl Default for Gsn {
    fn default() -> Self {
        Self { latent: 64, walkback: 3, corruption: Corruption::Masking, level: 0.3, hidden_noise: 0.1 }
    }
}

impl Family for Gsn {
    const FORMULA: &'static str =
        "mean_t -log p(x | h_t), h_t = f(corrupted x_t) + noise, x_{t+1} drawn from p(· | h_t)";
    const PAPER: &'static str = "Bengio et al., Deep generative stochastic networks trainable by backprop, 2014";
    const SAMPLING: Sampling = Sampling::Chain;
    const VARIANCE: Variance = Variance::Shared;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn passes(&self) -> u32 {
        self.walkback
    }

    fn check(&self, faults: &mut Faults) {
        faults.require_within("/walkback", self.walkback, 1..=50);
        let most = if self.corruption == Corruption::Gaussian { 10.0 } else { 0.95 };
        faults.require_within("/level", self.level, 0.0..=most);
        faults.require_within("/hidden_noise", self.hidden_noise, 0.0..=10.0);
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let inner = EncoderDecoder::build(self.latent, plan, builder);
        Box::new(Chain { settings: self.clone(), inner })
    }
}

struct Chain {
    settings: Gsn,
    inner: EncoderDecoder,
}

impl Chain {
    /// The decoder's output for a damaged row, with noise in the hidden units.
    fn transition(&self, x: &Tensor, noise: &Noise, step: Option<&Step<'_>>) -> Tensor {
        let Gsn { corruption, level, hidden_noise, .. } = self.settings;
        let seen = corruption.apply(x, level, noise);
        let before = self.inner.encoder.forward(&seen, step);
        let size = before.size();
        let hidden = (before + noise.normal(&size) * hidden_noise).tanh() + noise.normal(&size) * hidden_noise;
        self.inner.decoder.forward(&hidden, step)
    }
}

impl Network for Chain {
    fn encode(&self, x: &Tensor) -> Code {
        Code { mean: self.inner.encoder.forward(x, None).tanh(), spread: None }
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        self.inner.outputs(z)
    }

    fn likelihood(&self) -> &Likelihood {
        self.inner.likelihood()
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let mut state = self.inner.encoder.filling().fill(x);
        let mut losses = Vec::new();
        for walked in 0..self.settings.walkback {
            let outputs = self.transition(&state, step.noise, Some(step));
            losses.push(mean(&self.likelihood().negative_log(&outputs, x)));
            if walked + 1 < self.settings.walkback {
                state = tch::no_grad(|| self.likelihood().draw(&outputs, step.noise)).detach();
            }
        }
        let total = mean(&Tensor::stack(&losses, 0));
        let last = losses.pop().expect("the chain has a step; this is a bug");
        let first = losses.into_iter().next().unwrap_or_else(|| last.shallow_clone());
        Loss::new(total, vec![("reconstruction", first), ("walkback", last)])
    }

    fn chain(&self, start: &Tensor, steps: u32, known: Option<&Tensor>, noise: &Noise) -> Option<Tensor> {
        let mut state = start.shallow_clone();
        let mut mean = start.shallow_clone();
        for walked in 0..steps {
            let outputs = self.transition(&state, noise, None);
            mean = clamped(self.likelihood().mean(&outputs), start, known);
            if walked + 1 < steps {
                state = clamped(self.likelihood().draw(&outputs, noise), start, known);
            }
        }
        Some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled};
    use crate::models::network::NetworkSpec;
    use crate::models::noise::Purpose;
    use crate::models::parameters::{Parameters, values};
    use tch::{Device, Kind};

    fn built(settings: &Gsn) -> (Box<dyn Network>, Parameters) {
        let network = NetworkSpec { hidden: Some(vec![]), ..NetworkSpec::default() };
        let likelihood = LikelihoodSpec::of(LikelihoodKind::Bernoulli);
        let columns = vec![Modelled::linear(LikelihoodKind::Bernoulli); 4];
        let plan = Plan { image: None, network: &network, likelihood: &likelihood, columns: &columns, target: None };
        let mut builder = Builder::new(4, Device::Cpu);
        let built = settings.build(&plan, &mut builder);
        (built, builder.finish())
    }

    fn noise(seed: u64) -> Noise {
        Noise::new(seed, Purpose::Training, 0, Device::Cpu)
    }

    fn rows() -> Tensor {
        Tensor::from_slice(&[1.0_f32, 0.0, 1.0, 1.0]).view([1, 4])
    }

    #[test]
    fn one_quiet_step_is_the_loss_of_an_autoencoder() {
        let settings = Gsn { latent: 2, walkback: 1, level: 0.0, hidden_noise: 0.0, ..Gsn::default() };
        let (network, _) = built(&settings);
        let loss = network.loss(&rows(), &Step::training(&noise(1)));
        let restored = values(&network.decode(&network.encode(&rows()).mean));
        let expected: f64 = restored
            .iter()
            .zip([1.0, 0.0, 1.0, 1.0])
            .map(|(p, x)| -(if x == 1.0 { f64::from(*p) } else { 1.0 - f64::from(*p) }).ln())
            .sum();
        assert!((loss.total.double_value(&[]) - expected).abs() < 1e-5);
    }

    #[test]
    fn the_loss_is_the_mean_over_the_walk_and_every_step_teaches() {
        let settings = Gsn { latent: 2, walkback: 2, ..Gsn::default() };
        let (network, parameters) = built(&settings);
        let loss = network.loss(&rows(), &Step::training(&noise(1)));
        let parts: Vec<f64> = loss.parts.iter().map(|(_, part)| part.double_value(&[])).collect();
        assert!((loss.total.double_value(&[]) - (parts[0] + parts[1]) / 2.0).abs() < 1e-5);
        let gradient = parameters.gradient(&loss.parts[1].1, &parameters.part(&["encoder"]));
        assert!(gradient.abs().sum(Kind::Float).double_value(&[]) > 0.0);
    }

    #[test]
    fn the_chain_keeps_what_is_known_and_goes_where_the_noise_says() {
        let (network, _) = built(&Gsn { latent: 3, hidden_noise: 0.5, ..Gsn::default() });
        let start = rows().repeat([50, 1]);
        let known = Tensor::from_slice(&[1.0_f32, 1.0, 0.0, 0.0]).view([1, 4]).repeat([50, 1]);
        let end = network.chain(&start, 5, Some(&known), &noise(1)).unwrap();
        for row in values(&end).chunks(4) {
            assert_eq!(row[..2], [1.0, 0.0]);
            assert!(row[2..].iter().all(|p| *p > 0.0 && *p < 1.0));
        }
        assert_eq!(values(&end), values(&network.chain(&start, 5, Some(&known), &noise(1)).unwrap()));
        assert_ne!(values(&end), values(&network.chain(&start, 5, Some(&known), &noise(2)).unwrap()));
        assert_eq!(values(&network.chain(&start, 0, None, &noise(1)).unwrap()), values(&start));
    }
}
