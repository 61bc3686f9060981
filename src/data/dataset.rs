//! What is known of a dataset: its columns, their roles, and a profile of each.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::IngestSpec;
use super::sink::Field;
use crate::domain::limits::{COLUMN_NAME_CHARS, COLUMNS, LEVELS};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::domain::shape::{ImageShape, RowShape};

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Fed to the model.
    Feature,
    /// Kept, but never fed to a model that learns without labels; splits can be stratified by it.
    Label,
    /// Says which row this is; never fed to a model.
    Id,
    /// Not used.
    Ignore,
}

/// What the values of a column look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Any number.
    Real,
    /// Numbers above zero, not all whole.
    Positive,
    /// Whole numbers from zero up.
    Count,
    /// Only 0 and 1, or one of them.
    Binary,
    /// One of a few levels that have no order.
    Categorical,
    /// One of a few levels that have one.
    Ordinal,
    /// Texts that are no levels of a category; they are not kept.
    Text,
    /// Not looked at, because the column is ignored.
    Unknown,
}

impl Role {
    /// Every role, by name.
    pub const ALL: [(&'static str, Self); 4] =
        [("feature", Self::Feature), ("label", Self::Label), ("id", Self::Id), ("ignore", Self::Ignore)];
}

impl Kind {
    /// The kinds that a caller may ask for, by name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("real", Self::Real),
        ("positive", Self::Positive),
        ("count", Self::Count),
        ("binary", Self::Binary),
        ("categorical", Self::Categorical),
        ("ordinal", Self::Ordinal),
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("text", |(name, _)| name)
    }

    /// Whether its values are levels of a category.
    pub fn is_class(self) -> bool {
        matches!(self, Self::Categorical | Self::Ordinal)
    }
}

/// Figures of one column over all rows. Missing values count only in `missing`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// Smallest value; absent when every value is missing.
    pub minimum: Option<f64>,
    /// Largest value.
    pub maximum: Option<f64>,
    /// Mean.
    pub mean: Option<f64>,
    /// Standard deviation of the population (divided by n).
    pub deviation: Option<f64>,
    /// How many rows have no value here.
    pub missing: u64,
    /// How many different values there are.
    pub distinct: u64,
    /// False when counting stopped: there are at least `distinct`.
    pub distinct_is_exact: bool,
    /// Whether every value is a whole number.
    #[serde(default)]
    pub whole: bool,
    /// Whether every value is one more than that of the row before.
    #[serde(skip)]
    pub(super) counts_up: bool,
}

/// One column of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Column {
    /// The name in the header, or `c0`, `c1` … where there is none.
    pub name: String,
    /// What its values look like.
    pub kind: Kind,
    /// What it is for.
    pub role: Role,
    /// Why it has this role or kind, where that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The texts of a category, in their order; a canonical row holds the position of one. Empty for columns of numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<String>,
    /// Figures; absent for a column that is not kept.
    pub profile: Option<Profile>,
}

impl Column {
    /// A column of numbers that no file has, such as those of a code.
    pub fn of_numbers(name: impl Into<String>) -> Self {
        let (kind, role, profile) = (Kind::Real, Role::Feature, Some(Profile::default()));
        Self { name: name.into(), kind, role, reason: None, levels: Vec::new(), profile }
    }

    /// Whether the canonical rows hold it.
    pub fn is_kept(&self) -> bool {
        self.profile.is_some()
    }

    /// Gives it a role for a reason, unless the caller gave it one.
    pub(super) fn infer(&mut self, role: Role, reason: &str) {
        if self.reason.is_none() {
            self.role = role;
        }
        self.reason = Some(reason.to_owned());
    }

    pub(super) fn describe(&mut self, profile: Profile, rows: u64) {
        self.kind = profile.kind();
        if self.reason.is_none() {
            self.reason = Some(why(&profile, self.kind, rows));
        }
        self.profile = Some(profile);
    }

    /// Describes a category. What was counted are numbers of levels, which have no mean.
    pub(super) fn describe_levels(&mut self, profile: Profile, levels: Vec<String>, ordered: bool) {
        self.kind = if ordered { Kind::Ordinal } else { Kind::Categorical };
        if self.reason.is_none() {
            self.reason = Some(format!("{} different texts", levels.len()));
        }
        let extremes = profile.minimum.is_some().then(|| levels.len().saturating_sub(1) as f64);
        self.profile =
            Some(Profile { minimum: extremes.map(|_| 0.0), maximum: extremes, mean: None, deviation: None, ..profile });
        self.levels = levels;
    }

    /// The text of a value, where the column has texts.
    pub fn text(&self, value: f32) -> Option<&str> {
        self.levels.get(value as usize).map(String::as_str).filter(|_| value >= 0.0)
    }

    /// The value that stands for a text.
    pub fn value_of(&self, text: &str) -> Option<f32> {
        self.levels.iter().position(|level| level == text.trim()).map(|position| position as f32)
    }

    /// Why its values cannot be of a kind; `None` when they can.
    pub(super) fn unfit(&self, kind: Kind) -> Option<String> {
        let profile = self.profile.as_ref()?;
        let fits = match kind {
            Kind::Categorical | Kind::Ordinal if profile.distinct_is_exact && profile.distinct <= LEVELS => true,
            Kind::Categorical | Kind::Ordinal => {
                return Some(format!(
                    "has {} or more different values; a category has up to {LEVELS}",
                    profile.distinct
                ));
            }
            _ if !self.levels.is_empty() => return Some("holds texts, which are categorical or ordinal".to_owned()),
            Kind::Binary => profile.kind() == Kind::Binary,
            Kind::Count => matches!(profile.kind(), Kind::Binary | Kind::Count),
            Kind::Positive => profile.minimum.is_none_or(|minimum| minimum > 0.0),
            Kind::Real => true,
            Kind::Text | Kind::Unknown => false,
        };
        (!fits).then(|| {
            let range = |value: Option<f64>| value.map_or("nothing".to_owned(), |value| value.to_string());
            let (low, high) = (range(profile.minimum), range(profile.maximum));
            format!("has values from {low} to {high}, not all of which are {}", kind.as_str())
        })
    }
}

/// Why a column of numbers is of a kind.
fn why(profile: &Profile, kind: Kind, rows: u64) -> String {
    if profile.missing == rows {
        return "no row has a value".to_owned();
    }
    match kind {
        Kind::Binary => "only 0 and 1",
        Kind::Count => "whole numbers from zero up",
        Kind::Positive => "numbers above zero",
        _ => "numbers",
    }
    .to_owned()
}

impl Profile {
    /// The kind that the values suggest.
    pub(super) fn kind(&self) -> Kind {
        match (self.minimum, self.maximum) {
            (Some(low), Some(high)) if self.whole && low >= 0.0 && high <= 1.0 => Kind::Binary,
            (Some(low), _) if self.whole && low >= 0.0 => Kind::Count,
            (Some(low), _) if low > 0.0 => Kind::Positive,
            _ => Kind::Real,
        }
    }
}

/// The columns of a dataset, and the image they make when they are pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Schema {
    /// Every column of the file, in its order.
    pub columns: Vec<Column>,
    /// The shape of the image that the feature columns are the pixels of.
    pub image: Option<ImageShape>,
}

impl Schema {
    /// The columns that the canonical rows hold, in their order.
    pub fn kept(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.is_kept())
    }

    /// Where the feature columns stand in a canonical row.
    pub fn features(&self) -> Vec<usize> {
        self.positions(Role::Feature)
    }

    /// Where the label columns stand in a canonical row.
    pub fn labels(&self) -> Vec<usize> {
        self.positions(Role::Label)
    }

    /// The feature columns, in their order.
    pub fn feature_columns(&self) -> impl Iterator<Item = &Column> {
        self.kept().filter(|column| column.role == Role::Feature)
    }

    /// The label columns, in their order.
    pub fn label_columns(&self) -> impl Iterator<Item = &Column> {
        self.kept().filter(|column| column.role == Role::Label)
    }

    /// Whether values of feature columns are missing.
    pub fn has_gaps(&self) -> bool {
        self.feature_columns().any(|column| column.profile.as_ref().is_some_and(|profile| profile.missing > 0))
    }

    /// The shape that a model of these rows has.
    pub fn row_shape(&self) -> RowShape {
        RowShape { width: self.features().len(), image: self.image }
    }

    fn positions(&self, role: Role) -> Vec<usize> {
        self.kept().enumerate().filter(|(_, column)| column.role == role).map(|(position, _)| position).collect()
    }
}

/// Columns with their roles, from what the format and the caller say of them.
pub(super) fn columns(fields: &[Field], spec: &IngestSpec) -> Result<Vec<Column>, Refusal> {
    let mut faults = Faults::new();
    if fields.is_empty() {
        return Err(Refusal::at(Code::InvalidDataset, "/columns", "empty", "the file has no columns"));
    }
    if fields.len() > COLUMNS {
        let detail = format!("are {}; allowed are up to {COLUMNS}", fields.len());
        return Err(Refusal::at(Code::InvalidDataset, "/columns", "too_many", detail));
    }
    let mut seen = HashMap::new();
    for (position, Field { name, .. }) in fields.iter().enumerate() {
        if name.chars().count() > COLUMN_NAME_CHARS {
            let detail = format!("has a name of more than {COLUMN_NAME_CHARS} characters");
            faults.push(format!("/columns/{position}"), "too_long", detail);
        }
        if let Some(first) = seen.insert(name.as_str(), position) {
            let detail = format!("is called `{name}`, as column {first} already is (columns are counted from 0)");
            faults.push(format!("/columns/{position}"), "duplicate", detail);
        }
    }
    let roles: HashMap<&str, Role> = spec.roles.iter().map(|(name, role)| (name.as_str(), *role)).collect();
    let mut named: HashMap<&str, (&str, Role)> = HashMap::new();
    for (name, role) in &spec.roles {
        let parameter = role.parameter();
        if !seen.contains_key(name.as_str()) && !spec.passes_over_absent {
            faults.push(parameter, "unknown_column", unknown(name, fields));
        }
        if let Some((other, _)) = named.insert(name, (parameter, *role)).filter(|(_, other)| other != role) {
            faults.push(parameter, "conflict", format!("names `{name}`, which `{}` names too", &other[1..]));
        }
    }
    let others = spec.kinds.iter().map(|(name, _)| ("?kind", name));
    for (parameter, name) in others.chain(spec.levels.iter().map(|(name, _)| ("?levels", name))) {
        if !seen.contains_key(name.as_str()) && !spec.passes_over_absent {
            faults.push(parameter, "unknown_column", unknown(name, fields));
        }
    }
    // Who names features means no others.
    let chosen = spec.roles.iter().any(|(_, role)| *role == Role::Feature);
    let columns: Vec<Column> = fields
        .iter()
        .map(|field| {
            let asked = roles.get(field.name.as_str()).copied();
            let (role, reason) = match asked.or(field.role) {
                Some(role) => (role, Some(if asked.is_some() { "as asked" } else { "as the file says" })),
                None if chosen => (Role::Ignore, Some("not among the features that were asked for")),
                None => (Role::Feature, None),
            };
            Column {
                name: field.name.clone(),
                kind: Kind::Unknown,
                role,
                reason: reason.map(str::to_owned),
                levels: Vec::new(),
                profile: None,
            }
        })
        .collect();
    if faults.is_empty() && !columns.iter().any(|column| column.role == Role::Feature) {
        faults.push("/columns", "no_features", "leave none to feed a model: every column is a label or ignored");
    }
    faults.into_result(Code::InvalidDataset)?;
    Ok(columns)
}

fn unknown(name: &str, fields: &[Field]) -> String {
    let some: Vec<&str> = fields.iter().take(12).map(|field| field.name.as_str()).collect();
    format!("names `{name}`; the columns are {}", some.join(", "))
}

/// Gives columns the kinds that were asked for, where their values allow it.
pub(super) fn settle_kinds(columns: &mut [Column], spec: &IngestSpec) -> Result<(), Refusal> {
    let (mut faults, said) = (Faults::new(), spec.by_name());
    for column in columns.iter_mut().filter(|column| column.is_kept()) {
        let Some(kind) = said.get(column.name.as_str()).and_then(|given| given.kind) else { continue };
        match column.unfit(kind) {
            Some(fault) => {
                faults.push("?kind", "wrong_kind", format!("says `{}:{}`, and it {fault}", column.name, kind.as_str()))
            }
            None => column.kind = kind,
        }
    }
    faults.into_result(Code::InvalidDataset)
}

/// Makes identifiers of columns of numbers whose name says so, where every value differs; and of one without a name in front of
/// all others that counts the rows.
pub(super) fn infer_ids(columns: &mut [Column], spec: &IngestSpec, rows: u64) {
    const ROWS: u64 = 10;
    let said = spec.by_name();
    let mut features = columns.iter().filter(|column| column.role == Role::Feature && column.is_kept()).count();
    for column in columns.iter_mut().filter(|column| column.role == Role::Feature && column.levels.is_empty()) {
        let Some(profile) = &column.profile else { continue };
        let given = said.get(column.name.as_str()).copied().unwrap_or_default();
        if given.role.is_some() || given.kind.is_some() || rows < ROWS || features < 2 {
            continue;
        }
        let name = column.name.to_lowercase();
        let called = matches!(name.as_str(), "id" | "index" | "rownames" | "rowid" | "row_id" | "unnamed: 0")
            || name.ends_with("_id");
        let differs = profile.missing == 0 && profile.whole && (profile.distinct == rows || !profile.distinct_is_exact);
        let counts = profile.counts_up && matches!(profile.minimum, Some(0.0 | 1.0)) && profile.missing == 0;
        let from_start = counts && name == "c0";
        if (called && differs) || from_start {
            column.role = Role::Id;
            column.reason =
                Some(if from_start { "it counts the rows" } else { "every row has another number here" }.to_owned());
            features -= 1;
        }
    }
}

/// What is to be changed of a dataset that is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// Another role.
    pub role: Option<Role>,
    /// Another kind.
    pub kind: Option<Kind>,
}

impl Schema {
    /// Gives columns other roles and kinds, by name. An image stays only while the features are its pixels.
    ///
    /// # Errors
    /// A column that is not there or not kept, or a kind that its values do not have.
    pub fn amend(
        &self,
        changes: &BTreeMap<String, Change>,
        image: Option<Option<ImageShape>>,
    ) -> Result<Self, Refusal> {
        let mut faults = Faults::new();
        let mut amended = self.clone();
        amended.image = image.unwrap_or(self.image);
        for (name, change) in changes {
            let place = format!("/columns/{name}");
            let Some(column) = amended.columns.iter_mut().find(|column| column.name == *name) else {
                let some: Vec<&str> = self.columns.iter().take(12).map(|column| column.name.as_str()).collect();
                faults.push(place, "unknown_column", format!("is no column; the columns are {}", some.join(", ")));
                continue;
            };
            if !column.is_kept() {
                if change.role.is_some_and(|role| matches!(role, Role::Feature | Role::Label)) || change.kind.is_some()
                {
                    faults.push(
                        place,
                        "not_kept",
                        "was not kept when the file was read; upload it again to use this column",
                    );
                } else if let Some(role) = change.role {
                    column.role = role;
                }
                continue;
            }
            if let Some(kind) = change.kind {
                match column.unfit(kind) {
                    Some(fault) => faults.push(format!("{place}/kind"), "wrong_kind", fault),
                    None => column.kind = kind,
                }
            }
            column.role = change.role.unwrap_or(column.role);
            column.reason = Some("as asked".to_owned());
        }
        if faults.is_empty() && amended.features().is_empty() {
            faults.push("/columns", "no_features", "leave none to feed a model");
        }
        if let Some(image) = amended.image.filter(|image| image.pixels() != Some(amended.features().len())) {
            let detail = format!(
                "is {image}, which does not make {} pixels, the number of feature columns",
                amended.features().len()
            );
            faults.push("/image", "wrong_shape", detail);
        }
        faults.into_result(Code::InvalidRequest)?;
        Ok(amended)
    }
}

impl Role {
    /// The query parameter that gives it.
    fn parameter(self) -> &'static str {
        match self {
            Self::Feature => "?feature",
            Self::Label => "?label",
            Self::Id => "?id",
            Self::Ignore => "?ignore",
        }
    }
}

/// What a caller said of one column.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// What it is for.
    pub role: Option<Role>,
    /// What its values look like.
    pub kind: Option<Kind>,
    /// Its levels, in their order.
    pub levels: Option<&'a [String]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::data::sink::Holds;

    fn fields(names: &[&str]) -> Vec<Field> {
        names.iter().map(|name| Field::new(*name, Holds::Numbers)).collect()
    }

    fn kept(name: &str, role: Role, whole: bool, counts_up: bool) -> Column {
        let profile = Profile {
            minimum: Some(1.0),
            maximum: Some(20.0),
            mean: Some(10.5),
            deviation: Some(5.8),
            missing: 0,
            distinct: 20,
            distinct_is_exact: true,
            whole,
            counts_up,
        };
        Column {
            name: name.to_owned(),
            kind: Kind::Count,
            role,
            reason: None,
            levels: Vec::new(),
            profile: Some(profile),
        }
    }

    #[test]
    fn features_are_found_among_the_kept_columns() {
        let column = |name, role| kept(name, role, true, false);
        let mut columns = vec![column("a", Role::Feature), column("y", Role::Label), column("b", Role::Feature)];
        columns.insert(0, Column { profile: None, ..column("id", Role::Id) });
        let schema = Schema { columns, image: None };
        assert_eq!(schema.features(), [0, 2]);
        assert_eq!(schema.labels(), [1]);
        assert_eq!(schema.row_shape().width, 2);
    }

    #[test]
    fn every_fault_of_the_columns_is_reported_at_once() {
        let spec = IngestSpec::default().with_role(Role::Label, ["x"]).with_role(Role::Ignore, ["z"]);
        let refusal = columns(&fields(&["a", "a", "b"]), &spec).unwrap_err();
        let pointers: Vec<&str> = refusal.errors.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/columns/1", "?label", "?ignore"]);
    }

    #[test]
    fn roles_are_as_asked_and_features_that_are_named_are_all_there_are() {
        let spec = IngestSpec::default().with_role(Role::Feature, ["b"]).with_role(Role::Label, ["y"]);
        let roles: Vec<Role> =
            columns(&fields(&["a", "b", "y"]), &spec).unwrap().iter().map(|column| column.role).collect();
        assert_eq!(roles, [Role::Ignore, Role::Feature, Role::Label]);
        let both = IngestSpec::default().with_role(Role::Id, ["a"]).with_role(Role::Label, ["a"]);
        assert_eq!(columns(&fields(&["a", "b"]), &both).unwrap_err().errors[0].code, "conflict");
    }

    #[test]
    fn numbers_that_only_say_which_row_it_is_become_ids() {
        let found = |column: Column, spec: &IngestSpec| {
            let mut columns =
                vec![column, kept("x", Role::Feature, false, false), kept("y", Role::Feature, false, false)];
            infer_ids(&mut columns, spec, 20);
            (columns[0].role, columns[0].reason.is_some())
        };
        let plain = IngestSpec::default();
        assert_eq!(found(kept("customer_id", Role::Feature, true, false), &plain), (Role::Id, true));
        assert_eq!(found(kept("c0", Role::Feature, true, true), &plain), (Role::Id, true));
        assert_eq!(found(kept("n", Role::Feature, true, true), &plain), (Role::Feature, false));
        assert_eq!(found(kept("age", Role::Feature, true, false), &plain), (Role::Feature, false));
        let asked = IngestSpec::default().with_role(Role::Feature, ["c0"]);
        assert_eq!(found(kept("c0", Role::Feature, true, true), &asked), (Role::Feature, false));
    }

    #[test]
    fn roles_and_kinds_are_changed_where_the_values_allow_it() {
        let schema = Schema {
            columns: vec![kept("a", Role::Feature, true, false), kept("b", Role::Feature, false, false)],
            image: None,
        };
        let change = |name: &str, role, kind| BTreeMap::from([(name.to_owned(), Change { role, kind })]);
        let amended = schema.amend(&change("a", Some(Role::Label), Some(Kind::Categorical)), None).unwrap();
        assert_eq!((amended.columns[0].role, amended.columns[0].kind), (Role::Label, Kind::Categorical));
        let refused = |changes, image| schema.amend(&changes, image).unwrap_err().errors.remove(0).pointer;
        assert_eq!(refused(change("b", None, Some(Kind::Count)), None), "/columns/b/kind");
        // What is binary stays so when the dataset is read again, even where only one of the two occurs.
        let mut zeros = kept("z", Role::Feature, true, false);
        let profile = zeros.profile.as_mut().unwrap();
        (profile.minimum, profile.maximum, profile.distinct) = (Some(0.0), Some(0.0), 1);
        assert_eq!(zeros.unfit(Kind::Binary), None);
        assert_eq!(refused(change("z", None, None), None), "/columns/z");
        let image = Some(Some(ImageShape { channels: 1, height: 2, width: 2 }));
        assert_eq!(refused(BTreeMap::new(), image), "/image");
    }
}
