//! When training ends before its last epoch, and which epoch is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::limits::{EPOCHS, NAME_CHARS};
use crate::domain::refusal::Faults;

/// When to end before the last epoch. It needs validation rows; without them every epoch is done and the last is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStoppingSpec {
    /// Epochs without a better validation loss before training ends; 0 for never. The best epoch is kept either way.
    #[schema(minimum = 0, maximum = 100000)]
    pub patience: u32,
    /// By how much the figure must be better to count as better; of a loss these are nats per row.
    #[schema(minimum = 0.0)]
    pub min_delta: f64,
    /// Epochs at the start that patience does not count and of which none is kept, such as those in which a weight of the loss
    /// warms up.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(minimum = 0, maximum = 100000)]
    pub warmup_epochs: u32,
    /// The figure of validation that picks the epoch that is kept, without `validation/`: `loss`, a part of it such as
    /// `reconstruction`, or what labels are measured by, such as `accuracy`. The loss when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
}

fn is_zero(epochs: &u32) -> bool {
    *epochs == 0
}

impl Default for EarlyStoppingSpec {
    fn default() -> Self {
        Self { patience: 20, min_delta: 0.0, warmup_epochs: 0, metric: None }
    }
}

impl EarlyStoppingSpec {
    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        faults.require_within("/training/early_stopping/patience", self.patience, 0..=EPOCHS);
        faults.require_within("/training/early_stopping/min_delta", self.min_delta, 0.0..=1e12);
        faults.require_within("/training/early_stopping/warmup_epochs", self.warmup_epochs, 0..=EPOCHS);
        if let Some(metric) = &self.metric
            && (metric.trim().is_empty() || metric.chars().count() > 2 * NAME_CHARS)
        {
            let detail = "must be the name of a figure of validation, such as loss, reconstruction or accuracy";
            faults.push("/training/early_stopping/metric", "unknown_metric", detail);
        }
    }

    /// The name of the figure that decides, as it stands in the metrics of an epoch.
    pub fn figure(&self) -> String {
        let name = self.metric.as_deref().unwrap_or("loss");
        format!("validation/{}", name.strip_prefix("validation/").unwrap_or(name))
    }

    /// What is compared: lower is better.
    pub fn judged(&self, value: f64) -> f64 {
        let higher = self.metric.as_deref().is_some_and(|name| HIGHER.iter().any(|end| name.ends_with(end)));
        if higher { -value } else { value }
    }
}

/// Figures of which more is better end in one of these.
const HIGHER: [&str; 4] = ["accuracy", "r2", "auc", "log_likelihood"];

/// The best epoch so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Counted from 1; 0 when there is none yet.
    pub epoch: u32,
    /// Its validation loss, or what else decides; of figures of which more is better the negative.
    pub loss: Option<f64>,
    /// Epochs since.
    pub stale: u32,
}

impl Best {
    /// Takes note of an epoch's validation loss, or what else decides; says whether it is the best so far. Epochs of the warm-up
    /// are passed over.
    pub fn update(&mut self, epoch: u32, loss: f64, spec: &EarlyStoppingSpec) -> bool {
        if epoch <= spec.warmup_epochs {
            return false;
        }
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
        let spec = EarlyStoppingSpec { patience: 2, min_delta: 0.1, ..EarlyStoppingSpec::default() };
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
    fn epochs_of_the_warm_up_are_neither_kept_nor_counted() {
        let spec = EarlyStoppingSpec { patience: 2, warmup_epochs: 3, ..EarlyStoppingSpec::default() };
        let mut best = Best::default();
        for epoch in 1..=3 {
            assert!(!best.update(epoch, 1.0, &spec));
        }
        assert!(!best.is_over(&spec));
        assert!(best.update(4, 5.0, &spec), "what came in the warm-up is no rival");
        assert_eq!((best.epoch, best.stale), (4, 0));
    }

    #[test]
    fn of_an_accuracy_more_is_better() {
        let spec = EarlyStoppingSpec { metric: Some("digit/accuracy".to_owned()), ..EarlyStoppingSpec::default() };
        assert_eq!(spec.figure(), "validation/digit/accuracy");
        assert!(spec.judged(0.9) < spec.judged(0.8));
        assert_eq!(EarlyStoppingSpec::default().figure(), "validation/loss");
    }

    #[test]
    fn no_patience_means_no_early_stop() {
        let spec = EarlyStoppingSpec { patience: 0, ..EarlyStoppingSpec::default() };
        let mut best = Best::default();
        for epoch in 1..100 {
            best.update(epoch, 1.0, &spec);
        }
        assert!(!best.is_over(&spec));
    }
}
