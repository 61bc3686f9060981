//! What [`Treatment`] does to the values of columns, as operations on tensors that can be recorded.
//!
//! Columns of one treatment go together. Gaps stay gaps (NaN).

use tch::{Kind, Tensor};

use super::lines::{Line, Lines};
use crate::data::preparation::Preparation;
use crate::domain::treatment::Treatment;

/// The treatment of all columns of a row.
pub struct Columns {
    groups: Vec<Group>,
    /// Where each number of a prepared row stands in the groups, one after the other; absent when that is its own place.
    slots: Option<Tensor>,
    /// The same of the columns of a row.
    columns: Option<Tensor>,
}

struct Group {
    /// The places of its columns in a row, and of its numbers in a prepared row; absent when they are all.
    columns: Option<Tensor>,
    slots: Option<Tensor>,
    way: Way,
}

/// What is done to a group; tensors have one number a column.
enum Way {
    Linear {
        shift: Tensor,
        scale: Tensor,
        unit: bool,
    },
    Quantile {
        forward: Lines,
        back: Lines,
        slope: Tensor,
    },
    Log {
        shift: Tensor,
        scale: Tensor,
        count: bool,
    },
    /// One column.
    OneHot {
        levels: Tensor,
    },
    /// One column; the levels, and the rank of each from 0 to 1.
    Rank {
        levels: Tensor,
        ranks: Tensor,
        range: f64,
    },
}

impl Columns {
    /// Of columns that were prepared so.
    pub fn of(preparation: &Preparation) -> Self {
        let mut members: Vec<Members<'_>> = Vec::new();
        let mut slot = 0;
        for (place, treatment) in preparation.columns.iter().enumerate() {
            let slots = treatment.slots() as i64;
            let group =
                members.iter().position(|group| together(group.treatments[0], treatment)).unwrap_or_else(|| {
                    members.push(Members::default());
                    members.len() - 1
                });
            let group = &mut members[group];
            group.treatments.push(treatment);
            group.columns.push(place as i64);
            group.slots.extend(slot..slot + slots);
            slot += slots;
        }
        let columns = order(members.iter().flat_map(|group| &group.columns));
        let slots = order(members.iter().flat_map(|group| &group.slots));
        let alone = members.len() == 1;
        let groups = members
            .into_iter()
            .map(|group| Group {
                columns: (!alone).then(|| Tensor::from_slice(&group.columns)),
                slots: (!alone).then(|| Tensor::from_slice(&group.slots)),
                way: Way::of(&group.treatments),
            })
            .collect();
        Self { groups, slots, columns }
    }

    /// Rows `[rows, columns]` in the user's units, prepared: `[rows, width]`.
    pub fn prepare(&self, rows: &Tensor) -> Tensor {
        let parts: Vec<Tensor> =
            self.groups.iter().map(|group| group.way.prepare(&pick(rows, &group.columns))).collect();
        join(parts, &self.slots)
    }

    /// Prepared rows in the user's units.
    pub fn restore(&self, prepared: &Tensor) -> Tensor {
        let parts = self.groups.iter().map(|group| group.way.restore(&pick(prepared, &group.slots))).collect();
        join(parts, &self.columns)
    }

    /// Spreads of prepared rows in the user's units.
    pub fn restore_spread(&self, spread: &Tensor) -> Tensor {
        let parts = self.groups.iter().map(|group| group.way.restore_spread(&pick(spread, &group.slots))).collect();
        join(parts, &self.columns)
    }
}

/// Columns of one treatment, and their places.
#[derive(Default)]
struct Members<'a> {
    treatments: Vec<&'a Treatment>,
    columns: Vec<i64>,
    slots: Vec<i64>,
}

/// Where each place stands in a list of all places; `None` where they are in their order.
fn order<'a>(places: impl Iterator<Item = &'a i64>) -> Option<Tensor> {
    let places: Vec<i64> = places.copied().collect();
    let mut order = vec![0; places.len()];
    for (position, place) in places.iter().enumerate() {
        order[*place as usize] = position as i64;
    }
    let is_own = order.iter().enumerate().all(|(own, place)| own as i64 == *place);
    (!is_own).then(|| Tensor::from_slice(&order))
}

/// Whether columns of two treatments can go together.
fn together(one: &Treatment, other: &Treatment) -> bool {
    match (one, other) {
        (Treatment::Linear { unit: one, .. }, Treatment::Linear { unit: other, .. }) => one == other,
        (Treatment::OneHot { .. } | Treatment::Rank { .. }, _) => false,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

fn pick(rows: &Tensor, places: &Option<Tensor>) -> Tensor {
    places.as_ref().map_or_else(|| rows.shallow_clone(), |places| rows.index_select(-1, places))
}

fn join(mut parts: Vec<Tensor>, order: &Option<Tensor>) -> Tensor {
    let joined = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, -1) };
    order.as_ref().map_or_else(|| joined.shallow_clone(), |order| joined.index_select(-1, order))
}

/// What a logarithm is taken of at least; as [`Treatment`] has it.
const LEAST_POSITIVE: f64 = 1e-30;

impl Way {
    fn of(treatments: &[&Treatment]) -> Self {
        let numbers = |one: &dyn Fn(&Treatment) -> f32| {
            Tensor::from_slice(&treatments.iter().map(|treatment| one(treatment)).collect::<Vec<_>>())
        };
        let shift = || {
            numbers(&|treatment| match treatment {
                Treatment::Linear { shift, .. } | Treatment::Log { shift, .. } | Treatment::LogCount { shift, .. } => {
                    *shift
                }
                _ => 0.0,
            })
        };
        let scale = || {
            numbers(&|treatment| match treatment {
                Treatment::Linear { scale, .. } | Treatment::Log { scale, .. } | Treatment::LogCount { scale, .. } => {
                    *scale
                }
                _ => 1.0,
            })
        };
        match treatments[0] {
            Treatment::Linear { unit, .. } => Self::Linear { shift: shift(), scale: scale(), unit: *unit },
            Treatment::Log { .. } => Self::Log { shift: shift(), scale: scale(), count: false },
            Treatment::LogCount { .. } => Self::Log { shift: shift(), scale: scale(), count: true },
            Treatment::Quantile { .. } => {
                let lines = |forward: bool| {
                    let columns: Vec<Vec<Line>> = treatments
                        .iter()
                        .map(|treatment| match treatment {
                            Treatment::Quantile { knots } => knots
                                .iter()
                                .map(|knot| if forward { (knot.value, knot.normal) } else { (knot.normal, knot.value) })
                                .collect(),
                            _ => Vec::new(),
                        })
                        .collect();
                    Lines::of(&columns)
                };
                let slope = numbers(&|treatment| treatment.restore_spread(&[1.0]));
                Self::Quantile { forward: lines(true), back: lines(false), slope }
            }
            Treatment::OneHot { levels } => Self::OneHot { levels: Tensor::from_slice(levels) },
            Treatment::Rank { levels } => {
                let last = (levels.len().max(2) - 1) as f32;
                let ranks: Vec<f32> = (0..levels.len()).map(|place| place as f32 / last).collect();
                let range = f64::from(levels[levels.len() - 1] - levels[0]);
                Self::Rank { levels: Tensor::from_slice(levels), ranks: Tensor::from_slice(&ranks), range }
            }
        }
    }

    fn prepare(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Linear { shift, scale, unit } => {
                let scaled = (x - shift) / scale;
                if *unit { scaled.clamp(0.0, 1.0) } else { scaled }
            }
            Self::Quantile { forward, .. } => forward.along(x),
            Self::Log { shift, scale, count: false } => (x.clamp_min(LEAST_POSITIVE).log() - shift) / scale,
            Self::Log { shift, scale, count: true } => (x.clamp_min(0.0).log1p() - shift) / scale,
            Self::OneHot { levels } => {
                let is = x.eq_tensor(levels).to_kind(Kind::Float); // [rows, levels]
                known(&is, &is)
            }
            Self::Rank { levels, ranks, .. } => {
                let is = x.eq_tensor(levels).to_kind(Kind::Float);
                known(&is, &sum(&(&is * ranks)))
            }
        }
    }

    fn restore(&self, prepared: &Tensor) -> Tensor {
        match self {
            Self::Linear { shift, scale, .. } => prepared * scale + shift,
            Self::Quantile { back, .. } => back.along(prepared),
            Self::Log { shift, scale, count: false } => (prepared * scale + shift).exp(),
            Self::Log { shift, scale, count: true } => (prepared * scale + shift).expm1(),
            Self::OneHot { levels } => levels.take(&prepared.argmax(-1, true)),
            Self::Rank { levels, .. } => {
                let last = levels.size()[0] - 1;
                let place = (prepared * last as f64 + 0.5).floor().clamp(0.0, last as f64);
                levels.take(&place.to_kind(Kind::Int64))
            }
        }
    }

    fn restore_spread(&self, spread: &Tensor) -> Tensor {
        match self {
            Self::Linear { scale, .. } => spread * scale,
            Self::Quantile { slope, .. } => spread * slope,
            // These likelihoods tell the deviation of the value itself.
            Self::Log { .. } => spread.shallow_clone(),
            Self::OneHot { .. } => spread.amax([-1].as_slice(), true) * -1.0 + 1.0,
            Self::Rank { range, .. } => spread * *range,
        }
    }
}

/// Numbers of a category, missing where it `is` none of its levels.
fn known(is: &Tensor, numbers: &Tensor) -> Tensor {
    numbers.masked_fill(&sum(is).lt(0.5), f64::NAN)
}

fn sum(x: &Tensor) -> Tensor {
    x.sum_dim_intlist([-1].as_slice(), true, Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::treatment::Knot;
    use crate::models::parameters::values;

    fn preparation() -> Preparation {
        let knots = |knots: &[(f32, f32)]| {
            knots.iter().map(|(value, normal)| Knot { value: *value, normal: *normal }).collect()
        };
        let columns = vec![
            Treatment::Linear { shift: 10.0, scale: 4.0, unit: false },
            Treatment::OneHot { levels: vec![1.0, 2.0, 5.0] },
            Treatment::Linear { shift: 1.0, scale: 2.0, unit: true },
            Treatment::Log { shift: 1.0, scale: 2.0 },
            Treatment::Quantile { knots: knots(&[(0.0, -2.0), (10.0, 0.0), (1000.0, 2.0)]) },
            Treatment::LogCount { shift: 0.5, scale: 1.5 },
            Treatment::Rank { levels: vec![1.0, 2.0, 5.0, 9.0] },
            Treatment::Linear { shift: -3.0, scale: 0.5, unit: false },
            Treatment::Quantile { knots: knots(&[(3.0, 0.0)]) },
            Treatment::Rank { levels: vec![4.0] },
        ];
        Preparation { columns }
    }

    fn same(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
            let near = (found - expected).abs() <= 1e-6 * expected.abs().max(1.0);
            assert!(near || found.is_nan() && expected.is_nan(), "{place}: {found} is not {expected}");
        }
    }

    #[test]
    fn tensors_are_treated_as_single_values_are() {
        let preparation = preparation();
        let columns = Columns::of(&preparation);
        let mut rows: Vec<f32> = Vec::new();
        for number in [f32::NAN, -1e9, -3.0, -0.4, 0.0, 0.7, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 10.0, 400.0, 1e9] {
            rows.extend(std::iter::repeat_n(number, 10));
        }
        let mut expected = Vec::new();
        for row in rows.chunks(10) {
            preparation.apply(row.iter().copied(), &mut expected);
        }
        let x = Tensor::from_slice(&rows).view([-1, 10]);
        same(&values(&columns.prepare(&x)), &expected);
        let prepared: Vec<f32> = (0..13 * 13).map(|n| ((n * 37 % 101) as f32 - 40.0) / 23.0).collect();
        let width = preparation.prepared_width();
        assert_eq!(width, 12);
        let prepared = &prepared[..width * 14];
        let x = Tensor::from_slice(prepared).view([-1, width as i64]);
        same(&values(&columns.restore(&x)), &preparation.undo(prepared));
        same(&values(&columns.restore_spread(&x.abs())), &preparation.undo_spread(&values(&x.abs())));
    }
}
