//! Aliases of the registry: which version of a name `name@alias` means, and what it meant before.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem};
use super::extract::{Alias, Id, Lenient, Nothing, Query};
use super::lists::page;
use crate::domain::id::ModelId;
use crate::domain::reference::{ModelName, ModelRef};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::store::StoreError;
use crate::store::registry::{Alias as StoredAlias, AliasMove};

/// Where an alias points.
#[derive(Debug, Serialize, ToSchema)]
pub struct AliasView {
    /// The alias.
    pub alias: String,
    /// What it means.
    pub model_id: ModelId,
    /// The version of that model.
    pub version: u32,
    /// Since when it means that (RFC 3339).
    pub since: String,
}

impl From<StoredAlias> for AliasView {
    fn from(alias: StoredAlias) -> Self {
        let StoredAlias { alias, model_id, version, since } = alias;
        Self { alias, model_id, version, since: super::time(since) }
    }
}

/// One move of an alias.
#[derive(Debug, Serialize, ToSchema)]
pub struct AliasMoveView {
    /// Later moves have a larger one.
    pub seq: i64,
    /// The alias.
    pub alias: String,
    /// The version that it meant before; `null` where it was new.
    pub from: Option<u32>,
    /// The version that it meant from then on; `null` where it was removed.
    pub to: Option<u32>,
    /// When (RFC 3339).
    pub at: String,
}

impl From<AliasMove> for AliasMoveView {
    fn from(moved: AliasMove) -> Self {
        let AliasMove { seq, alias, from, to, at } = moved;
        Self { seq, alias, from, to, at: super::time(at) }
    }
}

/// The aliases of a name, and how they moved.
#[derive(Debug, Serialize, ToSchema)]
pub struct AliasesView {
    /// Every alias, in alphabetical order.
    pub data: Vec<AliasView>,
    /// Their moves, the newest first.
    pub history: Vec<AliasMoveView>,
    /// Whether there are older moves; give the last `seq` as `after`.
    pub has_more: bool,
}

/// Which moves are shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AliasesQuery {
    /// How many moves; 20 when left out, at most 100.
    limit: Option<u32>,
    /// The `seq` of the last move of the page before.
    after: Option<i64>,
}

/// What an alias is to mean: one of the two.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AliasTarget {
    /// A version of the name.
    #[schema(minimum = 1)]
    version: Option<u32>,
    /// A model of the name, by id or by another reference to it, such as `fraud@staging`.
    #[schema(value_type = Option<String>)]
    model: Option<ModelRef>,
}

impl AliasTarget {
    fn read(self, name: &ModelName, mut faults: Faults) -> Result<ModelRef, Refusal> {
        let Self { version, model } = self;
        if version.is_some() && model.is_some() {
            faults.push("/model", "conflict", "goes without `version`");
        } else if version.is_none() && model.is_none() && faults.is_empty() {
            faults.push("/version", "missing", "is missing: give a version of the name, or a `model`");
        }
        faults.into_result(Code::InvalidRequest)?;
        Ok(version
            .map_or_else(|| model.expect("one of them is there"), |version| ModelRef::Version(name.clone(), version)))
    }
}

/// Point an alias of a name to one of its versions. Every reference to it means the model before, or this one from then on.
#[utoipa::path(
    put, path = "/v1/models/{id}/aliases/{alias}", tag = "models", request_body = AliasTarget,
    params(("id" = String, Path, description = "A name of the registry"), ("alias" = String, Path, description = "The alias, such as `production`")),
    responses((status = 200, body = AliasView), (status = 201, body = AliasView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn set_alias(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(name): Id<ModelName>,
    Alias(alias): Alias,
    body: Lenient<AliasTarget>,
) -> Result<(StatusCode, Json<AliasView>), ApiError> {
    let target = body.value.unwrap_or_default();
    let pointer = if target.version.is_some() { "/version" } else { "/model" };
    let target = target.read(&name, body.faults)?;
    app.store.find_model(&ModelRef::Newest(name.clone())).await?;
    let (set, is_new) = app.store.set_alias(&name, &alias, &target).await.map_err(|error| match error {
        StoreError::Refused(Refusal { code: Code::NotFound, detail, .. }) => {
            Refusal::at(Code::InvalidRequest, pointer, "not_found", format!("is {target}; {detail}")).into()
        }
        other => other,
    })?;
    tracing::info!(model.id = %set.model_id, "{name}@{alias} is version {} now", set.version);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(AliasView::from(set))))
}

/// Remove an alias. Its model and its history stay.
#[utoipa::path(
    delete, path = "/v1/models/{id}/aliases/{alias}", tag = "models",
    params(("id" = String, Path, description = "A name of the registry"), ("alias" = String, Path, description = "The alias")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn delete_alias(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(name): Id<ModelName>,
    Alias(alias): Alias,
) -> Result<StatusCode, ApiError> {
    app.store.remove_alias(&name, &alias).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The aliases of a name, and every move of them: what each meant before, and when that changed.
#[utoipa::path(
    get, path = "/v1/models/{id}/aliases", tag = "models",
    params(("id" = String, Path, description = "A name of the registry"), AliasesQuery),
    responses((status = 200, body = AliasesView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn list_aliases(
    State(app): State<App>,
    Query(query): Query<AliasesQuery>,
    Id(name): Id<ModelName>,
) -> Result<Json<AliasesView>, ApiError> {
    let page = page(query.limit, query.after)?;
    let aliases = app.store.aliases(&name).await?;
    let moves = app.store.alias_moves(&name, &page).await?;
    Ok(Json(AliasesView {
        data: aliases.into_iter().map(AliasView::from).collect(),
        history: moves.items.into_iter().map(AliasMoveView::from).collect(),
        has_more: moves.has_more,
    }))
}
