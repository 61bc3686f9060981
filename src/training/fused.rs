//! Operations of libtorch that go over their tensors once, and that `tch` does not offer: the other side of
//! `native/torch_shim.cpp`.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::{Kind, Tensor};

/// How long a message of the other side may be.
const MESSAGE_BYTES: usize = 1024;

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

/// Moves `parameters` and both means one step of AdamW on, in place and in one pass. `steps`, a single float, holds how
/// many steps were begun, this one included.
///
/// # Errors
/// The tensors do not go together, or libtorch refuses them; in its own words.
pub fn adamw(
    parameters: &mut Tensor,
    gradients: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
    steps: &Tensor,
    step: AdamStep,
) -> Result<(), String> {
    // The pass over memory trusts what it is given: lengths, kinds and devices are checked here.
    for tensor in [gradients, first, second] {
        let fits = tensor.size() == parameters.size() && tensor.kind() == parameters.kind();
        if !fits || tensor.device() != parameters.device() || !tensor.is_contiguous() {
            return Err(format!("{tensor:?} does not go with the parameters, {parameters:?}"));
        }
    }
    if !parameters.is_contiguous() || steps.numel() != 1 || steps.kind() != Kind::Float {
        return Err(format!("{parameters:?} is not contiguous, or {steps:?} is not one float"));
    }
    let mut message: [c_char; MESSAGE_BYTES] = [0; MESSAGE_BYTES];
    // SAFETY: the five pointers are those of live tensors of torch-sys, which are `at::Tensor*`; the borrows keep them alive
    // and those that are written unshared until the call returns. The message has the room that is named. No exception
    // leaves the function.
    #[expect(unsafe_code, reason = "a call into C++")]
    let status = unsafe {
        latente_fused_adamw(
            parameters.as_ptr().cast(),
            gradients.as_ptr().cast(),
            first.as_ptr().cast(),
            second.as_ptr().cast(),
            steps.as_ptr().cast(),
            step.lr,
            step.beta1,
            step.beta2,
            step.weight_decay,
            step.epsilon,
            message.as_mut_ptr(),
            MESSAGE_BYTES,
        )
    };
    if status == 0 { Ok(()) } else { Err(text(&message)) }
}

fn text(message: &[c_char]) -> String {
    let bytes: Vec<u8> = message.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

// SAFETY: as native/torch_shim.h declares it; the tensors are handles that the other side does not keep.
#[expect(unsafe_code, reason = "functions of native/torch_shim.cpp")]
unsafe extern "C" {
    fn latente_fused_adamw(
        parameters: *const c_void,
        gradients: *const c_void,
        first: *const c_void,
        second: *const c_void,
        steps: *const c_void,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::noise::{Noise, Purpose};
    use tch::Device;

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
            let gradient = normal(number as u64);
            let steps = Tensor::from_slice(&[number as f32]);
            adamw(&mut parameters, &gradient, &mut first, &mut second, &steps, STEP).unwrap();
            let gradient = gradient.to_kind(Kind::Double);
            w *= 1.0 - STEP.lr * STEP.weight_decay;
            m = m * STEP.beta1 + &gradient * (1.0 - STEP.beta1);
            v = v * STEP.beta2 + gradient.square() * (1.0 - STEP.beta2);
            let (c1, c2) = (1.0 - STEP.beta1.powi(number), 1.0 - STEP.beta2.powi(number));
            w -= (&m / c1) / ((&v / c2).sqrt() + STEP.epsilon) * STEP.lr;
        }
        for (found, expected, most) in [(&parameters, &w, 2e-6), (&first, &m, 1e-6), (&second, &v, 1e-6)] {
            let distance = (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
            assert!(distance < most, "{distance}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_a_message() {
        let tensor = |count: i64, kind| Tensor::ones([count], (kind, Device::Cpu));
        let attempt = |gradient: Tensor, kind| {
            let (mut w, mut m, mut v) = (tensor(3, kind), tensor(3, kind), tensor(3, kind));
            adamw(&mut w, &gradient, &mut m, &mut v, &Tensor::from_slice(&[1.0_f32]), STEP)
        };
        assert_eq!(attempt(tensor(3, Kind::Float), Kind::Float), Ok(()));
        assert!(attempt(tensor(4, Kind::Float), Kind::Float).unwrap_err().contains("does not go with"));
        // An exception of libtorch itself comes back as its words.
        let message = attempt(tensor(3, Kind::Int64), Kind::Int64).unwrap_err();
        assert!(message.contains("fused_adam"), "{message}");
    }
}
