//! The families that can be trained.

use super::extract::{Nothing, Query};
use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::models::{FamilyView, families};

/// Every family.
#[derive(Debug, Serialize, ToSchema)]
pub struct FamiliesView {
    /// One for each value of `model.family`.
    pub data: Vec<FamilyView>,
}

/// The families that can be trained: what each is for, its formula, and the JSON Schema of its settings.
#[utoipa::path(get, path = "/v1/families", tag = "families", responses((status = 200, body = FamiliesView)))]
pub async fn list_families(_: Query<Nothing>) -> Json<FamiliesView> {
    Json(FamiliesView { data: families() })
}
