//! Plain autoencoder: rows through a narrow code and back.
//!
//! loss = -log p(x given g(f(x)))   (Rumelhart, Hinton and Williams, 1986; Hinton and Salakhutdinov, 2006)
//!
//! With a fixed gaussian likelihood this is half the squared error plus a constant; a linear one spans the space of the
//! first principal components (Baldi and Hornik, 1989).

use serde::{Deserialize, Serialize};
use tch::Tensor;
use utoipa::ToSchema;

use super::likelihood::{Likelihood, Variance};
use super::losses::mean;
use super::network::{Body, Plan};
use super::parameters::Builder;
use super::{Code, Family, Loss, Network, Sampling, Stack, Step, fused};
use crate::domain::refusal::Faults;

/// Settings of a plain autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlainAutoencoder {
    /// Width of the code.
    #[schema(minimum = 1, maximum = 65536)]
    pub latent: u32,
}

impl Default for PlainAutoencoder {
    fn default() -> Self {
        Self { latent: 8 }
    }
}

impl Family for PlainAutoencoder {
    const FORMULA: &'static str = "-log p(x | g(f(x)))";
    const PAPER: &'static str =
        "Hinton and Salakhutdinov, Reducing the dimensionality of data with neural networks, 2006";
    const SAMPLING: Sampling = Sampling::Fitted;
    const VARIANCE: Variance = Variance::Fixed;

    fn latent(&self) -> u32 {
        self.latent
    }

    fn check(&self, _faults: &mut Faults) {}

    fn build(&self, plan: &Plan<'_>, builder: &mut Builder) -> Box<dyn Network> {
        Box::new(EncoderDecoder::build(self.latent, plan, builder))
    }
}

/// A deterministic encoder and the decoder that mirrors it.
pub(super) struct EncoderDecoder {
    pub encoder: Body,
    pub decoder: Body,
    pub likelihood: Likelihood,
}

impl EncoderDecoder {
    pub fn build(latent: u32, plan: &Plan<'_>, builder: &mut Builder) -> Self {
        let latent = i64::from(latent);
        let encoder = plan.encoder("encoder", latent, builder);
        let decoder = plan.decoder("decoder", latent, &encoder, builder);
        Self { encoder, decoder, likelihood: plan.likelihood(builder) }
    }

    /// Nats per row of restoring `x` from `seen`, both `[rows, width]`.
    pub fn restore(&self, seen: &Tensor, x: &Tensor, step: &Step<'_>) -> Tensor {
        if let Some(loss) = self.restore_at_once(seen, x, step) {
            return loss;
        }
        let code = self.encoder.forward(seen, Some(step));
        mean(&self.likelihood.negative_log(&self.decoder.forward(&code, Some(step)), x))
    }

    /// The same as one node of the graph, where there is nothing between encoder and decoder that must be seen.
    fn restore_at_once(&self, seen: &Tensor, x: &Tensor, step: &Step<'_>) -> Option<Tensor> {
        if !step.training || seen.requires_grad() || x.requires_grad() {
            return None;
        }
        let simple = self.likelihood.simple()?;
        let layers = (self.encoder.as_mlp()?.plain(true)?, self.decoder.as_mlp()?.plain(true)?);
        fused::restored(&self.encoder.filling().fill(seen), x, (&layers.0, &layers.1), step.half, simple)
    }
}

impl Network for EncoderDecoder {
    fn encode(&self, x: &Tensor) -> Code {
        Code { mean: self.encoder.forward(x, None), spread: None }
    }

    fn outputs(&self, z: &Tensor) -> Tensor {
        self.decoder.forward(z, None)
    }

    fn likelihood(&self) -> &Likelihood {
        &self.likelihood
    }

    fn loss(&self, x: &Tensor, step: &Step<'_>) -> Loss {
        let reconstruction = self.restore(x, x, step);
        Loss::new(reconstruction.shallow_clone(), vec![("reconstruction", reconstruction)])
    }

    fn stack(&self) -> Option<Stack<'_>> {
        let Self { encoder, decoder, likelihood } = self;
        Some(Stack { encoder, decoder, names: ["encoder", "decoder"], likelihood, activates_code: false })
    }
}
