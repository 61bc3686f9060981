//! What a job would take, before it is queued: memory by its spec, and time by a short look at it in a trainer of its own.

use std::time::Duration;

use tokio::time::Instant;

use super::Jobs;
use super::messages::{Message, Request, Task};
use super::process::{Ending, TrainerProcess, Trainers};
use super::trainer;
use crate::data::dataset::Schema;
use crate::domain::job::RunOptions;
use crate::domain::refusal::{Code, Fault, Refusal};
use crate::store::datasets::Dataset;
use crate::store::{Store, StoreError};
use crate::training::memory::{Footprint, Needs};
use crate::training::probe::Probed;
use crate::training::spec::TrainSpec;

/// How long steps are timed.
const TIMED: Duration = Duration::from_millis(1_000);
/// A look that has not ended by then says nothing of the time.
const LOOK_MOST: Duration = Duration::from_secs(20);
/// Batches that are tried to find one that fits, each half of the one before.
const TRIES: u32 = 8;
/// Batches that the program chooses have no fewer rows for want of memory.
const LEAST_CHOSEN: u64 = 8;
const MIB: u64 = 1 << 20;

/// What a job would take.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// Numbers that are trained.
    pub parameters: u64,
    /// Memory by what it is for.
    pub footprint: Footprint,
    /// Bytes that its trainer may have; `None` without a limit.
    pub limit_bytes: Option<u64>,
    /// What was seen; `None` where it took too long.
    pub seen: Option<Seen>,
}

/// What was seen of a job.
#[derive(Clone, Debug)]
pub struct Seen {
    /// How fast it is.
    pub probed: Probed,
    /// The most memory that its trainer had of its own; `None` where it trains on a GPU or the system does not say.
    pub peak_bytes: Option<u64>,
}

enum Look {
    Seen(Seen),
    OutOfMemory,
    Failed(Refusal),
    TooSlow,
}

impl Jobs {
    /// The spec of a job with what its data and the memory that it may have decide.
    ///
    /// # Errors
    /// It does not go with its data, it cannot have the memory it needs at least, or its device is not there.
    pub fn resolve(&self, spec: &TrainSpec, dataset: &Dataset, options: &RunOptions) -> Result<TrainSpec, Refusal> {
        let mut resolved = spec.resolve(&dataset.schema, dataset.rows)?;
        if spec.training.batch_size.is_none() {
            self.fit_batch(&mut resolved, &dataset.schema, options)?;
        }
        self.require_memory(&resolved, &dataset.schema, options)?;
        Ok(resolved)
    }

    fn require_memory(&self, spec: &TrainSpec, schema: &Schema, options: &RunOptions) -> Result<(), Refusal> {
        let Some((most, whose)) = self.most_memory(spec, options)? else { return Ok(()) };
        let needs = Needs::of(spec, schema);
        let least = needs.least(needs.batch_rows);
        if least <= most {
            return Ok(());
        }
        let all = format!("needs at least {} MiB of memory, and {whose} {}", least.div_ceil(MIB), most / MIB);
        if needs.least(1) > most {
            let detail = format!("{all}; the network is too large for it whatever the batch");
            return Err(Refusal::at(Code::OutOfMemory, "/network/hidden", "too_large", detail));
        }
        let advice = match needs.fitting_batch(most) {
            Some(rows) => format!("{rows} should fit"),
            None => "a smaller one may fit".to_owned(),
        };
        let detail = format!("is {}, which {all}; {advice}", needs.batch_rows);
        Err(Refusal::at(Code::OutOfMemory, "/training/batch_size", "too_large", detail))
    }

    /// Makes the batch of a job whose size is left to the program so small that it is expected to have the memory it needs.
    fn fit_batch(&self, spec: &mut TrainSpec, schema: &Schema, options: &RunOptions) -> Result<(), Refusal> {
        let Some((most, _)) = self.most_memory(spec, options)? else { return Ok(()) };
        let needs = Needs::of(spec, schema);
        if needs.expected(needs.batch_rows).peak() > most {
            let rows = needs.fitting_batch(most).unwrap_or(0).max(LEAST_CHOSEN).min(needs.batch_rows);
            spec.training.batch_size = u32::try_from(rows).ok();
        }
        Ok(())
    }

    /// The memory that a job may have, and who says so. `None` where nobody knows; that of a GPU is not looked at.
    fn most_memory(&self, spec: &TrainSpec, options: &RunOptions) -> Result<Option<(u64, &'static str)>, Refusal> {
        if self.devices().choose(spec.training.device)?.is_cuda() {
            return Ok(None);
        }
        let limit = options.memory_bytes(self.config().trainer.memory_bytes);
        Ok(match (limit, machine_bytes()) {
            (Some(limit), machine) if machine.is_none_or(|machine| limit <= machine) => {
                Some((limit, "a trainer may have"))
            }
            (_, machine) => machine.map(|bytes| (bytes, "this machine has")),
        })
    }

    /// What a job with a resolved spec would take. Nothing of it is kept.
    ///
    /// # Errors
    /// It has too little memory, it is at fault, or as many are looked at already as is allowed.
    pub async fn estimate(
        &self,
        spec: TrainSpec,
        dataset: &Dataset,
        options: &RunOptions,
    ) -> Result<Estimate, StoreError> {
        let _permit = self.probing.try_acquire().map_err(|_| {
            Refusal::new(Code::Overloaded, "as many jobs are being looked at as this server allows; try again soon")
        })?;
        let needs = Needs::of(&spec, &dataset.schema);
        let limit_bytes = options.memory_bytes(self.config().trainer.memory_bytes);
        let trainers = self.shared.trainers.with_memory(limit_bytes);
        let request = Request {
            task: Task::Probe { ms: TIMED.as_millis() as u64 },
            ..Request::train(spec, dataset, &self.shared.store)?
        };
        let seen = match look(&trainers, &self.shared.store, &request).await? {
            Look::Seen(seen) => Some(seen),
            Look::TooSlow => None,
            Look::Failed(refusal) => return Err(refusal.into()),
            Look::OutOfMemory => {
                let fits = fitting_batch(&trainers, &self.shared.store, &request).await;
                return Err(out_of_memory(&request.spec, limit_bytes, fits).into());
            }
        };
        let footprint = needs.expected(needs.batch_rows);
        Ok(Estimate { parameters: needs.parameters, footprint, limit_bytes, seen })
    }
}

/// The largest batch among halves of a job's own with which it trains in the memory that it may have, found by trying. It begins
/// near what is expected to fit. `None` when none did.
pub(super) async fn fitting_batch(trainers: &Trainers, store: &Store, request: &Request) -> Option<u32> {
    let needs = Needs::of(&request.spec, &request.schema);
    let bytes = trainers.config.memory_bytes.map_or(u64::MAX, |bytes| bytes.saturating_mul(2));
    let mut rows = needs.fitting_batch(bytes)?;
    for _ in 0..TRIES {
        let mut smaller = Request { task: Task::Probe { ms: 0 }, ..request.clone() };
        smaller.spec.training.batch_size = u32::try_from(rows).ok();
        match look(trainers, store, &smaller).await {
            Ok(Look::Seen(_)) => return u32::try_from(rows).ok(),
            Ok(Look::OutOfMemory) if rows > 1 => rows /= 2,
            _ => return None,
        }
    }
    None
}

/// The refusal of a job that ran out of memory.
pub(super) fn out_of_memory(spec: &TrainSpec, limit_bytes: Option<u64>, fits: Option<u32>) -> Refusal {
    let general = trainer::out_of_memory();
    let Some(fits) = fits else { return general };
    let batch = spec.training.batch_size.unwrap_or_default();
    let limit = limit_bytes.map_or_else(String::new, |bytes| format!(" of the {} MiB it may have", bytes / MIB));
    let fault = Fault {
        pointer: "/training/batch_size".to_owned(),
        code: "too_large".to_owned(),
        detail: format!("is {batch}; {fits} would fit"),
    };
    let detail = format!("Training ran out of memory{limit}: training.batch_size is {batch}; {fits} would fit.");
    Refusal { detail, errors: vec![fault], ..general }
}

async fn look(trainers: &Trainers, store: &Store, request: &Request) -> Result<Look, StoreError> {
    let scratch = store.scratch()?;
    let deadline = Instant::now() + LOOK_MOST;
    let mut process = TrainerProcess::start(trainers, scratch.directory(), request, None).await?;
    let mut batch = Vec::new();
    loop {
        if tokio::time::timeout_at(deadline, process.receive(&mut batch)).await.is_err() {
            process.end(true).await;
            return Ok(Look::TooSlow);
        }
        let closed = batch.is_empty();
        for message in batch.drain(..) {
            let look = match message {
                Message::Probed { probed, peak_bytes } => Look::Seen(Seen { probed, peak_bytes }),
                Message::Failed { error } if error.code == Code::OutOfMemory => Look::OutOfMemory,
                Message::Failed { error } => Look::Failed(error),
                _ => continue,
            };
            process.end(false).await;
            return Ok(look);
        }
        if closed {
            let Ending { status, last_words, .. } = process.end(false).await;
            if trainer::says_out_of_memory(&last_words) {
                return Ok(Look::OutOfMemory);
            }
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::warn!(how, words = last_words, "A trainer that looked at a job died");
            let detail = format!("A short look at the job ended without a result ({how}).");
            return Ok(Look::Failed(Refusal::new(Code::TrainerDied, detail)));
        }
    }
}

/// Bytes of memory of this machine, or of the part of it that this program was given.
fn machine_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
    let given = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let given = given.and_then(|text| text.trim().parse().ok());
    Some(given.map_or(machine, |given: u64| given.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_some_memory() {
        assert!(machine_bytes().is_none_or(|bytes| bytes > 64 * MIB));
    }
}
