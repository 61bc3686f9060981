//! Layer-wise pre-training: each layer learns to restore what the layers below it make of a row, before all are trained
//! together (Hinton and Salakhutdinov, 2006; Vincent et al., 2010).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use utoipa::ToSchema;

use crate::domain::limits::EPOCHS;
use crate::domain::refusal::Faults;
use crate::models::losses::mean;
use crate::models::{Loss, Stack, Step};

/// Training of one layer after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainingSpec {
    /// Epochs for each layer.
    #[schema(minimum = 1, maximum = 100000)]
    pub epochs: u32,
    /// Share of a layer's inputs that is set to zero; it restores them as they were (a stacked denoising autoencoder).
    #[schema(minimum = 0.0, maximum = 0.95)]
    pub masking: f64,
}

impl Default for PretrainingSpec {
    fn default() -> Self {
        Self { epochs: 10, masking: 0.0 }
    }
}

impl PretrainingSpec {
    /// Reports what is not allowed.
    pub fn check(&self, faults: &mut Faults) {
        faults.require_within("/training/pretraining/epochs", self.epochs, 1..=EPOCHS / 32);
        faults.require_within("/training/pretraining/masking", self.masking, 0.0..=0.95);
    }

    /// Which layer is trained in an epoch, counted from 0; `None` when all have been.
    pub fn layer(&self, epoch: u32, layers: u32) -> Option<usize> {
        let layer = epoch / self.epochs;
        (layer < layers).then_some(layer as usize)
    }
}

/// The beginnings of the names of the parameters of one layer and of the one that mirrors it.
pub fn names(stack: &Stack<'_>, layer: usize) -> [String; 2] {
    let [encoder, decoder] = stack.names;
    let mirror = stack.decoder.as_mlp().map_or(0, |mlp| mlp.len() - 1 - layer);
    [format!("{encoder}.{layer}."), format!("{decoder}.{mirror}.")]
}

/// The loss of one layer and its mirror: of the first by the likelihood of the row, of the others half the squared error
/// of what they are given. `None` where the stack is not fully connected.
pub fn loss(stack: &Stack<'_>, layer: usize, masking: f64, x: &Tensor, step: &Step<'_>) -> Option<Loss> {
    let (encoder, decoder) = (stack.encoder.as_mlp()?, stack.decoder.as_mlp()?);
    let last = encoder.len() - 1;
    let below =
        tch::no_grad(|| (0..layer).fold(stack.encoder.filling().fill(x), |x, below| encoder.hidden(below, &x, None)));
    let seen = if masking > 0.0 && step.training {
        &below * step.noise.mask(&below.size(), 1.0 - masking)
    } else {
        below.shallow_clone()
    };
    let code = match layer == last {
        true if stack.activates_code => encoder.activation().apply(&encoder.linear(layer, &seen)),
        true => encoder.linear(layer, &seen),
        false => encoder.hidden(layer, &seen, Some(step)),
    };
    let mirror = decoder.len() - 1 - layer;
    // The last layer of an encoder may tell more than the code, such as its variance.
    let code = code.narrow(-1, 0, decoder.weights()[mirror].size()[1]);
    let reconstruction = if layer == 0 {
        mean(&stack.likelihood.negative_log(&decoder.linear(mirror, &code), x))
    } else {
        let restored = decoder.hidden(mirror, &code, Some(step));
        let squares = (restored - below).square() * 0.5;
        squares.sum(Kind::Float) / x.size()[0] as f64
    };
    Some(Loss::new(reconstruction.shallow_clone(), vec![("reconstruction", reconstruction)]))
}
