//! A trained model as one file: weights, and everything that is needed to use them on rows in the user's own units.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::blocks::Blocks;
use super::bundle::{Bundle, BundleError};
use super::checkpoint::{Checkpoint, RunState};
use super::likelihoods::{modelled, sketched};
use super::optimizer::Optimizer;
use super::scoring::{Calibration, Scores, squared_errors};
use super::spec::TrainSpec;
use crate::data::dataset::{Column, Schema};
use crate::data::lines::Lines;
use crate::data::preparation::Preparation;
use crate::domain::limits::INFERENCE_BATCH_ROWS;
use crate::domain::shape::RowShape;
use crate::domain::treatment::Treatment;
use crate::models::likelihood::Modelled;
use crate::models::network::{NetworkKind, Plan, Target};
use crate::models::noise::{Noise, Purpose};
use crate::models::parameters::{Builder, MismatchError, Named, Parameters, values};
use crate::models::sampler::Sampler;
use crate::models::{Network, Sampling};

const FORMAT: &str = "latente.model";
const VERSION: u32 = 2;

/// What the header of a model file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelHeader {
    format: String,
    version: u32,
    /// The resolved spec it was trained by.
    pub spec: TrainSpec,
    /// The columns it takes, in order, and the image they make.
    pub columns: Vec<Column>,
    /// The label columns it learned to tell; none where it learned without.
    pub labels: Vec<Column>,
    /// The shape of a row.
    pub shape: RowShape,
    /// What is done to columns.
    pub preparation: Preparation,
    /// What was done to label columns.
    pub target: Preparation,
    /// Whether the network takes rows with gaps: where the data had some, or may have levels that training did not see.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gaps: bool,
    /// How strange ordinary rows are to it; models of earlier versions do not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// What is looked at first.
#[derive(Deserialize)]
struct Mark {
    format: String,
    version: u32,
}

impl ModelHeader {
    /// The header of a new model.
    pub fn new(spec: &TrainSpec, schema: &Schema, preparation: Preparation, target: Preparation) -> Self {
        let labels = schema.label_columns().take(target.width()).cloned().collect();
        let gaps = schema.has_gaps() || preparation.columns.iter().any(Treatment::is_class);
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            spec: spec.clone(),
            columns: schema.feature_columns().cloned().collect(),
            labels,
            shape: schema.row_shape(),
            preparation,
            target,
            gaps,
            calibration: None,
        }
    }

    /// Reads the header at the start of a model file, which may go on after it.
    ///
    /// # Errors
    /// It is no start of a model file of this version.
    pub fn read(start: &[u8]) -> Result<Self, BundleError> {
        Self::parse(&Bundle::header_of(start)?)
    }

    fn parse(text: &str) -> Result<Self, BundleError> {
        let mark: Mark = serde_json::from_str(text)?;
        if mark.format != FORMAT || mark.version != VERSION {
            return Err(BundleError::Content("the file is of another format or version".to_owned()));
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The network that this header describes, with its first weights, which are better where the `means` of prepared training
    /// rows are known, `[width]`. Gaps are filled with those.
    pub fn build(&self, device: Device, means: Option<&[f32]>) -> BuiltNetwork {
        let mut builder = Builder::new(self.spec.training.seed, device);
        let network = self.assemble(means, &mut builder);
        BuiltNetwork { network, parameters: builder.finish() }
    }

    fn assemble(&self, means: Option<&[f32]>, builder: &mut Builder) -> Box<dyn Network> {
        let spec = &self.spec;
        let mut columns = modelled(&spec.likelihood, self.columns.iter(), &self.preparation.columns);
        let mut rest = means.unwrap_or_default().iter().copied();
        for column in &mut columns {
            column.means = rest.by_ref().take(column.treatment.slots()).collect();
        }
        let labels = modelled(&spec.target, self.labels.iter(), &self.target.columns);
        if self.gaps {
            let zeros = || vec![0.0; self.preparation.prepared_width()];
            builder.expect_gaps(&means.map_or_else(zeros, <[f32]>::to_vec));
        }
        assemble(spec, self.shape, &columns, &labels, builder)
    }
}

/// A network with the parameters it computes with.
pub struct BuiltNetwork {
    /// What encodes and decodes.
    pub network: Box<dyn Network>,
    /// Its numbers.
    pub parameters: Parameters,
}

/// What is known of a network before anything is fitted or drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// How many numbers it trains.
    pub parameters: u64,
    /// Whether it can be trained layer by layer.
    pub has_stack: bool,
    /// Width of a prepared row.
    pub width: u64,
    /// Numbers that its layers take and give for one row, about.
    pub units: u64,
}

/// The size of the network that a settled spec describes. It takes no memory to find out.
pub fn sketch(spec: &TrainSpec, schema: &Schema) -> Sketch {
    let columns = sketched(&spec.likelihood, schema.feature_columns());
    let labels = if spec.learns_labels(schema) { sketched(&spec.target, schema.label_columns()) } else { Vec::new() };
    let mut builder = Builder::counting();
    let network = assemble(spec, schema.row_shape(), &columns, &labels, &mut builder);
    let width = columns.iter().map(|column| column.treatment.slots() as u64).sum();
    // Layers that use the weights of others have none to be counted by.
    let shared = if spec.network.tied { 2 } else { 1 };
    let units = shared * (builder.units() + convolved(spec, schema));
    Sketch { parameters: builder.count(), has_stack: network.stack().is_some(), width, units }
}

/// Numbers that convolutions take and give for one row: each image on the way to the code, and on the way back.
fn convolved(spec: &TrainSpec, schema: &Schema) -> u64 {
    let (NetworkKind::Conv, Some(image)) = (spec.network.kind, schema.image) else { return 0 };
    let channels = std::iter::once(image.channels).chain(spec.network.channels());
    let images = channels.zip(spec.network.sides(image));
    let one_way: u64 =
        images.map(|(channels, (height, width))| u64::from(channels) * u64::from(height) * u64::from(width)).sum();
    4 * one_way
}

/// The names and shapes of the tensors of the network that a header describes. It takes no memory to find out.
///
/// # Panics
/// The header contradicts itself.
pub(super) fn lay_out(header: &ModelHeader) -> Vec<(String, Vec<usize>)> {
    let spec = &header.spec;
    let columns = modelled(&spec.likelihood, header.columns.iter(), &header.preparation.columns);
    let labels = modelled(&spec.target, header.labels.iter(), &header.target.columns);
    let mut builder = Builder::counting();
    if header.gaps {
        builder.expect_gaps(&vec![0.0; header.preparation.prepared_width()]);
    }
    assemble(spec, header.shape, &columns, &labels, &mut builder);
    builder.shapes()
}

fn assemble(
    spec: &TrainSpec,
    shape: RowShape,
    columns: &[Modelled],
    labels: &[Modelled],
    builder: &mut Builder,
) -> Box<dyn Network> {
    let target = (!labels.is_empty()).then_some(Target { likelihood: &spec.target, columns: labels });
    let plan = Plan { image: shape.image, network: &spec.network, likelihood: &spec.likelihood, columns, target };
    spec.model.build(&plan, builder)
}

/// The bytes of a model file.
pub fn write(header: &ModelHeader, parameters: &Parameters, sampler: Option<&Sampler>) -> Vec<u8> {
    let mut tensors = parameters.named();
    tensors.extend(sampler.into_iter().flat_map(Sampler::named));
    let header = serde_json::to_string(header).expect("a header is JSON");
    Bundle { header, tensors }.to_bytes()
}

/// A model that answers questions. Not `Sync`: one thread uses it at a time. Another has a copy of its own, which shares the
/// numbers.
///
/// What is told of a row without draws depends on that row alone, to the bit: see [`Blocks`].
pub struct TrainedModel {
    /// What it was trained by and on.
    pub header: Arc<ModelHeader>,
    sampler: Option<Arc<Sampler>>,
    network: Box<dyn Network>,
    tensors: HashMap<String, Tensor>,
    /// The preparation, where all columns are scaled.
    lines: Option<Arc<Lines>>,
    blocks: Blocks,
    device: Device,
    units: Units,
}

/// Which rows are prepared, as the network has them, instead of in the user's columns and units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Those that come.
    pub prepared_in: bool,
    /// Those that are given.
    pub prepared_out: bool,
}

impl TrainedModel {
    /// Reads a model file.
    ///
    /// # Errors
    /// The bytes are not a model, or not one that fits its own spec.
    pub fn read(bytes: &[u8], device: Device) -> Result<Self, BundleError> {
        let mut bundle = Bundle::from_bytes(bytes)?;
        let content = |fault: &str| BundleError::Content(fault.to_owned());
        let header = ModelHeader::parse(&bundle.header)?;
        header.spec.check().map_err(|refusal| BundleError::Content(refusal.detail))?;
        let width = header.shape.width;
        if width == 0
            || header.preparation.width() != width
            || header.columns.len() != width
            || header.target.width() != header.labels.len()
        {
            return Err(content("the preparation or the columns do not fit the width of the rows"));
        }
        let latent = header.spec.model.latent() as usize;
        let sampler = match header.spec.model.sampling() {
            Sampling::Prior => None,
            Sampling::Fitted | Sampling::Chain => Some(
                Sampler::take(latent, &mut bundle.tensors)
                    .ok_or_else(|| content("the sampler does not fit the width of the code"))?,
            ),
        };
        let tensor = |named: Named| {
            let shape: Vec<i64> = named.shape.iter().map(|side| *side as i64).collect();
            (named.name, Tensor::from_slice(&named.values).view(shape.as_slice()).to_device(device))
        };
        let blocks =
            Blocks::of(header.preparation.prepared_width(), bundle.tensors.iter().map(|named| &named.shape[..]));
        let tensors = bundle.tensors.into_iter().map(tensor).collect();
        let lines = Lines::of(&header.preparation).map(Arc::new);
        let network = over(&header, &tensors, device).map_err(|fault| BundleError::Content(fault.to_string()))?;
        let (header, sampler) = (Arc::new(header), sampler.map(Arc::new));
        Ok(Self { header, sampler, network, tensors, lines, blocks, device, units: Units::default() })
    }

    /// The same model for another thread. It takes no memory to speak of.
    pub fn share(&self) -> Self {
        let network = over(&self.header, &self.tensors, self.device);
        Self {
            header: self.header.clone(),
            sampler: self.sampler.clone(),
            network: network.expect("the tensors fitted before; this is a bug"),
            tensors: shallow(&self.tensors),
            lines: self.lines.clone(),
            blocks: self.blocks,
            device: self.device,
            units: self.units,
        }
    }

    /// The place before the first step of a run that begins with the weights of this model.
    ///
    /// # Errors
    /// Never, of a model that was read.
    pub fn beginning(&self, spec: &TrainSpec) -> Result<Checkpoint, MismatchError> {
        let mut parameters = self.header.build(self.device, None).parameters;
        parameters.load(|name| {
            let tensor = self.tensors.get(name)?;
            Some((tensor.size().into_iter().map(|side| side as usize).collect(), values(tensor)))
        })?;
        Ok(Checkpoint {
            state: RunState::start(self.device),
            current: parameters.snapshot(),
            best: None,
            optimizer: Optimizer::new(&spec.training.optimizer, &parameters).state(),
            average: None,
        })
    }

    /// The same model for rows in other units. It takes no memory to speak of.
    pub fn in_units(&self, units: Units) -> Self {
        Self { units, ..self.share() }
    }

    /// How many numbers each column becomes when it is prepared; and of each of these the level that it stands for, NaN where it
    /// stands for none.
    pub fn slots(&self) -> (Vec<f32>, Vec<f32>) {
        let columns = &self.header.preparation.columns;
        let levels = columns.iter().flat_map(|treatment| match treatment {
            Treatment::OneHot { levels } => levels.clone(),
            _ => vec![f32::NAN; treatment.slots()],
        });
        (columns.iter().map(|treatment| treatment.slots() as f32).collect(), levels.collect())
    }

    /// Width of the code.
    pub fn latent(&self) -> usize {
        self.header.spec.model.latent() as usize
    }

    /// Rows that go through it at once, at most.
    pub fn block_rows(&self) -> usize {
        self.blocks.rows
    }

    /// Bytes that its numbers take.
    pub fn bytes(&self) -> usize {
        let numbers: usize = self.tensors.values().map(Tensor::numel).sum();
        let sampler = self.sampler.iter().flat_map(|sampler| sampler.named()).map(|named| named.values.len());
        (numbers + sampler.sum::<usize>()) * size_of::<f32>()
    }

    /// Goes through the code and back with one row, and draws another; says what is not as it must be.
    ///
    /// # Errors
    /// Something has another width than the header says.
    pub fn try_out(&self) -> Result<(), String> {
        let width = self.header.shape.width;
        let (code, _) = self.encode(&vec![0.0; width]);
        let (row, _) = self.decode(&vec![0.0; self.latent()], false);
        let drawn =
            self.sample(&Draw { count: 1, seed: 0, temperature: 1.0, chain_steps: 1, drawn: true, given: None });
        self.predict(&vec![0.0; width]);
        match (code.len(), row.len(), drawn.len()) {
            (latent, row, drawn) if latent == self.latent() && row == width && drawn == width => Ok(()),
            found => Err(format!("a code, a row and a drawn row have the widths {found:?}")),
        }
    }

    /// Codes of rows in the user's units, and their spread where the encoder is stochastic. Both one row after the other.
    pub fn encode(&self, rows: &[f32]) -> (Vec<f32>, Option<Vec<f32>>) {
        let _guard = tch::no_grad_guard();
        self.blocks.through(rows, self.width(), |rows| {
            let code = self.network().encode(&self.prepared(rows));
            (code.mean, code.spread)
        })
    }

    /// Rows in the user's units for codes: their means, and their spread where it is asked for.
    pub fn decode(&self, codes: &[f32], with_spread: bool) -> (Vec<f32>, Option<Vec<f32>>) {
        let _guard = tch::no_grad_guard();
        let (rows, spread) = self.blocks.through(codes, self.latent(), |codes| {
            let z = self.padded(Cow::Borrowed(codes), self.latent());
            let spread = with_spread.then(|| self.network().spread(&z));
            (self.network().decode(&z), spread)
        });
        (self.restored(rows), spread.map(|spread| self.restored_spread(spread)))
    }

    /// Rows in the user's units that are drawn from what the decoder says of codes.
    pub fn decode_draws(&self, codes: &[f32], seed: u64) -> Vec<f32> {
        let _guard = tch::no_grad_guard();
        let noise = Noise::new(seed, Purpose::Inference, 1, self.device());
        let draw = |codes: &[f32]| self.restored(values(&self.network().draw(&self.codes(codes), &noise)));
        codes.chunks(INFERENCE_BATCH_ROWS * self.latent()).flat_map(draw).collect()
    }

    /// Rows through the code and back, in the user's units, and the mean squared error of each over its prepared numbers, of which
    /// those that are missing do not count.
    pub fn reconstruct(&self, rows: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let _guard = tch::no_grad_guard();
        let (restored, errors) = self.blocks.through(rows, self.width(), |rows| {
            let x = self.prepared(rows);
            let restored = self.network().decode(&self.network().encode(&x).mean);
            let errors = squared_errors(&x, &restored);
            (restored, Some(errors))
        });
        (self.restored(restored), errors.unwrap_or_default())
    }

    /// New codes, as those of new rows are drawn.
    pub fn sample_codes(&self, count: usize, seed: u64) -> Vec<f32> {
        let _guard = tch::no_grad_guard();
        values(&self.draw_codes(count, 1.0, seed))
    }

    /// New rows in the user's units. They depend on what is asked and the seed alone.
    pub fn sample(&self, asked: &Draw) -> Vec<f32> {
        let _guard = tch::no_grad_guard();
        let noise = Noise::new(asked.seed, Purpose::Inference, 1, self.device());
        let z = self.draw_codes(asked.count, asked.temperature, asked.seed);
        let rows =
            |z: &Tensor| self.restored(values(&self.rows_of_codes(asked, z, &noise, Tensor::shallow_clone, None)));
        z.split(INFERENCE_BATCH_ROWS as i64, 0).iter().flat_map(rows).collect()
    }

    /// Prepared rows of codes, as new rows are asked for. `hold` puts given values into rows, and `known` says where they are.
    pub(super) fn rows_of_codes(
        &self,
        asked: &Draw,
        z: &Tensor,
        noise: &Noise,
        hold: impl Fn(&Tensor) -> Tensor,
        known: Option<&Tensor>,
    ) -> Tensor {
        let network = self.network();
        if self.header.spec.model.sampling() == Sampling::Chain && asked.chain_steps > 0 {
            let known = known.map(|known| known.to_kind(tch::Kind::Float));
            let start = hold(&network.decode(z));
            return network.chain(&start, asked.chain_steps, known.as_ref(), noise).unwrap_or(start);
        }
        hold(&if asked.drawn { network.draw(z, noise) } else { network.decode(z) })
    }

    /// Rows in the user's units whose missing values (NaN) were filled in: by the family's chain where it has one, else by
    /// going through the code and back with the known values held, so many times.
    pub fn impute(&self, rows: &[f32], rounds: u32, seed: u64) -> Vec<f32> {
        let _guard = tch::no_grad_guard();
        let noise = Noise::new(seed, Purpose::Inference, 2, self.device());
        let filled = |rows: &[f32]| self.filled(rows, rounds, &noise, Gaps::Likeliest);
        rows.chunks(INFERENCE_BATCH_ROWS * self.width()).flat_map(filled).collect()
    }

    /// The same rows filled so many times over by chance: all of them by the first draw, then by the next. Between draws a missing
    /// value varies as much as the model is uncertain of it (multiple imputation; Rubin, 1987).
    pub fn impute_draws(&self, rows: &[f32], rounds: u32, draws: u32, seed: u64) -> Vec<f32> {
        let _guard = tch::no_grad_guard();
        let draw = |draw: u32| {
            let noise = Noise::new(seed, Purpose::Inference, FIRST_DRAW + u64::from(draw), self.device());
            let filled = |rows: &[f32]| self.filled(rows, rounds, &noise, Gaps::Drawn);
            rows.chunks(INFERENCE_BATCH_ROWS * self.width()).flat_map(filled).collect::<Vec<f32>>()
        };
        (0..draws).flat_map(draw).collect()
    }

    fn filled(&self, rows: &[f32], rounds: u32, noise: &Noise, way: Gaps) -> Vec<f32> {
        let prepared = self.with_missing(rows);
        let missing = prepared.isnan();
        let known = missing.logical_not().to_kind(tch::Kind::Float);
        // A missing value starts at what a row of average code would have there.
        let latent = self.latent() as i64;
        let middle = self.network().decode(&Tensor::zeros([1, latent], (tch::Kind::Float, self.device())));
        let start = middle.expand_as(&prepared).where_self(&missing, &prepared);
        let filled = self.network().chain(&start, rounds, Some(&known), noise).unwrap_or_else(|| match way {
            Gaps::Likeliest => self.filled_by_rounds(&start, &missing, rounds),
            Gaps::Drawn => self.drawn_by_rounds(&start, &missing, rounds, noise),
        });
        // What was known comes back as it came.
        let restored = self.restored(values(&filled));
        rows.iter().zip(restored).map(|(given, filled)| if given.is_nan() { filled } else { *given }).collect()
    }

    /// Rows whose missing values were drawn by so many rounds of a chain: a code of the row as it is filled so far, then values
    /// for its gaps of what the decoder says of that code (Rezende et al., 2014, appendix F).
    fn drawn_by_rounds(&self, start: &Tensor, missing: &Tensor, rounds: u32, noise: &Noise) -> Tensor {
        let mut x = start.shallow_clone();
        for _ in 0..rounds {
            let code = self.network().encode(&x);
            let z = match &code.spread {
                Some(spread) => &code.mean + spread * noise.normal(&spread.size()),
                None => code.mean,
            };
            x = self.network().draw(&z, noise).where_self(missing, start);
        }
        x
    }

    /// Rows whose missing values are such that the model gives them back as they are, as near as so many rounds come to it.
    ///
    /// Going through the code and back with the known values held is an iteration towards that, but a slow one, and one that
    /// leads away where the encoder leans across the rows it was trained on. So every other round leaps to where the secant
    /// through the best filling so far and the last one meets it (Anderson, 1965, with one step of memory, row by row), and
    /// each row keeps the filling that came back with the least error.
    fn filled_by_rounds(&self, start: &Tensor, missing: &Tensor, rounds: u32) -> Tensor {
        let round = |x: &Tensor| {
            let restored = self.network().decode(&self.network().encode(x).mean);
            let error = mean_of_rows(&(&restored - x).square()).nan_to_num(f64::INFINITY, None, None);
            let image = restored.where_self(missing, start);
            (&image - x, image, error)
        };
        let mut best = start.shallow_clone();
        let (mut best_move, mut best_image, mut least) = round(start);
        let mut x = best_image.shallow_clone();
        for number in 0..rounds {
            let (moved, image, error) = round(&x);
            let change = &moved - &best_move;
            let along = mean_of_rows(&(&moved * &change)) / mean_of_rows(&change.square());
            let leap = &image - (&image - &best_image) * along.nan_to_num(0.0, 0.0, 0.0);
            let better = error.less_tensor(&least);
            best = x.where_self(&better, &best);
            best_move = moved.where_self(&better, &best_move);
            best_image = image.where_self(&better, &best_image);
            least = error.minimum(&least);
            x = if number % 2 == 0 { leap } else { best_image.shallow_clone() };
        }
        best
    }

    /// What the model tells of the labels of rows: one value a label column, and its spread. `None` where it learned none.
    pub fn predict(&self, rows: &[f32]) -> Option<(Vec<f32>, Vec<f32>)> {
        let _guard = tch::no_grad_guard();
        if self.header.labels.is_empty() {
            return None;
        }
        let (told, spread) = self.blocks.through(rows, self.width(), |rows| {
            let x = self.prepared(rows);
            let told = self.network().predict(&x).map(|(output, likelihood)| likelihood.mean(&output));
            let nothing = || Tensor::zeros([0], (tch::Kind::Float, self.device()));
            (told.unwrap_or_else(nothing), self.network().predict_spread(&x))
        });
        Some((self.header.target.undo(&told), self.header.target.undo_spread(&spread?)))
    }

    /// An estimate of the gradient of log p(x) at rows, in prepared units, up to a positive factor; `None` where the family has
    /// none.
    pub fn score_estimate(&self, rows: &[f32]) -> Option<Vec<f32>> {
        let _guard = tch::no_grad_guard();
        self.blocks.through_some(rows, self.width(), |rows| self.network().score_estimate(&self.prepared(rows)))
    }

    /// How strange rows are, with the share of each column where it is asked for, and with so many draws of a seed and a piece of
    /// its rows what the family's density says. `None` where it has none and draws are asked for.
    pub fn scores(&self, rows: &[f32], samples: u32, draws: (u64, u64), contributions: bool) -> Option<Scores> {
        let _guard = tch::no_grad_guard();
        let noise = Noise::new(draws.0, Purpose::Score, draws.1, self.device());
        let slots: Vec<usize> = self.header.preparation.columns.iter().map(Treatment::slots).collect();
        let slots = contributions.then_some(&slots[..]);
        if samples > 0 {
            // The draws are for these rows and no others.
            let x = self.tensor(&self.prepared_values(rows));
            return Scores::of(self.network(), &x, slots, Some((samples, &noise)));
        }
        let mut whole = Scores::default();
        for block in rows.chunks(self.blocks.rows * self.width()) {
            let scores = Scores::of(self.network(), &self.prepared(block), slots, None)?;
            whole.append(&scores, block.len() / self.width());
        }
        Some(whole)
    }

    pub(super) fn draw_codes(&self, count: usize, temperature: f32, seed: u64) -> Tensor {
        match &self.sampler {
            Some(sampler) => self.codes(&sampler.draw(count, seed, temperature)),
            None => {
                let noise = Noise::new(seed, Purpose::Inference, 0, self.device());
                self.network()
                    .prior(count as i64, f64::from(temperature), &noise)
                    .expect("a family that samples from its prior has one; this is a bug")
            }
        }
    }

    /// The network, which takes prepared rows.
    pub(super) fn network(&self) -> &dyn Network {
        &*self.network
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Whether rows of answers are prepared.
    pub(super) fn gives_prepared(&self) -> bool {
        self.units.prepared_out
    }

    /// Prepared rows `[rows, width]` of rows of which some values are missing, NaN where they are.
    pub(super) fn with_missing(&self, rows: &[f32]) -> Tensor {
        self.tensor(&self.with_gaps(rows).0)
    }

    /// Width of the rows that come.
    pub fn width(&self) -> usize {
        if self.units.prepared_in { self.header.preparation.prepared_width() } else { self.header.shape.width }
    }

    fn codes(&self, codes: &[f32]) -> Tensor {
        Tensor::from_slice(codes).view([-1, self.latent() as i64]).to_device(self.device())
    }

    /// Prepared rows as the network takes them, and rows of zeros up to what [`Blocks`] asks for.
    fn prepared(&self, rows: &[f32]) -> Tensor {
        self.padded(self.prepared_values(rows), self.header.preparation.prepared_width())
    }

    /// Prepared rows. A network that was trained without gaps sees an unknown level as none of its levels.
    fn prepared_values<'a>(&self, rows: &'a [f32]) -> Cow<'a, [f32]> {
        let (mut prepared, are_finite) = self.with_gaps(rows);
        if !self.header.gaps && !are_finite {
            let ordinary = |value: f32| if value.is_nan() { 0.0 } else { value.clamp(f32::MIN, f32::MAX) };
            prepared.to_mut().iter_mut().for_each(|value| *value = ordinary(*value));
        }
        prepared
    }

    fn padded(&self, mut rows: Cow<'_, [f32]>, width: usize) -> Tensor {
        let whole = self.blocks.padded(rows.len() / width) * width;
        if rows.len() < whole {
            rows.to_mut().resize(whole, 0.0);
        }
        Tensor::from_slice(&rows).view([-1, width as i64]).to_device(self.device())
    }

    fn tensor(&self, prepared: &[f32]) -> Tensor {
        let width = self.header.preparation.prepared_width() as i64;
        Tensor::from_slice(prepared).view([-1, width]).to_device(self.device())
    }

    /// Prepared rows, and whether all of that is finite. Rows that are left as they are were looked at by whoever brings them.
    fn with_gaps<'a>(&self, rows: &'a [f32]) -> (Cow<'a, [f32]>, bool) {
        if self.units.prepared_in || self.lines.as_ref().is_some_and(|lines| lines.are_plain()) {
            return (Cow::Borrowed(rows), true);
        }
        let preparation = &self.header.preparation;
        let count = self.blocks.padded(rows.len() / self.width());
        let mut prepared = Vec::with_capacity(count * preparation.prepared_width());
        let are_finite = match &self.lines {
            Some(lines) => lines.prepare(rows, &mut prepared),
            None => {
                rows.chunks_exact(preparation.width())
                    .for_each(|row| preparation.apply(row.iter().copied(), &mut prepared));
                // This loop has no way out, so that it is done in vector instructions.
                prepared.iter().fold(true, |all, value| all & value.is_finite())
            }
        };
        (Cow::Owned(prepared), are_finite)
    }

    pub(super) fn restored(&self, mut rows: Vec<f32>) -> Vec<f32> {
        match &self.lines {
            _ if self.units.prepared_out => rows,
            Some(lines) if lines.are_plain() => rows,
            Some(lines) => {
                lines.restore(&mut rows);
                rows
            }
            None => self.header.preparation.undo(&rows),
        }
    }

    fn restored_spread(&self, spread: Vec<f32>) -> Vec<f32> {
        if self.units.prepared_out { spread } else { self.header.preparation.undo_spread(&spread) }
    }
}

/// The network that a header describes, over tensors that it shares.
fn over(
    header: &ModelHeader,
    tensors: &HashMap<String, Tensor>,
    device: Device,
) -> Result<Box<dyn Network>, MismatchError> {
    let mut builder = Builder::holding(shallow(tensors), device);
    let network = header.assemble(None, &mut builder);
    builder.finish_held()?;
    Ok(network)
}

fn shallow(tensors: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
}

/// The mean over each row: `[rows, width]` to `[rows, 1]`.
fn mean_of_rows(x: &Tensor) -> Tensor {
    x.mean_dim([1].as_slice(), true, tch::Kind::Float)
}

/// How a missing value is filled where the family has no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gaps {
    /// By what the model gives back as it is.
    Likeliest,
    /// By chance.
    Drawn,
}

/// The index of the first draw of [`TrainedModel::impute_draws`] among the noise of a seed.
const FIRST_DRAW: u64 = 16;

/// What new rows are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// How many.
    pub count: usize,
    /// Which ones.
    pub seed: u64,
    /// Scales the draws of the code: below 1 gives more typical rows, above 1 more varied ones.
    pub temperature: f32,
    /// Steps of the Markov chain, for families that have one; 0 for where it starts.
    pub chain_steps: u32,
    /// Whether rows are drawn from what the decoder says of their code; otherwise they are its means.
    pub drawn: bool,
    /// A row whose values the rows have, NaN where they may have any.
    pub given: Option<Vec<f32>>,
}
