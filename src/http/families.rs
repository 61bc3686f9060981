//! The families that can be trained, and presets to begin with.

use super::extract::{Nothing, Query};
use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::models::{FamilyView, families};
use crate::training::presets::{Preset, presets};

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

/// Every preset.
#[derive(Debug, Serialize, ToSchema)]
pub struct PresetsView {
    /// One of each family for tables and one for images.
    pub data: Vec<Preset>,
}

/// Job specs to begin with, of each family one for tables and one for small images. Add `dataset` and post one.
#[utoipa::path(get, path = "/v1/presets", tag = "families", responses((status = 200, body = PresetsView)))]
pub async fn list_presets(_: Query<Nothing>) -> Json<PresetsView> {
    Json(PresetsView { data: presets() })
}
