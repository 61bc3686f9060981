//! What an optimizer makes of a gradient: one function for each rule, over one stretch of the flat buffer.
//!
//! A weight decay is apart from the gradient in all of them (Loshchilov and Hutter, 2019): every weight loses the share
//! lr * weight_decay before the step.

use tch::Tensor;

use super::optimizer::Rule;

/// A stretch of the parameters and what is remembered of it, each `[length]`; memories that a rule does without are empty.
pub(super) struct Stretch {
    pub weights: Tensor,
    pub gradient: Tensor,
    pub first: Tensor,
    pub second: Tensor,
}

/// w -= lr * m with m = momentum * m + g; by Nesterov's rule w -= lr * (g + momentum * m).
pub(super) fn sgd(rule: &Rule, lr: f64, stretch: &mut Stretch) {
    let Stretch { weights, gradient, first, .. } = stretch;
    if rule.momentum == 0.0 {
        let _ = weights.g_sub_(&(&*gradient * lr));
        return;
    }
    let _ = first.g_mul_scalar_(rule.momentum).g_add_(gradient);
    let direction = if rule.nesterov { &*gradient + &*first * rule.momentum } else { first.shallow_clone() };
    let _ = weights.g_sub_(&(direction * lr));
}

/// Adam (Kingma and Ba, 2015). With t steps begun and bias corrections c1 = 1 - beta1^t and c2 = 1 - beta2^t, the step is
/// lr * (m / c1) / (sqrt(v / c2) + epsilon), written so that both corrections are scalars.
pub(super) fn adam(rule: &Rule, lr: f64, steps: u64, stretch: &mut Stretch) {
    let Stretch { weights, gradient, first, second } = stretch;
    let exponent = i32::try_from(steps).unwrap_or(i32::MAX);
    let (c1, c2) = (1.0 - rule.beta1.powi(exponent), (1.0 - rule.beta2.powi(exponent)).sqrt());
    let _ = first.lerp_(gradient, 1.0 - rule.beta1);
    let _ = second.g_mul_scalar_(rule.beta2).addcmul_(&(&*gradient * (1.0 - rule.beta2)), gradient);
    let spread = second.sqrt().g_add_scalar_(rule.epsilon * c2);
    let _ = weights.addcdiv_(&(&*first * (-lr * c2 / c1)), &spread);
}

/// v = beta2 * v + (1 - beta2) * g²; w -= lr * g / (sqrt(v) + epsilon), or with a momentum w -= lr * m with
/// m = momentum * m + g / (sqrt(v) + epsilon) (Hinton, 2012).
pub(super) fn rmsprop(rule: &Rule, lr: f64, stretch: &mut Stretch) {
    let Stretch { weights, gradient, first, second } = stretch;
    let _ = second.g_mul_scalar_(rule.beta2).addcmul_(&(&*gradient * (1.0 - rule.beta2)), gradient);
    let spread = second.sqrt().g_add_scalar_(rule.epsilon);
    if rule.momentum == 0.0 {
        let _ = weights.addcdiv_(&(&*gradient * -lr), &spread);
    } else {
        let _ = first.g_mul_scalar_(rule.momentum).addcdiv_(gradient, &spread);
        let _ = weights.g_sub_(&(&*first * lr));
    }
}

/// w -= lr * sign(beta1 * m + (1 - beta1) * g), then m = beta2 * m + (1 - beta2) * g (Chen et al., 2023).
pub(super) fn lion(rule: &Rule, lr: f64, stretch: &mut Stretch) {
    let Stretch { weights, gradient, first, .. } = stretch;
    let _ = weights.g_sub_(&(first.lerp(gradient, 1.0 - rule.beta1).sign() * lr));
    let _ = first.lerp_(gradient, 1.0 - rule.beta2);
}
