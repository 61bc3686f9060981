//! The card of a model: what it was made of, how, how good it is, and what to ask it. For people, as JSON, Markdown or HTML.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::card_text;
use super::error::{ApiError, Problem, internal};
use super::extract::{Id, Query};
use super::inference::ModelInPath;
use super::media::accepted;
use super::models::ModelView;
use crate::data::dataset::{Kind, Role};
use crate::domain::id::{DatasetId, JobId, ModelId};
use crate::domain::job::StopReason;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::shape::ImageShape;
use crate::models::{Labels, families};
use crate::store::models::Model;
use crate::training::artifact::ModelHeader;
use crate::training::bundle::Bundle;
use crate::training::scoring::{Calibration, Measure};
use crate::training::spec::TrainSpec;

/// What is known of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardView {
    /// Its id.
    pub id: ModelId,
    /// Its name in the registry; the name of its job, or its family, where it has none there.
    pub name: String,
    /// Which model of its name it is; `null` where it is not in the registry.
    pub version: Option<u32>,
    /// The aliases of its name that point to it.
    pub aliases: Vec<String>,
    /// When it was made here (RFC 3339).
    pub created_at: String,
    /// What kind of model it is.
    pub family: CardFamilyView,
    /// What it was trained on.
    pub data: CardDataView,
    /// The spec it was trained by, with what the data decided.
    pub spec: TrainSpec,
    /// How its training went; `null` where it was imported.
    pub training: Option<CardTrainingView>,
    /// Figures by what they are of: `train`, `validation`, `test` and others.
    pub figures: BTreeMap<String, BTreeMap<String, f64>>,
    /// How strange ordinary rows are to it; `null` where that is not known.
    pub calibration: Option<CardCalibrationView>,
    /// What it can be asked.
    pub questions: Vec<CardQuestionView>,
    /// Where it comes from.
    pub lineage: CardLineageView,
    /// Its file.
    pub artifact: CardArtifactView,
}

/// The family of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardFamilyView {
    /// Its name.
    pub family: &'static str,
    /// What it is, in a sentence.
    pub summary: &'static str,
    /// What it minimises.
    pub formula: &'static str,
    /// Where it is described.
    pub paper: &'static str,
    /// Width of the code.
    pub latent: u32,
    /// How many numbers were trained; `null` where that was not recorded.
    pub parameters: Option<u64>,
}

/// What a model was trained on.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardDataView {
    /// The name of the dataset; `null` where the model was imported.
    pub dataset: Option<String>,
    /// How many rows it has.
    pub rows: Option<u64>,
    /// How many of them trained, validated and tested.
    pub split: Option<CardSplitView>,
    /// The image that the feature columns are the pixels of.
    pub image: Option<ImageShape>,
    /// The columns it takes and the labels it learned, in their order.
    pub columns: Vec<CardColumnView>,
}

/// How many rows each part has.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardSplitView {
    /// Rows that train.
    pub train: u64,
    /// Rows that pick the best epoch.
    pub validation: u64,
    /// Rows that are measured once, at the end.
    pub test: u64,
}

/// A column of the data.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardColumnView {
    /// Its name.
    pub name: String,
    /// What its values look like.
    pub kind: Kind,
    /// What it is for.
    pub role: Role,
    /// The share of rows that have no value here; `null` where the number of rows is not known.
    pub missing: Option<f64>,
    /// Smallest and largest value; `null` for texts.
    pub range: Option<[f64; 2]>,
    /// How many levels a category has.
    pub levels: Option<usize>,
}

/// How a training went.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardTrainingView {
    /// Epochs that were done.
    pub epochs: Option<u32>,
    /// Epochs that were asked for.
    pub epochs_asked: u32,
    /// Why it ended.
    pub stop_reason: Option<StopReason>,
    /// Seconds from its beginning to its end, pauses included.
    pub seconds: Option<f64>,
    /// What everything random depended on.
    pub seed: u64,
    /// `cpu` or `cuda`.
    pub device: Option<String>,
    /// How often it was begun.
    pub attempts: i64,
    /// When it ended (RFC 3339).
    pub finished_at: Option<String>,
}

/// How strange ordinary rows are to a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardCalibrationView {
    /// How many rows were looked at.
    pub rows: u32,
    /// Whether training did not see them.
    pub held_out: bool,
    /// -log p(x given its code) that half of them, 95 and 99 of a hundred lie below, in nats.
    pub reconstruction: Vec<f32>,
    /// The same of -log p(x), of families that have a density.
    pub log_likelihood: Option<Vec<f32>>,
}

/// A question to a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardQuestionView {
    /// The last part of its address.
    pub question: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// A line for a terminal, in which `$LATENTE` is the address of the server.
    pub curl: String,
}

/// Where a model comes from.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardLineageView {
    /// The job that made it; `null` where it was imported.
    pub job_id: Option<JobId>,
    /// The job that this one tried again.
    pub parent_job_id: Option<JobId>,
    /// The dataset.
    pub dataset_id: Option<DatasetId>,
    /// The version of the dataset: 1, and one more each time rows were added.
    pub dataset_version: Option<u32>,
    /// The dataset that rows were added to.
    pub dataset_parent_id: Option<DatasetId>,
    /// Whether the dataset was deleted since.
    pub dataset_deleted: Option<bool>,
    /// SHA-256 of the file that the dataset came from.
    pub dataset_sha256: Option<String>,
}

/// The file of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardArtifactView {
    /// Its format.
    pub format: &'static str,
    /// Bytes of it.
    pub bytes: u64,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
    /// Where it is downloaded.
    pub path: String,
}

/// The form of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CardForm {
    /// `application/json`.
    Json,
    /// `text/markdown`.
    Markdown,
    /// `text/html`.
    Html,
}

impl CardForm {
    fn wanted(asked: Option<Self>, headers: &HeaderMap) -> Result<Self, Refusal> {
        let offered: [(Self, &[&str]); 3] =
            [(Self::Json, &["application/json"]), (Self::Markdown, &["text/markdown"]), (Self::Html, &["text/html"])];
        let known = || accepted(headers, offered.into_iter());
        let detail = "cards are given as application/json, text/markdown and text/html";
        asked.or_else(known).ok_or_else(|| Refusal::new(Code::NotAcceptable, detail))
    }
}

/// The form of the answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CardQuery {
    /// `json`, `markdown` or `html`; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<CardForm>,
}

/// The card of a model: its data, spec, training, figures, what to ask it, and where it comes from.
#[utoipa::path(
    get, path = "/v1/models/{id}/card", tag = "models", params(ModelInPath, CardQuery),
    responses(
        (status = 200, description = "The card", content((CardView = "application/json"), (String = "text/markdown"), (String = "text/html"))),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn get_card(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<CardQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = CardForm::wanted(query.format, &headers)?;
    let card = CardView::of(&app, id).await?;
    let typed = |kind: &'static str, text: String| {
        (
            [
                (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
                (header::VARY, HeaderValue::from_static("accept")),
            ],
            text,
        )
            .into_response()
    };
    Ok(match form {
        CardForm::Json => Json(card).into_response(),
        CardForm::Markdown => typed("text/markdown; charset=utf-8", card_text::markdown(&card)),
        CardForm::Html => typed("text/html; charset=utf-8", card_text::html(&card)),
    })
}

impl CardView {
    async fn of(app: &App, id: ModelId) -> Result<Self, ApiError> {
        let store = &app.store;
        let model = store.model(id).await?;
        let ModelView { name, version, aliases, .. } = ModelView::of(app, &model).await?;
        let (bytes, sha256) = store.artifact_facts(model.artifact_id).await?;
        let calibration = header(app, &model).await?.calibration;
        let (mut lineage, mut training, mut split, mut parameters) = (CardLineageView::none(), None, None, None);
        if let Some(job) = model.job_id {
            split = store.split_counts(job).await?.map(|counts| {
                let (train, validation, test) = (counts.train, counts.validation, counts.test);
                CardSplitView { train, validation, test }
            });
            let started = store.first_event(job, "started").await?.map(|event| event.data).unwrap_or_default();
            let job = store.job(job).await?;
            (lineage.job_id, lineage.parent_job_id) = (Some(job.id), job.parent_job_id);
            parameters = started["parameters"].as_u64();
            training = Some(CardTrainingView {
                epochs: job.progress.as_ref().map(|progress| progress.epoch),
                epochs_asked: model.spec.epochs(),
                stop_reason: job.stop_reason,
                seconds: job.started_at.zip(job.finished_at).map(|(start, end)| (end - start) as f64 / 1000.0),
                seed: model.spec.training.seed,
                device: started["device"].as_str().map(str::to_owned),
                attempts: job.attempt,
                finished_at: job.finished_at.map(super::time),
            });
        }
        let mut dataset_name = None;
        let mut rows = None;
        if let Some(dataset) = model.dataset_id {
            let (dataset, is_deleted) = store.dataset_that_was(dataset).await?;
            (dataset_name, rows) = (Some(dataset.name), Some(dataset.rows));
            lineage.dataset_id = Some(dataset.id);
            lineage.dataset_version = Some(dataset.version);
            lineage.dataset_parent_id = dataset.parent;
            lineage.dataset_deleted = Some(is_deleted);
            lineage.dataset_sha256 = dataset.sha256;
        }
        let family = model.spec.model.family();
        let known = families().into_iter().find(|known| known.family == family);
        let known = known.ok_or_else(|| internal(&format_args!("the family {family} is not known")))?;
        let reference = version.map_or_else(|| id.to_string(), |version| format!("{name}:{version}"));
        Ok(Self {
            id,
            questions: questions(&model, &reference),
            name,
            version,
            aliases,
            created_at: super::time(model.created_at),
            family: CardFamilyView {
                family,
                summary: known.summary,
                formula: known.formula,
                paper: known.paper,
                latent: model.spec.model.latent(),
                parameters,
            },
            data: CardDataView {
                dataset: dataset_name,
                rows,
                split,
                image: model.schema.image,
                columns: columns(&model, rows),
            },
            spec: model.spec.clone(),
            training,
            figures: figures(&model.metrics),
            calibration: calibration.as_ref().map(CardCalibrationView::from),
            lineage,
            artifact: CardArtifactView {
                format: "safetensors",
                bytes,
                sha256,
                path: format!("/v1/models/{id}/artifacts/safetensors"),
            },
        })
    }
}

impl CardLineageView {
    fn none() -> Self {
        Self {
            job_id: None,
            parent_job_id: None,
            dataset_id: None,
            dataset_version: None,
            dataset_parent_id: None,
            dataset_deleted: None,
            dataset_sha256: None,
        }
    }
}

impl From<&Calibration> for CardCalibrationView {
    fn from(known: &Calibration) -> Self {
        let at =
            |measure| [0.5, 0.95, 0.99].iter().map(|share| known.value(measure, *share)).collect::<Option<Vec<_>>>();
        Self {
            rows: known.rows,
            held_out: known.held_out,
            reconstruction: at(Measure::Reconstruction).unwrap_or_default(),
            log_likelihood: at(Measure::LogLikelihood),
        }
    }
}

/// What the model's file says of itself, without its weights.
async fn header(app: &App, model: &Model) -> Result<ModelHeader, ApiError> {
    let first = app.store.artifact_start(model.artifact_id, size_of::<u64>()).await?;
    let length = Bundle::start_bytes(&first).map_err(|error| internal(&error))?;
    let start = if length > first.len() { app.store.artifact_start(model.artifact_id, length).await? } else { first };
    let read = tokio::task::spawn_blocking(move || ModelHeader::read(&start));
    read.await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))
}

fn columns(model: &Model, rows: Option<u64>) -> Vec<CardColumnView> {
    let labels = model.schema.label_columns().filter(|_| model.spec.learns_labels(&model.schema));
    let shown = model.schema.feature_columns().chain(labels).map(|column| {
        let profile = column.profile.as_ref();
        let range = profile.filter(|_| column.levels.is_empty());
        CardColumnView {
            name: column.name.clone(),
            kind: column.kind,
            role: column.role,
            missing: profile
                .zip(rows.filter(|rows| *rows > 0))
                .map(|(profile, rows)| profile.missing as f64 / rows as f64),
            range: range.and_then(|profile| Some([profile.minimum?, profile.maximum?])),
            levels: Some(column.levels.len()).filter(|count| *count > 0),
        }
    });
    shown.collect()
}

/// By the part of the rows they are of: `validation/loss` is `loss` of `validation`.
fn figures(metrics: &BTreeMap<String, f64>) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut figures: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for (name, value) in metrics {
        let (part, name) = name.split_once('/').unwrap_or(("model", name));
        figures.entry(part.to_owned()).or_default().insert(name.to_owned(), *value);
    }
    figures
}

fn questions(model: &Model, reference: &str) -> Vec<CardQuestionView> {
    let dataset = model.dataset_id.map_or("$DATASET".to_owned(), |id| id.to_string());
    let rows = format!("dataset={dataset}&rows=0-9");
    let zeros = vec!["0"; model.spec.model.latent() as usize].join(",");
    let all = [
        ("encode", "The code of each row: fewer numbers that say what the row is.", rows.clone()),
        ("decode", "The row that a code stands for.", format!("x={zeros}")),
        ("reconstruct", "Rows through the code and back, and how much that loses.", rows.clone()),
        ("sample", "New rows like those it was trained on.", "n=10&seed=7".to_owned()),
        ("impute", "Rows whose missing values are filled in.", rows.clone()),
        ("score", "How strange each row is, and what share of ordinary rows is less strange.", rows.clone()),
        ("interpolate", "The way from one row to another through the code.", format!("dataset={dataset}&rows=0-1")),
        ("predict", "The labels of rows, and how sure it is of them.", rows),
    ];
    let learns = model.spec.model.labels() != Labels::Unused && model.spec.learns_labels(&model.schema);
    let asked = all.into_iter().filter(|(question, ..)| *question != "predict" || learns);
    asked
        .map(|(question, purpose, query)| CardQuestionView {
            question,
            purpose,
            curl: format!("curl -s \"$LATENTE/v1/models/{reference}/{question}?{query}\""),
        })
        .collect()
}
