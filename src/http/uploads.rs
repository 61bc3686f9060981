//! Uploads in several requests, by the protocol tus 1.0. What is acknowledged is on the disk, and an upload that was broken
//! off goes on from there, also after a restart of the server.
//!
//! A complete upload becomes a dataset by `POST /v1/datasets?upload=…`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;

use super::App;
use super::error::{ApiError, Problem, internal};
use super::extract::{BODY_IDLE, Id, Nothing, Query, media_type, too_slow};
use super::intake::{cut_short, upload_too_large};
use super::tus::{self, Checksum, Version};
use crate::domain::id::UploadId;
use crate::domain::limits::UPLOAD_SYNC_BYTES;
use crate::domain::refusal::{Code, Refusal};
use crate::store::uploads::{Upload, UploadWriter};

/// What is spoken here.
///
/// Uploads in several requests follow tus 1.0; any client of that protocol can be pointed at this address.
#[utoipa::path(
    options, path = "/v1/uploads", tag = "uploads",
    responses((status = 204, description = "`Tus-Version`, `Tus-Extension`, `Tus-Max-Size` and `Tus-Checksum-Algorithm`"))
)]
pub async fn describe_uploads(State(app): State<App>, _: Query<Nothing>) -> Response {
    let most = HeaderValue::from(app.config.upload_bytes);
    let says = |text| HeaderValue::from_static(text);
    let headers = [
        ("tus-extension", says(tus::EXTENSIONS)),
        ("tus-checksum-algorithm", says(tus::CHECKSUMS)),
        ("tus-max-size", most),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Begin an upload.
///
/// `Upload-Length` announces the bytes of the whole file; `Upload-Metadata` may say its `filename` and any parameter of
/// `POST /v1/datasets`. A body of type `application/offset+octet-stream` is its first part.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "uploads",
    params(
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
        ("Upload-Length" = u64, Header, description = "Bytes of the whole file"),
        ("Upload-Metadata" = Option<String>, Header, description = "Names, each with a value in Base64, with commas between"),
        ("Upload-Checksum" = Option<String>, Header, description = "Of the body: `sha256` or `sha1`, and the checksum in Base64"),
    ),
    request_body(content = Option<Vec<u8>>, content_type = "application/offset+octet-stream"),
    responses((status = 201, description = "`Location`, `Upload-Offset` and `Upload-Expires`"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn create_upload(
    State(app): State<App>,
    _: Version,
    _: Query<Nothing>,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    if headers.contains_key("upload-defer-length") {
        let detail = "is not spoken here: announce the bytes of the whole file in Upload-Length";
        return Err(Refusal::at(Code::InvalidRequest, "Upload-Defer-Length", "unsupported", detail).into());
    }
    let length = tus::bytes(headers, "Upload-Length")?;
    if length > app.config.upload_bytes {
        return Err(upload_too_large(app.config.upload_bytes));
    }
    let metadata = tus::metadata(headers)?;
    let part = match media_type(headers).as_str() {
        tus::PART => Some(Part::announced(headers, 0, length)?),
        _ => None,
    };
    let mut upload = app.store.create_upload(length, metadata).await?;
    tracing::info!(upload.id = %upload.id, bytes = length, "Upload {} is begun", upload.id);
    if let Some(part) = part {
        let received = part.receive(&app, upload.id, request.into_body()).await;
        if received.is_err() {
            // Nobody was told its address.
            app.store.delete_upload(&app.store.claim_upload(upload.id)?).await?;
        }
        upload = received?;
    }
    let location = format!("/v1/uploads/{}", upload.id);
    let location = HeaderValue::try_from(location).map_err(|error| internal(&error))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], progress(&upload)?).into_response())
}

/// How much of an upload is on the server's disk.
#[utoipa::path(
    head, path = "/v1/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "The id of an upload"), ("Tus-Resumable" = String, Header, description = "`1.0.0`")),
    responses((status = 200, description = "`Upload-Offset`, `Upload-Length`, `Upload-Metadata` and `Upload-Expires`"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn look_at_upload(
    State(app): State<App>,
    _: Version,
    _: Query<Nothing>,
    Id(id): Id<UploadId>,
) -> Result<Response, ApiError> {
    let upload = app.store.upload(id).await?;
    let mut headers = progress(&upload)?;
    headers.insert("upload-length", HeaderValue::from(upload.bytes));
    if !upload.metadata.is_empty() {
        let metadata = HeaderValue::try_from(&upload.metadata).map_err(|error| internal(&error))?;
        headers.insert("upload-metadata", metadata);
    }
    Ok((StatusCode::OK, headers).into_response())
}

/// Go on with an upload.
///
/// What arrived before a break counts, unless the part came with a checksum: then all of it counts or nothing.
#[utoipa::path(
    patch, path = "/v1/uploads/{id}", tag = "uploads",
    params(
        ("id" = String, Path, description = "The id of an upload"),
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
        ("Upload-Offset" = u64, Header, description = "Where the body begins, which is what the server has so far"),
        ("Upload-Checksum" = Option<String>, Header, description = "Of the body: `sha256` or `sha1`, and the checksum in Base64"),
    ),
    request_body(content = Vec<u8>, content_type = "application/offset+octet-stream"),
    responses((status = 204, description = "`Upload-Offset` and `Upload-Expires`"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn append_to_upload(
    State(app): State<App>,
    _: Version,
    _: Query<Nothing>,
    Id(id): Id<UploadId>,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let kind = media_type(headers);
    if kind != tus::PART {
        let detail = format!("the body is of type `{kind}`; allowed is {}", tus::PART);
        return Err(Refusal::new(Code::UnsupportedMediaType, detail).into());
    }
    let offset = tus::bytes(headers, "Upload-Offset")?;
    let upload = app.store.upload(id).await?;
    let part = Part::announced(headers, offset, upload.bytes)?;
    let upload = part.receive(&app, id, request.into_body()).await?;
    Ok((StatusCode::NO_CONTENT, progress(&upload)?).into_response())
}

/// Delete an upload and its bytes.
#[utoipa::path(
    delete, path = "/v1/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "The id of an upload"), ("Tus-Resumable" = String, Header, description = "`1.0.0`")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn delete_upload(
    State(app): State<App>,
    _: Version,
    _: Query<Nothing>,
    Id(id): Id<UploadId>,
) -> Result<StatusCode, ApiError> {
    app.store.delete_upload(&app.store.claim_upload(id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where an upload stands, for the headers of an answer.
fn progress(upload: &Upload) -> Result<HeaderMap, ApiError> {
    let expires = HeaderValue::try_from(tus::date(upload.expires_at)).map_err(|error| internal(&error))?;
    let mut headers = HeaderMap::new();
    headers.insert("upload-offset", HeaderValue::from(upload.received));
    headers.insert("upload-expires", expires);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(headers)
}

/// A part of an upload, as its request announces it.
struct Part {
    offset: u64,
    checksum: Option<Checksum>,
}

impl Part {
    fn announced(headers: &HeaderMap, offset: u64, whole: u64) -> Result<Self, ApiError> {
        let length = headers.get(header::CONTENT_LENGTH).map(|_| tus::bytes(headers, "Content-Length")).transpose()?;
        if offset.saturating_add(length.unwrap_or(0)) > whole {
            let detail = format!("the part ends beyond the {whole} bytes that the upload was announced with");
            return Err(Refusal::new(Code::TooLarge, detail).into());
        }
        Ok(Self { offset, checksum: Checksum::wanted(headers)? })
    }

    /// Writes the body behind what is there. The work goes on when the caller leaves, so that what had arrived until then is
    /// counted.
    async fn receive(self, app: &App, id: UploadId, body: Body) -> Result<Upload, ApiError> {
        let writer = UploadWriter::open(&app.store, id).await?;
        let received = writer.upload().received;
        if received != self.offset {
            let detail = format!("is {}, and the upload has {received} bytes", self.offset);
            return Err(Refusal::at(Code::WrongOffset, "Upload-Offset", "wrong_offset", detail).into());
        }
        tokio::spawn(self.write(writer, body)).await.map_err(|error| internal(&error))?
    }

    async fn write(mut self, mut writer: UploadWriter, body: Body) -> Result<Upload, ApiError> {
        match self.copy(&mut writer, body).await {
            Ok(()) => {}
            Err(Broken::Off(error)) if self.checksum.is_none() => {
                writer.acknowledge().await?;
                return Err(error);
            }
            Err(Broken::Off(error) | Broken::Wrong(error)) => {
                writer.discard().await?;
                return Err(error);
            }
        }
        if self.checksum.is_some_and(|checksum| !checksum.holds()) {
            writer.discard().await?;
            let detail = "the part does not have the checksum that it came with; none of it counts";
            return Err(Refusal::new(Code::ChecksumMismatch, detail).into());
        }
        writer.acknowledge().await?;
        Ok(writer.upload().clone())
    }

    async fn copy(&mut self, writer: &mut UploadWriter, body: Body) -> Result<(), Broken> {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) =
            tokio::time::timeout(BODY_IDLE, chunks.next()).await.map_err(|_| Broken::Off(too_slow()))?
        {
            let chunk = chunk.map_err(|_| Broken::Off(cut_short()))?;
            writer.write(&chunk).await.map_err(|error| Broken::Wrong(error.into()))?;
            match &mut self.checksum {
                Some(checksum) => checksum.update(&chunk),
                None if writer.pending() >= UPLOAD_SYNC_BYTES => {
                    writer.acknowledge().await.map_err(|error| Broken::Wrong(error.into()))?;
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Why a part did not arrive as a whole.
enum Broken {
    /// It ended early: what came is good.
    Off(ApiError),
    /// It was not what was announced, or could not be written.
    Wrong(ApiError),
}
