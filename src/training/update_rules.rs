//! What an optimizer makes of a gradient: one function for each rule, over one stretch of the flat buffer. On the host it is one
//! pass over memory, which gives the sum of the squares of the gradient, too.
//!
//! A weight decay is apart from the gradient in all of them (Loshchilov and Hutter, 2019): every weight loses the share
//! lr * weight_decay before the step.

use tch::Tensor;

use super::optimizer::Rule;
use crate::models::fused::{self, AdamStep, RuleStep};

/// A stretch of the parameters and what is remembered of it, each `[length]`; memories that a rule does without are empty.
pub(super) struct Stretch {
    pub weights: Tensor,
    pub gradient: Tensor,
    pub first: Tensor,
    pub second: Tensor,
}

impl Stretch {
    /// The step of a rule in one pass, which gives the sum of the squares of the gradient; `None` where this is not done.
    fn fused(&mut self, kind: fused::Rule, rule: &Rule, lr: f64) -> Option<f64> {
        let Rule { momentum, nesterov, beta1, beta2, epsilon, weight_decay, .. } = *rule;
        let step = RuleStep { rule: kind, nesterov, lr, momentum, beta1, beta2, epsilon, weight_decay };
        fused::by_rule(step, &mut self.weights, &self.gradient, &mut self.first, &mut self.second)
    }
}

fn decay(rule: &Rule, lr: f64, weights: &mut Tensor) {
    if rule.weight_decay > 0.0 {
        let _ = weights.g_mul_scalar_(1.0 - lr * rule.weight_decay);
    }
}

/// w -= lr * m with m = momentum * m + g; by Nesterov's rule w -= lr * (g + momentum * m).
pub(super) fn sgd(rule: &Rule, lr: f64, stretch: &mut Stretch) -> Option<f64> {
    stretch.fused(fused::Rule::Sgd, rule, lr).or_else(|| {
        let Stretch { weights, gradient, first, .. } = stretch;
        decay(rule, lr, weights);
        let direction = if rule.momentum == 0.0 {
            gradient.shallow_clone()
        } else {
            let _ = first.g_mul_scalar_(rule.momentum).g_add_(gradient);
            if rule.nesterov { &*gradient + &*first * rule.momentum } else { first.shallow_clone() }
        };
        let _ = weights.g_sub_(&(direction * lr));
        None
    })
}

/// Adam (Kingma and Ba, 2015), in one pass, which gives the sum of the squares of the gradient on the host.
pub(super) fn adam(rule: &Rule, lr: f64, steps: u64, stretch: &mut Stretch) -> Option<f64> {
    let Stretch { weights, gradient, first, second } = stretch;
    let Rule { beta1, beta2, epsilon, weight_decay, .. } = *rule;
    let step = AdamStep { lr, beta1, beta2, epsilon, weight_decay };
    fused::adamw(weights, gradient, first, second, steps, step)
        .unwrap_or_else(|fault| panic!("the step of the optimizer: {fault}"))
}

/// v = beta2 * v + (1 - beta2) * g²; w -= lr * g / (sqrt(v) + epsilon), or with a momentum w -= lr * m with
/// m = momentum * m + g / (sqrt(v) + epsilon) (Hinton, 2012).
pub(super) fn rmsprop(rule: &Rule, lr: f64, stretch: &mut Stretch) -> Option<f64> {
    stretch.fused(fused::Rule::Rmsprop, rule, lr).or_else(|| {
        let Stretch { weights, gradient, first, second } = stretch;
        decay(rule, lr, weights);
        let _ = second.g_mul_scalar_(rule.beta2).addcmul_(&(&*gradient * (1.0 - rule.beta2)), gradient);
        let spread = second.sqrt().g_add_scalar_(rule.epsilon);
        if rule.momentum == 0.0 {
            let _ = weights.addcdiv_(&(&*gradient * -lr), &spread);
        } else {
            let _ = first.g_mul_scalar_(rule.momentum).addcdiv_(gradient, &spread);
            let _ = weights.g_sub_(&(&*first * lr));
        }
        None
    })
}

/// w -= lr * sign(beta1 * m + (1 - beta1) * g), then m = beta2 * m + (1 - beta2) * g (Chen et al., 2023).
pub(super) fn lion(rule: &Rule, lr: f64, stretch: &mut Stretch) -> Option<f64> {
    stretch.fused(fused::Rule::Lion, rule, lr).or_else(|| {
        let Stretch { weights, gradient, first, .. } = stretch;
        decay(rule, lr, weights);
        let _ = weights.g_sub_(&(first.lerp(gradient, 1.0 - rule.beta1).sign() * lr));
        let _ = first.lerp_(gradient, 1.0 - rule.beta2);
        None
    })
}
