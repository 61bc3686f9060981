//! Sweeps: one description of many jobs that differ in some fields of their spec.
//!
//! What is here says what the trials of a sweep are and which of them go on. It draws, sets values and decides; it trains nothing and
//! keeps nothing. The trials themselves are ordinary jobs.
//!
//! Start reading with [`SweepSpec`], then `space` (what is drawn) and `halving` (who goes on).

pub mod halving;
pub mod space;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::spec::TrainSpec;
use crate::domain::limits::{EPOCHS, NAME_CHARS, SWEEP_BYTES, SWEEP_FIELDS, SWEEP_TRIALS};
use crate::domain::name;
use crate::domain::refusal::Faults;
use crate::domain::sweep::Goal;
use space::{Point, Space};

/// The metric by which trials are compared when the sweep names none.
const METRIC: &str = "validation/loss";
/// Characters in the name of a metric.
const METRIC_CHARS: usize = 200;
/// What is measured of finished models alone, so that it cannot compare those that are under way.
const FINAL_FIGURES: [&str; 4] = ["mse", "pca_mse", "log_likelihood", "best_epoch"];

/// A sweep, as a user asks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepSpec {
    /// A name for the sweep. Its jobs are called by it, or by the `name` in `base`, and by their number.
    #[serde(default)]
    pub name: Option<String>,
    /// A job spec. What the space names may be left out.
    #[schema(value_type = TrainSpec)]
    pub base: Value,
    /// How trials are found.
    pub search: SearchSpec,
    /// What is varied: JSON pointers to fields of the spec (`/training/optimizer/lr`), and what each may be.
    pub space: Space,
    /// The figure that trials are compared by, as curves and finished models have it. `validation/loss` when it is left out.
    #[serde(default)]
    pub metric: Option<String>,
    /// Whether it is to be low or high. When it is left out: high for accuracies, log-likelihoods and active units, else low.
    #[serde(default)]
    pub goal: Option<Goal>,
    /// How many of its jobs run at once; as many as there are workers when it is left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub parallel: Option<u32>,
}

/// How trials are found. What does not belong to the kind is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchSpec {
    /// Which way.
    pub kind: SearchKind,
    /// Of `random` and `asha`: how many trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub trials: Option<u32>,
    /// Of `random` and `asha`: what is drawn depends on it, and the first trials do not depend on how many there are; 0 when it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Of `asha`: epochs after which trials are compared for the first time, pre-training not counted; 1 when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 99999)]
    pub min_epochs: Option<u32>,
    /// Of `asha`: one of so many goes on each time, to so many times the epochs; 4 when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 2, maximum = 100)]
    pub reduction: Option<u32>,
}

/// A way to find trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchKind {
    /// Every combination of the values.
    Grid,
    /// Combinations drawn at random.
    Random,
    /// The same, of which only the best train for long: asynchronous successive halving (Li et al., 2020).
    Asha,
}

impl SearchKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Random => "random",
            Self::Asha => "asha",
        }
    }
}

impl SearchSpec {
    /// One of so many goes on from a rung.
    pub fn reduction(&self) -> u32 {
        self.reduction.unwrap_or(4)
    }

    fn check(&self, faults: &mut Faults) {
        let is_random = self.kind != SearchKind::Grid;
        let is_asha = self.kind == SearchKind::Asha;
        for (name, is_given, belongs) in [
            ("trials", self.trials.is_some(), is_random),
            ("seed", self.seed.is_some(), is_random),
            ("min_epochs", self.min_epochs.is_some(), is_asha),
            ("reduction", self.reduction.is_some(), is_asha),
        ] {
            if is_given && !belongs {
                let kinds = if name == "trials" || name == "seed" { "random and asha" } else { "asha" };
                let detail = format!("goes with {kinds}; this search is {}", self.kind.as_str());
                faults.push(format!("/search/{name}"), "conflict", detail);
            }
        }
        match self.trials {
            Some(trials) => faults.require_within("/search/trials", trials, 1..=SWEEP_TRIALS),
            None if is_random && !faults.has_within("/search/trials") => {
                faults.push("/search/trials", "missing", "says how many trials are drawn")
            }
            None => {}
        }
        if let Some(epochs) = self.min_epochs {
            faults.require_within("/search/min_epochs", epochs, 1..=EPOCHS - 1);
        }
        if let Some(reduction) = self.reduction {
            faults.require_within("/search/reduction", reduction, 2..=100);
        }
    }

    fn settle(&mut self) {
        if self.kind != SearchKind::Grid {
            self.seed.get_or_insert(0);
        }
        if self.kind == SearchKind::Asha {
            self.min_epochs.get_or_insert(1);
            self.reduction.get_or_insert(4);
        }
    }
}

impl SweepSpec {
    /// Reports every fault that can be seen without the specs of the trials. `faults` holds those of its form.
    pub fn check(&self, faults: &mut Faults) {
        if let Some(Err(fault)) = self.name.as_deref().map(name::checked) {
            faults.push("/name", "invalid_name", fault);
        }
        if !self.base.is_object() {
            faults.push(
                "/base",
                "wrong_type",
                "is no object; it is a job spec, of which what is in the space may be left out",
            );
        }
        if let Some(parallel) = self.parallel {
            faults.require_within("/parallel", parallel, 1..=SWEEP_TRIALS);
        }
        self.search.check(faults);
        self.check_metric(faults);
        faults.require_within("/space", self.space.len(), 1..=SWEEP_FIELDS);
        space::check_pointers(&self.space, faults);
        let is_grid = self.search.kind == SearchKind::Grid;
        for (pointer, choices) in &self.space {
            let at = space::place(pointer);
            // What could not be read was left out, and told already.
            if !faults.has_within(&at) {
                choices.check(&at, is_grid, faults);
            }
        }
        if self.search.kind == SearchKind::Asha {
            let epochs = self.space.keys().find(|pointer| space::is_within("/training/epochs", pointer));
            if let Some(pointer) = epochs {
                let detail = "cannot be varied by asha, which compares trials after the same epochs";
                faults.push(space::place(pointer), "conflict", detail);
            }
        }
        if faults.is_empty() {
            self.check_count(faults);
        }
    }

    fn check_metric(&self, faults: &mut Faults) {
        let Some(metric) = &self.metric else { return };
        faults.require_within("/metric", metric.chars().count(), 1..=METRIC_CHARS);
        let is_final = metric.starts_with("test/") || metric.split('/').any(|part| FINAL_FIGURES.contains(&part));
        if self.search.kind == SearchKind::Asha && is_final {
            let detail =
                format!("is `{metric}`, which is measured at the end alone; asha compares by a number of every epoch");
            faults.push("/metric", "conflict", detail);
        }
    }

    fn check_count(&self, faults: &mut Faults) {
        let most = u64::from(SWEEP_TRIALS);
        let trials = match self.search.trials {
            Some(trials) => {
                if let Some(count) = space::count(&self.space).filter(|count| *count < u64::from(trials)) {
                    let detail = format!("is {trials}; the space has only {count} different trials");
                    faults.push("/search/trials", "out_of_range", detail);
                }
                u64::from(trials)
            }
            None => {
                let count = space::grid_count(&self.space);
                if count > most {
                    faults.push("/space", "too_large", format!("makes {count} trials; allowed are up to {most}"));
                    return;
                }
                count
            }
        };
        let bytes = serde_json::to_string(self).map_or(usize::MAX, |text| text.len());
        let at_most = bytes.saturating_mul(trials as usize);
        if at_most > SWEEP_BYTES {
            let detail = format!("makes specs of {at_most} bytes in {trials} trials; allowed are up to {SWEEP_BYTES}");
            faults.push("/base", "too_large", detail);
        }
    }

    /// Fills in what was left out.
    pub fn settle(&mut self) {
        self.name = self.name.take().map(|name| name.trim().to_owned());
        let metric = self.metric.get_or_insert_with(|| METRIC.to_owned());
        self.goal.get_or_insert_with(|| Goal::of(metric));
        self.search.settle();
    }

    /// The metric by which trials are compared.
    pub fn metric(&self) -> &str {
        self.metric.as_deref().unwrap_or(METRIC)
    }

    /// Whether it is to be low or high.
    pub fn goal(&self) -> Goal {
        self.goal.unwrap_or_else(|| Goal::of(self.metric()))
    }

    /// The values of every trial, in the order of their numbers.
    pub fn points(&self) -> Vec<Point> {
        match self.search.trials {
            Some(trials) => space::draws(&self.space, trials, self.search.seed.unwrap_or(0)),
            None => space::grid(&self.space),
        }
    }

    /// The job spec of a trial, which nobody has checked yet.
    ///
    /// # Errors
    /// A value that cannot be set: its pointer, and why.
    pub fn spec_of(&self, number: usize, point: &Point) -> Result<Value, (String, String)> {
        let mut spec = self.base.clone();
        for (pointer, value) in point {
            space::set(&mut spec, pointer, value.clone()).map_err(|fault| (pointer.clone(), fault))?;
        }
        let name = self.name.as_deref().or_else(|| spec.get("name")?.as_str());
        // A name that is at fault stays so, and is found when the spec is checked.
        if let (Some(Ok(name)), false) = (name.map(name::checked), point.contains_key("/name")) {
            let number = format!(" {number}");
            let kept: String = name.chars().take(NAME_CHARS - number.len()).collect();
            spec["name"] = format!("{kept}{number}").into();
        }
        Ok(spec)
    }

    /// Epochs after which trials are compared, ascending; none without successive halving.
    pub fn rungs(&self, trial: &TrainSpec) -> Vec<u32> {
        match self.search.kind {
            SearchKind::Asha => {
                halving::rungs(self.search.min_epochs.unwrap_or(1), self.search.reduction(), trial.training.epochs)
            }
            SearchKind::Grid | SearchKind::Random => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::refusal::Code;
    use serde_json::json;

    fn sweep(change: Value) -> SweepSpec {
        let mut sweep = json!({
            "base": {"model": {"family": "vae"}},
            "search": {"kind": "random", "trials": 3},
            "space": {"/training/seed": {"int": [0, 9]}},
        });
        sweep.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(sweep).unwrap()
    }

    #[track_caller]
    fn check(change: Value, expected: &[&str]) {
        let mut faults = Faults::new();
        sweep(change).check(&mut faults);
        let refusal = faults.into_result(Code::InvalidRequest).err();
        let found: Vec<String> =
            refusal.into_iter().flat_map(|refusal| refusal.errors).map(|fault| fault.pointer).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_fault_of_a_sweep_is_named() {
        let epochs = json!({"/training": {"values": [{}]}});
        check(json!({}), &[]);
        check(json!({"name": "", "base": 3, "parallel": 0, "metric": ""}), &["/name", "/base", "/parallel", "/metric"]);
        check(json!({"search": {"kind": "random"}}), &["/search/trials"]);
        check(
            json!({"search": {"kind": "random", "trials": 1001, "reduction": 2}}),
            &["/search/reduction", "/search/trials"],
        );
        check(json!({"search": {"kind": "grid", "seed": 1, "trials": 2}}), &["/search/trials", "/search/seed"]);
        check(json!({"search": {"kind": "random", "trials": 11}}), &["/search/trials"]);
        check(
            json!({"search": {"kind": "asha", "trials": 3, "min_epochs": 0, "reduction": 1}}),
            &["/search/min_epochs", "/search/reduction"],
        );
        check(
            json!({"search": {"kind": "asha", "trials": 1}, "space": epochs, "metric": "test/loss"}),
            &["/metric", "/space/~1training"],
        );
        check(json!({"space": {}}), &["/space"]);
        check(
            json!({"search": {"kind": "grid"}, "space": {"/a": {"int": [1, 100]}, "/b": {"int": [1, 11]}}}),
            &["/space"],
        );
        let large = json!({"base": {"x": "y".repeat(100_000)}, "search": {"kind": "grid"}, "space": {"/a": {"int": [1, 1000]}}});
        check(large, &["/base"]);
    }

    #[test]
    fn what_was_left_out_is_filled_in() {
        let mut sweep = sweep(json!({"search": {"kind": "asha", "trials": 3}, "metric": "validation/accuracy"}));
        sweep.settle();
        assert_eq!(
            serde_json::to_value(&sweep.search).unwrap(),
            json!({"kind": "asha", "trials": 3, "seed": 0, "min_epochs": 1, "reduction": 4})
        );
        assert_eq!(sweep.goal, Some(Goal::Maximize));
    }

    #[test]
    fn trials_are_called_by_their_number() {
        let named = |change: Value, point: Value| {
            let point: Point = serde_json::from_value(point).unwrap();
            sweep(change).spec_of(7, &point).unwrap()["name"].clone()
        };
        let base = json!({"base": {"name": " vae "}});
        assert_eq!(named(base.clone(), json!({})), "vae 7");
        assert_eq!(named(json!({"name": "s", "base": {"name": "b"}}), json!({})), "s 7");
        assert_eq!(named(base, json!({"/name": "own"})), "own");
        assert_eq!(named(json!({}), json!({})), Value::Null);
        let long = named(json!({"name": "x".repeat(NAME_CHARS)}), json!({}));
        assert_eq!(long.as_str().unwrap().chars().count(), NAME_CHARS);
    }
}
