//! Straight lines from knot to knot, and places in sorted lists, as operations on tensors that can be recorded.
//!
//! A place is found by halving, so that no tensor is larger than the rows are.

use tch::{Kind, Tensor};

/// A knot: where it is, and what is there.
pub type Line = (f32, f32);

/// Sorted lists, one a column, with as many places as the longest needs.
struct Lists {
    /// `[columns * room]`; infinite behind the end of a list.
    values: Tensor,
    /// Where each list begins, `[columns]`.
    first: Tensor,
    room: i64,
}

impl Lists {
    fn of(lists: &[Vec<f32>]) -> Self {
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        // One place is behind the end.
        let room = (longest + 1).next_power_of_two().max(2);
        let values: Vec<f32> = lists
            .iter()
            .flat_map(|list| list.iter().copied().chain(std::iter::repeat(f32::INFINITY)).take(room))
            .collect();
        let first: Vec<i64> = (0..lists.len()).map(|column| (column * room) as i64).collect();
        Self { values: Tensor::from_slice(&values), first: Tensor::from_slice(&first), room: room as i64 }
    }

    /// How many values of each list lie before `x` `[rows, columns]`, counted from the beginning of all lists. `before` says
    /// so of `x` and a value.
    fn count(&self, x: &Tensor, before: impl Fn(&Tensor, &Tensor) -> Tensor) -> Tensor {
        let mut place = self.first.shallow_clone();
        let mut step = self.room / 2;
        while step > 0 {
            let value = self.values.take(&(&place + (step - 1)));
            place = before(x, &value).to_kind(Kind::Int64) * step + &place;
            step /= 2;
        }
        place
    }
}

/// Lines of several columns.
pub struct Lines {
    knots: Lists,
    there: Tensor,
    last: Tensor,
}

impl Lines {
    /// Of the knots of each column, in ascending order; at least one each.
    pub fn of(columns: &[Vec<Line>]) -> Self {
        let side = |one: fn(&Line) -> f32| -> Vec<Vec<f32>> {
            columns.iter().map(|knots| knots.iter().map(one).collect()).collect()
        };
        let knots = Lists::of(&side(|line| line.0));
        let there = Lists::of(&side(|line| line.1)).values;
        let lengths: Vec<i64> = columns.iter().map(|knots| knots.len() as i64 - 1).collect();
        let last = Tensor::from_slice(&lengths) + &knots.first;
        Self { knots, there, last }
    }

    /// What is at `x` `[rows, columns]`; beyond the outermost knots what is at those.
    pub fn along(&self, x: &Tensor) -> Tensor {
        let above = self.knots.count(x, |x, knot| x.ge_tensor(knot)).minimum(&self.last);
        let below = (&above - 1).maximum(&self.knots.first);
        let (low, high) = (self.knots.values.take(&below), self.knots.values.take(&above));
        let width = high - &low;
        let share = ((x - low) / &width).clamp(0.0, 1.0).masked_fill(&width.le(0.0), 0.0);
        let there = self.there.take(&below) * (&share * -1.0 + 1.0) + self.there.take(&above) * share;
        x.where_self(&x.isnan(), &there)
    }
}

/// Evenly spaced quantiles, and the share of values that lie below one.
pub struct Shares {
    quantiles: Lists,
    count: i64,
}

impl Shares {
    /// Of quantiles from the least to the greatest; at least two.
    pub fn of(quantiles: &[f32]) -> Self {
        Self { quantiles: Lists::of(&[quantiles.to_vec()]), count: quantiles.len() as i64 }
    }

    /// The share below each of `x` `[rows]`.
    pub fn below(&self, x: &Tensor) -> Tensor {
        let x = x.unsqueeze(-1);
        let place = self.quantiles.count(&x, |x, quantile| x.gt_tensor(quantile)); // [rows, 1]
        let last = self.count - 1;
        let above = place.clamp_max(last);
        let below = (&place - 1).clamp_min(0);
        let (low, high) = (self.quantiles.values.take(&below), self.quantiles.values.take(&above));
        let width = high - &low;
        let within = ((&x - low) / &width).masked_fill(&width.le(0.0), 1.0);
        let share = (below.to_kind(Kind::Float) + within) / last as f64;
        let share = share.masked_fill(&place.lt(1), 0.0).masked_fill(&place.gt(last), 1.0);
        share.squeeze_dim(-1)
    }
}
