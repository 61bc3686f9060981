//! Scaled batches of rows as tensors, and the order of an epoch.

use std::borrow::Cow;
use std::sync::Arc;

use rand::seq::{SliceRandom, index};
use tch::{Device, Kind, Tensor};

use super::likelihoods::wanted;
use super::spec::{Binarize, TrainSpec};
use crate::data::dataset::Schema;
use crate::data::preparation::{Linear, Preparation, ScalingSpec};
use crate::data::rows::RowFile;
use crate::domain::limits::RESIDENT_BYTES;
use crate::models::fused;
use crate::models::noise::{Noise, Purpose, generator};
use crate::models::parameters::{sent, values};

/// Rows of a dataset as a model sees them.
pub struct Batches<'a> {
    source: Arc<Source<'a>>,
    binarize: Binarize,
    /// All rows, prepared, on the device: `[rows of the dataset, width]`. Absent where they are fetched batch by batch.
    resident: Option<Tensor>,
}

/// What batches are gathered from; several threads may.
pub(super) struct Source<'a> {
    rows: &'a RowFile,
    features: Vec<usize>,
    labels: Vec<usize>,
    /// Whether the features are all that a row holds, so that it can be read as it is.
    whole: bool,
    preparation: Preparation,
    /// The same, where many columns can be prepared at a time.
    linear: Option<Linear>,
    target: Preparation,
    device: Device,
}

/// Rows that are in memory at once while their mean is taken, and how many values they may have.
const MEAN_ROWS: usize = 4096;
const MEAN_VALUES: usize = 1 << 20;

/// Rows and labels before anything is drawn for them; both as in [`Batch`].
pub(super) struct Gathered {
    x: Tensor,
    labels: Option<Tensor>,
}

/// Some rows.
pub struct Batch {
    /// Prepared features, `[rows, width]`, NaN where one is missing.
    pub x: Tensor,
    /// Prepared labels, `[rows, labels]`, NaN where one is missing; where the job learns from labels.
    pub labels: Option<Tensor>,
}

impl<'a> Batches<'a> {
    /// Fits the preparation to the rows in `train`.
    pub fn fit(rows: &'a RowFile, schema: &Schema, spec: &TrainSpec, train: &[u32], device: Device) -> Self {
        let features = schema.features();
        let labels = if spec.learns_labels(schema) { schema.labels() } else { Vec::new() };
        let fit = |scaling, columns: &[usize], kinds: Vec<_>, shared| {
            Preparation::fit(scaling, &kinds, shared, |visit| {
                let mut picked = Vec::with_capacity(columns.len());
                for index in train {
                    let row = rows.row(*index as usize);
                    picked.clear();
                    picked.extend(columns.iter().map(|column| row[*column]));
                    visit(&picked);
                }
            })
        };
        let kinds = schema.feature_columns().map(|column| wanted(spec.likelihood.kind_of(&column.name))).collect();
        let preparation = fit(spec.scaling, &features, kinds, schema.image.is_some());
        let kinds = labels.iter().zip(schema.label_columns());
        let kinds = kinds.map(|(_, column)| wanted(spec.target.kind_of(&column.name))).collect();
        let target = fit(ScalingSpec::Standard, &labels, kinds, false);
        let source = Source {
            rows,
            whole: features.len() == schema.kept().count(),
            features,
            labels,
            linear: preparation.linear(),
            preparation,
            target,
            device,
        };
        let bytes = (rows.len() as u64).saturating_mul(source.row_bytes());
        let batches = Self { source: Arc::new(source), binarize: spec.training.binarize, resident: None };
        if device.is_cuda() && bytes <= RESIDENT_BYTES { batches.keep() } else { batches }
    }

    /// Puts all rows onto the device, so that a batch is picked there instead of being copied.
    fn keep(mut self) -> Self {
        let all: Vec<u32> = (0..self.source.rows.len() as u32).collect();
        let width = self.preparation().prepared_width().max(1);
        let blocks: Vec<Tensor> = all.chunks((MEAN_VALUES / width).max(64)).map(|block| self.tensor(block)).collect();
        self.resident = Some(Tensor::cat(&blocks, 0));
        self
    }

    /// What batches are gathered from; `None` where all rows are on the device already.
    pub(super) fn source(&self) -> Option<&Arc<Source<'a>>> {
        if self.resident.is_some() { None } else { Some(&self.source) }
    }

    /// The fitted preparation of features.
    pub fn preparation(&self) -> &Preparation {
        &self.source.preparation
    }

    /// Where tensors are.
    pub fn device(&self) -> Device {
        self.source.device
    }

    /// The fitted preparation of labels; of no columns where the job does not learn from labels.
    pub fn target(&self) -> &Preparation {
        &self.source.target
    }

    /// Prepared features of some rows, `[rows, width]`, NaN where one is missing.
    pub fn tensor(&self, indices: &[u32]) -> Tensor {
        let Some(rows) = &self.resident else { return self.source.features(indices, false) };
        let places: Vec<i64> = indices.iter().map(|index| i64::from(*index)).collect();
        rows.index_select(0, &sent(&Tensor::from_slice(&places), self.device()))
    }

    /// Means of the prepared features of some rows, over the values that are there, `[width]`; 0 where none is.
    pub fn means(&self, indices: &[u32]) -> Vec<f32> {
        let width = self.preparation().prepared_width() as i64;
        let none = || Tensor::zeros([width], (Kind::Double, self.device()));
        let (mut sum, mut count) = (none(), none());
        let rows = (MEAN_VALUES / width.max(1) as usize).clamp(64, MEAN_ROWS);
        for block in indices.chunks(rows) {
            let x = self.tensor(block);
            let missing = x.isnan();
            sum += x.masked_fill(&missing, 0.0).sum_dim_intlist([0].as_slice(), false, Kind::Double);
            count += missing.logical_not().sum_dim_intlist([0].as_slice(), false, Kind::Double);
        }
        values(&(sum / count.clamp_min(1.0)).to_kind(Kind::Float))
    }

    /// Features and labels of some rows, the features made 0 or 1 where the job asks for it.
    pub fn batch(&self, indices: &[u32], draws: &Noise) -> Batch {
        self.drawn(self.gathered(indices), draws)
    }

    pub(super) fn gathered(&self, indices: &[u32]) -> Gathered {
        Gathered { x: self.tensor(indices), labels: self.source.labels(indices) }
    }

    /// A batch of rows that were gathered.
    pub(super) fn drawn(&self, Gathered { x, labels }: Gathered, draws: &Noise) -> Batch {
        // A gap stays one.
        let x = match self.binarize {
            Binarize::Off => x,
            Binarize::Dynamic => x.where_self(&x.isnan(), &draws.bernoulli(&x)),
            Binarize::Threshold => x.where_self(&x.isnan(), &x.ge(0.5).to_kind(Kind::Float)),
        };
        Batch { x, labels }
    }
}

impl Source<'_> {
    /// Bytes of a prepared row.
    pub fn row_bytes(&self) -> u64 {
        self.preparation.prepared_width() as u64 * 4
    }

    /// Says that these rows will be wanted soon, so that what of them is on the disk alone is read meanwhile.
    pub fn expect(&self, indices: &[u32]) {
        for index in indices {
            self.rows.expect(*index as usize);
        }
    }

    /// Says whether rows are wanted in any order.
    pub fn jumps(&self, whether: bool) {
        self.rows.jumps(whether);
    }

    /// Rows and their labels, by the thread that asks alone.
    pub fn gather(&self, indices: &[u32]) -> Gathered {
        Gathered { x: self.features(indices, true), labels: self.labels(indices) }
    }

    /// Prepared features of some rows; with `alone` by the thread that asks, which else has others help.
    fn features(&self, indices: &[u32], alone: bool) -> Tensor {
        if let Some(linear) = self.linear.as_ref().filter(|_| self.whole) {
            let rows: Vec<&[f32]> = indices.iter().map(|index| self.rows.row(*index as usize)).collect();
            let scaled = fused::scaled(&rows, linear.shifts(), linear.scales(), linear.is_held(), alone);
            return sent(&scaled, self.device);
        }
        let width = self.preparation.prepared_width();
        let mut prepared = Vec::with_capacity(indices.len() * width);
        for index in indices {
            let row = self.rows.row(*index as usize);
            if self.whole {
                self.preparation.apply(row.iter().copied(), &mut prepared);
            } else {
                self.preparation.apply(self.features.iter().map(|feature| row[*feature]), &mut prepared);
            }
        }
        self.to_tensor(&prepared, indices.len(), width)
    }

    fn labels(&self, indices: &[u32]) -> Option<Tensor> {
        let width = self.target.prepared_width();
        (width > 0).then(|| {
            let mut prepared = Vec::with_capacity(indices.len() * width);
            for index in indices {
                let row = self.rows.row(*index as usize);
                self.target.apply(self.labels.iter().map(|label| row[*label]), &mut prepared);
            }
            self.to_tensor(&prepared, indices.len(), width)
        })
    }

    fn to_tensor(&self, prepared: &[f32], rows: usize, width: usize) -> Tensor {
        sent(&Tensor::from_slice(prepared).view([rows as i64, width as i64]), self.device)
    }
}

/// The rows of one epoch in their order, which depends on `seed` and `epoch` alone.
pub fn order(train: &[u32], seed: u64, epoch: u32) -> Vec<u32> {
    let mut order = train.to_vec();
    order.shuffle(&mut generator(seed, Purpose::Shuffle, u64::from(epoch)));
    order
}

/// All of `rows`, or where those are too many `most` of them, in their order, which depend on `seed` alone.
pub fn some(rows: &[u32], most: usize, seed: u64) -> Cow<'_, [u32]> {
    if rows.len() <= most {
        return Cow::Borrowed(rows);
    }
    let mut places = index::sample(&mut generator(seed, Purpose::Sampler, 1), rows.len(), most).into_vec();
    places.sort_unstable();
    places.into_iter().map(|place| rows[place]).collect()
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
    fn no_more_rows_than_that_many_are_picked_and_the_seed_decides() {
        let rows: Vec<u32> = (0..1000).map(|row| row * 2).collect();
        assert_eq!(*some(&rows, 1000, 1), rows[..]);
        let picked = some(&rows, 100, 1);
        assert!(
            picked.len() == 100
                && picked.windows(2).all(|two| two[0] < two[1])
                && picked.iter().all(|row| row % 2 == 0)
        );
        assert_eq!(picked, some(&rows, 100, 1));
        assert_ne!(picked, some(&rows, 100, 2));
    }

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
    fn rows_that_are_kept_on_the_device_are_those_that_are_fetched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        let values: Vec<f32> =
            (0..300).map(|number| if number % 11 == 0 { f32::NAN } else { number as f32 * 0.7 }).collect();
        std::fs::write(&path, crate::data::rows::little_endian(&values)).unwrap();
        let rows = RowFile::open(&path, 3, 100).unwrap();
        let columns = ["a", "b", "c"].map(crate::data::dataset::Column::of_numbers);
        let schema = Schema { columns: columns.to_vec(), image: None };
        let spec: TrainSpec = serde_json::from_value(
            serde_json::json!({"dataset": crate::domain::id::DatasetId::new(), "model": {"family": "vae"}}),
        )
        .unwrap();
        let train: Vec<u32> = (0..80).collect();
        let fit = || Batches::fit(&rows, &schema, &spec, &train, Device::Cpu);
        let (fetched, kept) = (fit(), fit().keep());
        assert!(fetched.resident.is_none() && kept.resident.is_some());
        for indices in [&[7_u32, 99, 0, 7][..], &train] {
            let bits = |batches: &Batches<'_>| values_of(&batches.tensor(indices));
            assert_eq!(bits(&fetched), bits(&kept));
        }
        assert_eq!(fetched.means(&train), kept.means(&train));
    }

    fn values_of(tensor: &Tensor) -> Vec<u32> {
        values(tensor).into_iter().map(f32::to_bits).collect()
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
