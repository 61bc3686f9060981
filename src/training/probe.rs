//! A short look at how fast a job trains here: its own network, on some of its own rows, for some steps.
//!
//! It goes through all that a run does that takes memory: a step, validation, a copy of the best weights, a checkpoint. So what does
//! not fit fails here too.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::batches::{self, Batches};
use super::evaluation;
use super::observer::{Observer, Report};
use super::{Assignment, Run, TrainError};
use crate::data::split::Split;

/// Rows that are looked at, unless a batch has more.
const ROWS: usize = 4_096;
/// Rows of those that validate.
const VALIDATION_ROWS: usize = 1_024;
/// Steps before the clock counts: the first ones fill caches and find out what memory is needed.
const WARMUP_STEPS: u64 = 2;
/// Steps that are timed at most.
const TIMED_STEPS: u64 = 1_000;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// Rows that train, validate and test.
    pub rows: [u64; 3],
    /// Steps that were timed, after those to warm up.
    pub steps: u64,
    /// How long they took.
    pub steps_seconds: f64,
    /// Rows that go through training in a second.
    pub rows_per_second: f64,
    /// From the beginning to the first step, for all rows.
    pub preparing_seconds: f64,
    /// One epoch with its validation.
    pub epoch_seconds: f64,
    /// What comes after the last epoch.
    pub finishing_seconds: f64,
}

impl Probed {
    /// The whole job, if no epoch is left out.
    pub fn seconds(&self, epochs: u32) -> f64 {
        self.preparing_seconds + f64::from(epochs) * self.epoch_seconds + self.finishing_seconds
    }
}

/// Hears nothing, but has checkpoints written out, as a trainer would.
struct Silent;

impl Observer for Silent {
    fn observe(&mut self, report: Report<'_>) {
        if let Report::Checkpoint(checkpoint) = report {
            drop(checkpoint.to_bytes());
        }
    }

    fn takes_checkpoint(&self) -> bool {
        true
    }
}

/// Trains for about so long and looks.
///
/// # Errors
/// The job is at fault.
///
/// # Panics
/// libtorch fails, for want of memory for example. The caller runs this in a process or under `catch_unwind`.
pub fn probe(assignment: &Assignment<'_>, time: Duration) -> Result<Probed, TrainError> {
    let Assignment { spec, schema, rows, device } = *assignment;
    let begun = Instant::now();
    let split = spec.split.divide(rows.len(), schema, &|row, column| rows.row(row)[column])?;
    let counts = [&split.train, &split.validation, &split.test].map(Vec::len);
    let size = spec.training.batch_size.expect("a resolved spec has a batch size") as usize;
    let seed = spec.training.seed;
    let looked = Split {
        train: batches::some(&split.train, size.max(ROWS), seed).into_owned(),
        validation: batches::some(&split.validation, VALIDATION_ROWS, seed).into_owned(),
        test: Vec::new(),
    };
    let dividing = begun.elapsed().as_secs_f64();

    // What is found from the rows that train takes longer the more there are; the network does not.
    let begun = Instant::now();
    drop(Batches::fit(rows, schema, spec, &looked.train, device));
    let fitting = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut run = Run::begin_on(assignment, looked, None, &mut Silent)?;
    let building = begun.elapsed().as_secs_f64();
    let preparing_seconds =
        dividing + fitting * share(counts[0], run.split.train.len()) + (building - fitting).max(0.0);

    let accumulate = spec.training.accumulate;
    let steps = (batches::cut(&split.train, size).len() as u64).div_ceil(u64::from(accumulate));
    let looked = run.split.train.clone();
    let pieces = batches::cut(&looked, size);
    run.epoch = spec.pretraining_epochs();
    let (mut steps_done, mut seen, mut warm) = (0, 0, false);
    let mut clock = Instant::now();
    let groups: Vec<&[&[u32]]> = pieces.chunks(accumulate as usize).collect();
    for (number, group) in groups.iter().cycle().enumerate() {
        run.step = number as u64 % steps;
        // A loss that is not finite is for the job itself to tell: its steps take as long.
        let _ = run.train_step(group, None, &[]);
        steps_done += 1;
        seen += group.iter().map(|piece| piece.len()).sum::<usize>();
        if clock.elapsed() >= time || steps_done >= TIMED_STEPS {
            break;
        }
        if !warm && steps_done >= WARMUP_STEPS {
            (steps_done, seen, warm, clock) = (0, 0, true, Instant::now());
        }
    }
    let steps_seconds = clock.elapsed().as_secs_f64();
    let rows_per_second = seen as f64 / steps_seconds.max(1e-9);

    let begun = Instant::now();
    let judged = if run.split.validation.is_empty() {
        &run.split.train[..run.split.train.len().min(VALIDATION_ROWS)]
    } else {
        &run.split.validation
    };
    let judged_rows = judged.len();
    evaluation::loss(run.subject(), judged, 1.0);
    let judging = begun.elapsed().as_secs_f64() / judged_rows as f64;
    let begun = Instant::now();
    evaluation::code(run.subject(), judged);
    let coding = begun.elapsed().as_secs_f64();
    run.best_weights = Some(run.built.parameters.snapshot());
    run.checkpoint(&mut Silent);

    let [train, validation, test] = counts.map(|count| count as f64);
    let draws = f64::from(spec.evaluation.importance_samples);
    Ok(Probed {
        rows: counts.map(|count| count as u64),
        steps: steps_done,
        steps_seconds,
        rows_per_second,
        preparing_seconds,
        epoch_seconds: train / rows_per_second + validation * judging + coding,
        finishing_seconds: judging * (2.0 * (train + validation + test) + draws * (validation + test)),
    })
}

fn share(all: usize, some: usize) -> f64 {
    all as f64 / some.max(1) as f64
}
