//! Feed-forward network: tells the label columns of a row.
//!
//! loss = -log p(y given head(h)), h = f(x)   (Rumelhart, Hinton and Williams, 1986)
//!
//! For classes that is the cross-entropy H(p; q) of the labels and the network's probabilities; the part `label_kl` is
//! KL(p || q) = H(p; q) - H(p), which is the same but for smoothed labels. For numbers it is a normal density.
//!
//! A decoder beside the head reads rows back out of the code, so that codes can be looked at, sampled and decoded as those of any
//! autoencoder. It learns from the code and, unless `reconstruction` is above 0, teaches it nothing. Layer-wise
//! pre-training uses it as well. Rows without a label teach the decoder alone. Validation compares the labels' loss.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::likelihood::{Likelihood, LikelihoodKind, Variance};
use super::losses::{known_negative_log, mean, sum_columns};
use super::mlp::Mlp;
use super::network::{Activation, NetworkSpec, Plan};
use super::parameters::Builder;
use super::plain::EncoderDecoder;
use super::{Code, Family, Labels, Loss, Network, Sampling, Stack, Step};
use crate::domain::refusal::Faults;

/// Settings of a feed-forward network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeedForward {
    /// Width of the last hidden layer, which is the code.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
    /// Weight with which restoring the row shapes the code too; with 0 it does not.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub reconstruction: f64,
    /// Share of a class label that is spread over all classes (Szegedy et al., 2016).
    #[schema(minimum = 0.0, maximum = 0.9)]
    pub label_smoothing: f64,
}

impl Default for FeedForward {
    fn default() -> Self {
        Self { latent: 32, reconstruction: 0.0, label_smoothing: 0.0 }
    }
}

impl Family for FeedForward {
    const FORMULA: &'static str = "-log p(y | head(f(x)))";
    const PAPER: &'static str =
        "Rumelhart, Hinton and Williams, Learning representations by back-propagating errors, 1986";
    const SAMPLING: Sampling = Sampling::Fitted;
    const VARIANCE: Variance = Variance::Fixed;
    const LABELS: Labels = Labels::Required;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn check(&self, faults: &mut Faults) {
        faults.require_within("/reconstruction", self.reconstruction, 0.0..=1000.0);
        faults.require_within("/label_smoothing", self.label_smoothing, 0.0..=0.9);
    }

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        let inner = EncoderDecoder::build(self.latent, plan, builder);
        let head = plan.target.map(|target| {
            let slots: Vec<i64> = target.columns.iter().map(|column| column.treatment.slots() as i64).collect();
            let widths = [i64::from(self.latent), slots.iter().sum()];
            let layer = builder.within("head", |builder| Mlp::build(&widths, &NetworkSpec::default(), builder));
            let likelihood = builder
                .within("head_likelihood", |builder| Likelihood::build(target.likelihood, target.columns, builder));
            let smoothed: Vec<(f32, f32)> = target
                .columns
                .iter()
                .zip(&slots)
                .flat_map(|(column, slots)| {
                    let share = if column.kind == LikelihoodKind::Categorical { self.label_smoothing } else { 0.0 };
                    std::iter::repeat_n(((1.0 - share) as f32, (share / *slots as f64) as f32), *slots as usize)
                })
                .collect();
            let (kept, spread): (Vec<f32>, Vec<f32>) = smoothed.into_iter().unzip();
            let tensor = |values: &[f32]| Tensor::from_slice(values).to_device(builder.device());
            let classes: Vec<f32> = target
                .columns
                .iter()
                .zip(&slots)
                .flat_map(|(column, slots)| {
                    let is_class = f32::from(u8::from(column.kind == LikelihoodKind::Categorical));
                    std::iter::repeat_n(is_class, *slots as usize)
                })
                .collect();
            Head { layer, likelihood, kept: tensor(&kept), spread: tensor(&spread), classes: tensor(&classes) }
        });
        Box::new(Supervised { inner, head, activation: plan.network.activation, reconstruction: self.reconstruction })
    }
}

struct Supervised {
    inner: EncoderDecoder,
    /// Absent where there are no labels, which a job is refused for.
    head: Option<Head>,
    activation: Activation,
    reconstruction: f64,
}

struct Head {
    layer: Mlp,
    likelihood: Likelihood,
    /// Smoothed labels are `kept * label + spread`, both `[labels]`.
    kept: Tensor,
    spread: Tensor,
    /// 1 for the numbers that a class became.
    classes: Tensor,
}

impl Head {
    /// H(p; q) and KL(p || q) as means over rows.
    fn loss(&self, code: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
        let smoothed = labels * &self.kept + &self.spread;
        let loss = known_negative_log(&self.likelihood, &self.layer.forward(code, None), &smoothed);
        let entropies = smoothed.xlogy(&smoothed) * &self.classes;
        let entropy = mean(&-sum_columns(&entropies.nan_to_num(Some(0.0), None, None)));
        let divergence = &loss - entropy;
        (loss, divergence)
    }
}

impl Supervised {
    fn code(&self, x: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        self.activation.apply(&self.inner.encoder.forward(x, step))
    }
}

impl Network for Supervised {
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
        let code = self.code(x, Some(step));
        let (supervised, divergence) = match (&self.head, step.labels) {
            (Some(head), Some(labels)) => head.loss(&code, labels),
            _ => (code.sum(Kind::Float) * 0.0, code.sum(Kind::Float) * 0.0),
        };
        let shapes_code = self.reconstruction > 0.0;
        let read = if shapes_code { code } else { code.detach() };
        let outputs = self.inner.decoder.forward(&read, Some(step));
        let reconstruction = mean(&self.inner.likelihood.negative_log(&outputs, x));
        let weight = if shapes_code { self.reconstruction } else { 1.0 };
        let total = &supervised + &reconstruction * weight;
        let parts = vec![
            ("supervised", supervised.shallow_clone()),
            ("label_kl", divergence),
            ("reconstruction", reconstruction),
        ];
        Loss { total, reported: supervised, parts }
    }

    fn predict(&self, x: &Tensor) -> Option<(Tensor, &Likelihood)> {
        let head = self.head.as_ref()?;
        Some((head.layer.forward(&self.code(x, None), None), &head.likelihood))
    }

    fn stack(&self) -> Option<Stack<'_>> {
        Some(Stack { activates_code: true, ..self.inner.stack()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::treatment::Treatment;
    use crate::models::likelihood::{LikelihoodSpec, Modelled};
    use crate::models::network::Target;
    use crate::models::noise::{Noise, Purpose};
    use crate::models::parameters::{Parameters, values};
    use tch::Device;

    fn built(settings: &FeedForward) -> (Box<dyn Network>, Parameters) {
        let network = NetworkSpec { hidden: Some(vec![5]), activation: Activation::Tanh, ..NetworkSpec::default() };
        let likelihood = LikelihoodSpec::of(LikelihoodKind::Gaussian);
        let columns = vec![Modelled::linear(LikelihoodKind::Gaussian); 2];
        let labels = [
            Modelled {
                kind: LikelihoodKind::Categorical,
                treatment: Treatment::OneHot { levels: vec![0.0, 1.0, 2.0] },
                means: Vec::new(),
            },
            Modelled::linear(LikelihoodKind::Gaussian),
        ];
        let target = Some(Target { likelihood: &likelihood, columns: &labels });
        let plan = Plan { image: None, network: &network, likelihood: &likelihood, columns: &columns, target };
        let mut builder = Builder::new(4, Device::Cpu);
        let built = settings.build(&plan, &mut builder);
        (built, builder.finish())
    }

    fn rows() -> Tensor {
        Tensor::from_slice(&[0.4_f32, -1.0, 0.3, 0.8]).view([2, 2])
    }

    const LABELS: [f32; 8] = [0.0, 1.0, 0.0, 0.7, 1.0, 0.0, 0.0, f32::NAN];

    fn parts(network: &dyn Network, labels: &[f32]) -> Vec<f64> {
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let labels = Tensor::from_slice(labels).view([2, 4]);
        let loss = network.loss(&rows(), &Step { labels: Some(&labels), ..Step::training(&noise) });
        loss.parts.iter().map(|(_, part)| part.double_value(&[])).collect()
    }

    #[test]
    fn classes_have_their_cross_entropy_and_numbers_their_density() {
        for smoothing in [0.0, 0.3] {
            let (network, _) = built(&FeedForward { latent: 3, label_smoothing: smoothing, ..FeedForward::default() });
            let outputs: Vec<f64> = values(&network.predict(&rows()).unwrap().0).into_iter().map(f64::from).collect();
            let (mut cross, mut entropy, mut density) = (0.0, 0.0, 0.0);
            for (row, class) in [(0, 1), (1, 0)] {
                let logits = &outputs[row * 4..row * 4 + 3];
                let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
                for (level, logit) in logits.iter().enumerate() {
                    let p = smoothing / 3.0 + if level == class { 1.0 - smoothing } else { 0.0 };
                    cross -= p * (logit.exp() / total).ln();
                    entropy -= if p > 0.0 { p * p.ln() } else { 0.0 };
                }
            }
            density += 0.5 * (outputs[3] - 0.7_f32 as f64).powi(2) + 0.5 * super::super::losses::LN_2_PI;
            let found = parts(&*network, &LABELS);
            assert!((found[0] - (cross + density) / 2.0).abs() < 1e-5, "{found:?}");
            assert!((found[1] - (cross + density - entropy) / 2.0).abs() < 1e-5, "{found:?}");
        }
    }

    #[test]
    fn the_decoder_teaches_the_code_only_when_asked() {
        for (reconstruction, teaches) in [(0.0, false), (0.5, true)] {
            let (network, parameters) = built(&FeedForward { latent: 3, reconstruction, ..FeedForward::default() });
            let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
            let labels = Tensor::full([2, 4], f64::NAN, tch::kind::FLOAT_CPU);
            let loss = network.loss(&rows(), &Step { labels: Some(&labels), ..Step::training(&noise) });
            assert_eq!(loss.reported.double_value(&[]), 0.0);
            let size = |name: &str| {
                let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
                let loss = network.loss(&rows(), &Step { labels: Some(&labels), ..Step::training(&noise) });
                parameters.gradient(&loss.total, &parameters.part(&[name])).abs().sum(Kind::Float).double_value(&[])
            };
            assert_eq!(size("encoder") > 0.0, teaches);
            assert!(size("decoder") > 0.0 && size("head") == 0.0);
        }
    }
}
