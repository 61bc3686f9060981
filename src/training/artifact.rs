//! A trained model as one file: weights, and everything that is needed to use them on rows in the user's own units.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::bundle::{Bundle, BundleError};
use super::spec::TrainSpec;
use crate::data::dataset::Column;
use crate::data::scaling::Scaling;
use crate::domain::shape::RowShape;
use crate::models::parameters::{Builder, Named, Parameters, values};
use crate::models::sampler::Sampler;
use crate::models::{Network, Plan};

const FORMAT: &str = "latente.model";
const VERSION: u32 = 1;
const SAMPLER_MEAN: &str = "sampler.mean";
const SAMPLER_FACTOR: &str = "sampler.factor";

/// What the header of a model file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelHeader {
    format: String,
    version: u32,
    /// The resolved spec it was trained by.
    pub spec: TrainSpec,
    /// The columns it takes, in order, and the image they make.
    pub columns: Vec<Column>,
    /// The shape of a row.
    pub shape: RowShape,
    /// How columns are scaled.
    pub scaling: Scaling,
}

impl ModelHeader {
    /// The header of a new model.
    pub fn new(spec: TrainSpec, columns: Vec<Column>, shape: RowShape, scaling: Scaling) -> Self {
        Self { format: FORMAT.to_owned(), version: VERSION, spec, columns, shape, scaling }
    }
}

/// A network with the parameters it computes with.
pub struct BuiltNetwork {
    /// What encodes and decodes.
    pub network: Box<dyn Network>,
    /// Its numbers.
    pub parameters: Parameters,
}

/// The network that a resolved spec describes, with its first weights.
pub fn build(spec: &TrainSpec, shape: RowShape, device: Device) -> BuiltNetwork {
    let mut builder = Builder::new(spec.training.seed, device);
    let plan = Plan { shape, network: &spec.network, likelihood: &spec.likelihood };
    let network = spec.model.build(&plan, &mut builder);
    BuiltNetwork { network, parameters: builder.finish() }
}

/// The bytes of a model file.
pub fn write(header: &ModelHeader, parameters: &Parameters, sampler: &Sampler) -> Vec<u8> {
    let mut tensors = parameters.named();
    if let Sampler::Gaussian { mean, factor } = sampler {
        let latent = mean.len();
        tensors.push(Named { name: SAMPLER_MEAN.to_owned(), shape: vec![latent], values: mean.clone() });
        tensors.push(Named { name: SAMPLER_FACTOR.to_owned(), shape: vec![latent, latent], values: factor.clone() });
    }
    let header = serde_json::to_string(header).expect("a header is JSON");
    Bundle { header, tensors }.to_bytes()
}

/// A model that answers questions. Not `Sync`: it belongs to one thread.
pub struct TrainedModel {
    /// What it was trained by and on.
    pub header: ModelHeader,
    /// Where codes for new rows come from.
    pub sampler: Sampler,
    built: BuiltNetwork,
}

impl TrainedModel {
    /// Reads a model file.
    ///
    /// # Errors
    /// The bytes are not a model, or not one that fits its own spec.
    pub fn read(bytes: &[u8], device: Device) -> Result<Self, BundleError> {
        let mut bundle = Bundle::from_bytes(bytes)?;
        let header: ModelHeader = serde_json::from_str(&bundle.header)?;
        let content = |fault: &str| BundleError::Content(fault.to_owned());
        if header.format != FORMAT || header.version != VERSION {
            return Err(content("the file is of another format or version"));
        }
        header.spec.check().map_err(|refusal| BundleError::Content(refusal.detail))?;
        let (width, latent) = (header.shape.width, header.spec.model.latent() as usize);
        if width == 0
            || header.scaling.scale.len() != width
            || header.scaling.shift.len() != width
            || header.columns.len() != width
        {
            return Err(content("the scaling or the columns do not fit the width of the rows"));
        }
        let sampler = if header.spec.model.has_prior() {
            Sampler::StandardNormal { latent }
        } else {
            let (mean, factor) = (bundle.take(SAMPLER_MEAN)?, bundle.take(SAMPLER_FACTOR)?);
            if mean.len() != latent || factor.len() != latent * latent {
                return Err(content("the sampler does not fit the width of the code"));
            }
            Sampler::Gaussian { mean, factor }
        };
        let mut built = build(&header.spec, header.shape, device);
        let known = built.parameters.named().len();
        if known != bundle.tensors.len() {
            return Err(content("the file holds other tensors than its spec describes"));
        }
        let find = |name: &str| {
            let tensor = bundle.tensors.iter().find(|tensor| tensor.name == name)?;
            Some((tensor.shape.clone(), tensor.values.clone()))
        };
        built.parameters.load(find).map_err(|fault| BundleError::Content(fault.to_string()))?;
        Ok(Self { header, sampler, built })
    }

    /// Width of the code.
    pub fn latent(&self) -> usize {
        self.header.spec.model.latent() as usize
    }

    /// Bytes that its numbers take.
    pub fn bytes(&self) -> usize {
        self.built.parameters.count() * size_of::<f32>()
    }

    /// Codes of rows in the user's units, and their spread where the encoder is stochastic. Both one row after the other.
    pub fn encode(&self, rows: &[f32]) -> (Vec<f32>, Option<Vec<f32>>) {
        let _guard = tch::no_grad_guard();
        let code = self.built.network.encode(&self.scaled(rows));
        (values(&code.mean), code.spread.as_ref().map(values))
    }

    /// Rows in the user's units for codes.
    pub fn decode(&self, codes: &[f32]) -> Vec<f32> {
        let _guard = tch::no_grad_guard();
        let z = Tensor::from_slice(codes).view([-1, self.latent() as i64]).to_device(self.device());
        self.unscaled(&self.built.network.decode(&z))
    }

    /// Rows through the code and back, in the user's units, and the mean squared error of each in scaled units.
    pub fn reconstruct(&self, rows: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let _guard = tch::no_grad_guard();
        let x = self.scaled(rows);
        let restored = self.built.network.decode(&self.built.network.encode(&x).mean);
        let errors = (&restored - &x).square().mean_dim([1].as_slice(), false, tch::Kind::Float);
        (self.unscaled(&restored), values(&errors))
    }

    fn device(&self) -> Device {
        self.built.parameters.device()
    }

    fn scaled(&self, rows: &[f32]) -> Tensor {
        let width = self.header.shape.width;
        let mut scaled = Vec::with_capacity(rows.len());
        for row in rows.chunks_exact(width) {
            self.header.scaling.apply(row.iter().copied(), &mut scaled);
        }
        Tensor::from_slice(&scaled).view([-1, width as i64]).to_device(self.device())
    }

    fn unscaled(&self, rows: &Tensor) -> Vec<f32> {
        let mut rows = values(rows);
        self.header.scaling.undo(&mut rows);
        rows
    }
}
