//! Model files from elsewhere: whatever is wrong with them is found before memory is taken by what they say.
//!
//! The header is read and checked first, then the network that it describes is laid out without its numbers, and the tensors of
//! the file are compared with that: exactly these names, these shapes, 32-bit floats, all of them finite.
//!
//! Start reading with [`inspect`].

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use safetensors::tensor::{Dtype, SafeTensors};

use super::artifact::{self, ModelHeader};
use super::bundle::{Bundle, BundleError};
use super::likelihoods::wanted;
use crate::data::dataset::{Column, Role, Schema};
use crate::data::preparation::Wanted;
use crate::domain::limits::{COLUMN_NAME_CHARS, COLUMNS, LEVELS, PARAMETERS};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::domain::treatment::Treatment;
use crate::models::Sampling;
use crate::models::likelihood::LikelihoodSpec;
use crate::models::sampler::Sampler;

/// Checks the bytes of a model file, which may lie on the disk.
///
/// # Errors
/// A refusal with every fault that was found.
pub fn inspect(file: &[u8]) -> Result<ModelHeader, Refusal> {
    let end = Bundle::start_bytes(file).map_err(|error| unreadable(&error))?;
    if end > file.len() {
        let detail = format!("the file has {} bytes, and declares {end} before its first tensor", file.len());
        return Err(broken(detail));
    }
    let header = ModelHeader::read(file).map_err(|error| unreadable(&error))?;
    check_header(&header)?;
    let tensors =
        SafeTensors::deserialize(file).map_err(|error| broken(format!("the safetensors file is damaged: {error}")))?;
    let sampler = match header.spec.model.sampling() {
        Sampling::Prior => Vec::new(),
        Sampling::Fitted | Sampling::Chain => {
            let first = |name: &str| tensors.tensor(name).ok().and_then(|view| view.shape().first().copied());
            Sampler::expected(header.spec.model.latent() as usize, first)
        }
    };
    let laid_out = catch_unwind(AssertUnwindSafe(|| artifact::lay_out(&header)));
    let Ok(laid_out) = laid_out else {
        return Err(at("/header/spec", "conflict", "describes a network that cannot be built for these columns"));
    };
    let count: u64 = laid_out.iter().map(|(_, shape)| shape.iter().map(|side| *side as u64).product::<u64>()).sum();
    if count > PARAMETERS.saturating_mul(2) {
        let detail = format!("describes a network of {count} numbers; allowed are up to {PARAMETERS} that are trained");
        return Err(at("/header/spec", "too_large", detail));
    }
    compare(laid_out.into_iter().chain(sampler).collect(), &tensors)?;
    Ok(header)
}

/// The columns that a model takes and the labels it learned, as a dataset would have them.
pub fn schema(header: &ModelHeader) -> Schema {
    Schema { columns: header.columns.iter().chain(&header.labels).cloned().collect(), image: header.shape.image }
}

fn at(pointer: &str, fault: &str, detail: impl Into<String>) -> Refusal {
    Refusal::at(Code::InvalidModel, pointer, fault, detail)
}

fn broken(detail: String) -> Refusal {
    at("/", "broken", detail)
}

fn unreadable(error: &BundleError) -> Refusal {
    match error {
        BundleError::Foreign => at("/", "foreign", error.to_string()),
        BundleError::Header(_) | BundleError::Content(_) => at("/header", "invalid", error.to_string()),
        _ => broken(error.to_string()),
    }
}

fn check_header(header: &ModelHeader) -> Result<(), Refusal> {
    let mut spec = Faults::new();
    header.spec.find_faults(&mut spec);
    let mut faults = Faults::new();
    faults.extend_under("/header/spec", spec);
    let width = header.shape.width;
    faults.require_within("/header/shape/width", width, 1..=COLUMNS);
    for (name, count) in [("columns", header.columns.len()), ("preparation", header.preparation.width())] {
        if count != width {
            faults.push(format!("/header/{name}"), "wrong_length", format!("has {count} columns; a row has {width}"));
        }
    }
    if header.target.width() != header.labels.len() {
        let detail = format!("has {} columns; there are {} labels", header.target.width(), header.labels.len());
        faults.push("/header/target", "wrong_length", detail);
    }
    if header.shape.image.is_some_and(|image| image.pixels() != Some(width)) {
        faults.push("/header/shape/image", "wrong_shape", format!("does not make {width} pixels"));
    }
    let mut names = HashSet::new();
    for (place, columns, role) in [("columns", &header.columns, Role::Feature), ("labels", &header.labels, Role::Label)]
    {
        for (position, column) in columns.iter().enumerate() {
            if faults.is_full() {
                break;
            }
            let fault = unfit(column, role).or_else(|| {
                (!names.insert(column.name.as_str())).then(|| format!("has the name `{}` a second time", column.name))
            });
            if let Some(fault) = fault {
                faults.push(format!("/header/{place}/{position}"), "invalid", fault);
            }
        }
    }
    check_treatments(&header.spec.likelihood, &header.columns, &header.preparation.columns, "preparation", &mut faults);
    check_treatments(&header.spec.target, &header.labels, &header.target.columns, "target", &mut faults);
    if let Some(known) = &header.calibration {
        let all = [Some(&known.reconstruction), known.log_likelihood.as_ref()];
        let is_sound = |quantiles: &&Vec<f32>| {
            !quantiles.is_empty() && quantiles.is_sorted() && quantiles.iter().all(|value| value.is_finite())
        };
        if known.rows == 0 || !all.iter().flatten().all(is_sound) {
            faults.push("/header/calibration", "invalid", "is not made of quantiles in ascending order");
        }
    }
    faults.into_result(Code::InvalidModel)
}

fn unfit(column: &Column, role: Role) -> Option<String> {
    if column.role != role {
        Some("has another role than its place says".to_owned())
    } else if column.profile.is_none() {
        Some("has no profile, which says that it is not kept".to_owned())
    } else if column.name.chars().count() > COLUMN_NAME_CHARS {
        Some(format!("has a name of more than {COLUMN_NAME_CHARS} characters"))
    } else if column.levels.len() as u64 > LEVELS {
        Some(format!("has {} levels; allowed are up to {LEVELS}", column.levels.len()))
    } else {
        None
    }
}

fn check_treatments(
    spec: &LikelihoodSpec,
    columns: &[Column],
    treatments: &[Treatment],
    place: &str,
    faults: &mut Faults,
) {
    for (position, (column, treatment)) in columns.iter().zip(treatments).enumerate() {
        if faults.is_full() {
            return;
        }
        let kind = spec.kind_of(&column.name);
        let fits = matches!(
            (wanted(kind), treatment),
            (Wanted::Scaled, Treatment::Linear { .. } | Treatment::Quantile { .. })
                | (Wanted::Unit, Treatment::Linear { .. })
                | (Wanted::Log, Treatment::Log { .. })
                | (Wanted::LogCount, Treatment::LogCount { .. })
                | (Wanted::OneHot, Treatment::OneHot { .. })
                | (Wanted::Rank, Treatment::Rank { .. })
        );
        let pointer = || format!("/header/{place}/{position}");
        if !fits {
            faults.push(pointer(), "conflict", format!("does not go with the density `{}`", kind.as_str()));
        } else if let Some(fault) = unsound(treatment) {
            faults.push(pointer(), "invalid", fault);
        }
    }
}

fn unsound(treatment: &Treatment) -> Option<String> {
    match treatment {
        Treatment::Linear { shift, scale, .. }
        | Treatment::Log { shift, scale }
        | Treatment::LogCount { shift, scale } => {
            let is_sound = shift.is_finite() && scale.is_finite() && *scale != 0.0;
            (!is_sound).then(|| format!("shifts by {shift} and divides by {scale}"))
        }
        Treatment::Quantile { knots } => {
            let values = || knots.iter().map(|knot| knot.value);
            let normals = || knots.iter().map(|knot| knot.normal);
            let is_sound = !knots.is_empty()
                && values().is_sorted()
                && normals().is_sorted()
                && values().chain(normals()).all(f32::is_finite);
            (!is_sound).then(|| "has no knots, or not in ascending order".to_owned())
        }
        Treatment::OneHot { levels } | Treatment::Rank { levels } => {
            let is_sound = (1..=LEVELS as usize).contains(&levels.len())
                && levels.is_sorted()
                && levels.iter().all(|level| level.is_finite());
            (!is_sound).then(|| format!("has {} levels; allowed are 1 to {LEVELS} in ascending order", levels.len()))
        }
    }
}

/// Reports every tensor that is missing, of another shape or type, not finite, or of no use.
fn compare(expected: BTreeMap<String, Vec<usize>>, tensors: &SafeTensors<'_>) -> Result<(), Refusal> {
    let mut faults = Faults::new();
    for (name, shape) in &expected {
        if faults.is_full() {
            break;
        }
        let mut fault = |code: &str, detail: String| faults.push(format!("/tensors/{name}"), code, detail);
        match tensors.tensor(name) {
            Err(_) => fault("missing", "is missing; the spec in the header describes it".to_owned()),
            Ok(view) if view.dtype() != Dtype::F32 => {
                fault("wrong_type", format!("is of {:?}; tensors are of 32-bit floats (F32)", view.dtype()));
            }
            Ok(view) if view.shape() != shape.as_slice() => {
                fault("wrong_shape", format!("has the shape {:?}; its spec describes {shape:?}", view.shape()));
            }
            Ok(view) => {
                let mut values = view.data().as_chunks().0.iter().map(|value| f32::from_le_bytes(*value));
                if let Some(position) = values.position(|value| !value.is_finite()) {
                    fault("not_finite", format!("has a value that is no finite number, at position {position}"));
                }
            }
        }
    }
    for name in tensors.names().into_iter().filter(|name| !expected.contains_key(*name)) {
        let shown: String = name.chars().take(80).collect();
        faults.push(
            format!("/tensors/{shown}"),
            "unknown_tensor",
            "is of no use to the model that the header describes",
        );
    }
    faults.into_result(Code::InvalidModel)
}
