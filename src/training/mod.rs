//! Spec in, trained model out.
//!
//! Synchronous; knows no database, queue or HTTP. A run reports to an [`observer::Observer`] and looks at a [`StopFlag`]
//! before each step. Whatever is random is keyed by the seed of the spec and the number of the step, so a run that goes on
//! from a checkpoint gives the bytes of one that was never interrupted.
//!
//! Start reading with [`train`].

mod ahead;
pub mod artifact;
mod average;
pub mod batches;
pub mod blocks;
pub mod bundle;
pub mod checkpoint;
mod conditional;
pub mod device;
pub mod evaluation;
pub mod export;
mod figures;
pub mod inference;
pub mod inspection;
mod likelihoods;
pub mod memory;
pub mod observer;
pub mod optimizer;
pub mod presets;
pub mod pretraining;
pub mod probe;
mod range_test;
pub mod rate;
pub mod schedule;
pub mod scored;
pub mod scoring;
pub mod spec;
pub mod stopping;
mod sums;
pub mod sweeps;
#[cfg(test)]
mod tests;
mod update_rules;

use std::thread::Scope;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::data::dataset::Schema;
use crate::data::rows::RowFile;
use crate::data::split::Split;
use crate::domain::job::{Phase, Progress, StopReason};
use crate::domain::limits::{SAMPLED_ROWS, SAMPLED_VALUES};
use crate::domain::metric::Metric;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::models::fused;
use crate::models::noise::{Noise, Purpose};
use crate::models::parameters::{MismatchError, Part, Snapshot};
use crate::models::sampler::Sampler;
use crate::models::{Loss, Network, Sampling, Step};
use ahead::Gathering;
use artifact::{BuiltNetwork, ModelHeader};
use average::Average;
use batches::{Batch, Batches};
use checkpoint::{Checkpoint, RunState};
use device::Fingerprint;
use evaluation::{PrincipalComponents, Subject};
use figures::{Figure, Figures, Moved, Seen};
use observer::{Observer, Report, Started};
use optimizer::Optimizer;
use schedule::{Plateau, Position};
use scoring::{CALIBRATION_ROWS, Calibration};
use spec::{Precision, TrainSpec};
use stopping::{Best, StopFlag};
use sums::Sums;

/// Within an epoch a checkpoint is made this often.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

/// A loss this many times the first one's size will not come back.
const EXPLOSION: f64 = 1e6;

/// What to train, on what.
pub struct Assignment<'a> {
    /// Resolved against the dataset.
    pub spec: &'a TrainSpec,
    /// The columns of the rows.
    pub schema: &'a Schema,
    /// The rows.
    pub rows: &'a RowFile,
    /// Where to train.
    pub device: Device,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// With a model.
    Finished(Finished),
    /// Because it was asked to stop; its last report was a checkpoint.
    Stopped,
}

/// A trained model.
#[derive(Debug)]
pub struct Finished {
    /// Why training ended.
    pub stop_reason: StopReason,
    /// Figures of the model that was kept.
    pub metrics: Vec<Metric>,
    /// The model file.
    pub artifact: Vec<u8>,
}

/// Why a run gave no model.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The job is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The checkpoint is of another run.
    #[error("the checkpoint does not fit the job: {0}")]
    Checkpoint(#[from] MismatchError),
}

/// Trains a model, from the start or from a checkpoint.
///
/// # Errors
/// The job is at fault, or the checkpoint does not fit it.
///
/// # Panics
/// libtorch fails, for want of memory for example. The caller runs this in a process or under `catch_unwind`.
pub fn train(
    assignment: &Assignment<'_>,
    resume: Option<Checkpoint>,
    observer: &mut dyn Observer,
    stop: &StopFlag,
) -> Result<Outcome, TrainError> {
    let mut run = Run::begin(assignment, resume, observer)?;
    let stop_reason = loop {
        if run.epoch >= assignment.spec.epochs() {
            break StopReason::Completed;
        }
        if run.is_out_of_steps() {
            break StopReason::MaxSteps;
        }
        if run.validation_judges() && run.best.is_over(&assignment.spec.training.early_stopping) {
            break StopReason::EarlyStopped;
        }
        if stop.is_due(run.epoch) {
            run.checkpoint(observer);
            return Ok(Outcome::Stopped);
        }
        match run.epoch(observer, stop)? {
            Epoch::Done if stop.is_over() && run.epoch < assignment.spec.epochs() => break StopReason::MaxRuntime,
            Epoch::Done => {}
            Epoch::OutOfTime => break StopReason::MaxRuntime,
            Epoch::Stopped => return Ok(Outcome::Stopped),
            Epoch::Diverged => break StopReason::Diverged,
        }
    };
    Ok(Outcome::Finished(run.finish(stop_reason, observer)?))
}

/// A run whose thread that gathers ends with its steps, also where one panics: its scope waits for it.
struct Stepping<'r, 'a>(&'r mut Run<'a>);

impl Drop for Stepping<'_, '_> {
    fn drop(&mut self) {
        self.0.gathering.end();
    }
}

enum Epoch {
    Done,
    OutOfTime,
    Stopped,
    Diverged,
}

struct Run<'a> {
    spec: &'a TrainSpec,
    device: Device,
    batches: Batches<'a>,
    split: Split,
    header: ModelHeader,
    built: BuiltNetwork,
    /// The parameters that move in each turn.
    parts: Vec<Part>,
    optimizer: Optimizer,
    average: Option<Average>,
    plateau: Plateau,
    /// Steps of an epoch, and the batches that they are made of.
    steps: u64,
    epoch_batches: u64,
    epoch: u32,
    step: u64,
    sums: Sums,
    figures: Figures,
    gathering: Gathering,
    first_loss: Option<f64>,
    best: Best,
    best_weights: Option<Snapshot>,
    /// The learning rate, where it was found by a range test.
    chosen_rate: Option<f64>,
    /// Whether steps are only tried.
    trying: bool,
    last_checkpoint: Instant,
    speed: Speed,
}

impl<'a> Run<'a> {
    fn begin(
        assignment: &Assignment<'a>,
        resume: Option<Checkpoint>,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let Assignment { spec, schema, rows, .. } = *assignment;
        observer.observe(Report::Phase(Phase::Preparing));
        let split = spec.split.divide(rows.len(), schema, &|row, column| rows.row(row)[column])?;
        observer.observe(Report::Split(&split));
        Self::begin_on(assignment, split, resume, observer)
    }

    /// The same on rows that are divided already.
    fn begin_on(
        assignment: &Assignment<'a>,
        split: Split,
        resume: Option<Checkpoint>,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let Assignment { spec, schema, rows, device } = *assignment;
        if spec.training.precision == Precision::Tf32 {
            fused::allow_tf32();
        }
        let batches = Batches::fit(rows, schema, spec, &split.train, device);
        let header = ModelHeader::new(spec, schema, batches.preparation().clone(), batches.target().clone());
        let mut built = header.build(device, Some(&batches.means(&split.train)));
        let parts = built.network.turns().iter().map(|turn| built.parameters.part(turn.moves)).collect();
        let mut optimizer = Optimizer::new(&spec.training.optimizer, &built.parameters);
        let mut average = spec.training.ema.map(|decay| Average::new(decay, &mut built.parameters));
        let mut state = RunState::start(device);
        let mut best_weights = None;
        if let Some(checkpoint) = resume {
            if checkpoint.state.fingerprint != state.fingerprint {
                observer.observe(Report::Warning(format!(
                    "This run goes on under other conditions than those of its checkpoint ({:?} then, {:?} now); its bytes may differ from those of an uninterrupted run.",
                    checkpoint.state.fingerprint, state.fingerprint
                )));
            }
            built.parameters.restore(&checkpoint.current)?;
            optimizer.restore(&checkpoint.optimizer)?;
            if let Some(average) = &mut average {
                match &checkpoint.average {
                    Some(saved) => average.restore(saved)?,
                    None => average.restart(&mut built.parameters),
                }
            }
            best_weights = checkpoint.best;
            state = checkpoint.state;
        }
        observer.observe(Report::Started(Started {
            parameters: built.parameters.count() as u64,
            train_rows: split.train.len() as u64,
            validation_rows: split.validation.len() as u64,
            test_rows: split.test.len() as u64,
            batch_size: batch_size(spec) as u32,
            device: device::device_name(device).to_owned(),
            from_epoch: state.epoch,
            from_step: state.step,
        }));
        let RunState { epoch, step, sums, best, plateau, first_loss, chosen_rate, .. } = state;
        if let Some(rate) = chosen_rate {
            optimizer.set_lr(rate);
        }
        let (last_checkpoint, speed) = (Instant::now(), Speed::new());
        let epoch_batches = batches::cut(&split.train, batch_size(spec)).len() as u64;
        let steps = epoch_batches.div_ceil(u64::from(spec.training.accumulate));
        let mut run = Self {
            spec,
            device,
            batches,
            split,
            header,
            built,
            parts,
            optimizer,
            average,
            plateau,
            steps,
            epoch_batches,
            epoch,
            step,
            sums,
            figures: Figures::on(device),
            gathering: Gathering::new(),
            first_loss,
            best,
            best_weights,
            chosen_rate,
            trying: false,
            last_checkpoint,
            speed,
        };
        if (run.epoch, run.step, run.chosen_rate) == (0, 0, None) {
            run.find_rate(observer);
        }
        Ok(run)
    }

    /// Whether as many steps were done as the job allows.
    fn is_out_of_steps(&self) -> bool {
        let done = u64::from(self.epoch) * self.steps + self.step;
        self.spec.training.max_steps.is_some_and(|most| done >= most)
    }

    /// The epoch whose weights are kept: the best, or without validation the last whole one.
    fn kept(&self) -> u32 {
        if self.best.epoch > 0 { self.best.epoch } else { self.epoch }
    }

    /// Whether the validation loss picks the epoch that is kept.
    fn validation_judges(&self) -> bool {
        !self.split.validation.is_empty() && self.built.network.loss_judges()
    }

    /// The layer that is trained by itself in this epoch; `None` when all are trained together.
    fn layer(&self) -> Option<usize> {
        let pretraining = self.spec.training.pretraining.as_ref()?;
        pretraining.layer(self.epoch, self.spec.pretraining_epochs() / pretraining.epochs)
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            network: &*self.built.network,
            batches: &self.batches,
            train_rows: self.split.train.len(),
            seed: self.spec.training.seed,
            device: self.device,
        }
    }

    /// One epoch, or what is left of it.
    fn epoch(&mut self, observer: &mut dyn Observer, stop: &StopFlag) -> Result<Epoch, TrainError> {
        let order = batches::order(&self.split.train, self.spec.training.seed, self.epoch);
        let batches = batches::cut(&order, batch_size(self.spec));
        let groups: Vec<&[&[u32]]> = batches.chunks(self.spec.training.accumulate as usize).collect();
        let layer = self.layer();
        observer.observe(Report::Phase(if layer.is_some() { Phase::Pretraining } else { Phase::Training }));
        let layer_parts = match (layer, self.built.network.stack()) {
            (Some(layer), Some(stack)) => vec![self.built.parameters.part(&pretraining::names(&stack, layer))],
            _ => Vec::new(),
        };
        let done =
            std::thread::scope(|scope| Stepping(self).0.steps(scope, &groups, (layer, &layer_parts), observer, stop));
        match done {
            Ok(Epoch::Done) => {}
            Ok(early) => return Ok(early),
            Err(fault) => return self.diverged(&fault, observer),
        }
        let mut metrics = self.sums.metrics(if layer.is_some() { "pretraining" } else { "train" });
        metrics.extend(self.sums.gradient_norm());
        let last = self.optimizer.lr() * self.share(self.step.saturating_sub(1));
        metrics.extend(Metric::finite("train/learning_rate", last));
        if layer.is_none() {
            self.change_places();
            if let Some(fault) = self.judge(&mut metrics)? {
                return self.diverged(&fault, observer);
            }
            self.change_places();
        }
        self.epoch += 1;
        self.step = 0;
        if layer.is_some() && self.layer() != layer {
            // The next layer starts afresh, and so does the training of all.
            self.optimizer.reset();
            if let Some(average) = &mut self.average {
                average.restart(&mut self.built.parameters);
            }
        }
        observer.observe(Report::Progress(self.progress()));
        self.sums = Sums::default();
        observer.observe(Report::Epoch { epoch: self.epoch, metrics });
        // One that stops here makes its checkpoint in any case.
        if observer.takes_checkpoint() && !stop.is_due(self.epoch) {
            self.checkpoint(observer);
        }
        Ok(Epoch::Done)
    }

    /// The steps of an epoch that are left to do; says what was not finite, if something was.
    fn steps<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        groups: &'scope [&'scope [&'scope [u32]]],
        (layer, layer_parts): (Option<usize>, &[Part]),
        observer: &mut dyn Observer,
        stop: &StopFlag,
    ) -> Result<Epoch, String>
    where
        'a: 'scope,
    {
        while self.step < self.steps && !self.is_out_of_steps() {
            if stop.is_raised() {
                self.catch_up()?;
                self.checkpoint(observer);
                return Ok(Epoch::Stopped);
            }
            let place = self.step as usize;
            self.gathering.prepare(scope, &self.batches, &groups[place..]);
            self.train_step(groups[place], layer, layer_parts)?;
            self.gathering.note();
            self.step += 1;
            if self.figures.are_due() {
                self.catch_up()?;
            }
            observer.observe(Report::Progress(self.progress()));
            if self.step < self.steps && stop.is_over() {
                self.catch_up()?;
                return Ok(Epoch::OutOfTime);
            }
            if self.last_checkpoint.elapsed() >= CHECKPOINT_INTERVAL && observer.takes_checkpoint() {
                self.catch_up()?;
                self.checkpoint(observer);
            }
        }
        self.catch_up()?;
        Ok(Epoch::Done)
    }

    /// Takes in what was measured in the steps so far; says what was not finite, if something was, and goes back to its step.
    fn catch_up(&mut self) -> Result<(), String> {
        for done in self.figures.fetch() {
            if let Err(fault) = done.moved.and_then(|moved| self.take_in(done.rows, &moved)) {
                self.step = done.step;
                return Err(fault);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, rows: usize, moved: &Moved) -> Result<(), String> {
        let size = moved.loss.abs();
        let first_loss = *self.first_loss.get_or_insert(size);
        if size > EXPLOSION * (1.0 + first_loss) {
            return Err(format!("the loss had grown to {:.3e}, from {first_loss:.3e} at the start,", moved.loss));
        }
        self.sums.add(rows, moved.loss, &moved.parts, moved.norm);
        self.speed.count(rows);
        Ok(())
    }

    /// Puts the average of the weights in their place, where there is one, or them back in theirs.
    fn change_places(&mut self) {
        if let Some(average) = &mut self.average {
            average.swap(&mut self.built.parameters);
        }
    }

    /// Measures an epoch and keeps its weights if it is the best; says what was not finite, if something was.
    fn judge(&mut self, metrics: &mut Vec<Metric>) -> Result<Option<String>, TrainError> {
        let stopping = &self.spec.training.early_stopping;
        let mut judged = self.sums.loss();
        let rows = if self.split.validation.is_empty() { &self.split.train } else { &self.split.validation };
        metrics.extend(evaluation::code(self.subject(), rows).metrics(false));
        if !self.split.validation.is_empty() {
            let sums = evaluation::loss(self.subject(), &self.split.validation, f64::from(self.epoch + 1));
            let loss = sums.loss().expect("there are validation rows");
            if !loss.is_finite() {
                return Ok(Some("the validation loss was not finite".to_owned()));
            }
            judged = Some(loss);
            metrics.extend(sums.metrics("validation"));
            metrics.extend(self.label_metrics("validation", &self.split.validation));
            if self.validation_judges() {
                let name = stopping.figure();
                let found = metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value);
                let value = found.ok_or_else(|| unknown_figure(&name, metrics))?;
                if self.best.update(self.epoch + 1, stopping.judged(value), stopping) {
                    self.best_weights = Some(self.built.parameters.snapshot());
                }
            }
        }
        if let Some(loss) = judged {
            self.plateau.note(loss, &self.spec.training.optimizer.schedule);
        }
        if !self.validation_judges() {
            // Nothing picks an epoch then: the last whole one is what is kept, should the next diverge.
            self.best_weights = Some(self.built.parameters.snapshot());
        }
        Ok(None)
    }

    /// The share of the learning rate in a step of the epoch under way. Layers that are trained by themselves have all of it.
    fn share(&self, step: u64) -> f64 {
        let spec = &self.spec.training;
        if self.trying {
            return 1.0;
        }
        let Some(done) = self.epoch.checked_sub(self.spec.pretraining_epochs()) else { return 1.0 };
        let before = u64::from(self.spec.pretraining_epochs()) * self.steps;
        let most = spec.max_steps.map_or(u64::MAX, |most| most.saturating_sub(before).max(1));
        let at = Position {
            step: u64::from(done) * self.steps + step,
            epoch_steps: self.steps,
            steps: most.min(u64::from(spec.epochs) * self.steps),
        };
        schedule::share(&spec.optimizer.schedule, spec.optimizer.warmup, &self.plateau, at)
    }

    /// One step, in which every player moves; says what went wrong, if something did. Whoever had its turn before has moved
    /// then.
    fn train_step(&mut self, group: &[&[u32]], layer: Option<usize>, layer_parts: &[Part]) -> Result<(), String> {
        let spec = &self.spec.training;
        let done = self.epoch.saturating_sub(self.spec.pretraining_epochs());
        let share = self.share(self.step);
        let epoch = f64::from(done) + self.step as f64 / self.steps as f64;
        let train_rows = self.split.train.len() as f64;
        let first = u64::from(self.epoch) * self.epoch_batches + self.step * u64::from(spec.accumulate);
        let rows: usize = group.iter().map(|rows| rows.len()).sum();
        let gathered = self.gathering.gather(&self.batches, group);
        let micro: Vec<Micro> = (first..)
            .zip(group)
            .zip(gathered)
            .map(|((number, own), gathered)| {
                let draws = Noise::new(spec.seed, Purpose::Binarize, number, self.device);
                Micro {
                    batch: self.batches.drawn(gathered, &draws),
                    noise: Noise::new(spec.seed, Purpose::Training, number, self.device),
                    share: own.len() as f64 / rows as f64,
                }
            })
            .collect();
        let half = spec.precision == Precision::Bf16;
        let circumstances = Circumstances { epoch, train_rows, half };
        self.optimizer.begin_step();
        self.figures.begin();
        if let Some(layer) = layer {
            let masking = spec.pretraining.as_ref().map_or(0.0, |pretraining| pretraining.masking);
            let loss = |network: &dyn Network, micro: &Micro| {
                let stack = network.stack();
                let loss = stack.and_then(|stack| {
                    pretraining::loss(&stack, layer, masking, &micro.batch.x, &micro.step(circumstances))
                });
                loss.expect("a spec with pretraining has a stack of fully connected layers")
            };
            self.advance(&micro, loss, &layer_parts[0], 1.0)?;
        } else {
            for (turn, player) in self.built.network.turns().iter().enumerate() {
                let loss = |network: &dyn Network, micro: &Micro| {
                    network.loss(&micro.batch.x, &Step { turn, ..micro.step(circumstances) })
                };
                let part = self.parts[turn].clone();
                self.advance(&micro, loss, &part, player.rate * share)?;
            }
            if let Some(average) = &mut self.average {
                average.note(&mut self.built.parameters, u64::from(done) * self.steps + self.step);
            }
        }
        self.figures.end(self.step, rows);
        Ok(())
    }

    /// Moves a part of the parameters against the gradient of a loss over all batches of a step; says what was not finite, if
    /// something was and figures are looked at. Of no use are the parameters then, and nobody looks at them.
    fn advance(
        &mut self,
        micro: &[Micro],
        lose: impl Fn(&dyn Network, &Micro) -> Loss,
        part: &Part,
        rate: f64,
    ) -> Result<(), String> {
        let spec = &self.spec.training;
        let mut whole: Option<Tensor> = None;
        for one in micro {
            let loss = lose(&*self.built.network, one);
            self.figures.note_loss(&loss, whole.is_none(), one.share)?;
            let gradient = self.built.parameters.gradient(&loss.total, part);
            whole = Some(match whole {
                None if micro.len() == 1 => gradient,
                None => gradient * one.share,
                Some(sum) => sum + gradient * one.share,
            });
        }
        let mut gradient = whole.expect("a step has a batch; this is a bug");
        if spec.weight_l1 > 0.0 || spec.weight_l2 > 0.0 {
            let (penalty, slope) = self.weight_penalty(part);
            self.figures.note(Seen::Penalty, Figure::There(penalty))?;
            gradient += slope;
        }
        let stay = self.figures.stay();
        let clips = spec.clip_value.is_some() || spec.clip_norm.is_some();
        let before = clips.then(|| Figure::norm(&gradient, stay));
        if let Some(most) = spec.clip_value {
            let _ = gradient.clamp_(-most, most);
        }
        if let (Some(most), Some(before)) = (spec.clip_norm, &before) {
            match spec.clip_value {
                None => before.shorten(&mut gradient, most),
                Some(_) => Figure::norm(&gradient, stay).shorten(&mut gradient, most),
            }
        }
        let on_the_way = self.optimizer.step(&mut self.built.parameters, &gradient, part, rate);
        let norm = before.or(on_the_way.map(Figure::Known)).unwrap_or_else(|| Figure::norm(&gradient, stay));
        self.figures.note(Seen::Norm, norm)
    }

    /// The penalty on the weights of a part, and its gradient.
    fn weight_penalty(&mut self, part: &Part) -> (Tensor, Tensor) {
        let _guard = tch::no_grad_guard();
        let (l1, l2) = (self.spec.training.weight_l1, self.spec.training.weight_l2);
        let flat = self.built.parameters.flat();
        let stretches: Vec<Tensor> =
            part.ranges.iter().map(|(start, length)| flat.narrow(0, *start, *length)).collect();
        let weights = Tensor::cat(&stretches, 0) * self.built.parameters.weights(part);
        let penalty = weights.abs().sum(Kind::Double) * l1 + weights.square().sum(Kind::Double) * l2;
        (penalty, weights.sign() * l1 + weights * (2.0 * l2))
    }

    fn label_metrics(&self, phase: &str, rows: &[u32]) -> Vec<Metric> {
        let names: Vec<&str> = self.header.labels.iter().map(|column| column.name.as_str()).collect();
        let figures = evaluation::labels(self.subject(), &names, rows);
        figures.into_iter().filter_map(|(name, value)| Metric::finite(format!("{phase}/{name}"), value)).collect()
    }

    /// Goes back to the best epoch, or gives up where there is none.
    fn diverged(&mut self, what: &str, observer: &mut dyn Observer) -> Result<Epoch, TrainError> {
        let place = format!("{what} in epoch {}, step {}", self.epoch + 1, self.step + 1);
        let advice = "A lower training.optimizer.lr or a training.clip_norm usually helps";
        if self.best_weights.is_none() {
            return Err(Refusal::new(
                Code::Diverged,
                format!("Training diverged before an epoch was done: {place}. {advice}."),
            )
            .into());
        }
        observer.observe(Report::Warning(format!(
            "Training diverged: {place}. The weights of epoch {} were kept. {advice}.",
            self.kept()
        )));
        Ok(Epoch::Diverged)
    }

    fn checkpoint(&mut self, observer: &mut dyn Observer) {
        self.last_checkpoint = Instant::now();
        let checkpoint = Checkpoint {
            state: RunState {
                epoch: self.epoch,
                step: self.step,
                sums: self.sums.clone(),
                best: self.best.clone(),
                plateau: self.plateau.clone(),
                first_loss: self.first_loss,
                chosen_rate: self.chosen_rate,
                fingerprint: Fingerprint::here(self.device),
            },
            current: self.built.parameters.snapshot(),
            best: self.best_weights.clone(),
            optimizer: self.optimizer.state(),
            average: self.average.as_ref().map(Average::state),
        };
        observer.observe(Report::Checkpoint(&checkpoint));
    }

    fn progress(&self) -> Progress {
        let epochs = self.spec.epochs();
        let steps = self.steps;
        let most = self.spec.training.max_steps.unwrap_or(u64::MAX);
        let (step, all) = (u64::from(self.epoch) * steps + self.step, u64::from(epochs) * steps);
        let (step, all) = (step.min(most), all.min(most));
        let rows_per_second = self.speed.rows_per_second();
        let rows_per_step = self.split.train.len() as f64 / steps as f64;
        Progress {
            epoch: self.epoch,
            epochs,
            step,
            steps: all,
            loss: self.sums.loss().filter(|loss| loss.is_finite()),
            rows_per_second,
            eta_seconds: rows_per_second.map(|speed| (all - step) as f64 * rows_per_step / speed),
        }
    }

    /// Keeps the best weights, measures them, and writes the model.
    fn finish(mut self, stop_reason: StopReason, observer: &mut dyn Observer) -> Result<Finished, TrainError> {
        observer.observe(Report::Phase(Phase::Evaluating));
        match self.best_weights.take() {
            Some(best) => self.built.parameters.restore(&best)?,
            None => self.change_places(),
        }
        let _guard = tch::no_grad_guard();
        let network = &*self.built.network;
        let kept = self.kept();
        let mut metrics = vec![Metric { name: "best_epoch".to_owned(), value: f64::from(kept) }];
        let latent = self.spec.model.latent() as usize;
        let components = PrincipalComponents::of(&self.batches, &self.split.train, latent);
        for (phase, rows) in
            [("train", &self.split.train), ("validation", &self.split.validation), ("test", &self.split.test)]
        {
            if rows.is_empty() {
                continue;
            }
            metrics.extend(evaluation::loss(self.subject(), rows, f64::from(kept)).metrics(phase));
            let error = evaluation::reconstruction_error(network, &self.batches, rows);
            metrics.extend(Metric::finite(format!("{phase}/mse"), error));
            let error = components.as_ref().map(|components| components.error(&self.batches, rows));
            metrics.extend(error.and_then(|error| Metric::finite(format!("{phase}/pca_mse"), error)));
            metrics.extend(self.label_metrics(phase, rows));
            let samples = self.spec.evaluation.importance_samples;
            if samples > 0 && phase != "train" {
                let estimate = evaluation::log_likelihood(self.subject(), rows, samples);
                metrics.extend(estimate.and_then(|value| Metric::finite(format!("{phase}/log_likelihood"), value)));
            }
        }
        let code = evaluation::code(self.subject(), &self.split.train);
        metrics.extend(code.metrics(true));
        if let Some(warning) = code.warning() {
            observer.observe(Report::Warning(warning));
        }
        let sampler = self.sampler(observer)?;
        observer.observe(Report::Phase(Phase::Calibrating));
        self.header.calibration = self.calibration();
        let artifact = artifact::write(&self.header, &self.built.parameters, sampler.as_ref());
        Ok(Finished { stop_reason, metrics, artifact })
    }

    /// How strange rows are that the model has not trained on, where there are some.
    fn calibration(&self) -> Option<Calibration> {
        let held_out = !self.split.validation.is_empty();
        let rows = if held_out { &self.split.validation } else { &self.split.train };
        let seed = self.spec.training.seed;
        let rows = batches::some(rows, CALIBRATION_ROWS, seed);
        let pieces = rows.chunks(CALIBRATION_ROWS / 4).map(|chunk| self.batches.tensor(chunk));
        let noise = |index| Noise::new(seed, Purpose::Calibration, index, self.device);
        Calibration::of(&*self.built.network, pieces, held_out, noise)
    }

    fn sampler(&self, observer: &mut dyn Observer) -> Result<Option<Sampler>, TrainError> {
        if self.spec.model.sampling() == Sampling::Prior {
            return Ok(None);
        }
        observer.observe(Report::Phase(Phase::FittingSampler));
        let seed = self.spec.training.seed;
        let encode = |rows: &[u32], most: usize| {
            let rows = batches::some(rows, most, seed);
            let codes: Vec<Tensor> =
                rows.chunks(1024).map(|chunk| self.built.network.encode(&self.batches.tensor(chunk)).mean).collect();
            Tensor::cat(&codes, 0)
        };
        // A tenth of the codes that are in memory judge the others.
        let most = (SAMPLED_VALUES / self.spec.model.latent() as usize).clamp(SAMPLED_ROWS / 20, SAMPLED_ROWS);
        let train = encode(&self.split.train, most - most / 10);
        let held_out = (!self.split.validation.is_empty()).then(|| encode(&self.split.validation, most / 10));
        let fitted = Sampler::fit(&self.spec.sampler, &train, held_out.as_ref(), seed);
        Ok(Some(fitted.ok_or_else(|| {
            Refusal::new(
                Code::Diverged,
                "The codes of the training rows are not finite; train with a lower learning rate.",
            )
        })?))
    }
}

/// Rows in one batch of a resolved spec.
fn batch_size(spec: &TrainSpec) -> usize {
    spec.training.batch_size.expect("a resolved spec has a batch size") as usize
}

fn unknown_figure(name: &str, metrics: &[Metric]) -> Refusal {
    let known: Vec<&str> = metrics.iter().filter_map(|metric| metric.name.strip_prefix("validation/")).collect();
    let detail = format!("no figure `{name}` is measured; there are {}", known.join(", "));
    let mut faults = Faults::new();
    faults.push("/training/early_stopping/metric", "unknown_metric", &detail);
    faults.into_result(Code::InvalidRequest).err().unwrap_or_else(|| Refusal::new(Code::InvalidRequest, detail))
}

/// One batch of a step, and its share of the step's rows.
struct Micro {
    batch: Batch,
    noise: Noise,
    share: f64,
}

/// What all batches of a step have in common.
#[derive(Clone, Copy)]
struct Circumstances {
    epoch: f64,
    train_rows: f64,
    half: bool,
}

impl Micro {
    fn step(&self, Circumstances { epoch, train_rows, half }: Circumstances) -> Step<'_> {
        Step { epoch, train_rows, half, labels: self.batch.labels.as_ref(), ..Step::training(&self.noise) }
    }
}

/// Rows per second over the last few seconds.
struct Speed {
    since: Instant,
    rows: f64,
    latest: Option<f64>,
}

impl Speed {
    fn new() -> Self {
        Self { since: Instant::now(), rows: 0.0, latest: None }
    }

    fn count(&mut self, rows: usize) {
        self.rows += rows as f64;
        let seconds = self.since.elapsed().as_secs_f64();
        if seconds >= 0.5 {
            let now = self.rows / seconds;
            self.latest = Some(self.latest.map_or(now, |before| 0.5 * before + 0.5 * now));
            (self.since, self.rows) = (Instant::now(), 0.0);
        }
    }

    fn rows_per_second(&self) -> Option<f64> {
        self.latest.or_else(|| {
            let seconds = self.since.elapsed().as_secs_f64();
            (seconds > 0.0).then(|| self.rows / seconds)
        })
    }
}
