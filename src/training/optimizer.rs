//! Which optimizer a job trains with, and its work over one flat buffer, with a state that can be saved and put back.
//!
//! The rules themselves are in `update_rules`, the course of the learning rate in `schedule`.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use super::rate::LearningRate;
use super::schedule::{ScheduleSpec, Warmup};
use super::update_rules::{self, Stretch};
use crate::domain::refusal::Faults;
use crate::models::parameters::{MismatchError, Parameters, Part, values};

/// Which optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam (Kingma and Ba, 2015).
    #[default]
    Adam,
    /// Adam with a weight decay from the start (Loshchilov and Hutter, 2019).
    Adamw,
    /// Stochastic gradient descent with a momentum.
    Sgd,
    /// Steps as long as the root of the mean of squared gradients is short (Hinton, 2012).
    Rmsprop,
    /// Steps of one length, by the sign of a mean of gradients (Chen et al., 2023).
    Lion,
}

impl OptimizerKind {
    /// The learning rate where nothing else is said.
    pub fn usual_rate(self) -> f64 {
        match self {
            Self::Adam | Self::Adamw | Self::Rmsprop => 1e-3,
            Self::Sgd => 1e-2,
            Self::Lion => 1e-4,
        }
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adam => "adam",
            Self::Adamw => "adamw",
            Self::Sgd => "sgd",
            Self::Rmsprop => "rmsprop",
            Self::Lion => "lion",
        }
    }
}

/// An optimizer and its settings. One that is left out has the default of the kind; one that does not belong to the kind is
/// refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSpec {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// Learning rate. Left out: 0.001, of `sgd` 0.01, of `lion` 0.0001. With `auto` it is found by a range test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<LearningRate>,
    /// How the learning rate goes over the steps.
    pub schedule: ScheduleSpec,
    /// How long the learning rate rises in a straight line at the beginning. Not at all when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// Of `sgd` and `rmsprop`: the share of the last step that is taken again. Left out: 0.9 of `sgd`, 0 of `rmsprop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.0, exclusive_maximum = 1.0)]
    pub momentum: Option<f64>,
    /// Of `sgd`: the gradient counts once more beyond the momentum, by Nesterov's rule. Left out: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// Of `adam`, `adamw` and `lion`: decay of the mean of gradients. Left out: 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.0, exclusive_maximum = 1.0)]
    pub beta1: Option<f64>,
    /// Of `adam`, `adamw` and `rmsprop`: decay of the mean of squared gradients; of `lion`: of what it remembers of gradients.
    /// Left out: 0.999 of `adam` and `adamw`, else 0.99.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.0, exclusive_maximum = 1.0)]
    pub beta2: Option<f64>,
    /// Of `adam`, `adamw` and `rmsprop`: keeps the division finite. Left out: 0.00000001.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    pub epsilon: Option<f64>,
    /// Share of every weight that is taken away per step, times the learning rate, apart from the gradient. Left out: 0.01 of
    /// `adamw`, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.0, maximum = 100.0)]
    pub weight_decay: Option<f64>,
}

impl OptimizerSpec {
    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        use OptimizerKind::{Adam, Adamw, Lion, Rmsprop, Sgd};
        let below_one = 0.0..=1.0 - f64::EPSILON;
        let nesterov = self.nesterov.map(|nesterov| f64::from(u8::from(nesterov)));
        let settings: [(&str, Option<f64>, _, &[OptimizerKind]); 7] = [
            (
                "lr",
                self.lr.and_then(LearningRate::number),
                f64::MIN_POSITIVE..=100.0,
                &[Sgd, Adam, Adamw, Rmsprop, Lion],
            ),
            ("momentum", self.momentum, below_one.clone(), &[Sgd, Rmsprop]),
            ("nesterov", nesterov, 0.0..=1.0, &[Sgd]),
            ("beta1", self.beta1, below_one.clone(), &[Adam, Adamw, Lion]),
            ("beta2", self.beta2, below_one, &[Adam, Adamw, Rmsprop, Lion]),
            ("epsilon", self.epsilon, f64::MIN_POSITIVE..=1.0, &[Adam, Adamw, Rmsprop]),
            ("weight_decay", self.weight_decay, 0.0..=100.0, &[Sgd, Adam, Adamw, Rmsprop, Lion]),
        ];
        for (name, value, range, kinds) in settings {
            let Some(value) = value else { continue };
            let pointer = format!("/training/optimizer/{name}");
            if kinds.contains(&self.kind) {
                faults.require_within(&pointer, value, range);
            } else {
                let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
                let detail = format!("goes with {}; this optimizer is {}", names.join(", "), self.kind.as_str());
                faults.push(pointer, "conflict", detail);
            }
        }
        if self.nesterov == Some(true) && self.momentum == Some(0.0) {
            faults.push("/training/optimizer/nesterov", "conflict", "needs a momentum above 0");
        }
        self.schedule.check(faults);
        if let Some(warmup) = self.warmup {
            warmup.check(faults);
        }
    }

    /// Fills in what belongs to the kind and was left out.
    pub fn settle(&mut self) {
        use OptimizerKind::{Adam, Adamw, Lion, Rmsprop, Sgd};
        let fill = |place: &mut Option<f64>, belongs: bool, default: f64| {
            if belongs {
                place.get_or_insert(default);
            }
        };
        let kind = self.kind;
        self.lr.get_or_insert(LearningRate::Set(kind.usual_rate()));
        fill(&mut self.momentum, matches!(kind, Sgd | Rmsprop), if kind == Sgd { 0.9 } else { 0.0 });
        fill(&mut self.beta1, matches!(kind, Adam | Adamw | Lion), 0.9);
        fill(&mut self.beta2, kind != Sgd, if matches!(kind, Adam | Adamw) { 0.999 } else { 0.99 });
        fill(&mut self.epsilon, matches!(kind, Adam | Adamw | Rmsprop), 1e-8);
        fill(&mut self.weight_decay, true, if kind == Adamw { 0.01 } else { 0.0 });
        if kind == Sgd {
            self.nesterov.get_or_insert(false);
        }
        self.schedule.settle();
    }
}

/// The numbers that a rule goes by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub kind: OptimizerKind,
    pub lr: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

impl Rule {
    fn new(spec: &OptimizerSpec) -> Self {
        let mut spec = spec.clone();
        spec.settle();
        Self {
            kind: spec.kind,
            lr: spec.lr.and_then(LearningRate::number).unwrap_or(spec.kind.usual_rate()),
            momentum: spec.momentum.unwrap_or(0.0),
            nesterov: spec.nesterov.unwrap_or(false),
            beta1: spec.beta1.unwrap_or(0.0),
            beta2: spec.beta2.unwrap_or(0.0),
            epsilon: spec.epsilon.unwrap_or(0.0),
            weight_decay: spec.weight_decay.unwrap_or(0.0),
        }
    }

    /// Whether it remembers a mean of gradients or steps, and one of their squares.
    fn memories(&self) -> [bool; 2] {
        match self.kind {
            OptimizerKind::Adam | OptimizerKind::Adamw => [true, true],
            OptimizerKind::Sgd => [self.momentum > 0.0, false],
            OptimizerKind::Rmsprop => [self.momentum > 0.0, true],
            OptimizerKind::Lion => [true, false],
        }
    }
}

/// What an optimizer remembers, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// Steps taken.
    pub steps: u64,
    /// Mean of gradients or of steps; empty where the optimizer has none.
    pub first: Vec<f32>,
    /// Mean of squared gradients; empty where the optimizer has none.
    pub second: Vec<f32>,
}

/// An optimizer at work.
pub struct Optimizer {
    rule: Rule,
    steps: u64,
    first: Tensor,  // [parameters], or empty
    second: Tensor, // [parameters], or empty
}

impl Optimizer {
    /// A fresh optimizer for `parameters`.
    pub fn new(spec: &OptimizerSpec, parameters: &Parameters) -> Self {
        let rule = Rule::new(spec);
        let [first, second] = rule.memories().map(|has| {
            Tensor::zeros([if has { parameters.count() as i64 } else { 0 }], (Kind::Float, parameters.device()))
        });
        Self { rule, steps: 0, first, second }
    }

    /// How many numbers an optimizer of this spec remembers for each that is trained.
    pub fn memories(spec: &OptimizerSpec) -> u64 {
        Rule::new(spec).memories().into_iter().filter(|has| *has).count() as u64
    }

    /// The learning rate that schedules take shares of.
    pub fn lr(&self) -> f64 {
        self.rule.lr
    }

    /// Sets it.
    pub fn set_lr(&mut self, lr: f64) {
        self.rule.lr = lr;
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

    /// Moves a part of `parameters` against its `gradient` `[part.count()]`, at `rate` times the learning rate. Gives the norm of the
    /// gradient where it finds that on the way.
    ///
    /// # Panics
    /// libtorch refuses the tensors.
    pub fn step(&mut self, parameters: &mut Parameters, gradient: &Tensor, part: &Part, rate: f64) -> Option<f64> {
        let _guard = tch::no_grad_guard();
        let lr = self.rule.lr * rate;
        let (mut offset, mut squares) = (0, Some(0.0));
        for (start, length) in &part.ranges {
            let narrow = |memory: &Tensor| match memory.numel() {
                0 => memory.shallow_clone(),
                _ => memory.narrow(0, *start, *length),
            };
            let mut stretch = Stretch {
                weights: parameters.flat().narrow(0, *start, *length),
                gradient: gradient.narrow(0, offset, *length),
                first: narrow(&self.first),
                second: narrow(&self.second),
            };
            offset += length;
            let own = match self.rule.kind {
                OptimizerKind::Adam | OptimizerKind::Adamw => {
                    update_rules::adam(&self.rule, lr, self.steps, &mut stretch)
                }
                OptimizerKind::Sgd => update_rules::sgd(&self.rule, lr, &mut stretch),
                OptimizerKind::Rmsprop => update_rules::rmsprop(&self.rule, lr, &mut stretch),
                OptimizerKind::Lion => update_rules::lion(&self.rule, lr, &mut stretch),
            };
            squares = squares.zip(own).map(|(sum, own)| sum + own);
        }
        squares.map(f64::sqrt)
    }

    /// A copy of the state.
    pub fn state(&self) -> OptimizerState {
        OptimizerState { steps: self.steps, first: values(&self.first), second: values(&self.second) }
    }

    /// Puts a copy back.
    ///
    /// # Errors
    /// The copy is of another optimizer or of other parameters.
    pub fn restore(&mut self, state: &OptimizerState) -> Result<(), MismatchError> {
        let _guard = tch::no_grad_guard();
        for (name, memory, copy) in
            [("optimizer.first", &self.first, &state.first), ("optimizer.second", &self.second, &state.second)]
        {
            if memory.numel() != copy.len() {
                let (found, expected) = (vec![copy.len()], vec![memory.numel()]);
                return Err(MismatchError::Shape { name: name.to_owned(), found, expected });
            }
        }
        self.steps = state.steps;
        self.first.copy_(&Tensor::from_slice(&state.first));
        self.second.copy_(&Tensor::from_slice(&state.second));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::refusal::Code;
    use crate::models::fused;
    use crate::models::parameters::Builder;
    use serde_json::{Value, json};
    use tch::Device;

    fn reference() -> Value {
        serde_json::from_str(include_str!("../../tests/reference/optimizers.json")).unwrap()
    }

    fn setting(spec: &OptimizerSpec, start: &[f32]) -> (Parameters, Optimizer) {
        let mut builder = Builder::new(1, Device::Cpu);
        let _ = builder.given("w", &[start.len() as i64], start);
        let parameters = builder.finish();
        let optimizer = Optimizer::new(spec, &parameters);
        (parameters, optimizer)
    }

    fn step(parameters: &mut Parameters, optimizer: &mut Optimizer, gradient: &[f32]) {
        let part = parameters.part(&[""; 0]);
        optimizer.begin_step();
        let norm = optimizer.step(parameters, &Tensor::from_slice(gradient), &part, 1.0);
        if let Some(norm) = norm {
            let squares: f64 = gradient.iter().map(|slope| f64::from(*slope).powi(2)).sum();
            assert!((norm - squares.sqrt()).abs() < 1e-6 * norm, "{norm}");
        }
    }

    /// Every optimizer of the reference: its spec, weights at the start, gradients, and weights after each.
    fn each(check: impl Fn(&OptimizerSpec, &[f32], &[Vec<f32>], &[Vec<f64>])) {
        let reference = reference();
        let read = |value: &Value| serde_json::from_value::<Vec<Vec<f64>>>(value.clone()).unwrap();
        let narrow = |row: &[f64]| row.iter().map(|value| *value as f32).collect::<Vec<f32>>();
        let gradients: Vec<Vec<f32>> = read(&reference["gradients"]).iter().map(|row| narrow(row)).collect();
        let start: Vec<f64> = serde_json::from_value(reference["start"].clone()).unwrap();
        let cases = reference["optimizers"].as_array().unwrap();
        assert!(cases.len() >= 12);
        for case in cases {
            let spec: OptimizerSpec = serde_json::from_value(case["optimizer"].clone()).unwrap();
            check(&spec, &narrow(&start), &gradients, &read(&case["weights"]));
        }
    }

    #[test]
    fn steps_are_those_of_the_reference() {
        steps_are_right();
    }

    #[test]
    fn on_another_device_they_are_too_and_nothing_is_waited_for() {
        let ((), asked) = fused::as_elsewhere(steps_are_right);
        assert_eq!(asked, 0);
    }

    fn steps_are_right() {
        each(|spec, start, gradients, weights| {
            let (mut parameters, mut optimizer) = setting(spec, start);
            for (number, (gradient, expected)) in gradients.iter().zip(weights).enumerate() {
                step(&mut parameters, &mut optimizer, gradient);
                for (found, expected) in parameters.snapshot().trained.iter().zip(expected) {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(
                        off <= 2e-6 * expected.abs().max(0.5),
                        "{spec:?}: step {number}: {found} is not {expected}"
                    );
                }
            }
        });
    }

    #[test]
    fn a_restored_state_goes_on_to_the_same_bytes() {
        each(|spec, start, gradients, _| {
            let (mut whole, mut optimizer) = setting(spec, start);
            let (mut early, mut first) = setting(spec, start);
            let (mut late, mut second) = setting(spec, start);
            for (number, gradient) in gradients.iter().enumerate() {
                step(&mut whole, &mut optimizer, gradient);
                if number == 3 {
                    late.restore(&early.snapshot()).unwrap();
                    second.restore(&first.state()).unwrap();
                }
                if number < 3 {
                    step(&mut early, &mut first, gradient);
                } else {
                    step(&mut late, &mut second, gradient);
                }
            }
            assert_eq!((late.snapshot(), second.state()), (whole.snapshot(), optimizer.state()), "{spec:?}");
        });
    }

    #[test]
    fn a_part_moves_alone_and_at_its_rate() {
        for kind in
            [OptimizerKind::Adam, OptimizerKind::Adamw, OptimizerKind::Sgd, OptimizerKind::Rmsprop, OptimizerKind::Lion]
        {
            let mut builder = Builder::new(1, Device::Cpu);
            for name in ["a", "b", "c"] {
                let _ = builder.constant(name, &[1], 0.5);
            }
            let mut parameters = builder.finish();
            let given = |value| (kind != OptimizerKind::Sgd && kind != OptimizerKind::Lion).then_some(value);
            let spec = OptimizerSpec {
                kind,
                lr: Some(LearningRate::Set(0.01)),
                weight_decay: Some(0.0),
                beta2: (kind == OptimizerKind::Rmsprop).then_some(0.0),
                epsilon: given(1e-8),
                ..OptimizerSpec::default()
            };
            let mut optimizer = Optimizer::new(&spec, &parameters);
            let outer = parameters.part(&["a", "c"]);
            assert_eq!(outer.ranges, [(0, 1), (2, 1)]);
            optimizer.begin_step();
            let norm = optimizer.step(&mut parameters, &Tensor::from_slice(&[1.0_f32, -1.0]), &outer, 0.5);
            assert!(norm.is_some_and(|norm| (norm - 2_f64.sqrt()).abs() < 1e-6), "{kind:?}: {norm:?}");
            // The first step of each is as long as the learning rate here.
            for (found, expected) in parameters.snapshot().trained.iter().zip([0.495, 0.5, 0.505]) {
                assert!((found - expected).abs() < 1e-6, "{kind:?}: {found} is not {expected}");
            }
        }
    }

    #[test]
    fn the_state_of_another_optimizer_is_refused() {
        let spec = |kind| OptimizerSpec { kind, ..OptimizerSpec::default() };
        let (_, adam) = setting(&spec(OptimizerKind::Adam), &[0.5; 3]);
        let (_, mut lion) = setting(&spec(OptimizerKind::Lion), &[0.5; 3]);
        assert!(
            matches!(lion.restore(&adam.state()), Err(MismatchError::Shape { name, .. }) if name == "optimizer.second")
        );
    }

    #[test]
    fn settings_of_another_optimizer_are_named() {
        let check = |value: Value, pointers: &[&str]| {
            let spec: OptimizerSpec = serde_json::from_value(value).unwrap();
            let mut faults = Faults::new();
            spec.check(&mut faults);
            let refusal = faults.into_result(Code::InvalidRequest).err();
            let found: Vec<String> =
                refusal.into_iter().flat_map(|refusal| refusal.errors).map(|fault| fault.pointer).collect();
            let pointers: Vec<String> = pointers.iter().map(|name| format!("/training/optimizer/{name}")).collect();
            assert_eq!(found, pointers);
        };
        check(json!({"kind": "sgd", "beta1": 0.9, "epsilon": 1e-8}), &["beta1", "epsilon"]);
        check(json!({"kind": "adam", "momentum": 0.9}), &["momentum"]);
        check(json!({"kind": "sgd", "momentum": 0.0, "nesterov": true}), &["nesterov"]);
        check(json!({"kind": "lion", "lr": 0.0, "beta2": 1.0}), &["lr", "beta2"]);
        check(json!({"schedule": {"kind": "constant", "patience": 3}}), &["schedule/patience"]);
        // What an earlier build wrote.
        let stored = json!({"kind": "adam", "lr": 0.001, "schedule": "cosine", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0});
        check(stored.clone(), &[]);
        let mut settled: OptimizerSpec = serde_json::from_value(stored).unwrap();
        settled.settle();
        let written = serde_json::to_value(&settled).unwrap();
        assert_eq!(written["schedule"], json!({"kind": "cosine", "floor": 0.0}));
        assert_eq!(serde_json::from_value::<OptimizerSpec>(written).unwrap(), settled);
    }
}
