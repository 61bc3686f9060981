//! When training ends before its last epoch, and which epoch is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::limits::EPOCHS;
use crate::domain::refusal::Faults;

/// When to end before the last epoch. It needs validation rows; without them every epoch is done and the last is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStoppingSpec {
    /// Epochs without a better validation loss before training ends; 0 for never. The best epoch is kept either way.
    #[schema(minimum = 0, maximum = 100000)]
    pub patience: u32,
    /// By how many nats per row a loss must be lower to count as better.
    #[schema(minimum = 0.0)]
    pub min_delta: f64,
}

impl Default for EarlyStoppingSpec {
    fn default() -> Self {
        Self { patience: 20, min_delta: 0.0 }
    }
}

impl EarlyStoppingSpec {
    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        faults.require_within("/training/early_stopping/patience", self.patience, 0..=EPOCHS);
        faults.require_within("/training/early_stopping/min_delta", self.min_delta, 0.0..=1e12);
    }
}

/// The best epoch so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Counted from 1; 0 when there is none yet.
    pub epoch: u32,
    /// Its validation loss.
    pub loss: Option<f64>,
    /// Epochs since.
    pub stale: u32,
}

impl Best {
    /// Takes note of an epoch's validation loss; says whether it is the best so far.
    pub fn update(&mut self, epoch: u32, loss: f64, spec: &EarlyStoppingSpec) -> bool {
        let better = self.loss.is_none_or(|best| loss < best - spec.min_delta);
        *self = if better {
            Self { epoch, loss: Some(loss), stale: 0 }
        } else {
            Self { stale: self.stale + 1, ..self.clone() }
        };
        better
    }

    /// Whether patience has run out.
    pub fn is_over(&self, spec: &EarlyStoppingSpec) -> bool {
        spec.patience > 0 && self.stale >= spec.patience
    }
}

/// Asks a running training to stop: at its next step, or after an epoch. Shared between threads.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    raised: Arc<AtomicBool>,
    deadline: Option<Instant>,
    last_epoch: Option<u32>,
}

impl StopFlag {
    /// One that also says when the time of the job is over.
    pub fn until(deadline: Option<Instant>) -> Self {
        Self { deadline, ..Self::default() }
    }

    /// The same, which also asks it to stop after so many epochs, exactly.
    pub fn after_epoch(self, last_epoch: Option<u32>) -> Self {
        Self { last_epoch, ..self }
    }

    /// Asks it to stop at its next step.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
    }

    /// Whether it is to stop at its next step.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Whether the time of the job is over: it ends with what it has.
    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether it is to stop after so many epochs.
    pub fn is_due(&self, epochs: u32) -> bool {
        self.last_epoch.is_some_and(|last| epochs >= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_epochs_since_the_best() {
        let spec = EarlyStoppingSpec { patience: 2, min_delta: 0.1 };
        let mut best = Best::default();
        assert!(best.update(1, 5.0, &spec));
        assert!(best.update(2, 4.0, &spec));
        assert!(!best.update(3, 3.95, &spec), "an improvement under min_delta does not count");
        assert!(!best.is_over(&spec));
        assert!(!best.update(4, 4.5, &spec));
        assert!(best.is_over(&spec));
        assert_eq!((best.epoch, best.loss), (2, Some(4.0)));
    }

    #[test]
    fn no_patience_means_no_early_stop() {
        let spec = EarlyStoppingSpec { patience: 0, min_delta: 0.0 };
        let mut best = Best::default();
        for epoch in 1..100 {
            best.update(epoch, 1.0, &spec);
        }
        assert!(!best.is_over(&spec));
    }
}
