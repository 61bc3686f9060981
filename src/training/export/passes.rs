//! What an exported model computes, from rows or codes in the user's units to answers in the user's units.
//!
//! Each pass is that of [`TrainedModel`] with the preparation of columns as operations on tensors, so that it can be recorded.

use tch::{Kind, Tensor};

use super::columns::Columns;
use super::lines::Shares;
use super::{ExportError, Part};
use crate::training::artifact::TrainedModel;
use crate::training::scoring::{reconstructed, squared_errors, sum_of_rows};

/// A pass that is ready to be recorded: every tensor that it makes of numbers is there.
pub struct Passes<'a> {
    model: &'a TrainedModel,
    columns: Columns,
    labels: Columns,
    /// Of the calibration, where the model has one: quantiles of ordinary rows, and how many rows they were.
    ordinary: Option<(Shares, f64)>,
}

/// What goes in and what comes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// The name of what goes in, and how many numbers each row of it has.
    pub input: (&'static str, usize),
    /// The same of what comes out; without a width where it is one number a row.
    pub outputs: Vec<(&'static str, Option<usize>)>,
}

impl<'a> Passes<'a> {
    /// Of a model.
    pub fn of(model: &'a TrainedModel) -> Self {
        let header = &model.header;
        let ordinary = header.calibration.as_ref();
        Self {
            model,
            columns: Columns::of(&header.preparation),
            labels: Columns::of(&header.target),
            ordinary: ordinary.map(|known| (Shares::of(&known.reconstruction), f64::from(known.rows))),
        }
    }

    /// What a part takes and gives.
    ///
    /// # Errors
    /// The model does not have this part.
    pub fn signature(&self, part: Part) -> Result<Signature, ExportError> {
        let (width, latent) = (self.model.header.shape.width, self.model.latent());
        let (rows, codes) = (("rows", width), ("codes", latent));
        let some = |(name, width): (&'static str, usize)| (name, Some(width));
        let (input, outputs) = match part {
            Part::Encoder => {
                let spread = self.has_spread().then_some(("spread", Some(latent)));
                (rows, std::iter::once(some(codes)).chain(spread).collect())
            }
            Part::Decoder => (codes, vec![some(rows)]),
            Part::Reconstructor => (rows, vec![("reconstruction", Some(width)), ("error", None)]),
            Part::Scorer => {
                let anomaly = self.ordinary.is_some().then_some(("anomaly", None));
                (rows, [("score", None), ("error", None)].into_iter().chain(anomaly).collect())
            }
            Part::Predictor => {
                let labels = self.model.header.labels.len();
                if labels == 0 {
                    return Err(ExportError::NoLabels);
                }
                (rows, vec![("labels", Some(labels)), ("spread", Some(labels))])
            }
        };
        Ok(Signature { input, outputs })
    }

    /// The outputs of a part for what goes in, `[rows, width]`, in the order of its signature.
    pub fn pass(&self, part: Part, input: &Tensor) -> Vec<Tensor> {
        let network = self.model.network();
        match part {
            Part::Encoder => {
                let code = network.encode(&self.prepared(input));
                std::iter::once(code.mean).chain(code.spread).collect()
            }
            Part::Decoder => vec![self.columns.restore(&network.decode(input))],
            Part::Reconstructor => {
                let x = self.prepared(input);
                let restored = network.decode(&network.encode(&x).mean);
                let errors = squared_errors(&x, &restored);
                vec![self.columns.restore(&restored), errors]
            }
            Part::Scorer => {
                let x = self.prepared(input);
                let (nats, restored) = reconstructed(network, &x);
                let score = sum_of_rows(&nats);
                let errors = squared_errors(&x, &restored);
                let anomaly = self.ordinary.as_ref().map(|(shares, rows)| {
                    // As `Calibration::probability` has it.
                    (shares.below(&score) * *rows + 0.5) / (rows + 1.0)
                });
                [score, errors].into_iter().chain(anomaly).collect()
            }
            Part::Predictor => {
                let x = self.prepared(input);
                let told = network.predict(&x).map(|(output, likelihood)| likelihood.mean(&output));
                let spread = network.predict_spread(&x);
                let own = |one: Option<Tensor>| one.expect("the model tells labels, as its signature says");
                vec![self.labels.restore(&own(told)), self.labels.restore_spread(&own(spread))]
            }
        }
    }

    /// Rows that a part can be tried on.
    pub fn trial(&self, signature: &Signature, rows: i64) -> Tensor {
        Tensor::zeros([rows, signature.input.1 as i64], (Kind::Float, tch::Device::Cpu))
    }

    fn has_spread(&self) -> bool {
        let _guard = tch::no_grad_guard();
        let row = Tensor::zeros([1, self.model.header.shape.width as i64], (Kind::Float, tch::Device::Cpu));
        self.model.network().encode(&self.prepared(&row)).spread.is_some()
    }

    /// As [`TrainedModel`] prepares rows: a model without gaps sees an unknown level as none of its levels.
    fn prepared(&self, rows: &Tensor) -> Tensor {
        let x = self.columns.prepare(rows);
        if self.model.header.gaps { x } else { x.nan_to_num(0.0, None, None) }
    }
}
