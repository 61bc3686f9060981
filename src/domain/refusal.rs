//! The table of public error codes, and the refusal that carries one to whoever asked.
//!
//! A failed job stores the same codes that a failed request returns. Statuses of HTTP are given to codes in
//! `http/error.rs` and nowhere else.

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::limits::FAULTS_LISTED;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $category:ident, $retryable:literal;)*) => {
        /// A public error code. Clients may match on it; the texts beside it may change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// What it means, in a sentence.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc),+).trim_ascii(),)* }
            }

            /// Who can do something about it.
            pub fn category(self) -> Category {
                match self { $(Code::$name => Category::$category,)* }
            }

            /// Whether the same request may succeed later.
            pub fn retryable(self) -> bool {
                match self { $(Code::$name => $retryable,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    InvalidJson = "invalid_json", User, false;
    /// A field of the request is not what it must be.
    InvalidRequest = "invalid_request", User, false;
    /// The file cannot be read as the rows of a dataset.
    InvalidDataset = "invalid_dataset", User, false;
    /// The file is no model of this program, or a damaged one.
    InvalidModel = "invalid_model", User, false;
    /// Nothing of that kind has this id.
    NotFound = "not_found", User, false;
    /// The address exists, but not for this method.
    MethodNotAllowed = "method_not_allowed", User, false;
    /// The body is of a type that this address does not take.
    UnsupportedMediaType = "unsupported_media_type", User, false;
    /// The answer cannot be given in a form that was asked for.
    NotAcceptable = "not_acceptable", User, false;
    /// The body is larger than is allowed.
    TooLarge = "too_large", User, false;
    /// The dataset is used by a job that has not ended.
    DatasetInUse = "dataset_in_use", User, true;
    /// An alias points to the model, or a job that has not ended asks it.
    ModelInUse = "model_in_use", User, false;
    /// The model has a name and a version already.
    ModelRegistered = "model_registered", User, false;
    /// The upload has another number of bytes than the request goes on from.
    WrongOffset = "wrong_offset", User, false;
    /// The upload is not complete.
    UploadIncomplete = "upload_incomplete", User, true;
    /// Another request writes to the upload or reads it.
    UploadBusy = "upload_busy", User, true;
    /// The bytes that arrived do not have the checksum they were sent with.
    ChecksumMismatch = "checksum_mismatch", User, true;
    /// The version of the upload protocol is not spoken here.
    UnsupportedVersion = "unsupported_version", User, false;
    /// The job has already ended.
    JobEnded = "job_ended", User, false;
    /// The status of the job does not allow this.
    JobStatus = "job_status", User, true;
    /// The sweep has already ended.
    SweepEnded = "sweep_ended", User, false;
    /// The dataset has missing values, which this version cannot train on.
    MissingValues = "missing_values", User, false;
    /// The device that was asked for is not there.
    DeviceUnavailable = "device_unavailable", User, false;
    /// Training left the range of numbers before one epoch was done.
    Diverged = "diverged", User, false;
    /// The job needs more memory than its trainer may have.
    OutOfMemory = "out_of_memory", Capacity, false;
    /// The trainer ended without a result, more often than is tried.
    TrainerDied = "trainer_died", Server, false;
    /// The server has as much to do as it takes on; try again later.
    Overloaded = "overloaded", Capacity, true;
    /// The model has more bytes than the server keeps of models in memory.
    ModelTooLarge = "model_too_large", Capacity, false;
    /// The model was unloaded, and answers again when it is loaded.
    ModelUnloaded = "model_unloaded", User, true;
    /// The server is shutting down.
    ShuttingDown = "shutting_down", Capacity, true;
    /// The disk has no room.
    StorageFull = "storage_full", Capacity, true;
    /// The request took too long to arrive.
    Timeout = "timeout", User, true;
    /// The server failed; its log has the reason under the request id.
    Internal = "internal", Server, true;
}

// Written out, because a derived schema does not see names that a macro gives.
impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let names = Self::ALL.iter().map(|code| code.as_str());
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A public error code. Clients may match on it; the texts beside it may change."))
            .enum_values(Some(names))
            .into()
    }
}

impl ToSchema for Code {}

/// Who can do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// The request must change.
    User,
    /// The server is at fault.
    Server,
    /// There is not enough room, memory or time just now.
    Capacity,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// A JSON pointer into the body (`/model/settings/latent`), `?name` for a query parameter, or a place in a file
    /// (`/rows/3/columns/1`, counted from 0).
    pub pointer: String,
    /// A short code of the fault.
    pub code: String,
    /// The fault and what is allowed.
    pub detail: String,
}

/// An answer that says no: a code, a sentence, and every single fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The public code.
    pub code: Code,
    /// What happened, in a sentence for the person who asked.
    pub detail: String,
    /// Where it is wrong; empty when the refusal is about the whole.
    pub errors: Vec<Fault>,
}

impl Refusal {
    /// A refusal about the whole request.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new() }
    }

    /// A refusal about one place.
    pub fn at(code: Code, pointer: impl Into<String>, fault: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            code,
            errors: vec![Fault { pointer: pointer.into(), code: fault.to_owned(), detail: detail.clone() }],
            detail,
        }
    }

    /// The same refusal of something that stands elsewhere: pointers that begin with `from` begin with `to`.
    #[must_use]
    pub fn moved(mut self, from: &str, to: &str) -> Self {
        for fault in &mut self.errors {
            if let Some(rest) = fault.pointer.strip_prefix(from) {
                let pointer = format!("{to}{rest}");
                self.detail = self.detail.replace(&fault.pointer, &pointer);
                fault.pointer = pointer;
            }
        }
        self
    }

    /// A refusal because there is no such thing.
    pub fn not_found(noun: &str, id: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {noun} {id}"))
    }
}

/// Faults gathered while a request is checked, so that all are reported at once.
#[derive(Debug, Default)]
pub struct Faults {
    listed: Vec<Fault>,
    count: usize,
}

impl Faults {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, pointer: impl Into<String>, code: &str, detail: impl Into<String>) {
        self.count += 1;
        if self.listed.len() < FAULTS_LISTED {
            self.listed.push(Fault { pointer: pointer.into(), code: code.to_owned(), detail: detail.into() });
        }
    }

    /// Adds a fault when `value` is outside `range`.
    pub fn require_within<T: PartialOrd + std::fmt::Display>(
        &mut self,
        pointer: &str,
        value: T,
        range: std::ops::RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            let (low, high) = (range.start(), range.end());
            self.push(pointer, "out_of_range", format!("is {value}; allowed is {low} to {high}"));
        }
    }

    /// Takes over the faults of a part whose pointers are relative to `prefix`.
    pub fn extend_under(&mut self, prefix: &str, part: Faults) {
        for fault in &part.listed {
            self.push(format!("{prefix}{}", fault.pointer), &fault.code, fault.detail.clone());
        }
        self.count += part.count - part.listed.len();
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether one was found at a pointer, or within what it leads to.
    pub fn has_within(&self, pointer: &str) -> bool {
        let within = |fault: &Fault| {
            fault.pointer.strip_prefix(pointer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.listed.iter().any(within)
    }

    /// Whether as many were found as a refusal lists.
    pub fn is_full(&self) -> bool {
        self.count >= FAULTS_LISTED
    }

    /// Fine when nothing was found.
    ///
    /// # Errors
    /// A refusal with every fault, whose sentence repeats the first one.
    pub fn into_result(self, code: Code) -> Result<(), Refusal> {
        let Some(first) = self.listed.first() else { return Ok(()) };
        let mut detail = format!("{} {}", first.pointer, first.detail);
        if self.count > 1 {
            detail += &format!(" (and {} more)", self.count - 1);
        }
        Err(Refusal { code, detail, errors: self.listed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_explained() {
        let mut texts: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.title().ends_with('.'), "{code:?}");
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn every_fault_is_counted_and_a_bounded_number_listed() {
        let mut faults = Faults::new();
        for row in 0..1000 {
            faults.push(format!("/rows/{row}"), "ragged", "has 3 cells; the header has 4");
        }
        let refusal = faults.into_result(Code::InvalidDataset).unwrap_err();
        assert_eq!(refusal.errors.len(), FAULTS_LISTED);
        assert_eq!(refusal.detail, "/rows/0 has 3 cells; the header has 4 (and 999 more)");
    }

    #[test]
    fn ranges_refuse_nan() {
        let mut faults = Faults::new();
        faults.require_within("/lr", f64::NAN, 0.0..=1.0);
        assert!(!faults.is_empty());
    }
}
