//! Rows whose columns are all shifted and scaled, as those of images and of most tables are: prepared and restored many at a
//! time, by loops that the compiler turns into vector instructions. The numbers are those of [`Treatment`], to the bit.

use super::preparation::Preparation;
use crate::domain::treatment::Treatment;

/// The figures of each column, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    shifts: Vec<f32>,
    scales: Vec<f32>,
    /// What prepared values are held between; infinite where they are not.
    lows: Vec<f32>,
    highs: Vec<f32>,
    /// Whether all columns are left as they are.
    are_plain: bool,
}

impl Lines {
    /// Of a preparation; `None` where a column is treated otherwise.
    pub fn of(preparation: &Preparation) -> Option<Self> {
        let mut lines =
            Self { shifts: Vec::new(), scales: Vec::new(), lows: Vec::new(), highs: Vec::new(), are_plain: true };
        for treatment in &preparation.columns {
            let Treatment::Linear { shift, scale, unit } = treatment else { return None };
            let (low, high) = if *unit { (0.0, 1.0) } else { (f32::NEG_INFINITY, f32::INFINITY) };
            lines.shifts.push(*shift);
            lines.scales.push(*scale);
            lines.lows.push(low);
            lines.highs.push(high);
            lines.are_plain &= *shift == 0.0 && *scale == 1.0 && !unit;
        }
        Some(lines)
    }

    /// Whether rows are prepared as they are.
    pub fn are_plain(&self) -> bool {
        self.are_plain
    }

    /// Appends what rows, one after the other, become; says whether all of that is finite. A missing value stays NaN.
    pub fn prepare(&self, rows: &[f32], prepared: &mut Vec<f32>) -> bool {
        let mut are_finite = true;
        for row in rows.chunks_exact(self.shifts.len()) {
            let figures = self.shifts.iter().zip(&self.scales).zip(self.lows.iter().zip(&self.highs));
            prepared.extend(row.iter().zip(figures).map(|(value, ((shift, scale), (low, high)))| {
                let scaled = (value - shift) / scale;
                // Comparisons with NaN are false, so that it passes.
                let scaled = if scaled < *low { *low } else { scaled };
                if scaled > *high { *high } else { scaled }
            }));
            // This loop has no way out, so that it is done in vector instructions, while the row is at hand.
            let row = &prepared[prepared.len() - row.len()..];
            are_finite &= row.iter().fold(true, |all, value| all & value.is_finite());
        }
        are_finite
    }

    /// Turns prepared rows into those that they stand for.
    pub fn restore(&self, prepared: &mut [f32]) {
        for row in prepared.chunks_exact_mut(self.shifts.len()) {
            for ((value, shift), scale) in row.iter_mut().zip(&self.shifts).zip(&self.scales) {
                *value = *value * scale + shift;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_become_what_each_value_becomes() {
        let linear = |shift, scale, unit| Treatment::Linear { shift, scale, unit };
        let columns = vec![linear(0.1, 0.3, true), linear(-7.0, 1e-3, false), linear(0.0, 255.0, true)];
        let preparation = Preparation { columns };
        let lines = Lines::of(&preparation).unwrap();
        let rows = [0.3, 5.5, 17.0, -2.0, f32::NAN, 300.0, f32::NAN, 1e9, -0.0, 0.1, -7.0, 128.0];
        let (mut all, mut one) = (Vec::new(), Vec::new());
        assert!(!lines.prepare(&rows, &mut all), "two are missing");
        assert!(lines.prepare(&[0.3, 5.5, 17.0], &mut Vec::new()));
        rows.chunks(3).for_each(|row| preparation.apply(row.iter().copied(), &mut one));
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&all), bits(&one));
        assert!(
            !lines.are_plain()
                && Lines::of(&Preparation { columns: vec![linear(0.0, 1.0, false)] }).unwrap().are_plain()
        );
        let restored = preparation.undo(&all);
        lines.restore(&mut all);
        assert_eq!(bits(&all), bits(&restored));
        let mixed = Preparation { columns: vec![linear(0.0, 1.0, false), Treatment::Rank { levels: vec![1.0] }] };
        assert_eq!(Lines::of(&mixed), None);
    }
}
