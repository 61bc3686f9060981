//! Bidirectional generative adversarial network: a generator, and an encoder that undoes it.
//!
//! discriminator: -log D(x, E(x)) - log(1 - D(G(z), z)) + gradient_penalty/2 * ‖∇D‖², z ~ N(0, I)
//! generator:     -log D(G(z), z) - log(1 - D(x, E(x))) - reconstruction * log p(x given G(E(x)))
//!                (Goodfellow et al., 2014; Donahue, Krähenbühl and Darrell, 2017; the penalty: Mescheder et al., 2018)
//!
//! The discriminator sees rows with their codes: to fool it encoder and generator must be each other's inverse. In practice they
//! come only near to that, so a share of reconstruction keeps codes of use. What is generated is the decoder's mean; rows that
//! the discriminator sees have noise, because real rows of binary columns are exactly 0 or 1 and would be told by that alone
//! (Sønderby et al., 2017). Where real rows have gaps, what is generated gets the gaps of the row beside it, filled in alike, so
//! that they do not tell the two apart (Li, Jiang and Marlin, 2019). No loss says how good the model is, so every epoch is done and the last is kept.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::adversarial::{check_discriminator, discriminator_layers};
use super::likelihood::{Likelihood, Variance};
use super::losses::{discrimination, mean, squared_slope};
use super::mlp::Mlp;
use super::network::{Activation, Body, NetworkSpec, Norm, Plan};
use super::noise::Noise;
use super::parameters::Builder;
use super::plain::EncoderDecoder;
use super::{Code, Family, Loss, Network, Sampling, Step, Turn};
use crate::domain::refusal::Faults;

/// Settings of a bidirectional generative adversarial network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gan {
    /// Width of the code.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// Weight of the reconstruction in the generator's loss; 0 for none, as in the papers.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub reconstruction: f64,
    /// Widths of the layers that judge a row and its code together; at most 8. The row first goes through layers like the
    /// encoder's.
    pub discriminator: Vec<u32>,
    /// Weight of the penalty on the discriminator's slope, which keeps the game steady; 0 for none.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub gradient_penalty: f64,
    /// Deviation of the noise on the rows that the discriminator sees, in prepared units.
    #[schema(minimum = 0.0, maximum = 10.0)]
    pub instance_noise: f64,
}

impl Default for Gan {
    fn default() -> Self {
        Self { latent: 16, reconstruction: 0.05, discriminator: vec![128], gradient_penalty: 1.0, instance_noise: 0.1 }
    }
}

impl Family for Gan {
    const FORMULA: &'static str = "-log D(G(z), z) - log(1 - D(x, E(x))) against -log D(x, E(x)) - log(1 - D(G(z), z))";
    const PAPER: &'static str = "Donahue, Krähenbühl and Darrell, Adversarial feature learning, 2017";
    const SAMPLING: Sampling = Sampling::Prior;
    const VARIANCE: Variance = Variance::Shared;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn check(&self, faults: &mut Faults) {
        faults.require_within("/reconstruction", self.reconstruction, 0.0..=1000.0);
        faults.require_within("/gradient_penalty", self.gradient_penalty, 0.0..=1000.0);
        faults.require_within("/instance_noise", self.instance_noise, 0.0..=10.0);
        check_discriminator(&self.discriminator, faults);
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let latent = i64::from(self.latent);
        let inner = EncoderDecoder::build(self.latent, plan, builder);
        let features = self.discriminator.first().copied().map_or(64, i64::from);
        let trunk = NetworkSpec {
            activation: Activation::LeakyRelu,
            norm: Norm::None,
            dropout: 0.0,
            residual: false,
            tied: false,
            ..plan.network.clone()
        };
        let judged_rows = Plan { network: &trunk, ..*plan }.encoder("discriminator.rows", features, builder);
        let widths: Vec<i64> = std::iter::once(features + latent)
            .chain(self.discriminator.iter().copied().map(i64::from))
            .chain([1])
            .collect();
        let judged_pairs =
            builder.within("discriminator.pairs", |builder| Mlp::build(&widths, &discriminator_layers(), builder));
        Box::new(Bidirectional { settings: self.clone(), inner, judged_rows, judged_pairs })
    }
}

struct Bidirectional {
    settings: Gan,
    /// The encoder, and the generator as its decoder.
    inner: EncoderDecoder,
    /// The discriminator's layers on rows.
    judged_rows: Body,
    /// The discriminator's layers on what those give, with the code beside it.
    judged_pairs: Mlp,
}

impl Bidirectional {
    /// Logits of rows with their codes: above 0 where the row seems real.
    fn verdict(&self, x: &Tensor, z: &Tensor) -> Tensor {
        let seen = Activation::LeakyRelu.apply(&self.judged_rows.forward(x, None));
        self.judged_pairs.forward(&Tensor::cat(&[&seen, z], -1), None)
    }

    /// A real pair and a generated one, both with noise on the row.
    fn pairs(&self, x: &Tensor, step: &Step<'_>, layers: &Step<'_>) -> [(Tensor, Tensor); 2] {
        let noisy = |x: &Tensor| x + step.noise.normal(&x.size()) * self.settings.instance_noise;
        let z = step.noise.normal(&[x.size()[0], i64::from(self.settings.latent)]);
        let generated = self.inner.likelihood.mean(&self.inner.decoder.forward(&z, Some(layers)));
        let code = self.inner.encoder.forward(x, Some(layers));
        let filling = self.inner.encoder.filling();
        [(noisy(&filling.fill(x)), code), (noisy(&filling.fill_like(&generated, x)), z)]
    }
}

impl Network for Bidirectional {
    fn encode(&self, x: &Tensor) -> Code {
        self.inner.encode(x)
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
            Turn { name: "generator", moves: &["encoder", "decoder", "likelihood"], rate: 1.0 },
        ]
    }

    fn loss_judges(&self) -> bool {
        false
    }

    fn prior(&self, rows: i64, temperature: f64, noise: &Noise) -> Option<Tensor> {
        Some(noise.normal(&[rows, i64::from(self.settings.latent)]) * temperature)
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        if step.turn == 0 {
            let pairs = tch::no_grad(|| self.pairs(x, step, step));
            let slope = tch::with_grad(|| {
                let [x, z] = [&pairs[0].0, &pairs[0].1].map(|one| one.detach().set_requires_grad(true));
                squared_slope(&self.verdict(&x, &z), &[&x, &z])
            });
            let slope = if step.training { slope } else { slope.detach() };
            let [real, fake] = pairs.map(|(x, z)| self.verdict(&x, &z));
            let loss = discrimination(&real, &fake);
            let right = mean(&real.gt(0.0).to_kind(Kind::Float)) + mean(&fake.le(0.0).to_kind(Kind::Float));
            let total = &loss + &slope * (0.5 * self.settings.gradient_penalty);
            return Loss::opponent(
                total,
                vec![("discriminator", loss), ("discriminator_right", right * 0.5), ("slope", slope)],
            );
        }
        let pairs = self.pairs(x, step, step);
        let restored = self.inner.decoder.forward(&pairs[0].1, Some(step));
        let reconstruction = mean(&self.inner.likelihood.negative_log(&restored, x));
        let [real, fake] = pairs.map(|(x, z)| self.verdict(&x, &z));
        let generator = discrimination(&fake, &real);
        let total = &generator + &reconstruction * self.settings.reconstruction;
        let parts = vec![("generator", generator), ("reconstruction", reconstruction.shallow_clone())];
        Loss { total, reported: reconstruction, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Modelled};
    use crate::models::noise::Purpose;
    use crate::models::parameters::{Parameters, values};
    use tch::Device;

    fn built(settings: &Gan) -> (Box<dyn Network>, Parameters) {
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
    fn what_one_player_wins_the_other_loses() {
        let settings = Gan { latent: 2, reconstruction: 0.5, gradient_penalty: 4.0, ..Gan::default() };
        let (network, _) = built(&settings);
        let x = noise(5).normal(&[64, 3]);
        let own = |loss: &Loss| -> Vec<f64> { loss.parts.iter().map(|(_, part)| part.double_value(&[])).collect() };
        let [first, second] = [0, 1].map(|turn| network.loss(&x, &Step { turn, ..Step::training(&noise(1)) }));
        let (judge, player) = (own(&first), own(&second));
        assert!((first.total.double_value(&[]) - (judge[0] + 2.0 * judge[2])).abs() < 1e-5);
        assert!((second.total.double_value(&[]) - (player[0] + 0.5 * player[1])).abs() < 1e-5);
        // softplus(a) - softplus(-a) = a: the two losses differ by the logits, and at a = 0 both are 2 ln 2.
        assert!((judge[0] - 4_f64.ln()).abs() < 0.5 && (player[0] - 4_f64.ln()).abs() < 0.5, "{judge:?} {player:?}");
        assert!((second.reported.double_value(&[]) - player[1]).abs() < 1e-6);
        assert!(!network.loss_judges());
    }

    #[test]
    fn generated_rows_come_to_be_like_real_ones() {
        let settings = Gan { latent: 2, ..Gan::default() };
        let (network, mut parameters) = built(&settings);
        // Real rows lie around (2, -1, 0.5).
        let x = noise(5).normal(&[256, 3]) * 0.3 + Tensor::from_slice(&[2.0_f32, -1.0, 0.5]);
        let center = |network: &dyn Network| {
            let drawn = network.decode(&network.prior(500, 1.0, &noise(9)).unwrap());
            values(&drawn.mean_dim([0].as_slice(), false, Kind::Float))
        };
        let off = |found: &[f32]| -> f32 { found.iter().zip([2.0, -1.0, 0.5]).map(|(a, b)| (a - b).abs()).sum() };
        let before = off(&center(&*network));
        let parts: Vec<_> = network.turns().iter().map(|turn| parameters.part(turn.moves)).collect();
        for number in 0..800 {
            for (turn, part) in parts.iter().enumerate() {
                let loss = network.loss(&x, &Step { turn, ..Step::training(&noise(number)) });
                let gradient = parameters.gradient(&loss.total, part);
                tch::no_grad(|| {
                    let mut offset = 0;
                    for (start, length) in &part.ranges {
                        let slope = gradient.narrow(0, offset, *length) * 0.03;
                        let _ = parameters.flat().narrow(0, *start, *length).g_sub_(&slope);
                        offset += length;
                    }
                });
            }
        }
        let after = off(&center(&*network));
        assert!(after < 0.3 * before, "{before} became {after}");
    }
}
