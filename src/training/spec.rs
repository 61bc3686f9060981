//! The job spec: what the API accepts, the database keeps, the trainer obeys and the artifact carries. One type, no twin.
//!
//! A spec is checked against the dataset it names, then resolved: what the data decides (widths, likelihood, scaling, batch
//! size) is filled in, so that the spec of a finished model says what was done.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::optimizer::OptimizerSpec;
use super::stopping::EarlyStoppingSpec;
use crate::data::dataset::{Kind, Schema};
use crate::data::scaling::ScalingSpec;
use crate::data::split::SplitSpec;
use crate::domain::id::DatasetId;
use crate::domain::limits::{BATCH_ROWS, EPOCHS, PARAMETERS};
use crate::domain::name;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::models::ModelSpec;
use crate::models::likelihood::{LikelihoodKind, LikelihoodSpec, Variance};
use crate::models::mlp::NetworkSpec;

/// The version of the spec that this program writes.
pub const SPEC_VERSION: u32 = 1;

/// A training job, as a user asks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// The version of this description.
    #[serde(default = "version")]
    #[schema(minimum = 1, maximum = 1)]
    pub version: u32,
    /// The dataset to train on.
    pub dataset: DatasetId,
    /// A name for the job and its model.
    #[serde(default)]
    pub name: Option<String>,
    /// The family and its settings.
    pub model: ModelSpec,
    /// The layers between input and code.
    #[serde(default)]
    pub network: NetworkSpec,
    /// What the decoder's output means.
    #[serde(default)]
    pub likelihood: LikelihoodSpec,
    /// How columns are scaled before the model sees them.
    #[serde(default)]
    pub scaling: ScalingSpec,
    /// How to train.
    #[serde(default)]
    pub training: TrainingSpec,
    /// Which rows train, validate and test.
    #[serde(default)]
    pub split: SplitSpec,
    /// What is measured at the end.
    #[serde(default)]
    pub evaluation: EvaluationSpec,
}

fn version() -> u32 {
    SPEC_VERSION
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingSpec {
    /// Passes over the training rows, at most.
    #[schema(minimum = 1, maximum = 100000)]
    pub epochs: u32,
    /// Rows in one step. Chosen by the number of rows when it is left out.
    #[schema(minimum = 1, maximum = 65536)]
    pub batch_size: Option<u32>,
    /// What turns gradients into steps.
    pub optimizer: OptimizerSpec,
    /// The gradient is shortened to this norm when it is longer. No limit when it is left out.
    #[schema(exclusive_minimum = 0.0)]
    pub clip_norm: Option<f64>,
    /// When to end before the last epoch.
    pub early_stopping: EarlyStoppingSpec,
    /// Everything random in training depends on it. On the CPU the same spec and data give the same bytes.
    pub seed: u64,
    /// Where to train.
    pub device: DeviceSpec,
}

impl Default for TrainingSpec {
    fn default() -> Self {
        Self {
            epochs: 50,
            batch_size: None,
            optimizer: OptimizerSpec::default(),
            clip_norm: None,
            early_stopping: EarlyStoppingSpec::default(),
            seed: 0,
            device: DeviceSpec::default(),
        }
    }
}

/// Where to train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceSpec {
    /// A GPU when there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU by CUDA; refused where there is none.
    Cuda,
}

/// What is measured at the end, beside the loss and the reconstruction error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSpec {
    /// Draws per row for the estimate of log p(x), for families that have one; 0 for no estimate.
    #[schema(minimum = 0, maximum = 10000)]
    pub importance_samples: u32,
}

impl TrainSpec {
    /// A spec with defaults for everything that may be left out.
    pub fn new(dataset: DatasetId, model: ModelSpec) -> Self {
        Self {
            version: SPEC_VERSION,
            dataset,
            name: None,
            model,
            network: NetworkSpec::default(),
            likelihood: LikelihoodSpec::default(),
            scaling: ScalingSpec::default(),
            training: TrainingSpec::default(),
            split: SplitSpec::default(),
            evaluation: EvaluationSpec::default(),
        }
    }

    /// Checks what can be checked without the dataset.
    ///
    /// # Errors
    /// A refusal with every fault.
    pub fn check(&self) -> Result<(), Refusal> {
        let mut faults = Faults::new();
        self.find_faults(&mut faults);
        faults.into_result(Code::InvalidRequest)
    }

    /// Reports every fault that does not depend on the dataset.
    pub fn find_faults(&self, faults: &mut Faults) {
        faults.require_within("/version", self.version, SPEC_VERSION..=SPEC_VERSION);
        if let Some(Err(fault)) = self.name.as_deref().map(name::checked) {
            faults.push("/name", "invalid_name", fault);
        }
        self.model.check(faults);
        self.network.check(faults);
        let training = &self.training;
        faults.require_within("/training/epochs", training.epochs, 1..=EPOCHS);
        if let Some(rows) = training.batch_size {
            faults.require_within("/training/batch_size", rows, 1..=BATCH_ROWS);
        }
        if let Some(norm) = training.clip_norm {
            faults.require_within("/training/clip_norm", norm, f64::MIN_POSITIVE..=1e12);
        }
        training.optimizer.check(faults);
        training.early_stopping.check(faults);
        faults.require_within("/evaluation/importance_samples", self.evaluation.importance_samples, 0..=10_000);
        let bernoulli = self.likelihood.kind == LikelihoodKind::Bernoulli;
        if bernoulli && self.scaling == ScalingSpec::Standard {
            faults.push("/scaling", "conflict", "is `standard`, which leaves the range 0 to 1 that a bernoulli likelihood needs; allowed are auto, minmax, none");
        }
        if bernoulli && self.likelihood.variance != Variance::Auto {
            faults.push(
                "/likelihood/variance",
                "conflict",
                "goes with the gaussian likelihood; a bernoulli one has no variance of its own",
            );
        }
    }

    /// Checks the spec against the dataset and replaces every `auto`.
    ///
    /// # Errors
    /// A refusal with every fault, those of [`TrainSpec::check`] included.
    pub fn resolve(&self, schema: &Schema, rows: u64) -> Result<Self, Refusal> {
        let mut faults = Faults::new();
        self.find_faults(&mut faults);
        self.split.check(!schema.labels().is_empty(), &mut faults);
        if rows < 2 {
            faults.push("/dataset", "too_few_rows", format!("has {rows} row; training needs at least 2"));
        }
        let width = schema.features().len();
        let parameters = self.parameters(width);
        if faults.is_empty() && parameters > PARAMETERS {
            let detail = format!(
                "makes a network of about {parameters} parameters for {width} columns; allowed are up to {PARAMETERS}"
            );
            faults.push("/network/hidden", "too_large", detail);
        }
        let mut spec = self.clone();
        spec.settle(schema, rows);
        if spec.likelihood.kind == LikelihoodKind::Bernoulli && spec.scaling == ScalingSpec::None {
            for column in schema.feature_columns().filter(|column| !within_unit(column.profile.as_ref())) {
                let detail = format!(
                    "is bernoulli, and the column `{}` has values outside 0 to 1; leave `scaling` on auto or minmax",
                    column.name
                );
                faults.push("/likelihood", "out_of_range", detail);
            }
        }
        faults.into_result(Code::InvalidRequest)?;
        refuse_missing(schema)?;
        Ok(spec)
    }

    fn settle(&mut self, schema: &Schema, rows: u64) {
        let width = schema.features().len();
        self.name = self.name.take().map(|name| name.trim().to_owned());
        self.network.hidden = Some(self.network.hidden_for(width));
        if self.likelihood.kind == LikelihoodKind::Auto {
            let binary = schema.feature_columns().all(|column| column.kind == Kind::Binary);
            self.likelihood.kind = if binary { LikelihoodKind::Bernoulli } else { LikelihoodKind::Gaussian };
        }
        if self.likelihood.kind == LikelihoodKind::Gaussian && self.likelihood.variance == Variance::Auto {
            self.likelihood.variance = self.model.variance();
        }
        if self.scaling == ScalingSpec::Auto {
            let unit = self.likelihood.kind == LikelihoodKind::Bernoulli || schema.image.is_some();
            self.scaling = if unit { ScalingSpec::Minmax } else { ScalingSpec::Standard };
        }
        let batch = self.training.batch_size.get_or_insert_with(|| {
            // About twenty steps an epoch, in powers of two, as far as that leaves batches of a usual size.
            let wanted = (rows / 20).clamp(8, 256);
            1 << wanted.ilog2()
        });
        *batch = (*batch).min(rows.try_into().unwrap_or(u32::MAX));
    }

    /// How many of the available threads one operation should use. The spec decides, not the load, so that the same job gives
    /// the same bytes whatever else runs.
    ///
    /// Below ten million multiplications a step, waking a second thread takes longer than it saves.
    pub fn threads(&self, width: usize, available: u32) -> u32 {
        const WORTH_SHARING: u64 = 10_000_000;
        let batch = u64::from(self.training.batch_size.unwrap_or(1));
        if self.parameters(width).saturating_mul(batch) < WORTH_SHARING { 1 } else { available }
    }

    /// About how many parameters the network has: weights and biases of the encoder and the decoder that mirrors it.
    fn parameters(&self, width: usize) -> u64 {
        let widths: Vec<u64> = std::iter::once(width as u64)
            .chain(self.network.hidden_for(width).into_iter().map(u64::from))
            .chain([2 * u64::from(self.model.latent())])
            .collect();
        widths
            .windows(2)
            .map(|pair| 2 * pair[0].saturating_mul(pair[1]).saturating_add(pair[1]))
            .fold(0, u64::saturating_add)
    }
}

fn within_unit(profile: Option<&crate::data::dataset::Profile>) -> bool {
    profile.is_some_and(|profile| {
        profile.minimum.is_some_and(|low| low >= 0.0) && profile.maximum.is_some_and(|high| high <= 1.0)
    })
}

fn refuse_missing(schema: &Schema) -> Result<(), Refusal> {
    let mut faults = Faults::new();
    for column in schema.feature_columns() {
        let missing = column.profile.as_ref().map_or(0, |profile| profile.missing);
        if missing > 0 {
            let detail = format!(
                "has {missing} missing values in the column `{}`; fill them in, drop those rows, or upload with the column in `ignore`",
                column.name
            );
            faults.push("/dataset", "missing_values", detail);
        }
    }
    faults.into_result(Code::MissingValues)
}
