//! Rows as the network has them, instead of in the user's columns and units.
//!
//! A prepared row has a number for each column of amounts and one for each level of a category; what is done to a column is found
//! when training begins, so only the model knows it. Nothing is done to a row that comes prepared, and nothing is undone of one that
//! is given so: a category is the probability of each of its levels then.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::data::dataset::{Column, Schema};
use crate::domain::refusal::{Code, Refusal};
use crate::serving::{Answer, Units};

/// Which rows are prepared, as the network has them, instead of in the user's columns and units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prepared {
    /// None.
    #[default]
    None,
    /// Those of the question.
    In,
    /// Those of the answer.
    Out,
    /// All.
    Both,
}

/// The rows there are about a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// It is about rows, and is answered with numbers of another kind.
    In,
    /// It is answered with rows.
    Out,
    /// Both.
    InAndOut,
    /// Both, and what is known of a row comes back as it came.
    Filled,
}

impl Rows {
    /// Whether a picture may be made of the answer.
    pub(super) fn are_given(self) -> bool {
        self != Self::In
    }

    fn allowed(self) -> &'static [(&'static str, Prepared)] {
        match self {
            Self::In => &[("in", Prepared::In)],
            Self::Out => &[("out", Prepared::Out)],
            Self::InAndOut => &[("in", Prepared::In), ("out", Prepared::Out), ("both", Prepared::Both)],
            Self::Filled => &[("both", Prepared::Both)],
        }
    }

    /// What the caller wants, where it goes with the question.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn units(self, wanted: Prepared) -> Result<Units, Refusal> {
        let (takes, gives) = match wanted {
            Prepared::None => (false, false),
            Prepared::In => (true, false),
            Prepared::Out => (false, true),
            Prepared::Both => (true, true),
        };
        if wanted == Prepared::None || self.allowed().iter().any(|(_, allowed)| *allowed == wanted) {
            return Ok(Units { prepared_in: takes, prepared_out: gives });
        }
        let names: Vec<&str> = self.allowed().iter().map(|(name, _)| *name).collect();
        let detail = format!("does not go with this question, which takes `{}`", names.join("`, `"));
        Err(Refusal::at(Code::InvalidRequest, "?prepared", "conflict", detail))
    }
}

/// The columns of prepared rows, from what the model says of them: those of amounts keep their name, and each level of a category has
/// a column of its own.
pub(super) fn schema(model: &Schema, slots: &Answer) -> Schema {
    let mut levels = slots.beside.iter().flatten();
    let columns = model.feature_columns().zip(&slots.values).flat_map(|(column, count)| {
        levels
            .by_ref()
            .take(*count as usize)
            .map(|level| Column::of_numbers(slot_name(column, *level)))
            .collect::<Vec<_>>()
    });
    Schema { columns: columns.collect(), image: None }
}

fn slot_name(column: &Column, level: f32) -> String {
    match column.text(level) {
        _ if level.is_nan() => column.name.clone(),
        Some(text) => format!("{}={text}", column.name),
        None => format!("{}={level}", column.name),
    }
}

/// Rows of a dataset are what they are.
pub(super) fn refuse_reference(units: Units) -> Result<(), Refusal> {
    if !units.prepared_in {
        return Ok(());
    }
    let detail = "goes without `prepared` rows in: those of a dataset are in the units of its columns";
    Err(Refusal::at(Code::InvalidRequest, "?dataset", "conflict", detail))
}
