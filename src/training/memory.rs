//! How much memory a job needs, told from its spec before anything is built.
//!
//! Two figures: the least that it needs whatever happens, by which a job is refused before it is queued, and what it is expected to
//! need. The second is the larger, and measured needs are within a factor of three of it ([`FACTOR`]).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::artifact;
use super::optimizer::Optimizer;
use super::spec::TrainSpec;
use crate::data::dataset::Schema;

/// Measured needs lie between expected ones divided by this and multiplied by it.
pub const FACTOR: f64 = 3.0;
/// What a trainer takes before it has a network: libtorch, mostly.
const PROGRAM_BYTES: u64 = 72 << 20;
/// The least that it takes.
const PROGRAM_LEAST_BYTES: u64 = 48 << 20;
/// Rows that validation and the last figures look at at once.
const EVALUATED_ROWS: u64 = 1024;
const FLOAT: u64 = 4;

/// Bytes of memory, by what they are for. They are not all there at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Footprint {
    /// The trainer itself.
    pub program_bytes: u64,
    /// The numbers that are trained.
    pub parameter_bytes: u64,
    /// What the optimizer remembers of them, and their average where one is kept.
    pub optimizer_bytes: u64,
    /// Those of the best epoch.
    pub best_bytes: u64,
    /// Their gradients, in a step.
    pub gradient_bytes: u64,
    /// The rows of a step and what the layers make of them.
    pub batch_bytes: u64,
    /// The same in validation.
    pub evaluation_bytes: u64,
    /// A checkpoint while it is written.
    pub checkpoint_bytes: u64,
}

impl Footprint {
    /// The most that is there at once.
    pub fn peak(&self) -> u64 {
        let lasting = self.program_bytes + self.parameter_bytes + self.optimizer_bytes + self.best_bytes;
        let step = self.gradient_bytes + self.batch_bytes;
        lasting + step.max(self.evaluation_bytes).max(self.checkpoint_bytes)
    }
}

/// What the memory of a job depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Numbers that are trained.
    pub parameters: u64,
    /// Rows in one step.
    pub batch_rows: u64,
    /// Numbers that an optimizer remembers for each, and their average.
    memories: u64,
    /// Width of a prepared row.
    width: u64,
    /// Numbers that the layers take and give for one row.
    units: u64,
    /// How often a row goes through the layers in one step.
    passes: u64,
}

impl Needs {
    /// Those of a resolved spec.
    pub fn of(spec: &TrainSpec, schema: &Schema) -> Self {
        let sketch = artifact::sketch(spec, schema);
        Self {
            parameters: sketch.parameters,
            batch_rows: spec.training.batch_size.unwrap_or(1).into(),
            memories: Optimizer::memories(&spec.training.optimizer) + u64::from(spec.training.ema.is_some()),
            width: sketch.width,
            units: sketch.units,
            passes: spec.model.passes().max(1).into(),
        }
    }

    /// What it is expected to need with batches of so many rows.
    pub fn expected(&self, batch_rows: u64) -> Footprint {
        let parameters = self.parameters * FLOAT;
        let optimizer = parameters * self.memories;
        // Of a row: what stands in the file's units, prepared, and as a tensor, then what each layer takes and gives, of which
        // the gradient is computed while it is still there.
        let row = FLOAT * (3 * self.width + self.passes * (self.units + self.width));
        // Weights of the moment, the best ones and the optimizer's, copied, gathered, and written out.
        let checkpoint = 3 * (2 * parameters + optimizer);
        Footprint {
            program_bytes: PROGRAM_BYTES,
            parameter_bytes: parameters,
            optimizer_bytes: optimizer,
            best_bytes: parameters,
            gradient_bytes: 2 * parameters,
            batch_bytes: batch_rows * row,
            evaluation_bytes: EVALUATED_ROWS * FLOAT * (3 * self.width + self.passes.min(2) * self.units / 2),
            checkpoint_bytes: checkpoint,
        }
    }

    /// What it needs at least with batches of so many rows.
    pub fn least(&self, batch_rows: u64) -> u64 {
        let parameters = self.parameters * FLOAT * (2 + self.memories);
        PROGRAM_LEAST_BYTES + parameters + batch_rows * FLOAT * (2 * self.width).max(self.units / 2)
    }

    /// The largest power of two that is below the batch of the job and expected to fit into so many bytes.
    pub fn fitting_batch(&self, bytes: u64) -> Option<u64> {
        let mut rows = self.batch_rows.next_power_of_two() / 2;
        while rows > 0 && self.expected(rows).peak() > bytes {
            rows /= 2;
        }
        (rows > 0).then_some(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs =
        Needs { parameters: 1 << 20, batch_rows: 1000, memories: 2, width: 100, units: 600, passes: 1 };

    #[test]
    fn more_rows_need_more_and_the_least_is_below_what_is_expected() {
        for rows in [1, 100, 10_000] {
            assert!(NEEDS.least(rows) <= NEEDS.expected(rows).peak());
            assert!(
                NEEDS.least(rows) < NEEDS.least(rows * 2)
                    && NEEDS.expected(rows).batch_bytes < NEEDS.expected(rows * 2).batch_bytes
            );
        }
    }

    #[test]
    fn a_batch_that_fits_is_found_by_halves() {
        let room = |rows| NEEDS.expected(rows).peak();
        assert_eq!(NEEDS.fitting_batch(u64::MAX), Some(512), "always below what was asked for");
        // With many rows it is the step that decides.
        let large = Needs { batch_rows: 1 << 20, ..NEEDS };
        assert_eq!(large.fitting_batch(room(32_768)), Some(32_768));
        assert_eq!(large.fitting_batch(room(32_768) - 1), Some(16_384));
        assert_eq!(NEEDS.fitting_batch(room(1) - 1), None);
    }
}
