//! Quantiles of a column, from a sample of its values that fits into memory however many there are.
//!
//! The sample is a reservoir (Vitter, 1985): after any number of values each of them is in it with the same probability. Which ones
//! depends on their order alone, so that the same rows give the same treatment.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::domain::limits::{QUANTILE_KNOTS, SAMPLED_ROWS, SAMPLED_VALUES};
use crate::domain::treatment::{Knot, Treatment};

/// Some of the values of a column.
pub(super) struct Sample {
    values: Vec<f32>,
    seen: u64,
    least: f32,
    greatest: f32,
    most: usize,
    random: ChaCha8Rng,
}

impl Sample {
    /// An empty sample of one of `columns` columns, which share the memory.
    pub fn new(columns: usize) -> Self {
        Self {
            values: Vec::new(),
            seen: 0,
            least: f32::INFINITY,
            greatest: f32::NEG_INFINITY,
            most: (SAMPLED_VALUES / columns.max(1)).clamp(QUANTILE_KNOTS, SAMPLED_ROWS),
            random: ChaCha8Rng::seed_from_u64(0),
        }
    }

    pub fn add(&mut self, value: f32) {
        self.seen += 1;
        (self.least, self.greatest) = (self.least.min(value), self.greatest.max(value));
        if self.values.len() < self.most {
            self.values.push(value);
            return;
        }
        let place = self.random.random_range(0..self.seen);
        if let Some(kept) = usize::try_from(place).ok().and_then(|place| self.values.get_mut(place)) {
            *kept = value;
        }
    }

    /// The median, and the range between the quartiles as the deviation of a normal that has it; `None` of no values.
    pub fn robust(mut self) -> Option<(f64, f64)> {
        self.values.sort_unstable_by(f32::total_cmp);
        let at = |share: f64| quantile(&self.values, share);
        (!self.values.is_empty()).then(|| (at(0.5), (at(0.75) - at(0.25)) / NORMAL_QUARTILES))
    }

    /// The way to a standard normal: knots at evenly spaced quantiles, the least and the greatest value among them. `None` of no
    /// values.
    pub fn normalised(mut self) -> Option<Treatment> {
        self.values.sort_unstable_by(f32::total_cmp);
        let count = self.values.len().min(QUANTILE_KNOTS);
        let mut knots: Vec<(Knot, f32)> = Vec::with_capacity(count);
        for number in 0..count {
            let share = (number as f64 + 0.5) / count as f64;
            let value = match number {
                0 => self.least,
                _ if number + 1 == count => self.greatest,
                _ => value_at(&self.values, share * self.values.len() as f64 - 0.5) as f32,
            };
            let normal = probit(share) as f32;
            match knots.last_mut() {
                // Equal values share one place: the mean of theirs.
                Some((knot, equals)) if knot.value >= value => {
                    *equals += 1.0;
                    knot.normal += (normal - knot.normal) / *equals;
                }
                _ => knots.push((Knot { value, normal }, 1.0)),
            }
        }
        let knots: Vec<Knot> = knots.into_iter().map(|(knot, _)| knot).collect();
        (!knots.is_empty()).then_some(Treatment::Quantile { knots })
    }
}

/// How far the quartiles of a standard normal are apart.
const NORMAL_QUARTILES: f64 = 1.348_979_500_392_163_5;

/// The quantile of a sorted list that is not empty, by linear interpolation between the nearest values, as NumPy has it.
pub fn quantile(sorted: &[f32], share: f64) -> f64 {
    value_at(sorted, share * (sorted.len() - 1) as f64)
}

/// The value at a place between those of a sorted list: 0 is the first, 0.5 midway to the second.
fn value_at(sorted: &[f32], place: f64) -> f64 {
    let last = sorted.len() - 1;
    let place = place.clamp(0.0, last as f64);
    let below = (place.floor() as usize).min(last);
    let (low, high) = (f64::from(sorted[below]), f64::from(sorted[(below + 1).min(last)]));
    low + (high - low) * (place - below as f64)
}

/// The quantile of a standard normal at a share between 0 and 1, to about nine digits (Acklam, 2003).
fn probit(share: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] =
        [7.784_695_709_041_462e-3, 3.224_671_290_700_398e-1, 2.445_134_137_142_996, 3.754_408_661_907_416, 1.0];
    const TAIL: f64 = 0.024_25;
    let polynomial = |factors: &[f64], x: f64| factors.iter().fold(0.0, |sum, factor| sum * x + factor);
    if share < TAIL {
        let q = (-2.0 * share.ln()).sqrt();
        polynomial(&C, q) / polynomial(&D, q)
    } else if share > 1.0 - TAIL {
        -probit(1.0 - share)
    } else {
        let q = share - 0.5;
        q * polynomial(&A, q * q) / polynomial(&B, q * q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: impl Iterator<Item = f32>) -> Sample {
        let mut sample = Sample::new(1);
        values.for_each(|value| sample.add(value));
        sample
    }

    #[test]
    fn normal_quantiles_are_those_of_tables() {
        for (share, expected) in [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_081_7),
            (0.975, 1.959_963_984_540_054),
            (0.001, -3.090_232_306_167_813_5),
            (0.0005, -3.290_526_731_491_925_5),
        ] {
            assert!((probit(share) - expected).abs() < 1e-8, "{share}: {}", probit(share));
        }
    }

    #[test]
    fn median_and_quartiles_are_not_moved_by_an_outlier() {
        let (median, deviation) = sample([1.0, 2.0, 3.0, 4.0, 1e9].into_iter()).robust().unwrap();
        assert!(median == 3.0 && (deviation - 2.0 / 1.349).abs() < 1e-4, "{median} {deviation}");
        assert!(sample(std::iter::empty()).robust().is_none());
    }

    #[test]
    fn a_skewed_column_becomes_normal_and_comes_back() {
        let values = |n: i32| (((n * 7919) % 3000) as f32 / 3000.0 * 6.0).exp();
        let treatment = sample((0..3000).map(values)).normalised().unwrap();
        let prepared: Vec<f32> = (0..3000)
            .map(|n| {
                let mut one = Vec::new();
                treatment.prepare(values(n), &mut one);
                one[0]
            })
            .collect();
        let mean = prepared.iter().sum::<f32>() / 3000.0;
        let moment = |power| prepared.iter().map(|z| (z - mean).powi(power)).sum::<f32>() / 3000.0;
        assert!(mean.abs() < 0.01 && (moment(2) - 1.0).abs() < 0.03 && moment(3).abs() < 0.05, "{mean} {}", moment(2));
        for n in 0..3000 {
            let back = treatment.restore(&[prepared[n as usize]]);
            assert!((back / values(n) - 1.0).abs() < 1e-3, "{back} is not {}", values(n));
        }
        let Treatment::Quantile { knots } = &treatment else { panic!() };
        assert!(
            knots.len() <= 1000
                && knots.windows(2).all(|two| two[0].value < two[1].value && two[0].normal < two[1].normal)
        );
    }

    #[test]
    fn the_sample_is_bounded_and_fair() {
        let mut sample = Sample::new(1);
        (0..400_000).for_each(|n| sample.add(n as f32));
        assert_eq!(sample.values.len(), SAMPLED_ROWS);
        let mean = sample.values.iter().map(|value| f64::from(*value)).sum::<f64>() / SAMPLED_ROWS as f64;
        // The deviation of this mean is about 365.
        assert!((mean - 200_000.0).abs() < 1500.0, "{mean}");
        assert_eq!(Sample::new(60_000).most, QUANTILE_KNOTS);
    }
}
