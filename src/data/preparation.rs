//! What is done to columns before a model sees them: fitted on the training rows, undone on the way out.
//!
//! Most columns are scaled. Pixels of an image share one shift and one scale, because they are one quantity measured at many
//! places: scaling each by itself would blow up the noise of a border that is nearly always black. Categories become one
//! number a level.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::quantiles::Sample;
use crate::domain::limits::LEVELS;
use crate::domain::treatment::Treatment;

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
    /// Median 0, and the range between the quartiles that of a standard normal (1.349); outliers move neither. Of more than
    /// 100,000 rows that many are looked at.
    Robust,
    /// To a standard normal, by up to 1,000 quantiles of as many rows; what is beyond the range of the training rows is taken for
    /// its end.
    Quantile,
}

impl ScalingSpec {
    /// Whether it takes a sample of values to find.
    fn samples(self) -> bool {
        matches!(self, Self::Robust | Self::Quantile)
    }
}

/// Which treatment a column is to have; what it does in numbers is fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Shifted and scaled as the spec says.
    Scaled,
    /// From 0 to 1 and held there; or as it is and held there, when the spec asks for no scaling.
    Unit,
    /// Standardised logarithm.
    Log,
    /// Standardised logarithm of one more.
    LogCount,
    /// One number a level.
    OneHot,
    /// The position among the levels.
    Rank,
}

/// The fitted treatment of each column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Preparation {
    /// One a column, in their order.
    pub columns: Vec<Treatment>,
}

impl Preparation {
    /// Fits `wanted` to rows of as many values. With `shared`, one shift and scale serve all scaled columns.
    ///
    /// A column that does not vary gets scale 1, so that it becomes 0 and stays finite. Missing values are passed over.
    /// `rows` calls what it is given once for each row.
    pub fn fit(spec: ScalingSpec, wanted: &[Wanted], shared: bool, rows: impl FnOnce(&mut dyn FnMut(&[f32]))) -> Self {
        let mut columns: Vec<Figures> = wanted.iter().map(|wanted| Figures::new(*wanted)).collect();
        let samples = if !spec.samples() {
            0
        } else if shared {
            1
        } else {
            columns.len()
        };
        let mut samples: Vec<Sample> = (0..samples).map(|_| Sample::new(samples)).collect();
        rows(&mut |row| {
            for (place, value) in row.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
                let column = &mut columns[place];
                column.add(*value);
                if column.wanted == Wanted::Scaled
                    && let Some(sample) = samples.get_mut(if shared { 0 } else { place })
                {
                    sample.add(*value);
                }
            }
        });
        if shared {
            let whole = columns.iter().map(|column| column.moments).reduce(Moments::merge).unwrap_or_default();
            columns.iter_mut().for_each(|column| column.moments = whole);
        }
        let mut sampled: Vec<Sampled> = samples.into_iter().map(|sample| Sampled::of(spec, sample)).collect();
        if shared && let Some(one) = sampled.first().cloned() {
            sampled.resize(columns.len(), one);
        }
        sampled.resize(columns.len(), Sampled::None);
        Self {
            columns: columns
                .into_iter()
                .zip(sampled)
                .map(|(column, sampled)| column.treatment(spec, sampled))
                .collect(),
        }
    }

    /// Number of columns before.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Number of columns after.
    pub fn prepared_width(&self) -> usize {
        self.columns.iter().map(Treatment::slots).sum()
    }

    /// Appends what one row becomes.
    pub fn apply(&self, row: impl Iterator<Item = f32>, prepared: &mut Vec<f32>) {
        for (treatment, value) in self.columns.iter().zip(row) {
            treatment.prepare(value, prepared);
        }
    }

    /// The shifts and scales of all columns, where all are scaled and either all or none are held between 0 and 1.
    pub fn linear(&self) -> Option<Linear> {
        let mut linear = Linear { shifts: Vec::new(), scales: Vec::new(), unit: false };
        for (place, column) in self.columns.iter().enumerate() {
            let Treatment::Linear { shift, scale, unit } = column else { return None };
            if place > 0 && linear.unit != *unit {
                return None;
            }
            linear.unit = *unit;
            linear.shifts.push(*shift);
            linear.scales.push(*scale);
        }
        Some(linear)
    }

    /// The rows that prepared rows, one after the other, stand for.
    pub fn undo(&self, prepared: &[f32]) -> Vec<f32> {
        self.each(prepared, Treatment::restore)
    }

    /// The spreads of likelihoods, one row after the other, in the units of the columns.
    pub fn undo_spread(&self, spread: &[f32]) -> Vec<f32> {
        self.each(spread, Treatment::restore_spread)
    }

    fn each(&self, prepared: &[f32], one: impl Fn(&Treatment, &[f32]) -> f32) -> Vec<f32> {
        let width = self.prepared_width();
        let mut rows = Vec::with_capacity(prepared.len() / width.max(1) * self.width());
        for row in prepared.chunks_exact(width) {
            let mut rest = row;
            for treatment in &self.columns {
                let (own, left) = rest.split_at(treatment.slots());
                rows.push(one(treatment, own));
                rest = left;
            }
        }
        rows
    }
}

/// What prepares rows of which every column is scaled: the same arithmetic as [`Treatment::prepare`], many columns at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    shifts: Vec<f32>,
    scales: Vec<f32>,
    unit: bool,
}

impl Linear {
    /// What is taken from each value.
    pub fn shifts(&self) -> &[f32] {
        &self.shifts
    }

    /// What each is divided by then.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Whether what comes out is held between 0 and 1.
    pub fn is_held(&self) -> bool {
        self.unit
    }
}

/// What a sample of a column's values says.
#[derive(Clone)]
enum Sampled {
    None,
    /// Shift and scale.
    Robust(f64, f64),
    Quantile(Treatment),
}

impl Sampled {
    fn of(spec: ScalingSpec, sample: Sample) -> Self {
        let found = match spec {
            ScalingSpec::Robust => sample.robust().map(|(median, deviation)| Self::Robust(median, deviation)),
            ScalingSpec::Quantile => sample.normalised().map(Self::Quantile),
            _ => None,
        };
        found.unwrap_or(Self::None)
    }
}

/// What is gathered of a column.
struct Figures {
    wanted: Wanted,
    moments: Moments,
    levels: std::collections::BTreeSet<OrderedFloat>,
}

impl Figures {
    fn new(wanted: Wanted) -> Self {
        Self { wanted, moments: Moments::default(), levels: std::collections::BTreeSet::new() }
    }

    fn add(&mut self, value: f32) {
        match self.wanted {
            Wanted::Scaled | Wanted::Unit => self.moments.add(f64::from(value)),
            Wanted::Log => self.moments.add(f64::from(value.max(f32::MIN_POSITIVE)).ln()),
            Wanted::LogCount => self.moments.add(f64::from(value.max(0.0)).ln_1p()),
            Wanted::OneHot | Wanted::Rank => {
                if self.levels.len() < LEVELS as usize {
                    self.levels.insert(OrderedFloat(value));
                }
            }
        }
    }

    fn treatment(self, spec: ScalingSpec, sampled: Sampled) -> Treatment {
        let Moments { count, mean, squares, minimum, maximum } = self.moments;
        let standard = || (mean, (squares / count).sqrt());
        let robust = match sampled {
            Sampled::Quantile(treatment) if self.wanted == Wanted::Scaled => return treatment,
            // Of a column that is nearly always the same the quartiles are equal: there the deviation must do.
            Sampled::Robust(median, deviation) => {
                Some((median, if deviation > 0.0 { deviation } else { standard().1 }))
            }
            _ => None,
        };
        let (shift, scale) = match (self.wanted, spec) {
            _ if count == 0.0 => (0.0, 1.0),
            (Wanted::Scaled, ScalingSpec::Robust) => robust.unwrap_or_else(standard),
            (Wanted::Unit, ScalingSpec::None) | (Wanted::Scaled, ScalingSpec::None | ScalingSpec::Auto) => (0.0, 1.0),
            (Wanted::Unit, _) | (Wanted::Scaled, ScalingSpec::Minmax) => (minimum, maximum - minimum),
            _ => standard(),
        };
        let (shift, scale) = (shift as f32, usable(scale as f32));
        let levels = || {
            let levels: Vec<f32> = self.levels.iter().map(|level| level.0).collect();
            if levels.is_empty() { vec![0.0] } else { levels }
        };
        match self.wanted {
            Wanted::Scaled => Treatment::Linear { shift, scale, unit: false },
            Wanted::Unit => Treatment::Linear { shift, scale, unit: true },
            Wanted::Log => Treatment::Log { shift, scale },
            Wanted::LogCount => Treatment::LogCount { shift, scale },
            Wanted::OneHot => Treatment::OneHot { levels: levels() },
            Wanted::Rank => Treatment::Rank { levels: levels() },
        }
    }
}

/// Orders finite floats by their value.
#[derive(Clone, Copy, PartialEq)]
struct OrderedFloat(f32);

impl Eq for OrderedFloat {}

impl Ord for OrderedFloat {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for OrderedFloat {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
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

    fn fitted(spec: ScalingSpec, wanted: Wanted, shared: bool) -> Preparation {
        Preparation::fit(spec, &[wanted; 3], shared, |visit| ROWS.iter().for_each(|row| visit(row)))
    }

    fn linear(preparation: &Preparation) -> (Vec<f32>, Vec<f32>) {
        let one = |treatment: &Treatment| match treatment {
            Treatment::Linear { shift, scale, .. } => (*shift, *scale),
            other => panic!("{other:?}"),
        };
        preparation.columns.iter().map(one).unzip()
    }

    #[test]
    fn many_columns_at_a_time_become_what_each_becomes() {
        for unit in [false, true] {
            let columns = (0..19)
                .map(|place| Treatment::Linear { shift: place as f32 * 0.3, scale: 1.0 + place as f32 / 7.0, unit })
                .collect();
            let preparation = Preparation { columns };
            let row: Vec<f32> =
                (0..19).map(|place| if place == 4 { f32::NAN } else { place as f32 * 0.7 - 2.0 }).collect();
            let (mut single, mut many) = (Vec::new(), Vec::new());
            preparation.apply(row.iter().copied(), &mut single);
            let linear = preparation.linear().unwrap();
            assert_eq!(linear.is_held(), unit);
            let scaled =
                row.iter().zip(linear.shifts()).zip(linear.scales()).map(|((v, shift), scale)| (v - shift) / scale);
            many.extend(scaled.map(|v| if unit { v.clamp(0.0, 1.0) } else { v }));
            assert_eq!(
                single.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                many.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            );
        }
        let mixed =
            |second| Preparation { columns: vec![Treatment::Linear { shift: 0.0, scale: 1.0, unit: false }, second] };
        assert_eq!(mixed(Treatment::Linear { shift: 0.0, scale: 1.0, unit: true }).linear(), None);
        assert_eq!(mixed(Treatment::Log { shift: 0.0, scale: 1.0 }).linear(), None);
    }

    #[test]
    fn preparation_is_undone() {
        for spec in
            [ScalingSpec::None, ScalingSpec::Standard, ScalingSpec::Minmax, ScalingSpec::Robust, ScalingSpec::Quantile]
        {
            for wanted in [Wanted::Scaled, Wanted::LogCount, Wanted::OneHot, Wanted::Rank, Wanted::Log, Wanted::Unit] {
                if (wanted, spec) == (Wanted::Unit, ScalingSpec::None) {
                    continue; // Values beyond 1 are held at 1 then, and cannot come back.
                }
                let preparation = fitted(spec, wanted, false);
                let mut prepared = Vec::new();
                for row in ROWS {
                    preparation.apply(row.into_iter(), &mut prepared);
                }
                assert_eq!(prepared.len(), 3 * preparation.prepared_width());
                assert!(prepared.iter().all(|value| value.is_finite()));
                let restored = preparation.undo(&prepared);
                for (value, expected) in restored.iter().zip(ROWS.iter().flatten()) {
                    assert!(
                        (value - expected).abs() <= 1e-3 * expected.max(1.0),
                        "{spec:?} {wanted:?}: {value} is not {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn columns_are_scaled_by_their_own_figures() {
        let (shift, scale) = linear(&fitted(ScalingSpec::Standard, Wanted::Scaled, false));
        assert_eq!(shift, [8.0, 30.0, 7.0]);
        assert!((scale[0] - (128.0_f32 / 3.0).sqrt()).abs() < 1e-5);
        let (shift, scale) = linear(&fitted(ScalingSpec::Minmax, Wanted::Scaled, false));
        assert_eq!((shift, scale), (vec![0.0, 10.0, 7.0], vec![16.0, 50.0, 1.0]));
    }

    #[test]
    fn columns_are_scaled_by_their_quartiles_or_along_their_quantiles() {
        let (shift, scale) = linear(&fitted(ScalingSpec::Robust, Wanted::Scaled, false));
        // Quartiles of 10, 20, 60 are 15 and 40; a column of one value has neither quartiles nor a deviation.
        assert_eq!((shift[1], shift[2], scale[2]), (20.0, 7.0, 1.0));
        assert!((scale[1] - 25.0 / 1.34898).abs() < 1e-3, "{scale:?}");
        let preparation = fitted(ScalingSpec::Quantile, Wanted::Scaled, false);
        let mut prepared = Vec::new();
        preparation.apply([8.0, 100.0, 7.0].into_iter(), &mut prepared);
        // Of three values the greatest is where a normal has five sixths below it; what is beyond it is taken for it.
        assert!(
            prepared[0].abs() < 1e-6 && (prepared[1] - 0.967_421_6).abs() < 1e-5 && prepared[2].abs() < 1e-6,
            "{prepared:?}"
        );
        assert_eq!(preparation.undo(&prepared), [8.0, 60.0, 7.0]);
        // Pixels share one way.
        let shared = fitted(ScalingSpec::Quantile, Wanted::Scaled, true);
        assert!(shared.columns[0] == shared.columns[2] && shared.columns[0] != preparation.columns[0]);
        let (shift, _) = linear(&fitted(ScalingSpec::Robust, Wanted::Scaled, true));
        assert_eq!(shift, [8.0; 3]);
    }

    #[test]
    fn values_beyond_what_was_fitted_can_be_held_to_the_unit() {
        let preparation = fitted(ScalingSpec::Minmax, Wanted::Unit, false);
        let mut prepared = Vec::new();
        preparation.apply([-3.0, 35.0, 900.0].into_iter(), &mut prepared);
        assert_eq!(prepared, [0.0, 0.5, 1.0]);
    }

    #[test]
    fn levels_are_those_of_the_rows_and_missing_values_are_none() {
        let rows = [[2.0], [f32::NAN], [1.0], [2.0]];
        let fit = |wanted| {
            Preparation::fit(ScalingSpec::Auto, &[wanted], false, |visit| rows.iter().for_each(|row| visit(row)))
        };
        assert_eq!(fit(Wanted::OneHot).columns, [Treatment::OneHot { levels: vec![1.0, 2.0] }]);
        assert_eq!(fit(Wanted::Unit).columns, [Treatment::Linear { shift: 1.0, scale: 1.0, unit: true }]);
    }

    #[test]
    fn pixels_share_one_scale() {
        let (shift, scale) = linear(&fitted(ScalingSpec::Minmax, Wanted::Scaled, true));
        assert_eq!((shift, scale), (vec![0.0; 3], vec![60.0; 3]));
        let (shift, scale) = linear(&fitted(ScalingSpec::Standard, Wanted::Scaled, true));
        // Mean and deviation of all nine values, worked out directly.
        let values: Vec<f32> = ROWS.concat();
        let mean = values.iter().sum::<f32>() / 9.0;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / 9.0).sqrt();
        assert!((shift[0] - mean).abs() < 1e-5 && (scale[0] - deviation).abs() < 1e-4);
    }
}
