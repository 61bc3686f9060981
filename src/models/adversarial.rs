//! Adversarial autoencoder: a code whose distribution over rows is the one that was asked for.
//!
//! autoencoder:   -log p(x given g(h)) - weight * log D(h), h = f(x)
//! discriminator: -log D(z) - log(1 - D(h)) + gradient_penalty/2 * ‖∇D(z)‖², z drawn from the prior
//!                (Makhzani et al., 2015; the penalty: Mescheder, Geiger and Nowozin, 2018)
//!
//! Priors: a standard normal; a mixture of normals, evenly spread on a circle in the first two units; categories, for which the
//! encoder ends in a softmax. Validation compares the reconstruction: the players' losses say who is ahead, not how good the
//! model is. The part `mismatch` says how far codes are from the prior: the energy distance 2 E‖h - z‖ - E‖h - h'‖ - E‖z - z'‖,
//! which is 0 where both are the same distribution (Székely and Rizzo, 2013).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::likelihood::{Likelihood, Variance};
use super::losses::{discrimination, mean, squared_slope};
use super::mlp::Mlp;
use super::network::{Activation, NetworkSpec, Plan};
use super::noise::Noise;
use super::parameters::Builder;
use super::plain::EncoderDecoder;
use super::{Code, Family, Loss, Network, Sampling, Stack, Step, Turn};
use crate::domain::limits::LAYER_UNITS;
use crate::domain::refusal::Faults;

/// The distribution that codes are to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodePrior {
    /// Standard normal.
    #[default]
    Gaussian,
    /// Normals of deviation 0.5 around points on a circle of radius 3 in the first two units, standard in the others.
    Mixture,
    /// One of as many categories as the code has units.
    Categorical,
}

/// Settings of an adversarial autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adversarial {
    /// Width of the code; with the categorical prior the number of categories.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// The distribution that codes are to have.
    pub prior: CodePrior,
    /// Normals of the mixture.
    #[schema(minimum = 1, maximum = 1000)]
    pub components: u32,
    /// Weight of the discriminator's verdict beside the reconstruction.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub weight: f64,
    /// Widths of the discriminator's hidden layers; at most 8.
    pub discriminator: Vec<u32>,
    /// Weight of the penalty on the discriminator's slope, which keeps the game steady; 0 for none.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub gradient_penalty: f64,
}

impl Default for Adversarial {
    fn default() -> Self {
        Self {
            latent: 8,
            prior: CodePrior::Gaussian,
            components: 10,
            weight: 4.0,
            discriminator: vec![128, 64],
            gradient_penalty: 0.1,
        }
    }
}

/// Hidden layers of a discriminator.
const DISCRIMINATOR_LAYERS: usize = 8;

/// Reports widths of a discriminator's hidden layers that are not allowed.
pub(super) fn check_discriminator(layers: &[u32], faults: &mut Faults) {
    for (position, units) in layers.iter().enumerate() {
        faults.require_within(&format!("/discriminator/{position}"), *units, 1..=LAYER_UNITS);
    }
    if layers.len() > DISCRIMINATOR_LAYERS {
        let detail = format!("has {} layers; allowed are up to {DISCRIMINATOR_LAYERS}", layers.len());
        faults.push("/discriminator", "too_many", detail);
    }
}

/// What a discriminator is made of: no norm and no dropout, which would mix or blur the rows it is to judge.
pub(super) fn discriminator_layers() -> NetworkSpec {
    NetworkSpec { activation: Activation::LeakyRelu, ..NetworkSpec::default() }
}

impl Family for Adversarial {
    const FORMULA: &'static str = "-log p(x | g(h)) - weight * log D(h) against -log D(z) - log(1 - D(h)), z ~ prior";
    const PAPER: &'static str = "Makhzani et al., Adversarial autoencoders, 2015";
    const SAMPLING: Sampling = Sampling::Prior;
    const VARIANCE: Variance = Variance::Shared;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn check(&self, faults: &mut Faults) {
        faults.require_within("/components", self.components, 1..=1000);
        faults.require_within("/weight", self.weight, 0.0..=1000.0);
        faults.require_within("/gradient_penalty", self.gradient_penalty, 0.0..=1000.0);
        check_discriminator(&self.discriminator, faults);
        if self.prior == CodePrior::Mixture && self.latent < 2 {
            faults.push("/latent", "conflict", "is 1, and the normals of a mixture lie in two units");
        }
        if self.prior == CodePrior::Categorical && self.latent < 2 {
            faults.push("/latent", "conflict", "is 1, and one category tells nothing");
        }
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let inner = EncoderDecoder::build(self.latent, plan, builder);
        let widths: Vec<i64> =
            [self.latent].iter().chain(&self.discriminator).chain(&[1]).copied().map(i64::from).collect();
        let discriminator =
            builder.within("discriminator", |builder| Mlp::build(&widths, &discriminator_layers(), builder));
        Box::new(Adversaries { settings: self.clone(), inner, discriminator })
    }
}

struct Adversaries {
    settings: Adversarial,
    inner: EncoderDecoder,
    discriminator: Mlp,
}

/// Where the normals of the mixture lie, and how wide they are there.
const RADIUS: f64 = 3.0;
const WIDTH: f64 = 0.5;

impl Adversaries {
    fn code(&self, x: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        let code = self.inner.encoder.forward(x, step);
        if self.settings.prior == CodePrior::Categorical { code.softmax(-1, Kind::Float) } else { code }
    }

    fn verdict(&self, code: &Tensor) -> Tensor {
        self.discriminator.forward(code, None)
    }

    fn draw_prior(&self, rows: i64, temperature: f64, noise: &Noise) -> Tensor {
        let latent = i64::from(self.settings.latent);
        match self.settings.prior {
            CodePrior::Gaussian => noise.normal(&[rows, latent]) * temperature,
            CodePrior::Mixture => {
                let components = i64::from(self.settings.components);
                let turn = std::f64::consts::TAU / components as f64;
                let angle = noise.integers(rows, components).to_kind(Kind::Float) * turn;
                let centers = Tensor::stack(&[angle.cos() * RADIUS, angle.sin() * RADIUS], 1);
                let draws = noise.normal(&[rows, latent]) * temperature;
                let plane = centers + draws.narrow(1, 0, 2) * WIDTH;
                Tensor::cat(&[plane, draws.narrow(1, 2, latent - 2)], 1)
            }
            CodePrior::Categorical => noise.integers(rows, latent).one_hot(latent).to_kind(Kind::Float),
        }
    }
}

/// The mean distance of each row of `a` from each of `b`.
fn distance(a: &Tensor, b: &Tensor) -> Tensor {
    mean(&Tensor::cdist(a, b, 2.0, None::<i64>))
}

impl Network for Adversaries {
    fn encode(&self, x: &Tensor) -> Code {
        Code { mean: self.code(x, None), spread: None }
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        self.inner.outputs(z)
    }

    fn likelihood(&self) -> &Likelihood {
        self.inner.likelihood()
    }

    fn turns(&self) -> &'static [Turn] {
        &[
            Turn { name: "discriminator", moves: &["discriminator"], rate: 1.0 },
            Turn { name: "autoencoder", moves: &["encoder", "decoder", "likelihood"], rate: 1.0 },
        ]
    }

    fn prior(&self, rows: i64, temperature: f64, noise: &Noise) -> Option<Tensor> {
        Some(self.draw_prior(rows, temperature, noise))
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let rows = x.size()[0];
        if step.turn == 0 {
            let drawn = self.draw_prior(rows, 1.0, step.noise);
            // As the autoencoder will be judged: after its dropout and norm of this step.
            let code = tch::no_grad(|| self.code(x, Some(&Step { training: false, ..*step })));
            let slope = tch::with_grad(|| {
                let drawn = drawn.detach().set_requires_grad(true);
                squared_slope(&self.verdict(&drawn), &[&drawn])
            });
            let slope = if step.training { slope } else { slope.detach() };
            let (real, fake) = (self.verdict(&drawn), self.verdict(&code));
            let loss = discrimination(&real, &fake);
            let right = mean(&real.gt(0.0).to_kind(Kind::Float)) + mean(&fake.le(0.0).to_kind(Kind::Float));
            let total = &loss + &slope * (0.5 * self.settings.gradient_penalty);
            let mismatch =
                tch::no_grad(|| distance(&code, &drawn) * 2.0 - distance(&code, &code) - distance(&drawn, &drawn));
            let parts = vec![
                ("discriminator", loss),
                ("discriminator_right", right * 0.5),
                ("slope", slope),
                ("mismatch", mismatch),
            ];
            return Loss::opponent(total, parts);
        }
        let code = self.code(x, Some(step));
        let outputs = self.inner.decoder.forward(&code, Some(step));
        let reconstruction = mean(&self.inner.likelihood.negative_log(&outputs, x));
        let adversarial = mean(&(-self.verdict(&code)).softplus());
        let total = &reconstruction + &adversarial * self.settings.weight;
        let parts = vec![("reconstruction", reconstruction.shallow_clone()), ("adversarial", adversarial)];
        Loss { total, reported: reconstruction, parts }
    }

    fn stack(&self) -> Option<Stack<'_>> {
        self.inner.stack()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled};
    use crate::models::noise::Purpose;
    use crate::models::parameters::{Parameters, values};
    use tch::Device;

    fn built(settings: &Adversarial) -> (Box<dyn Network>, Parameters) {
        let network = NetworkSpec { hidden: Some(vec![16]), ..NetworkSpec::default() };
        let likelihood = LikelihoodSpec::of(LikelihoodKind::Gaussian);
        let columns = vec![Modelled::linear(LikelihoodKind::Gaussian); 3];
        let plan = Plan { image: None, network: &network, likelihood: &likelihood, columns: &columns, target: None };
        let mut builder = Builder::new(4, Device::Cpu);
        let built = settings.build(&plan, &mut builder);
        (built, builder.finish())
    }

    fn noise(seed: u64) -> Noise {
        Noise::new(seed, Purpose::Training, seed, Device::Cpu)
    }

    #[test]
    fn priors_have_the_moments_of_their_names() {
        let draw = |prior, latent| {
            let (network, _) = built(&Adversarial { prior, latent, components: 4, ..Adversarial::default() });
            network.prior(20_000, 1.0, &noise(1)).unwrap()
        };
        let normal = draw(CodePrior::Gaussian, 3);
        assert!((normal.std(false).double_value(&[]) - 1.0).abs() < 0.02);
        let mixture = draw(CodePrior::Mixture, 3);
        let radius =
            mixture.narrow(1, 0, 2).square().sum_dim_intlist([1].as_slice(), false, Kind::Float).mean(Kind::Float);
        // 9 for the circle and a quarter for each of two units.
        assert!((radius.double_value(&[]) - 9.5).abs() < 0.1);
        assert!((mixture.select(1, 2).std(false).double_value(&[]) - 1.0).abs() < 0.03);
        let categories = draw(CodePrior::Categorical, 4);
        assert!(
            values(&categories.mean_dim([0].as_slice(), false, Kind::Float)).iter().all(|p| (p - 0.25).abs() < 0.02)
        );
        assert_eq!(values(&categories.sum_dim_intlist([1].as_slice(), false, Kind::Float)), vec![1.0; 20_000]);
    }

    #[test]
    fn each_player_is_paid_by_what_the_discriminator_says() {
        let settings = Adversarial { latent: 2, weight: 3.0, gradient_penalty: 2.0, ..Adversarial::default() };
        let (network, _) = built(&settings);
        let x = noise(5).normal(&[64, 3]);
        let loss = |turn| network.loss(&x, &Step { turn, ..Step::training(&noise(1)) });
        let own = |loss: &Loss| -> Vec<f64> { loss.parts.iter().map(|(_, part)| part.double_value(&[])).collect() };
        let (first, second) = (loss(0), loss(1));
        let (judge, player) = (own(&first), own(&second));
        assert!((first.total.double_value(&[]) - (judge[0] + judge[2])).abs() < 1e-5, "loss + 2/2 slope");
        assert_eq!(first.reported.double_value(&[]), 0.0);
        assert!((second.total.double_value(&[]) - (player[0] + 3.0 * player[1])).abs() < 1e-5);
        assert!((second.reported.double_value(&[]) - player[0]).abs() < 1e-6);
        assert!((0.0..=1.0).contains(&judge[1]) && judge[3] > 0.0);
        let quiet = tch::no_grad(|| own(&network.loss(&x, &Step { training: false, ..Step::training(&noise(1)) })));
        assert_eq!(quiet, judge, "validation measures the same");
    }

    #[test]
    fn codes_come_to_have_the_distribution_of_the_prior() {
        let settings = Adversarial { latent: 2, weight: 5.0, ..Adversarial::default() };
        let (network, mut parameters) = built(&settings);
        let x = noise(5).normal(&[256, 3]) * Tensor::from_slice(&[2.0_f32, 1.0, 0.2]);
        let mismatch = |network: &dyn Network| {
            let loss = network.loss(&x, &Step { training: false, ..Step::training(&noise(3)) });
            loss.parts.iter().find(|(name, _)| *name == "mismatch").unwrap().1.double_value(&[])
        };
        let before = mismatch(&*network);
        let parts: Vec<_> = network.turns().iter().map(|turn| parameters.part(turn.moves)).collect();
        for number in 0..1200 {
            for (turn, part) in parts.iter().enumerate() {
                let loss = network.loss(&x, &Step { turn, ..Step::training(&noise(number)) });
                let gradient = parameters.gradient(&loss.total, part);
                // Plain gradient descent on one part of the buffer.
                tch::no_grad(|| {
                    let mut offset = 0;
                    for (start, length) in &part.ranges {
                        let slope = gradient.narrow(0, offset, *length) * 0.01;
                        let _ = parameters.flat().narrow(0, *start, *length).g_sub_(&slope);
                        offset += length;
                    }
                });
            }
        }
        let after = mismatch(&*network);
        assert!(after < 0.3 * before && after < 0.1, "{before} became {after}");
    }
}
