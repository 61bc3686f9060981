//! Sweeps: where one stands, and which of two figures is better.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a sweep looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The lowest figure.
    Minimize,
    /// The highest figure.
    Maximize,
}

impl Goal {
    /// What is wanted of a figure of this name: losses and errors are to be low, shares of right answers and likelihoods high.
    pub fn of(metric: &str) -> Self {
        let is_high = |part: &str| matches!(part, "accuracy" | "log_likelihood" | "active_units");
        if metric.split('/').any(is_high) { Self::Maximize } else { Self::Minimize }
    }

    /// The better figure comes first, one that is not there last.
    pub fn order(self, one: Option<f64>, other: Option<f64>) -> Ordering {
        match (one, other) {
            (Some(one), Some(other)) if self == Self::Maximize => other.total_cmp(&one),
            (Some(one), Some(other)) => one.total_cmp(&other),
            (one, other) => other.is_some().cmp(&one.is_some()),
        }
    }
}

/// Where a sweep stands. It follows from the statuses of its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepStatus {
    /// None of its jobs has begun.
    Queued,
    /// Not all of its jobs have ended.
    Running,
    /// It was asked to end; trainers are still ending.
    Cancelling,
    /// All jobs have ended, one of them at least with a model.
    Succeeded,
    /// All jobs have ended, none of them with a model.
    Failed,
    /// It was ended because somebody asked for it, or all of its jobs were.
    Cancelled,
}

/// How many trials of a sweep stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct TrialCounts {
    /// All of them.
    pub total: u64,
    /// Wait for a worker.
    pub queued: u64,
    /// At work, or being cancelled.
    pub running: u64,
    /// Paused: by somebody, or at a rung, where they wait to be compared with others.
    pub paused: u64,
    /// Ended with a model.
    pub succeeded: u64,
    /// Ended without one, by a fault.
    pub failed: u64,
    /// Ended because others were better at their rung.
    pub not_promoted: u64,
    /// Ended because somebody asked for it.
    pub cancelled: u64,
}

impl SweepStatus {
    /// The status of a sweep with these trials.
    pub fn of(counts: &TrialCounts, is_cancelled: bool) -> Self {
        let ended = counts.succeeded + counts.failed + counts.not_promoted + counts.cancelled;
        match () {
            () if ended < counts.total && is_cancelled => Self::Cancelling,
            () if counts.queued == counts.total => Self::Queued,
            () if ended < counts.total => Self::Running,
            () if is_cancelled => Self::Cancelled,
            () if counts.succeeded > 0 => Self::Succeeded,
            () if counts.failed > 0 => Self::Failed,
            () => Self::Cancelled,
        }
    }

    /// Whether it has ended for good.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_figure_comes_first_and_none_comes_last() {
        let order = |goal: Goal| {
            let mut values = [None, Some(2.0), Some(-1.0), Some(3.0)];
            values.sort_by(|one, other| goal.order(*one, *other));
            values
        };
        assert_eq!(order(Goal::Minimize), [Some(-1.0), Some(2.0), Some(3.0), None]);
        assert_eq!(order(Goal::Maximize), [Some(3.0), Some(2.0), Some(-1.0), None]);
        assert_eq!(Goal::of("validation/loss"), Goal::Minimize);
        assert_eq!(Goal::of("test/accuracy/digit"), Goal::Maximize);
    }

    #[test]
    fn the_status_follows_from_the_jobs() {
        let status = |counts: TrialCounts, cancelled| {
            let total = counts.queued
                + counts.running
                + counts.paused
                + counts.succeeded
                + counts.failed
                + counts.not_promoted
                + counts.cancelled;
            SweepStatus::of(&TrialCounts { total, ..counts }, cancelled)
        };
        let none = TrialCounts::default();
        assert_eq!(status(TrialCounts { queued: 3, ..none }, false), SweepStatus::Queued);
        assert_eq!(status(TrialCounts { queued: 3, succeeded: 1, ..none }, false), SweepStatus::Running);
        assert_eq!(status(TrialCounts { paused: 1, ..none }, false), SweepStatus::Running);
        assert_eq!(status(TrialCounts { running: 1, cancelled: 1, ..none }, true), SweepStatus::Cancelling);
        assert_eq!(status(TrialCounts { succeeded: 1, cancelled: 1, ..none }, true), SweepStatus::Cancelled);
        assert_eq!(status(TrialCounts { succeeded: 1, not_promoted: 8, ..none }, false), SweepStatus::Succeeded);
        assert_eq!(status(TrialCounts { failed: 1, not_promoted: 1, ..none }, false), SweepStatus::Failed);
        assert_eq!(status(TrialCounts { cancelled: 2, ..none }, false), SweepStatus::Cancelled);
    }
}
