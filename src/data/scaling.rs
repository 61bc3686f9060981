//! Scaling of columns, fitted on the training rows and undone on the way out.
//!
//! A scaled value is `(x - shift) / scale`. Pixels of an image share one shift and one scale, because they are one quantity
//! measured at many places: scaling each by itself would blow up the noise of a border that is nearly always black.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How columns are scaled before a model sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScalingSpec {
    /// `minmax` for a bernoulli likelihood and for images, else `standard`.
    #[default]
    Auto,
    /// Values as they are.
    None,
    /// Mean 0 and deviation 1.
    Standard,
    /// From 0 to 1.
    Minmax,
}

/// Shift and scale of each feature column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Subtracted first, one a column.
    pub shift: Vec<f32>,
    /// Divided by then, one a column; never zero.
    pub scale: Vec<f32>,
    /// Whether scaled values are held between 0 and 1. A bernoulli likelihood is no density outside, and rows that were not
    /// seen in training may lie beyond the extremes it was fitted to.
    pub unit: bool,
}

impl Scaling {
    /// Fits `spec` to rows of `width` values. With `shared`, one shift and scale serve all columns.
    ///
    /// A column that does not vary gets scale 1, so that it becomes 0 and stays finite.
    /// `rows` calls what it is given once for each row.
    pub fn fit(spec: ScalingSpec, width: usize, shared: bool, rows: impl FnOnce(&mut dyn FnMut(&[f32]))) -> Self {
        let mut columns = vec![Moments::default(); width];
        if !matches!(spec, ScalingSpec::None) {
            rows(&mut |row| {
                for (column, value) in columns.iter_mut().zip(row) {
                    column.add(f64::from(*value));
                }
            });
        }
        if shared {
            let whole = columns.iter().copied().reduce(Moments::merge).unwrap_or_default();
            columns.fill(whole);
        }
        let (shift, scale) = columns
            .iter()
            .map(|column| match spec {
                ScalingSpec::Standard if column.count > 0.0 => (column.mean, (column.squares / column.count).sqrt()),
                ScalingSpec::Minmax if column.count > 0.0 => (column.minimum, column.maximum - column.minimum),
                _ => (0.0, 1.0),
            })
            .map(|(shift, scale)| (shift as f32, usable(scale as f32)))
            .unzip();
        Self { shift, scale, unit: false }
    }

    /// The same, with scaled values held between 0 and 1.
    pub fn held_to_unit(self) -> Self {
        Self { unit: true, ..self }
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.shift.len()
    }

    /// Scales one row into `scaled`.
    pub fn apply(&self, row: impl Iterator<Item = f32>, scaled: &mut Vec<f32>) {
        let start = scaled.len();
        scaled.extend(row.zip(&self.shift).zip(&self.scale).map(|((value, shift), scale)| (value - shift) / scale));
        if self.unit {
            scaled[start..].iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        }
    }

    /// Undoes the scaling of rows that lie one after the other.
    pub fn undo(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.width()) {
            for ((value, shift), scale) in row.iter_mut().zip(&self.shift).zip(&self.scale) {
                *value = *value * scale + shift;
            }
        }
    }
}

fn usable(scale: f32) -> f32 {
    if scale.is_normal() && scale > 0.0 { scale } else { 1.0 }
}

#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
    minimum: f64,
    maximum: f64,
}

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0.0, mean: 0.0, squares: 0.0, minimum: f64::INFINITY, maximum: f64::NEG_INFINITY }
    }
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
        self.minimum = self.minimum.min(value);
        self.maximum = self.maximum.max(value);
    }

    /// The moments of both together (Chan et al., 1979).
    fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let apart = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares + other.squares + apart * apart * self.count * other.count / count,
            minimum: self.minimum.min(other.minimum),
            maximum: self.maximum.max(other.maximum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [[f32; 3]; 3] = [[0.0, 10.0, 7.0], [8.0, 20.0, 7.0], [16.0, 60.0, 7.0]];

    fn fitted(spec: ScalingSpec, shared: bool) -> Scaling {
        Scaling::fit(spec, 3, shared, |visit| ROWS.iter().for_each(|row| visit(row)))
    }

    #[test]
    fn scaling_is_undone() {
        for spec in [ScalingSpec::None, ScalingSpec::Standard, ScalingSpec::Minmax] {
            let scaling = fitted(spec, false);
            let mut scaled = Vec::new();
            for row in ROWS {
                scaling.apply(row.into_iter(), &mut scaled);
            }
            assert!(scaled.iter().all(|value| value.is_finite()));
            scaling.undo(&mut scaled);
            for (value, expected) in scaled.iter().zip(ROWS.iter().flatten()) {
                assert!((value - expected).abs() < 1e-5, "{spec:?}: {value} is not {expected}");
            }
        }
    }

    #[test]
    fn columns_are_scaled_by_their_own_figures() {
        let standard = fitted(ScalingSpec::Standard, false);
        assert_eq!(standard.shift, [8.0, 30.0, 7.0]);
        assert!((standard.scale[0] - (128.0_f32 / 3.0).sqrt()).abs() < 1e-5);
        let minmax = fitted(ScalingSpec::Minmax, false);
        assert_eq!((minmax.shift, minmax.scale), (vec![0.0, 10.0, 7.0], vec![16.0, 50.0, 1.0]));
    }

    #[test]
    fn values_beyond_what_was_fitted_can_be_held_to_the_unit() {
        let scaling = fitted(ScalingSpec::Minmax, false).held_to_unit();
        let mut scaled = Vec::new();
        scaling.apply([-3.0, 35.0, 900.0].into_iter(), &mut scaled);
        assert_eq!(scaled, [0.0, 0.5, 1.0]);
    }

    #[test]
    fn pixels_share_one_scale() {
        let shared = fitted(ScalingSpec::Minmax, true);
        assert_eq!((shared.shift, shared.scale), (vec![0.0; 3], vec![60.0; 3]));
        let standard = fitted(ScalingSpec::Standard, true);
        // Mean and deviation of all nine values, worked out directly.
        let values: Vec<f32> = ROWS.concat();
        let mean = values.iter().sum::<f32>() / 9.0;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / 9.0).sqrt();
        assert!((standard.shift[0] - mean).abs() < 1e-5 && (standard.scale[0] - deviation).abs() < 1e-4);
    }
}
