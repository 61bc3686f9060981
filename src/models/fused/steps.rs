//! What a training step needs beside its layers: batches that are scaled, steps of optimizers, norms.

use std::ffi::{c_char, c_int, c_void};

use tch::Tensor;

use super::call;

/// The numbers of one step of AdamW.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Keeps the division finite.
    pub epsilon: f64,
    /// Share of every weight that is taken away, times the learning rate.
    pub weight_decay: f64,
}

/// Moves `parameters` and both means one step of AdamW on, in place and in one pass. `steps` were begun, this one included. Gives
/// the sum of the squares of the gradients where that is found on the way: on the host.
///
/// # Errors
/// The tensors do not go together, or libtorch refuses them; in its own words.
pub fn adamw(
    parameters: &mut Tensor,
    gradients: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
    steps: u64,
    step: AdamStep,
) -> Result<Option<f64>, String> {
    // The pass over memory trusts what it is given: lengths, kinds and devices are checked here.
    for tensor in [gradients, first, second] {
        let fits = tensor.size() == parameters.size() && tensor.kind() == parameters.kind();
        if !fits || tensor.device() != parameters.device() || !tensor.is_contiguous() {
            return Err(format!("{tensor:?} does not go with the parameters, {parameters:?}"));
        }
    }
    if !parameters.is_contiguous() {
        return Err(format!("{parameters:?} is not contiguous"));
    }
    let mut squares = f64::NAN;
    let mut are_found = false;
    // SAFETY: the pointers are those of live tensors of torch-sys, which are `at::Tensor*`; the borrows keep them alive
    // and those that are written unshared until the call returns.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_fused_adamw(
                parameters.as_ptr().cast(),
                gradients.as_ptr().cast(),
                first.as_ptr().cast(),
                second.as_ptr().cast(),
                steps as f64,
                step.lr,
                step.beta1,
                step.beta2,
                step.weight_decay,
                step.epsilon,
                &raw mut squares,
                &raw mut are_found,
                message,
                capacity,
            )
        })?;
    }
    Ok(are_found.then_some(squares))
}

/// The optimizers beside Adam, in the order of native/torch_shim.h.
#[derive(Clone, Copy, Debug)]
#[repr(i64)]
pub enum Rule {
    /// Stochastic gradient descent.
    Sgd,
    /// RMSprop.
    Rmsprop,
    /// Lion.
    Lion,
}

/// The numbers of one step of a [`Rule`], as native/torch_shim.h has them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RuleStep {
    /// Which one.
    pub rule: Rule,
    /// Whether the momentum is taken by Nesterov's rule.
    pub nesterov: bool,
    /// Learning rate.
    pub lr: f64,
    /// Share of the last step that goes on.
    pub momentum: f64,
    /// Decay of the mean of gradients that gives the direction.
    pub beta1: f64,
    /// Decay of the mean that is remembered.
    pub beta2: f64,
    /// Keeps the division finite.
    pub epsilon: f64,
    /// Share of every weight that is taken away, times the learning rate.
    pub weight_decay: f64,
}

/// Moves `parameters` one step on, in place and in one pass, with what the rule remembers; memories that it goes without are empty.
/// Gives the sum of the squares of the gradients. `None`, and nothing is done, where the tensors are not 32-bit floats of the host.
///
/// # Panics
/// The tensors do not go together, which is a bug.
pub fn by_rule(
    step: RuleStep,
    parameters: &mut Tensor,
    gradients: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
) -> Option<f64> {
    let has = [step.momentum > 0.0 || matches!(step.rule, Rule::Lion), matches!(step.rule, Rule::Rmsprop)];
    for (tensor, has) in [(gradients, true), (first, has[0]), (second, has[1])] {
        let numbers = if has { parameters.numel() } else { 0 };
        let fits = tensor.numel() == numbers && tensor.kind() == parameters.kind() && tensor.is_contiguous();
        assert!(fits && tensor.device() == parameters.device(), "{tensor:?} goes with {parameters:?}; this is a bug");
    }
    let (mut squares, mut are_found) = (f64::NAN, false);
    // SAFETY: the pointers are those of live tensors whose lengths and kinds were compared; the borrows keep them alive and those
    // that are written unshared until the call returns.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_fused_rule(
                &raw const step,
                parameters.as_ptr().cast(),
                gradients.as_ptr().cast(),
                first.as_ptr().cast(),
                second.as_ptr().cast(),
                &raw mut squares,
                &raw mut are_found,
                message,
                capacity,
            )
        })
        .unwrap_or_else(|fault| panic!("the step of the optimizer: {fault}"));
    }
    are_found.then_some(squares)
}

/// Rows one below the other, each value less its column's shift and divided by its scale, and with `held` between 0 and 1; a gap
/// stays one. A tensor of the host, `[rows, columns]`. With `alone` no other thread helps.
///
/// # Panics
/// A row is not as long as the shifts and scales, which is a bug; or libtorch has no memory.
pub fn scaled(rows: &[&[f32]], shifts: &[f32], scales: &[f32], held: bool, alone: bool) -> Tensor {
    let width = shifts.len();
    let fits = scales.len() == width && rows.iter().all(|row| row.len() == width);
    assert!(fits, "a row has a value for each column; this is a bug");
    let starts: Vec<*const f32> = rows.iter().map(|row| row.as_ptr()).collect();
    let mut made = std::ptr::null_mut();
    // SAFETY: every pointer is that of `width` floats, which the borrows keep; what comes back is a tensor of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| {
            latente_scaled(
                starts.as_ptr(),
                starts.len(),
                shifts.as_ptr(),
                scales.as_ptr(),
                width,
                held,
                alone,
                &raw mut made,
                message,
                capacity,
            )
        })
        .unwrap_or_else(|fault| panic!("a batch: {fault}"));
        Tensor::from_ptr(made.cast())
    }
}

/// The norm of a tensor: the root of the sum of the squares of its numbers, which is the same whatever the number of threads.
///
/// # Panics
/// libtorch fails, which is a bug.
pub fn norm(tensor: &Tensor) -> f64 {
    let mut sum = 0.0;
    // SAFETY: the pointers are those of a live tensor and of a number of our own.
    #[expect(unsafe_code, reason = "a call into C++")]
    unsafe {
        call(|message, capacity| latente_squares(tensor.as_ptr().cast(), &raw mut sum, message, capacity))
            .unwrap_or_else(|fault| panic!("a norm: {fault}"));
    }
    sum.sqrt()
}

// SAFETY: as native/torch_shim.h declares it; the tensors are handles that the other side does not keep.
#[expect(unsafe_code, reason = "functions of native/torch_shim.cpp")]
unsafe extern "C" {
    fn latente_fused_adamw(
        parameters: *const c_void,
        gradients: *const c_void,
        first: *const c_void,
        second: *const c_void,
        steps: f64,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
        squares: *mut f64,
        are_found: *mut bool,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_fused_rule(
        rule: *const RuleStep,
        parameters: *const c_void,
        gradients: *const c_void,
        first: *const c_void,
        second: *const c_void,
        squares: *mut f64,
        are_found: *mut bool,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_scaled(
        rows: *const *const f32,
        count: usize,
        shifts: *const f32,
        scales: *const f32,
        width: usize,
        held: bool,
        alone: bool,
        tensor: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn latente_squares(tensor: *const c_void, sum: *mut f64, message: *mut c_char, capacity: usize) -> c_int;
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::models::noise::{Noise, Purpose};
    use crate::models::parameters::values;

    const STEP: AdamStep = AdamStep { lr: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };

    #[test]
    fn one_pass_moves_what_plain_operations_move() {
        let _guard = tch::no_grad_guard();
        let count = 1003; // no multiple of any vector
        let normal = |number| Noise::new(3, Purpose::Training, number, Device::Cpu).normal(&[count]);
        let mut parameters = normal(0);
        let zeros = || Tensor::zeros([count], (Kind::Float, Device::Cpu));
        let (mut first, mut second) = (zeros(), zeros());
        let (mut w, mut m, mut v) = (parameters.to_kind(Kind::Double), zeros().to_kind(Kind::Double), zeros());
        v = v.to_kind(Kind::Double);
        for number in 1..=20 {
            let gradient = normal(number);
            let squares = adamw(&mut parameters, &gradient, &mut first, &mut second, number, STEP).unwrap().unwrap();
            assert!((squares.sqrt() - norm(&gradient)).abs() < 1e-9 * squares.sqrt());
            let gradient = gradient.to_kind(Kind::Double);
            w *= 1.0 - STEP.lr * STEP.weight_decay;
            m = m * STEP.beta1 + &gradient * (1.0 - STEP.beta1);
            v = v * STEP.beta2 + gradient.square() * (1.0 - STEP.beta2);
            let (c1, c2) = (1.0 - STEP.beta1.powi(number as i32), 1.0 - STEP.beta2.powi(number as i32));
            w -= (&m / c1) / ((&v / c2).sqrt() + STEP.epsilon) * STEP.lr;
        }
        for (found, expected, most) in [(&parameters, &w, 2e-6), (&first, &m, 1e-6), (&second, &v, 1e-6)] {
            let distance = (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
            assert!(distance < most, "{distance}");
        }
    }

    #[test]
    fn numbers_of_every_size_move_as_plain_operations_move_them() {
        let _guard = tch::no_grad_guard();
        // Gradients whose squares are below what 32 bits hold, none at all, and some that are large.
        let gradient = Tensor::from_slice(&[1e-30_f32, -1e-22, 0.0, 1e-12, -1.0, 1e15]);
        let mut parameters = gradient.ones_like();
        let (mut first, mut second) = (gradient.zeros_like(), gradient.zeros_like());
        for number in 1..=3 {
            let step = AdamStep { weight_decay: 0.0, ..STEP };
            adamw(&mut parameters, &gradient, &mut first, &mut second, number, step).unwrap();
        }
        // The same gradient each time makes steps of g / (|g| + epsilon).
        let wide = gradient.to_kind(Kind::Double);
        let expected: Tensor = 1.0 - &wide / (wide.abs() + STEP.epsilon) * (3.0 * STEP.lr);
        let distance = (parameters.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
        assert!(distance < 1e-6, "{distance}");
    }

    #[test]
    fn rows_are_scaled_as_plain_arithmetic_scales_them() {
        for width in [1_usize, 5, 784] {
            let at = |row: usize, column: usize| ((row * width + column) as f32 * 0.37).sin() * 3.0;
            let mut rows: Vec<Vec<f32>> =
                (0..33).map(|row| (0..width).map(|column| at(row, column)).collect()).collect();
            rows[7][width - 1] = f32::NAN;
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let shifts: Vec<f32> = (0..width).map(|column| at(40, column)).collect();
            let scales: Vec<f32> = (0..width).map(|column| 0.1 + at(41, column).abs()).collect();
            for (held, alone) in [(false, false), (false, true), (true, false), (true, true)] {
                let found = values(&scaled(&rows, &shifts, &scales, held, alone));
                let plain = rows.iter().flat_map(|row| row.iter().zip(&shifts).zip(&scales));
                for (found, ((value, shift), scale)) in found.iter().zip(plain) {
                    let one = (value - shift) / scale;
                    let expected = if held { one.clamp(0.0, 1.0) } else { one };
                    assert!(found == &expected || (found.is_nan() && expected.is_nan()), "{found} is not {expected}");
                }
            }
        }
        assert_eq!(scaled(&[], &[1.0], &[2.0], false, false).size(), [0, 1]);
    }

    #[test]
    fn a_norm_is_the_root_of_the_sum_of_squares() {
        for count in [0, 1, 63, 64, 4097, 100_003] {
            let values = Noise::new(4, Purpose::Training, 0, Device::Cpu).normal(&[count]) * 1e-3;
            let expected = values.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]).sqrt();
            assert!((norm(&values) - expected).abs() <= 1e-6 * expected, "{count}");
            // Elsewhere, and in other kinds, libtorch adds them up.
            assert!((norm(&values.to_kind(Kind::Double)) - expected).abs() <= 1e-12 * expected, "{count}");
        }
        assert!(norm(&Tensor::from_slice(&[1.0_f32, f32::NAN])).is_nan());
        assert!(norm(&Tensor::from_slice(&[f32::INFINITY; 70])).is_infinite());
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_a_message() {
        let tensor = |count: i64, kind| Tensor::ones([count], (kind, Device::Cpu));
        let attempt = |gradient: Tensor, kind| {
            let (mut w, mut m, mut v) = (tensor(3, kind), tensor(3, kind), tensor(3, kind));
            adamw(&mut w, &gradient, &mut m, &mut v, 1, STEP)
        };
        assert_eq!(attempt(tensor(3, Kind::Float), Kind::Float), Ok(Some(3.0)));
        assert!(attempt(tensor(4, Kind::Float), Kind::Float).unwrap_err().contains("does not go with"));
        // An exception of libtorch itself comes back as its words.
        let message = attempt(tensor(3, Kind::Int64), Kind::Int64).unwrap_err();
        assert!(message.contains("fused_adam"), "{message}");
    }
}
