//! Fully connected networks, and the description of layers that all families share.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::Step;
use super::parameters::Builder;
use crate::domain::limits::{LAYER_UNITS, LAYERS};
use crate::domain::refusal::Faults;

/// What the layers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// Fully connected.
    #[default]
    Mlp,
}

/// The function between two layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of the field")]
pub enum Activation {
    Sigmoid,
    Tanh,
    #[default]
    Relu,
    LeakyRelu,
    Elu,
    Selu,
    Gelu,
    Silu,
    Softplus,
}

impl Activation {
    fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Sigmoid => x.sigmoid(),
            Self::Tanh => x.tanh(),
            Self::Relu => x.relu(),
            Self::LeakyRelu => x.leaky_relu(),
            Self::Elu => x.elu(),
            Self::Selu => x.selu(),
            Self::Gelu => x.gelu("none"),
            Self::Silu => x.silu(),
            Self::Softplus => x.softplus(),
        }
    }
}

/// Normalisation after each hidden layer, before its activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// No normalisation.
    #[default]
    None,
    /// Over the rows of a batch (Ioffe and Szegedy, 2015).
    Batch,
    /// Over the units of a row (Ba et al., 2016).
    Layer,
}

/// How the first weights are drawn; all are uniform, and biases start at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// `kaiming` for the rectifiers, `lecun` for selu, else `xavier`.
    #[default]
    Auto,
    /// Variance 2 / (inputs + outputs) (Glorot and Bengio, 2010).
    Xavier,
    /// Variance 2 / inputs (He et al., 2015).
    Kaiming,
    /// Variance 1 / inputs (LeCun et al., 1998).
    Lecun,
}

impl Init {
    /// The bound of a uniform distribution with the wanted variance, which is bound² / 3.
    fn bound(self, activation: Activation, inputs: i64, outputs: i64) -> f64 {
        let variance = match (self, activation) {
            (Self::Kaiming, _)
            | (
                Self::Auto,
                Activation::Relu | Activation::LeakyRelu | Activation::Elu | Activation::Gelu | Activation::Silu,
            ) => 2.0 / inputs as f64,
            (Self::Lecun, _) | (Self::Auto, Activation::Selu) => 1.0 / inputs as f64,
            (Self::Xavier | Self::Auto, _) => 2.0 / (inputs + outputs) as f64,
        };
        (3.0 * variance).sqrt()
    }
}

/// The layers between input and code. The decoder mirrors them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSpec {
    /// What the layers are.
    pub kind: NetworkKind,
    /// Widths of the hidden layers from the input to the code; an empty list makes a linear model. Chosen by the width of
    /// the rows when it is left out.
    pub hidden: Option<Vec<u32>>,
    /// The function after each hidden layer.
    pub activation: Activation,
    /// Normalisation after each hidden layer.
    pub norm: Norm,
    /// Share of the hidden units that is set to zero in training.
    #[schema(minimum = 0.0, maximum = 0.9)]
    pub dropout: f64,
    /// How the first weights are drawn.
    pub init: Init,
}

impl NetworkSpec {
    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        faults.require_within("/network/dropout", self.dropout, 0.0..=0.9);
        for (position, units) in self.hidden.iter().flatten().enumerate() {
            faults.require_within(&format!("/network/hidden/{position}"), *units, 1..=LAYER_UNITS);
        }
        let layers = self.hidden.as_ref().map_or(0, Vec::len);
        if layers > LAYERS {
            faults.push("/network/hidden", "too_many", format!("has {layers} layers; allowed are up to {LAYERS}"));
        }
    }

    /// The widths of the hidden layers for rows of `width` columns.
    pub fn hidden_for(&self, width: usize) -> Vec<u32> {
        self.hidden.clone().unwrap_or_else(|| {
            let first = (width * 4).clamp(32, 512) as u32;
            vec![first, first / 2]
        })
    }
}

struct Layer {
    weight: Tensor, // [outputs, inputs]
    bias: Tensor,   // [outputs]
    norm: Option<NormLayer>,
}

enum NormLayer {
    Batch { gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor },
    Layer { gain: Tensor, shift: Tensor },
}

/// A stack of linear layers; all but the last are followed by norm, activation and dropout.
pub struct Mlp {
    layers: Vec<Layer>,
    activation: Activation,
    dropout: f64,
}

impl Mlp {
    /// Layers of the given widths, input first and output last.
    pub fn build(name: &str, widths: &[i64], spec: &NetworkSpec, builder: &mut Builder) -> Self {
        let last = widths.len() - 2;
        let layers = builder.within(name, |builder| {
            let pairs = widths.windows(2).enumerate();
            pairs
                .map(|(position, pair)| {
                    builder.within(&position.to_string(), |builder| {
                        let (inputs, outputs) = (pair[0], pair[1]);
                        // The last layer is linear, so the gain of an activation does not apply to it.
                        let init = if position == last && spec.init == Init::Auto { Init::Xavier } else { spec.init };
                        Layer {
                            weight: builder.uniform(
                                "weight",
                                &[outputs, inputs],
                                init.bound(spec.activation, inputs, outputs),
                            ),
                            bias: builder.constant("bias", &[outputs], 0.0),
                            norm: if position == last { None } else { NormLayer::build(spec.norm, outputs, builder) },
                        }
                    })
                })
                .collect()
        });
        Self { layers, activation: spec.activation, dropout: spec.dropout }
    }

    /// `[..., inputs]` to `[..., outputs]`. Without a step, or outside training, nothing is random.
    pub fn forward(&self, x: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        let training = step.filter(|step| step.training);
        let (last, hidden) = self.layers.split_last().expect("a network has a layer; this is a bug");
        let mut x = x.shallow_clone();
        for layer in hidden {
            x = layer.linear(&x);
            if let Some(norm) = &layer.norm {
                x = norm.forward(&x, training.is_some());
            }
            x = self.activation.apply(&x);
            if let Some(step) = training.filter(|_| self.dropout > 0.0) {
                let keep = 1.0 - self.dropout;
                x = x.shallow_clone() * step.noise.mask(&x.size(), keep) / keep;
            }
        }
        last.linear(&x)
    }
}

impl Layer {
    fn linear(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

impl NormLayer {
    fn build(norm: Norm, units: i64, builder: &mut Builder) -> Option<Self> {
        let shape = [units];
        match norm {
            Norm::None => None,
            Norm::Batch => Some(Self::Batch {
                gain: builder.constant("norm.weight", &shape, 1.0),
                shift: builder.constant("norm.bias", &shape, 0.0),
                mean: builder.buffer("norm.running_mean", &shape, 0.0),
                variance: builder.buffer("norm.running_var", &shape, 1.0),
            }),
            Norm::Layer => Some(Self::Layer {
                gain: builder.constant("norm.weight", &shape, 1.0),
                shift: builder.constant("norm.bias", &shape, 0.0),
            }),
        }
    }

    fn forward(&self, x: &Tensor, training: bool) -> Tensor {
        match self {
            Self::Batch { gain, shift, mean, variance } => {
                // A batch norm works on [rows, units]; draws of codes come as [samples, rows, units].
                let flat = x.reshape([-1, *x.size().last().expect("a row has units; this is a bug")]);
                let out =
                    flat.batch_norm(Some(gain), Some(shift), Some(mean), Some(variance), training, 0.1, 1e-5, false);
                out.view_as(x).to_kind(Kind::Float)
            }
            Self::Layer { gain, shift } => x.layer_norm(gain.size(), Some(gain), Some(shift), 1e-5, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::noise::{Noise, Purpose};
    use crate::models::parameters::values;
    use tch::Device;

    #[test]
    fn one_hidden_layer_is_the_formula() {
        let spec = NetworkSpec { activation: Activation::Tanh, ..NetworkSpec::default() };
        let mut builder = Builder::new(3, Device::Cpu);
        let mlp = Mlp::build("m", &[2, 3, 1], &spec, &mut builder);
        let named = builder.finish().named();
        let get = |name: &str| &named.iter().find(|one| one.name == name).unwrap().values;
        let (w0, w1) = (get("m.0.weight"), get("m.1.weight"));
        let x = [0.4_f32, -1.5];
        let expected: f32 = (0..3).map(|unit| w1[unit] * (w0[unit * 2] * x[0] + w0[unit * 2 + 1] * x[1]).tanh()).sum();
        let out = values(&mlp.forward(&Tensor::from_slice(&x).view([1, 2]), None));
        assert!((out[0] - expected).abs() < 1e-6, "{out:?} is not {expected}");
    }

    #[test]
    fn activations_are_those_of_their_formulas() {
        let x = [-2.0_f32, -0.5, 0.0, 1.5];
        fn check(activation: Activation, x: &[f32], formula: impl Fn(f64) -> f64) {
            let out = values(&activation.apply(&Tensor::from_slice(x)));
            for (out, x) in out.iter().zip(x) {
                let expected = formula(f64::from(*x));
                assert!((f64::from(*out) - expected).abs() < 2e-6, "{activation:?}({x}) is {out}, not {expected}");
            }
        }
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        check(Activation::Sigmoid, &x, sigmoid);
        check(Activation::Tanh, &x, f64::tanh);
        check(Activation::Relu, &x, |x| x.max(0.0));
        check(Activation::LeakyRelu, &x, |x| if x > 0.0 { x } else { 0.01 * x });
        check(Activation::Elu, &x, |x| if x > 0.0 { x } else { x.exp() - 1.0 });
        check(Activation::Selu, &x, |x| {
            1.050_700_987_355_480_5 * if x > 0.0 { x } else { 1.673_263_242_354_377_2 * (x.exp() - 1.0) }
        });
        check(Activation::Silu, &x, |x| x * sigmoid(x));
        check(Activation::Softplus, &x, |x| x.exp().ln_1p());
        // gelu(1.5) = 1.5 Φ(1.5), with Φ(1.5) = 0.9331927987311419 from tables.
        check(Activation::Gelu, &[1.5], |x| x * 0.933_192_798_731_141_9);
    }

    #[test]
    fn batch_norm_normalises_in_training_and_remembers_for_later() {
        let spec = NetworkSpec { norm: Norm::Batch, activation: Activation::Relu, ..NetworkSpec::default() };
        let mut builder = Builder::new(3, Device::Cpu);
        let mlp = Mlp::build("m", &[2, 4, 1], &spec, &mut builder);
        let parameters = builder.finish();
        let before = parameters.snapshot().buffers;
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let x = noise.normal(&[16, 2]) * 3.0 + 5.0;
        let _ = mlp.forward(&x, None);
        assert_eq!(parameters.snapshot().buffers, before);
        let _ = mlp.forward(&x, Some(&Step { training: true, epoch: 0.0, noise: &noise }));
        assert_ne!(parameters.snapshot().buffers, before);
    }

    #[test]
    fn dropout_keeps_the_expected_sum_and_rests_outside_training() {
        let spec = NetworkSpec { dropout: 0.5, activation: Activation::Softplus, ..NetworkSpec::default() };
        let mut builder = Builder::new(3, Device::Cpu);
        let mlp = Mlp::build("m", &[2, 2000, 1], &spec, &mut builder);
        let x = Tensor::from_slice(&[1.0_f32, 2.0]).view([1, 2]);
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let training = Step { training: true, epoch: 0.0, noise: &noise };
        let calm = values(&mlp.forward(&x, None))[0];
        assert_eq!(calm, values(&mlp.forward(&x, Some(&Step { training: false, ..training })))[0]);
        let draws: Vec<f32> = (0..200).map(|_| values(&mlp.forward(&x, Some(&training)))[0]).collect();
        let mean = draws.iter().sum::<f32>() / 200.0;
        assert!(draws.iter().any(|draw| (draw - calm).abs() > 0.01));
        assert!((mean - calm).abs() < 0.3 * calm.abs().max(1.0), "{mean} is not near {calm}");
    }

    #[test]
    fn first_weights_have_the_variance_of_their_recipe() {
        for (init, expected) in [(Init::Xavier, 2.0 / 700.0), (Init::Kaiming, 2.0 / 400.0), (Init::Lecun, 1.0 / 400.0)]
        {
            let bound = init.bound(Activation::Tanh, 400, 300);
            assert!((bound * bound / 3.0 - expected).abs() < 1e-12);
        }
    }
}
