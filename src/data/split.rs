//! Which rows train, which validate, and which are kept for the final test.
//!
//! Seeded, so that the same spec on the same rows gives the same split on every machine.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::refusal::Faults;

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
    /// Which rows go where.
    pub seed: u64,
}

impl Default for SplitSpec {
    fn default() -> Self {
        Self { validation: 0.1, test: 0.0, test_last: 0, stratify: false, seed: 0 }
    }
}

impl SplitSpec {
    /// Reports what is not allowed.
    pub fn check(&self, rows: u64, has_labels: bool, faults: &mut Faults) {
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
        if self.stratify && !has_labels {
            faults.push("/split/stratify", "no_label", "asks for a label column, and the dataset has none");
        }
    }

    /// Divides `rows` rows. `label` gives the label of a row when the split is stratified.
    pub fn divide(&self, rows: usize, label: Option<&dyn Fn(usize) -> f32>) -> Split {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut split = Split { train: Vec::new(), validation: Vec::new(), test: Vec::new() };
        let mut strata: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
        let drawn = rows - usize::try_from(self.test_last).unwrap_or(usize::MAX).min(rows.saturating_sub(1));
        split.test.extend((drawn..rows).map(|row| row as u32));
        for row in 0..drawn {
            let stratum = label.filter(|_| self.stratify).map_or(0, |label| label(row).to_bits());
            strata.entry(stratum).or_default().push(row as u32);
        }
        for mut members in strata.into_values() {
            members.shuffle(&mut random);
            let share = |share: f64| (members.len() as f64 * share).round() as usize;
            let test = share(self.test).min(members.len().saturating_sub(1));
            let validation = share(self.validation).min(members.len().saturating_sub(test + 1));
            split.test.extend_from_slice(&members[..test]);
            split.validation.extend_from_slice(&members[test..test + validation]);
            split.train.extend_from_slice(&members[test + validation..]);
        }
        for part in [&mut split.train, &mut split.validation, &mut split.test] {
            part.sort_unstable();
        }
        split
    }
}

/// Indices of rows, each in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Rows that train; never empty.
    pub train: Vec<u32>,
    /// Rows that pick the best epoch.
    pub validation: Vec<u32>,
    /// Rows measured once, at the end.
    pub test: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_part() {
        let split = SplitSpec { validation: 0.2, test: 0.1, ..SplitSpec::default() }.divide(103, None);
        let mut all = [split.train.clone(), split.validation.clone(), split.test.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<u32>>());
        assert_eq!((split.validation.len(), split.test.len()), (21, 10));
    }

    #[test]
    fn the_last_rows_can_be_the_test() {
        let split = SplitSpec { test_last: 10, validation: 0.2, ..SplitSpec::default() }.divide(60, None);
        assert_eq!(split.test, (50..60).collect::<Vec<u32>>());
        assert_eq!((split.train.len(), split.validation.len()), (40, 10));
        let refused = |spec: SplitSpec| {
            let mut faults = Faults::new();
            spec.check(60, false, &mut faults);
            !faults.is_empty()
        };
        assert!(!refused(SplitSpec { test_last: 58, ..SplitSpec::default() }));
        assert!(refused(SplitSpec { test_last: 59, ..SplitSpec::default() }));
        assert!(refused(SplitSpec { test_last: 5, test: 0.1, ..SplitSpec::default() }));
    }

    #[test]
    fn the_seed_decides() {
        let divide = |seed| SplitSpec { seed, ..SplitSpec::default() }.divide(100, None);
        assert_eq!(divide(1), divide(1));
        assert_ne!(divide(1), divide(2));
    }

    #[test]
    fn strata_are_divided_alike() {
        let label = |row: usize| (row % 4) as f32;
        let split = SplitSpec { validation: 0.2, stratify: true, ..SplitSpec::default() }.divide(400, Some(&label));
        for class in 0..4 {
            assert_eq!(split.validation.iter().filter(|row| **row % 4 == class).count(), 20);
        }
    }

    #[test]
    fn one_row_is_left_to_train_on() {
        let split = SplitSpec { validation: 0.9, ..SplitSpec::default() }.divide(1, None);
        assert_eq!((split.train.len(), split.validation.len()), (1, 0));
    }
}
