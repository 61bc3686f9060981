//! The job spec: what the API accepts, the database keeps, the trainer obeys and the artifact carries. One type, no twin.
//!
//! A spec is checked against the dataset it names, then resolved: what the data decides (widths, likelihood, scaling, batch
//! size) is filled in, so that the spec of a finished model says what was done.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::artifact;
use super::likelihoods;
use super::optimizer::OptimizerSpec;
use super::pretraining::PretrainingSpec;
use super::rate;
use super::stopping::EarlyStoppingSpec;
use crate::data::dataset::Schema;
use crate::data::preparation::ScalingSpec;
use crate::data::split::SplitSpec;
use crate::domain::id::DatasetId;
use crate::domain::limits::{ACCUMULATED, BATCH_ROWS, EPOCHS, PARAMETERS};
use crate::domain::name;
use crate::domain::reference::ModelRef;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::models::likelihood::LikelihoodSpec;
use crate::models::network::{NetworkKind, NetworkSpec, Norm};
use crate::models::sampler::SamplerSpec;
use crate::models::{Labels, ModelSpec};

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
    /// A model whose weights training begins with, of the same family and network, on columns that become as many numbers: its id,
    /// `name`, `name:3` or `name@alias`. What a name or an alias means is settled when the job is posted. Drawn by the seed when it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub init_from: Option<ModelRef>,
    /// The layers between input and code.
    #[serde(default)]
    pub network: NetworkSpec,
    /// What the decoder's output means.
    #[serde(default)]
    pub likelihood: LikelihoodSpec,
    /// What the label columns mean, for families that learn to tell them.
    #[serde(default)]
    pub target: LikelihoodSpec,
    /// How columns are scaled before the model sees them.
    #[serde(default)]
    pub scaling: ScalingSpec,
    /// What codes for new rows are drawn from, for families without a prior.
    #[serde(default)]
    pub sampler: SamplerSpec,
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
    /// Steps, at most. No limit when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_steps: Option<u64>,
    /// Rows in one step. By the number of rows, as far as memory has room, when it is left out or `auto`.
    #[serde(deserialize_with = "rate::rows_or_auto")]
    #[schema(schema_with = rate::rows_or_auto_schema)]
    pub batch_size: Option<u32>,
    /// Batches whose gradients make one step together, for steps of more rows than memory has room for.
    #[serde(skip_serializing_if = "is_one")]
    #[schema(minimum = 1, maximum = 1024)]
    pub accumulate: u32,
    /// What turns gradients into steps.
    pub optimizer: OptimizerSpec,
    /// Validation looks at an average of the weights over steps, and it is kept: after each step this share of the average stays,
    /// and the rest is of the weights (Polyak and Juditsky, 1992). At the start the share is smaller. No average when it is left
    /// out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub ema: Option<f64>,
    /// How the matrix products of fully connected layers are taken in training. Weights are kept in 32 bits.
    #[serde(skip_serializing_if = "Precision::is_full")]
    pub precision: Precision,
    /// The gradient is shortened to this norm when it is longer. No limit when it is left out.
    #[schema(exclusive_minimum = 0.0)]
    pub clip_norm: Option<f64>,
    /// Every number of the gradient is held between this and its negative, before `clip_norm` looks at it. No limit when it is
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0.0)]
    pub clip_value: Option<f64>,
    /// Penalty on the weights of all layers: this many nats for each unit of their absolute values.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub weight_l1: f64,
    /// Penalty on the weights of all layers: this many nats for each unit of their squares.
    #[schema(minimum = 0.0, maximum = 1000.0)]
    pub weight_l2: f64,
    /// Whether values from 0 to 1 are made 0 or 1 before a model sees them.
    pub binarize: Binarize,
    /// Training of one layer after the other, before all are trained together. None when it is left out.
    pub pretraining: Option<PretrainingSpec>,
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
            max_steps: None,
            batch_size: None,
            accumulate: 1,
            optimizer: OptimizerSpec::default(),
            ema: None,
            precision: Precision::default(),
            clip_norm: None,
            clip_value: None,
            weight_l1: 0.0,
            weight_l2: 0.0,
            binarize: Binarize::Off,
            pretraining: None,
            early_stopping: EarlyStoppingSpec::default(),
            seed: 0,
            device: DeviceSpec::default(),
        }
    }
}

fn is_one(batches: &u32) -> bool {
    *batches == 1
}

/// How the matrix products of fully connected layers are taken in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// In 32 bits.
    #[default]
    F32,
    /// In bfloat16, with sums in 32 bits; faster where the processor or the GPU has instructions for it.
    Bf16,
    /// All matrix products and convolutions of a GPU from numbers with 10 bits behind the point (TensorFloat-32), with sums in 32 bits. On the CPU
    /// the same as `f32`.
    Tf32,
}

impl Precision {
    fn is_full(&self) -> bool {
        *self == Self::F32
    }
}

/// Whether values from 0 to 1 are made 0 or 1 before a model sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Binarize {
    /// They stay as they are.
    #[default]
    Off,
    /// Each is 1 with a probability of its value, drawn anew at each step (Salakhutdinov and Murray, 2008). The draws of
    /// validation and test rows are always the same.
    Dynamic,
    /// 1 from 0.5 on.
    Threshold,
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
            init_from: None,
            network: NetworkSpec::default(),
            likelihood: LikelihoodSpec::default(),
            target: LikelihoodSpec::default(),
            scaling: ScalingSpec::default(),
            sampler: SamplerSpec::default(),
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
        if let Some(steps) = training.max_steps {
            faults.require_within("/training/max_steps", steps, 1..=u64::from(u32::MAX));
        }
        faults.require_within("/training/accumulate", training.accumulate, 1..=ACCUMULATED);
        if let Some(share) = training.ema {
            faults.require_within("/training/ema", share, f64::MIN_POSITIVE..=1.0 - f64::EPSILON);
        }
        let network = &self.network;
        let plain = network.kind == NetworkKind::Mlp
            && network.norm == Norm::None
            && network.dropout == 0.0
            && !network.residual
            && !network.tied;
        if training.precision == Precision::Bf16 && !plain {
            let detail = "goes with an mlp without norm, dropout, residual blocks and tied weights";
            faults.push("/training/precision", "conflict", detail);
        }
        if let Some(norm) = training.clip_norm {
            faults.require_within("/training/clip_norm", norm, f64::MIN_POSITIVE..=1e12);
        }
        if let Some(value) = training.clip_value {
            faults.require_within("/training/clip_value", value, f64::MIN_POSITIVE..=1e12);
        }
        training.optimizer.check(faults);
        training.early_stopping.check(faults);
        faults.require_within("/evaluation/importance_samples", self.evaluation.importance_samples, 0..=10_000);
        faults.require_within("/training/weight_l1", training.weight_l1, 0.0..=1000.0);
        faults.require_within("/training/weight_l2", training.weight_l2, 0.0..=1000.0);
        if let Some(pretraining) = &training.pretraining {
            pretraining.check(faults);
            if self.init_from.is_some() {
                faults.push(
                    "/training/pretraining",
                    "conflict",
                    "is for first weights; with init_from there are weights already",
                );
            }
            if self.network.kind != NetworkKind::Mlp {
                faults.push(
                    "/training/pretraining",
                    "conflict",
                    "goes layer by layer through an mlp; this network is conv",
                );
            }
        }
        self.sampler.check(faults);
        likelihoods::check(&self.likelihood, "/likelihood", faults);
        likelihoods::check(&self.target, "/target", faults);
        let leaves = match self.scaling {
            ScalingSpec::Standard => Some("standard"),
            ScalingSpec::Robust => Some("robust"),
            ScalingSpec::Quantile => Some("quantile"),
            ScalingSpec::Auto | ScalingSpec::None | ScalingSpec::Minmax => None,
        };
        if let Some(leaves) = leaves.filter(|_| self.likelihood.kind.is_unit()) {
            let detail = format!(
                "is `{leaves}`, which leaves the range 0 to 1 that a {} likelihood needs; allowed are auto, minmax, none",
                self.likelihood.kind.as_str()
            );
            faults.push("/scaling", "conflict", detail);
        }
    }

    /// Checks the spec against the dataset and replaces every `auto`.
    ///
    /// # Errors
    /// A refusal with every fault, those of [`TrainSpec::check`] included.
    pub fn resolve(&self, schema: &Schema, rows: u64) -> Result<Self, Refusal> {
        let mut faults = Faults::new();
        self.find_faults(&mut faults);
        self.split.check(rows, schema, &mut faults);
        if rows < 2 {
            faults.push("/dataset", "too_few_rows", format!("has {rows} row; training needs at least 2"));
        }
        self.network.check_shape(schema.image, &mut faults);
        if self.model.labels() == Labels::Required && schema.labels().is_empty() {
            let detail =
                format!("has no label column, and {} learns to tell one; upload with `label`", self.model.family());
            faults.push("/dataset", "no_label", detail);
        }
        let mut spec = self.clone();
        spec.settle(schema, rows);
        likelihoods::check_columns(&spec, schema, &mut faults);
        if faults.is_empty() {
            let sketch = artifact::sketch(&spec, schema);
            if sketch.parameters > PARAMETERS {
                let detail = format!(
                    "makes a network of {} parameters for {} columns; allowed are up to {PARAMETERS}",
                    sketch.parameters,
                    schema.features().len()
                );
                faults.push("/network/hidden", "too_large", detail);
            }
            if spec.training.pretraining.is_some() && !sketch.has_stack {
                let detail = format!(
                    "goes layer by layer through an encoder and its decoder, which {} has not",
                    self.model.family()
                );
                faults.push("/training/pretraining", "conflict", detail);
            }
        }
        faults.into_result(Code::InvalidRequest)?;
        refuse_empty_columns(schema, rows)?;
        Ok(spec)
    }

    fn settle(&mut self, schema: &Schema, rows: u64) {
        self.name = self.name.take().map(|name| name.trim().to_owned());
        self.network.settle(schema.features().len());
        likelihoods::settle(self, schema);
        self.training.optimizer.settle();
        if self.scaling == ScalingSpec::Auto {
            let unit = self.likelihood.kind.is_unit() || schema.image.is_some();
            self.scaling = if unit { ScalingSpec::Minmax } else { ScalingSpec::Standard };
        }
        let batch = self.training.batch_size.get_or_insert_with(|| {
            // About twenty steps an epoch, in powers of two, as far as that leaves batches of a usual size.
            let wanted = (rows / 20).clamp(8, 256);
            1 << wanted.ilog2()
        });
        *batch = (*batch).min(rows.try_into().unwrap_or(u32::MAX));
    }

    /// Whether the family of this job learns from the labels of `schema`.
    pub fn learns_labels(&self, schema: &Schema) -> bool {
        self.model.labels() != Labels::Unused && !schema.labels().is_empty()
    }

    /// Epochs of layer-wise training, before those that train all layers.
    pub fn pretraining_epochs(&self) -> u32 {
        let layers = self.network.hidden.as_ref().map_or(0, Vec::len) as u32 + 1;
        self.training.pretraining.as_ref().map_or(0, |pretraining| pretraining.epochs * layers)
    }

    /// Epochs in all.
    pub fn epochs(&self) -> u32 {
        self.pretraining_epochs() + self.training.epochs
    }

    /// How many of the available threads one operation should use. The spec decides, not the load, so that the same job gives
    /// the same bytes whatever else runs.
    ///
    /// Below ten million multiplications a step, waking a second thread takes longer than it saves.
    pub fn threads(&self, schema: &Schema, available: u32) -> u32 {
        const WORTH_SHARING: u64 = 10_000_000;
        let batch = u64::from(self.training.batch_size.unwrap_or(1));
        let sketch = artifact::sketch(self, schema);
        // A convolution multiplies each of its weights many times for one row.
        let conv = self.network.kind == NetworkKind::Conv;
        if !conv && sketch.parameters.saturating_mul(batch) < WORTH_SHARING { 1 } else { available }
    }
}

/// Gaps are trained around, but a column that has no value at all says nothing, and would be restored as anything.
fn refuse_empty_columns(schema: &Schema, rows: u64) -> Result<(), Refusal> {
    let mut faults = Faults::new();
    for column in schema.feature_columns() {
        if column.profile.as_ref().is_some_and(|profile| profile.missing >= rows) {
            let detail = format!("has no value in the column `{}`; upload with the column in `ignore`", column.name);
            faults.push("/dataset", "missing_values", detail);
        }
    }
    faults.into_result(Code::MissingValues)
}
