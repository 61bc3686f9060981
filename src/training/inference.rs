//! A whole dataset through a model: what may be asked of all its rows, the columns of the answer, and the answer block by block.
//!
//! The answer to a block depends on the model, its rows and its place alone, so that work which was cut off between two blocks
//! goes on there and gives the same bytes. Start reading with [`InferenceSpec`] and [`Answering`].

use serde::{Deserialize, Serialize};
use tch::Device;
use utoipa::ToSchema;

use super::artifact::TrainedModel;
use super::bundle::BundleError;
use super::scored::Scored;
use super::scoring::{Measure, SCORE_SAMPLES};
use super::spec::{DeviceSpec, TrainSpec};
use crate::data::computed::{column, column_like};
use crate::data::dataset::{Column, Role, Schema};
use crate::data::recode::Recode;
use crate::domain::id::DatasetId;
use crate::domain::limits::{COLUMNS, INFERENCE_BATCH_ROWS, INFERENCE_BLOCK_VALUES};
use crate::domain::name;
use crate::domain::reference::ModelRef;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::domain::shape::ImageShape;

/// Rows whose densities are estimated at once.
const SCORED_ROWS: usize = 256;
/// Rounds of `impute` where nothing is said.
const ROUNDS: u32 = 20;
/// The share of ordinary rows that are less strange than an anomaly, where nothing is said.
const THRESHOLD: f32 = 0.99;

/// What kind of job a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// It trains a model.
    #[default]
    Training,
    /// It asks a model about every row of a dataset, and makes a dataset of the answers.
    Inference,
}

/// What is asked about every row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchQuestion {
    /// The code of a row: the columns `z0`, `z1`, …, and with `spread` `z0_spread`, ….
    Encode,
    /// The row through the code and back: the columns of the model, and `error`.
    Reconstruct,
    /// How strange a row is: `score`, `anomaly`, `is_anomaly`, `reconstruction`, `error`, and of families with a density
    /// `log_likelihood`, `elbo`, `standard_error`, `effective_samples`.
    Score,
    /// The row with its missing values filled in: the columns of the model.
    Impute,
    /// The labels of a row, each with its `…_spread`.
    Predict,
}

impl BatchQuestion {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Reconstruct => "reconstruct",
            Self::Score => "score",
            Self::Impute => "impute",
            Self::Predict => "predict",
        }
    }
}

/// A job that asks a model about every row of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InferenceSpec {
    /// `inference`.
    pub kind: JobKind,
    /// A name for the job and the dataset it makes.
    #[serde(default)]
    pub name: Option<String>,
    /// The model: its id, `name`, `name:3` or `name@alias`. What a name or an alias means is settled when the job is posted.
    #[schema(value_type = String)]
    pub model: ModelRef,
    /// The dataset, which has the columns of the model in any order, and may have others.
    pub dataset: DatasetId,
    /// What is asked about every row.
    pub question: BatchQuestion,
    /// Columns of the dataset that stand beside the answers as they are, after them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
    /// With `encode`: whether the standard deviation of each number of the code is given too, where the encoder is stochastic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<bool>,
    /// With `impute`: steps of the Markov chain, for families that have one; else how often rows go through the code and back. 20
    /// when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub rounds: Option<u32>,
    /// With `score`: what `score` and `anomaly` go by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
    /// With `score`: importance samples for log p(x) of each row. 64 for families that have a density when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 10000)]
    pub samples: Option<u32>,
    /// With `score`: rows that are stranger than this share of ordinary rows are anomalies. 0.99 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub threshold: Option<f32>,
    /// With `score` and `impute`: which draws.
    #[serde(default)]
    pub seed: u64,
    /// Where to compute: the CPU when left out, as all other inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSpec>,
}

/// The model that is asked, as it is known without its weights.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The spec it was trained by.
    pub spec: &'a TrainSpec,
    /// The columns it takes and the labels it learned.
    pub schema: &'a Schema,
}

/// The columns of an answer, and the image they make.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// In the order of the values.
    pub columns: Vec<Column>,
    /// The image that the features are the pixels of.
    pub image: Option<ImageShape>,
}

impl InferenceSpec {
    /// Where it computes.
    pub fn device(&self) -> DeviceSpec {
        self.device.unwrap_or(DeviceSpec::Cpu)
    }

    /// Draws for the density of each row; 0 for none.
    pub fn samples(&self, model: &TrainSpec) -> u32 {
        let usual = if model.model.has_density() { SCORE_SAMPLES } else { 0 };
        if self.question == BatchQuestion::Score { self.samples.unwrap_or(usual) } else { 0 }
    }

    /// Reports what is at fault whatever the model and the dataset are.
    pub fn find_faults(&self, faults: &mut Faults) {
        if self.kind != JobKind::Inference {
            faults.push("/kind", "unknown_value", "is training; a job that asks a model is of the kind inference");
        }
        if let Some(Err(fault)) = self.name.as_deref().map(name::checked) {
            faults.push("/name", "invalid_name", fault);
        }
        let question = self.question.as_str();
        let mut only = |field: &str, is_given: bool, allowed: &[BatchQuestion]| {
            if is_given && !allowed.contains(&self.question) {
                let names: Vec<&str> = allowed.iter().map(|question| question.as_str()).collect();
                let detail = format!("goes with {}; the question is {question}", names.join(" and "));
                faults.push(format!("/{field}"), "conflict", detail);
            }
        };
        only("spread", self.spread.is_some(), &[BatchQuestion::Encode]);
        only("rounds", self.rounds.is_some(), &[BatchQuestion::Impute]);
        only("measure", self.measure.is_some(), &[BatchQuestion::Score]);
        only("samples", self.samples.is_some(), &[BatchQuestion::Score]);
        only("threshold", self.threshold.is_some(), &[BatchQuestion::Score]);
        only("seed", self.seed != 0, &[BatchQuestion::Score, BatchQuestion::Impute]);
        if let Some(rounds) = self.rounds {
            faults.require_within("/rounds", rounds, 1..=1000);
        }
        if let Some(samples) = self.samples {
            faults.require_within("/samples", samples, 0..=10_000);
        }
        if let Some(threshold) = self.threshold.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            faults.push("/threshold", "out_of_range", format!("is {threshold}; allowed is a share between 0 and 1"));
        }
    }

    /// Checks what is asked of a model and a dataset of so many rows. Answers how wide the answer is.
    ///
    /// # Errors
    /// A refusal with every fault.
    pub fn check(&self, model: Asked<'_>, dataset: &Schema) -> Result<Answers, Refusal> {
        let mut faults = Faults::new();
        self.find_faults(&mut faults);
        if self.question == BatchQuestion::Predict && !model.spec.learns_labels(model.schema) {
            faults.push("/question", "not_available", "is predict, and this model learned no labels");
        }
        let family = model.spec.model.family();
        let has_density = model.spec.model.has_density();
        if self.samples.is_some_and(|samples| samples > 0) && !has_density {
            faults.push(
                "/samples",
                "not_available",
                format!("goes with a family that has a density; {family} has none"),
            );
        }
        if self.measure == Some(Measure::LogLikelihood) {
            if !has_density {
                faults.push(
                    "/measure",
                    "not_available",
                    format!("goes with a family that has a density; {family} has none"),
                );
            } else if self.samples == Some(0) {
                faults.push("/samples", "conflict", "is 0; judging by log_likelihood takes at least one");
            }
        }
        for ours in model.schema.feature_columns() {
            let name = &ours.name;
            match dataset.kept().find(|theirs| theirs.name == *name) {
                None => {
                    faults.push("/dataset", "missing_column", format!("has no column `{name}`, which the model takes"))
                }
                Some(theirs) if theirs.levels.is_empty() != ours.levels.is_empty() => {
                    let (theirs, ours) =
                        if ours.levels.is_empty() { ("texts", "numbers") } else { ("numbers", "texts") };
                    faults.push(
                        "/dataset",
                        "wrong_kind",
                        format!("has {theirs} in `{name}`, where the model has {ours}"),
                    );
                }
                Some(theirs)
                    if !self.takes_gaps(model.schema)
                        && theirs.profile.as_ref().is_some_and(|profile| profile.missing > 0) =>
                {
                    let detail = format!(
                        "has rows without a value in `{name}`; this model was trained on rows without gaps, and only impute fills them"
                    );
                    faults.push("/dataset", "missing_value", detail);
                }
                Some(_) => {}
            }
            if faults.is_full() {
                break;
            }
        }
        let mut answers = self.columns(model);
        for (position, name) in self.keep.iter().enumerate() {
            let pointer = format!("/keep/{position}");
            match dataset.kept().find(|theirs| theirs.name == *name) {
                None => faults.push(pointer, "unknown_column", format!("is `{name}`, which the dataset does not have")),
                Some(_) if answers.columns.iter().any(|column| column.name == *name) => {
                    faults.push(pointer, "conflict", format!("is `{name}`, and a column of the answer is called so"));
                }
                // A feature that is kept would make another image, and be fed to whatever is trained on the answers.
                Some(theirs) => {
                    let role = if theirs.role == Role::Feature { Role::Ignore } else { theirs.role };
                    answers.columns.push(column_like(theirs, role, None));
                }
            }
        }
        if answers.columns.len() > COLUMNS {
            let detail = format!("makes {} columns; allowed are up to {COLUMNS}", answers.columns.len());
            faults.push("/question", "too_large", detail);
        }
        faults.into_result(Code::InvalidRequest)?;
        Ok(answers)
    }

    fn takes_gaps(&self, model: &Schema) -> bool {
        self.question == BatchQuestion::Impute || model.has_gaps()
    }

    /// The columns of the answer itself.
    fn columns(&self, Asked { spec, schema }: Asked<'_>) -> Answers {
        let feature = |name: String, reason: &str| column(name, Role::Feature, reason);
        let own = || -> Vec<Column> {
            schema.feature_columns().map(|column| column_like(column, Role::Feature, None)).collect()
        };
        let codes = |end: &str, reason: &str| -> Vec<Column> {
            (0..spec.model.latent()).map(|unit| feature(format!("z{unit}{end}"), reason)).collect()
        };
        let columns = match self.question {
            BatchQuestion::Encode => {
                let mut columns = codes("", "a number of the code");
                if self.spread == Some(true) {
                    columns.extend(codes("_spread", "how uncertain a number of the code is"));
                }
                columns
            }
            BatchQuestion::Reconstruct => {
                let mut columns = own();
                let mut name = "error".to_owned();
                while columns.iter().any(|column| column.name == name) {
                    name.push('_');
                }
                columns.push(column(name, Role::Ignore, "the mean squared error of the row, in scaled units"));
                columns
            }
            BatchQuestion::Impute => own(),
            BatchQuestion::Score => {
                let names = [
                    "score",
                    "anomaly",
                    "is_anomaly",
                    "reconstruction",
                    "error",
                    "log_likelihood",
                    "elbo",
                    "standard_error",
                    "effective_samples",
                ];
                let count = Scored::width(self.samples(spec) > 0);
                names.iter().take(count).map(|name| feature((*name).to_owned(), "how strange the row is")).collect()
            }
            BatchQuestion::Predict => {
                let told = schema
                    .label_columns()
                    .map(|label| column_like(label, Role::Feature, Some("told by the model".to_owned())));
                let mut columns: Vec<Column> = told.collect();
                let spread = schema
                    .label_columns()
                    .map(|label| feature(format!("{}_spread", label.name), "how uncertain that is"));
                columns.extend(spread);
                columns
            }
        };
        let has_image = matches!(self.question, BatchQuestion::Reconstruct | BatchQuestion::Impute);
        Answers { columns, image: schema.image.filter(|_| has_image) }
    }
}

/// A model that answers about blocks of rows of one dataset.
pub struct Answering<'a> {
    spec: &'a InferenceSpec,
    model: TrainedModel,
    /// Where each column of the model stands in a row of the dataset, and what its values become.
    features: Vec<(usize, Recode)>,
    /// Where the columns stand that are kept.
    kept: Vec<usize>,
    /// Names of the columns of the model, for whoever reads a refusal.
    names: Vec<String>,
    takes_gaps: bool,
    answers: Answers,
    samples: u32,
    at_once: usize,
}

/// Why a model does not answer about a dataset.
#[derive(Debug, thiserror::Error)]
pub enum AnsweringError {
    /// The request is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] BundleError),
}

impl<'a> Answering<'a> {
    /// Reads a model file.
    ///
    /// # Errors
    /// It cannot be read, or the dataset does not fit it.
    pub fn new(
        spec: &'a InferenceSpec,
        file: &[u8],
        asked: Asked<'_>,
        dataset: &Schema,
        device: Device,
    ) -> Result<Self, AnsweringError> {
        let answers = spec.check(asked, dataset)?;
        let model = TrainedModel::read(file, device)?;
        let positions: std::collections::HashMap<&str, (usize, &Column)> =
            dataset.kept().enumerate().map(|(position, column)| (column.name.as_str(), (position, column))).collect();
        let place = |name: &str| positions.get(name).copied();
        let features = asked.schema.feature_columns().filter_map(|ours| {
            let (position, theirs) = place(&ours.name)?;
            Some((position, Recode::between(theirs, ours)))
        });
        let features: Vec<(usize, Recode)> = features.collect();
        let samples = spec.samples(asked.spec);
        let at_once = rows_at_once(&model, samples);
        Ok(Self {
            spec,
            features,
            kept: spec.keep.iter().filter_map(|name| Some(place(name)?.0)).collect(),
            names: asked.schema.feature_columns().map(|column| column.name.clone()).collect(),
            takes_gaps: spec.takes_gaps(asked.schema),
            answers,
            samples,
            at_once,
            model,
        })
    }

    /// The columns of the answer.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// How many rows make a block. Work goes on between two blocks.
    pub fn block_rows(&self) -> usize {
        self.at_once
    }

    /// Answers about one block: rows of the dataset, the first of which is row `first`. One row of the answer after the other.
    ///
    /// # Errors
    /// A row has no value where the model takes none without.
    pub fn block<'r>(&self, first: u64, rows: impl Iterator<Item = &'r [f32]> + Clone) -> Result<Vec<f32>, Refusal> {
        let width = self.features.len();
        let mut values = Vec::new();
        for row in rows.clone() {
            values.extend(self.features.iter().map(|(position, recode)| recode.apply(row[*position])));
        }
        if let Some(gap) = values.iter().position(|value| value.is_nan()).filter(|_| !self.takes_gaps) {
            let (row, name) = (first + (gap / width) as u64, &self.names[gap % width]);
            let detail = format!(
                "row {row} has no value that the model knows in `{name}`, and this model was trained on rows without gaps"
            );
            return Err(Refusal::at(Code::MissingValues, "/dataset", "missing_value", detail));
        }
        let number = first / self.at_once as u64;
        let count = values.len() / width;
        let (told, beside) = self.answer(&values, number)?;
        let total = self.answers.columns.len();
        let (own, more) = (told.len() / count, beside.as_ref().map_or(0, |beside| beside.len() / count));
        if own + more + self.kept.len() != total {
            return Err(Refusal::new(
                Code::Internal,
                "The model answers with another number of columns than was expected.",
            ));
        }
        let mut answer = Vec::with_capacity(count * total);
        for (index, row) in rows.enumerate() {
            answer.extend_from_slice(&told[index * own..][..own]);
            answer.extend_from_slice(beside.as_ref().map_or(&[][..], |beside| &beside[index * more..][..more]));
            answer.extend(self.kept.iter().map(|position| row[*position]));
        }
        // A dataset has no infinite values; what is not known is missing.
        answer.iter_mut().filter(|value| value.is_infinite()).for_each(|value| *value = f32::NAN);
        Ok(answer)
    }

    /// What the model says of rows, and what stands beside it.
    fn answer(&self, rows: &[f32], number: u64) -> Result<(Vec<f32>, Option<Vec<f32>>), Refusal> {
        let InferenceSpec { seed, rounds, measure, threshold, spread, .. } = self.spec;
        let cannot = |what: &str| Refusal::new(Code::InvalidRequest, format!("the model cannot tell {what}"));
        match self.spec.question {
            BatchQuestion::Encode => {
                let (codes, spreads) = self.model.encode(rows);
                match spread {
                    Some(true) => Ok((
                        codes,
                        Some(spreads.ok_or_else(|| {
                            let detail = "is true, and the encoder of this model is not stochastic";
                            Refusal::at(Code::InvalidRequest, "/spread", "not_available", detail)
                        })?),
                    )),
                    _ => Ok((codes, None)),
                }
            }
            BatchQuestion::Reconstruct => {
                let (rows, errors) = self.model.reconstruct(rows);
                Ok((rows, Some(errors)))
            }
            // The first block has the draws of a question of its own; each other one has its own draws.
            BatchQuestion::Impute => {
                let seed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                Ok((self.model.impute(rows, rounds.unwrap_or(ROUNDS), seed), None))
            }
            BatchQuestion::Score => {
                let (measure, threshold) = (measure.unwrap_or_default(), threshold.unwrap_or(THRESHOLD));
                let scores = self.model.scores(rows, self.samples, (*seed, number), false);
                let scores = scores.ok_or_else(|| cannot("log p(x)"))?;
                Ok((Scored::numbers(&self.model, &scores, measure, threshold), None))
            }
            BatchQuestion::Predict => {
                let (told, spread) = self.model.predict(rows).ok_or_else(|| cannot("labels"))?;
                Ok((told, Some(spread)))
            }
        }
    }
}

/// Rows that go through a model at once: as many as the inference of single questions takes, or fewer where they are wide. What
/// the layers of a network hold of a row, rather than the row alone, decides.
fn rows_at_once(model: &TrainedModel, samples: u32) -> usize {
    let spec = &model.header.spec;
    let hidden = spec.network.hidden.iter().flatten().copied().max().unwrap_or(0) as usize;
    let channels = spec.network.channels.iter().flatten().copied().max().unwrap_or(0) as usize;
    let pixels = model.header.shape.image.map_or(0, |image| image.height as usize * image.width as usize);
    let widest = [model.header.preparation.prepared_width(), hidden, model.latent(), channels.saturating_mul(pixels)];
    let widest = widest.into_iter().max().unwrap_or(1).max(1).saturating_mul(samples.max(1) as usize);
    let usual = if samples > 0 { SCORED_ROWS } else { INFERENCE_BATCH_ROWS };
    (INFERENCE_BLOCK_VALUES / widest).clamp(1, usual)
}
