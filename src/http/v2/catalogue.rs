//! The tensors that a model takes and gives, by name.
//!
//! Rows are one tensor, `rows`, with a number a column. Of a table with texts they are rather a tensor for each column, called as
//! the column is: texts of a category, numbers of the others. Both are taken and given wherever rows are.

use std::borrow::Cow;
use std::collections::HashMap;

use super::tensors::Datatype;
use crate::data::dataset::Column;
use crate::store::models::Model;

/// The tensor of rows.
pub(super) const ROWS: &str = "rows";
/// The tensor of codes.
pub(super) const CODES: &str = "codes";

/// What can be asked of a model as a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Output {
    Codes,
    Spread,
    Rows,
    RowsSpread,
    Errors,
    Score,
    Anomaly,
    IsAnomaly,
    Reconstruction,
    LogLikelihood,
    StandardError,
    EffectiveSamples,
    Elbo,
    Contributions,
    Predictions,
    PredictionsSpread,
    /// A feature column, by its place among them.
    Column(usize),
    /// A label column.
    Label(usize),
}

/// Outputs that are called alike for every model. A column of such a name is called `column.` and its name.
const NAMES: &[(&str, Output)] = &[
    (CODES, Output::Codes),
    ("spread", Output::Spread),
    (ROWS, Output::Rows),
    ("rows_spread", Output::RowsSpread),
    ("errors", Output::Errors),
    ("score", Output::Score),
    ("anomaly", Output::Anomaly),
    ("is_anomaly", Output::IsAnomaly),
    ("reconstruction", Output::Reconstruction),
    ("log_likelihood", Output::LogLikelihood),
    ("standard_error", Output::StandardError),
    ("effective_samples", Output::EffectiveSamples),
    ("elbo", Output::Elbo),
    ("contributions", Output::Contributions),
    ("predictions", Output::Predictions),
    ("predictions_spread", Output::PredictionsSpread),
];

impl Output {
    /// What the draws of a density tell.
    pub const DENSITY: [Self; 4] = [Self::LogLikelihood, Self::StandardError, Self::EffectiveSamples, Self::Elbo];
    /// What every score tells.
    pub const SCORE: [Self; 4] = [Self::Score, Self::Anomaly, Self::IsAnomaly, Self::Reconstruction];
}

/// The tensor of a column.
pub(super) fn column_name(column: &Column) -> Cow<'_, str> {
    match NAMES.iter().any(|(name, _)| *name == column.name) {
        true => Cow::Owned(format!("column.{}", column.name)),
        false => Cow::Borrowed(&column.name),
    }
}

/// A tensor that a model takes or gives.
pub(super) struct Tensor<'a> {
    pub name: Cow<'a, str>,
    pub datatype: Datatype,
    /// Elements of one row.
    pub width: usize,
    /// Whether another tensor may stand in its place.
    pub optional: bool,
}

/// The tensors of a model.
pub(super) struct Catalogue<'a> {
    model: &'a Model,
    features: Vec<&'a Column>,
    labels: Vec<&'a Column>,
}

impl<'a> Catalogue<'a> {
    pub fn of(model: &'a Model) -> Self {
        let labels = match model.spec.learns_labels(&model.schema) {
            true => model.schema.label_columns().collect(),
            false => Vec::new(),
        };
        Self { model, features: model.schema.feature_columns().collect(), labels }
    }

    /// The feature columns.
    pub fn features(&self) -> &[&'a Column] {
        &self.features
    }

    /// The label columns that the model tells.
    pub fn labels(&self) -> &[&'a Column] {
        &self.labels
    }

    /// Width of the code.
    pub fn latent(&self) -> usize {
        self.model.spec.model.latent() as usize
    }

    /// What a model of this kind takes. Rows are wanted unless codes are given, or nothing is for a sample.
    pub fn inputs(&self) -> Vec<Tensor<'a>> {
        let number = |name, width, optional| Tensor { name, datatype: Datatype::Fp32, width, optional };
        let mut inputs = match self.rows()[..] {
            [Output::Rows] => vec![number(ROWS.into(), self.features.len(), false)],
            _ => self.features.iter().map(|column| of_column(column)).collect(),
        };
        inputs.push(number(CODES.into(), self.latent(), true));
        inputs
    }

    /// What a model of this kind gives for rows.
    pub fn outputs(&self) -> Vec<Output> {
        let kind = &self.model.spec.model;
        let mut outputs = self.codes();
        outputs.extend(self.rows());
        outputs.push(Output::Errors);
        outputs.extend(Output::SCORE);
        if kind.has_density() {
            outputs.extend(Output::DENSITY);
        }
        outputs.push(Output::Contributions);
        outputs.extend(self.predictions());
        outputs
    }

    /// Codes, and their spread where they have one.
    pub fn codes(&self) -> Vec<Output> {
        let spread = self.model.spec.model.is_stochastic().then_some(Output::Spread);
        std::iter::once(Output::Codes).chain(spread).collect()
    }

    /// Rows as one tensor, or where they have texts as one for each column.
    pub fn rows(&self) -> Vec<Output> {
        match have_texts(&self.features) {
            true => (0..self.features.len()).map(Output::Column).collect(),
            false => vec![Output::Rows],
        }
    }

    /// Predictions of labels in the same way, and their spread; none where the model learned no labels.
    pub fn predictions(&self) -> Vec<Output> {
        let mut outputs = match (self.labels.len(), have_texts(&self.labels)) {
            (0, _) => return Vec::new(),
            (count, true) => (0..count).map(Output::Label).collect(),
            (_, false) => vec![Output::Predictions],
        };
        outputs.push(Output::PredictionsSpread);
        outputs
    }

    /// The tensor of an output.
    pub fn describe(&self, output: Output) -> Tensor<'a> {
        let name = NAMES.iter().find(|(_, named)| *named == output).map_or("", |(name, _)| *name);
        let tensor = |datatype, width| Tensor { name: name.into(), datatype, width, optional: false };
        match output {
            Output::Column(position) => of_column(self.features[position]),
            Output::Label(position) => of_column(self.labels[position]),
            Output::Codes | Output::Spread => tensor(Datatype::Fp32, self.latent()),
            Output::Rows | Output::RowsSpread | Output::Contributions => tensor(Datatype::Fp32, self.features.len()),
            Output::Predictions | Output::PredictionsSpread => tensor(Datatype::Fp32, self.labels.len()),
            Output::IsAnomaly => tensor(Datatype::Bool, 1),
            _ => tensor(Datatype::Fp32, 1),
        }
    }

    /// The outputs of these names, in their order; those that are unknown as `None`.
    pub fn find<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<Option<Output>> {
        let mut columns: Option<HashMap<Cow<'_, str>, Output>> = None;
        let mut of_column = |name: &str| {
            let columns = columns.get_or_insert_with(|| {
                let features = self.features.iter().enumerate();
                let features = features.map(|(position, column)| (column_name(column), Output::Column(position)));
                let labels = self.labels.iter().enumerate();
                features.chain(labels.map(|(position, label)| (column_name(label), Output::Label(position)))).collect()
            });
            columns.get(name).copied()
        };
        let named = |name: &str| NAMES.iter().find(|(known, _)| *known == name).map(|(_, output)| *output);
        names.map(|name| named(name).or_else(|| of_column(name))).collect()
    }
}

/// Whether one of the columns has texts.
fn have_texts(columns: &[&Column]) -> bool {
    columns.iter().any(|column| !column.levels.is_empty())
}

fn of_column(column: &Column) -> Tensor<'_> {
    let datatype = if column.levels.is_empty() { Datatype::Fp32 } else { Datatype::Bytes };
    Tensor { name: column_name(column), datatype, width: 1, optional: false }
}
