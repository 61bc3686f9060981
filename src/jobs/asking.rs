//! Jobs of inference, seen from the worker: what the child is given, and what becomes of its answers.

use serde_json::json;

use super::Shared;
use super::messages::{ASKED, Answered, InferenceRequest};
use crate::data::{Format, Ingested};
use crate::domain::reference::ModelRef;
use crate::domain::refusal::{Code, Refusal};
use crate::store::StoreError;
use crate::store::files::Scratch;
use crate::store::jobs::{Job, Lease};

/// Lays the model that a job asks into the directory of its child; `None` for a job that trains.
pub(super) async fn request(
    shared: &Shared,
    job: &Job,
    scratch: &Scratch,
) -> Result<Option<InferenceRequest>, StoreError> {
    let Some(spec) = &job.inference else { return Ok(None) };
    let ModelRef::Id(id) = spec.model else {
        return Err(StoreError::Damaged(format!("the job {} asks a model by name", job.id)));
    };
    let model = shared.store.model(id).await.map_err(|error| match error {
        StoreError::Refused(_) => {
            let detail = format!("the model {id}, which the job asks, was deleted");
            Refusal::at(Code::InvalidRequest, "/model", "not_found", detail).into()
        }
        other => other,
    })?;
    shared.store.artifact_to(model.artifact_id, &scratch.path(ASKED)).await?;
    Ok(Some(InferenceRequest {
        spec: spec.clone(),
        schema: model.schema.clone(),
        result_path: std::path::absolute(shared.store.result_path(job.id))?,
        from_row: job.result_rows,
    }))
}

/// Records that a child begins or goes on.
pub(super) async fn begins(shared: &Shared, lease: &Lease, rows: u64, from_row: u64) -> Result<(), StoreError> {
    let (kind, message) = match from_row {
        0 => ("started", "Inference begins.".to_owned()),
        _ => ("resumed", format!("Goes on after row {from_row}.")),
    };
    let data = json!({"message": message, "attempt": lease.attempt, "rows": rows, "from_row": from_row});
    shared.store.record_event(lease, kind, &data).await
}

/// What a child said of its answers.
pub(super) fn described(file: &[u8]) -> Result<Ingested, StoreError> {
    let Answered { rows, bytes, schema } = serde_json::from_slice(file)
        .map_err(|error| StoreError::Damaged(format!("a description of answers cannot be read: {error}")))?;
    Ok(Ingested { format: Format::Computed, rows, schema, bytes })
}
