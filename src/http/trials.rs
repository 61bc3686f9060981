//! From a sweep to the specs of its trials. Each is read and checked as a job of its own would be, and every fault is told where it
//! stands in the sweep: with the values of the field that it is about, or in the base.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::App;
use super::error::{ApiError, internal};
use super::extract::lenient;
use crate::domain::id::DatasetId;
use crate::domain::job::RunOptions;
use crate::domain::limits::SWEEP_DATASETS;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::jobs::Jobs;
use crate::store::StoreError;
use crate::store::datasets::Dataset;
use crate::store::jobs::unknown_dataset;
use crate::training::spec::TrainSpec;
use crate::training::sweeps::space::{Point, home, place, rest_within};
use crate::training::sweeps::{SearchKind, SweepSpec};

/// The trials of a sweep that was checked: the values of each, and its resolved spec.
///
/// # Errors
/// A refusal with the faults of all specs.
pub async fn trials(app: &App, sweep: SweepSpec, options: &RunOptions) -> Result<Vec<(Point, TrainSpec)>, ApiError> {
    let points = sweep.points();
    let mut datasets = HashMap::new();
    for (number, point) in (1..).zip(&points) {
        let spec = sweep.spec_of(number, point).ok();
        let id = spec.as_ref().and_then(|spec| spec["dataset"].as_str()?.parse::<DatasetId>().ok());
        let Some(id) = id.filter(|id| !datasets.contains_key(id)) else { continue };
        if datasets.len() == SWEEP_DATASETS {
            let detail = format!("names more than the {SWEEP_DATASETS} datasets that one sweep may be on");
            return Err(Refusal::at(Code::InvalidRequest, place("/dataset"), "too_large", detail).into());
        }
        match app.store.dataset(id).await {
            Ok(dataset) => datasets.insert(id, dataset),
            Err(StoreError::Refused(Refusal { code: Code::NotFound, .. })) => None,
            Err(other) => return Err(other.into()),
        };
    }
    let checker = Checker { sweep, datasets, jobs: app.jobs.clone(), options: *options };
    let checked = tokio::task::spawn_blocking(move || checker.check(points)).await;
    Ok(checked.map_err(|error| internal(&error))??)
}

struct Checker {
    sweep: SweepSpec,
    datasets: HashMap<DatasetId, Dataset>,
    jobs: Jobs,
    options: RunOptions,
}

/// Faults, each told once though many trials have it.
#[derive(Default)]
struct Found {
    faults: Faults,
    seen: HashSet<(String, String)>,
    code: Option<Code>,
}

impl Found {
    fn add(&mut self, code: Code, pointer: String, fault: &str, detail: String) {
        if self.seen.insert((pointer.clone(), fault.to_owned())) {
            self.code.get_or_insert(code);
            self.faults.push(pointer, fault, detail);
        }
    }
}

impl Checker {
    fn check(&self, points: Vec<Point>) -> Result<Vec<(Point, TrainSpec)>, Refusal> {
        let mut found = Found::default();
        let mut trials = Vec::with_capacity(points.len());
        if let Some(first) = points.first() {
            self.probe(first, &mut found);
        }
        for (number, point) in (1..).zip(points) {
            match self.resolve(number, &point) {
                Ok(spec) => trials.push((point, spec)),
                Err(refusal) => {
                    for fault in refusal.errors {
                        let detail = format!("{} (trial {number})", fault.detail);
                        found.add(refusal.code, home(&self.sweep.space, &fault.pointer, &point), &fault.code, detail);
                    }
                }
            }
            if found.faults.is_full() {
                break;
            }
        }
        if let Some((_, first)) = trials.first() {
            self.check_epochs(first, &mut found);
        }
        found.faults.into_result(found.code.unwrap_or(Code::InvalidRequest))?;
        Ok(trials)
    }

    /// Tries every value of a list and both ends of a range in the first trial, so that what is told does not depend on what is drawn.
    /// Only faults of the value itself count: the combination may be one that no trial has.
    fn probe(&self, first: &Point, found: &mut Found) {
        for (pointer, choices) in &self.sweep.space {
            for (at, value) in choices.probes() {
                let mut point = first.clone();
                point.insert(pointer.clone(), value);
                let Err(refusal) = self.resolve(1, &point) else { continue };
                for fault in refusal.errors {
                    if let Some(rest) = rest_within(&fault.pointer, pointer) {
                        found.add(refusal.code, format!("{}{at}{rest}", place(pointer)), &fault.code, fault.detail);
                    }
                }
                if found.faults.is_full() {
                    return;
                }
            }
        }
    }

    /// The spec of a trial, with what the data decides. All faults have a pointer into the spec.
    fn resolve(&self, number: usize, point: &Point) -> Result<TrainSpec, Refusal> {
        let spec = self
            .sweep
            .spec_of(number, point)
            .map_err(|(pointer, fault)| Refusal::at(Code::InvalidRequest, pointer, "no_place", fault))?;
        let read = lenient::<TrainSpec>(spec);
        let mut faults = read.faults;
        if let (Some(spec), false) = (&read.value, faults.is_empty()) {
            spec.find_faults(&mut faults);
        }
        faults.into_result(Code::InvalidRequest)?;
        let spec = read.value.expect("a spec without faults was read");
        let dataset = self.datasets.get(&spec.dataset).ok_or_else(|| unknown_dataset(spec.dataset))?;
        self.jobs.resolve(&spec, dataset, &self.options)
    }

    fn check_epochs(&self, trial: &TrainSpec, found: &mut Found) {
        let search = &self.sweep.search;
        let (first, epochs) = (search.min_epochs.unwrap_or(1), trial.training.epochs);
        if search.kind == SearchKind::Asha && first >= epochs {
            let detail = format!("is {first}; it must be less than the {epochs} epochs of the jobs");
            found.add(Code::InvalidRequest, "/search/min_epochs".to_owned(), "out_of_range", detail);
        }
        let metric = self.sweep.metric();
        let validates = trial.split.column.is_some() || trial.split.validation > 0.0;
        if metric.starts_with("validation/") && !validates {
            let detail = format!("is `{metric}`, and the jobs have no rows to validate");
            found.add(Code::InvalidRequest, "/metric".to_owned(), "conflict", detail);
        }
    }
}

/// The spec of a sweep with what was left out, as far as nothing of it is at fault.
///
/// # Errors
/// A refusal with every fault that can be seen without the specs of the trials.
pub fn settled(mut faults: Faults, sweep: Option<SweepSpec>) -> Result<SweepSpec, Refusal> {
    if let Some(sweep) = &sweep {
        sweep.check(&mut faults);
    }
    faults.into_result(Code::InvalidRequest)?;
    let mut sweep = sweep.expect("a body without faults was read");
    sweep.settle();
    Ok(sweep)
}

/// For views: the values of a trial as JSON.
pub fn values(point: Point) -> serde_json::Map<String, Value> {
    point.into_iter().collect()
}
