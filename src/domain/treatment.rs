//! How the values of one column become the numbers that a model sees, and the way back.
//!
//! Most columns become one number. A category becomes as many as it has levels. A missing value becomes NaN, and so does a level
//! that was not there when the treatment was fitted: nothing is known of it.

use serde::{Deserialize, Serialize};

/// What is done to the values of a column. Fitted on the training rows, kept with the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// `(x - shift) / scale`.
    Linear {
        /// Subtracted first.
        shift: f32,
        /// Divided by then; never zero.
        scale: f32,
        /// Whether the result is held between 0 and 1. A likelihood that lives there is no density outside, and rows that
        /// were not seen in training may lie beyond the extremes it was fitted to.
        unit: bool,
    },
    /// Along straight lines from knot to knot, to what is normal over the training rows. What lies beyond the outermost knots is
    /// taken for those.
    Quantile {
        /// In ascending order; at least one.
        knots: Vec<Knot>,
    },
    /// `(ln x - shift) / scale`, for values above zero.
    Log {
        /// Subtracted from the logarithm.
        shift: f32,
        /// Divided by then; never zero.
        scale: f32,
    },
    /// `(ln(1 + x) - shift) / scale`, for whole numbers from zero up.
    LogCount {
        /// Subtracted from the logarithm.
        shift: f32,
        /// Divided by then; never zero.
        scale: f32,
    },
    /// One number a level: 1 for the level that the value is, else 0. A value that is none of them is missing.
    OneHot {
        /// In ascending order.
        levels: Vec<f32>,
    },
    /// The position of the level, from 0 to 1. A value that is none of them is missing.
    Rank {
        /// In ascending order.
        levels: Vec<f32>,
    },
}

/// A value of a column and where a standard normal has it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knot {
    /// In units of the column.
    pub value: f32,
    /// The quantile of a standard normal.
    pub normal: f32,
}

impl Knot {
    /// Where the line from knot to knot is at `x`, which is what `from` gives of a knot; `to` is what is asked for.
    fn along(knots: &[Self], x: f32, from: fn(&Self) -> f32, to: fn(&Self) -> f32) -> f32 {
        let above = knots.partition_point(|knot| from(knot) <= x).min(knots.len() - 1);
        let (low, high) = (&knots[above.saturating_sub(1)], &knots[above]);
        let width = from(high) - from(low);
        let share = if width > 0.0 { ((x - from(low)) / width).clamp(0.0, 1.0) } else { 0.0 };
        to(low) * (1.0 - share) + to(high) * share
    }
}

/// What a logarithm is taken of at least, so that a stray zero in new rows stays finite.
const LEAST_POSITIVE: f32 = 1e-30;

impl Treatment {
    /// How many numbers the column becomes.
    pub fn slots(&self) -> usize {
        match self {
            Self::OneHot { levels } => levels.len(),
            _ => 1,
        }
    }

    /// Whether its values are levels rather than amounts.
    pub fn is_class(&self) -> bool {
        matches!(self, Self::OneHot { .. } | Self::Rank { .. })
    }

    /// Whether nothing is known of `value`: it is missing, or a level that is none of the treatment's.
    pub fn is_missing(&self, value: f32) -> bool {
        match self {
            Self::OneHot { levels } | Self::Rank { levels } => !levels.contains(&value),
            _ => value.is_nan(),
        }
    }

    /// Appends what `value` becomes. A missing value (NaN) becomes as many NaN.
    pub fn prepare(&self, value: f32, prepared: &mut Vec<f32>) {
        match self {
            Self::Linear { shift, scale, unit } => {
                let scaled = (value - shift) / scale;
                prepared.push(if *unit { scaled.clamp(0.0, 1.0) } else { scaled });
            }
            _ if self.is_missing(value) => prepared.extend(std::iter::repeat_n(f32::NAN, self.slots())),
            Self::Quantile { knots } => {
                prepared.push(Knot::along(knots, value, |knot| knot.value, |knot| knot.normal));
            }
            Self::Log { shift, scale } => prepared.push((value.max(LEAST_POSITIVE).ln() - shift) / scale),
            Self::LogCount { shift, scale } => prepared.push((value.max(0.0).ln_1p() - shift) / scale),
            Self::OneHot { levels } => {
                prepared.extend(levels.iter().map(|level| f32::from(u8::from(*level == value))));
            }
            Self::Rank { levels } => {
                let place = position(levels.iter().map(|level| -(level - value).abs()));
                prepared.push(place as f32 / (levels.len().max(2) - 1) as f32);
            }
        }
    }

    /// The value that `slots` prepared numbers stand for: of a category the likeliest level, of ranks the nearest.
    pub fn restore(&self, prepared: &[f32]) -> f32 {
        let one = prepared[0];
        match self {
            Self::Linear { shift, scale, .. } => one * scale + shift,
            Self::Quantile { knots } => Knot::along(knots, one, |knot| knot.normal, |knot| knot.value),
            Self::Log { shift, scale } => (one * scale + shift).exp(),
            Self::LogCount { shift, scale } => (one * scale + shift).exp_m1(),
            Self::OneHot { levels } => levels[position(prepared.iter().copied())],
            Self::Rank { levels } => {
                let last = levels.len() - 1;
                levels[((one * last as f32).round().max(0.0) as usize).min(last)]
            }
        }
    }

    /// The spread that a likelihood gives for `slots` numbers, in units of the column. A standard deviation, but for a
    /// category, where it is the probability of all levels but the likeliest.
    pub fn restore_spread(&self, spread: &[f32]) -> f32 {
        match self {
            Self::Linear { scale, .. } => spread[0] * scale,
            // The slope differs from place to place; what is told is that of the middle two thirds of the column.
            Self::Quantile { .. } => spread[0] * (self.restore(&[1.0]) - self.restore(&[-1.0])) / 2.0,
            // These likelihoods tell the deviation of the value itself.
            Self::Log { .. } | Self::LogCount { .. } => spread[0],
            Self::OneHot { .. } => 1.0 - spread.iter().copied().fold(0.0, f32::max),
            Self::Rank { levels } => spread[0] * (levels[levels.len() - 1] - levels[0]),
        }
    }
}

/// Where the greatest value stands; the first of equals.
fn position(values: impl Iterator<Item = f32>) -> usize {
    values
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (index, value)| if value > best.1 { (index, value) } else { best })
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(treatment: &Treatment, value: f32, expected: &[f32]) {
        let mut prepared = Vec::new();
        treatment.prepare(value, &mut prepared);
        assert_eq!(prepared.len(), treatment.slots());
        for (found, expected) in prepared.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{treatment:?} made {found} of {value}, not {expected}");
        }
        assert!((treatment.restore(&prepared) - value).abs() < 1e-4, "{treatment:?} does not give {value} back");
        prepared.clear();
        treatment.prepare(f32::NAN, &mut prepared);
        assert!(prepared.len() == treatment.slots() && prepared.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn values_are_prepared_and_restored() {
        check(&Treatment::Linear { shift: 10.0, scale: 4.0, unit: false }, 30.0, &[5.0]);
        check(&Treatment::Log { shift: 1.0, scale: 2.0 }, 5_f32.exp(), &[2.0]);
        check(&Treatment::LogCount { shift: 0.5, scale: 1.0 }, 7.0, &[8_f32.ln() - 0.5]);
        check(&Treatment::OneHot { levels: vec![1.0, 2.0, 5.0] }, 2.0, &[0.0, 1.0, 0.0]);
        check(&Treatment::Rank { levels: vec![1.0, 2.0, 5.0] }, 2.0, &[0.5]);
        let knots = [(0.0, -2.0), (10.0, 0.0), (1000.0, 2.0)].map(|(value, normal)| Knot { value, normal }).to_vec();
        let treatment = Treatment::Quantile { knots };
        check(&treatment, 5.0, &[-1.0]);
        check(&treatment, 505.0, &[1.0]);
        check(&treatment, 0.0, &[-2.0]);
        check(&treatment, 1000.0, &[2.0]);
        assert_eq!((treatment.restore(&[-9.0]), treatment.restore(&[9.0])), (0.0, 1000.0));
        assert_eq!(treatment.restore_spread(&[2.0]), 500.0);
        check(&Treatment::Quantile { knots: vec![Knot { value: 3.0, normal: 0.0 }] }, 3.0, &[0.0]);
    }

    #[test]
    fn what_was_not_seen_in_training_stays_finite() {
        for (treatment, value) in [
            (Treatment::Linear { shift: 0.0, scale: 1.0, unit: true }, 900.0),
            (Treatment::Log { shift: 0.0, scale: 1.0 }, -3.0),
            (Treatment::LogCount { shift: 0.0, scale: 1.0 }, -3.0),
            (Treatment::Quantile { knots: vec![Knot { value: 3.0, normal: 0.0 }] }, 900.0),
        ] {
            let mut prepared = Vec::new();
            treatment.prepare(value, &mut prepared);
            assert!(prepared.iter().all(|value| value.is_finite()), "{treatment:?} {prepared:?}");
            assert!(treatment.restore(&prepared).is_finite());
        }
    }

    #[test]
    fn levels_that_were_not_seen_in_training_are_missing() {
        let levels = vec![1.0, 2.0];
        for treatment in [Treatment::OneHot { levels: levels.clone() }, Treatment::Rank { levels }] {
            for (value, missing) in [(1.0, false), (2.0, false), (1.5, true), (9.0, true), (f32::NAN, true)] {
                let mut prepared = Vec::new();
                treatment.prepare(value, &mut prepared);
                assert!(
                    prepared.iter().all(|slot| slot.is_nan() == missing),
                    "{treatment:?} made {prepared:?} of {value}"
                );
                assert_eq!(prepared.len(), treatment.slots());
            }
        }
    }

    #[test]
    fn a_category_is_uncertain_by_what_its_likeliest_level_leaves() {
        let treatment = Treatment::OneHot { levels: vec![1.0, 2.0, 5.0] };
        assert!((treatment.restore_spread(&[0.2, 0.7, 0.1]) - 0.3).abs() < 1e-6);
    }
}
