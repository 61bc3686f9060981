//! What is measured in a step: losses, their parts, and norms of gradients.
//!
//! On the host each is looked at as it comes, and a step that lost one goes no further. On a GPU the program would have to wait for
//! each: there they stay where they are, and are fetched and looked at together, several times a second, before each checkpoint and
//! at the end of an epoch. Sums come out as if they had been looked at at once.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::models::{Loss, fused};

/// How long figures stay on a device.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a figure is of.
pub(super) enum Seen {
    /// The parts of a loss, what of it is reported, and what is minimised; of a batch that has `share` of the rows of the step.
    Loss { parts: Vec<&'static str>, first: bool, share: f64 },
    /// The penalty on the weights of the player whose turn it is.
    Penalty,
    /// The norm of a player's gradient.
    Norm,
}

/// What happened in a step.
#[derive(Default)]
pub(super) struct Moved {
    pub loss: f64,
    pub parts: Vec<(&'static str, f64)>,
    /// Of the gradients of all players together.
    pub norm: f64,
    /// Where the parts of the player begin whose turn it is.
    turn: usize,
}

impl Moved {
    /// Takes in the values of one figure; says what was not finite, if something was.
    fn note(&mut self, seen: &Seen, values: &[f64]) -> Result<(), String> {
        match seen {
            Seen::Loss { parts, first, share } => {
                all_finite(parts, values)?;
                if *first {
                    self.turn = self.parts.len();
                }
                for (index, (name, value)) in parts.iter().zip(values).enumerate() {
                    match self.parts.get_mut(self.turn + index) {
                        Some((_, sum)) => *sum += value * share,
                        None => self.parts.push((name, value * share)),
                    }
                }
                self.loss += values[parts.len()] * share;
            }
            Seen::Penalty => self.parts.push(("weight_penalty", values[0])),
            Seen::Norm if values[0].is_finite() => self.norm = self.norm.hypot(values[0]),
            Seen::Norm => return Err("the gradient was not finite".to_owned()),
        }
        Ok(())
    }
}

fn all_finite(parts: &[&str], values: &[f64]) -> Result<(), String> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let named = parts.iter().zip(values).filter(|(_, value)| !value.is_finite());
    let lost: Vec<String> = named.map(|(name, value)| format!("`{name}` ({value})")).collect();
    Err(match &lost[..] {
        [] => "the loss was not finite".to_owned(),
        [one] => format!("the part {one} of the loss was not finite"),
        more => format!("the parts {} of the loss were not finite", more.join(", ")),
    })
}

/// A figure that is known, or is on a device.
pub(super) enum Figure {
    Known(f64),
    There(Tensor),
}

impl Figure {
    /// The norm of a gradient, which stays where it is if it is to.
    pub fn norm(gradient: &Tensor, stay: bool) -> Self {
        let _guard = tch::no_grad_guard();
        if stay {
            Self::There(gradient.norm_scalaropt_dtype(2, Kind::Double))
        } else {
            Self::Known(fused::norm(gradient))
        }
    }

    /// Makes a gradient of this norm no longer than `most`.
    pub fn shorten(&self, gradient: &mut Tensor, most: f64) {
        let _guard = tch::no_grad_guard();
        match self {
            Self::Known(norm) if *norm > most => *gradient *= most / norm,
            Self::Known(_) => {}
            Self::There(norm) => {
                let _ = gradient.g_mul_(&(norm.reciprocal() * most).clamp_max(1.0));
            }
        }
    }
}

/// A step whose figures are known.
pub(super) struct Done {
    /// Its place in its epoch.
    pub step: u64,
    /// The rows that it had.
    pub rows: usize,
    /// What happened, or what was not finite.
    pub moved: Result<Moved, String>,
}

/// The figures of the step under way, and of those before it that were not taken in.
pub(super) struct Figures {
    /// Whether they stay on the device until it is time.
    stay: bool,
    moved: Moved,
    seen: Vec<(Seen, usize)>,
    scalars: Vec<Tensor>,
    done: Vec<Done>,
    waiting: Vec<Waiting>,
    since: Instant,
}

/// A step whose figures are on a device.
struct Waiting {
    step: u64,
    rows: usize,
    /// With the number of values of each.
    seen: Vec<(Seen, usize)>,
    values: Tensor, // [all values], 64 bits
}

impl Figures {
    /// Those of steps on a device.
    pub fn on(device: Device) -> Self {
        Self {
            stay: device.is_cuda(),
            moved: Moved::default(),
            seen: Vec::new(),
            scalars: Vec::new(),
            done: Vec::new(),
            waiting: Vec::new(),
            since: Instant::now(),
        }
    }

    /// Whether figures stay on the device, so that what depends on one is to be computed there.
    pub fn stay(&self) -> bool {
        self.stay
    }

    /// Begins a step.
    pub fn begin(&mut self) {
        self.moved = Moved::default();
        self.seen.clear();
        self.scalars.clear();
    }

    /// Notes the loss of a batch that has `share` of the rows of the step, `first` of its player or not; says what was not finite,
    /// where it looks.
    pub fn note_loss(&mut self, loss: &Loss, first: bool, share: f64) -> Result<(), String> {
        let seen = Seen::Loss { parts: loss.parts.iter().map(|(name, _)| *name).collect(), first, share };
        let scalars = loss.parts.iter().map(|(_, value)| value).chain([&loss.reported, &loss.total]);
        if !self.stay {
            return self.moved.note(&seen, &numbers(scalars));
        }
        let before = self.scalars.len();
        self.scalars.extend(scalars.map(Tensor::detach));
        self.seen.push((seen, self.scalars.len() - before));
        Ok(())
    }

    /// Notes one figure; says that it was not finite, where it looks.
    pub fn note(&mut self, seen: Seen, figure: Figure) -> Result<(), String> {
        match figure {
            Figure::Known(value) if !self.stay => self.moved.note(&seen, &[value]),
            Figure::There(scalar) if !self.stay => self.moved.note(&seen, &[scalar.double_value(&[])]),
            Figure::Known(value) => self.keep(seen, Tensor::from(value)),
            Figure::There(scalar) => self.keep(seen, scalar),
        }
    }

    fn keep(&mut self, seen: Seen, scalar: Tensor) -> Result<(), String> {
        self.scalars.push(scalar);
        self.seen.push((seen, 1));
        Ok(())
    }

    /// Ends a step.
    pub fn end(&mut self, step: u64, rows: usize) {
        if !self.stay {
            self.done.push(Done { step, rows, moved: Ok(std::mem::take(&mut self.moved)) });
            return;
        }
        let values = stacked(&self.scalars);
        self.scalars.clear();
        self.waiting.push(Waiting { step, rows, seen: std::mem::take(&mut self.seen), values });
    }

    /// Whether it is time to look at them.
    pub fn are_due(&self) -> bool {
        !self.stay || self.since.elapsed() >= PATIENCE
    }

    /// The steps that were not taken in, in their order. Of those that are on a device it waits for the last.
    pub fn fetch(&mut self) -> Vec<Done> {
        self.since = Instant::now();
        let mut done = std::mem::take(&mut self.done);
        if self.waiting.is_empty() {
            return done;
        }
        let all: Vec<&Tensor> = self.waiting.iter().map(|step| &step.values).collect();
        let values = fetched(&Tensor::cat(&all, 0));
        let mut rest = &values[..];
        for Waiting { step, rows, seen, .. } in self.waiting.drain(..) {
            let mut moved = Ok(Moved::default());
            for (seen, count) in &seen {
                let (own, others) = rest.split_at(*count);
                rest = others;
                moved = moved.and_then(|mut moved: Moved| moved.note(seen, own).map(|()| moved));
            }
            done.push(Done { step, rows, moved });
        }
        done
    }
}

/// The values of scalars, for which a GPU is waited for once.
pub(super) fn together(scalars: &[Tensor]) -> Vec<f64> {
    if scalars.is_empty() { Vec::new() } else { fetched(&stacked(scalars)) }
}

/// Scalars as one tensor of 64 bits.
fn stacked(scalars: &[Tensor]) -> Tensor {
    Tensor::stack(scalars, 0).to_kind(Kind::Double)
}

fn fetched(all: &Tensor) -> Vec<f64> {
    let all = all.to_device(Device::Cpu);
    let mut values = vec![0.0; all.numel()];
    all.copy_data(&mut values, all.numel());
    values
}

/// The values of scalars of the host.
fn numbers<'a>(scalars: impl Iterator<Item = &'a Tensor>) -> Vec<f64> {
    let mut known: Vec<(*mut std::ffi::c_void, f64)> = Vec::new();
    for scalar in scalars {
        // A loss of one part is that part.
        let place = scalar.data_ptr();
        let value = match known.iter().find(|(other, _)| *other == place) {
            Some((_, value)) => *value,
            None => scalar.double_value(&[]),
        };
        known.push((place, value));
    }
    known.into_iter().map(|(_, value)| value).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::dataset::Schema;
    use crate::models::parameters::Snapshot;
    use crate::training::presets::{Rows, presets};
    use crate::training::spec::TrainSpec;
    use crate::training::stopping::StopFlag;
    use crate::training::tests::{Digits, Watcher};
    use crate::training::{TrainError, batch_size, batches};

    /// A few steps; the figures of them, the weights, and how often a number was asked for.
    fn steps(
        digits: &Digits,
        spec: &TrainSpec,
        schema: &Schema,
        elsewhere: bool,
    ) -> (Vec<(String, f64)>, Snapshot, u64) {
        let mut run = digits.run(spec, schema);
        run.figures.stay = elsewhere;
        let order = batches::order(&run.split.train, spec.training.seed, 0);
        let batches = batches::cut(&order, batch_size(spec));
        let groups: Vec<&[&[u32]]> = batches.chunks(spec.training.accumulate as usize).take(4).collect();
        let mut steps = || {
            for (step, group) in groups.iter().enumerate() {
                run.step = step as u64;
                run.train_step(group, None, &[]).unwrap();
            }
        };
        let asked = if elsewhere {
            let ((), asked) = fused::as_elsewhere(steps);
            asked
        } else {
            steps();
            0
        };
        run.catch_up().unwrap();
        let mut metrics = run.sums.metrics("train");
        metrics.extend(run.sums.gradient_norm());
        let metrics = metrics.into_iter().map(|metric| (metric.name, metric.value)).collect();
        (metrics, run.built.parameters.snapshot(), asked)
    }

    fn are_near(found: &[(String, f64)], expected: &[(String, f64)], what: &str) {
        assert!(found.len() == expected.len() && !found.is_empty(), "{what}: {found:?} beside {expected:?}");
        for ((name, found), (other, expected)) in found.iter().zip(expected) {
            assert_eq!(name, other, "{what}");
            // Where draws depend on what is computed, a difference in rounding may become one of them.
            assert!(
                (found - expected).abs() < 1e-2 * expected.abs().max(0.1),
                "{what}: {name}: {found} is not {expected}"
            );
        }
    }

    /// As on a GPU: with libtorch's own operations alone, and figures that stay where they are.
    #[test]
    fn steps_of_every_preset_come_out_elsewhere_as_here_and_wait_for_nothing() {
        let digits = Digits::read();
        let table = Schema { image: None, ..digits.schema.clone() };
        for preset in presets() {
            let schema = if preset.rows == Rows::Images { &digits.schema } else { &table };
            let spec = digits.spec(preset.spec, schema);
            let (here, ..) = steps(&digits, &spec, schema, false);
            let (there, _, asked) = steps(&digits, &spec, schema, true);
            assert_eq!(asked, 0, "{}: a number of a tensor was asked for within a step", preset.name);
            are_near(&there, &here, &preset.name);
        }
    }

    #[test]
    fn whatever_is_set_comes_out_elsewhere_as_here() {
        let digits = Digits::read();
        let settings = [
            json!({"clip_norm": 0.5, "clip_value": 0.05}),
            json!({"clip_norm": 0.5, "weight_l1": 1e-4, "weight_l2": 1e-3}),
            json!({"accumulate": 2, "ema": 0.9, "clip_norm": 2.0}),
            json!({"optimizer": {"kind": "sgd", "lr": 1e-4, "nesterov": true, "weight_decay": 0.01}}),
            json!({"optimizer": {"kind": "rmsprop", "momentum": 0.5}}),
            json!({"optimizer": {"kind": "lion"}}),
            json!({"binarize": "threshold", "precision": "bf16"}),
        ];
        for training in settings {
            let spec = json!({"model": {"family": "vae"}, "training": training});
            let spec = digits.spec(spec, &digits.schema);
            let (here, weights, _) = steps(&digits, &spec, &digits.schema, false);
            let (there, others, asked) = steps(&digits, &spec, &digits.schema, true);
            assert_eq!(asked, 0, "{training}");
            are_near(&there, &here, &training.to_string());
            let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>();
            let moved = apart(&weights.trained, &digits.run(&spec, &digits.schema).built.parameters.snapshot().trained);
            let off = apart(&weights.trained, &others.trained);
            // Where a slope is next to nothing, the direction of a first step of Lion or Adam is that of its rounding.
            assert!(moved > 0.0 && off < 0.2 * moved, "{training}: {off} apart after moving by {moved}");
        }
    }

    #[test]
    fn epochs_are_the_same_whenever_figures_are_looked_at() {
        let digits = Digits::read();
        let spec = digits.spec(json!({"model": {"family": "adversarial"}, "training": {"ema": 0.9}}), &digits.schema);
        let run = |stay| {
            let (mut run, mut watcher) = (digits.run(&spec, &digits.schema), Watcher::default());
            run.figures.stay = stay;
            for _ in 0..2 {
                run.epoch(&mut watcher, &StopFlag::default()).unwrap();
            }
            (run.built.parameters.snapshot(), run.sums.clone(), watcher.metrics)
        };
        let ((here, sums, figures), (there, others, late)) = (run(false), run(true));
        assert!(here == there && sums == others);
        are_near(&late, &figures, "adversarial");
    }

    #[test]
    fn what_was_lost_is_told_by_its_step_whenever_it_is_found() {
        let digits = Digits::read();
        for training in [json!({"optimizer": {"kind": "sgd", "lr": 50.0}}), json!({"optimizer": {"lr": 90.0}})] {
            let spec = digits.spec(json!({"model": {"family": "autoencoder"}, "training": training}), &digits.schema);
            let fault = |stay| {
                let mut run = digits.run(&spec, &digits.schema);
                run.figures.stay = stay;
                match run.epoch(&mut Watcher::default(), &StopFlag::default()) {
                    Err(TrainError::Refused(refusal)) => refusal.detail,
                    other => panic!("it was to diverge: {:?}", other.is_ok()),
                }
            };
            let (here, there) = (fault(false), fault(true));
            assert!(here.contains("in epoch 1, step ") && !here.contains("step 23"), "{here}");
            assert_eq!(here, there);
        }
    }
}
