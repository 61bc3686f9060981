//! Which rows train, which validate, and which are kept for the final test: drawn at random, by a column that says so, or in the
//! order of a column such as a time.
//!
//! Seeded, so that the same spec on the same rows gives the same split on every machine.

use std::io::{self, Read, Write};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::dataset::{Column, Kind, Schema};
use crate::domain::refusal::{Code, Faults, Refusal};

/// How rows are divided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SplitSpec {
    /// Share of the rows that validates each epoch. 0 turns validation off; every epoch is done then and the last is
    /// kept.
    #[schema(minimum = 0.0, maximum = 0.9)]
    pub validation: f64,
    /// Share of the rows that is kept away from training and validation and measured once, at the end.
    #[schema(minimum = 0.0, maximum = 0.9)]
    pub test: f64,
    /// So many rows at the end of the file are the test rows, instead of a share drawn at random; for data that come with a
    /// test set of their own.
    pub test_last: u64,
    /// Whether each value of the label column is divided in the same shares.
    pub stratify: bool,
    /// The name of a column of which each value is divided in the same shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stratify_by: Option<String>,
    /// The name of a column that says where each row goes: 0 or `train`, 1 or `validation` (`val`, `valid`), 2 or `test`. The shares
    /// do not count then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The name of a column, such as a time, in whose order the first rows train, the next validate and the last are the test. Rows
    /// without a value there come first. The seed plays no part then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_by: Option<String>,
    /// Which rows go where.
    pub seed: u64,
}

impl Default for SplitSpec {
    fn default() -> Self {
        Self {
            validation: 0.1,
            test: 0.0,
            test_last: 0,
            stratify: false,
            stratify_by: None,
            column: None,
            order_by: None,
            seed: 0,
        }
    }
}

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// It trains.
    Train,
    /// It picks the best epoch.
    Validation,
    /// It is measured once, at the end.
    Test,
}

impl Part {
    /// The part that a level of this name, or this number, stands for.
    fn of(value: f32, levels: &[String]) -> Option<Self> {
        let level = (value >= 0.0 && value.fract() == 0.0).then_some(value as usize)?;
        match levels.get(level).map(|name| name.trim().to_lowercase()) {
            None if !levels.is_empty() => None,
            None => [Self::Train, Self::Validation, Self::Test].get(level).copied(),
            Some(name) => match name.as_str() {
                "train" => Some(Self::Train),
                "validation" | "val" | "valid" => Some(Self::Validation),
                "test" => Some(Self::Test),
                _ => None,
            },
        }
    }
}

impl SplitSpec {
    /// Reports what is not allowed.
    pub fn check(&self, rows: u64, schema: &Schema, faults: &mut Faults) {
        faults.require_within("/split/validation", self.validation, 0.0..=0.9);
        faults.require_within("/split/test", self.test, 0.0..=0.9);
        if self.validation + self.test > 0.95 {
            faults.push("/split", "out_of_range", "leaves under 5 % of the rows to train on");
        }
        if self.test_last > 0 && self.test > 0.0 {
            faults.push(
                "/split/test_last",
                "conflict",
                "goes without `test`: the test rows are either the last or drawn",
            );
        }
        // What is left must have one row to train on and one to validate.
        if self.test_last > rows.saturating_sub(2) {
            let detail = format!("is {}; of {rows} rows at least 2 must be left", self.test_last);
            faults.push("/split/test_last", "out_of_range", detail);
        }
        if self.stratify && schema.labels().is_empty() {
            faults.push("/split/stratify", "no_label", "asks for a label column, and the dataset has none");
        }
        self.check_conflicts(faults);
        let named = [("stratify_by", &self.stratify_by), ("column", &self.column), ("order_by", &self.order_by)];
        for (field, name) in named.into_iter().filter_map(|(field, name)| Some((field, name.as_deref()?))) {
            let pointer = format!("/split/{field}");
            match schema.kept().find(|column| column.name == name) {
                Some(column) if field == "column" => check_parts(&pointer, column, faults),
                Some(_) => {}
                None => {
                    let some: Vec<&str> = schema.kept().take(12).map(|column| column.name.as_str()).collect();
                    let detail = format!("names `{name}`, and no such column was kept; there are {}", some.join(", "));
                    faults.push(pointer, "unknown_column", detail);
                }
            }
        }
    }

    fn check_conflicts(&self, faults: &mut Faults) {
        let mut conflict = |field: &str, with: &str| {
            faults.push(format!("/split/{field}"), "conflict", format!("goes without `{with}`"));
        };
        let shares = Self::default();
        if self.stratify && self.stratify_by.is_some() {
            conflict("stratify_by", "stratify");
        }
        for (field, given, decides_shares) in
            [("column", self.column.is_some(), true), ("order_by", self.order_by.is_some(), false)]
        {
            let others = [
                ("validation", decides_shares && self.validation != shares.validation),
                ("test", decides_shares && self.test > 0.0),
                ("test_last", self.test_last > 0),
                ("stratify", self.stratify),
                ("stratify_by", self.stratify_by.is_some()),
                ("order_by", decides_shares && self.order_by.is_some()),
            ];
            for (other, _) in others.into_iter().filter(|(_, other)| given && *other) {
                conflict(field, other);
            }
        }
    }

    /// Divides `rows` rows of this schema. `value` gives the value of a row in a kept column.
    ///
    /// # Errors
    /// A column that is to say where rows go says something else, or leaves no row to train on.
    pub fn divide(&self, rows: usize, schema: &Schema, value: &dyn Fn(usize, usize) -> f32) -> Result<Split, Refusal> {
        let place = |name: &str| schema.kept().position(|column| column.name == name);
        let stratum = match &self.stratify_by {
            Some(name) => place(name),
            None => schema.labels().first().copied().filter(|_| self.stratify),
        };
        match (self.column.as_deref().and_then(place), self.order_by.as_deref().and_then(place)) {
            (Some(column), _) => by_column(rows, schema, column, value),
            (None, Some(column)) => Ok(self.in_order(rows, |row| value(row, column))),
            (None, None) => Ok(self.drawn(rows, |row| stratum.map_or(0.0, |column| value(row, column)))),
        }
    }

    fn drawn(&self, rows: usize, stratum: impl Fn(usize) -> f32) -> Split {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut split = Split::default();
        let mut strata: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
        let drawn = rows - usize::try_from(self.test_last).unwrap_or(usize::MAX).min(rows.saturating_sub(1));
        split.test.extend((drawn..rows).map(|row| row as u32));
        for row in 0..drawn {
            strata.entry(stratum(row).to_bits()).or_default().push(row as u32);
        }
        for mut members in strata.into_values() {
            members.shuffle(&mut random);
            let (validation, test) = self.shares(members.len());
            split.test.extend_from_slice(&members[..test]);
            split.validation.extend_from_slice(&members[test..test + validation]);
            split.train.extend_from_slice(&members[test + validation..]);
        }
        split.sorted()
    }

    fn in_order(&self, rows: usize, value: impl Fn(usize) -> f32) -> Split {
        let mut order: Vec<u32> = (0..rows as u32).collect();
        let key = |row: &u32| Some(value(*row as usize)).filter(|value| !value.is_nan()).unwrap_or(f32::NEG_INFINITY);
        order.sort_by(|a, b| key(a).total_cmp(&key(b)));
        let (validation, test) = self.shares(rows);
        let train = rows - validation - test;
        let split = Split {
            train: order[..train].to_vec(),
            validation: order[train..train + validation].to_vec(),
            test: order[train + validation..].to_vec(),
        };
        split.sorted()
    }

    /// How many of `rows` rows validate and test; one is left to train on.
    fn shares(&self, rows: usize) -> (usize, usize) {
        let share = |share: f64| (rows as f64 * share).round() as usize;
        let test = share(self.test).min(rows.saturating_sub(1));
        (share(self.validation).min(rows.saturating_sub(test + 1)), test)
    }
}

/// Reports a column that cannot say where rows go.
fn check_parts(pointer: &str, column: &Column, faults: &mut Faults) {
    let Some(profile) = &column.profile else { return };
    let within = profile.minimum.zip(profile.maximum).is_some_and(|(low, high)| low >= 0.0 && high <= 2.0);
    let numbers = matches!(column.kind, Kind::Binary | Kind::Count) && within;
    if column.levels.is_empty() && !numbers {
        let detail =
            format!("names `{}`, which has other values than 0 (train), 1 (validation) and 2 (test)", column.name);
        faults.push(pointer, "out_of_range", detail);
    } else if profile.missing > 0 {
        let detail = format!("names `{}`, which has no value in {} rows", column.name, profile.missing);
        faults.push(pointer, "missing_value", detail);
    } else if column.levels.is_empty() && profile.minimum != Some(0.0) {
        faults.push(pointer, "out_of_range", format!("names `{}`, by which no row trains (0)", column.name));
    }
}

fn by_column(
    rows: usize,
    schema: &Schema,
    column: usize,
    value: &dyn Fn(usize, usize) -> f32,
) -> Result<Split, Refusal> {
    let described = schema.kept().nth(column);
    let levels = described.map_or(&[][..], |column| &column.levels);
    let mut split = Split::default();
    for row in 0..rows {
        let value = value(row, column);
        let part = Part::of(value, levels).ok_or_else(|| {
            let said = levels.get(value as usize).map_or_else(|| value.to_string(), |name| format!("`{name}`"));
            let detail = format!("says {said} in row {row}; allowed are 0, 1 and 2, or train, validation and test");
            Refusal::at(Code::InvalidRequest, "/split/column", "out_of_range", detail)
        })?;
        split.part_mut(part).push(row as u32);
    }
    if split.train.is_empty() {
        return Err(Refusal::at(Code::InvalidRequest, "/split/column", "out_of_range", "leaves no row to train on"));
    }
    Ok(split)
}

/// Indices of rows, each in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Rows that train; never empty.
    pub train: Vec<u32>,
    /// Rows that pick the best epoch.
    pub validation: Vec<u32>,
    /// Rows measured once, at the end.
    pub test: Vec<u32>,
}

impl Split {
    /// The rows of a part.
    pub fn part(&self, part: Part) -> &[u32] {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
            Part::Test => &self.test,
        }
    }

    fn part_mut(&mut self, part: Part) -> &mut Vec<u32> {
        match part {
            Part::Train => &mut self.train,
            Part::Validation => &mut self.validation,
            Part::Test => &mut self.test,
        }
    }

    fn sorted(mut self) -> Self {
        for part in [&mut self.train, &mut self.validation, &mut self.test] {
            part.sort_unstable();
        }
        self
    }

    /// One byte a row, compressed.
    ///
    /// # Errors
    /// None that memory does not give.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut parts = vec![0; self.train.len() + self.validation.len() + self.test.len()];
        for (mark, rows) in [(1, &self.validation), (2, &self.test)] {
            rows.iter().for_each(|row| parts[*row as usize] = mark);
        }
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&parts)?;
        encoder.finish()
    }

    /// What [`Split::to_bytes`] wrote.
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut split = Self::default();
        for (row, mark) in io::BufReader::new(flate2::read::DeflateDecoder::new(bytes)).bytes().enumerate() {
            let part = Part::of(f32::from(mark?), &[]).ok_or(io::ErrorKind::InvalidData)?;
            split.part_mut(part).push(row as u32);
        }
        Ok(split)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::{Profile, Role};

    /// Columns `a`, a feature, and `y`, a label, with values up to `most`.
    fn schema(most: f64) -> Schema {
        let profile = Profile {
            minimum: Some(0.0),
            maximum: Some(most),
            mean: None,
            deviation: None,
            missing: 0,
            distinct: 3,
            distinct_is_exact: true,
            whole: true,
            counts_up: false,
        };
        let column = |name: &str, role| Column {
            name: name.to_owned(),
            kind: Kind::Count,
            role,
            reason: None,
            levels: Vec::new(),
            profile: Some(profile.clone()),
        };
        Schema { columns: vec![column("a", Role::Feature), column("y", Role::Label)], image: None }
    }

    fn divided(spec: &SplitSpec, rows: usize) -> Split {
        spec.divide(rows, &schema(2.0), &|row, _| (row % 4) as f32).unwrap()
    }

    fn refused(spec: &SplitSpec) -> Vec<String> {
        let mut faults = Faults::new();
        spec.check(60, &schema(2.0), &mut faults);
        faults
            .into_result(Code::InvalidRequest)
            .map_or_else(|refusal| refusal.errors.into_iter().map(|fault| fault.pointer).collect(), |()| Vec::new())
    }

    fn named(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn every_row_is_in_one_part() {
        let split = divided(&SplitSpec { validation: 0.2, test: 0.1, ..SplitSpec::default() }, 103);
        let mut all = [split.train.clone(), split.validation.clone(), split.test.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<u32>>());
        assert_eq!((split.validation.len(), split.test.len()), (21, 10));
    }

    #[test]
    fn the_last_rows_can_be_the_test() {
        let split = divided(&SplitSpec { test_last: 10, validation: 0.2, ..SplitSpec::default() }, 60);
        assert_eq!(split.test, (50..60).collect::<Vec<u32>>());
        assert_eq!((split.train.len(), split.validation.len()), (40, 10));
        assert!(refused(&SplitSpec { test_last: 58, ..SplitSpec::default() }).is_empty());
        assert_eq!(refused(&SplitSpec { test_last: 59, ..SplitSpec::default() }), ["/split/test_last"]);
        assert_eq!(refused(&SplitSpec { test_last: 5, test: 0.1, ..SplitSpec::default() }), ["/split/test_last"]);
    }

    #[test]
    fn the_seed_decides() {
        let divide = |seed| divided(&SplitSpec { seed, ..SplitSpec::default() }, 100);
        assert_eq!(divide(1), divide(1));
        assert_ne!(divide(1), divide(2));
    }

    #[test]
    fn strata_are_divided_alike() {
        for spec in [
            SplitSpec { validation: 0.2, stratify: true, ..SplitSpec::default() },
            SplitSpec { validation: 0.2, stratify_by: named("a"), ..SplitSpec::default() },
        ] {
            let split = divided(&spec, 400);
            for class in 0..4 {
                assert_eq!(split.validation.iter().filter(|row| **row % 4 == class).count(), 20);
            }
        }
    }

    #[test]
    fn one_row_is_left_to_train_on() {
        let split = divided(&SplitSpec { validation: 0.9, ..SplitSpec::default() }, 1);
        assert_eq!((split.train.len(), split.validation.len()), (1, 0));
    }

    #[test]
    fn a_column_says_where_rows_go() {
        let spec = SplitSpec { column: named("a"), ..SplitSpec::default() };
        assert!(refused(&spec).is_empty());
        let split =
            spec.divide(9, &schema(2.0), &|row, column| if column == 0 { (row % 3) as f32 } else { 9.0 }).unwrap();
        assert_eq!((split.train, split.validation, split.test), (vec![0, 3, 6], vec![1, 4, 7], vec![2, 5, 8]));
        let strange = spec.divide(9, &schema(2.0), &|row, _| row as f32).unwrap_err();
        assert!(strange.errors[0].detail.contains("row 3"), "{strange:?}");
        assert!(spec.divide(9, &schema(2.0), &|_, _| 1.0).is_err());
        let mut faults = Faults::new();
        spec.check(60, &schema(3.0), &mut faults);
        assert!(!faults.is_empty());
        let levels = ["Test", "val", "train", "valid", "other"].map(str::to_owned);
        let told: Vec<Option<Part>> = (0..6).map(|level| Part::of(level as f32, &levels)).collect();
        let (train, validation, test) = (Some(Part::Train), Some(Part::Validation), Some(Part::Test));
        assert_eq!(told, [test, validation, train, validation, None, None]);
    }

    #[test]
    fn the_last_in_an_order_are_kept_away() {
        let spec = SplitSpec { order_by: named("y"), validation: 0.25, test: 0.25, seed: 9, ..SplitSpec::default() };
        // The order is the file's, turned round; row 2 has no place in it and comes first.
        let value = |row: usize, _| if row == 2 { f32::NAN } else { -(row as f32) };
        let split = spec.divide(8, &schema(2.0), &value).unwrap();
        assert_eq!((split.test, split.validation, split.train), (vec![0, 1], vec![3, 4], vec![2, 5, 6, 7]));
    }

    #[test]
    fn what_does_not_go_together_is_refused_where_it_stands() {
        let spec = SplitSpec { stratify: true, stratify_by: named("a"), ..SplitSpec::default() };
        assert_eq!(refused(&spec), ["/split/stratify_by"]);
        let spec = SplitSpec { column: named("a"), order_by: named("y"), test: 0.1, ..SplitSpec::default() };
        assert_eq!(refused(&spec), ["/split/column", "/split/column"]);
        let spec = SplitSpec { order_by: named("y"), test_last: 3, stratify_by: named("y"), ..SplitSpec::default() };
        assert_eq!(refused(&spec), ["/split/order_by", "/split/order_by"]);
        for spec in [
            SplitSpec { order_by: named("b"), ..SplitSpec::default() },
            SplitSpec { column: named("b"), ..SplitSpec::default() },
            SplitSpec { stratify_by: named("b"), ..SplitSpec::default() },
        ] {
            assert_eq!(refused(&spec).len(), 1, "{spec:?}");
        }
    }

    #[test]
    fn a_split_survives_its_bytes() {
        let split = divided(&SplitSpec { validation: 0.2, test: 0.1, ..SplitSpec::default() }, 1000);
        let bytes = split.to_bytes().unwrap();
        assert!(bytes.len() < 500);
        assert_eq!(Split::from_bytes(&bytes).unwrap(), split);
        assert!(Split::from_bytes(b"something else").is_err());
    }
}
