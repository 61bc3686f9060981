//! What is measured once a model is trained: reconstruction, the same by principal components, and log p(x).

use tch::{Kind, Tensor};

use super::batches::{Batch, Batches};
use super::figures::together;
use super::sums::Sums;
use crate::data::preparation::Preparation;
use crate::domain::metric::Metric;
use crate::models::noise::{Noise, Purpose};
use crate::models::parameters::values;
use crate::models::{Network, Step};
use tch::Device;

/// Rows that are measured at once.
const EVALUATION_ROWS: usize = 1024;
/// Rows whose errors are found at once: in 64 bits, of which there are several copies.
const ERROR_ROWS: usize = 256;
/// Principal components take the square of the width; wider rows go without.
const PCA_COLUMNS: usize = 1024;

/// Rows whose codes are looked at.
const CODE_ROWS: usize = 2048;
/// A unit of a stochastic code is active when its mean varies over rows by more than this (Burda et al., 2016).
const ACTIVE_VARIANCE: f64 = 0.01;
/// A unit of any other code is active when it varies by more than this share of what units vary by in the mean.
const ACTIVE_SHARE: f64 = 1e-4;
/// Units whose KL is told one by one.
const UNITS_TOLD: usize = 256;

/// What is measured on: a network and rows for it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// What is measured.
    pub network: &'a dyn Network,
    /// Rows as it takes them.
    pub batches: &'a Batches<'a>,
    /// How many rows train.
    pub train_rows: usize,
    /// The seed of the job.
    pub seed: u64,
    /// Where tensors are.
    pub device: Device,
}

impl Subject<'_> {
    fn batch(&self, index: usize, rows: &[u32]) -> Batch {
        let draws = Noise::new(self.seed, Purpose::BinarizeValidation, index as u64, self.device);
        self.batches.batch(rows, &draws)
    }
}

/// Loss and its parts over `rows`, without training effects. The draws depend on the batch alone, so that epochs compare.
pub fn loss(subject: Subject<'_>, rows: &[u32], epoch: f64) -> Sums {
    let _guard = tch::no_grad_guard();
    // They are fetched together at the end, so that a GPU is waited for once.
    let (mut blocks, mut scalars) = (Vec::new(), Vec::new());
    for (index, chunk) in rows.chunks(EVALUATION_ROWS).enumerate() {
        let noise = Noise::new(subject.seed, Purpose::Validation, index as u64, subject.device);
        let Batch { x, labels } = subject.batch(index, chunk);
        let step =
            Step { epoch, train_rows: subject.train_rows as f64, labels: labels.as_ref(), ..Step::validation(&noise) };
        let mut names = Vec::new();
        for turn in 0..subject.network.turns().len() {
            let loss = subject.network.loss(&x, &Step { turn, ..step });
            names.push(None);
            scalars.push(loss.reported);
            for (name, part) in loss.parts {
                names.push(Some(name));
                scalars.push(part);
            }
        }
        blocks.push((chunk.len(), names));
    }
    let mut sums = Sums::default();
    let mut values = together(&scalars).into_iter();
    for (rows, names) in blocks {
        let (mut total, mut parts) = (0.0, Vec::new());
        for (name, value) in names.into_iter().zip(&mut values) {
            match name {
                None => total += value,
                Some(name) => parts.push((name, value)),
            }
        }
        sums.add(rows, total, &parts, 0.0);
    }
    sums
}

/// What the codes of some rows are like.
pub struct CodeFigures {
    /// Units that vary over rows.
    pub active: usize,
    /// Units that do not.
    pub dead: usize,
    /// KL of each unit in nats, where the family has such a term.
    pub unit_kl: Option<Vec<f64>>,
}

impl CodeFigures {
    /// As metrics; with the KL of single units where `in_full`.
    pub fn metrics(&self, in_full: bool) -> Vec<Metric> {
        let mut metrics: Vec<Metric> = [("code/active_units", self.active), ("code/dead_units", self.dead)]
            .into_iter()
            .map(|(name, value)| Metric { name: name.to_owned(), value: value as f64 })
            .collect();
        if let Some(units) = self.unit_kl.as_ref().filter(|_| in_full) {
            let told = units.iter().take(UNITS_TOLD).enumerate();
            metrics.extend(told.filter_map(|(unit, kl)| Metric::finite(format!("code/kl/{unit:03}"), *kl)));
        }
        metrics
    }

    /// What a person should do about these codes, where something is wrong with them.
    pub fn warning(&self) -> Option<String> {
        let all = self.active + self.dead;
        match &self.unit_kl {
            Some(units) if self.active == 0 || units.iter().sum::<f64>() < 0.1 => Some(format!(
                "The posterior has collapsed: the {all} units of the code carry {:.3} nats together, so that every row has nearly the same code. A lower beta, kl_warmup_epochs, free_bits or a learned variance usually helps.",
                units.iter().sum::<f64>()
            )),
            _ if self.active == 0 => Some(format!(
                "The code is dead: none of its {all} units varies from row to row. A lower learning rate, weaker penalties or another activation usually helps."
            )),
            _ if self.dead * 2 > all => Some(format!(
                "{} of the {all} units of the code do not vary from row to row. A narrower code would do, or weaker penalties would let it use them.",
                self.dead
            )),
            _ => None,
        }
    }
}

/// Looks at the codes of some of `rows`.
pub fn code(subject: Subject<'_>, rows: &[u32]) -> CodeFigures {
    let _guard = tch::no_grad_guard();
    let x = subject.batch(0, &rows[..rows.len().min(CODE_ROWS)]).x;
    let code = subject.network.encode(&x);
    let variance = code.mean.to_kind(Kind::Double).var_dim([0].as_slice(), false, false);
    let least = match code.spread {
        Some(_) => ACTIVE_VARIANCE,
        None => (variance.mean(Kind::Double).double_value(&[]) * ACTIVE_SHARE).max(1e-12),
    };
    let units = code.mean.size()[1] as usize;
    let active = variance.gt(least).sum(Kind::Int64).int64_value(&[]) as usize;
    let unit_kl =
        subject.network.unit_kl(&x).map(|units| values(&units).into_iter().map(f64::from).collect::<Vec<f64>>());
    CodeFigures { active, dead: units - active, unit_kl }
}

/// How well the label columns of `rows` are told: the share that is right of classes, the root mean squared error in the
/// user's units of numbers. Rows without a label do not count. Empty where the family tells none.
pub fn labels(subject: Subject<'_>, names: &[&str], rows: &[u32]) -> Vec<(String, f64)> {
    let _guard = tch::no_grad_guard();
    let target = subject.batches.target();
    let mut sums = vec![(0.0, 0.0); target.width()];
    for (index, chunk) in rows.chunks(EVALUATION_ROWS).enumerate() {
        let Batch { x, labels } = subject.batch(index, chunk);
        let (Some(labels), Some((output, likelihood))) = (labels, subject.network.predict(&x)) else {
            return Vec::new();
        };
        let told = target.undo(&values(&likelihood.mean(&output)));
        let missing: Vec<bool> = first_slots(target, &values(&labels)).map(f32::is_nan).collect();
        let known = target.undo(&values(&labels));
        for (position, ((told, known), missing)) in told.iter().zip(&known).zip(missing).enumerate() {
            if missing {
                continue;
            }
            let column = position % target.width();
            let off = f64::from(told - known);
            sums[column].0 += 1.0;
            sums[column].1 +=
                if target.columns[column].is_class() { f64::from(u8::from(off == 0.0)) } else { off * off };
        }
    }
    let single = names.len() == 1;
    let named = names.iter().zip(&target.columns).zip(sums).filter(|(_, (count, _))| *count > 0.0);
    named
        .map(|((name, treatment), (count, sum))| {
            let (figure, value) =
                if treatment.is_class() { ("accuracy", sum / count) } else { ("rmse", (sum / count).sqrt()) };
            (if single { figure.to_owned() } else { format!("{figure}/{name}") }, value)
        })
        .collect()
}

/// The first prepared number of each column, row after row.
fn first_slots<'a>(preparation: &'a Preparation, prepared: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    let offsets: Vec<usize> = preparation
        .columns
        .iter()
        .scan(0, |offset, treatment| {
            let own = *offset;
            *offset += treatment.slots();
            Some(own)
        })
        .collect();
    prepared
        .chunks_exact(preparation.prepared_width().max(1))
        .flat_map(move |row| offsets.clone().into_iter().map(|offset| row[offset]))
}

/// Mean squared error of reconstruction over rows and columns, in prepared units. Values that are missing do not count.
pub fn reconstruction_error(network: &dyn Network, batches: &Batches<'_>, rows: &[u32]) -> f64 {
    let _guard = tch::no_grad_guard();
    mean_square(rows, |chunk| {
        let x = batches.tensor(chunk);
        (network.decode(&network.encode(&x).mean), x)
    })
}

/// The first principal components of some rows, as prepared rows.
pub struct PrincipalComponents {
    mean: Tensor,  // [width]
    basis: Tensor, // [width, components]
}

impl PrincipalComponents {
    /// Those of the rows in `train`, of which a missing value lies at the mean of its column. `None` where there are too many
    /// columns, or as many components as columns.
    pub fn of(batches: &Batches<'_>, train: &[u32], components: usize) -> Option<Self> {
        let width = batches.preparation().prepared_width();
        if width > PCA_COLUMNS || components >= width || train.len() < 2 {
            return None;
        }
        let _guard = tch::no_grad_guard();
        let mean = Tensor::from_slice(&batches.means(train)).to_kind(Kind::Double).to_device(batches.device());
        let mut products = None::<Tensor>;
        for chunk in train.chunks(EVALUATION_ROWS) {
            let x = centered(batches, &mean, chunk);
            let x = x.masked_fill(&x.isnan(), 0.0);
            let p = x.transpose(0, 1).matmul(&x);
            products = Some(products.map_or_else(|| p.shallow_clone(), |before| before + &p));
        }
        let covariance = products? / train.len() as f64;
        let (_, vectors) = covariance.f_linalg_eigh("L").ok()?; // ascending: the last columns are the first components
        let basis = vectors.narrow(1, (width - components) as i64, components as i64);
        Some(Self { mean, basis })
    }

    /// The mean squared error of rows that are projected on them, as [`reconstruction_error`] has it.
    pub fn error(&self, batches: &Batches<'_>, rows: &[u32]) -> f64 {
        let _guard = tch::no_grad_guard();
        mean_square(rows, |chunk| {
            let x = centered(batches, &self.mean, chunk);
            let seen = x.masked_fill(&x.isnan(), 0.0);
            (seen.matmul(&self.basis).matmul(&self.basis.transpose(0, 1)), x)
        })
    }
}

fn centered(batches: &Batches<'_>, mean: &Tensor, rows: &[u32]) -> Tensor {
    batches.tensor(rows).to_kind(Kind::Double) - mean
}

/// The mean of log p(x) over `rows` by importance samples, of what is observed of a row; `None` where the family has no density.
pub fn log_likelihood(subject: Subject<'_>, rows: &[u32], samples: u32) -> Option<f64> {
    let _guard = tch::no_grad_guard();
    let mut sum = 0.0;
    for (index, chunk) in rows.chunks(EVALUATION_ROWS).enumerate() {
        let noise = Noise::new(subject.seed, Purpose::Likelihood, index as u64, subject.device);
        let x = subject.batch(index, chunk).x;
        sum += subject.network.log_likelihood(&x, samples, &noise)?.sum(Kind::Double).double_value(&[]);
    }
    (!rows.is_empty()).then(|| sum / rows.len() as f64)
}

/// The mean of the squared differences of what `both` gives for some rows: the rows restored, and the rows, of which missing
/// values do not count.
fn mean_square(rows: &[u32], both: impl Fn(&[u32]) -> (Tensor, Tensor)) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for chunk in rows.chunks(ERROR_ROWS) {
        let (restored, x) = both(chunk);
        let missing = x.isnan();
        sum += (restored - x).masked_fill(&missing, 0.0).square().sum(Kind::Double).double_value(&[]);
        count += missing.logical_not().sum(Kind::Double).double_value(&[]);
    }
    sum / f64::max(count, 1.0)
}
