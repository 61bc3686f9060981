//! The layers between a row and its code: their description, which all families share, and the stacks made of it.
//!
//! [`Plan::encoder`] and [`Plan::decoder`] build what the spec asks for; a family only says how wide the ends are. Start
//! reading there.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use utoipa::ToSchema;

use super::Step;
use super::conv::{ConvDecoder, ConvEncoder};
use super::likelihood::{Likelihood, LikelihoodSpec, Modelled};
use super::mlp::Mlp;
use super::parameters::{Builder, Filling};
use crate::domain::limits::{CHANNELS, KERNEL, LAYER_UNITS, LAYERS};
use crate::domain::refusal::Faults;
use crate::domain::shape::ImageShape;

/// What the layers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// Fully connected.
    #[default]
    Mlp,
    /// Convolutions, for rows that are the pixels of an image; the decoder has transposed convolutions.
    Conv,
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
    /// The function, value by value.
    pub fn apply(self, x: &Tensor) -> Tensor {
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
    /// Over the units of a row (Ba et al., 2016); in convolutions over all channels and pixels of a row.
    Layer,
}

/// How the first weights are drawn; biases start at 0.
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
    /// Orthogonal rows or columns, times √2 before the rectifiers (Saxe et al., 2014).
    Orthogonal,
}

/// What the first weights are drawn from; orthogonal ones have no choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitDistribution {
    /// Uniform.
    #[default]
    Uniform,
    /// Normal.
    Normal,
}

/// How the weights of one layer start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    init: Init,
    distribution: InitDistribution,
    rectifier: bool,
}

impl Recipe {
    /// The first weights of a layer, `shape` being `[outputs, inputs, …]`. What follows the first two sides multiplies both
    /// inputs and outputs, as for the kernels of convolutions.
    pub fn draw(self, name: &str, shape: &[i64], builder: &mut Builder) -> Tensor {
        let area: i64 = shape[2..].iter().product();
        if self.init == Init::Orthogonal {
            let gain = if self.rectifier { 2_f64.sqrt() } else { 1.0 };
            return builder.orthogonal(name, shape, gain);
        }
        let deviation = self.variance(shape[1] * area, shape[0] * area).sqrt();
        match self.distribution {
            InitDistribution::Uniform => builder.uniform(name, shape, 3_f64.sqrt() * deviation),
            InitDistribution::Normal => builder.normal(name, shape, deviation),
        }
    }

    fn variance(self, inputs: i64, outputs: i64) -> f64 {
        let (inputs, outputs) = (inputs as f64, outputs as f64);
        match self.init {
            Init::Kaiming => 2.0 / inputs,
            Init::Lecun => 1.0 / inputs,
            Init::Xavier | Init::Auto | Init::Orthogonal => 2.0 / (inputs + outputs),
        }
    }
}

/// The layers between input and code. The decoder mirrors them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSpec {
    /// What the layers are.
    pub kind: NetworkKind,
    /// Widths of the hidden layers from the input to the code; an empty list makes a linear model. Chosen by the width of
    /// the rows when it is left out. With convolutions these layers stand between them and the code, and there are none
    /// when it is left out.
    pub hidden: Option<Vec<u32>>,
    /// Channels of each convolution, from the image to the code; 32 and 64 when it is left out. Only for `conv`.
    pub channels: Option<Vec<u32>>,
    /// Side of the window of a convolution. Only for `conv`; 3 when it is left out.
    #[schema(minimum = 1, maximum = 11)]
    pub kernel: Option<u32>,
    /// By how many pixels the window moves, so that each convolution divides the sides of the image by it. Only for `conv`;
    /// 2 when it is left out.
    #[schema(minimum = 1, maximum = 4)]
    pub stride: Option<u32>,
    /// The function after each hidden layer.
    pub activation: Activation,
    /// Normalisation after each hidden layer.
    pub norm: Norm,
    /// Share of the hidden units that is set to zero in training.
    #[schema(minimum = 0.0, maximum = 0.9)]
    pub dropout: f64,
    /// Whether a residual block follows each hidden layer: h + f(h), f being two layers of the same width (He et al., 2016).
    pub residual: bool,
    /// Whether the decoder uses the encoder's weights, transposed; it has biases of its own.
    pub tied: bool,
    /// How the first weights are drawn.
    pub init: Init,
    /// What the first weights are drawn from.
    pub init_distribution: InitDistribution,
}

impl NetworkSpec {
    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        faults.require_within("/network/dropout", self.dropout, 0.0..=0.9);
        let lists = [("/network/hidden", &self.hidden, LAYER_UNITS), ("/network/channels", &self.channels, CHANNELS)];
        for (pointer, list, most) in lists {
            for (position, units) in list.iter().flatten().enumerate() {
                faults.require_within(&format!("{pointer}/{position}"), *units, 1..=most);
            }
            let layers = list.as_ref().map_or(0, Vec::len);
            if layers > LAYERS {
                faults.push(pointer, "too_many", format!("has {layers} layers; allowed are up to {LAYERS}"));
            }
        }
        if self.kind == NetworkKind::Mlp {
            let given = [
                ("channels", self.channels.is_some()),
                ("kernel", self.kernel.is_some()),
                ("stride", self.stride.is_some()),
            ];
            for (name, _) in given.into_iter().filter(|(_, given)| *given) {
                faults.push(format!("/network/{name}"), "conflict", "goes with `kind` conv; this network is an mlp");
            }
        }
        if self.channels.as_ref().is_some_and(Vec::is_empty) {
            faults.push("/network/channels", "too_few", "is empty; a conv network has at least one convolution");
        }
        faults.require_within("/network/kernel", self.kernel(), 1..=KERNEL);
        faults.require_within("/network/stride", self.stride(), 1..=4);
        if self.stride() > self.kernel() {
            faults.push("/network/stride", "conflict", "is more than `kernel`, so that pixels would be passed over");
        }
    }

    /// Reports why these layers cannot take rows of that shape.
    pub fn check_shape(&self, image: Option<ImageShape>, faults: &mut Faults) {
        if self.kind == NetworkKind::Mlp {
            return;
        }
        let Some(image) = image else {
            let detail = "is conv, and the rows are no images; upload the dataset with `shape`, or use mlp";
            faults.push("/network/kind", "not_an_image", detail);
            return;
        };
        let sides = self.sides(image);
        if sides.len() <= self.channels().len() {
            let detail = format!(
                "has {} convolutions, and an image of {}x{} is used up after {}",
                self.channels().len(),
                image.height,
                image.width,
                sides.len() - 1
            );
            faults.push("/network/channels", "too_many", detail);
        }
    }

    /// Fills in what is left open, for rows of `width` columns.
    pub fn settle(&mut self, width: usize) {
        self.hidden = Some(self.hidden_for(width));
        if self.kind == NetworkKind::Conv {
            self.channels = Some(self.channels());
            self.kernel = Some(self.kernel());
            self.stride = Some(self.stride());
        }
    }

    /// The widths of the fully connected hidden layers for rows of `width` columns.
    pub fn hidden_for(&self, width: usize) -> Vec<u32> {
        self.hidden.clone().unwrap_or_else(|| match self.kind {
            NetworkKind::Mlp => {
                let first = (width * 4).clamp(32, 512) as u32;
                vec![first, first / 2]
            }
            NetworkKind::Conv => Vec::new(),
        })
    }

    /// Channels of the convolutions.
    pub fn channels(&self) -> Vec<u32> {
        self.channels.clone().unwrap_or_else(|| vec![32, 64])
    }

    /// Side of the window.
    pub fn kernel(&self) -> u32 {
        self.kernel.unwrap_or(3)
    }

    /// How far the window moves.
    pub fn stride(&self) -> u32 {
        self.stride.unwrap_or(2)
    }

    /// How many pixels of zeros surround an image before a convolution.
    pub fn padding(&self) -> u32 {
        self.kernel().saturating_sub(1) / 2
    }

    /// Height and width of the image, then after each convolution, as far as there is anything left.
    pub fn sides(&self, image: ImageShape) -> Vec<(u32, u32)> {
        let (kernel, stride) = (self.kernel(), self.stride().max(1));
        let next = |side: u32| Some((side + 2 * self.padding()).checked_sub(kernel)? / stride + 1);
        let mut sides = vec![(image.height, image.width)];
        for _ in self.channels() {
            let (height, width) = sides[sides.len() - 1];
            // A side of one pixel that stays one pixel would go on for ever and keep nothing of its neighbours.
            match (next(height), next(width)) {
                (Some(height), Some(width)) => sides.push((height, width)),
                _ => break,
            }
        }
        sides
    }

    /// How the weights of a hidden layer start.
    pub fn recipe(&self) -> Recipe {
        let rectifier = matches!(
            self.activation,
            Activation::Relu | Activation::LeakyRelu | Activation::Elu | Activation::Gelu | Activation::Silu
        );
        let init = match (self.init, self.activation) {
            (Init::Auto, Activation::Selu) => Init::Lecun,
            (Init::Auto, _) if rectifier => Init::Kaiming,
            (Init::Auto, _) => Init::Xavier,
            (init, _) => init,
        };
        Recipe { init, distribution: self.init_distribution, rectifier }
    }

    /// How the weights of a last layer start. It is linear, so the gain of an activation does not apply to it.
    pub fn last_recipe(&self) -> Recipe {
        let init = if self.init == Init::Auto { Init::Xavier } else { self.init };
        Recipe { init, distribution: self.init_distribution, rectifier: false }
    }
}

/// What a family builds its network from. Every `auto` was resolved before.
pub struct Plan<'a> {
    /// The image that a row is, where it is one.
    pub image: Option<ImageShape>,
    /// The layers between input and code.
    pub network: &'a NetworkSpec,
    /// What the decoder's output means.
    pub likelihood: &'a LikelihoodSpec,
    /// The columns of a row, in their order.
    pub columns: &'a [Modelled],
    /// The label columns, where the job has some, and what the output of a head means.
    pub target: Option<Target<'a>>,
}

/// What a supervised network is to tell.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// What the head's output means.
    pub likelihood: &'a LikelihoodSpec,
    /// The label columns, in their order.
    pub columns: &'a [Modelled],
}

impl Plan<'_> {
    /// Width of a prepared row, which is the width of a decoder's output too.
    pub fn width(&self) -> i64 {
        self.columns.iter().map(|column| column.treatment.slots() as i64).sum()
    }

    /// The widths of the fully connected hidden layers.
    pub fn hidden(&self) -> Vec<i64> {
        self.network.hidden_for(self.columns.len()).into_iter().map(i64::from).collect()
    }

    /// Layers from a prepared row to `outputs` numbers, such as a code: `[..., width]` to `[..., outputs]`. The row may have
    /// gaps where `builder` expects some.
    pub fn encoder(&self, name: &str, outputs: i64, builder: &mut Builder) -> Body {
        let layers = builder.within(name, |builder| match (self.network.kind, self.image) {
            (NetworkKind::Conv, Some(image)) => {
                Layers::Encoder(ConvEncoder::build(self.network, image, &self.hidden(), outputs, builder))
            }
            _ => {
                let widths = [&[self.width()][..], &self.hidden(), &[outputs]].concat();
                Layers::Mlp(Mlp::build(&widths, self.network, builder))
            }
        });
        Body { layers, filling: builder.filling() }
    }

    /// Layers from `inputs` numbers to the output of a decoder, the encoder's mirrored: `[..., inputs]` to `[..., width]`.
    ///
    /// With tied weights they are those of `encoder`; of a first layer that tells more than the code, such as its variance too,
    /// the first `inputs` rows. Before training it tells the means of the columns, as far as they are known.
    pub fn decoder(&self, name: &str, inputs: i64, encoder: &Body, builder: &mut Builder) -> Body {
        let tied = Some(encoder).filter(|_| self.network.tied);
        let start = Modelled::starts(self.columns);
        let layers = builder.within(name, |builder| match (self.network.kind, self.image) {
            (NetworkKind::Conv, Some(image)) => {
                let tied = tied.and_then(Body::as_conv);
                Layers::Decoder(ConvDecoder::build(self.network, image, &self.hidden(), inputs, tied, &start, builder))
            }
            _ => {
                let hidden = self.hidden();
                let widths: Vec<i64> =
                    std::iter::once(inputs).chain(hidden.into_iter().rev()).chain([self.width()]).collect();
                let tied = tied.and_then(Body::as_mlp).map(Mlp::weights);
                Layers::Mlp(Mlp::build_tied(&widths, self.network, tied.as_deref(), Some(&start), builder))
            }
        });
        layers.into()
    }

    /// Fully connected layers of the given widths with the plan's activation, norm and first weights.
    pub fn layers(&self, name: &str, widths: &[i64], builder: &mut Builder) -> Body {
        builder.within(name, |builder| Layers::Mlp(Mlp::build(widths, self.network, builder))).into()
    }

    /// What a decoder's output means.
    pub fn likelihood(&self, builder: &mut Builder) -> Likelihood {
        builder.within("likelihood", |builder| Likelihood::build(self.likelihood, self.columns, builder))
    }
}

/// A stack of layers.
pub struct Body {
    layers: Layers,
    /// Of what goes in.
    filling: Filling,
}

enum Layers {
    /// Fully connected.
    Mlp(Mlp),
    /// From an image.
    Encoder(ConvEncoder),
    /// To an image.
    Decoder(ConvDecoder),
}

impl From<Layers> for Body {
    fn from(layers: Layers) -> Self {
        Self { layers, filling: Filling::default() }
    }
}

impl Body {
    /// `[..., inputs]` to `[..., outputs]`. Without a step, or outside training, nothing is random. Of an encoder the gaps of
    /// rows are filled in.
    pub fn forward(&self, x: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        let x = &self.filling.fill(x);
        match &self.layers {
            Layers::Mlp(mlp) => mlp.forward(x, step),
            Layers::Encoder(encoder) => encoder.forward(x, step),
            Layers::Decoder(decoder) => decoder.forward(x, step),
        }
    }

    /// What the gaps of rows that go in are filled with.
    pub fn filling(&self) -> &Filling {
        &self.filling
    }

    /// The fully connected stack, if it is one.
    pub fn as_mlp(&self) -> Option<&Mlp> {
        match &self.layers {
            Layers::Mlp(mlp) => Some(mlp),
            _ => None,
        }
    }

    fn as_conv(&self) -> Option<&ConvEncoder> {
        match &self.layers {
            Layers::Encoder(encoder) => Some(encoder),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parameters::values;
    use tch::Device;

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
    fn first_weights_have_the_variance_of_their_recipe() {
        let (inputs, outputs) = (400_i64, 300_i64);
        for (init, expected) in [(Init::Xavier, 2.0 / 700.0), (Init::Kaiming, 2.0 / 400.0), (Init::Lecun, 1.0 / 400.0)]
        {
            for init_distribution in [InitDistribution::Uniform, InitDistribution::Normal] {
                let spec = NetworkSpec { init, init_distribution, ..NetworkSpec::default() };
                let mut builder = Builder::new(1, Device::Cpu);
                let weight = values(&spec.recipe().draw("w", &[outputs, inputs], &mut builder));
                let variance = weight.iter().map(|w| f64::from(w * w)).sum::<f64>() / weight.len() as f64;
                assert!((variance / expected - 1.0).abs() < 0.02, "{init:?} {init_distribution:?}: {variance}");
            }
        }
    }

    #[test]
    fn orthogonal_weights_have_orthogonal_rows() {
        let spec = NetworkSpec { init: Init::Orthogonal, activation: Activation::Tanh, ..NetworkSpec::default() };
        for shape in [[3_i64, 5], [5, 3]] {
            let weight = spec.recipe().draw("w", &shape, &mut Builder::new(1, Device::Cpu)).detach();
            let wide = if shape[0] < shape[1] { weight } else { weight.transpose(0, 1) };
            let gram = values(&wide.matmul(&wide.transpose(0, 1)));
            for (index, value) in gram.iter().enumerate() {
                let expected = if index % 4 == 0 { 1.0 } else { 0.0 };
                assert!((value - expected).abs() < 1e-5, "{gram:?}");
            }
        }
    }

    #[test]
    fn sides_shrink_by_the_stride_until_nothing_is_left() {
        let image = ImageShape { channels: 1, height: 28, width: 12 };
        let spec = NetworkSpec { kind: NetworkKind::Conv, ..NetworkSpec::default() };
        assert_eq!(spec.sides(image), [(28, 12), (14, 6), (7, 3)]);
        let wide = NetworkSpec { kernel: Some(4), ..spec };
        assert_eq!(wide.sides(image), [(28, 12), (14, 6), (7, 3)]);
    }
}
