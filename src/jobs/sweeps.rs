//! Sweeps, as this floor sees them: many jobs that are asked for and cancelled together. Who of them goes on is decided in the store,
//! with what is recorded.

use super::{Jobs, MAX_DEATHS, Shared};
use crate::domain::id::SweepId;
use crate::domain::job::RunOptions;
use crate::store::StoreError;
use crate::store::jobs::Job;
use crate::store::sweeps::{NewSweep, Sweep};
use crate::training::spec::TrainSpec;
use crate::training::sweeps::SweepSpec;
use crate::training::sweeps::space::{Point, home};

impl Jobs {
    /// Puts a sweep into the queue: its trials, with resolved specs. With a key that was used before, answers with that sweep.
    ///
    /// # Errors
    /// A dataset or device is not there, the queue has not so much room, or the key was used for another sweep.
    pub async fn submit_sweep(
        &self,
        spec: SweepSpec,
        mut trials: Vec<(Point, TrainSpec)>,
        priority: i32,
        options: RunOptions,
        idempotency_key: Option<String>,
    ) -> Result<Sweep, StoreError> {
        for (point, trial) in &mut trials {
            self.shared.devices.choose(trial.training.device)?;
            self.settle_init(trial).await.map_err(|error| match error {
                StoreError::Refused(refusal) => {
                    refusal.moved("/init_from", &home(&spec.space, "/init_from", point)).into()
                }
                other => other,
            })?;
        }
        let rungs = trials.first().map_or_else(Vec::new, |(_, trial)| spec.rungs(trial));
        let new = NewSweep { spec, rungs, trials, max_deaths: MAX_DEATHS, priority, options, idempotency_key };
        let sweep = self.shared.store.insert_sweep(&new).await?;
        self.shared.queued.notify_one();
        Ok(sweep)
    }

    /// Asks all jobs of a sweep to end.
    ///
    /// # Errors
    /// There is none of this id, or it has ended.
    pub async fn cancel_sweep(&self, id: SweepId) -> Result<Sweep, StoreError> {
        for job in self.shared.store.request_sweep_cancel(id).await? {
            self.stop(job);
        }
        self.shared.tell(id).await;
        self.shared.store.sweep(id).await
    }
}

impl Shared {
    /// Says that a job has news to whoever follows its sweep or another trial of it, which may have been promoted or ended by it.
    pub(super) async fn tell_sweep(&self, job: &Job) {
        if let Some(trial) = &job.trial {
            self.tell(trial.sweep).await;
        }
    }

    async fn tell(&self, sweep: SweepId) {
        match self.store.sweep_jobs(sweep).await {
            Ok(jobs) => jobs.into_iter().for_each(|job| self.feed.announce(job)),
            Err(error) => tracing::warn!(%error, "Followers of a sweep could not be told; they find out by asking"),
        }
        self.feed.announce_sweep();
        self.queued.notify_one();
    }
}
