//! Convolutions from an image to a code, and transposed convolutions back.
//!
//! A row is an image `[channels, height, width]` in row-major order. Each convolution divides the sides by the stride; the
//! decoder has the same sides in reverse, so that it gives an image of the same shape.

use tch::Tensor;

use super::fused::Moves;
use super::mlp::{Mlp, NormLayer, dropped};
use super::network::{Activation, NetworkSpec};
use super::parameters::Builder;
use super::{Step, fused};
use crate::domain::shape::ImageShape;

/// Convolutions, then fully connected layers.
pub struct ConvEncoder {
    image: [i64; 3],
    convolutions: Vec<Convolution>,
    dense: Mlp,
    common: Common,
}

/// Fully connected layers, then transposed convolutions.
pub struct ConvDecoder {
    /// What the fully connected layers give, as an image.
    start: [i64; 3],
    dense: Mlp,
    convolutions: Vec<Convolution>,
    common: Common,
}

/// What all convolutions of a stack have in common.
struct Common {
    stride: i64,
    padding: i64,
    activation: Activation,
    dropout: f64,
}

struct Convolution {
    weight: Tensor, // [outputs, inputs, kernel, kernel], or [inputs, outputs, …] when transposed
    bias: Tensor,
    norm: Option<NormLayer>,
    block: Option<Block>,
    /// Of a transposed convolution: rows and columns that it adds to reach the sides it mirrors.
    output_padding: Option<[i64; 2]>,
}

/// x + conv(act(norm(conv(x)))), both 3 x 3 and of the same channels.
struct Block {
    first: (Tensor, Tensor),
    norm: Option<NormLayer>,
    second: (Tensor, Tensor),
}

impl Common {
    fn of(spec: &NetworkSpec) -> Self {
        let (stride, padding) = (i64::from(spec.stride()), i64::from(spec.padding()));
        Self { stride, padding, activation: spec.activation, dropout: spec.dropout }
    }

    /// Images through a convolution, or back through a transposed one, with its bias, and what follows it where that is not `bare`.
    fn apply(&self, images: &Tensor, convolution: &Convolution, bare: bool, training: Option<&Step<'_>>) -> Tensor {
        let relu = !bare && convolution.norm.is_none() && self.activation == Activation::Relu;
        let Some(training) = training else {
            let through = self.through(images, convolution, Some(&convolution.bias));
            return if bare { through } else { self.finish(through, convolution, false, None) };
        };
        let moves = Moves { stride: self.stride, padding: self.padding, back: convolution.output_padding };
        let at_once = (self.stride > 1)
            .then(|| fused::convolution(images, &convolution.weight, &convolution.bias, moves, relu))
            .flatten();
        // Else the bias is added afterwards: the sum that is its gradient takes libtorch longer than the gradient of the weights where
        // channels lie together.
        let through =
            at_once.unwrap_or_else(|| biased(&self.through(images, convolution, None), &convolution.bias, relu));
        if bare { through } else { self.finish(through, convolution, relu, Some(training)) }
    }

    fn through(&self, images: &Tensor, convolution: &Convolution, bias: Option<&Tensor>) -> Tensor {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        match convolution.output_padding {
            None => images.conv2d(&convolution.weight, bias, stride, padding, [1, 1], 1),
            Some(more) => images.conv_transpose2d(&convolution.weight, bias, stride, padding, more, 1, [1, 1]),
        }
    }

    /// What follows a convolution that is not the last of a decoder.
    fn finish(&self, mut x: Tensor, convolution: &Convolution, activated: bool, training: Option<&Step<'_>>) -> Tensor {
        if let Some(norm) = &convolution.norm {
            x = norm.channels(&x, training.is_some());
        }
        if !activated {
            x = self.activation.apply(&x);
        }
        x = dropped(x, self.dropout, training);
        match &convolution.block {
            Some(block) => block.forward(&x, self.activation, training.is_some()),
            None => x,
        }
    }
}

/// Channels and sides of an image, then after each convolution.
fn stages(spec: &NetworkSpec, image: ImageShape) -> Vec<[i64; 3]> {
    std::iter::once(image.channels)
        .chain(spec.channels())
        .zip(spec.sides(image))
        .map(|(channels, (height, width))| [i64::from(channels), i64::from(height), i64::from(width)])
        .collect()
}

impl ConvEncoder {
    /// From `image` to `outputs` numbers.
    pub fn build(spec: &NetworkSpec, image: ImageShape, hidden: &[i64], outputs: i64, builder: &mut Builder) -> Self {
        let stages = stages(spec, image);
        let kernel = i64::from(spec.kernel());
        let convolutions = stages
            .windows(2)
            .enumerate()
            .map(|(position, pair)| {
                let (inputs, outputs) = (pair[0][0], pair[1][0]);
                builder.within(&format!("conv.{position}"), |builder| Convolution {
                    weight: spec.recipe().draw("weight", &[outputs, inputs, kernel, kernel], builder),
                    bias: builder.constant("bias", &[outputs], 0.0),
                    norm: NormLayer::build(spec.norm, outputs, builder),
                    block: spec.residual.then(|| Block::build(outputs, spec, builder)),
                    output_padding: None,
                })
            })
            .collect();
        let widths = [&[stages[stages.len() - 1].iter().product()][..], hidden, &[outputs]].concat();
        let dense = builder.within("dense", |builder| Mlp::build(&widths, spec, builder));
        Self { image: stages[0], convolutions, dense, common: Common::of(spec) }
    }

    /// `[..., pixels]` to `[..., outputs]`.
    pub fn forward(&self, x: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        let training = step.filter(|step| step.training);
        let leading = leading(x);
        let [channels, height, width] = self.image;
        let mut images = laid_out(&x.reshape([-1, channels, height, width]), training);
        for convolution in &self.convolutions {
            images = self.common.apply(&images, convolution, false, training);
        }
        let out = self.dense.forward(&images.flatten(1, -1), step); // [rows, outputs]
        restore_leading(&out, &leading)
    }
}

impl ConvDecoder {
    /// From `inputs` numbers to `image`, mirroring the encoder; with its weights where it is given. Before training, a channel is around
    /// the mean of its pixels in `start`, `[pixels]`.
    pub fn build(
        spec: &NetworkSpec,
        image: ImageShape,
        hidden: &[i64],
        inputs: i64,
        tied: Option<&ConvEncoder>,
        start: &[f32],
        builder: &mut Builder,
    ) -> Self {
        let mut stages = stages(spec, image);
        stages.reverse();
        let (kernel, common) = (i64::from(spec.kernel()), Common::of(spec));
        let widths: Vec<i64> =
            std::iter::once(inputs).chain(hidden.iter().rev().copied()).chain([stages[0].iter().product()]).collect();
        let tied_dense = tied.map(|encoder| encoder.dense.weights());
        let dense =
            builder.within("dense", |builder| Mlp::build_tied(&widths, spec, tied_dense.as_deref(), None, builder));
        let last = stages.len() - 2;
        let convolutions = stages
            .windows(2)
            .enumerate()
            .map(|(position, pair)| {
                let (inputs, outputs) = (pair[0][0], pair[1][0]);
                let recipe = if position == last { spec.last_recipe() } else { spec.recipe() };
                let missing = |axis: usize| {
                    let reached = (pair[0][axis] - 1) * common.stride - 2 * common.padding + kernel;
                    pair[1][axis] - reached
                };
                builder.within(&format!("conv.{position}"), |builder| Convolution {
                    weight: match tied {
                        Some(encoder) => encoder.convolutions[last - position].weight.shallow_clone(),
                        None => recipe.draw("weight", &[inputs, outputs, kernel, kernel], builder),
                    },
                    bias: if position == last {
                        builder.given("bias", &[outputs], &channel_means(start, outputs))
                    } else {
                        builder.constant("bias", &[outputs], 0.0)
                    },
                    norm: if position == last { None } else { NormLayer::build(spec.norm, outputs, builder) },
                    block: (spec.residual && position != last).then(|| Block::build(outputs, spec, builder)),
                    output_padding: Some([missing(1), missing(2)]),
                })
            })
            .collect();
        Self { start: stages[0], dense, convolutions, common }
    }

    /// `[..., inputs]` to `[..., pixels]`.
    pub fn forward(&self, z: &Tensor, step: Option<&Step<'_>>) -> Tensor {
        let training = step.filter(|step| step.training);
        let leading = leading(z);
        let [channels, height, width] = self.start;
        let flat = z.reshape([-1, *z.size().last().expect("a code has units; this is a bug")]);
        // The layers that mirror the convolutions are hidden ones, so an activation stands before them too.
        let dense = self.common.activation.apply(&self.dense.forward(&flat, step));
        let mut images = laid_out(&dense.view([-1, channels, height, width]), training);
        let last = self.convolutions.len() - 1;
        for (position, convolution) in self.convolutions.iter().enumerate() {
            images = self.common.apply(&images, convolution, position == last, training);
        }
        restore_leading(&images.flatten(1, -1), &leading)
    }
}

/// Images whose channels lie together in memory: libtorch's convolutions of them take two thirds of the time, and what they give
/// lies like that too. In training alone, so that what is recorded of a model has no steps that change nothing.
fn laid_out(images: &Tensor, training: Option<&Step<'_>>) -> Tensor {
    if training.is_none() {
        return images.shallow_clone();
    }
    let size = images.size();
    let turned = match size[..] {
        // One channel lies so as it is, but has to say so.
        [rows, 1, height, width] => images.reshape([rows, height, width, 1]),
        _ => images.permute([0, 2, 3, 1]).contiguous(),
    };
    turned.permute([0, 3, 1, 2])
}

/// Images and a bias of each channel, and with `relu` nothing below zero.
fn biased(images: &Tensor, bias: &Tensor, relu: bool) -> Tensor {
    let turned = images.permute([0, 2, 3, 1]);
    let size = turned.size();
    if let Some(sums) = fused::biased(&turned.reshape([-1, bias.size()[0]]), bias, relu) {
        return sums.view(size.as_slice()).permute([0, 3, 1, 2]);
    }
    let sums = images + bias.view([-1, 1, 1]);
    if relu { sums.relu() } else { sums }
}

/// All sides but the last.
fn leading(x: &Tensor) -> Vec<i64> {
    let mut size = x.size();
    size.pop();
    size
}

fn restore_leading(flat: &Tensor, leading: &[i64]) -> Tensor {
    if leading.len() == 1 {
        // Nothing to restore; and where this is recorded, the number of rows stays open.
        return flat.shallow_clone();
    }
    let last = *flat.size().last().expect("a row has columns; this is a bug");
    flat.view([leading, &[last]].concat().as_slice())
}

/// The mean of each channel of an image, `[channels * pixels]` to `[channels]`.
fn channel_means(image: &[f32], channels: i64) -> Vec<f32> {
    let pixels = (image.len() / channels.max(1) as usize).max(1);
    image.chunks(pixels).map(|channel| channel.iter().sum::<f32>() / pixels as f32).collect()
}

impl Block {
    fn build(channels: i64, spec: &NetworkSpec, builder: &mut Builder) -> Self {
        let convolution = |name: &str, builder: &mut Builder| {
            builder.within(&format!("block.{name}"), |builder| {
                let weight = spec.recipe().draw("weight", &[channels, channels, 3, 3], builder);
                (weight, builder.constant("bias", &[channels], 0.0))
            })
        };
        let first = convolution("0", builder);
        let norm = builder.within("block", |builder| NormLayer::build(spec.norm, channels, builder));
        Self { first, norm, second: convolution("1", builder) }
    }

    fn forward(&self, x: &Tensor, activation: Activation, training: bool) -> Tensor {
        let convolve =
            |x: &Tensor, (weight, bias): &(Tensor, Tensor)| x.conv2d(weight, Some(bias), [1, 1], [1, 1], [1, 1], 1);
        let mut inner = convolve(x, &self.first);
        if let Some(norm) = &self.norm {
            inner = norm.channels(&inner, training);
        }
        x + convolve(&activation.apply(&inner), &self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::network::{NetworkKind, Norm};
    use crate::models::noise::{Noise, Purpose};
    use crate::models::parameters::values;
    use tch::Device;

    fn spec() -> NetworkSpec {
        NetworkSpec { kind: NetworkKind::Conv, channels: Some(vec![3, 5]), ..NetworkSpec::default() }
    }

    fn pair(spec: &NetworkSpec, image: ImageShape) -> (ConvEncoder, ConvDecoder, usize) {
        let mut builder = Builder::new(3, Device::Cpu);
        let encoder = builder.within("encoder", |b| ConvEncoder::build(spec, image, &[6], 4, b));
        let tied = Some(&encoder).filter(|_| spec.tied);
        let decoder = builder.within("decoder", |b| {
            ConvDecoder::build(spec, image, &[6], 4, tied, &vec![0.5; image.pixels().unwrap()], b)
        });
        (encoder, decoder, builder.finish().count())
    }

    #[test]
    fn an_image_comes_back_in_its_own_shape_whatever_its_sides() {
        for (height, width) in [(8, 8), (28, 28), (7, 10), (5, 9)] {
            for (kernel, stride) in [(3, 2), (4, 2), (5, 3), (3, 1)] {
                for residual in [false, true] {
                    let image = ImageShape { channels: 2, height, width };
                    let spec = NetworkSpec { kernel: Some(kernel), stride: Some(stride), residual, ..spec() };
                    let (encoder, decoder, _) = pair(&spec, image);
                    let noise = Noise::new(1, Purpose::Training, 0, Device::Cpu);
                    let pixels = i64::from(2 * height * width);
                    let code = encoder.forward(&noise.normal(&[3, pixels]), Some(&Step::training(&noise)));
                    assert_eq!(code.size(), [3, 4]);
                    let draws = Tensor::stack(&[&code, &code], 0);
                    assert_eq!(decoder.forward(&draws, None).size(), [2, 3, pixels]);
                }
            }
        }
    }

    #[test]
    fn a_convolution_is_the_sum_over_its_window() {
        let image = ImageShape { channels: 1, height: 4, width: 4 };
        let spec = NetworkSpec { channels: Some(vec![1]), norm: Norm::None, ..spec() };
        let mut builder = Builder::new(3, Device::Cpu);
        let encoder = ConvEncoder::build(&spec, image, &[], 1, &mut builder);
        let named = builder.finish().named();
        let get = |name: &str| named.iter().find(|one| one.name == name).unwrap().values.clone();
        let (window, dense) = (get("conv.0.weight"), get("dense.0.weight"));
        let x: Vec<f32> = (0..16).map(|pixel| (pixel as f32 * 0.7).sin()).collect();
        let mut expected = 0.0;
        for (place, weight) in dense.iter().enumerate() {
            let (top, left) = (2 * (place as i32 / 2) - 1, 2 * (place as i32 % 2) - 1);
            let mut sum = 0.0;
            for row in 0..3 {
                for column in 0..3 {
                    let (y, z) = (top + row, left + column);
                    if (0..4).contains(&y) && (0..4).contains(&z) {
                        sum += window[(row * 3 + column) as usize] * x[(y * 4 + z) as usize];
                    }
                }
            }
            expected += weight * sum.max(0.0);
        }
        let out = values(&encoder.forward(&Tensor::from_slice(&x).view([1, 16]), None));
        assert!((out[0] - expected).abs() < 1e-5, "{out:?} is not {expected}");
    }

    #[test]
    fn tied_convolutions_have_no_weights_of_their_own() {
        let image = ImageShape { channels: 1, height: 8, width: 8 };
        let (_, _, own) = pair(&spec(), image);
        let (_, decoder, tied) = pair(&NetworkSpec { tied: true, ..spec() }, image);
        // Convolutions 1·3·9 + 3·5·9, layers of 20·6 + 6·4.
        assert_eq!(own - tied, 27 + 135 + 120 + 24);
        assert_eq!(decoder.forward(&Tensor::zeros([1, 4], tch::kind::FLOAT_CPU), None).size(), [1, 64]);
    }
}
