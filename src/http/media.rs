//! The media types of questions and answers, and which of them a caller wants.
//!
//! `Accept` is read as RFC 9110, section 12.5.1, has it: each form that is offered has the quality of the most specific range that
//! names it, and the best one is given. Start reading with [`Form::wanted`] and [`BodyForm::of`].

use axum::http::{HeaderMap, header};
use mediatype::{MediaType, MediaTypeList, Name, ReadParams};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{Content, OpenApi, RefOr};

use super::extract::media_type;
use crate::data::Header;
use crate::domain::refusal::{Code, Refusal};

/// The media type of NPY.
pub const NPY: &str = "application/x-npy";
/// The media type of a stream of Arrow batches.
const ARROW: &str = "application/vnd.apache.arrow.stream";
/// The media type of Parquet.
const PARQUET: &str = "application/vnd.apache.parquet";
const JSON: &str = "application/json";
const CSV: &str = "text/csv";
const JSONL: &str = "application/x-ndjson";
const F32: &str = "application/octet-stream";
const SAFETENSORS: &str = "application/x-safetensors";
const PNG: &str = "image/png";

/// Other names of JSON Lines, which no register has.
const JSONL_TOO: [&str; 4] = [JSONL, "application/jsonl", "application/ndjson", "application/x-jsonlines"];

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `application/json`.
    Json,
    /// `text/csv`, with the names of the columns in the first line.
    Csv,
    /// `application/x-ndjson`: an object by column name in each line.
    Jsonl,
    /// `application/x-npy`: the main matrix alone, as 32-bit floats.
    Npy,
    /// `application/vnd.apache.arrow.stream`.
    Arrow,
    /// `application/vnd.apache.parquet`.
    Parquet,
    /// `application/octet-stream`: the main matrix alone, row after row, as 32-bit floats in little-endian order.
    F32,
    /// `application/x-safetensors`: the main matrix and what stands beside it, a tensor each.
    Safetensors,
    /// `image/png`: a grid, for models of images.
    Png,
}

/// The forms of numbers that are no pictures. Where a caller likes several equally, the first.
pub const NUMBERS: &[Form] =
    &[Form::Json, Form::Csv, Form::Jsonl, Form::Npy, Form::Arrow, Form::Parquet, Form::F32, Form::Safetensors];
/// The forms of rows that are pictures.
pub const PICTURES: &[Form] = &[
    Form::Json,
    Form::Csv,
    Form::Jsonl,
    Form::Npy,
    Form::Arrow,
    Form::Parquet,
    Form::F32,
    Form::Safetensors,
    Form::Png,
];

impl Form {
    /// Its media type, as an answer says it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Csv => CSV,
            Self::Jsonl => JSONL,
            Self::Npy => NPY,
            Self::Arrow => ARROW,
            Self::Parquet => PARQUET,
            Self::F32 => F32,
            Self::Safetensors => SAFETENSORS,
            Self::Png => PNG,
        }
    }

    /// Every name by which it may be asked for.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Json => &[JSON],
            Self::Csv => &[CSV],
            Self::Jsonl => &JSONL_TOO,
            Self::Npy => &[NPY],
            Self::Arrow => &[ARROW],
            Self::Parquet => &[PARQUET],
            Self::F32 => &[F32],
            Self::Safetensors => &[SAFETENSORS],
            Self::Png => &[PNG],
        }
    }

    /// What the caller wants of what is offered: `?format=`, else what the `Accept` header likes best.
    ///
    /// # Errors
    /// None of what is offered is wanted; the refusal lists it.
    pub fn wanted(asked: Option<Self>, headers: &HeaderMap, offered: &[Self]) -> Result<Self, Refusal> {
        let found = match asked {
            Some(form) => offered.contains(&form).then_some(form),
            None => accepted(headers, offered.iter().map(|form| (*form, form.names()))),
        };
        found.ok_or_else(|| {
            let wish = match asked {
                Some(form) => form.media_type().to_owned(),
                None => accept(headers).chars().take(200).collect(),
            };
            let list: Vec<&str> = offered.iter().map(|form| form.media_type()).collect();
            Refusal::new(Code::NotAcceptable, format!("`{wish}` is not given here; there are {}", list.join(", ")))
        })
    }
}

fn accept(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

/// Which of several the `Accept` header likes best: by quality, then the one that is named most exactly, then the first.
pub fn accepted<'n, T>(headers: &HeaderMap, offered: impl Iterator<Item = (T, &'n [&'n str])>) -> Option<T> {
    let text = accept(headers);
    let ranges: Vec<MediaType<'_>> = MediaTypeList::new(&text).filter_map(Result::ok).collect();
    let mut best: Option<(T, (f32, u8))> = None;
    for (form, names) in offered {
        let liking = match text.trim().is_empty() {
            true => (1.0, 0),
            false => names.iter().map(|name| liking(name, &ranges)).fold((0.0, 0), |a, b| if b > a { b } else { a }),
        };
        if liking.0 > 0.0 && best.as_ref().is_none_or(|(_, so_far)| liking > *so_far) {
            best = Some((form, liking));
        }
    }
    best.map(|(form, _)| form)
}

/// The quality that the most specific range gives a type, and how specific that is.
fn liking(name: &str, ranges: &[MediaType<'_>]) -> (f32, u8) {
    let (ty, subty) = name.split_once('/').unwrap_or((name, ""));
    let specific = |range: &MediaType<'_>| match (range.ty.as_str(), range.subty.as_str()) {
        _ if range.suffix.is_some() => None,
        ("*", "*") => Some(1),
        (ours, "*") if ours.eq_ignore_ascii_case(ty) => Some(2),
        (ours, theirs) if ours.eq_ignore_ascii_case(ty) && theirs.eq_ignore_ascii_case(subty) => Some(3),
        _ => None,
    };
    let quality = |range: &MediaType<'_>| {
        let told = range.get_param(Name::new_unchecked("q"))?.as_str().parse::<f32>().ok()?;
        Some(if told.is_nan() { 0.0 } else { told.clamp(0.0, 1.0) })
    };
    let found = ranges.iter().filter_map(|range| Some((specific(range)?, quality(range).unwrap_or(1.0))));
    found.max_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal)).map_or((0.0, 0), |(level, q)| (q, level))
}

/// The form of the rows or codes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyForm {
    /// An object that also holds the options.
    Json,
    /// Separated text, and whether its first line holds names.
    Csv(Header),
    /// A row in each line.
    Jsonl,
    /// An NPY matrix.
    Npy,
    /// A stream or a file of Arrow batches.
    Arrow,
    /// A Parquet file.
    Parquet,
    /// 32-bit floats in little-endian order, row after row.
    F32,
    /// A tensor of a safetensors file.
    Safetensors,
}

/// What a body may be, beside JSON.
const BODIES: [&str; 8] = [CSV, JSONL, NPY, ARROW, "application/vnd.apache.arrow.file", PARQUET, F32, SAFETENSORS];

impl BodyForm {
    /// What the `Content-Type` says; JSON where there is none.
    ///
    /// # Errors
    /// It is none of these; the refusal lists them.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        Ok(match media_type(headers).as_str() {
            JSON | "" => Self::Json,
            CSV => Self::Csv(csv_header(headers)),
            name if JSONL_TOO.contains(&name) => Self::Jsonl,
            NPY => Self::Npy,
            ARROW | "application/vnd.apache.arrow.file" => Self::Arrow,
            PARQUET => Self::Parquet,
            F32 => Self::F32,
            SAFETENSORS => Self::Safetensors,
            other => {
                let detail = format!("the body is of type `{other}`; allowed are {JSON}, {}", BODIES.join(", "));
                return Err(Refusal::new(Code::UnsupportedMediaType, detail));
            }
        })
    }
}

/// What RFC 4180 has the parameter `header` say.
fn csv_header(headers: &HeaderMap) -> Header {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let told = MediaType::parse(value).ok().and_then(|kind| {
        kind.get_param(Name::new_unchecked("header")).map(|value| value.unquoted_str().to_ascii_lowercase())
    });
    match told.as_deref() {
        Some("present") => Header::Present,
        Some("absent") => Header::Absent,
        _ => Header::Auto,
    }
}

/// What the API document says of bytes, or of a text, that are not described further.
pub fn described(kind: &str) -> Content {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    let is_text = kind == CSV || kind == JSONL;
    let binary = Some(SchemaFormat::KnownFormat(KnownFormat::Binary));
    ContentBuilder::new().schema(Some(if is_text { schema } else { schema.format(binary) })).build()
}

/// Lists, wherever the document says that a body may be an NPY matrix, what else it may be.
pub fn describe_bodies(document: &mut OpenApi) {
    let operations = document.paths.paths.values_mut().filter_map(|path| path.post.as_mut());
    for body in operations.filter_map(|operation| operation.request_body.as_mut()) {
        if let RefOr::T(body) = body
            && body.content.contains_key(NPY)
        {
            body.content.extend(BODIES.map(|kind| (kind.to_owned(), described(kind).into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    fn wanted(accept: &'static str) -> Option<Form> {
        Form::wanted(None, &headers(header::ACCEPT, accept), PICTURES).ok()
    }

    #[test]
    fn the_accept_header_decides_by_quality_then_by_how_exactly_a_form_is_named() {
        for (accept, form) in [
            ("", Form::Json),
            ("*/*", Form::Json),
            ("application/*", Form::Json),
            ("application/x-npy", Form::Npy),
            ("Text/CSV; charset=utf-8", Form::Csv),
            ("text/*;q=0.5", Form::Csv),
            ("application/jsonl", Form::Jsonl),
            ("application/json;q=0.1, image/png;q=0.9", Form::Png),
            ("image/avif,image/webp,image/*,*/*;q=0.8", Form::Png),
            ("*/*, application/vnd.apache.parquet", Form::Parquet),
            ("application/json;q=0, application/*", Form::Jsonl),
            ("application/octet-stream;q=0.9, application/json;q=0.2, */*;q=0.1", Form::F32),
            ("text/html, application/xhtml+xml, */*;q=0.8", Form::Json),
            ("nonsense, image/png;q=2", Form::Png),
        ] {
            assert_eq!(wanted(accept), Some(form), "{accept}");
        }
        for accept in ["text/html", "image/svg+xml", "*/*;q=0", "application/json;q=0", "nonsense", "image/png;q=nan"] {
            assert_eq!(wanted(accept), None, "{accept}");
        }
        let two = HeaderMap::from_iter(
            ["text/html", "text/csv;q=0.5"].map(|value| (header::ACCEPT, HeaderValue::from_static(value))),
        );
        assert_eq!(Form::wanted(None, &two, NUMBERS), Ok(Form::Csv));
        assert_eq!(Form::wanted(Some(Form::Npy), &two, NUMBERS), Ok(Form::Npy));
        let refusal = Form::wanted(Some(Form::Png), &two, NUMBERS).unwrap_err();
        assert!(refusal.detail.contains("text/csv") && !refusal.detail.contains("image/png,"), "{refusal}");
    }

    #[test]
    fn the_content_type_says_what_a_body_is() {
        let of = |kind| BodyForm::of(&headers(header::CONTENT_TYPE, kind));
        assert_eq!(BodyForm::of(&HeaderMap::new()), Ok(BodyForm::Json));
        assert_eq!(of("application/json; charset=utf-8"), Ok(BodyForm::Json));
        assert_eq!(of("text/csv"), Ok(BodyForm::Csv(Header::Auto)));
        assert_eq!(of("text/csv; charset=utf-8; header=absent"), Ok(BodyForm::Csv(Header::Absent)));
        assert_eq!(of("text/csv; header=\"present\""), Ok(BodyForm::Csv(Header::Present)));
        for kind in BODIES {
            assert!(of(kind).is_ok_and(|form| form != BodyForm::Json), "{kind}");
        }
        let refusal = of("application/x-www-form-urlencoded").unwrap_err();
        assert!(BODIES.iter().all(|kind| refusal.detail.contains(kind)), "{refusal}");
    }
}
