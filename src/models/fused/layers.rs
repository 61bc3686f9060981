//! Layers and losses that are one node of the graph each.

use std::ffi::{c_char, c_int, c_void};

use tch::Tensor;

use super::{call, is_plain, pointers};
use crate::models::network::Activation;

/// Linear layers one after the other, with a function after all but the last.
pub struct Layers<'a> {
    /// Of each layer, `[outputs, inputs]`.
    pub weights: Vec<&'a Tensor>,
    /// Of each layer, `[outputs]`.
    pub biases: Vec<&'a Tensor>,
    /// The function.
    pub activation: Activation,
}

/// Linear layers one after the other, `[..., inputs]` to `[..., outputs]`; `activation` follows all but the last. One node of
/// the graph, whatever the number of layers. With `half` the matrix products are taken in bfloat16, whatever else in 32 bits.
///
/// # Panics
/// libtorch refuses the shapes, which is a bug.
pub fn stack(x: &Tensor, layers: &Layers<'_>, half: bool) -> Tensor {
    let mut size = x.size();
    let flat =
        if size.len() == 2 { x.shallow_clone() } else { x.reshape([-1, *size.last().expect("a row has values")]) };
    let (weights, biases) = (pointers(layers.weights.iter().copied()), pointers(layers.biases.iter().copied()));
    let mut made = std::ptr::null_mut();
    // SAFETY: all pointers are those of live tensors, and as many as is said; what comes back is a tensor of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    let output = unsafe {
        call(|message, capacity| {
            latente_stack(
                flat.as_ptr().cast(),
                weights.as_ptr(),
                biases.as_ptr(),
                weights.len(),
                layers.activation as i64,
                half,
                &raw mut made,
                message,
                capacity,
            )
        })
        .unwrap_or_else(|fault| panic!("a stack of layers: {fault}"));
        Tensor::from_ptr(made.cast())
    };
    if size.len() == 2 {
        return output;
    }
    *size.last_mut().expect("a row has values") = output.size()[1];
    output.reshape(size)
}

/// The mean over rows of -log p of `x` `[rows, columns]`, and a constant, under what an encoder and a decoder make of `seen`
/// `[rows, inputs]`: logits (`bernoulli`), or means of unit variance. One node of the graph; `x` takes no gradient. `None` where the
/// tensors are not 32-bit floats of the host.
///
/// # Panics
/// libtorch refuses the shapes, which is a bug.
pub fn restored(
    seen: &Tensor,
    x: &Tensor,
    (encoder, decoder): (&Layers<'_>, &Layers<'_>),
    half: bool,
    simple: Simple,
) -> Option<Tensor> {
    if !is_plain(seen) || !is_plain(x) || seen.dim() != 2 || x.dim() != 2 || encoder.activation != decoder.activation {
        return None;
    }
    let [weights, biases] = together(encoder, decoder);
    let mut made = std::ptr::null_mut();
    // SAFETY: all pointers are those of live tensors, and as many as is said; what comes back is a tensor of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_restored(
                seen.as_ptr().cast(),
                x.as_ptr().cast(),
                weights.as_ptr(),
                biases.as_ptr(),
                weights.len(),
                encoder.weights.len() - 1,
                encoder.activation as i64,
                half,
                simple.bernoulli,
                simple.constant,
                &raw mut made,
                message,
                capacity,
            )
        })
        .unwrap_or_else(|fault| panic!("a loss: {fault}"));
        Some(Tensor::from_ptr(made.cast()))
    }
}

/// The weights and the biases of two stacks, one after the other.
fn together(first: &Layers<'_>, second: &Layers<'_>) -> [Vec<*const c_void>; 2] {
    [
        pointers(first.weights.iter().chain(&second.weights).copied()),
        pointers(first.biases.iter().chain(&second.biases).copied()),
    ]
}

/// What there is to the loss of a variational autoencoder beside its layers.
#[derive(Clone, Copy, Debug)]
pub struct Divergence {
    /// Logarithms of variances count within so much of 0.
    pub limit: f64,
    /// How much the divergence counts.
    pub weight: f64,
    /// What that of each unit counts as at least.
    pub least: f64,
}

/// The losses of a variational autoencoder that sees `seen` `[rows, inputs]`, draws codes with `noise` `[rows, latent]` and is to give `x`
/// `[rows, columns]`: what is minimised, one node of the graph; -log p of `x` as the mean over rows; and the sum over units of
/// KL(q || N(0, 1)), as the mean over rows. The last two have no graph. `None` where the tensors are not 32-bit floats of the host.
///
/// # Panics
/// libtorch refuses the shapes, which is a bug.
pub fn variational(
    (seen, x, noise): (&Tensor, &Tensor, &Tensor),
    (encoder, decoder): (&Layers<'_>, &Layers<'_>),
    half: bool,
    simple: Simple,
    divergence: Divergence,
) -> Option<[Tensor; 3]> {
    let are_plain = [seen, x, noise].iter().all(|tensor| is_plain(tensor) && tensor.dim() == 2);
    if !are_plain || seen.requires_grad() || x.requires_grad() || encoder.activation != decoder.activation {
        return None;
    }
    let [weights, biases] = together(encoder, decoder);
    let mut made = [std::ptr::null_mut(); 3];
    // SAFETY: all pointers are those of live tensors, and as many as is said; what comes back are tensors of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_variational(
                seen.as_ptr().cast(),
                x.as_ptr().cast(),
                noise.as_ptr().cast(),
                weights.as_ptr(),
                biases.as_ptr(),
                encoder.weights.len(),
                decoder.weights.len(),
                encoder.activation as i64,
                half,
                simple.bernoulli,
                simple.constant,
                divergence.limit,
                divergence.weight,
                divergence.least,
                made.as_mut_ptr(),
                message,
                capacity,
            )
        })
        .unwrap_or_else(|fault| panic!("a loss: {fault}"));
        Some(made.map(|tensor| Tensor::from_ptr(tensor.cast())))
    }
}

/// A density of all columns that is simple enough for the loops of `native/`.
#[derive(Clone, Copy, Debug)]
pub struct Simple {
    /// Whether outputs are logits of a bernoulli density, else means of a gaussian one of unit variance.
    pub bernoulli: bool,
    /// What is left out of a row's -log p by them.
    pub constant: f64,
}

/// The sum over the last axis of -log p of values `x` under the logits (`bernoulli`), or the means of unit variance and without
/// its constant, that `output` `[..., rows, columns]` has. One node of the graph; `x` takes no gradient.
///
/// # Panics
/// libtorch refuses the shapes, which is a bug.
pub fn row_loss(output: &Tensor, x: &Tensor, bernoulli: bool) -> Tensor {
    let mut made = std::ptr::null_mut();
    // SAFETY: both pointers are those of live tensors; what comes back is a tensor of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_row_loss(output.as_ptr().cast(), x.as_ptr().cast(), bernoulli, &raw mut made, message, capacity)
        })
        .unwrap_or_else(|fault| panic!("a loss: {fault}"));
        Tensor::from_ptr(made.cast())
    }
}

/// `x` `[rows, columns]` and a bias of each column, and with `relu` nothing below zero. One node of the graph. `None` where the
/// tensors are not 32-bit floats of the host.
///
/// # Panics
/// The shapes do not go together, which is a bug.
pub fn biased(x: &Tensor, bias: &Tensor, relu: bool) -> Option<Tensor> {
    if !is_plain(x) || !is_plain(bias) {
        return None;
    }
    let mut made = std::ptr::null_mut();
    // SAFETY: both pointers are those of live tensors; what comes back is a tensor of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_biased(x.as_ptr().cast(), bias.as_ptr().cast(), relu, &raw mut made, message, capacity)
        })
        .unwrap_or_else(|fault| panic!("a bias: {fault}"));
        Some(Tensor::from_ptr(made.cast()))
    }
}

/// How the window of a convolution moves.
#[derive(Clone, Copy, Debug)]
pub struct Moves {
    /// By how many pixels.
    pub stride: i64,
    /// How far it begins before the image.
    pub padding: i64,
    /// Of a transposed convolution, which goes back: rows and columns that its images have beyond where the window ends.
    pub back: Option<[i64; 2]>,
}

/// A convolution of images `[rows, inputs, height, width]` whose channels lie together, with a bias of each channel, and with `relu`
/// nothing below zero; so it is laid out again. One node of the graph. `None` where the tensors are not 32-bit floats of the host
/// that lie so.
///
/// # Panics
/// The shapes do not go together, which is a bug.
pub fn convolution(images: &Tensor, weight: &Tensor, bias: &Tensor, moves: Moves, relu: bool) -> Option<Tensor> {
    let output_padding = moves.back.unwrap_or_default();
    let mut made = std::ptr::null_mut();
    // SAFETY: the pointers are those of live tensors and of two numbers; what comes back, if something does, is a tensor of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_convolution(
                images.as_ptr().cast(),
                weight.as_ptr().cast(),
                bias.as_ptr().cast(),
                moves.back.is_some(),
                relu,
                moves.stride,
                moves.padding,
                output_padding.as_ptr(),
                &raw mut made,
                message,
                capacity,
            )
        })
        .unwrap_or_else(|fault| panic!("a convolution: {fault}"));
        (!made.is_null()).then(|| Tensor::from_ptr(made.cast()))
    }
}

/// Draws of codes `[rows, latent]` with as much `noise`, from `both` `[rows, 2 * latent]`: means, then logarithms of variances that
/// count within ±`limit`; and the mean over rows of each unit's KL(q || N(0, 1)), `[latent]`. One node of the graph. `None` where
/// the tensors are not 32-bit floats of the host.
///
/// # Panics
/// The shapes do not go together, which is a bug.
pub fn gaussian_code(both: &Tensor, noise: &Tensor, limit: f64) -> Option<(Tensor, Tensor)> {
    if !is_plain(both) || !is_plain(noise) || both.dim() != 2 || noise.dim() != 2 {
        return None;
    }
    let (mut z, mut divergence) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: both pointers are those of live tensors; what comes back are tensors of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            let (both, noise) = (both.as_ptr().cast(), noise.as_ptr().cast());
            latente_gaussian_code(both, noise, limit, &raw mut z, &raw mut divergence, message, capacity)
        })
        .unwrap_or_else(|fault| panic!("a draw of codes: {fault}"));
        Some((Tensor::from_ptr(z.cast()), Tensor::from_ptr(divergence.cast())))
    }
}

// SAFETY: as native/torch_shim.h declares it; the tensors are handles that the other side does not keep.
#[expect(unsafe_code, reason = "functions of native/torch_shim.cpp")]
unsafe extern "C" {
    fn latente_stack(
        input: *const c_void,
        weights: *const *const c_void,
        biases: *const *const c_void,
        layers: usize,
        activation: i64,
        half: bool,
        output: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_restored(
        input: *const c_void,
        x: *const c_void,
        weights: *const *const c_void,
        biases: *const *const c_void,
        layers: usize,
        code: usize,
        activation: i64,
        half: bool,
        bernoulli: bool,
        constant: f64,
        loss: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_variational(
        input: *const c_void,
        x: *const c_void,
        noise: *const c_void,
        weights: *const *const c_void,
        biases: *const *const c_void,
        encoder_layers: usize,
        decoder_layers: usize,
        activation: i64,
        half: bool,
        bernoulli: bool,
        constant: f64,
        limit: f64,
        weight: f64,
        least: f64,
        losses: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_row_loss(
        output: *const c_void,
        x: *const c_void,
        bernoulli: bool,
        sums: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_biased(
        x: *const c_void,
        bias: *const c_void,
        relu: bool,
        output: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_convolution(
        x: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        transposed: bool,
        relu: bool,
        stride: i64,
        padding: i64,
        output_padding: *const i64,
        output: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_gaussian_code(
        both: *const c_void,
        noise: *const c_void,
        limit: f64,
        z: *mut *mut c_void,
        divergence: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::super::backward;
    use super::*;
    use crate::models::noise::{Noise, Purpose};

    /// Weights, biases and rows of a stack of three layers, all of which take gradients.
    fn layers() -> (Vec<Tensor>, Vec<Tensor>, Tensor) {
        let normal = |number, shape: &[i64]| {
            Noise::new(5, Purpose::Training, number, Device::Cpu).normal(shape).set_requires_grad(true)
        };
        let weights = vec![normal(0, &[7, 5]), normal(1, &[4, 7]), normal(2, &[6, 4])];
        (weights, vec![normal(3, &[7]), normal(4, &[4]), normal(5, &[6])], normal(6, &[3, 5]))
    }

    fn of<'a>(weights: &'a [Tensor], biases: &'a [Tensor], activation: Activation) -> Layers<'a> {
        Layers { weights: weights.iter().collect(), biases: biases.iter().collect(), activation }
    }

    fn plainly(x: &Tensor, weights: &[Tensor], biases: &[Tensor], activation: Activation) -> Tensor {
        let last = weights.len() - 1;
        let layer = |x: &Tensor, place: usize| x.linear(&weights[place], Some(&biases[place]));
        layer(&(0..last).fold(x.shallow_clone(), |x, place| activation.apply(&layer(&x, place))), last)
    }

    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    const ACTIVATIONS: [Activation; 9] = [
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Relu,
        Activation::LeakyRelu,
        Activation::Elu,
        Activation::Selu,
        Activation::Gelu,
        Activation::Silu,
        Activation::Softplus,
    ];

    #[test]
    fn a_stack_and_its_gradients_are_those_of_plain_operations() {
        let (weights, biases, x) = layers();
        let leaves: Vec<&Tensor> = weights.iter().chain(&biases).chain([&x]).collect();
        for activation in ACTIVATIONS {
            let (found, expected) =
                (stack(&x, &of(&weights, &biases, activation), false), plainly(&x, &weights, &biases, activation));
            assert!(apart(&found, &expected) < 1e-5, "{activation:?}");
            let wanted = Tensor::run_backward(&[expected.square().sum(Kind::Float)], &leaves, false, false);
            let given = Tensor::run_backward(&[found.square().sum(Kind::Float)], &leaves, false, false);
            for (given, wanted) in given.iter().zip(&wanted) {
                assert!(apart(given, wanted) < 1e-3, "{activation:?}: {}", apart(given, wanted));
            }
            // Draws of codes come as [draws, rows, units].
            let many = stack(&x.view([3, 1, 5]), &of(&weights, &biases, activation), false);
            assert_eq!((many.size(), apart(&many.view([3, 6]), &found)), (vec![3, 1, 6], 0.0));
        }
    }

    #[test]
    fn the_gradient_of_a_gradient_goes_through_a_stack() {
        let (weights, biases, x) = layers();
        for activation in ACTIVATIONS {
            let second = |output: &Tensor| {
                let slope = Tensor::run_backward(&[output.square().sum(Kind::Float)], &[&x], true, true);
                let leaves: Vec<&Tensor> = weights.iter().chain(&biases[..1]).chain([&x]).collect();
                Tensor::run_backward(&[slope[0].square().sum(Kind::Float)], &leaves, false, false)
            };
            let found = second(&stack(&x, &of(&weights, &biases, activation), false));
            let expected = second(&plainly(&x, &weights, &biases, activation));
            for (found, expected) in found.iter().zip(&expected) {
                let size = expected.abs().max().double_value(&[]).max(1.0);
                assert!(apart(found, expected) < 1e-4 * size, "{activation:?}: {}", apart(found, expected));
            }
        }
    }

    #[test]
    fn gradients_are_written_where_they_are_wanted_and_nowhere_else() {
        let (weights, biases, x) = layers();
        // The first layer counts twice: once in the stack, once by an operation with a gradient of its own.
        let loss = || {
            stack(&x, &of(&weights, &biases, Activation::Tanh), false).square().sum(Kind::Float)
                + stack(&(&x * 0.5), &of(&weights, &biases, Activation::Tanh), false).sum(Kind::Float)
                + weights[0].square().sum(Kind::Float)
        };
        let unused = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let leaves = [&weights[0], &biases[1], &weights[2], &unused];
        let wanted = Tensor::run_backward(&[loss()], &leaves[..3], false, false);
        let views: Vec<Tensor> =
            leaves.iter().map(|leaf| tch::no_grad(|| leaf.full_like(9.0).set_requires_grad(false))).collect();
        for _ in 0..2 {
            backward(&loss(), &leaves, &views.iter().collect::<Vec<_>>());
            for (view, wanted) in views.iter().zip(&wanted) {
                assert!(apart(view, wanted) < 1e-4, "{}", apart(view, wanted));
            }
            assert_eq!(views[3].abs().max().double_value(&[]), 0.0);
        }
        assert!(weights.iter().chain([&unused, &x]).all(|leaf| !leaf.grad().defined()), "nothing is left behind");
    }

    #[test]
    fn a_loss_through_a_code_and_back_and_its_gradients_are_those_of_plain_operations() {
        let (weights, biases, x) = layers();
        let aim = Noise::new(9, Purpose::Training, 0, Device::Cpu).uniform(&[3, 6]);
        let leaves: Vec<&Tensor> = weights.iter().chain(&biases).collect();
        let views: Vec<Tensor> =
            leaves.iter().map(|leaf| tch::no_grad(|| leaf.full_like(9.0).set_requires_grad(false))).collect();
        for activation in ACTIVATIONS {
            for (bernoulli, layers_of_encoder) in [(true, 1), (false, 2)] {
                let parts = |from: usize, to: usize| of(&weights[from..to], &biases[from..to], activation);
                let simple = Simple { bernoulli, constant: 0.75 };
                let both = (&parts(0, layers_of_encoder), &parts(layers_of_encoder, 3));
                let fused = |x: &Tensor| restored(x, &aim, both, false, simple).unwrap();
                let plain = |x: &Tensor| {
                    let code = plainly(x, &weights[..layers_of_encoder], &biases[..layers_of_encoder], activation);
                    let output =
                        plainly(&code, &weights[layers_of_encoder..], &biases[layers_of_encoder..], activation);
                    let each: Tensor =
                        if bernoulli { output.softplus() - &aim * &output } else { (&output - &aim).square() * 0.5 };
                    each.sum_dim_intlist([-1].as_slice(), false, Kind::Float).mean(Kind::Float) + 0.75
                };
                let (found, expected) = (fused(&x), plain(&x));
                assert!(apart(&found, &expected) < 1e-5 * expected.double_value(&[]), "{activation:?}");
                let with_x: Vec<&Tensor> = leaves.iter().copied().chain([&x]).collect();
                let wanted = Tensor::run_backward(&[&expected], &with_x, false, false);
                // As part of a graph, by itself, and beside another loss.
                let given = Tensor::run_backward(&[&found * 3.0], &with_x, false, false);
                for (given, wanted) in given.iter().zip(&wanted) {
                    assert!(apart(given, &(wanted * 3.0)) < 1e-4, "{activation:?}");
                }
                let known = x.detach();
                for (loss, times) in [(fused(&known), 1.0), (fused(&known) + fused(&known), 2.0), (fused(&x), 1.0)] {
                    backward(&loss, &leaves, &views.iter().collect::<Vec<_>>());
                    for (view, wanted) in views.iter().zip(&wanted) {
                        assert!(apart(view, &(wanted * times)) < 1e-4, "{activation:?} {times}");
                    }
                }
                // Of a part of the layers alone.
                backward(&fused(&known), &leaves[..1], &[&views[0]]);
                assert!(apart(&views[0], &wanted[0]) < 1e-4, "{activation:?}");
                let second = |loss: &Tensor| {
                    let slope = Tensor::run_backward(&[loss], &[&x], true, true).remove(0);
                    Tensor::run_backward(&[slope.square().sum(Kind::Float)], &with_x[..5], false, false)
                };
                for (found, expected) in second(&fused(&x)).iter().zip(&second(&plain(&x))) {
                    let size = expected.abs().max().double_value(&[]).max(1.0);
                    assert!(apart(found, expected) < 1e-4 * size, "{activation:?}: {}", apart(found, expected));
                }
            }
        }
        let both =
            (&of(&weights[..1], &biases[..1], Activation::Relu), &of(&weights[1..], &biases[1..], Activation::Tanh));
        let simple = Simple { bernoulli: true, constant: 0.0 };
        assert!(restored(&x, &aim, both, false, simple).is_none(), "one function is that of all layers");
    }

    #[test]
    fn a_variational_loss_and_its_gradients_are_those_of_plain_operations() {
        let normal = |number, shape: &[i64]| Noise::new(10, Purpose::Training, number, Device::Cpu).normal(shape);
        let leaf = |number, shape: &[i64]| normal(number, shape).set_requires_grad(true);
        // 5 columns, 7 units, 3 numbers of code, and back.
        let weights = [leaf(0, &[7, 5]), leaf(1, &[6, 7]), leaf(2, &[7, 3]), leaf(3, &[5, 7])];
        let biases = [leaf(4, &[7]), leaf(5, &[6]), leaf(6, &[7]), leaf(7, &[5])];
        let leaves: Vec<&Tensor> = weights.iter().chain(&biases).collect();
        let (x, noise) = (normal(8, &[9, 5]).sigmoid(), normal(9, &[9, 3]));
        let views: Vec<Tensor> =
            leaves.iter().map(|leaf| tch::no_grad(|| leaf.full_like(9.0).set_requires_grad(false))).collect();
        let views: Vec<&Tensor> = views.iter().collect();
        for activation in [Activation::Tanh, Activation::Relu, Activation::Gelu] {
            // The divergence of some units is below the least, and some variances lie beyond the limit.
            for (bernoulli, weight, least) in [(true, 0.7, 0.0), (false, 1.5, 3.0)] {
                let divergence = Divergence { limit: 2.0, weight, least };
                let simple = Simple { bernoulli, constant: 0.25 };
                let layers =
                    (&of(&weights[..2], &biases[..2], activation), &of(&weights[2..], &biases[2..], activation));
                let fused = || variational((&x, &x, &noise), layers, false, simple, divergence).unwrap();
                let plain = || {
                    let both = plainly(&x, &weights[..2], &biases[..2], activation);
                    let (mean, logs): (Tensor, Tensor) = (both.narrow(1, 0, 3), both.narrow(1, 3, 3).clamp(-2.0, 2.0));
                    let each: Tensor = (mean.square() + logs.exp() - &logs - 1.0) * 0.5;
                    let units = each.mean_dim([0].as_slice(), false, Kind::Float);
                    let z = mean + (logs * 0.5).exp() * &noise;
                    let output = plainly(&z, &weights[2..], &biases[2..], activation);
                    let each: Tensor =
                        if bernoulli { output.softplus() - &x * &output } else { (&output - &x).square() * 0.5 };
                    let lost = each.sum_dim_intlist([-1].as_slice(), false, Kind::Float).mean(Kind::Float) + 0.25;
                    let total = &lost + units.clamp_min(least).sum(Kind::Float) * weight;
                    [total, lost, units.sum(Kind::Float)]
                };
                let (found, expected) = (fused(), plain());
                for (found, expected) in found.iter().zip(&expected) {
                    let most = 1e-5 * expected.double_value(&[]).abs().max(1.0);
                    assert!(apart(found, expected) < most, "{activation:?}: {found:?} {expected:?}");
                }
                let wanted = Tensor::run_backward(&[&expected[0]], &leaves, false, false);
                let near = |found: &Tensor, wanted: &Tensor| {
                    let most = 1e-5 * wanted.abs().max().double_value(&[]).max(1.0);
                    assert!(apart(found, wanted) < most, "{activation:?} {bernoulli}: {}", apart(found, wanted));
                };
                let given = Tensor::run_backward(&[&found[0] * 3.0], &leaves, false, false);
                given.iter().zip(&wanted).for_each(|(given, wanted)| near(given, &(wanted * 3.0)));
                for (loss, times) in
                    [(fused()[0].shallow_clone(), 1.0), (&fused()[0] + weights[0].square().sum(Kind::Float) * 0.0, 1.0)]
                {
                    backward(&loss, &leaves, &views);
                    views.iter().zip(&wanted).for_each(|(view, wanted)| near(view, &(wanted * times)));
                }
                let second = |loss: &Tensor| {
                    let slope = Tensor::run_backward(&[loss], &[&weights[0]], true, true).remove(0);
                    Tensor::run_backward(&[slope.square().sum(Kind::Float)], &leaves[..4], false, false)
                };
                for (found, wanted) in second(&fused()[0]).iter().zip(&second(&plain()[0])) {
                    let most = 1e-4 * wanted.abs().max().double_value(&[]).max(1.0);
                    assert!(apart(found, wanted) < most, "{activation:?}: {}", apart(found, wanted));
                }
            }
        }
    }

    #[test]
    fn losses_of_rows_are_those_of_plain_operations() {
        let normal = |number, shape: &[i64]| Noise::new(7, Purpose::Training, number, Device::Cpu).normal(shape);
        let x = normal(0, &[3, 5]).sigmoid();
        for draws in [&[3_i64, 5][..], &[2, 3, 5]] {
            let output = (normal(1, draws) * 30.0).set_requires_grad(true);
            for bernoulli in [true, false] {
                let expected: Tensor = if bernoulli {
                    (output.softplus() - &x * &output).sum_dim_intlist([-1].as_slice(), false, Kind::Float)
                } else {
                    (&output - &x).square().sum_dim_intlist([-1].as_slice(), false, Kind::Float) * 0.5
                };
                let found = row_loss(&output, &x, bernoulli);
                assert_eq!(found.size(), expected.size());
                let scale = expected.abs().max().double_value(&[]);
                assert!(apart(&found, &expected) < 1e-6 * scale, "{}", apart(&found, &expected));
                let slope = |loss: &Tensor| {
                    Tensor::run_backward(&[loss.square().sum(Kind::Float)], &[&output], false, false).remove(0)
                };
                let (given, wanted) = (slope(&found), slope(&expected));
                assert!(apart(&given, &wanted) < 1e-5 * wanted.abs().max().double_value(&[]));
            }
        }
    }

    #[test]
    fn a_bias_and_what_comes_after_it_are_those_of_plain_operations() {
        let normal = |number, shape: &[i64]| Noise::new(6, Purpose::Training, number, Device::Cpu).normal(shape);
        // Few rows, and more than are summed at a time; columns that are a multiple of no vector.
        for [rows, columns] in [[3, 5], [1500, 33], [600, 130]] {
            let x = normal(0, &[rows, columns]).set_requires_grad(true);
            let bias = normal(1, &[columns]).set_requires_grad(true);
            for relu in [false, true] {
                let plain = || if relu { (&x + &bias).relu() } else { &x + &bias };
                let fused = || biased(&x, &bias, relu).unwrap();
                assert!(apart(&fused(), &plain()) < 1e-6);
                let slopes = |output: Tensor| {
                    let loss = output.square().sum(Kind::Float);
                    let first = Tensor::run_backward(&[&loss], &[&x, &bias], true, false);
                    let again = Tensor::run_backward(&[&loss], &[&x], true, true).remove(0);
                    let second = Tensor::run_backward(&[again.square().sum(Kind::Float)], &[&x, &bias], false, false);
                    [first, second].into_iter().flatten().collect::<Vec<_>>()
                };
                for (found, wanted) in slopes(fused()).iter().zip(&slopes(plain())) {
                    assert!(
                        apart(found, wanted) < 1e-5 * wanted.abs().max().double_value(&[]),
                        "{rows} {columns} {relu}"
                    );
                }
                let view = tch::no_grad(|| bias.zeros_like().set_requires_grad(false));
                backward(&(fused() + fused()).square().sum(Kind::Float), &[&bias], &[&view]);
                let wanted =
                    Tensor::run_backward(&[(plain() + plain()).square().sum(Kind::Float)], &[&bias], false, false);
                assert!(apart(&view, &wanted[0]) < 1e-5 * wanted[0].abs().max().double_value(&[]));
            }
        }
    }

    #[test]
    fn convolutions_and_their_gradients_are_those_of_plain_operations() {
        let normal = |number, shape: &[i64]| Noise::new(9, Purpose::Training, number, Device::Cpu).normal(shape);
        let together = |images: &Tensor| images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        // Images, channels on both sides, sides of the wide images, kernel, stride, padding. More images than lanes, windows that end
        // before the image does, and some that begin outside it.
        for (images, wide, narrow, [height, width], kernel, stride, padding) in [
            (2, 1, 3, [28, 28], 3, 2, 1),
            (37, 3, 5, [9, 7], 3, 2, 1),
            (3, 2, 1, [8, 11], 4, 2, 1),
            (5, 4, 2, [10, 10], 5, 3, 2),
            (1, 2, 2, [5, 5], 2, 3, 0),
            (2, 16, 33, [12, 12], 3, 2, 0),
        ] {
            let narrowed = [height, width].map(|side| (side + 2 * padding - kernel) / stride + 1);
            let more =
                [0, 1].map(|axis| [height, width][axis] - ((narrowed[axis] - 1) * stride - 2 * padding + kernel));
            let weight = (normal(0, &[narrow, wide, kernel, kernel]) * 0.3).set_requires_grad(true);
            for back in [None, Some(more)] {
                let (x, outputs) = match back {
                    None => (normal(1, &[images, wide, height, width]), narrow),
                    Some(_) => (normal(1, &[images, narrow, narrowed[0], narrowed[1]]), wide),
                };
                let (x, bias) = (x.set_requires_grad(true), normal(2, &[outputs]).set_requires_grad(true));
                for relu in [false, true] {
                    let plain = || {
                        let (stride, padding) = ([stride; 2], [padding; 2]);
                        let out = match back {
                            None => x.conv2d(&weight, Some(&bias), stride, padding, [1, 1], 1),
                            Some(more) => x.conv_transpose2d(&weight, Some(&bias), stride, padding, more, 1, [1, 1]),
                        };
                        if relu { out.relu() } else { out }
                    };
                    let moves = Moves { stride, padding, back };
                    let fused = || convolution(&together(&x), &weight, &bias, moves, relu).unwrap();
                    let near = |found: &Tensor, wanted: &Tensor| {
                        let most = 1e-5 * wanted.abs().max().double_value(&[]).max(1.0);
                        assert_eq!(found.size(), wanted.size());
                        assert!(apart(found, wanted) < most, "{images} {wide} {narrow} {back:?} {relu}");
                    };
                    near(&fused(), &plain());
                    let by = normal(3, &fused().size());
                    let leaves = [&x, &weight, &bias];
                    let slopes = |output: Tensor| {
                        let loss = (output.square() * &by).sum(Kind::Float);
                        let first = Tensor::run_backward(&[&loss], &leaves, true, false);
                        let again = Tensor::run_backward(&[&loss], &[&x], true, true).remove(0);
                        let second = Tensor::run_backward(&[again.square().sum(Kind::Float)], &leaves, false, false);
                        [first, second].into_iter().flatten().collect::<Vec<_>>()
                    };
                    for (found, wanted) in slopes(fused()).iter().zip(&slopes(plain())) {
                        near(found, wanted);
                    }
                    // The weight counts twice.
                    let view = tch::no_grad(|| weight.zeros_like().set_requires_grad(false));
                    let loss = |output: &dyn Fn() -> Tensor| (output() * &by + output()).sum(Kind::Float);
                    backward(&loss(&fused), &[&weight], &[&view]);
                    near(&view, &Tensor::run_backward(&[loss(&plain)], &[&weight], false, false)[0]);
                }
            }
        }
        let (weight, bias) = (normal(0, &[3, 2, 3, 3]), normal(1, &[3]));
        let moves = Moves { stride: 2, padding: 1, back: None };
        let apart_in_memory = convolution(&normal(2, &[2, 2, 8, 8]), &weight, &bias, moves, false);
        assert!(apart_in_memory.is_none(), "channels that do not lie together");
    }

    #[test]
    fn draws_of_codes_and_both_their_gradients_are_those_of_plain_operations() {
        let normal = |number, shape: &[i64]| Noise::new(8, Purpose::Training, number, Device::Cpu).normal(shape);
        // Some variances lie beyond the limit.
        let (both, noise) = ((normal(0, &[7, 10]) * 2.0).set_requires_grad(true), normal(1, &[7, 5]));
        let (by_draw, by_unit) = (normal(2, &[7, 5]), normal(3, &[5]));
        let plainly = || {
            let (mean, logs): (Tensor, Tensor) = (both.narrow(1, 0, 5), both.narrow(1, 5, 5).clamp(-3.0, 3.0));
            let each: Tensor = (mean.square() + logs.exp() - &logs - 1.0) * 0.5;
            (mean + (logs * 0.5).exp() * &noise, each.mean_dim([0].as_slice(), false, Kind::Float))
        };
        let fused = || gaussian_code(&both, &noise, 3.0).unwrap();
        let ((z, units), (expected_z, expected_units)) = (fused(), plainly());
        assert!(apart(&z, &expected_z) < 1e-5 && apart(&units, &expected_units) < 1e-5);
        // Through one, through the other, and through both; with one more gradient of that.
        for (draws, presses) in [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
            let slopes = |(z, units): (Tensor, Tensor)| {
                let mut losses = Vec::new();
                if draws > 0.0 {
                    losses.push((z.square() * &by_draw).sum(Kind::Float));
                }
                if presses > 0.0 {
                    losses.push((units.square() * &by_unit).sum(Kind::Float));
                }
                let loss = losses.into_iter().reduce(|a, b| a + b).unwrap();
                let plain = Tensor::run_backward(&[&loss], &[&both], true, false).remove(0);
                let first = Tensor::run_backward(&[&loss], &[&both], true, true).remove(0);
                let second = Tensor::run_backward(&[first.square().sum(Kind::Float)], &[&both], false, false).remove(0);
                (plain, first.detach(), second)
            };
            let (found, wanted) = (slopes(fused()), slopes(plainly()));
            let most = |wanted: &Tensor| 1e-5 * wanted.abs().max().double_value(&[]).max(1.0);
            assert!(apart(&found.0, &wanted.0) < most(&wanted.0), "{}", apart(&found.0, &wanted.0));
            assert!(apart(&found.1, &wanted.1) < most(&wanted.1), "{}", apart(&found.1, &wanted.1));
            assert!(apart(&found.2, &wanted.2) < most(&wanted.2), "{}", apart(&found.2, &wanted.2));
        }
        assert!(gaussian_code(&both.to_kind(Kind::Double), &noise, 3.0).is_none());
    }

    #[test]
    fn products_in_half_precision_are_those_of_rounded_numbers() {
        // Sides that fill no tile, one and several, with one left over.
        for [rows, inputs, hidden, outputs] in [[3, 5, 7, 6], [16, 32, 16, 16], [100, 70, 33, 47], [37, 130, 96, 31]] {
            let normal = |number, shape: &[i64]| {
                Noise::new(9, Purpose::Training, number, Device::Cpu).normal(shape).set_requires_grad(true)
            };
            let (first, second) = (normal(0, &[hidden, inputs]), normal(1, &[outputs, hidden]));
            let (x, biases) = (normal(2, &[rows, inputs]), [normal(3, &[hidden]), normal(4, &[outputs])]);
            let weights = [first.shallow_clone(), second.shallow_clone()];
            let leaves = [&x, &first, &second, &biases[0], &biases[1]];
            let found = stack(&x, &of(&weights, &biases, Activation::Relu), true);
            let slope = normal(5, &[rows, outputs]).detach();
            let given = Tensor::run_backward(&[(&found * &slope).sum(Kind::Float)], &leaves, false, false);
            // Where it is rounded to bfloat16 before each product, and summed in 64 bits.
            let _guard = tch::no_grad_guard();
            let round = |tensor: &Tensor| tensor.to_kind(Kind::BFloat16).to_kind(Kind::Double);
            let before = round(&x).matmul(&round(&first).tr()) + &biases[0];
            let code = before.relu().to_kind(Kind::Float);
            let output = round(&code).matmul(&round(&second).tr()) + &biases[1];
            let inner = round(&slope).matmul(&round(&second)) * before.gt(0.0);
            let inner32 = inner.to_kind(Kind::Float);
            let wanted = [
                round(&inner32).matmul(&round(&first)),
                round(&inner32).tr().matmul(&round(&x)),
                round(&slope).tr().matmul(&round(&code)),
                inner.sum_dim_intlist([0].as_slice(), false, Kind::Double),
                slope.sum_dim_intlist([0].as_slice(), false, Kind::Double),
            ];
            let near = |found: &Tensor, wanted: &Tensor| {
                let size = wanted.abs().max().double_value(&[]);
                assert_eq!(found.size(), wanted.size());
                assert!(
                    apart(&found.to_kind(Kind::Double), wanted) < 0.02 * size,
                    "{rows} {inputs} {hidden} {outputs}"
                );
            };
            near(&found, &output);
            for (given, wanted) in given.iter().zip(&wanted) {
                near(given, wanted);
            }
            // A gradient that comes twice is added up.
            let views: Vec<Tensor> = leaves.iter().map(|leaf| leaf.zeros_like().set_requires_grad(false)).collect();
            let loss = tch::with_grad(|| {
                let twice = stack(&x, &of(&weights, &biases, Activation::Relu), true);
                ((&twice + stack(&x, &of(&weights, &biases, Activation::Relu), true)) * &slope).sum(Kind::Float)
            });
            backward(&loss, &leaves, &views.iter().collect::<Vec<_>>());
            for (view, wanted) in views.iter().zip(&wanted) {
                near(view, &(wanted * 2.0));
            }
        }
    }

    #[test]
    fn half_precision_is_near_and_keeps_its_gradients_in_32_bits() {
        let (weights, biases, x) = layers();
        let (half, full) = (
            stack(&x, &of(&weights, &biases, Activation::Relu), true),
            stack(&x, &of(&weights, &biases, Activation::Relu), false),
        );
        let off = apart(&half, &full) / full.abs().max().double_value(&[]);
        assert!(off > 0.0 && off < 0.05, "{off}");
        let gradient = Tensor::run_backward(&[half.sum(Kind::Float)], &[&weights[0], &x], false, false);
        assert!(gradient.iter().all(|gradient| gradient.kind() == Kind::Float));
    }
}
