//! Questions to trained models: encode, decode, reconstruct, sample.
//!
//! `GET` takes rows by reference (`?dataset=ds_…&rows=0-31`) or inline when small (`?x=0.1,0.2`, repeatable); `POST` takes a body of
//! JSON or NPY. Nothing is random but what a seed decides, so the same question has the same answer up to rounding (rows that share
//! a batch are multiplied in another order).

use std::fmt::Display;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem, internal};
use super::extract::{Id, Query, invalid_json, media_type, pointer, read_body};
use super::forms::{self, Form, Matrix, NPY, RowInput, Shades};
use crate::data::npy;
use crate::data::rows::RowFile;
use crate::domain::id::{DatasetId, ModelId};
use crate::domain::limits::{INFERENCE_BODY_BYTES, INFERENCE_ROWS, INFERENCE_VALUES};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::serving::{Answer, Draw, Question};
use crate::store::models::Model;

/// Rows by reference or inline.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RowsQuery {
    /// A dataset with the columns of the model.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// Rows of that dataset: `7`, or `0-31` with both ends.
    rows: Option<String>,
    /// A row, or a code for `decode`: numbers with commas between. May be repeated.
    #[serde(default)]
    x: Vec<String>,
    /// `json`, `npy` or `png`; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
}

/// The form of the answer to a `POST`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FormQuery {
    /// `json`, `npy` or `png`; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
}

/// What to draw.
#[derive(Debug, Deserialize, IntoParams, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SampleSpec {
    /// How many rows.
    #[schema(minimum = 1, maximum = 65536)]
    n: usize,
    /// Which ones: the same seed draws the same rows.
    seed: u64,
    /// Scales the draws of the code; below 1 gives more typical rows, above 1 more varied ones.
    #[schema(minimum = 0.0, maximum = 10.0)]
    temperature: f32,
    /// `json`, `npy` or `png`; the `Accept` header decides when left out.
    #[param(inline)]
    #[schema(inline)]
    format: Option<Form>,
}

impl Default for SampleSpec {
    fn default() -> Self {
        Self { n: 16, seed: 0, temperature: 1.0, format: None }
    }
}

/// Rows of a body.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RowsBody {
    /// Each an array in the order of the columns, or an object by column name.
    #[schema(value_type = Vec<Vec<f32>>)]
    rows: Vec<RowInput>,
}

/// Codes of a body.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodesBody {
    /// Each an array of the code's width.
    #[schema(value_type = Vec<Vec<f32>>)]
    codes: Vec<RowInput>,
}

/// Codes.
#[derive(Serialize)]
struct CodesView<'a> {
    codes: Matrix<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<Matrix<'a>>,
}

/// Rows, and the error of each where they are reconstructions.
#[derive(Serialize)]
struct RowsView<'a> {
    rows: Matrix<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [f32]>,
}

/// Encode rows of a dataset, or small inline ones: one code a row, with its spread where the encoder is stochastic.
#[utoipa::path(get, path = "/v1/models/{id}/encode", tag = "inference", params(("id" = String, Path, description = "The id of a model"), RowsQuery),
    responses((status = 200, description = "`codes` and `spread`, or an NPY matrix of codes", body = Object), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get_encode(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<RowsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = Form::wanted(query.format, &headers)?;
    let model = app.store.model(id).await?;
    let rows = referenced_rows(&app, &model, query).await?;
    encode(&app, &model, rows, form).await
}

/// Encode rows: one code a row, with its spread where the encoder is stochastic.
#[utoipa::path(post, path = "/v1/models/{id}/encode", tag = "inference", params(("id" = String, Path, description = "The id of a model"), FormQuery), request_body = RowsBody,
    responses((status = 200, description = "`codes` and `spread`, or an NPY matrix of codes", body = Object), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn post_encode(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<FormQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let form = Form::wanted(query.format, request.headers())?;
    let model = app.store.model(id).await?;
    let rows = body_rows(&model, request).await?;
    encode(&app, &model, rows, form).await
}

async fn encode(app: &App, model: &Model, rows: Vec<f32>, form: Form) -> Result<Response, ApiError> {
    let Answer { values, beside } = app.inference.ask(model, Question::Encode(rows)).await?;
    let width = latent(model);
    let codes = Matrix { values: &values, width };
    match form {
        Form::Json => {
            forms::json(&CodesView { codes, spread: beside.as_deref().map(|values| Matrix { values, width }) })
        }
        Form::Npy => forms::npy(&codes),
        Form::Png => {
            Err(Refusal::new(Code::NotAcceptable, "codes are given as application/json or application/x-npy").into())
        }
    }
}

/// Decode a small inline code: one row a code, in the user's units.
#[utoipa::path(get, path = "/v1/models/{id}/decode", tag = "inference", params(("id" = String, Path, description = "The id of a model"), RowsQuery),
    responses((status = 200, description = "`rows`, an NPY matrix, or a PNG", body = Object), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get_decode(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<RowsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = Form::wanted(query.format, &headers)?;
    let model = app.store.model(id).await?;
    if query.dataset.is_some() || query.rows.is_some() {
        return Err(Refusal::at(
            Code::InvalidRequest,
            "?dataset",
            "not_allowed",
            "names rows; decode takes codes, as `x`",
        )
        .into());
    }
    let codes = inline_rows(&query.x, latent(&model))?;
    decode(&app, &model, codes, form).await
}

/// Decode codes: one row a code, in the user's units.
#[utoipa::path(post, path = "/v1/models/{id}/decode", tag = "inference", params(("id" = String, Path, description = "The id of a model"), FormQuery), request_body = CodesBody,
    responses((status = 200, description = "`rows`, an NPY matrix, or a PNG", body = Object), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn post_decode(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<FormQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let form = Form::wanted(query.format, request.headers())?;
    let model = app.store.model(id).await?;
    let width = latent(&model);
    let (kind, body) = open_body(request).await?;
    let codes = match kind {
        BodyKind::Json => {
            let body: CodesBody = read_json(&body)?;
            flatten(body.codes, "codes", width, &[])?
        }
        BodyKind::Npy => npy_rows(&body, "codes", width)?,
    };
    decode(&app, &model, codes, form).await
}

async fn decode(app: &App, model: &Model, codes: Vec<f32>, form: Form) -> Result<Response, ApiError> {
    check_answer_size(codes.len() / latent(model), model)?;
    let Answer { values, .. } = app.inference.ask(model, Question::Decode(codes)).await?;
    answer_rows(model, &values, None, form, None)
}

/// Send rows of a dataset, or small inline ones, through the code and back. As PNG: originals over reconstructions.
#[utoipa::path(get, path = "/v1/models/{id}/reconstruct", tag = "inference", params(("id" = String, Path, description = "The id of a model"), RowsQuery),
    responses((status = 200, description = "`rows` and `errors`, an NPY matrix, or a PNG", body = Object), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get_reconstruct(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<RowsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = Form::wanted(query.format, &headers)?;
    let model = app.store.model(id).await?;
    let rows = referenced_rows(&app, &model, query).await?;
    reconstruct(&app, &model, rows, form).await
}

/// Send rows through the code and back: what the model makes of them, and the mean squared error of each in scaled units.
#[utoipa::path(post, path = "/v1/models/{id}/reconstruct", tag = "inference", params(("id" = String, Path, description = "The id of a model"), FormQuery), request_body = RowsBody,
    responses((status = 200, description = "`rows` and `errors`, an NPY matrix, or a PNG", body = Object), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn post_reconstruct(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<FormQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let form = Form::wanted(query.format, request.headers())?;
    let model = app.store.model(id).await?;
    let rows = body_rows(&model, request).await?;
    reconstruct(&app, &model, rows, form).await
}

async fn reconstruct(app: &App, model: &Model, rows: Vec<f32>, form: Form) -> Result<Response, ApiError> {
    let originals = (form == Form::Png).then(|| rows.clone());
    let Answer { values, beside } = app.inference.ask(model, Question::Reconstruct(rows)).await?;
    answer_rows(model, &values, beside.as_deref(), form, originals.as_deref())
}

/// Draw new rows: `?n=16&seed=7`.
#[utoipa::path(get, path = "/v1/models/{id}/sample", tag = "inference", params(("id" = String, Path, description = "The id of a model"), SampleSpec),
    responses((status = 200, description = "`rows`, an NPY matrix, or a PNG", body = Object), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get_sample(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(spec): Query<SampleSpec>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = Form::wanted(spec.format, &headers)?;
    let model = app.store.model(id).await?;
    sample(&app, &model, &spec, form, "?").await
}

/// Draw new rows.
#[utoipa::path(post, path = "/v1/models/{id}/sample", tag = "inference", params(("id" = String, Path, description = "The id of a model"), FormQuery), request_body = SampleSpec,
    responses((status = 200, description = "`rows`, an NPY matrix, or a PNG", body = Object), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn post_sample(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<FormQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers().clone();
    let model = app.store.model(id).await?;
    let (kind, body) = open_body(request).await?;
    if kind != BodyKind::Json {
        return Err(Refusal::new(Code::UnsupportedMediaType, "sample takes application/json").into());
    }
    let spec: SampleSpec = read_json(&body)?;
    let form = Form::wanted(query.format.or(spec.format), &headers)?;
    sample(&app, &model, &spec, form, "/").await
}

async fn sample(app: &App, model: &Model, spec: &SampleSpec, form: Form, place: &str) -> Result<Response, ApiError> {
    let mut faults = Faults::new();
    faults.require_within(&format!("{place}n"), spec.n, 1..=INFERENCE_ROWS);
    faults.require_within(&format!("{place}temperature"), spec.temperature, 0.0..=10.0);
    faults.into_result(Code::InvalidRequest)?;
    check_answer_size(spec.n, model)?;
    let question = Question::Sample(Draw {
        count: spec.n,
        seed: spec.seed,
        temperature: spec.temperature,
        chain_steps: 20,
        drawn: false,
    });
    let Answer { values, .. } = app.inference.ask(model, question).await?;
    answer_rows(model, &values, None, form, None)
}

fn latent(model: &Model) -> usize {
    model.spec.model.latent() as usize
}

fn width(model: &Model) -> usize {
    model.schema.row_shape().width
}

/// Rows as JSON, NPY or PNG. With originals a picture has each of them over its row.
fn answer_rows(
    model: &Model,
    values: &[f32],
    errors: Option<&[f32]>,
    form: Form,
    originals: Option<&[f32]>,
) -> Result<Response, ApiError> {
    let rows = Matrix { values, width: width(model) };
    match form {
        Form::Json => forms::json(&RowsView { rows, errors }),
        Form::Npy => forms::npy(&rows),
        Form::Png => picture(model, values, originals),
    }
}

fn picture(model: &Model, values: &[f32], originals: Option<&[f32]>) -> Result<Response, ApiError> {
    let Some(shape) = model.schema.image else {
        let detail = "the rows of this model are not images; upload the dataset with `shape` to have pictures";
        return Err(Refusal::new(Code::NotAcceptable, detail).into());
    };
    let extremes = || model.schema.feature_columns().filter_map(|column| column.profile.as_ref());
    let low = extremes().filter_map(|profile| profile.minimum).fold(f64::INFINITY, f64::min);
    let high = extremes().filter_map(|profile| profile.maximum).fold(f64::NEG_INFINITY, f64::max);
    let shades = Shades { low: low as f32, high: high as f32 };
    let count = values.len() / width(model);
    let Some(originals) = originals else {
        let across = (count as f64).sqrt().ceil() as usize;
        return Ok(forms::png(forms::grid(values, shape, shades, across)?));
    };
    let across = count.min(16);
    let line = across * width(model);
    let paired: Vec<f32> = originals
        .chunks(line)
        .zip(values.chunks(line))
        .flat_map(|(above, below)| {
            // A last line that is not full is filled up, so that rows stay under their originals.
            let fill = std::iter::repeat_n(shades.high, line - above.len());
            above.iter().copied().chain(fill.clone()).chain(below.iter().copied()).chain(fill)
        })
        .collect();
    Ok(forms::png(forms::grid(&paired, shape, shades, across)?))
}

fn check_answer_size(rows: usize, model: &Model) -> Result<(), Refusal> {
    let values = rows.saturating_mul(width(model));
    if values > INFERENCE_VALUES {
        let detail = format!(
            "{rows} rows of {} columns are more than the {INFERENCE_VALUES} values of one answer; ask for fewer",
            width(model)
        );
        return Err(Refusal::new(Code::InvalidRequest, detail));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Json,
    Npy,
}

async fn open_body(request: Request) -> Result<(BodyKind, bytes::Bytes), ApiError> {
    let kind = match media_type(request.headers()).as_str() {
        "application/json" | "" => BodyKind::Json,
        NPY => BodyKind::Npy,
        other => {
            let detail = format!("the body is of type `{other}`; allowed are application/json and {NPY}");
            return Err(Refusal::new(Code::UnsupportedMediaType, detail).into());
        }
    };
    let body: Body = request.into_body();
    Ok((kind, read_body(body, INFERENCE_BODY_BYTES).await?))
}

fn read_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        if error.inner().is_data() {
            return ApiError::from(Refusal::at(
                Code::InvalidRequest,
                pointer(error.path()),
                "invalid",
                error.inner().to_string(),
            ));
        }
        invalid_json(error.inner())
    })?;
    deserializer.end().map_err(|error| invalid_json(&error))?;
    Ok(value)
}

async fn body_rows(model: &Model, request: Request) -> Result<Vec<f32>, ApiError> {
    let (kind, body) = open_body(request).await?;
    match kind {
        BodyKind::Json => {
            let body: RowsBody = read_json(&body)?;
            let names: Vec<&str> = model.schema.feature_columns().map(|column| column.name.as_str()).collect();
            Ok(flatten(body.rows, "rows", width(model), &names)?)
        }
        BodyKind::Npy => Ok(npy_rows(&body, "rows", width(model))?),
    }
}

fn npy_rows(body: &[u8], what: &str, width: usize) -> Result<Vec<f32>, ApiError> {
    let (count, found, values) = npy::matrix(body, INFERENCE_VALUES)?;
    if found != width || count > INFERENCE_ROWS {
        let detail = format!("is {count} x {found}; allowed are 1 to {INFERENCE_ROWS} {what} of {width}");
        return Err(Refusal::at(Code::InvalidRequest, "/", "wrong_shape", detail).into());
    }
    Ok(values)
}

/// Rows of a JSON body, checked and laid one after the other.
fn flatten(rows: Vec<RowInput>, what: &str, width: usize, names: &[&str]) -> Result<Vec<f32>, Refusal> {
    let mut faults = Faults::new();
    if rows.is_empty() || rows.len() > INFERENCE_ROWS {
        faults.push(
            format!("/{what}"),
            "wrong_length",
            format!("has {} {what}; allowed are 1 to {INFERENCE_ROWS}", rows.len()),
        );
        faults.into_result(Code::InvalidRequest)?;
        unreachable!("a fault was pushed");
    }
    let mut values = Vec::with_capacity(rows.len() * width);
    for (index, row) in rows.into_iter().enumerate() {
        match row {
            RowInput::Values(row) if row.len() == width => {
                for (column, value) in row.into_iter().enumerate() {
                    values.push(number(value, &mut faults, || format!("/{what}/{index}/{column}")));
                }
            }
            RowInput::Values(row) => {
                faults.push(
                    format!("/{what}/{index}"),
                    "wrong_width",
                    format!("has {} values; this model takes {width}", row.len()),
                );
            }
            RowInput::Named(_) if names.is_empty() => {
                faults.push(format!("/{what}/{index}"), "wrong_type", "is an object; codes are arrays of numbers");
            }
            RowInput::Named(row) => named(row, names, &mut values, &mut faults, &format!("/{what}/{index}")),
        }
    }
    faults.into_result(Code::InvalidRequest)?;
    Ok(values)
}

fn named(row: Vec<(String, Option<f64>)>, names: &[&str], values: &mut Vec<f32>, faults: &mut Faults, place: &str) {
    let mut given: std::collections::HashMap<String, Option<f64>> = row.into_iter().collect();
    for name in names {
        match given.remove(*name) {
            Some(value) => values.push(number(value, faults, || format!("{place}/{name}"))),
            None => {
                faults.push(format!("{place}/{name}"), "missing", "is missing; a row names every column of the model")
            }
        }
    }
    let mut unknown: Vec<String> = given.into_keys().collect();
    unknown.sort_unstable();
    for name in unknown {
        faults.push(format!("{place}/{name}"), "unknown_field", "is no column of this model");
    }
}

fn number(value: Option<f64>, faults: &mut Faults, place: impl Fn() -> String) -> f32 {
    let Some(value) = value else {
        faults.push(place(), "missing_value", "is null; this model takes no missing values");
        return 0.0;
    };
    let number = value as f32;
    if !number.is_finite() {
        faults.push(place(), "out_of_range", format!("is {value}, beyond what 32-bit floats hold (about 3.4e38)"));
    }
    number
}

/// Rows of a query: inline, or out of a dataset.
async fn referenced_rows(app: &App, model: &Model, query: RowsQuery) -> Result<Vec<f32>, ApiError> {
    let invalid = |pointer: &str, code: &str, detail: &dyn Display| -> ApiError {
        Refusal::at(Code::InvalidRequest, pointer, code, detail.to_string()).into()
    };
    let Some(id) = query.dataset else {
        if query.x.is_empty() {
            return Err(invalid(
                "?dataset",
                "missing",
                &"is missing: name rows by `dataset` and `rows`, or give them as `x`",
            ));
        }
        return Ok(inline_rows(&query.x, width(model))?);
    };
    if !query.x.is_empty() {
        return Err(invalid("?x", "conflict", &"goes without `dataset`"));
    }
    let dataset = app
        .store
        .dataset(id)
        .await
        .map_err(|_| invalid("?dataset", "not_found", &format!("is {id}, and there is no dataset of this id")))?;
    let theirs = dataset.schema.feature_columns().map(|column| &column.name);
    if !theirs.eq(model.schema.feature_columns().map(|column| &column.name)) {
        return Err(invalid(
            "?dataset",
            "wrong_columns",
            &"does not have the feature columns that this model was trained on",
        ));
    }
    let (first, last) = range(query.rows.as_deref().unwrap_or("0-31"), query.rows.is_none(), dataset.rows)
        .map_err(|detail| invalid("?rows", "out_of_range", &detail))?;
    let (kept, features) = (dataset.schema.kept().count(), dataset.schema.features());
    let (path, count) = (app.store.rows_path(id), dataset.rows);
    let read = move || -> std::io::Result<Vec<f32>> {
        let file = RowFile::open(&path, kept, count)?;
        Ok((first..=last)
            .flat_map(|row| features.iter().map(move |feature| (row, *feature)))
            .map(|(row, feature)| file.row(row)[feature])
            .collect())
    };
    let values =
        tokio::task::spawn_blocking(read).await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
    if let Some(position) = values.iter().position(|value| value.is_nan()) {
        let (row, column) = (first + position / width(model), position % width(model));
        return Err(invalid(
            "?rows",
            "missing_value",
            &format!(
                "includes row {row}, which has no value in feature column {column}; this model takes no missing values"
            ),
        ));
    }
    Ok(values)
}

/// Both ends of `7` or `0-31`. A default range is cut to the rows there are.
fn range(text: &str, is_default: bool, rows: u64) -> Result<(usize, usize), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Ok(first), Ok(mut last)) = (first.trim().parse::<u64>(), last.trim().parse::<u64>()) else {
        return Err(format!("is `{text}`; write one row as 7, or several as 0-31"));
    };
    if is_default {
        last = last.min(rows.saturating_sub(1));
    }
    if first > last || last >= rows {
        return Err(format!("is `{text}`; the dataset has the rows 0 to {}", rows.saturating_sub(1)));
    }
    if last - first >= INFERENCE_ROWS as u64 {
        return Err(format!("is `{text}`; allowed are up to {INFERENCE_ROWS} rows at once"));
    }
    Ok((first as usize, last as usize))
}

fn inline_rows(rows: &[String], width: usize) -> Result<Vec<f32>, Refusal> {
    let mut faults = Faults::new();
    if rows.is_empty() {
        faults.push("?x", "missing", format!("is missing: give {width} numbers with commas between"));
    }
    let mut values = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let parsed: Vec<f32> = row
            .split(',')
            .filter_map(|cell| cell.trim().parse().ok())
            .filter(|value: &f32| value.is_finite())
            .collect();
        if parsed.len() != width || row.split(',').count() != width {
            faults.push(
                "?x",
                "wrong_width",
                format!("(number {index}) is not {width} finite numbers with commas between"),
            );
        }
        values.extend(parsed);
    }
    faults.into_result(Code::InvalidRequest)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_rows_are_read_and_bounded() {
        assert_eq!(range("7", false, 10), Ok((7, 7)));
        assert_eq!(range("0-9", false, 10), Ok((0, 9)));
        assert_eq!(range("0-31", true, 10), Ok((0, 9)));
        for bad in ["0-10", "3-2", "a", "-1", "1-", "99999999999999999999"] {
            assert!(range(bad, false, 10).is_err(), "{bad}");
        }
        assert!(range("0-65536", false, 1 << 40).is_err());
    }

    #[test]
    fn rows_may_be_named_or_in_order_and_every_fault_is_told() {
        let body: RowsBody = read_json(br#"{"rows": [[1, 2], {"b": 4, "a": 3}]}"#).unwrap_or_else(|_| panic!());
        assert_eq!(flatten(body.rows, "rows", 2, &["a", "b"]).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        let body: RowsBody =
            read_json(br#"{"rows": [[1], {"a": 3, "z": 0}, [null, 1e300]]}"#).unwrap_or_else(|_| panic!());
        let refusal = flatten(body.rows, "rows", 2, &["a", "b"]).unwrap_err();
        let pointers: Vec<&str> = refusal.errors.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/rows/0", "/rows/1/b", "/rows/1/z", "/rows/2/0", "/rows/2/1"]);
    }
}
