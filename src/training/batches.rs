//! Scaled batches of rows as tensors, and the order of an epoch.

use rand::seq::SliceRandom;
use tch::{Device, Tensor};

use super::spec::TrainSpec;
use crate::data::dataset::Schema;
use crate::data::rows::RowFile;
use crate::data::scaling::Scaling;
use crate::models::likelihood::LikelihoodKind;
use crate::models::noise::{Purpose, generator};

/// Rows of a dataset as a model sees them.
pub struct Batches<'a> {
    rows: &'a RowFile,
    features: Vec<usize>,
    /// Whether the features are all that a row holds, so that it can be read as it is.
    whole: bool,
    scaling: Scaling,
    device: Device,
}

impl<'a> Batches<'a> {
    /// Fits the scaling to the rows in `train`.
    pub fn fit(rows: &'a RowFile, schema: &Schema, spec: &TrainSpec, train: &[u32], device: Device) -> Self {
        let features = schema.features();
        let whole = features.len() == schema.kept().count();
        let width = features.len();
        let mut batches = Self {
            rows,
            features,
            whole,
            scaling: Scaling { shift: Vec::new(), scale: Vec::new(), unit: false },
            device,
        };
        batches.scaling = Scaling::fit(spec.scaling, width, schema.image.is_some(), |visit| {
            let mut picked = Vec::with_capacity(width);
            for index in train {
                picked.clear();
                picked.extend(batches.features(*index));
                visit(&picked);
            }
        });
        if spec.likelihood.kind == LikelihoodKind::Bernoulli {
            batches.scaling = batches.scaling.held_to_unit();
        }
        batches
    }

    /// The fitted scaling.
    pub fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// Scaled features of some rows, `[rows, width]`.
    pub fn tensor(&self, indices: &[u32]) -> Tensor {
        let width = self.features.len();
        let mut scaled = Vec::with_capacity(indices.len() * width);
        for index in indices {
            if self.whole {
                self.scaling.apply(self.rows.row(*index as usize).iter().copied(), &mut scaled);
            } else {
                self.scaling.apply(self.features(*index), &mut scaled);
            }
        }
        Tensor::from_slice(&scaled).view([indices.len() as i64, width as i64]).to_device(self.device)
    }

    fn features(&self, index: u32) -> impl Iterator<Item = f32> {
        let row = self.rows.row(index as usize);
        self.features.iter().map(move |feature| row[*feature])
    }
}

/// The rows of one epoch in their order, which depends on `seed` and `epoch` alone.
pub fn order(train: &[u32], seed: u64, epoch: u32) -> Vec<u32> {
    let mut order = train.to_vec();
    order.shuffle(&mut generator(seed, Purpose::Shuffle, u64::from(epoch)));
    order
}

/// Cuts rows into batches of `size`. A single row that would be left over joins the batch before it, because statistics
/// over a batch of one row are not defined.
pub fn cut(order: &[u32], size: usize) -> Vec<&[u32]> {
    let mut batches: Vec<&[u32]> = order.chunks(size).collect();
    if batches.len() > 1 && batches[batches.len() - 1].len() == 1 {
        batches.pop();
        let start = (batches.len() - 1) * size;
        *batches.last_mut().expect("there were two batches") = &order[start..];
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_takes_every_row_once_and_differs_from_the_next() {
        let train: Vec<u32> = (10..110).collect();
        let (first, second) = (order(&train, 3, 0), order(&train, 3, 1));
        assert_ne!(first, second);
        assert_eq!(first, order(&train, 3, 0));
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, train);
    }

    #[test]
    fn no_batch_of_one_row_is_left_over() {
        let rows: Vec<u32> = (0..9).collect();
        let lengths = |size| cut(&rows, size).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(lengths(4), [4, 5]);
        assert_eq!(lengths(5), [5, 4]);
        assert_eq!(lengths(9), [9]);
        assert_eq!(cut(&rows, 4).concat(), rows);
        assert_eq!(cut(&rows[..1], 4).len(), 1);
    }
}
