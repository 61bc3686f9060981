//! Adam over one flat buffer, with a state that can be saved and put back.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::fused::{self, AdamStep};
use crate::domain::refusal::Faults;
use crate::models::parameters::{Parameters, Part, values};

/// Which optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam (Kingma and Ba, 2015); with a weight decay, AdamW (Loshchilov and Hutter, 2019).
    #[default]
    Adam,
}

/// How the learning rate goes over the steps of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// The same in every step.
    #[default]
    Constant,
    /// From the learning rate down to 0 along half a cosine (Loshchilov and Hutter, 2017).
    Cosine,
}

impl Schedule {
    /// The share of the learning rate in the step `step` of `steps`, counted from 0.
    pub fn share(self, step: u64, steps: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps.max(1) as f64).cos()),
        }
    }
}

/// An optimizer and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSpec {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// Learning rate.
    #[schema(exclusive_minimum = 0.0, maximum = 100.0)]
    pub lr: f64,
    /// How the learning rate goes over the steps.
    pub schedule: Schedule,
    /// Decay of the mean of gradients.
    #[schema(minimum = 0.0, exclusive_maximum = 1.0)]
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    #[schema(minimum = 0.0, exclusive_maximum = 1.0)]
    pub beta2: f64,
    /// Keeps the division finite.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    pub epsilon: f64,
    /// Share of every weight that is taken away per step, times the learning rate, apart from the gradient.
    #[schema(minimum = 0.0, maximum = 100.0)]
    pub weight_decay: f64,
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adam,
            lr: 1e-3,
            schedule: Schedule::Constant,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

impl OptimizerSpec {
    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        let below_one = 1.0 - f64::EPSILON;
        faults.require_within("/training/optimizer/lr", self.lr, f64::MIN_POSITIVE..=100.0);
        faults.require_within("/training/optimizer/beta1", self.beta1, 0.0..=below_one);
        faults.require_within("/training/optimizer/beta2", self.beta2, 0.0..=below_one);
        faults.require_within("/training/optimizer/epsilon", self.epsilon, f64::MIN_POSITIVE..=1.0);
        faults.require_within("/training/optimizer/weight_decay", self.weight_decay, 0.0..=100.0);
    }
}

/// What an optimizer remembers, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// Steps taken.
    pub steps: u64,
    /// Mean of gradients.
    pub first: Vec<f32>,
    /// Mean of squared gradients.
    pub second: Vec<f32>,
}

/// Adam at work.
pub struct Adam {
    spec: OptimizerSpec,
    steps: u64,
    first: Tensor,  // [parameters]
    second: Tensor, // [parameters]
}

impl Adam {
    /// A fresh optimizer for `parameters`.
    pub fn new(spec: &OptimizerSpec, parameters: &Parameters) -> Self {
        let zeros = || Tensor::zeros([parameters.count() as i64], (Kind::Float, parameters.device()));
        Self { spec: spec.clone(), steps: 0, first: zeros(), second: zeros() }
    }

    /// Begins a step; each part of the parameters moves once in it at most.
    pub fn begin_step(&mut self) {
        self.steps += 1;
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.steps = 0;
        let _ = (self.first.zero_(), self.second.zero_());
    }

    /// Moves a part of `parameters` against its `gradient` `[part.count()]`, at `rate` times the learning rate.
    pub fn step(&mut self, parameters: &mut Parameters, gradient: &Tensor, part: &Part, rate: f64) {
        let _guard = tch::no_grad_guard();
        let OptimizerSpec { lr, beta1, beta2, epsilon, weight_decay, .. } = self.spec;
        let step = AdamStep { lr: lr * rate, beta1, beta2, epsilon, weight_decay };
        let steps = Tensor::from_slice(&[self.steps as f32]).to_device(parameters.device());
        let mut offset = 0;
        for (start, length) in &part.ranges {
            let stretch = |whole: &Tensor| whole.narrow(0, *start, *length);
            let (mut flat, mut first, mut second) =
                (stretch(parameters.flat()), stretch(&self.first), stretch(&self.second));
            let gradient = gradient.narrow(0, offset, *length);
            fused::adamw(&mut flat, &gradient, &mut first, &mut second, &steps, step);
            offset += length;
        }
    }

    /// A copy of the state.
    pub fn state(&self) -> OptimizerState {
        OptimizerState { steps: self.steps, first: values(&self.first), second: values(&self.second) }
    }

    /// Puts a copy back. Its length must be that of the parameters; the caller checks it with theirs.
    pub fn restore(&mut self, state: &OptimizerState) {
        let _guard = tch::no_grad_guard();
        self.steps = state.steps;
        self.first.copy_(&Tensor::from_slice(&state.first));
        self.second.copy_(&Tensor::from_slice(&state.second));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parameters::Builder;
    use tch::Device;

    fn setting(weight_decay: f64) -> (Parameters, Adam) {
        let mut builder = Builder::new(1, Device::Cpu);
        let _ = builder.constant("w", &[3], 0.5);
        let parameters = builder.finish();
        let adam = Adam::new(&OptimizerSpec { lr: 0.01, weight_decay, ..OptimizerSpec::default() }, &parameters);
        (parameters, adam)
    }

    /// The published algorithm, in 64 bits.
    fn reference(gradients: &[[f64; 3]], decay: f64) -> [f64; 3] {
        let (mut w, mut m, mut v) = ([0.5; 3], [0.0; 3], [0.0; 3]);
        for (t, gradient) in (1..).zip(gradients) {
            for i in 0..3 {
                w[i] -= 0.01 * decay * w[i];
                m[i] = 0.9 * m[i] + 0.1 * gradient[i];
                v[i] = 0.999 * v[i] + 0.001 * gradient[i] * gradient[i];
                let (mh, vh) = (m[i] / (1.0 - 0.9_f64.powi(t)), v[i] / (1.0 - 0.999_f64.powi(t)));
                w[i] -= 0.01 * mh / (vh.sqrt() + 1e-8);
            }
        }
        w
    }

    const GRADIENTS: [[f64; 3]; 5] =
        [[1.0, -2.0, 0.001], [0.5, 0.1, 0.0], [-3.0, 2.0, 0.2], [1e-4, 1.0, -1.0], [0.3, -0.3, 5.0]];

    fn step(parameters: &mut Parameters, adam: &mut Adam, gradient: [f64; 3]) {
        let part = parameters.part(&[""; 0]);
        adam.begin_step();
        adam.step(parameters, &Tensor::from_slice(&gradient).to_kind(Kind::Float), &part, 1.0);
    }

    #[test]
    fn a_cosine_goes_from_all_to_nothing() {
        let share = |step| Schedule::Cosine.share(step, 100);
        assert_eq!((share(0), Schedule::Constant.share(70, 100)), (1.0, 1.0));
        assert!((share(50) - 0.5).abs() < 1e-12 && share(100).abs() < 1e-12);
        assert!((1..100).all(|step| share(step) < share(step - 1)));
    }

    #[test]
    fn a_part_moves_alone_and_at_its_rate() {
        let mut builder = Builder::new(1, Device::Cpu);
        for name in ["a", "b", "c"] {
            let _ = builder.constant(name, &[1], 0.5);
        }
        let mut parameters = builder.finish();
        let mut adam = Adam::new(&OptimizerSpec { lr: 0.01, ..OptimizerSpec::default() }, &parameters);
        let outer = parameters.part(&["a", "c"]);
        assert_eq!(outer.ranges, [(0, 1), (2, 1)]);
        adam.begin_step();
        adam.step(&mut parameters, &Tensor::from_slice(&[1.0_f32, -1.0]), &outer, 0.5);
        // The first step of Adam is as long as the learning rate.
        for (found, expected) in parameters.snapshot().trained.iter().zip([0.495, 0.5, 0.505]) {
            assert!((found - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn steps_are_those_of_the_published_algorithm() {
        for decay in [0.0, 0.1] {
            let (mut parameters, mut adam) = setting(decay);
            for gradient in GRADIENTS {
                step(&mut parameters, &mut adam, gradient);
            }
            for (value, expected) in parameters.snapshot().trained.iter().zip(reference(&GRADIENTS, decay)) {
                assert!((f64::from(*value) - expected).abs() < 1e-6, "{value} is not {expected}");
            }
        }
    }

    #[test]
    fn a_restored_state_goes_on_to_the_same_bytes() {
        let (mut parameters, mut adam) = setting(0.1);
        for gradient in GRADIENTS {
            step(&mut parameters, &mut adam, gradient);
        }
        let (mut early, mut first) = setting(0.1);
        for gradient in &GRADIENTS[..2] {
            step(&mut early, &mut first, *gradient);
        }
        let (mut late, mut second) = setting(0.1);
        late.restore(&early.snapshot()).unwrap();
        second.restore(&first.state());
        for gradient in &GRADIENTS[2..] {
            step(&mut late, &mut second, *gradient);
        }
        assert_eq!(late.snapshot(), parameters.snapshot());
        assert_eq!(second.state(), adam.state());
    }
}
