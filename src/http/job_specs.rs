//! What a new job is to do: train, or ask a model about a dataset. The field `kind` of the body says which.

use axum::extract::{FromRequest, Request};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::App;
use super::error::ApiError;
use super::extract::{Lenient, lenient};
use crate::domain::job::RunOptions;
use crate::domain::reference::ModelRef;
use crate::domain::refusal::{Code, Refusal};
use crate::store::StoreError;
use crate::store::jobs::{Job, unknown_dataset};
use crate::training::inference::{Asked, InferenceSpec};
use crate::training::spec::TrainSpec;

/// What a job does.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum JobSpec {
    /// It trains a model. `"kind": "training"` may be added.
    Training(Box<TrainSpec>),
    /// It asks a model about every row of a dataset.
    Inference(Box<InferenceSpec>),
}

impl JobSpec {
    /// What a job of the queue does.
    pub fn of(job: &Job) -> Self {
        match &job.inference {
            Some(asked) => Self::Inference(Box::new(asked.clone())),
            None => Self::Training(Box::new(job.spec.clone())),
        }
    }
}

/// The body that asks for a job.
pub enum JobBody {
    /// To train.
    Training(Box<Lenient<TrainSpec>>),
    /// To ask a model.
    Inference(Box<Lenient<InferenceSpec>>),
}

impl<S: Send + Sync> FromRequest<S> for JobBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let mut json = Lenient::<Value>::from_request(request, state).await?.value.unwrap_or_default();
        let kind = json.get("kind").cloned();
        match kind.as_ref().map(Value::as_str) {
            None => Ok(Self::Training(Box::new(lenient(json)))),
            Some(Some("training")) => {
                json.as_object_mut().map(|fields| fields.remove("kind"));
                Ok(Self::Training(Box::new(lenient(json))))
            }
            Some(Some("inference")) => Ok(Self::Inference(Box::new(lenient(json)))),
            Some(_) => {
                let detail = "is neither training nor inference";
                Err(Refusal::at(Code::InvalidRequest, "/kind", "unknown_value", detail).into())
            }
        }
    }
}

/// Queues a job that asks a model.
pub async fn ask(
    app: &App,
    body: Lenient<InferenceSpec>,
    priority: i32,
    options: RunOptions,
    key: Option<String>,
) -> Result<Job, ApiError> {
    let mut faults = body.faults;
    if let (Some(spec), false) = (&body.value, faults.is_empty()) {
        spec.find_faults(&mut faults);
    }
    faults.into_result(Code::InvalidRequest)?;
    let mut spec = body.value.expect("a body without faults was read");
    spec.name = spec.name.map(|name| name.trim().to_owned());
    let absent = |error: StoreError| match error {
        StoreError::Refused(Refusal { code: Code::NotFound, detail, .. }) => {
            Refusal::at(Code::InvalidRequest, "/model", "not_found", detail).into()
        }
        other => ApiError::from(other),
    };
    let id = app.store.find_model(&spec.model).await.map_err(absent)?;
    let model = app.store.model(id).await.map_err(absent)?;
    let dataset = app.store.dataset(spec.dataset).await.map_err(|error| match error {
        StoreError::Refused(Refusal { code: Code::NotFound, .. }) => unknown_dataset(spec.dataset).into(),
        other => ApiError::from(other),
    })?;
    // An alias may move while the job waits.
    spec.model = ModelRef::Id(id);
    let answers = spec.check(Asked { spec: &model.spec, schema: &model.schema }, &dataset.schema)?;
    let bytes = dataset.rows.saturating_mul(answers.columns.len() as u64 * size_of::<f32>() as u64);
    if bytes > app.config.dataset_bytes {
        let most = app.config.dataset_bytes;
        let detail = format!("makes a dataset of {bytes} bytes; this server allows {most}");
        return Err(Refusal::at(Code::TooLarge, "/dataset", "too_large", detail).into());
    }
    Ok(app.jobs.ask(&spec, &model, priority, options, key.as_deref()).await?)
}
