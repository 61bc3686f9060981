//! Rows of a dataset as files, written while they are sent: a whole dataset passes through little memory.

use std::io::{self, BufWriter, Write};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, internal};
use super::extract::BODY_IDLE;
use super::media::{Form, accepted};
use crate::data::dataset::Column;
use crate::data::export::{Form as ExportForm, write};
use crate::data::rows::RowFile;
use crate::domain::id::DatasetId;
use crate::domain::limits::{PAGE_ROWS, PAGE_ROWS_MOST};
use crate::domain::refusal::{Code, Faults, Refusal};

/// Bytes that are sent at once, and how many of such pieces wait for a slow reader.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 4;

/// The form of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowsForm {
    /// `application/json`.
    Json,
    /// `application/x-npy`: a matrix of 32-bit floats.
    Npy,
    /// `text/csv`, with the names of the columns in the first line.
    Csv,
    /// `application/x-ndjson`: an object by column name in each line.
    Jsonl,
    /// `application/vnd.apache.arrow.stream`.
    Arrow,
    /// `application/vnd.apache.parquet`.
    Parquet,
}

impl RowsForm {
    /// What the caller wants: `?format=`, else the first of the `Accept` header that is known, else JSON.
    pub fn wanted(asked: Option<Self>, headers: &HeaderMap) -> Result<Self, ApiError> {
        let forms = [
            (Self::Json, Form::Json),
            (Self::Npy, Form::Npy),
            (Self::Csv, Form::Csv),
            (Self::Jsonl, Form::Jsonl),
            (Self::Arrow, Form::Arrow),
            (Self::Parquet, Form::Parquet),
        ];
        let found = asked.or_else(|| accepted(headers, forms.iter().map(|(form, media)| (*form, media.names()))));
        found.ok_or_else(|| {
            let list: Vec<&str> = forms.iter().map(|(_, media)| media.media_type()).collect();
            Refusal::new(Code::NotAcceptable, format!("rows are given as {}", list.join(", "))).into()
        })
    }
}

/// How many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many.
    Rows(u64),
    /// As many as there are.
    All,
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(rows) => Ok(Self::Rows(rows)),
            Err(_) if text == "all" => Ok(Self::All),
            Err(_) => Err(de::Error::custom(format!("`{text}` is neither a number of rows nor `all`"))),
        }
    }
}

impl Limit {
    /// The rows of one page, for forms that are made in memory.
    ///
    /// # Errors
    /// All are asked for.
    pub fn page(asked: Option<Self>) -> Result<u64, Refusal> {
        match asked {
            None => Ok(PAGE_ROWS),
            Some(Self::Rows(rows)) => Ok(rows),
            Some(Self::All) => {
                let detail = format!(
                    "is `all`, which goes with csv, jsonl, arrow and parquet; here it is 1 to {PAGE_ROWS_MOST}"
                );
                Err(Refusal::at(Code::InvalidRequest, "?limit", "conflict", detail))
            }
        }
    }
}

/// Rows as a file.
///
/// # Errors
/// There is no such dataset, or too many downloads are under way.
pub async fn download(
    app: &App,
    id: DatasetId,
    form: RowsForm,
    offset: u64,
    limit: Option<Limit>,
) -> Result<Response, ApiError> {
    let (form, ending) = match form {
        RowsForm::Jsonl => (ExportForm::Jsonl, "jsonl"),
        RowsForm::Arrow => (ExportForm::Arrow, "arrows"),
        RowsForm::Parquet => (ExportForm::Parquet, "parquet"),
        _ => (ExportForm::Csv, "csv"),
    };
    let limit = match limit {
        Some(Limit::All) => u64::MAX,
        other => {
            let rows = Limit::page(other)?;
            let mut faults = Faults::new();
            faults.require_within("?limit", rows, 1..=PAGE_ROWS_MOST);
            faults.into_result(Code::InvalidRequest)?;
            rows
        }
    };
    let dataset = app.store.dataset(id).await?;
    let permit =
        app.exporting.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(Code::Overloaded, "as many downloads are under way as this server writes at once")
        })?;
    let first = offset.min(dataset.rows);
    let rows = first as usize..first.saturating_add(limit).min(dataset.rows) as usize;
    let schema = dataset.schema;
    let (path, count) = (app.store.rows_path(id), dataset.rows);
    // Opened before the answer begins. Rows that are deleted from now on stay readable to the end.
    let open = move || RowFile::open(&path, schema.kept().count(), count).map(|file| (file, schema));
    let opened = tokio::task::spawn_blocking(open).await.map_err(|error| internal(&error))?;
    let (file, schema) = opened.map_err(|error| internal(&error))?;
    let (sender, pieces) = channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut out = BufWriter::with_capacity(PIECE_BYTES, Pipe(sender.clone()));
        let columns: Vec<&Column> = schema.kept().collect();
        let written = write(form, &columns, rows.map(|row| file.row(row)), &mut out).and_then(|()| out.flush());
        // The bytes that wait have nowhere to go when something went wrong.
        let (_, _) = out.into_parts();
        if let Err(error) = written {
            tracing::debug!(%error, dataset.id = %id, "A download of {id} ended early");
            // So that the reader does not take a part for the whole, however long it takes to come back.
            Handle::current().spawn(async move { sender.send(Err(error)).await });
        }
    });
    let name =
        HeaderValue::try_from(format!("attachment; filename=\"{id}.{ending}\"")).map_err(|error| internal(&error))?;
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type())), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(ReceiverStream::new(pieces))).into_response())
}

/// Where the writer of a file puts its bytes; it waits while the reader is slow, but not for ever.
struct Pipe(Sender<io::Result<Bytes>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.send_timeout(Ok(Bytes::copy_from_slice(bytes)), BODY_IDLE);
        match Handle::current().block_on(sent) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader has left, or reads nothing")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
