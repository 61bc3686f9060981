//! Where the file of a dataset comes from: the body of a request, a field of a form, or an upload that was made before.

use std::io::Read;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{Uri, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use utoipa::IntoParams;

use super::App;
use super::error::{ApiError, internal};
use super::extract::{BODY_IDLE, media_type, query, read_body, too_slow};
use super::tus;
use crate::data::append::{Addition, append};
use crate::data::{DataError, IngestSpec, Ingested, ingest};
use crate::domain::id::UploadId;
use crate::domain::refusal::{Code, Refusal};
use crate::store::artifacts::{checksum, hexadecimal};
use crate::store::datasets::{Dataset, Origin};
use crate::store::files::Scratch;
use crate::store::uploads::{Upload, UploadClaim};

/// A file that lies on the disk as a whole, and room beside it for the rows that come of it.
pub struct Intake {
    scratch: Scratch,
    source: PathBuf,
    /// SHA-256 of the file, where it was counted on the way.
    sha256: Option<String>,
    /// The upload that the file is of, which nobody else touches as long.
    claim: Option<UploadClaim>,
}

impl Intake {
    /// Receives the file as the body of a request, or as the field `file` of a form.
    ///
    /// # Errors
    /// It is too large, or ends early.
    pub async fn receive(app: &App, request: Request) -> Result<Self, ApiError> {
        let scratch = app.store.scratch()?;
        let source = scratch.path("upload");
        let sha256 = if media_type(request.headers()) == "multipart/form-data" {
            receive_multipart(request, &source, app.config.upload_bytes).await?
        } else {
            receive_body(request, &source, app.config.upload_bytes).await?
        };
        Ok(Self { scratch, source, sha256: Some(sha256), claim: None })
    }

    /// Takes an upload that is complete.
    ///
    /// # Errors
    /// The request has a body of its own.
    pub async fn of_upload(app: &App, complete: Complete, body: Body) -> Result<Self, ApiError> {
        if read_body(body, 0).await.is_err() {
            let detail = "goes without a body, because the file is there already";
            return Err(Refusal::at(Code::InvalidRequest, "?upload", "conflict", detail).into());
        }
        let source = app.store.upload_path(complete.upload.id);
        Ok(Self { scratch: app.store.scratch()?, source, sha256: None, claim: Some(complete.claim) })
    }

    /// Reads the file, unless its rows are there already. All of this goes along, so that it outlives a caller who leaves.
    ///
    /// # Errors
    /// The file is refused.
    pub async fn read(mut self, app: &App, spec: IngestSpec) -> Result<(Ingested, Origin, Self), ApiError> {
        // What is read in another way, or by another version of this program, may give other rows.
        let reading = checksum(format!("{} {spec:?}", env!("CARGO_PKG_VERSION")).as_bytes());
        let permit = app.ingesting.clone().acquire_owned().await.map_err(|error| internal(&error))?;
        if self.sha256.is_none() {
            self.sha256 = Some(hash(self.source.clone()).await?);
        }
        let origin = Origin { sha256: self.sha256.clone(), reading: Some(reading), ..Origin::default() };
        if let Some(ingested) = app.store.link_twin(&origin, &self.rows()).await? {
            return Ok((ingested, origin, self));
        }
        let most = app.config.dataset_bytes;
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            ingest(&self.source, &self.rows(), &spec, most).map(|ingested| (ingested, origin, self))
        });
        Ok(read.await.map_err(|error| internal(&error))??)
    }

    /// Reads the file and adds its rows to those of a dataset.
    ///
    /// # Errors
    /// The file is refused, or its columns do not fit.
    pub async fn append(
        mut self,
        app: &App,
        parent: &Dataset,
        addition: Addition,
    ) -> Result<(Ingested, Origin, Self), ApiError> {
        let permit = app.ingesting.clone().acquire_owned().await.map_err(|error| internal(&error))?;
        if self.sha256.is_none() {
            self.sha256 = Some(hash(self.source.clone()).await?);
        }
        let origin = Origin {
            sha256: self.sha256.clone(),
            reading: None,
            parent: Some(parent.id),
            version: parent.version + 1,
            root: Some(parent.root.unwrap_or(parent.id)),
            job: None,
        };
        let most = app.config.dataset_bytes;
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let beside = self.scratch.path("added");
            append(&addition, &self.source, &beside, &self.rows(), most).map(|ingested| (ingested, origin, self))
        });
        let read = read.await.map_err(|error| internal(&error))?;
        if matches!(read, Err(DataError::Io(_))) {
            // Its rows may have gone with it in the meantime.
            app.store.dataset(parent.id).await?;
        }
        Ok(read?)
    }

    /// The file, and its checksum where it was counted on the way.
    pub fn file(&self) -> (&Path, Option<&str>) {
        (&self.source, self.sha256.as_deref())
    }

    /// Where the canonical rows are written.
    pub fn rows(&self) -> PathBuf {
        self.scratch.path("rows")
    }

    /// The rows are in their place: the upload they came from has done its work.
    pub async fn done(self, app: &App) {
        let Some(claim) = self.claim else { return };
        if let Err(error) = app.store.delete_upload(&claim).await {
            tracing::warn!(%error, "An upload that was made a dataset of stays until its time is over");
        }
    }
}

/// An upload to which nothing is missing, claimed for this request.
pub struct Complete {
    upload: Upload,
    claim: UploadClaim,
}

impl Complete {
    /// Claims an upload.
    ///
    /// # Errors
    /// There is none of this id, it is not complete, or another request works on it.
    pub async fn claim(app: &App, id: UploadId) -> Result<Self, ApiError> {
        let claim = app.store.claim_upload(id)?;
        let upload = app.store.upload(id).await.map_err(|error| match error {
            crate::store::StoreError::Refused(refusal) if refusal.code == Code::NotFound => {
                Refusal::at(Code::InvalidRequest, "?upload", "not_found", refusal.detail).into()
            }
            other => ApiError::from(other),
        })?;
        if !upload.is_complete() {
            let detail = format!("has {} of {} bytes", upload.received, upload.bytes);
            return Err(Refusal::at(Code::UploadIncomplete, "?upload", "incomplete", detail).into());
        }
        Ok(Self { upload, claim })
    }

    /// The query of an address, filled up with the parameters that were named when the upload was begun. The name of the file
    /// is that of the dataset when nothing else was said.
    ///
    /// # Errors
    /// A parameter is not allowed.
    pub fn fill_in<T: IntoParams + DeserializeOwned>(&self, uri: &Uri) -> Result<T, ApiError> {
        let given = uri.query().unwrap_or("");
        let pairs: Vec<(String, String)> = serde_html_form::from_str(given).map_err(|error| internal(&error))?;
        let known = T::into_params(|| None);
        let mut beside = tus::pairs(&self.upload.metadata);
        if let Some(file) = beside.iter().find(|(name, _)| name == "filename").map(|(_, value)| value.clone())
            && !beside.iter().any(|(name, _)| name == "name")
        {
            beside.push(("name".to_owned(), file));
        }
        beside.retain(|(name, _)| {
            known.iter().any(|parameter| parameter.name == *name) && !pairs.iter().any(|(said, _)| said == name)
        });
        let beside = serde_html_form::to_string(beside).map_err(|error| internal(&error))?;
        let whole = format!("{}?{given}&{beside}", uri.path());
        query(&whole.trim_end_matches('&').parse().map_err(|error: axum::http::uri::InvalidUri| internal(&error))?)
    }
}

/// The SHA-256 of a file, off the asynchronous threads.
async fn hash(path: PathBuf) -> Result<String, ApiError> {
    let read = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let (mut file, mut digest, mut piece) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(hexadecimal(&digest.finalize())),
                count => digest.update(&piece[..count]),
            }
        }
    });
    read.await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))
}

async fn receive_body(request: Request, path: &Path, most: u64) -> Result<String, ApiError> {
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    if declared.is_some_and(|bytes: u64| bytes > most) {
        return Err(upload_too_large(most));
    }
    let body: Body = request.into_body();
    store_stream(body.into_data_stream().map(|chunk| chunk.map_err(|_| cut_short())), path, most).await
}

async fn receive_multipart(request: Request, path: &Path, most: u64) -> Result<String, ApiError> {
    let invalid = |error: &dyn std::fmt::Display| -> ApiError {
        Refusal::new(Code::InvalidRequest, format!("the form cannot be read: {error}")).into()
    };
    // The file is counted while it is written; axum's own limit on bodies does not apply to it.
    let mut request = request;
    axum::extract::DefaultBodyLimit::disable().apply(&mut request);
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| invalid(&error))?;
    while let Some(field) = form.next_field().await.map_err(|error| invalid(&error))? {
        if field.name() == Some("file") {
            return store_stream(field.map(|chunk| chunk.map_err(|_| cut_short())), path, most).await;
        }
    }
    Err(Refusal::at(Code::InvalidRequest, "/file", "missing", "the form has no field `file`").into())
}

/// Writes what arrives to a file. Answers its SHA-256.
async fn store_stream(
    chunks: impl futures_util::Stream<Item = Result<bytes::Bytes, ApiError>>,
    path: &Path,
    most: u64,
) -> Result<String, ApiError> {
    let io = |error: std::io::Error| ApiError::from(crate::store::StoreError::Io(error));
    let mut file = tokio::fs::File::create_new(path).await.map_err(io)?;
    let mut chunks = std::pin::pin!(chunks);
    let (mut received, mut digest) = (0_u64, Sha256::new());
    while let Some(chunk) = tokio::time::timeout(BODY_IDLE, chunks.next()).await.map_err(|_| too_slow())? {
        let chunk = chunk?;
        received += chunk.len() as u64;
        if received > most {
            return Err(upload_too_large(most));
        }
        digest.update(&chunk);
        file.write_all(&chunk).await.map_err(io)?;
    }
    file.flush().await.map_err(io)?;
    Ok(hexadecimal(&digest.finalize()))
}

/// The refusal of a file that is larger than the operator allows.
pub fn upload_too_large(most: u64) -> ApiError {
    Refusal::new(Code::TooLarge, format!("the upload is larger than the {most} bytes that this server allows")).into()
}

/// The refusal of a body that breaks off.
pub fn cut_short() -> ApiError {
    Refusal::new(Code::InvalidRequest, "the upload ended before it was complete").into()
}
