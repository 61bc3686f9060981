//! Fully connected layers.

use tch::{Kind, Tensor};

use super::fused::Layers;
use super::network::{Activation, NetworkSpec, Norm};
use super::parameters::Builder;
use super::{Step, fused};

struct Layer {
    weight: Weight,
    bias: Tensor, // [outputs]
    norm: Option<NormLayer>,
    /// A residual block after the activation.
    block: Option<Block>,
}

enum Weight {
    /// `[outputs, inputs]`.
    Own(Tensor),
    /// The first rows of another layer's, `[inputs or more, outputs]`: that layer may tell more than this one is told.
    Tied { weight: Tensor, inputs: i64 },
}

/// x + W2 · act(norm(W1 · x + b1)) + b2.
struct Block {
    first: (Tensor, Tensor),
    second: (Tensor, Tensor),
    norm: Option<NormLayer>,
}

/// The statistics and the affine part of a normalisation.
pub(super) enum NormLayer {
    Batch { gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor },
    Layer { gain: Tensor, shift: Tensor },
}

/// A stack of linear layers; all but the last are followed by norm, activation, dropout and, where asked for, a residual
/// block.
pub struct Mlp {
    layers: Vec<Layer>,
    activation: Activation,
    dropout: f64,
}

impl Mlp {
    /// Layers of the given widths, input first and output last.
    pub fn build(widths: &[i64], spec: &NetworkSpec, builder: &mut Builder) -> Self {
        Self::build_tied(widths, spec, None, None, builder)
    }

    /// The same with the weights of an encoder, given from its first layer on, in the place of weights of its own,
    /// and with biases of the last layer to start from, else 0.
    pub fn build_tied(
        widths: &[i64],
        spec: &NetworkSpec,
        tied: Option<&[Tensor]>,
        start: Option<&[f32]>,
        builder: &mut Builder,
    ) -> Self {
        let last = widths.len() - 2;
        let layers = widths
            .windows(2)
            .enumerate()
            .map(|(position, pair)| {
                builder.within(&position.to_string(), |builder| {
                    let (inputs, outputs) = (pair[0], pair[1]);
                    let is_last = position == last;
                    let recipe = if is_last { spec.last_recipe() } else { spec.recipe() };
                    let weight = match tied {
                        Some(weights) => Weight::Tied { weight: weights[last - position].shallow_clone(), inputs },
                        None => Weight::Own(recipe.draw("weight", &[outputs, inputs], builder)),
                    };
                    let block = spec.residual && !is_last;
                    Layer {
                        weight,
                        bias: match start {
                            Some(start) if is_last => builder.given("bias", &[outputs], start),
                            _ => builder.constant("bias", &[outputs], 0.0),
                        },
                        norm: if is_last { None } else { NormLayer::build(spec.norm, outputs, builder) },
                        block: block.then(|| builder.within("block", |builder| Block::build(outputs, spec, builder))),
                    }
                })
            })
            .collect();
        Self { layers, activation: spec.activation, dropout: spec.dropout }
    }

    /// `[..., inputs]` to `[..., outputs]`. Without a step, or outside training, nothing is random.
    pub fn forward(&self, x: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        let training = step.filter(|step| step.training);
        if !fused::is_recorded()
            && let Some(layers) = self.plain(training.is_some())
        {
            return fused::stack(x, &layers, training.is_some_and(|step| step.half));
        }
        let last = self.layers.len() - 1;
        let x = (0..last).fold(x.shallow_clone(), |x, position| self.hidden(position, &x, step));
        self.layers[last].linear(&x)
    }

    /// The layers where they have nothing but a function between them, in training or outside it; `None` where there is more.
    pub fn plain(&self, training: bool) -> Option<Layers<'_>> {
        if training && self.dropout > 0.0 {
            return None;
        }
        let (mut weights, mut biases) = (Vec::with_capacity(self.layers.len()), Vec::with_capacity(self.layers.len()));
        for layer in &self.layers {
            let Weight::Own(weight) = &layer.weight else { return None };
            if layer.norm.is_some() || layer.block.is_some() {
                return None;
            }
            weights.push(weight);
            biases.push(&layer.bias);
        }
        Some(Layers { weights, biases, activation: self.activation })
    }

    /// Number of layers, the last one included.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are none; there always are.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// A hidden layer by itself, with all that follows it.
    pub fn hidden(&self, position: usize, x: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        let training = step.filter(|step| step.training);
        let layer = &self.layers[position];
        let mut x = layer.linear(x);
        if let Some(norm) = &layer.norm {
            x = norm.forward(&x, training.is_some());
        }
        x = self.activation.apply(&x);
        x = dropped(x, self.dropout, training);
        if let Some(block) = &layer.block {
            x = block.forward(&x, self.activation, training.is_some());
        }
        x
    }

    /// A layer by itself, without what follows it.
    pub fn linear(&self, position: usize, x: &Tensor) -> Tensor {
        self.layers[position].linear(x)
    }

    /// The function after each hidden layer.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The weights of each layer, `[outputs, inputs]`.
    pub fn weights(&self) -> Vec<Tensor> {
        self.layers.iter().map(Layer::weight).collect()
    }
}

impl Layer {
    fn linear(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight(), Some(&self.bias))
    }

    fn weight(&self) -> Tensor {
        match &self.weight {
            Weight::Own(weight) => weight.shallow_clone(),
            Weight::Tied { weight, inputs } => weight.narrow(0, 0, *inputs).transpose(0, 1),
        }
    }
}

/// Sets a share of the units to zero and makes up for it, in training.
pub(super) fn dropped(x: Tensor, dropout: f64, training: Option<&Step<'_>>) -> Tensor {
    match training.filter(|_| dropout > 0.0) {
        Some(step) => {
            let keep = 1.0 - dropout;
            let mask = step.noise.mask(&x.size(), keep) / keep;
            x * mask
        }
        None => x,
    }
}

impl Block {
    fn build(units: i64, spec: &NetworkSpec, builder: &mut Builder) -> Self {
        let linear = |name: &str, builder: &mut Builder| {
            builder.within(name, |builder| {
                (spec.recipe().draw("weight", &[units, units], builder), builder.constant("bias", &[units], 0.0))
            })
        };
        let first = linear("0", builder);
        let norm = NormLayer::build(spec.norm, units, builder);
        Self { first, norm, second: linear("1", builder) }
    }

    fn forward(&self, x: &Tensor, activation: Activation, training: bool) -> Tensor {
        let mut inner = x.linear(&self.first.0, Some(&self.first.1));
        if let Some(norm) = &self.norm {
            inner = norm.forward(&inner, training);
        }
        x + activation.apply(&inner).linear(&self.second.0, Some(&self.second.1))
    }
}

impl NormLayer {
    /// A normalisation of `units` units, or of as many channels.
    pub fn build(norm: Norm, units: i64, builder: &mut Builder) -> Option<Self> {
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

    /// Of units `[..., units]`.
    pub fn forward(&self, x: &Tensor, training: bool) -> Tensor {
        match self {
            Self::Batch { .. } => {
                // A batch norm works on [rows, units]; draws of codes come as [samples, rows, units].
                let flat = x.reshape([-1, *x.size().last().expect("a row has units; this is a bug")]);
                self.channels(&flat, training).view_as(x)
            }
            Self::Layer { gain, shift } => x.layer_norm(gain.size(), Some(gain), Some(shift), 1e-5, false),
        }
    }

    /// Of units or images, `[rows, channels, …]`.
    pub fn channels(&self, x: &Tensor, training: bool) -> Tensor {
        match self {
            Self::Batch { gain, shift, mean, variance } => x
                .batch_norm(Some(gain), Some(shift), Some(mean), Some(variance), training, 0.1, 1e-5, false)
                .to_kind(Kind::Float),
            // One group of all channels is the layer norm of an image (Wu and He, 2018).
            Self::Layer { gain, shift } => x.group_norm(1, Some(gain), Some(shift), 1e-5, false),
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
        let mlp = Mlp::build(&[2, 3, 1], &spec, &mut builder);
        let named = builder.finish().named();
        let get = |name: &str| &named.iter().find(|one| one.name == name).unwrap().values;
        let (w0, w1) = (get("0.weight"), get("1.weight"));
        let x = [0.4_f32, -1.5];
        let expected: f32 = (0..3).map(|unit| w1[unit] * (w0[unit * 2] * x[0] + w0[unit * 2 + 1] * x[1]).tanh()).sum();
        let out = values(&mlp.forward(&Tensor::from_slice(&x).view([1, 2]), None));
        assert!((out[0] - expected).abs() < 1e-6, "{out:?} is not {expected}");
    }

    #[test]
    fn a_residual_block_adds_to_what_it_is_given() {
        let spec = NetworkSpec { activation: Activation::Tanh, residual: true, ..NetworkSpec::default() };
        let mut builder = Builder::new(3, Device::Cpu);
        let mlp = Mlp::build(&[1, 1, 1], &spec, &mut builder);
        let named = builder.finish().named();
        let get = |name: &str| named.iter().find(|one| one.name == name).unwrap().values[0];
        let hidden = (get("0.weight") * 0.7).tanh();
        let block = hidden + get("0.block.1.weight") * (get("0.block.0.weight") * hidden).tanh();
        let out = values(&mlp.forward(&Tensor::from_slice(&[0.7_f32]).view([1, 1]), None))[0];
        assert!((out - get("1.weight") * block).abs() < 1e-6);
    }

    #[test]
    fn tied_weights_are_the_encoders_transposed() {
        let spec = NetworkSpec { activation: Activation::Tanh, tied: true, ..NetworkSpec::default() };
        let mut builder = Builder::new(3, Device::Cpu);
        let encoder = Mlp::build(&[4, 3, 2], &spec, &mut builder);
        let weights = encoder.weights();
        let decoder = builder.within("d", |b| Mlp::build_tied(&[2, 3, 4], &spec, Some(&weights), None, b));
        let parameters = builder.finish();
        assert_eq!(parameters.count(), 4 * 3 + 3 + 3 * 2 + 2 + 3 + 4);
        let z = Tensor::from_slice(&[0.3_f32, -0.8]).view([1, 2]);
        let expected = z.matmul(&weights[1]).tanh().matmul(&weights[0]);
        assert_eq!(values(&decoder.forward(&z, None)), values(&expected));
    }

    #[test]
    fn batch_norm_normalises_in_training_and_remembers_for_later() {
        let spec = NetworkSpec { norm: Norm::Batch, activation: Activation::Relu, ..NetworkSpec::default() };
        let mut builder = Builder::new(3, Device::Cpu);
        let mlp = Mlp::build(&[2, 4, 1], &spec, &mut builder);
        let parameters = builder.finish();
        let before = parameters.snapshot().buffers;
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let x = noise.normal(&[16, 2]) * 3.0 + 5.0;
        let _ = mlp.forward(&x, None);
        assert_eq!(parameters.snapshot().buffers, before);
        let _ = mlp.forward(&x, Some(&Step::training(&noise)));
        assert_ne!(parameters.snapshot().buffers, before);
    }

    #[test]
    fn dropout_keeps_the_expected_sum_and_rests_outside_training() {
        let spec = NetworkSpec { dropout: 0.5, activation: Activation::Softplus, ..NetworkSpec::default() };
        let mut builder = Builder::new(3, Device::Cpu);
        let mlp = Mlp::build(&[2, 2000, 1], &spec, &mut builder);
        let x = Tensor::from_slice(&[1.0_f32, 2.0]).view([1, 2]);
        let noise = Noise::new(0, Purpose::Training, 0, Device::Cpu);
        let training = Step::training(&noise);
        let calm = values(&mlp.forward(&x, None))[0];
        assert_eq!(calm, values(&mlp.forward(&x, Some(&Step::validation(&noise))))[0]);
        let draws: Vec<f32> = (0..200).map(|_| values(&mlp.forward(&x, Some(&training)))[0]).collect();
        let mean = draws.iter().sum::<f32>() / 200.0;
        assert!(draws.iter().any(|draw| (draw - calm).abs() > 0.01));
        assert!((mean - calm).abs() < 0.3 * calm.abs().max(1.0), "{mean} is not near {calm}");
    }
}
