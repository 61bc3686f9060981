//! What is measured once a model is trained: reconstruction, the same by principal components, and log p(x).

use tch::{Kind, Tensor};

use super::batches::Batches;
use super::sums::Sums;
use crate::models::noise::{Noise, Purpose};
use crate::models::{Network, Step};
use tch::Device;

/// Rows that are measured at once.
const EVALUATION_ROWS: usize = 1024;
/// Principal components take the square of the width; wider rows go without.
const PCA_COLUMNS: usize = 1024;

/// Loss and its parts over `rows`, without training effects. The draws depend on the batch alone, so that epochs compare.
pub fn loss(network: &dyn Network, batches: &Batches<'_>, rows: &[u32], seed: u64, epoch: f64, device: Device) -> Sums {
    let _guard = tch::no_grad_guard();
    let mut sums = Sums::default();
    for (index, chunk) in rows.chunks(EVALUATION_ROWS).enumerate() {
        let noise = Noise::new(seed, Purpose::Validation, index as u64, device);
        let loss = network.loss(&batches.tensor(chunk), &Step { training: false, epoch, noise: &noise });
        let parts: Vec<(&'static str, f64)> =
            loss.parts.iter().map(|(name, part)| (*name, part.double_value(&[]))).collect();
        sums.add(chunk.len(), loss.total.double_value(&[]), &parts, 0.0);
    }
    sums
}

/// Mean squared error of reconstruction over rows and columns, in scaled units.
pub fn reconstruction_error(network: &dyn Network, batches: &Batches<'_>, rows: &[u32]) -> f64 {
    let _guard = tch::no_grad_guard();
    mean_over(rows, |chunk| {
        let x = batches.tensor(chunk);
        (network.decode(&network.encode(&x).mean) - x).square().mean(Kind::Double).double_value(&[])
    })
}

/// The same error of projecting on the first `components` principal components of the rows in `train`.
///
/// `None` where there are too many columns, or as many components as columns.
pub fn principal_components_error(
    batches: &Batches<'_>,
    train: &[u32],
    rows: &[u32],
    components: usize,
) -> Option<f64> {
    let width = batches.scaling().width();
    if width > PCA_COLUMNS || components >= width || train.len() < 2 {
        return None;
    }
    let _guard = tch::no_grad_guard();
    let (mut sum, mut products) = (None::<Tensor>, None::<Tensor>);
    for chunk in train.chunks(EVALUATION_ROWS) {
        let x = batches.tensor(chunk).to_kind(Kind::Double);
        let (s, p) = (x.sum_dim_intlist([0].as_slice(), false, Kind::Double), x.transpose(0, 1).matmul(&x));
        sum = Some(sum.map_or_else(|| s.shallow_clone(), |before| before + &s));
        products = Some(products.map_or_else(|| p.shallow_clone(), |before| before + &p));
    }
    let count = train.len() as f64;
    let mean = sum? / count;
    let covariance = products? / count - mean.outer(&mean);
    let (_, vectors) = covariance.f_linalg_eigh("L").ok()?; // ascending: the last columns are the first components
    let basis = vectors.narrow(1, (width - components) as i64, components as i64); // [width, components]
    Some(mean_over(rows, |chunk| {
        let centered = batches.tensor(chunk).to_kind(Kind::Double) - &mean;
        let restored = centered.matmul(&basis).matmul(&basis.transpose(0, 1));
        (restored - centered).square().mean(Kind::Double).double_value(&[])
    }))
}

/// The mean of log p(x) over `rows` by importance samples; `None` where the family has no density.
pub fn log_likelihood(
    network: &dyn Network,
    batches: &Batches<'_>,
    rows: &[u32],
    samples: u32,
    seed: u64,
    device: Device,
) -> Option<f64> {
    let _guard = tch::no_grad_guard();
    let mut sum = 0.0;
    for (index, chunk) in rows.chunks(EVALUATION_ROWS).enumerate() {
        let noise = Noise::new(seed, Purpose::Likelihood, index as u64, device);
        sum += network.log_likelihood(&batches.tensor(chunk), samples, &noise)?.sum(Kind::Double).double_value(&[]);
    }
    (!rows.is_empty()).then(|| sum / rows.len() as f64)
}

fn mean_over(rows: &[u32], error: impl Fn(&[u32]) -> f64) -> f64 {
    let sum: f64 = rows.chunks(EVALUATION_ROWS).map(|chunk| chunk.len() as f64 * error(chunk)).sum();
    sum / rows.len().max(1) as f64
}
